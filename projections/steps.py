"""How many steps runs and jobs have made, and may make: counted from rows, and looked at inside the write transaction.

A step is what a checkpoint says has been done: `CheckpointSaved(step=7)` says that seven are. A run that continues
another begins with that one's checkpoint and counts on from its step, so what it made itself is the difference; a step
that is made again after a crash counts once. A job has made what its runs made together.

The limit is the setting `step_limit`. A job goes by the newest of its runs that names one and is nobody's child; so it
can be raised on a run that lives, and by a new one when all have ended. A child's own limit holds for that child alone,
and so does that of a run without a job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from eventstore.errors import InvalidArgument, LineageBroken, StepLimitReached
from eventstore.settings import known
from eventstore.workflow import CheckpointSaved, Continues, RunQueued
from projections.checkpoints import CHECKPOINTS, CheckpointRow, step_of
from projections.lineage import checkpoint_before
from projections.tables import query
from projections.workflow_runs import WORKFLOW_RUNS, RunRow

if TYPE_CHECKING:
    from eventstore.log import Reading, Writing
    from eventstore.store import EventStore
    from projections.projector import Projector

_REMEMBERED = 10_000
"""Runs whose beginning is remembered."""


def made(step: int, begun_at: int) -> int:
    """The steps that a run made whose checkpoint is of this step, and who began at that one; pure."""
    return max(step - begun_at if step > begun_at else step, 0)


def job_limit(rows: Iterable[RunRow]) -> int | None:
    """The limit of a job with these runs, in the order of their submission; pure."""
    named = [row.step_limit for row in rows if row.step_limit is not None and row.parent_id is None]
    return named[-1] if named else None


class Steps:
    """The steps of one store's runs.

    Args:
        store: that holds them.
        projector: of its tables.
    """

    def __init__(self, store: EventStore, projector: Projector) -> None:
        self._store = store
        self._projector = projector
        self._begun: dict[str, int] = {}

    def begun_at(self, reading: Reading, row: RunRow) -> int:
        """The step of the checkpoint that a run began with; 0 where it continues no other."""
        if row.continues_id is None or row.continues_version is None:
            return 0
        if (step := self._begun.get(row.run_id)) is None:
            link = Continues(row.continues_id, row.continues_version)
            try:
                saved = checkpoint_before(self._store, reading, row.run_id, link)
            except LineageBroken:  # what may come by an import yet is not remembered
                return 0
            step = 0 if saved is None else step_of(saved)
            if len(self._begun) >= _REMEMBERED:
                self._begun.clear()
            self._begun[row.run_id] = step  # what stands up to a version never changes
        return step

    def admit(self, queued: RunQueued, writing: Writing) -> None:
        """Refuse a run of a job that has no step left; the run's own limit counts, if it may set one.

        Raises:
            StepLimitReached: it has none.
            InvalidArgument: the tables are not to be trusted, and it is nobody's child.
        """
        if queued.job_id is None:
            return
        if trouble := self._trouble(writing):
            if queued.parent_id is not None:  # its parent is at work, and would fail for a table
                return
            raise InvalidArgument("job_id", queued.job_id, f"its steps cannot be counted: {trouble}")
        rows = self._runs_of(writing, queued.job_id)
        own = known(queued.config).step_limit if queued.parent_id is None else None
        limit = job_limit(rows) if own is None else own
        if limit is not None and (steps := self._total(writing, rows, {})) >= limit:
            raise StepLimitReached(f"job {queued.job_id}", steps, limit)

    def admit_step(self, run_id: str, step: int, writing: Writing) -> None:
        """Refuse a checkpoint of a step that is one too many. Where the tables cannot tell, no fact is lost.

        Raises:
            StepLimitReached: for the run, or for its job.
        """
        if self._trouble(writing):
            return
        table = self._projector.table(WORKFLOW_RUNS)
        values = self._projector.tables.get(writing, table, (run_id,))
        row = None if values is None else table.decode(values)
        if row is None:
            return
        if row.step_limit is not None and (row.job_id is None or row.parent_id is not None):
            steps = made(step, self.begun_at(writing, row))
            if steps > row.step_limit:
                raise StepLimitReached(f"run {run_id}", steps - 1, row.step_limit)
        if row.job_id is None:
            return
        rows = self._runs_of(writing, row.job_id)
        limit = job_limit(rows)
        if limit is not None and self._total(writing, rows, {run_id: step}) > limit:
            raise StepLimitReached(f"job {row.job_id}", self._total(writing, rows, {}), limit)

    def _trouble(self, writing: Writing) -> str | None:
        return self._projector.bring_up(writing, WORKFLOW_RUNS) or self._projector.bring_up(writing, CHECKPOINTS)

    def _runs_of(self, writing: Writing, job_id: str) -> list[RunRow]:
        table = self._projector.table(WORKFLOW_RUNS)
        wanted = query(table, {"job_id": job_id}, order="position")
        return [table.decode(values) for values in self._projector.tables.select(writing, table, wanted)]

    def _total(self, writing: Writing, rows: list[RunRow], instead: dict[str, int]) -> int:
        table = self._projector.table(CHECKPOINTS)
        wanted = query(table, {"run_id": [row.run_id for row in rows]})
        found = [table.decode(values) for values in self._projector.tables.select(writing, table, wanted)]
        return sum(self.of(writing, rows, found, instead).values())

    def of(
        self, reading: Reading, rows: Iterable[RunRow], saved: Iterable[CheckpointRow], instead: dict[str, int]
    ) -> dict[str, int]:
        """The steps that each of these runs made.

        Args:
            reading: of the log.
            rows: the runs.
            saved: their latest checkpoints.
            instead: by run id, the step to go by instead.
        """
        latest = {row.run_id: row.step for row in saved} | instead
        return {
            row.run_id: made(latest[row.run_id], self.begun_at(reading, row)) if row.run_id in latest else 0
            for row in rows
        }


def looking(steps: Steps, run_id: str, events: Iterable[object]) -> Callable[[Any], None] | None:
    """What looks at these events of a run before they are written; None if there is no checkpoint among them."""
    saved = [event.step for event in events if isinstance(event, CheckpointSaved)]
    return (lambda writing: steps.admit_step(run_id, max(saved), writing)) if saved else None
