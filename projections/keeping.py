"""How long events stay in the database: old days archived, and put back. A part of `Runs`, which users hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore import archiving

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventstore.log import Segment
    from eventstore.store import EventStore


class Keeping:
    """What `Runs` does with old days."""

    store: EventStore

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
    ) -> archiving.Restored:
        """Put the entries of sealed days (all unless given) back into the log; see `archiving.restore_days`."""
        return archiving.restore_days(self.store, days, dry_run=dry_run, progress=progress)

    def segments(self) -> list[Segment]:
        """The days that were sealed, the oldest first."""
        with self.store.reading() as reading:
            return list(reading.segments())
