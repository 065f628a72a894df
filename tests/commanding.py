"""Running the command in tests: its surroundings, and the databases it looks at."""

import contextlib
import functools
import json
import sqlite3
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

import projections
from eventstore.workflow import (
    CheckpointSaved,
    MessageRecorded,
    ToolCalled,
)
from projections.cli import main

ROOT = Path(__file__).parent.parent
TRACE = ROOT / "tests" / "data" / "releases.jsonl"
INPUT = {"env": "prod", "note": "\x1b[31mred\x1b[0m\nnext"}


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch, tmp_path):
    """80 columns, nothing from the developer's own shell."""
    for name in (
        "RUNFOLD_DB",
        "RUNFOLD_APP",
        "RUNFOLD_KEY_FILE",
        "RUNFOLD_TRACEBACK",
        "COLUMNS",
        "FORCE_COLOR",
        "NO_COLOR",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def runfold(*words, code=0, **options):
    """Run the command in this process; its exit code must be this."""
    result = CliRunner().invoke(main, [str(word) for word in words], **options)
    assert result.exit_code == code, result.output
    return result


def asked(*words, **options):
    return json.loads(runfold(*words, "--json", **options).stdout)


def process(*words, **options):
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from projections.cli import main; main()", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, **options,
    )  # fmt: skip


@functools.cache
def _imported_trace():
    """What the import leaves: the same for all tests, so it is made once."""
    with tempfile.TemporaryDirectory() as folder:
        runfold("import", Path(folder, "x.db"), TRACE)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


@pytest.fixture(name="traced")
def traced_database(tmp_path):
    """A database with the trace."""
    for name, data in _imported_trace().items():
        (tmp_path / name).write_bytes(data)
    return tmp_path / "x.db"


@pytest.fixture(name="live")
def live_database(tmp_path):
    """A database in the middle of things: a worker that died, a question, a queue."""
    with projections.connect(tmp_path / "live.db") as runs:
        runs.submit("deploy", input={"env": "prod"}, run_id="run-1", agent="clerk", labels={"team": "infra"})
        runs.submit("deploy", run_id="run-2")
        runs.submit("nightly", run_id="run-3", priority=-1, not_before=datetime.now(UTC) + timedelta(hours=3))
        worker = runs.worker("w")
        with worker.claim() as first:
            first.append(MessageRecorded("user", "hello"), CheckpointSaved(1, {"a": 1}))
            first.ask("c1", "ship", INPUT, reason="touches production")
        worker.claim().append(ToolCalled("t1", "bash", {"cmd": "make"}))
        worker.close()  # what it holds is held by nobody
    return tmp_path / "live.db"


def by_hand(path, *statements):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
