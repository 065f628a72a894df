"""Looking: the active runs, one run, its latest checkpoint; over logs of two sizes, where it should cost the same.

Decoding a row or a payload is measured apart, because it costs by what is in it: what is left is the look itself, a
snapshot in which the cursor is held against the head, and the SELECT.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import projections
from eventstore.workflow import Phase
from projections.tables import query
from tests.benchmarks.harness import Figure, Outcome, Setting, median, ratio, take_turns
from tests.benchmarks.logs import active_runs, log_of

_PAGE = 20
_LOOKS = {"20 active runs": 50.0, "one run": 20.0, "the latest checkpoint": 50.0}
"""What each may take beyond decoding, in microseconds."""
_ACTIVE = [Phase.QUEUED, Phase.STARTED, Phase.PAUSED]


def lists(setting: Setting) -> Outcome:
    """20 active runs, one run, the latest checkpoint of one: beyond decoding, over logs of two sizes."""
    rounds = setting.pick(smallest=2, quick=300, full=3_000)
    sizes = setting.logs[-2:]
    contenders: dict[str, Callable[[int], object]] = {}
    with ExitStack() as opened:
        for events in sizes:
            runs = opened.enter_context(projections.connect(log_of(setting, f"log-{events}", events)))
            mine = _contenders(runs, active_runs(setting), random.Random(setting.seed))
            contenders |= {f"{name}, {events}": contender for name, contender in mine.items()}
        taken = take_turns(contenders, rounds, seed=setting.seed, warmup=min(rounds, 20))
    smaller, larger = sizes
    figures = []
    for name, target in _LOOKS.items():
        whole, decoding = taken[f"{name}, {larger}"], taken[f"decoding of {name}, {larger}"]
        figures += [
            Figure(f"{name}, {larger:,} events, beyond decoding", median(whole) - median(decoding), "µs", target),
            ratio(f"{name}, {larger:,} events over {smaller:,}", whole, taken[f"{name}, {smaller}"], target=1.1),
            Figure(f"decoding of {name}", median(decoding), "µs"),
        ]
    return Outcome(figures, taken)


def _contenders(runs: projections.Runs, active: int, draw: random.Random) -> dict[str, Callable[[int], object]]:
    """Each look, and its decoding alone, of what was fetched before."""
    names = [f"active-{draw.randrange(active):07d}" for _ in range(1_000)]
    view, gate = runs.workflow_runs, runs.store.gate
    table: Any = view._table
    tables = runs._projector.tables
    with runs.store.reading() as reading:
        wanted = query(table, {"phase": _ACTIVE}, order="position", limit=_PAGE)
        page = tables.select(reading, table, wanted)
        rows = [tables.get(reading, table, (name,)) for name in names[:50]]
        saved = [runs.checkpoints.get(name) for name in names[:50]]
        entries = [reading.read(row.run_id, after=row.version - 1, limit=1)[0] for row in saved if row]
        values = tables.get(reading, runs.checkpoints._table, (names[0],))

    def decode_checkpoint(number: int) -> object:
        return runs.checkpoints._table.decode(values), gate.codec.recorded(entries[number % 50]).event  # type: ignore[arg-type]

    return {
        "20 active runs": lambda _number: view.where(phase=_ACTIVE, order="position", limit=_PAGE),
        "decoding of 20 active runs": lambda _number: [table.decode(row) for row in page],
        "one run": lambda number: view.get(names[number % 1_000]),
        "decoding of one run": lambda number: table.decode(rows[number % 50]),
        "the latest checkpoint": lambda number: runs.checkpoint(names[number % 1_000]),
        "decoding of the latest checkpoint": decode_checkpoint,
    }
