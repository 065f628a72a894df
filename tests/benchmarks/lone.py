"""One caller alone: an event at a time, and a hundred at once, against ready bytes into a bare table.

"Ours" is the whole of it: payload checks, encoding, fence, machine, chain, witness, and the built-in projections
in the same transaction. "Least" is for comparison what nobody can do without who promises the same: a transaction with
the row, one cursor and the witness, of ready bytes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import projections
from eventstore.sqlite.driver import Synchronous
from eventstore.store import Stream
from eventstore.workflow import RUN, MessageRecorded, RunQueued, RunStarted
from tests.benchmarks import workload
from tests.benchmarks.bare import Bare, Row
from tests.benchmarks.harness import Figure, Outcome, Samples, Setting, median, percentile, ratio, take_turns

_TARGETS: dict[Synchronous, tuple[float, float]] = {"FULL": (1.3, 1.15), "NORMAL": (2.5, 1.8)}
_BATCH = 100


def lone(setting: Setting) -> Outcome:
    """One durable append, FULL and NORMAL: machine, encoding, chain, witness and inline projections included."""
    figures: list[Figure] = []
    samples: Samples = {}
    for synchronous, (target, dream) in _TARGETS.items():
        taken = _one_by_one(setting, synchronous)
        samples |= {f"{name}, {synchronous}": values for name, values in taken.items()}
        ours, floor, least = taken["ours"], taken["bare"], taken["least"]
        figures += [
            ratio(f"one durable append, {synchronous}, p50", ours, floor, target=target, dream=dream),
            ratio(f"one durable append, {synchronous}, p99", ours, floor, of=lambda values: percentile(values, 99)),
            ratio(f"least that promises the same, {synchronous}, p50", least, floor),
            Figure(f"what ours adds to the bare insert, {synchronous}, p50", median(ours) - median(floor), "µs"),
            Figure(f"the bare insert, {synchronous}, p50", median(floor), "µs"),
        ]
    return Outcome(figures, samples)


def _one_by_one(setting: Setting, synchronous: Synchronous) -> Samples:
    runs = setting.pick(smallest=1, quick=60, full=1_000)
    with projections.connect(setting.path(f"ours-{synchronous}"), synchronous=synchronous) as store:
        ours = appended(store, workload.interleaved(runs, seed=setting.seed))
        bare = Bare(setting.path(f"bare-{synchronous}"), synchronous)
        least = Least(setting.path(f"least-{synchronous}"), synchronous)
        # Each row once for each of the two: the workload is not kept in memory.
        floor, rows = workload.ready(runs, seed=setting.seed), workload.ready(runs, seed=setting.seed)
        events = runs * workload.EVENTS_PER_RUN
        warmup = min(events // 10, 300)
        contenders = {"ours": ours, "bare": fed(bare.insert, floor), "least": fed(least.insert, rows)}
        taken = take_turns(contenders, events - warmup, seed=setting.seed, warmup=warmup)
        bare.close()
        least.close()
    return taken


def appended(runs: projections.Runs, events: Iterator[tuple[str, Any]]) -> Any:
    """A contender that appends the next event of the workload, through a handle that is kept for each run."""
    handles: dict[str, Stream[Any]] = {}
    ahead = _made_ahead(events)

    def append(_number: int) -> None:
        stream, event = next(ahead)
        handle = handles.get(stream)
        if handle is None:
            handle = handles[stream] = runs.store.stream(stream, RUN)
        handle.append(event)

    return append


def interleaved_appends(setting: Setting, stores: dict[str, projections.Runs]) -> Samples:
    """One durable append after another of the whole workload, by turns on each of these stores, which are closed."""
    runs = setting.pick(smallest=1, quick=60, full=1_000)
    events = runs * workload.EVENTS_PER_RUN
    warmup = min(events // 10, 300)
    contenders = {
        name: appended(store, workload.interleaved(runs, seed=setting.seed)) for name, store in stores.items()
    }
    taken = take_turns(contenders, events - warmup, seed=setting.seed, warmup=warmup)
    for store in stores.values():
        store.close()
    return taken


def _made_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, made a thousand at a time, so that making them is hardly ever timed."""
    while chunk := list(islice(items, 1_000)):
        yield from chunk


def fed(insert: Any, rows: Iterator[Row]) -> Any:
    """A contender that inserts the next row."""
    ahead = _made_ahead(rows)
    return lambda _number: insert(next(ahead))


class Least(Bare):
    """The bare table with what durability, tables in step and a noticed loss cost at least: a cursor and a witness."""

    def __init__(self, path: Any, synchronous: Synchronous) -> None:
        super().__init__(path, synchronous)
        self.connection.execute("CREATE TABLE cursor(name TEXT PRIMARY KEY, position INTEGER, hash BLOB) WITHOUT ROWID")
        self.connection.execute("INSERT INTO cursor VALUES ('all', 0, x'')")
        self._witness = os.open(path.with_name("witness"), os.O_RDWR | os.O_CREAT)

    def insert(self, row: Row) -> None:
        """One row and the cursor in one commit, then the witness."""
        self.connection.execute("BEGIN IMMEDIATE")
        super().insert(row)
        self.connection.execute("UPDATE cursor SET position = ?, hash = ? WHERE name = 'all'", (row[0], row[8]))
        self.connection.execute("COMMIT")
        os.pwrite(self._witness, row[8] * 8, 0)

    def close(self) -> None:
        """Let go of both files."""
        super().close()
        os.close(self._witness)


def batch(setting: Setting) -> Outcome:
    """`append` of 100 events at once, inline projections on, against the bare batch of the same bytes."""
    warmup = 3
    rounds = setting.pick(smallest=1, quick=40, full=300)
    with projections.connect(setting.path("ours")) as store:
        handle = store.store.stream("run-1", RUN)
        handle.append(RunQueued("deploy"))
        handle.append(RunStarted("mac"))
        draw = random.Random(setting.seed)
        batches = [_hundred(number, draw) for number in range(warmup + rounds)]
        rows = [list(_rows(number, events, store)) for number, events in enumerate(batches)]
        bare = Bare(setting.path("bare"))
        contenders = {
            "ours": lambda number: handle.append(*batches[number]),
            "bare": lambda number: bare.insert_many(rows[number]),
        }
        taken = take_turns(contenders, rounds, seed=setting.seed, warmup=warmup)
        bare.close()
    rate = ratio("append of 100 events at once, rate", taken["bare"], taken["ours"], target=0.5, more_is_better=True)
    return Outcome(
        [rate, Figure("append of 100 events at once", _BATCH / median(taken["ours"]) * 1e6, "events/s")], taken
    )


def _hundred(number: int, draw: random.Random) -> list[Any]:
    """33 steps of a run, each with a checkpoint of the usual size, and a message."""
    state = {"plan": workload.words(draw, 3_700)}
    steps = [workload.step(f"call-{number}-{step}", step, state, draw) for step in range(_BATCH // 3)]
    return [*(event for step in steps for event in step), MessageRecorded("assistant", "done")]


def _rows(number: int, events: list[Any], store: projections.Runs) -> Iterator[Row]:
    for offset, event in enumerate(events, start=number * _BATCH + 3):
        data = store.store.gate.codec.encode(event)
        yield (offset, "run-1", offset, type(event).__name__, offset, None, 1, None, bytes(32), None, data)
