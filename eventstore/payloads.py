"""Plain JSON values and times, exactly: what can be stored and read back as it was given, and what cannot.

Refused, with the path to the spot: NaN and infinities, lone surrogates, NUL, integers beyond 2^53-1, sets, bytes,
objects, too much depth or size. A tuple is written as the list it reads back as, an enum member as its value, a UUID as
its text.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, TypeAlias
from uuid import UUID

import orjson

from eventstore.errors import InvalidPayload
from eventstore.limits import MAX_BYTES, MAX_DEPTH, MAX_INTEGER

Json: TypeAlias = Any
"""Any JSON value: None, bool, int, float, str, list of these, dict of these by str."""

_OPTIONS = orjson.OPT_STRICT_INTEGER | orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME
_OPTIONS |= orjson.OPT_PASSTHROUGH_DATACLASS
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def encode_json(name: str, value: Json) -> str:
    """JSON text of a plain value, or an `InvalidPayload` that leads to what JSON would change."""
    try:
        raw = orjson.dumps(value, option=_OPTIONS)
    except (TypeError, RecursionError) as error:
        path, reason = fault_in(value) or ("$", str(error))
        raise InvalidPayload(name, path, reason) from None
    # orjson writes NaN as null and NUL as \u0000 without a word. Both leave a trace in the bytes, so the walk over the
    # value, which costs a hundred times the encoding, is only taken where such a trace is; and not where the bytes
    # bring back an equal value, for nothing is equal to NaN. A single byte is looked for at forty times the speed of
    # several: 58 µs less for 100 KB without an escape, and 0.2 more where there is one.
    suspect = (b"\\" in raw and b"\\u0000" in raw) or (b"null" in raw and orjson.loads(raw) != value)
    if suspect and (fault := fault_in(value)):
        raise InvalidPayload(name, *fault)
    if len(raw) > MAX_BYTES:
        reason = f"takes {len(raw)} bytes of JSON; the limit is {MAX_BYTES}: keep large data apart"
        raise InvalidPayload(name, "$", reason)
    return raw.decode()


def canonical(value: Json) -> bytes:
    """One spelling for equal JSON values: sorted keys, no spaces. `1` and `1.0` and `true` stay different."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(tool: str, input: Json) -> str:  # noqa: A002 - the event's own field name
    """What a confirmation is bound to: SHA-256 (hex) of tool and input, whatever the order of keys."""
    try:
        return hashlib.sha256(canonical([tool, input])).hexdigest()
    except (TypeError, RecursionError) as error:
        path, reason = fault_in(input) or ("$", str(error))
        raise InvalidPayload(tool, path, reason) from None


def loads_strictly(text: str | bytes) -> Json:
    """JSON from elsewhere, refusing what Python's reader would change in silence: duplicate keys, NaN, deep nesting.

    Raises:
        ValueError: with the reason.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None


def fault_in(value: Json) -> tuple[str, str] | None:
    """Where and why JSON would change the value on the way; None if it would not. Iterative, so any depth is safe."""
    pending: list[tuple[Json, str, int]] = [(value, "$", 0)]
    while pending:
        item, path, depth = pending.pop()
        while isinstance(item, Enum):  # written as its value, so that is what must be sound
            item = item.value
        if reason := _fault_of(item, depth):
            return path, reason
        if type(item) is dict:
            for key, child in item.items():
                if type(key) is not str:
                    return path, f"has the key {key!r}; JSON keys are text"
                if reason := _fault_of(key, depth):
                    return path, f"has a key that {reason}"
                pending.append((child, f"{path}.{key}", depth + 1))
        elif type(item) in (list, tuple):
            pending += [(child, f"{path}[{index}]", depth + 1) for index, child in enumerate(item)]
    return None


def _fault_of(item: Json, depth: int) -> str | None:
    kind = type(item)
    if kind is str:
        if "\0" in item:
            return "holds NUL, which SQLite's JSON cuts off; leave it out"
        try:
            item.encode()
        except UnicodeEncodeError:
            return "holds a lone surrogate, which is not text; decode it with errors='replace'"
    elif kind is float:
        if not math.isfinite(item):
            return f"is {item!r}, which JSON does not have; write null or text"
    elif kind is int:
        if abs(item) > MAX_INTEGER:
            return f"is {_short(item)}, beyond 2^53-1, where JSON readers round; write it as text"
    elif kind in (dict, list, tuple):
        if depth >= MAX_DEPTH:
            return f"is nested deeper than {MAX_DEPTH} levels; flatten it"
    elif item is not None and kind is not bool and not isinstance(item, UUID):
        return f"is {described(item)}, which JSON would not bring back; convert it to plain JSON first"
    return None


def _short(number: int) -> str:
    # str() of an int of more than 4,300 digits raises; such a number is told by its size.
    return str(number) if abs(number) < 10**40 else f"an integer of {number.bit_length()} bits"


WORDS = {
    str: "text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def described(value: object) -> str:
    """What a value is, in JSON's words."""
    kind = type(value)
    name = kind.__name__
    return WORDS.get(kind) or (f"an {name}" if name[0].lower() in "aeiou" else f"a {name}")


def _without_duplicates(pairs: Sequence[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return result


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON; write null or text")


def to_microseconds(moment: datetime) -> int:
    """Microseconds since 1970, UTC, of an aware datetime.

    Raises:
        ValueError: a datetime without a time zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; use datetime.now(UTC)")
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """The aware UTC datetime of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=value)


def to_iso(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds and a Z: one width, so that text order is time order."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; use datetime.now(UTC)")
    # Not strftime: its %Y has no leading zeros before the year 1000.
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_iso(text: str) -> datetime:
    """The aware UTC datetime of an ISO 8601 text with a time zone.

    Raises:
        ValueError: no ISO 8601, or without a zone.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} must be an ISO 8601 time such as 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} must be a time with a zone; end it with Z or an offset")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} must be a time between the years 1 and 9999 in UTC") from None
