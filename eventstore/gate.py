"""The gate: what every event passes on its way into the log, whichever door it takes.

In this order: payload, key, fence, version, machine. The payload is judged before the write transaction, the rest
inside it, on the state as it stands there; so each caller is judged on the results of all before it, and a conflict
is no refusal but a state that is a little newer. What may happen is said by the machine, how events are spelled by the
codec; here both are put in front of a backend's `insert`. Streams, imports and rebuilds come through here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import orjson
from attrs import define, field

from eventstore.codec import Codec, Recorded, Upcaster
from eventstore.errors import (
    Fenced,
    ForeignEvent,
    InvalidArgument,
    InvalidPayload,
    KeyReused,
    UnreadableEntry,
    VersionConflict,
)
from eventstore.integrity import chained
from eventstore.limits import MAX_BATCH, MAX_BATCH_BYTES, MAX_INTEGER, PAGE, check_name
from eventstore.log import Entry, Head, Reading, Writing
from eventstore.machine import Machine
from eventstore.notes import FREE, NOTES
from eventstore.payloads import Json, canonical, encode_json, to_microseconds

if TYPE_CHECKING:
    from eventstore.watching import Watch

S = TypeVar("S", bound=Any)

_REMEMBERED = 10_000
"""Streams whose versions a gate remembers."""

Redactor = Callable[[str, dict[str, Json]], Json]
"""`(event type, fields) -> fields`: takes out of a payload, before it is written, what must not stand in a log.

It must be pure: the same fields give the same fields, or a retry under a key would be refused as another content. It
must leave alone what it left, since settings that stand come by again with each change that is merged into them. What
it raises refuses the append. The fields by which a machine tells and judges events (call ids, tools, …) are not its to
change; what a tool call or a question is bound to is the digest of what was given.
"""


class Inline(Protocol):
    """What is kept in step with the log, in the transaction that writes it."""

    def __call__(self, transaction: Writing, before: Head, recorded: Sequence[Recorded]) -> None:
        """Take in what was appended after the head `before`."""


def microseconds_now() -> int:
    """The system's clock, in microseconds since 1970."""
    return time.time_ns() // 1000


class Draft(NamedTuple):
    """An event that passed the payload check and has no place yet."""

    kind: type
    type: str
    data: str
    key: str | None
    attempt: int | None
    occurred_at: int | None
    meta: str | None
    fields: dict[str, Json]
    """As they were written; see `Recorded.plain`."""


class Folded(NamedTuple, Generic[S]):
    """A stream as far as it was folded: its machine (None until an event fixes it), version and state."""

    machine: Machine[S] | None
    version: int
    state: S


class Gate:
    """The machines and the codec of one store, in front of its log.

    Args:
        machines: whose events may be written. `LogRecorded` and `MetaSet` are always known.
        upcasters: how older stored shapes are read.
        clock: microseconds since 1970.
        redactor: sees each payload before it is written; see `Redactor`.

    Raises:
        ValueError: an event class belongs to two machines, or two classes share a name.
    """

    def __init__(
        self,
        machines: Sequence[Machine[Any]],
        upcasters: Iterable[Upcaster],
        clock: Callable[[], int],
        redactor: Redactor | None = None,
    ) -> None:
        self.machines = {machine.name: machine for machine in (*machines, NOTES)}
        self._owner = _owners(tuple(self.machines.values()))
        self._seals = {kind: seal for machine in self.machines.values() for kind, seal in machine.seals.items()}
        self.codec = Codec((*self._owner, *FREE), upcasters)
        self.inline: Inline | None = None
        self.watch: Watch | None = None
        self._clock = clock
        self._redactor = redactor
        self._known = _Known(object(), Head(0, b"", 0))

    def draft(
        self,
        stream: str,
        events: Sequence[object],
        *,
        vouched: bool = False,
        attempt: int | None = None,
        key: str | None = None,
        meta: Json = None,
        occurred_at: datetime | None = None,
    ) -> list[Draft]:
        """The events, encoded; all that can be refused without looking at the log is refused here.

        The first event bears the key, the n-th of a batch a key made of it: so a retry is told from another batch.
        `vouched` events come from another log, where they were sealed before they were redacted.

        Raises:
            UnknownEvent, InvalidPayload, InvalidArgument, or a seal's own refusal: nothing was written.
        """
        if len(events) > MAX_BATCH:
            raise InvalidArgument("events", len(events), f"are more than the {MAX_BATCH} of one append; split them")
        if key is not None:
            check_name("key", key, slashes=True)
        if attempt is not None and (type(attempt) is not int or not 0 <= attempt <= MAX_INTEGER):
            raise InvalidArgument("attempt", attempt, "must be the number of an attempt: 1, 2, 3 …")
        encoded_meta = None if meta is None else encode_json("meta", meta)
        beside = 0 if encoded_meta is None else len(encoded_meta)
        occurred = None if occurred_at is None else _microseconds("occurred_at", occurred_at)
        drafts = []
        size = 0
        for number, event in enumerate(events, start=1):
            kind = type(event)
            data, fields = self.codec.written(event)
            if self._redactor is not None or (
                (seal := self._seals.get(kind)) is not None and seal(stream, event, event, vouched) is not event
            ):
                data, fields = self._sealed(stream, event, data, fields, vouched=vouched)
            size += len(data) + beside
            if size > MAX_BATCH_BYTES:
                reason = (
                    f"hold more than the {MAX_BATCH_BYTES} bytes of one append; split them, or keep large data apart"
                )
                raise InvalidArgument("events", len(events), reason)
            key_of = key if key is None or number == 1 else _batch_key(key, number)
            drafts.append(Draft(kind, kind.__name__, data, key_of, attempt, occurred, encoded_meta, fields))
        return drafts

    def _sealed(
        self, stream: str, event: object, text: str, fields: dict[str, Json], *, vouched: bool
    ) -> tuple[str, dict[str, Json]]:
        """The payload to write: as the redactor leaves it, with what its machine's guards need of what was given."""
        kind: Any = type(event)
        kept = event
        if self._redactor is not None:
            # A copy: whatever the redactor does to it, the caller's own objects stay as they are.
            kept = self.codec.parse(kind.__name__, self._redactor(kind.__name__, orjson.loads(text)))
            redacted = self.codec.written(kept)
            if same_json(redacted[0], text):
                kept = event
            else:
                text, fields = redacted
        if kept is not event and (machine := self._owner.get(kind)) is not None:
            for name in sorted(machine.identifiers):
                if getattr(kept, name, None) != getattr(event, name, None):
                    reason = "is changed by the redactor, but is what the event is told by; let it pass there"
                    raise InvalidPayload(kind.__name__, f"$.{name}", reason)
        seal = self._seals.get(kind)
        sealed = kept if seal is None else seal(stream, event, kept, vouched)
        return (text, fields) if sealed is kept else self.codec.written(sealed)

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
        before = self.head(transaction)
        recorded_at = self.now(before)
        placed: list[Recorded] = []
        if expected_version is not None and not drafts and view.version != expected_version:
            raise VersionConflict(stream, expected_version, view.version)
        last: Head | Entry = before
        for draft in drafts:
            view, recorded = self.judged(
                view, stream, draft, last, recorded_at=recorded_at, held=held, expected_version=expected_version
            )
            placed.append(recorded)
            last = recorded.entry
            held = held if last.attempt is None else last.attempt
            expected_version = None
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
        last: Head | Entry,
        *,
        recorded_at: int,
        held: int | None = None,
        expected_version: int | None = None,
    ) -> tuple[Folded[S], Recorded]:
        """Pass one draft through fence, version and machine, into the place after `last`; nothing is inserted yet."""
        kind, type_, data, key, attempt, occurred_at, meta, fields = draft
        machine, version, state = view = self.fixed(view, kind) if view.machine is None else view
        if machine is not None and machine.fence is not None and kind in machine.events:
            attempt = machine.fence(state, stream, kind, attempt, held)
        if expected_version is not None and version != expected_version:
            raise VersionConflict(stream, expected_version, version)
        number = version + 1
        unchained = (last.position + 1, stream, number, type_, recorded_at, occurred_at, attempt, key, b"", meta, data)
        recorded = Recorded(chained(last.hash, unchained), kind, self.codec, fields)
        return self._judge(view, recorded), recorded

    def insert(self, transaction: Writing, before: Head, placed: Sequence[Recorded]) -> None:
        """Write what was judged, of one stream or several, and bring along what is kept in step with the log."""
        if placed:
            entries = [recorded.entry for recorded in placed]
            transaction.insert(entries)
            self._knows(transaction, entries)
            if self.inline is not None:
                transaction.defer(self.inline, before, placed)
            if self.watch is not None:
                transaction.defer(self.watch.placed, before, placed)

    def standing(self, reading: Reading, stream: str, drafts: Sequence[Draft]) -> tuple[Recorded, ...] | None:
        """The entries that bear the drafts' key already; None if there is none.

        Raises:
            KeyReused: they stand with other content, or were a longer or shorter batch.
        """
        key = drafts[0].key if drafts else None
        if key is None:
            return None
        # The first may have left for a segment, and a later one of its batch stayed, being the stream's last.
        keys = [key, *(_batch_key(key, number) for number in range(2, len(drafts) + 1))]
        if (found := reading.keyed(stream, *keys)) is None:
            return None
        before = found.version - keys.index(found.key or key) - 1
        entries = list(reading.read(stream, after=before, limit=len(drafts) + 1))
        longer = entries[len(drafts) :]
        same = len(entries) >= len(drafts) and all(
            entry.key == draft.key and entry.type == draft.type and same_json(entry.data, draft.data)
            for entry, draft in zip(entries, drafts, strict=False)
        )
        if not same or (longer and longer[0].key == _batch_key(key, len(drafts) + 1)):
            raise KeyReused(stream, key, before + 1)
        return tuple(self.codec.recorded(entry) for entry in entries[: len(drafts)])

    # --- what is known since the last append --------------------------------------------------------------------

    def head(self, transaction: Writing) -> Head:
        """The head of the log, without a look where nobody else wrote since this gate did."""
        return self._known.head if self._known.holds(transaction) else transaction.head()

    def latest(self, transaction: Writing, stream: str, view: Folded[S]) -> Folded[S]:
        """As `fold`, without a look where it is known that the stream stands where the view does."""
        if self._known.holds(transaction) and self._known.versions.get(stream) == view.version:
            return view
        return self.fold(transaction, stream, view)

    def _knows(self, transaction: Writing, entries: Sequence[Entry]) -> None:
        known = self._known
        if not known.holds(transaction) or len(known.versions) > _REMEMBERED:
            known.versions = {}
        for entry in entries:
            known.versions[entry.stream] = entry.version
        # Should the job fail yet, nothing is ever named by this, and the versions are forgotten with it.
        last = entries[-1]
        known.name, known.head = transaction.after, Head(last.position, last.hash, last.recorded_at)

    # --- folding a stream ---------------------------------------------------------------------------------------

    def start(self, machine: Machine[S] | None) -> Folded[S]:
        """The view of a stream before its first event."""
        if machine is not None and self.machines.get(machine.name) is not machine:
            raise InvalidArgument("machine", machine.name, "is not known to this store; name it when connecting")
        initial: Any = (machine or NOTES).initial
        return Folded(machine, 0, initial)

    def fold(self, reading: Reading, stream: str, view: Folded[S]) -> Folded[S]:
        """The view after everything that stands in the log by now."""
        while entries := reading.read(stream, after=view.version, limit=PAGE):
            for entry in entries:
                recorded = self.codec.recorded(entry)
                view = self.admit(view, recorded)
        return view

    def admit(self, view: Folded[S], recorded: Recorded) -> Folded[S]:
        """Judge one event by the stream's machine. Free events count only where the machine names them and began."""
        kind = recorded.kind
        if kind is None:
            entry = recorded.entry
            raise UnreadableEntry(entry.position, entry.stream, entry.type, "no class of that name is known here")
        return self._judge(self.fixed(view, kind), recorded)

    def _judge(self, view: Folded[S], recorded: Recorded) -> Folded[S]:
        kind, version = recorded.kind, recorded.entry.version
        machine, _, state = view
        if machine is None or (kind in FREE and (kind not in machine.events or state.phase == machine.initial.phase)):
            return Folded(machine, version, state)
        if kind not in machine.events:
            raise ForeignEvent(recorded.stream, recorded.type, machine.name, self._owner[kind].name)
        return Folded(machine, version, machine.judge(state, recorded))

    def refence(self, view: Folded[S], recorded: Recorded) -> None:
        """On replay: the attempt that an entry bears must be the one that the fence gave, or would have given it.

        Raises:
            Fenced: it is another.
        """
        machine = self.fixed(view, recorded.kind).machine if recorded.kind else None
        if machine is None or machine.fence is None or recorded.kind not in machine.events:
            return
        state = view.state if view.machine else machine.initial
        given = machine.fence(state, recorded.stream, recorded.kind, recorded.attempt, None)
        if given != recorded.attempt:
            raise Fenced(recorded.stream, recorded.type, recorded.attempt, given or 0, str(state.phase))

    def owner(self, kind: type | None) -> Machine[Any] | None:
        """The machine that an event class belongs to."""
        return None if kind is None else self._owner.get(kind)

    def fixed(self, view: Folded[S], kind: type) -> Folded[S]:
        """A stream's first event that belongs to a machine fixes it."""
        if view.machine is None and (owner := self._owner.get(kind)) is not None:
            return Folded(owner, view.version, owner.initial)
        return view


@define(eq=False)
class _Known:
    """What a gate knows of a log whose state bears this name: the head, and the versions of streams it wrote to."""

    name: object
    head: Head
    versions: dict[str, int] = field(factory=dict)

    def holds(self, transaction: Writing) -> bool:
        """Whether the log still bears the name, or bears it already."""
        return self.name is transaction.before or self.name is transaction.after


def _batch_key(key: str, number: int) -> str:
    # No caller's key begins with a space (see `check_name`), so the second of batch "job" never meets a key "job/2".
    return f" {number}/{key}"


def _microseconds(name: str, moment: datetime) -> int:
    try:
        return to_microseconds(moment)
    except (ValueError, AttributeError) as error:
        raise InvalidArgument(name, moment, "is no time with a zone; use datetime.now(UTC)") from error


def same_json(one: str, other: str) -> bool:
    """Whether two JSON texts hold the same value, whatever their spelling."""
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
