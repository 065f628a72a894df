"""The checkpoints of one run, listed: where each lies, found at a glance; their states stay in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore.workflow import CheckpointSaved
from projections.pointers import fetched
from projections.readings import Saved, check_step, saved, window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventstore.store import EventStore

_STRETCH = 5_000
"""Entries that are looked at in one scan."""


class Saves:
    """The checkpoints of one run, as they stood when this was made.

    Args:
        store: where the run stands.
        run_id: whose checkpoints.
    """

    def __init__(self, store: EventStore, run_id: str) -> None:
        self._store = store
        self._places: dict[int, int] = {}
        """Version to position of each, ascending."""
        names = set(store.stored_names([CheckpointSaved]))
        with store.reading() as reading:
            for start in range(0, reading.version(run_id), _STRETCH):
                glance = reading.glance(after=start, limit=_STRETCH, peek={}, stream=run_id)
                for kind, version, position in zip(glance.types, glance.versions, glance.positions, strict=True):
                    if kind in names:
                        self._places[int(version)] = position

    def between(
        self, step: int | None, *, after: int, before: int | None, limit: int | None, newest_first: bool
    ) -> Iterator[Saved]:
        """Those between two versions, of one step or of all.

        Raises:
            InvalidArgument: a step, version or limit that cannot be.
        """
        if step is None:
            positions = [*self._places.values()]
            chosen = window([*self._places], after, before, limit, newest_first=newest_first)
            found = saved(fetched(self._store, (positions[index] for index in chosen)))
            return found if chosen.step > 0 else reversed([*found])
        wanted = check_step(step)
        of_step = [item for item in saved(fetched(self._store, self._places.values())) if item.step == wanted]
        chosen = window([item.version for item in of_step], after, before, limit, newest_first=newest_first)
        return (of_step[index] for index in chosen)
