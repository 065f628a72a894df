"""What is measured, with OpenTelemetry's own SDK: counted right by every way in, and never at the cost of a fact."""

import asyncio
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from weakref import WeakSet

import pytest
from opentelemetry import metrics as api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import eventstore
import projections
from eventstore import RUN, LogRecorded, metrics
from eventstore.errors import Fenced, IllegalTransition, InvalidArgument, InvalidPayload, RunExists, VersionConflict
from eventstore.metrics import INSTRUMENTS
from eventstore.workflow import CheckpointSaved, MessageRecorded, RunCompleted, RunStarted
from projections.metrics import COUNTERS, GAUGES, RECOVERED, SIZE
from tests.world import World


class Measured:
    """A provider and what it has heard: a series by the name of its instrument and its attribute."""

    def __init__(self, **views):
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False, **views)

    def metrics(self):
        data = self.reader.get_metrics_data()
        scopes = [scope for resource in (data.resource_metrics if data else ()) for scope in resource.scope_metrics]
        return [metric for scope in scopes for metric in scope.metrics]

    def points(self):
        return {
            (metric.name, *(value for key, value in sorted(point.attributes.items()) if key != "db.namespace")): point
            for metric in self.metrics()
            for point in metric.data.data_points
        }

    def read(self):
        """Counters and gauges by their value, histograms by how often and how much."""
        points = self.points().items()
        return {key: point.value if hasattr(point, "value") else (point.count, point.sum) for key, point in points}


@pytest.fixture(name="measured")
def measured_provider():
    measured = Measured()
    yield measured
    measured.provider.shutdown()


@pytest.fixture(name="runs", params=["memory", "sqlite"])
def measured_runs(request, measured, tmp_path):
    url = "memory:" if request.param == "memory" else tmp_path / "agent.db"
    with projections.connect(url, metrics=measured.provider) as runs:
        yield runs


def test_appends_entries_and_transactions_are_counted(runs, measured):
    runs.submit("deploy", run_id="a")
    runs.store.append("notes", LogRecorded("me", "x"), LogRecorded("me", "y"))
    found = measured.read()

    assert found["runfold.append.duration",][0] == 2
    assert found["runfold.log.entries", "RunQueued"] == 1
    assert found["runfold.log.entries", "LogRecorded"] == 2
    assert found["runfold.transaction.batch_size",] == (2, 2)
    assert found["runfold.transaction.duration",][0] == 2


def test_the_sync_of_the_disk_is_timed_where_there_is_one(runs, measured):
    runs.submit("deploy")

    assert (("runfold.commit.duration",) in measured.read()) == (runs.store.log.url != "memory:")


def test_what_is_refused_is_counted_by_its_kind_and_no_entry_is(runs, measured):
    runs.submit("deploy", run_id="a")
    entries = {key: value for key, value in measured.read().items() if key[0] == "runfold.log.entries"}
    for error, refused in (
        (VersionConflict, lambda: runs.store.append("a", RunStarted("w"), expected_version=7)),
        (IllegalTransition, lambda: runs.store.append("a", RunCompleted())),
        (IllegalTransition, lambda: runs.store.stream("a", RUN).transact(lambda _state: RunCompleted())),
        (InvalidPayload, lambda: runs.store.append("a", RunStarted(7))),
        (RunExists, lambda: runs.submit("deploy", run_id="a")),
    ):
        with pytest.raises(error):
            refused()
    found = measured.read()

    assert found["runfold.append.refusals", "VersionConflict"] == 1
    assert found["runfold.append.refusals", "IllegalTransition"] == 2
    assert found["runfold.append.refusals", "InvalidPayload"] == 1
    assert found["runfold.append.refusals", "RunExists"] == 1
    assert found["runfold.append.duration", "IllegalTransition"][0] == 2
    assert {key: value for key, value in found.items() if key[0] == "runfold.log.entries"} == entries


def test_what_fails_without_being_refused_is_timed_by_its_error(runs, measured):
    def fail(_state):
        raise ZeroDivisionError

    runs.submit("deploy", run_id="a")
    with pytest.raises(ZeroDivisionError):
        runs.store.stream("a", RUN).transact(fail)
    found = measured.read()

    assert found["runfold.append.duration", "ZeroDivisionError"][0] == 1
    assert not [key for key in found if key[0] == "runfold.append.refusals"]


def test_times_are_those_of_the_clock_that_was_given(measured):
    world = World()
    runs = projections.connect("memory:", system=world.system(), metrics=measured.provider)

    runs.store.append("notes", LogRecorded("me", "x"), provided=lambda _transaction: world.passes(0.5))

    assert measured.read()["runfold.append.duration",] == (1, 0.5)
    assert measured.read()["runfold.transaction.duration",] == (1, 0.5)


def test_threads_that_share_commits_are_all_counted(measured, tmp_path):
    with projections.connect(tmp_path / "agent.db", metrics=measured.provider, synchronous="NORMAL") as runs:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: runs.store.append(f"s{number}", LogRecorded("me", "x")), range(64)))
        found = measured.read()

    assert found["runfold.append.duration",][0] == 64
    assert found["runfold.log.entries", "LogRecorded"] == 64
    assert found["runfold.transaction.batch_size",][1] == 64


def test_a_neighbour_that_is_undone_and_run_again_is_counted_once(measured, tmp_path):
    """Both are in one transaction; the second raises when it has written, so all begin anew, apart."""
    done = []
    with eventstore.connect(tmp_path / "agent.db", metrics=measured.provider) as store:

        def fails(transaction):
            store.stream("b").job(LogRecorded("me", "b"))(transaction)
            raise ZeroDivisionError

        members = [
            eventstore.log.Member(job, done.extend) for job in (store.stream("a").job(LogRecorded("me", "a")), fails)
        ]
        store.log.submit(members)
        while len(done) < 2:
            store.log.wait(1, 1)
        found = measured.read()

    assert isinstance(members[1].error, ZeroDivisionError)
    assert found["runfold.log.entries", "LogRecorded"] == 1


def test_what_a_transaction_placed_that_failed_is_not_counted_with_the_next(runs, measured):
    """So much that it is folded before the commit, as in an import."""

    def fails(transaction):
        runs.store.stream("a").job(*[LogRecorded("me", "x")] * 1_001)(transaction)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        runs.store.log.write(fails)
    runs.store.append("a", LogRecorded("me", "x"))

    assert measured.read()["runfold.log.entries", "LogRecorded"] == 1


def test_tasks_of_a_loop_are_counted_and_so_are_their_refusals(measured, tmp_path):
    async def program():
        async with projections.aconnect(tmp_path / "agent.db", metrics=measured.provider) as runs:
            await asyncio.gather(*(runs.store.append(f"s{n}", LogRecorded("me", "x")) for n in range(20)))
            with pytest.raises(VersionConflict):
                await runs.store.append("s1", LogRecorded("me", "x"), expected_version=9)
            return measured.read()

    found = asyncio.run(program())

    assert found["runfold.append.duration",][0] == 20
    assert found["runfold.log.entries", "LogRecorded"] == 20
    assert found["runfold.append.refusals", "VersionConflict"] == 1


def test_a_delegated_call_and_its_child_are_one_append_of_two_entries(measured):
    with projections.connect("memory:", metrics=measured.provider) as runs, runs.worker("w") as worker:
        runs.submit("deploy", run_id="a")
        before = measured.read()["runfold.append.duration",][0]
        with worker.claim() as attempt:
            attempt.delegate("c1", "child")
        found = measured.read()

    assert found["runfold.log.entries", "ToolCalled"] == 1
    assert found["runfold.log.entries", "RunQueued"] == 2
    assert found["runfold.append.duration",][0] == before + 3  # claimed, delegated, parked


def test_recovered_runs_are_counted_by_what_became_of_them(measured):
    world = World()
    first = world.worker()
    runs = world.runs()
    for name in ("resumed", "interrupted", "parked"):
        runs.submit("deploy", run_id=name)
        attempt = first.claim()
        attempt.append(CheckpointSaved(1, {}))
        if name == "parked":
            attempt.__exit__(None, None, None)
    runs.interrupt("interrupted", by="me")
    world.dies(first)
    log, system = world.log(), world.system()
    second = projections.connect(log, system=system, metrics=measured.provider).worker("w")

    second.recover()
    second.recover()
    taken = {second.claim().run_id, second.claim().run_id}
    found = measured.read()

    assert taken == {"resumed", "parked"}
    counted = {key[1]: value for key, value in found.items() if key[0] == RECOVERED.name}
    assert counted == {"interrupted": 1, "resumed": 1}
    second.close()
    world.close()


def test_gauges_tell_runs_by_phase_questions_lag_and_size(runs, measured):
    for name in ("a", "b", "c"):
        runs.submit("deploy", run_id=name)
    with runs.worker("w") as worker:
        with worker.claim() as attempt:
            attempt.ask("c1", "ship", {})
        worker.claim()
        found = measured.read()

    phases = {key[1]: value for key, value in found.items() if key[0] == "runfold.runs.active"}
    assert phases == {"queued": 1, "started": 1, "paused": 1}
    assert found["runfold.questions.open",] == 1
    assert found["runfold.projection.lag", "usage"] == 0
    assert found["runfold.projections.troubled",] == 0
    assert (found.get(("runfold.database.size",), 0) > 4096) == (runs.store.log.url != "memory:")


def test_a_gauge_tells_the_lag_and_does_not_catch_up(measured, tmp_path):
    with (
        projections.connect(tmp_path / "agent.db", metrics=measured.provider),
        eventstore.connect(tmp_path / "agent.db", metrics=False) as other,
    ):
        other.append("a", LogRecorded("me", "x"))
        read = [measured.read()["runfold.projection.lag", "logs"] for _ in range(2)]

    assert read == [1, 1]


def test_a_table_that_cannot_answer_has_no_value_and_is_told_as_such(measured, tmp_path):
    with projections.connect(tmp_path / "agent.db", metrics=measured.provider) as runs:
        runs.store.log.write(
            lambda transaction: transaction.execute("DELETE FROM cursors WHERE name = 'confirmations'")
        )
        found = measured.read()

    assert ("runfold.questions.open",) not in found
    assert found["runfold.projections.troubled",] == 1


def test_a_store_that_is_closed_takes_its_gauges_away_and_leaves_those_of_others(measured, tmp_path):
    def databases():
        data = measured.reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        points = [
            point for metric in data if metric.name == "runfold.questions.open" for point in metric.data.data_points
        ]
        return {point.attributes["db.namespace"] for point in points}

    with projections.connect(tmp_path / "a.db", metrics=measured.provider):
        with projections.connect(tmp_path / "b.db", metrics=measured.provider):
            both = databases()
        one = databases()

    assert both == {str(tmp_path / "a.db"), str(tmp_path / "b.db")}
    assert one == {str(tmp_path / "a.db")}
    assert not [key for key in measured.read() if key[0] in {gauge.name for gauge in GAUGES}]


class Boom(Exception):
    pass


class Broken:
    """A provider whose instruments raise, each time they are told something; or that cannot even make them."""

    def __init__(self, *, at_once=False):
        self._at_once = at_once

    def get_meter(self, *_args):
        return self

    def __getattr__(self, _name):
        if self._at_once:
            raise Boom
        return self._make

    def _make(self, *_args, **_options):
        return self

    def add(self, *_args):
        raise Boom

    record = add


@pytest.mark.parametrize("at_once", [False, True], ids=["told", "made"])
def test_an_sdk_that_raises_costs_no_fact_and_is_told_once(at_once, caplog, tmp_path):
    with projections.connect(tmp_path / "agent.db", metrics=Broken(at_once=at_once)) as runs:
        for _ in range(3):
            runs.submit("deploy")
        with pytest.raises(IllegalTransition):
            runs.store.append("a", RunCompleted())
        rows = runs.workflow_runs.count()

    told = [record.message for record in caplog.records if "append.duration" in record.message]
    assert rows == 3
    assert len(told) == 1


def test_a_gauge_that_raises_is_told_once_and_leaves_the_others_alone(measured, caplog):
    with (
        projections.connect("memory:", metrics=measured.provider) as runs,
        projections.connect("memory:", metrics=measured.provider) as other,
    ):
        other.submit("deploy")
        runs._projector.tables.count = None
        found = [measured.read()["runfold.runs.active", "queued"] for _ in range(2)]

    assert found == [1, 1]
    assert len([record for record in caplog.records if "runs.active" in record.message]) == 1


def test_an_exporter_that_lives_on_in_a_child_process_asks_nothing_of_the_parents_store(
    measured, tmp_path, monkeypatch, caplog
):
    with (
        projections.connect(tmp_path / "agent.db", metrics=measured.provider) as runs,
        projections.connect("memory:", metrics=measured.provider) as of_the_child,
    ):
        of_the_child.submit("deploy")
        runs.submit("deploy")
        monkeypatch.setattr(runs.store.log, "_process", -1)
        found = measured.read()

    assert found["runfold.runs.active", "queued"] == 1
    assert caplog.records == []


def test_a_store_that_is_opened_while_gauges_are_read_costs_none_of_them(measured, tmp_path, monkeypatch):
    class Opened(WeakSet):
        """Another thread opens a store between two of its members, once."""

        def __iter__(self):
            for member in super().__iter__():
                yield member
                if not more:
                    more.append(projections.connect(tmp_path / "b.db", metrics=measured.provider))

    more = []
    with projections.connect(tmp_path / "a.db", metrics=measured.provider):
        told = metrics.instruments(measured.provider)
        monkeypatch.setattr(told, "_observed", Opened(told._observed))
        found = told._callback(SIZE)(None)
        more[0].close()

    assert sorted(Path(item.attributes["db.namespace"]).name for item in found) == ["a.db", "b.db"]


def test_no_attribute_is_of_many_values(measured, runs):
    """Ids of runs, streams and calls would make a series each."""
    with runs.worker("some-worker") as worker:
        for number in range(3):
            runs.submit("deploy", run_id=f"run-{number}")
            with worker.claim() as attempt:
                attempt.append(MessageRecorded("user", "hi"), RunCompleted())
    points = measured.points()

    known = {"db.namespace"} | {item.attribute for item in (*INSTRUMENTS, *COUNTERS, *GAUGES)}
    assert {name for point in points.values() for name in point.attributes} <= known
    assert not [value for point in points.values() for value in point.attributes.values() if value.startswith("run-")]


def test_units_and_buckets_are_those_of_the_tables(measured, runs):
    runs.submit("deploy")
    told = {metric.name: (metric.unit, metric.description) for metric in measured.metrics()}
    defined = {item.name: (item.unit, item.description) for item in (*INSTRUMENTS, *COUNTERS, *GAUGES)}

    assert told.items() <= defined.items()
    assert measured.points()["runfold.append.duration",].explicit_bounds[:2] == (0.0001, 0.00025)


# --- when it is looked for ----------------------------------------------------------------------------------------


def test_the_programs_own_provider_is_found_where_it_imported_the_api_whenever_it_is_set():
    program = """
import sys, projections
assert "opentelemetry" not in sys.modules
with projections.connect("memory:") as runs:
    assert runs.store.watch is None
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
first = projections.connect("memory:")
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
second = projections.connect("memory:", metrics=True)
third = projections.connect("memory:", metrics=metrics.get_meter_provider())
off = projections.connect("memory:", metrics=False)
for runs in (first, second, third, off):
    runs.submit("deploy")
found = {metric.name: metric for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics}
print(sum(point.value for point in found["runfold.log.entries"].data.data_points), "runfold.runs.active" in found)
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)

    assert (result.stdout, result.stderr) == ("3 True\n", "")


@pytest.mark.parametrize("connect", [eventstore.connect, projections.connect])
def test_what_is_no_provider_is_refused_and_no_file_is_made(connect, tmp_path):
    class Compared(MeterProvider):
        __hash__ = None

    class Slotted:
        __slots__ = ("get_meter",)

        def __init__(self):
            self.get_meter = print

    for unknown in (Compared(), Slotted()):
        with pytest.raises(InvalidArgument, match="hashed by its identity"):
            connect(tmp_path / "agent.db", metrics=unknown)
    with pytest.raises(InvalidArgument, match="is no MeterProvider"):
        connect(tmp_path / "agent.db", metrics="prometheus")

    assert list(tmp_path.iterdir()) == []


def test_asking_for_what_is_not_installed_says_what_to_install_and_finding_it_broken_is_no_error(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)

    with pytest.raises(InvalidArgument, match=r"pip install 'runfold\[metrics\]'"):
        projections.connect("memory:", metrics=True)
    with caplog.at_level(logging.WARNING, "runfold"), projections.connect("memory:") as runs:
        runs.submit("deploy")

    assert runs.store.watch is None
    assert "nothing is measured" in caplog.text


def test_the_api_without_an_sdk_measures_nothing_and_disturbs_nothing():
    assert api.get_meter_provider() is not None
    with projections.connect("memory:", metrics=True) as runs, runs.worker("w", lease=timedelta(hours=1)) as worker:
        runs.submit("deploy", run_id="a")
        with worker.claim() as attempt:
            attempt.append(RunCompleted())
        with pytest.raises(Fenced):
            attempt.append(CheckpointSaved(1, {}))

        assert runs.workflow_runs.get("a").phase == "completed"
