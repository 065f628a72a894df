"""A log that speaks in events: the gate in front of every write, and the reading of what was written.

`Stream.append` is the one door. Inside the log's write transaction it checks, in this order, payload, key, fence,
version, machine, and only then inserts; so each caller is judged on the results of all before it, and a conflict is
no refusal but simply a state that is a little newer. Everything here is a shell: what may happen is said by the
machine, how events are spelled by the codec, what is durable by the backend.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import attrs
from attrs import frozen

from eventstore.codec import MAX_INTEGER, Codec, Json, Recorded, Upcaster, canonical, encode_json, to_microseconds
from eventstore.errors import (
    CursorConflict,
    ForeignEvent,
    InvalidArgument,
    KeyReused,
    StoreClosed,
    UnreadableEntry,
    VersionConflict,
)
from eventstore.integrity import chain
from eventstore.log import Cursor, Entry, Head, Log, Reading, Writing
from eventstore.machine import Machine
from eventstore.notes import FREE, NOTES

if TYPE_CHECKING:
    import threading
S = TypeVar("S", bound=Any)
T = TypeVar("T")

MAX_BATCH = 10_000
"""Events in one append."""
MAX_NAME = 200
"""Characters in the name of a stream, or in a key."""
_PAGE = 500


class Inline(Protocol):
    """What is kept in step with the log, in the transaction that writes it."""

    def __call__(self, transaction: Writing, before: Head, recorded: Sequence[Recorded]) -> None:
        """Take in what was appended after the head `before`."""


def microseconds_now() -> int:
    """The system's clock, in microseconds since 1970."""
    return time.time_ns() // 1000


@frozen
class Draft:
    """An event that passed the payload check and has no place yet."""

    kind: type
    type: str
    data: str
    key: str | None
    attempt: int | None
    occurred_at: int | None
    meta: str | None


@frozen
class Folded(Generic[S]):
    """A stream as far as it was folded: its machine (None until an event fixes it), version and state."""

    machine: Machine[S] | None
    version: int
    state: S


class EventStore:
    """A log that knows machines.

    Args:
        log: the backend.
        machines: whose events may be written here. `LogRecorded` and `MetaSet` are always known.
        upcasters: how older stored shapes are read.
        clock: microseconds since 1970; the log never goes back, even where this does.
        inline: called in each write transaction with what was appended.

    Raises:
        ValueError: an event class belongs to two machines, or two classes share a name.
    """

    def __init__(
        self,
        log: Log,
        machines: Sequence[Machine[Any]],
        *,
        upcasters: Iterable[Upcaster] = (),
        clock: Callable[[], int] = microseconds_now,
        inline: Inline | None = None,
    ) -> None:
        self.log = log
        self.machines = {machine.name: machine for machine in (*machines, NOTES)}
        self._owner = _owners(tuple(self.machines.values()))
        self.codec = Codec((*self._owner, *FREE), upcasters)
        self.inline = inline
        self._clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release files and locks; the second time it does nothing."""
        self.log.close()

    # --- writing ------------------------------------------------------------------------------------------------

    def stream(self, name: str, machine: Machine[S] | None = None) -> Stream[S]:
        """A handle on one stream; it need not exist yet. Without a machine, the stream's first event tells it.

        Raises:
            InvalidArgument: a name that cannot be.
        """
        return Stream(self, check_name("stream", name), machine)

    def append(self, stream: str, *events: object, **options: Any) -> tuple[Recorded, ...]:
        """Append to a stream without keeping a handle; arguments and errors are those of `Stream.append`."""
        return self.stream(stream).append(*events, **options)

    def draft(
        self,
        events: Sequence[object],
        *,
        attempt: int | None = None,
        key: str | None = None,
        meta: Json = None,
        occurred_at: datetime | None = None,
    ) -> list[Draft]:
        """The events, encoded; all that can be refused without looking at the log is refused here.

        The first event bears the key, the n-th of a batch a key made of it: so a retry is told from another batch.

        Raises:
            UnknownEvent, InvalidPayload, InvalidArgument: nothing was written.
        """
        if len(events) > MAX_BATCH:
            raise InvalidArgument("events", len(events), f"at most {MAX_BATCH} go into one append; split them")
        if key is not None:
            check_name("key", key, slashes=True)
        if attempt is not None and (type(attempt) is not int or not 0 <= attempt <= MAX_INTEGER):
            raise InvalidArgument("attempt", attempt, "must be the number of an attempt: 1, 2, 3 …")
        encoded_meta = None if meta is None else encode_json("meta", meta)
        occurred = None if occurred_at is None else _microseconds("occurred_at", occurred_at)
        return [
            Draft(
                type(event),
                type(event).__name__,
                self.codec.encode(event),
                key if key is None or number == 1 else _batch_key(key, number),
                attempt,
                occurred,
                encoded_meta,
            )
            for number, event in enumerate(events, start=1)
        ]

    def write(self, job: Callable[[Writing], T]) -> T:
        """Run a job in the one write transaction; durable when this returns, undone when it raises."""
        return self.log.write(job)

    def place(
        self,
        transaction: Writing,
        view: Folded[S],
        stream: str,
        drafts: Sequence[Draft],
        *,
        expected_version: int | None = None,
        held: int | None = None,
    ) -> tuple[Folded[S], tuple[Recorded, ...]]:
        """Pass the drafts through fence, version and machine, and insert them. The view must be at the head."""
        before = head = transaction.head()
        recorded_at = self.now(head)
        placed: list[Recorded] = []
        for draft in drafts:
            view, recorded = self.judged(
                view, stream, draft, head, recorded_at=recorded_at, held=held,
                expected_version=None if placed else expected_version,
            )  # fmt: skip
            placed.append(recorded)
            held = held if recorded.attempt is None else recorded.attempt
            head = Head(recorded.position, recorded.entry.hash, recorded_at)
        if expected_version is not None and not placed and view.version != expected_version:
            raise VersionConflict(stream, expected_version, view.version)
        self.insert(transaction, before, placed)
        return view, tuple(placed)

    def now(self, head: Head) -> int:
        """The time that an append after this head is recorded at: it never goes backwards."""
        return max(self._clock(), head.recorded_at)

    def judged(
        self,
        view: Folded[S],
        stream: str,
        draft: Draft,
        head: Head,
        *,
        recorded_at: int,
        held: int | None = None,
        expected_version: int | None = None,
    ) -> tuple[Folded[S], Recorded]:
        """Pass one draft through fence, version and machine, into the place after `head`; nothing is inserted yet."""
        view = self.fixed(view, draft.kind)
        machine, state = view.machine, view.state
        attempt = draft.attempt
        if machine is not None and machine.fence is not None and draft.kind in machine.events:
            attempt = machine.fence(state, stream, draft.kind, attempt, held)
        if expected_version is not None and view.version != expected_version:
            raise VersionConflict(stream, expected_version, view.version)
        entry = Entry(
            head.position + 1, stream, view.version + 1, draft.type, recorded_at, draft.occurred_at, attempt,
            draft.key, b"", draft.meta, draft.data,
        )  # fmt: skip
        recorded = Recorded(attrs.evolve(entry, hash=chain(head.hash, entry)), draft.kind, self.codec)
        return self.gate(view, recorded), recorded

    def insert(self, transaction: Writing, before: Head, placed: Sequence[Recorded]) -> None:
        """Write what was judged, of one stream or several, and bring along what is kept in step with the log."""
        if placed:
            transaction.insert([recorded.entry for recorded in placed])
            if self.inline is not None:
                self.inline(transaction, before, placed)

    def standing(self, reading: Reading, stream: str, drafts: Sequence[Draft]) -> tuple[Recorded, ...] | None:
        """The entries that bear the drafts' key already; None if there is none.

        Raises:
            KeyReused: they stand with other content, or were a longer or shorter batch.
        """
        key = drafts[0].key if drafts else None
        if key is None or (first := reading.keyed(stream, key)) is None:
            return None
        entries = list(reading.read(stream, after=first.version - 1, limit=len(drafts) + 1))
        longer = entries[len(drafts) :]
        same = len(entries) >= len(drafts) and all(
            entry.key == draft.key and entry.type == draft.type and same_json(entry.data, draft.data)
            for entry, draft in zip(entries, drafts, strict=False)
        )
        if not same or (longer and longer[0].key == _batch_key(key, len(drafts) + 1)):
            raise KeyReused(stream, key, first.version)
        return tuple(self.codec.recorded(entry) for entry in entries[: len(drafts)])

    # --- folding a stream ---------------------------------------------------------------------------------------

    def start(self, machine: Machine[S] | None) -> Folded[S]:
        """The view of a stream before its first event."""
        if machine is not None and self.machines.get(machine.name) is not machine:
            raise InvalidArgument("machine", machine.name, "this store does not know it; name it when connecting")
        initial: Any = (machine or NOTES).initial
        return Folded(machine, 0, initial)

    def fold(self, reading: Reading, stream: str, view: Folded[S]) -> Folded[S]:
        """The view after everything that stands in the log by now."""
        while entries := reading.read(stream, after=view.version, limit=_PAGE):
            for entry in entries:
                recorded = self.codec.recorded(entry)
                view = self.gate(view, recorded)
        return view

    def gate(self, view: Folded[S], recorded: Recorded) -> Folded[S]:
        """Judge one event by the stream's machine. Free events count only where the machine names them and began."""
        kind = recorded.kind
        if kind is None:
            entry = recorded.entry
            raise UnreadableEntry(entry.position, entry.stream, entry.type, "no class of that name is known here")
        view = self.fixed(view, kind)
        machine, state = view.machine, view.state
        if machine is None or (kind in FREE and (kind not in machine.events or state.phase == machine.initial.phase)):
            return Folded(machine, recorded.version, state)
        if kind not in machine.events:
            raise ForeignEvent(recorded.stream, recorded.type, machine.name, self._owner[kind].name)
        return Folded(machine, recorded.version, machine.judge(state, recorded))

    def fixed(self, view: Folded[S], kind: type) -> Folded[S]:
        """A stream's first event that belongs to a machine fixes it."""
        if view.machine is None and (owner := self._owner.get(kind)) is not None:
            return Folded(owner, view.version, owner.initial)
        return view

    # --- reading ------------------------------------------------------------------------------------------------

    def reading(self) -> AbstractContextManager[Reading]:
        """One consistent view of the log for the time of the block."""
        return self.log.reading()

    def head(self) -> Cursor:
        """The cursor of the last entry."""
        with self.log.reading() as view:
            head = view.head()
            return Cursor(head.position, head.hash)

    def read(self, stream: str, *, after: int = 0, limit: int | None = None) -> Iterator[Recorded]:
        """The events of one stream after a version, in order; all of them unless limited.

        Raises:
            InvalidArgument: a negative limit or version, or a name that cannot be.
        """
        check_name("stream", stream)
        _check_range(after, limit)

        def page(view: Reading, cursor: int, size: int) -> Sequence[Entry]:
            return view.read(stream, after=cursor, limit=size)

        return self._paged(page, lambda entry: entry.version, after, limit)

    def read_all(
        self, *, after: int | Cursor = 0, types: Iterable[type | str] | None = None, limit: int | None = None
    ) -> Iterator[Recorded]:
        """The events of the whole log after a position or cursor, in order; all of them unless limited.

        Args:
            after: a position, or a cursor, which also proves that the log is still the one it was taken from.
            types: event classes or names; older stored names of a class are found with it.
            limit: at most so many.

        Raises:
            InvalidArgument: a negative limit or position, or an unknown type.
            CursorConflict: the log was rolled back or replaced.
        """
        names = None if types is None else self.stored_names(types)
        start = self._position(after)
        _check_range(start, limit)

        def page(view: Reading, cursor: int, size: int) -> Sequence[Entry]:
            return view.read_all(after=cursor, limit=size, types=names)

        return self._paged(page, lambda entry: entry.position, start, limit)

    def follow(
        self,
        *,
        after: int | Cursor = 0,
        types: Iterable[type | str] | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Recorded]:
        """The events of the log as they come, from this process and others; first those that stand already.

        It ends when `stop` is set or the store is closed, within a tenth of a second.

        Raises:
            InvalidArgument, CursorConflict: as for `read_all`.
            StoreClosed: the store was closed before the first look.
        """
        names = None if types is None else self.stored_names(types)
        position = self._position(after)
        _check_range(position, None)
        self.head()  # a store that is closed already says so
        while not (stop is not None and stop.is_set()):
            try:
                with self.log.reading() as view:
                    head = view.head().position
                    entries = view.read_all(after=position, limit=_PAGE, types=names)
                if not entries:
                    # Where nothing of these types stands up to the head, the next look begins there.
                    position = max(position, head)
                    self.log.wait(position, 0.1)
            except StoreClosed:
                return
            for entry in entries:
                yield self.codec.recorded(entry)
                position = entry.position

    @property
    def closed(self) -> bool:
        """Whether the store was closed."""
        return self.log.closed

    def stored_names(self, types: Iterable[type | str]) -> tuple[str, ...]:
        """Every stored name that is read as one of these classes or names."""
        kinds = []
        for given in types:
            kind = self.codec.kind(given) if isinstance(given, str) else given
            if kind is None or kind.__name__ not in self.codec.names:
                name = given if isinstance(given, str) else given.__name__
                raise InvalidArgument("types", name, "is no event type that this store knows")
            kinds.append(kind)
        return self.codec.stored_names(kinds)

    def _position(self, after: int | Cursor) -> int:
        if not isinstance(after, Cursor):
            return after
        with self.log.reading() as view:
            if view.hash_at(after.position) != after.hash:
                raise CursorConflict(after.position)
        return after.position

    def _paged(
        self,
        page: Callable[[Reading, int, int], Sequence[Entry]],
        place: Callable[[Entry], int],
        cursor: int,
        limit: int | None,
    ) -> Iterator[Recorded]:
        left = limit
        while left is None or left > 0:
            with self.log.reading() as view:
                entries = page(view, cursor, _PAGE if left is None else min(left, _PAGE))
            if not entries:
                return
            yield from map(self.codec.recorded, entries)
            cursor = place(entries[-1])
            left = None if left is None else left - len(entries)


class Stream(Generic[S]):
    """One stream: its state as last seen, and the door to its end. May be used from any thread."""

    def __init__(self, store: EventStore, name: str, machine: Machine[S] | None) -> None:
        self.store = store
        self.name = name
        self.attempt: int | None = None
        """The attempt that was begun through this handle; its worker events carry it."""
        self._view = store.start(machine)
        self._seen = False

    def __repr__(self) -> str:
        return f"<stream {self.name} at version {self._view.version}>"

    @property
    def state(self) -> S:
        """The state as this handle last saw it; `refresh` looks again."""
        return self._known().state

    @property
    def version(self) -> int:
        """The version as this handle last saw it, 0 before the first event."""
        return self._known().version

    def refresh(self) -> Self:
        """Fold what others appended since."""
        with self.store.reading() as reading:
            self._view = self.store.fold(reading, self.name, self._view)
        self._seen = True
        return self

    def read(self, *, after: int = 0, limit: int | None = None) -> Iterator[Recorded]:
        """The stream's events after a version, in order."""
        return self.store.read(self.name, after=after, limit=limit)

    def append(
        self,
        *events: object,
        expected_version: int | None = None,
        attempt: int | None = None,
        key: str | None = None,
        meta: Json = None,
        occurred_at: datetime | None = None,
        provided: Callable[[Writing], None] | None = None,
    ) -> tuple[Recorded, ...]:
        """Append events, all or none, judged on the stream as it stands when they are written.

        Args:
            events: in order; each is judged on the results of those before it.
            expected_version: refuse with `VersionConflict` unless the stream is at this version.
            attempt: the attempt that writes; the one begun through this handle unless given.
            key: names the append: the same key with the same content returns what stands, whatever came since.
            meta: free JSON beside the payload (trace ids, who).
            occurred_at: when it happened, if not now; aware.
            provided: called in the write transaction before anything is judged; what it raises refuses the append.

        Returns:
            The events in their places, durable.

        Raises:
            InvalidPayload, UnknownEvent, InvalidArgument, KeyReused, Fenced, VersionConflict, ForeignEvent,
            IllegalTransition, or a guard's own refusal: nothing was written.
        """
        if not events:
            return ()
        drafts = self.store.draft(events, attempt=attempt, key=key, meta=meta, occurred_at=occurred_at)
        return self._commit(lambda _state: drafts, expected_version, provided)

    def transact(
        self,
        decide: Callable[[S], Iterable[object] | object | None],
        *,
        attempt: int | None = None,
        key: str | None = None,
        meta: Json = None,
        occurred_at: datetime | None = None,
    ) -> tuple[Recorded, ...]:
        """Append what `decide` makes of the present state: an event, several, or none.

        `decide` runs inside the write transaction, so nothing can come between what it saw and what it wrote. It must
        be quick and must not write to the store itself.
        """

        def drafts(state: S) -> list[Draft]:
            decided = decide(state)
            events = [decided] if attrs.has(type(decided)) else [*(decided or ())]  # type: ignore[misc]
            return self.store.draft(events, attempt=attempt, key=key, meta=meta, occurred_at=occurred_at)

        return self._commit(drafts)

    def _known(self) -> Folded[S]:
        return self._view if self._seen else self.refresh()._view  # noqa: SLF001 - our own

    def _commit(
        self,
        drafts_for: Callable[[S], list[Draft]],
        expected_version: int | None = None,
        provided: Callable[[Writing], None] | None = None,
    ) -> tuple[Recorded, ...]:
        self._known()  # a long history is folded before the write lock is taken

        def job(transaction: Writing) -> tuple[Folded[S], tuple[Recorded, ...], bool]:
            view = self.store.fold(transaction, self.name, self._view)
            drafts = drafts_for(view.state)
            if (standing := self.store.standing(transaction, self.name, drafts)) is not None:
                return view, standing, False
            if provided is not None:
                provided(transaction)
            view, recorded = self.store.place(
                transaction, view, self.name, drafts, expected_version=expected_version, held=self.attempt
            )
            return view, recorded, True

        view, recorded, new = self.store.write(job)
        if view.version >= self._view.version:  # another thread of this handle may have been faster
            self._view = view
        if new and view.machine is not None and view.machine.fence is not None:
            self._hold(recorded)
        return recorded

    def _hold(self, recorded: tuple[Recorded, ...]) -> None:
        attempts = [item.attempt for item in recorded if item.attempt is not None]
        if attempts:
            self.attempt = attempts[-1]


def check_name(what: str, value: str, *, slashes: bool = False) -> str:
    """A name that every file system, shell and database takes: printable, bounded, no slash, no leading dot or dash.

    Raises:
        InvalidArgument: with what is wrong.
    """
    if not isinstance(value, str) or not value:
        raise InvalidArgument(what, value, "must be a text of at least one character")
    if len(value) > MAX_NAME:
        raise InvalidArgument(what, f"{value[:20]}…", f"must have at most {MAX_NAME} characters, not {len(value)}")
    if not value.isprintable() or value != value.strip():
        raise InvalidArgument(what, value, "must be printable text without spaces at its ends")
    if not slashes and ("/" in value or "\\" in value or value[0] in ".-"):
        raise InvalidArgument(what, value, "must hold no slash and begin with neither a dot nor a dash")
    return value


def _batch_key(key: str, number: int) -> str:
    # No caller's key begins with a space (see `check_name`), so the second of batch "job" never meets a key "job/2".
    return f" {number}/{key}"


def _check_range(after: int, limit: int | None) -> None:
    if after < 0:
        raise InvalidArgument("after", after, "must be 0 (before the first) or a place that was read")
    if limit is not None and limit < 0:
        raise InvalidArgument("limit", limit, "must be 0 or more; leave it out for all")


def _microseconds(name: str, moment: datetime) -> int:
    try:
        return to_microseconds(moment)
    except ValueError as error:
        raise InvalidArgument(name, moment, str(error)) from None


def same_json(one: str, other: str) -> bool:
    """Whether two JSON texts hold the same value, whatever their spelling."""
    import orjson  # noqa: PLC0415 - only where the texts differ

    return one == other or canonical(orjson.loads(one)) == canonical(orjson.loads(other))


def _owners(machines: tuple[Machine[Any], ...]) -> dict[type, Machine[Any]]:
    owners: dict[type, Machine[Any]] = {}
    for machine in machines:
        for kind in sorted(machine.events - FREE, key=lambda kind: kind.__name__):  # or messages list them at random
            if owners.setdefault(kind, machine) is not machine:
                raise ValueError(
                    f"{kind.__name__} belongs to the machines {owners[kind].name!r} and {machine.name!r}; "
                    "an event type belongs to one"
                )
    return owners
