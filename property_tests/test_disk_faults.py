"""A disk that fails or is full: nothing acknowledged is lost, no outcome is misreported, and mending it is enough."""

import logging
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

import projections
from eventstore.errors import EventStoreError, OutcomeUnknown
from eventstore.notes import LogRecorded
from eventstore.sqlite import sqlite3
from eventstore.workflow import RunCompleted
from tests.faults import disks

ROOT = Path(__file__).parent.parent
LINE = LogRecorded("test", "line")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the shim wraps the file system of SQLite on Linux")


@pytest.fixture(autouse=True)
def no_warnings():
    """A witness that cannot be written says so each time."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("part", range(4))
def test_a_disk_that_fails_at_any_operation_of_any_call_loses_nothing_and_is_told_truly(tmp_path, part):
    """A sample, in parts that several processors can share; `python -m tests.faults.run disks` tries each."""
    calls = disks.CALLS[part::4]

    tally = disks.enumerate_all(tmp_path, every=127, calls=calls)

    assert tally.wrong == []
    assert tally.cases > 15
    assert tally.unknown > 0
    assert set(tally.by_call) == {call.name for call in calls}


@pytest.fixture(name="bench")
def bench_on_a_disk(tmp_path):
    """A store on a disk that can be told to fail."""
    template = tmp_path / "template"
    disks.furnish(template)
    bench = disks.Bench(disks.copy(template, tmp_path / "store"), disks.Disk())
    with ExitStack() as stack:
        stack.enter_context(disks.device().installed(bench.disk))
        bench.connect()
        stack.callback(bench.leave)
        stack.callback(bench.disk.mend)
        yield bench


def fills_up(bench, how="full"):
    bench.disk.armed, bench.disk.fault = True, disks.Fault(-1, "write", how, stays=True)


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_disk_that_stays_full_costs_no_file_descriptors(bench):
    bench.runs.store.append("notes", LINE)
    fills_up(bench)
    for _ in range(3):
        with pytest.raises((EventStoreError, sqlite3.Error)):
            bench.runs.store.append("notes", LINE)
    before = descriptors()

    for number in range(200):
        with pytest.raises((EventStoreError, sqlite3.Error)):
            bench.runs.store.append("notes", LINE)
        if number % 20 == 0:
            assert bench.runs.workflow_runs.count() > 0

    assert descriptors() == before


def test_while_a_disk_is_full_appends_fail_clearly_reads_go_on_and_freeing_space_is_enough(bench):
    before = bench.runs.store.head()
    fills_up(bench)

    with pytest.raises(OutcomeUnknown) as unknown:
        bench.runs.store.append("notes", LINE, key="k")
    with pytest.raises(sqlite3.OperationalError) as absent:
        bench.runs.store.append("notes", LINE)

    assert "full" in str(unknown.value)
    assert "nothing was written" in absent.value.__notes__[0]
    assert bench.runs.store.head() == before
    bench.disk.mend()
    bench.runs.store.append("notes", LINE, key="k")
    bench.runs.store.append("notes", LINE, key="k")
    assert bench.runs.store.head().position == before.position + 1


def test_what_resolve_says_is_so_and_stays_so(bench):
    bench.disk.armed, bench.disk.fault = True, disks.Fault(-1, "sync", "EIO", stays=True)
    with pytest.raises(OutcomeUnknown) as caught:
        bench.runs.store.append("notes", LINE)
    with pytest.raises(OutcomeUnknown):
        bench.runs.store.log.resolve(caught.value.position, caught.value.hash)
    bench.disk.mend()

    answer = bench.runs.store.log.resolve(caught.value.position, caught.value.hash)

    bench.runs.store.append("notes", LogRecorded("test", "later"))
    stands = [item.entry.hash for item in bench.runs.store.read("notes")]
    assert (caught.value.hash in stands) is answer
    assert bench.runs.store.log.resolve(caught.value.position, caught.value.hash) is answer


@pytest.mark.parametrize("kind", ["read", "write", "sync"])
def test_a_disk_that_fails_under_a_projection_does_not_halt_it(bench, kind):
    bench.connect_again()
    bench.disk.armed, bench.disk.fault = True, disks.Fault(-1, kind, "EIO", stays=True)
    with pytest.raises((EventStoreError, sqlite3.Error)):
        bench.runs.submit("deploy", run_id="run-new")
    bench.disk.mend()

    assert {standing.trouble for standing in bench.runs.standings()} == {None}


# --- a worker on such a disk ----------------------------------------------------------------------------------------


def test_a_run_whose_store_failed_did_not_fail_it_is_parked_for_a_worker(bench):
    bench.claims("deploy")

    with pytest.raises(OutcomeUnknown), bench.attempt as attempt:  # noqa: PT012 - the block is what is tested
        fills_up(bench)
        try:
            attempt.append(RunCompleted("done"))
        finally:
            bench.disk.mend()

    row = bench.runs.workflow_runs.get(attempt.run_id)
    assert (row.phase, row.waiting_for) == ("paused", "worker")


def test_a_run_that_could_not_even_be_parked_is_parked_at_the_next_claim_and_taken_up(bench):
    bench.claims("deploy")
    with pytest.raises(sqlite3.OperationalError), bench.attempt as attempt:  # noqa: PT012 - as above
        fills_up(bench)
        attempt.append(RunCompleted("done"))
    with pytest.raises((EventStoreError, sqlite3.Error)):
        bench.worker.claim(["deploy"])
    bench.disk.mend()

    again = bench.worker.claim(["deploy"])

    assert (again.run_id, again.number) == (attempt.run_id, attempt.number + 1)
    assert bench.runs.workflow_runs.get(attempt.run_id).crashes == 0


def test_a_tool_that_fails_while_the_store_is_well_fails_the_run(bench):
    bench.claims("deploy")

    with pytest.raises(sqlite3.OperationalError, match="no such table"), bench.attempt as attempt:
        attempt.call("c", "sql", {}, lambda _input: sqlite3.connect(":memory:").execute("SELECT * FROM nowhere"))

    assert bench.runs.workflow_runs.get(attempt.run_id).phase == "failed"


# --- a real full disk -----------------------------------------------------------------------------------------------

FILLS = """
import logging, resource, signal, sys
import projections
from eventstore.notes import LogRecorded
logging.disable(logging.WARNING)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
acknowledged = []
with projections.connect(sys.argv[1]) as runs:
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    refused = []
    number = 0
    while len(refused) < 50:
        number += 1
        try:
            runs.store.append("notes", LogRecorded("test", "line", payload="x" * 5_000), key=str(number))
            acknowledged.append(number)
        except Exception as error:
            refused.append(type(error).__name__)
            assert runs.store.head().position >= len(acknowledged)
            assert runs.workflow_runs.count() == 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    runs.store.append("notes", LogRecorded("test", "freed"), key="freed")
    print(*sorted(set(refused)))
    print(*acknowledged)
"""


def test_the_systems_own_refusal_to_let_a_file_grow_is_told_and_passes(tmp_path):
    """The limit of a file's size stands for a full disk, which nobody can have without privileges."""
    path = tmp_path / "agent.db"

    done = subprocess.run(
        [sys.executable, "-c", FILLS, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    errors, acknowledged = done.stdout.splitlines()
    assert set(errors.split()) <= {"OutcomeUnknown", "OperationalError"}
    with projections.connect(path) as runs:
        keys = [item.entry.key for item in runs.store.read("notes")]
        assert set(acknowledged.split()) | {"freed"} <= set(keys)
        assert len(set(keys)) == len(keys)
        assert runs.check().ok


def test_the_shim_is_the_drivers_own_library(bench):
    """Or it would watch a SQLite that nobody uses, and every test here would pass."""
    bench.disk.armed = True

    bench.runs.store.append("notes", LINE)

    assert {"write", "sync"} <= set(bench.disk.asked)
