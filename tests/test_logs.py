"""Generic log entries: recorded once, asked for by what they are about, paged without gap or repetition."""

from datetime import timedelta

import pytest

from eventstore.errors import Fenced, IllegalTransition, InvalidArgument, InvalidPayload, KeyReused
from eventstore.limits import MAX_ROWS
from eventstore.notes import NOTES, LogRecorded, MetaSet
from eventstore.workflow import RunQueued, RunStarted
from projections import notes
from tests.world import World


@pytest.fixture(params=["memory", "sqlite"])
def world(request, tmp_path):
    world = World(None if request.param == "memory" else tmp_path)
    yield world
    world.close()


@pytest.fixture
def runs(world):
    """Six entries, two a minute, of two sources and three kinds; the last in another stream."""
    runs = world.runs()
    for number in range(5):
        runs.logs.record(f"s{number % 2}", f"k{number % 3}", f"r{number}" if number else None, {"n": number})
        world.jumps(seconds=30)
    runs.logs.record("s1", "k2", "r5", {"n": 5}, stream="audit")
    return runs


def numbers(entries):
    return [entry.payload["n"] for entry in entries]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"source": "s1"}, [1, 3, 5]),
        ({"kind": "k2"}, [2, 5]),
        ({"source": "s0", "kind": "k2"}, [2]),
        ({"ref": "r3"}, [3]),
        ({"stream": "audit"}, [5]),
        ({"kind": ["k0", "k1"]}, [0, 1, 3, 4]),
        ({"source": ""}, []),
        ({"ref": "r'3; --"}, []),
        ({"kind": []}, []),
    ],
)
def test_entries_are_found_by_each_filter_and_by_several_at_once(runs, filters, found):
    assert numbers(runs.logs.where(**filters)) == found
    assert numbers(runs.logs.where(newest_first=True, **filters)) == found[::-1]
    assert numbers(runs.logs.each(**filters)) == found
    assert runs.logs.count(**filters) == len(found)


def test_since_is_within_and_until_is_not(world, runs):
    start = world.now - timedelta(seconds=150)

    assert numbers(runs.logs.where(since=start + timedelta(seconds=30), until=start + timedelta(seconds=90))) == [1, 2]
    assert numbers(runs.logs.where(since=world.now)) == [5]


def test_the_time_is_that_of_happening_and_the_order_that_of_the_log(world, runs):
    long_ago = world.now - timedelta(days=400)
    runs.logs.record("s9", "k", occurred_at=long_ago, payload={"n": 9})

    assert numbers(runs.logs.where(until=long_ago + timedelta(seconds=1))) == [9]
    assert numbers(runs.logs.where(newest_first=True, limit=1)) == [9]


def test_an_entry_comes_back_with_its_place_and_whatever_it_held(runs):
    odd = {"nested": [None, 1.5, "é\u2028' \" \\"], "": {}}
    placed = runs.logs.record("s'; DROP", "k\n", "ref\t", odd, stream="odd")

    assert runs.logs.where(stream="odd") == [
        notes.LogEntry(
            placed.position, "odd", 1, "s'; DROP", "k\n", "ref\t", odd, None, placed.time,
        )
    ]  # fmt: skip
    runs.logs.record("large", "k", payload="x" * 200_000)
    assert [len(entry.payload) for entry in runs.logs.where(source="large")] == [200_000]


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_meet_though_entries_come_between(runs, newest_first):
    found, place = [], {}
    while page := runs.logs.where(limit=2, newest_first=newest_first, until=None, **place):
        found += numbers(page)
        place = {"before" if newest_first else "after": page[-1].position}
        if newest_first:
            runs.logs.record("s", "k", payload={"n": 99})

    assert found == ([5, 4, 3, 2, 1, 0] if newest_first else [0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize("newest_first", [False, True])
def test_each_goes_through_all_of_them_page_by_page(runs, newest_first, monkeypatch):
    monkeypatch.setattr(notes, "PAGE", 2)

    found = numbers(runs.logs.each(newest_first=newest_first, after=1, before=6))
    assert found == ([4, 3, 2, 1] if newest_first else [1, 2, 3, 4])


@pytest.mark.parametrize(
    "bad",
    [
        {"limit": 0}, {"limit": -1}, {"limit": MAX_ROWS + 1}, {"limit": "2"}, {"limit": "1; DROP TABLE logs"},
        {"after": -1}, {"before": "x"}, {"source": 5}, {"since": "yesterday"}, {"after": True},
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_is_refused(runs, bad):
    with pytest.raises(InvalidArgument):
        runs.logs.where(**bad)

    assert runs.logs.count() == 6


def test_each_and_count_refuse_what_they_do_not_take(runs):
    with pytest.raises(InvalidArgument, match="each"):
        next(runs.logs.each(limit=3))
    with pytest.raises(InvalidArgument, match="filter 'sauce' is none of source, kind, ref, stream"):
        runs.logs.count(sauce="s1")


def test_recording_again_under_a_key_gives_what_stands(world, runs):
    first = runs.logs.record("s", "k", "r", {"n": 7}, key="once")

    assert world.runs().logs.record("s", "k", "r", {"n": 7}, key="once") == first
    assert runs.logs.count() == 7
    with pytest.raises(KeyReused):
        runs.logs.record("s", "k", "r", {"n": 8}, key="once")
    assert runs.logs.count() == 7


def test_what_cannot_be_stored_is_refused_and_nothing_stands(runs):
    for payload in (float("nan"), "\ud800", {1, 2}, 2**53):
        with pytest.raises(InvalidPayload):
            runs.logs.record("s", "k", payload=payload)

    assert (runs.logs.count(), runs.store.head().position) == (6, 6)


def test_an_entry_of_a_run_is_work_of_its_attempt(runs):
    runs.store.append("run-1", RunQueued("deploy"))
    with pytest.raises(IllegalTransition):
        runs.logs.record("s", "k", stream="run-1")
    runs.store.append("run-1", RunStarted("w1"))
    with pytest.raises(Fenced):
        runs.logs.record("s", "k", stream="run-1")
    runs.logs.record("s", "k", stream="run-1", attempt=1)

    assert [(entry.version, entry.attempt) for entry in runs.logs.where(stream="run-1")] == [(3, 1)]


def test_rows_made_anew_are_those_that_stand(runs):
    assert runs.check("logs").ok
    runs.rebuild("logs")

    assert numbers(runs.logs.where()) == [0, 1, 2, 3, 4, 5]


def test_more_streams_than_handles_are_kept_are_written_to_all_the_same(runs, monkeypatch):
    monkeypatch.setattr(notes, "_HANDLES", 2)
    for _ in range(2):
        for number in range(5):
            runs.logs.record("s", "k", stream=f"of-{number}")

    assert [entry.version for entry in runs.logs.where(stream="of-4")] == [1, 2]


RUN_BEGINS = [RunQueued("deploy"), RunStarted("w1")]


@pytest.mark.parametrize(
    ("machine", "before", "behind"),
    [
        (None, [], []),
        (None, [], [MetaSet("a")]),
        (None, [MetaSet("a")], []),
        (None, [], RUN_BEGINS),
        (NOTES, [], []),
        (NOTES, [MetaSet("a")], [MetaSet("b")]),
    ],
)
def test_a_long_stream_of_notes_is_opened_as_it_would_be_folded(world, machine, before, behind):
    store = world.runs().store
    for event in (*before, *[LogRecorded("s", "k")] * 12, *behind):
        store.append("long", event)

    with store.reading() as reading:
        opened = store.opening.fold(reading, "long", store.gate.start(machine))
        assert opened == store.gate.fold(reading, "long", store.gate.start(machine))


def test_an_attempt_that_one_caller_named_is_not_lent_to_another(world, runs):
    runs.submit("work", run_id="run-1")
    world.worker().claim()
    runs.logs.record("s", "k", stream="run-1", attempt=1)

    with pytest.raises(Fenced):
        runs.logs.record("s", "k", stream="run-1")
    assert runs.logs.count(stream="run-1") == 1
