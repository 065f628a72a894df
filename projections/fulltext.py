"""The full-text index of a table in SQLite: an FTS5 table beside it, `NAME__search`, in the same transactions.

It holds no text of its own (`content=''`): text stands in the rows. It is given words that `searching` made, with the
one tokenizer of FTS5 that has no opinion about any sign beyond ASCII, so that it cannot disagree with the memory
backend about what a word is. Its rows are numbered as the table's are, by a column of their own, `_row`.

A damaged index must not cost a fact. FTS5 may find damage as late as in COMMIT, so what is written here is flushed at
once, by a savepoint, and damage that shows is the projection's: it halts, and the log goes on.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from eventstore.errors import StaleProjection
from projections.searching import expression
from projections.tables import Spread

if TYPE_CHECKING:
    from eventstore.sqlite import SQLiteTransaction
    from projections.searching import Wanted
    from projections.tables import Table, Values

_PARTS = ("data", "idx", "config")
"""The tables that FTS5 keeps an index in, by the ends of their names."""
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
    """

    def __init__(self, *, supported: bool | None = None) -> None:
        self._supported = supported

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

    def drop(self, transaction: SQLiteTransaction, table: Table[Any]) -> None:
        """Take the index away, if it is there."""
        if not table.search or not self.supported(transaction):
            return
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
        if not table.search or not self.supported(transaction) or not self._stands(transaction, table):
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
        parts = {_name(table), *(f"{_name(table)}_{part}" for part in _PARTS)}
        marks = ", ".join("?" * len(parts))
        found = transaction.execute(
            f"SELECT type, name, sql FROM sqlite_schema WHERE tbl_name IN ({marks})",  # noqa: S608
            (*parts,),
        ).fetchall()
        tables = {name: sql for kind, name, sql in found if kind == "table"}
        if tables.keys() != parts:
            return "has no full-text index, or but a part of it"
        # Not its name: a rebuild's RENAME spells that anew.
        if tables[_name(table)].partition("USING")[1:] != _definition(table).partition("USING")[1:]:
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

        Raises:
            StaleProjection: the index is damaged, or there can be none.
        """
        if not self.supported(transaction):
            raise StaleProjection(table.name, _MISSING)
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
        if not table.search:
            return
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

    def _stands(self, transaction: SQLiteTransaction, table: Table[Any]) -> bool:
        found = transaction.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (_name(table),))
        return found.fetchone() is not None


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


def condition(table: Table[Any], wanted: Wanted) -> tuple[str, list[Any]]:
    """What of a WHERE clause finds the rows, and what is bound to it."""
    name = _name(table)
    return f'_row IN (SELECT rowid FROM "{name}" WHERE "{name}" MATCH ?)', [expression(wanted)]  # noqa: S608


def _name(table: Table[Any]) -> str:
    return f"{table.name}__search"


def _definition(table: Table[Any]) -> str:
    columns = ", ".join(f'"{name}"' for name in table.search)
    # columnsize=0: the lengths of texts are for ranking, and the order here is the caller's.
    return f"CREATE VIRTUAL TABLE \"{_name(table)}\" USING fts5({columns}, content='', columnsize=0, tokenize='ascii')"
