"""Tables in the log's own SQLite file, written in the log's own transactions.

Identifiers come from row classes and projection names, which are checked where they are declared, and are quoted;
every value is bound.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

from eventstore.sqlite.driver import sqlite3
from eventstore.sqlite.schema import is_plain_index

if TYPE_CHECKING:
    from eventstore.sqlite import SQLiteTransaction
    from projections.tables import Filter, Query, Table, Values

_TYPES = {"text": "TEXT", "integer": "INTEGER", "real": "REAL", "boolean": "INTEGER", "time": "INTEGER", "json": "TEXT"}
_MANY = 500
"""Values in one IN list; SQLite's own bound is far higher."""


class SQLiteTables:
    """See `tables.Tables`."""

    @contextmanager
    def scratch(self) -> Iterator[_Scratch]:
        """See `tables.Tables`. A file without a name, which the system takes away even if this process is killed."""
        connection = sqlite3.connect("", isolation_level=None)
        try:
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
        return None if made else "has no table"

    def create(self, transaction: SQLiteTransaction, table: Table[Any]) -> None:
        """See `tables.Tables`."""
        transaction.execute(_definition(table))
        for names in table.indexes:
            # An index keeps its name when a rebuild renames its table, so the name must be new each time.
            columns_of = ", ".join(f'"{name}"' for name in names)
            transaction.execute(
                f'CREATE INDEX "{table.name}_{"_".join(names)}_{secrets.token_hex(4)}" ON "{table.name}"({columns_of})'
            )

    def drop(self, transaction: SQLiteTransaction, table: Table[Any]) -> None:
        """See `tables.Tables`."""
        transaction.execute(f'DROP TABLE IF EXISTS "{table.name}"')

    def rename(self, transaction: SQLiteTransaction, table: Table[Any], name: str) -> None:
        """See `tables.Tables`."""
        transaction.execute(f'ALTER TABLE "{table.name}" RENAME TO "{name}"')

    def get(self, transaction: SQLiteTransaction, table: Table[Any], key: Values) -> Values | None:
        """See `tables.Tables`."""
        found: Values | None = transaction.execute(_get(table), key).fetchone()
        return found

    def put(self, transaction: SQLiteTransaction, table: Table[Any], rows: Sequence[Values]) -> None:
        """See `tables.Tables`."""
        if len(rows) == 1:  # nearly every append's
            (row,) = rows
            transaction.run(_put(table, _absent(row)), [value for value in row if value is not None])
            return
        for absent, alike in groupby(rows, _absent):
            present = ([value for value in row if value is not None] for row in alike)
            transaction.executemany(_put(table, absent), present)

    def update(
        self, transaction: SQLiteTransaction, table: Table[Any], keys: Sequence[Values], changes: Mapping[str, Any]
    ) -> None:
        """See `tables.Tables`."""
        if keys:
            transaction.run(_update(table, len(keys), *changes), (*changes.values(), *chain.from_iterable(keys)))

    def delete(self, transaction: SQLiteTransaction, table: Table[Any], keys: Sequence[Values]) -> None:
        """See `tables.Tables`."""
        where = " AND ".join(f'"{name}" = ?' for name in table.key)
        transaction.executemany(f'DELETE FROM "{table.name}" WHERE {where}', keys)  # noqa: S608

    def select(self, transaction: SQLiteTransaction, table: Table[Any], wanted: Query) -> list[Values]:
        """See `tables.Tables`."""
        where, values = _where(wanted)
        order = ", ".join(f'"{name}"{" DESC" if descending else ""}' for _, name, descending in wanted.order)
        sql = f'SELECT {_columns(table)} FROM "{table.name}"{where}'  # noqa: S608
        sql += f" ORDER BY {order}" if order else ""
        if wanted.limit is not None or wanted.offset:
            sql += " LIMIT +?"  # not "?": see eventstore.sqlite.transaction
            values.append(-1 if wanted.limit is None else wanted.limit)
        if wanted.offset:
            sql += " OFFSET +?"
            values.append(wanted.offset)
        return transaction.execute(sql, values).fetchall()

    def count(self, transaction: SQLiteTransaction, table: Table[Any], wanted: Query) -> int:
        """See `tables.Tables`."""
        where, values = _where(wanted)
        found: int = transaction.execute(f'SELECT count(*) FROM "{table.name}"{where}', values).fetchone()[0]  # noqa: S608
        return found


class _Scratch:
    """What tables ask of a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.run = connection.cursor().execute


def _definition(table: Table[Any]) -> str:
    columns = [
        f'"{column.name}" {_TYPES[column.kind]}{"" if column.optional else " NOT NULL"}' for column in table.columns
    ]
    key = ", ".join(f'"{name}"' for name in table.key)
    return (
        f'CREATE TABLE "{table.name}"({", ".join(columns)}, _position INTEGER NOT NULL, PRIMARY KEY ({key})) '
        "STRICT, WITHOUT ROWID"
    )


@lru_cache(maxsize=100)
def _get(table: Table[Any]) -> str:
    where = " AND ".join(f'"{name}" = ?' for name in table.key)
    return f'SELECT {_columns(table)} FROM "{table.name}" WHERE {where}'  # noqa: S608


@lru_cache(maxsize=100)
def _update(table: Table[Any], count: int, *changed: str) -> str:
    # `+`: it looks at every row, of a table that has few. For a list of keys, or by way of its index, SQLite makes a
    # table of its own: 5.2 µs for four cursors, as four statements are, against 2.7.
    one = " AND ".join(f'+"{name}" = ?' for name in table.key)
    where = " OR ".join([f"({one})"] * count)
    changes = ", ".join(f'"{name}" = ?' for name in changed)
    return f'UPDATE "{table.name}" SET {changes} WHERE {where}'  # noqa: S608


def _absent(row: Values) -> tuple[bool, ...]:
    return tuple([value is None for value in row])


@lru_cache(maxsize=1_000)
def _put(table: Table[Any], absent: tuple[bool, ...]) -> str:
    # NULL in the statement's own words: a None that is bound takes pysqlite3 2 µs (see eventstore.sqlite.transaction).
    marks = ", ".join("NULL" if gone else "?" for gone in absent)
    return f'INSERT OR REPLACE INTO "{table.name}"({_columns(table)}) VALUES ({marks})'  # noqa: S608


@lru_cache(maxsize=100)
def _columns(table: Table[Any]) -> str:
    return ", ".join([*(f'"{column.name}"' for column in table.columns), "_position"])


def _where(wanted: Query) -> tuple[str, list[Any]]:
    parts: list[str] = []
    values: list[Any] = []
    for item in wanted.filters:
        part, bound = _condition(item)
        parts.append(part)
        values += bound
    if wanted.after is not None:
        part, bound = _later(wanted)
        parts.append(part)
        values += bound
    return (f" WHERE {' AND '.join(parts)}" if parts else ""), values


def _condition(item: Filter) -> tuple[str, list[Any]]:
    name = f'"{item.column}"'
    if item.values is None:
        bounds = [(f"{name} >= ?", item.start), (f"{name} < ?", item.stop)]
        given = [(part, value) for part, value in bounds if value is not None]
        return " AND ".join(part for part, _ in given) or "1", [value for _, value in given]
    present = [value for value in item.values if value is not None]
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
