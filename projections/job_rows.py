"""jobs: one row a job, which the submission of its first run makes; how it stands is told by its runs (see `jobs`)."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.changing import changed
from eventstore.workflow import RunQueued
from projections.projection import Projection

if TYPE_CHECKING:
    from eventstore.codec import Recorded
    from projections.projection import Key


@frozen
class JobRow:
    """A job, and where it began."""

    job_id: str
    first_run: str
    queued_at: datetime
    position: int
    """Of its first run's submission: jobs are listed by it."""
    runs: int = 1
    """How many runs were submitted into it."""


def evolve(row: JobRow | None, recorded: Recorded) -> JobRow | None:
    """The job after one more submission; pure."""
    event: RunQueued = recorded.event
    if not event.job_id:  # a run without a job; it makes no row
        return None
    if row is not None:
        return changed(row, runs=row.runs + 1)
    return JobRow(event.job_id, recorded.stream, recorded.time, recorded.position)


def locate(recorded: Recorded) -> Key:
    """The job that a run is part of; no job has an empty name."""
    return (recorded.event.job_id or "",)


JOBS: Projection[JobRow] = Projection(
    name="jobs",
    version=1,
    row=JobRow,
    key=("job_id",),
    events=(RunQueued,),
    evolve=evolve,
    locate=locate,
    indexes=(("position",),),
)
