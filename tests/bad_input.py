"""The table of bad inputs: what was tried, and what it must get. `test_bad_input` runs it; this writes the page.

    python -m tests.bad_input          # writes docs/reference/bad-input.md

What is shown is what is run: a command is split and given to the command, a call is evaluated. Every case begins with
the same folder: `runs.db`, in which run-1 waits for an answer about c1, run-2 was decided on and is completed, run-3 is
queued; a file that is no database; databases of a newer release and of another program.
"""

import contextlib
import itertools
import os
import shlex
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen
from click.testing import CliRunner

import eventstore
import projections
from eventstore import RUN, errors, workflow
from eventstore.payloads import to_microseconds
from eventstore.workflow import ConfirmationRequested, RunCompleted, RunPaused
from projections.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "bad-input.md"
BUSY_TIMEOUT = 0.2
START = to_microseconds(eventstore.payloads.from_iso("2026-01-01T00:00:00Z"))


@frozen
class Case:
    """One bad input. With `line`, the command imports a file that holds just that."""

    what: str
    tried: str
    line: bytes | None = None


def _line(what: str, line: str | bytes) -> Case:
    raw = line if isinstance(line, bytes) else (line + "\n").encode()
    return Case(what, "runfold import runs.db bad.jsonl", raw)


def _note(value: str) -> str:
    return f'{{"stream": "n", "type": "MetaSet", "data": {{"name": "a", "value": {value}}}}}'


LINES = [
    _line("wrong JSON", "{'stream': 'n'}"),
    _line("wrong JSON: cut off", '{"stream": "n", "type": "MetaSet", "data": {"name": "a"'),
    _line("no object", "[1, 2]"),
    _line("a blank line", ""),
    _line("an empty file", b""),
    _line("no UTF-8", b'{"stream": "\xff"}\n'),
    _line("wrong order", '{"stream": "r", "type": "RunStarted", "data": {"worker": "w"}}'),
    _line("unknown type", '{"stream": "r", "type": "RunQueed", "data": {}}'),
    _line("unknown field", '{"stream": "n", "type": "MetaSet", "data": {"name": "a", "colour": 1}}'),
    _line("unknown field of the line", '{"stream": "n", "type": "MetaSet", "data": {"name": "a"}, "version": 1}'),
    _line("missing field", '{"stream": "r", "type": "RunQueued", "data": {}}'),
    _line("missing field of the line", '{"stream": "r", "data": {}}'),
    _line("wrong type of field", '{"stream": "r", "type": "RunQueued", "data": {"workflow": 7}}'),
    _line("wrong type of field of the line", '{"stream": 7, "type": "MetaSet", "data": {"name": "a"}}'),
    _line("a value that is none of those allowed",
          '{"stream": "r", "type": "ConfirmationResolved", "data": {"call_id": "c1", "decision": "maybe"}}'),
    _line("NaN", _note("NaN")),
    _line("a number beyond every float", _note("1e999")),
    _line("lone surrogate", _note(r'"\ud800"')),
    _line("2^60", _note(str(2**60))),
    _line("NUL", _note(r'"a\u0000b"')),
    _line("nesting of 10,000", _note("[" * 10_000 + "]" * 10_000)),
    _line("a key twice", '{"stream": "n", "type": "MetaSet", "data": {"name": "a", "name": "b"}}'),
    _line("a time without a zone",
          '{"stream": "n", "type": "MetaSet", "data": {"name": "a"}, "recorded_at": "2026-01-01T00:00:00"}'),
    _line("a foreign attempt", '{"stream": "r", "type": "RunQueued", "data": {"workflow": "w"}, "attempt": 7}'),
    _line("a standing stream", '{"stream": "run-1", "type": "RunQueued", "data": {"workflow": "deploy"}}'),
    _line("a run id with a slash", '{"stream": "../../escape", "type": "RunQueued", "data": {"workflow": "w"}}'),
]  # fmt: skip

COMMANDS = [
    Case("a file that is no database", "runfold runs text.txt"),
    Case("a database of another program", "runfold runs other.db"),
    Case("a database from a newer version", "runfold runs newer.db"),
    Case("a database that is not there", "runfold runs nosuch.db"),
    Case("an empty file for a database", "runfold runs empty.db"),
    Case("a folder for a database", "runfold runs ."),
    Case("a folder that cannot be written to", "runfold import text.txt/x.db good.jsonl"),
    Case("a locked database", "runfold cancel runs.db run-3"),
    Case("a decision on an ended run", "runfold approve runs.db run-2 c1 --by bob"),
    Case("two decisions", "runfold deny runs.db run-4 c1 --by bob"),
    Case("a decision on nothing", "runfold approve runs.db run-1 c9 --by bob"),
    Case("a decision on no run", "runfold approve runs.db run-9 c1 --by bob"),
    Case("cancelling an ended run", "runfold cancel runs.db run-2"),
    Case("wrong JSON in an option", "runfold approve runs.db run-1 c1 --input '{\"a\": '"),
    Case("page size -1", "runfold runs runs.db --limit -1"),
    Case("a page after no run", "runfold runs runs.db --after run-9"),
    Case("a phase that is none", "runfold runs runs.db --phase running"),
    Case("unknown type", "runfold events runs.db --type RunQueed"),
    Case("a run id with a slash", "runfold show runs.db ../../escape"),
    Case("a projection that is none", "runfold rebuild runs.db users"),
    Case("a program that is not there", "runfold runs runs.db --app nosuch:APP"),
    Case("the database as a file to import", "runfold import runs.db runs.db"),
    Case("a folder as a file to import", "runfold import runs.db ."),
    Case("the database as a file to export to", "runfold export runs.db -o runs.db"),
    Case("a digest that leads out of the folder", "runfold blobs get runs.db ../../escape"),
    Case("a blob that is not there", f"runfold blobs get runs.db {'ab' * 32}"),
    Case("an age that is none", "runfold blobs gc runs.db --min-age yesterday"),
]

CALLS = [
    Case("wrong order", 'runs.store.append("run-3", RunCompleted())'),
    Case("unknown type", 'runs.store.append("n", dict)'),
    Case("wrong type of field", "runs.submit(7)"),
    Case("NaN", 'runs.submit("w", input={"a": [1.0, float("nan")]})'),
    Case("lone surrogate", 'runs.submit("w", input="\\ud800")'),
    Case("2^60", 'runs.submit("w", input=2**60)'),
    Case("NUL", 'runs.submit("w", input="a\\0b")'),
    Case("nesting of 10,000", 'runs.submit("w", input=nested(10_000))'),
    Case("an object", 'runs.submit("w", input={"when": {1, 2}})'),
    Case("a full queue", 'runs.submit("deploy", max_queued=1)'),
    Case("a bound that is no number", 'runs.submit("deploy", max_queued="5")'),
    Case("a key that is no text", 'runs.submit("deploy", key=5)'),
    Case("a lease that is no time", 'runs.worker("w", lease=30)'),
    Case("a bound on a listener that is none", 'runs.listen(kept="5")'),
    Case("a retention that is none", 'runs.worker("w", retention=30)'),
    Case("an age that is none", "runs.blobs.gc(min_age=5)"),
    Case("one text for days", 'runs.restore_days("2026-01-01")'),
    Case("one text for types", 'runs.store.read_all(types="RunQueued")'),
    Case("a time that is none", 'runs.store.append("n", MetaSet("a"), occurred_at=5)'),
    Case("a decision that cannot be called", 'runs.store.stream("n").transact(MetaSet("a"))'),
    Case("a patience that is none", 'projections.connect("new.db", busy_timeout="5")'),
    Case("an app that is none", 'projections.connect("new.db", app=5)'),
    Case("an order that is none", "runs.workflow_runs.where(order=5)"),
    Case("a projection that is none", "runs.view(5)"),
    Case("a run that exists", 'runs.submit("deploy", run_id="run-3")'),
    Case("a key with other content", 'runs.submit("deploy", input=2, run_id="run-3", key="k")'),
    Case("a parent that is not there", 'runs.submit("w", parent_id="nobody")'),
    Case("itself as its parent", 'runs.submit("w", run_id="r", parent_id="r")'),
    Case("going on from behind the end", 'runs.continue_from("run-2", version=99)'),
    Case("going on without a checkpoint", 'runs.continue_from("run-2")'),
    Case("going on with another agent", 'runs.continue_from("run-2", agent="bot")'),
    Case("a run id with a slash", 'runs.submit("w", run_id="../../escape")'),
    Case("a decision on an ended run", 'runs.resolve("run-2", "c1", "approved", by="bob")'),
    Case("two decisions", 'runs.resolve("run-4", "c1", "denied", by="bob")'),
    Case("a decision that is none", 'runs.resolve("run-1", "c1", "maybe", by="bob")'),
    Case("a foreign attempt", 'runs.store.append("run-5", CheckpointSaved(1), attempt=7)'),
    Case("a worker's event without an attempt", 'runs.store.append("run-5", CheckpointSaved(1))'),
    Case("an attempt that is none", 'runs.store.append("run-5", CheckpointSaved(1), attempt="2")'),
    Case("a version that was passed", 'runs.store.append("run-3", RunDescribed("x"), expected_version=0)'),
    Case("page size -1", "runs.workflow_runs.where(limit=-1)"),
    Case("page size -1 of the log", "runs.store.read_all(limit=-1)"),
    Case("a place in the log that is none", 'runs.store.read_all(after="5")'),
    Case("page size 10,001", "runs.workflow_runs.where(limit=10_001)"),
    Case("101 labels", 'runs.submit("w", run_id="r", labels={f"name {n}": "" for n in range(101)})'),
    Case("a label of 1,001 characters", 'runs.store.append("run-3", RunDescribed(labels={"name": "x" * 1_001}))'),
    Case("a column that is none", 'runs.workflow_runs.where(colour="red")'),
    Case("a value of another type", 'runs.workflow_runs.where(priority="1; DROP TABLE events")'),
    Case("a read-only handle", 'eventstore.connect("runs.db", read_only=True).append("n", MetaSet("a"))'),
    Case("a folder that cannot be written to", 'projections.connect("text.txt/x.db")'),
]
ALL = [*LINES, *COMMANDS, *CALLS]


# --- running ------------------------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Lay out the folder that each case begins with; times are fixed, so that messages are."""
    ticks = itertools.count(START, 1_000_000)
    system = projections.System(microseconds=lambda: next(ticks))
    with projections.connect(folder / "runs.db", system=system) as runs:
        for number in range(1, 6):
            runs.submit("deploy", run_id=f"run-{number}", key="k" if number == 3 else None)
        for run_id in ("run-1", "run-2", "run-4", "run-5"):
            stream = runs.store.stream(run_id, RUN)
            stream.append(workflow.RunStarted("w"), ConfirmationRequested("c1", "ship", {"env": "prod"}))
            if run_id in ("run-1", "run-4"):
                stream.append(RunPaused("person"))
            if run_id in ("run-2", "run-4"):
                runs.resolve(run_id, "c1", "approved", by="alice")
            if run_id == "run-2":
                stream.append(RunCompleted())
    (folder / "text.txt").write_text("Dear diary,\n")
    (folder / "empty.db").touch()
    (folder / "good.jsonl").write_text('{"stream": "n", "type": "MetaSet", "data": {"name": "a"}}\n')
    for name, statement in (("newer.db", "PRAGMA user_version = 99"), ("other.db", "CREATE TABLE theirs(a)")):
        if name == "newer.db":
            (folder / name).write_bytes((folder / "runs.db").read_bytes())
        with contextlib.closing(sqlite3.connect(folder / name)) as connection:
            connection.execute(statement)
            connection.commit()


def answer(case: Case) -> tuple[str, str]:
    """What the case gets in the present folder: its exit code or error, and the message."""
    if case.line is not None:
        Path("bad.jsonl").write_bytes(case.line)
    if not case.tried.startswith("runfold "):
        return _called(case.tried)
    with _locked() if case.what == "a locked database" else contextlib.nullcontext():
        result = CliRunner().invoke(main, shlex.split(case.tried)[1:])
    return str(result.exit_code), _here(result.stderr)


def _here(message: str) -> str:
    """The message without the folder that the test happens to run in."""
    return message.replace(f"{Path.cwd()}{os.sep}", "")


def _called(call: str) -> tuple[str, str]:
    names = {
        **{name: getattr(eventstore, name) for name in eventstore.__all__},  # it imports them when asked for
        **vars(workflow),
        "eventstore": eventstore,
        "projections": projections,
        "nested": _nested,
    }
    with projections.connect("runs.db") as runs:
        try:
            eval(call, {**names, "runs": runs})  # our own text, shown as it is run
        except errors.EventStoreError as error:
            return type(error).__name__, _here(str(error))
    return "nothing", "nothing was refused"


def _nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Another process in the middle of a write."""
    script = (
        "import sqlite3, sys; c = sqlite3.connect('runs.db', isolation_level=None); c.execute('BEGIN IMMEDIATE'); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            holder.stdin.close()


# --- the page -----------------------------------------------------------------------------------------------------

HEAD = """# Bad input, and what it gets

<!-- Written by `python -m tests.bad_input`, which runs each of these; a test compares. -->

Each was run as it stands here, against one and the same database, and afterwards the log and every file in the folder
were what they were before. In that database run-1 waits for an answer about c1, run-2 was answered and is completed,
run-3 is queued with the key `k`, run-4 was answered and is paused, run-5 works in its first attempt and has asked.

The permissions of a folder do not bind root, as whom tests often run, so the folder that cannot be written to is a path
that leads through a file; a second test takes the permission away where that means something. The lock is another
process's, and the command waits 0.2 s for it instead of 10.
"""


def row(case: Case, got: tuple[str, str]) -> str:
    """The case's line in the page."""
    tried = case.tried if case.line is None else _text(case.line)
    shown = f"`` {tried} ``" if "`" in tried else f"`{tried}`" if tried else "(nothing)"
    cells = (case.what, shown, got[0], " ".join(got[1].split()).replace("<", "&lt;"))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _text(line: bytes) -> str:
    text = line.decode(errors="backslashreplace").strip("\n")
    return text if len(text) <= 200 else f"{text[:70]}…{text[-20:]}"


def page(got: dict[Case, tuple[str, str]]) -> str:
    """The whole page."""

    def table(title: str, tried: str, code: str, cases: list[Case]) -> str:
        rows = "".join(row(case, got[case]) for case in cases)
        return f"\n## {title}\n\n| what | {tried} | {code} | the answer |\n|---|---|---|---|\n{rows}"

    return (
        HEAD
        + table("Lines of a file, taken in by `runfold import runs.db bad.jsonl`", "line", "exit code", LINES)
        + table("Commands", "command", "exit code", COMMANDS)
        + table("Calls", "call", "raises", CALLS)
    )


def run_all() -> dict[Case, tuple[str, str]]:
    """Run every case in a folder of its own."""
    from projections.cli import opening  # noqa: PLC0415 - for its timeout alone

    opening.BUSY_TIMEOUT = BUSY_TIMEOUT
    os.environ.pop("RUNFOLD_DB", None)
    got = {}
    for case in ALL:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            prepare(Path())
            got[case] = answer(case)
    return got


if __name__ == "__main__":
    PAGE.write_text(page(run_all()), encoding="utf-8")
