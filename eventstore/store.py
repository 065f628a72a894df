"""A log that speaks in events: streams to append to, and the reading of what was written.

`Stream.append` is the one door. It encodes, hands the backend a job, and inside the one write transaction lets the
`gate` judge and place each event. Everything here is a shell: what may happen is said by the machine, how events are
spelled by the codec, what is durable by the backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar

import attrs

from eventstore.blobs import Blobs
from eventstore.codec import Recorded, Upcaster
from eventstore.errors import CursorConflict, InvalidArgument, OutcomeUnknown, StoreClosed
from eventstore.gate import Draft, Folded, Gate, Redactor, microseconds_now
from eventstore.limits import PAGE, check_function, check_name, check_range
from eventstore.log import Cursor, Entry, Log, Reading, Snapshot, Writing
from eventstore.machine import Machine
from eventstore.payloads import Json
from eventstore.replaying import Opening

if TYPE_CHECKING:
    import threading

    from eventstore.watching import Watch

S = TypeVar("S", bound=Any)
T = TypeVar("T")
Placed: TypeAlias = tuple[Folded[S], tuple[Recorded, ...], bool]
"""What an append's job returns: the stream's view, the events in their places, whether they are new."""
_UNWATCHED: AbstractContextManager[None] = nullcontext()


class EventStore:
    """A log that knows machines.

    Args:
        log: the backend.
        machines: whose events may be written here. `LogRecorded` and `MetaSet` are always known.
        upcasters: how older stored shapes are read.
        clock: microseconds since 1970; the log never goes back, even where this does.
        redactor: takes out of each payload, before it is written, what must not stand in a log; see `gate.Redactor`.

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
        redactor: Redactor | None = None,
    ) -> None:
        self.log = log
        self.gate = Gate(machines, upcasters, clock, redactor)
        self.opening = Opening(self.gate)
        self.watch: Watch | None = None
        """Who is told of what is done here, where somebody measures it; see `metrics`."""
        self.blobs = Blobs(log, clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release files and locks; the second time it does nothing."""
        if self.watch is not None:
            self.watch.close()
        self.log.close()

    # --- writing ------------------------------------------------------------------------------------------------

    def stream(self, name: str, machine: Machine[S] | None = None) -> Stream[S]:
        """A handle on one stream; it need not exist yet. Without a machine, the stream's first event tells it.

        Raises:
            InvalidArgument: a name that cannot be.
        """
        return Stream(self, check_name("stream", name), machine)

    def appending(self) -> AbstractContextManager[None]:
        """Goes round every append, whichever way it takes, so that it can be measured."""
        return _UNWATCHED if self.watch is None else self.watch.appending()

    def append(self, stream: str, *events: object, **options: Any) -> tuple[Recorded, ...]:
        """Append to a stream without keeping a handle; arguments and errors are those of `Stream.append`."""
        return self.stream(stream).append(*events, **options)

    def write(self, job: Callable[[Writing], T]) -> T:
        """Run a job in the one write transaction; durable when this returns, undone when it raises."""
        return self.log.write(job)

    def resolve(self, unknown: OutcomeUnknown) -> bool:
        """After an `OutcomeUnknown`: whether what it speaks of stands in the log. The answer is final.

        Raises:
            OutcomeUnknown: the disk still fails; nothing can be known yet.
        """
        if unknown.position is None or unknown.hash is None:
            return False
        return self.log.resolve(unknown.position, unknown.hash)

    # --- reading ------------------------------------------------------------------------------------------------

    def reading(self) -> AbstractContextManager[Snapshot]:
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
        check_range(after, limit)

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
        start = self.place(after)
        check_range(start, limit)

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
        position = self.place(after)
        check_range(position, None)
        self.head()  # a store that is closed already says so
        while not (stop is not None and stop.is_set()):
            try:
                with self.log.reading() as view:
                    head = view.head().position
                    entries = view.read_all(after=position, limit=PAGE, types=names)
                if not entries:
                    # Where nothing of these types stands up to the head, the next look begins there.
                    position = max(position, head)
                    self.log.wait(position, 0.1)
            except StoreClosed:
                return
            for entry in entries:
                yield self.gate.codec.recorded(entry)
                position = entry.position

    @property
    def closed(self) -> bool:
        """Whether the store was closed."""
        return self.log.closed

    def stored_names(self, types: Iterable[type | str]) -> tuple[str, ...]:
        """Every stored name that is read as one of these classes or names."""
        if isinstance(types, str | type) or not isinstance(types, Iterable):
            raise InvalidArgument("types", types, "must be a list of event classes or their names")
        kinds = []
        for given in types:
            kind = self.gate.codec.kind(given) if isinstance(given, str) else given
            name = given if isinstance(given, str) else getattr(given, "__name__", given)
            if not isinstance(kind, type) or kind.__name__ not in self.gate.codec.names:
                raise InvalidArgument(
                    "type", name, "is no event type that this store knows; `runfold stats` lists those of a log"
                )
            kinds.append(kind)
        return self.gate.codec.stored_names(kinds)

    def place(self, after: int | Cursor) -> int:
        """The position that a reader goes on after.

        Raises:
            CursorConflict: the log was rolled back or replaced since the cursor was taken.
        """
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
                entries = page(view, cursor, PAGE if left is None else min(left, PAGE))
            if not entries:
                return
            yield from map(self.gate.codec.recorded, entries)
            cursor = place(entries[-1])
            left = None if left is None else left - len(entries)


class Stream(Generic[S]):
    """One stream: its state as last seen, and the door to its end. May be used from any thread."""

    def __init__(self, store: EventStore, name: str, machine: Machine[S] | None) -> None:
        self.store = store
        self.name = name
        self.attempt: int | None = None
        """The attempt that was begun through this handle; its worker events carry it."""
        self._view = store.gate.start(machine)
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
            fold = self.store.gate.fold if self._view.version else self.store.opening.fold
            self._view = fold(reading, self.name, self._view)
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
        with self.store.appending():
            self._known()  # a long history is folded before the write lock is taken
            job = self.job(
                *events, expected_version=expected_version, attempt=attempt, key=key, meta=meta,
                occurred_at=occurred_at, provided=provided,
            )  # fmt: skip
            return self.took(self.store.log.write(job, shared=True))

    def job(
        self,
        *events: object,
        expected_version: int | None = None,
        provided: Callable[[Writing], None] | None = None,
        **borne: Any,
    ) -> Callable[[Writing], Placed[S]]:
        """The job of an append, for who hands it to the log by other ways (see `aio`); `took` takes what it returns.

        Arguments and errors are those of `append`.
        """
        drafts = self.store.gate.draft(self.name, events, **borne)
        return self._job(lambda _state: drafts, expected_version, provided)

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
        check_function("decide", decide, "state")

        def drafts(state: S) -> list[Draft]:
            decided = decide(state)
            events = [decided] if attrs.has(type(decided)) else [*(decided or ())]  # type: ignore[misc]
            return self.store.gate.draft(
                self.name, events, attempt=attempt, key=key, meta=meta, occurred_at=occurred_at
            )

        with self.store.appending():
            self._known()
            return self.took(self.store.log.write(self._job(drafts), shared=True))

    @property
    def seen(self) -> bool:
        """Whether this handle has looked at the log yet."""
        return self._seen

    def _known(self) -> Folded[S]:
        return self._view if self._seen else self.refresh()._view  # noqa: SLF001 - our own

    def _job(
        self,
        drafts_for: Callable[[S], list[Draft]],
        expected_version: int | None = None,
        provided: Callable[[Writing], None] | None = None,
    ) -> Callable[[Writing], Placed[S]]:
        gate, name = self.store.gate, self.name

        def job(transaction: Writing) -> Placed[S]:
            view = gate.latest(transaction, name, self._view)
            drafts = drafts_for(view.state)
            keyed = drafts and drafts[0].key is not None
            if keyed and (standing := gate.standing(transaction, name, drafts)) is not None:
                return view, standing, False
            if provided is not None:
                provided(transaction)
            view, recorded = gate.place(
                transaction, view, name, drafts, expected_version=expected_version, held=self.attempt
            )
            return view, recorded, True

        return job

    def took(self, placed: Placed[S]) -> tuple[Recorded, ...]:
        """Go on from what an append's job returned, once it is committed; the events in their places."""
        view, recorded, new = placed
        if view.version >= self._view.version:  # another thread of this handle may have been faster
            self._view = view
        if new and view.machine is not None and view.machine.fence is not None:
            self._hold(recorded)
        return recorded

    def _hold(self, recorded: tuple[Recorded, ...]) -> None:
        for item in reversed(recorded):
            if (attempt := item.entry.attempt) is not None:
                # Another thread of this handle may have been faster, and have begun the next one.
                self.attempt = max(attempt, self.attempt or 0)
                break
