"""The log in memory: the contract in its smallest form, and the fake that tests use.

The whole of it is one immutable `Root` of persistent maps. A reader holds a root, a writer makes new ones, a commit
puts the last one in place, a rollback forgets it. Other rooms keep their tables in `Root.tables`.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import evolve, field, frozen
from rpds import HashTrieMap

from eventstore.blobfiles import BlobFiles
from eventstore.commits import Deferred
from eventstore.errors import DamagedBlob, InvalidArgument, MissingBlob, StoreClosed, UnreadableEntry
from eventstore.files import MemoryFiles
from eventstore.integrity import genesis
from eventstore.limits import PAGE_BYTES
from eventstore.log import ENTRY_BYTES, Census, Entry, Fold, Glance, Head, Loss, Member, Need, Weight
from eventstore.packing import BLOB_FROM

if TYPE_CHECKING:
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


class MemoryTransaction:
    """A root that is read and, in a write, replaced."""

    def __init__(self, root: Root, genesis_hash: bytes, blobs: BlobFiles, before: object | None = None) -> None:
        self.root = root
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
        places = (self.root.places[stream, version] for version in range(after + 1, last + 1))
        return _page(self._whole(self.root.entries[place]) for place in places)

    def read_all(self, *, after: int, limit: int, types: Sequence[str] | None = None) -> Sequence[Entry]:
        """See `log.Reading`."""
        everything = (self.root.entries[position] for position in range(after + 1, self.root.head.position + 1))
        wanted = (entry for entry in everything if types is None or entry.type in types)
        return _page(self._whole(entry) for entry, _ in zip(wanted, range(limit), strict=False))

    def at(self, positions: Sequence[int]) -> Sequence[Entry]:
        """See `log.Reading`."""
        found = (self.root.entries.get(position) for position in sorted(set(positions)))
        return _page(self._whole(entry) for entry in found if entry is not None)

    def glance(self, *, after: int, limit: int, peek: Mapping[str, int], stream: str | None = None) -> Glance:
        """See `log.Reading`."""
        last = after + limit
        if stream is None:
            positions = [*range(after + 1, min(self.root.head.position, last) + 1)]
        else:
            versions = range(after + 1, min(self.version(stream), last) + 1)
            positions = [self.root.places[stream, version] for version in versions]
        entries = [self.root.entries[position] for position in positions]
        return Glance(
            positions,
            [entry.stream for entry in entries],
            [str(entry.version) for entry in entries],
            [entry.type for entry in entries],
            ["" if entry.attempt is None else str(entry.attempt) for entry in entries],
            ["" if entry.position in self.root.blobs else entry.data[: peek.get(entry.type, 0)] for entry in entries],
        )

    def keyed(self, stream: str, key: str) -> Entry | None:
        """See `log.Reading`."""
        position = self.root.keys.get((stream, key))
        return None if position is None else self._whole(self.root.entries[position])

    def hash_at(self, position: int) -> bytes | None:
        """See `log.Reading`."""
        if position == 0:
            return self._genesis
        entry = self.root.entries.get(position)
        return entry.hash if entry else None

    def census(self) -> Census:
        """See `log.Reading`."""
        entries: Counter[str] = Counter()
        payload: Counter[str] = Counter()
        stored: Counter[str] = Counter()
        for entry in self.root.entries.values():
            entries[entry.type] += 1
            stored[entry.type] += len(entry.data.encode())
            length, _ = self.root.blobs.get(entry.position) or (0, "")
            payload[entry.type] += length or len(entry.data.encode())
        names = sorted(entries, key=lambda name: (-entries[name], name))
        types = tuple((name, entries[name], payload[name], stored[name]) for name in names)
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
            raise UnreadableEntry(
                entry.position, entry.stream, entry.type, str(error), "or restore a backup"
            ) from error

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

    def __init__(self, root: Root, genesis_hash: bytes, blobs: BlobFiles, known: dict[Any, Any]) -> None:
        super().__init__(root, genesis_hash, blobs)
        self.known = known


class _Disk:
    """What the handles of one memory log share, as processes share a file."""

    def __init__(self) -> None:
        self.id = os.urandom(16).hex()
        self.genesis = genesis(self.id)
        self.blobs = BlobFiles(Path("memory-blobs"), MemoryFiles())
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

    def __init__(self, disk: _Disk | None = None) -> None:
        self._disk = disk or _Disk()
        self.id = self._disk.id
        self.blobs = self._disk.blobs
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
        yield MemorySnapshot(root, self._disk.genesis, self.blobs, known)

    def write(self, job: Callable[[MemoryTransaction], T], *, shared: bool = False) -> T:  # noqa: ARG002 - nothing to share
        """See `log.Log`."""
        disk, watch = self._disk, self.watch
        self._refuse_inside()
        begun = 0.0 if watch is None else watch.clock()
        with disk.write:
            if self._closed:
                raise StoreClosed
            disk.writing_thread = threading.get_ident()
            transaction = MemoryTransaction(disk.root, disk.genesis, self.blobs, disk.name)
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


def _page(entries: Iterator[Entry] | Any) -> list[Entry]:
    page: list[Entry] = []
    size = 0
    for entry in entries:
        page.append(entry)
        size += len(entry.data)
        if size > PAGE_BYTES:
            break
    return page
