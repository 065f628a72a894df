"""working_folders: where agents worked, and when a run last named it; for a list of what was used lately."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.settings import known
from eventstore.workflow import RunConfigured, RunQueued
from projections.projection import Projection

if TYPE_CHECKING:
    from eventstore.codec import Recorded
    from projections.projection import Key


@frozen
class FolderRow:
    """One folder, by the `working_folder` of runs' settings."""

    path: str
    last_used: datetime
    """When a run was submitted with it, or its settings named it."""
    last_run: str
    runs: int
    """How many runs were submitted with it."""
    position: int
    """Of the event that named it last."""


def evolve(row: FolderRow | None, recorded: Recorded) -> FolderRow | None:
    """The folder after settings that name it; pure."""
    path = known(recorded.event.config).working_folder
    if path is None:
        return row
    runs = (row.runs if row else 0) + (recorded.kind is RunQueued)
    return FolderRow(path, recorded.time, recorded.stream, runs, recorded.position)


def locate(recorded: Recorded) -> Key:
    """By the path; where none is named, the row that is never there."""
    return (known(recorded.event.config).working_folder or "",)


WORKING_FOLDERS: Projection[FolderRow] = Projection(
    name="working_folders",
    version=1,
    row=FolderRow,
    key=("path",),
    events=(RunQueued, RunConfigured),
    evolve=evolve,
    locate=locate,
    indexes=(("position",),),
)
