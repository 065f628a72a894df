"""Where a run comes from: parents and continued runs that are there, and a checkpoint that is handed down."""

import pytest

from eventstore import MetaSet
from eventstore.errors import (
    AgentDiffers,
    InvalidArgument,
    KeyReused,
    LineageBroken,
    NoCheckpoint,
    RunExists,
    RunNotFound,
    SelfReference,
    SpecDiffers,
    VersionBeyondEnd,
)
from eventstore.notes import LogRecorded
from eventstore.workflow import (
    CheckpointSaved,
    Continues,
    MessageRecorded,
    RunCompleted,
    RunConfigured,
    RunDropped,
    RunQueued,
    RunStarted,
)
from projections import lineage
from tests.world import Refusal


@pytest.fixture
def first(world, runs):
    """A run that saved a checkpoint in version 3, another in version 5, and ended in version 6."""
    runs.submit("chat", run_id="first", input="hello", agent="bot", spec_hash="s1", job_id="j", config={"a": 1})
    with world.worker().claim() as attempt:
        attempt.append(CheckpointSaved(1, "one"))
        attempt.append(MessageRecorded("user", "hi"), CheckpointSaved(2, "two"))
        attempt.append(RunCompleted())
    return "first"


def taken_up(world, run_id):
    attempt = world.worker().claim()
    assert attempt.run_id == run_id
    return attempt


# --- what submit refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (RunNotFound, {"parent_id": "nobody"}),
        (RunNotFound, {"parent_id": "notes"}),
        (RunNotFound, {"continues": Continues("nobody", 1)}),
        (RunNotFound, {"continues": Continues("notes", 1)}),
        (SelfReference, {"parent_id": "new"}),
        (SelfReference, {"continues": Continues("new", 1)}),
        (VersionBeyondEnd, {"continues": Continues("first", 7)}),
        (InvalidArgument, {"continues": Continues("first", 0)}),
        (InvalidArgument, {"continues": Continues("first", -1)}),
    ],
)
def test_a_run_whose_parent_or_beginning_cannot_be_is_refused(runs, first, error, options):
    runs.store.append("notes", MetaSet("colour", "red"))

    with Refusal(runs, error):
        runs.submit("chat", run_id="new", **options)


def test_whether_the_parent_is_there_is_decided_in_the_write_transaction(runs, monkeypatch):
    """A parent that came in between a look and the write is there, and no look before it may say otherwise."""
    place = runs.store.gate.draft
    arriving = ["parent"]

    def meanwhile(stream, events, **borne):
        drafts = place(stream, events, **borne)
        while arriving:
            runs.submit("chat", run_id=arriving.pop())
        return drafts

    monkeypatch.setattr(runs.store.gate, "draft", meanwhile)
    runs.submit("chat", run_id="child", parent_id="parent")

    assert runs.workflow_runs.get("child").parent_id == "parent"


def test_a_run_that_begins_with_notes_can_be_a_parent(runs):
    runs.store.append("noted", *[LogRecorded("cron", "tick")] * 3)
    runs.submit("chat", run_id="noted")

    runs.submit("chat", run_id="child", parent_id="noted", continues=Continues("noted", 4))


def test_submitting_again_under_a_key_asks_for_no_parent_again(runs, first):
    options = {"run_id": "second", "key": "k", "parent_id": first, "continues": Continues(first, 6)}

    assert runs.submit("chat", **options) == runs.submit("chat", **options) == "second"


# --- going on from a run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "state"), [(None, "two"), (6, "two"), (5, "two"), (4, "one"), (3, "one")])
def test_a_continued_runs_checkpoint_is_the_one_that_stood_at_the_fork(world, runs, first, version, state):
    run_id = runs.continue_from(first, version=version)

    assert taken_up(world, run_id).checkpoint == state
    assert runs.workflow_runs.get(run_id).continues_version == (version or 6)


def test_what_is_not_given_is_as_in_the_continued_run(runs, first):
    run_id = runs.continue_from(first, run_id="second", priority=2, labels={"a": "b"}, parent_id=first)

    (event,) = (recorded.event for recorded in runs.store.read(run_id))
    assert event == RunQueued(
        "chat", "hello", "bot", "s1", "j", first, Continues(first, 6), 2, None, {"a": "b"}, {"a": 1}
    )


def test_what_is_given_stands_in_place_of_the_continued_runs(runs, first):
    run_id = runs.continue_from(first, workflow="triage", input=None, config=[], job_id="k", agent="bot")

    (event,) = (recorded.event for recorded in runs.store.read(run_id))
    assert (event.workflow, event.input, event.config, event.job_id) == ("triage", None, [], "k")


def test_settings_are_handed_on_as_they_stood_at_the_fork(world, runs, first):
    runs.submit("chat", run_id="set", config=1)
    runs.store.append("set", RunConfigured({"b": 2}))
    runs.store.append("set", RunConfigured({"b": 3}))

    def config(version):
        run_id = runs.continue_from("set", version=version, needs_checkpoint=False)
        return next(runs.store.read(run_id)).event.config

    assert [config(version) for version in (1, 2, 3, None)] == [1, {"b": 2}, {"b": 3}, {"b": 3}]


def test_the_checkpoint_is_handed_down_through_runs_that_saved_none(world, runs, first):
    second = runs.continue_from(first, version=4)
    with taken_up(world, second) as attempt:
        attempt.append(RunCompleted())
    third = runs.continue_from(second)

    assert taken_up(world, third).checkpoint == "one"


def test_from_its_first_checkpoint_on_a_run_goes_by_its_own(world, runs, first):
    second = runs.continue_from(first)
    worker = world.worker()
    with worker.claim() as attempt:
        attempt.append(CheckpointSaved(3, "three"))
    world.passes(2)

    assert worker.claim().checkpoint == "three"
    assert runs.checkpoint(second) == "three"


def test_a_crash_a_new_process_and_a_rebuild_find_the_same_checkpoint(world, runs, first):
    second = runs.continue_from(first, version=3)
    dead = world.worker()
    dead.claim()
    world.dies(dead)
    runs.rebuild()

    attempt = taken_up(world, second)
    assert (attempt.number, attempt.checkpoint) == (2, "one")


def test_a_living_run_can_be_forked_and_what_it_does_afterwards_changes_nothing(world, runs):
    runs.submit("chat", run_id="living")
    living = world.worker().claim()
    living.append(CheckpointSaved(1, "before"))
    fork = runs.continue_from("living", key="k")
    living.append(CheckpointSaved(2, "after"))

    assert runs.workflow_runs.get(fork).continues_version == 3
    assert taken_up(world, fork).checkpoint == "before"
    assert runs.continue_from("living", key="k") == fork


def test_a_key_that_stands_for_another_fork_is_refused(runs, first):
    runs.continue_from(first, key="k", version=5)

    for other in ({"version": 6}, {"input": "bye"}):
        with Refusal(runs, KeyReused):
            runs.continue_from(first, key="k", **other)


def test_a_long_run_is_looked_through_for_its_checkpoint(world, runs, monkeypatch):
    monkeypatch.setattr(lineage, "_STRETCH", 2)

    for version, state in ((3, "one"), (4, "one"), (5, "two"), (None, "two")):
        runs.submit("chat", run_id=f"run-{version}")
        attempt = world.worker().claim()
        attempt.append(CheckpointSaved(1, "one"), MessageRecorded("user"), CheckpointSaved(2, "two"))
        attempt.append(*[MessageRecorded("user")] * 6, RunCompleted())
        assert taken_up(world, runs.continue_from(f"run-{version}", version=version)).checkpoint == state


# --- guards ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        (AgentDiffers, "by the agent bot and not by human", {"agent": "human"}),
        (SpecDiffers, "under the spec hash s1 and not s2", {"agent": "bot", "spec_hash": "s2"}),
        (NoCheckpoint, "no checkpoint up to version 2", {"version": 2}),
        (VersionBeyondEnd, "ends at version 6", {"version": 7}),
        (InvalidArgument, "version 0", {"version": 0}),
        (InvalidArgument, "version True", {"version": True}),
        (InvalidArgument, "version '3'", {"version": "3"}),
        (SelfReference, "names itself", {"run_id": "first"}),
        (RunExists, "second was submitted before and is queued", {"run_id": "second"}),
    ],
)
def test_each_reason_not_to_go_on_has_its_own_refusal(runs, first, error, words, options):
    runs.submit("chat", run_id="second")

    with Refusal(runs, error, words):
        runs.continue_from(first, **options)


def test_a_run_of_no_named_agent_is_no_named_agents(runs):
    runs.submit("chat", run_id="first")

    with Refusal(runs, AgentDiffers, "by the agent none"):
        runs.continue_from("first", agent="bot", needs_checkpoint=False)


def test_a_guard_holds_only_where_it_is_asked_for(world, runs, first):
    second = runs.continue_from(first, version=1, needs_checkpoint=False)

    assert taken_up(world, second).checkpoint is None


def test_a_run_that_is_not_there_or_was_never_queued_cannot_be_gone_on_from(runs):
    runs.store.append("dropped", RunDropped())

    with Refusal(runs, RunNotFound, "no run nobody"):
        runs.continue_from("nobody")
    for name in ("a/b", "\ud800", "", 7):
        with Refusal(runs, InvalidArgument, "run_id"):
            runs.continue_from(name)
    with Refusal(runs, InvalidArgument, "dropped before it was queued"):
        runs.continue_from("dropped", needs_checkpoint=False)


# --- chains that only whoever goes round `submit` can write ---------------------------------------------------------


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        ({"a": "gone"}, "beyond gone, which does not stand in this log"),
        ({"a": "a"}, "beyond a, which leads back to itself"),
        ({"a": "b", "b": "c", "c": "b"}, "beyond b, which leads back to itself"),
    ],
)
def test_a_chain_that_leads_nowhere_ends_the_walk_and_says_where(world, runs, chain, words):
    for run_id, before in chain.items():
        runs.store.append(run_id, RunQueued("chat", continues=Continues(before, 1)))
    attempt = world.worker().claim()

    with pytest.raises(LineageBroken, match=words):
        _ = attempt.checkpoint
    with Refusal(runs, LineageBroken, words):
        runs.continue_from("a")


def test_a_version_far_beyond_the_end_costs_no_more_than_the_run(world, runs, first):
    runs.store.append("far", RunQueued("chat", continues=Continues(first, 2**53 - 1)), RunStarted("w"))

    attempt = world.worker()
    assert attempt.claim().checkpoint == "two"
