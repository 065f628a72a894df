"""Payloads: what JSON would change is refused with the path to the spot, and all else comes back as it was."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum, StrEnum
from uuid import UUID

import pytest
from attrs import field, frozen

from eventstore.codec import Codec, Upcaster
from eventstore.errors import InvalidArgument, InvalidPayload, UnknownEvent, UnreadableEntry
from eventstore.limits import MAX_BYTES, MAX_DEPTH, MAX_INTEGER
from eventstore.log import Entry
from eventstore.machine import Machine
from eventstore.memory import MemoryLog
from eventstore.notes import LogRecorded
from eventstore.payloads import Json, canonical, digest, fault_in, from_iso, loads_strictly, to_iso
from eventstore.store import EventStore


@frozen
class Part:
    name: str
    size: int = 0


@frozen
class Known:
    value: Json = None
    text: str = ""
    number: int = 0
    real: float = 0.0
    flag: bool = False
    at: datetime | None = None
    labels: dict[str, str] = field(factory=dict)
    parts: tuple[Part, ...] = ()
    part: Part | None = None


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Level(Enum):
    ONE = 1
    TWO = 2


@frozen
class Typed:
    size: Size
    level: Level = Level.ONE
    id: UUID | None = None
    sizes: tuple[Size, ...] = ()


@frozen
class Defaulted:
    one: Json = 1
    items: Json = field(factory=lambda: [1])


CODEC = Codec([Known, Defaulted, Typed])


def entry(data, stored="Known"):
    return Entry(1, "s", 1, stored, 0, None, None, None, b"", None, data)


def round_trip(event):
    return CODEC.decode(entry(CODEC.encode(event), type(event).__name__))


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


class Colour(StrEnum):
    RED = "red"


class Odd(Enum):
    NAN = math.nan
    NUL = "a\0b"
    DEEP = {"x": [math.inf]}  # noqa: RUF012 - an enum member


class Text(str):
    __slots__ = ()


REFUSED = {
    "nan": ({"a": [1, math.nan]}, "$.value.a[1]", "nan"),
    "infinity": ([math.inf], "$.value[0]", "inf"),
    "minus infinity": (-math.inf, "$.value", "-inf"),
    "nan beside null": ([None, {"x": None, "y": math.nan}], "$.value[1].y", "nan"),
    "lone surrogate": ({"a": "\ud800"}, "$.value.a", "surrogate"),
    "lone surrogate in a key": ({"\udfff": 1}, "$.value", "surrogate"),
    "nul": (["ok", "a\0b"], "$.value[1]", "NUL"),
    "nul in a key": ({"a\0": 1}, "$.value", "NUL"),
    "large integer": ({"n": MAX_INTEGER + 1}, "$.value.n", "2^53-1"),
    "large negative integer": (-MAX_INTEGER - 1, "$.value", "2^53-1"),
    "integer of many digits": (10**5000, "$.value", "bits"),
    "set": ({1, 2}, "$.value", "set"),
    "bytes": (b"x", "$.value", "bytes"),
    "object": ([object()], "$.value[0]", "object"),
    "attrs object": (Part("a"), "$.value", "Part"),
    "datetime": (datetime.now(UTC), "$.value", "datetime"),
    "str subclass": (Text("a"), "$.value", "Text"),
    "key that is no text": ({"a": {1: 2}}, "$.value.a", "key 1"),
    "key that is a bool": ({True: 1}, "$.value", "key True"),
    "too deep": (nested(MAX_DEPTH + 1), "$.value" + "[0]" * (MAX_DEPTH - 1), "deeper"),
    "far too deep": (nested(100_000), "$.value" + "[0]" * (MAX_DEPTH - 1), "deeper"),
    "enum of nan": ([Odd.NAN], "$.value[0]", "nan"),
    "enum of nul": (Odd.NUL, "$.value", "NUL"),
    "enum with nan inside": (Odd.DEEP, "$.value.x[0]", "inf"),
}


@pytest.mark.parametrize(("value", "path", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_json_would_change_is_refused_with_the_path_to_it(value, path, reason):
    with pytest.raises(InvalidPayload) as caught:
        CODEC.encode(Known(value=value))

    assert (caught.value.type, caught.value.path) == ("Known", path)
    assert reason in caught.value.reason


@pytest.mark.parametrize("value", [case[0] for case in REFUSED.values()], ids=REFUSED)
def test_a_refused_payload_writes_nothing(value):
    store = EventStore(MemoryLog(), [])
    store.append("s", LogRecorded("a", "b"))
    before = list(store.read_all())

    with pytest.raises(InvalidPayload):
        store.append("s", LogRecorded("a", "b"), LogRecorded("a", "b", payload=value))
    with pytest.raises(InvalidPayload):
        store.append("s", LogRecorded("a", "b"), meta=value)

    assert list(store.read_all()) == before


def test_a_payload_over_the_limit_is_refused():
    with pytest.raises(InvalidPayload) as caught:
        CODEC.encode(Known(value="x" * MAX_BYTES))

    assert str(MAX_BYTES) in caught.value.reason


FITTING = {
    "text": (Known(text=1), "$.text"),
    "text that is null": (Known(text=None), "$.text"),
    "an integer that is text": (Known(number="1"), "$.number"),
    "an integer that is a float": (Known(number=1.0), "$.number"),
    "an integer that is a bool": (Known(number=True), "$.number"),
    "zero that is false": (Known(number=False), "$.number"),
    "false that is zero": (Known(flag=0), "$.flag"),
    "a number that is a bool": (Known(real=True), "$.real"),
    "a float that is nan": (Known(real=math.nan), "$.real"),
    "a label that is no text": (Known(labels={"a": 1}), "$.labels['a']"),
    "a part of parts": (Known(parts=(Part("a"), Part(2))), "$.parts[1].name"),
    "a part": (Known(part=Part("a", "large")), "$.part.size"),
    "a dict for a part": (Known(part={"name": "a"}), "$.part"),
    "text for an enum": (Typed("small"), "$.size"),
    "a member of another enum": (Typed(Level.ONE), "$.size"),
    "text for a uuid": (Typed(Size.SMALL, id="x"), "$.id"),
    "a time without a zone": (Known(at=datetime(2026, 1, 1)), "$.at"),  # noqa: DTZ001 - the point of it
    "a time beyond the calendar": (Known(at=datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))), "$.at"),
    "a time that is text": (Known(at="2026-01-01T00:00:00Z"), "$.at"),
}


@pytest.mark.parametrize(("event", "path"), FITTING.values(), ids=FITTING)
def test_a_value_that_does_not_fit_its_field_is_refused(event, path):
    with pytest.raises(InvalidPayload) as caught:
        CODEC.encode(event)

    assert caught.value.path == path


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -0.0, 1, 1.0, MAX_INTEGER, -MAX_INTEGER, 0.1, 5e-324, 1.7976931348623157e308,
        "", "null", "\\u0000", "é🏃\u2028\x7f\x01", [], {}, [[]], {"": None},
        {"a": {"b": [1, "2", None]}}, nested(MAX_DEPTH - 1),
    ],
    ids=str,
)  # fmt: skip
def test_plain_json_comes_back_as_it_was(value):
    again = round_trip(Known(value=value)).value

    assert repr(again) == repr(value)


def test_fields_come_back_as_they_were():
    event = Known(
        value={"a": [1]},
        text="é",
        number=-5,
        real=2.5,
        flag=True,
        at=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        labels={"a": "b"},
        parts=(Part("x", 1), Part("y")),
        part=Part("z"),
    )

    assert round_trip(event) == event


def test_fields_of_enums_and_uuids_come_back_as_members_and_uuids():
    event = Typed(Size.LARGE, Level.TWO, UUID(int=7), (Size.SMALL, Size.LARGE))

    assert round_trip(event) == event
    assert type(round_trip(event).size) is Size
    for data in ('{"size": "huge"}', '{"size": "small", "level": true}', '{"size": "small", "id": 7}'):
        with pytest.raises(UnreadableEntry):
            CODEC.decode(entry(data, "Typed"))


def test_what_reads_and_writes_a_class_with_enums_is_made_once():
    converter = (codec := Codec([Typed]))._structuring._converter
    codec.encode(Typed(Size.LARGE))
    made = converter.get_unstructure_hook(Typed), converter.get_structure_hook(Typed)

    codec.encode(Typed(Size.SMALL))

    assert (converter.get_unstructure_hook(Typed), converter.get_structure_hook(Typed)) == made


def test_a_whole_number_in_a_field_of_floats_comes_back_as_a_float():
    assert repr(round_trip(Known(real=1)).real) == "1.0"
    assert repr(CODEC.parse("Known", {"real": 2}).real) == "2.0"


def test_a_time_of_another_zone_is_the_same_moment():
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5, minutes=30)))

    assert round_trip(Known(at=moment)).at == moment
    assert to_iso(moment) == "2026-01-01T21:34:05.000000Z"
    assert from_iso(to_iso(moment)) == moment


def test_a_time_before_the_year_1000_comes_back():
    assert round_trip(Known(at=datetime(999, 1, 1, tzinfo=UTC))).at == datetime(999, 1, 1, tzinfo=UTC)


def test_tuples_enums_and_uuids_are_written_as_what_they_read_back_as():
    given = UUID(int=7)

    assert round_trip(Known(value=[(1, 2), Colour.RED, given])).value == [[1, 2], "red", str(given)]


def test_fields_at_their_defaults_are_left_out_of_what_is_stored():
    assert CODEC.encode(Known()) == "{}"
    assert CODEC.encode(Known(text="", number=0, labels={})) == "{}"
    assert json.loads(CODEC.encode(Known(number=1))) == {"number": 1}


@pytest.mark.parametrize("value", [True, 1.0, 1], ids=repr)
def test_a_value_that_only_equals_its_default_comes_back_as_itself(value):
    assert repr(round_trip(Defaulted(one=value)).one) == repr(value)
    assert repr(round_trip(Defaulted(items=[value])).items) == repr([value])
    assert repr(round_trip(Known(real=-0.0)).real) == "-0.0"


def test_an_event_of_an_unknown_class_is_refused():
    for event in (Part("a"), "text", None, {"a": 1}):
        with pytest.raises(UnknownEvent):
            CODEC.encode(event)


def test_a_class_in_place_of_an_event_is_told_so():
    with pytest.raises(InvalidArgument, match=r"is a class; append an event of it, Known\(…\)"):
        CODEC.encode(Known)


def test_a_class_of_the_same_name_is_not_the_class():
    impostor = frozen(type("Known", (), {"__annotations__": {"value": Json}, "value": None}))

    with pytest.raises(UnknownEvent):
        CODEC.encode(impostor())


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two event classes are named Known"):
        Codec([Known, frozen(type("Known", (), {}))])


@pytest.mark.parametrize(
    "data",
    ['{"unknown": 1}', '{"number": "1"}', '{"flag": 0}', '{"at": "yesterday"}', '{"at": "2026-01-01T00:00:00"}',
     "[]", "1", "{", ""],
)  # fmt: skip
def test_an_entry_that_does_not_fit_its_class_is_unreadable(data):
    with pytest.raises(UnreadableEntry) as caught:
        CODEC.decode(entry(data))

    assert (caught.value.position, caught.value.stream, caught.value.type) == (1, "s", "Known")


def test_a_missing_field_is_an_error_and_no_guess():
    codec = Codec([Part])

    with pytest.raises(UnreadableEntry):
        codec.decode(entry('{"size": 1}', "Part"))
    with pytest.raises(InvalidPayload):
        codec.parse("Part", {"size": 1})


# --- upcasters ------------------------------------------------------------------------------------------------------


def _named(fields):
    return {"name": fields.pop("title"), **fields}


def test_an_old_shape_is_read_as_the_class_of_today():
    codec = Codec([Part], [Upcaster("PartV0", Part, _named)])
    recorded = codec.recorded(entry('{"title": "a", "size": 2}', "PartV0"))

    assert recorded.event == codec.parse("PartV0", {"title": "a", "size": 2}) == Part("a", 2)
    assert (recorded.type, recorded.kind, recorded.entry.type) == ("Part", Part, "PartV0")
    assert sorted(codec.stored_names([Part])) == ["Part", "PartV0"]


def test_an_upcaster_may_change_what_it_is_given():
    codec = Codec([Part], [Upcaster("PartV0", Part, _named)])
    fields = {"title": "a"}

    codec.parse("PartV0", fields)

    assert fields == {"title": "a"}


@pytest.mark.parametrize("error", [ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError])
def test_an_upcaster_that_raises_makes_the_entry_unreadable(error):
    def convert(_fields):
        raise error("no")

    with pytest.raises(UnreadableEntry, match="no"):
        Codec([Part], [Upcaster("PartV0", Part, convert)]).decode(entry("{}", "PartV0"))


def test_an_upcaster_from_a_name_in_use_or_to_a_foreign_class_is_refused():
    for upcaster in (Upcaster("Part", Part, dict), Upcaster("Old", Known, dict)):
        with pytest.raises(ValueError, match="upcaster"):
            Codec([Part], [upcaster])


def test_a_store_reads_old_entries_through_its_upcasters_and_filters_by_the_new_class():
    log = MemoryLog()
    old = frozen(type("PartV0", (), {"__annotations__": {"title": str}}))
    EventStore(log, [_machine_of(old)]).append("s", old(title="a"))
    store = EventStore(log, [_machine_of(Part)], upcasters=[Upcaster("PartV0", Part, _named)])
    store.append("s", Part("b"))

    assert [recorded.event for recorded in store.read("s")] == [Part("a"), Part("b")]
    assert len(list(store.read_all(types=[Part]))) == 2
    assert len(list(store.read_all(types=["PartV0"]))) == 2


class _One(StrEnum):
    ONE = "one"


@frozen
class _OneState:
    phase: _One = _One.ONE


def _machine_of(kind):
    return Machine("one", _OneState(), {_One.ONE: {kind: _One.ONE}}, lambda state, _recorded: state)


# --- aliases --------------------------------------------------------------------------------------------------------


def test_a_caller_that_changes_its_objects_after_append_changes_nothing():
    store = EventStore(MemoryLog(), [])
    payload, meta = {"items": [1]}, {"trace": ["a"]}

    (recorded,) = store.append("s", LogRecorded("a", "b", payload=payload), meta=meta)
    payload["items"].append(2)
    meta["trace"].clear()

    assert recorded.event.payload == {"items": [1]}
    assert recorded.meta == {"trace": ["a"]}
    assert next(store.read("s")).event.payload == {"items": [1]}


def test_a_reader_that_changes_what_it_read_changes_nothing_for_others():
    store = EventStore(MemoryLog(), [])
    (recorded,) = store.append("s", LogRecorded("a", "b", payload=[1]))
    recorded.event.payload.append(2)

    assert next(store.read("s")).event.payload == [1]


# --- json from elsewhere, digests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": {"x": 1, "x": 2}}', "'x' stands twice"),
        ("[NaN]", "NaN"),
        ("-Infinity", "Infinity"),
        ("[" * 200_000 + "]" * 200_000, "nested"),
        ("{", "Expecting"),
    ],
)
def test_json_from_elsewhere_is_read_strictly(text, reason):
    with pytest.raises(ValueError, match=reason):
        loads_strictly(text)


def test_a_digest_is_of_tool_and_input_whatever_the_order_of_keys():
    assert digest("t", {"a": 1, "b": 2}) == digest("t", {"b": 2, "a": 1})
    assert len({digest("t", 1), digest("t", 1.0), digest("t", input=True), digest("t", "1"), digest("u", 1)}) == 5
    assert digest("t", (1,)) == digest("t", [1])
    assert canonical({"b": 1, "a": [None]}) == b'{"a":[null],"b":1}'


def test_a_digest_of_what_cannot_be_stored_is_refused():
    with pytest.raises(InvalidPayload) as caught:
        digest("t", {"a": {1, 2}})

    assert caught.value.path == "$.a"


def test_a_sound_value_has_no_fault_and_any_depth_is_safe():
    assert fault_in({"a": [1, "b", None, (True, 0.5)]}) is None
    assert fault_in(nested(50_000)) is not None


def test_the_payload_of_a_recorded_event_is_decoded_once():
    recorded = CODEC.recorded(entry('{"value": [1]}'))

    assert recorded.event is recorded.event
    assert recorded == CODEC.recorded(entry('{"value": [1]}'))
    assert recorded != CODEC.recorded(recorded.entry._replace(position=2))
