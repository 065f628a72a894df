"""Tables in memory: the contract in its smallest form.

A table is one persistent map from encoded key to encoded values inside the log's root, so that commit, rollback and
snapshots are the log's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rpds import HashTrieMap

from eventstore.memory import MemoryLog
from projections.searching import found

if TYPE_CHECKING:
    from eventstore.memory import MemoryTransaction
    from projections.tables import Filter, Query, Spread, Table, Values


class MemoryTables:
    """See `tables.Tables`."""

    @contextmanager
    def scratch(self) -> Iterator[MemoryTransaction]:
        """See `tables.Tables`."""
        with MemoryLog().reading() as reading:  # a root that no disk will ever hold
            yield reading

    def exists(self, transaction: MemoryTransaction, table: Table[Any]) -> bool:
        """See `tables.Tables`."""
        return table.name in transaction.root.tables

    def shapes(self, transaction: MemoryTransaction) -> frozenset[str]:
        """See `tables.Tables`."""
        return frozenset(transaction.root.tables)

    def fault(self, transaction: MemoryTransaction, table: Table[Any]) -> str | None:
        """See `tables.Tables`."""
        return None if self.exists(transaction, table) else "has no table"

    def create(self, transaction: MemoryTransaction, table: Table[Any]) -> None:
        """See `tables.Tables`."""
        transaction.set_table(table.name, HashTrieMap())

    def drop(self, transaction: MemoryTransaction, table: Table[Any]) -> None:
        """See `tables.Tables`."""
        transaction.set_table(table.name, None)

    def rename(self, transaction: MemoryTransaction, table: Table[Any], name: str) -> None:
        """See `tables.Tables`."""
        rows = transaction.root.tables[table.name]
        transaction.set_table(table.name, None)
        transaction.set_table(name, rows)

    def get(self, transaction: MemoryTransaction, table: Table[Any], key: Values) -> Values | None:
        """See `tables.Tables`."""
        found: Values | None = transaction.root.tables[table.name].get(key)
        return found

    def put(self, transaction: MemoryTransaction, table: Table[Any], rows: Sequence[Values]) -> None:
        """See `tables.Tables`."""
        held = transaction.root.tables[table.name]
        for values in rows:
            held = held.insert(table.key_of(values), values)
        transaction.set_table(table.name, held)

    def update(
        self, transaction: MemoryTransaction, table: Table[Any], keys: Sequence[Values], changes: Mapping[str, Any]
    ) -> None:
        """See `tables.Tables`."""
        held = transaction.root.tables[table.name]
        places = {table.column(name)[0]: value for name, value in changes.items()}
        for key in keys:
            if (values := held.get(key)) is not None:
                held = held.insert(key, tuple(places.get(at, value) for at, value in enumerate(values)))
        transaction.set_table(table.name, held)

    def delete(self, transaction: MemoryTransaction, table: Table[Any], keys: Sequence[Values]) -> None:
        """See `tables.Tables`."""
        held = transaction.root.tables[table.name]
        for key in keys:
            held = held.discard(key)
        transaction.set_table(table.name, held)

    def select(self, transaction: MemoryTransaction, table: Table[Any], wanted: Query) -> list[Values]:
        """See `tables.Tables`."""
        rows = self._filtered(transaction, table, wanted)
        for index, _, descending in reversed(wanted.order):
            rows.sort(key=_null_first(index), reverse=descending)
        if wanted.after is not None:
            rows = [values for values in rows if _comes_after(values, wanted)]
        return rows[wanted.offset :][: wanted.limit]

    def count(self, transaction: MemoryTransaction, table: Table[Any], wanted: Query) -> int:
        """See `tables.Tables`."""
        return len(self._filtered(transaction, table, wanted))

    def vocabulary(self, transaction: MemoryTransaction, table: Table[Any]) -> Iterator[Spread]:  # noqa: ARG002
        """See `tables.Tables`. There is no index that could be wrong."""
        return iter(())

    @staticmethod
    def _filtered(transaction: MemoryTransaction, table: Table[Any], wanted: Query) -> list[Values]:
        rows = transaction.root.tables[table.name].values()
        passing = [values for values in rows if all(_passes(values, item) for item in wanted.filters)]
        if (looked_for := wanted.matching) is None:
            return passing
        # No index: a store in memory is small, and this is what an index must agree with.
        return [row for row in passing if found(looked_for, [text.split() for text in table.texts_of(row)])]


def _passes(values: Values, item: Filter) -> bool:
    value = values[item.index]
    if item.values is not None:
        return value in item.values
    if value is None:
        return item.start is None and item.stop is None
    return (item.start is None or value >= item.start) and (item.stop is None or value < item.stop)


def _null_first(index: int) -> Callable[[Values], tuple[bool, Any]]:
    return lambda values: (values[index] is not None, values[index] if values[index] is not None else 0)


def _comes_after(values: Values, wanted: Query) -> bool:
    for (index, _, descending), last in zip(wanted.order, wanted.after or (), strict=True):
        value = values[index]
        if value == last:
            continue
        later = last is None if value is None or last is None else value > last
        if value is None:
            later = False
        return later is not descending
    return False
