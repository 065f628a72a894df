"""One log brought up to another: blobs, sealed days and entries, each proved on its way. Backups and restores are this.

At every moment the copy is a log by itself, up to some position. Blobs come first, for entries mention them; then the
sealed days, whose files are made anew from what the source reads as and held against its digests; then the entries
that the source itself holds, in order. What the source has released since leaves the copy last, when it stands in a
segment there. Nothing that this relies on goes away meanwhile: entries and segments never change, and no collector
takes a blob that an entry mentions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.blobs import Blobs
from eventstore.connecting import failures
from eventstore.errors import (
    BackupRefused,
    DamagedBlob,
    DamagedSegment,
    OutcomeUnknown,
    RestoreRefused,
    SegmentMissing,
    UnreadableEntry,
)
from eventstore.integrity import chain
from eventstore.limits import PAGE
from eventstore.log import Cursor, Entry, Log

if TYPE_CHECKING:
    from pathlib import Path

    from eventstore.log import Segment, Writing
    from eventstore.segments import Sealed

Progress = Callable[[int, int], None]
"""`(entries done, entries in all)`."""
_ALWAYS = 2**62
"""A time that is behind every file's."""
_ROWS = 500
"""Entries that leave in one transaction."""


@contextmanager
def told(refused: type[BackupRefused | RestoreRefused], folder: Path) -> Iterator[None]:
    """Have what the disk does not do, in the system's words or in SQLite's, be a refusal that names the folder."""
    try:
        yield
    except OSError as error:
        raise refused(str(folder), _to_mend(error.strerror or str(error), error.filename)) from error
    except OutcomeUnknown as error:  # of the copy: nobody asks what became of it, and the next backup goes on with it
        raise refused(str(folder), _to_mend(error.reason, error.url)) from error
    except failures() as error:
        raise refused(str(folder), _to_mend(str(error), "; ".join(getattr(error, "__notes__", ())))) from error


def _to_mend(said: str, where: str | None) -> str:
    return f"{said}{f' ({where})' if where else ''}; mend that and try again"


class Unproved(Exception):
    """An entry that does not follow from those before it; its text says which, and why."""


class Superseded(Exception):
    """An entry that can neither stay in a copy nor leave it; its text says which."""


@frozen
class Moment:
    """A log as it was found: its last entry, and the days that were sealed."""

    head: Cursor
    segments: tuple[Segment, ...]


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
        # In a copy that was killed a day may be sealed whose entries were still to come: what there is of it, comes
        # along as entries.
        segments = tuple(segment for segment in reading.segments() if segment.last <= head.position)
    return Moment(Cursor(head.position, head.hash), segments)


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
        except (UnreadableEntry, SegmentMissing, DamagedSegment) as error:
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
        Superseded: an entry of the copy is in the way of another that has its key.
    """
    blobs, damaged = _copy_blobs(source, target, heal=heal)
    segments = _copy_segments(source, target, moment.segments, heal=heal)
    _release(source, target, moment.segments)  # before other entries come under the same keys
    start = moment_of(target).head
    sealed = moment.segments[-1].last if moment.segments else 0
    done = 0
    for page in proved(source, start, moment.head):
        held = _held(source, page, sealed)
        if held:
            target.write(partial(_insert, held, sealed=bool(sealed)))
        done += len(page)
        if progress is not None:
            progress(done, moment.head.position - start.position)
    _release(source, target, moment.segments)
    _put_back(source, target, moment.segments)
    return Copied(done, segments, blobs, damaged)


def _insert(entries: Sequence[Entry], writing: Writing, *, sealed: bool) -> None:
    for entry in entries if sealed else ():  # a key may be used again when its entry has left the log
        if entry.key is not None and (old := writing.keyed(entry.stream, entry.key)) is not None:
            reason = f"the key {entry.key} of {entry.stream} names position {entry.position} by now, and {old.position}"
            raise Superseded(f"{reason}, which is still the last one of its stream here, cannot leave before it")
    writing.insert(entries)


def _held(source: Log, page: Sequence[Entry], sealed: int) -> Sequence[Entry]:
    """Those of these entries that the source itself holds, and all behind the last segment that comes along."""
    if page[0].position > sealed:
        return page
    with source.reading() as reading:
        held = set(reading.held(page[0].position, page[-1].position))
    return [entry for entry in page if entry.position in held or entry.position > sealed]


def complete(target: Log) -> None:
    """Have the last entry of each stream in a copy of a copy that was cut off.

    There it stood behind the cut, as the source held it, and what came before it in a sealed day alone.
    """
    with target.reading() as reading:
        entries = reading.cut_off()
    for start in range(0, len(entries), _ROWS):
        target.write(partial(_come_back, entries[start : start + _ROWS]))


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


# --- sealed days --------------------------------------------------------------------------------------------------


def _copy_segments(source: Log, target: Log, segments: Iterable[Segment], *, heal: bool) -> int:
    """Seal in the copy what is sealed in the source; how many days that were.

    The lines of a segment are what its entries say, so the file is made of them, and needs no key but the copy's own.
    """
    with target.reading() as reading:
        known = {segment.day: segment for segment in reading.segments()}
    wanted = [it for it in segments if it.day not in known or (heal and _is_spoilt(target, known[it.day]))]
    for segment in wanted:
        with target.archive.held():
            sealed = _written(source, target, segment)
            if segment.day not in known:
                target.archive.index(sealed, target.write)
                target.write(partial(_seal, sealed.segment))
                continue
            target.archive.prove(sealed.segment, sealed.blocks)
            if sealed.segment != known[segment.day]:  # of another release of zstd: its parts lie elsewhere
                raise Unproved(f"the day {segment.day} is damaged in the copy, and cannot be made again as it was")
    return len(wanted)


def _written(source: Log, target: Log, segment: Segment) -> Sealed:
    before, after = Cursor(segment.first - 1, segment.before), Cursor(segment.last, segment.after)
    entries = (entry for page in proved(source, before, after) for entry in page)
    sealed: Sealed = target.archive.write(segment.before, entries, compress=".zst" in segment.file)
    if sealed.segment.digest != segment.digest:
        raise Unproved(f"the day {segment.day} does not read as it was sealed")
    return sealed


def _seal(segment: Segment, writing: Writing) -> None:
    writing.seal(segment)


def _is_spoilt(target: Log, segment: Segment) -> bool:
    """Whether the file of a day is gone from the copy, or is not what was sealed."""
    with target.reading() as reading:
        blocks = reading.blocks(segment)
    try:
        target.archive.prove(segment, blocks)
    except (SegmentMissing, DamagedSegment):
        return True
    return False


def _release(source: Log, target: Log, segments: Iterable[Segment]) -> None:
    """Let go in the copy of what stands in a segment there and left the source; how it is packed is the copy's own."""
    for segment in segments:
        with source.reading() as reading:
            held = set(reading.held(segment.first, segment.last))
        with target.reading() as reading:
            going = [position for position in reading.held(segment.first, segment.last) if position not in held]
            going = [*reading.free(going)] if going else []
        for start in range(0, len(going), _ROWS):
            target.write(partial(_let_go, going[start : start + _ROWS]))


def _put_back(source: Log, target: Log, segments: Iterable[Segment]) -> None:
    """Have in the copy what came back into the source from its segments: with it, its keys are remembered again."""
    for segment in segments:
        with source.reading() as reading:
            held = set(reading.held(segment.first, segment.last))
        with target.reading() as reading:
            coming = sorted(held.difference(reading.held(segment.first, segment.last)))
        while coming:
            with target.reading() as reading:
                entries = reading.at(coming[:_ROWS])
            target.write(partial(_come_back, entries))
            coming = coming[len(entries) :]


def _come_back(entries: Sequence[Entry], writing: Writing) -> None:
    writing.put_back(entries)


def _let_go(positions: Sequence[int], writing: Writing) -> None:
    writing.release(positions)
