"""The full-text index of a table in SQLite: an FTS5 table beside it, `NAME__search`, in the same transactions.

It holds no text of its own (`content=''`): text stands in the rows. It is given words that `searching` made, with the
one tokenizer of FTS5 that has no opinion about any sign beyond ASCII, so that it cannot disagree with the memory
backend about what a word is. Its rows are numbered as the table's are, by a column of their own, `_row`.

What FTS5 writes for one row takes as long as the rest of an append, and for thirty rows four times as long. So rows
wait, noted by their numbers in `NAME__waiting`, until there are a few dozen; a search looks through those itself. A row
is found from the moment on that it stands, wherever its words are by then.

A damaged index must not cost a fact. FTS5 may find damage as late as in COMMIT, so what is written here is flushed at
once, by a savepoint, and damage that shows is the projection's: it halts, and the log goes on.
"""

from __future__ import annotations

import heapq
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from eventstore.errors import StaleProjection
from projections.searching import expression, found
from projections.tables import Spread

if TYPE_CHECKING:
    from eventstore.sqlite import SQLiteTransaction
    from projections.searching import Wanted
    from projections.tables import Table, Values

_PARTS = ("data", "idx", "config")
"""The tables that FTS5 keeps an index in, by the ends of their names."""
WAITING = 32
"""Rows that wait before their words go into the index together: an append of a message then takes 0.6 of the time on
average, and half at the middle. With 8 it is 0.75; with 64 there is nothing more to gain."""
_SHORT = 4_000
"""Characters of a row that may wait: to look through all that do must stay a matter of a few milliseconds."""
_READABLE = (
    'CREATE TABLE IF NOT EXISTS "{}_config"(k PRIMARY KEY, v) WITHOUT ROWID',
    "INSERT OR REPLACE INTO \"{}_config\" VALUES ('version', 4)",
    'CREATE TABLE IF NOT EXISTS "{}_data"(id INTEGER PRIMARY KEY, block BLOB)',
    "INSERT OR REPLACE INTO \"{}_data\" VALUES (10, x'00000000000000')",
)
"""Makes an empty index of what is left of a damaged one."""
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_CONSTRAINT", "SQLITE_ERROR")
"""What FTS5 says of what it cannot make sense of; all else is the disk's."""
_MISSING = "has no full-text index, since this SQLite has no FTS5: use one that has it (`pip install pysqlite3`)"


class FullText:
    """The full-text indexes of one database.

    Args:
        supported: whether this SQLite has FTS5; unless told, it is asked.
        waiting: rows that are gathered before they are indexed.
    """

    def __init__(self, *, supported: bool | None = None, waiting: int = WAITING) -> None:
        self._supported = supported
        self._most = waiting

    def supported(self, transaction: SQLiteTransaction) -> bool:
        """Whether there can be an index at all."""
        if self._supported is None:
            found = transaction.execute("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'")
            self._supported = found.fetchone() is not None
        return self._supported

    def create(self, transaction: SQLiteTransaction, table: Table[Any]) -> None:
        """Make the table's index, if it is to have one and there can be one; `fault` tells of the other case."""
        if table.search and self.supported(transaction):
            self.drop(transaction, table)  # somebody may have taken its table away from it
            transaction.execute(_definition(table))
            transaction.execute(_definition_of_waiting(table))

    def drop(self, transaction: SQLiteTransaction, table: Table[Any]) -> None:
        """Take the index away, if it is there."""
        if not table.search or not self.supported(transaction):
            return
        transaction.execute(f'DROP TABLE IF EXISTS "{_waiting(table)}"')
        drop = f'DROP TABLE IF EXISTS "{_name(table)}"'
        try:
            with self.noticing(table):
                transaction.execute(drop)
        except StaleProjection:
            # FTS5 takes nothing away that it cannot read: it is given back what it looks at first.
            for statement in _READABLE:
                transaction.execute(statement.format(_name(table)))
            transaction.execute(drop)

    def rename(self, transaction: SQLiteTransaction, table: Table[Any], name: str) -> None:
        """Let the index follow its table; a damaged one is taken away."""
        if not table.search or not self.supported(transaction):
            return
        self.drop(transaction, table.renamed(name))  # somebody may have taken its table away from it
        if self._stands(transaction, _waiting(table)):
            # Anew, with its few rows: a RENAME takes ten times as long, and nobody can append meanwhile.
            rows = transaction.execute(f'SELECT row FROM "{_waiting(table)}"').fetchall()  # noqa: S608
            transaction.execute(f'DROP TABLE "{_waiting(table)}"')
            transaction.execute(_definition_of_waiting(table.renamed(name)))
            transaction.executemany(f'INSERT INTO "{_waiting(table.renamed(name))}" VALUES (?)', rows)  # noqa: S608
        if not self._stands(transaction, _name(table)):
            return
        try:
            with self.noticing(table):
                transaction.execute(f'ALTER TABLE "{_name(table)}" RENAME TO "{_name(table.renamed(name))}"')
        except StaleProjection:
            self.drop(transaction, table)

    def fault(self, transaction: SQLiteTransaction, table: Table[Any]) -> str | None:
        """Why the index is not to be used; None if nothing is wrong with it, or the table needs none."""
        if not table.search:
            return None
        if not self.supported(transaction):
            return _MISSING
        parts = {_waiting(table), _name(table), *(f"{_name(table)}_{part}" for part in _PARTS)}
        marks = ", ".join("?" * len(parts))
        found = transaction.execute(
            f"SELECT type, name, sql FROM sqlite_schema WHERE tbl_name IN ({marks})",  # noqa: S608
            (*parts,),
        ).fetchall()
        tables = {name: sql for kind, name, sql in found if kind == "table"}
        if missing := sorted(parts - tables.keys()):
            if len(missing) == len(parts):
                return "has no full-text index"
            return f"lacks {', '.join(missing)}, {'a part' if len(missing) == 1 else 'parts'} of its full-text index"
        # Not its name: a rebuild's RENAME spells that anew.
        altered = tables[_name(table)].partition("USING")[1:] != _definition(table).partition("USING")[1:]
        if altered or tables[_waiting(table)].partition("(")[1:] != _definition_of_waiting(table).partition("(")[1:]:
            return "has a full-text index that somebody altered"
        if strangers := [name for kind, name, sql in found if kind != "table" and sql is not None]:
            return f"has a full-text index with something of somebody's, {strangers[0]}, that could refuse its words"
        return None

    def put(
        self,
        transaction: SQLiteTransaction,
        table: Table[Any],
        old: Sequence[tuple[int, Values]],
        new: Sequence[tuple[int, Values]],
    ) -> None:
        """Take these rows' words out of the index, and put those of these others in; each row with its number.

        The table holds the new rows already, and the old ones that are to go still.

        Raises:
            StaleProjection: the index is damaged, or there can be none.
        """
        if not self.supported(transaction):
            raise StaleProjection(table.name, _MISSING)
        before = {row for (row,) in transaction.run(f'SELECT row FROM "{_waiting(table)}"').fetchall()}  # noqa: S608
        given = dict(new)
        indexed = [(row, values) for row, values in old if row not in before]
        standing = before.difference([row for row, _ in old])
        after = standing.union(given)
        places = [table.column(name)[0] for name in table.search]
        short = all(sum([len(values[place] or "") for place in places]) <= _SHORT for values in given.values())
        if indexed or len(after) >= self._most or not short:
            waited = {row: values for row, values in self._rows(transaction, table) if row in standing}
            self._index(transaction, table, indexed, [*(waited | given).items()])
            after = set()
        name = _waiting(table)
        for row in before - after:
            transaction.run(f'DELETE FROM "{name}" WHERE row = ?', (row,))  # noqa: S608
        for row in after - before:
            transaction.run(f'INSERT INTO "{name}" VALUES (?)', (row,))  # noqa: S608

    def _index(
        self,
        transaction: SQLiteTransaction,
        table: Table[Any],
        old: Sequence[tuple[int, Values]],
        new: Sequence[tuple[int, Values]],
    ) -> None:
        name = _name(table)
        columns = "".join(f', "{column}"' for column in table.search)
        marks = ", ?" * len(table.search)
        with self.noticing(table), _flushed(transaction):
            transaction.executemany(
                f'INSERT INTO "{name}"("{name}", rowid{columns}) VALUES (\'delete\', ?{marks})',  # noqa: S608
                [(row, *table.texts_of(values)) for row, values in old],
            )
            transaction.executemany(
                f'INSERT INTO "{name}"(rowid{columns}) VALUES (?{marks})',  # noqa: S608
                [(row, *table.texts_of(values)) for row, values in new],
            )

    @staticmethod
    def _rows(transaction: SQLiteTransaction, table: Table[Any]) -> Iterator[tuple[int, Values]]:
        """The rows that wait, with their numbers."""
        columns = ", ".join(f'"{column.name}"' for column in table.columns)
        waiting = f'SELECT row FROM "{_waiting(table)}"'  # noqa: S608
        sql = f'SELECT _row, {columns}, _position FROM "{table.name}" WHERE _row IN ({waiting})'  # noqa: S608
        return ((number, tuple(values)) for number, *values in transaction.execute(sql).fetchall())

    def condition(self, transaction: SQLiteTransaction, table: Table[Any], wanted: Wanted) -> tuple[str, list[Any]]:
        """What of a WHERE clause finds the rows, and what is bound to it."""
        name = _name(table)
        waited = [row for row, values in self._rows(transaction, table) if _holds(table, values, wanted)]
        more = "".join(f" UNION ALL SELECT {row}" for row in waited)
        return f'_row IN (SELECT rowid FROM "{name}" WHERE "{name}" MATCH ?{more})', [expression(wanted)]  # noqa: S608

    @contextmanager
    def noticing(self, table: Table[Any]) -> Iterator[None]:
        """A part in which damage to the index may show.

        Raises:
            StaleProjection: it did.
        """
        try:
            yield
        except Exception as error:
            if not getattr(error, "sqlite_errorname", "").startswith(_DAMAGE):
                raise
            raise StaleProjection(table.name, f"has a damaged full-text index ({error})") from error

    def vocabulary(self, transaction: SQLiteTransaction, table: Table[Any]) -> Iterator[Spread]:
        """See `tables.Tables`. Rows are told apart by `_position`: their numbers differ from index to index."""
        if table.search:
            both = heapq.merge(self._indexed(transaction, table), self._waited(transaction, table), key=_by_word)
            for word, found_in in groupby(both, attrgetter("word")):
                parts = [*found_in]
                yield Spread(word, sum(part.places for part in parts), sum(part.where for part in parts))

    def _waited(self, transaction: SQLiteTransaction, table: Table[Any]) -> Iterator[Spread]:
        """The words of the rows that wait, in order, each place by itself; numbers as in `_indexed`."""
        columns = [1 + ",".join(table.search).index(name) for name in table.search]
        spreads = [
            Spread(word, 1, (values[-1] * 1_000_003 + offset * 31 + column) % 2_147_483_647)
            for _, values in self._rows(transaction, table)
            for column, text in zip(columns, table.texts_of(values), strict=True)
            for offset, word in enumerate(text.split())
        ]
        return iter(sorted(spreads, key=_by_word))

    def _indexed(self, transaction: SQLiteTransaction, table: Table[Any]) -> Iterator[Spread]:
        """The words of the index itself, in order."""
        name = f"words_{secrets.token_hex(4)}"
        column = f"instr('{','.join(table.search)}', col)"
        with self.noticing(table):
            transaction.execute(
                f"CREATE VIRTUAL TABLE temp.\"{name}\" USING fts5vocab('main', '{_name(table)}', 'instance')"
            )
            try:
                yield from (
                    Spread(*row)
                    for row in transaction.execute(
                        f'SELECT term, count(*), sum((_position * 1000003 + "offset" * 31 + {column}) % 2147483647) '  # noqa: S608
                        f'FROM temp."{name}" JOIN "{table.name}" ON _row = doc GROUP BY term ORDER BY term'
                    )
                )
            finally:
                transaction.execute(f'DROP TABLE temp."{name}"')

    @staticmethod
    def _stands(transaction: SQLiteTransaction, name: str) -> bool:
        return transaction.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (name,)).fetchone() is not None


@contextmanager
def _flushed(transaction: SQLiteTransaction) -> Iterator[None]:
    """A part at whose end FTS5 writes what it holds back, or the part is undone. The log's own savepoints are more."""
    transaction.execute("SAVEPOINT words")
    try:
        yield
        transaction.execute("SAVEPOINT written")  # at its beginning, and not at the end of one, FTS5 writes
        transaction.execute("RELEASE words")
    except BaseException:
        if transaction.open:
            transaction.execute("ROLLBACK TO words")
            transaction.execute("RELEASE words")
        raise


def _by_word(spread: Spread) -> bytes:
    return spread.word.encode()


def _holds(table: Table[Any], values: Values, wanted: Wanted) -> bool:
    return found(wanted, [text.split() for text in table.texts_of(values)])


def _name(table: Table[Any]) -> str:
    return f"{table.name}__search"


def _waiting(table: Table[Any]) -> str:
    return f"{table.name}__waiting"


def _definition_of_waiting(table: Table[Any]) -> str:
    return f'CREATE TABLE "{_waiting(table)}"(row INTEGER PRIMARY KEY) STRICT'


def _definition(table: Table[Any]) -> str:
    columns = ", ".join(f'"{name}"' for name in table.search)
    # columnsize=0: the lengths of texts are for ranking, and the order here is the caller's.
    return f"CREATE VIRTUAL TABLE \"{_name(table)}\" USING fts5({columns}, content='', columnsize=0, tokenize='ascii')"
