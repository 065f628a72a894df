"""Large logs, written once by the store itself and kept: the usual workload, and at its end runs whose worker died.

Each event passes the gate as any does: machine, chain, packing, tables. Only its payload is encoded once for many runs:
from the thousandth run on the same thousand come again, under other names. What is beyond a million events is the same
million again and again, copied by SQLite under yet other names, or ten millions would take an hour: entries, packed
payloads and tables are what they would be, but each copy bears the hashes of the first, and so no chain holds there.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator
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
_MILLION = 1_000_000
_COPY = """
INSERT INTO events(position, stream, version, type, recorded_at, occurred_at, attempt, key, hash, meta, data)
SELECT position + ?1 * ?2, ?1 || '-' || stream, version, type, recorded_at + ?1 * ?3, occurred_at, attempt, key, hash,
       meta, data
FROM events WHERE position > ?4 AND position <= ?4 + 10000 AND position <= ?2
"""


def active_runs(setting: Setting) -> int:
    """How many runs a dead worker left in each log."""
    return setting.pick(smallest=8, quick=40, full=400)


def log_of(setting: Setting, name: str, events: int) -> Path:
    """A copy, to do with as one likes, of the log of so many events of ended runs; and the active runs behind them."""
    path = Path(shutil.copyfile(_ended(setting, events), setting.path(name)))
    write(path, _drafts(active_runs(setting), "active", workload.cut_short, setting.seed))
    return path


def stream_of(setting: Setting, name: str, events: int) -> Path:
    """A copy of a log that is one run, "long", of so many events: calls, results and checkpoints."""
    kept = _kept(setting, f"long-{events}", lambda path: write(path, _long(setting, events)))
    return Path(shutil.copyfile(kept, setting.path(name)))


def _ended(setting: Setting, events: int) -> Path:
    def make(path: Path) -> None:
        if events > _MILLION:
            shutil.copyfile(_ended(setting, _MILLION), path)
            _multiply(path, events // _MILLION)
        else:
            write(path, _drafts(events // workload.EVENTS_PER_RUN, "run", workload.one_run, setting.seed))

    return _kept(setting, f"ended-{events}", make)


def _kept(setting: Setting, kind: str, make: Callable[[Path], None]) -> Path:
    """The database of a kind, made if it is not there; its tables are in step with the log, whoever made it."""
    folder = (setting.folder if setting.size == "smallest" else KEPT) / "logs"
    whole = folder / f"{kind}-{_format()}.db"
    if not whole.exists():
        making = folder / f"making-{kind}"  # a folder, with all that SQLite puts beside a database
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        make(making / "log.db")
        (making / "log.db").rename(whole)
        shutil.rmtree(making)
    with projections.connect(whole, synchronous="NORMAL") as runs:
        if any(standing.trouble or standing.behind for standing in runs.standings()):
            runs.rebuild()
    return whole


def write(path: Path, items: Iterator[tuple[str, Any]]) -> None:
    """Write (stream, event or draft of it) into a database, thousands a commit; none of the streams stands yet."""
    with projections.connect(path, synchronous="NORMAL") as runs:
        writer = _Writer(runs)
        while some := list(islice(items, _AT_ONCE)):
            runs.store.write(partial(writer.job, some))


def _format() -> str:
    """Tells apart logs that this program would write differently."""
    events = [*workload.one_run(0, random.Random(1)), *workload.cut_short(0, random.Random(1))]
    with projections.connect("memory:") as runs:
        made_of = [len(MIGRATIONS), *map(runs.store.gate.codec.encode, events)]
    return hashlib.sha256(repr(made_of).encode()).hexdigest()[:8]


def _drafts(runs: int, name: str, make: Callable[[int, random.Random], list[Any]], seed: int) -> Iterator[Any]:
    """(run id, draft) of so many runs, eight at a time."""
    draw = random.Random(seed)
    with projections.connect("memory:") as store:
        draft = store.store.gate.draft
        templates = [
            [draft("any", [event])[0] for event in make(number, draw)] for number in range(min(runs, _TEMPLATES))
        ]
    numbers = range(runs)
    return workload.in_turns((f"{name}-{number:07d}", templates[number % _TEMPLATES]) for number in numbers)


def _multiply(path: Path, times: int) -> None:
    """So many times the entries that stand; and the tables made anew."""
    with projections.connect(path, synchronous="NORMAL") as runs:
        head = runs.store.head().position
        span = [
            recorded.entry.recorded_at
            for place in (0, head - 1)
            for recorded in runs.store.read_all(after=place, limit=1)
        ]
        for number in range(1, times):
            for start in range(0, head, 10_000):
                values = (number, head, span[1] - span[0], start)
                runs.store.write(lambda transaction, values=values: transaction.execute(_COPY, values))


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
