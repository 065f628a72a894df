"""Everything that can be proved of a store, proved: storage, segments, chain, places, blobs, machines, tables.

The log is walked once, page by page. Each entry must stand at the next position, at the next version of its stream, no
earlier than the one before, and its hash must follow from its content and the hash before it: so the first entry that
was altered, lost or put in is named, and everything before it is proved. The file of each sealed day is held against
what was recorded of it, what entries need of the blobs beside the log is read and held against its digest. Then every
stream is replayed by its machine and every table held against the fold. Nothing here changes anything that is observed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.blobfiles import PUT_BACK
from eventstore.errors import DamagedSegment, EventStoreError, SegmentMissing, UnreadableEntry
from eventstore.integrity import chain
from eventstore.limits import PAGE
from eventstore.log import Block, Cursor, Entry, Head, Reading, Span

if TYPE_CHECKING:
    from eventstore.blobs import BlobFault
    from eventstore.store import EventStore
    from projections.rebuilding import Progress, Rebuilder, Report


@frozen
class Finding:
    """Something that is not as it must be, and what an operator can do."""

    check: str
    """storage, segments, chain, blobs, machine or tables."""
    position: int | None
    fact: str
    remedy: str

    def __str__(self) -> str:
        place = "" if self.position is None else f" at position {self.position}"
        return f"{self.check}{place}: {self.fact}; {self.remedy}"


@frozen
class Verification:
    """What was proved, and what was found instead. The first finding is the one to begin with."""

    head: Cursor
    entries: int
    """Whose chain was proved."""
    streams: int
    rows: int
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    """What could not be proved and is no fault: that no tail was lost, where no witness stood."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def verify(
    store: EventStore, rebuilder: Rebuilder, *, bare: bool = False, progress: Progress | None = None
) -> Verification:
    """Prove a store.

    Args:
        store: whose log is walked and replayed.
        rebuilder: of its tables.
        bare: it has no tables and may not be given any, as a backup on its medium; that is noted, and is no fault.
        progress: called after each page with (entries walked, entries in the log).
    """
    storage = _guarded("storage", lambda: [_of_storage(fact) for fact in store.log.examine()])
    segments = _guarded("segments", lambda: _of_segments(store))
    walk = _Walk(store)
    broken = _guarded("chain", lambda: walk.go(progress))
    blobs = [] if storage or walk.cut else _guarded("blobs", lambda: _of_blobs(store.blobs.check().faults))
    tables: list[Finding] = []
    rows = 0
    if not (storage or broken or walk.cut):  # a fold over what is broken would only repeat it, in a thousand words
        report: list[Report] = []
        tables = _guarded("tables", lambda: _of_report(rebuilder.check(skip_invalid=True), report, bare=bare))
        rows = report[0].rows if report else 0
    findings = (*storage, *segments, *broken, *blobs, *tables)
    notes = store.log.remarks if walk.entries else ()
    notes += (_BARE,) if bare else ()
    return Verification(walk.head, walk.entries, len(walk.versions), rows, findings, notes)


def _guarded(check: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """A look that fails has found something as well."""
    try:
        return look()
    except EventStoreError as error:
        return [Finding(check, None, str(error), "mend that first, and verify again")]
    except Exception as error:  # noqa: BLE001 - a driver's own words about a damaged file
        return [Finding(check, None, f"{type(error).__name__}: {error}", _RESTORE)]


_RESTORE = "restore a backup, or write what is sound with `runfold export --until POSITION` and import it anew"


def _of_storage(fact: str) -> Finding:
    return Finding("storage", None, fact, _RESTORE)


def _of_blobs(faults: Sequence[BlobFault]) -> list[Finding]:
    """What entries lack; a damaged blob that nobody needs is no fault of the log's."""
    return [Finding("blobs", fault.needs[0].position, str(fault), PUT_BACK) for fault in faults if fault.needs]


def _of_segments(store: EventStore) -> list[Finding]:
    """Hold each sealed day against its file, and the days against each other."""
    with store.reading() as reading:
        segments = reading.segments()
        place = Cursor(0, reading.hash_at(0) or b"")
        index = _by_block(reading.spans())
    found = []
    for segment in segments:
        if segment.first != place.position + 1 or segment.before != place.hash:
            fact = f"{segment.day} does not follow the sealed day before it: somebody altered the log's tables"
            found.append(Finding("segments", segment.first, fact, _RESTORE))
        try:
            with store.reading() as reading:
                blocks = reading.blocks(segment)
            proved: Counter[int] = Counter()
            store.log.archive.prove(segment, blocks, partial(_add, proved))
            if any(index.pop(block.first, 0) != proved[block.first] for block in blocks):
                fact = f"the log's tables do not tell where the streams of {segment.day} stand: somebody altered them"
                found.append(Finding("segments", segment.first, fact, _RESTORE))
        except (SegmentMissing, DamagedSegment) as error:
            fact, _, remedy = str(error).partition(": ")
            found.append(Finding("segments", segment.first, fact, remedy))
        place = Cursor(segment.last, segment.after)
    if not found and any(index.values()):
        fact = "the log's tables tell of streams in a part of the sealed days that there is not: somebody altered them"
        found.append(Finding("segments", min(index), fact, _RESTORE))
    if not found:
        with store.reading() as reading:
            found = [Finding("segments", it.position, _CUT_OFF.format(it.stream), _RESTORE) for it in reading.cut_off()]
    return found


def _add(proved: Counter[int], _block: Block, spans: Iterable[Span]) -> None:
    proved.update(_by_block(spans))


def _by_block(spans: Iterable[Span]) -> Counter[int]:
    """What the tables tell of each block, as a number: there may be millions of spans, and they come in any order."""
    told: Counter[int] = Counter()
    for span in spans:
        told[span.block] += hash(span)
    return told


_CUT_OFF = "the last entry of {} stands in its segment alone: this is what a kill left of a copy"


class _Walk:
    """One pass over the log."""

    def __init__(self, store: EventStore) -> None:
        self._log = store.log
        self.cut = False
        """Whether it ended at a segment that cannot be read, which was found already."""
        self.versions: dict[str, int] = {}
        self.entries = 0
        with store.reading() as reading:
            self.head: Cursor = Cursor(0, reading.hash_at(0) or b"")

    def go(self, progress: Progress | None) -> list[Finding]:
        """Walk to the end, or to the first entry that is not as it must be."""
        recorded_at = 0
        while True:
            with self._log.reading() as reading:
                entries, unreadable = self._page(reading)
                end: Head = reading.head()
            for entry in entries:
                if (fact := self._fault(entry, recorded_at)) is not None:
                    return [Finding("chain", entry.position, fact, self._remedy())]
                recorded_at = entry.recorded_at
                self.head = Cursor(entry.position, entry.hash)
                self.versions[entry.stream] = entry.version
                self.entries += 1
            if unreadable is not None:
                fact = f"{unreadable.type} of {unreadable.stream} cannot be read: {unreadable.reason}"
                return [Finding("chain", unreadable.position, fact, self._remedy())]
            if not entries:
                return []
            if progress is not None:
                progress(self.head.position, end.position)

    def _page(self, reading: Reading) -> tuple[Sequence[Entry], UnreadableEntry | None]:
        """The next entries, up to the first that cannot be read."""
        after = self.head.position
        try:
            return reading.read_all(after=after, limit=PAGE), None
        except UnreadableEntry as error:
            before = error.position - after - 1
            return (reading.read_all(after=after, limit=before) if before > 0 else ()), error
        except (SegmentMissing, DamagedSegment) as error:
            self.cut = error.first <= after + 1
            return (() if self.cut else reading.read_all(after=after, limit=error.first - after - 1)), None

    def _fault(self, entry: Entry, recorded_at: int) -> str | None:
        if entry.position != self.head.position + 1:
            return f"the entries from {self.head.position + 1} to {entry.position - 1} are missing"
        expected = self.versions.get(entry.stream, 0) + 1
        if entry.version != expected:
            return f"it is version {entry.version} of {entry.stream}, where version {expected} must stand"
        if chain(self.head.hash, entry) != entry.hash:
            return f"{entry.type} of {entry.stream} was altered, or an entry before it was: its hash does not follow"
        if entry.recorded_at < recorded_at:
            return "it was recorded before the entry before it"
        return None

    def _remedy(self) -> str:
        return f"everything up to position {self.head.position} is proved; {_RESTORE}"


_BARE = "no table was proved, for none stands here; `runfold restore` makes them with a database of its own"


def _of_report(report: Report, kept: list[Report], *, bare: bool) -> list[Finding]:
    kept.append(report)
    rebuild = "`runfold rebuild` makes the table anew"
    skipped = [
        Finding("machine", item.position, f"{item.event} of {item.stream}: {item.reason}", "look at `runfold events`")
        for item in report.listed_skipped
    ]
    differences = [Finding("tables", item.position or None, str(item), rebuild) for item in report.listed]
    told = [trouble for trouble in report.troubles if not (bare and "has no cursor" in trouble)]
    troubles = [Finding("tables", None, trouble, "the log itself is whole") for trouble in told]
    return [*skipped, *differences, *troubles]
