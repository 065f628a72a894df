"""The schema of a log in SQLite, how it is brought up to date, and how a stranger's is told.

Schema and migrations go through sqlite-utils, which is imported only when there is something to migrate: that costs a
tenth of a second, which an up-to-date database need not pay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from eventstore.errors import CannotOpen, NewerDatabase
from eventstore.sqlite.driver import explained, failures

if TYPE_CHECKING:
    import sqlite_utils

    from eventstore.sqlite.driver import sqlite3

APPLICATION_ID = 0x52554E46
"""'RUNF': what `file` and other programs tell our databases by."""

SCHEMA = (
    """
-- The log. One row an entry; `position` is its place in the log, `version` its place in its stream, both from 1 and
-- dense. Times are microseconds since 1970, UTC. `hash` chains each entry to the one before. `data` is last, so that
-- scans skip overflow pages; TEXT in it is the payload's JSON itself, a BLOB is a packed form of it.
CREATE TABLE events(
    position INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INTEGER NOT NULL, type TEXT NOT NULL,
    recorded_at INTEGER NOT NULL, occurred_at INTEGER, attempt INTEGER, key TEXT, hash BLOB NOT NULL, meta TEXT,
    data ANY NOT NULL
) STRICT
""",
    "CREATE UNIQUE INDEX events_by_stream ON events(stream, version)",
    "CREATE UNIQUE INDEX events_by_key ON events(stream, key) WHERE key IS NOT NULL",
    "CREATE TRIGGER events_stay BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
    "CREATE TRIGGER events_keep BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
    """
-- The log's own identity, with which the chain begins; and how often the outcome of a failed commit was settled, which
-- takes a commit that means nothing else.
CREATE TABLE log(id TEXT NOT NULL, settled INTEGER NOT NULL) STRICT
""",
    "INSERT INTO log VALUES (lower(hex(randomblob(16))), 0)",
)


ARCHIVE = (
    """
-- Sealed days: the entries from `first` to `last` stand in a file of the archive folder, and may have left `events`.
-- Segments follow one another from position 1 on. `before` and `after` are the chain's hashes at both ends, `digest`
-- the SHA-256 of the file's lines, `types` JSON: by type, entries and bytes of their payloads.
CREATE TABLE segments(
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, day TEXT NOT NULL UNIQUE, before BLOB NOT NULL,
    after BLOB NOT NULL, digest BLOB NOT NULL, file TEXT NOT NULL, size INTEGER NOT NULL, types TEXT NOT NULL
) STRICT
""",
    """
-- The parts of a segment's file that can be read by themselves. What lies behind the last segment was left by an
-- archive run that was killed, and means nothing.
CREATE TABLE segment_blocks(
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, number INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    size INTEGER NOT NULL, digest BLOB NOT NULL
) STRICT
""",
    """
-- Which versions of a stream stand in which block, and, where they are of no more than two types, of which.
CREATE TABLE segment_streams(
    stream TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, block INTEGER NOT NULL, types TEXT,
    PRIMARY KEY (stream, first)
) STRICT, WITHOUT ROWID
""",
    "DROP TRIGGER IF EXISTS events_stay",
    """
CREATE TRIGGER events_stay BEFORE DELETE ON events
WHEN NOT EXISTS (SELECT 1 FROM segments WHERE OLD.position BETWEEN first AND last)
    OR NOT EXISTS (SELECT 1 FROM events WHERE stream = OLD.stream AND version > OLD.version)
BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END
""",
)


def _apply_schema(database: sqlite_utils.Database) -> None:
    for statement in SCHEMA:
        database.conn.execute(statement)


def _apply_archive(database: sqlite_utils.Database) -> None:
    for statement in ARCHIVE:
        database.conn.execute(statement)


MIGRATIONS: tuple[Callable[[sqlite_utils.Database], None], ...] = (_apply_schema, _apply_archive)
"""Each brings the schema one number up; a released one never changes."""
_STATEMENTS = (SCHEMA, ARCHIVE)
"""By migration."""


def schema_version(connection: sqlite3.Connection, url: str) -> int:
    """How many migrations the database has seen.

    Raises:
        CannotOpen: it is another program's, or somebody put into it what runs when we write.
        NewerDatabase: it has seen migrations that this release does not know.
    """
    # In one snapshot: between two looks another process may make the schema, and its work would pass for a stranger's.
    if not connection.in_transaction:
        connection.execute("BEGIN")
        try:
            return schema_version(connection, url)
        finally:
            connection.execute("ROLLBACK")
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    ours = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    if not ours and (version or connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()):
        raise CannotOpen(url, "it is a SQLite database of another program; choose another name")
    if version > len(MIGRATIONS):
        raise NewerDatabase(url, version, len(MIGRATIONS))
    if ours and version < 1:  # both are set in the transaction that makes the schema
        reason = f"its schema number (user_version) says {version}, and no log has less than 1"
        raise CannotOpen(url, f"{reason}: somebody changed it; set it right, or restore a backup")
    if ours:
        _refuse_strange_parts(connection, url, version)
    return version


def identity_of(connection: sqlite3.Connection, url: str) -> str:
    """The id of the log that it holds.

    Raises:
        CannotOpen: somebody took it out.
    """
    try:
        row = connection.execute("SELECT id FROM log").fetchone()
    except failures() as error:
        raise explained(error, url, 0) from error
    if row is None:
        raise CannotOpen(url, "its log has lost its id; restore a backup")
    return str(row[0])


def _refuse_strange_parts(connection: sqlite3.Connection, url: str, version: int) -> None:
    """A database from elsewhere may hold triggers and views that act, or lie, when we write and read.

    An index over plain columns does neither, and may be an operator's; any other could refuse what we insert.
    """
    known = _parts(version)
    for kind, name, table, sql in connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema"):
        if name in known and _body(sql or "") != known[name]:
            raise CannotOpen(url, f"its {kind} {name} is not the one that runfold makes; restore a backup")
        if name not in known and kind in ("trigger", "view"):
            raise CannotOpen(url, f"it holds a {kind} {name} that runfold did not make; drop it if it is yours")
        if name not in known and sql and kind == "index" and table in _OURS and not is_plain_index(sql):
            reason = f"it holds an index {name} that runfold did not make and that could refuse what is appended"
            raise CannotOpen(url, f"{reason}; drop it, or make one over plain columns and not UNIQUE")


_OURS = ("events", "log", "segments", "segment_blocks", "segment_streams")
_NAME = r"""(?:"[^"]+"|`[^`]+`|\[[^]]+\]|\w+)"""
_COLUMN = rf"{_NAME}(?: ASC| DESC)?"
_PLAIN_INDEX = re.compile(rf"CREATE INDEX {_NAME} ON {_NAME} ?\( ?{_COLUMN}(?: ?, ?{_COLUMN})* ?\)", re.IGNORECASE)


def is_plain_index(sql: str) -> bool:
    """Whether an index is over columns alone. UNIQUE, an expression or a condition could refuse a row."""
    return _PLAIN_INDEX.fullmatch(_body(sql)) is not None


def missing_parts(names: Iterable[str]) -> list[str]:
    """What somebody took out of the schema: the log can be read without it, but is no longer what it promises."""
    standing = set(names)
    return [f"{name} is missing: somebody took it out" for name in _parts() if name not in standing]


@cache
def _parts(version: int = len(MIGRATIONS)) -> dict[str, str]:
    """By name, what the schema of this number is made of; what a later migration made anew is as that made it."""
    statements = chain.from_iterable(_STATEMENTS[:version])
    return {_name(statement): _body(statement) for statement in statements if _body(statement).startswith("CREATE ")}


@lru_cache(maxsize=100)  # opening asks for those of our own schema again and again
def _body(statement: str) -> str:
    lines = (line for line in statement.splitlines() if not line.startswith("--"))
    return " ".join(" ".join(lines).split())


def _name(statement: str) -> str:
    words = _body(statement).replace("(", " ").split()
    return next(word for word in words[1:] if word not in ("TABLE", "UNIQUE", "INDEX", "TRIGGER"))


def migrate(connection: sqlite3.Connection, url: str, identity: str | None = None) -> None:
    """Bring the schema up to date, in one transaction; another process may have been first.

    A log that begins here has this identity, or one of its own.
    """
    import sqlite_utils  # noqa: PLC0415 - see above

    migrations = sqlite_utils.Migrations("runfold")
    for number, step in enumerate(MIGRATIONS, start=1):
        migrations(name=f"{number:03d}{step.__name__}")(step)
    database = sqlite_utils.Database(connection, execute_plugins=False)
    # sqlite-utils' own transactions begin deferred; inside this one they become savepoints.
    connection.execute("BEGIN IMMEDIATE")
    try:
        if (found := schema_version(connection, url)) < len(MIGRATIONS):
            migrations.apply(database)
            if identity is not None and not found:
                connection.execute("UPDATE log SET id = ?", (identity,))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
