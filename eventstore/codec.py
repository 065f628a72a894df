"""Events to JSON and back, by the classes that this program was given.

`encode` refuses whatever would not come back as it was given (see `payloads`); `decode` is strict in the same way: a
missing, unknown or ill-typed field is an error, never a guess. Payloads hold data only: a type is looked up by name
among the given classes, nothing is imported, nothing is unpickled.

Most events have plain fields, for which `shapes` knows a short way; what it does not know, `structuring` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import orjson
from attrs import frozen

from eventstore.errors import InvalidArgument, InvalidPayload, UnknownEvent, UnreadableEntry
from eventstore.log import Cursor, Entry
from eventstore.payloads import Json, described, encode_json, from_microseconds
from eventstore.shapes import Shape, shape_of

if TYPE_CHECKING:
    from eventstore.structuring import Structuring


@frozen
class Upcaster:
    """How an old stored shape is read: its stored name, the class it is now, and its data in the new shape."""

    stored: str
    to: type
    convert: Callable[[dict[str, Json]], dict[str, Json]]


class Recorded:
    """An event in its place. The payload is decoded when `event` is first looked at, and once only."""

    __slots__ = ("_codec", "_event", "_fields", "entry", "kind")

    def __init__(self, entry: Entry, kind: type | None, codec: Codec, fields: Mapping[str, Json] | None = None) -> None:
        self.entry = entry
        self._fields = fields
        self.kind: Any = kind
        """The event's class, or None where this program does not know the type."""
        self._codec = codec
        self._event: Any = None

    @property
    def event(self) -> Any:
        """The event itself.

        Raises:
            UnreadableEntry: the type is unknown here, or the payload does not fit it.
        """
        if self._event is None:
            self._event = self._codec.decode(self.entry)
        return self._event

    def plain(self, name: str) -> Any:
        """A field that holds text: as the event has it, without decoding the payload where it was only just written."""
        value = None if self._fields is None else self._fields.get(name)
        # Nothing but what cannot change: the rest of the fields may be the caller's own objects.
        return value if type(value) is str else getattr(self.event, name)

    def stored(self, *names: str) -> tuple[Any, ...]:
        """Fields that hold JSON or None by default: without making the event where it was only just written."""
        if self._fields is None or self._event is not None:
            return tuple([getattr(self.event, name) for name in names])
        return tuple(map(orjson.loads(self.entry.data).get, names))

    @property
    def type(self) -> str:
        """The event's name: that of its class, or the stored one where the class is unknown."""
        return self.entry.type if self.kind is None else str(self.kind.__name__)

    @property
    def stream(self) -> str:
        """The stream it belongs to."""
        return self.entry.stream

    @property
    def version(self) -> int:
        """Its place in the stream, from 1."""
        return self.entry.version

    @property
    def position(self) -> int:
        """Its place in the log, from 1."""
        return self.entry.position

    @property
    def attempt(self) -> int | None:
        """The attempt that wrote it; None for what came from outside."""
        return self.entry.attempt

    @property
    def key(self) -> str | None:
        """The caller's idempotency key."""
        return self.entry.key

    @property
    def meta(self) -> Json:
        """The caller's free JSON."""
        return None if self.entry.meta is None else orjson.loads(self.entry.meta)

    @property
    def cursor(self) -> Cursor:
        """What a reader keeps to go on after this entry."""
        return Cursor(self.entry.position, self.entry.hash)

    @property
    def recorded_at(self) -> datetime:
        """When the log took it; never goes backwards."""
        return from_microseconds(self.entry.recorded_at)

    @property
    def occurred_at(self) -> datetime | None:
        """When a writer or an import says it happened."""
        return None if self.entry.occurred_at is None else from_microseconds(self.entry.occurred_at)

    @property
    def time(self) -> datetime:
        """When it happened, as far as anybody said: `occurred_at`, else `recorded_at`."""
        return self.occurred_at or self.recorded_at

    def __repr__(self) -> str:
        return f"<{self.type} at position {self.position}, version {self.version} of {self.stream}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recorded) and self.entry == other.entry

    def __hash__(self) -> int:
        return hash(self.entry)


class Codec:
    """The event classes of one program, by name, and how each is written and read.

    Args:
        events: attrs classes; two of one name are refused.
        upcasters: how older stored names and shapes are read.

    Raises:
        ValueError: two classes of one name, or an upcaster to a class that is not among the events.
    """

    def __init__(self, events: Iterable[type], upcasters: Iterable[Upcaster] = ()) -> None:
        self._shapes: dict[type, Shape] = {}
        self._kinds: dict[str, type] = {}
        self._upcasters: dict[str, Upcaster] = {}
        for kind in events:
            if self._kinds.setdefault(kind.__name__, kind) is not kind:
                raise ValueError(f"two event classes are named {kind.__name__}; rename one of them")
        for upcaster in upcasters:
            if upcaster.stored in self._kinds or self._kinds.get(upcaster.to.__name__) is not upcaster.to:
                raise ValueError(
                    f"the upcaster of {upcaster.stored} must lead from a name that is no event's "
                    f"to the class of one, not to {upcaster.to.__name__}"
                )
            self._upcasters[upcaster.stored] = upcaster

    @property
    def names(self) -> tuple[str, ...]:
        """Every event name this program writes."""
        return tuple(self._kinds)

    def kind(self, stored: str) -> type | None:
        """The class that a stored type is read as, None if unknown."""
        if (kind := self._kinds.get(stored)) is not None:
            return kind
        return upcaster.to if (upcaster := self._upcasters.get(stored)) else None

    def stored_names(self, kinds: Iterable[type]) -> tuple[str, ...]:
        """Every stored type that is read as one of these classes."""
        wanted = set(kinds)
        old = (name for name, upcaster in self._upcasters.items() if upcaster.to in wanted)
        return (*(kind.__name__ for kind in wanted), *old)

    def recorded(self, entry: Entry) -> Recorded:
        """The entry as an event in its place, payload still encoded."""
        return Recorded(entry, self.kind(entry.type), self)

    def encode(self, event: object) -> str:
        """The event's JSON text, fields at their defaults left out.

        Raises:
            UnknownEvent: its class is none of this program's.
            InvalidArgument: it is a class itself.
            InvalidPayload: JSON would not bring it back as it is; the error holds the path to the spot.
        """
        return self.written(event)[0]

    def written(self, event: object) -> tuple[str, dict[str, Json]]:
        """As `encode`, with the fields as they were written; what they hold may be the caller's own."""
        kind = type(event)
        name = kind.__name__
        if self._kinds.get(name) is not kind:
            if isinstance(event, type) and self._kinds.get(event.__name__) is event:
                raise InvalidArgument("event", event, f"is a class; append an event of it, {event.__name__}(…)")
            raise UnknownEvent(name, self.names)
        fields = self._shape(kind).fields(event)
        if fields is not None:
            return encode_json(name, fields), fields
        fields = self._structuring.fields(event)
        text = encode_json(name, fields)
        # A pair assertion: what is written can be read. One structuring of the fields, Json ones untouched.
        self._structuring.event(name, kind, fields)
        return text, fields

    def parse(self, name: str, fields: Mapping[str, Json]) -> Any:
        """An event from its name and plain fields, as an import brings them; old names are upcast.

        Raises:
            UnknownEvent: no class of that name.
            InvalidPayload: a missing, unknown or ill-typed field.
        """
        kind = self.kind(name)
        if kind is None:
            raise UnknownEvent(name, self.names)
        if not isinstance(fields, dict):
            raise InvalidPayload(name, "$", f"must be an object of fields, not {described(fields)}")
        if upcaster := self._upcasters.get(name):
            fields = upcaster.convert(dict(fields))
        return self._structure(name, kind, fields)

    def decode(self, entry: Entry) -> Any:
        """The event that an entry holds.

        Raises:
            UnreadableEntry: the type is unknown here, or the payload does not fit it.
        """
        try:
            fields = orjson.loads(entry.data)
            kind = self._kinds.get(entry.type)
            if kind is not None and (event := self._shape(kind).event(fields)) is not None:
                return event
            return self.parse(entry.type, fields)
        except UnknownEvent:
            reason = "no class of that name is known here"
        except InvalidPayload as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - an upcaster is anybody's code, and reading goes on after it
            reason = f"{type(error).__name__}: {error}"
        raise UnreadableEntry(entry.position, entry.stream, entry.type, reason)

    @cached_property
    def _structuring(self) -> Structuring:
        from eventstore.structuring import Structuring  # noqa: PLC0415 - cattrs takes long to import; see there

        return Structuring()

    def _shape(self, kind: type) -> Shape:
        try:
            return self._shapes[kind]
        except KeyError:
            shape = self._shapes[kind] = shape_of(kind)
            return shape

    def _structure(self, name: str, kind: type, fields: Mapping[str, Json]) -> Any:
        event = self._shape(kind).event(fields)
        return self._structuring.event(name, kind, fields) if event is None else event
