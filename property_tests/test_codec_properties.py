"""Payloads come back as they were, or are refused: for any of them."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin

import attrs
import pytest
from attrs import field, frozen
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eventstore.codec import Codec
from eventstore.errors import InvalidPayload
from eventstore.limits import MAX_INTEGER
from eventstore.log import Entry
from eventstore.notes import LogRecorded
from eventstore.payloads import (
    Json,
    canonical,
    digest,
    fault_in,
    from_iso,
    from_microseconds,
    loads_strictly,
    to_iso,
    to_microseconds,
)
from eventstore.shapes import shape_of
from eventstore.structuring import Structuring
from eventstore.testing import events_of, json_values
from eventstore.workflow import RUN, RunFailed, RunQueued
from tests.examples import examples

CODEC = Codec(RUN.events)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(["\0", "\ud800", b"x", math.nan, MAX_INTEGER + 1, {1}]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()) | st.integers(), inner) | st.tuples(inner),
    max_leaves=8,
)
ZONES = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
MOMENTS = st.datetimes(datetime(1000, 1, 2), datetime(9999, 12, 30), timezones=ZONES)  # noqa: DTZ001 - ZONES adds one


def entry(kind, data):
    return Entry(1, "s", 1, kind, 0, None, None, None, b"", None, data)


def as_lists(value):
    if isinstance(value, list | tuple):
        return [as_lists(item) for item in value]
    return {key: as_lists(item) for key, item in value.items()} if isinstance(value, dict) else value


class Speed(StrEnum):
    SLOW = "slow"


@frozen
class Numbers:
    real: float = 0.0
    other: float = 1.0
    whole: int = 1
    flag: bool = True
    maybe: float | None = None


@frozen
class Words:
    text: str
    name: str = "x"
    always: str | None = "here"
    word: Literal["a", "b"] = "a"
    choice: Literal["a", "b"] | None = None
    speed: Speed | None = None
    at: datetime | None = None


@frozen
class Containers:
    value: Json = None
    one: Json = None
    labels: dict[str, str] = field(factory=dict)
    values: dict[str, Json] = field(factory=dict)
    items: Json = field(factory=list)


@frozen
class Checked:
    """Whoever computes when it is made is made the long way."""

    text: str = field(default="", validator=attrs.validators.max_len(3))
    real: float = field(default=0.0, converter=float)


WORDS = ["x", "a", "here", "", "c"]
NUMBERS = [0, 1, -1, 0.0, -0.0, 1.0, math.nan, True, False]
SCALARS = st.sampled_from([*WORDS, *NUMBERS, None, *[{}, [], {"a": "b"}, (), Speed.SLOW] * 2])
ODD = [Numbers, Words, Containers, Checked]
SHAPES = {kind: shape_of(kind) for kind in [*ODD, *sorted(RUN.events, key=lambda kind: kind.__name__)]}


def defaults(kind):
    """What fits each field: its default, or something of its type."""
    attrs.resolve_types(kind)
    fitting = {str: "a", int: 1, float: 0.5, Any: [1]}
    return {
        part.name: fitting.get(part.type, "a")
        if part.default is attrs.NOTHING
        else part.default.factory() if isinstance(part.default, attrs.Factory) else part.default
        for part in attrs.fields(kind)
    }  # fmt: skip


@st.composite
def nearly_fitting(draw):
    """A class, and values of its fields of which hardly any need not fit."""
    kind = draw(st.sampled_from([*ODD * 10, *SHAPES]))
    values = defaults(kind)
    return kind, values | draw(st.dictionaries(st.sampled_from([*values, "text"]), SCALARS, max_size=2))


@settings(max_examples=examples(400))
@example((Containers, defaults(Containers) | {"labels": {"a": "b"}}))
@given(given=nearly_fitting())
def test_the_short_way_from_an_event_to_its_fields_is_the_long_way_or_none(given):
    kind, values = given
    event = kind.__new__(kind)  # as no constructor would let it be: what is written is checked, whoever made it
    for part in attrs.fields(kind):
        object.__setattr__(event, part.name, values[part.name])

    short = SHAPES[kind].fields(event)

    if short is not None:
        long = Structuring()
        assert repr(sorted(short.items())) == repr(sorted(long.fields(event).items()))
        assert [*short] == [part.name for part in attrs.fields(kind) if part.name in short]
        if not fault_in(short):
            long.event(kind.__name__, kind, short)


@settings(max_examples=examples(400))
@given(given=nearly_fitting(), data=st.data())
def test_the_short_way_from_fields_to_an_event_is_the_long_way_or_none(given, data):
    kind, values = given
    left_out = data.draw(st.sets(st.sampled_from(sorted(values)), max_size=2))
    fields = {name: value for name, value in values.items() if name not in left_out}

    short = SHAPES[kind].event(fields)

    assert short is None or repr(short) == repr(Structuring().event(kind.__name__, kind, fields))


@pytest.mark.parametrize("kind", sorted(RUN.events - {RunQueued, RunFailed}, key=lambda kind: kind.__name__))
def test_plain_events_go_the_short_way(kind):
    """Or the test above would hold of a short way that is never taken."""
    plain = {str: "a", int: 1, float: 0.5, bool: True, Any: {"a": [1]}}
    shape = shape_of(kind)
    declared = {part.name: part.type for part in attrs.fields(kind)}
    literal = {name: get_args(kind)[0] for name, kind in declared.items() if get_origin(kind) is Literal}
    fields = literal | {name: plain[kind] for name, kind in declared.items() if kind in plain}

    event = shape.event(fields)

    assert event == kind(**fields)
    assert shape.event(shape.fields(event)) == event


@pytest.mark.parametrize("kind", sorted(RUN.events, key=lambda kind: kind.__name__))
@settings(max_examples=30)
@given(data=st.data())
def test_every_event_comes_back_as_it_was(kind, data):
    event = data.draw(events_of(kind))
    text = CODEC.encode(event)

    again = CODEC.decode(entry(kind.__name__, text))

    assert again == event
    assert CODEC.encode(again) == text
    assert CODEC.parse(kind.__name__, json.loads(text)) == event


@given(json_values())
def test_what_the_kit_calls_json_can_be_stored(value):
    event = LogRecorded("a", "b", payload=value)
    text = CODEC.encode(event)

    assert fault_in(value) is None
    assert repr(CODEC.decode(entry("LogRecorded", text)).payload) == repr(value)
    assert repr(loads_strictly(text).get("payload")) == repr(value)


@given(ANYTHING)
@settings(max_examples=300)
def test_a_value_comes_back_as_it_was_or_is_refused_with_the_path_to_its_fault(value):
    event = LogRecorded("a", "b", payload=value)
    fault = fault_in({"source": "a", "kind": "b", "payload": value})

    if fault is None:
        again = CODEC.decode(entry("LogRecorded", CODEC.encode(event)))
        assert repr(again.payload) == repr(as_lists(value))
    else:
        with pytest.raises(InvalidPayload) as caught:
            CODEC.encode(event)
        assert (caught.value.path, caught.value.reason) == fault


@given(st.dictionaries(st.text(max_size=3), json_values(max_leaves=3)), st.randoms())
def test_a_digest_does_not_depend_on_the_order_of_keys(value, random):
    try:
        expected = digest("t", value)
    except InvalidPayload:
        return
    keys = list(value)
    random.shuffle(keys)

    assert digest("t", {key: value[key] for key in keys}) == expected
    assert canonical({key: value[key] for key in keys}) == canonical(value)


@given(MOMENTS)
def test_times_come_back_to_the_microsecond(moment):
    assert from_iso(to_iso(moment)) == moment
    assert from_microseconds(to_microseconds(moment)) == moment
    event = RunQueued("w", not_before=moment)
    assert CODEC.decode(entry("RunQueued", CODEC.encode(event))) == event


@given(MOMENTS, MOMENTS)
def test_the_order_of_stored_times_is_the_order_of_moments(one, other):
    assert (to_iso(one) < to_iso(other)) == (one.astimezone(UTC) < other.astimezone(UTC))
