"""Looking: the active runs, one run, its latest checkpoint; over logs of two sizes, where it should cost the same.

Decoding a row or a payload is measured apart, because it costs by what is in it: what is left is the look itself, a
snapshot in which the cursor is held against the head, and the SELECT. The floor is that SELECT alone: one statement of
`sqlite3` that fetches the same, in step with the log or not.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import projections
from eventstore.sqlite.driver import Connection
from eventstore.workflow import Phase
from projections.tables import query
from tests.benchmarks.bare import reader
from tests.benchmarks.harness import Figure, Outcome, Setting, median, ratio, take_turns
from tests.benchmarks.logs import active_runs, log_of

_PAGE = 20
_LOOKS = {"20 active runs": 50.0, "one run": 20.0, "the latest checkpoint": 50.0}
"""What each may take beyond decoding, in microseconds."""
_ACTIVE = [Phase.QUEUED, Phase.STARTED, Phase.PAUSED]
_SELECT_LIST = f"SELECT * FROM workflow_runs WHERE phase IN (?, ?, ?) ORDER BY position LIMIT {_PAGE}"
_SELECT_RUN = "SELECT * FROM workflow_runs WHERE run_id = ?"
_SELECT_CHECKPOINT = """
SELECT events.* FROM checkpoints JOIN events ON stream = run_id AND events.version = checkpoints.version
WHERE run_id = ?
"""


def lists(setting: Setting) -> Outcome:
    """20 active runs, one run, the latest checkpoint of one: beyond decoding, over logs of two sizes."""
    rounds = setting.pick(smallest=2, quick=300, full=3_000)
    sizes = setting.logs[-2:]
    contenders: dict[str, Callable[[int], object]] = {}
    with ExitStack() as opened:
        for events in sizes:
            path = log_of(setting, f"log-{events}", events)
            runs = opened.enter_context(projections.connect(path))
            bare = opened.enter_context(closing(reader(path)))
            mine = _contenders(runs, bare, active_runs(setting), random.Random(setting.seed))
            contenders |= {f"{name}, {events}": contender for name, contender in mine.items()}
        taken = take_turns(contenders, rounds, seed=setting.seed, warmup=min(rounds, 20))
    smaller, larger = sizes
    figures = []
    for name, target in _LOOKS.items():
        whole, decoding = taken[f"{name}, {larger}"], taken[f"decoding of {name}, {larger}"]
        figures += [
            Figure(f"{name}, {larger:,} events, beyond decoding", median(whole) - median(decoding), "µs", target),
            ratio(f"{name}, {larger:,} events over {smaller:,}", whole, taken[f"{name}, {smaller}"], target=1.1),
            Figure(f"the bare SELECT of {name}", median(taken[f"bare {name}, {larger}"]), "µs"),
            Figure(f"decoding of {name}", median(decoding), "µs"),
        ]
    return Outcome(figures, taken)


def _contenders(
    runs: projections.Runs, bare: Connection, active: int, draw: random.Random
) -> dict[str, Callable[[int], object]]:
    """Each look, its decoding alone, of what was fetched before, and the bare SELECT."""
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
        "bare 20 active runs": lambda _number: bare.execute(_SELECT_LIST, _ACTIVE).fetchall(),
        "bare one run": lambda number: bare.execute(_SELECT_RUN, (names[number % 1_000],)).fetchone(),
        "bare the latest checkpoint": lambda number: bare.execute(_SELECT_CHECKPOINT, (names[number % 50],)).fetchone(),
        "20 active runs": lambda _number: view.where(phase=_ACTIVE, order="position", limit=_PAGE),
        "decoding of 20 active runs": lambda _number: [table.decode(row) for row in page],
        "one run": lambda number: view.get(names[number % 1_000]),
        "decoding of one run": lambda number: table.decode(rows[number % 50]),
        "the latest checkpoint": lambda number: runs.checkpoint(names[number % 1_000]),
        "decoding of the latest checkpoint": decode_checkpoint,
    }
