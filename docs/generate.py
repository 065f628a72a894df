"""Write the reference pages that are drawn from the code itself: events, api, errors, limits, metrics, schema.

    python docs/generate.py             # write them
    python docs/generate.py --check     # exit 1 if a committed page is not what would be written

What can be read from the code is not typed by hand, so these pages cannot say what the code does not. A test runs the
check.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sqlite3
import sys
import tempfile
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
import click

import eventstore
import eventstore.aio
import eventstore.testing
import projections
import projections.aio
import projections.testing
from eventstore import backups, blobs, errors, exchange, growth, integrity, limits, log, metrics, notes, workflow
from eventstore.packing import forms
from eventstore.watching import Instrument
from projections import connecting, filesets, jobs, readings, retention, sessions, tables
from projections import growth as grown
from projections import metrics as measured
from projections import notes as noted
from projections.keeping import Keeping
from projections.leases import WORKERS
from projections.projector import CURSORS
from projections.submitting import Submitting
from projections.tables import Table

HERE = Path(__file__).parent / "reference"
ROOT = HERE.parent.parent
NOTICE = "<!-- Written by docs/generate.py from the code; change the code and run it again. -->"
CONTRACTS = (log.Reading, log.Writing, log.Log, log.Entry, log.Head, tables.Tables)
NOUNS = {
    "sessions": sessions.Sessions,
    "logs": noted.Logs,
    "meta": noted.Meta,
    "jobs": jobs.Jobs,
    "blobs": blobs.Blobs,
    "files": filesets.FileSets,
}
"""What hangs on `Runs` under a name of its own."""
GIVEN = (
    *(readings.Message, readings.Round, readings.ToolCall),
    *(sessions.History, readings.HistoryMessage, sessions.Ancestor),
    *(noted.LogEntry, jobs.Job),
    *(blobs.Checked, blobs.BlobFault, blobs.Collected, log.Need, filesets.FileSet, filesets.SavedFile),
    *(backups.Backup, backups.Restored, connecting.Restoration),
    *(grown.Growth, grown.Storage, growth.Weights, growth.Share, retention.Round),
)
"""What `Runs` and its nouns give."""
INSIDE = {
    "EventStore": (
        *("draft", "write", "place", "now", "judged", "insert", "standing", "start", "fold", "gate", "fixed"),
        *("reading", "stored_names", "appending"),
    )
}
"""Methods that are public for other rooms only; named, not explained."""
INHERITED = {projections.Runs: (Submitting, Keeping)}
"""Classes that are written in several files."""
SUITES = {
    kind.__module__
    for kind in (
        eventstore.testing.LogContract,
        projections.testing.DaemonMachine,
        projections.testing.TablesContract,
    )
}
OVERRIDDEN = {"open", "reopen", "beside", "open_log", "reopen_log", "open_tables", "system"}
"""What a subclass of a suite says; its other methods are the suite."""
PAGES = {}


def page(name: str):
    """Name the page that a function draws."""

    def named(draw):
        PAGES[name] = draw
        return draw

    return named


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a page is not what would be written.")
def main(*, check: bool) -> None:
    """Write the reference pages that are drawn from the code."""
    stale = []
    for name, draw in PAGES.items():
        path = HERE / name
        text = draw()
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if not check:
                path.write_text(text)
    if stale:
        print(("stale: " if check else "written: ") + ", ".join(stale))
    sys.exit(1 if stale and check else 0)


# --- events ---------------------------------------------------------------------------------------------------------


@page("events.md")
def events_page() -> str:
    """Events, transition table, diagram, rows."""
    names = [kind for kind in vars(workflow).values() if isinstance(kind, type) and kind in workflow.RUN.events]
    parts = [
        "# Events",
        NOTICE,
        (
            "Every event that a run may have, with its fields; the table of what may happen when, and its diagram; the "
            "rows that the projections make of them. All are attrs classes of `eventstore.workflow`, frozen, made by "
            "position or by keyword. `Json` means any JSON value. A field with a default may be left out, and is then "
            "not stored."
        ),
        "## The life of a run",
        "```mermaid\n" + workflow.RUN.diagram() + "```",
        "## What may happen when",
        (
            "A cell says which phase the run is in after the event; an empty cell is a refusal "
            "([`IllegalTransition`](errors.md#illegaltransition)). *final* stands for completed, failed, crashed, "
            "interrupted, dropped and cancelled."
        ),
        _transitions(),
        (
            "The column *attempt*: **begins** one; **carries** that of the worker which holds the run, or is refused "
            "with [`Fenced`](errors.md#fenced) (a run that no worker holds, queued or paused, takes it without one); "
            "**none** is needed, since the event comes from outside."
        ),
        "## Events of a run",
        *[_event(kind) for kind in names if kind is not notes.LogRecorded],
        "## Values inside them",
        *[_fields(kind, level=3) for kind in (workflow.Continues, workflow.Error)],
        "## Events of other streams",
        (
            "A stream that is no run takes these two in any order, for ever. `LogRecorded` may also stand in a run's "
            "stream, where it is work of a started run."
        ),
        *[_fields(kind, level=3) for kind in (notes.LogRecorded, notes.MetaSet)],
        "## Rows of the projections",
        "What the built-in projections make of these events. Each is a view: `runs.view(name)`.",
        *[_projection(item) for item in connecting.BUILT_IN],
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


_COLUMNS = (workflow.Phase.NEW, workflow.Phase.QUEUED, workflow.Phase.STARTED, workflow.Phase.PAUSED)


def _transitions() -> str:
    table = workflow.TRANSITIONS
    final = [phase for phase in table if phase in workflow.RUN.final]
    lines = [
        "| event | attempt | " + " | ".join(map(str, _COLUMNS)) + " | *final* |",
        "|---" * (len(_COLUMNS) + 3) + "|",
    ]
    kinds = dict.fromkeys(kind for row in table.values() for kind in row)
    for kind in kinds:
        cells = [str(table[phase].get(kind, "")) for phase in _COLUMNS]
        last = "stays" if all(table[phase].get(kind) is phase for phase in final) else ""
        link = f"[{kind.__name__}](#{kind.__name__.lower()})"
        lines.append(f"| {link} | {_attempt(kind)} | {' | '.join(cells)} | {last} |")
    return "\n".join(lines)


def _attempt(kind: type) -> str:
    if kind in workflow._BEGIN:  # noqa: SLF001 - the fence's own sets; there is no second list to go stale
        return "begins"
    return "none" if kind in workflow._OUTSIDE else "carries"  # noqa: SLF001


def _event(kind: type) -> str:
    guard = workflow.GUARDS.get(kind)
    text = _fields(kind, level=3)
    if guard is not None:
        raised = dict.fromkeys(re.findall(r"raise (\w+)\(", inspect.getsource(guard)))
        links = ", ".join(f"[`{name}`](errors.md#{name.lower()})" for name in raised)
        text += f"\n\nMay also be refused for what the run holds: {links}."
    return text


def _fields(kind: type, *, level: int) -> str:
    parts = [f"{'#' * level} {kind.__name__}", _paragraphs(kind)]
    rows = [f"| `{field.name}` | {_code(annotation)} | {_default(field)} |" for field, annotation in _annotated(kind)]
    parts.append("\n".join(["| field | type | default |", "|---|---|---|", *rows]) if rows else "No fields.")
    return "\n\n".join(parts)


def _annotated(kind: type):
    for field in attrs.fields(kind):
        if field.init:
            owner = next(base for base in kind.__mro__ if field.name in vars(base).get("__annotations__", {}))
            yield field, _unaliased(owner, owner.__annotations__[field.name])


def _unaliased(owner: type, annotation: str) -> str:
    """An alias of a Literal as its values, any other annotation as it is written."""
    meant = vars(sys.modules[owner.__module__]).get(annotation)
    return annotation if get_origin(meant) is not Literal else f"Literal{list(get_args(meant))}"


def _default(field: Any) -> str:
    if field.default is attrs.NOTHING:
        return ""
    if isinstance(field.default, attrs.Factory):
        made = field.default.factory
        return f"`{made() if made in (dict, list, tuple, frozenset) else made.__name__ + '()'!r}`"
    value = field.default
    return f"`{str(value) if isinstance(value, str) else repr(value)}`"


def _attribute_docs(kind: type) -> dict[str, str]:
    """The string under each field of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    found = {}
    for before, after in itertools.pairwise(body):
        text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
        if isinstance(before, ast.AnnAssign) and isinstance(text, str):
            found[before.target.id] = _line(text)
    return found


def _projection(projection: Any) -> str:
    table = Table.of(projection.name, projection.row, projection.key, projection.indexes)
    kinds = {column.name: column.kind for column in table.columns}
    docs = _attribute_docs(projection.row)
    rows = [
        f"| `{field.name}` | {_code(annotation)} | {kinds[field.name]} | {docs.get(field.name, '')} |"
        for field, annotation in _annotated(projection.row)
    ]
    events = ", ".join(f"[{kind.__name__}](#{kind.__name__.lower()})" for kind in projection.events)
    module = inspect.getmodule(projection.row)
    return "\n\n".join([
        f"### {projection.name}",
        _sentence(module.__doc__.partition(":")[2].strip().split("\n\n")[0]),
        (f"`{projection.row.__name__}`, version {projection.version}, one row for each "
        f"{' and '.join(f'`{name}`' for name in projection.key)}. It sees: {events}."),
        "\n".join(["| column | type | kept as | |", "|---|---|---|---|", *rows]),
    ])  # fmt: skip


# --- api ------------------------------------------------------------------------------------------------------------


@page("api.md")
def api_page() -> str:
    """Every exported name with its signature and docstring."""
    return "\n\n".join([
        "# API",
        NOTICE,
        ("What `eventstore` and `projections` export, and the testing kits. The run's events are on [their own "
        "page](events.md), and so are [the errors](errors.md)."),
        ("[eventstore](#eventstore) · [projections](#projections) · [eventstore.testing](#eventstoretesting) · "
        "[On Runs](#on-runs) · [In asyncio](#in-asyncio) · [projections.testing](#projectionstesting) · "
        "[Contracts of a backend](#contracts-of-a-backend)"),
        *_face(eventstore),
        *_face(projections),
        "## On Runs",
        "What is a noun of its own is an attribute of `Runs`, and needs no import: "
        + ", ".join(f"`runs.{name}` is its [{kind.__name__}](#{kind.__name__.lower()})" for name, kind in NOUNS.items())
        + ". Below them stand the values that they and `Runs` give.",
        *[_class(kind, kind.__name__) for kind in (*NOUNS.values(), *GIVEN)],
        "## In asyncio",
        ("What `aconnect` opens has handles of the same names, whose methods take the same arguments, give the same "
        "answers and raise the same errors. `await` those that give a value; go through those that give one after "
        "another with `async for`; the rest waits for nothing. What a handle has as an attribute above and waits for "
        "is a method here: `await attempt.input()`."),
        _awaited(),
        *_face(eventstore.testing),
        *_face(projections.testing),
        "## Contracts of a backend",
        "Who writes a backend of their own fulfils these; everybody else can pass them by.",
        *[_class(kind, kind.__name__) for kind in CONTRACTS],
    ]) + "\n"  # fmt: skip


def _face(module: Any) -> list[str]:
    testing = module.__name__.endswith(".testing")
    parts = [f"## {module.__name__}", _prose(inspect.cleandoc(module.__doc__)) if testing else _line(module.__doc__)]
    for name in sorted(module.__all__, key=str.lower):
        if name.startswith("__"):
            continue
        item = getattr(module, name)
        if isinstance(item, type) and name != "Json":
            parts.append(_class(item, name))
        elif inspect.isfunction(item):
            parts.append(_function(item, name, level=3))
        else:
            parts.append(f"### {name}\n\n{_value(name, item)}")
    return parts


def _awaited() -> str:
    """Every handle of asyncio, and which of its methods are waited for how."""
    rows = ["| of | `await` | `async for` | without waiting |", "|---|---|---|---|"]
    kinds = [*vars(eventstore.aio).values(), *vars(projections.aio).values()]
    handles = [it for it in kinds if isinstance(it, type) and issubclass(it, eventstore.aio.Handle)]
    for kind in dict.fromkeys(it for it in handles if it.__name__.startswith("Async")):
        ways: tuple[list[str], ...] = ([], [], [])
        for name, value in vars(kind).items():
            if not name.startswith("_") and (callable(value) or isinstance(value, property)):
                ways[0 if inspect.iscoroutinefunction(value) else 1 if inspect.isasyncgenfunction(value) else 2].append(
                    name
                )
        cells = [", ".join(f"`{name}`" for name in way) for way in ways]
        rows.append(f"| `{kind.__name__.removeprefix('Async')}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def _value(name: str, item: Any) -> str:
    if name == "RUN":
        return "The machine of a run: see [Events](events.md). `RUN.diagram()` draws it, `RUN.table` is it."
    if name == "Json":
        return "Any JSON value: None, bool, int, float, str, list of these, dict of these by str. An alias of `Any`."
    return f"`{item!r}`"


def _class(kind: type, name: str) -> str:
    parts = [f"### {name}"]
    if issubclass(kind, errors.EventStoreError):
        return "\n\n".join([*parts, f"{_paragraphs(kind)} See [Errors](errors.md)."])
    if attrs.has(kind):
        arguments = ", ".join(
            f"{field.name}: {annotation}" + ("" if field.default is attrs.NOTHING else " = …")
            for field, annotation in _annotated(kind)
        )
        parts.append(_signature(f"{name}({arguments})"))
    elif issubclass(kind, tuple):
        fields = kind.__annotations__.items()  # of a NamedTuple: forward references
        parts.append(_signature(f"{name}({', '.join(f'{field}: {given.__forward_arg__}' for field, given in fields)})"))
    elif "__init__" in vars(kind) and "Made by" not in kind.__doc__ and not _plumbing(kind):
        parts.append(_signature(name + _arguments(kind.__init__)))
    parts.append(_document(kind))
    docs = _attribute_docs(kind)
    if attrs.has(kind) and docs:
        parts.append("\n".join(f"- `{field}`: {text}" for field, text in docs.items()))
    inherited = {name: value for part in INHERITED.get(kind, ()) for name, value in vars(part).items()}
    for member, value in {**inherited, **vars(kind)}.items():
        if member.startswith("_") or not _documented(value):
            continue
        function = value.fget if isinstance(value, property) else getattr(value, "func", value)
        function = getattr(function, "__func__", function)
        if member in INSIDE.get(name, ()) or (kind.__module__ in SUITES and member not in OVERRIDDEN):
            continue
        parts.append(_function(function, f"{name}.{member}", level=4, attribute=not callable(value)))
    if name in INSIDE:
        parts.append(f"Also there, for import, replay and backends: {', '.join(f'`{it}`' for it in INSIDE[name])}.")
    return "\n\n".join(parts)


def _plumbing(kind: type) -> bool:
    """Classes that only other rooms construct."""
    return kind in (projections.View, projections.Attempt, projections.Worker, eventstore.Recorded, eventstore.Stream)


def _documented(value: Any) -> bool:
    wrapped = hasattr(value, "func") or isinstance(value, property | classmethod | staticmethod)
    return (inspect.isfunction(value) or wrapped) and bool(getattr(value, "__doc__", None))


def _function(function: Any, name: str, *, level: int, attribute: bool = False) -> str:
    shown = name.rpartition(".")[2]
    if attribute:
        result = function.__annotations__.get("return")
        signature = f"{shown}: {result}" if result else shown
    else:
        signature = shown + _arguments(function)
    return "\n\n".join([f"{'#' * level} {name}", _signature(signature), _document(function)])


def _arguments(function: Any) -> str:
    node = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))).body[0]
    node.args.args = [argument for argument in node.args.args if argument.arg not in ("self", "cls")]
    result = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    return f"({', '.join(_each_argument(node.args))}){result}"


def _each_argument(given: ast.arguments):
    by_place = [argument for argument in given.posonlyargs if argument.arg not in ("self", "cls")]
    if by_place:
        yield from (*map(ast.unparse, by_place), "/")
    defaults = [None] * (len(given.args) - len(given.defaults)) + given.defaults
    for argument, default in zip(given.args, defaults, strict=False):
        yield _argument(argument, default)
    if given.vararg:
        yield f"*{_argument(given.vararg, None)}"
    elif given.kwonlyargs:
        yield "*"
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield _argument(argument, default)
    if given.kwarg:
        yield f"**{_argument(given.kwarg, None)}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + ("" if default is None else f" = {ast.unparse(default)}")


def _signature(text: str) -> str:
    if len(text) > 100:
        head, _, rest = text.partition("(")
        inner, _, tail = rest.rpartition(")")
        text = f"{head}(\n" + "".join(f"    {part},\n" for part in _split(inner)) + f"){tail}"
    return f"```text\n{text}\n```"


def _split(arguments: str) -> list[str]:
    parts, depth, current = [], 0, ""
    for character in arguments:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    return [*parts, current.strip()] if current.strip() else parts


# --- docstrings -----------------------------------------------------------------------------------------------------

_SECTIONS = ("Args", "Returns", "Raises")


def _document(item: Any) -> str:
    """A docstring as Markdown: its paragraphs, then arguments, result and errors as lists."""
    text = inspect.cleandoc(item.__doc__ or "")
    head, *sections = re.split(rf"(?:^|\n)({'|'.join(_SECTIONS)}):\n", text)
    parts = [_prose(head.strip())]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        section, _, rest = textwrap.dedent(body.rstrip()).partition("\n\n")
        words = {"Args": "Arguments", "Returns": "Returns", "Raises": "Raises"}[title]
        if title == "Returns":
            parts.append(f"*{words}:* {_line(section)}")
        else:
            parts.append(f"*{words}:*\n\n" + "\n".join(f"- {_entry(entry)}" for entry in _entries(section)))
        if rest.strip():
            parts.append(_prose(rest.strip()))
    return "\n\n".join(parts)


def _prose(text: str) -> str:
    """Paragraphs on one line each; tables, indented code and lists as they stand."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith("    "):
            parts.append(f"```text\n{textwrap.dedent(paragraph)}\n```")
        elif paragraph.startswith(("|", "- ")):
            parts.append(paragraph)
        else:
            parts.append(_line(paragraph))
    return "\n\n".join(parts)


def _paragraphs(item: Any) -> str:
    return _prose(inspect.cleandoc(item.__doc__ or "").split("\n\n")[0])


def _entries(section: str) -> list[str]:
    entries: list[str] = []
    for line in section.splitlines():
        if entries and (line.startswith(" ") or entries[-1].endswith(",")):
            entries[-1] += " " + line.strip()
        else:
            entries.append(line.strip())
    return entries


def _entry(text: str) -> str:
    names, separator, rest = text.partition(":")
    if not separator or not re.fullmatch(r"[\w, *]+", names):
        return text
    return ", ".join(f"`{name.strip()}`" for name in names.split(",")) + ":" + rest


def _line(text: str) -> str:
    return " ".join(text.split())


def _sentence(text: str) -> str:
    return text[0].upper() + _line(text)[1:]


def _code(annotation: str) -> str:
    return "`" + annotation.replace("|", "\\|") + "`"


# --- errors ---------------------------------------------------------------------------------------------------------

_SAMPLES: dict[str, Any] = {
    "name": "limit", "value": -1, "reason": "must be 0 or more; leave it out for all", "type": "ToolCalled",
    "path": "$.input.score", "known": ("RunQueued", "RunStarted"), "stream": "run-42", "machine": "run",
    "owner": "order", "key": "job-7", "version": 7, "attempt": 1, "current": 2, "phase": "started", "expected": 3,
    "actual": 5, "event": "RunStarted", "allowed": ("RunDescribed",), "call_id": "c1", "state": "denied",
    "decision": "approved", "by": "alice", "at": datetime(2026, 1, 31, 12, tzinfo=UTC), "call_ids": ("c1",),
    "workflow": "deploy", "queued": 100, "limit": 100, "source": "log.jsonl", "line": 12, "position": 17,
    "what": "open questions", "remedy": "let some be answered first",
    "run_id": "run-42", "url": "agent.db", "found": 2, "seconds": 60.0, "hint": "",
    "fact": "returned already at version 6",
}  # fmt: skip
_SAMPLES_OF: dict[str, dict[str, Any]] = {
    "LimitReached": {"limit": limits.MAX_OPEN},
    "InvalidPayload": {"reason": "is nan, which JSON does not have; write null or text"},
    "ForeignEvent": {"type": "OrderPlaced"},
    "IllegalTransition": {"phase": "completed", "hint": "To go on, submit a new run that continues it."},
    "RunExists": {"phase": "completed"},
    "DigestMismatch": {"expected": "5f3a9c21e0b7d4", "actual": "c0ffee00a1b2c3"},
    "SelfReference": {"role": "parent_id"},
    "VersionBeyondEnd": {"version": 9, "end": 7},
    "AgentDiffers": {"expected": "writer", "given": "reviewer"},
    "SpecDiffers": {"expected": "5f3a9c21", "given": "c0ffee00"},
    "LineageBroken": {"ancestor": "run-7", "reason": "does not stand in this log"},
    "ImportRefused": {"reason": "the line is not JSON: Expecting value at column 1"},
    "UnreadableEntry": {
        "type": "OrderPlaced", "reason": "no class of that name is known here",
        "remedy": "open it with the program that wrote it, or give that program's upcaster",
    },
    "MissingBlob": {"digest": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"},
    "DamagedBlob": {"digest": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
                    "reason": "its bytes are others than were written"},
    "ReplayRefused": {"phase": "completed", "event": "ToolCalled",
                      "reason": "run-42 is completed and cannot take ToolCalled; it takes RunDescribed."},
    "StaleProjection": {"name": "workflow_runs", "reason": "was built by another version of the program"},
    "ProjectionHalted": {"name": "items", "reason": "KeyError: 'item'"},
    "WorkersUnknown": {"reason": "has a table that somebody altered"},
    "RebuildSuperseded": {"name": "workflow_runs"},
    "CannotOpen": {"reason": "it is a SQLite database of another program; choose another name"},
    "NewerDatabase": {"known": 1},
    "OutcomeUnknown": {"reason": "database or disk is full", "hash": None},
    "LostTail": {"expected": 1041, "found": 1038, "kept": "agent.db-wal.lost-1041"},
    "WorkerClosed": {"worker": "laptop:5f3a9c21"},
    "CallFailed": {"output": "no route to host"},
}  # fmt: skip


@page("errors.md")
def errors_page() -> str:
    """The tree of errors, and each with what it says."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__]
    intro, _, tree = errors.__doc__.partition("    EventStoreError")
    tree = textwrap.dedent("    EventStoreError" + tree).rstrip()
    raised = _raised_by()
    return "\n\n".join([
        "# Errors",
        NOTICE,
        ("Every error that Runfold raises on purpose is one of these, in `eventstore.errors`. Catch `EventStoreError` "
        "for all of them, and `Refused` for those that mean: what was asked may not happen, nothing was written, state "
        "and log are what they were. Errors of the database driver pass unchanged, with a note."),
        _line(intro.split("\n\n")[1].split("\n")[0]),
        f"```text\n{tree}\n```",
        *[_error(kind, raised.get(kind.__name__, [])) for kind in kinds],
    ]) + "\n"  # fmt: skip


@page("limits.md")
def limits_page() -> str:
    """Every bound on what a caller can make grow, from the modules that hold them."""
    rows = [
        f"| `{name}` | {getattr(module, name):,} | {_line(text)} |"
        for module in (limits, exchange)
        for name, text in _constants(Path(module.__file__)).items()
    ]
    return "\n\n".join([
        "# Limits",
        NOTICE,
        ("What may be how large. Whatever goes beyond is refused in one sentence that names the limit, and nothing is "
        "written or cut off. Labels, open questions and open calls are counted by the run machine, so they bind "
        "imports and replays as well; a release may raise those, and never lower them."),
        "\n".join(["| in `eventstore.limits` and `eventstore.exchange` | | of |", "|---|---|---|", *rows]),
        ("The number of entries, of streams and of rows has no bound: they are read page by page, and a view refuses "
        "to give more rows at once than it may rather than leave some out. `queued` runs are bounded where you say so, "
        "with `submit(max_queued=…)`."),
    ]) + "\n"  # fmt: skip


@page("metrics.md")
def metrics_page() -> str:
    """Every instrument, from the tables that make them."""

    def table(title: str, found: tuple[Instrument, ...]) -> str:
        rows = [
            f"| `{item.name}` | {item.kind} | `{item.unit}` | {f'`{item.attribute}`' if item.attribute else ''} "
            f"| {item.description} |"
            for item in found
        ]
        return f"## {title}\n\n" + "\n".join(
            ["| name | kind | unit | told apart by | |", "|---|---|---|---|---|", *rows]
        )

    return "\n\n".join([
        "# Metrics",
        NOTICE,
        ("What a store tells of its work through OpenTelemetry's API; [how to have it told]"
        "(../how-to/measure-with-opentelemetry.md). Names and units follow its semantic conventions. Each series "
        "bears `db.namespace`, the database as it was named when it was opened."),
        table("The log", metrics.INSTRUMENTS),
        table("Runs and tables", (*measured.COUNTERS, *measured.GAUGES)),
    ]) + "\n"  # fmt: skip


def _constants(path: Path) -> dict[str, str]:
    """The public constants of a module that have a docstring, and it."""
    body = ast.parse(path.read_text()).body
    return {
        node.targets[0].id: following.value.value
        for node, following in itertools.pairwise(body)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper()
        and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        and not node.targets[0].id.startswith("_")
    }  # fmt: skip


def _error(kind: type, raised: list[str]) -> str:
    base = kind.__bases__[0].__name__
    above = f" A kind of [`{base}`](#{base.lower()})." if base != "Exception" else ""
    parts = [f"## {kind.__name__}", f"{_paragraphs(kind)}{above}"]
    if "__str__" in vars(kind):
        parts.append(f"> {_sample(kind)}")
    if kind.__match_args__:
        parts.append("It carries " + ", ".join(f"`{name}`" for name in kind.__match_args__) + ".")
    if raised:
        parts.append("Named by: " + ", ".join(f"`{name}`" for name in raised) + ".")
    return "\n\n".join(parts)


def _sample(kind: type) -> str:
    given = {**_SAMPLES, **_SAMPLES_OF.get(kind.__name__, {})}
    values = {name: given[name] if name in given else _made_up(name, kind) for name in kind.__match_args__}
    return str(kind(**values)).replace("\n", " ")


def _made_up(name: str, kind: type) -> Any:
    """A value for a field that no sample is given for: better a dull page than none."""
    plain = {"int": 7, "float": 7.0, "bytes": bytes(32), "bool": True, "tuple[str, ...]": (name,)}
    return plain.get(kind.__annotations__[name], name)


def _raised_by() -> dict[str, list[str]]:
    """Error name -> the public functions and classes whose docstring names it under Raises."""
    found: dict[str, list[str]] = {}
    for module in (*ROOT.glob("eventstore/*.py"), *ROOT.glob("projections/*.py")):
        for owner, node in _public(ast.parse(module.read_text())):
            section = (ast.get_docstring(node) or "").partition("Raises:\n")[2].split("\n\n")[0]
            for name in re.findall(r"\b[A-Z][A-Za-z]+\b", section):
                found.setdefault(name, []).append(owner)
    return {name: sorted(set(owners)) for name, owners in found.items()}


def _public(tree: ast.Module):
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        yield node.name, node
        for member in getattr(node, "body", []) if isinstance(node, ast.ClassDef) else []:
            if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                yield f"{node.name}.{member.name}", member


# --- schema ---------------------------------------------------------------------------------------------------------

_EVENTS_COLUMNS = {
    "position": "Place in the log: 1, 2, 3 … without gaps, never reused.",
    "stream": "The stream's name; a run's stream is named by its run id.",
    "version": "Place in the stream: 1, 2, 3 … without gaps.",
    "type": "The event's name as stored.",
    "recorded_at": "When the log took it; never goes backwards.",
    "occurred_at": "When it happened, if a writer or an import said so.",
    "attempt": "The attempt that wrote it; NULL for what came from outside.",
    "key": "The caller's idempotency key, unique in its stream.",
    "hash": "SHA-256 over this entry and the hash before it: the chain, format 1.",
    "meta": "Free JSON of the caller.",
    "data": "The event's fields as JSON text, those at their defaults left out; a BLOB is a packed form of it.",
}


@page("schema.md")
def schema_page() -> str:
    """Tables and columns, as a new database has them."""
    facts, found = _new_database()
    known = ("events", "log", *(projection.name for projection in connecting.BUILT_IN), CURSORS.name, WORKERS.name)
    others = [_statements(found, name) for name in found if name not in known]
    parts = [
        "# Schema",
        NOTICE,
        (
            "One SQLite file holds the log, the tables that are folds of it, their cursors, and who is alive. Any "
            "SQLite tool may read it (open it read-only, and from another process than the daemon). Write only through "
            "Runfold. What follows was read from a new database."
        ),
        (
            f"`application_id` is `0x{facts['application_id']:08x}`, `user_version` is {facts['user_version']}, and "
            f"the journal mode is {facts['journal_mode'].upper()}. A database with a higher `user_version` is refused; "
            "one with a lower one is brought up in one transaction. Times are microseconds since 1970, UTC."
        ),
        "## The log",
        _statements(found, "events"),
        "\n".join(["| column | |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in _EVENTS_COLUMNS.items())]),
        (
            "The triggers refuse UPDATE and DELETE to every program. You may add indexes over plain columns; a UNIQUE "
            "one, or one with an expression or a condition, could refuse an append: with such an index, or with "
            "triggers and views that are not ours, the database is not opened. The table `log` holds its random id:"
        ),
        _statements(found, "log"),
        "## The chain",
        _prose(inspect.cleandoc(integrity.chain.__doc__)),
        "## Packed payloads",
        (
            "A large payload is stored packed, and never loses its JSON: see [Checkpoints]"
            "(../explanation/checkpoints.md)."
        ),
        _preformatted(forms.__doc__),
        "## Projections",
        (
            "Each projection has one table named after it. `_position` is the position of the event that last touched "
            "the row. What the columns mean: [Events](events.md#rows-of-the-projections)."
        ),
        *[_statements(found, projection.name) for projection in connecting.BUILT_IN],
        (
            "A rebuild that is running keeps its tables beside these, with `__shadow` at the end of the name, and a "
            "swap puts the old ones aside as `__old`. A `…` above is made anew with each table."
        ),
        "## Cursors",
        (
            "How far each projection has come, whose it is (`fingerprint` is of its name, version, key and row class), "
            "and whether it stands still. A missing cursor is never read as 0."
        ),
        _statements(found, CURSORS.name),
        "## Sealed days",
        (
            "[Archived](../how-to/archive-old-days.md) days: the entries from `first` to `last` stand in a file of the "
            "archive folder, and may have left `events`. `before` and `after` are the chain's hashes at both ends, "
            "`digest` is the SHA-256 of its lines, `types` tells entries and payload bytes by type."
        ),
        _statements(found, "segments"),
        (
            "Where entries stand in the files: the blocks, each of which can be read by itself, and which versions of "
            "a stream stand in which; `types` where these are two at most. What lies behind the last segment means "
            "nothing. All of it can be made anew from the files."
        ),
        _statements(found, "segment_blocks"),
        _statements(found, "segment_streams"),
        "## Workers",
        (
            "One row a worker process, renewed by a thread of it. It says who is alive, and holds no facts: losing it "
            "loses nothing."
        ),
        _statements(found, WORKERS.name),
        *(["## Other tables", *others] if others else []),
    ]
    return "\n\n".join(parts) + "\n"


def _preformatted(docstring: str) -> str:
    """A docstring whose indented parts are text to be shown as it stands."""
    parts = inspect.cleandoc(docstring).split("\n\n")
    return "\n\n".join(
        f"```text\n{textwrap.dedent(part)}\n```" if part.startswith("    ") else _line(part) for part in parts
    )


def _new_database() -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The pragmas of a new database, and table -> the statements that made it, its indexes and its triggers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new.db"
        with projections.connect(path) as runs, runs.worker("new"):
            pass
        database = sqlite3.connect(path)
        pragmas = ("application_id", "user_version", "journal_mode")
        facts = {name: database.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas}
        rows = database.execute(
            "SELECT tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid"
        ).fetchall()
        database.close()
    found: dict[str, list[str]] = {}
    for table, sql in rows:
        found.setdefault(table, []).append(sql)
    return facts, found


def _statements(found: dict[str, list[str]], table: str) -> str:
    """The statements of one table, a column a line."""
    shown = []
    for sql in sorted(found[table], key=lambda sql: not sql.startswith("CREATE TABLE")):
        text = re.sub(r"_[0-9a-f]{8}\" ON", '_…" ON', sql.strip())
        shown.append(_wrapped(text) if text.startswith("CREATE TABLE") else text)
    return "```sql\n" + ";\n".join(shown) + ";\n```"


def _wrapped(sql: str) -> str:
    head, _, rest = sql.partition("(")
    inner, _, tail = rest.rpartition(")")
    return f"{head}(\n" + ",\n".join(f"    {_line(part)}" for part in _split(inner)) + f"\n){tail}"


if __name__ == "__main__":
    main()
