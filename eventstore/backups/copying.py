"""Entries from one log into another, each proved by the chain on its way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from eventstore.errors import UnreadableEntry
from eventstore.integrity import chain
from eventstore.limits import PAGE
from eventstore.log import Cursor, Entry, Log

if TYPE_CHECKING:
    from eventstore.log import Writing

Progress = Callable[[int, int], None]
"""`(entries done, entries in all)`."""


class Unproved(Exception):
    """An entry that does not follow from those before it; its text says which, and why."""


def head_of(log: Log) -> Cursor:
    """Where a log ends."""
    with log.reading() as reading:
        head = reading.head()
    return Cursor(head.position, head.hash)


def hash_at(log: Log, position: int) -> bytes | None:
    """The hash at a position; None where the log holds no such entry."""
    with log.reading() as reading:
        return reading.hash_at(position)


def proved(log: Log, after: Cursor, until: Cursor) -> Iterator[Sequence[Entry]]:
    """Pages of the entries between two places, each entry proved to follow from the one before, up to the very end.

    A snapshot a page: entries never change, and a long snapshot would keep the WAL from being used again.

    Raises:
        Unproved: the first that does not follow, cannot be read, or is not there.
    """
    here = after
    while here.position < until.position:
        try:
            with log.reading() as reading:
                page = reading.read_all(after=here.position, limit=min(PAGE, until.position - here.position))
        except UnreadableEntry as error:
            raise Unproved(str(error)) from error
        for entry in page:
            if entry.position != here.position + 1:
                break
            if chain(here.hash, entry) != entry.hash:
                raise Unproved(f"position {entry.position}, {entry.type} of {entry.stream}, was altered")
            here = Cursor(entry.position, entry.hash)
        if not page or here.position != page[-1].position:
            raise Unproved(f"position {here.position + 1} is missing")
        yield page
    if here != until:
        raise Unproved(f"position {until.position} is not the entry that was expected")


def copy(source: Log, target: Log, until: Cursor, progress: Progress | None) -> int:
    """Bring a copy up to a place of its source, a page a transaction; how many entries that were.

    Raises:
        Unproved: the source's entries do not follow from each other; what comes before stands in the copy.
    """
    start = head_of(target)
    done = 0
    for page in proved(source, start, until):
        entries = page

        def insert(transaction: Writing) -> None:
            transaction.insert(entries)  # noqa: B023 - run before the next page is looked at

        target.write(insert)
        done += len(page)
        if progress is not None:
            progress(done, until.position - start.position)
    return done


def prove(log: Log, after: Cursor, until: Cursor) -> None:
    """Read back what lies between two places.

    Raises:
        Unproved: as `proved`.
    """
    for _ in proved(log, after, until):
        pass
