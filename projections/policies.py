"""Standing permissions: questions that need no person, because one said so before, for these tools and until then.

A permission is a setting of a run (`auto_accept`), so it is a recorded fact with its time and with who granted it. What
is decided in its name is recorded too, as any decision is, by `POLICY`; the machine refuses that where no permission
covers the tool. Only whether its time has passed is compared here, by the clock of whoever asks. Granting one is
`configuring`'s.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from eventstore.errors import InvalidArgument
from eventstore.payloads import to_iso
from eventstore.workflow import POLICY, ConfirmationResolved

if TYPE_CHECKING:
    from eventstore.settings import AutoAccept
    from eventstore.workflow import RunState


def check_person(by: str | None) -> None:
    """Who decides or changes something is not called as the permissions are: what stands in that name was theirs.

    The machine refuses what no permission covers, but knows no clock: whose time has passed still covers, for it.

    Raises:
        InvalidArgument: it is that name.
    """
    if by == POLICY:
        raise InvalidArgument("by", by, "is the name of the standing permissions themselves; let a person do it")


def approval(accepting: AutoAccept | None, call_id: str, tool: str, now: datetime) -> ConfirmationResolved | None:
    """The decision that a permission makes about a call of this tool; None if it makes none; pure."""
    if accepting is None or not accepting.covers(tool) or not accepting.stands(now):
        return None
    until = "" if accepting.until is None else f" until {to_iso(accepting.until)}"
    comment = f"accepted by the standing permission of {accepting.by or 'its settings'}{until}"
    return ConfirmationResolved(call_id, "approved", POLICY, comment)


def approvals(state: RunState, accepting: AutoAccept | None, now: datetime) -> list[ConfirmationResolved]:
    """What a permission decides of the questions that are open and not overdue; pure."""
    waiting = ((call_id, state.questions[call_id]) for call_id in sorted(state.unanswered))
    in_time = ((one, asked) for one, asked in waiting if asked.expires_at is None or now < asked.expires_at)
    found = (approval(accepting, call_id, asked.tool, now) for call_id, asked in in_time)
    return [decision for decision in found if decision is not None]
