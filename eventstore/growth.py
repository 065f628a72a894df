"""How a log grows: what takes how much, by stream, type and day.

It costs a scan of the log, in pages of a snapshot each, so that a writer beside it is never held up and its WAL goes on
being reused. What is kept meanwhile is bounded: of very many streams or types only the largest are, and what was put
aside before is then missing from their sums, which is said.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.payloads import from_microseconds

if TYPE_CHECKING:
    from eventstore.log import Log, Reading

PAGE = 5_000
"""Positions that are weighed in one snapshot."""
KEPT = 100_000
"""Names whose sums are kept; beyond, the smaller half is put aside."""
_EPOCH = date(1970, 1, 1)


@frozen
class Share:
    """What one stream, type or day has of the log."""

    name: str
    """A day as 2026-01-31, UTC: the day on which its entries were recorded."""
    entries: int
    bytes: int


@frozen
class Weights:
    """What stands in the log, weighed. Bytes are about right: payloads as stored, and what rows and indexes add."""

    entries: int
    bytes: int
    streams: tuple[Share, ...]
    """The largest, by bytes."""
    types: tuple[Share, ...]
    """All of them, the largest first."""
    days: tuple[Share, ...]
    """The last ones that have entries, in order."""
    entries_a_day: float
    bytes_a_day: float
    """On average over the days that were asked for, or since the first entry; days without entries count, and those do
    not of which entries left for a segment."""
    old: Share
    """Of what was recorded before a day, named here: what archiving would let go, about."""
    exact: bool
    """Whether every stream and type was kept all along; else their sums are at least what is told."""


def weigh(
    log: Log,
    *,
    today: datetime,
    largest: int = 10,
    days: int = 30,
    keep_days: int = 30,
    held: Container[str] = (),
    staying: Container[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Weights:
    """Weigh the entries that stand in the log.

    Args:
        log: the backend.
        today: a moment of the last day that counts, or of one before the log's last entry, whose day that is then.
        largest: how many streams are named.
        days: how many days are named and make the average.
        keep_days: what is recorded before so many days before today is old.
        held: streams whose entries are not counted as old, such as runs that may go on.
        staying: types of entries that are not, such as the last one of each run, which stays in the log.
        progress: told of positions, and of all there are.
    """
    streams, types, by_day = _Sums(), _Sums(), dict[int, tuple[int, int]]()
    first: int | None = None
    entries = size = position = 0
    old = old_bytes = 0
    with log.reading() as reading:
        end = reading.head()
        released = _released(reading)
    head = end.position
    # A clock that was ahead has taken the log with it, whose time never goes back.
    last = max(_day(today), _day(from_microseconds(end.recorded_at)))
    while position < head:
        with log.reading() as reading:
            weights = reading.weights(after=position, limit=min(PAGE, head - position))
        for weight in weights:
            streams.add(weight.stream, weight.entries, weight.bytes)
            types.add(weight.type, weight.entries, weight.bytes)
            number, taken = by_day.get(weight.day, (0, 0))
            by_day[weight.day] = (number + weight.entries, taken + weight.bytes)
            entries += weight.entries
            size += weight.bytes
            first = weight.day if first is None else min(first, weight.day)
            if weight.day < last - keep_days and weight.stream not in held and weight.type not in staying:
                old, old_bytes = old + weight.entries, old_bytes + weight.bytes
        for day in sorted(by_day)[:-days]:  # recorded times never go back, so these are complete
            del by_day[day]
        position = min(position + PAGE, head)
        if progress is not None:
            progress(position, head)
    begun = max(last if first is None else first, min(released + 1, last))
    span = min(days, last - begun + 1)
    lately = [sums for day, sums in by_day.items() if last - span < day <= last]
    return Weights(
        entries,
        size,
        streams.shares(largest),
        types.shares(),
        tuple(Share(_iso(day), *by_day[day]) for day in sorted(by_day)),
        sum(number for number, _ in lately) / max(span, 1),
        sum(taken for _, taken in lately) / max(span, 1),
        Share(_iso(last - keep_days), old, old_bytes),
        exact=streams.exact and types.exact,
    )


def _released(reading: Reading) -> int:
    """The last day of which entries left the log, before which it does not tell how much was written."""
    for segment in sorted(reading.segments(), key=lambda segment: -segment.last):
        if reading.standing(segment.first, segment.last) < segment.entries:
            return (date.fromisoformat(segment.day) - _EPOCH).days
    return -1


def _day(moment: datetime) -> int:
    return (moment.astimezone(UTC).date() - _EPOCH).days


def _iso(day: int) -> str:
    return (_EPOCH + timedelta(days=day)).isoformat()


def amount(size: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004 - SI
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"  # noqa: PLR2004
        size /= 1000
    return f"{size:.1f} TB"


class _Sums:
    """Sums by name, of bounded number."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, int]] = {}
        self.exact = True

    def add(self, name: str, entries: int, size: int) -> None:
        number, taken = self._sums.get(name, (0, 0))
        self._sums[name] = (number + entries, taken + size)
        if len(self._sums) > KEPT:
            self.exact = False
            self._sums = dict(sorted(self._sums.items(), key=lambda item: -item[1][1])[: KEPT // 2])

    def shares(self, largest: int | None = None) -> tuple[Share, ...]:
        ordered = sorted(self._sums.items(), key=lambda item: (-item[1][1], item[0]))
        return tuple(Share(name, *sums) for name, sums in ordered[:largest])
