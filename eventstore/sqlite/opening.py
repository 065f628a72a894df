"""What belongs to opening a log's file and is no state of a log: finding it, WAL mode, keeping a lost tail's WAL."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from eventstore.errors import CannotOpen
from eventstore.sqlite import unlocking
from eventstore.sqlite.driver import explained, failures, is_locked
from eventstore.sqlite.schema import MIGRATIONS, migrate, schema_version

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eventstore.files import Files
    from eventstore.sqlite.driver import Connection


def find(path: Path, url: str, files: Files, *, create: bool, read_only: bool) -> None:
    """See that there is a file, or make an empty one.

    Raises:
        CannotOpen: there is none and none is to be made, or something else stands there; nothing was changed.
    """
    folder = path.parent
    if not folder.is_dir():
        raise CannotOpen(url, f"the folder {folder} does not exist; {'make it first' if create else 'check the name'}")
    if path.is_dir():
        raise CannotOpen(url, "it is a folder; name the database file in it")
    if path.exists():
        if not (create or read_only or path.stat().st_size):
            raise CannotOpen(url, "it is empty; check the name, or make it with `runfold import`")
        return
    if not create:
        raise CannotOpen(url, "there is no such file; check the name, or make it with `runfold import`")
    try:
        made = files.make(path)
    except OSError as error:
        reason = f"it cannot be made ({error.strerror}); check the folder's permissions"
        raise CannotOpen(url, reason) from error
    if not made and not path.exists():  # else another process was first
        raise CannotOpen(url, "it is a symlink that leads to no file; take it away, or name the file itself")


def prepare(
    connection: Connection, url: str, timeout: float, *, read_only: bool, identity: str | None, data_key: bytes | None
) -> bool:
    """See that a database has the schema of this release; whether it was found at rest, without a WAL.

    Raises:
        CannotOpen, NewerDatabase, DatabaseBusy: nothing was changed.
    """
    try:
        found = schema_version(connection, url)
        if found < len(MIGRATIONS) and read_only:
            raise CannotOpen(url, "its schema is older than this release; open it once for writing")
        rests = not read_only and switch_to_wal(connection, timeout) and bool(found)
        if found < len(MIGRATIONS):
            migrate(connection, url, identity)
        if not read_only:
            unlocking.make_data_key(connection, data_key)
    except failures() as error:
        raise explained(error, url, timeout) from error
    return rests


def switch_to_wal(connection: Connection, timeout: float) -> bool:
    """Switch a database to WAL mode, and tell whether it was not.

    The switch ignores SQLite's busy handler, so eight processes that open one new file at once need this loop.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            (found,) = connection.execute("PRAGMA journal_mode").fetchone()
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except failures("OperationalError") as error:
            if not is_locked(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return bool(found != "wal")


def roll_back(path: Path, connect: Callable[[], Connection]) -> bool:
    """Finish what a kill or power cut came into while the file was switched to WAL mode, or from it; if there is such.

    Only then is there a rollback journal, with nothing of the log in it. SQLite takes back what it tells of for whoever
    may write, and refuses to read the file to all others. Where nobody may write, that refusal is the caller's.
    """
    if not path.with_name(f"{path.name}-journal").exists():
        return False
    with suppress(CannotOpen):
        connect().close()
    return True


def keep_wal(path: Path, files: Files, position: int) -> str | None:
    """Copy the WAL aside as it is, and tell where: whoever tries to bring a lost tail back needs the damaged bytes."""
    with suppress(OSError):
        if data := files.read(path.with_name(path.name + "-wal")):
            aside = path.with_name(f"{path.name}-wal.lost-{position}")
            if files.read(aside) is None:
                files.put(aside, data)
            return str(aside)
    return None
