"""Locks that are easily lost: the database opened by other means, and handles that are carried through a fork."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import eventstore
from eventstore.notes import LogRecorded
from eventstore.sqlite import sqlite3

ROOT = Path(__file__).parent.parent
LINE = LogRecorded("test", "line")
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")


def program(text, *arguments, check=True):
    """What a Python process prints; it must end well."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.split()


COMES_AND_GOES = """
    import sys, eventstore
    with eventstore.connect(sys.argv[1]) as store:
        print(store.head().position)
"""

OPENS_NOTHING = """
    import os, sys
    from datetime import timedelta
    from pathlib import Path
    import projections
    from click.testing import CliRunner
    from eventstore.errors import Waiting
    from eventstore.exchange import export_lines, import_lines
    from eventstore.workflow import CheckpointSaved, RunCompleted
    from projections.cli import main

    path = Path(sys.argv[1])
    runs = projections.connect(path)
    seen = []

    def watch(event, arguments):
        if event == "open" and not isinstance(arguments[0], int):
            name = os.fsdecode(arguments[0])
            if os.path.abspath(name) == str(path):
                seen.append(name)

    sys.addaudithook(watch)
    with open(path.with_name("other"), "wb"):
        pass
    again = projections.connect(path)
    reader = projections.connect(path, read_only=True)
    with runs.worker("w") as worker:
        for number in range(4):
            runs.submit("deploy", run_id=f"run-{number}")
            with worker.claim() as attempt:
                attempt.append(CheckpointSaved(1, {"a": 1}))
                attempt.call("c0", "t", {}, lambda given: given)
                if number % 2:
                    attempt.ask("c1", "ship", {})
                attempt.append(RunCompleted())
        worker.recover()
    runs.resolve("run-1", "c1", "approved", by="alice")
    runs.interrupt("run-1", by="ops")
    lines = list(export_lines(runs.store))
    for check in (runs.rebuild, runs.check, runs.verify, runs.store.log.facts, runs.store.log.examine, runs.standings):
        check()
    reader.workflow_runs.where()
    for words in (
        ["events"], ["tail"], ["stats"], ["runs"], ["doctor"], ["rebuild"], ["verify"], ["confirmations"],
        ["show", "run-0"], ["export"], ["export", "-o", str(path.with_name("out.jsonl"))], ["recover"],
    ):
        result = CliRunner().invoke(main, [words[0], str(path), *words[1:]])
        assert result.exit_code in (0, 1), (words, result.output)
    CliRunner().invoke(main, ["import", str(path), str(path)])
    CliRunner().invoke(main, ["export", str(path), "-o", str(path)])
    reader.close(), again.close(), runs.close()
    print(len(lines), *seen)
"""


def test_nothing_of_ours_opens_a_database_file_past_sqlite_while_a_connection_is_open(tmp_path):
    lines, *opened = program(OPENS_NOTHING, tmp_path / "agent.db")

    assert int(lines) > 20
    assert opened == []


TAKES = """
    import sys
    from eventstore.sqlite import sqlite3
    connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        print("locked")
    else:
        print("taken")
"""
TAKES_THE_BYTES = """
    import fcntl, sys
    with open(sys.argv[1], "r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)  # where SQLite keeps its shared locks
        except OSError:
            print("locked")
        else:
            print("taken")
"""


@posix
@pytest.mark.parametrize("trapped", [False, True])
def test_the_trap_is_real_a_file_that_is_opened_and_closed_past_sqlite_gives_its_write_lock_away(tmp_path, trapped):
    """With a rollback journal all of SQLite's locks are on the database file itself."""
    path = tmp_path / "plain.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE t(x)")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO t VALUES (1)")
    if trapped:
        path.open("rb").close()

    assert program(TAKES, path) == ["taken" if trapped else "locked"]

    connection.close()


@posix
@pytest.mark.parametrize("trapped", [False, True])
def test_the_trap_is_real_for_a_store_as_well(tmp_path, trapped):
    """In WAL mode it is the lock that tells others that somebody has the database open."""
    path = tmp_path / "agent.db"
    with eventstore.connect(path) as store:
        store.append("s", LINE)
        if trapped:
            path.open("rb").close()

        assert program(TAKES_THE_BYTES, path) == ["taken" if trapped else "locked"]


# --- forks ----------------------------------------------------------------------------------------------------------

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

FORKS = """
    import os, sys, gc, eventstore
    from eventstore.errors import ForkedStore
    from eventstore.notes import LogRecorded
    store = eventstore.connect(sys.argv[1])
    store.append("s", LogRecorded("test", "line"))
    if (child := os.fork()) == 0:
        for use in (lambda: store.append("s", LogRecorded("test", "x")), store.head, lambda: list(store.read_all())):
            try:
                use()
            except ForkedStore as error:
                assert "connect again" in str(error)
            else:
                os._exit(1)
        store.close()
        store.log._idle.clear()
        del store
        gc.collect()
        with eventstore.connect(sys.argv[1]) as own:
            own.append("s", LogRecorded("test", "by the child, with a handle of its own"))
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(os.path.exists(sys.argv[1] + "-wal"))
    store.append("s", LogRecorded("test", "by the parent, which goes on"))
    print(store.head().position)
"""


@fork
def test_a_handle_that_was_carried_through_a_fork_is_refused_there_and_the_parent_goes_on(tmp_path):
    assert program(FORKS, tmp_path / "agent.db") == ["0", "True", "3"]

    assert program(COMES_AND_GOES, tmp_path / "agent.db") == ["3"]


LEAVES_A_CHILD = """
    import os, sys, eventstore
    from eventstore.notes import LogRecorded
    store = eventstore.connect(sys.argv[1])
    store.append("s", LogRecorded("test", "line"))
    gone, parent = os.pipe()
    if os.fork() == 0:
        os.close(parent)
        os.read(gone, 1)
        print("alone", flush=True)
        sys.stdin.readline()
        sys.exit(0)
    os.kill(os.getpid(), 9)
"""
IS_KILLED = """
    import os, sys, eventstore
    from eventstore.notes import LogRecorded
    store = eventstore.connect(sys.argv[1])
    print(store.append("s", LogRecorded("test", "acknowledged"))[0].position, flush=True)
    os.kill(os.getpid(), 9)
"""


@fork
def test_a_child_that_outlives_its_parent_takes_nobodys_wal_away_when_it_ends(tmp_path):
    """SQLite in the child believes in locks that it does not have; closing there would remove another process's WAL."""
    path = tmp_path / "agent.db"
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LEAVES_A_CHILD), str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "alone\n"
    assert program(COMES_AND_GOES, path) == ["1"]
    assert program(IS_KILLED, path, check=False) == ["2"]

    child.stdin.write("end\n")
    child.stdin.close()
    assert child.stdout.read() == ""  # its end of the pipe is closed: it is gone
    child.stdout.close()
    child.wait()

    assert program(COMES_AND_GOES, path) == ["2"]
