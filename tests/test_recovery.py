"""The decisions of recovery, pure: a state in, events out, no store, no clock."""

from datetime import UTC, datetime, timedelta

import pytest

import projections
from eventstore.testing import Rehearsal
from eventstore.workflow import (
    ACTIVE,
    RUN,
    ConfirmationExpired,
    ConfirmationRequested,
    ConfirmationResolved,
    InterruptRequested,
    Phase,
    RunCompleted,
    RunCrashed,
    RunInterrupted,
    RunPaused,
    RunQueued,
    RunRequeued,
    RunResumed,
    RunStarted,
    ToolCalled,
    ToolReturned,
)
from projections import Recovery
from projections.recovery import overdue, runnable, settle, take
from projections.workflow_runs import RunRow

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SOON = NOW + timedelta(minutes=1)
QUEUED = RunQueued("deploy")
STARTED = (QUEUED, RunStarted("w1"))


def state(*events):
    return Rehearsal(RUN, *events).state


def types(events):
    return [type(event).__name__ for event in events]


# --- settle ---------------------------------------------------------------------------------------------------------


def test_a_run_of_a_living_worker_is_left_alone_whatever_was_requested():
    for events in (STARTED, (*STARTED, InterruptRequested())):
        assert settle(state(*events), dead=False, max_crashes=0) == ()


def test_a_dead_workers_run_is_left_to_be_claimed():
    assert settle(state(*STARTED), dead=True, max_crashes=1) == ()


def test_a_dead_workers_run_is_interrupted_where_that_was_requested():
    assert types(settle(state(*STARTED, InterruptRequested()), dead=True, max_crashes=3)) == ["RunInterrupted"]


def test_a_paused_run_is_interrupted_where_that_was_requested():
    paused = state(*STARTED, RunPaused("person"), InterruptRequested())

    assert types(settle(paused, dead=False, max_crashes=3)) == ["RunInterrupted"]


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_as_many_workers_may_die_as_are_allowed_and_one_more_crashes_the_run(allowed):
    run = Rehearsal(RUN, *STARTED)
    for _ in range(allowed):
        assert settle(run.state, dead=True, max_crashes=allowed) == ()
        run.take(RunResumed("w2"))

    (event,) = settle(run.state, dead=True, max_crashes=allowed)

    assert isinstance(event, RunCrashed)
    assert f"crash {allowed + 1}" in event.reason
    assert run.take(event)
    assert run.state.crashes == allowed + 1


def test_waiting_for_a_person_is_no_crash_however_often():
    run = Rehearsal(RUN, *STARTED)
    for _ in range(10):
        run.take(RunPaused("person"))
        run.take(RunResumed("w1"))

    assert settle(run.state, dead=True, max_crashes=0)[0].reason.endswith("crash 1, and 0 are allowed")
    assert (run.state.attempt, run.state.crashes) == (11, 0)


def test_an_interrupt_goes_before_a_crash():
    run = state(*STARTED, RunResumed("w2"), InterruptRequested())

    assert types(settle(run, dead=True, max_crashes=0)) == ["RunInterrupted"]


@pytest.mark.parametrize("events", [(QUEUED,), (*STARTED, RunCompleted()), (QUEUED, InterruptRequested())])
def test_what_nobody_holds_or_what_ended_is_not_settled(events):
    assert settle(state(*events), dead=True, max_crashes=0) == ()


@pytest.mark.parametrize("dead", [True, False])
@pytest.mark.parametrize(
    "events",
    [
        (QUEUED, InterruptRequested()),
        STARTED,
        (*STARTED, RunResumed("w2")),
        (*STARTED, RunResumed("w2"), RunResumed("w3"), InterruptRequested()),
        (*STARTED, RunPaused("worker"), RunResumed("w2")),
        (*STARTED, RunRequeued(), RunStarted("w2"), RunResumed("w3")),
        (*STARTED, RunPaused("person"), InterruptRequested()),
        (*STARTED, RunPaused("person")),
        (*STARTED, InterruptRequested(), RunPaused("person"), RunResumed("w2")),
        (*STARTED, RunResumed("w2"), RunCrashed()),
    ],
)
def test_a_row_is_settled_as_its_run_is(events, dead):
    with projections.connect("memory:") as runs:
        stream = runs.store.stream("run-1", RUN)
        for event in events:
            stream.append(event)
        row = runs.workflow_runs.get("run-1")

    for max_crashes in (0, 1, 2):
        assert settle(row, dead=dead, max_crashes=max_crashes) == settle(
            stream.state, dead=dead, max_crashes=max_crashes
        )


# --- take -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "dead", "expected"),
    [
        ((QUEUED,), False, ["RunStarted"]),
        ((RunQueued("deploy", not_before=NOW),), False, ["RunStarted"]),
        ((RunQueued("deploy", not_before=SOON),), False, []),
        ((RunQueued("deploy", not_before=SOON), InterruptRequested()), False, ["RunStarted", "RunInterrupted"]),
        ((QUEUED, InterruptRequested()), False, ["RunStarted", "RunInterrupted"]),
        ((*STARTED, RunRequeued(not_before=SOON)), False, []),
        ((*STARTED, RunRequeued()), False, ["RunStarted"]),
        (STARTED, False, []),
        (STARTED, True, ["RunResumed"]),
        ((*STARTED, RunPaused("worker")), False, ["RunResumed"]),
        ((*STARTED, RunPaused("time", until=NOW)), False, ["RunResumed"]),
        ((*STARTED, RunPaused("time", until=SOON)), False, []),
        ((*STARTED, RunPaused("time", until=SOON), InterruptRequested()), False, ["RunInterrupted"]),
        ((*STARTED, ConfirmationRequested("c", "t"), RunPaused("person")), False, []),
        (
            (
                *STARTED,
                ConfirmationRequested("c", "t"),
                RunPaused("person"),
                ConfirmationResolved("c", "denied", "alice"),
            ),
            False,
            ["RunResumed"],
        ),
        ((*STARTED, ConfirmationRequested("c", "t"), RunPaused("person"), ConfirmationExpired("c")), 0, ["RunResumed"]),
        ((*STARTED, ToolCalled("c", "t"), RunPaused("operator")), False, []),
        ((*STARTED, ToolCalled("c", "t"), RunPaused("worker")), False, ["RunResumed"]),
        ((*STARTED, ToolCalled("c", "t"), RunPaused("operator"), ToolReturned("c")), False, ["RunResumed"]),
        ((*STARTED, ToolCalled("c", "t"), RunPaused("operator"), InterruptRequested()), False, ["RunInterrupted"]),
        ((*STARTED, RunCompleted()), True, []),
    ],
)
def test_what_a_worker_appends_to_take_a_run_up(events, dead, expected):
    run = Rehearsal(RUN, *events)

    taken = take(run.state, "w9", NOW, dead=dead, max_crashes=3)

    assert types(taken) == expected
    for event in taken:
        run.take(event)  # and the machine lets all of it pass


# --- runnable -------------------------------------------------------------------------------------------------------


def row(phase, **fields):
    return RunRow("run-1", phase, **fields)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (row(Phase.QUEUED), True),
        (row(Phase.QUEUED, not_before=SOON), False),
        (row(Phase.QUEUED, not_before=NOW), True),
        (row(Phase.QUEUED, not_before=SOON, interrupt_requested=True), True),
        (row(Phase.PAUSED), True),
        (row(Phase.PAUSED, open_questions=1), False),
        (row(Phase.PAUSED, open_questions=1, interrupt_requested=True), True),
        (row(Phase.PAUSED, waiting_until=SOON), False),
        (row(Phase.PAUSED, waiting_until=SOON, interrupt_requested=True), True),
        (row(Phase.PAUSED, waiting_until=NOW), True),
        *((row(phase), False) for phase in Phase if phase not in (Phase.QUEUED, Phase.PAUSED)),
    ],
)
def test_when_a_run_may_be_taken_up(run, expected):
    assert runnable(run, NOW) is expected


def test_a_run_that_waits_for_its_children_waits_for_all_of_them():
    waiting = row(Phase.PAUSED, waiting_for="run")

    assert not runnable(waiting, NOW, open_children=1)
    assert runnable(waiting, NOW, open_children=0)
    assert runnable(row(Phase.PAUSED, waiting_for="worker"), NOW, open_children=1)


def test_every_active_phase_is_decided_on():
    assert {row(phase).phase for phase in ACTIVE} == {Phase.STARTED, Phase.PAUSED, Phase.QUEUED}


# --- overdue --------------------------------------------------------------------------------------------------------


def test_questions_whose_time_has_come_are_overdue_and_no_others():
    run = state(
        *STARTED,
        ConfirmationRequested("late", "t", expires_at=NOW),
        ConfirmationRequested("early", "t", expires_at=SOON),
        ConfirmationRequested("never", "t"),
        ConfirmationRequested("answered", "t", expires_at=NOW),
        ConfirmationResolved("answered", "approved", "alice"),
    )

    assert overdue(run, NOW) == (ConfirmationExpired("late"),)
    assert overdue(run, SOON) == (ConfirmationExpired("early"), ConfirmationExpired("late"))
    assert overdue(run, NOW - timedelta(days=1)) == ()


def test_an_ended_run_has_nothing_overdue():
    run = state(*STARTED, ConfirmationRequested("c", "t", expires_at=NOW), RunCompleted())

    assert overdue(run, SOON) == ()


def test_decisions_are_taken_on_the_state_and_leave_it_as_it_was():
    before = state(*STARTED, InterruptRequested())

    assert isinstance(settle(before, dead=True, max_crashes=0)[0], RunInterrupted)
    assert before == state(*STARTED, InterruptRequested())


# --- the report -----------------------------------------------------------------------------------------------------


def test_a_report_prints_well():
    report = Recovery(("a",), ("b",), ("c", "d"), (("e", "c1"),), running=2)

    assert str(report) == (
        "recovered: to be resumed: c, d; interrupted: a; crashed once too often: b; questions expired: e c1; "
        "2 held by a living worker"
    )
    assert str(Recovery(dry_run=True)) == "nothing to recover"
