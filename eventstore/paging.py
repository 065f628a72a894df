"""Pages of entries: bounded in number and bytes, and without the holes of what went into a segment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from eventstore.limits import PAGE_BYTES
from eventstore.log import Entry

T = TypeVar("T")


def bounded(entries: Iterable[Entry], limit: int | None = None) -> list[Entry]:
    """The first of these entries: no more than `limit`, and none after their payloads have grown past a page."""
    page: list[Entry] = []
    size = 0
    for entry in entries:
        page.append(entry)
        size += len(entry.data)
        if size > PAGE_BYTES or len(page) == limit:
            break
    return page


def is_full(page: Sequence[Entry]) -> bool:
    """Whether a page may have ended early because of its bytes."""
    return sum(len(entry.data) for entry in page) > PAGE_BYTES


def filled(
    items: Sequence[T],
    after: int,
    place: Callable[[T], int],
    left: Callable[[int, int], Iterator[T]],
    *,
    last: int | None = None,
) -> Iterator[T]:
    """Items in order of their places, and what left from between them.

    Args:
        items: those that are here, ascending.
        after: the place before the first that is wanted.
        place: of an item.
        left: what stood at the places from one to another, as far as it went into segments.
        last: the last place that is wanted, if that is behind the last item.
    """
    expected = after + 1
    for item in items:
        if place(item) > expected:
            yield from left(expected, place(item) - 1)
        yield item
        expected = place(item) + 1
    if last is not None and expected <= last:
        yield from left(expected, last)
