"""One connection inside a transaction: all SQL about events, and none of it stands elsewhere."""

from __future__ import annotations

import json
import logging
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from heapq import merge
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Self

from eventstore.blobfiles import PUT_BACK
from eventstore.commits import Deferred
from eventstore.errors import MissingBlob, UnreadableEntry
from eventstore.limits import PAGE_BYTES
from eventstore.log import ENTRY_BYTES, Census, Entry, Fold, Glance, Head, Need, Numerals, Weight
from eventstore.packing import (
    LOOKBACK,
    PACKED_FROM,
    Bases,
    DamagedForm,
    pack,
    plain_length,
    reference_of,
    reference_to,
    unpack,
)
from eventstore.paging import bounded, filled, is_full
from eventstore.segments import glimpse_of
from eventstore.sqlite.archived import Segmented
from eventstore.sqlite.driver import failures, size_of, sqlite3

if TYPE_CHECKING:
    from eventstore.segments import Archive
    from eventstore.sqlite.driver import Connection

Ended = Callable[["Connection", "BaseException | None"], None]
_COLUMNS = "position, stream, version, type, recorded_at, occurred_at, attempt, key, hash, meta, data"
# Every LIMIT here is `+?`: where its library was built with STAT4, SQLite looks into a bare `LIMIT ?` when it plans,
# and so prepares the statement anew each time it is executed: 24 µs instead of 6 for a page that turns out empty.
_BETWEEN = "\x1f"
"""Stands in no name and in no JSON."""
_FULL = 2**63
_DAY = 86_400_000_000
"""Microseconds."""
_RESTORE = "restore a backup, or keep what comes before it with `runfold export --until POSITION`"
_LOG = logging.getLogger("runfold")
_DATES = range(-62_135_596_800_000_000, 253_402_300_800_000_000)
"""Microseconds since 1970 of the years 1 to 9999."""


@cache
def _insert(*absent: bool) -> tuple[str, Callable[[tuple[Any, ...]], tuple[Any, ...]]]:
    """INSERT of an entry of which of `occurred_at`, `attempt`, `key` and `meta` these are absent; what picks the rest.

    NULL stands in the statement's own words, and blobs are given as bytearrays: for each None and each bytes that is
    bound, pysqlite3 looks for somebody to adapt it, by way of three exceptions. That is 2 µs each, and was half of all
    that an INSERT took.
    """
    occurred_at, attempt, key, meta = ("NULL" if gone else "?" for gone in absent)
    sql = (
        f"INSERT INTO events({_COLUMNS}) "  # noqa: S608
        f"VALUES (?, ?, ?, ?, ?, {occurred_at}, {attempt}, {key}, ?, {meta}, ?)"
    )
    gone = (False, False, False, False, False, *absent[:3], False, absent[3], False)
    return sql, itemgetter(*(place for place, absence in enumerate(gone) if not absence))


class SQLiteTransaction(Segmented):
    """One connection inside a transaction. Other rooms keep their tables beside ours through `execute`."""

    committed = False
    last: Entry | None = None
    """The last entry that was inserted here."""

    def __init__(
        self,
        connection: Connection,
        genesis_hash: bytes,
        bases: Bases | None = None,
        before: object | None = None,
        archive: Archive | None = None,
    ) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.run = connection.run
        self.deferred = Deferred()
        self._connection = connection
        self._genesis = genesis_hash
        self._bases = bases
        self._archive = archive
        self.before = before or object()
        self.after = object()

    def head(self) -> Head:
        """See `log.Reading`."""
        row = self.run("SELECT position, hash, recorded_at FROM events ORDER BY position DESC LIMIT 1").fetchone()
        if row is None:
            return Head(0, self._genesis, 0)
        if row[2] not in _DATES:  # or whatever is appended would inherit it
            raise UnreadableEntry(row[0], "a stream", "an entry", "its time is no date")
        return Head(*row)

    def version(self, stream: str) -> int:
        """See `log.Reading`."""
        found: int | None = self.execute("SELECT max(version) FROM events WHERE stream = ?", (stream,)).fetchone()[0]
        return found or 0

    def read(self, stream: str, *, after: int, limit: int) -> Sequence[Entry]:
        """See `log.Reading`."""
        page = self._page(
            self.execute(
                f"SELECT {_COLUMNS} FROM events WHERE stream = ? AND version > ? ORDER BY version LIMIT +?",  # noqa: S608
                (stream, after, limit),
            )
        )
        if page and page[-1].version - after != len(page):  # some left for a segment; the last one never does
            left = partial(self.archived.entries_of, stream)
            return bounded(filled(page, after, lambda entry: entry.version, left), limit)
        return page

    def read_all(self, *, after: int, limit: int, types: Sequence[str] | None = None) -> Sequence[Entry]:
        """See `log.Reading`."""
        # The columns are this file's own; the types are bound, one mark each.
        only = "" if types is None else f"AND type IN ({', '.join('?' * len(types))})"
        page = self._page(
            self.execute(
                f"SELECT {_COLUMNS} FROM events WHERE position > ? {only} ORDER BY position LIMIT +?",  # noqa: S608
                (after, *(types or ()), limit),
            )
        )
        if types is None:
            if page and page[-1].position - after != len(page):
                return bounded(filled(page, after, lambda entry: entry.position, self.archived.entries), limit)
        elif limit and self.archived.sealed > after:
            last = page[-1].position if len(page) == limit or is_full(page) else self.archived.sealed
            left = self.archived.of_types(after + 1, last, types)
            return bounded(merge(page, left, key=lambda entry: entry.position), limit)
        return page

    def at(self, positions: Sequence[int]) -> Sequence[Entry]:
        """See `log.Reading`."""
        wanted = f"[{','.join(map(str, positions))}]"  # one statement for any number of them
        page = self._page(
            self.execute(
                f"SELECT {_COLUMNS} FROM events WHERE position IN (SELECT value FROM json_each(?)) ORDER BY position",  # noqa: S608
                (wanted,),
            )
        )
        if len(page) < len(positions) and self.archived.sealed:
            last = page[-1].position if is_full(page) else self.archived.sealed
            here = {entry.position for entry in page}
            left = (position for position in sorted(set(positions)) if position <= last and position not in here)
            return bounded(merge(page, self.archived.at(left), key=lambda entry: entry.position))
        return page

    def glance(self, *, after: int, limit: int, peek: Mapping[str, int], stream: str | None = None) -> Glance:
        """See `log.Reading`.

        SQLite joins each column into one text: handed over row by row they take twice the time, and other threads wait
        the while. Where a separator turns up in a text, somebody forged it, and where an entry is missing or the index
        that gives a stream's order, somebody took it out: then rows are handed over.
        """
        # The type is looked at first: of a row that is not shown, the payload's pages are not read.
        # A payload that is shown whole is not counted out by characters, which takes as long as reading it.
        begins = f"iif({size_of('data')} <= ?, data, substr(data, 1, ?))"
        shown = f"WHEN ? THEN iif(typeof(data) = 'text', {begins}, '') " * len(peek) + "ELSE ''"
        head = f"CASE type {shown} END" if peek else "''"
        # Without an index it walks along the rowid.
        place, known, of = "position", ["stream", "version"], "NOT INDEXED"
        where = "position > ? AND position <= ?"
        values: list[Any] = [*chain.from_iterable((kind, size, size) for kind, size in peek.items())]
        values += (after, after + limit)
        if stream is not None:
            place, known, of = "version", ["position"], "INDEXED BY events_by_stream"
            where = f"stream = ? AND {where.replace('position', place)}"
            values.insert(-2, stream)
        columns = ["type", "ifnull(attempt, '')", head]
        joined = ", ".join(f"group_concat({column}, '{_BETWEEN}')" for column in (*known, *columns))
        joined = f"SELECT count(*), min({place}), max({place}), {joined} FROM events {of} WHERE {where}"  # noqa: S608
        try:
            count, first, last, *texts = self.execute(joined, values).fetchone()
        except failures("OperationalError") as error:
            if "no such index" not in str(error):
                raise
        else:
            left = count < limit and self.archived.sealed and count < self._reach(after, limit, stream)
            if not (count or left):
                return Glance()
            others = [text.split(_BETWEEN) for text in texts] if count else []
            if not left and last - first == count - 1 and all(len(other) == count for other in others):
                dense = range(first, last + 1)
                if stream is None:
                    return Glance([*dense], *others)
                return Glance([*map(int, others[0])], [stream] * count, Numerals(dense), *others[1:])
        sql = f"SELECT position, stream, version, {', '.join(columns)} FROM events WHERE {where} ORDER BY {place}"  # noqa: S608
        rows = self.execute(sql, values).fetchall()
        if len(rows) < limit and self.archived.sealed:
            rows = self._glimpsed(rows, after, limit, peek, stream)
        if not rows:
            return Glance()
        numbers, *texts = zip(*rows, strict=True)
        return Glance(numbers, *([str(value) for value in column] for column in texts))

    def _reach(self, after: int, limit: int, stream: str | None) -> int:
        """How many entries a glance should show, of a log or stream without holes."""
        end = self.head().position if stream is None else self.version(stream)
        return min(after + limit, end) - after

    def _glimpsed(
        self, rows: Sequence[Any], after: int, limit: int, peek: Mapping[str, int], stream: str | None
    ) -> list[Any]:
        """The rows of a glance, and between them and behind them those of entries that left."""
        last = after + self._reach(after, limit, stream)
        if stream is None:
            lines, place = self.archived.lines, 0
        else:
            lines, place = partial(self.archived.lines_of, stream), 2

        def left(first: int, until: int) -> Iterator[Any]:
            return (glimpse_of(line, peek) for line in lines(first, until))

        return [*filled(rows, after, itemgetter(place), left, last=last)]

    def keyed(self, stream: str, *keys: str) -> Entry | None:
        """See `log.Reading`."""
        several = len(keys) > 1
        named, value = ("IN (SELECT value FROM json_each(?))", json.dumps(keys)) if several else ("= ?", keys[0])
        found = self.execute(
            f"SELECT {_COLUMNS} FROM events WHERE stream = ? AND key {named}",  # noqa: S608
            (stream, value),
        ).fetchall()  # no ORDER BY, or SQLite would walk along the stream instead of looking for keys
        return self._entry(min(found, key=itemgetter(2))) if found else None

    def hash_at(self, position: int) -> bytes | None:
        """See `log.Reading`."""
        if position == 0:
            return self._genesis
        row = self.execute("SELECT hash FROM events WHERE position = ?", (position,)).fetchone()
        if row is None and 0 < position <= self.archived.sealed:
            return self.archived.hash_at(position)
        return None if row is None else row[0]

    def census(self) -> Census:
        """See `log.Reading`."""
        counted: Counter[str] = Counter()
        payload: Counter[str] = Counter()
        taken: Counter[str] = Counter()
        for segment in self.archived.segments():
            for kind, (entries, size) in segment.types.items():
                counted[kind] += entries
                payload[kind] += size
        sealed = self.archived.sealed
        groups = self.execute(
            f"SELECT type, position > ? AS beyond, count(*), sum({size_of('data')}) FROM events GROUP BY type, beyond",  # noqa: S608
            (sealed,),
        )
        for kind, beyond, entries, size in groups:
            taken[kind] += size
            if beyond:
                counted[kind] += entries
                payload[kind] += size
        # The beginning of a packed form is enough, but SQLite reads all of it: it is small.
        packed = self.execute(
            f"SELECT type, substr(data, 1, 16), {size_of('data')} FROM events "  # noqa: S608
            "WHERE typeof(data) = 'blob' AND position > ?",
            (sealed,),
        )
        for kind, beginning, length in packed:
            with suppress(struct.error):
                payload[kind] += plain_length(beginning) - length
        streams = self.execute("SELECT count(DISTINCT stream) FROM events").fetchone()[0]
        names = sorted(counted, key=lambda kind: (-counted[kind], kind))
        return Census(streams, tuple((kind, counted[kind], payload[kind], taken[kind]) for kind in names))

    def needs(self, *, after: int = 0) -> Sequence[Need]:
        """See `log.Reading`."""
        # Type and length are in the row's header: of other payloads no page is read.
        rows = self.execute(
            "SELECT position, stream, type, data FROM events WHERE position > ? AND typeof(data) = 'blob' "
            "AND length(data) = ? ORDER BY position",
            (after, len(reference_to(bytes(32), 0))),
        )
        return [
            Need(position, stream, kind, digest.hex())
            for position, stream, kind, data in rows
            if (digest := reference_of(data)) is not None
        ]

    def weights(self, *, after: int, limit: int) -> Sequence[Weight]:
        """See `log.Reading`."""
        texts = f"{size_of('data')} + {size_of('type')} + 2 * {size_of('stream')} + ifnull({size_of('meta')}, 0)"
        keyed = f"ifnull({size_of('stream')} + {size_of('key')}, 0)"
        rows = self.execute(
            f"SELECT stream, type, recorded_at / {_DAY}, count(*), sum({texts} + {keyed} + {ENTRY_BYTES}) "  # noqa: S608
            "FROM events NOT INDEXED WHERE position > ? AND position <= ? GROUP BY 1, 2, 3",
            (after, after + limit),
        )
        return [Weight._make(row) for row in rows]

    def insert(self, entries: Sequence[Entry]) -> None:
        """See `log.Writing`."""
        if entries[-1].position >= _FULL:
            reason = "no place is left behind it, so somebody forged it"
            raise UnreadableEntry(entries[0].position - 1, "a stream", "an entry", reason)
        if not self._connection.in_transaction:  # what is written now would stand by itself, and nobody be told
            raise sqlite3.OperationalError("SQLite undid the transaction, because the disk failed; try again")
        self._write(entries, self.bases)
        self.last = entries[-1]  # not before they stand: the witness is told of it

    def _write(self, entries: Sequence[Entry], bases: Bases) -> None:
        alike: list[tuple[Any, ...]] = []  # rows that one statement writes
        statement = ""
        for entry in entries:
            _, _, _, _, _, occurred_at, attempt, key, digest, meta, data = entry
            wanted, present = _insert(occurred_at is None, attempt is None, key is None, meta is None)
            stored: str | bytes | bytearray = data
            if len(data) >= PACKED_FROM:
                if alike:  # it may have one of those before it as its base
                    self._insert(statement, alike)
                    alike = []
                stored = pack(entry, self, bases)
                if type(stored) is bytes:
                    stored = bytearray(stored)
            elif alike and wanted is not statement:
                self._insert(statement, alike)
                alike = []
            statement = wanted
            alike.append(present((*entry[:8], bytearray(digest), meta, stored)))
        self._insert(statement, alike)

    def _insert(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        if len(rows) == 1:
            self.run(statement, rows[0])
        else:  # half a microsecond less for each
            self.executemany(statement, rows)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """See `log.Writing`."""
        last, mark = self.last, self.deferred.mark()
        self.execute("SAVEPOINT part")
        names = self.before, self.after
        self.before, self.after = self.after, object()
        try:
            yield
        except BaseException:
            self.last = last
            self.before, self.after = names
            self.deferred.back_to(mark)
            if self._connection.in_transaction:  # else the disk failed, and SQLite has undone everything
                self.execute("ROLLBACK TO part")
                self.execute("RELEASE part")
            raise
        self.before = self.after
        self.deferred.kept()
        self.execute("RELEASE part")

    @property
    def open(self) -> bool:
        """Whether it still is a transaction: where a disk fails, SQLite may undo and end it by itself."""
        return bool(self._connection.in_transaction)

    def written(self) -> object:
        """Differs from what it was before when something was written or deferred."""
        return self._connection.total_changes, self.deferred.added

    def defer(self, fold: Fold, before: Head, items: Sequence[Any]) -> None:
        """See `log.Writing`."""
        self.deferred.add(self, fold, before, items)

    # --- the archive --------------------------------------------------------------------------------------------

    def put_back(self, entries: Sequence[Entry]) -> int:
        """See `log.Writing`."""
        absent = self.archived.absent(entries)
        # Bases of its own: the log's are those of the last payloads, over which the next ones are packed.
        self._write(absent, Bases(self._connection.compression))
        return len(absent)

    # --- payloads that are packed -------------------------------------------------------------------------------

    @property
    def bases(self) -> Bases:
        """What payloads were packed or unpacked last: the log's own where it writes, else this snapshot's."""
        if self._bases is None:
            self._bases = Bases(self._connection.compression)
        return self._bases

    def glimpsed(self, stream: str, version: int) -> tuple[bytes, Any] | None:
        """See `packing.Rows`."""
        found: tuple[bytes, Any] | None = self.execute(
            "SELECT hash, substr(data, 1, 64) FROM events WHERE stream = ? AND version = ?", (stream, version)
        ).fetchone()
        return found

    def stored(self, stream: str, version: int) -> tuple[bytes, Any] | None:
        """See `packing.Rows`."""
        found: tuple[bytes, Any] | None = self.execute(
            "SELECT hash, data FROM events WHERE stream = ? AND version = ?", (stream, version)
        ).fetchone()
        return found

    def last_packed(self, stream: str, kind: str, before: int) -> tuple[int, bytes, bytes] | None:
        """See `packing.Rows`."""
        found: tuple[int, bytes, bytes] | None = self.execute(
            "SELECT version, hash, data FROM events WHERE stream = ? AND version BETWEEN ? AND ? AND type = ? "
            "AND typeof(data) = 'blob' ORDER BY version DESC LIMIT 1",
            (stream, before - LOOKBACK, before - 1, kind),
        ).fetchone()
        return found

    def write_blob(self, data: bytes) -> bytes | None:
        """See `packing.Rows`. Where none can be written, the payload stands in the database as a smaller one does."""
        if self._connection.blobs is None:
            return None
        try:
            return bytes.fromhex(self._connection.blobs.write(data))
        except OSError as error:
            _LOG.warning("a payload of %d bytes is kept in the database, not in a blob: %s", len(data), error)
            return None

    def read_blob(self, digest: bytes) -> bytes:
        """See `packing.Rows`."""
        if self._connection.blobs is None:
            raise MissingBlob(digest.hex())
        return self._connection.blobs.read(digest.hex())

    def _entry(self, row: Any) -> Entry:
        """The entry of a row.

        Raises:
            UnreadableEntry: it holds what no program of ours writes, whoever did, or what is damaged.
        """
        entry = Entry._make(row)
        if entry.recorded_at not in _DATES or (entry.occurred_at is not None and entry.occurred_at not in _DATES):
            raise UnreadableEntry(entry.position, entry.stream, entry.type, "its time is no date")
        data: Any = row[-1]
        if type(data) is str:
            return entry
        if type(data) is not bytes:
            raise UnreadableEntry(entry.position, entry.stream, entry.type, "its payload is no JSON")
        try:
            return entry._replace(data=unpack(entry, data, self, self.bases))
        except DamagedForm as error:
            # It left since this snapshot was taken, and a collector took what nobody needs: its segment holds it whole.
            if error.blob and (whole := self.sealed_entry(entry.position)) is not None:
                return whole
            remedy = PUT_BACK if error.blob else _RESTORE
            raise UnreadableEntry(entry.position, entry.stream, entry.type, str(error), remedy) from error

    def _page(self, cursor: Any) -> list[Entry]:
        page: list[Entry] = []
        size = 0
        for row in cursor:  # as `bounded`, in place: a call less for each entry is a tenth of the time
            entry = self._entry(row)
            page.append(entry)
            size += len(entry.data)
            if size > PAGE_BYTES:
                break
        return page


class SQLiteSnapshot(SQLiteTransaction):
    """A connection that only reads, for the time of a block; `ended` is told of its end, and of what ended it."""

    # No generator with `contextmanager`: that takes 3 µs, and a look at one row 15.
    committed = True

    def __init__(self, connection: Connection, genesis_hash: bytes, archive: Archive, ended: Ended) -> None:
        super().__init__(connection, genesis_hash, archive=archive)
        self._ended = ended

    @property
    def known(self) -> dict[Any, Any]:
        """See `log.Snapshot`. The count takes 1 µs, and its connection never writes: so each commit moves it."""
        connection = self._connection
        count: int = self.run("PRAGMA data_version").fetchone()[0]
        if count != connection.known[0]:
            connection.known = count, {}
        return connection.known[1]

    def __enter__(self) -> Self:
        if not self._connection.in_transaction:
            self.run("BEGIN")
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._ended(self._connection, error)
