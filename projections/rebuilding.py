"""Tables made anew from the log alone, and tables proved right against it.

Both fold the whole log into shadow tables, chunk by chunk in bounded memory, passing every entry by its machine. They
read and fold outside of the write lock: so a daemon goes on writing meanwhile.

A rebuild keeps its shadows beside the standing tables. The lock is taken for a few rows at a time and, at the end, for
the last few entries; then it swaps the shadows in, in one transaction, with nothing appended in between: one that is
stopped or killed leaves the old tables as they were. A check keeps its shadows in a place of its own and takes no lock.
It ends by comparing row by row, and leaves nothing behind.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import compress
from typing import Any

import attrs
from attrs import field, frozen

from eventstore.codec import Recorded
from eventstore.errors import InvalidArgument, ProjectionHalted, RebuildSuperseded, ReplayRefused, StaleProjection
from eventstore.log import Glance, Reading, Writing
from eventstore.replaying import Ahead, Replay
from eventstore.store import EventStore
from projections.comparing import Comparison, Difference
from projections.projection import Projection
from projections.projector import CursorRow, Projector
from projections.rows import Changes, RowFold
from projections.tables import Table, query

Progress = Callable[[int, int], None]
"""Called with (entries folded, entries in the log) after each chunk."""

CHUNK = 5_000
"""Entries that are read and folded in one snapshot, and rows that are compared in one."""
ROWS = 500
"""Rows that are held before they are written, and that are written at once: so long others wait, a few milliseconds."""
PAUSE = 0.01
"""Seconds between two of these writes, if others write as well. Who found SQLite's lock taken looks again after 1, 2
and 5 ms (see `sqlite.writer`): against one who takes it again at once he hardly ever gets it."""
FEW = 200
"""Entries that may be left to fold while nothing can be appended."""
SMALL = 5_000
"""Rows of a table that is dropped in the swap: in 0.1 to 1 ms. A RENAME takes 1, and 6 with a full-text index, since
SQLite parses the whole schema for each."""
LISTED = 1_000
"""Differences and skipped entries that a report lists; it counts all of them."""


@frozen
class Skipped:
    """An entry that its machine refused on replay and that was left out."""

    position: int
    stream: str
    event: str
    reason: str


@frozen
class Report:
    """What a rebuild or check did."""

    projections: tuple[str, ...]
    entries: int
    rows: int
    skipped: int = 0
    differences: int = 0
    listed: tuple[Difference, ...] = ()
    listed_skipped: tuple[Skipped, ...] = ()
    troubles: tuple[str, ...] = ()
    """Tables that could not be compared, and why: one that halted, one that the check itself could not fold."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not (self.differences or self.skipped or self.troubles)


@attrs.define
class _Making:
    """One rebuild or check, as far as it has come. `token` tells it from another that began since."""

    shadows: dict[str, RowFold[Any]]
    """By projection; each holds what is folded and not written yet."""
    replay: Replay
    skip_invalid: bool
    scratch: Any
    """Where a check keeps the shadows, for nobody to see; None in a rebuild, which keeps them beside the tables."""
    begun: set[str] = field(factory=set)
    """The streams that began since rows were written last."""
    token: str = field(factory=lambda: secrets.token_hex(8))
    position: int = 0
    entries: int = 0
    skipped: int = 0
    listed_skipped: list[Skipped] = field(factory=list)
    left: object = None
    """What its last write of rows named log and tables: the next one finds the name, unless others write as well."""
    small: set[str] = field(factory=set)
    """The projections whose standing tables are taken away in less time than renaming them takes."""
    halted: dict[str, str] = field(factory=dict)

    def folding(self) -> list[RowFold[Any]]:
        """The shadows that are still folded."""
        return [shadow for name, shadow in self.shadows.items() if name not in self.halted]

    def halt(self, shadow: RowFold[Any], failure: ProjectionHalted) -> None:
        """Go on without this shadow, whose projection raised: a check tells it. A rebuild stops there."""
        if self.scratch is None:
            raise failure
        self.halted[shadow.projection.name] = str(failure)


class Rebuilder:
    """Rebuild and check of one store's projections."""

    def __init__(self, store: EventStore, projector: Projector, sleep: Callable[[float], None]) -> None:
        self._store = store
        self._sleep = sleep
        self._projector = projector
        self._tables = projector.tables

    def rebuild(self, *names: str, skip_invalid: bool = False, progress: Progress | None = None) -> Report:
        """Make tables anew from the log alone; all of them unless named.

        Args:
            names: of projections.
            skip_invalid: leave out, list and count what a machine refuses on replay, instead of stopping there.
            progress: called after each chunk with (entries folded, entries in the log).

        Raises:
            ReplayRefused: an entry that its machine does not accept; the old tables stand.
            RebuildSuperseded: another rebuild of these tables began; that one goes on.
            InvalidArgument: no projection of that name.
        """
        making = self._making(names, skip_invalid=skip_invalid)
        self._begin(making)
        try:
            swapped = False
            while not swapped:
                self._fold_all(making, progress)
                with self._store.reading() as reading:  # what came while rows were written; the rest is still fewer
                    self._fold(reading, making, reading.head().position)
                    making.small = {name for name in making.shadows if self._is_small(reading, name)}
                swapped = self._store.write(lambda transaction: self._finish(transaction, making))
        except BaseException as error:
            lost = self._put_away(making)
            if lost and isinstance(error, Exception):
                raise RebuildSuperseded(lost[0]) from error
            raise
        self._sweep(making.shadows)
        with self._store.reading() as reading:
            rows = self._count(reading, making)
        return self._report(making, rows)

    def check(self, *names: str, skip_invalid: bool = False, progress: Progress | None = None) -> Report:
        """Fold the log beside the tables and compare; all of them unless named. Arguments as in `rebuild`.

        A projection that raises is told in the report and compared no further; the others are.
        """
        with self._tables.scratch() as scratch:
            making = self._making(names, skip_invalid=skip_invalid, scratch=scratch)
            self._fold_all(making, progress)
            return self._compare(making)

    # --- making the shadows -------------------------------------------------------------------------------------

    def _making(self, names: Sequence[str], *, skip_invalid: bool, scratch: Any = None) -> _Making:
        """Empty shadows: in a scratch if there is one, else beside the tables."""
        known = self._projector.projections
        for name in names:
            if name not in known:
                raise InvalidArgument("projection", name, f"is not among {', '.join(known)}")
        self._projector.prepare()
        shadows: dict[str, RowFold[Any]] = {}
        for name in names or known:
            table = self._projector.table(known[name])
            table = table.renamed(f"{name}__shadow") if scratch is None else table
            shadows[name] = RowFold(self._tables, known[name], table, scratch)
        # What a projection decodes must be readable, or be refused before it is folded; a check takes nothing on trust.
        decoded = self._routes(shadows.values()) if scratch is None else self._store.gate.codec.names
        making = _Making(shadows, Replay(self._store.gate, decoded), skip_invalid, scratch)
        for shadow in shadows.values():
            shadow.begun = making.begun
            if scratch is not None:
                self._tables.create(scratch, shadow.table)
        return making

    def _begin(self, making: _Making) -> None:
        def make(transaction: Writing) -> None:
            self._forget(transaction, making.shadows.values())
            start = (transaction.hash_at(0) or b"").hex()
            for shadow in making.shadows.values():
                self._tables.create(transaction, shadow.table)
                self._projector.move(transaction, CursorRow(shadow.table.name, making.token, 0, start))

        self._sweep(making.shadows)
        self._store.write(make)

    def _fold_all(self, making: _Making, progress: Progress | None) -> None:
        """Fold to the end of the log. Only rows are written under the lock, few at a time."""
        while True:
            with self._store.reading() as reading:
                head = reading.head().position
                self._fold(reading, making, head)
            if progress is not None:
                progress(making.position, head)
            caught_up = making.position >= head
            if caught_up or sum(map(len, making.folding())) >= ROWS:
                self._write(making)
            if caught_up:
                return

    def _finish(self, transaction: Writing, making: _Making) -> bool:
        """Fold the last few entries, with nothing appended in between, and swap; False if they are not few."""
        self._own(transaction, making)
        head = transaction.head().position
        if head - making.position > FEW:
            return False
        self._fold(transaction, making, head)
        for shadow, changes in self._changes(making):
            shadow.write(transaction, changes)
        self._swap(transaction, making)
        return True

    def _fold(self, reading: Reading, making: _Making, head: int) -> None:
        """Pass the next entries by their machines, and fold those that the projections want into what is held."""
        limit = min(CHUNK, head - making.position)
        if not limit:
            return
        codec, replay = self._store.gate.codec, making.replay
        glance = reading.glance(after=making.position, limit=limit, peek=replay.peek)
        folding = making.folding()
        routes = self._routes([shadow for shadow in folding if not shadow.projection.latest])
        known = Ahead.of(reading, codec, glance, replay.wanted.union(routes))
        refused = {refusal.position: refusal for refusal in replay.refused(reading, glance, known)}
        if refused:
            self._skip(making, list(refused.values()))
            glance = glance.without(refused)
        making.begun.update(compress(glance.streams, map("1".__eq__, glance.versions)))
        for shadow in folding:
            shadow.transaction = reading if making.scratch is None else making.scratch
            if shadow.projection.latest:
                self._fold_into(making, shadow, self._latest(reading, glance, shadow.projection))
        for recorded in known:
            if recorded.entry.position not in refused:
                for shadow in routes.get(recorded.entry.type, ()):
                    if shadow.projection.name not in making.halted:
                        self._fold_into(making, shadow, (recorded,))
        if len(making.begun) > CHUNK:  # it only saves looks at tables
            making.begun.clear()
        making.position += limit
        making.entries += len(glance.positions) + len(refused)

    @staticmethod
    def _fold_into(making: _Making, shadow: RowFold[Any], events: Iterable[Recorded]) -> None:
        try:
            for recorded in events:
                shadow.fold(recorded)
        except ProjectionHalted as failure:
            making.halt(shadow, failure)

    def _routes(self, shadows: Iterable[RowFold[Any]]) -> dict[str, list[RowFold[Any]]]:
        """By stored type, who wants such entries."""
        routes: dict[str, list[RowFold[Any]]] = {}
        for shadow in shadows:
            for stored in self._store.gate.codec.stored_names(shadow.projection.events):
                routes.setdefault(stored, []).append(shadow)
        return routes

    def _latest(self, reading: Reading, glance: Glance, projection: Projection[Any]) -> Ahead:
        """Of each stream the last entry that a projection wants."""
        codec = self._store.gate.codec
        stored = set(codec.stored_names(projection.events))
        entries = zip(glance.streams, glance.types, glance.positions, strict=True)
        last = {stream: position for stream, kind, position in entries if kind in stored}
        return Ahead(sorted(last.values()), lambda wanted: map(codec.recorded, reading.at(wanted)))

    @staticmethod
    def _skip(making: _Making, refusals: list[ReplayRefused]) -> None:
        if not making.skip_invalid:
            raise refusals[0]
        making.skipped += len(refusals)
        left = LISTED - len(making.listed_skipped)
        making.listed_skipped += [
            Skipped(refusal.position, refusal.stream, refusal.event, refusal.reason) for refusal in refusals[:left]
        ]

    def _write(self, making: _Making) -> None:
        """Write the rows that are held, some at a time, and let go of them."""
        changes = self._changes(making)
        if making.scratch is not None:
            for shadow, found in changes:
                shadow.write(making.scratch, found)
            return

        # Each write waits for the disk, so rows of several tables share one.
        batch: list[tuple[RowFold[Any], Changes]] = []
        for shadow, part in [(shadow, part) for shadow, found in changes for part in found.parts(ROWS)]:
            if batch and sum(len(part) for _, part in batch) + len(part) > ROWS:
                self._write_some(making, batch)
                batch = []
            batch.append((shadow, part))
        if batch:
            self._write_some(making, batch)

    def _write_some(self, making: _Making, batch: list[tuple[RowFold[Any], Changes]]) -> None:
        def write(transaction: Writing) -> bool:
            self._own(transaction, making)
            for shadow, part in batch:
                shadow.write(transaction, part)
            alone = making.left in (None, transaction.before)
            making.left = transaction.after
            return alone

        if not self._store.write(write):
            self._sleep(PAUSE)

    @staticmethod
    def _changes(making: _Making) -> list[tuple[RowFold[Any], Changes]]:
        """What is to be written; from here on the tables are asked for these rows."""
        found = []
        for shadow in making.folding():
            try:
                found.append((shadow, shadow.changes()))
            except ProjectionHalted as failure:
                making.halt(shadow, failure)
        for shadow in making.shadows.values():
            shadow.forget()
        making.begun.clear()
        return found

    def _own(self, transaction: Writing, making: _Making) -> None:
        if lost := self._lost(transaction, making):
            raise RebuildSuperseded(lost[0])

    def _lost(self, transaction: Writing, making: _Making) -> list[str]:
        """The projections of which another rebuild began since."""
        cursors = self._projector.cursors(transaction)
        found = ((name, cursors.get(shadow.table.name)) for name, shadow in making.shadows.items())
        return [name for name, cursor in found if cursor is None or cursor.fingerprint != making.token]

    def _put_away(self, making: _Making) -> list[str]:
        """Take the shadows away that are still our own; the projections whose shadows are another's by now."""
        lost: list[str] = []

        def put_away(transaction: Writing) -> None:
            lost.extend(self._lost(transaction, making))
            self._forget(transaction, [shadow for name, shadow in making.shadows.items() if name not in lost])

        with suppress(Exception):  # the first error is the one to tell; the next rebuild sweeps up as well
            self._store.write(put_away)
        return lost

    def _forget(self, transaction: Writing, shadows: Iterable[RowFold[Any]]) -> None:
        for shadow in shadows:
            self._tables.drop(transaction, shadow.table)
            self._projector.forget(transaction, shadow.table.name)

    def _sweep(self, names: Iterable[str]) -> None:
        """Take away the tables that a swap put aside, each in a write of its own: that of a large one takes a while."""
        for name in names:
            old = self._old(self._projector.projections[name])
            with self._store.reading() as reading:
                standing = self._tables.exists(reading, old)
            if standing:
                self._store.write(lambda transaction, old=old: self._tables.drop(transaction, old))  # type: ignore[misc]

    def _old(self, projection: Projection[Any]) -> Table[Any]:
        return self._projector.table(projection).renamed(f"{projection.name}__old")

    # --- ending -------------------------------------------------------------------------------------------------

    def _is_small(self, reading: Reading, name: str) -> bool:
        """Whether a standing table has few rows; of one that somebody altered nothing is asked."""
        table = self._projector.table(self._projector.projections[name])
        if self._tables.fault(reading, table) is not None:
            return False
        return not self._tables.select(reading, table, query(table, {}, limit=1, offset=SMALL))

    def _swap(self, transaction: Writing, making: _Making) -> None:
        """Put the shadows in the tables' place. Large old ones are renamed: taking them away takes too long here."""
        head = transaction.head()
        for name, shadow in making.shadows.items():
            table, old = self._projector.table(shadow.projection), self._old(shadow.projection)
            self._tables.drop(transaction, old)
            if name in making.small:
                self._tables.drop(transaction, table)
            elif self._tables.exists(transaction, table):
                self._tables.rename(transaction, table, old.name)
        for name, shadow in making.shadows.items():  # when the schema is smaller by what was dropped
            self._tables.rename(transaction, shadow.table, name)
            self._projector.move(
                transaction, CursorRow(name, shadow.projection.fingerprint, head.position, head.hash.hex())
            )
            self._projector.forget(transaction, shadow.table.name)

    def _count(self, reading: Reading, making: _Making) -> int:
        tables = [self._projector.table(shadow.projection) for shadow in making.shadows.values()]
        return sum(self._tables.count(reading, table, query(table, {})) for table in tables)

    def _report(self, making: _Making, rows: int, **found: Any) -> Report:
        return Report(
            tuple(making.shadows),
            making.entries,
            rows,
            skipped=making.skipped,
            listed_skipped=tuple(making.listed_skipped),
            **found,
        )

    # --- comparing ----------------------------------------------------------------------------------------------

    def _compare(self, making: _Making) -> Report:
        """Hold each table against its shadow: some rows in one snapshot, the next ones perhaps in a later one."""
        troubles: list[str] = []
        differences: list[Difference] = []
        count = rows = 0
        for name, shadow in making.shadows.items():
            comparison = Comparison(self._tables, shadow.table)
            while (trouble := making.halted.get(name)) is None and not comparison.done:
                try:
                    for difference in self._compare_some(making, shadow, comparison):
                        count += 1
                        if len(differences) < LISTED:
                            differences.append(difference)
                except (ProjectionHalted, StaleProjection) as error:
                    trouble = str(error)
                    break
            if trouble is not None:
                troubles.append(trouble)
            else:
                rows += self._tables.count(making.scratch, shadow.table, query(shadow.table, {}))
        return self._report(making, rows, differences=count, listed=tuple(differences), troubles=tuple(troubles))

    def _compare_some(self, making: _Making, shadow: RowFold[Any], comparison: Comparison) -> Iterable[Difference]:
        """The next rows, as of where the table stands by now: the shadow is folded as far first."""
        projection = shadow.projection
        with self._store.reading() as reading:
            position = self._projector.stands(reading, projection)
            if position >= making.position:
                while making.position < position:
                    self._fold(reading, making, position)
                self._write(making)
                return () if projection.name in making.halted else [*comparison.step(reading, making.scratch, CHUNK)]
        if self._projector.read_only:
            raise StaleProjection(projection.name, "is behind the log and may not be written here")
        self._projector.catch_up(projection)
        return ()
