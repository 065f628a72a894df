"""A view: typed reading of one projection's rows, never older than the log was when it was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from eventstore.errors import InvalidArgument
from eventstore.limits import MAX_ROWS, PAGE
from projections.searching import parse
from projections.tables import query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from eventstore.log import Reading
    from projections.projection import Projection
    from projections.projector import Projector
    from projections.tables import Values

R = TypeVar("R")
T = TypeVar("T")


class View(Generic[R]):
    """The rows of one projection."""

    def __init__(self, projector: Projector, projection: Projection[R]) -> None:
        self.projection = projection
        self._projector = projector
        self._table = projector.table(projection)

    def __repr__(self) -> str:
        return f"<view of {self.projection.name}>"

    def get(self, *key: Any) -> R | None:
        """The row of a key, None if there is none.

        Raises:
            InvalidArgument: a key of another shape.
            StaleProjection, ProjectionHalted: the table cannot answer.
        """
        encoded = self._encoded(key)
        values = self._projector.answer(
            self.projection, lambda reading: self._projector.tables.get(reading, self._table, encoded)
        )
        return None if values is None else self._table.decode(values)

    def look(self, *key: Any, then: Callable[[Reading, R], T]) -> T | None:
        """What `then` makes of the row of a key and of the log, both as they stood at one moment.

        None if there is no row; errors as in `get`.
        """
        encoded = self._encoded(key)

        def question(reading: Reading) -> T | None:
            values = self._projector.tables.get(reading, self._table, encoded)
            return None if values is None else then(reading, self._table.decode(values))

        return self._projector.answer(self.projection, question)

    def _encoded(self, key: tuple[Any, ...]) -> Values:
        if len(key) != len(self.projection.key):
            raise InvalidArgument("key", key, f"must be {', '.join(self.projection.key)}")
        return self._table.encode_key(key)

    def where(
        self,
        /,
        *,
        order: str | Iterable[str] = (),
        limit: int | None = None,
        after: R | None = None,
        offset: int = 0,
        **filters: Any,
    ) -> list[R]:
        """The rows that pass every filter, in order.

        Args:
            order: column names, a leading "-" for descending; ties are broken by the key.
            limit: at most so many; all of them unless given, but never more than 10,000 rows at once.
            after: the last row of the page before; each page then costs the same, and rows that come or go meanwhile
                shift nothing.
            offset: how many rows to pass over first, for pages by number; all of them are read, and a row that comes or
                goes on an earlier page shifts what is on this one. Prefer `after`.
            filters: column to a value, a list of values, or a `Range`; None is "is absent".

        Raises:
            InvalidArgument: an unknown column, a value of the wrong type, a negative limit or offset, a limit over
                10,000, or more rows than that; nothing is cut off silently.
            StaleProjection, ProjectionHalted: the table cannot answer.
        """
        asked = MAX_ROWS + 1 if limit is None else limit
        wanted = query(self._table, filters, order=order, limit=asked, after=after, offset=offset)
        if limit is not None and limit > MAX_ROWS:
            raise InvalidArgument("limit", limit, f"must be at most {MAX_ROWS}; go on with after=, or use each()")
        found = self._projector.answer(
            self.projection, lambda reading: self._projector.tables.select(reading, self._table, wanted)
        )
        if len(found) > MAX_ROWS:
            reason = f"must be given where more than {MAX_ROWS} rows pass; go on with after=, or use each()"
            raise InvalidArgument("limit", limit, reason)
        return [self._table.decode(values) for values in found]

    def each(self, /, *, order: str | Iterable[str] = (), **filters: Any) -> Iterator[R]:
        """Every row that passes every filter, in order, a page at a time; arguments and errors as in `where`.

        Each page is as the log is then: a row that changes its place in the order meanwhile may come twice or not.
        """
        after: R | None = None
        more = True
        while more:
            page = self.where(order=order, limit=PAGE, after=after, **filters)
            yield from page
            more = len(page) == PAGE
            after = page[-1] if more else None

    def search(
        self,
        /,
        text: str,
        *,
        order: str | Iterable[str] = (),
        limit: int = PAGE,
        after: R | None = None,
        **filters: Any,
    ) -> list[R]:
        """The rows whose searched columns hold what the text asks for, in its language: see `searching`.

        Args:
            text: words, "a phrase", begin*, OR, -without.
            order: as in `where`.
            limit: at most so many; never more than 10,000.
            after: the last row of the page before.
            filters: as in `where`.

        Raises:
            InvalidArgument: a query that does not parse, a table that is not searched; else as in `where`.
            StaleProjection, ProjectionHalted: the table cannot answer; its full-text index is missing or damaged.
        """
        wanted = query(self._table, filters, order=order, limit=limit, after=after, matching=parse(text))
        if limit > MAX_ROWS:
            raise InvalidArgument("limit", limit, f"must be at most {MAX_ROWS}; go on with after=")
        found = self._projector.answer(
            self.projection, lambda reading: self._projector.tables.select(reading, self._table, wanted)
        )
        return [self._table.decode(values) for values in found]

    def count(self, /, **filters: Any) -> int:
        """How many rows pass every filter; filters and errors as in `where`."""
        wanted = query(self._table, filters)
        return self._projector.answer(
            self.projection, lambda reading: self._projector.tables.count(reading, self._table, wanted)
        )
