"""Events to JSON and back, by the classes that this program was given.

`encode` refuses whatever would not come back as it was given (see `payloads`); `decode` is strict in the same way: a
missing, unknown or ill-typed field is an error, never a guess. Payloads hold data only: a type is looked up by name
among the given classes, nothing is imported, nothing is unpickled.

Fields annotated `Json` (that is, `Any`) pass through cattrs untouched: structuring them item by item would cost ten
times the encoding itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar, get_args
from uuid import UUID

import attrs
import cattrs
import orjson
from attrs import frozen
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from eventstore.errors import InvalidPayload, UnknownEvent, UnreadableEntry
from eventstore.log import Cursor, Entry
from eventstore.payloads import (
    WORDS,
    Json,
    described,
    encode_json,
    from_iso,
    from_microseconds,
    to_iso,
)

T = TypeVar("T")


@frozen
class Upcaster:
    """How an old stored shape is read: its stored name, the class it is now, and its data in the new shape."""

    stored: str
    to: type
    convert: Callable[[dict[str, Json]], dict[str, Json]]


class Recorded:
    """An event in its place. The payload is decoded when `event` is first looked at, and once only."""

    __slots__ = ("_codec", "_event", "entry", "kind")

    def __init__(self, entry: Entry, kind: type | None, codec: Codec) -> None:
        self.entry = entry
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
        self._converter = _converter()
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
            InvalidPayload: JSON would not bring it back as it is; the error holds the path to the spot.
        """
        kind = type(event)
        name = kind.__name__
        if self._kinds.get(name) is not kind:
            raise UnknownEvent(name, self.names)
        try:
            fields = self._converter.unstructure(event)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InvalidPayload(name, "$", f"does not fit its fields: {error}") from error
        text = encode_json(name, fields)
        # A pair assertion: what is written can be read. One structuring of the fields, Json ones untouched.
        self._structure(name, kind, fields)
        return text

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
            return self.parse(entry.type, orjson.loads(entry.data))
        except UnknownEvent:
            reason = "no class of that name is known here"
        except InvalidPayload as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - an upcaster is anybody's code, and reading goes on after it
            reason = f"{type(error).__name__}: {error}"
        raise UnreadableEntry(entry.position, entry.stream, entry.type, reason)

    def _structure(self, name: str, kind: type[T], fields: Mapping[str, Json]) -> T:
        try:
            return self._converter.structure(fields, kind)
        except Exception as error:  # cattrs wraps whatever a field raised in an ExceptionGroup of its own
            message, _, path = cattrs.transform_error(error, format_exception=_explained)[0].rpartition(" @ ")
            raise InvalidPayload(name, path, message) from error


def _explained(error: BaseException, kind: type | None) -> str:
    """An error of cattrs in our words: no classes, and what to write instead."""
    if isinstance(error, KeyError):
        return "is missing"
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        return f"has fields that the event does not know: {', '.join(sorted(error.extra_fields))}"
    if isinstance(error, TypeError | ValueError) and "must be" in str(error):
        return str(error)
    if "not in literal" in str(error):
        return f"must be one of {', '.join(map(str, get_args(kind)))}"
    if isinstance(error, AttributeError):  # an object's field was given something that has no fields
        return "must be an object"
    return cattrs.v.format_exception(error, kind)


def _strict(kind: type) -> Callable[[Json, Any], Json]:
    def structure(value: Json, _type: Any) -> Json:
        if type(value) is not kind:
            raise TypeError(f"must be {WORDS[kind]}, not {described(value)}")
        return value

    return structure


def _structure_float(value: Json, _type: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"must be a number, not {described(value)}")
    return float(value)


def _structure_datetime(value: Json, _type: Any) -> datetime:
    if type(value) is not str:
        raise TypeError(f"must be an ISO 8601 time as text, not {described(value)}")
    return from_iso(value)


def _structure_uuid(value: Json, _type: Any) -> UUID:
    try:
        return UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise TypeError(f"must be a UUID as text, not {described(value)}") from None


def _register_enums(annotation: Any, converter: cattrs.Converter) -> None:
    # Each by itself: a StrEnum is a str too, and cattrs would ask the hook of str before one for all enums.
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        converter.register_structure_hook(annotation, _structure_enum)
        converter.register_unstructure_hook(annotation, _enum_value)
    for argument in get_args(annotation):
        _register_enums(argument, converter)


def _structure_enum(value: Json, kind: type[Enum]) -> Enum:
    for member in kind:
        if member.value == value and type(member.value) is type(value):
            return member
    raise TypeError(f"must be one of {', '.join(str(member.value) for member in kind)}")


def _enum_value(member: Any) -> Json:
    if not isinstance(member, Enum):
        raise TypeError(f"must be an enum member, not {described(member)}")
    return member.value


_PLAIN = (bool, int, float, str, type(None))


def _untouched(value: Json) -> Json:
    return value


def _untouched_structure(value: Json, _type: Any) -> Json:
    return value


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, omit_if_default=True)
    for kind in (str, int, bool):
        converter.register_structure_hook(kind, _strict(kind))
    converter.register_structure_hook(float, _structure_float)
    converter.register_structure_hook(datetime, _structure_datetime)
    converter.register_unstructure_hook(datetime, to_iso)
    converter.register_structure_hook(UUID, _structure_uuid)
    converter.register_unstructure_hook(UUID, str)
    # An int field that holds a str must not pass; cattrs unstructures primitives by the value's own class, so
    # the structuring that follows each encoding is what notices.
    converter.register_structure_hook_factory(attrs.has, lambda kind: _structure_function(kind, converter))
    converter.register_unstructure_hook_factory(attrs.has, lambda kind: _unstructure_function(kind, converter))
    return converter


def _prepare(kind: type, converter: cattrs.Converter) -> None:
    attrs.resolve_types(kind)
    for field in attrs.fields(kind):
        _register_enums(field.type, converter)


def _json_fields(kind: type) -> list[str]:
    return [field.name for field in attrs.fields(kind) if field.type is Any or Any in get_args(field.type)]


def _structure_function(kind: type, converter: cattrs.Converter) -> Callable[[Json, Any], Any]:
    _prepare(kind, converter)
    hooks = {name: override(struct_hook=_untouched_structure) for name in _json_fields(kind)}
    return make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True, **hooks)  # type: ignore[arg-type]


def _unstructure_function(kind: type, converter: cattrs.Converter) -> Callable[[Any], dict[str, Any]]:
    _prepare(kind, converter)
    json_fields = set(_json_fields(kind))
    # Equal is not the same: True == 1 == 1.0 and -0.0 == 0.0, and what is left out comes back as the default. So plain
    # defaults are compared by how they are written, and a Json field whose default is a container is never left out.
    plain = [(field.name, repr(field.default)) for field in attrs.fields(kind) if type(field.default) in _PLAIN]
    compound = {field.name for field in attrs.fields(kind) if type(field.default) not in _PLAIN} & json_fields
    hooks = {name: override(unstruct_hook=_untouched, omit_if_default=name not in compound) for name in json_fields}
    without_defaults: Callable[[Any], dict[str, Any]] = make_dict_unstructure_fn(
        kind,
        converter,
        _cattrs_omit_if_default=True,
        **hooks,  # type: ignore[arg-type]
    )

    def unstructure(event: Any) -> dict[str, Any]:
        fields = without_defaults(event)
        for name, default in plain:
            if name not in fields and repr(value := getattr(event, name)) != default:
                fields[name] = value
        return fields

    return unstructure if plain else without_defaults
