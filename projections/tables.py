"""The contract of a table backend: rows of attrs classes beside the log, in the log's own transactions.

A `Table` is declared from a row class, never guessed from values. Both backends keep rows as the same tuples of plain
column values, so they cannot disagree about what a value is or how values are ordered: NULL first, then numbers or
text by code point. Each row ends in the position of the event that last touched it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from enum import Enum
from operator import attrgetter
from types import UnionType
from typing import Any, Generic, Literal, Protocol, TypeVar, Union, get_args, get_origin

import attrs
import orjson
from attrs import field, frozen

from eventstore.errors import InvalidArgument
from eventstore.limits import check_names
from eventstore.payloads import encode_json, from_microseconds, to_microseconds
from projections.searching import Wanted, words

R = TypeVar("R")

Values = tuple[Any, ...]
"""A row as a backend keeps it: its column values, then the position of the event that last touched it."""
Kind = Literal["text", "integer", "real", "boolean", "time", "json"]


@frozen
class Column:
    """A column: its name, what it holds, and the enum or literal values that it is bound to."""

    name: str
    kind: Kind
    optional: bool
    enum: type[Enum] | None = None

    def encode(self, value: Any) -> Any:
        """The plain value that a backend keeps.

        Raises:
            InvalidArgument: a value of another type.
        """
        if value is None and self.optional:
            return None
        if self.kind == "json":
            return encode_json(self.name, _plain(value))
        if self.enum is not None:
            if type(value) is self.enum:
                return value.value
            try:
                return self.enum(value).value
            except ValueError:
                raise InvalidArgument(
                    self.name, value, f"must be one of {', '.join(str(it.value) for it in self.enum)}"
                ) from None
        if self.kind == "time" and isinstance(value, datetime):
            if value.tzinfo is None:
                raise InvalidArgument(self.name, value, "must be a datetime with a time zone")
            return to_microseconds(value)
        if self.kind == "boolean" and isinstance(value, bool):
            return int(value)
        if self.kind == "real" and isinstance(value, int | float) and not isinstance(value, bool):
            if value != value:  # noqa: PLR0124 - NaN has no order, and SQLite keeps it as NULL
                raise InvalidArgument(self.name, value, "must be a number; write None")
            return float(value)
        wanted = {"text": str, "integer": int}.get(self.kind)
        if wanted is None or not isinstance(value, wanted) or isinstance(value, bool):
            raise InvalidArgument(self.name, value, f"must be {_ARTICLES[self.kind]}")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InvalidArgument(self.name, value, "must fit into 64 bits")
        if isinstance(value, str) and not _is_text(value):
            raise InvalidArgument(self.name, value, "holds a lone surrogate, which is not text")
        return value

    @property
    def decoder(self) -> Callable[[Any], Any] | None:
        """What makes the field's value of a plain one; None where they are the same."""
        if self.kind == "json":
            return orjson.loads
        if self.enum is not None:
            return self.enum
        if self.kind == "time":
            return from_microseconds
        return bool if self.kind == "boolean" else None


_FULL = 2**63
_ARTICLES = {
    "text": "text",
    "integer": "an integer",
    "real": "a number",
    "boolean": "True or False",
    "time": "a datetime with a time zone",
}
_KINDS: dict[Any, Kind] = {str: "text", int: "integer", float: "real", bool: "boolean", datetime: "time"}


@frozen(eq=False)
class Table(Generic[R]):
    """A table as its row class declares it. `name` may be a shadow's; the shape is the same."""

    name: str
    row: type[R]
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    indexes: tuple[tuple[str, ...], ...] = ()
    search: tuple[str, ...] = ()
    """Columns of text that are indexed by their words."""
    _places: dict[str, tuple[int, Column]] = field(init=False)
    _decoders: tuple[tuple[int, Callable[[Any], Any]], ...] = field(init=False)
    _encoders: tuple[tuple[Column, type | None], ...] = field(init=False)
    _key: tuple[int, ...] = field(init=False)
    _fields: Callable[[Any], tuple[Any, ...]] = field(init=False)
    _texts: bool = field(init=False)
    """Whether the key begins with any text."""

    @_places.default
    def _by_name(self) -> dict[str, tuple[int, Column]]:
        return {column.name: (index, column) for index, column in enumerate(self.columns)}

    @_decoders.default
    def _of_columns(self) -> tuple[tuple[int, Callable[[Any], Any]], ...]:
        columns = enumerate(self.columns)
        return tuple((index, decode) for index, column in columns if (decode := column.decoder) is not None)

    @_encoders.default
    def _with_usual_types(self) -> tuple[tuple[Column, type | None], ...]:
        usual: dict[Kind, type] = {"text": str, "integer": int}
        return tuple((column, None if column.enum else usual.get(column.kind)) for column in self.columns)

    @_key.default
    def _places_of_key(self) -> tuple[int, ...]:
        return tuple(self.column(name)[0] for name in self.key)

    @_fields.default
    def _all_at_once(self) -> Callable[[Any], tuple[Any, ...]]:
        names = [column.name for column in self.columns]
        get = attrgetter(*names)
        return get if len(names) > 1 else lambda row: (get(row),)

    @_texts.default
    def _of_key(self) -> bool:
        _, column = self.column(self.key[0])
        return column.kind == "text" and column.enum is None

    @classmethod
    def of(
        cls,
        name: str,
        row: type[R],
        key: tuple[str, ...],
        indexes: tuple[tuple[str, ...], ...] = (),
        search: tuple[str, ...] = (),
    ) -> Table[R]:
        """Declare a table from an attrs class.

        Raises:
            InvalidArgument: a column that is to be searched and holds no text, or an enum of no plain values.
        """
        attrs.resolve_types(row)  # type: ignore[type-var]
        table = cls(name, row, key, tuple(_column(item) for item in attrs.fields(row)), indexes, search)  # type: ignore[arg-type]
        for searched in search:
            if table.column(searched)[1].kind != "text":
                raise InvalidArgument("search", searched, "holds no text to be searched")
        return table

    def renamed(self, name: str) -> Table[R]:
        """The same shape under another name."""
        return attrs.evolve(self, name=name)

    def column(self, name: str) -> tuple[int, Column]:
        """A column and its place.

        Raises:
            InvalidArgument: no such column.
        """
        if (found := self._places.get(name)) is not None:
            return found
        names = ", ".join(column.name for column in self.columns)
        raise InvalidArgument("column", name, f"is none of {self.name}; its columns are {names}")

    def encode(self, row: R, position: int = 0) -> Values:
        """The row as a backend keeps it."""
        values: list[Any] = []
        for (column, usual), value in zip(self._encoders, self._fields(row), strict=True):
            kind = type(value)
            if value is None and column.optional:
                values.append(None)
            elif kind is usual and ((kind is str and value.isascii()) or (kind is int and abs(value) < _FULL)):
                values.append(value)  # most of them; the same that `Column.encode` would give
            else:
                values.append(column.encode(value))
        values.append(position)
        return tuple(values)

    def decode(self, values: Values) -> R:
        """The row again."""
        fields = [*values[: len(self.columns)]]
        for index, decode in self._decoders:
            if (value := fields[index]) is not None:
                fields[index] = decode(value)
        return self.row(*fields)

    def key_of(self, values: Values) -> Values:
        """The encoded key of encoded values."""
        return tuple([values[index] for index in self._key])

    def texts_of(self, values: Values) -> list[str]:
        """The words of each searched column of encoded values, in order and a space between."""
        return [" ".join(words(values[self.column(name)[0]] or "")) for name in self.search]

    def encode_key(self, key: Sequence[Any]) -> Values:
        """The encoded key, or the beginning of one.

        Raises:
            InvalidArgument: a value of another type, or None: no part of a key may be absent.
        """
        if len(key) == 1 and type(key[0]) is str and self._texts and key[0].isascii():
            return (key[0],)  # most of them; the same that the column would give
        encoded = tuple([self.column(name)[1].encode(value) for name, value in zip(self.key, key, strict=False)])
        if None in encoded:
            name = self.key[encoded.index(None)]
            raise InvalidArgument(name, None, f"is part of the key of {self.name} and must not be absent")
        return encoded


@frozen
class Range:
    """A filter: from `start` on and before `stop`; either may be left open."""

    start: Any = None
    stop: Any = None


@frozen
class Filter:
    """What one column must be: one of some values, or within a range; encoded."""

    index: int
    column: str
    values: tuple[Any, ...] | None = None
    start: Any = None
    stop: Any = None


@frozen
class Query:
    """Which rows, in which order, how many, after which; all values encoded."""

    filters: tuple[Filter, ...] = ()
    order: tuple[tuple[int, str, bool], ...] = ()
    """Place, name and whether descending; the key comes last, so that no two rows tie."""
    limit: int | None = None
    after: tuple[Any, ...] | None = None
    """The order columns of the last row that was seen."""
    offset: int = 0
    """How many of the rows behind that are passed over."""
    matching: Wanted | None = None
    """What the searched columns must hold."""


def query(
    table: Table[R],
    filters: Mapping[str, Any],
    *,
    order: str | Iterable[str] = (),
    limit: int | None = None,
    after: R | None = None,
    offset: int = 0,
    matching: Wanted | None = None,
) -> Query:
    """A query from what a caller says.

    Args:
        table: whose rows.
        filters: column to a value (None is "is absent"), a list of values, or a `Range`.
        order: column names, a leading "-" for descending; ties are broken by the key.
        limit: at most so many rows; None for all.
        after: the last row of the page before.
        offset: how many rows to pass over first.
        matching: what the table's searched columns must hold.

    Raises:
        InvalidArgument: an unknown column, a value of the wrong type, a negative limit or offset, a table that is not
            searched.
    """
    if matching is not None and not table.search:
        raise InvalidArgument("query", table.name, "keeps no full-text index; name its fields with search=(…)")
    names = (order,) if isinstance(order, str) else check_names("order", order)
    if limit is not None and not _is_count(limit):
        raise InvalidArgument("limit", limit, "must be 0 or more; leave it out for all")
    if not _is_count(offset):
        raise InvalidArgument("offset", offset, "must be 0 or more; or go on with after=, which passes over nothing")
    ordered: list[tuple[int, str, bool]] = []
    for name in (*names, *table.key):
        index, column = table.column(name.removeprefix("-"))
        if column.kind == "json":
            raise InvalidArgument("order", name, "holds JSON, which has no order")
        if column.name not in [placed for _, placed, _ in ordered]:
            ordered.append((index, column.name, name.startswith("-")))
    if after is not None and not isinstance(after, table.row):
        raise InvalidArgument("after", after, f"must be the last {table.row.__name__} of the page before")
    seen = None if after is None else table.encode(after)
    return Query(
        tuple(_filter(table, name, wanted) for name, wanted in filters.items()),
        tuple(ordered),
        limit,
        None if seen is None else tuple(seen[index] for index, _, _ in ordered),
        offset,
        matching,
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _FULL


def _filter(table: Table[Any], name: str, wanted: Any) -> Filter:
    index, column = table.column(name)
    if column.kind == "json":
        raise InvalidArgument(name, wanted, "holds JSON and cannot be filtered by")
    if isinstance(wanted, Range):
        start, stop = (None if end is None else column.encode(end) for end in (wanted.start, wanted.stop))
        return Filter(index, name, None, start, stop)
    several = wanted if isinstance(wanted, list | tuple | set | frozenset) else (wanted,)
    return Filter(index, name, tuple(None if value is None else column.encode(value) for value in several))


@frozen
class Spread:
    """A word of a full-text index: in how many places, and a number made of where these are."""

    word: str
    places: int
    where: int


class Tables(Protocol):
    """A table backend. Each call names the transaction (a `Reading` or `Writing` of the log) that it belongs to.

    A table with searched columns has a full-text index beside it, made, renamed, written and taken away with it. Where
    that turns out to be damaged, any call raises `StaleProjection`.
    """

    def scratch(self) -> AbstractContextManager[Any]:
        """A place for tables that nobody else sees and that takes no memory to speak of; gone when the block is left.

        It stands in place of a transaction, for one thread.
        """

    def exists(self, transaction: Any, table: Table[Any]) -> bool:
        """Whether the table is there."""

    def shapes(self, transaction: Any) -> Hashable:
        """What is another value whenever a table was made, altered or taken away since; cheap."""

    def fault(self, transaction: Any, table: Table[Any]) -> str | None:
        """Why the table is not to be used: it is not there, or not as `create` makes it; None if it is.

        The words follow a name: "has no table".
        """

    def create(self, transaction: Any, table: Table[Any]) -> None:
        """Make the table; it must not be there."""

    def drop(self, transaction: Any, table: Table[Any]) -> None:
        """Take the table away, if it is there."""

    def rename(self, transaction: Any, table: Table[Any], name: str) -> None:
        """Give the table another name, which is free."""

    def get(self, transaction: Any, table: Table[Any], key: Values) -> Values | None:
        """The row of an encoded key."""

    def put(self, transaction: Any, table: Table[Any], rows: Sequence[Values]) -> None:
        """Insert rows, or replace those of the same key."""

    def update(self, transaction: Any, table: Table[Any], keys: Sequence[Values], changes: Mapping[str, Any]) -> None:
        """Put these encoded values into columns of the rows of these keys; what is not there stays away.

        For tables of few rows: every row may be looked at.
        """

    def delete(self, transaction: Any, table: Table[Any], keys: Sequence[Values]) -> None:
        """Take rows away, if they are there."""

    def select(self, transaction: Any, table: Table[Any], wanted: Query) -> list[Values]:
        """The rows of a query."""

    def count(self, transaction: Any, table: Table[Any], wanted: Query) -> int:
        """How many rows the filters of a query leave."""

    def vocabulary(self, transaction: Any, table: Table[Any]) -> Iterator[Spread]:
        """Every word of the table's full-text index, in order; none if it has none."""


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(value: Any) -> Any:
    if type(value) in (dict, list, str):  # most of them; attrs looks for long
        return value
    return attrs.asdict(value) if attrs.has(type(value)) else value


def _column(item: attrs.Attribute[Any]) -> Column:
    declared: Any = item.type
    optional = False
    if get_origin(declared) in (Union, UnionType):
        members = [member for member in get_args(declared) if member is not type(None)]
        optional = len(members) < len(get_args(declared))
        declared = members[0] if len(members) == 1 else Any
    if get_origin(declared) is Literal:
        declared = str
    if isinstance(declared, type) and issubclass(declared, Enum):
        return Column(item.name, _kind_of(item.name, declared), optional, declared)
    kind = _KINDS.get(declared, "json")
    return Column(item.name, kind, optional or kind == "json")


def _kind_of(name: str, enum: type[Enum]) -> Kind:
    kinds = {_KINDS.get(type(member.value)) for member in enum} or {"text"}
    # Or SQLite would keep what is no text as one, and no member be found by it.
    if kinds not in ({"text"}, {"integer"}):
        raise InvalidArgument(name, enum.__name__, "must be an enum whose values are all text, or all integers")
    return "integer" if "integer" in kinds else "text"
