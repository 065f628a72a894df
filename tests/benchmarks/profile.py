"""What one append is made of: stopwatches at its joints, each microsecond in one part and in no other.

A stopwatch costs some tenths of a microsecond itself, partly in what it times and partly in what called it. Both are
measured on a function that does nothing, and taken off. A part that is called something else tomorrow fails the test
that runs this, and not in silence.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import projections
from eventstore import gate
from eventstore.commits import Commits
from eventstore.sqlite import sqlite3
from eventstore.sqlite import transaction as sqlite_transaction
from eventstore.sqlite.driver import Connection, Synchronous
from eventstore.sqlite.log import SQLiteLog
from eventstore.sqlite.witness import WitnessFile
from projections.projector import Projector
from tests.benchmarks import workload
from tests.benchmarks.bare import Bare
from tests.benchmarks.harness import Figure, Outcome, Setting, take_turns, undisturbed
from tests.benchmarks.lone import appended, fed

_JOINTS: dict[str, tuple[Any, str]] = {
    "draft: the payload checked and encoded": (gate.Gate, "draft"),
    "the queue: whether somebody else is at it": (Commits, "write"),
    "the transaction: begun, named, told of": (SQLiteLog, "_commit"),
    "the place: head, time, what is known since": (gate.Gate, "place"),
    "judging: fence, machine, fold": (gate.Gate, "judged"),
    "the chain: SHA-256 over entry and payload": (gate, "chained"),
    "packing of large payloads": (sqlite_transaction, "pack"),
    "binding the entry's columns": (sqlite_transaction.SQLiteTransaction, "insert"),
    "tables: what the entry changes in them": (Projector, "inline"),
    "the witness": (WitnessFile, "saw"),
}
_STATEMENTS = {
    "BEGIN IMMEDIATE": "BEGIN IMMEDIATE",
    "PRAGMA data_version": "PRAGMA data_version",
    "INSERT INTO events": "INSERT of the entry",
    'UPDATE "cursors"': "UPDATE of all cursors",
    "COMMIT": "COMMIT",
}
_ROWS = "INSERT of rows, and all other statements"
_GLUE = "glue: from part to part"


class _Stopwatches:
    """Nanoseconds and calls by part; the innermost part that runs is the one whose time it is."""

    def __init__(self, now: Callable[[], int] = time.perf_counter_ns) -> None:
        self._now = now
        self.taken: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.within: Counter[str] = Counter()
        """How often another part was called from in here."""
        self._open: list[list[Any]] = []

    def timed(self, part: str | Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, with a stopwatch; its part may depend on its arguments."""
        now, opened = self._now, self._open

        def run(*arguments: Any, **named: Any) -> Any:
            name = part if isinstance(part, str) else part(*arguments)
            begun = now()
            opened.append([name, 0])
            try:
                return function(*arguments, **named)
            finally:
                whole = now() - begun
                _, inner = opened.pop()
                self.taken[name] += whole - inner
                self.calls[name] += 1
                if opened:
                    opened[-1][1] += whole
                    self.within[opened[-1][0]] += 1

        return run

    def costs(self) -> tuple[float, float]:
        """Nanoseconds that a stopwatch adds to what it times, and to what called it: the least of many looks."""
        rounds = range(100)
        one = self.timed("nothing", lambda: None)
        caller = self.timed("caller", lambda: [one() for _ in rounds])
        looks = []
        for _ in range(200):
            begun = self._now()
            _nothing = [None for _ in rounds]
            bare = self._now() - begun
            caller()
            looks.append((self.taken.pop("nothing"), self.taken.pop("caller"), bare))
        # The least of each, and only then their difference: one look that was held up must not weigh.
        inside, outside, bare = (min(column) / len(rounds) for column in zip(*looks, strict=True))
        self.calls.clear()
        self.within.clear()
        return inside, outside - bare

    @contextmanager
    def set(self) -> Iterator[None]:
        """All of them at their joints."""
        watches = self

        class Cursor(sqlite3.Cursor):
            execute = watches.timed(_of_statement, sqlite3.Cursor.execute)
            executemany = watches.timed(_of_statement, sqlite3.Cursor.executemany)

        honest = {part: getattr(owner, name) for part, (owner, name) in _JOINTS.items()}
        connection: Any = Connection
        for part, (owner, name) in _JOINTS.items():
            setattr(owner, name, self.timed(part, honest[part]))
        connection.cursor = lambda self: sqlite3.Connection.cursor(self, Cursor)
        connection.execute = self.timed(_of_statement, sqlite3.Connection.execute)
        connection.executemany = self.timed(_of_statement, sqlite3.Connection.executemany)
        try:
            yield
        finally:
            del connection.cursor, connection.execute, connection.executemany
            for part, (owner, name) in _JOINTS.items():
                setattr(owner, name, honest[part])


def _of_statement(_who: Any, sql: str, *_: Any) -> str:
    return next((part for beginning, part in _STATEMENTS.items() if sql.startswith(beginning)), _ROWS)


def profile(setting: Setting) -> Outcome:
    """One append, NORMAL, taken apart: each microsecond in one part; and what differs at FULL."""
    figures: list[Figure] = []
    facts: dict[str, dict[str, float]] = {}
    for synchronous in ("NORMAL", "FULL"):
        whole, floor = _untouched(setting, synchronous)
        parts = facts[synchronous] = _parts(setting, synchronous)
        shown = parts if synchronous == "NORMAL" else {"COMMIT": parts["COMMIT"]}
        figures += [
            Figure(f"one append, {synchronous}", whole, "µs"),
            Figure(f"the bare insert, {synchronous}", floor, "µs"),
            Figure(f"the parts together, {synchronous}", sum(parts.values()), "µs"),
            *(Figure(f"{part}, {synchronous}", taken, "µs") for part, taken in shown.items()),
        ]
    return Outcome(figures, facts=facts)


def _untouched(setting: Setting, synchronous: Synchronous) -> tuple[float, float]:
    """The usual append without any stopwatch, and the bare insert beside it."""
    runs = _size(setting)
    with projections.connect(setting.path(f"untouched-{synchronous}"), synchronous=synchronous) as store:
        bare = Bare(setting.path(f"bare-{synchronous}"), synchronous)
        ours = appended(store, workload.interleaved(runs, seed=setting.seed))
        contenders = {"ours": ours, "bare": fed(bare.insert, workload.ready(runs, seed=setting.seed))}
        taken = take_turns(contenders, runs * workload.EVENTS_PER_RUN, seed=setting.seed)
        bare.close()
    ours_mean, floor = (_mean(values[index] for index in _usual(setting, values)) for values in taken.values())
    return ours_mean, floor


def _parts(setting: Setting, synchronous: Synchronous) -> dict[str, float]:
    """The microseconds of each part of the usual append."""
    runs = _size(setting)
    watches = _Stopwatches()
    inside, outside = watches.costs()
    wholes: list[float] = []
    each: list[dict[str, float]] = []
    path = setting.path(f"parts-{synchronous}")
    with watches.set(), projections.connect(path, synchronous=synchronous) as store, undisturbed():
        append = watches.timed(_GLUE, appended(store, workload.interleaved(runs, seed=setting.seed)))
        for number in range(runs * workload.EVENTS_PER_RUN):
            for counter in (watches.taken, watches.calls, watches.within):
                counter.clear()
            append(number)
            wholes.append(watches.taken.total())
            calls, within = watches.calls, watches.within
            each.append(
                {part: taken - calls[part] * inside - within[part] * outside for part, taken in watches.taken.items()}
            )
    usual = [each[index] for index in _usual(setting, wholes)]
    order = [*_JOINTS, *_STATEMENTS.values(), _ROWS, _GLUE]
    return {part: _mean(parts.get(part, 0.0) for parts in usual) / 1_000 for part in order}


def _usual(setting: Setting, wholes: list[float]) -> list[int]:
    """Which appends count: of each type of event the quicker half, so that noise does not, and each type does."""
    kinds: dict[type, list[int]] = {}
    for number, (_, event) in enumerate(workload.interleaved(_size(setting), seed=setting.seed)):
        kinds.setdefault(type(event), []).append(number)
    return [
        number
        for numbers in kinds.values()
        for number in sorted(numbers, key=wholes.__getitem__)[: -(-len(numbers) // 2)]
    ]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _size(setting: Setting) -> int:
    return setting.pick(smallest=1, quick=40, full=300)
