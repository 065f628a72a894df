"""Tables in the log's own SQLite file, written in the log's own transactions.

Identifiers come from row classes and projection names, which are checked where they are declared, and are quoted;
every value is bound.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, compress, count, groupby, repeat
from operator import is_, is_not
from typing import TYPE_CHECKING, Any

from eventstore.sqlite.driver import sqlite3
from eventstore.sqlite.schema import is_plain_index
from projections.fulltext import WAITING, FullText

if TYPE_CHECKING:
    from eventstore.sqlite import SQLiteTransaction
    from projections.tables import Filter, Query, Spread, Table, Values

_TYPES = {"text": "TEXT", "integer": "INTEGER", "real": "REAL", "boolean": "INTEGER", "time": "INTEGER", "json": "TEXT"}
_MANY = 500
"""Values in one IN list; SQLite's own bound is far higher."""
_FEW = 10
"""Values that are asked for one by one, where that saves sorting."""
_NONE = repeat(None)


class SQLiteTables:
    """See `tables.Tables`.

    Args:
        full_text: whether this SQLite can keep full-text indexes (FTS5); unless told, it is asked.
        secret: whether the log is encrypted, so that nothing of it may come into a plain file, even a nameless one.
        waiting: rows that are gathered before their words go into such an index.
    """

    def __init__(self, *, full_text: bool | None = None, secret: bool = False, waiting: int = WAITING) -> None:
        self._full_text = FullText(supported=full_text, waiting=waiting)
        self._secret = secret

    @contextmanager
    def scratch(self) -> Iterator[_Scratch]:
        """See `tables.Tables`. A file without a name, which the system takes away even if this process is killed.

        Beside an encrypted log it is memory; so it is with any SQLite that was built to keep such files there.
        """
        connection = sqlite3.connect(":memory:" if self._secret else "", isolation_level=None)
        try:
            if self._secret:
                connection.execute("PRAGMA temp_store = MEMORY")  # what is sorted, too
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("BEGIN")  # and never a COMMIT: nothing of it is to stay
            yield _Scratch(connection)
        finally:
            connection.close()

    def exists(self, transaction: SQLiteTransaction, table: Table[Any]) -> bool:
        """See `tables.Tables`."""
        found = transaction.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (table.name,))
        return found.fetchone() is not None

    def shapes(self, transaction: SQLiteTransaction) -> int:
        """See `tables.Tables`. SQLite counts every change of its schema, whoever makes it."""
        found: int = transaction.execute("PRAGMA schema_version").fetchone()[0]
        return found

    def fault(self, transaction: SQLiteTransaction, table: Table[Any]) -> str | None:
        """See `tables.Tables`."""
        parts = transaction.execute("SELECT type, name, sql FROM sqlite_schema WHERE tbl_name = ?", (table.name,))
        made = False
        for kind, name, sql in parts.fetchall():
            if kind == "table":
                made = True
                # Not its name: a rebuild's RENAME spells that anew.
                if sql.partition("(")[1:] != _definition(table).partition("(")[1:]:
                    return "has a table that somebody altered"
            elif sql is not None and not (kind == "index" and is_plain_index(sql)):
                return f"has a table with a {kind} of somebody's, {name}, that could refuse or take away its rows"
        return self._full_text.fault(transaction, table) if made else "has no table"

    def create(self, transaction: SQLiteTransaction, table: Table[Any]) -> None:
        """See `tables.Tables`."""
        transaction.execute(_definition(table))
        self._full_text.create(transaction, table)
        for names in table.indexes:
            # An index keeps its name when a rebuild renames its table, so the name must be new each time.
            columns_of = ", ".join(f'"{name}"' for name in names)
            transaction.execute(
                f'CREATE INDEX "{table.name}_{"_".join(names)}_{secrets.token_hex(4)}" ON "{table.name}"({columns_of})'
            )

    def drop(self, transaction: SQLiteTransaction, table: Table[Any]) -> None:
        """See `tables.Tables`."""
        transaction.execute(f'DROP TABLE IF EXISTS "{table.name}"')
        self._full_text.drop(transaction, table)

    def rename(self, transaction: SQLiteTransaction, table: Table[Any], name: str) -> None:
        """See `tables.Tables`."""
        transaction.execute(f'ALTER TABLE "{table.name}" RENAME TO "{name}"')
        self._full_text.rename(transaction, table, name)

    def get(self, transaction: SQLiteTransaction, table: Table[Any], key: Values) -> Values | None:
        """See `tables.Tables`."""
        found: Values | None = transaction.run(_get(table), key).fetchone()
        return found

    def put(self, transaction: SQLiteTransaction, table: Table[Any], rows: Sequence[Values]) -> None:
        """See `tables.Tables`."""
        if table.search:
            self._put_searched(transaction, table, {table.key_of(values): values for values in rows})
            return
        if len(rows) == 1:  # nearly every append's
            (row,) = rows
            transaction.run(_put(table, _absent(row)), _present(row))
            return
        for absent, alike in groupby(rows, _absent):
            transaction.executemany(_put(table, absent), map(_present, alike))

    def update(
        self, transaction: SQLiteTransaction, table: Table[Any], keys: Sequence[Values], changes: Mapping[str, Any]
    ) -> None:
        """See `tables.Tables`."""
        if table.search and not changes.keys().isdisjoint(table.search):
            places = {table.column(name)[0]: value for name, value in changes.items()}
            rows = [values for key in keys if (values := self.get(transaction, table, key)) is not None]
            changed = [tuple(places.get(at, value) for at, value in enumerate(values)) for values in rows]
            self.put(transaction, table, changed)
        elif keys:
            transaction.run(_update(table, len(keys), *changes), (*changes.values(), *chain.from_iterable(keys)))

    def delete(self, transaction: SQLiteTransaction, table: Table[Any], keys: Sequence[Values]) -> None:
        """See `tables.Tables`."""
        if table.search:
            self._full_text.put(transaction, table, [*self._numbered(transaction, table, keys).values()], [])
        where = " AND ".join(f'"{name}" = ?' for name in table.key)
        transaction.executemany(f'DELETE FROM "{table.name}" WHERE {where}', keys)  # noqa: S608

    def select(self, transaction: SQLiteTransaction, table: Table[Any], wanted: Query) -> list[Values]:
        """See `tables.Tables`."""
        several = _several(table, wanted)
        where, values = self._where(transaction, table, wanted, but=several)
        order = ", ".join([f'"{name}"{" DESC" if descending else ""}' for _, name, descending in wanted.order])
        sql = f'SELECT {_columns(table)} FROM "{table.name}"{where}'  # noqa: S608
        if several is not None:
            sql, values = _merged(sql + (" AND " if where else " WHERE "), values, several)
        sql += f" ORDER BY {order}" if order else ""
        if wanted.limit is not None or wanted.offset:
            sql += " LIMIT +?"  # not "?": see eventstore.sqlite.transaction
            values.append(-1 if wanted.limit is None else wanted.limit)
        if wanted.offset:
            sql += " OFFSET +?"
            values.append(wanted.offset)
        with self._full_text.noticing(table):
            return transaction.execute(sql, values).fetchall()

    def count(self, transaction: SQLiteTransaction, table: Table[Any], wanted: Query) -> int:
        """See `tables.Tables`."""
        where, values = self._where(transaction, table, wanted)
        with self._full_text.noticing(table):
            found: int = transaction.execute(f'SELECT count(*) FROM "{table.name}"{where}', values).fetchone()[0]  # noqa: S608
        return found

    def vocabulary(self, transaction: SQLiteTransaction, table: Table[Any]) -> Iterator[Spread]:
        """See `tables.Tables`."""
        return self._full_text.vocabulary(transaction, table)

    def _where(
        self, transaction: SQLiteTransaction, table: Table[Any], wanted: Query, *, but: Filter | None = None
    ) -> tuple[str, list[Any]]:
        """The WHERE clause of a query, without one of its filters, and what is bound to it."""
        clauses = [_condition(item) for item in wanted.filters if item is not but]
        if wanted.matching is not None:
            with self._full_text.noticing(table):
                clauses.insert(0, self._full_text.condition(transaction, table, wanted.matching))
        if wanted.after is not None:
            clauses.append(_later(wanted))
        where = " AND ".join([part for part, _ in clauses])
        return f" WHERE {where}" if where else "", [value for _, bound in clauses for value in bound]

    def _put_searched(self, transaction: SQLiteTransaction, table: Table[Any], rows: Mapping[Values, Values]) -> None:
        """As `put`, where rows have numbers, and an index goes by these."""
        old = self._numbered(transaction, table, [*rows])
        last: int = transaction.execute(f'SELECT ifnull(max(_row), 0) FROM "{table.name}"').fetchone()[0]  # noqa: S608
        numbers = count(last + 1)
        new = [(old[key][0] if key in old else next(numbers), values) for key, values in rows.items()]
        marks = ", ".join("?" * (len(table.columns) + 2))
        transaction.executemany(
            f'INSERT OR REPLACE INTO "{table.name}"(_row, {_columns(table)}) VALUES ({marks})',  # noqa: S608
            [(number, *values) for number, values in new],
        )
        self._full_text.put(transaction, table, [*old.values()], new)

    @staticmethod
    def _numbered(
        transaction: SQLiteTransaction, table: Table[Any], keys: Sequence[Values]
    ) -> dict[Values, tuple[int, Values]]:
        """By key, the rows that stand and their numbers."""
        found = {}
        for key in keys:
            row = transaction.execute(_get(table, "_row, "), key).fetchone()
            if row is not None:
                found[key] = row[0], tuple(row[1:])
        return found


class _Scratch:
    """What tables ask of a transaction."""

    open = False
    """It keeps no journal: nothing in it is ever undone."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.run = connection.cursor().execute


@lru_cache(maxsize=100)
def _definition(table: Table[Any]) -> str:
    columns = [
        f'"{column.name}" {_TYPES[column.kind]}{"" if column.optional else " NOT NULL"}' for column in table.columns
    ]
    key = ", ".join(f'"{name}"' for name in table.key)
    if table.search:  # its index goes by numbers, which VACUUM leaves alone only where they are a column
        return (
            f'CREATE TABLE "{table.name}"(_row INTEGER PRIMARY KEY, {", ".join(columns)}, _position INTEGER NOT NULL, '
            f"UNIQUE ({key})) STRICT"
        )
    return (
        f'CREATE TABLE "{table.name}"({", ".join(columns)}, _position INTEGER NOT NULL, PRIMARY KEY ({key})) '
        "STRICT, WITHOUT ROWID"
    )


@lru_cache(maxsize=100)
def _get(table: Table[Any], before: str = "") -> str:
    where = " AND ".join(f'"{name}" = ?' for name in table.key)
    return f'SELECT {before}{_columns(table)} FROM "{table.name}" WHERE {where}'  # noqa: S608


@lru_cache(maxsize=100)
def _update(table: Table[Any], count: int, *changed: str) -> str:
    # `+`: it looks at every row, of a table that has few. For a list of keys, or by way of its index, SQLite makes a
    # table of its own: 5.2 µs for four cursors, as four statements are, against 2.7.
    one = " AND ".join(f'+"{name}" = ?' for name in table.key)
    where = " OR ".join([f"({one})"] * count)
    changes = ", ".join(f'"{name}" = ?' for name in changed)
    return f'UPDATE "{table.name}" SET {changes} WHERE {where}'  # noqa: S608


def _absent(row: Values) -> tuple[bool, ...]:
    return tuple(map(is_, row, _NONE))  # a run's row has 32 columns: 3 µs less than a loop over them


def _present(row: Values) -> tuple[Any, ...]:
    return tuple(compress(row, map(is_not, row, _NONE)))


@lru_cache(maxsize=1_000)
def _put(table: Table[Any], absent: tuple[bool, ...]) -> str:
    # NULL in the statement's own words: a None that is bound takes pysqlite3 2 µs (see eventstore.sqlite.transaction).
    marks = ", ".join("NULL" if gone else "?" for gone in absent)
    return f'INSERT OR REPLACE INTO "{table.name}"({_columns(table)}) VALUES ({marks})'  # noqa: S608


@lru_cache(maxsize=100)
def _columns(table: Table[Any]) -> str:
    return ", ".join([*(f'"{column.name}"' for column in table.columns), "_position"])


def _several(table: Table[Any], wanted: Query) -> Filter | None:
    """The filter whose values are asked for one by one: where an index has the rows of each in the order wanted."""
    if wanted.limit is not None and wanted.order and wanted.matching is None:
        for one in wanted.filters:
            few = one.values is not None and 1 < len(one.values) <= _FEW
            if few and (one.column, wanted.order[0][1]) in table.indexes:
                return one
    return None


def _merged(beginning: str, values: list[Any], several: Filter) -> tuple[str, list[Any]]:
    """One SELECT for each value, for SQLite to merge as far as the limit. For an IN it reads and sorts all rows."""
    arms: list[str] = []
    bound: list[Any] = []
    for value in dict.fromkeys(several.values or ()):
        absent = value is None
        arms.append(f'{beginning}"{several.column}" {"IS NULL" if absent else "= ?"}')
        bound += values if absent else [*values, value]
    return " UNION ALL ".join(arms), bound


def _condition(item: Filter) -> tuple[str, list[Any]]:
    name = f'"{item.column}"'
    if item.values is None:
        bounds = [(f"{name} >= ?", item.start), (f"{name} < ?", item.stop)]
        given = [(part, value) for part, value in bounds if value is not None]
        return " AND ".join(part for part, _ in given) or "1", [value for _, value in given]
    present = [value for value in item.values if value is not None]
    if len(present) == len(item.values) == 1:
        return f"{name} = ?", present
    parts = [f"{name} IS NULL"] if len(present) < len(item.values) else []
    chunks = [present[start : start + _MANY] for start in range(0, len(present), _MANY)]
    parts += [f"{name} IN ({', '.join('?' * len(chunk))})" for chunk in chunks]
    return f"({' OR '.join(parts)})" if parts else "0", present


def _later(wanted: Query) -> tuple[str, list[Any]]:
    """Rows after the last one seen: `a > x OR (a = x AND (b > y OR …))`, NULL first, descending turned round."""
    sql = "0"
    values: list[Any] = []
    for (_, name, descending), last in reversed(list(zip(wanted.order, wanted.after or (), strict=True))):
        column = f'"{name}"'
        if last is None:
            beyond = "0" if descending else f"{column} IS NOT NULL"
        elif descending:
            beyond = f"({column} < ? OR {column} IS NULL)"
        else:
            beyond = f"{column} > ?"
        sql = f"({beyond} OR ({column} IS ? AND {sql}))"
        values = [*([] if last is None else [last]), last, *values]
    return sql, values
