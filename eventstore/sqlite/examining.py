"""What there is to say of a log's file beside its entries: what it and its driver are, whether it is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.sqlite.driver import explained, failures
from eventstore.sqlite.schema import MIGRATIONS, missing_parts

if TYPE_CHECKING:
    from pathlib import Path

    from eventstore.sqlite.driver import Connection, Driver
    from eventstore.sqlite.transaction import SQLiteTransaction


@frozen
class Facts:
    """What a database and its driver are, for a doctor to judge."""

    sqlite: tuple[int, ...]
    driver: str
    journal_mode: str
    application_id: int
    schema: int
    known_schema: int
    bytes: int
    """Of the database and its WAL."""
    wal: int
    """Of these, the WAL's."""
    free: int
    """Of these, in pages of the database that hold nothing, and will be filled first."""
    missing: tuple[str, ...]
    """Parts of the schema that somebody took out."""


def facts(view: SQLiteTransaction, path: Path, driver: Driver) -> Facts:
    """What the database and its driver are."""
    names = ("journal_mode", "application_id", "user_version", "page_size", "freelist_count")
    mode, application, schema, page, free = (view.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    missing = missing_parts(name for (name,) in view.execute("SELECT name FROM sqlite_schema"))
    size, wal = _sizes(path)
    sizes = (size + wal, wal, int(page) * free)  # SQLCipher gives the page size as a text
    return Facts(driver.version, driver.name, mode, application, schema, len(MIGRATIONS), *sizes, tuple(missing))


def examine(view: SQLiteTransaction) -> list[str]:
    """SQLite's own checks of the whole file; what they find, in SQLite's words."""
    found = [row[0] for row in view.execute("PRAGMA integrity_check(100)")]
    # Reading begins at position 1, so an entry put before it would be in its stream and in no walk of the log.
    hidden = view.execute("SELECT count(*) FROM events WHERE position < 1").fetchone()[0]
    missing = missing_parts(name for (name,) in view.execute("SELECT name FROM sqlite_schema"))
    forged = [f"{hidden} entries stand before position 1: somebody put them in"] if hidden else []
    return [*missing, *forged, *([] if found == ["ok"] else found)]


def vacuumed(connection: Connection, path: Path, url: str, timeout: float) -> int:
    """Have the database written anew without what is free in it; by how many bytes it is smaller.

    A WAL comes and goes: it does not count before, and whatever a reader keeps of it counts afterwards.

    Raises:
        CannotOpen, DatabaseBusy: nothing was changed.
    """
    try:
        size, count = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count"))
        before = int(size) * int(count)  # SQLCipher gives the page size as a text
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except failures() as error:
        raise explained(error, url, timeout) from error
    return before - sum(_sizes(path))


def _sizes(path: Path) -> tuple[int, int]:
    """Bytes of a database, and of its WAL."""
    files = (path.with_name(path.name + suffix) for suffix in ("", "-wal"))
    size, wal = (file.stat().st_size if file.exists() else 0 for file in files)
    return size, wal
