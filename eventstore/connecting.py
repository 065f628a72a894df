"""From a URL to a backend, and to a store on it: the one place that knows all siblings."""

from __future__ import annotations

import sys
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from eventstore.errors import InvalidArgument
from eventstore.memory import MemoryLog
from eventstore.notes import LogRecorded
from eventstore.store import EventStore
from eventstore.workflow import RUN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from eventstore.gate import Redactor
    from eventstore.log import Log
    from eventstore.machine import Machine
    from eventstore.metrics import Instruments, Metrics
    from eventstore.payloads import Json
    from eventstore.sqlite import SQLiteLog


BESIDE = ("", "-wal", "-shm", "-journal", "-witness", "-archive", "-blobs")
"""What a database and the files beside it are called, by what is added to its name."""


def open_log(url: str | PathLike[str] | Log, **options: Any) -> Log:
    """The backend that a URL names: `agent.db` or `sqlite:///agent.db`, `memory:`; a backend itself passes.

    Options are the backend's own; see `eventstore.sqlite.SQLiteLog`.

    Raises:
        InvalidArgument: no such scheme, or an option that the backend does not have.
    """
    if not isinstance(url, str | PathLike):
        if not hasattr(url, "write"):
            raise InvalidArgument("url", url, "must be a path, a URL, or a log that is open")
        _check_options(options, (), "a log that is open already")
        return url
    path = path_of(url)
    if path is None:
        _check_options(options, (), "a log in memory")
        return MemoryLog()
    from eventstore.sqlite import SQLiteLog  # noqa: PLC0415 - a memory store needs no driver

    _check_options(options, SQLiteLog.__init__.__kwdefaults__ or (), "a log in SQLite")
    return SQLiteLog(path, **options)


def path_of(url: str | PathLike[str]) -> str | None:
    """The database file that a URL names; None for one in memory.

    Raises:
        InvalidArgument: no such scheme.
    """
    name = fspath(url)
    if not name:
        raise InvalidArgument("url", name, "is empty; name the database file, or memory:")
    scheme, separator, rest = name.partition("://")
    if name == "memory:":
        return None
    if name == ":memory:" or name.startswith("file:"):  # a file of that very name would be made
        raise InvalidArgument("url", name, "is SQLite's own way to say it; use a path, sqlite:///path or memory:")
    if separator and scheme != "sqlite":
        raise InvalidArgument(
            "url", name, "has a scheme that Runfold does not know; use a path, sqlite:///path or memory:"
        )
    if separator and "?" in rest:
        raise InvalidArgument("url", name, "takes no parameters; name them as options of connect, or give a path")
    return (rest.removeprefix("/") or rest) if separator else name


def open_copy(log: Log, path: Path, *, create: bool = False, read_only: bool = False, **key: Any) -> SQLiteLog:
    """The log in this file that is a copy of another, or becomes it where there is none: same id, opened likewise.

    With `key=` it is encrypted anew, or with None not at all.

    Raises:
        CannotOpen, NewerDatabase, DatabaseBusy, LostTail: as for opening any.
    """
    if (copied_to := getattr(log, "copied_to", None)) is not None:
        copy: SQLiteLog = copied_to(path, create=create, read_only=read_only, **key)
        return copy
    from eventstore.sqlite import SQLiteLog  # noqa: PLC0415 - as above

    return SQLiteLog(path, create=create, read_only=read_only, identity=log.id, **key)


def failures() -> tuple[type[Exception], ...]:
    """What the drivers that are loaded raise when the disk fails or is full; to be called in an `except` itself."""
    if "eventstore.sqlite" not in sys.modules:
        return ()
    from eventstore.sqlite.driver import failures as known  # noqa: PLC0415 - as above

    return known("OperationalError")


def is_open(path: Path) -> bool:
    """Whether a path is of a store that this process has open: its database, what stands beside it, what is in that.

    No other program part may write there, and none may even read: closing a file of SQLite's drops its locks. So it is
    only looked at.

    Args:
        path: absolute, without symlinks on the way; a file by another link is known all the same.
    """
    if "eventstore.sqlite" not in sys.modules:
        return False
    from eventstore.sqlite import open_databases  # noqa: PLC0415 - as above

    for database in open_databases():
        names = [f"{database.parent.resolve() / database.name}{ending}" for ending in BESIDE]
        if any(str(place) in names for place in (path, *path.parents)) or any(_is_same(path, it) for it in names):
            return True
    return False


def _is_same(path: Path, name: str) -> bool:
    try:
        return path.samefile(name)
    except OSError:
        return False


def _check_options(options: Mapping[str, Any], known: Iterable[str], backend: str) -> None:
    for name, value in options.items():
        if name not in known:
            shown = "…" if name == "key" else value  # which no message may hold
            raise InvalidArgument(name, shown, f"is no option of {backend}, which takes {', '.join(known) or 'none'}")


def instruments_for(metrics: Metrics) -> Instruments | None:
    """What is told of what a store does, if anything is; see `metrics.instruments`.

    Raises:
        InvalidArgument: no provider, or OpenTelemetry's API is asked for and not installed.
    """
    if metrics is False or (metrics is None and "opentelemetry.metrics" not in sys.modules):
        return None
    from eventstore.metrics import instruments  # noqa: PLC0415 - who measures nothing pays nothing

    return instruments(metrics)


def connect(
    url: str | PathLike[str] | Log,
    *,
    machines: Sequence[Machine[Any]] = (RUN,),
    redactor: Redactor | None = None,
    metrics: Metrics = None,
    **options: Any,
) -> EventStore:
    """A store without projections: the write side alone.

    Args:
        url: see `open_log`.
        machines: whose events may be written.
        redactor: `(event type, fields) -> fields`; takes out of each payload, before it is written, what must not
            stand in a log.
        metrics: an OpenTelemetry `MeterProvider`; True for the one that the program set, or will yet set; None for the
            same where the program has imported OpenTelemetry's API; False for none.
        options: the backend's own.

    Raises:
        CannotOpen, NewerDatabase, DatabaseBusy: nothing was changed.
    """
    instruments = instruments_for(metrics)
    store = EventStore(open_log(url, **options), machines, redactor=redactor)
    if instruments is not None:
        instruments.watch(store)
    record_loss(store)
    return store


def record_loss(store: EventStore) -> None:
    """Write down, as an event, that acknowledged entries are gone and that somebody went on all the same."""
    loss = store.log.loss
    if loss is None or loss.recorded is not None or getattr(store.log, "read_only", False):
        return
    lost: dict[str, Json] = {
        "expected": loss.expected,
        "expected_hash": loss.expected_hash,
        "found": loss.found,
        "why": "the window of synchronous=NORMAL, after a reboot" if loss.promised else "accepted by an operator",
    }
    if loss.by is not None and not loss.promised:
        lost["by"] = loss.by
    (recorded,) = store.append("runfold", LogRecorded(source="runfold", kind="tail-lost", payload=lost))
    store.log.loss = attrs.evolve(loss, recorded=recorded.position)
