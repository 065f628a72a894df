"""The log in memory: the contract in its smallest form, and the fake that tests use.

The whole of it is one immutable `Root` of persistent maps. A reader holds a root, a writer makes new ones, a commit
puts the last one in place, a rollback forgets it. Other rooms keep their tables in `Root.tables`.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import evolve, field, frozen
from rpds import HashTrieMap

from eventstore.blobfiles import PUT_BACK, BlobFiles
from eventstore.commits import Deferred
from eventstore.errors import DamagedBlob, InvalidArgument, MissingBlob, StoreClosed, UnreadableEntry
from eventstore.files import MemoryFiles
from eventstore.integrity import genesis
from eventstore.log import (
    ENTRY_BYTES,
    Block,
    Census,
    Entry,
    Fold,
    Glance,
    Head,
    Loss,
    Member,
    Need,
    Segment,
    Span,
    Weight,
)
from eventstore.packing import BLOB_FROM
from eventstore.paging import bounded
from eventstore.segments import Archive, entry_of

if TYPE_CHECKING:
    from eventstore.files import Files
    from eventstore.watching import Watch

T = TypeVar("T")

_DAY = 86_400_000_000
"""Microseconds."""


@frozen
class Root:
    """Everything there is, at one moment."""

    head: Head
    entries: HashTrieMap[int, Entry] = field(factory=HashTrieMap)
    places: HashTrieMap[tuple[str, int], int] = field(factory=HashTrieMap)
    versions: HashTrieMap[str, int] = field(factory=HashTrieMap)
    keys: HashTrieMap[tuple[str, str], int] = field(factory=HashTrieMap)
    tables: HashTrieMap[str, Any] = field(factory=HashTrieMap)
    blobs: HashTrieMap[int, tuple[int, str]] = field(factory=HashTrieMap)
    """By position: the length and the digest of a payload that is a blob; its entry holds none."""
    segments: tuple[Segment, ...] = ()
    blocks: HashTrieMap[str, tuple[Block, ...]] = field(factory=HashTrieMap)
    """By day."""
    indexed: tuple[tuple[Block, ...], tuple[Span, ...]] = ((), ())
    """Those of a day that is not recorded yet."""
    spans: tuple[Span, ...] = ()
    types: HashTrieMap[str, tuple[int, frozenset[str] | None]] = field(factory=HashTrieMap)
    """Of each stream, the version up to which it is sealed, and the types up to there; None where they are many."""


class MemoryTransaction:
    """A root that is read and, in a write, replaced."""

    committed = False

    def __init__(
        self, root: Root, genesis_hash: bytes, archive: Archive, blobs: BlobFiles, before: object | None = None
    ) -> None:
        self.root = root
        self._archive = archive
        self._blobs = blobs
        self.deferred = Deferred()
        self._genesis = genesis_hash
        self.before = before or object()
        self.after = object()

    def head(self) -> Head:
        """See `log.Reading`."""
        return self.root.head

    def version(self, stream: str) -> int:
        """See `log.Reading`."""
        return self.root.versions.get(stream) or 0

    def read(self, stream: str, *, after: int, limit: int) -> Sequence[Entry]:
        """See `log.Reading`."""
        last = min(self.version(stream), after + limit)
        return bounded(self._entry(self.root.places[stream, version]) for version in range(after + 1, last + 1))

    def read_all(self, *, after: int, limit: int, types: Sequence[str] | None = None) -> Sequence[Entry]:
        """See `log.Reading`."""
        everything = map(self._entry, range(after + 1, self.root.head.position + 1))
        wanted = (entry for entry in everything if types is None or entry.type in types)
        return bounded(entry for _, entry in zip(range(limit), wanted, strict=False))

    def at(self, positions: Sequence[int]) -> Sequence[Entry]:
        """See `log.Reading`."""
        return bounded(
            self._entry(position) for position in sorted(set(positions)) if 0 < position <= self.root.head.position
        )

    def glance(self, *, after: int, limit: int, peek: Mapping[str, int], stream: str | None = None) -> Glance:
        """See `log.Reading`."""
        last = after + limit
        if stream is None:
            positions = [*range(after + 1, min(self.root.head.position, last) + 1)]
        else:
            versions = range(after + 1, min(self.version(stream), last) + 1)
            positions = [self.root.places[stream, version] for version in versions]
        entries = [self._entry(position) for position in positions]
        return Glance(
            positions,
            [entry.stream for entry in entries],
            [str(entry.version) for entry in entries],
            [entry.type for entry in entries],
            ["" if entry.attempt is None else str(entry.attempt) for entry in entries],
            ["" if entry.position in self.root.blobs else entry.data[: peek.get(entry.type, 0)] for entry in entries],
        )

    def keyed(self, stream: str, *keys: str) -> Entry | None:
        """See `log.Reading`."""
        found = [at for key in keys if (at := self.root.keys.get((stream, key))) is not None]
        return self._whole(self.root.entries[min(found)]) if found else None

    def hash_at(self, position: int) -> bytes | None:
        """See `log.Reading`."""
        if position == 0:
            return self._genesis
        ends = {segment.last: segment.after for segment in self.root.segments}
        if position in ends:
            return ends[position]
        return self._entry(position).hash if 0 < position <= self.root.head.position else None

    def census(self) -> Census:
        """See `log.Reading`."""
        entries: Counter[str] = Counter()
        payload: Counter[str] = Counter()
        taken: Counter[str] = Counter()
        for segment in self.root.segments:
            for kind, (number, size) in segment.types.items():
                entries[kind] += number
                payload[kind] += size
        for entry in self.root.entries.values():
            taken[entry.type] += len(entry.data.encode())
            if entry.position > self._sealed:
                length, _ = self.root.blobs.get(entry.position) or (0, "")
                entries[entry.type] += 1
                payload[entry.type] += length or len(entry.data.encode())
        names = sorted(entries, key=lambda name: (-entries[name], name))
        types = tuple((name, entries[name], payload[name], taken[name]) for name in names)
        return Census(len(self.root.versions), types)

    def needs(self, *, after: int = 0) -> Sequence[Need]:
        """See `log.Reading`."""
        found = ((self.root.entries[at], digest) for at, (_, digest) in self.root.blobs.items() if at > after)
        return sorted(Need(entry.position, entry.stream, entry.type, digest) for entry, digest in found)

    def _whole(self, entry: Entry) -> Entry:
        """The entry with its payload, which may stand in a blob."""
        if (blob := self.root.blobs.get(entry.position)) is None:
            return entry
        try:
            return entry._replace(data=self._blobs.read(blob[1]).decode())
        except (MissingBlob, DamagedBlob) as error:
            reason = f"it needs the blob {error.digest}, which {error.fact}"
            raise UnreadableEntry(entry.position, entry.stream, entry.type, reason, PUT_BACK) from error

    def weights(self, *, after: int, limit: int) -> Sequence[Weight]:
        """See `log.Reading`."""
        found: Counter[tuple[str, str, int]] = Counter()
        taken: Counter[tuple[str, str, int]] = Counter()
        for position in range(after + 1, min(self.root.head.position, after + limit) + 1):
            if (entry := self.root.entries.get(position)) is None:
                continue
            place = (entry.stream, entry.type, entry.recorded_at // _DAY)
            stream = 2 * len(entry.stream.encode())
            keyed = 0 if entry.key is None else stream // 2 + len(entry.key.encode())
            found[place] += 1
            taken[place] += ENTRY_BYTES + stream + keyed
            taken[place] += sum(len(text.encode()) for text in (entry.data, entry.type, entry.meta or ""))
        return [Weight(*place, entries, taken[place]) for place, entries in found.items()]

    # --- the archive --------------------------------------------------------------------------------------------

    def _entry(self, position: int) -> Entry:
        """The entry at a position, wherever it stands."""
        entry = self.root.entries.get(position)
        if entry is not None:
            return self._whole(entry)
        segments = self.root.segments
        segment = segments[bisect_right(segments, position, key=lambda segment: segment.first) - 1]
        blocks = self.root.blocks[segment.day]
        block = blocks[bisect_right(blocks, position, key=lambda block: block.first) - 1]
        return entry_of(self._archive.lines(segment, block)[position - block.first])

    @property
    def _sealed(self) -> int:
        return self.root.segments[-1].last if self.root.segments else 0

    def segments(self) -> Sequence[Segment]:
        """See `log.Reading`."""
        return self.root.segments

    def blocks(self, segment: Segment) -> Sequence[Block]:
        """See `log.Reading`."""
        return self.root.blocks[segment.day]

    def sealed_types(self, stream: str) -> tuple[int, frozenset[str]]:
        """See `log.Reading`."""
        version, types = self.root.types.get(stream) or (0, frozenset())
        return (0, frozenset()) if types is None else (version, types)

    def spans(self) -> Sequence[Span]:
        """See `log.Reading`."""
        return self.root.spans

    def cut_off(self) -> Sequence[Entry]:
        """See `log.Reading`. Here versions are kept apart."""
        return ()

    def standing(self, first: int, last: int) -> int:
        """See `log.Reading`."""
        return sum(position in self.root.entries for position in range(first, last + 1))

    def held(self, first: int, last: int) -> Sequence[int]:
        """See `log.Reading`."""
        return [position for position in range(first, last + 1) if position in self.root.entries]

    def free(self, positions: Sequence[int]) -> Sequence[int]:
        """See `log.Reading`. Here no payload is packed."""
        entries = (self.root.entries[position] for position in sorted(positions, reverse=True))
        return [entry.position for entry in entries if entry.version < self.version(entry.stream)]

    def releasable(self, *, after: int, until: int) -> Sequence[str]:
        """See `log.Reading`."""
        here = (self.root.entries.get(position) for position in range(after + 1, until + 1))
        return [*dict.fromkeys(entry.stream for entry in here if entry and entry.version < self.version(entry.stream))]

    def leaving(self, stream: str, *, after: int, until: int, spared: int, limit: int) -> Iterable[tuple[int, int]]:
        """See `log.Reading`."""
        versions = range(self.version(stream) - 1, spared, -1)
        here = (self.root.entries.get(self.root.places[stream, version]) for version in versions)
        found = ((it.position, len(it.data.encode())) for it in here if it and after < it.position <= until)
        return islice(found, limit)

    def index(self, blocks: Sequence[Block], spans: Sequence[Span]) -> None:
        """See `log.Writing`."""
        before = self.root.indexed if blocks and blocks[0].number else ((), ())
        self.root = evolve(self.root, indexed=((*before[0], *blocks), (*before[1], *spans)))

    def seal(self, segment: Segment) -> None:
        """See `log.Writing`."""
        blocks, spans = self.root.indexed
        types = self.root.types
        for span in spans:
            _, known = types.get(span.stream) or (0, frozenset[str]())
            known = None if known is None or span.types is None else known.union(span.types)
            types = types.insert(span.stream, (span.last, known))
        self.root = evolve(
            self.root,
            segments=(*self.root.segments, segment),
            blocks=self.root.blocks.insert(segment.day, blocks),
            types=types,
            spans=(*self.root.spans, *spans),
            indexed=((), ()),
        )

    def release(self, positions: Sequence[int]) -> None:
        """See `log.Writing`."""
        entries, keys, blobs = self.root.entries, self.root.keys, self.root.blobs
        for position in positions:
            entry = entries[position]
            assert position <= self._sealed, "what leaves stands in a segment"  # noqa: S101 - a pair assertion
            assert entry.version < self.version(entry.stream), "a stream's last entry stays"  # noqa: S101
            entries = entries.remove(position)
            keys = keys if entry.key is None else keys.remove((entry.stream, entry.key))
            blobs = blobs.discard(position)
        self.root = evolve(self.root, entries=entries, keys=keys, blobs=blobs)

    def put_back(self, entries: Sequence[Entry]) -> int:
        """See `log.Writing`."""
        put = 0
        for entry in entries:
            name = None if entry.key is None else (entry.stream, entry.key)
            if entry.position in self.root.entries or (name is not None and name in self.root.keys):
                continue
            keys = self.root.keys if name is None else self.root.keys.insert(name, entry.position)
            here = self.root.entries.insert(entry.position, entry)
            self.root = evolve(self.root, entries=here, keys=keys)
            put += 1
        return put

    def insert(self, entries: Sequence[Entry]) -> None:
        """See `log.Writing`."""
        root = self.root
        for given in entries:
            entry, blobs = given, root.blobs
            if len(given.data) >= BLOB_FROM:
                data = given.data.encode()
                blobs = blobs.insert(given.position, (len(data), self._blobs.write(data)))
                entry = given._replace(data="")
            assert entry.position == root.head.position + 1, "positions are dense"  # noqa: S101 - a pair assertion
            root = Root(
                head=Head(entry.position, entry.hash, entry.recorded_at),
                entries=root.entries.insert(entry.position, entry),
                places=root.places.insert((entry.stream, entry.version), entry.position),
                versions=root.versions.insert(entry.stream, entry.version),
                keys=root.keys if entry.key is None else root.keys.insert((entry.stream, entry.key), entry.position),
                tables=root.tables,
                blobs=blobs,
                segments=root.segments,
                blocks=root.blocks,
                indexed=root.indexed,
                spans=root.spans,
                types=root.types,
            )
        self.root = root

    def set_table(self, name: str, table: Any) -> None:
        """Put a table of another room in its place; None takes it away."""
        tables = self.root.tables.discard(name) if table is None else self.root.tables.insert(name, table)
        self.root = evolve(self.root, tables=tables)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """See `log.Writing`."""
        names, root, mark = (self.before, self.after), self.root, self.deferred.mark()
        self.before, self.after = self.after, object()
        try:
            yield
        except BaseException:
            (self.before, self.after), self.root = names, root
            self.deferred.back_to(mark)
            raise
        self.before = self.after
        self.deferred.kept()

    def defer(self, fold: Fold, before: Head, items: Sequence[Any]) -> None:
        """See `log.Writing`."""
        self.deferred.add(self, fold, before, items)


class MemorySnapshot(MemoryTransaction):
    """A root that is read."""

    committed = True

    def __init__(
        self, root: Root, genesis_hash: bytes, archive: Archive, blobs: BlobFiles, known: dict[Any, Any]
    ) -> None:
        super().__init__(root, genesis_hash, archive, blobs)
        self.known = known


class _Disk:
    """What the handles of one memory log share, as processes share a file."""

    def __init__(self, files: Files | None = None) -> None:
        self.id = os.urandom(16).hex()
        self.genesis = genesis(self.id)
        files = files or MemoryFiles()
        self.archive = Archive(files, Path("memory-archive"), self.id)
        self.blobs = BlobFiles(Path("memory-blobs"), files)
        self.root = Root(Head(0, self.genesis, 0))
        self.name = object()
        self.write = threading.Lock()
        self.writing_thread: int | None = None
        self.grown = threading.Condition()


class MemoryLog:
    """A handle on a log that lives as long as somebody holds one. `reopen` gives another, as a restart finds it."""

    url = "memory:"
    remarks: tuple[str, ...] = ()
    loss: Loss | None = None
    watch: Watch | None = None

    def __init__(self, disk: _Disk | None = None, *, files: Files | None = None) -> None:
        self._disk = disk or _Disk(files)
        self.id = self._disk.id
        self.blobs = self._disk.blobs
        self.archive = self._disk.archive
        self._closed = False
        self._known: tuple[Root, dict[Any, Any]] = self._disk.root, {}

    @contextmanager
    def reading(self) -> Iterator[MemorySnapshot]:
        """See `log.Log`."""
        if self._closed:
            raise StoreClosed
        root = self._disk.root
        of, known = self._known
        if of is not root:
            known = {}
            self._known = root, known
        yield MemorySnapshot(root, self._disk.genesis, self.archive, self.blobs, known)

    def write(self, job: Callable[[MemoryTransaction], T], *, shared: bool = False) -> T:  # noqa: ARG002 - nothing to share
        """See `log.Log`."""
        disk, watch = self._disk, self.watch
        self._refuse_inside()
        begun = 0.0 if watch is None else watch.clock()
        with disk.write:
            if self._closed:
                raise StoreClosed
            disk.writing_thread = threading.get_ident()
            transaction = MemoryTransaction(disk.root, disk.genesis, self.archive, self.blobs, disk.name)
            try:
                result = job(transaction)
                transaction.deferred.run(transaction)
            finally:
                disk.writing_thread = None
            with disk.grown:
                disk.root, disk.name = transaction.root, transaction.after
                disk.grown.notify_all()
            if watch is not None:
                watch.committed(transaction, 1, begun, None)
            return result

    def submit(self, members: Sequence[Member]) -> None:
        """See `log.Log`. There is no disk to wait for, so the outcomes are known at once."""
        self._refuse_inside()
        if self._closed:
            raise StoreClosed
        for member in members:
            try:
                member.result = self.write(member.job)
            except BaseException as error:  # noqa: BLE001 - the caller's to raise
                member.error = error
            if member.done is not None:
                member.done((member,))

    def _refuse_inside(self) -> None:
        if self._disk.writing_thread == threading.get_ident():
            raise RuntimeError("a write inside a write of one thread would wait for itself; append before or after it")

    def withdraw(self, _member: Member) -> bool:
        """See `log.Log`."""
        return False

    def wait(self, position: int, timeout: float) -> bool:
        """See `log.Log`."""
        disk = self._disk
        with disk.grown:
            disk.grown.wait_for(lambda: disk.root.head.position > position or self._closed, timeout)
            return disk.root.head.position > position

    def resolve(self, position: int, digest: bytes) -> bool:
        """See `log.Log`."""
        with self.reading() as view:
            return view.hash_at(position) == digest

    def examine(self) -> list[str]:
        """See `log.Log`."""
        return []

    cipher = None
    """See `log.Log`: memory is nobody's disk."""

    def rekey(self, key: bytes | str) -> bool:  # noqa: ARG002 - see below
        """See `log.Log`."""
        raise InvalidArgument("key", "…", "cannot be given to a log in memory, which is on no disk")

    def vacuum(self) -> int:
        """See `log.Log`."""
        return 0

    @property
    def closed(self) -> bool:
        """See `log.Log`."""
        return self._closed

    def close(self) -> None:
        """See `log.Log`."""
        with self._disk.grown:
            self._closed = True
            self._disk.grown.notify_all()

    def reopen(self) -> MemoryLog:
        """Another handle on the same log, whatever became of this one."""
        return MemoryLog(self._disk)
