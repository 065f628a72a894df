"""A log of some days for tests of the archive, and everything that can be read of it."""

from eventstore import LogRecorded, MetaSet
from eventstore.exchange import export_lines
from eventstore.files import MemoryFiles
from eventstore.workflow import (
    CheckpointSaved,
    ConfirmationRequested,
    Error,
    MessageRecorded,
    RunCompleted,
    RunDescribed,
    RunFailed,
    RunQueued,
    RunStarted,
    ToolCalled,
    ToolReturned,
    UsageRecorded,
)

ENDED = ("run-1", "run-3", "run-4")
GOING = "run-2"
DAYS = ("2026-01-01", "2026-01-02", "2026-01-04")
"""Of a `lived` log; nothing was recorded on the third day, and today is the sixth."""


def lived(world, runs):
    """Four days of a daemon, one of them without entries: three runs that ended, one that may go on, and notes."""
    store = runs.store
    _run(store, "run-1", job="job-1", large=12)
    store.append(GOING, RunQueued("deploy", {"n": 2}), RunStarted("w1"), key="begun")
    for number in range(12):
        store.append("notes", LogRecorded("app", "line", f"r{number}", {"n": number}), key=f"note-{number}")
    store.append("named", MetaSet("schema", 1), MetaSet("schema", 2), MetaSet("schema", 3))
    world.jumps(days=1)
    store.stream(GOING).append(MessageRecorded("user", "are you there?"), attempt=1)
    runs.continue_from("run-1", run_id="run-3", labels={"team": "é"})
    store.append("run-3", RunStarted("w2"), MessageRecorded("assistant", "from where it was"), RunCompleted("done"))
    store.append("notes", *(LogRecorded("app", "line", None, "x" * 5_000 + str(n)) for n in range(4)))
    world.jumps(days=2)
    store.append("run-4", RunQueued("deploy"), RunStarted("w1"), RunFailed(Error("tool", "it broke")))
    store.append("run-4", RunDescribed("a title to be found", "a summary", {}))
    store.append(GOING, ConfirmationRequested("q1", "ship", {"env": "prod"}), attempt=1)
    store.append("notes", LogRecorded("app", "line", "last", "y" * 6_000))
    world.jumps(days=2)
    store.append(GOING, MessageRecorded("assistant", "still here"), attempt=1)


def _run(store, run_id, *, job, large):
    """A run whose checkpoints grow, so that each stands in the log as its difference to one before."""
    store.append(run_id, RunQueued("deploy", {"n": 1}, job_id=job, config={"model": "m"}), RunStarted("w1"))
    state = {"step": 0, "messages": []}
    for step in range(large):
        text = f"{step} " + "words " * 200
        state = {"step": step, "messages": [*state["messages"], text]}
        store.append(
            run_id,
            MessageRecorded("user" if step % 2 == 0 else "assistant", text),
            ToolCalled(f"c{step}", "search", {"q": step}),
            ToolReturned(f"c{step}", {"hits": step}),
            CheckpointSaved(step, state),
            UsageRecorded("m", 10, 20, 0.5),
            attempt=1,
        )
    store.append(run_id, RunCompleted({"ok": True}), attempt=1)


def everything(runs, until):
    """All that can be read up to a position, but for what sealing itself records."""
    store = runs.store
    with store.reading() as reading:
        places = {
            "at": list(reading.at(range(1, until + 1, 7))),
            "hashes": [reading.hash_at(position) for position in range(until + 1)],
            "glance": glanced(reading.glance(after=3, limit=until - 3, peek={"ToolCalled": 30})),
        }
    entries = [recorded.entry for recorded in store.read_all() if recorded.position <= until]
    names = sorted({entry.stream for entry in entries} - {"runfold"})
    ids = [row.run_id for row in runs.workflow_runs.where(order="position")]
    views = [view for view in runs.projections if view.name not in ("logs", "meta")]
    return places | {
        "entries": entries,
        "streams": {name: of_stream(store, name) for name in names},
        "typed": [recorded.entry for recorded in store.read_all(types=[MessageRecorded, MetaSet, CheckpointSaved])],
        "page": [recorded.entry for recorded in store.read_all(after=until // 2, limit=3)],
        "runs": {run_id: of_run(runs, run_id) for run_id in ids},
        "rows": {view.name: [*runs.view(view.name).each()] for view in views},
        "logs": [entry for entry in runs.logs.each() if entry.stream != "runfold"],
        "meta": runs.meta.all(stream="named"),
        "found": runs.search("title"),
        "history": runs.sessions.history("run-3"),
        "job": (runs.jobs.get("job-1"), [recorded.entry for recorded in runs.jobs.events("job-1")]),
        "exported": list(export_lines(store, names)),
    }


def glanced(glance):
    return [
        list(glance.positions),
        list(glance.streams),
        list(glance.versions),
        list(glance.types),
        list(glance.attempts),
    ]


def of_stream(store, name):
    with store.reading() as reading:
        glance = glanced(reading.glance(after=1, limit=9_999, peek={}, stream=name))
        return [recorded.entry for recorded in store.read(name)], reading.version(name), glance


def of_run(runs, run_id):
    stream = runs.store.stream(run_id)
    state = stream.state
    return {
        "phase": (state.phase, state.attempt, stream.version, state.checkpoint, len(state.calls)),
        "checkpoint": runs.checkpoint(run_id),
        "messages": list(runs.messages(run_id)),
        "backward": list(runs.messages(run_id, newest_first=True, limit=2)),
        "input": runs.input(run_id),
        "output": runs.output(run_id),
        "saved": list(runs.saved(run_id)),
        "calls": runs.calls(run_id),
        "events": [recorded.entry for recorded in runs.events(run_id)],
        "settings": (runs.settings(run_id), runs.settings_history(run_id)),
        "tree": runs.tree(run_id),
    }


class Killed(BaseException):
    """The process is gone."""


class Steps:
    """Counts what a process does to files and log, and kills it at a step: before it is done, or right behind it."""

    def __init__(self, at=None, *, behind=False):
        self.at, self.behind, self.count = at, behind, 0

    def take(self, act):
        self.count += 1
        here = self.count == self.at
        if here and not self.behind:
            raise Killed
        done = act()
        if here:
            raise Killed
        return done


class StepFiles(MemoryFiles):
    """Files in memory, each verb of which is a step."""

    steps = Steps()
    verb = ""

    def _step(self, verb, *given):
        self.verb = verb
        return self.steps.take(lambda: getattr(super(StepFiles, self), verb)(*given))

    def folder(self, path):
        return self._step("folder", path)

    def put(self, path, data):
        return self._step("put", path, data)

    def open(self, path):
        return self._step("open", path)

    def rename(self, source, target):
        return self._step("rename", source, target)

    def remove(self, path):
        return self._step("remove", path)
