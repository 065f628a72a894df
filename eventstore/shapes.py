"""The short way from events to plain fields and back, for classes whose fields are plain: most of them.

A shape answers only where it is sure, and gives None wherever anything is out of the ordinary: a time, an enum, a
class within a class, a value of another type, a field missing or too many. Then `structuring` decides, and it alone
says what is wrong. So the two differ in nothing but time: 2 µs against 8, for each event that is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter, itemgetter
from typing import Any, Literal, NamedTuple, get_args, get_origin

import attrs

from eventstore.payloads import Json

PLAIN = (bool, int, float, str, type(None))
_NONE = type(None)
_SORTS = 100
"""Sorts of values that are remembered for a class: a program has few, and a hostile one must not fill memory."""
_REQUIRED = object()
_COMPOUND = object()
"""A default that is made anew for each event."""


class _Part(NamedTuple):
    """One field: what it may hold, and what it holds when it is left out."""

    name: str
    written: frozenset[type] | None
    """The types of values that are written as they are; None for a Json field, which takes all that JSON does."""
    default: Any
    literals: frozenset[Json] | None = None
    made: type | None = None
    """dict or list, where the default is an empty one of these."""


_Sort = tuple[tuple[str, ...], tuple[type, ...]]
_Literals = tuple[tuple[str, frozenset[Json]], ...]


class _Plan(NamedTuple):
    """What to do with values of certain types, one for each field."""

    names: tuple[str, ...]
    """Of the fields that are written, in order."""
    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    """Their values, of those of all fields."""
    compared: tuple[tuple[int, str, Any, frozenset[Json] | None], ...]
    """Place, name, default and literals of those that are left out at their default, or have to be of a few values."""
    empty: tuple[int, ...]
    """Places of containers that are left out if they are empty; the short way knows no other ones."""


class Shape:
    """The fields of one event class; without parts, of one that has to go the long way.

    What is to be done depends on the types of the values, and those are of a few sorts for each class. So it is found
    out once for each sort, and then looked up.
    """

    def __init__(self, kind: type, parts: tuple[_Part, ...] | None) -> None:
        self._kind = kind
        self._parts = parts or ()
        self._known = parts is not None
        names = [part.name for part in self._parts]
        # Of fewer than two names, attrgetter gives no tuple.
        self._values: Callable[[Any], tuple[Any, ...]] = (
            attrgetter(*names) if len(names) > 1 else lambda event: tuple([getattr(event, name) for name in names])
        )
        self._plans: dict[tuple[type, ...], _Plan | None] = {}
        self._readable: dict[
            tuple[tuple[str, ...], tuple[type, ...]], tuple[tuple[str, frozenset[Json]], ...] | None
        ] = {}

    def fields(self, event: object) -> dict[str, Json] | None:
        """The event's fields as plain JSON values, those at their defaults left out; None where it is not sure."""
        if not self._known:
            return None
        values = self._values(event)
        kinds = (*map(type, values),)
        try:
            plan = self._plans[kinds]
        except KeyError:
            plan = self._plan(kinds)
            if len(self._plans) < _SORTS:
                self._plans[kinds] = plan
        if plan is None:
            return None
        fields = dict(zip(plan.names, plan.pick(values), strict=True))
        for place, name, default, literals in plan.compared:
            value = values[place]
            if literals is not None and value not in literals:
                return None
            # Equal is not the same: -0.0 == 0.0, and what is left out comes back as the default.
            if value == default and (value or repr(value) == repr(default)):
                del fields[name]
        for place in plan.empty:
            if values[place]:
                return None
        return fields

    def _plan(self, kinds: tuple[type, ...]) -> _Plan | None:
        written, compared, empty = [], [], []
        for place, (part, kind) in enumerate(zip(self._parts, kinds, strict=True)):
            if kind is _NONE and part.default is None:
                continue
            if part.written is not None and kind not in part.written:
                if kind is not part.made:
                    return None
                empty.append(place)
            elif part.written is None or (part.literals is None and type(part.default) is not kind):
                written.append((part.name, place))
            else:
                written.append((part.name, place))
                compared.append((place, part.name, part.default, part.literals))
        names, places = tuple(n for n, _ in written), [p for _, p in written]
        # Of fewer than two places, itemgetter gives no tuple.
        pick = itemgetter(*places) if len(places) > 1 else lambda values: tuple([values[place] for place in places])
        return _Plan(names, pick, tuple(compared), tuple(empty))

    def event(self, fields: Mapping[str, Json]) -> Any:
        """The event of these fields; None where it is not sure."""
        if not self._known or type(fields) is not dict:
            return None
        sort = ((*fields,), (*map(type, fields.values()),))
        try:
            literals = self._readable[sort]
        except KeyError:
            literals = self._reading(fields)
            if len(self._readable) < _SORTS:
                self._readable[sort] = literals
        if literals is None:
            return None
        for name, wanted in literals:
            if fields[name] not in wanted:
                return None
        return self._kind(**fields)

    def _reading(self, fields: dict[str, Json]) -> _Literals | None:
        """Whether values of these types are an event's; if so, which have to be of a few values."""
        literals = []
        found = 0
        for part in self._parts:
            if part.name not in fields:
                if part.default is _REQUIRED:
                    return None
                continue
            found += 1
            if part.written is None:
                continue
            kind = type(fields[part.name])
            # A whole number becomes a float in a field of floats: not here.
            if kind not in part.written or (kind is int and float in part.written):
                return None
            if part.literals is not None:
                literals.append((part.name, part.literals))
        return tuple(literals) if found == len(fields) else None


def shape_of(kind: type) -> Shape:
    """The shape of an attrs class. Whoever checks, converts or computes when an event is made goes the long way."""
    attrs.resolve_types(kind)
    own = ("__attrs_init__", "__attrs_pre_init__", "__attrs_post_init__")
    if "__attrs_attrs__" not in vars(kind) or any(hasattr(kind, name) for name in own):
        return Shape(kind, None)
    parts = []
    for field in attrs.fields(kind):
        if field.validator or field.converter or not field.init or field.alias != field.name:
            return Shape(kind, None)
        part = _part(field)
        if part is None:
            return Shape(kind, None)
        parts.append(part)
    return Shape(kind, tuple(parts))


def json_fields(kind: type) -> list[str]:
    """The names of the fields that hold any JSON value."""
    return [field.name for field in attrs.fields(kind) if field.type is Any or Any in get_args(field.type)]


def _part(field: attrs.Attribute[Any]) -> _Part | None:
    given: Any = field.default
    factory = isinstance(given, attrs.Factory)  # type: ignore[arg-type]
    default = _REQUIRED if given is attrs.NOTHING else _COMPOUND if factory else given
    if field.type is Any:
        # None is None alone; another plain default needs comparing by how it is written.
        sure = default is None or default is _REQUIRED or default is _COMPOUND
        return _Part(field.name, None, default) if sure else None
    if type(default) not in PLAIN and default is not _REQUIRED:
        default = _COMPOUND
    empty = factory and given.factory in (dict, list) and Any not in get_args(field.type)
    made = given.factory if empty else None
    written, literals = _types_of(field.type)
    return _Part(field.name, written, default, literals, made)


def _types_of(declared: Any) -> tuple[frozenset[type], frozenset[Json] | None]:
    """The types of values that are their own JSON; none where the short way does not know."""
    if declared is float:
        return frozenset((float, int)), None
    if declared in PLAIN or declared is None:
        return frozenset((declared or type(None),)), None
    if get_origin(declared) is Literal:
        values = get_args(declared)
        return frozenset((str,)) if all(type(value) is str for value in values) else frozenset(), frozenset(values)
    members = get_args(declared) if type(None) in get_args(declared) else ()
    if members and len(members) == 2:  # noqa: PLR2004 - a type or None
        (other,) = (member for member in members if member is not type(None))
        written, literals = _types_of(other)
        if written:
            return written | {type(None)}, None if literals is None else literals | {None}
    return frozenset(), None
