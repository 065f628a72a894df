"""Payloads come back as they were, or are refused: for any of them."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.codec import Codec
from eventstore.errors import InvalidPayload
from eventstore.limits import MAX_INTEGER
from eventstore.log import Entry
from eventstore.notes import LogRecorded
from eventstore.payloads import (
    canonical,
    digest,
    fault_in,
    from_iso,
    from_microseconds,
    loads_strictly,
    to_iso,
    to_microseconds,
)
from eventstore.testing import events_of, json_values
from eventstore.workflow import RUN, RunQueued

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
