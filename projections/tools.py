"""Tool uses: what a run asked about, was allowed, called and got back, tied together by the call id; a pure reading."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal

from attrs import frozen

from eventstore.changing import changed
from eventstore.payloads import Json
from eventstore.workflow import (
    RUN,
    ConfirmationExpired,
    ConfirmationRequested,
    ConfirmationResolved,
    RunDescribed,
    ToolCalled,
    ToolReturned,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventstore.codec import Recorded

_ENDS = frozenset(
    kind for row in RUN.table.values() for kind, phase in row.items() if phase in RUN.final and kind is not RunDescribed
)


@frozen
class ToolUse:
    """One call id of a run: the question about it, if there was one, the decision, the call and its return."""

    run_id: str
    call_id: str
    tool: str
    input: Json
    """As it was asked about or, once it was called, as it was called."""
    asked_at: datetime | None = None
    reason: str | None = None
    decision: Literal["approved", "denied", "expired"] | None = None
    by: str | None = None
    comment: str | None = None
    decided_at: datetime | None = None
    called_at: datetime | None = None
    parent_call_id: str | None = None
    output: Json = None
    is_error: bool = False
    returned_at: datetime | None = None
    void: bool = False
    """Its run ended before it was decided, or before it returned."""

    @property
    def waits_for(self) -> Literal["person", "tool"] | None:
        """A person who decides, the tool that was called, or nothing more."""
        if self.void or self.returned_at is not None:
            return None
        if self.asked_at is not None and self.decision is None:
            return "person"
        return "tool" if self.called_at is not None else None


def uses(recorded: Iterable[Recorded]) -> list[ToolUse]:
    """The tool uses among a run's events, in the order in which each was first heard of; pure."""
    found: dict[str, ToolUse] = {}
    for item in recorded:
        match item.event if item.kind in _ABOUT else None:
            case ConfirmationRequested() as asked:
                use = found.get(asked.call_id) or ToolUse(item.stream, asked.call_id, asked.tool, asked.input)
                found[asked.call_id] = changed(use, asked_at=item.time, reason=asked.reason)
            case ConfirmationResolved() as said:
                use = found[said.call_id]
                found[said.call_id] = changed(
                    use, decision=said.decision, by=said.by, comment=said.comment, decided_at=item.time,
                    input=use.input if said.input is None else said.input,
                )  # fmt: skip
            case ConfirmationExpired(call_id=call_id):
                found[call_id] = changed(found[call_id], decision="expired", decided_at=item.time)
            case ToolCalled() as call:
                use = found.get(call.call_id) or ToolUse(item.stream, call.call_id, call.tool, call.input)
                found[call.call_id] = changed(
                    use, input=call.input, called_at=item.time, parent_call_id=call.parent_call_id
                )
            case ToolReturned() as back:
                found[back.call_id] = changed(
                    found[back.call_id], output=back.output, is_error=back.is_error, returned_at=item.time
                )
        if item.kind in _ENDS:
            found = {name: changed(use, void=True) if use.waits_for else use for name, use in found.items()}
    return list(found.values())


_ABOUT = frozenset({ConfirmationRequested, ConfirmationResolved, ConfirmationExpired, ToolCalled, ToolReturned})
