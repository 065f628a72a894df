"""What there is to say of a log's file beside its entries: what it and its driver are, and whether it is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore.sqlite.schema import MIGRATIONS, Facts, missing_parts

if TYPE_CHECKING:
    from pathlib import Path

    from eventstore.sqlite.driver import Driver
    from eventstore.sqlite.transaction import SQLiteTransaction


def facts(view: SQLiteTransaction, path: Path, driver: Driver) -> Facts:
    """What the database and its driver are."""
    names = ("journal_mode", "application_id", "user_version", "page_size", "freelist_count")
    mode, application, schema, page, free = (view.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    missing = missing_parts(name for (name,) in view.execute("SELECT name FROM sqlite_schema"))
    files = (path.with_name(path.name + suffix) for suffix in ("", "-wal"))
    size, wal = (file.stat().st_size if file.exists() else 0 for file in files)
    sizes = (size + wal, wal, page * free)
    return Facts(driver.version, driver.name, mode, application, schema, len(MIGRATIONS), *sizes, tuple(missing))


def examine(view: SQLiteTransaction) -> list[str]:
    """SQLite's own checks of the whole file; what they find, in SQLite's words."""
    found = [row[0] for row in view.execute("PRAGMA integrity_check(100)")]
    # Reading begins at position 1, so an entry put before it would be in its stream and in no walk of the log.
    hidden = view.execute("SELECT count(*) FROM events WHERE position < 1").fetchone()[0]
    missing = missing_parts(name for (name,) in view.execute("SELECT name FROM sqlite_schema"))
    forged = [f"{hidden} entries stand before position 1: somebody put them in"] if hidden else []
    return [*missing, *forged, *([] if found == ["ok"] else found)]
