"""How a log grows: weighed right on every backend, with bounded memory, and told so that one knows what to do next."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest

import eventstore
import projections
from eventstore import LogRecorded, MetaSet
from eventstore import growth as weighing
from eventstore.errors import InvalidArgument
from eventstore.growth import weigh
from eventstore.log import ENTRY_BYTES, Weight
from eventstore.memory import MemoryLog
from eventstore.payloads import to_microseconds
from eventstore.sqlite import SQLiteLog
from eventstore.workflow import MessageRecorded, RunCompleted, RunStarted
from projections.growth import Growth, Storage
from tests.archived import lived
from tests.blobbing import ages, noise
from tests.commanding import asked, plain_surroundings, runfold  # noqa: F401 - a fixture
from tests.world import Refusal, World

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self):
        self.now = START

    def __call__(self):
        return to_microseconds(self.now)


@pytest.fixture(name="clock")
def settable_clock():
    return Clock()


@pytest.fixture(name="store", params=["memory", "sqlite"])
def store_with_a_clock(request, clock, tmp_path):
    log = MemoryLog() if request.param == "memory" else SQLiteLog(tmp_path / "agent.db", synchronous="NORMAL")
    with eventstore.EventStore(log, (eventstore.RUN,), clock=clock) as store:
        yield store


def test_a_stretch_is_weighed_by_stream_type_and_day(store, clock):
    store.append("läuft", MetaSet("n"), MetaSet("n"), key="k", meta={"by": "me"})
    clock.now += timedelta(days=1, microseconds=-1)
    store.append("läuft", MetaSet("n"))
    clock.now += timedelta(microseconds=1)
    store.append("läuft", MetaSet("n"))
    store.append("b", MetaSet("n"))
    with store.reading() as reading:
        found = sorted(reading.weights(after=0, limit=4))
        rest = reading.weights(after=4, limit=4)

    plain = len('{"name":"n"}') + len("MetaSet") + 2 * len("läuft".encode()) + ENTRY_BYTES
    borne = len('{"by":"me"}') * 2 + len("läuft".encode()) * 2 + len("k") + len(" 2/k")
    day = (START - datetime(1970, 1, 1, tzinfo=UTC)).days
    assert found == [
        Weight("läuft", "MetaSet", day, 3, 3 * plain + borne),
        Weight("läuft", "MetaSet", day + 1, 1, plain),
    ]
    assert [weight.stream for weight in rest] == ["b"]


def test_what_is_told_is_about_what_the_file_takes(tmp_path):
    with eventstore.connect(tmp_path / "agent.db", synchronous="NORMAL") as store:
        empty = store.log.facts().bytes
        for number in range(40):
            store.append(f"run-{number}", *[LogRecorded("me", "said", payload="word " * 50)] * 100)
        found = weigh(store.log, today=START)
    taken = (tmp_path / "agent.db").stat().st_size - empty

    assert found.bytes == pytest.approx(taken, rel=0.2)


def test_the_largest_streams_and_all_types_are_named_and_days_in_their_order(store, clock):
    for number in range(5):
        store.append(f"s{number}", *[MetaSet("n")] * (number + 1))
        clock.now += timedelta(days=1)
    store.append("s0", LogRecorded("me", "x"))
    found = weigh(store.log, today=clock.now, largest=2, days=3)

    assert (found.entries, found.exact) == (16, True)
    assert [share.name for share in found.streams] == ["s4", "s3"]
    assert [(share.name, share.entries) for share in found.types] == [("MetaSet", 15), ("LogRecorded", 1)]
    assert [(share.name, share.entries) for share in found.days] == [
        ("2026-01-04", 4), ("2026-01-05", 5), ("2026-01-06", 1),
    ]  # fmt: skip
    assert found.bytes == sum(share.bytes for share in found.types)


def test_days_without_entries_count_for_the_average_and_days_before_the_first_do_not(store, clock):
    store.append("a", *[MetaSet("n")] * 6)
    clock.now += timedelta(days=2)

    assert weigh(store.log, today=clock.now, days=30).entries_a_day == 2
    assert weigh(store.log, today=clock.now, days=2).entries_a_day == 0
    (share,) = weigh(store.log, today=clock.now, days=2).days
    assert (share.name, share.entries) == ("2026-01-01", 6)


def test_where_a_clock_was_ahead_the_days_are_those_of_the_log(store, clock):
    store.append("a", MetaSet("n"))
    clock.now += timedelta(days=400)
    store.append("a", MetaSet("n"))
    clock.now -= timedelta(days=400)
    store.append("a", MetaSet("n"), MetaSet("n"))
    found = weigh(store.log, today=clock.now, days=3, keep_days=2)

    assert found.entries_a_day == 1
    assert (found.old.name, found.old.entries) == ("2027-02-03", 1)


def test_of_very_many_streams_the_large_ones_are_kept_and_it_is_said_that_sums_are_at_least(store, clock, monkeypatch):
    monkeypatch.setattr(weighing, "KEPT", 10)
    monkeypatch.setattr(weighing, "PAGE", 7)
    store.append("large", *[MetaSet("n")] * 20)
    for number in range(100):
        store.append(f"small-{number}", MetaSet("n"))
    store.append("large", MetaSet("n"))
    found = weigh(store.log, today=clock.now, largest=1)

    assert not found.exact
    assert found.streams[0].entries == 21
    assert found.entries == 121


def test_a_log_that_grows_while_it_is_weighed_is_weighed_as_far_as_it_had_come(store, clock):
    store.append("a", *[MetaSet("n")] * 3)
    told = []

    def progress(done, total):
        told.append((done, total))
        store.append("a", MetaSet("n"))

    assert weigh(store.log, today=clock.now, progress=progress).entries == 3
    assert told == [(3, 3)]


def test_an_empty_log_has_no_growth(store):
    found = weigh(store.log, today=START)

    assert (found.entries, found.bytes, found.streams, found.bytes_a_day) == (0, 0, (), 0)
    assert Growth("memory:", 30, found, None).advice == ("Nothing was written lately, so the log does not grow.",)


@pytest.mark.parametrize(
    "asked_for",
    [{"largest": 0}, {"days": 10_001}, {"days": "5"}, {"largest": True}, {"keep_days": -1}, {"keep_days": 10_001}],
)
def test_numbers_that_cannot_be_are_refused(asked_for):
    with projections.connect("memory:") as runs, Refusal(runs, InvalidArgument, match=next(iter(asked_for))):
        runs.growth(**asked_for)


def test_an_encrypted_store_is_weighed_and_measured_like_any_other(tmp_path):
    with projections.connect(tmp_path / "agent.db", key=bytes(range(32))) as runs:
        runs.submit("deploy", run_id="run-1")
        found = runs.growth()

        assert [share.name for share in found.weights.streams] == ["run-1"]
        assert found.storage.free == 0
        assert found.storage.database + found.storage.wal == runs.store.log.facts().bytes
        assert found.advice


# --- what to do next ----------------------------------------------------------------------------------------------


@pytest.fixture(name="weights")
def large_weights(store, clock):
    """As if it were large."""
    store.append("a b", *[MetaSet("n")] * 3)
    store.append("c", MetaSet("n"))
    found = weigh(store.log, today=clock.now)
    large = eventstore.changing.changed

    def times(share):
        return large(share, bytes=share.bytes * 1_000_000)

    return large(times(found), bytes_a_day=2e9, streams=tuple(map(times, found.streams)))


def test_a_stream_that_has_most_of_the_log_is_named_with_the_command_to_look_at_it(weights):
    said = Growth("my agent.db", 30, weights, None).advice

    assert said[0].startswith("One stream has 76%")
    assert "`runfold events 'my agent.db' --stream 'a b' --limit 20`" in said[0]
    assert said[-1] == "At 2.0 GB a day the log grows by 730 GB a year."


def test_a_large_wal_is_told_with_what_to_do(weights):
    storage = Storage(database=10**9, free=0, wal=10**9, segments=0, blobs=0, unmentioned=0)
    small = eventstore.changing.changed(storage, wal=10**6)

    assert Growth("agent.db", 30, weights, storage).advice[0].startswith("The write-ahead log has 1.0 GB")
    assert not any("write-ahead" in said for said in Growth("agent.db", 30, weights, small).advice)


def test_free_pages_and_blobs_that_nobody_mentions_are_told_with_the_command_that_frees_them(weights):
    storage = Storage(database=10**9, free=5 * 10**8, wal=0, segments=0, blobs=10**6, unmentioned=10**5)
    free, blobs, *_ = Growth("agent.db", 30, weights, storage).advice

    assert free.startswith("500 MB of the database are free")
    assert "`runfold archive agent.db --vacuum`" in free
    assert blobs == "100 kB of blobs are mentioned by no event; to free them: `runfold blobs gc agent.db`."


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_what_archiving_would_free_is_about_what_it_frees(backend, tmp_path):
    world = World(None if backend == "memory" else tmp_path)
    runs = world.runs()
    lived(world, runs)
    told = runs.growth(keep_days=2)
    done = runs.archive(keep_days=2)
    again = runs.growth(keep_days=2)

    # The first 8 entries and the last one of a stream of notes stay.
    assert done.released < told.weights.old.entries <= done.released + 2 * 9
    assert "`runfold archive" in told.advice[0]
    assert again.weights.old.entries <= 20
    assert told.weights.entries - done.released + len(done.sealed) == again.weights.entries
    if backend == "sqlite":
        assert again.storage.segments == sum(segment.size for segment in done.sealed)
    world.close()


def test_days_of_which_entries_left_do_not_make_the_log_grow_more_slowly():
    world = World()
    runs = world.runs()
    for day in range(8):
        for number in range(3):
            runs.submit("deploy", run_id=f"run-{day}-{number}")
            runs.cancel(f"run-{day}-{number}", by="alice")
        world.jumps(days=1)
    world.jumps(days=-1)
    before = runs.growth(days=8).weights
    runs.archive(keep_days=2)

    assert before.entries_a_day == 6
    notes = len(runs.segments())
    assert runs.growth(days=8).weights.entries_a_day == (3 * 6 + notes) / 3
    world.close()


def test_a_log_with_an_entry_that_cannot_be_read_is_weighed_all_the_same(tmp_path):
    with projections.connect(tmp_path / "agent.db") as runs:
        runs.blobs.write(b"orphan")
        ages(runs.store.log)
        whole = runs.growth()
        runs.meta.set("large", noise())
        for item in runs.store.log.blobs.each():
            if item.size > 100:
                item.path.unlink()
        found = runs.growth()

    assert (whole.storage.unmentioned, found.storage.unmentioned, found.storage.blobs) == (6, 0, 6)
    assert found.weights.entries == 1


def test_of_runs_that_ended_all_but_the_last_entry_is_old_and_of_those_that_may_go_on_nothing():
    world = World()
    runs = world.runs()
    for name in ("a", "b", "going"):
        runs.submit("deploy", run_id=name)
        runs.store.append(name, RunStarted("w"), *[MessageRecorded("user", "hi")] * 5)
        if name != "going":
            runs.store.append(name, RunCompleted(), attempt=1)
    world.jumps(days=40)
    told = runs.growth()

    assert told.weights.old.entries == 2 * 7
    assert told.weights.old.name == "2026-01-11"
    assert runs.archive().released == 2 * 7
    world.close()


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_tells_what_takes_how_much_and_ends_with_what_to_do(tmp_path):
    seconds = itertools.count(to_microseconds(START), 1_000_000)
    with projections.connect("agent.db", system=projections.System(microseconds=lambda: next(seconds))) as runs:
        for number in range(3):
            runs.submit("deploy", run_id=f"run-{number}")
    said = runfold("stats", "agent.db", "--growth", "--largest", "2").stdout

    assert "log       3 events," in said
    assert "RunQueued" in said
    assert "2026-01-01" in said
    assert "run-2" not in said
    assert said.splitlines()[-1] == "Nothing was written lately, so the log does not grow."
    document = asked("stats", "agent.db", "--growth")
    assert document["weights"]["events"] == 3
    assert document["storage"]["database"] == (tmp_path / "agent.db").stat().st_size
    assert document["database"] == "agent.db"
    assert runfold("stats", "agent.db", "--growth", "--days", "0", code=2)
    assert "--days goes with --growth" in runfold("stats", "agent.db", "--days", "3", code=2).stderr
