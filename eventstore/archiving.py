"""Old days leave the log: sealed into files first, and only then released from the database.

*Seal*: all entries that were recorded on a past UTC day, the oldest day first, are written to a file under a temporary
name, synced, renamed, the folder synced, and read back and proved from the disk. Then a row and an event
`LogRecorded(source="runfold", kind="segment-sealed", ref=day)` record it in one transaction. That event is recorded
after the day, and the log's time never goes back: so no entry can ever come into a sealed day, whatever a clock says.

*Release*: what stands in a segment that was proved leaves the database, in small transactions, once its day is older
than `keep_days` and its run has ended; of streams that are no run, by age alone. The last entry of each stream stays.
A run that may go on keeps all of its history.

Killed anywhere and run again, the result is the same: a file that was not recorded means nothing and is written anew
(or taken away, where the day was sealed under its other name, compressed or not, and all of it stands there), a day
that was recorded is never written again, and of what was to be released the rest is. Reading sees segments and log as
one all the while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from attrs import frozen

from eventstore.errors import CannotOpen, DamagedSegment, InvalidArgument, Refused, SegmentMissing, UnreadableEntry
from eventstore.limits import PAGE, PAGE_BYTES, check_names
from eventstore.notes import NOTES, LogRecorded
from eventstore.payloads import from_iso, to_microseconds
from eventstore.segments import ALTERED, DAY, day_of, end_of

if TYPE_CHECKING:
    from eventstore.gate import Folded
    from eventstore.log import Entry, Reading, Segment, Writing
    from eventstore.machine import Machine
    from eventstore.segments import Archive
    from eventstore.store import EventStore, Stream

STREAM = "runfold"
SEALED = "segment-sealed"
KEEP_DAYS = 30
SPARED = 8
"""The first entries of a stream of notes stay: who opens it sees by them that it is no run."""
_ROWS = 500
"""Entries that leave or come back in one transaction: so long others wait, some milliseconds."""
_ALL = 2**62
_WINDOW = 20_000
"""Positions that are looked through in one snapshot."""

Progress = Callable[[str, int, int], None]
"""Called with (what is done: "seal", "release" or "restore"; entries done; entries to do, as far as is known)."""


@frozen
class Archiving:
    """What an archive run did, or would do."""

    dry_run: bool
    sealed: tuple[Segment, ...]
    """The days that were sealed now, with their entries and the bytes of their files."""
    released: int
    """Entries that left the log."""
    released_bytes: int
    """What their payloads took there."""
    streams: int
    """Of which entries left."""
    days_left: int
    """Past days that `max_days` left unsealed."""
    freed: int = 0
    """Bytes that `vacuum` gave back to the file system."""


@frozen
class RestoredDays:
    """What `restore_days` did, or would do."""

    dry_run: bool
    days: tuple[str, ...]
    entries: int
    """That came back into the log."""
    left: int
    """That stay in their segment, since their key was used again."""


def archive(
    store: EventStore,
    *,
    keep_days: int = KEEP_DAYS,
    max_days: int | None = None,
    compress: bool = False,
    vacuum: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Archiving:
    """Seal the days that are over, and release what is old enough.

    Args:
        store: whose log.
        keep_days: how many days after its end a day's entries stay in the log, at least; 0 releases what is sealed.
        max_days: seal at most so many days, the oldest first.
        compress: write the files with zstd.
        vacuum: give the room back to the file system afterwards; others wait meanwhile.
        dry_run: write nothing, and say what would be done.
        progress: see `Progress`.

    Raises:
        ArchiveBusy: somebody else archives or restores; nothing was changed.
        CannotOpen: the folder is a symlink, or cannot be made or written, or the store was opened read-only; nothing
            was changed.
        SegmentMissing, DamagedSegment: a file from which entries would be released is not what was sealed; these
            entries stay.
        UnreadableEntry: an entry of a day does not follow from those before it, or cannot be read; the day is not
            sealed, nor is any after it.
        OSError: the disk does not take a file; its day is not sealed, nor is any after it.
        InvalidArgument: a number that cannot be.
    """
    for name, number, least in (("keep_days", keep_days, 0), ("max_days", max_days, 1)):
        if number is not None and (type(number) is not int or number < least):
            raise InvalidArgument(name, number, f"must be a whole number of at least {least}")
    run = _Run(store, keep_days, compress=compress, dry_run=dry_run, progress=progress or (lambda *_: None))
    if dry_run:
        return run.go(max_days)
    _refuse_read_only(store)
    with run.folder.held():
        done = run.go(max_days)
    return attrs.evolve(done, freed=store.log.vacuum()) if vacuum else done


def restore_days(
    store: EventStore, days: Iterable[str] | None = None, *, dry_run: bool = False, progress: Progress | None = None
) -> RestoredDays:
    """Put the entries of sealed days back into the log, where any SQLite tool can read them; the days stay sealed.

    Nothing needs this to be read. The next archive run releases them again, by their age.

    Args:
        store: whose log.
        days: such as "2026-11-20"; all that are sealed unless given.
        dry_run: write nothing, and say what would be done.
        progress: see `Progress`.

    Raises:
        InvalidArgument: one of the days is not sealed; nothing was changed.
        SegmentMissing, DamagedSegment: a file is not what was sealed; the days before it are restored.
        ArchiveBusy, CannotOpen: as for archiving; nothing was changed.
    """
    folder: Archive = store.log.archive
    with store.reading() as reading:
        known = {segment.day: segment for segment in reading.segments()}
        wanted = sorted(known if days is None else {*check_names("days", days)})
        for day in wanted:
            if day not in known:
                sealed = f"sealed are {min(known)} to {max(known)}" if known else "no day is sealed yet"
                raise InvalidArgument("day", day, f"is not a sealed day of this log; {sealed}")
        todo = {day: known[day].entries - reading.standing(known[day].first, known[day].last) for day in wanted}
    total = sum(todo.values())
    if dry_run:
        left = _barred(store, [known[day] for day in wanted if todo[day]])
        return RestoredDays(dry_run=True, days=tuple(wanted), entries=total - left, left=left)
    _refuse_read_only(store)
    if not total:  # and no folder is made to hold
        return RestoredDays(dry_run=False, days=tuple(wanted), entries=0, left=0)
    back = 0
    with folder.held():
        for day in wanted:
            for number in _put_back(store, folder, known[day]) if todo[day] else ():
                back += number
                if progress is not None:
                    progress("restore", back, total)
    return RestoredDays(dry_run=False, days=tuple(wanted), entries=back, left=total - back)


def _barred(store: EventStore, segments: Iterable[Segment]) -> int:
    """How many entries of these days would stay in their segments, since their keys were used again."""
    folder: Archive = store.log.archive
    used: set[tuple[str, str]] = set()
    left = 0
    for segment in segments:
        with store.reading() as reading:
            held = set(reading.held(segment.first, segment.last))
            for block in reading.blocks(segment):
                for entry in folder.entries(segment, block):
                    if entry.key is not None and entry.position not in held:
                        name = entry.stream, entry.key
                        left += name in used or reading.keyed(*name) is not None
                        used.add(name)
    return left


def _put_back(store: EventStore, folder: Archive, segment: Segment) -> Iterator[int]:
    with store.reading() as reading:
        blocks = reading.blocks(segment)
    folder.prove(segment, blocks)
    for block in blocks:
        entries = list(folder.entries(segment, block))
        for start in range(0, len(entries), _ROWS):
            yield store.write(lambda writing, at=start, some=entries: writing.put_back(some[at : at + _ROWS]))  # type: ignore[misc]


def _refuse_read_only(store: EventStore) -> None:
    """Before anything is made, a folder even."""
    if getattr(store.log, "read_only", False):
        raise CannotOpen(store.log.url, "it may not be written: it was opened read-only; connect without read_only")


class _Late(Exception):
    """An entry came into the day while its file was written."""


class _Run:
    """One archive run."""

    def __init__(self, store: EventStore, keep_days: int, *, compress: bool, dry_run: bool, progress: Progress) -> None:
        self.store = store
        self.folder: Archive = store.log.archive
        self._keep = keep_days * DAY
        self._compress = compress
        self._dry = dry_run
        self._progress = progress
        self._proved: set[str] = set()
        """Days whose files were read back in this run."""
        self._spared: dict[str, int | None] = {}
        self._notes: dict[str, Folded[Any]] = {}
        """Streams that were no run when they were judged, as they stood."""

    def go(self, max_days: int | None) -> Archiving:
        """Seal, then release."""
        with self.store.reading() as reading:
            segments = list(reading.segments())
            days = self._days(reading, segments[-1].last if segments else 0)
        wanted = days if max_days is None else days[:max_days]
        before = segments[-1].after if segments else None
        sealed: list[Segment] = []
        for first, last in wanted:
            segment = self._seal(first, last, before, wanted[0][0], wanted[-1][1])
            if segment is None:
                break
            sealed.append(segment)
            before = segment.after
        if not self._dry:
            self._sweep([*segments, *sealed])
        entries, size, streams = self._release([*segments, *sealed])
        return Archiving(self._dry, tuple(sealed), entries, size, streams, len(days) - len(sealed))

    # --- sealing ------------------------------------------------------------------------------------------------

    def _days(self, reading: Reading, sealed: int) -> list[tuple[int, int]]:
        """The first and last position of each day that is over and not sealed, the oldest first.

        The last days are left alone if they hold nothing but what sealing itself recorded, or an idle log would grow
        by a file a day.
        """
        now = self.store.gate.now(reading.head())
        past = last = _first_at(reading, now // DAY * DAY, sealed) - 1
        while past > sealed and _is_note(_at(reading, past)):
            past -= 1
        days = []
        first = sealed + 1
        while first <= past:
            end = min(_first_at(reading, end_of(_at(reading, first).recorded_at), first) - 1, last)
            days.append((first, end))
            first = end + 1
        return days

    def _seal(self, first: int, last: int, before: bytes | None, begin: int, end: int) -> Segment | None:
        """Write, prove and record one day; None where the clock went back and says that it is not over."""
        if before is None:
            with self.store.reading() as reading:
                before = reading.hash_at(0) or b""
        sealed = self.folder.write(
            before, self._entries(first, last, begin, end), compress=self._compress, dry=self._dry
        )
        if self._dry:
            return sealed.segment
        self.folder.index(sealed, self.store.write)
        self._proved.add(sealed.segment.day)
        try:
            return sealed.segment if self._record(sealed.segment) else None
        except _Late:
            with self.store.reading() as reading:
                last = _first_at(reading, end_of(_at(reading, first).recorded_at), first) - 1
            return self._seal(first, last, before, begin, max(last, end))

    def _entries(self, first: int, last: int, begin: int, end: int) -> Iterator[Entry]:
        after = first - 1
        while after < last:
            with self.store.reading() as reading:
                page = reading.read_all(after=after, limit=min(PAGE, last - after)) or [_at(reading, after + 1)]
            yield from page
            after = page[-1].position
            self._progress("seal", after - begin + 1, end - begin + 1)

    def _record(self, segment: Segment) -> bool:
        """Record a proved day; False where it is not over.

        Raises:
            _Late: it holds more by now.
        """
        handle: Stream[Any] = self.store.stream(STREAM)
        facts = {"first": segment.first, "last": segment.last, "file": segment.file, "sha256": segment.digest.hex()}
        note = LogRecorded(source=STREAM, kind=SEALED, ref=segment.day, payload=facts)
        if not handle.seen:
            handle.refresh()
        append = handle.job(note)

        def job(writing: Writing) -> bool:
            head = writing.head()
            if day_of(self.store.gate.now(head)) <= segment.day:
                return False
            if segment.last < head.position and day_of(_at(writing, segment.last + 1).recorded_at) == segment.day:
                raise _Late
            _, (recorded,), _ = append(writing)
            # From here on the log's time is behind that day, whatever a clock says.
            assert day_of(recorded.entry.recorded_at) > segment.day, "the clock went back"  # noqa: S101 - a pair assertion
            writing.seal(segment)
            return True

        return self.store.write(job)

    def _sweep(self, segments: list[Segment]) -> None:
        """Take away what killed runs left under a day's other name, if all of it stands, proved, in its own file."""
        for segment, file in self.folder.spare(segments):
            with suppress(SegmentMissing, DamagedSegment):  # or it may be the last of that day
                self._prove(segment)
                self.folder.files.remove(self.folder.path(file))

    def _prove(self, segment: Segment) -> None:
        if segment.day not in self._proved:
            with self.store.reading() as reading:
                blocks = reading.blocks(segment)
            self.folder.prove(segment, blocks)
            self._proved.add(segment.day)

    # --- releasing ----------------------------------------------------------------------------------------------

    def _release(self, segments: list[Segment]) -> tuple[int, int, int]:
        """Let go of what is old enough: entries, bytes of their payloads, streams.

        The last entries go first, day by day, and stretch by stretch: so wherever it ends, no payload stands that was
        packed over one that left.
        """
        with self.store.reading() as reading:
            now = self.store.gate.now(reading.head())
            old = [segment for segment in segments if _end(segment) + self._keep <= now]
        entries = size = 0
        streams: set[str] = set()
        if self._dry:
            return self._would_release(old)
        for segment in reversed(old):
            for until in range(segment.last, segment.first - 1, -_WINDOW):
                after = max(until - _WINDOW, segment.first - 1)
                going = self._going(after, until)
                if going:
                    self._prove(segment)
                while going:
                    for stream, number, taken in self.store.write(partial(self._let_go, going, after, until)):
                        entries, size = entries + number, size + taken
                        streams.add(stream)
                    self._progress("release", entries, entries)
        return entries, size, len(streams)

    def _would_release(self, old: list[Segment]) -> tuple[int, int, int]:
        if not old:
            return 0, 0, 0
        with self.store.reading() as reading:
            streams = reading.releasable(after=0, until=old[-1].last)
        entries = size = left = 0
        for stream in streams:
            if (spared := self._judge(stream)) is None:
                continue
            before = entries
            with self.store.reading() as reading:
                for _, taken in reading.leaving(stream, after=0, until=old[-1].last, spared=spared, limit=_ALL):
                    entries, size = entries + 1, size + taken
            left += entries > before
        return entries, size, left

    def _going(self, after: int, until: int) -> dict[str, int]:
        """The streams that may let go of entries between these positions, and up to which version they keep them."""
        with self.store.reading() as reading:
            streams = reading.releasable(after=after, until=until)
        judged = ((stream, self._judged(stream)) for stream in streams)
        return {stream: spared for stream, spared in judged if spared is not None}

    def _judged(self, stream: str) -> int | None:
        """The version up to which a stream's entries stay; None where all of them do.

        What is judged of a run stays so: no event leads out of a final phase. Notes are looked at again under the lock.
        """
        if stream not in self._spared:
            self._spared[stream] = self._judge(stream)
        return self._spared[stream]

    def _judge(self, stream: str) -> int | None:
        gate = self.store.gate
        try:
            with self.store.reading() as reading:
                view: Folded[Any] = self.store.opening.fold(reading, stream, gate.start(None))
        except (Refused, UnreadableEntry):  # an event that no machine here knows, or that it does not take
            return None
        machine = _ruled_by(view)
        if machine is None:
            if not self._dry:
                self._notes[stream] = view
            return SPARED
        return 0 if view.state.phase in machine.final else None

    def _let_go(self, going: dict[str, int], after: int, until: int, writing: Writing) -> list[tuple[str, int, int]]:
        """Release some entries of these streams, and forget the streams that have no more: stream, entries, bytes."""
        released = []
        room, size = _ROWS, 0
        for stream, spared in [*going.items()]:
            if stream in self._notes and not self._still_no_run(writing, stream):
                self._spared[stream] = None
                del going[stream]
                continue
            leaving = [*writing.leaving(stream, after=after, until=until, spared=spared, limit=room)]
            going_now = []
            for position, taken in leaving:
                going_now.append(position)
                size += taken
                if size > PAGE_BYTES:
                    break
            if going_now:
                writing.release(going_now)
                released.append((stream, len(going_now), sum(taken for _, taken in leaving[: len(going_now)])))
            room -= len(going_now)
            if not room or size > PAGE_BYTES:
                break
            del going[stream]
        return released

    def _still_no_run(self, writing: Writing, stream: str) -> bool:
        """Whether what came since it was judged did not make a run of it, which keeps its history."""
        try:
            self._notes[stream] = self.store.gate.fold(writing, stream, self._notes[stream])
        except (Refused, UnreadableEntry):
            return False
        return _ruled_by(self._notes[stream]) is None


def _ruled_by(view: Folded[Any]) -> Machine[Any] | None:
    """The machine of a stream that is a run of some kind; None of one that is none."""
    return None if view.machine is NOTES else view.machine


def _first_at(reading: Reading, time: int, after: int) -> int:
    """The first position behind `after` that was recorded at a time or later; that behind the head if there is none."""
    low, high = after + 1, reading.head().position + 1
    while low < high:
        middle = (low + high) // 2
        if _at(reading, middle).recorded_at >= time:
            high = middle
        else:
            low = middle + 1
    return low


def _at(reading: Reading, position: int) -> Entry:
    """The entry at a position.

    Raises:
        UnreadableEntry: somebody took it out.
    """
    for entry in reading.at([position]):
        return entry
    raise UnreadableEntry(position, "a stream", "an entry", "it is missing", ALTERED)


def _is_note(entry: Entry) -> bool:
    """Whether it is what sealing recorded."""
    return entry.stream == STREAM and entry.type == LogRecorded.__name__ and f'"kind":"{SEALED}"' in entry.data


def _end(segment: Segment) -> int:
    return to_microseconds(from_iso(f"{segment.day}T00:00:00Z")) + DAY
