"""The driver: which SQLite this is, how a connection is opened, and what its errors mean in our words."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from eventstore.errors import CannotOpen, DatabaseBusy, EventStoreError
from eventstore.packing import Compression

if TYPE_CHECKING:
    import sqlite3 as sqlite3  # noqa: PLC0414 - handed on
else:
    try:  # the same choice that sqlite-utils makes
        from pysqlite3 import dbapi2 as sqlite3
    except ImportError:
        import sqlite3

Synchronous = Literal["FULL", "NORMAL"]
Mode = Literal["ro", "rw"]

SOUND_SQLITE = (3, 51, 3)
"""Older releases have a bug in resetting the WAL that can corrupt a database."""
SQLITE_VERSION: tuple[int, ...] = sqlite3.sqlite_version_info
DRIVER = "pysqlite3" if "pysqlite3" in sqlite3.__name__ else "sqlite3"


class Connection(sqlite3.Connection):
    """A connection that is known until it is gone (see `_never_close`), and what its payloads are unpacked with."""

    __slots__ = ("__weakref__", "compression", "known", "run")
    compression: Compression
    known: tuple[int, dict[Any, Any]]
    """SQLite's count of what others wrote, and what was found out since it is at that."""
    run: Callable[..., sqlite3.Cursor]
    """As `execute`, by one cursor that is kept: the rows of a statement are read before the next one is run.

    A cursor for each statement costs 0.7 µs, and a lone append runs half a dozen."""


_OPEN: weakref.WeakSet[Connection] = weakref.WeakSet()


def _never_close() -> None:
    """In a forked child: see to it that no connection of the parent is ever closed here, not even at the end.

    The child has no locks, but SQLite in it believes that it has. Once the parent is gone it would take itself for the
    last one, and remove the WAL by its name: by then another process's, with what was acknowledged since.
    """
    import ctypes  # noqa: PLC0415 - in a child only

    for connection in _OPEN:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_never_close)


def connection_to(path: Path, url: str, *, mode: Mode, synchronous: Synchronous, timeout: float) -> Connection:
    """A connection with everything set that is set per connection.

    Raises:
        CannotOpen, DatabaseBusy: nothing was changed.
    """
    connection: Connection | None = None
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode={mode}", uri=True, timeout=timeout, isolation_level=None,
            check_same_thread=False, factory=Connection,
        )  # fmt: skip
        connection.compression = Compression()
        connection.known = -1, {}
        connection.run = connection.cursor().execute
        _OPEN.add(connection)
        connection.execute("PRAGMA trusted_schema = OFF")  # a function in a stranger's schema is not run
        connection.execute("PRAGMA cell_size_check = ON")  # a damaged page is noticed when read, not when followed
        connection.execute("PRAGMA recursive_triggers = ON")  # or INSERT OR REPLACE slips past the triggers
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        # A small WAL that is never truncated is up to twice as fast at FULL as a large one.
        connection.execute("PRAGMA wal_autocheckpoint = 500")
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise explained(error, url, timeout) from error
    return connection


def is_locked(error: Exception) -> bool:
    """Whether somebody else's lock is the reason."""
    return "locked" in str(error) or "busy" in str(error)


def explained(error: Exception, url: str, timeout: float) -> EventStoreError:
    """An error of opening, in our words."""
    if is_locked(error):
        return DatabaseBusy(url, timeout)
    remedy = {
        "file is not a database": "it is not a SQLite database; check the name, nothing was changed",
        "unable to open database file": "it cannot be opened; check the name and the permissions of its folder",
        "disk I/O error": "the disk failed (disk I/O error) and nothing was changed; mend it and try again",
        "database or disk is full": "the disk is full and nothing was changed; free some space and try again",
        "database disk image is malformed": "the file is damaged; restore a backup",
        "attempt to write a readonly database": "it may not be written; check permissions, or open it read-only",
    }.get(str(error), str(error))
    return CannotOpen(url, remedy)
