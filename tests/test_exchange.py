"""The log as JSON Lines: whole files through the gate, the line in each refusal, and the same events back."""

import io
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import frozen

import eventstore
import projections
from eventstore import RUN, EventStore, LogRecorded, MetaSet, Upcaster
from eventstore.errors import ImportRefused, InvalidArgument
from eventstore.exchange import MAX_LINE, export_lines, import_lines
from eventstore.memory import MemoryLog
from eventstore.payloads import from_iso, to_iso
from eventstore.workflow import RunCancelled, RunCompleted, RunPaused, RunQueued, RunStarted, ToolCalled, ToolReturned

TRACE = Path(__file__).parent / "data" / "releases.jsonl"
EVENTS = 32


@pytest.fixture(params=["memory", "sqlite"])
def runs(request, tmp_path):
    with projections.connect("memory:" if request.param == "memory" else tmp_path / "x.db") as runs:
        yield runs


def taken(store, *lines, resume=False, source="x.jsonl"):
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    return import_lines(store, io.BytesIO(text.encode()), source=source, resume=resume)


def line(kind, stream="r", data=None, **more):
    return {"stream": stream, "type": kind, "data": data or {}, **more}


def told(store):
    """Everything that an export must keep; where and when an entry was recorded is the log's own."""
    return [(e.stream, e.version, e.event, e.attempt, e.key, e.meta, e.time) for e in store.read_all()]


def bring(store, *, resume=False):
    with TRACE.open("rb") as file:
        return import_lines(store, file, source="releases.jsonl", resume=resume)


# --- there and back -----------------------------------------------------------------------------------------------


def test_a_trace_is_taken_whole_and_its_rows_are_right(runs):
    imported = bring(runs.store)

    assert (imported.events, imported.skipped, imported.streams) == (EVENTS, 0, 4)
    assert runs.workflow_runs.get("build-7").attempt == 3
    assert {standing.behind for standing in runs.standings()} == {0}
    assert runs.check().ok


def test_an_export_taken_in_gives_the_same_events_and_so_does_its_own_export(runs):
    bring(runs.store)
    runs.store.append("notes", MetaSet("a"), MetaSet("b", [1]), key="batch/of two")
    before = told(runs.store)

    with projections.connect("memory:") as second, projections.connect("memory:") as third:
        import_lines(second.store, io.BytesIO(b"".join(export_lines(runs.store))))
        import_lines(third.store, io.BytesIO(b"".join(export_lines(second.store))))

        assert told(second.store) == told(third.store) == before
        assert third.workflow_runs.where() == runs.workflow_runs.where()


def test_the_lines_say_what_the_file_said(runs):
    bring(runs.store)
    given = [json.loads(text) for text in TRACE.read_text().splitlines()]
    exported = [json.loads(text) for text in export_lines(runs.store)]

    for old, new in zip(given, exported, strict=True):
        assert (new["stream"], new["type"], new["data"]) == (old["stream"], old["type"], old["data"])
        assert from_iso(new["occurred_at"]) == from_iso(old.get("occurred_at") or old["recorded_at"])


def test_chosen_streams_come_in_the_order_of_the_log(runs):
    for number in range(6):
        runs.store.append(f"s{number % 3}", MetaSet("n", number))

    exported = [json.loads(text) for text in export_lines(runs.store, ["s2", "s0", "s2"])]

    assert [(item["stream"], item["data"]["value"]) for item in exported] == [
        ("s0", 0),
        ("s2", 2),
        ("s0", 3),
        ("s2", 5),
    ]


def test_a_stream_that_does_not_stand_cannot_be_exported(runs):
    with pytest.raises(InvalidArgument, match="is none of this log"):
        list(export_lines(runs.store, ["nosuch"]))


def test_what_comes_while_an_export_runs_is_not_part_of_it(runs):
    runs.store.append("s", MetaSet("a"))
    lines = export_lines(runs.store)
    first = next(lines)
    runs.store.append("s", MetaSet("b"))

    assert json.loads(first)["data"] == {"name": "a"}
    assert list(lines) == []


def test_an_old_shape_is_taken_in_as_the_new_one(tmp_path):
    @frozen
    class Renamed:
        title: str

    machine = eventstore.Machine("m", RUN.initial, {**RUN.table, RUN.initial.phase: {Renamed: RUN.initial.phase}},
                                 lambda state, _recorded: state)  # fmt: skip
    upcaster = Upcaster("Named", Renamed, lambda fields: {"title": fields["name"]})
    store = EventStore(MemoryLog(), [machine], upcasters=[upcaster])

    taken(store, line("Named", data={"name": "x"}))

    assert [(item.type, item.event) for item in store.read("r")] == [("Renamed", Renamed("x"))]
    assert taken(store, line("Named", data={"name": "x"}), resume=True).skipped == 1


# --- times --------------------------------------------------------------------------------------------------------


def test_a_taken_in_recorded_at_becomes_occurred_at_and_an_occurred_at_stays(runs):
    taken(
        runs.store,
        line("MetaSet", data={"name": "a"}, recorded_at="2020-01-01T00:00:00+01:00"),
        line("MetaSet", data={"name": "b"}, recorded_at="2020-01-01T00:00:00Z", occurred_at="2019-01-01T00:00:00Z"),
        line("MetaSet", data={"name": "c"}),
    )

    times = [item.occurred_at for item in runs.store.read("r")]
    assert times == [datetime(2019, 12, 31, 23, tzinfo=UTC), datetime(2019, 1, 1, tzinfo=UTC), None]
    assert all(datetime.now(UTC) - item.recorded_at < timedelta(minutes=1) for item in runs.store.read("r"))


def test_times_of_every_year_are_written_so_that_they_can_be_read():
    for moment in (
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(987, 6, 5, 4, 3, 2, 1, tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ):
        assert from_iso(to_iso(moment)) == moment
        assert len(to_iso(moment)) == 27


def test_a_time_that_falls_out_of_the_calendar_in_utc_is_refused():
    with pytest.raises(ValueError, match="between the years 1 and 9999"):
        from_iso("0001-01-01T00:00:00+14:00")


# --- attempts and keys --------------------------------------------------------------------------------------------


def test_a_left_out_attempt_is_that_of_the_last_start_or_resume(runs):
    bring(runs.store)

    attempts = [item.attempt for item in runs.store.read("build-7")]
    assert attempts == [None, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, None, 3, 3, 3, 3, 3, None, 3]


def test_an_attempt_of_null_is_none_and_comes_back_so(runs):
    stream = runs.store.stream("r", RUN)
    stream.append(RunQueued("w"), RunStarted("a"), ToolCalled("c", "t"), RunPaused("run"))
    runs.store.append("r", ToolReturned("c"))  # from outside: a child's result
    before = told(runs.store)
    assert before[-1][3] is None

    with projections.connect("memory:") as other:
        import_lines(other.store, io.BytesIO(b"".join(export_lines(runs.store))))
        assert told(other.store) == before


def test_a_workers_line_that_says_it_has_no_attempt_is_fenced(runs):
    with pytest.raises(ImportRefused, match="line 3: ToolCalled is a worker's event"):
        taken(
            runs.store,
            line("RunQueued", data={"workflow": "w"}),
            line("RunStarted", data={"worker": "a"}),
            line("ToolCalled", data={"call_id": "c", "tool": "t"}, attempt=None),
        )
    assert told(runs.store) == []


def test_an_attempt_goes_on_across_two_files(runs):
    taken(runs.store, line("RunQueued", data={"workflow": "w"}), line("RunStarted", data={"worker": "a"}))
    taken(
        runs.store,
        line("RunQueued", data={"workflow": "w"}), line("RunStarted", data={"worker": "a"}),
        line("CheckpointSaved", data={"step": 1}),
        resume=True,
    )  # fmt: skip

    assert [item.attempt for item in runs.store.read("r")] == [None, 1, 1]


@pytest.mark.parametrize("apart", [1, 600])
def test_a_key_names_one_entry_of_a_stream(runs, apart):
    lines = [line("MetaSet", data={"name": "a"}, key="k"), *[line("MetaSet", data={"name": "b"})] * apart]

    with pytest.raises(ImportRefused, match=f"line {apart + 2}: version 1 of r bears the key 'k' already"):
        taken(runs.store, *lines, line("MetaSet", data={"name": "a"}, key="k"))
    assert told(runs.store) == []


# --- whole or not at all ------------------------------------------------------------------------------------------


def test_a_refusal_in_the_last_line_leaves_nothing_of_a_long_file(runs):
    lines = [line("MetaSet", stream=f"s{number % 7}", data={"name": "n"}) for number in range(2000)]

    with pytest.raises(ImportRefused) as caught:
        taken(runs.store, *lines, line("RunStarted", data={"worker": "a"}))

    assert caught.value.line == 2001
    assert told(runs.store) == []
    assert runs.store.head().position == 0


def test_a_standing_stream_is_refused_at_the_line_that_names_it_first(runs):
    bring(runs.store)
    before = told(runs.store)

    with pytest.raises(ImportRefused, match="line 2: the stream build-8 stands already, at version 4; resume"):
        taken(runs.store, line("MetaSet", stream="new", data={"name": "n"}), line("RunQueued", stream="build-8"))
    assert told(runs.store) == before


def test_many_streams_side_by_side_are_judged_each_by_its_own_fold(runs, monkeypatch):
    monkeypatch.setattr("eventstore.exchange._REMEMBERED", 3)  # so that folds fall out and are made again
    lines = []
    for kind, data in (("RunQueued", {"workflow": "w"}), ("RunStarted", {"worker": "a"}), ("RunCompleted", {})):
        lines += [line(kind, stream=f"r{number}", data=data) for number in range(10)]

    assert taken(runs.store, *lines).streams == 10
    assert runs.workflow_runs.count(phase="completed") == 10
    assert {item.attempt for item in runs.store.read_all(types=[RunCompleted])} == {1}


# --- resume -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stood", [1, 12, 30, EVENTS])
def test_resume_skips_what_stands_and_appends_the_rest(runs, stood):
    lines = TRACE.read_text().splitlines()
    taken(runs.store, *lines[:stood])

    imported = bring(runs.store, resume=True)

    assert (imported.skipped, imported.events) == (stood, EVENTS - stood)
    with projections.connect("memory:") as other:
        bring(other.store)
        assert told(runs.store) == told(other.store)
    assert runs.check().ok


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": "RunCancelled", "data": {}}, "is RunStarted and not RunCancelled"),
        ({"data": {"worker": "b"}}, "holds other data"),
        ({"key": "other"}, "bears the key 'k' and not 'other'"),
    ],
)
def test_resume_refuses_an_entry_that_differs_at_its_line(runs, change, words):
    lines = [line("RunQueued", data={"workflow": "w"}), line("RunStarted", data={"worker": "a"}, key="k")]
    taken(runs.store, *lines)
    before = told(runs.store)

    with pytest.raises(ImportRefused, match=f"line 2: version 2 of r stands already and {words}"):
        taken(runs.store, lines[0], {**lines[1], **change}, resume=True)
    assert told(runs.store) == before


def test_resume_takes_another_spelling_of_the_same_data_and_a_line_without_the_key(runs):
    taken(runs.store, line("MetaSet", data={"name": "a", "value": {"x": 1, "y": 2}}, key="k"))

    other = '{"data": {"value": {"y": 2, "x": 1}, "name": "a"}, "type": "MetaSet", "stream": "r"}'
    assert taken(runs.store, other, resume=True).skipped == 1


def test_resume_does_not_go_on_with_a_run_that_ended_meanwhile(runs):
    taken(runs.store, line("RunQueued", data={"workflow": "w"}))
    runs.store.append("r", RunCancelled(by="alice"))

    with pytest.raises(ImportRefused, match="line 2: version 2 of r stands already and is RunCancelled"):
        taken(
            runs.store, line("RunQueued", data={"workflow": "w"}), line("RunStarted", data={"worker": "a"}), resume=True
        )


# --- lines that are none ------------------------------------------------------------------------------------------

GOOD = line("MetaSet", data={"name": "a"})
BAD = {
    "blank": ("", "the line is blank"),
    "no JSON": ("{'a': 1}", "the line is not JSON: Expecting property name"),
    "cut off": (json.dumps(GOOD)[:-3], "the line is not JSON"),
    "two on a line": (json.dumps(GOOD) * 2, "the line is not JSON: Extra data"),
    "a list": ("[1]", "must hold an object"),
    "a byte order mark": ("\ufeff" + json.dumps(GOOD), "the line is not JSON: Unexpected UTF-8 BOM"),
    "a field missing": ({"stream": "r", "data": {}}, "the line lacks type"),
    "several missing": ({}, "the line lacks stream and type and data"),
    "a field unknown": ({**GOOD, "version": 1}, "a field that is not known: 'version'"),
    "a stream of another type": ({**GOOD, "stream": 7}, "stream must be text, not 7"),
    "a type of another type": ({**GOOD, "type": None}, "type must be text, not null"),
    "data of another type": ({**GOOD, "data": [1]}, r"data must be an object, not \[1\]"),
    "a key of another type": ({**GOOD, "key": 1}, "key must be text, not 1"),
    "an attempt of another type": ({**GOOD, "attempt": True}, "attempt must be a whole number"),
    "a broken attempt": ({**GOOD, "attempt": 1.5}, "attempt must be a whole number"),
    "a negative attempt": ({**GOOD, "attempt": -1}, "must be the number of an attempt"),
    "a huge attempt": ({**GOOD, "attempt": 2**60}, "must be the number of an attempt"),
    "a time of another type": ({**GOOD, "recorded_at": 5}, "recorded_at must be an ISO 8601 time"),
    "a time without a zone": ({**GOOD, "recorded_at": "2020-01-01T00:00:00"}, "must be a time with a zone"),
    "no time": ({**GOOD, "occurred_at": "soon"}, "must be an ISO 8601 time"),
    "a key twice on the line": ('{"stream":"r","stream":"s","type":"MetaSet","data":{"name":"a"}}', "stands twice"),
    "a key twice in the data": (
        '{"stream":"r","type":"MetaSet","data":{"name":"a","name":"b"}}',
        "'name' stands twice",
    ),
    "NaN": ('{"stream":"r","type":"MetaSet","data":{"name":"a","value":NaN}}', "NaN is not JSON"),
    "beyond every float": (
        '{"stream":"r","type":"MetaSet","data":{"name":"a","value":1e999}}',
        "inf, which JSON does not",
    ),
    "a number of 5,000 digits": (
        f'{{"stream":"r","type":"MetaSet","data":{{"name":"a","value":{"9" * 5000}}}}}',
        "digits",
    ),
    "a lone surrogate": ({**GOOD, "data": {"name": "\ud800"}}, "lone surrogate"),
    "a surrogate as the stream": ({**GOOD, "stream": "\ud800"}, "printable"),
    "NUL in meta": ({**GOOD, "meta": "\0"}, "meta cannot be stored: .* NUL"),
    "an empty key": ({**GOOD, "key": ""}, "at least one character"),
    "a key with spaces": ({**GOOD, "key": " k"}, "without spaces"),
    "an unknown type": ({**GOOD, "type": "Nonsense"}, "no machine here knows the event type Nonsense"),
    "a payload field unknown": (
        {**GOOD, "data": {"name": "a", "colour": 1}},
        "fields that the event does not know: colour",
    ),
    "a payload field missing": ({**GOOD, "data": {}}, r"\$.name is missing"),
    "an event of another machine": (line("RunQueued", stream="good", data={"workflow": "w"}), "cannot take RunQueued"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_and_nothing_is_written(runs, name):
    bad, words = BAD[name]

    with pytest.raises(ImportRefused, match=words) as caught:
        taken(runs.store, {**GOOD, "stream": "good"}, bad, GOOD)

    assert str(caught.value).startswith("x.jsonl, line 2: ")
    assert str(caught.value).endswith("(nothing of this file was written)")
    assert told(runs.store) == []


@pytest.mark.parametrize("depth", [300, 10_000])
def test_deep_nesting_is_refused(runs, depth):
    deep = f'{{"stream":"r","type":"MetaSet","data":{{"name":"a","value":{"[" * depth}{"]" * depth}}}}}'

    with pytest.raises(ImportRefused, match="deeper than 254 levels"):
        taken(runs.store, deep)
    assert told(runs.store) == []


def test_a_line_that_is_no_utf_8_is_refused(runs):
    with pytest.raises(ImportRefused, match="line 1: the line is not UTF-8 at byte 2"):
        import_lines(runs.store, io.BytesIO(b'{\xff"stream": 1}\n'))


def test_a_file_without_events_says_so(runs):
    with pytest.raises(ImportRefused, match="the file holds no events"):
        import_lines(runs.store, io.BytesIO(b""))


def test_a_last_line_without_its_end_and_windows_ends_are_taken(runs):
    text = json.dumps(GOOD)

    assert import_lines(runs.store, io.BytesIO(f"{text}\r\n{text}".encode())).events == 2


class _Endless(io.RawIOBase):
    """A line that never ends."""

    def readable(self):
        return True

    def readinto(self, buffer):
        buffer[:] = b" " * len(buffer)
        return len(buffer)


def test_a_line_without_an_end_is_refused_without_filling_the_memory():
    store = eventstore.connect("memory:")
    tracemalloc.start()
    try:
        with pytest.raises(ImportRefused, match="the line is longer than"):
            import_lines(store, io.BufferedReader(_Endless()))
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_LINE
    finally:
        tracemalloc.stop()


def test_a_long_file_is_not_held_in_memory(tmp_path):
    path = tmp_path / "long.jsonl"
    payload = "x" * 10_000
    with path.open("w") as file:
        for number in range(5_700):
            print(
                json.dumps(line("LogRecorded", data={"source": "s", "kind": "k", "payload": f"{number}{payload}"})),
                file=file,
            )
    assert path.stat().st_size > 57_000_000

    with projections.connect(tmp_path / "x.db") as runs:
        tracemalloc.start()
        try:
            with path.open("rb") as file:
                import_lines(runs.store, file)
            assert sum(map(len, export_lines(runs.store))) > 57_000_000
            assert tracemalloc.get_traced_memory()[1] < 45_000_000  # 40 of it entries that wait to be written
        finally:
            tracemalloc.stop()


def test_a_users_own_machine_that_raises_names_the_line():
    class OwnError(Exception):
        pass

    def evolve(_state, _recorded):
        raise OwnError

    machine = eventstore.Machine("run", RUN.initial, RUN.table, evolve)
    store = EventStore(MemoryLog(), [machine])

    with pytest.raises(OwnError) as caught:
        taken(store, line("LogRecorded", data={"source": "a", "kind": "b"}), line("RunQueued", data={"workflow": "w"}))
    assert caught.value.__notes__ == ["at x.jsonl, line 2; nothing of this file was written"]
    assert list(store.read_all()) == []


def test_an_import_folds_along_what_others_left_behind(tmp_path):
    with eventstore.connect(tmp_path / "x.db") as store:  # a writer without projections
        store.append("other", RunQueued("w"))
    with projections.connect(tmp_path / "x.db") as runs:
        bring(runs.store)

        assert {standing.behind for standing in runs.standings()} == {0}
        assert runs.check().ok


def test_a_census_counts_streams_types_and_bytes(runs):
    runs.store.append("a", LogRecorded("s", "k", payload="ä"), MetaSet("n"))
    runs.store.append("b", MetaSet("n"))

    with runs.store.reading() as reading:
        census = reading.census()
    assert census.streams == 2
    assert census.types == (
        ("MetaSet", 2, *[2 * len('{"name":"n"}')] * 2),
        ("LogRecorded", 1, *[len('{"source":"s","kind":"k","payload":"..."}') - 1] * 2),
    )
