"""SQLiteLog: a file that is opened, looked at, read by a pool of connections and written by one (`writer`).

Writing goes through `commits`, where concurrent callers share a transaction, and always with BEGIN IMMEDIATE: a
deferred one that reads and then writes fails under a concurrent writer, whatever the busy timeout. Each reader has a
snapshot of its own.

While any connection is open in this process, the database file is never opened by other means, not even to copy it:
closing such a handle drops SQLite's POSIX locks, and another process takes the write lock.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from eventstore.blobfiles import BlobFiles
from eventstore.ciphers import AES256GCM, Cipher
from eventstore.commits import Commits
from eventstore.errors import CannotOpen, ForkedStore, InvalidArgument, LostTail, OutcomeUnknown, StoreClosed, WrongKey
from eventstore.files import Files, OperatingSystem, boot_id
from eventstore.integrity import genesis
from eventstore.limits import check_seconds
from eventstore.log import Loss, Member
from eventstore.segments import Archive
from eventstore.sqlite import unlocking
from eventstore.sqlite.driver import (
    CHANGED,
    PLAIN,
    Connection,
    Mode,
    Synchronous,
    connection_to,
    explained,
    failures,
    not_ours,
)
from eventstore.sqlite.examining import Facts, examine, facts, vacuumed
from eventstore.sqlite.members import HalfDone
from eventstore.sqlite.opening import find, keep_wal, prepare, roll_back
from eventstore.sqlite.schema import identity_of, schema_version
from eventstore.sqlite.transaction import SQLiteSnapshot, SQLiteTransaction
from eventstore.sqlite.unlocking import Key
from eventstore.sqlite.witness import WitnessFile
from eventstore.sqlite.writer import Writer

if TYPE_CHECKING:
    from eventstore.watching import Watch

T = TypeVar("T")

_POLL = 0.02
"""Seconds between two looks for what other processes wrote."""


class SQLiteLog:
    """A log in one SQLite file.

    Args:
        path: the database file; its folder must exist.
        create: make the file, readable by its owner only, where there is none.
        read_only: never write, not even to migrate.
        synchronous: "FULL" syncs each commit; "NORMAL" may lose the last commits when the power goes, never their
            order and nothing in the middle.
        busy_timeout: seconds to wait for another process's lock.
        accept_loss: open although acknowledged entries are gone, which `loss` then tells; better than True is the name
            of who accepts it.
        files: the port for file work.
        identity: the id of a log that is made here: of the one that it is to be a copy of; its own unless given.
        key: 32 random bytes, or a passphrase, for an encrypted database; needs `runfold[encryption]`.
        data_key: as `identity`, the key of the files beside it.

    Raises:
        CannotOpen: no such folder or file, not a database, or another program's.
        WrongKey: it does not open with this key.
        NewerDatabase: written by a newer release.
        DatabaseBusy: locked for longer than `busy_timeout`.
        LostTail: acknowledged entries are gone; nothing was written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = True,
        read_only: bool = False,
        synchronous: Synchronous = "FULL",
        busy_timeout: float = 60.0,
        accept_loss: bool | str = False,
        files: Files | None = None,
        identity: str | None = None,
        key: Key | None = None,
        data_key: bytes | None = None,
    ) -> None:
        self._secret = unlocking.Secret.checked(key, str(path))
        if synchronous not in ("FULL", "NORMAL"):
            raise InvalidArgument("synchronous", synchronous, "must be 'FULL' or 'NORMAL'")
        self.url = str(path)
        self.read_only = read_only
        self.loss: Loss | None = None
        """What a witness says is gone, where opening went on all the same; the store records it as an event."""
        self.remarks: tuple[str, ...] = ()
        self.watch: Watch | None = None
        # Absolute at once: the process may change its folder before the next reader is opened. And the file itself, not
        # a link to it: SQLite keeps the WAL beside the file, and there must be one witness, whoever opens it how.
        self._path = Path(path).resolve() if Path(path).exists() else Path(path).absolute()
        self._synchronous = synchronous
        self._busy_timeout = check_seconds("busy_timeout", busy_timeout)
        self._mode: Mode = "ro" if read_only else "rw"
        self._files = files or OperatingSystem()
        self.blobs = BlobFiles(self._path.with_name(self._path.name + "-blobs"), self._files)
        self._process = os.getpid()
        self._commits = Commits(self._commit)
        self._closing, self._rekeying = threading.Lock(), threading.Lock()
        self._grown = threading.Condition()
        self._waiting = 0
        self._idle: list[Connection] = []
        self._closed = False
        find(self._path, self.url, self._files, create=create and not read_only, read_only=read_only)
        made = not self._path.stat().st_size  # with a key it is given its first page, which holds nothing else
        self._access = (unlocking.access_to if read_only else unlocking.begun)(self._path, self.url, key, busy_timeout)
        roll_back(self._path, lambda: self._open("rw"))
        young = made or not self._path.stat().st_size
        self._witness = WitnessFile(self._path, self._files, synchronous, boot_id())
        try:
            self._look_for_loss(accept_loss=accept_loss, young=young)
        except CannotOpen:
            if not roll_back(self._path, lambda: self._open("rw")):
                raise
            self._look_for_loss(accept_loss=accept_loss, young=young)  # another was killed since, as he closed it
        connection = self._open()
        try:
            self._rests = prepare(
                connection, self.url, busy_timeout, read_only=read_only, identity=identity, data_key=data_key
            )
            self.id: str = identity_of(connection, self.url)
            self._data_key = unlocking.needed_data_key(connection, self.url)
            self._witness.veil(self._data_key)
            self.blobs.cipher = self.cipher
        except BaseException:
            connection.close()
            raise
        self._genesis = genesis(self.id)
        self.archive = self._archive_of(self.id)
        self._writer = Writer(
            connection, self._open, url=self.url, timeout=busy_timeout, genesis=self._genesis, archive=self.archive
        )

    # --- opening ------------------------------------------------------------------------------------------------

    def _open(self, mode: Mode | None = None) -> Connection:
        connection = connection_to(
            self._path, self.url, mode=mode or self._mode, synchronous=self._synchronous, timeout=self._busy_timeout,
            access=self._access,
        )  # fmt: skip
        connection.blobs = self.blobs
        return connection

    def _look_for_loss(self, *, accept_loss: bool | str, young: bool) -> None:
        """Hold the witness, read first, against the head; through a connection that cannot write."""
        witness = self._witness.read()
        if witness is None:
            self.remarks = () if young else self._witness.remarks  # a new file has none yet
            return
        connection = self._open("ro")
        try:
            if schema_version(connection, self.url):
                connection.execute("BEGIN")
                log_id = identity_of(connection, self.url)
                self._data_key = unlocking.data_key(connection)
                self._witness.veil(self._data_key)
                view = SQLiteTransaction(connection, genesis(log_id), archive=self._archive_of(log_id))
                loss = self._witness.loss(witness, log_id, view)
            else:  # a young log stands in its WAL whole, schema and all; an empty file has only just been made
                loss = None if young else self._witness.all_gone(witness)
            self.remarks = self._witness.remarks
            if loss is None:
                return
            if not (accept_loss or loss.promised):
                kept = keep_wal(self._path, self._files, witness.position)
                raise LostTail(self.url, loss.expected, loss.found, kept)
            self.loss = attrs.evolve(loss, by=accept_loss if isinstance(accept_loss, str) else None)
        except failures() as error:
            raise explained(error, self.url, self._busy_timeout) from error
        finally:
            connection.close()

    def _archive_of(self, log_id: str) -> Archive:
        return Archive(self._files, self._path.with_name(self._path.name + "-archive"), log_id, lambda: self.cipher)

    def copied_to(self, path: Path, *, create: bool = True, read_only: bool = False, **key: Any) -> SQLiteLog:
        """Open the log in another file that is a copy of this one, or becomes it: it is the same log, opened likewise.

        With `key=` it is encrypted anew, with None not at all.

        Raises:
            CannotOpen, NewerDatabase, DatabaseBusy, LostTail: as for opening any.
        """
        alike: dict[str, Any] = {"busy_timeout": self._busy_timeout, "files": self._files, "identity": self.id}
        key = key or {"key": self._secret.key, "data_key": self._data_key}
        return SQLiteLog(path, create=create, read_only=read_only, **alike, **key)

    @property
    def encrypted(self) -> bool:
        """Whether it was opened with a key."""
        return self._access.driver is not PLAIN

    @cached_property
    def cipher(self) -> Cipher | None:
        """What closes and opens the files that stand beside an encrypted database; None beside a plain one."""
        return None if self._data_key is None else AES256GCM(self._data_key, self.url)

    # --- reading ------------------------------------------------------------------------------------------------

    def reading(self) -> SQLiteSnapshot:
        """See `log.Log`."""
        self._usable()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._open()
            if self._data_key is None or unlocking.begins_to_read(connection):
                return SQLiteSnapshot(connection, self._genesis, self.archive, self._read)
            with self._rekeying:  # until it is known whether it was we who changed the key
                if connection.access is self._access:
                    raise WrongKey(self.url, CHANGED)

    def _read(self, connection: Connection, error: BaseException | None) -> None:
        """A reader's block was left."""
        if error is not None and isinstance(error, failures()):
            since = ": its key was changed meanwhile" if self.encrypted and not_ours(error) else ""
            error.add_note(f"while reading {self.url}{since}")
        try:
            if connection.in_transaction:
                connection.run("ROLLBACK")
        except failures():  # what ended the block is to be told
            pass
        finally:
            self._idle.append(connection)
            if self._closed or connection.access is not self._access:  # since, by another thread
                self._close_idle()

    def wait(self, position: int, timeout: float) -> bool:
        """See `log.Log`: woken by this process's commits, and looking every 20 ms for those of others."""
        deadline = time.monotonic() + timeout
        with self._grown:
            self._waiting += 1  # before the look: whoever commits after it knows of us
        try:
            while not self._closed:
                with self.reading() as view:
                    if view.head().position > position:
                        return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                with self._grown:
                    self._grown.wait(min(left, _POLL))
        finally:
            with self._grown:
                self._waiting -= 1
        return False

    def facts(self) -> Facts:
        """What the database and its driver are."""
        with self.reading() as view:
            return facts(view, self._path, self._access.driver)

    def examine(self) -> list[str]:
        """SQLite's own checks of the whole file; what they find, in SQLite's words."""
        with self.reading() as view:
            return examine(view)

    def vacuum(self) -> int:
        """See `log.Log`: SQLite writes the database anew, for which there must be room beside it."""
        self._writable()
        with self._commits.turn():
            self._writer.settle()
            with self._writer.patient() as connection:
                return vacuumed(connection, self._path, self.url, self._busy_timeout)

    # --- writing ------------------------------------------------------------------------------------------------

    def write(self, job: Callable[[SQLiteTransaction], T], *, shared: bool = False) -> T:
        """See `log.Log`.

        Raises:
            OutcomeUnknown: the disk failed in the COMMIT; ask `resolve`, or append again under the same key.
        """
        self._writable()
        if shared:
            return self._commits.write(job)  # type: ignore[no-any-return]
        member = Member(job)
        with self._commits.turn():
            self._commit((member,))
        return member.outcome()  # type: ignore[no-any-return]

    def submit(self, members: Sequence[Member]) -> None:
        """See `log.Log`."""
        self._commits.refuse_inside()
        self._writable()
        self._commits.submit(members)

    def withdraw(self, member: Member) -> bool:
        """See `log.Log`."""
        return self._commits.withdraw(member)

    def resolve(self, position: int, digest: bytes) -> bool:
        """Whether the transaction that ended in this entry stands, after an `OutcomeUnknown`. The answer is final."""
        self._usable()
        try:
            with self._commits.turn():
                self._writer.settle()
        except failures() as error:
            raise OutcomeUnknown(self.url, position, digest, str(error)) from error
        with self.reading() as view:
            return view.hash_at(position) == digest

    def _usable(self) -> None:
        if self._process != os.getpid():
            raise ForkedStore(self.url)
        if self._closed:
            raise StoreClosed

    def _writable(self) -> None:
        if self.read_only:  # SQLite itself would say so at the first INSERT only
            raise CannotOpen(self.url, "it may not be written: it was opened read-only; connect without read_only")
        self._usable()

    def _commit(self, members: Sequence[Member]) -> None:
        """Run the members' jobs in one transaction and commit it; what is raised here is every member's."""
        writer, watch = self._writer, self.watch
        writer.settle()
        connection = writer.connection
        begun = 0.0 if watch is None else watch.clock()
        try:
            transaction, lasts = writer.performed(connection, members, apart=False)
        except HalfDone:
            transaction, lasts = writer.performed(connection, members, apart=True)
        ready = 0.0 if watch is None else watch.clock()
        try:
            connection.run("COMMIT")
        except failures() as error:
            writer.poisoned(members, lasts, transaction.last, error)
            return
        writer.name = transaction.after
        if transaction.last is not None:
            self._witness.saw(self.id, transaction.last)
        if self._waiting:
            with self._grown:
                self._grown.notify_all()
        if watch is not None:
            watch.committed(transaction, len(members), begun, ready)

    # --- another key --------------------------------------------------------------------------------------------

    def rekey(self, key: Key) -> bool:
        """See `log.Log`. Other processes are told when they next read or write, and write nothing."""
        self._writable()
        secret = unlocking.Secret.renewed(key, self.url, self._access)
        with self._commits.turn():
            self._writer.settle()
            connection = self._open()
            self._writer.begin(connection)  # so that who holds the lock is told of in our words
            connection.run("ROLLBACK")
            with self._rekeying:
                access = unlocking.change(connection, secret, self._path, self.url, self._busy_timeout)
                connection.close()  # or it goes on holding the lock, where it failed
                old = self._writer.parted()
                if access is not None:
                    self._access, self._secret = access, secret
            self._writer.settle()
            old.close()
            self._close_idle()
            if access is None:
                raise CannotOpen(self.url, "its key was not changed: the disk failed or is full; the old one holds")
            with self._writer.patient() as writer:
                return not writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]

    # --- closing ------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """See `log.Log`."""
        return self._closed

    def close(self) -> None:
        """See `log.Log`. In a forked child it only forgets: the connections are the parent's.

        A file that was found at rest, as the copy in a backup is, is left so.
        """
        if self._process != os.getpid():
            self._closed = True
            return
        self._commits.close()
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._witness.close()
            self._close_idle()
            self._writer.close(resting=self._rests)
        with self._grown:
            self._grown.notify_all()

    def rest(self) -> None:
        """Close, and leave one plain file where nobody else has it open: it is read without a file beside it.

        So a backup may lie on a medium that cannot be written. Who opens it to write brings the WAL back till its end.
        """
        self._rests = True
        self.close()

    def _close_idle(self) -> None:
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().close()
