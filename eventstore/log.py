"""The contract of a backend: what a log must do, and no more.

A log keeps entries in one total order and changes only inside `write`, one caller at a time, all of it or nothing.
It knows neither events nor machines nor projections: `store` brings the first two, `projections` the third, each as
the job that `write` runs. `memory` is the contract in its smallest form; `testing.LogContract` is its suite.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, overload

from attrs import define, frozen

if TYPE_CHECKING:
    from eventstore.blobfiles import BlobFiles
    from eventstore.ciphers import Cipher
    from eventstore.watching import Watch

T = TypeVar("T")
Fold = Callable[[Any, "Head", Sequence[Any]], None]
"""`(transaction, head before the first item, items)`: what brings other rooms in step before a commit."""


class Entry(NamedTuple):
    """An event as it stands in the log, encoded. Times are microseconds since 1970, UTC."""

    # Not of attrs: one is made for each row that is read or written, in a third of the time.

    position: int
    stream: str
    version: int
    type: str
    recorded_at: int
    occurred_at: int | None
    attempt: int | None
    key: str | None
    hash: bytes
    meta: str | None
    data: str


@frozen
class Cursor:
    """How far a reader of the log has come: a position and the hash there; position 0 is "before the first"."""

    position: int
    hash: bytes


@frozen
class Head(Cursor):
    """The last entry's place, hash and time."""

    recorded_at: int


@frozen
class Loss:
    """Entries that were acknowledged, and that the log does not hold any more."""

    expected: int
    """The last position that was acknowledged, as far as is known."""
    expected_hash: str
    found: int
    """The last position that the log holds."""
    promised: bool
    """Whether it is the window that `synchronous=NORMAL` leaves open, and the power did go."""
    by: str | None = None
    """Who accepted it."""
    recorded: int | None = None
    """The position of the event that tells it, once that stands."""


@frozen
class Census:
    """What a log holds, counted."""

    streams: int
    types: tuple[tuple[str, int, int, int], ...]
    """Stored type, entries of it, bytes of their payloads and bytes that these take; the most frequent first."""


class Weight(NamedTuple):
    """What the entries of one stream, type and day in a stretch of the log take."""

    stream: str
    type: str
    day: int
    """Days since 1970, UTC, on which they were recorded."""
    entries: int
    bytes: int
    """About: what is stored of them, and what a row and its places in the indexes take."""


ENTRY_BYTES = 80
"""What an entry takes beside its texts: hash, places, times, and the storage's own; measured."""


@frozen
class Segment:
    """A day of the log, sealed into a file of the archive folder: the entries from `first` to `last`, all of them."""

    day: str
    """UTC, as 2026-11-20."""
    first: int
    last: int
    before: bytes
    """The chain's hash before the first entry."""
    after: bytes
    """That of the last one."""
    digest: bytes
    """SHA-256 of all lines, one an entry."""
    file: str
    """Its name in the folder."""
    size: int
    """Of the file, in bytes."""
    types: Mapping[str, tuple[int, int]]
    """By stored type: entries, and bytes of their payloads."""

    @property
    def entries(self) -> int:
        """How many there are."""
        return self.last - self.first + 1


@frozen
class Block:
    """A part of a segment's file that can be read by itself: the lines of these positions."""

    first: int
    last: int
    number: int
    """Its place in the file, from 0."""
    offset: int
    size: int
    """In the file, in bytes, where it stands perhaps compressed or encrypted."""
    digest: bytes
    """SHA-256 of its lines."""


@frozen
class Span:
    """The entries of one stream in one block: these versions of it, which follow one another."""

    stream: str
    first: int
    last: int
    block: int
    """The position that the block begins with."""
    types: tuple[str, ...] | None
    """The stored types of these entries; None where they are more than two."""


@define(eq=False)
class Member:
    """One caller's job in a commit, and what became of it."""

    job: Callable[[Any], Any]
    done: Callable[[Sequence[Member]], None] | None = None
    """Called once for all members of a commit that name it, from the thread that committed; None wakes who waits."""
    result: Any = None
    error: BaseException | None = None
    begun: bool = False
    """Whether it was taken out of the queue, to be run."""
    settled: bool = False
    """Whether the lock was let go."""
    lock: _thread.LockType | None = None
    """Let go when there is an outcome, for who waits. A bare lock: an Event costs ten times as much."""

    def outcome(self) -> Any:
        """What the job returned; raises what it raised, or what the commit did."""
        if self.error is not None:
            raise self.error
        return self.result


class Numerals(Sequence[str]):
    """Numbers that follow one another, as decimal text: each made when it is looked at, and of most none is."""

    __slots__ = ("_numbers",)

    def __init__(self, numbers: range) -> None:
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[str]:
        return map(str, self._numbers)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Numerals: ...
    def __getitem__(self, place: int | slice) -> str | Numerals:
        found = self._numbers[place]
        return Numerals(found) if isinstance(found, range) else str(found)


@frozen
class Glance:
    """A stretch of entries without their payloads: lists of one length, an item an entry, in order.

    Versions and attempts are decimal text, as a scan hands them over: to make numbers of them all would cost as much.
    """

    positions: Sequence[int] = ()
    streams: Sequence[str] = ()
    versions: Sequence[str] = ()
    types: Sequence[str] = ()
    attempts: Sequence[str] = ()
    """"" where an entry has none."""
    heads: Sequence[str] = ()
    """How a payload begins, where that was asked for and can be told without unpacking; else ""."""

    def without(self, positions: Container[int]) -> Glance:
        """The same but for these."""
        columns = (self.positions, self.streams, self.versions, self.types, self.attempts, self.heads)
        kept = [row for row in zip(*columns, strict=True) if row[0] not in positions]
        return Glance(*zip(*kept, strict=True))


@frozen(order=True)
class Need:
    """An entry whose payload is a blob."""

    position: int
    stream: str
    type: str
    digest: str
    """The SHA-256 that names the blob, in hex."""


class Reading(Protocol):
    """One consistent view of the log."""

    committed: bool
    """Whether all that is seen here was committed; what a write sees may be undone, and nothing of it is remembered."""

    def head(self) -> Head:
        """The last entry's place, hash and time."""

    def version(self, stream: str) -> int:
        """The version of the stream's last entry, 0 if it has none."""

    def read(self, stream: str, *, after: int, limit: int) -> Sequence[Entry]:
        """A page of the stream's entries after a version, ascending: at most `limit`, at least one if there is one."""

    def read_all(self, *, after: int, limit: int, types: Sequence[str] | None = None) -> Sequence[Entry]:
        """A page of the log after a position, ascending, of these stored types if given."""

    def at(self, positions: Sequence[int]) -> Sequence[Entry]:
        """The entries at these positions, ascending; at least one if there is one: what is missing, ask for again."""

    def glance(self, *, after: int, limit: int, peek: Mapping[str, int], stream: str | None = None) -> Glance:
        """Entries without payloads, at the price of a scan: for whoever judges very many.

        Args:
            after: a position; the entries of the `limit` positions that follow it. Of a stream, a version likewise.
            limit: how many positions or versions.
            peek: by stored type, how many characters of the payload are shown; none of other types.
            stream: only its entries.
        """

    def keyed(self, stream: str, *keys: str) -> Entry | None:
        """The entry that the log itself holds under this key in this stream; under several, the first of them."""

    def hash_at(self, position: int) -> bytes | None:
        """The hash of the entry at this position; that of position 0 follows from the log's id."""

    def needs(self, *, after: int = 0) -> Sequence[Need]:
        """The entries after a position whose payloads stand in blobs, in order; it costs a scan."""

    def census(self) -> Census:
        """Count everything; it costs a scan."""

    def weights(self, *, after: int, limit: int) -> Sequence[Weight]:
        """What the entries at the `limit` positions after one take, put together by stream, type and day."""

    # What follows is for the archive alone. Everything above sees segments and log as one.

    def segments(self) -> Sequence[Segment]:
        """The days that were sealed, the oldest first. They follow one another from position 1 on."""

    def blocks(self, segment: Segment) -> Sequence[Block]:
        """The parts of its file, in order."""

    def sealed_types(self, stream: str) -> tuple[int, frozenset[str]]:
        """The version up to which a stream is sealed, and the stored types up to there; 0 where they are too many.

        So a stream of notes, which may reach back over very many days, is opened without reading one of them.
        """

    def spans(self) -> Iterable[Span]:
        """Which versions of which streams stand where in the sealed days, by the log's tables, in no order."""

    def cut_off(self) -> Sequence[Entry]:
        """The last entries of streams of which the log itself holds none that late: they stand in segments alone.

        None, but in what a kill left of a copy. Versions and existence go by what the log holds.
        """

    def standing(self, first: int, last: int) -> int:
        """How many of the entries from one position to another the log itself holds; the others left for a segment."""

    def held(self, first: int, last: int) -> Sequence[int]:
        """The positions, from one to another, whose entries the log itself holds."""

    def free(self, positions: Sequence[int]) -> Sequence[int]:
        """Those of these entries that may leave the log all together, the last ones first.

        None that is its stream's last one, and none that a payload which stays is packed over, near or far.
        """

    def releasable(self, *, after: int, until: int) -> Sequence[str]:
        """The streams of which the log itself holds entries, beside their last one, between these positions."""

    def leaving(self, stream: str, *, after: int, until: int, spared: int, limit: int) -> Iterable[tuple[int, int]]:
        """Which entries of a stream may leave the log: position and its bytes, one by one, the last one first.

        Those between these positions and beyond the version `spared`, at most `limit`. Never the stream's last one, so
        that versions and existence never need the archive, and none that a staying one's payload is packed over: so
        whoever lets many go takes the last ones first.
        """


class Snapshot(Reading, Protocol):
    """A view of what was committed."""

    @property
    def known(self) -> dict[Any, Any]:
        """What readers found out about log and tables as they stand; empty again when anything was written since."""


class Writing(Reading, Protocol):
    """The one write transaction: it sees what it wrote; none else does until it is committed.

    Its two names let a writer keep what it knows (the head, a stream's version, where its tables stand) from one job to
    the next without looking again. They are the same object or not, and mean nothing else.
    """

    before: object
    """Names log and tables as this job, or this part of one, found them: the `after` of what was written last, as long
    as nobody else, in this process or another, wrote since."""
    after: object
    """Names log and tables as they will be left; where that fails, nothing is ever named so."""

    def insert(self, entries: Sequence[Entry]) -> None:
        """Add entries; the caller made their places dense and their hashes right."""

    def index(self, blocks: Sequence[Block], spans: Sequence[Span]) -> None:
        """Add where entries stand in a file that is to be recorded; without its segment this means nothing.

        What an earlier try left behind the last segment is taken away.
        """

    def seal(self, segment: Segment) -> None:
        """Record a day whose file was verified and indexed: from here on its entries may be released."""

    def release(self, positions: Sequence[int]) -> None:
        """Take entries out of the log that `leaving` named in this transaction, and that stand in a segment."""

    def put_back(self, entries: Sequence[Entry]) -> int:
        """Put entries of a segment back that the log itself lacks; how many.

        One whose key was used again since stays where it is: a key names one entry of those that the log holds.
        """

    def savepoint(self) -> AbstractContextManager[None]:
        """A part that may fail by itself: an exception that leaves it undoes this part only, and goes on upward.

        Inside it, `before` is what was `after`, and `after` is new; behind it both are the new one or, where it
        failed, what they were.
        """

    def defer(self, fold: Fold, before: Head, items: Sequence[Any]) -> None:
        """Have `fold(transaction, before, items)` called once before the commit, with what others deferred to it.

        What is deferred in a part that fails is forgotten with it. `before` is the head before the first item.
        """


class Log(Protocol):
    """A backend. Its handles may be used from any thread."""

    id: str
    """Random, made with the log; the chain begins with it."""
    archive: Any
    """The folder of its segments, a `segments.Archive`, which this contract does not know."""
    url: str
    loss: Loss | None
    """What was acknowledged and is gone, where opening went on all the same; the store records it as an event."""
    blobs: BlobFiles
    """Where large payloads stand, and whatever else its users keep there."""
    remarks: tuple[str, ...]
    """What an operator ought to know of the storage as it was opened, though it is no fault."""
    watch: Watch | None
    """Who is told of each commit, where somebody measures."""

    @property
    def cipher(self) -> Cipher | None:
        """What closes and opens the files that stand beside an encrypted log; None beside a plain one."""

    def rekey(self, key: bytes | str) -> bool:
        """Give an encrypted log another key; whether no page under the old one is left.

        Killed anywhere, the log opens with the old key or with the new one. One that is False has readers that still
        look at an older state: when they are done, the next checkpoint takes away what they look at.

        Raises:
            InvalidArgument: it can be no key, or this log is not encrypted.
            DatabaseBusy: another process holds the lock for too long.
            CannotOpen: the disk failed; the old key holds.
        """

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""

    def reading(self) -> AbstractContextManager[Snapshot]:
        """A consistent view for the time of the block; it never blocks a writer.

        Raises:
            StoreClosed: after `close`.
        """

    def write(self, job: Callable[[Writing], T], *, shared: bool = False) -> T:
        """Run the job in the one write transaction; durable when this returns, undone when the job raises.

        A `shared` job may stand in one transaction with those of concurrent callers: after theirs, perhaps in another
        thread, perhaps run twice, where a neighbour failed in the middle; so it does nothing but read and write here.
        All get their answers, refusals too, after the one commit.

        Raises:
            DatabaseBusy: another process holds the lock for too long.
            OutcomeUnknown: the storage failed in the very commit.
            ForkedStore: in a child of the process that opened it.
            StoreClosed: after `close`.
            RuntimeError: the job itself asked for a write, which would wait for itself.
        """

    def submit(self, members: Sequence[Member]) -> None:
        """Queue shared jobs up and return at once.

        Each member's `done` is called when there is an outcome, perhaps from another thread, once for all members of a
        commit that name it; each holds its own.

        Raises:
            ForkedStore, StoreClosed, RuntimeError: as for `write`.
        """

    def withdraw(self, member: Member) -> bool:
        """Take a job that was submitted back; False if it was begun: it has an outcome, or will have."""

    def wait(self, position: int, timeout: float) -> bool:
        """Return when the head passed `position` (True), or after `timeout` seconds or `close` (False)."""

    def resolve(self, position: int, digest: bytes) -> bool:
        """After an `OutcomeUnknown`: whether the transaction that ended in this entry stands. The answer is final."""

    def examine(self) -> list[str]:
        """The backend's own checks of its storage: what they find, in its words."""

    def vacuum(self) -> int:
        """Give the room that entries left back to the file system, in bytes; others wait meanwhile."""

    def close(self) -> None:
        """Release files and locks; the second time it does nothing."""
