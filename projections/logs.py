"""logs: where each generic log entry stands, by its source, kind and ref; what it says stays in the log."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.notes import LogRecorded
from projections.projection import Key, Projection

if TYPE_CHECKING:
    from eventstore.codec import Recorded


@frozen
class LogRow:
    """A generic log entry without its payload."""

    position: int
    stream: str
    source: str
    kind: str
    ref: str | None
    at: datetime
    """When it happened, as far as anybody said; the order is by position."""


def evolve(_row: LogRow | None, recorded: Recorded) -> LogRow | None:
    """One row an entry; pure."""
    event: LogRecorded = recorded.event
    return LogRow(recorded.position, recorded.stream, event.source, event.kind, event.ref, recorded.time)


def locate(recorded: Recorded) -> Key:
    """Each has a row of its own."""
    return (recorded.position,)


LOGS: Projection[LogRow] = Projection(
    name="logs",
    version=1,
    row=LogRow,
    key=("position",),
    events=(LogRecorded,),
    evolve=evolve,
    locate=locate,
    # In each of them a row's key comes last, so what passes one of them comes in the order of the log.
    indexes=(("source",), ("kind",), ("ref",), ("stream",)),
)
