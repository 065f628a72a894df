"""confirmations: each question to a person, and what became of it. What is open when its run ends is void with it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.changing import changed
from eventstore.payloads import Json, digest
from eventstore.workflow import (
    ConfirmationExpired,
    ConfirmationRequested,
    ConfirmationResolved,
    RunCancelled,
    RunCompleted,
    RunCrashed,
    RunDropped,
    RunFailed,
    RunInterrupted,
    bound,
)
from projections.projection import Projection

if TYPE_CHECKING:
    from eventstore.codec import Recorded
    from projections.projection import Key


@frozen
class ConfirmationRow:
    """A question, and its decision once there is one."""

    run_id: str
    call_id: str
    tool: str
    input: Json
    digest: str
    """Of what is asked, or of what was approved when the decision edited the input."""
    asked_at: datetime
    reason: str | None = None
    expires_at: datetime | None = None
    decision: str | None = None
    """None while it waits; then approved, denied, expired, or void with its run."""
    by: str | None = None
    comment: str | None = None
    decided_at: datetime | None = None
    edited_input: Json = None
    result: Json = None
    position: int = 0
    """Of the question: the order of asking."""


def evolve(row: ConfirmationRow | None, recorded: Recorded) -> ConfirmationRow | None:
    """The question after an event of its run; pure."""
    match recorded.event:
        case ConfirmationRequested() as asked:
            return ConfirmationRow(
                run_id=recorded.stream,
                call_id=asked.call_id,
                tool=asked.tool,
                input=asked.input,
                digest=bound(asked),
                reason=asked.reason,
                asked_at=recorded.time,
                expires_at=asked.expires_at,
                position=recorded.position,
            )
        case ConfirmationResolved() as answer if row is not None:
            return changed(
                row,
                decision=answer.decision,
                by=answer.by,
                comment=answer.comment,
                decided_at=recorded.time,
                edited_input=answer.input,
                result=answer.result,
                digest=row.digest if answer.input is None else digest(row.tool, answer.input),
            )
        case ConfirmationExpired() if row is not None:
            return changed(row, decision="expired", decided_at=recorded.time)
    if row is not None and row.decision is None:
        return changed(row, decision="void", decided_at=recorded.time)
    return row


_QUESTION = (ConfirmationRequested, ConfirmationResolved, ConfirmationExpired)


def locate(recorded: Recorded) -> Key:
    """One question by its call id; the end of a run concerns all of its questions."""
    return (recorded.stream, recorded.event.call_id) if recorded.kind in _QUESTION else (recorded.stream,)


CONFIRMATIONS: Projection[ConfirmationRow] = Projection(
    name="confirmations",
    version=1,
    row=ConfirmationRow,
    key=("run_id", "call_id"),
    events=(*_QUESTION, RunCompleted, RunFailed, RunCrashed, RunInterrupted, RunDropped, RunCancelled),
    evolve=evolve,
    locate=locate,
    indexes=(("decision", "position"),),
    by_stream=True,
)
