"""RowFold: events folded into one table's rows, in memory first.

Nothing is written before every event went through `evolve` and every row through its columns: so a projection that
raises has nothing to undo, and many events of one row cost one write.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, Generic, TypeVar

from attrs import field, frozen

from eventstore.codec import Recorded
from eventstore.errors import InvalidArgument, ProjectionHalted, StaleProjection
from projections.projection import Key, Projection
from projections.tables import Table, Tables, Values, query

R = TypeVar("R")
T = TypeVar("T")


@frozen
class Changes:
    """Rows to write, encoded, and the keys of rows that are no more."""

    put: list[Values] = field(factory=list)
    gone: list[Values] = field(factory=list)

    def __len__(self) -> int:
        return len(self.put) + len(self.gone)

    def parts(self, size: int) -> Iterator[Changes]:
        """The same, so many at a time."""
        for start in range(0, len(self.put), size):
            yield Changes(self.put[start : start + size])
        for start in range(0, len(self.gone), size):
            yield Changes(gone=self.gone[start : start + size])


class RowFold(Generic[R]):
    """The rows of one table that a fold has touched or looked at.

    Args:
        tables: the backend.
        projection: whose fold it is.
        table: where the rows are kept, perhaps a shadow.
        transaction: a view of log and tables; it may be replaced by a later one in which the same rows stand.
    """

    def __init__(self, tables: Tables, projection: Projection[R], table: Table[R], transaction: Any) -> None:
        self.projection = projection
        self.table = table
        self.transaction = transaction
        self.begun: Container[str] = ()
        """Streams of which nothing was folded but what is held here: they have no rows yet (see `by_stream`)."""
        self._tables = tables
        self._held: dict[Values, R | None] = {}
        self._beneath: dict[Any, list[Values]] = {}
        self._touched: dict[Values, int] = {}
        self._asking = False

    def __len__(self) -> int:
        """How many rows are held."""
        return len(self._held)

    def fold(self, recorded: Recorded) -> None:
        """Fold one event; others than the projection's own are passed over.

        Raises:
            ProjectionHalted: `evolve` or `locate` raised, or gave what does not fit; its own error is the cause.
        """
        if recorded.kind not in self.projection.kinds:
            return
        try:
            self._fold(recorded)
        except Exception as error:  # a user's own code: whatever it raises must not cost the fact
            if self._asking:  # the disk's fault and no projection's
                raise
            raise self._halted(recorded.position, error) from error

    def _fold(self, recorded: Recorded) -> None:
        projection = self.projection
        if projection.latest:  # whatever its row is, it is not looked at: no look into the table
            self._hold(self.table.encode_key((recorded.stream,)), projection.evolve(None, recorded), recorded)
            return
        address = projection.locate(recorded)
        whole = len(address) >= len(projection.key)
        for key in (self.table.encode_key(address),) if whole else self._under(address, recorded.stream):
            row = self._row(key, recorded.stream)
            after = projection.evolve(row, recorded)
            if not (after is row or after == row):
                self._hold(key, after, recorded)

    def _hold(self, key: Values, row: R | None, recorded: Recorded) -> None:
        if row is not None and not isinstance(row, self.projection.row):
            reason = f"must return {self.projection.row.__name__} or None"
            raise InvalidArgument("evolve", type(row).__name__, reason)
        self._held[key] = row
        self._touched[key] = recorded.position

    def changes(self) -> Changes:
        """What changed since the last `changes`, ready to be written.

        Raises:
            ProjectionHalted: a row that does not fit its class, or that has another key than it was asked for.
        """
        changes = Changes()
        for key, position in self._touched.items():
            row = self._held[key]
            if row is None:
                changes.gone.append(key)
                continue
            try:
                changes.put.append(self._encoded(row, key, position))
            except Exception as error:
                raise self._halted(position, error) from error
        self._touched.clear()
        return changes

    def write(self, transaction: Any, changes: Changes) -> None:
        """Write what changed.

        Raises:
            ProjectionHalted: its full-text index is damaged, which must not cost the fact either.
        """
        try:
            if changes.put:
                self._tables.put(transaction, self.table, changes.put)
            if changes.gone:
                self._tables.delete(transaction, self.table, changes.gone)
        except StaleProjection as error:
            position = min((values[-1] for values in changes.put), default=0)
            raise ProjectionHalted(self.projection.name, position, f"it {error.reason}") from error

    def forget(self) -> None:
        """Let go of the rows that are held; whatever changed must be written first."""
        self._held.clear()
        self._beneath.clear()

    def _row(self, key: Values, stream: str) -> R | None:
        try:
            return self._held[key]
        except KeyError:
            values = None if self._new(stream) else self._asked(self._tables.get, key)
        row = self._held[key] = None if values is None else self.table.decode(values)
        if len(key) > 1:
            self._beneath.setdefault(key[0], []).append(key)
        return row

    def _new(self, stream: str) -> bool:
        return stream in self.begun and self.projection.by_stream

    def _under(self, prefix: Key, stream: str) -> list[Values]:
        encoded = self.table.encode_key(prefix)
        found: Sequence[Values] = ()
        if not self._new(stream):
            wanted = query(self.table, dict(zip(self.table.key, prefix, strict=False)))
            found = self._asked(self._tables.select, wanted)
        held = (key for key in self._beneath.get(encoded[0], ()) if key[: len(encoded)] == encoded)
        every = {*held, *(self.table.key_of(values) for values in found)}
        return sorted(key for key in every if key not in self._held or self._held[key] is not None)

    def _asked(self, ask: Callable[[Any, Table[R], Any], T], what: Any) -> T:
        self._asking = True
        answer = ask(self.transaction, self.table, what)
        self._asking = False
        return answer

    def _encoded(self, row: R, key: Values, position: int) -> Values:
        values = self.table.encode(row, position)
        if self.table.key_of(values) != key:
            raise InvalidArgument("evolve", self.table.key_of(values), f"must keep the row's key, which is {key}")
        return values

    def _halted(self, position: int, error: Exception) -> ProjectionHalted:
        return ProjectionHalted(self.projection.name, position, f"{type(error).__name__}: {error}")
