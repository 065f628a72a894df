"""What one append is made of: stopwatches at its joints, each microsecond in one part and in no other.

A stopwatch costs some tenths of a microsecond itself, partly in what it times and partly in what called it. Both are
measured on a function that does nothing, and taken off. A part that is called something else tomorrow fails the test
that runs this, and not in silence.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import projections
from eventstore import gate
from eventstore.sqlite import sqlite3
from eventstore.sqlite import transaction as sqlite_transaction
from eventstore.sqlite.driver import Connection, Synchronous
from eventstore.sqlite.witness import WitnessFile
from projections.projector import Projector
from tests.benchmarks import workload
from tests.benchmarks.bare import Bare
from tests.benchmarks.harness import Figure, Outcome, Setting, percentile, take_turns, undisturbed
from tests.benchmarks.lone import appended, fed

_JOINTS: dict[str, tuple[Any, str]] = {
    "draft: the payload checked and encoded": (gate.Gate, "draft"),
    "judging: fence, machine, fold": (gate.Gate, "judged"),
    "the chain: SHA-256 over entry and payload": (gate, "chained"),
    "packing of large payloads": (sqlite_transaction, "pack"),
    "tables: what the entry changes in them": (Projector, "inline"),
    "the witness": (WitnessFile, "saw"),
}
_STATEMENTS = {
    "BEGIN IMMEDIATE": "BEGIN IMMEDIATE",
    "PRAGMA data_version": "PRAGMA data_version",
    "INSERT INTO events": "INSERT of the entry",
    'UPDATE "cursors"': "UPDATE of four cursors",
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
        """Nanoseconds that a stopwatch adds to what it times, and to what called it."""
        rounds = range(20_000)
        one = self.timed("nothing", lambda: None)
        self.timed("caller", lambda: [one() for _ in rounds])()
        bare = _nothing(rounds)
        inside = self.taken.pop("nothing") / len(rounds)
        outside = (self.taken.pop("caller") - bare) / len(rounds)
        for counter in (self.calls, self.within):
            del counter["nothing"], counter["caller"]
        return inside, outside

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


def _nothing(rounds: range) -> int:
    begun = time.perf_counter_ns()
    _ = [None for _ in rounds]
    return time.perf_counter_ns() - begun


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
    """The mean append without any stopwatch and the bare insert beside it, but for the slowest twentieth of each."""
    runs = _size(setting)
    with projections.connect(setting.path(f"untouched-{synchronous}"), synchronous=synchronous) as store:
        bare = Bare(setting.path(f"bare-{synchronous}"), synchronous)
        ours = appended(store, workload.interleaved(runs, seed=setting.seed))
        contenders = {"ours": ours, "bare": fed(bare.insert, workload.ready(runs, seed=setting.seed))}
        taken = take_turns(contenders, runs * workload.EVENTS_PER_RUN, seed=setting.seed)
        bare.close()
    usual = ([value for value in values if value <= percentile(values, 95)] for values in taken.values())
    ours_mean, floor = (sum(values) / len(values) for values in usual)
    return ours_mean, floor


def _parts(setting: Setting, synchronous: Synchronous) -> dict[str, float]:
    """The mean microseconds of each part, but for the slowest twentieth of all appends."""
    runs = _size(setting)
    watches = _Stopwatches()
    inside, outside = watches.costs()
    each: list[tuple[int, Counter[str]]] = []
    path = setting.path(f"parts-{synchronous}")
    with watches.set(), projections.connect(path, synchronous=synchronous) as store, undisturbed():
        append = watches.timed(_GLUE, appended(store, workload.interleaved(runs, seed=setting.seed)))
        for number in range(runs * workload.EVENTS_PER_RUN):
            for counter in (watches.taken, watches.calls, watches.within):
                counter.clear()
            append(number)
            net = {
                part: taken - watches.calls[part] * inside - watches.within[part] * outside
                for part, taken in watches.taken.items()
            }
            each.append((watches.taken.total(), Counter(net)))
    limit = percentile([whole for whole, _ in each], 95)
    usual = [parts for whole, parts in each if whole <= limit]
    total: Counter[str] = Counter()
    for parts in usual:
        total.update(parts)
    order = [*_JOINTS, *_STATEMENTS.values(), _ROWS, _GLUE]
    return {part: total[part] / len(usual) / 1_000 for part in order}


def _size(setting: Setting) -> int:
    return setting.pick(smallest=1, quick=40, full=300)
