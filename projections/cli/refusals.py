"""Refusals in an operator's words.

The library says which event a machine does not take, in names that a program needs. Who typed `cancel` wants to know
what has become of the run. Whatever is not here is told in the library's own words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore.errors import CallReused, IllegalTransition, OutcomeUnknown
from eventstore.workflow import RUN

if TYPE_CHECKING:
    from eventstore.errors import EventStoreError

_ENDED = {
    "RunCancelled": "nothing is left to cancel",
    "InterruptRequested": "nothing is left to stop",
    "RunInterrupted": "nothing is left to stop",
    "ConfirmationResolved": "its questions are void",
    "ConfirmationExpired": "its questions are void",
    "ToolReturned": "its calls are void",
}
"""By the event that was to be written: what the end of a run means for it."""
_TYPED = {
    "open it with its key": "open it with --key-file",
    ": it was opened read-only; connect without read_only": "; check permissions, or work on a copy elsewhere",
    "or open it read-only": "or work on a copy elsewhere, such as a restored backup",
}
"""What a program is told to do, and how the same is typed."""
_NOT_YET = {"ConfirmationResolved": "it asks nothing now", "ToolReturned": "no call of it is open now"}


def plainly(error: EventStoreError) -> str:
    """What the error says to somebody at a terminal."""
    if isinstance(error, IllegalTransition) and error.machine == RUN.name:
        known = _ENDED if error.phase in RUN.final else _NOT_YET
        if (fact := known.get(error.event)) is not None:
            return f"{error.stream} is {error.phase} and {fact}; `runfold show {error.stream}` tells its life"
    if isinstance(error, CallReused):
        return f"call {error.call_id} of {error.stream} {error.fact}; `runfold show {error.stream}` tells its life"
    if isinstance(error, OutcomeUnknown):
        return (
            f"{error.url}: the commit failed ({error.reason}) and nobody knows yet whether it stands; mend the disk "
            "and give the command again (an import with --resume): what stands is not done twice"
        )
    words = str(error)
    for in_code, typed in _TYPED.items():
        words = words.replace(in_code, typed)
    return words
