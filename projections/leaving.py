"""The last word of a worker that leaves its run by an exception: whose failure that is, and the event that says so."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from eventstore.errors import (
    CannotOpen,
    ChildrenOpen,
    DatabaseBusy,
    ForkedStore,
    LostTail,
    OutcomeUnknown,
    StoreClosed,
    UnreadableEntry,
    Unreturned,
    Waiting,
)
from eventstore.workflow import Error, RunFailed, RunInterrupted, RunPaused

if TYPE_CHECKING:
    from eventstore.store import EventStore
    from eventstore.workflow import RunState

MAX_MESSAGE = 10_000
"""Characters of an exception's message that are kept."""


def is_of(store: EventStore, error: BaseException | None) -> bool:
    """Whether it is this store that failed, and not the run: its own errors, and its driver's, which bear its note."""
    match error:
        case StoreClosed():
            return store.closed
        case UnreadableEntry():  # a blob that is gone may come back: no run is to have failed since a folder was away
            return True
        case CannotOpen() | DatabaseBusy() | ForkedStore() | LostTail() | OutcomeUnknown():
            return error.url == store.log.url
    return any(store.log.url in note for note in getattr(error, "__notes__", ()))


def last_word(state: RunState, run_id: str, error: BaseException | None, *, store_failed: bool = False) -> object:
    """The event that ends or parks a run whose worker leaves by this exception (None: unfinished); pure."""
    if isinstance(error, Waiting) and error.stream == run_id:
        return RunPaused("person", reason=f"waits for an answer to {', '.join(error.call_ids)}")
    if isinstance(error, ChildrenOpen) and error.stream == run_id:
        return RunPaused("run", reason=storable(f"waits for the end of {', '.join(error.run_ids)}"))
    if isinstance(error, Unreturned) and error.stream == run_id:
        return RunPaused("operator", reason=str(error))
    if isinstance(error, Exception) and not isinstance(error, CancelledError) and not store_failed:
        return RunFailed(Error(type(error).__name__, storable(str(error))))
    if state.interrupt_requested:
        return RunInterrupted(reason="interrupt requested")
    if store_failed:
        return RunPaused("worker", reason=storable(f"the store failed: {error}"))
    return RunPaused("worker", reason="left unfinished" if error is None else f"{type(error).__name__} in the worker")


def storable(text: str) -> str:
    """Text as near to this as the log takes: no lone surrogates, no NUL, bounded."""
    return text[:MAX_MESSAGE].encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
