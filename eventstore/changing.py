"""`changed`: a frozen value with some of its fields changed, as `attrs.evolve` gives it, in half the time.

Folds make a new value for each event, and nearly all of a fold is that. What is looked up once per class here is looked
up at each call there.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, TypeVar

import attrs

T = TypeVar("T")


class _Shape:
    """The fields of one class: where each stands among the arguments, and all of a value's at once."""

    def __init__(self, kind: type) -> None:
        names = [field.alias for field in attrs.fields(kind) if field.init]
        self.places = {name: place for place, name in enumerate(names)}
        self.get = attrgetter(*(field.name for field in attrs.fields(kind) if field.init))
        # By position, that is: a class of keyword-only fields, or of one field alone, is left to attrs.
        self.usual = len(names) > 1 and not any(field.kw_only for field in attrs.fields(kind))


_SHAPES: dict[type, _Shape] = {}


def changed(value: T, **fields: Any) -> T:
    """The value with these fields changed; `value` stays as it is.

    Raises:
        TypeError: the class has no such field.
    """
    kind: Any = type(value)
    shape = _SHAPES.get(kind)
    if shape is None:
        shape = _SHAPES[kind] = _Shape(kind)
    if not shape.usual or not fields.keys() <= shape.places.keys():
        return attrs.evolve(value, **fields)  # type: ignore[misc]
    arguments = [*shape.get(value)]
    for name, field in fields.items():
        arguments[shape.places[name]] = field
    return kind(*arguments)  # type: ignore[no-any-return]
