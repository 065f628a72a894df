"""What a store takes on the disk, how fast it grows, and what an operator can do about it, as commands to run."""

from __future__ import annotations

import shlex
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.archiving import KEEP_DAYS
from eventstore.blobs import standing
from eventstore.errors import DamagedSegment, InvalidArgument, SegmentMissing, UnreadableEntry
from eventstore.growth import Weights, amount, weigh
from eventstore.limits import check_count
from eventstore.workflow import RUN, TRANSITIONS, RunDescribed

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from eventstore.store import EventStore

MOST = 10_000
"""Streams and days that may be asked for, and days that may be kept."""
_LARGE = 64 * 1024 * 1024
"""Bytes of a WAL, or of free pages, that are worth a word."""
_MUCH, _SOME = 0.25, 0.05
"""Parts of all that are worth a word."""
_LAST = tuple(
    {kind for row in TRANSITIONS.values() for kind, phase in row.items() if phase in RUN.final} - {RunDescribed}
)
"""What ends a run: the last entry of its stream, as a rule, which stays in the log."""


@frozen
class Storage:
    """What stands on the disk, in bytes."""

    database: int
    """The file, without its WAL."""
    free: int
    """Of it, in pages that hold nothing; they are filled before the file grows."""
    wal: int
    segments: int
    """The files of sealed days."""
    blobs: int
    """The files of blobs."""
    unmentioned: int
    """Of these, what no event mentions and is a day old; 0 where an event cannot be read, since nobody knows then."""


@frozen
class Growth:
    """How a store grows."""

    url: str
    keep_days: int
    """What `weights.old` goes by."""
    weights: Weights
    storage: Storage | None
    """None for a log in memory."""

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do next, the most useful first, each in a sentence with the command."""
        return tuple(_advice(self))


def growth(
    store: EventStore,
    *,
    now: datetime,
    active: Container[str],
    largest: int = 10,
    days: int = 30,
    keep_days: int = KEEP_DAYS,
    progress: Callable[[int, int], None] | None = None,
) -> Growth:
    """Weigh the log, and say what could be done; it costs a scan, and holds nobody up.

    Args:
        store: whose log.
        now: today counts.
        active: the runs that may go on, which keep all of their history.
        largest: how many streams are named.
        days: how many days are named, and make the average.
        keep_days: what archiving would free is told for this.
        progress: told of positions, and of all there are.

    Raises:
        InvalidArgument: a number that cannot be.
    """
    for name, number, least in (("largest", largest, 1), ("days", days, 1), ("keep_days", keep_days, 0)):
        if check_count(name, number, least=least) > MOST:
            raise InvalidArgument(name, number, f"must be at most {MOST:,}")
    weights = weigh(
        store.log,
        today=now,
        largest=largest,
        days=days,
        keep_days=keep_days,
        held=active,
        staying=store.gate.codec.stored_names(_LAST),
        progress=progress,
    )
    return Growth(store.log.url, keep_days, weights, _storage(store))


def _storage(store: EventStore) -> Storage | None:
    facts = getattr(store.log, "facts", None)
    if facts is None:
        return None
    found = facts()
    with store.reading() as reading:
        segments = sum(segment.size for segment in reading.segments())
    blobs = sum(item.size for item in standing(store.log.blobs))
    unmentioned = 0
    with suppress(UnreadableEntry, SegmentMissing, DamagedSegment):  # the log is weighed all the same
        unmentioned = store.blobs.gc(dry_run=True).bytes if blobs else 0
    return Storage(found.bytes - found.wal, found.free, found.wal, segments, blobs, unmentioned)


def _advice(growth: Growth) -> Iterator[str]:
    database, weights, storage = shlex.quote(growth.url), growth.weights, growth.storage
    if weights.old.bytes > weights.bytes * _SOME:
        yield (
            f"About {amount(weights.old.bytes)} of the log is older than {growth.keep_days} days, of runs that ended; "
            f"to move it into files, and read it as before: `runfold archive {database} --keep-days {growth.keep_days} "
            "--compress`."
        )
    if storage is not None:
        if storage.free > max(_LARGE, storage.database * _MUCH):
            yield (
                f"{amount(storage.free)} of the database are free, and are filled before it grows; to give them back "
                f"to the file system: `runfold archive {database} --vacuum`."
            )
        if storage.unmentioned:
            yield (
                f"{amount(storage.unmentioned)} of blobs are mentioned by no event; to free them: "
                f"`runfold blobs gc {database}`."
            )
        if storage.wal > max(_LARGE, storage.database * _MUCH):
            yield (
                f"The write-ahead log has {amount(storage.wal)}: some process holds an old snapshot, or crashed; end "
                f"that process, then `runfold doctor {database}`."
            )
    if weights.streams and weights.streams[0].bytes > max(_LARGE, weights.bytes / 2):
        share = weights.streams[0]
        yield (
            f"One stream has {share.bytes / weights.bytes:.0%} of the log; look at what it writes: "
            f"`runfold events {database} --stream {shlex.quote(share.name)} --limit 20`."
        )
    yield _forecast(weights)


def _forecast(weights: Weights) -> str:
    if not weights.bytes_a_day:
        return "Nothing was written lately, so the log does not grow."
    return f"At {amount(weights.bytes_a_day)} a day the log grows by {amount(weights.bytes_a_day * 365)} a year."
