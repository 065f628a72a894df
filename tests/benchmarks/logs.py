"""Large logs, written once by the store itself and kept: the usual workload, and at its end runs whose worker died.

Each event passes the gate as any does: machine, chain, packing, tables. Only its payload is encoded once for many runs:
from the thousandth run on the same thousand come again, under other names.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import projections
from eventstore.gate import Draft, Folded
from eventstore.log import Head, Writing
from eventstore.sqlite.schema import MIGRATIONS
from eventstore.workflow import RUN, RunQueued, RunStarted
from tests.benchmarks import workload
from tests.benchmarks.harness import KEPT, Setting

_FINAL = RUN.final
_TEMPLATES = 1_000
_AT_ONCE = 5_000
"""Events in a commit."""


def active_runs(setting: Setting) -> int:
    """How many runs a dead worker left in each log."""
    return setting.pick(smallest=8, quick=40, full=400)


def log_of(setting: Setting, name: str, events: int) -> Path:
    """A copy, to do with as one likes, of the log of so many events of ended runs, and the active runs behind them."""
    return _copy(setting, name, f"{events}-{active_runs(setting)}", lambda: _runs(setting, events))


def stream_of(setting: Setting, name: str, events: int) -> Path:
    """A copy of a log that is one run, "long", of at least so many events: calls, results and checkpoints."""
    return _copy(setting, name, f"long-{events}", lambda: _long(setting, events))


def _copy(setting: Setting, name: str, kind: str, items: Callable[[], Iterator[tuple[str, Any]]]) -> Path:
    kept = (setting.folder if setting.size == "smallest" else KEPT) / "logs"
    whole = kept / f"{kind}-{_format()}.db"
    if not whole.exists():
        making = kept / f"making-{kind}"  # a folder, with all that SQLite puts beside a database
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        write(making / "log.db", items())
        (making / "log.db").rename(whole)
        shutil.rmtree(making)
    return Path(shutil.copyfile(whole, setting.path(name)))


def write(path: Path, items: Iterator[tuple[str, Any]]) -> None:
    """Write (stream, event or draft of it) into a new database, thousands a commit."""
    with projections.connect(path, synchronous="NORMAL") as runs:
        writer = _Writer(runs)
        while some := list(islice(items, _AT_ONCE)):
            runs.store.write(partial(writer.job, some))


def _format() -> str:
    """Tells apart logs that this program would write differently."""
    made_of = [workload.one_run(0, random.Random(1)), workload.cut_short(0, random.Random(1)), len(MIGRATIONS)]
    made_of += [projection.fingerprint for projection in projections.connecting.BUILT_IN]
    return hashlib.sha256(repr(made_of).encode()).hexdigest()[:8]


def _runs(setting: Setting, events: int) -> Iterator[tuple[str, Any]]:
    """(run id, draft) of runs that ended, and of those that were cut short."""
    ended = events // workload.EVENTS_PER_RUN
    draw = random.Random(setting.seed)
    with projections.connect("memory:") as runs:
        draft = partial(runs.store.gate.draft, "any")

        def drafted(run: list[Any]) -> list[Draft]:
            return [draft([event])[0] for event in run]

        templates = [drafted(workload.one_run(number, draw)) for number in range(min(ended, _TEMPLATES))]
        short = [drafted(workload.cut_short(number, draw)) for number in range(active_runs(setting))]
    every: Iterable[tuple[str, list[Draft]]] = chain(
        ((f"run-{number:07d}", templates[number % _TEMPLATES]) for number in range(ended)),
        ((f"active-{number:03d}", run) for number, run in enumerate(short)),
    )
    return workload.in_turns(iter(every))


def _long(setting: Setting, events: int) -> Iterator[tuple[str, Any]]:
    draw = random.Random(setting.seed)
    state = {"plan": workload.words(draw, 3_000)}
    begun = [RunQueued("deploy"), RunStarted("mac")]
    steps = (workload.step(f"call-{number}", number, state, draw) for number in range(events // 3))
    return (("long", event) for event in chain(begun, chain.from_iterable(steps)))


class _Writer:
    """What an append does, for events of many streams at once."""

    def __init__(self, runs: projections.Runs) -> None:
        self._gate = runs.store.gate
        self._views: dict[str, Folded[Any]] = {}

    def job(self, items: list[tuple[str, Any]], transaction: Writing) -> None:
        """Judge and insert these, all of them."""
        gate = self._gate
        before = head = gate.head(transaction)
        recorded_at = gate.now(head)
        placed = []
        for stream, event in items:
            draft = event if isinstance(event, Draft) else gate.draft(stream, [event])[0]
            view = self._views.get(stream) or gate.start(RUN)
            held = 1 if view.version > 1 else None
            view, recorded = gate.judged(view, stream, draft, head, recorded_at=recorded_at, held=held)
            head = Head(recorded.position, recorded.entry.hash, recorded_at)
            placed.append(recorded)
            self._views[stream] = view
            if view.state.phase in _FINAL:
                del self._views[stream]  # nothing comes after it here
        gate.insert(transaction, before, placed)
