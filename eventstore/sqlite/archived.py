"""What a transaction knows of the days that were sealed, and the entries that left for them: all SQL about segments.

Reading hardly comes here while the log is dense: positions follow one another, and so do the versions of a stream; the
last entry of each stream, and so the last of all, never leaves. So a log without segments pays nothing to speak of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from eventstore.errors import DamagedSegment, SegmentMissing, UnreadableEntry
from eventstore.log import Block, Entry, Segment, Span
from eventstore.packing import back_of
from eventstore.segments import entry_of, glimpse_of, lines_of
from eventstore.sqlite.driver import failures, size_of

if TYPE_CHECKING:
    import sqlite3

    from eventstore.segments import Archive

_BEGINNING = 64
"""Bytes of a packed payload that tell what it is packed over."""
_SEGMENT = "day, first, last, before, after, digest, file, size, types"
_BLOCK = 'first, last, number, "offset", size, digest'


class Archived:
    """The segments as one transaction sees them.

    Args:
        execute: the transaction's.
        archive: the folder of the files; None where nothing is read but what the tables say.
    """

    def __init__(self, execute: Callable[..., Any], archive: Archive | None) -> None:
        self._execute = execute
        self._archive = archive
        self._sealed: int | None = None

    # --- what is recorded ---------------------------------------------------------------------------------------

    @property
    def sealed(self) -> int:
        """The last position that stands in a segment; 0 where none was ever recorded."""
        if self._sealed is None:
            try:
                self._sealed = self._execute("SELECT max(last) FROM segments").fetchone()[0] or 0
            except failures("OperationalError") as error:  # a schema that is still to be migrated
                if "no such table" not in str(error):
                    raise
                self._sealed = 0
        return self._sealed

    def segments(self) -> list[Segment]:
        """See `log.Reading`."""
        if not self.sealed:
            return []
        return [_segment(row) for row in self._execute(f"SELECT {_SEGMENT} FROM segments ORDER BY first")]  # noqa: S608

    def blocks(self, first: int, last: int) -> Iterator[tuple[Segment, Block]]:
        """The parts of files that hold these positions, in order."""
        last = min(last, self.sealed)
        while first <= last:
            segment = self._execute(
                f"SELECT {_SEGMENT} FROM segments WHERE first <= ? ORDER BY first DESC LIMIT 1", (first,)  # noqa: S608
            ).fetchone()  # fmt: skip
            found = _segment(segment)
            for row in self._blocks(first, min(last, found.last)):
                yield found, Block(*row)
            first = found.last + 1

    def _blocks(self, first: int, last: int) -> list[Any]:
        sql = (
            f"SELECT {_BLOCK} FROM segment_blocks WHERE first <= ? AND "  # noqa: S608
            "first >= (SELECT max(first) FROM segment_blocks WHERE first <= ?) ORDER BY first"
        )
        return self._execute(sql, (last, first)).fetchall()  # type: ignore[no-any-return]

    def types(self, stream: str) -> tuple[int, frozenset[str]]:
        """See `log.Reading.sealed_types`."""
        version, types = 0, set[str]()
        for _, last, _, named in self._spans(stream, 0, 2**63 - 1):
            if named is None:
                return 0, frozenset()
            types.update(json.loads(named))
            version = last
        return version, frozenset(types)

    def _spans(self, stream: str, first: int, last: int) -> Iterator[Any]:
        if not self.sealed:
            return iter(())
        sql = (
            "SELECT first, last, block, types FROM segment_streams WHERE stream = ? AND first <= ? AND last >= ? "
            "AND first >= ifnull((SELECT max(first) FROM segment_streams WHERE stream = ? AND first <= ?), 0) "
            "AND block <= ? ORDER BY first"
        )
        rows: Iterator[Any] = iter(self._execute(sql, (stream, last, first, stream, first, self.sealed)).fetchall())
        return rows

    # --- entries that left --------------------------------------------------------------------------------------

    def hash_at(self, position: int) -> bytes | None:
        """The hash of an entry that stands in a segment; that of a segment's last one without reading it."""
        ends = self._execute("SELECT after FROM segments WHERE last = ?", (position,)).fetchone()
        if ends is not None:
            return bytes(ends[0])
        found = next(self.entries(position, position), None)
        return None if found is None else found.hash

    def lines(self, first: int, last: int) -> Iterator[bytes]:
        """The lines of these positions, as far as they were sealed."""
        for segment, block in self.blocks(first, last):
            lines = self._files.lines(segment, block)
            yield from lines[max(first - block.first, 0) : last - block.first + 1]

    def lines_of(self, stream: str, first: int, last: int) -> Iterator[bytes]:
        """The lines of these versions of a stream, as far as they were sealed."""
        here = first
        for begins, ends, position, _ in self._spans(stream, first, last):
            for segment, block in self.blocks(position, position):
                lines = list(lines_of(stream, self._files.lines(segment, block)))
                if not begins <= here <= ends or len(lines) != ends - begins + 1:
                    raise self._astray(stream, here)
                yield from lines[here - begins : min(last, ends) - begins + 1]
                here = ends + 1
        if here <= last and self.sealed:
            raise self._astray(stream, here)

    def _astray(self, stream: str, version: int) -> UnreadableEntry:
        """A history with a hole in it would pass for a shorter one."""
        sql = "SELECT position, type FROM events WHERE stream = ? AND version > ? ORDER BY version LIMIT 1"
        behind = self._execute(sql, (stream, version)).fetchone() or (0, "an entry")
        reason = f"version {version} of its stream is neither in the log nor where its tables say that it was sealed"
        return UnreadableEntry(behind[0], stream, behind[1], f"{reason}: somebody altered them", "restore a backup")

    def entries(self, first: int, last: int) -> Iterator[Entry]:
        """The entries of these positions, as far as they were sealed."""
        return map(entry_of, self.lines(first, last))

    def entries_of(self, stream: str, first: int, last: int) -> Iterator[Entry]:
        """The entries of these versions of a stream, as far as they were sealed."""
        return map(entry_of, self.lines_of(stream, first, last))

    def at(self, positions: Iterable[int]) -> Iterator[Entry]:
        """The entries at these positions, ascending, as far as they were sealed; each block is looked for once."""
        first = last = 0
        lines: list[bytes] = []
        for position in positions:
            if position > last:
                for segment, block in self.blocks(position, position):
                    first, last, lines = block.first, block.last, self._files.lines(segment, block)
            if first <= position <= last:
                yield entry_of(lines[position - first])

    def of_types(self, first: int, last: int, types: Sequence[str]) -> Iterator[Entry]:
        """The entries of these types that left, of these positions."""
        wanted = set(types)
        for segment, block in self.blocks(first, last):
            if wanted.isdisjoint(segment.types):
                continue
            sql = "SELECT position FROM events WHERE position BETWEEN ? AND ?"
            here = {position for (position,) in self._execute(sql, (block.first, block.last))}
            if len(here) == block.last - block.first + 1:
                continue
            for position, line in enumerate(self._files.lines(segment, block), start=block.first):
                if first <= position <= last and position not in here and glimpse_of(line, {})[3] in wanted:
                    yield entry_of(line)

    @property
    def _files(self) -> Archive:
        assert self._archive is not None, "nothing but tables was to be read"  # noqa: S101 - a pair assertion
        return self._archive

    # --- releasing and putting back -----------------------------------------------------------------------------

    def releasable(self, after: int, until: int) -> list[str]:
        """See `log.Reading`."""
        sql = (
            "SELECT DISTINCT stream FROM events AS entry WHERE position > ? AND position <= ? "
            "AND EXISTS (SELECT 1 FROM events WHERE stream = entry.stream AND version > entry.version)"
        )
        return [stream for (stream,) in self._execute(sql, (after, until))]

    def leaving(self, stream: str, after: int, until: int, spared: int, limit: int) -> Iterable[tuple[int, int]]:
        """See `log.Reading`."""
        first = self._execute(
            "SELECT version FROM events WHERE stream = ? AND position <= ? AND version < "
            "(SELECT max(version) FROM events WHERE stream = ?) ORDER BY version DESC LIMIT 1",
            (stream, until, stream),
        ).fetchone()
        if first is None:
            return []
        needed = self._bases_of_those_after(stream, first[0])
        rows = self._execute(
            f"SELECT position, version, {size_of('data')} FROM events "  # noqa: S608
            "WHERE stream = ? AND version <= ? AND version > ? AND position > ? ORDER BY version DESC LIMIT +?",
            (stream, first[0], spared, after, limit + len(needed)),
        )
        return islice(((position, size) for position, version, size in rows if version not in needed), limit)

    def _bases_of_those_after(self, stream: str, version: int) -> set[int]:
        """The versions, up to this one, that payloads after it are packed over, near or far."""
        rows = self._execute(
            f"SELECT version, substr(data, 1, {_BEGINNING}) FROM events "  # noqa: S608
            "WHERE stream = ? AND version > ? AND typeof(data) = 'blob'",
            (stream, version),
        )
        # What comes later needs what was before it: so whoever takes the last ones first never takes a base too early.
        return self._bases_of(stream, rows, version)

    def _bases_of(self, stream: str, rows: Iterable[Any], until: int) -> set[int]:
        """The versions up to one that these payloads are packed over; those behind it are among them themselves."""
        needed: set[int] = set()
        wanted = [later - back for later, packed in rows if (back := back_of(packed))]
        while wanted:
            base = wanted.pop()
            if base in needed or not 0 < base <= until:
                continue
            needed.add(base)
            row = self._execute(
                f"SELECT substr(data, 1, {_BEGINNING}) FROM events "  # noqa: S608
                "WHERE stream = ? AND version = ? AND typeof(data) = 'blob'",
                (stream, base),
            ).fetchone()
            if row is not None and (back := back_of(row[0])):
                wanted.append(base - back)
        return needed

    def spans(self) -> Iterator[Span]:
        """See `log.Reading`."""
        rows = self._execute(
            "SELECT stream, first, last, block, types FROM segment_streams WHERE block <= ?", (self.sealed,)
        )
        for stream, first, last, block, types in rows:
            yield Span(stream, first, last, block, None if types is None else tuple(json.loads(types)))

    def cut_off(self) -> list[Entry]:
        """See `log.Reading`."""
        found = self._execute(
            "SELECT stream, max(last) AS latest FROM segment_streams AS span WHERE block <= ? GROUP BY stream "
            "HAVING latest > ifnull((SELECT max(version) FROM events WHERE stream = span.stream), 0)",
            (self.sealed,),
        ).fetchall()
        return [entry for stream, latest in found for entry in self.entries_of(stream, latest, latest)]

    def held(self, first: int, last: int) -> list[int]:
        """See `log.Reading`."""
        rows = self._execute("SELECT position FROM events WHERE position BETWEEN ? AND ?", (first, last))
        return [position for (position,) in rows]

    def free(self, positions: Sequence[int]) -> list[int]:
        """See `log.Reading`."""
        wanted = f"[{','.join(map(str, positions))}]"
        going: dict[str, dict[int, int]] = {}
        sql = "SELECT stream, version, position FROM events WHERE position IN (SELECT value FROM json_each(?))"
        for stream, version, position in self._execute(sql, (wanted,)):
            going.setdefault(stream, {})[version] = position
        free: list[int] = []
        for stream, versions in going.items():
            (last,) = self._execute("SELECT max(version) FROM events WHERE stream = ?", (stream,)).fetchone()
            versions.pop(last, None)
            packed = self._execute(
                f"SELECT version, substr(data, 1, {_BEGINNING}) FROM events "  # noqa: S608
                "WHERE stream = ? AND typeof(data) = 'blob'",
                (stream,),
            )
            needed = self._bases_of(stream, [row for row in packed if row[0] not in versions], last)
            free += [position for version, position in versions.items() if version not in needed]
        return sorted(free, reverse=True)

    def release(self, positions: Sequence[int]) -> None:
        """See `log.Writing`."""
        wanted = f"[{','.join(map(str, positions))}]"
        self._execute("DELETE FROM events WHERE position IN (SELECT value FROM json_each(?))", (wanted,))

    def absent(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those that the log itself lacks, and whose key nobody used again."""
        wanted = f"[{','.join(str(entry.position) for entry in entries)}]"
        sql = "SELECT position FROM events WHERE position IN (SELECT value FROM json_each(?))"
        here = {position for (position,) in self._execute(sql, (wanted,))}
        used = "SELECT 1 FROM events WHERE stream = ? AND key = ?"
        return [
            entry
            for entry in entries
            if entry.position not in here
            and (entry.key is None or self._execute(used, (entry.stream, entry.key)).fetchone() is None)
        ]

    def index(self, blocks: Sequence[Block], spans: Sequence[Span]) -> None:
        """See `log.Writing`."""
        if blocks and blocks[0].number == 0:
            behind = (self.sealed,)
            if self._execute("SELECT 1 FROM segment_blocks WHERE first > ? LIMIT 1", behind).fetchone():
                self._execute("DELETE FROM segment_streams WHERE block > ?", behind)
                self._execute("DELETE FROM segment_blocks WHERE first > ?", behind)
        for block in blocks:
            values = block.first, block.last, block.number, block.offset, block.size, bytearray(block.digest)
            self._execute(f"INSERT INTO segment_blocks({_BLOCK}) VALUES (?, ?, ?, ?, ?, ?)", values)  # noqa: S608
        for span in spans:
            types = None if span.types is None else json.dumps(span.types)
            named = span.stream, span.first, span.last, span.block, types
            self._execute("INSERT INTO segment_streams VALUES (?, ?, ?, ?, ?)", named)

    def seal(self, segment: Segment) -> None:
        """See `log.Writing`."""
        blobs = (bytearray(blob) for blob in (segment.before, segment.after, segment.digest))
        types = json.dumps(dict(segment.types))
        values = segment.day, segment.first, segment.last, *blobs, segment.file, segment.size, types
        self._execute(f"INSERT INTO segments({_SEGMENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608
        self._sealed = None


class Segmented:
    """The half of a transaction that is about segments."""

    execute: Callable[..., sqlite3.Cursor]
    _archive: Archive | None
    _archived: Archived | None = None

    @property
    def archived(self) -> Archived:
        """The segments, as this transaction sees them."""
        if self._archived is None:
            self._archived = Archived(self.execute, self._archive)
        return self._archived

    def segments(self) -> Sequence[Segment]:
        """See `log.Reading`."""
        return self.archived.segments()

    def blocks(self, segment: Segment) -> Sequence[Block]:
        """See `log.Reading`."""
        return [block for _, block in self.archived.blocks(segment.first, segment.last)]

    def sealed_types(self, stream: str) -> tuple[int, frozenset[str]]:
        """See `log.Reading`."""
        return self.archived.types(stream)

    def spans(self) -> Iterator[Span]:
        """See `log.Reading`."""
        return self.archived.spans()

    def cut_off(self) -> Sequence[Entry]:
        """See `log.Reading`."""
        return self.archived.cut_off()

    def sealed_entry(self, position: int) -> Entry | None:
        """An entry as it was sealed; None if it was not, or its file cannot be read."""
        if self._archive is None or position > self.archived.sealed:
            return None
        try:
            return next(self.archived.entries(position, position), None)
        except (SegmentMissing, DamagedSegment):
            return None

    def standing(self, first: int, last: int) -> int:
        """See `log.Reading`."""
        sql = "SELECT count(*) FROM events WHERE position BETWEEN ? AND ?"
        found: int = self.execute(sql, (first, last)).fetchone()[0]
        return found

    def held(self, first: int, last: int) -> Sequence[int]:
        """See `log.Reading`."""
        return self.archived.held(first, last)

    def free(self, positions: Sequence[int]) -> Sequence[int]:
        """See `log.Reading`."""
        return self.archived.free(positions)

    def releasable(self, *, after: int, until: int) -> Sequence[str]:
        """See `log.Reading`."""
        return self.archived.releasable(after, until)

    def leaving(self, stream: str, *, after: int, until: int, spared: int, limit: int) -> Iterable[tuple[int, int]]:
        """See `log.Reading`."""
        return self.archived.leaving(stream, after, until, spared, limit)

    def index(self, blocks: Sequence[Block], spans: Sequence[Span]) -> None:
        """See `log.Writing`."""
        self.archived.index(blocks, spans)

    def seal(self, segment: Segment) -> None:
        """See `log.Writing`."""
        self.archived.seal(segment)

    def release(self, positions: Sequence[int]) -> None:
        """See `log.Writing`."""
        self.archived.release(positions)


def _segment(row: Sequence[Any]) -> Segment:
    day, first, last, before, after, digest, file, size, types = row
    counted = {name: (entries, payload) for name, (entries, payload) in json.loads(types).items()}
    return Segment(day, first, last, bytes(before), bytes(after), bytes(digest), file, size, counted)
