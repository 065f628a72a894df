"""Comparing: a standing table held against the fold of the log, some rows at a time.

Whoever compares sees to it that both stand at the same position; from one step to the next that may be a later one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import attrs
from attrs import frozen

from eventstore.log import Reading
from projections.tables import Table, Tables, Values, query


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


class Comparison:
    """One table and what it should be, walked together in the order of their keys."""

    def __init__(self, tables: Tables, table: Table[Any]) -> None:
        self._tables = tables
        self._table = table
        self._wanted = query(table, {})
        self._differs = False
        self.done = False
        """Whether every row was compared."""

    def step(self, reading: Reading, expected: Any, size: int) -> Iterator[Difference]:
        """Compare the next rows, about so many.

        Args:
            reading: a view of the log and of the table as it stands.
            expected: a transaction, or what stands in its place, in which the table is as it should be.
            size: rows.
        """
        table, wanted = self._table, attrs.evolve(self._wanted, limit=size)
        ones, others = (self._tables.select(place, table, wanted) for place in (reading, expected))
        pages = [{table.key_of(row): row for row in page} for page in (ones, others)]
        # Behind the end of a full page nothing is known of it; the other's rows there wait for the next step.
        ends = [[*page][-1] for page in pages if len(page) == size]
        self.done = not ends
        if ends:
            end = min(ends)
            self._wanted = attrs.evolve(self._wanted, after=end)
            pages = [{key: row for key, row in page.items() if key <= end} for page in pages]
        found = self._differences(reading, *pages)
        return found if ends else chain(found, self._of_words(reading, expected))

    def _of_words(self, reading: Reading, expected: Any) -> Iterator[Difference]:
        """Where the full-text index says other words than the rows, if these are right."""
        if self._differs:
            return
        ones, others = (self._tables.vocabulary(place, self._table) for place in (reading, expected))
        one, other = next(ones, None), next(others, None)
        while one is not None or other is not None:
            word = min(spread.word.encode() for spread in (one, other) if spread is not None).decode()
            here = one if one is not None and one.word == word else None
            there = other if other is not None and other.word == word else None
            if here != there:
                old, new = (None if spread is None else (spread.places, spread.where) for spread in (here, there))
                column = "the word's places in its full-text index"
                yield Difference(self._table.name, (word,), column, old, new, 0, None)
            one = one if here is None else next(ones, None)
            other = other if there is None else next(others, None)

    def _differences(
        self, reading: Reading, stored: dict[Values, Values], expected: dict[Values, Values]
    ) -> Iterator[Difference]:
        for key in sorted(stored.keys() | expected.keys()):
            one, other = stored.get(key), expected.get(key)
            self._differs |= one != other
            if one is None or other is None:
                there = ("absent", "there") if one is None else ("there", "absent")
                yield self._difference(reading, key, None, there, one or other)
                continue
            for column, old, new in zip((*self._table.columns, None), one, other, strict=True):
                if old != new or type(old) is not type(new):
                    name = column.name if column else "_position"
                    yield self._difference(reading, key, name, (old, new), other)

    def _difference(
        self, reading: Reading, key: Values, column: str | None, values: tuple[Any, Any], row: Values | None
    ) -> Difference:
        position: int = row[-1] if row else 0
        touched = reading.read_all(after=position - 1, limit=1) if position > 0 else ()
        return Difference(self._table.name, key, column, *values, position, touched[0].type if touched else None)
