"""Runs, as users hold them: submit, decide, cancel, interrupt; durable when it returns, or refused with a reason."""

from datetime import UTC, datetime, timedelta

import pytest

import projections
from eventstore.errors import (
    AlreadyResolved,
    EventStoreError,
    IllegalTransition,
    InvalidArgument,
    InvalidPayload,
    KeyReused,
    QuestionUnknown,
    QueueFull,
    RunExists,
    RunNotFound,
    StoreClosed,
)
from eventstore.workflow import Continues, RunCompleted, RunPaused
from projections.connecting import BUILT_IN
from projections.workflow_runs import WORKFLOW_RUNS, RunRow
from tests.world import Refusal

# --- submit ---------------------------------------------------------------------------------------------------------


def test_a_submitted_run_stands_in_the_log_and_in_its_row_when_submit_returns(world, runs):
    runs.submit("deploy", run_id="p")
    run_id = runs.submit(
        "deploy", input={"env": "prod"}, agent="a", spec_hash="h", job_id="j", parent_id="p", priority=3,
        continues=Continues("p", 1), not_before=world.now, labels={"team": "x"}, config={"k": 1},
    )  # fmt: skip

    (event,) = (recorded.event for recorded in runs.store.read(run_id))
    assert (event.input, event.config, event.continues) == ({"env": "prod"}, {"k": 1}, Continues("p", 1))
    row = world.runs().workflow_runs.get(run_id)
    assert row == RunRow(
        run_id, "queued", "deploy", "a", "j", "p", "p", 1, "h", priority=3, queued_at=world.now,
        not_before=world.now, labels={"team": "x"}, config_version=1, position=2,
    )  # fmt: skip


def test_each_run_has_a_name_of_its_own_unless_one_is_given(runs):
    assert runs.submit("deploy") != runs.submit("deploy")
    assert runs.submit("deploy", run_id="mine") == "mine"


def test_a_run_id_that_stands_is_refused(runs):
    runs.submit("deploy", run_id="run-1")

    for key in (None, "a key that it was not submitted with"):
        with Refusal(runs, RunExists, "run-1 was submitted before and is queued; give the new run another run_id"):
            runs.submit("deploy", run_id="run-1", key=key)


@pytest.mark.parametrize("run_id", [None, "run-1"])
def test_submitting_again_with_the_same_key_gives_the_run_that_stands(world, runs, run_id):
    first = runs.submit("deploy", input={"a": 1, "b": 2}, key="job/7", run_id=run_id)
    worker = world.worker()
    with worker.claim() as attempt:
        attempt.append(RunCompleted())

    assert runs.submit("deploy", input={"b": 2, "a": 1}, key="job/7", run_id=run_id) == first
    assert len(list(runs.store.read(first))) == 3


def test_a_key_that_stands_for_something_else_is_refused(runs):
    runs.submit("deploy", input=1, key="job/7")

    with Refusal(runs, KeyReused):
        runs.submit("deploy", input=2, key="job/7")
    with Refusal(runs, KeyReused):
        runs.submit("deploy", input=True, key="job/7")


def test_a_full_queue_takes_no_more_of_that_workflow(world, runs):
    for _ in range(2):
        runs.submit("deploy", max_queued=2)

    with Refusal(runs, QueueFull, "2 runs wait"):
        runs.submit("deploy", max_queued=2)
    runs.submit("triage", max_queued=2)
    world.worker().claim()
    runs.submit("deploy", max_queued=2)
    with Refusal(runs, QueueFull):
        runs.submit("deploy", max_queued=0)


def test_a_retry_of_what_was_queued_is_no_second_one_in_a_full_queue(runs):
    first = runs.submit("deploy", key="k", max_queued=1)

    assert runs.submit("deploy", key="k", max_queued=1) == first


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (InvalidPayload, {"input": float("nan")}),
        (InvalidPayload, {"input": {"n": [2**60]}}),
        (InvalidPayload, {"input": "\ud800"}),
        (InvalidPayload, {"input": {1: 2}}),
        (InvalidPayload, {"labels": {"a": 1}}),
        (InvalidPayload, {"priority": "high"}),
        (InvalidPayload, {"not_before": datetime(2026, 1, 1)}),  # noqa: DTZ001 - that is what is refused
        (InvalidArgument, {"run_id": "a/b"}),
        (InvalidArgument, {"run_id": ""}),
        (InvalidArgument, {"run_id": "../../escape"}),
        (InvalidArgument, {"run_id": "x" * 201}),
        (InvalidArgument, {"key": ""}),
    ],
)
def test_what_cannot_be_stored_is_refused_and_nothing_is_written(runs, error, options):
    with Refusal(runs, error):
        runs.submit("deploy", **options)
    with Refusal(runs, error):
        runs.submit("deploy", max_queued=1, **options)


# --- decide ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(world, runs):
    runs.submit("deploy", run_id="run-1")
    worker = world.worker()
    with worker.claim() as attempt:
        attempt.ask("c1", "ship", {"env": "prod"})
    return worker


def test_a_decision_is_recorded_with_who_and_why(world, runs, asked):
    recorded = runs.resolve("run-1", "c1", "denied", by="alice", comment="no")

    row = runs.confirmations.get("run-1", "c1")
    assert (row.decision, row.by, row.comment, row.decided_at) == ("denied", "alice", "no", recorded.time)
    assert runs.workflow_runs.get("run-1").open_questions == 0


def test_a_second_decision_is_refused_with_who_decided_and_nothing_is_written(runs, asked):
    runs.resolve("run-1", "c1", "approved", by="alice")

    with Refusal(runs, AlreadyResolved, "approved by alice"):
        runs.resolve("run-1", "c1", "denied", by="bob")


def test_deciding_again_with_the_same_key_gives_the_decision_that_stands(world, runs, asked):
    first = runs.resolve("run-1", "c1", "approved", by="alice", key="click-1")
    with world.worker().claim() as attempt:
        attempt.append(RunCompleted())

    assert runs.resolve("run-1", "c1", "approved", by="alice", key="click-1") == first
    with Refusal(runs, KeyReused):
        runs.resolve("run-1", "c1", "denied", by="alice", key="click-1")


def test_a_decision_on_what_was_not_asked_is_refused(runs, asked):
    with Refusal(runs, QuestionUnknown):
        runs.resolve("run-1", "c2", "approved", by="alice")
    with Refusal(runs, RunNotFound, "run-2"):
        runs.resolve("run-2", "c1", "approved", by="alice")


def test_a_decision_is_one_of_two_words(runs, asked):
    with Refusal(runs, InvalidArgument, "approved"):
        runs.resolve("run-1", "c1", "maybe", by="alice")


def test_no_answer_brings_an_ended_run_back_to_life(runs, asked):
    runs.cancel("run-1", by="alice")

    with Refusal(runs, IllegalTransition, "cancelled"):
        runs.resolve("run-1", "c1", "approved", by="alice")
    assert runs.confirmations.get("run-1", "c1").decision == "void"


# --- cancel and interrupt -------------------------------------------------------------------------------------------


def test_cancelling_ends_a_run_in_every_phase_that_is_not_final(world, runs, asked):
    runs.submit("deploy", run_id="queued")
    runs.submit("deploy", run_id="started", priority=1)
    asked.claim()

    for run_id in ("queued", "started", "run-1"):
        runs.cancel(run_id, by="alice", reason="enough")
        row = runs.workflow_runs.get(run_id)
        assert (row.phase, row.reason, row.open_questions) == ("cancelled", "enough", 0)
        assert row.ended_at is not None


@pytest.mark.parametrize("verb", ["cancel", "interrupt"])
def test_an_ended_run_can_neither_be_cancelled_nor_interrupted(runs, verb):
    runs.submit("deploy", run_id="run-1")
    runs.cancel("run-1", by="alice")

    with Refusal(runs, IllegalTransition, "submit a new run that continues it"):
        getattr(runs, verb)("run-1", by="alice")
    with Refusal(runs, RunNotFound):
        getattr(runs, verb)("nobody", by="alice")
    with Refusal(runs, InvalidArgument):
        getattr(runs, verb)("a/b", by="alice")


@pytest.mark.parametrize("verb", ["cancel", "interrupt"])
def test_the_same_key_gives_what_stands_whatever_became_of_the_run(world, runs, verb):
    runs.submit("deploy", run_id="run-1")
    first = getattr(runs, verb)("run-1", by="alice", key="click")
    world.worker().claim()
    before = list(runs.store.read_all())

    assert getattr(runs, verb)("run-1", by="alice", key="click") == first
    assert list(runs.store.read_all()) == before


def test_an_interrupt_of_a_paused_run_can_be_repeated_with_its_key(runs, asked):
    first = runs.interrupt("run-1", by="alice", key="click")
    assert runs.workflow_runs.get("run-1").phase == "interrupted"

    assert runs.interrupt("run-1", by="alice", key="click") == first


def test_an_interrupt_asked_for_while_it_ran_can_be_repeated_when_it_is_paused(world, runs):
    runs.submit("deploy", run_id="run-1")
    attempt = world.worker().claim()
    first = runs.interrupt("run-1", by="alice", key="click")
    attempt.append(RunPaused("time"))

    assert runs.interrupt("run-1", by="alice", key="click") == first
    assert runs.workflow_runs.get("run-1").phase == "interrupted"


# --- reading ----------------------------------------------------------------------------------------------------------


def test_outputs_and_checkpoints_are_read_from_the_log(world, runs, asked):
    runs.submit("deploy", run_id="run-2")

    assert runs.output("run-1") is None
    assert runs.checkpoint("run-2") is None
    for read in (runs.output, runs.checkpoint, runs.messages, runs.calls):
        with pytest.raises(RunNotFound, match="nobody"):
            read("nobody")


def test_a_view_is_had_by_projection_or_by_name(runs):
    assert runs.view("workflow_runs").projection is WORKFLOW_RUNS
    assert runs.projections == BUILT_IN
    with pytest.raises(InvalidArgument, match="workflow_runs"):
        runs.view("nothing")


def test_what_was_closed_says_so(world, runs):
    runs.submit("deploy", run_id="run-1")
    runs.close()
    runs.close()

    for use in (lambda: runs.submit("deploy"), lambda: runs.workflow_runs.get("run-1"), runs.check):
        with pytest.raises(StoreClosed):
            use()


def test_a_store_in_memory_is_gone_with_its_last_handle():
    with projections.connect("memory:") as runs:
        runs.submit("deploy")
    with projections.connect("memory:") as runs:
        assert runs.workflow_runs.count() == 0


def test_every_refusal_is_one_readable_sentence_and_an_error_of_ours(runs):
    runs.submit("deploy", run_id="run-1")
    runs.cancel("run-1", by="alice")
    with pytest.raises(EventStoreError) as raised:
        runs.cancel("run-1", by="alice")

    assert "\n" not in str(raised.value)
    assert raised.value.phase == "cancelled"


def test_times_are_aware_and_in_utc(world, runs):
    moment = datetime.now(UTC).astimezone().replace(microsecond=5) + timedelta(days=400)
    runs.submit("deploy", run_id="run-1", not_before=moment)

    row = runs.workflow_runs.get("run-1")
    assert row.not_before == moment
    assert row.not_before.tzinfo is UTC
