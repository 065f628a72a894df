"""Standing permissions: granted, used, withdrawn and run out, each a recorded fact that the machine goes by."""

from datetime import timedelta

import pytest

from eventstore.errors import IllegalTransition, InvalidArgument, NotCovered, ProjectionHalted, RunNotFound, Waiting
from eventstore.workflow import (
    ConfirmationRequested,
    ConfirmationResolved,
    MessageRecorded,
    RunCompleted,
    RunConfigured,
)
from tests.world import Refusal, forge


@pytest.fixture
def attempt(world, runs):
    runs.submit("deploy", run_id="r1", config={"mine": 1})
    return world.worker().claim()


def events(runs, run_id="r1"):
    return [type(item.event) for item in runs.store.read(run_id)]


def test_a_question_that_a_permission_covers_is_approved_in_the_append_that_asks_it(runs, attempt):
    runs.sessions.auto_accept("r1", ["ship"], by="alice")
    before = runs.store.stream("r1").refresh().version

    answer = attempt.ask("c1", "ship", {"to": "prod"})

    assert (answer.approved, answer.by) == (True, "policy")
    assert answer.comment == "accepted by the standing permission of alice"
    assert events(runs)[before:] == [ConfirmationRequested, ConfirmationResolved]
    assert attempt.call("c1", "ship", {"to": "prod"}, lambda _: "done") == "done"
    row = runs.confirmations.get("r1", "c1")
    assert (row.decision, row.by) == ("approved", "policy")


def test_what_it_does_not_cover_waits_for_a_person(runs, attempt):
    runs.sessions.auto_accept("r1", "ship", by="alice")

    with pytest.raises(Waiting):
        attempt.ask("c1", "drop", {})
    runs.resolve("r1", "c1", "denied", by="bob")
    assert attempt.ask("c1", "drop", {}).by == "bob"


def test_it_runs_out_by_the_clock_of_who_asks_and_nothing_is_written_for_that(world, runs, attempt):
    until = world.now + timedelta(minutes=5)
    runs.sessions.auto_accept("r1", until=until, by="alice")
    assert attempt.ask("c1", "ship", {}).comment.endswith(f"until {until.isoformat(timespec='microseconds')[:-6]}Z")
    assert runs.sessions.accepting("r1").by == "alice"

    world.passes(300)
    with pytest.raises(Waiting):
        attempt.ask("c2", "ship", {})
    assert runs.sessions.accepting("r1") is None
    assert events(runs)[-1] is ConfirmationRequested


def test_a_grant_decides_what_waits_already_and_a_parked_run_goes_on(world, runs, attempt):
    with attempt:
        attempt.ask("c1", "ship", {})
    assert runs.workflow_runs.get("r1").waiting_for == "person"

    granted = runs.sessions.auto_accept("r1", ["ship"], by="alice")

    assert granted.event.config == {"mine": 1, "auto_accept": {"tools": ["ship"], "until": None, "by": "alice"}}
    assert events(runs)[-2:] == [RunConfigured, ConfirmationResolved]
    assert world.worker().claim().ask("c1", "ship", {}).approved


def test_an_overdue_question_is_not_approved_by_a_grant_that_comes_too_late(world, runs, attempt):
    with attempt:
        attempt.ask("c1", "ship", {}, expires_in=timedelta(minutes=1))
    world.passes(60)
    runs.sessions.auto_accept("r1", by="alice")

    assert events(runs)[-1] is RunConfigured
    assert runs.confirmations.get("r1", "c1").decision is None


def test_a_question_that_was_asked_before_is_approved_when_it_is_asked_again(runs, attempt):
    with pytest.raises(Waiting):
        attempt.ask("c1", "ship", {})
    runs.configure("r1", auto_accept=["ship"])  # by the settings' own door, which decides nothing

    assert attempt.ask("c1", "ship", {}).comment == "accepted by the standing permission of its settings"


def test_it_is_withdrawn_and_what_it_decided_stands(runs, attempt):
    runs.sessions.auto_accept("r1", by="alice")
    attempt.ask("c1", "ship", {})
    runs.sessions.withdraw("r1", by="bob")

    assert runs.settings("r1") == {"mine": 1}
    assert [item.by for item in runs.settings_history("r1")] == [None, "alice", "bob"]
    assert attempt.ask("c1", "ship", {}).approved
    with pytest.raises(Waiting):
        attempt.ask("c2", "ship", {})


@pytest.mark.parametrize(
    "decision",
    [
        ConfirmationResolved("c1", "approved", "policy"),
        ConfirmationResolved("c2", "denied", "policy"),
        ConfirmationResolved("c2", "approved", "policy", input={"other": 1}),
        ConfirmationResolved("c2", "approved", "policy", result="made up"),
    ],
)
def test_nobody_decides_in_its_name_what_it_does_not_cover(world, runs, attempt, decision):
    with pytest.raises(Waiting):
        attempt.ask("c1", "drop", {})
    with pytest.raises(Waiting):
        attempt.ask("c2", "ship", {})
    runs.configure("r1", auto_accept=["ship"])

    with Refusal(runs, NotCovered, match="let a person decide it"):
        runs.store.append("r1", decision)


def test_a_person_may_not_bear_its_name(runs, attempt):
    with pytest.raises(Waiting):
        attempt.ask("c1", "ship", {})

    with Refusal(runs, InvalidArgument):
        runs.resolve("r1", "c1", "approved", by="policy")
    with Refusal(runs, InvalidArgument):
        runs.configure("r1", by="policy", auto_accept=True)
    with Refusal(runs, InvalidArgument):
        runs.sessions.auto_accept("r1", by="policy")


def test_a_permission_that_ran_out_is_not_used_by_whoever_calls_themselves_so(world, runs, attempt):
    runs.sessions.auto_accept("r1", until=world.now + timedelta(minutes=5), by="alice")
    world.jumps(minutes=6)
    with pytest.raises(Waiting):
        attempt.ask("c1", "ship", {})

    with Refusal(runs, InvalidArgument, match="let a person do it"):
        runs.resolve("r1", "c1", "approved", by="policy")


def test_a_run_that_goes_on_from_it_asks_anew(runs, attempt):
    runs.sessions.auto_accept("r1", by="alice")
    with attempt:
        attempt.append(RunCompleted())

    assert runs.settings(runs.continue_from("r1", needs_checkpoint=False)) == {"mine": 1}


@pytest.mark.parametrize(
    ("tools", "options"),
    [
        ([], {}),
        ("", {}),
        (["ship", ""], {}),
        (["ship", 1], {}),
        ("*", {"by": ""}),
        ("*", {"until": "tomorrow"}),
        ("*", {"until": timedelta(hours=1)}),
        ("*", {"past": 0}),
        ("*", {"naive": True}),
    ],
)
def test_a_grant_that_cannot_be_is_refused_and_nothing_is_written(world, runs, attempt, tools, options):
    if "past" in options:
        options = {"until": world.now}
    if "naive" in options:
        options = {"until": (world.now + timedelta(hours=1)).replace(tzinfo=None)}

    with Refusal(runs, InvalidArgument):
        runs.sessions.auto_accept("r1", tools, **{"by": "alice", **options})


def test_neither_an_ended_run_nor_one_that_is_not_there_takes_one(runs, attempt):
    with attempt:
        attempt.append(RunCompleted())

    with Refusal(runs, IllegalTransition):
        runs.sessions.auto_accept("r1", by="alice")
    with Refusal(runs, RunNotFound):
        runs.sessions.withdraw("r2", by="alice")


def test_a_rebuild_and_a_check_pass_what_was_decided_in_its_name(runs, attempt):
    runs.sessions.auto_accept("r1", by="alice")
    attempt.ask("c1", "ship", {})
    runs.sessions.withdraw("r1", by="alice")

    runs.rebuild()
    assert runs.check().ok
    assert runs.verify().ok


def test_a_permission_is_withdrawn_also_where_the_tables_stand_still(runs, attempt):
    runs.sessions.auto_accept("r1", by="alice")
    forge(runs.store.log, ("RunQueued", "garbage"), stream="r2")
    attempt.append(MessageRecorded("user", "the tables halt here"))
    with pytest.raises(ProjectionHalted):
        runs.workflow_runs.get("r1")

    runs.sessions.withdraw("r1", by="bob")

    assert runs.sessions.accepting("r1") is None
