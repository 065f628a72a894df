"""checkpoints: the latest checkpoint of each run, as a pointer; the state itself stays in the log."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.workflow import CheckpointSaved
from projections.projection import Projection

if TYPE_CHECKING:
    from eventstore.codec import Recorded


@frozen
class CheckpointRow:
    """Where a run's latest checkpoint lies."""

    run_id: str
    step: int
    version: int
    """Of its CheckpointSaved in the run's stream."""
    position: int
    attempt: int | None
    saved_at: datetime


_LEADING = re.compile(r'\{"step":(-?[0-9]{1,15})[,}]')


def step_of(recorded: Recorded) -> int:
    """The step alone, where it is what the payload begins with: the state behind it may be megabytes long."""
    if recorded.entry.type == CheckpointSaved.__name__ and (found := _LEADING.match(recorded.entry.data)):
        return int(found[1])
    step: int = recorded.event.step
    return step


def evolve(_row: CheckpointRow | None, recorded: Recorded) -> CheckpointRow | None:
    """The latest one, whatever its step; pure."""
    return CheckpointRow(
        run_id=recorded.stream,
        step=step_of(recorded),
        version=recorded.version,
        position=recorded.position,
        attempt=recorded.attempt,
        saved_at=recorded.time,
    )


CHECKPOINTS: Projection[CheckpointRow] = Projection(
    name="checkpoints",
    version=1,
    row=CheckpointRow,
    key=("run_id",),
    events=(CheckpointSaved,),
    evolve=evolve,
    latest=True,
)
