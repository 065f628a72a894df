"""The members of one commit: each caller's job run in the same transaction, after those who came before.

One that is refused leaves its neighbours alone. One whose disk fails takes all along, for SQLite then undoes all that
was written; so does one that swallows such a failure, or what comes after it would be on its own.

Their entries are written together, when all have been judged: see `Gathering`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from eventstore.sqlite.driver import failures
from eventstore.sqlite.transaction import SQLiteTransaction

if TYPE_CHECKING:
    from eventstore.log import Entry, Member


class HalfDone(Exception):
    """One of several jobs raised after it had written, and only all of them can be undone."""


class Undone(Exception):
    """SQLite undid the transaction, and no job said so."""


class Gathering(SQLiteTransaction):
    """The transaction of several members: their entries are held back until all are judged, or somebody looks.

    An INSERT right behind another takes 3 µs. Between two jobs it takes 10: what they need has then taken its place in
    the processor's caches. Every statement but the INSERT itself finds all that was inserted before it.
    """

    def __init__(self, *begun: Any) -> None:
        super().__init__(*begun)
        self.failed = False
        """Whether something held back could not be written: then this transaction is never committed."""
        self.waiting: list[Entry] = []
        self._gathered = 0
        self._changes = 0
        """Rows that were changed by writing what was held back, and not by the job that made us write it."""
        self.execute, self.executemany, self.run = map(self._behind, (self.execute, self.executemany, self.run))

    def _behind(self, statement: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            if self.waiting:
                self.flush()
            return statement(*arguments)

        return run

    def insert(self, entries: Sequence[Entry]) -> None:
        """See `log.Writing`."""
        self._gathered += 1  # first: whatever comes between, a member that has anything waiting has written
        self.waiting += entries
        self.last = entries[-1]

    def flush(self) -> None:
        """Write what was held back."""
        failed, self.failed = self.failed, True  # until it is not, whatever comes between
        waiting, self.waiting = self.waiting, []
        last = self.last
        before = self._connection.total_changes
        super().insert(waiting)
        self.last = last  # where a part is undone, what waits is written only to go with it
        self.failed = failed
        self._changes += self._connection.total_changes - before

    def written(self) -> object:
        """As ever; what others left to be written is not this one's."""
        return self._connection.total_changes - self._changes, self.deferred.added, self._gathered, self.failed


def perform(transaction: SQLiteTransaction, members: Sequence[Member], *, apart: bool) -> list[Entry | None]:
    """Run the members' jobs; the last entry that each wrote.

    Args:
        transaction: begun.
        members: in the order of their coming; each holds its result or error afterwards.
        apart: each in a savepoint of its own. Without, an INSERT costs half as much.

    Raises:
        HalfDone: one raised after it had written, and had no savepoint.
        Undone: the disk failed under a job that said nothing of it.
        BaseException: what a lone member raised, or a failing disk.
    """
    if len(members) == 1:  # most commits, where many do not write at once
        (member,) = members
        member.result = member.job(transaction)
        refuse_undone(transaction)
        return [transaction.last]
    one = _apart if apart else _together
    lasts: list[Entry | None] = []
    for member in members:
        last = transaction.last
        one(transaction, member)
        lasts.append(None if transaction.last is last else transaction.last)
        refuse_undone(transaction)
    if isinstance(transaction, Gathering):
        _flushed(transaction)
    return lasts


def _flushed(transaction: Gathering) -> None:
    """Write what is held back yet; where a row is refused, each member is to be told of its own."""
    if transaction.waiting:
        try:
            transaction.flush()
        except Exception as error:
            if not transaction.open:  # SQLite has undone what all of them wrote: the disk's error is everybody's
                raise
            raise HalfDone from error
    if transaction.failed:  # and a job said nothing of it
        raise HalfDone


def refuse_undone(transaction: SQLiteTransaction) -> None:
    """Refuse to go on where SQLite has undone the transaction without anybody saying so."""
    if not transaction.open:
        raise Undone


def _together(transaction: SQLiteTransaction, member: Member) -> None:
    """Run one of several jobs. One that raises has written nothing yet, as a rule, and leaves its neighbours alone.

    So none gets a savepoint, within which an INSERT costs twice as much; where one has written, all begin anew.
    """
    written, after = transaction.written(), transaction.after
    transaction.after = object()
    try:
        member.error = None
        member.result = member.job(transaction)
    except BaseException as error:
        _own(transaction, member, error)
        if transaction.written() != written:
            raise HalfDone from error
        transaction.after = after
    else:
        transaction.before = transaction.after


def _apart(transaction: SQLiteTransaction, member: Member) -> None:
    """Run one of several jobs in a savepoint of its own."""
    try:
        member.error = None
        with transaction.savepoint():
            member.result = member.job(transaction)
    except BaseException as error:  # noqa: BLE001 - the member's, whatever it is
        _own(transaction, member, error)


def _own(transaction: SQLiteTransaction, member: Member, error: BaseException) -> None:
    """An error is its member's own, unless the disk failed and SQLite has undone what all of them wrote."""
    if not transaction.open:
        raise error
    if isinstance(error, failures()):
        error.add_note("nothing of it was written")
    member.error = error
