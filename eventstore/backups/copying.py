"""One log brought up to another: blobs, sealed days and entries, each proved on its way. Backups and restores are this.

At every moment the copy is a log by itself, up to some position. Blobs come first, for entries mention them; then the
sealed days, whose files are made anew from what the source reads as and held against its digests; then the entries
that the source itself holds, in order. What the source has released since leaves the copy last, when it stands in a
segment there. Nothing that this relies on goes away meanwhile: entries and segments never change, and no collector
takes a blob that an entry mentions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.blobs import Blobs
from eventstore.errors import DamagedBlob, UnreadableEntry
from eventstore.integrity import chain
from eventstore.limits import PAGE
from eventstore.log import Cursor, Entry, Log

if TYPE_CHECKING:
    from eventstore.log import Writing

Progress = Callable[[int, int], None]
"""`(entries done, entries in all)`."""
_ALWAYS = 2**62
"""A time that is behind every file's."""


class Unproved(Exception):
    """An entry that does not follow from those before it; its text says which, and why."""


@frozen
class Moment:
    """A log as it was found: its last entry, and the days that were sealed."""

    head: Cursor
    segments: tuple[object, ...]


@frozen
class Copied:
    """What was new to a copy."""

    entries: int
    segments: int
    blobs: int
    damaged: tuple[str, ...]
    """Names of blobs that cannot be read where they come from."""


def moment_of(log: Log) -> Moment:
    """A log as it is now."""
    with log.reading() as reading:
        head = reading.head()
    return Moment(Cursor(head.position, head.hash), ())


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


def prove(log: Log, after: Cursor, until: Cursor) -> None:
    """Read back what lies between two places.

    Raises:
        Unproved: as `proved`.
    """
    for _ in proved(log, after, until):
        pass


def copy(source: Log, target: Log, moment: Moment, *, progress: Progress | None = None, heal: bool = False) -> Copied:
    """Bring a copy up to a moment of its source.

    Args:
        source: any log.
        target: the copy, which ends where the source once did.
        moment: of the source, taken before.
        progress: called after each page with (entries copied, entries to copy).
        heal: look at the blobs that stand in the copy already, too, and write damaged ones anew.

    Raises:
        Unproved: the source's entries do not follow from each other; what comes before stands in the copy.
    """
    blobs, damaged = _copy_blobs(source, target, heal=heal)
    start = moment_of(target).head
    done = 0
    for page in proved(source, start, moment.head):
        target.write(partial(_insert, page))
        done += len(page)
        if progress is not None:
            progress(done, moment.head.position - start.position)
    return Copied(done, 0, blobs, damaged)


def _insert(entries: Sequence[Entry], writing: Writing) -> None:
    writing.insert(entries)


# --- blobs --------------------------------------------------------------------------------------------------------


def _copy_blobs(source: Log, target: Log, *, heal: bool) -> tuple[int, tuple[str, ...]]:
    """Have every blob of the source in the copy; how many came, and which cannot be read."""
    here = [*target.blobs.each()]
    for item in here:
        if not item.name:  # left by a copying that was killed; nobody else writes here
            target.blobs.let_go(item, _ALWAYS)
    standing = {item.name for item in here if item.name and not (heal and not target.blobs.is_sound(item))}
    taken, damaged = 0, []
    for name in sorted({item.name for item in source.blobs.each()} - standing - {""}):
        try:
            taken += target.blobs.take(name, source.blobs)
        except DamagedBlob:
            damaged.append(name)
    return taken, tuple(damaged)


def found_of(copied: Copied, target: Log, *, everything: bool) -> tuple[str, ...]:
    """What is to be said of the blobs of a copy; of everything that its entries need, where that is asked for."""
    faults = Blobs(target).check().faults if everything else ()
    told = {fault.digest for fault in faults}
    lost = (f"the blob {name} is damaged where it comes from" for name in copied.damaged if name not in told)
    return (*map(str, faults), *lost)
