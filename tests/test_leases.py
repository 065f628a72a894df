"""Who is dead: what can be seen of a process at once, the beat of those that cannot be seen, and no wall clock."""

import os
import resource
import subprocess
import sys
from datetime import timedelta

import pytest

from eventstore.errors import InvalidArgument
from eventstore.workflow import RunCompleted
from projections.leases import WORKERS, Presence, WorkerRow, look
from projections.system import Identity, start_of, this_process

ME = Identity("boot", "ns", 1, 10)
THEM = WorkerRow("w:1", "boot", "ns", 42, 7, term=30.0)


def presence(world, **identity):
    """An observer, which is a process of its own."""
    runs = world.runs(**identity)
    return runs._presence


def started(runs, worker):
    runs.submit("deploy", run_id="run-1")
    return worker.claim()


# --- at once --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "start", "expected"),
    [
        (None, None, "dead"),
        (THEM, 7, "alive"),
        (THEM, None, "dead"),
        (THEM, 8, "dead"),
        (WorkerRow("w:1", "earlier boot", "ns", 42, 7, 30.0), 7, "dead"),
        (WorkerRow("w:1", "earlier boot", "other", 42, 7, 30.0), 7, "dead"),
        (WorkerRow("w:1", "boot", "other", 42, 7, 30.0), 7, "unknown"),
        (WorkerRow("w:1", "boot", "other", 42, 7, 30.0), None, "unknown"),
        (WorkerRow("w:1", "", "", 42, 7, 30.0), None, "unknown"),
    ],
    ids=[
        "no row",
        "pid and start time as written",
        "pid gone",
        "pid reused by a process that started later",
        "another boot",
        "another boot and namespace",
        "another namespace, a pid that exists here",
        "another namespace",
        "a system that tells no boot",
    ],
)
def test_what_can_be_told_of_a_worker_at_once(row, start, expected):
    assert look(row, ME, start) == expected


def test_an_observer_that_does_not_know_its_own_boot_can_tell_nothing_at_once():
    assert look(THEM, Identity("", "", 1, 10), 7) == "unknown"


# --- in a store -----------------------------------------------------------------------------------------------------


def test_a_worker_whose_process_is_there_holds_its_run_however_long_it_is_silent(world):
    worker = world.worker(lease=timedelta(seconds=30))
    started(world.runs(), worker)
    world.passes(1_000_000)

    other = world.worker()

    assert other.recover().running == 1
    assert other.claim() is None


def test_a_worker_whose_pid_is_gone_is_dead_at_once(world):
    worker = world.worker()
    started(world.runs(), worker)
    world.dies(worker)

    assert world.worker().recover().resumable == ("run-1",)


def test_a_worker_whose_pid_is_another_process_by_now_is_dead_at_once(world):
    worker = world.worker(pid=4242)
    started(world.runs(), worker)

    world.worker(pid=4242)  # a later process of the same pid

    assert world.worker().claim().number == 2


def test_a_worker_of_an_earlier_boot_is_dead_at_once(world):
    worker = world.worker(boot="before the power went", pid=77)
    started(world.runs(), worker)

    assert world.worker(boot="now").claim().number == 2


def test_a_worker_without_a_row_is_dead_at_once(world):
    worker = world.worker()
    started(world.runs(), worker)
    world.log().write(lambda transaction: worker._presence._tables.delete(transaction, WORKERS, [(worker.id,)]))

    assert world.worker().claim().number == 2


def test_closing_a_worker_frees_what_it_holds_at_once(world):
    worker = world.worker()
    started(world.runs(), worker)
    worker.close()
    worker.close()

    assert world.worker().claim().number == 2


def test_a_restart_never_takes_its_predecessor_for_itself(world):
    """The same name, the same pid: another id, and the run of the first is a dead worker's."""
    first = world.worker(pid=1)
    started(world.runs(), first)
    second = world.worker(pid=1)

    assert first.id != second.id
    assert second.recover().resumable == ("run-1",)
    assert second.claim().number == 2


# --- those that cannot be seen --------------------------------------------------------------------------------------


def test_an_unseen_worker_dies_when_its_beat_did_not_change_for_a_term_of_the_observers_clock(world):
    presence(world, namespace="a").enter("w:1", 30.0)
    observer = presence(world, namespace="b")

    assert not observer.dead(["w:1"])
    world.seconds += 30.0
    assert not observer.dead(["w:1"])
    world.seconds += 0.1
    assert observer.dead(["w:1"])


def test_an_unseen_worker_lives_as_long_as_its_beat_changes(world):
    worker = presence(world, namespace="a")
    worker.enter("w:1", 30.0)
    observer = presence(world, namespace="b")
    for _ in range(5):
        assert not observer.dead(["w:1"])
        world.seconds += 29.0
        worker.beat("w:1", 30.0)
        world.seconds += 29.0

    assert not observer.dead(["w:1"])


def test_a_worker_that_was_swept_away_lives_again_with_its_next_beat_for_who_saw_it_silent(world):
    worker = presence(world, namespace="a")
    worker.enter("w:1", 30.0)
    observer, other = presence(world, namespace="b"), presence(world, namespace="c")
    assert not observer.dead(["w:1"]) | other.dead(["w:1"])
    world.seconds += 31.0
    other.sweep()
    assert observer.dead(["w:1"])

    worker.beat("w:1", 30.0)

    assert not observer.dead(["w:1"])
    assert observer.living() == {"w:1"}


def test_an_observer_that_looks_for_the_first_time_waits_a_whole_term(world):
    presence(world, namespace="a").enter("w:1", 30.0)
    world.passes(1_000_000)

    assert not presence(world, namespace="b").dead(["w:1"])


def test_the_term_is_the_workers_own(world):
    presence(world, namespace="a").enter("w:1", 5.0)
    observer = presence(world, namespace="b")
    observer.dead(["w:1"])
    world.seconds += 6.0

    assert observer.dead(["w:1"])


@pytest.mark.parametrize("by", [timedelta(days=-400), timedelta(days=400)])
@pytest.mark.parametrize("namespace", ["ns", "another"])
def test_a_jump_of_the_wall_clock_decides_nothing(world, by, namespace):
    worker = world.worker(lease=timedelta(seconds=30))
    started(world.runs(), worker)
    other = world.worker(namespace=namespace)
    assert other.recover().running == 1

    world.jumps(seconds=by.total_seconds())

    assert other.recover().running == 1
    assert other.claim() is None


def test_a_beat_brings_a_row_back_that_somebody_took_away(world):
    worker = presence(world)
    worker.enter("w:1", 30.0)
    worker.leave("w:1")
    assert presence(world).dead(["w:1"])

    worker.beat("w:1", 30.0)

    assert not presence(world).dead(["w:1"])


def test_a_worker_that_beat_after_all_is_not_swept_away(world):
    """Silent for a term as this observer saw it, and it beats between the look and the sweeping."""
    worker = presence(world, namespace="a")
    worker.enter("w:1", 30.0)
    observer = presence(world, namespace="b")
    observer.dead(["w:1"])
    world.seconds += 31.0
    rows = observer._rows()
    worker.beat("w:1", 30.0)
    observer._rows = lambda: rows  # what it read a moment ago

    observer.sweep()

    del observer._rows
    assert "w:1" in observer._rows()


def test_sweeping_takes_the_dead_away_and_no_others(world):
    living, gone = world.worker(), world.worker()
    world.dies(gone)

    world.worker().recover()

    assert living.id in living._presence._rows()
    assert gone.id not in living._presence._rows()


def test_presence_is_no_fact(world):
    worker = world.worker()
    worker._presence.beat(worker.id, 30.0)
    worker.close()

    assert list(world.runs().store.read_all()) == []


def test_nobody_is_dead(world):
    assert presence(world).dead([None]) == {None}
    assert presence(world).dead([]) == frozenset()


@pytest.mark.parametrize("lease", [timedelta(0), timedelta(seconds=-1), timedelta(days=2)])
def test_a_lease_that_cannot_be_is_refused_and_no_row_is_written(world, lease):
    runs = world.runs()

    with pytest.raises(InvalidArgument, match="lease"):
        runs.worker("w", lease=lease)
    assert runs._presence._rows() == {}


def test_the_row_is_renewed_by_a_thread_of_the_worker(world):
    """The one real wait here: until the second beat of a very short lease, however long the machine takes."""
    worker = world.worker(lease=timedelta(milliseconds=3))
    while worker._presence._rows()[worker.id].beat < 2:
        pass

    worker.close()
    assert worker._presence._rows() == {}


def test_a_zombie_is_fenced_as_soon_as_somebody_took_over_and_not_before(world):
    runs, worker = world.runs(), world.worker()
    zombie = started(runs, worker)
    world.dies(worker)
    zombie.append(RunCompleted(output="in time, as it happens"))

    assert runs.workflow_runs.get("run-1").phase == "completed"


# --- this machine -----------------------------------------------------------------------------------------------------


def test_this_process_is_told_from_every_other_by_boot_namespace_pid_and_start():
    me = this_process()

    assert me.pid == os.getpid()
    assert start_of(me.pid) == me.started
    assert this_process() == me


def test_a_child_that_ended_and_was_not_looked_at_counts_as_gone():
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    begun = start_of(child.pid)
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it ended, and stays a zombie

    assert begun is not None
    assert start_of(child.pid) is None
    child.wait()
    assert start_of(child.pid) is None


def test_a_process_that_cannot_be_looked_at_is_not_taken_for_gone():
    """Out of file descriptors, a worker would else take up everybody's runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            start_of(os.getpid())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_presence_of_a_store_without_workers_is_empty(world):
    assert isinstance(presence(world), Presence)
    assert presence(world)._rows() == {}
    assert presence(world).living() == frozenset()
