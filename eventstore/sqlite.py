"""The log in one SQLite file: the embedded default, safe for many threads and many processes.

One connection writes, behind a lock and always with BEGIN IMMEDIATE (a deferred transaction that reads and then writes
fails under a concurrent writer, whatever the busy timeout); a pool of others reads, each in a snapshot of its own. The
hot path is plain SQL; schema and migrations go through sqlite-utils, which is imported only when there is something to
migrate. No SQL about events stands outside this file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote

from attrs import frozen

from eventstore.errors import CannotOpen, DatabaseBusy, InvalidArgument, NewerDatabase, StoreClosed
from eventstore.log import PAGE_BYTES, Census, Entry, Head, genesis

if TYPE_CHECKING:
    import sqlite3

    import sqlite_utils
else:
    try:  # the same choice that sqlite-utils makes
        from pysqlite3 import dbapi2 as sqlite3
    except ImportError:
        import sqlite3

T = TypeVar("T")
Synchronous = Literal["FULL", "NORMAL"]

APPLICATION_ID = 0x52554E46
"""'RUNF': what `file` and other programs tell our databases by."""
SOUND_SQLITE = (3, 51, 3)
"""Older releases have a bug in resetting the WAL that can corrupt a database."""
SQLITE_VERSION: tuple[int, ...] = sqlite3.sqlite_version_info
DRIVER = "pysqlite3" if "pysqlite3" in sqlite3.__name__ else "sqlite3"

_COLUMNS = "position, stream, version, type, recorded_at, occurred_at, attempt, key, hash, meta, data"
_FACTS = ("journal_mode", "application_id", "user_version")
_POLL = 0.02
"""Seconds between two looks for what other processes wrote."""

SCHEMA = (
    """
-- The log. One row an entry; `position` is its place in the log, `version` its place in its stream, both from 1 and
-- dense. Times are microseconds since 1970, UTC. `hash` chains each entry to the one before. `data` is last, so that
-- scans skip overflow pages; TEXT in it is the payload's JSON itself.
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
    "-- The log's own identity: the chain begins with it.\nCREATE TABLE log(id TEXT NOT NULL) STRICT",
    "INSERT INTO log VALUES (lower(hex(randomblob(16))))",
)


def _apply_schema(database: sqlite_utils.Database) -> None:
    for statement in SCHEMA:
        database.conn.execute(statement)


_MIGRATIONS: tuple[Callable[[sqlite_utils.Database], None], ...] = (_apply_schema,)
"""Each brings the schema one number up; a released one never changes."""


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


class SQLiteTransaction:
    """One connection inside a transaction. Other rooms keep their tables beside ours through `execute`."""

    def __init__(self, connection: sqlite3.Connection, genesis_hash: bytes) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self._genesis = genesis_hash

    def head(self) -> Head:
        """See `log.Reading`."""
        row = self.execute("SELECT position, hash, recorded_at FROM events ORDER BY position DESC LIMIT 1").fetchone()
        return Head(0, self._genesis, 0) if row is None else Head(*row)

    def version(self, stream: str) -> int:
        """See `log.Reading`."""
        found: int | None = self.execute("SELECT max(version) FROM events WHERE stream = ?", (stream,)).fetchone()[0]
        return found or 0

    def read(self, stream: str, *, after: int, limit: int) -> Sequence[Entry]:
        """See `log.Reading`."""
        return _page(
            self.execute(
                f"SELECT {_COLUMNS} FROM events WHERE stream = ? AND version > ? ORDER BY version LIMIT ?",  # noqa: S608
                (stream, after, limit),
            )
        )

    def read_all(self, *, after: int, limit: int, types: Sequence[str] | None = None) -> Sequence[Entry]:
        """See `log.Reading`."""
        # The columns are this file's own; the types are bound, one mark each.
        only = "" if types is None else f"AND type IN ({', '.join('?' * len(types))})"
        return _page(
            self.execute(
                f"SELECT {_COLUMNS} FROM events WHERE position > ? {only} ORDER BY position LIMIT ?",  # noqa: S608
                (after, *(types or ()), limit),
            )
        )

    def keyed(self, stream: str, key: str) -> Entry | None:
        """See `log.Reading`."""
        row = self.execute(
            f"SELECT {_COLUMNS} FROM events WHERE stream = ? AND key = ?",  # noqa: S608
            (stream, key),
        ).fetchone()
        return None if row is None else Entry(*row)

    def hash_at(self, position: int) -> bytes | None:
        """See `log.Reading`."""
        if position == 0:
            return self._genesis
        row = self.execute("SELECT hash FROM events WHERE position = ?", (position,)).fetchone()
        return None if row is None else row[0]

    def census(self) -> Census:
        """See `log.Reading`."""
        # octet_length reads the row's header only; the cast before it reads every overflow page.
        size = "octet_length(data)" if SQLITE_VERSION >= (3, 43) else "length(CAST(data AS BLOB))"
        types = self.execute(
            f"SELECT type, count(*) AS n, sum({size}) FROM events GROUP BY type ORDER BY n DESC, type"  # noqa: S608
        ).fetchall()
        streams = self.execute("SELECT count(DISTINCT stream) FROM events").fetchone()[0]
        return Census(streams, tuple(types))

    def insert(self, entries: Sequence[Entry]) -> None:
        """See `log.Writing`."""
        self.executemany(
            f"INSERT INTO events({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            [
                (e.position, e.stream, e.version, e.type, e.recorded_at, e.occurred_at, e.attempt, e.key, e.hash,
                 e.meta, e.data)
                for e in entries
            ],
        )  # fmt: skip

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """See `log.Writing`."""
        self.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            self.execute("ROLLBACK TO part")
            raise
        finally:
            self.execute("RELEASE part")


class SQLiteLog:
    """A log in one SQLite file.

    Args:
        path: the database file; its folder must exist.
        create: make the file where there is none.
        read_only: never write, not even to migrate.
        synchronous: "FULL" syncs each commit; "NORMAL" may lose the last commits when the power goes, never their
            order and nothing in the middle.
        busy_timeout: seconds to wait for another process's lock.

    Raises:
        CannotOpen: no such folder or file, not a database, or another program's.
        NewerDatabase: written by a newer release.
        DatabaseBusy: locked for longer than `busy_timeout`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = True,
        read_only: bool = False,
        synchronous: Synchronous = "FULL",
        busy_timeout: float = 60.0,
    ) -> None:
        if synchronous not in ("FULL", "NORMAL"):
            raise InvalidArgument("synchronous", synchronous, "must be 'FULL' or 'NORMAL'")
        self.url = str(path)
        self.read_only = read_only
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._mode = "ro" if read_only else "rwc" if create else "rw"
        self._write = threading.Lock()
        self._writing_thread: int | None = None
        self._grown = threading.Condition()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        if not Path(path).parent.is_dir():
            raise CannotOpen(self.url, f"the folder {Path(path).parent} does not exist; make it first")
        if Path(path).is_dir():
            raise CannotOpen(self.url, "it is a folder; name the database file in it")
        if not create and not Path(path).exists():
            raise CannotOpen(self.url, "there is no such file; check the name, or make it with `runfold import`")
        self._connection = self._open()
        try:
            self._prepare()
            self.id: str = self._connection.execute("SELECT id FROM log").fetchone()[0]
        except BaseException:
            self._connection.close()
            raise
        self._genesis = genesis(self.id)

    # --- opening ------------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        uri = f"file:{quote(str(Path(self.url).absolute()))}?mode={self._mode}"
        try:
            connection = sqlite3.connect(
                uri, uri=True, timeout=self._busy_timeout, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA recursive_triggers = ON")  # or INSERT OR REPLACE slips past the triggers
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            # A small WAL that is never truncated is up to twice as fast at FULL as a large one.
            connection.execute("PRAGMA wal_autocheckpoint = 500")
        except sqlite3.Error as error:
            raise self._cannot_open(error) from error
        return connection

    def _cannot_open(self, error: Exception) -> Exception:
        text = str(error)
        if "locked" in text or "busy" in text:
            return DatabaseBusy(self.url, self._busy_timeout)
        remedy = {
            "file is not a database": "it is not a SQLite database; check the name, nothing was changed",
            "unable to open database file": "it cannot be opened; check the name and the permissions of its folder",
            "attempt to write a readonly database": "it may not be written; check permissions, or open it read-only",
        }.get(text, text)
        return CannotOpen(self.url, remedy)

    def _prepare(self) -> None:
        try:
            found = self._schema_version()
            if found > len(_MIGRATIONS):
                raise NewerDatabase(self.url, found, len(_MIGRATIONS))
            if not found and self._mode == "rw":
                raise CannotOpen(self.url, "it is empty; check the name, or make it with `runfold import`")
            if found < len(_MIGRATIONS) and self.read_only:
                raise CannotOpen(self.url, "its schema is older than this release; open it once for writing")
            if not self.read_only:
                self._switch_to_wal()
            if found < len(_MIGRATIONS):
                self._migrate()
        except sqlite3.Error as error:
            raise self._cannot_open(error) from error

    def _schema_version(self) -> int:
        """How many migrations the database has seen; refuses what is not ours."""
        execute = self._connection.execute
        version: int = execute("PRAGMA user_version").fetchone()[0]
        ours = execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        if not ours and (version or execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()):
            raise CannotOpen(self.url, "it is a SQLite database of another program; choose another name")
        return version

    def _switch_to_wal(self) -> None:
        # The switch ignores SQLite's busy handler, so eight processes that open one new file at once need this loop.
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
            else:
                return

    def _migrate(self) -> None:
        import sqlite_utils  # noqa: PLC0415 - a tenth of a second that an up-to-date database need not pay

        migrations = sqlite_utils.Migrations("runfold")
        for number, step in enumerate(_MIGRATIONS, start=1):
            migrations(name=f"{number:03d}{step.__name__}")(step)
        database = sqlite_utils.Database(self._connection, execute_plugins=False)
        # sqlite-utils' own transactions begin deferred; inside this one they become savepoints.
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            if self._schema_version() < len(_MIGRATIONS):  # another process may have been first
                migrations.apply(database)
                self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
            self._connection.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise

    # --- reading ------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[SQLiteTransaction]:
        """See `log.Log`."""
        if self._closed:
            raise StoreClosed
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._open()
        try:
            connection.execute("BEGIN")
            yield SQLiteTransaction(connection, self._genesis)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._idle.append(connection)
            self._release_if_closed()

    def wait(self, position: int, timeout: float) -> bool:
        """See `log.Log`: woken by this process's commits, and looking every 20 ms for those of others."""
        deadline = time.monotonic() + timeout
        while not self._closed:
            with self.reading() as view:
                if view.head().position > position:
                    return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with self._grown:
                self._grown.wait(min(left, _POLL))
        return False

    def facts(self) -> Facts:
        """What the database and its driver are."""
        with self.reading() as view:
            mode, application, schema = (view.execute(f"PRAGMA {name}").fetchone()[0] for name in _FACTS)
        files = (Path(f"{self.url}{suffix}") for suffix in ("", "-wal"))
        size = sum(file.stat().st_size for file in files if file.exists())
        return Facts(SQLITE_VERSION, DRIVER, mode, application, schema, len(_MIGRATIONS), size)

    # --- writing ------------------------------------------------------------------------------------------------

    def write(self, job: Callable[[SQLiteTransaction], T]) -> T:
        """See `log.Log`."""
        if self._writing_thread == threading.get_ident():
            raise RuntimeError("a write inside a write of one thread would wait for itself; append before or after it")
        if self.read_only:  # SQLite itself would say so at the first INSERT only
            raise CannotOpen(self.url, "it may not be written: it was opened read-only; connect without read_only")
        with self._write:
            if self._closed:
                raise StoreClosed
            self._writing_thread = threading.get_ident()
            try:
                result = self._transaction(job)
            finally:
                self._writing_thread = None
        with self._grown:
            self._grown.notify_all()
        return result

    def _transaction(self, job: Callable[[SQLiteTransaction], T]) -> T:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise DatabaseBusy(self.url, self._busy_timeout) from error
            raise self._cannot_open(error) from error
        try:
            result = job(SQLiteTransaction(connection, self._genesis))
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._rollback()
            error.add_note(f"while writing to {self.url}")
            raise
        except BaseException:
            self._rollback()
            raise
        return result

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    # --- closing ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """See `log.Log`."""
        with self._write:
            if self._closed:
                return
            self._closed = True
            self._close_idle()
            self._connection.close()
        with self._grown:
            self._grown.notify_all()

    def _release_if_closed(self) -> None:
        if self._closed:  # by another thread, while a reader was out
            self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().close()


def _page(cursor: Any) -> list[Entry]:
    page: list[Entry] = []
    size = 0
    for row in cursor:
        page.append(Entry(*row))
        size += len(row[-1])
        if size > PAGE_BYTES:
            break
    return page
