"""What the tests of backups stand on: a log with something of everything, what it reads as, and moments of a kill."""

import shutil
from contextlib import contextmanager

import pytest
from my_machine import APP, ORDER, OrderPaid, OrderPlaced

import projections
from eventstore.exchange import export_lines
from eventstore.files import OperatingSystem
from eventstore.notes import LogRecorded, MetaSet
from eventstore.sqlite import SQLiteLog
from eventstore.workflow import CheckpointSaved, MessageRecorded, RunCompleted

LINE = LogRecorded("test", "line")


def work(runs, number):
    """A run with checkpoints that are packed, an order of a user's machine, notes."""
    runs.submit("deploy", run_id=f"run-{number}", input={"n": number}, job_id="job", labels={"team": "infra"})
    with runs.worker("w") as worker, worker.claim() as attempt:
        state = {"messages": []}
        for step in range(4):
            state["messages"].append({"role": "user", "content": f"{number} {step} " + "what was said " * 100})
            attempt.append(MessageRecorded("user", f"hello {step}"), CheckpointSaved(step, state))
        attempt.append(RunCompleted("done"))
    runs.store.stream(f"order-{number}", ORDER).append(OrderPlaced("tea", number), OrderPaid(1.5))
    runs.store.append("notes", LINE, MetaSet("title", number), key=f"note-{number}", meta={"trace": number})


@pytest.fixture(name="runs")
def written(tmp_path):
    with projections.connect(tmp_path / "agent.db", app=APP) as runs:
        work(runs, 1)
        yield runs


@pytest.fixture(name="folder")
def backup_folder(tmp_path):
    return tmp_path / "backup"


def restored(folder, place, **options):
    projections.restore(folder, place, app=APP, **options)
    return projections.connect(place, app=APP, **options)


def readings(runs):
    """What every public reading gives."""
    return {
        "export": b"".join(export_lines(runs.store)),
        "events": [(item.entry, item.event) for item in runs.store.read_all()],
        "rows": {p.name: list(runs.view(p).each()) for p in runs.projections},
        "streams": list(runs.store.read("notes")),
        "tree": runs.tree("run-1"),
        "calls": runs.calls("run-1"),
        "checkpoint": runs.checkpoint("run-1"),
        "messages": list(runs.messages("run-1")),
        "input": runs.input("run-1"),
        "search": runs.search("hello"),
        "head": runs.store.head(),
    }


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextmanager
def unchanged(folder):
    """All files, but for the counters in the header of a database that was opened for writing."""
    before = contents(folder)
    yield
    after = contents(folder)
    for files in (before, after):
        if "log.db" in files:
            files["log.db"] = files["log.db"][100:]
    assert after == before


class Watched(OperatingSystem):
    """Files that call somebody before and after each verb that changes anything."""

    def __init__(self, look):
        self.look = look

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name == "writing":
            return self.watched
        if name not in ("folder", "make", "put", "publish", "rename", "remove", "touch"):
            return found

        def verb(*arguments):
            self.look()
            result = found(*arguments)
            self.look()
            return result

        return verb

    @contextmanager
    def watched(self, path):
        with super().writing(path) as file:
            self.look()
            yield file
            self.look()
        self.look()


@pytest.fixture(name="moments")
def what_stands_at_each_moment(tmp_path, monkeypatch):
    """What a kill would leave of a place, at each verb of the port and around each transaction, copied aside."""
    written = SQLiteLog.write

    def watch(place, act):
        kept = []

        def look():
            if place.exists():
                kept.append(tmp_path / f"moment-{len(kept)}")
                shutil.copytree(place, kept[-1])

        def write(self, job, **options):
            look()
            result = written(self, job, **options)
            look()
            return result

        with monkeypatch.context() as patch:
            patch.setattr(SQLiteLog, "write", write)
            patch.setattr("eventstore.backups.copying.PAGE", 8)
            act(Watched(look))
        return kept

    return watch
