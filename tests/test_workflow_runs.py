"""A run's row through its whole life, and that row and machine never disagree."""

from datetime import UTC, datetime, timedelta

import attrs
import pytest
from hypothesis import given

from eventstore import EventStore
from eventstore.memory import MemoryLog
from eventstore.testing import Rehearsal, histories
from eventstore.workflow import (
    RUN,
    CheckpointSaved,
    ConfirmationExpired,
    ConfirmationRequested,
    ConfirmationResolved,
    Continues,
    Error,
    InterruptRequested,
    MessageRecorded,
    Phase,
    RunCancelled,
    RunCompleted,
    RunConfigured,
    RunCrashed,
    RunDescribed,
    RunDropped,
    RunFailed,
    RunInterrupted,
    RunPaused,
    RunQueued,
    RunRequeued,
    RunResumed,
    RunStarted,
    UsageRecorded,
)
from projections.workflow_runs import WORKFLOW_RUNS as RUNS
from projections.workflow_runs import RunRow, evolve

LATER = datetime(2027, 1, 1, tzinfo=UTC)


def folded(*events):
    row = None
    for recorded in Rehearsal(RUN, *events, stream="run-1").history:
        if recorded.kind in RUNS.kinds:
            row = evolve(row, recorded)
    return row


BEGUN = (RunQueued("deploy"), RunStarted("w1"))


def test_a_queued_run_tells_what_it_was_submitted_with():
    event = RunQueued(
        "deploy", {"large": 1}, "agent", "hash", "job", "parent", Continues("run-0", 3), 5, LATER, {"a": "b"}, {"c": 1}
    )

    row = folded(event)

    assert (row.phase, row.workflow, row.agent, row.spec_hash, row.job_id, row.parent_id) == (
        "queued", "deploy", "agent", "hash", "job", "parent"
    )  # fmt: skip
    assert (row.continues_id, row.continues_version, row.priority, row.not_before) == ("run-0", 3, 5, LATER)
    assert (row.labels, row.position, row.worker, row.attempt, row.started_at) == ({"a": "b"}, 1, None, 0, None)
    assert row.queued_at is not None


def test_each_attempt_is_counted_and_only_a_death_under_way_is_a_crash():
    row = folded(*BEGUN, RunResumed("w2"), RunPaused("person"), RunResumed("w3"), RunRequeued(), RunStarted("w4"))

    assert (row.attempt, row.crashes, row.worker, row.phase) == (4, 1, "w4", "started")


def test_the_first_start_stays_the_start():
    first = folded(*BEGUN).started_at

    assert folded(*BEGUN, RunResumed("w2"), RunCompleted()).started_at == first


def test_a_paused_run_tells_what_it_waits_for():
    row = folded(*BEGUN, RunPaused("time", LATER, "nap"))
    assert (row.phase, row.waiting_for, row.waiting_until, row.reason) == ("paused", "time", LATER, "nap")

    row = folded(*BEGUN, RunPaused("time", LATER, "nap"), RunResumed("w2", "woken"))
    assert (row.phase, row.waiting_for, row.waiting_until, row.reason) == ("started", None, None, "woken")


def test_a_run_that_goes_back_into_the_queue_tells_until_when():
    row = folded(*BEGUN, RunRequeued("retry", LATER))

    assert (row.phase, row.not_before, row.reason) == ("queued", LATER, "retry")


def test_a_drain_between_two_failures_makes_none_of_them_forgotten():
    failed = (RunRequeued("retry", failures=2), RunStarted("w2"))

    assert folded(*BEGUN, *failed, RunRequeued("drained")).failures == 2


@pytest.mark.parametrize(
    ("event", "phase"),
    [
        (RunCompleted({"large": 1}), Phase.COMPLETED),
        (RunFailed(Error("tag", "message"), "why"), Phase.FAILED),
        (RunCrashed("why", 137), Phase.CRASHED),
        (RunInterrupted("why"), Phase.INTERRUPTED),
        (RunDropped("why"), Phase.DROPPED),
        (RunCancelled("alice", "why"), Phase.CANCELLED),
    ],
)
def test_an_end_tells_when_and_why_and_leaves_nothing_open(event, phase):
    row = folded(*BEGUN, ConfirmationRequested("c1", "t"), event)

    assert (row.phase, row.open_questions, row.waiting_for, row.not_before) == (phase, 0, None, None)
    assert row.ended_at is not None
    assert row.reason == (None if phase == Phase.COMPLETED else "why")
    assert row.output_version == (4 if phase == Phase.COMPLETED else None)
    assert row.error == ({"tag": "tag", "message": "message"} if phase == Phase.FAILED else None)
    assert row.crashes == (phase == Phase.CRASHED)


def test_a_run_that_was_never_taken_in_has_a_row():
    assert folded(RunDropped("queue full")).phase == Phase.DROPPED


def test_questions_are_counted_open_and_answered():
    asked = (*BEGUN, ConfirmationRequested("c1", "t"), ConfirmationRequested("c2", "t"))

    assert folded(*asked).open_questions == 2
    assert folded(*asked, ConfirmationResolved("c1", "denied")).open_questions == 1
    assert folded(*asked, ConfirmationResolved("c1", "approved"), ConfirmationExpired("c2")).open_questions == 0


def test_a_description_changes_what_it_names_and_merges_labels():
    row = folded(
        RunQueued("deploy", labels={"a": "1", "b": "1"}),
        RunDescribed("title", "summary", {"b": "2"}),
        RunCancelled(),
        RunDescribed(summary="other", labels={"c": "3"}),
    )

    assert (row.phase, row.title, row.summary, row.labels) == (
        "cancelled", "title", "other", {"a": "1", "b": "2", "c": "3"}
    )  # fmt: skip


def test_a_row_says_where_the_runs_settings_lie():
    assert [
        folded(*events).config_version
        for events in ([RunQueued("w")], [RunQueued("w", config=1)], [RunQueued("w"), RunConfigured({"a": 1})])
    ] == [None, 1, 2]


def test_an_interrupt_that_was_requested_is_told():
    assert folded(RunQueued("deploy"), InterruptRequested("alice")).interrupt_requested


@pytest.mark.parametrize("event", [MessageRecorded("user"), CheckpointSaved(1), UsageRecorded()])
def test_a_row_changes_with_the_runs_life_and_not_with_each_message(event):
    assert type(event) not in RUNS.kinds


@given(histories(RUN))
def test_row_and_state_agree_after_every_legal_event(history):
    run = Rehearsal(RUN, stream="run-1")
    row = None
    for event in history:
        recorded = run.take(event)
        if recorded.kind in RUNS.kinds:
            row = evolve(row, recorded)
        state = run.state

        assert (row.phase, row.attempt, row.worker, row.crashes) == (
            state.phase, state.attempt, row.worker if state.worker is None else state.worker, state.crashes
        )  # fmt: skip
        assert (row.interrupt_requested, row.open_questions) == (state.interrupt_requested, len(state.unanswered))
        if state.phase in (Phase.QUEUED, Phase.PAUSED):
            assert (row.not_before if state.phase == Phase.QUEUED else row.waiting_until) == (
                state.not_before if state.phase == Phase.QUEUED else state.until
            )
            assert state.phase == Phase.QUEUED or row.waiting_for == state.waiting_for


def test_times_are_those_that_were_said_else_those_of_the_log():
    store = EventStore(MemoryLog(), (RUN,), clock=lambda: 1_767_225_600_000_000)
    said = datetime(2020, 1, 1, tzinfo=UTC)
    (queued,) = store.append("run-1", RunQueued("deploy"), occurred_at=said)
    (cancelled,) = store.append("run-1", RunCancelled())

    row = evolve(evolve(None, queued), cancelled)

    assert (row.queued_at, row.ended_at) == (said, datetime(2026, 1, 1, tzinfo=UTC))
    assert row.ended_at - row.queued_at > timedelta(days=365)


def test_a_fold_leaves_the_row_it_was_given_alone():
    before = folded(*BEGUN)
    copy = RunRow(**attrs.asdict(before, recurse=False))
    (*_, ended) = Rehearsal(RUN, *BEGUN, RunCompleted(), stream="run-1").history

    assert evolve(before, ended) != before
    assert before == copy
