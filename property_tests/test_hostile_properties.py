"""Fuzz: whatever comes in, it is taken or refused by name; nothing crashes, and a refusal changes nothing."""

# ruff: noqa: PT017 - what is made up may be taken, or refused

import io
import itertools
import json
import string
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import eventstore
import projections
from eventstore.codec import Codec
from eventstore.errors import EventStoreError, ImportRefused, InvalidPayload, Refused, UnknownEvent, UnreadableEntry
from eventstore.exchange import import_lines
from eventstore.log import Entry
from eventstore.notes import LogRecorded, MetaSet
from eventstore.workflow import RUN, CheckpointSaved, RunQueued
from projections.cli import SECTIONS, main
from projections.tables import Range
from tests.examples import examples

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12,
)  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=20)
    | st.text(st.characters(exclude_categories=()), max_size=20) | st.datetimes() | st.datetimes(timezones=st.just(UTC))
    | st.complex_numbers() | st.just(object()) | st.just(LogRecorded("a", "b")),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.sets(st.integers(), max_size=3)
    | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
SQL = st.sampled_from([
    "'; DROP TABLE events; --", '" OR 1=1 --', "run_id) OR (1", "phase; SELECT", "1 UNION SELECT hash FROM events",
    "--", "rowid", "_position", '"', "`", "[run_id]", "run_id COLLATE NOCASE", "\0", "phase\n", "-", "--run_id", "%s",
    "?", ":a",
])  # fmt: skip
CODEC = Codec((*RUN.events, MetaSet))
NAMES = st.sampled_from(sorted(kind.__name__ for kind in RUN.events)) | st.text(max_size=20)


# --- codec ----------------------------------------------------------------------------------------------------------


@given(NAMES, st.dictionaries(st.text(max_size=12) | st.sampled_from(["workflow", "input", "call_id"]), ANYTHING))
def test_fields_are_parsed_into_an_event_or_refused(name, fields):
    try:
        event = CODEC.parse(name, fields)
    except (UnknownEvent, InvalidPayload) as error:
        assert str(error)
    else:
        assert type(event).__name__ == name


@given(NAMES, st.text() | st.binary(max_size=40).map(lambda data: data.decode("latin-1")) | JSON.map(json.dumps))
def test_an_entry_is_decoded_or_unreadable(name, data):
    entry = Entry(1, "s", 1, name, 0, None, None, None, b"", None, data)

    try:
        event = CODEC.recorded(entry).event
    except UnreadableEntry as error:
        assert str(error)
    else:
        assert type(event).__name__ == name


@given(ANYTHING)
def test_an_event_is_encoded_as_what_it_reads_as_or_refused(value):
    for event in (LogRecorded("a", "b", payload=value), CheckpointSaved(1, value), MetaSet("a", value)):
        try:
            data = CODEC.encode(event)
        except Refused as error:
            assert str(error)
        else:
            assert CODEC.encode(CODEC.parse(type(event).__name__, json.loads(data))) == data


@pytest.mark.parametrize("depth", [1_000, 10_000, 1_000_000])
def test_whatever_is_nested_too_deeply_is_refused_and_never_followed_to_the_end(depth):
    deep: object = []
    for _ in range(depth):
        deep = [deep]
    with eventstore.connect("memory:") as store:
        with pytest.raises(Refused):
            store.append("s", LogRecorded("a", "b", payload=deep))
        line = b'{"stream":"s","type":"LogRecorded","data":{"source":"a","kind":"b","payload":%s}}\n'
        with pytest.raises(ImportRefused):
            import_lines(store, io.BytesIO(line % (b"[" * depth + b"]" * depth)))

        assert store.head().position == 0
    while deep:  # taken apart by hand: the interpreter would follow it to the end
        deep = deep[0]


# --- import ---------------------------------------------------------------------------------------------------------

GOOD = b'{"stream":"run-1","type":"RunQueued","data":{"workflow":"deploy"},"recorded_at":"2026-01-01T00:00:00Z"}\n'
SPOILT = st.builds(
    lambda at, bytes_, cut: GOOD[:at] + bytes_ + GOOD[at + cut :],
    st.integers(0, len(GOOD)), st.binary(max_size=6), st.integers(0, 20),
)  # fmt: skip
LINES = st.lists(
    st.just(GOOD) | SPOILT | st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode() + b"\n")
    | st.fixed_dictionaries(
        {"stream": JSON, "type": NAMES | JSON, "data": JSON},
        optional=dict.fromkeys(("recorded_at", "occurred_at", "attempt", "key", "meta", "x"), JSON),
    ).map(lambda fields: json.dumps(fields).encode() + b"\n"),
    max_size=4,
).map(b"".join)  # fmt: skip


@given(LINES, st.booleans())
@example(b"\xff\xfe{}\n", False)  # noqa: FBT003
@example(b'{"stream":"a","stream":"b","type":"LogRecorded","data":{}}', False)  # noqa: FBT003
@settings(max_examples=examples(150))
def test_lines_are_taken_whole_or_refused_with_their_number(lines, resume):
    with projections.connect("memory:") as runs:
        try:
            imported = import_lines(runs.store, io.BytesIO(lines), resume=resume)
        except ImportRefused as error:
            assert "line" in str(error)
            assert runs.store.head().position == 0
        else:
            assert runs.store.head().position == imported.events > 0
            assert runs.verify().ok


# --- where ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def runs(request, tmp_path_factory):
    """A store with a few runs."""
    url = "memory:" if request.param == "memory" else tmp_path_factory.mktemp("hostile") / "agent.db"
    with projections.connect(url) as store:
        for number in range(3):
            store.submit("deploy", run_id=f"run-{number}", priority=number)
        yield store


COLUMNS = st.sampled_from(["run_id", "phase", "priority", "labels", "not_before", "worker", "interrupt_requested"])
WANTED = ANYTHING | SQL | st.builds(Range, ANYTHING, ANYTHING) | st.lists(SQL, max_size=3)
ORDERS = COLUMNS | COLUMNS.map("-{}".format) | SQL | st.text(max_size=6)


@given(
    st.dictionaries(COLUMNS | SQL | st.text(max_size=6), WANTED, max_size=3).filter(
        lambda filters: not filters.keys() & {"order", "limit", "after", "self"}
    ),
    ORDERS | st.lists(ORDERS, max_size=3),
    st.none() | st.integers() | st.booleans() | st.floats() | SQL,
    st.none() | ANYTHING,
)
@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.too_slow])
def test_a_filter_is_answered_or_refused_and_never_executed(runs, filters, order, limit, after):
    try:
        rows = runs.workflow_runs.where(order=order, limit=limit, after=after, **filters)
        runs.workflow_runs.count(**filters)
    except EventStoreError as error:
        assert str(error)
    else:
        assert {row.run_id for row in rows} <= {"run-0", "run-1", "run-2"}
    assert runs.workflow_runs.count() == 3
    assert runs.store.head().position == 3


@given(st.lists(ANYTHING | SQL, max_size=2))
def test_a_key_is_answered_or_refused(runs, key):
    try:
        row = runs.workflow_runs.get(*key)
    except EventStoreError as error:
        assert str(error)
    else:
        assert row is None or row.run_id == key[0]


@given(ANYTHING | SQL, ANYTHING | SQL)
def test_names_and_labels_of_any_kind_are_taken_or_refused(name, value):
    with projections.connect("memory:") as store:
        try:
            store.submit(name, run_id=value if isinstance(value, str) else None, labels={"a": value}, key=None)
        except EventStoreError as error:
            assert str(error)
            assert store.store.head().position == 0
        else:
            assert store.check().ok


# --- the command ----------------------------------------------------------------------------------------------------

_ENDLESS = {"demo"}
COMMANDS = sorted(set(itertools.chain.from_iterable(SECTIONS.values())) - _ENDLESS)
OPTIONS = (
    "--json", "--app", "--stream", "--type", "--after", "--limit", "-n", "--help", "-h", "--resume", "-o", "--output",
    "--by", "--comment", "--reason", "--phase", "--workflow", "--dry-run", "--skip-invalid", "--check", "--max-crashes",
    "--input", "--version", "--accept-loss", "--",
)  # fmt: skip
OTHERS = ("run-1", "c1", "0", "-1", "1e9", "lines.jsonl", ".", "/", "", "no.such:APP", "os:path")
WORDS = st.sampled_from((*OPTIONS, *OTHERS))
# `tail --follow` has no end: no word that holds an f after a dash is made up.
MADE_UP = st.text(string.printable.replace("f", ""), max_size=12) | st.text(max_size=6).filter(lambda t: "f" not in t)
TYPED = (WORDS | MADE_UP | SQL).filter(lambda word: "\0" not in word)
"""No process can be given a NUL among its arguments."""


@given(st.sampled_from(COMMANDS), st.booleans(), st.lists(TYPED, max_size=5))
@settings(max_examples=examples(120), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_command_ends_with_a_code_of_its_own_and_one_line(tmp_path, monkeypatch, command, named, words):
    monkeypatch.chdir(tmp_path)
    for name in ("RUNFOLD_DB", "RUNFOLD_APP", "RUNFOLD_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    if not (tmp_path / "agent.db").exists():
        with projections.connect("agent.db") as store:
            store.submit("deploy", run_id="run-1")
        (tmp_path / "lines.jsonl").write_bytes(GOOD.replace(b"run-1", b"run-2"))

    result = CliRunner().invoke(main, [command, *(["agent.db"] if named else []), *words])

    assert result.exit_code in (0, 1, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "unexpected" not in result.stderr
    assert "Traceback" not in result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) <= 1
    assert errors or result.exit_code != 2 or "Usage" in result.stderr


def test_times_beyond_the_calendar_are_refused_in_an_import():
    with projections.connect("memory:") as store:
        for time in ("99999-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "2026-02-30T00:00:00Z", "x" * 10_000):
            line = json.dumps({"stream": "s", "type": "LogRecorded", "data": {"source": "a", "kind": "b"},
                               "occurred_at": time}).encode()  # fmt: skip
            with pytest.raises(ImportRefused):
                import_lines(store.store, io.BytesIO(line))
        store.store.append("s", LogRecorded("a", "b"), occurred_at=datetime.max.replace(tzinfo=UTC))
        store.store.append("r", RunQueued("deploy"), occurred_at=datetime.min.replace(tzinfo=UTC))
        assert store.verify().ok
