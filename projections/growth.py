"""What a store takes on the disk, how fast it grows, and what an operator can do about it, as commands to run."""

from __future__ import annotations

import shlex
from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.errors import InvalidArgument
from eventstore.growth import Weights, amount, weigh

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventstore.log import Log

MOST = 10_000
"""Streams and days that may be asked for."""
_LARGE = 64 * 1024 * 1024
"""Bytes of a WAL, or of free pages, that are worth a word."""
_MUCH = 0.25
"""The part of all that is worth a word."""


@frozen
class Storage:
    """What stands on the disk, in bytes."""

    database: int
    """The file, without its WAL."""
    free: int
    """Of it, in pages that hold nothing; they are filled before the file grows."""
    wal: int


@frozen
class Growth:
    """How a store grows."""

    url: str
    weights: Weights
    storage: Storage | None
    """None for a log in memory."""
    advice: tuple[str, ...]
    """What to do next, the most useful first, each in a sentence with the command."""


def growth(
    log: Log,
    *,
    now: datetime,
    largest: int = 10,
    days: int = 30,
    progress: Callable[[int, int], None] | None = None,
) -> Growth:
    """Weigh the log, and say what could be done; it costs a scan, and holds nobody up.

    Args:
        log: the backend.
        now: today counts.
        largest: how many streams are named.
        days: how many days are named, and make the average.
        progress: told of positions, and of all there are.

    Raises:
        InvalidArgument: a number that cannot be.
    """
    for name, number in (("largest", largest), ("days", days)):
        if type(number) is not int or not 1 <= number <= MOST:
            raise InvalidArgument(name, number, f"must be a whole number from 1 to {MOST:,}")
    weights = weigh(log, today=now, largest=largest, days=days, progress=progress)
    facts = getattr(log, "facts", None)
    found = None if facts is None else facts()
    storage = None if found is None else Storage(found.bytes - found.wal, found.free, found.wal)
    return Growth(log.url, weights, storage, tuple(advice(log.url, weights, storage)))


def advice(url: str, weights: Weights, storage: Storage | None) -> list[str]:
    """What to do next, the most useful first; pure.

    Args:
        url: of the database, as the commands name it.
        weights: what stands in the log.
        storage: what stands on the disk.
    """
    database = shlex.quote(url)
    said: list[str] = []
    if storage is not None and storage.wal > max(_LARGE, storage.database * _MUCH):
        said.append(
            f"The write-ahead log has {amount(storage.wal)}: some process holds an old snapshot, or crashed; end that "
            f"process, then `runfold doctor {database}`."
        )
    if weights.streams and weights.streams[0].bytes > weights.bytes / 2 and weights.streams[0].bytes > _LARGE:
        share = weights.streams[0]
        said.append(
            f"One stream has {share.bytes / weights.bytes:.0%} of the log; look at what it writes: "
            f"`runfold events {database} --stream {shlex.quote(share.name)} --limit 20`."
        )
    said.append(_forecast(weights))
    return said


def _forecast(weights: Weights) -> str:
    if not weights.bytes_a_day:
        return "Nothing was written lately, so the log does not grow."
    return f"At {amount(weights.bytes_a_day)} a day the log grows by {amount(weights.bytes_a_day * 365)} a year."
