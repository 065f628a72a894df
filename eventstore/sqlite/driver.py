"""The driver: which SQLite this is, how a connection is opened, and what its errors mean in our words.

There may be two in one process: the one that everybody has, and SQLCipher for databases with a key (`unlocking`). Their
interface is one, but each has classes of its own; so an `Access` says how a connection is opened, and what is caught is
what `failures` names.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from urllib.parse import quote

from attrs import field, frozen

from eventstore.errors import CannotOpen, DatabaseBusy, EventStoreError, WrongKey
from eventstore.packing import Compression

if TYPE_CHECKING:
    import sqlite3 as sqlite3  # noqa: PLC0414 - handed on

    from eventstore.blobfiles import BlobFiles
else:
    try:  # the same choice that sqlite-utils makes
        from pysqlite3 import dbapi2 as sqlite3
    except ImportError:
        import sqlite3

Synchronous = Literal["FULL", "NORMAL"]
Mode = Literal["ro", "rw"]

SOUND_SQLITE = (3, 51, 3)
"""Older releases have a bug in resetting the WAL that can corrupt a database."""
NO_DATABASE = (
    "it is not a SQLite database, or it is encrypted; check its name, or open it with its key; nothing was changed"
)
CHANGED = "it was given another one meanwhile; open it again with that"
SQLITE_VERSION: tuple[int, ...] = sqlite3.sqlite_version_info
DRIVER = "pysqlite3" if "pysqlite3" in sqlite3.__name__ else "sqlite3"


SQLCIPHER = "sqlcipher3.dbapi2"
"""The module of the driver for databases with a key. Whoever has none never imports it."""


def closing(base: Any) -> Callable[[Any], None]:
    """How a connection of this class is closed so that it goes.

    It and the cursor behind its `run` hold each other, and no garbage collector sees it: each was left behind for good,
    10 KiB of it.
    """

    def close(connection: Any) -> None:
        base.close(connection)
        connection.run = _closed

    return close


def _closed(*_: object) -> NoReturn:
    raise sqlite3.ProgrammingError("Cannot operate on a closed database.")


class Connection(sqlite3.Connection):
    """A connection that is known until it is gone (see `_never_close`), and what its payloads are unpacked with."""

    __slots__ = ("__weakref__", "access", "blobs", "compression", "file", "known", "path", "run")
    access: Access
    blobs: BlobFiles | None
    """Where large payloads stand, if they may leave the database."""
    file: tuple[int, int]
    """The device and inode of its file."""
    path: Path
    compression: Compression
    known: tuple[int, dict[Any, Any]]
    """SQLite's count of what others wrote, and what was found out since it is at that."""
    run: Callable[..., sqlite3.Cursor]
    """As `execute`, by one cursor that is kept: the rows of a statement are read before the next one is run.

    A cursor for each statement costs 0.7 µs, and a lone append runs half a dozen."""
    close = closing(sqlite3.Connection)


@frozen
class Driver:
    """One SQLite library, as Python sees it."""

    name: str
    version: tuple[int, ...]
    connect: Callable[..., Any]
    connection: type[Connection]


PLAIN = Driver(DRIVER, SQLITE_VERSION, sqlite3.connect, Connection)


@frozen(eq=False)
class Access:
    """How connections to one database are opened."""

    driver: Driver = PLAIN
    unlock: tuple[str, ...] = field(default=(), repr=False)
    """What each connection is told first. The key is in it, so it is never shown."""


_UNLOCKED = Access()


def failures(kind: str = "Error") -> tuple[type[Exception], ...]:
    """The errors of that name of every driver that is loaded.

    To be called in an `except` itself: it costs nothing there until something is raised.
    """
    modules = (sqlite3, sys.modules.get(SQLCIPHER))
    return tuple(getattr(module, kind) for module in modules if module is not None)


_OPEN: weakref.WeakSet[Connection] = weakref.WeakSet()
_OPENING = threading.Lock()
_USED: set[str] = set()
"""Names of the drivers that opened anything in this process."""


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


def connection_to(
    path: Path, url: str, *, mode: Mode, synchronous: Synchronous, timeout: float, access: Access = _UNLOCKED
) -> Connection:
    """A connection with everything set that is set per connection.

    Raises:
        CannotOpen, DatabaseBusy, WrongKey: nothing was changed.
    """
    connection: Connection | None = None
    try:
        connection = opened(path, url, mode=mode, timeout=timeout, access=access)
        connection.compression, connection.blobs = Compression(), None
        connection.known = -1, {}
        connection.run = connection.cursor().execute
        connection.execute("PRAGMA trusted_schema = OFF")  # a function in a stranger's schema is not run
        connection.execute("PRAGMA cell_size_check = ON")  # a damaged page is noticed when read, not when followed
        connection.execute("PRAGMA recursive_triggers = ON")  # or INSERT OR REPLACE slips past the triggers
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        # A small WAL that is never truncated is up to twice as fast at FULL as a large one.
        connection.execute("PRAGMA wal_autocheckpoint = 500")
    except failures() as error:
        if connection is not None:
            connection.close()
        refuse(error, url, timeout, keyed=access.driver is not PLAIN)
        raise explained(error, url, timeout) from error
    return connection


def opened(
    path: Path, url: str, *, mode: Mode, timeout: float, access: Access = _UNLOCKED, options: str = ""
) -> Connection:
    """A connection that knows its key, and no more than that.

    Args:
        path: the database file.
        url: its name, for errors.
        mode: "ro" or "rw".
        timeout: seconds to wait for a lock.
        access: by which driver and with which key.
        options: further parameters of SQLite's URI, each with its `&`.

    Raises:
        CannotOpen: another driver has it open in this process.
        Exception: the driver's (`failures`).
    """
    with _OPENING:  # or another thread opens it by the other driver between the look and the act
        file = _file_of(path)
        _USED.add(access.driver.name)
        for other in tuple(_OPEN) if len(_USED) > 1 else ():
            # Two SQLite libraries do not know of each other: one that closes the file drops the locks of the other.
            if other.file == file and other.access.driver is not access.driver and _is_open(other):
                how = "with a key" if access.driver is PLAIN else "without a key"
                raise CannotOpen(url, f"it is open in this process {how}; close that one, or open this one alike")
        connection: Connection = access.driver.connect(
            f"file:{quote(str(path))}?mode={mode}{options}", uri=True, timeout=timeout, isolation_level=None,
            check_same_thread=False, factory=access.driver.connection,
        )  # fmt: skip
        connection.access = access
        connection.file = file
        connection.path = path
        _OPEN.add(connection)
    try:
        for statement in access.unlock:
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def _file_of(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - for each reader
    except OSError:
        return (0, 0)  # SQLite says what is wrong
    return found.st_dev, found.st_ino


def open_databases() -> set[Path]:
    """The databases that this process has open, by whatever driver."""
    with _OPENING:
        connections = tuple(_OPEN)
    return {connection.path for connection in connections if _is_open(connection)}


def _is_open(connection: Connection) -> bool:
    try:
        connection.total_changes  # noqa: B018 - of a closed one it raises
    except failures("ProgrammingError"):
        return False
    return True


def is_locked(error: Exception) -> bool:
    """Whether somebody else's lock is the reason."""
    return "locked" in str(error) or "busy" in str(error)


def not_ours(error: Exception) -> bool:
    """Whether it is said of a page that it does not open: another key's, or no database's."""
    return str(error) == "file is not a database"


def refuse(error: Exception, url: str, timeout: float, *, keyed: bool) -> None:
    """Say in our words why a transaction could not begin, where we have some.

    Raises:
        DatabaseBusy, WrongKey, CannotOpen: and what the driver said is its cause.
    """
    if keyed and not_ours(error):
        raise WrongKey(url, CHANGED) from error
    if isinstance(error, failures("OperationalError")):
        raise explained(error, url, timeout) from error


def explained(error: Exception, url: str, timeout: float) -> EventStoreError:
    """An error of opening, in our words."""
    if is_locked(error):
        return DatabaseBusy(url, timeout)
    remedy = {
        "file is not a database": NO_DATABASE,
        "unable to open database file": "it cannot be opened; check the name and the permissions of its folder",
        "disk I/O error": "the disk failed (disk I/O error) and nothing was changed; mend it and try again",
        "database or disk is full": "the disk is full and nothing was changed; free some space and try again",
        "database disk image is malformed": "the file is damaged; restore a backup",
        "attempt to write a readonly database": "it may not be written; check permissions, or open it read-only",
    }.get(str(error), str(error))
    return CannotOpen(url, remedy)


def size_of(column: str) -> str:
    """An expression for the bytes that a value takes."""
    # octet_length reads the row's header only; the cast before it reads every overflow page.
    return f"octet_length({column})" if SQLITE_VERSION >= (3, 43) else f"length(CAST({column} AS BLOB))"
