"""How many steps runs and jobs have made, and may make: counted from rows, and looked at inside the write transaction.

A step is what a checkpoint says has been done: `CheckpointSaved(step=7)` says that seven are. A run that continues
another begins with that one's checkpoint and counts on from its step, so what it made itself is the difference; or it
numbers its steps anew, which its first checkpoint tells, and has made them all. A step that is made again after a crash
counts once. A job has made what its runs made together.

The limit is the setting `step_limit`. A job goes by the newest of its runs that names one and is nobody's child; so it
can be raised on a run that lives, and by a new one when all have ended. A child's own limit holds for that child alone,
and so does that of a run without a job: one that goes on from it has an allowance of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eventstore.errors import InvalidArgument, LineageBroken, StepLimitReached
from eventstore.settings import known
from eventstore.workflow import CheckpointSaved, Continues, RunQueued
from projections.checkpoints import CHECKPOINTS, CheckpointRow, step_of
from projections.lineage import checkpoint_before, earliest
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
        self._firsts: dict[str, tuple[int, bytes, int]] = {}
        """By run, its first checkpoint: position, hash and step."""

    def begun_at(self, reading: Reading, row: RunRow, first: int | None = None) -> int:
        """The step that a run counts on from; 0 where it continues no other, or numbers its steps anew.

        Args:
            reading: of the log.
            row: the run's.
            first: the step of its first checkpoint, where that is not written yet.
        """
        inherited = self._inherited(reading, row)
        if inherited and first is None:
            first = self._first(reading, row.run_id)
        return 0 if first is None or first <= inherited else inherited

    def _first(self, reading: Reading, run_id: str) -> int | None:
        position, digest, step = self._firsts.get(run_id, (0, b"", 0))
        if position and reading.hash_at(position) == digest:  # what was seen within a write may have been undone
            return step
        if (found := earliest(self._store, reading, run_id, CheckpointSaved)) is None:
            return None
        if len(self._firsts) >= _REMEMBERED:
            self._firsts.clear()
        self._firsts[run_id] = found.position, found.entry.hash, step_of(found)
        return step_of(found)

    def _inherited(self, reading: Reading, row: RunRow) -> int:
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

    def admit_steps(self, run_id: str, steps: Sequence[int], writing: Writing) -> None:
        """Refuse checkpoints of these steps if one is too many. Where the tables cannot tell, no fact is lost.

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
            self._bound(f"run {run_id}", writing, [row], {run_id: steps}, row.step_limit)
        if row.job_id is None:
            return
        rows = self._runs_of(writing, row.job_id)
        if (limit := job_limit(rows)) is not None:
            self._bound(f"job {row.job_id}", writing, rows, {run_id: steps}, limit)

    def _bound(
        self, what: str, writing: Writing, rows: list[RunRow], saving: Mapping[str, Sequence[int]], limit: int
    ) -> None:
        if self._total(writing, rows, saving) > limit:
            raise StepLimitReached(what, self._total(writing, rows, {}), limit)

    def _trouble(self, writing: Writing) -> str | None:
        return self._projector.bring_up(writing, WORKFLOW_RUNS) or self._projector.bring_up(writing, CHECKPOINTS)

    def _runs_of(self, writing: Writing, job_id: str) -> list[RunRow]:
        table = self._projector.table(WORKFLOW_RUNS)
        wanted = query(table, {"job_id": job_id}, order="position")
        return [table.decode(values) for values in self._projector.tables.select(writing, table, wanted)]

    def _total(self, writing: Writing, rows: list[RunRow], saving: Mapping[str, Sequence[int]]) -> int:
        table = self._projector.table(CHECKPOINTS)
        wanted = query(table, {"run_id": [row.run_id for row in rows]})
        found = [table.decode(values) for values in self._projector.tables.select(writing, table, wanted)]
        return sum(self.of(writing, rows, found, saving).values())

    def of(
        self,
        reading: Reading,
        rows: Iterable[RunRow],
        saved: Iterable[CheckpointRow],
        saving: Mapping[str, Sequence[int]],
    ) -> dict[str, int]:
        """The steps that each of these runs made.

        Args:
            reading: of the log.
            rows: the runs.
            saved: their latest checkpoints.
            saving: by run id, the steps of checkpoints that are about to be saved after these.
        """
        latest = {row.run_id: row.step for row in saved}
        counted = {}
        for row in rows:
            stands = row.run_id in latest
            steps = saving.get(row.run_id) or ([latest[row.run_id]] if stands else ())
            first = steps[0] if steps and not stands else None
            counted[row.run_id] = made(max(steps), self.begun_at(reading, row, first)) if steps else 0
        return counted


def looking(steps: Steps, run_id: str, events: Iterable[object]) -> Callable[[Any], None] | None:
    """What looks at these events of a run before they are written; None if there is no checkpoint among them."""
    saved = [event.step for event in events if isinstance(event, CheckpointSaved)]
    return (lambda writing: steps.admit_steps(run_id, saved, writing)) if saved else None
