"""workflow_runs: one row a run, changed by what changes its life and not by each message.

The phase is the one that the machine's table leads to, so row and state cannot disagree. Large values stay in the log:
`output_version` says where the output lies.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from eventstore.changing import changed
from eventstore.payloads import Json
from eventstore.settings import known
from eventstore.workflow import (
    TRANSITIONS,
    ConfirmationExpired,
    ConfirmationRequested,
    ConfirmationResolved,
    InterruptRequested,
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
)
from projections.projection import Projection

if TYPE_CHECKING:
    from eventstore.codec import Recorded


# Of so many fields a changed row is made in a third of the time by copying its dict: see `changed`.
@frozen(slots=False)
class RunRow:
    """A run as it stands."""

    run_id: str
    phase: Phase
    workflow: str | None = None
    agent: str | None = None
    job_id: str | None = None
    parent_id: str | None = None
    continues_id: str | None = None
    continues_version: int | None = None
    spec_hash: str | None = None
    worker: str | None = None
    """Who holds it, or held it last."""
    attempt: int = 0
    crashes: int = 0
    """How often a worker died under it."""
    failures: int = 0
    """How often it was put back into the queue because it had failed."""
    priority: int = 0
    queued_at: datetime | None = None
    started_at: datetime | None = None
    """When its first attempt began."""
    ended_at: datetime | None = None
    not_before: datetime | None = None
    waiting_for: str | None = None
    waiting_until: datetime | None = None
    open_questions: int = 0
    interrupt_requested: bool = False
    reason: str | None = None
    """Why it is where it is, as the last event about that said."""
    error: Json = None
    output_version: int | None = None
    """Version of its RunCompleted, which holds the output."""
    title: str | None = None
    summary: str | None = None
    labels: Json = field(factory=dict)
    config_version: int | None = None
    """Version of the event that holds its settings; None if it never had any."""
    step_limit: int | None = None
    """As its settings say."""
    position: int = 0
    """Of its first event: the order of arrival."""


def _queued(_row: RunRow, recorded: Recorded) -> dict[str, Any]:
    event: RunQueued = recorded.event
    return {
        "workflow": event.workflow,
        "agent": event.agent,
        "job_id": event.job_id,
        "parent_id": event.parent_id,
        "continues_id": event.continues.run_id if event.continues else None,
        "continues_version": event.continues.version if event.continues else None,
        "spec_hash": event.spec_hash,
        "priority": event.priority,
        "queued_at": recorded.time,
        "not_before": event.not_before,
        "labels": event.labels,
        "config_version": None if event.config is None else recorded.version,
        "step_limit": known(event.config).step_limit,
    }


def _begun(row: RunRow, recorded: Recorded) -> dict[str, Any]:
    return {
        "worker": recorded.event.worker,
        "attempt": row.attempt + 1,
        "crashes": row.crashes + (row.phase is Phase.STARTED),
        "started_at": row.started_at or recorded.time,
        "not_before": None,
        "waiting_for": None,
        "waiting_until": None,
        "reason": getattr(recorded.event, "reason", None),
    }


def _paused(_row: RunRow, recorded: Recorded) -> dict[str, Any]:
    event: RunPaused = recorded.event
    return {"waiting_for": event.waiting_for, "waiting_until": event.until, "reason": event.reason}


def _requeued(row: RunRow, recorded: Recorded) -> dict[str, Any]:
    event: RunRequeued = recorded.event
    return {
        "not_before": event.not_before,
        "reason": event.reason,
        "failures": event.failures or row.failures,
    }


def _ended(row: RunRow, recorded: Recorded) -> dict[str, Any]:
    completed = recorded.kind is RunCompleted
    event = None if completed else recorded.event  # an output may be large, and nothing of it goes into the row
    return {
        "ended_at": recorded.time,
        "crashes": row.crashes + (recorded.kind is RunCrashed),
        "error": _error(recorded.event) if recorded.kind is RunFailed else None,
        "output_version": recorded.version if completed else None,
        "reason": getattr(event, "reason", None),
        "not_before": None,
        "waiting_for": None,
        "waiting_until": None,
        "open_questions": 0,
    }


def _error(event: RunFailed) -> dict[str, str]:
    return {"tag": event.error.tag, "message": event.error.message}


def _described(row: RunRow, recorded: Recorded) -> dict[str, Any]:
    event: RunDescribed = recorded.event
    return {
        "title": row.title if event.title is None else event.title,
        "summary": row.summary if event.summary is None else event.summary,
        "labels": {**row.labels, **event.labels},
    }


def _configured(_row: RunRow, recorded: Recorded) -> dict[str, Any]:
    return {"config_version": recorded.version, "step_limit": known(recorded.event.config).step_limit}


def _asked(row: RunRow, _recorded: Recorded) -> dict[str, Any]:
    return {"open_questions": row.open_questions + 1}


def _answered(row: RunRow, _recorded: Recorded) -> dict[str, Any]:
    return {"open_questions": row.open_questions - 1}


def _interrupt_requested(_row: RunRow, _recorded: Recorded) -> dict[str, Any]:
    return {"interrupt_requested": True}


_FOLDS: dict[type, Callable[[RunRow, Recorded], dict[str, Any]]] = {
    RunQueued: _queued,
    RunStarted: _begun,
    RunResumed: _begun,
    RunPaused: _paused,
    RunRequeued: _requeued,
    **dict.fromkeys((RunCompleted, RunFailed, RunCrashed, RunInterrupted, RunDropped, RunCancelled), _ended),
    RunDescribed: _described,
    RunConfigured: _configured,
    ConfirmationRequested: _asked,
    ConfirmationResolved: _answered,
    ConfirmationExpired: _answered,
    InterruptRequested: _interrupt_requested,
}


def evolve(row: RunRow | None, recorded: Recorded) -> RunRow | None:
    """The row after an event that the machine accepted; pure."""
    before = row or RunRow(run_id=recorded.stream, phase=Phase.NEW, position=recorded.position)
    phase = TRANSITIONS[before.phase][recorded.kind]
    return changed(before, phase=phase, **_FOLDS[recorded.kind](before, recorded))


WORKFLOW_RUNS: Projection[RunRow] = Projection(
    name="workflow_runs",
    version=2,
    row=RunRow,
    key=("run_id",),
    events=tuple(_FOLDS),
    evolve=evolve,
    # `position` behind a column gives a list by it in order of arrival: a page costs its rows, and not all there are.
    indexes=(
        ("phase", "position"),
        ("parent_id", "position"),
        ("agent", "position"),
        ("started_at",),
        ("continues_id",),
        ("job_id", "position"),
    ),
)
