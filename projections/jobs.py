"""Jobs: work that takes several runs. A run says which job it is part of, and that is all that is stored of one.

What a job is beyond that is read from its runs: where they stand, how many steps they made, what they spent. So nothing
can disagree with them, and there is nothing to keep in step. Lists go by a table of one small row a job.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.errors import JobNotFound
from eventstore.limits import PAGE, check_limit, check_name
from eventstore.workflow import ACTIVE, Phase
from projections.readings import Checkpoint, checkpoints, upto
from projections.steps import Steps, job_limit

if TYPE_CHECKING:
    from eventstore.codec import Recorded
    from eventstore.store import EventStore
    from projections.checkpoints import CheckpointRow
    from projections.job_rows import JobRow
    from projections.usage import UsageRow
    from projections.views import View
    from projections.workflow_runs import RunRow


@frozen
class Job:
    """A job as its runs make it."""

    job_id: str
    phase: Phase
    """`started` if any run is, else `queued`, else `paused`; of one whose runs have all ended, how the latest did."""
    runs: int
    steps: int
    queued_at: datetime | None
    first_run: str
    position: int
    """Of its first submission: the order of arrival."""
    step_limit: int | None = None
    started_at: datetime | None = None
    """When its first run began."""
    ended_at: datetime | None = None
    """When its last run ended; None while one has not."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


def standing(rows: Iterable[RunRow]) -> Phase:
    """Where a job with these runs stands; pure.

    Args:
        rows: at least one, in the order of submission. Children end before those that wait for them, and count only
            while they are active: how a job ended is told by the latest run that is nobody's child.
    """
    runs = list(rows)
    phases = {row.phase for row in runs}
    for phase in (Phase.STARTED, Phase.QUEUED, Phase.PAUSED):
        if phase in phases:
            return phase
    return ([row for row in runs if row.parent_id is None] or runs)[-1].phase


class Jobs:
    """The jobs of one store. Made by `Runs`, as `runs.jobs`.

    Args:
        store: whose runs.
        steps: counts theirs.
        jobs: the table of jobs.
        workflow_runs: the runs' rows.
        saved: their latest checkpoints.
        usage: what they spent.
    """

    def __init__(
        self,
        store: EventStore,
        *,
        steps: Steps,
        jobs: View[JobRow],
        workflow_runs: View[RunRow],
        saved: View[CheckpointRow],
        usage: View[UsageRow],
    ) -> None:
        self._store = store
        self._steps = steps
        self._jobs = jobs
        self._runs = workflow_runs
        self._saved = saved
        self._usage = usage

    def get(self, job_id: str) -> Job | None:
        """A job as it stands; None if no run is part of it.

        Raises:
            InvalidArgument: a name that no job can have.
        """
        row = self._jobs.get(check_name("job_id", job_id))
        return None if row is None else self._job(row)

    def where(self, *, limit: int = 50, after: Job | str | None = None) -> list[Job]:
        """Jobs, the newest first: the one whose first run was submitted last.

        Args:
            limit: at most so many.
            after: the last job of the page before, or its id. What is submitted meanwhile is no part of later pages.

        Raises:
            JobNotFound: no run is part of the job to go on after.
            InvalidArgument: a limit that cannot be.
        """
        last = None
        if after is not None:
            last = self._row(after.job_id if isinstance(after, Job) else after)
        return [self._job(row) for row in self._jobs.where(order="-position", limit=check_limit(limit), after=last)]

    def count(self) -> int:
        """How many jobs there are."""
        return self._jobs.count()

    def runs(self, job_id: str, *, limit: int = PAGE, after: RunRow | None = None) -> list[RunRow]:
        """The runs of a job, in the order of their submission; `limit` and `after` as for `where`.

        Raises:
            JobNotFound: no run is part of it.
        """
        self._row(job_id)
        return self._runs.where(job_id=job_id, order="position", limit=check_limit(limit), after=after)

    def checkpoints(self, job_id: str, *, upto_step: int | None = None) -> Iterator[Checkpoint]:
        """The checkpoints of a job's runs, run after run, each whole; read from the log.

        Args:
            job_id: whose.
            upto_step: of each run, only up to this step.

        Raises:
            JobNotFound: no run is part of it.
        """
        return checkpoints(self.events(job_id, upto_step=upto_step))

    def events(self, job_id: str, *, upto_step: int | None = None) -> Iterator[Recorded]:
        """The events of a job's runs, run after run; of each, only up to the checkpoint of a step if one is named.

        Raises:
            JobNotFound: no run is part of it.
        """
        self._row(job_id)
        rows = self._runs.each(job_id=job_id, order="position")
        return (item for row in rows for item in upto(self._store.read(row.run_id), upto_step))

    def _row(self, job_id: str) -> JobRow:
        row = self._jobs.get(check_name("job_id", job_id))
        if row is None:
            raise JobNotFound(job_id)
        return row

    def _job(self, row: JobRow) -> Job:
        runs = list(self._runs.each(job_id=row.job_id, order="position"))
        ids = [run.run_id for run in runs]
        saved = [found for page in _pages(ids) for found in self._saved.each(run_id=page)]
        spent = [found for page in _pages(ids) for found in self._usage.each(run_id=page)]
        with self._store.reading() as reading:
            steps = sum(self._steps.of(reading, runs, saved, {}).values())
        ends = [run.ended_at for run in runs if run.ended_at is not None]
        return Job(
            job_id=row.job_id,
            phase=standing(runs),
            runs=len(runs),
            steps=steps,
            queued_at=row.queued_at,
            first_run=row.first_run,
            position=row.position,
            step_limit=job_limit(runs),
            started_at=min((run.started_at for run in runs if run.started_at is not None), default=None),
            ended_at=None if any(run.phase in ACTIVE for run in runs) else max(ends, default=None),
            input_tokens=sum(one.input_tokens for one in spent),
            output_tokens=sum(one.output_tokens for one in spent),
            cost_usd=sum(one.cost_usd for one in spent),
        )


def _pages(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + PAGE] for start in range(0, len(ids), PAGE))
