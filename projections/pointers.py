"""What rows point to: whole entries, by their places. A row that is asked for across runs holds a place, no payload."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from eventstore.errors import CursorConflict
from eventstore.limits import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from eventstore.codec import Recorded
    from eventstore.store import EventStore


def fetched(store: EventStore, positions: Iterable[int]) -> Iterator[Recorded]:
    """The events at these positions, ascending, a page at a time; entries never change, so each page has a snapshot.

    Raises:
        CursorConflict: one of them is not there: the log was rolled back since its position was taken.
    """
    wanted = sorted(set(positions))
    while wanted:
        with store.reading() as reading:
            found = reading.at(wanted[:PAGE])
        if [entry.position for entry in found] != wanted[: max(len(found), 1)]:
            raise CursorConflict(wanted[0])
        yield from map(store.gate.codec.recorded, found)
        wanted = wanted[bisect_right(wanted, found[-1].position) :]
