"""From a URL to a backend, and to a store on it: the one place that knows all siblings."""

from __future__ import annotations

from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from eventstore.errors import InvalidArgument
from eventstore.memory import MemoryLog
from eventstore.notes import LogRecorded
from eventstore.store import EventStore
from eventstore.workflow import RUN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventstore.gate import Redactor
    from eventstore.log import Log
    from eventstore.machine import Machine


def open_log(url: str | PathLike[str] | Log, **options: Any) -> Log:
    """The backend that a URL names: `agent.db` or `sqlite:///agent.db`, `memory:`; a backend itself passes.

    Options are the backend's own; see `eventstore.sqlite.SQLiteLog`.

    Raises:
        InvalidArgument: no such scheme, or an option that the backend does not have.
    """
    if not isinstance(url, str | PathLike):
        return url
    name = fspath(url)
    scheme, separator, rest = name.partition("://")
    if name == "memory:":
        return MemoryLog()
    if separator and scheme != "sqlite":
        raise InvalidArgument("url", name, "knows no such scheme; use a path, sqlite:///path or memory:")
    from eventstore.sqlite import SQLiteLog  # noqa: PLC0415 - a memory store needs no driver

    return SQLiteLog((rest.removeprefix("/") or rest) if separator else name, **options)


def connect(
    url: str | PathLike[str] | Log,
    *,
    machines: Sequence[Machine[Any]] = (RUN,),
    redactor: Redactor | None = None,
    **options: Any,
) -> EventStore:
    """A store without projections: the write side alone.

    Args:
        url: see `open_log`.
        machines: whose events may be written.
        redactor: `(event type, fields) -> fields`; takes out of each payload, before it is written, what must not
            stand in a log.
        options: the backend's own.

    Raises:
        CannotOpen, NewerDatabase, DatabaseBusy: nothing was changed.
    """
    store = EventStore(open_log(url, **options), machines, redactor=redactor)
    record_loss(store)
    return store


def record_loss(store: EventStore) -> None:
    """Write down, as an event, that acknowledged entries are gone and that somebody went on all the same."""
    loss = store.log.loss
    if loss is None or getattr(store.log, "read_only", False):
        return
    kind = "the window of synchronous=NORMAL, after a reboot" if loss.promised else "accepted by an operator"
    lost = {"expected": loss.expected, "expected_hash": loss.expected_hash, "found": loss.found, "why": kind}
    store.append("runfold", LogRecorded(source="runfold", kind="tail-lost", payload=lost))
    store.log.loss = None
