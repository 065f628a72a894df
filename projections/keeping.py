"""What a store takes, and how long events stay in it: old days archived, and put back. A part of `Runs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore import archiving
from eventstore.workflow import Phase
from projections.growth import Growth, growth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventstore.log import Segment
    from eventstore.store import EventStore
    from projections.system import System
    from projections.views import View
    from projections.workflow_runs import RunRow


class Keeping:
    """What `Runs` does with old days, and for who asks what takes how much."""

    store: EventStore
    workflow_runs: View[RunRow]
    _system: System

    def archive(
        self,
        *,
        keep_days: int = archiving.KEEP_DAYS,
        max_days: int | None = None,
        compress: bool = False,
        vacuum: bool = False,
        dry_run: bool = False,
        progress: archiving.Progress | None = None,
    ) -> archiving.Archiving:
        """Seal the days that are over into files, and release what is older than `keep_days`; see `archiving.archive`.

        Everything reads as before. It may run beside writers and readers, from any process, as often as one likes.
        """
        return archiving.archive(
            self.store, keep_days=keep_days, max_days=max_days, compress=compress, vacuum=vacuum, dry_run=dry_run,
            progress=progress,
        )  # fmt: skip

    def restore_days(
        self, days: Iterable[str] | None = None, *, dry_run: bool = False, progress: archiving.Progress | None = None
    ) -> archiving.RestoredDays:
        """Put the entries of sealed days (all unless given) back into the log; see `archiving.restore_days`."""
        return archiving.restore_days(self.store, days, dry_run=dry_run, progress=progress)

    def segments(self) -> list[Segment]:
        """The days that were sealed, the oldest first."""
        with self.store.reading() as reading:
            return list(reading.segments())

    def growth(
        self,
        *,
        largest: int = 10,
        days: int = 30,
        keep_days: int = archiving.KEEP_DAYS,
        progress: Callable[[int, int], None] | None = None,
    ) -> Growth:
        """What takes how much, by stream, type and day, what archiving would free, and what to do next.

        It costs a scan; see `growth.growth`.
        """
        phases = [Phase.QUEUED, Phase.STARTED, Phase.PAUSED]
        return growth(
            self.store,
            now=self._system.now(),
            active={row.run_id for row in self.workflow_runs.each(phase=phases, order="position")},
            largest=largest,
            days=days,
            keep_days=keep_days,
            progress=progress,
        )
