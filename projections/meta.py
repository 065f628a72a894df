"""meta: where the latest value of each name stands; the value itself stays in the log."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.notes import MetaSet
from projections.projection import Key, Projection

if TYPE_CHECKING:
    from eventstore.codec import Recorded


@frozen
class MetaRow:
    """Where the value of a name of a stream was last set."""

    stream: str
    name: str
    position: int
    at: datetime


def evolve(_row: MetaRow | None, recorded: Recorded) -> MetaRow | None:
    """The last one in the order of the log, whatever the clocks said; pure."""
    return MetaRow(recorded.stream, recorded.event.name, recorded.position, recorded.time)


def locate(recorded: Recorded) -> Key:
    """A name of a stream."""
    return (recorded.stream, recorded.event.name)


META: Projection[MetaRow] = Projection(
    name="meta",
    version=1,
    row=MetaRow,
    key=("stream", "name"),
    events=(MetaSet,),
    evolve=evolve,
    locate=locate,
    by_stream=True,
)
