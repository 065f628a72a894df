"""What a worker archives and collects by itself: once a day, by one of them, and never at the cost of a run."""

import time
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import projections
from eventstore import LogRecorded
from eventstore.errors import InvalidArgument, StoreClosed
from eventstore.workflow import RunCompleted
from projections import Retention
from projections.retention import Keeper, due
from tests.archived import DAYS, lived
from tests.world import World


@pytest.fixture(name="world", params=["memory", "sqlite"])
def world_of_some_days(request, tmp_path):
    world = World(None if request.param == "memory" else tmp_path)
    yield world
    world.close()


@pytest.fixture(name="runs")
def store_that_lived(world):
    runs = world.runs()
    lived(world, runs)
    world.jumps(hours=3)
    return runs


def keeper(world, runs, *, stopping=lambda: False, **options):
    return Keeper(runs.store, Retention(**{"keep_days": 2, **options}), world.system(), stopping)


def entries(runs):
    return [recorded.entry for recorded in runs.store.read_all() if recorded.stream != "runfold"]


def sealed(runs):
    with runs.store.reading() as reading:
        return [segment.day for segment in reading.segments()]


@pytest.mark.parametrize(
    ("now", "day"),
    [
        ("2026-01-06T02:59:59", "2026-01-05"),
        ("2026-01-06T03:00:00", "2026-01-06"),
        ("2026-01-07T02:00:00", "2026-01-06"),
    ],
)
def test_a_round_is_due_at_its_time_of_the_day(now, day):
    found = due(Retention(at=time_of_day(3)), datetime.fromisoformat(now).replace(tzinfo=UTC))

    assert found.isoformat() == day


def test_a_round_seals_and_releases_and_everything_reads_as_before(world, runs):
    before = entries(runs)
    done = keeper(world, runs).look()

    assert (done.outcome, done.sealed, done.error) == ("done", len(DAYS), None)
    assert done.released > 0
    assert sealed(runs) == list(DAYS)
    assert entries(runs) == before


def test_a_round_is_done_once_a_day_and_again_on_the_next(world, runs):
    one = keeper(world, runs)
    looks = [one.look(), one.look()]
    world.jumps(hours=20)
    looks.append(one.look())
    world.jumps(hours=4)
    looks.append(one.look())

    assert [look and look.day for look in looks] == ["2026-01-06", None, None, "2026-01-07"]
    assert looks[-1].sealed == 1


def test_a_clock_that_was_far_ahead_or_a_damaged_note_of_the_day_stops_no_later_round(world, runs):
    one = keeper(world, runs)
    world.jumps(days=9_000)
    assert one.look().outcome == "done"
    world.jumps(days=-9_000)

    assert one.look().outcome == "done"
    assert (one.look(), keeper(world, runs).look()) == (None, None)
    folder = runs.store.log.archive
    folder.files.put(folder.folder / "retention", b"\xff9999")
    assert keeper(world, runs).look().outcome == "done"


def test_a_worker_whose_clock_is_behind_does_not_do_the_day_before_again(world, runs):
    assert keeper(world, runs).look().outcome == "done"
    world.jumps(hours=-1)

    assert keeper(world, runs).look() is None


def test_of_several_workers_one_does_the_round(world, runs):
    other = keeper(world, world.runs())

    assert keeper(world, runs).look().outcome == "done"
    assert other.look() is None
    assert other.last is None


def test_while_somebody_is_at_it_nobody_else_is_and_later_what_is_left_is_done(world, runs):
    archive = runs.store.log.archive
    one = keeper(world, runs)
    with archive.held():
        assert one.look() is None
    archive.files.folder(archive.folder)
    with archive.files.lock(archive.folder / "retention.lock"):
        assert one.look() is None

    assert sealed(runs) == []
    assert one.look().outcome == "done"


def test_a_long_past_is_worked_off_some_days_at_a_time(world, runs):
    one = keeper(world, runs, max_days=2)
    looks = [one.look(), one.look(), one.look()]

    assert [look and (look.outcome, look.sealed) for look in looks] == [("more", 2), ("done", 1), None]


@pytest.mark.parametrize("after", [0, 1, 2, 4])
def test_a_round_ends_at_the_next_page_when_its_worker_stops_and_another_goes_on(world, runs, after):
    before = entries(runs)
    asked = []

    def stopping():
        asked.append(1)
        return len(asked) > after

    stopped = keeper(world, runs, stopping=stopping, max_days=100).look()
    with runs.store.reading() as reading:
        head = reading.head().position
        assert stopped.released == head - reading.standing(1, head)
    world.passes(60)

    assert (stopped.outcome, len(asked)) == ("stopped", after + 1)
    assert entries(runs) == before
    assert keeper(world, world.runs()).look().outcome == "done"
    assert sealed(runs) == list(DAYS)
    assert entries(runs) == before


def test_what_fails_is_told_and_tried_again_in_an_hour_and_costs_no_run_anything(tmp_path, caplog):
    world = World(tmp_path)
    runs = world.runs()
    runs.store.append("a", LogRecorded("me", "x"))
    world.jumps(days=3)
    (tmp_path / "agent.db-archive").write_text("in its place")
    one = keeper(world, runs)
    failed = one.look()
    looks = [one.look()]
    runs.submit("deploy", run_id="run-1")
    world.passes(3600)
    (tmp_path / "agent.db-archive").unlink()
    looks.append(one.look())

    assert failed.outcome == "failed"
    assert "agent.db-archive" in failed.error
    assert "trying again in an hour" in caplog.text
    assert looks[0] is None
    assert (looks[1].outcome, looks[1].sealed) == ("done", 1)
    assert runs.workflow_runs.get("run-1").phase == "queued"
    world.close()


def test_a_store_that_was_closed_ends_it(world, runs):
    one = keeper(world, runs)
    runs.close()

    with pytest.raises(StoreClosed):
        one.look()


@pytest.mark.parametrize("wanted", [True, False])
def test_blobs_that_nobody_mentions_are_collected_where_that_is_wanted(wanted):
    with projections.connect("memory:") as runs:
        kept, lost = runs.blobs.write(b"kept"), runs.blobs.write(b"lost")
        runs.store.append("a", LogRecorded("me", "x", payload=kept))
        done = Keeper(
            runs.store, Retention(gc=wanted, min_age=timedelta(0)), projections.System(), lambda: False
        ).look()

        assert (done.outcome, done.collected, done.collected_bytes) == ("done", int(wanted), 4 * wanted)
        assert runs.blobs.exists(kept)
        assert runs.blobs.exists(lost) is not wanted


def test_a_worker_sees_to_it_while_it_runs_and_ends_with_it(tmp_path):
    with projections.connect(tmp_path / "agent.db") as runs:
        with runs.worker("w", retention=Retention(keep_days=0)) as worker:
            deadline = time.monotonic() + 20
            while worker.retained is None and time.monotonic() < deadline:
                time.sleep(0.01)
            runs.submit("deploy")
            with worker.claim() as attempt:
                attempt.append(RunCompleted())
        with runs.worker("other") as other:
            assert other.retained is None

    assert worker.retained.outcome == "done"
    assert not worker._keeping.is_alive()


def test_a_worker_that_stops_has_it_end_too(tmp_path):
    with projections.connect(tmp_path / "agent.db") as runs:
        worker = runs.worker("w", retention=Retention())
        worker.stop()
        worker._keeping.join(20)

        assert not worker._keeping.is_alive()
        worker.close()


def test_rounds_are_measured(world):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    with projections.connect(world.log(), system=world.system(), metrics=provider) as runs:
        lived(world, runs)
        done = keeper(world, runs).look()
        metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    found = {metric.name: metric.data.data_points[0] for metric in metrics}

    assert found["runfold.retention.rounds"].attributes["runfold.outcome"] == "done"
    assert found["runfold.retention.entries"].value == done.released


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep_days": -1}, {"keep_days": "30"}, {"max_days": 0}, {"min_age": timedelta(-1)}, {"min_age": 5},
        {"at": "03:00"}, {"at": time_of_day(3, tzinfo=UTC)},
    ],
)  # fmt: skip
def test_a_policy_that_cannot_be_is_refused(wrong):
    with pytest.raises(InvalidArgument, match=next(iter(wrong))):
        Retention(**wrong)
