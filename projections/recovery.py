"""What to do with one run: pure decisions, taken on its state alone, or on its row where that knows as much.

Nothing here reads a clock, a log or a process table; the shell (`daemon`) tells the time and who is dead, and appends
what is decided at the version it was decided on. So two recoveries, or two workers, that decide at once share the
work instead of doing it twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.workflow import (
    ConfirmationExpired,
    Phase,
    RunCrashed,
    RunInterrupted,
    RunResumed,
    RunStarted,
    RunState,
)

if TYPE_CHECKING:
    from datetime import datetime

    from projections.workflow_runs import RunRow

Events = tuple[object, ...]


def runnable(row: RunRow, now: datetime, *, open_children: int = 0) -> bool:
    """Whether a queued or paused run may be taken up: not before its time, no question open, children ended."""
    if row.phase not in (Phase.QUEUED, Phase.PAUSED):
        return False
    if row.interrupt_requested:  # to end it; there is nothing to wait for
        return True
    if row.phase is Phase.QUEUED:
        return row.not_before is None or row.not_before <= now
    if row.open_questions or (row.waiting_for == "run" and open_children):
        return False
    return row.waiting_until is None or row.waiting_until <= now


def overdue(state: RunState, now: datetime) -> Events:
    """The questions whose time has passed, as the events that say so."""
    open_questions = ((call_id, state.questions[call_id]) for call_id in sorted(state.unanswered))
    return tuple(
        ConfirmationExpired(call_id)
        for call_id, question in open_questions
        if question.expires_at is not None and question.expires_at <= now
    )


def settle(state: RunState | RunRow, *, dead: bool, max_crashes: int) -> Events:
    """How a run ends that nobody will go on with: `()` if somebody may, or does.

    Args:
        state: of the run; its row tells the same, without its stream being folded.
        dead: whether the worker that holds it is.
        max_crashes: how many workers may die under a run; one more, and it has crashed.
    """
    if state.phase is Phase.PAUSED and state.interrupt_requested:
        return (RunInterrupted(reason="interrupt requested while paused"),)
    if state.phase is not Phase.STARTED or not dead:
        return ()
    if state.interrupt_requested:
        return (RunInterrupted(reason="interrupt requested, and its worker died"),)
    if state.crashes >= max_crashes:
        reason = f"worker {state.worker} died; that was crash {state.crashes + 1}, and {max_crashes} are allowed"
        return (RunCrashed(reason=reason),)
    return ()


def take(state: RunState, worker: str, now: datetime, *, dead: bool, max_crashes: int) -> Events:
    """What a worker appends to take the run up, or to end it instead; `()` if it is not to be had."""
    if ending := settle(state, dead=dead, max_crashes=max_crashes):
        return ending
    match state.phase:
        case Phase.STARTED if dead:
            return (RunResumed(worker, reason=f"worker {state.worker} died"),)
        case Phase.PAUSED if not state.unanswered and not _too_early(state.until, now):
            # An operator is waited for until no call is left of which nobody knows how it ended.
            if state.waiting_for == "operator" and state.unreturned:
                return ()
            return (RunResumed(worker, reason=f"had waited for {state.waiting_for}"),)
        case Phase.QUEUED if state.interrupt_requested:
            return RunStarted(worker), RunInterrupted(reason="interrupt requested while queued")
        case Phase.QUEUED if not _too_early(state.not_before, now):
            return (RunStarted(worker),)
    return ()


def _too_early(moment: datetime | None, now: datetime) -> bool:
    return moment is not None and moment > now


@frozen
class Recovery:
    """What a recovery found and did: run ids, and (run id, call id) of expired questions."""

    interrupted: tuple[str, ...] = ()
    crashed: tuple[str, ...] = ()
    resumable: tuple[str, ...] = ()
    """Left to `claim`: their worker died, and another may go on."""
    expired: tuple[tuple[str, str], ...] = ()
    unreadable: tuple[str, ...] = ()
    """Left as they are, since entries of theirs cannot be read; `runfold verify` names these."""
    running: int = 0
    """Runs that a living worker holds."""
    dry_run: bool = False

    def __str__(self) -> str:
        lines = [
            f"{name}: {', '.join(ids)}"
            for name, ids in (
                ("to be resumed", self.resumable),
                ("interrupted", self.interrupted),
                ("crashed once too often", self.crashed),
                ("questions expired", tuple(f"{run_id} {call_id}" for run_id, call_id in self.expired)),
                ("cannot be read", self.unreadable),
            )
            if ids
        ]
        if self.running:
            lines.append(f"{self.running} held by a living worker")
        if not lines:
            return "nothing to recover"
        head = "would recover" if self.dry_run else "recovered"
        return f"{head}: " + "; ".join(lines)
