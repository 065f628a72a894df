"""Rows kept in step with the log: inline in each write, or caught up with before they are read.

Rows and cursor move in one transaction. The inline fold begins at the cursor and not at the new entries, so what a
process without projections appended is only lag: a small gap is folded along, a large one leaves the projection
behind until a view is read. A cursor knows the fingerprint of its projection: two versions of a program never write
into each other's tables. A projection that raises is marked as halted and never costs a fact.

Making tables anew and proving them right is `rebuilding`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVar

from attrs import frozen

from eventstore.changing import changed
from eventstore.codec import Codec, Recorded
from eventstore.errors import (
    DamagedSegment,
    EventStoreError,
    InvalidArgument,
    ProjectionHalted,
    SegmentMissing,
    StaleProjection,
)
from eventstore.log import Head, Log, Reading, Writing
from projections.projection import Projection
from projections.rows import RowFold
from projections.tables import Query, Table, Tables, Values

R = TypeVar("R")
T = TypeVar("T")

SMALL_GAP = 1_000
"""Entries that an append folds along for others; more is left to a view, which may take its time."""
CHUNK = 1_000
"""Entries that are folded in one transaction when catching up."""
_SORTS = 1_000
"""Sets of event classes of which it is remembered whom they concern."""


@frozen
class CursorRow:
    """How far one projection has come, whose it is, and whether it stands still."""

    name: str
    fingerprint: str
    position: int
    hash: str
    halted_at: int | None = None
    halted_reason: str | None = None


@frozen
class Standing:
    """How a projection stands to the log."""

    name: str
    version: int
    position: int
    behind: int
    """Entries that it has not seen; a view catches up before it answers."""
    trouble: str | None
    """Why it cannot answer, if so."""


Abreast = tuple[object, int, tuple[Projection[Any], ...]]
"""Which projections stood at this position when the log got this name (see `log.Writing`), and can be carried on.

The position need not be the head: in a shared commit another store may write before or behind what was folded."""
_NOBODY: Abreast = (object(), 0, ())

CURSORS: Table[CursorRow] = Table.of("cursors", CursorRow, ("name",))


@lru_cache(maxsize=100)
def _table_of(projection: Projection[Any]) -> Table[Any]:
    # Once for all stores of a process: declaring the built-in ones takes half of what a store in memory takes to open,
    # and what backends remember of a table (their statements) they remember by the table itself.
    return Table.of(projection.name, projection.row, projection.key, projection.indexes, projection.search)


class Projector:
    """The projections of one store.

    Args:
        log: the backend that holds log and tables.
        codec: how entries are read.
        tables: the table backend beside the log.
        projections: what is kept in step.

    Raises:
        InvalidArgument: two projections of one name.
    """

    def __init__(self, log: Log, codec: Codec, tables: Tables, projections: Sequence[Projection[Any]]) -> None:
        self.log = log
        self.codec = codec
        self.tables = tables
        self.read_only = bool(getattr(log, "read_only", False))
        self.projections = {projection.name: projection for projection in projections}
        if len(self.projections) < len(projections):
            raise InvalidArgument("projections", [p.name for p in projections], "must each have a name of its own")
        self._tables_of = {projection.name: _table_of(projection) for projection in projections}
        self._looked: tuple[Hashable, dict[str, str]] = (object(), {})
        self._abreast = _NOBODY
        self._keys: tuple[tuple[Projection[Any], ...], list[Values]] = (), []
        self._concern: tuple[tuple[Projection[Any], ...], dict[frozenset[type], tuple[Projection[Any], ...]]] = (), {}
        self._stored = {projection.name: codec.stored_names(projection.events) for projection in projections}

    def table(self, projection: Projection[R]) -> Table[R]:
        """The projection's table."""
        return self._tables_of[projection.name]

    def prepare(self) -> None:
        """Make the tables that are not there yet, each with a cursor before the first entry."""

        def missing(transaction: Any) -> list[Projection[Any]]:
            standing = self.cursors(transaction)
            return [projection for projection in self.projections.values() if projection.name not in standing]

        def make(transaction: Writing) -> None:
            if self.tables.fault(transaction, CURSORS) is not None:
                # What somebody altered tells of nothing any more; without a cursor each table waits for its rebuild.
                self.tables.drop(transaction, CURSORS)
                self.tables.create(transaction, CURSORS)
            standing = self._all_cursors(transaction)
            for projection in self.projections.values():
                if projection.name in standing:
                    continue
                # A table without a cursor is not ours to judge: a missing cursor is never read as 0.
                if not self.tables.exists(transaction, self.table(projection)):
                    self.tables.create(transaction, self.table(projection))
                    start = transaction.hash_at(0) or b""
                    self.move(transaction, CursorRow(projection.name, projection.fingerprint, 0, start.hex()))

        if self.read_only:
            return
        with self.log.reading() as reading:
            lacking = missing(reading)
        if lacking:
            self.log.write(make)
            with self.log.reading() as reading:
                self.faults(reading)  # so that appends need not look

    # --- cursors ------------------------------------------------------------------------------------------------

    def cursors(self, transaction: Any) -> dict[str, CursorRow]:
        """Every cursor by the name of its projection, shadows' too; none where somebody altered their table."""
        return {} if CURSORS.name in self.faults(transaction) else self._all_cursors(transaction)

    def _all_cursors(self, transaction: Any) -> dict[str, CursorRow]:
        rows = (CURSORS.decode(values) for values in self.tables.select(transaction, CURSORS, Query()))
        return {row.name: row for row in rows}

    def cursor(self, transaction: Any, name: str) -> CursorRow | None:
        """One projection's cursor."""
        return None if CURSORS.name in self.faults(transaction) else self._cursor(transaction, name)

    def _cursor(self, transaction: Any, name: str) -> CursorRow | None:
        values = self.tables.get(transaction, CURSORS, (name,))
        return None if values is None else CURSORS.decode(values)

    def faults(self, transaction: Any) -> dict[str, str]:
        """What is wrong with our tables, by name; they are looked at anew only when some table was made or altered.

        Inside a write transaction nobody else can alter one, so a table without a fault takes whatever is folded into
        it: what the backend raises then is the disk's.
        """
        shapes = self.tables.shapes(transaction)
        known, faults = self._looked
        if shapes != known:
            tables: list[Table[Any]] = [CURSORS, *self._tables_of.values()]
            found = ((table.name, self.tables.fault(transaction, table)) for table in tables)
            faults = {name: fault for name, fault in found if fault is not None}
            if transaction.committed:  # else it may be undone, and another schema get its number
                self._looked = (shapes, faults)
        return faults

    def standings(self) -> list[Standing]:
        """How each projection stands to the log."""
        found = []
        with self.log.reading() as reading:
            head = reading.head().position
            for projection in self.projections.values():
                cursor = self.cursor(reading, projection.name)
                trouble = self._lost(projection) if cursor is None else self.trouble(reading, projection, cursor)
                position = 0 if cursor is None else cursor.position
                words = None if trouble is None else str(trouble)
                found.append(Standing(projection.name, projection.version, position, head - position, words))
        return found

    @staticmethod
    def _lost(projection: Projection[Any]) -> StaleProjection:
        return StaleProjection(projection.name, "has no cursor, so nobody knows what its rows hold")

    def move(self, transaction: Any, *cursors: CursorRow) -> None:
        """Put cursors where they say."""
        self._abreast = _NOBODY
        self.tables.put(transaction, CURSORS, [CURSORS.encode(cursor) for cursor in cursors])

    def forget(self, transaction: Any, *names: str) -> None:
        """Take cursors away."""
        self._abreast = _NOBODY
        self.tables.delete(transaction, CURSORS, [(name,) for name in names])

    # --- folding ------------------------------------------------------------------------------------------------

    def inline(self, transaction: Writing, before: Head, recorded: Sequence[Recorded]) -> None:
        """Fold what was just appended, and a small gap before it, in the transaction that appends it."""
        name, position, abreast = self._abreast
        dense = recorded[-1].position - before.position == len(recorded)  # else another store's gate wrote here too
        if dense and position == before.position and (name is transaction.before or name is transaction.after):
            abreast = self._follow(transaction, abreast, before, recorded)
        else:
            abreast = self._look_and_fold(transaction, before, recorded, dense=dense)
        # Should the job fail yet, nothing is ever named by this.
        self._abreast = (transaction.after, recorded[-1].position, abreast)

    def _follow(
        self, transaction: Writing, abreast: tuple[Projection[Any], ...], before: Head, recorded: Sequence[Recorded]
    ) -> tuple[Projection[Any], ...]:
        """Take along those that stood at the head before, and of whose tables nothing can have changed since."""
        for projection in self._concerned(abreast, recorded):
            try:
                self.fold(transaction, projection, self.table(projection), recorded)
            except ProjectionHalted as failure:
                cursor = CursorRow(projection.name, projection.fingerprint, before.position, before.hash.hex())
                self.move(transaction, _halted(cursor, failure))
                abreast = tuple(other for other in abreast if other is not projection)
        if abreast:
            last = recorded[-1].entry
            if self._keys[0] is not abreast:  # the same ones at every append, as a rule
                self._keys = abreast, [(projection.name,) for projection in abreast]
            changes = {"position": last.position, "hash": last.hash.hex()}
            self.tables.update(transaction, CURSORS, self._keys[1], changes)
        return abreast

    def _concerned(
        self, abreast: tuple[Projection[Any], ...], recorded: Sequence[Recorded]
    ) -> tuple[Projection[Any], ...]:
        """Those of them that fold events of these classes; looked up, or each append asks each projection."""
        kinds = frozenset([item.kind for item in recorded])
        if self._concern[0] is not abreast or len(self._concern[1]) > _SORTS:
            self._concern = abreast, {}
        try:
            return self._concern[1][kinds]
        except KeyError:
            found = tuple(projection for projection in abreast if not projection.kinds.isdisjoint(kinds))
            self._concern[1][kinds] = found
            return found

    def _look_and_fold(
        self, transaction: Writing, before: Head, recorded: Sequence[Recorded], *, dense: bool
    ) -> tuple[Projection[Any], ...]:
        """As `_follow`, where nothing is known: see how each projection stands first."""
        faults = self.faults(transaction)
        cursors = {} if CURSORS.name in faults else self._all_cursors(transaction)
        moved = []
        for projection in self.projections.values():
            cursor = cursors.get(projection.name)
            if cursor is None or cursor.fingerprint != projection.fingerprint or cursor.halted_at is not None:
                continue
            if (fault := faults.get(projection.name)) is not None:
                # For good: even if somebody puts the table right by hand, nobody knows what became of its rows.
                moved.append(changed(cursor, halted_at=recorded[0].position, halted_reason=f"it {fault}"))
                continue
            gap = before.position - cursor.position
            if gap == 0 and dense and cursor.hash == before.hash.hex():
                moved.append(self._advance(transaction, projection, cursor, recorded, recorded[-1]))
            elif gap <= SMALL_GAP:
                with suppress(SegmentMissing, DamagedSegment):
                    if self._true(transaction, cursor):
                        moved.append(self._along(transaction, projection, cursor, recorded[-1]))
        if moved:
            self.move(transaction, *moved)
        last = recorded[-1].position
        return tuple(self.projections[cursor.name] for cursor in moved if cursor.position == last)

    def _along(self, transaction: Writing, projection: Projection[Any], cursor: CursorRow, last: Recorded) -> CursorRow:
        with suppress(SegmentMissing, DamagedSegment):  # an append waits for no file: the projection is left behind
            while cursor.position < last.position and cursor.halted_at is None:
                cursor, more = self._step(transaction, projection, cursor, SMALL_GAP)
                if not more:
                    break
        return cursor

    def _step(
        self, transaction: Writing, projection: Projection[Any], cursor: CursorRow, limit: int
    ) -> tuple[CursorRow, bool]:
        """Fold the next page; the cursor after it, and whether there may be more."""
        entries = transaction.read_all(after=cursor.position, limit=limit, types=self._stored[projection.name])
        recorded = [self.codec.recorded(entry) for entry in entries]
        if recorded:
            return self._advance(transaction, projection, cursor, recorded, recorded[-1]), True
        head = transaction.head()
        return changed(cursor, position=head.position, hash=head.hash.hex()), False

    def _advance(
        self,
        transaction: Writing,
        projection: Projection[Any],
        cursor: CursorRow,
        recorded: Iterable[Recorded],
        last: Recorded,
    ) -> CursorRow:
        """Fold events up to `last`. A projection that raises halts where it did; its rows stay as they were."""
        try:
            self.fold(transaction, projection, self.table(projection), recorded)
        except ProjectionHalted as failure:
            return _halted(cursor, failure)
        return changed(cursor, position=last.position, hash=last.entry.hash.hex())

    def fold(
        self, transaction: Writing, projection: Projection[R], table: Table[R], recorded: Iterable[Recorded]
    ) -> None:
        """Fold events into a table: all of it or, when `evolve` raises, nothing.

        Raises:
            ProjectionHalted: `evolve` raised; its own error is the cause.
        """
        rows = RowFold(self.tables, projection, table, transaction)
        if projection.latest:  # as in a rebuild
            recorded = {item.stream: item for item in recorded if item.kind in projection.kinds}.values()
        for item in recorded:
            rows.fold(item)
        rows.write(transaction, rows.changes())

    def catch_up(self, *projections: Projection[Any]) -> None:
        """Fold what these projections (all of them unless named) have not seen, chunk by chunk."""
        for projection in projections or self.projections.values():
            while self.log.write(lambda transaction, it=projection: self._catch_up_once(transaction, it)):  # type: ignore[misc]
                pass

    def bring_up(self, transaction: Writing, projection: Projection[Any]) -> str | None:
        """Fold all that is missing within this transaction; or say why the table cannot be brought up."""
        cursor = self.cursor(transaction, projection.name)
        if cursor is None:
            return str(self._lost(projection))
        while (trouble := self.trouble(transaction, projection, cursor)) is None:
            if cursor.position == transaction.head().position:
                return None
            cursor, _ = self._step(transaction, projection, cursor, CHUNK)
            self.move(transaction, cursor)
        return str(trouble)

    def _catch_up_once(self, transaction: Writing, projection: Projection[Any]) -> bool:
        cursor = self.cursor(transaction, projection.name)
        if cursor is None or self.trouble(transaction, projection, cursor) is not None:
            return False
        if cursor.position == transaction.head().position:
            return False
        cursor, more = self._step(transaction, projection, cursor, CHUNK)
        self.move(transaction, cursor)
        return more and cursor.halted_at is None

    # --- reading ------------------------------------------------------------------------------------------------

    def answer(self, projection: Projection[Any], question: Callable[[Reading], T]) -> T:
        """Ask a question of a projection's table that is in step with the log, in one snapshot of both.

        Raises:
            ProjectionHalted: it raised at an entry and stands still there.
            StaleProjection: it has no cursor, is another program's, or is behind where nothing may be written.
        """
        needed: int | None = None
        while True:
            with self.log.reading() as reading:
                # Nobody wrote since the table stood at the head, without fault: 1 µs to know, 20 to see for oneself.
                if projection in (known := reading.known):
                    return question(reading)
                faults = self.faults(reading)
                cursor = None if CURSORS.name in faults else self._cursor(reading, projection.name)
                if cursor is None:
                    raise self._lost(projection)
                head = reading.head()
                if (trouble := self.trouble(reading, projection, cursor, faults, head)) is not None:
                    raise trouble
                needed = head.position if needed is None else needed
                if cursor.position == head.position:
                    known[projection] = True
                if cursor.position >= needed:
                    return question(reading)
            if self.read_only:
                raise StaleProjection(projection.name, "is behind the log and may not be written here")
            self.catch_up(projection)

    def stands(self, reading: Reading, projection: Projection[Any]) -> int:
        """The position that a table stands at, perhaps behind the log.

        Raises:
            ProjectionHalted, StaleProjection: as for `answer`.
        """
        cursor = self.cursor(reading, projection.name)
        if cursor is None:
            raise self._lost(projection)
        if (trouble := self.trouble(reading, projection, cursor)) is not None:
            raise trouble
        return cursor.position

    def trouble(
        self,
        reading: Reading,
        projection: Projection[Any],
        cursor: CursorRow,
        faults: Mapping[str, str] | None = None,
        head: Head | None = None,
    ) -> EventStoreError | None:
        """Why the table may neither be read nor carried on, if so; faults and head may be known already."""
        faults = self.faults(reading) if faults is None else faults
        if cursor.fingerprint != projection.fingerprint:
            return StaleProjection(projection.name, "was built by another version of the program")
        if (fault := faults.get(projection.name)) is not None:
            return StaleProjection(projection.name, fault)
        if cursor.halted_at is not None:
            return ProjectionHalted(projection.name, cursor.halted_at, cursor.halted_reason or "")
        # A cursor at the head is true if its hash is the head's: the usual case takes no look into the log.
        at_head = head is not None and head.position == cursor.position and head.hash.hex() == cursor.hash
        if not at_head and not self._true(reading, cursor):
            return StaleProjection(projection.name, "was built from another log, or from one that was rolled back")
        return None

    @staticmethod
    def _true(reading: Reading, cursor: CursorRow) -> bool:
        found = reading.hash_at(cursor.position)
        return found is not None and found.hex() == cursor.hash


def _halted(cursor: CursorRow, failure: ProjectionHalted) -> CursorRow:
    return changed(cursor, halted_at=failure.position, halted_reason=failure.reason)
