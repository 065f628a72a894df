"""Real processes on one SQLite file: killed with SIGKILL, started again, side by side."""

import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

import projections
from eventstore.workflow import CheckpointSaved, RunCompleted
from tests.forking import at_once

ROOT = Path(__file__).parent.parent


@contextmanager
def process(path, program):
    """A Python process that runs a program on the database; killed at the end if it still runs."""
    started = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        for pipe in (started.stdin, started.stdout, started.stderr):
            pipe.close()


def says(started, word):
    """The next line that the process prints; what it printed to stderr where that is another one."""
    line = started.stdout.readline().strip()
    assert line == word, f"said {line!r}\n{started.stderr.read() if not line else ''}"


BEGINS = """
    import sys, projections
    from eventstore.workflow import CheckpointSaved
    runs = projections.connect(sys.argv[1])
    worker = runs.worker("mac")
    attempt = worker.claim()
    attempt.append(CheckpointSaved(1, {"step": 1}))
    print("begun", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("waits", [True, False], ids=["looked after", "not yet looked after by its parent"])
def test_a_worker_killed_in_mid_run_is_recovered_by_another_process_at_once(tmp_path, waits):
    path = tmp_path / "agent.db"
    with projections.connect(path) as runs:
        runs.submit("deploy", run_id="run-1", input={"env": "prod"})
        with process(path, BEGINS) as killed:
            says(killed, "begun")
            with runs.worker("mac") as worker:
                assert worker.recover().running == 1
                assert worker.claim() is None

                killed.send_signal(signal.SIGKILL)
                if waits:
                    killed.wait()
                else:
                    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)

                assert worker.recover().resumable == ("run-1",)
                with worker.claim() as attempt:
                    assert (attempt.number, attempt.checkpoint) == (2, {"step": 1})
                    attempt.append(RunCompleted("done"))

        row = runs.workflow_runs.get("run-1")
        assert (row.phase, row.crashes) == ("completed", 1)
        assert runs.check().ok


def test_a_stopped_worker_that_was_not_seen_to_be_dead_keeps_its_run(tmp_path):
    """SIGSTOP is no death: the process is there, whatever its beat does."""
    path = tmp_path / "agent.db"
    with projections.connect(path) as runs:
        runs.submit("deploy", run_id="run-1")
        with process(path, BEGINS) as stopped, runs.worker("mac") as worker:
            says(stopped, "begun")
            stopped.send_signal(signal.SIGSTOP)

            assert worker.recover().running == 1
            assert worker.claim() is None
            stopped.send_signal(signal.SIGCONT)


def test_a_writer_without_projections_beside_one_with_them_no_row_is_ever_missed(tmp_path):
    path = tmp_path / "agent.db"
    projections.connect(path).close()
    plain = """
        import sys, eventstore
        from eventstore.workflow import RunQueued, RunDescribed
        with eventstore.connect(sys.argv[1], synchronous="NORMAL") as store:
            print("ready", flush=True)
            sys.stdin.readline()
            for number in range(150):
                store.append(f"plain-{number}", RunQueued("deploy"))
    """
    with projections.connect(path, synchronous="NORMAL") as runs, process(path, plain) as other:
        says(other, "ready")
        other.stdin.write("go\n")
        other.stdin.flush()
        for number in range(150):
            runs.submit("deploy", run_id=f"mine-{number}")
            if number % 50 == 0:
                assert runs.workflow_runs.count() >= number + 1
        assert other.wait(60) == 0

        assert runs.workflow_runs.count() == 300
        assert runs.store.head().position == 300
        assert runs.check().ok


SHARES = """
    import sys, projections
    from eventstore.workflow import RunCompleted, CheckpointSaved
    with projections.connect(sys.argv[1], synchronous="NORMAL") as runs, runs.worker("mac") as worker:
        print("ready", flush=True)
        sys.stdin.readline()
        while (attempt := worker.claim(wait=0.2)) is not None:
            with attempt:
                attempt.append(CheckpointSaved(1, {}))
                attempt.call("c1", "ship", None, lambda _input: print(attempt.run_id, flush=True))
                attempt.append(RunCompleted())
"""


PACED = SHARES.replace("        sys.stdin.readline()\n", "").replace(
    "while (attempt := worker.claim(wait=0.2))", "while sys.stdin.readline() and (attempt := worker.claim())"
)


def test_several_daemons_share_forty_runs_and_each_is_performed_exactly_once(tmp_path):
    path = tmp_path / "agent.db"
    with projections.connect(path) as runs:
        ids = [runs.submit("deploy", run_id=f"run-{number}") for number in range(40)]
        with process(path, SHARES) as one, process(path, SHARES) as two, process(path, SHARES) as three:
            daemons = (one, two, three)
            for daemon in daemons:
                says(daemon, "ready")
            for daemon in daemons:
                daemon.stdin.write("go\n")
                daemon.stdin.flush()
            performed = [run_id for daemon in daemons for run_id in daemon.communicate(timeout=120)[0].split()]
            assert [daemon.returncode for daemon in daemons] == [0, 0, 0]

        assert Counter(performed) == Counter(ids)
        assert runs.workflow_runs.count(phase="completed", attempt=1, crashes=0) == 40
        assert runs.check().ok


def test_daemons_that_are_killed_while_they_share_leave_no_run_stuck_and_no_effect_twice(tmp_path):
    path = tmp_path / "agent.db"
    with projections.connect(path) as runs:
        ids = [runs.submit("deploy", run_id=f"run-{number}") for number in range(30)]
        performed = []
        for _ in range(3):
            with process(path, PACED) as daemon:
                says(daemon, "ready")
                daemon.stdin.write("go\n" * 6)  # five are waited for, and the sixth is under way when it dies
                daemon.stdin.flush()
                performed += [daemon.stdout.readline().strip() for _ in range(5)]
                daemon.kill()
                performed += daemon.stdout.read().split()  # through the buffer that the lines came from

        with runs.worker("last") as worker:
            worker.recover(max_crashes=9)
            while (attempt := worker.claim()) is not None:
                with attempt:
                    attempt.call("c1", "ship", None, lambda _input, run_id=attempt.run_id: performed.append(run_id))
                    attempt.append(CheckpointSaved(2, {}), RunCompleted())

        unknown = [row.run_id for row in runs.workflow_runs.where(waiting_for="operator")]
        done = [row.run_id for row in runs.workflow_runs.where(phase="completed")]
        assert sorted([*unknown, *done]) == sorted(ids)
        assert max(Counter(performed).values()) == 1
        assert set(done) <= set(performed)
        assert runs.check().ok


def test_eight_processes_that_open_one_new_file_at_once_all_get_in(tmp_path):
    path = tmp_path / "agent.db"
    program = """if True:
        import projections
        with projections.connect(arguments[0]) as runs:
            print(runs.submit("deploy"))
    """
    printed = at_once(8, program, path)

    with projections.connect(path) as runs:
        assert sorted(row.run_id for row in runs.workflow_runs.where()) == sorted(said.strip() for said in printed)
