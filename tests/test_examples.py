"""The three users' programs, run as their users run them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import projections

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
PATIENCE = 60.0


def environment():
    command = Path(sys.executable).parent  # where `runfold` lies beside the Python that runs these tests
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{command}{os.pathsep}{os.environ['PATH']}"}


@contextmanager
def daemon(path, program=EXAMPLES / "daemon.py"):
    """The daemon as a process; killed at the end if it still runs."""
    started = subprocess.Popen(
        [sys.executable, str(program), str(path)], env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        started.stdout.close()


def submitted(path):
    program = [sys.executable, str(EXAMPLES / "daemon.py"), str(path), "submit"]
    return subprocess.run(program, env=environment(), capture_output=True, text=True, check=True).stdout.strip()


def until(look):
    """Look until it is so; how long that takes is not what is tested."""
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


def slow(tmp_path):
    """The daemon with a build that takes for ever until the file `built` is there: so that it can be killed inside."""
    text = (EXAMPLES / "daemon.py").read_text()
    told = 'print("running", action, flush=True)\n'
    assert told in text
    wait = (
        '    import pathlib, time\n    while "target" in action and not pathlib.Path("'
        + str(tmp_path / "built")
        + '").exists():\n'
        "        time.sleep(0.01)\n"
    )
    program = tmp_path / "daemon.py"
    program.write_text(text.replace(told, told + wait))
    return program


def test_the_daemon_asks_ships_once_and_stops_when_it_is_told_to(tmp_path):
    path = tmp_path / "agent.db"
    run_id = submitted(path)
    with projections.connect(path) as runs, daemon(path) as process:
        until(lambda: runs.workflow_runs.get(run_id).phase == "paused")
        assert runs.confirmations.count(decision=None) == 1
        runs.resolve(run_id, "c2", "approved", by="alice")
        until(lambda: runs.workflow_runs.get(run_id).phase == "completed")

        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert printed.count("'env': 'prod'") == 1
        assert runs.check().ok


def test_the_daemon_killed_while_it_waits_for_a_person_goes_on_and_ships_once(tmp_path):
    path = tmp_path / "agent.db"
    run_id = submitted(path)
    printed = []
    with projections.connect(path) as runs:
        with daemon(path) as process:
            until(lambda: runs.confirmations.count(decision=None))
            process.kill()
            printed.append(process.communicate()[0])
        runs.resolve(run_id, "c2", "approved", by="alice")
        with daemon(path) as process:
            until(lambda: runs.workflow_runs.get(run_id).phase == "completed")
            process.send_signal(signal.SIGTERM)
            printed.append(process.communicate(timeout=PATIENCE)[0])

        everything = "".join(printed)
        assert [everything.count(word) for word in ("'path': '.'", "'target': 'all'", "'env': 'prod'")] == [1, 1, 1]
        assert runs.output(run_id) == "did {'env': 'prod'}"
        assert runs.check().ok


def test_the_daemon_killed_in_the_middle_of_a_call_makes_it_not_again_until_an_operator_says_how_it_ended(tmp_path):
    path = tmp_path / "agent.db"
    program = slow(tmp_path)
    run_id = submitted(path)
    printed = []
    with projections.connect(path) as runs:
        with daemon(path, program) as process:
            until(lambda: [call for call in runs.calls(run_id) if call.open and call.call_id == "c1"])
            process.kill()  # kill -9, with the build under way
            printed.append(process.communicate()[0])
        (tmp_path / "built").touch()
        with daemon(path, program) as process:
            until(lambda: runs.workflow_runs.get(run_id).waiting_for == "operator")
            runs.store.append(run_id, projections.attempt.ToolReturned("c1", "built, as it turned out"))
            until(lambda: runs.confirmations.count(decision=None))
            runs.resolve(run_id, "c2", "approved", by="alice")
            until(lambda: runs.workflow_runs.get(run_id).phase == "completed")
            process.send_signal(signal.SIGTERM)
            printed.append(process.communicate(timeout=PATIENCE)[0])

        everything = "".join(printed)
        assert [everything.count(word) for word in ("'path': '.'", "'target': 'all'", "'env': 'prod'")] == [1, 1, 1]
        assert "to be resumed: " + run_id in printed[1]
        row = runs.workflow_runs.get(run_id)
        assert (row.phase, row.crashes) == ("completed", 1)
        assert runs.check().ok


def test_the_daemon_outlives_kill_9_and_the_operators_script_sees_its_run_to_the_end(tmp_path):
    path = tmp_path / "agent.db"
    run_id = submitted(path)
    printed = []
    with projections.connect(path) as runs:
        with daemon(path) as process:
            until(lambda: runs.confirmations.count(decision=None))
            process.kill()
            printed.append(process.communicate()[0])

        script = shutil.copy(EXAMPLES / "operator.sh", tmp_path)
        done = subprocess.run(
            ["sh", script, str(path)], env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        decided = runs.confirmations.get(run_id, "c2")
        assert (decided.decision, decided.by, decided.comment) == ("approved", "alice", "go ahead")
        exported = (tmp_path / "log.jsonl").read_text().splitlines()
        assert len(exported) == runs.store.head().position

        with daemon(path) as process:
            until(lambda: runs.workflow_runs.get(run_id).phase == "completed")
            process.send_signal(signal.SIGTERM)
            printed.append(process.communicate(timeout=PATIENCE)[0])
            assert process.returncode == 0
        everything = "".join(printed)
        assert [everything.count(f"running {{{what}}}") for what in ("'env': 'prod'", "'path': '.'")] == [1, 1]
        assert runs.check().ok


def test_a_machine_of_ones_own_is_proved_as_its_example_proves_it(tmp_path):
    for name in ("my_machine.py", "test_my_machine.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_machine.py"],
        env={**environment(), "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout or done.stdout.startswith(".")
