"""Tables made anew from the log alone, and tables proved right against it.

Both fold the whole log into shadow tables beside the standing ones, chunk by chunk in bounded memory, passing every
entry by its machine. A rebuild ends by swapping the shadows in, in one transaction, with nothing appended in between:
a rebuild that is stopped or killed leaves the old tables as they were. A check ends by comparing row by row, and
leaves nothing behind.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import attrs
from attrs import field, frozen

from eventstore.codec import Recorded
from eventstore.errors import (
    InvalidArgument,
    ProjectionHalted,
    RebuildSuperseded,
    Refused,
    ReplayRefused,
    UnreadableEntry,
)
from eventstore.gate import Folded
from eventstore.log import Writing
from eventstore.store import EventStore
from projections.projection import Projection
from projections.projector import CHUNK, CursorRow, Projector
from projections.tables import Column, Table, Values, query

Progress = Callable[[int, int], None]
"""Called with (entries folded, entries in the log) after each chunk."""

REMEMBERED_STREAMS = 10_000
"""Streams whose state a replay keeps; one that falls out is folded again from its own entries."""
LISTED = 1_000
"""Differences and skipped entries that a report lists; it counts all of them."""


@frozen
class Difference:
    """Where a table is not the fold of the log."""

    projection: str
    key: tuple[Any, ...]
    column: str | None
    """None: the whole row is missing, or should not be there."""
    stored: Any
    expected: Any
    position: int
    """Of the event that last touched the row, as the fold has it."""
    event: str | None

    def __str__(self) -> str:
        where = f"{self.projection}[{', '.join(map(str, self.key))}]"
        what = "the row" if self.column is None else self.column
        touched = f"; last touched by {self.event} at position {self.position}" if self.event else ""
        return f"{where}: {what} is {self.stored!r} and should be {self.expected!r}{touched}"


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


class Replay:
    """The machines over the whole log, in bounded memory: each entry must be one that its stream could take."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._streams: OrderedDict[str, Folded[Any]] = OrderedDict()
        self._left_out: dict[str, set[int]] = {}

    def admit(self, transaction: Writing, recorded: Recorded) -> None:
        """Pass one entry.

        Raises:
            ReplayRefused: with position, stream, phase, event and what would have been allowed.
        """
        name = recorded.stream
        folded = self._streams.pop(name, None) or self._again(transaction, recorded)
        try:
            admitted = self._store.gate.admit(folded, recorded)
            self._store.gate.refence(folded, recorded)
            folded = admitted
        except (Refused, UnreadableEntry) as error:
            folded = attrs.evolve(folded, version=recorded.version)
            self._left_out.setdefault(name, set()).add(recorded.version)
            phase = str(folded.state.phase)
            raise ReplayRefused(recorded.position, name, recorded.version, phase, recorded.type, str(error)) from error
        finally:
            self._streams[name] = folded
            if len(self._streams) > REMEMBERED_STREAMS:
                self._streams.popitem(last=False)

    def _again(self, transaction: Writing, recorded: Recorded) -> Folded[Any]:
        folded: Folded[Any] = self._store.gate.start(None)
        left_out = self._left_out.get(recorded.stream, ())
        while folded.version < recorded.version - 1:
            limit = min(CHUNK, recorded.version - 1 - folded.version)
            for entry in transaction.read(recorded.stream, after=folded.version, limit=limit):
                if entry.version in left_out:
                    folded = attrs.evolve(folded, version=entry.version)
                else:
                    folded = self._store.gate.admit(folded, self._store.gate.codec.recorded(entry))
        return folded


@frozen
class _Shadow:
    """A projection's table in the making."""

    projection: Projection[Any]
    table: Table[Any]


@attrs.define
class _Making:
    """One rebuild or check, as far as it has come. `token` tells it from another that began since."""

    shadows: tuple[_Shadow, ...]
    replay: Replay
    skip_invalid: bool
    token: str = field(factory=lambda: secrets.token_hex(8))
    position: int = 0
    entries: int = 0
    skipped: int = 0
    listed_skipped: list[Skipped] = field(factory=list)
    halted: dict[str, str] | None = None
    """Of a check: the projections that raised, and what; they are folded no further. A rebuild raises."""


class Rebuilder:
    """Rebuild and check of one store's projections."""

    def __init__(self, store: EventStore, projector: Projector) -> None:
        self._store = store
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
        making = self._begin(names, "shadow", skip_invalid=skip_invalid)
        self._run(making, lambda transaction: self._swap(transaction, making), progress)
        rows = self._store.write(lambda transaction: self._count(transaction, making))
        return self._report(making, rows)

    def check(self, *names: str, skip_invalid: bool = False, progress: Progress | None = None) -> Report:
        """Fold the log beside the tables and compare; all of them unless named. Arguments as in `rebuild`.

        A projection that raises is told in the report and compared no further; the others are.
        """
        making = self._begin(names, "check", skip_invalid=skip_invalid)
        making.halted = {}
        found: list[Report] = []

        def compare(transaction: Writing) -> None:
            found.append(self._compare(transaction, making))
            self._forget(transaction, making.shadows)

        self._run(making, compare, progress)
        return found[0]

    # --- making the shadows -------------------------------------------------------------------------------------

    def _begin(self, names: Sequence[str], suffix: str, *, skip_invalid: bool) -> _Making:
        known = self._projector.projections
        for name in names:
            if name not in known:
                raise InvalidArgument("projection", name, f"is not among {', '.join(known)}")
        chosen = [known[name] for name in names] if names else list(known.values())
        shadows = tuple(
            _Shadow(projection, self._projector.table(projection).renamed(f"{projection.name}__{suffix}"))
            for projection in chosen
        )
        making = _Making(shadows, Replay(self._store), skip_invalid)

        def make(transaction: Writing) -> None:
            self._forget(transaction, shadows)
            start = (transaction.hash_at(0) or b"").hex()
            for shadow in shadows:
                self._tables.create(transaction, shadow.table)
                self._projector.move(transaction, CursorRow(shadow.table.name, making.token, 0, start))

        self._projector.prepare()
        self._store.write(make)
        return making

    def _run(self, making: _Making, finish: Callable[[Writing], None], progress: Progress | None) -> None:
        def chunk(transaction: Writing) -> tuple[bool, int]:
            self._own(transaction, making)
            entries = transaction.read_all(after=making.position, limit=CHUNK)
            if not entries:
                finish(transaction)
                return False, making.position
            self._fold(transaction, making, [self._store.gate.codec.recorded(entry) for entry in entries])
            return True, transaction.head().position

        more = True
        try:
            while more:
                more, head = self._store.write(chunk)
                if progress is not None:
                    progress(making.position, head)
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell; the next rebuild sweeps up as well
                self._store.write(lambda transaction: self._forget(transaction, self._still_own(transaction, making)))
            raise

    def _own(self, transaction: Writing, making: _Making) -> None:
        own = self._still_own(transaction, making)
        for shadow in making.shadows:
            if shadow not in own:
                raise RebuildSuperseded(shadow.projection.name)

    def _still_own(self, transaction: Writing, making: _Making) -> list[_Shadow]:
        """The shadows that no other rebuild began anew since."""
        cursors = self._projector.cursors(transaction)
        found = ((shadow, cursors.get(shadow.table.name)) for shadow in making.shadows)
        return [shadow for shadow, cursor in found if cursor is not None and cursor.fingerprint == making.token]

    def _fold(self, transaction: Writing, making: _Making, page: list[Recorded]) -> None:
        admitted = []
        for recorded in page:
            try:
                making.replay.admit(transaction, recorded)
            except ReplayRefused as refusal:
                if not making.skip_invalid:
                    raise
                making.skipped += 1
                if len(making.listed_skipped) < LISTED:
                    making.listed_skipped.append(
                        Skipped(refusal.position, refusal.stream, refusal.event, refusal.reason)
                    )
            else:
                admitted.append(recorded)
        for shadow in making.shadows:
            if making.halted is not None and shadow.projection.name in making.halted:
                continue
            try:
                self._projector.fold(transaction, shadow.projection, shadow.table, admitted)
            except ProjectionHalted as failure:
                if making.halted is None:
                    raise
                making.halted[shadow.projection.name] = str(failure)
        making.position = page[-1].position
        making.entries += len(page)

    def _forget(self, transaction: Writing, shadows: Sequence[_Shadow]) -> None:
        for shadow in shadows:
            self._tables.drop(transaction, shadow.table)
        self._projector.forget(transaction, *(shadow.table.name for shadow in shadows))

    # --- ending -------------------------------------------------------------------------------------------------

    def _swap(self, transaction: Writing, making: _Making) -> None:
        head = transaction.head()
        for shadow in making.shadows:
            projection = shadow.projection
            self._tables.drop(transaction, self._projector.table(projection))
            self._tables.rename(transaction, shadow.table, projection.name)
            self._projector.move(
                transaction, CursorRow(projection.name, projection.fingerprint, head.position, head.hash.hex())
            )
        self._projector.forget(transaction, *(shadow.table.name for shadow in making.shadows))

    def _count(self, transaction: Writing, making: _Making) -> int:
        tables = [self._projector.table(shadow.projection) for shadow in making.shadows]
        return sum(self._tables.count(transaction, table, query(table, {})) for table in tables)

    def _report(self, making: _Making, rows: int, **found: Any) -> Report:
        return Report(
            tuple(shadow.projection.name for shadow in making.shadows),
            making.entries,
            rows,
            skipped=making.skipped,
            listed_skipped=tuple(making.listed_skipped),
            **found,
        )

    def _compare(self, transaction: Writing, making: _Making) -> Report:
        troubles: list[str] = []
        differences: list[Difference] = []
        count = rows = 0
        for shadow in making.shadows:
            trouble = (making.halted or {}).get(shadow.projection.name)
            trouble = trouble or self._projector.bring_up(transaction, shadow.projection)
            if trouble is not None:
                troubles.append(trouble)
                continue
            table = self._projector.table(shadow.projection)
            rows += self._tables.count(transaction, shadow.table, query(table, {}))
            for difference in self._differences(transaction, table, shadow.table):
                count += 1
                if len(differences) < LISTED:
                    differences.append(difference)
        return self._report(making, rows, differences=count, listed=tuple(differences), troubles=tuple(troubles))

    def _differences(self, transaction: Writing, table: Table[Any], shadow: Table[Any]) -> Iterator[Difference]:
        stored = self._rows(transaction, table)
        expected = self._rows(transaction, shadow)
        one, other = next(stored, None), next(expected, None)
        while one is not None or other is not None:
            if one is not None and (other is None or table.key_of(one) < table.key_of(other)):
                yield self._difference(transaction, table, one, None, "there", "absent")
                one = next(stored, None)
            elif other is not None and (one is None or table.key_of(other) < table.key_of(one)):
                yield self._difference(transaction, table, other, None, "absent", "there")
                other = next(expected, None)
            elif one is not None and other is not None:
                for column, old, new in zip((*table.columns, None), one, other, strict=True):
                    if old != new or type(old) is not type(new):
                        yield self._difference(transaction, table, other, column, old, new)
                one, other = next(stored, None), next(expected, None)

    def _difference(
        self, transaction: Writing, table: Table[Any], row: Values, column: Column | None, *values: Any
    ) -> Difference:
        old, new = values
        position: int = row[-1]
        touched = transaction.read_all(after=position - 1, limit=1) if position > 0 else ()
        whole = isinstance(old, str) and {old, new} == {"there", "absent"} and column is None
        name = column.name if column else None if whole else "_position"
        event = touched[0].type if touched else None
        return Difference(table.name, table.key_of(row), name, old, new, position, event)

    def _rows(self, transaction: Writing, table: Table[Any]) -> Iterator[Values]:
        """Every row in the order of its key, page by page; no longer of the class's types, should a hand have erred."""
        wanted = query(table, {}, limit=CHUNK)
        while page := self._tables.select(transaction, table, wanted):
            yield from page
            wanted = attrs.evolve(wanted, after=table.key_of(page[-1]))
