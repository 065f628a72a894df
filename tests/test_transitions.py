"""The run's table against a second one, typed by hand from the design, for every phase and every event.

Nothing here is taken from `workflow.TRANSITIONS`: who changes that table on purpose changes this one too, by hand.
"""

import pytest
from attrs import evolve

from eventstore import workflow
from eventstore.errors import IllegalTransition, Refused
from eventstore.notes import LogRecorded
from eventstore.testing import Rehearsal
from eventstore.workflow import (
    RUN,
    CheckpointSaved,
    ConfirmationExpired,
    ConfirmationRequested,
    ConfirmationResolved,
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
    ToolCalled,
    ToolReturned,
    UsageRecorded,
)

BY_HAND = {
    "new": {
        "RunQueued": "queued",
        "RunDropped": "dropped",
    },
    "queued": {
        "RunStarted": "started",
        "RunFailed": "failed",
        "RunDropped": "dropped",
        "RunCancelled": "cancelled",
        "InterruptRequested": "queued",
        "RunDescribed": "queued",
        "RunConfigured": "queued",
    },
    "started": {
        "RunResumed": "started",
        "RunPaused": "paused",
        "RunRequeued": "queued",
        "RunCompleted": "completed",
        "RunFailed": "failed",
        "RunCrashed": "crashed",
        "RunInterrupted": "interrupted",
        "RunDropped": "dropped",
        "RunCancelled": "cancelled",
        "MessageRecorded": "started",
        "ToolCalled": "started",
        "ToolReturned": "started",
        "CheckpointSaved": "started",
        "UsageRecorded": "started",
        "ConfirmationRequested": "started",
        "ConfirmationResolved": "started",
        "ConfirmationExpired": "started",
        "InterruptRequested": "started",
        "RunDescribed": "started",
        "RunConfigured": "started",
        "LogRecorded": "started",
    },
    "paused": {
        "RunResumed": "started",
        "RunFailed": "failed",
        "RunInterrupted": "interrupted",
        "RunCancelled": "cancelled",
        "ConfirmationResolved": "paused",
        "ConfirmationExpired": "paused",
        "ToolReturned": "paused",
        "InterruptRequested": "paused",
        "RunDescribed": "paused",
        "RunConfigured": "paused",
    },
    "completed": {"RunDescribed": "completed"},
    "failed": {"RunDescribed": "failed"},
    "crashed": {"RunDescribed": "crashed"},
    "interrupted": {"RunDescribed": "interrupted"},
    "dropped": {"RunDescribed": "dropped"},
    "cancelled": {"RunDescribed": "cancelled"},
}

# Histories that lead into each phase, the active ones with an open call and an open question, so that a return and
# an answer are about something.
_WORKING = (RunQueued("w"), RunStarted("a"), ToolCalled("call", "t"), ConfirmationRequested("question", "t"))
INTO = {
    "new": (),
    "queued": (RunQueued("w"),),
    "started": _WORKING,
    "paused": (*_WORKING, RunPaused("person")),
    "completed": (*_WORKING, RunCompleted()),
    "failed": (*_WORKING, RunFailed(Error("t", "m"))),
    "crashed": (*_WORKING, RunCrashed()),
    "interrupted": (*_WORKING, RunInterrupted()),
    "dropped": (*_WORKING, RunDropped()),
    "cancelled": (*_WORKING, RunCancelled()),
}
EVENTS = {
    "RunQueued": RunQueued("w"),
    "RunStarted": RunStarted("a"),
    "RunResumed": RunResumed("a"),
    "RunPaused": RunPaused("person"),
    "RunRequeued": RunRequeued(),
    "RunCompleted": RunCompleted(),
    "RunFailed": RunFailed(Error("t", "m")),
    "RunCrashed": RunCrashed(),
    "RunInterrupted": RunInterrupted(),
    "RunDropped": RunDropped(),
    "RunCancelled": RunCancelled(),
    "MessageRecorded": MessageRecorded("user"),
    "ToolCalled": ToolCalled("new call", "t"),
    "ToolReturned": ToolReturned("call"),
    "CheckpointSaved": CheckpointSaved(1),
    "UsageRecorded": UsageRecorded(),
    "ConfirmationRequested": ConfirmationRequested("new question", "t"),
    "ConfirmationResolved": ConfirmationResolved("question", "approved"),
    "ConfirmationExpired": ConfirmationExpired("question"),
    "InterruptRequested": InterruptRequested(),
    "RunDescribed": RunDescribed("title"),
    "RunConfigured": RunConfigured(1),
    "LogRecorded": LogRecorded("a", "b"),
}
PAIRS = [(phase, name) for phase in INTO for name in EVENTS]


def test_the_two_tables_name_the_same_phases_and_events():
    assert set(BY_HAND) == set(INTO) == {phase.value for phase in Phase}
    assert set(EVENTS) == {event.__name__ for event in RUN.events}
    assert all(type(event).__name__ == name for name, event in EVENTS.items())


def test_the_two_tables_are_the_same():
    stored = {
        phase.value: {event.__name__: target.value for event, target in row.items()}
        for phase, row in workflow.TRANSITIONS.items()
    }

    assert stored == BY_HAND


def test_only_final_phases_lead_nowhere():
    assert {phase.value for phase in RUN.final} == {
        "completed", "failed", "crashed", "interrupted", "dropped", "cancelled",
    }  # fmt: skip


@pytest.mark.parametrize(("phase", "name"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_each_pair_of_phase_and_event_goes_as_the_design_says(phase, name):
    history = INTO[phase]
    if name == "RunRequeued" and phase == "started":
        history = history[:2]  # the queue takes no open question: a guard's affair, proved in test_workflow
    run = Rehearsal(RUN, *history)
    before, seen = run.state, list(run.history)
    assert before.phase == phase

    target = BY_HAND[phase].get(name)

    if target is not None:
        run.take(EVENTS[name])
        assert run.state.phase == target
    else:
        with pytest.raises(Refused):
            run.take(EVENTS[name])
        assert run.state is before
        assert run.history == seen


ABSENT = [(phase, name) for phase, name in PAIRS if name not in BY_HAND[phase]]
LAX = evolve(
    RUN,
    table={phase: dict.fromkeys(RUN.events, phase) for phase in Phase},
    evolve=lambda state, _recorded: state,
    guards={},
    fence=None,
)
"""A run machine that takes everything, to make events of any kind in their place."""


@pytest.mark.parametrize(("phase", "name"), ABSENT, ids=["-".join(pair) for pair in ABSENT])
def test_the_machine_refuses_what_the_design_does_not_name_whatever_the_fence_says(phase, name):
    state = Rehearsal(RUN, *INTO[phase]).state
    (recorded,) = Rehearsal(LAX, EVENTS[name]).history

    with pytest.raises(IllegalTransition) as caught:
        RUN.judge(state, recorded)

    assert caught.value.phase == phase
    assert set(caught.value.allowed) == set(BY_HAND[phase])
