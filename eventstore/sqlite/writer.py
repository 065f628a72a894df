"""Writer: the one connection that writes, from BEGIN to the COMMIT, and what to do when nobody knows how that ended.

It begins, runs the members' jobs, and names what stands afterwards, so that the next transaction sees whether anybody
else wrote in between. The COMMIT itself, and what follows one that stands, is the log's. A connection whose COMMIT
failed is put away; before the next transaction another one is opened, and what became of the first is settled by it.

It is used by one thread at a time: whoever has the turn (`commits`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from eventstore.errors import CannotOpen, OutcomeUnknown
from eventstore.packing import Bases
from eventstore.sqlite.driver import PLAIN, Connection, failures, is_locked, refuse, sqlite3
from eventstore.sqlite.members import Gathering, Undone, perform, refuse_undone
from eventstore.sqlite.transaction import SQLiteTransaction

if TYPE_CHECKING:
    from eventstore.log import Entry, Member
    from eventstore.segments import Archive

_POISONED: list[sqlite3.Connection] = []
"""Connections whose COMMIT failed. They are never closed in this process: closing might settle, behind our back and
either way, what `settle` settles in the open."""

_IMPATIENCE = 8
"""Milliseconds. Whoever finds the lock taken is put to sleep by SQLite for 1, 2, 5, 10, 15, 20, 25 ms …, ever longer:
one that was held for 34 ms let him in after 53, and one that others took again and again hardly ever. So it is asked
to give up after the first three, and begins with them again."""


def _wait(connection: Connection, seconds: float) -> None:
    connection.execute(f"PRAGMA busy_timeout = {min(int(seconds * 1_000), 2**31 - 1)}")


def _impatient(connection: Connection, timeout: float) -> Connection:
    _wait(connection, min(timeout, _IMPATIENCE / 1_000))
    return connection


class Writer:
    """The connection that writes to one log.

    Args:
        connection: the first one.
        connect: opens another one.
        url: of the log, for errors.
        timeout: seconds that it waits for a lock, for errors.
        genesis: the hash before the log's first entry.
        archive: its sealed days.
    """

    def __init__(
        self,
        connection: Connection,
        connect: Callable[[], Connection],
        *,
        url: str,
        timeout: float,
        genesis: bytes,
        archive: Archive,
    ) -> None:
        self.connection = _impatient(connection, timeout)
        self.name = object()
        """What names log and tables as the last transaction left them."""
        self.bases = Bases()
        self._connect = connect
        self._url = url
        self._timeout = timeout
        self._genesis = genesis
        self._archive = archive
        self._data_version: int | None = None
        self._unsettled = False
        self._settling: Connection | None = None

    def performed(
        self, connection: Connection, members: Sequence[Member], *, apart: bool
    ) -> tuple[SQLiteTransaction, list[Entry | None]]:
        """The members' jobs, run and not yet committed, and the last entry that each wrote."""
        before = object()
        try:
            self.begin(connection)  # in here: an interrupt that came while it waited for the lock is raised behind it
            before = self._taken(connection)
            shared = len(members) > 1 and not apart
            kind = Gathering if shared else SQLiteTransaction
            transaction = kind(connection, self._genesis, self.bases, before, self._archive)
            lasts = perform(transaction, members, apart=apart)
            transaction.before = before
            transaction.deferred.run(transaction)
            refuse_undone(transaction)
        except BaseException as error:
            with suppress(*failures()):
                connection.run("ROLLBACK")
                self.name = before
            if isinstance(error, Undone):
                reason = "the disk failed while it was written, and nothing was written; try again"
                raise CannotOpen(self._url, reason) from None
            if isinstance(error, failures()):
                error.add_note(f"while writing to {self._url}; nothing was written")
            raise
        return transaction, lasts

    def _taken(self, connection: Connection) -> object:
        """What names log and tables as they stand; until a job is known to have ended, they have no name any more."""
        version: int = connection.run("PRAGMA data_version").fetchone()[0]
        name, self.name = self.name, object()
        if version != self._data_version:  # another connection wrote since, whoever's it is
            self._data_version, name = version, object()
        return name

    def begin(self, connection: Connection) -> None:
        """Take the write lock by this connection.

        Raises:
            DatabaseBusy, WrongKey, CannotOpen: it was not to be had, and why.
        """
        try:
            if connection.in_transaction:  # an interrupt came before it could be undone
                connection.run("ROLLBACK")
            self._lock(connection)
        except failures("DatabaseError") as error:
            refuse(error, self._url, self._timeout, keyed=connection.access.driver is not PLAIN)
            raise

    def _lock(self, connection: Connection) -> None:
        """Ask for the lock until it is to be had: each time SQLite looks again after 1, 2 and 5 ms, and gives up."""
        begun = None
        while True:
            try:
                connection.run("BEGIN IMMEDIATE")
            except failures("OperationalError") as error:
                now = time.monotonic()
                begun = now if begun is None else begun
                if not is_locked(error) or now - begun >= self._timeout - _IMPATIENCE / 1_000:
                    raise
            else:
                return

    @contextmanager
    def patient(self) -> Iterator[Connection]:
        """The connection, for what has to wait for others in one go and not by `begin`."""
        _wait(self.connection, self._timeout)
        try:
            yield self.connection
        finally:
            _impatient(self.connection, self._timeout)

    # --- when a COMMIT fails ------------------------------------------------------------------------------------

    def poisoned(
        self, members: Sequence[Member], lasts: Sequence[Entry | None], last: Entry | None, error: Exception
    ) -> None:
        """Put the connection away: what it wrote may come back when the file is next opened, or may not."""
        _POISONED.append(self.connection)
        self._unsettled = True
        # A refusal too: it was judged on the results of members that may not stand.
        # An answer that rests on a neighbour's entry (the same key) stands or falls with the whole commit.
        for member, own in zip(members, lasts, strict=True):
            member.error = self._unknown(own if member.error else own or last, error)

    def _unknown(self, last: Entry | None, error: Exception) -> OutcomeUnknown:
        position, digest = (None, None) if last is None else (last.position, last.hash)
        return OutcomeUnknown(self._url, position, digest, str(error))

    def settle(self) -> None:
        """Make an unknown outcome a known one: open anew, and commit something that means nothing.

        While that fails, whoever wants to write is told the disk's error, and knows that nothing of his was written.

        A plain look is not enough. SQLite may bring the failed transaction back when the WAL is next recovered; only a
        later commit, durable in its place, leaves it for good either before itself or overwritten.
        """
        if not self._unsettled:
            return
        connection = self._settling or _impatient(self._connect(), self._timeout)
        self._settling = connection
        self.begin(connection)
        try:
            connection.execute("UPDATE log SET settled = settled + 1")
            connection.run("COMMIT")
        except failures() as error:
            with suppress(*failures()):
                connection.run("ROLLBACK")
            error.add_note(f"while settling an earlier commit to {self._url}; nothing was written")
            raise
        self.connection, self._settling, self._unsettled = connection, None, False

    # --- another connection -------------------------------------------------------------------------------------

    def parted(self) -> Connection:
        """Go on by another connection, as after a failed COMMIT; this one is given to the caller, who closes it."""
        self._unsettled, self.name = True, object()
        return self.connection

    def close(self, *, resting: bool = False) -> None:
        """Close the connection, unless it is not ours to close; resting, with no WAL, where nobody else needs one."""
        if self._unsettled:
            return
        if resting:
            with suppress(*failures()):
                self.connection.execute("PRAGMA journal_mode = DELETE")
        self.connection.close()
