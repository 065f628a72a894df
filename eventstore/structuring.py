"""Events to plain fields and back by cattrs: strict, with the path to whatever does not fit.

This decides what fits and says what does not; `shapes` is the short cut to the same answers for plain fields. Imported
when there is something that the short cut does not know, since cattrs takes longer to import than all of Runfold.

Fields annotated `Json` (that is, `Any`) pass through cattrs untouched: structuring them item by item would cost ten
times the encoding itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, get_args
from uuid import UUID

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from eventstore.errors import InvalidPayload
from eventstore.payloads import WORDS, Json, described, from_iso, to_iso
from eventstore.shapes import PLAIN, json_fields

_ILL = (TypeError, ValueError, AttributeError, OverflowError)
"""What a value raises that does not fit its field."""


class Structuring:
    """The converter of one codec."""

    def __init__(self) -> None:
        self._converter = _converter()

    def fields(self, event: object) -> dict[str, Json]:
        """The event's fields as plain JSON values, those at their defaults left out.

        Raises:
            InvalidPayload: a value does not fit its field.
        """
        name = type(event).__name__
        try:
            fields: dict[str, Json] = self._converter.unstructure(event)
        except _ILL as error:
            fact = str(error) if "must be" in str(error) else f"does not fit its field: {error}"
            raise InvalidPayload(name, self._spot(event), fact) from error
        return fields

    def _spot(self, event: Any) -> str:
        """The path to the first field that cannot be written."""
        for field in attrs.fields(type(event)):
            try:
                self._converter.unstructure(getattr(event, field.name), field.type)
            except _ILL:
                return f"$.{field.name}"
        return "$"

    def event(self, name: str, kind: type, fields: Mapping[str, Json]) -> Any:
        """The event of these fields.

        Raises:
            InvalidPayload: one is missing, unknown or ill-typed.
        """
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


def _unstructure_datetime(value: Any) -> str:
    if not isinstance(value, datetime):
        raise TypeError(f"must be a datetime with a time zone, not {described(value)}")
    return to_iso(value)


def _structure_uuid(value: Json, _type: Any) -> UUID:
    try:
        return UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise TypeError(f"must be a UUID as text, not {described(value)}") from None


def _register_enums(annotation: Any, converter: cattrs.Converter) -> None:
    # Each by itself: a StrEnum is a str too, and cattrs would ask the hook of str before one for all enums. And once:
    # a registration makes cattrs forget all functions that it made, of both ways, which would then be made per event.
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        if converter.get_structure_hook(annotation) is _structure_enum:
            return
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
    converter.register_unstructure_hook(datetime, _unstructure_datetime)
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


def _structure_function(kind: type, converter: cattrs.Converter) -> Callable[[Json, Any], Any]:
    _prepare(kind, converter)
    hooks = {name: override(struct_hook=_untouched_structure) for name in json_fields(kind)}
    return make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True, **hooks)  # type: ignore[arg-type]


def _unstructure_function(kind: type, converter: cattrs.Converter) -> Callable[[Any], dict[str, Any]]:
    _prepare(kind, converter)
    untouched = set(json_fields(kind))
    # Equal is not the same: True == 1 == 1.0 and -0.0 == 0.0, and what is left out comes back as the default. So plain
    # defaults are compared by how they are written, and a Json field whose default is a container is never left out.
    plain = [(field.name, repr(field.default)) for field in attrs.fields(kind) if type(field.default) in PLAIN]
    compound = {field.name for field in attrs.fields(kind) if type(field.default) not in PLAIN} & untouched
    hooks = {name: override(unstruct_hook=_untouched, omit_if_default=name not in compound) for name in untouched}
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
