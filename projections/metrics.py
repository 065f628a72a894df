"""What is measured of runs and their tables: counted where recovery settles something, and read as gauges.

A gauge is read in an exporter's thread, whenever that likes. So it looks at a few rows, by an index, in one snapshot:
it catches up with nothing, writes nothing, and where a table cannot answer it has no value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventstore.errors import EventStoreError
from eventstore.watching import Instrument
from eventstore.workflow import Phase, RunCrashed, RunInterrupted, RunResumed
from projections.confirmations import CONFIRMATIONS
from projections.tables import query
from projections.workflow_runs import WORKFLOW_RUNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from eventstore.watching import Watch
    from eventstore.workflow import RunState
    from projections.projection import Projection
    from projections.projector import Projector

RECOVERED = Instrument(
    "runfold.runs.recovered", "counter", "{run}",
    "Runs of dead workers, or interrupted ones that nobody held, by what became of them.", "runfold.outcome",
)  # fmt: skip
ROUNDS = Instrument(
    "runfold.retention.rounds", "counter", "{round}", "Rounds of a worker's retention, by how they ended.",
    "runfold.outcome",
)  # fmt: skip
RELEASED = Instrument("runfold.retention.entries", "counter", "{entry}", "Entries that a retention let leave the log.")
COUNTERS = (RECOVERED, ROUNDS, RELEASED)
ACTIVE = Instrument("runfold.runs.active", "gauge", "{run}", "Runs that have not ended, by phase.", "runfold.run.phase")
OPEN = Instrument("runfold.questions.open", "gauge", "{question}", "Questions that wait for a person.")
LAG = Instrument(
    "runfold.projection.lag", "gauge", "{entry}",
    "Entries that a table has not seen; a view catches up before it answers.", "runfold.projection.name",
)  # fmt: skip
TROUBLED = Instrument(
    "runfold.projections.troubled", "gauge", "{projection}",
    "Tables that cannot answer until somebody rebuilds them.",
)  # fmt: skip
SIZE = Instrument("runfold.database.size", "gauge", "By", "The database and its write-ahead log on the disk.")
GAUGES = (ACTIVE, OPEN, LAG, TROUBLED, SIZE)

_ACTIVE = (Phase.QUEUED, Phase.STARTED, Phase.PAUSED)


def settled(watch: Watch, state: RunState, events: Iterable[object]) -> None:
    """Count what became of a run that a worker took up or ended: "resumed", "interrupted" or "crashed".

    Args:
        watch: who is told.
        state: of the run, as it was before.
        events: what was appended. A run that was parked and goes on was not recovered.
    """
    for event in events:
        if isinstance(event, RunCrashed):
            watch.add(RECOVERED, 1, "crashed")
        elif isinstance(event, RunInterrupted):
            watch.add(RECOVERED, 1, "interrupted")
        elif isinstance(event, RunResumed) and state.phase is Phase.STARTED:
            watch.add(RECOVERED, 1, "resumed")


class TableGauges:
    """The gauges of one store's tables."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector

    def values(self, instrument: Instrument) -> Iterator[tuple[float, str | None]]:
        """See `eventstore.metrics.Gauges`."""
        projector = self._projector
        if projector.log.closed:
            return
        if instrument is ACTIVE:
            counts = self._counts(WORKFLOW_RUNS, [{"phase": phase} for phase in _ACTIVE])
            yield from zip(counts, map(str, _ACTIVE), strict=False)
        elif instrument is OPEN:
            yield from ((count, None) for count in self._counts(CONFIRMATIONS, [{"decision": None}]))
        elif instrument is LAG:
            yield from ((standing.behind, standing.name) for standing in projector.standings())
        elif instrument is TROUBLED:
            yield sum(standing.trouble is not None for standing in projector.standings()), None
        elif (facts := getattr(projector.log, "facts", None)) is not None:
            yield facts().bytes, None

    def _counts(self, projection: Projection[Any], questions: list[dict[str, Any]]) -> list[int]:
        projector = self._projector
        table = projector.table(projection)
        with projector.log.reading() as reading:
            try:
                projector.stands(reading, projection)
            except EventStoreError:
                return []  # which `TROUBLED` tells
            return [projector.tables.count(reading, table, query(table, question)) for question in questions]
