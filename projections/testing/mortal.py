"""A handle on a log that dies when told to, as a process does: at its n-th write, before the commit or after it.

A process that is killed cannot tell which it was; a test must be able to. So what was committed is told to
`committed`, whoever died since, and what was not is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from eventstore.log import Entry, Log, Snapshot, Writing

T = TypeVar("T")


class Killed(BaseException):
    """The process ended here. No `except Exception` catches it, as none catches SIGKILL."""


class MortalLog:
    """A log handle of a process that may be killed.

    Args:
        log: the handle underneath; its other attributes show through.
        committed: called with the entries of each transaction after it was committed.
    """

    def __init__(self, log: Log, committed: Callable[[Sequence[Entry]], None] = lambda _entries: None) -> None:
        self.inner = log
        self._committed = committed
        self._doomed_in: int | None = None
        self._after_commit = False
        self._meanwhile: Callable[[], object] | None = None
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def doom(self, write: int, *, after_commit: bool) -> None:
        """Die at the n-th write from here (1 is the next one): before its commit, or right after it."""
        self._doomed_in, self._after_commit = write, after_commit

    def spare(self) -> None:
        """Take a doom back that has not come, and what was to happen meanwhile."""
        self._doomed_in = self._meanwhile = None

    def meanwhile(self, happens: Callable[[], object]) -> None:
        """Let something happen between the look and the next write of this handle, as another process would."""
        self._meanwhile = happens

    def reading(self) -> AbstractContextManager[Snapshot]:
        """See `log.Log`; the dead see nothing."""
        if self.dead:
            raise Killed
        return self.inner.reading()

    def write(self, job: Callable[[Writing], T], *, shared: bool = False) -> T:
        """See `log.Log`; the dead write nothing."""
        if self.dead:
            raise Killed
        happens, self._meanwhile = self._meanwhile, None
        if happens is not None:
            happens()
        if self._doomed_in is not None:
            self._doomed_in -= 1
        last = self._doomed_in == 0
        written: list[Entry] = []

        def witnessed(transaction: Writing) -> T:
            result = job(cast("Writing", _Witness(transaction, written)))
            if last and not self._after_commit:
                self.dead = True
                raise Killed
            return result

        result = self.inner.write(witnessed, shared=shared)
        if written:
            self._committed(written)
        if last:
            self.dead = True
            raise Killed
        return result

    def wait(self, position: int, timeout: float) -> bool:
        """See `log.Log`."""
        return self.inner.wait(position, timeout)

    def close(self) -> None:
        """See `log.Log`."""
        self.inner.close()


class _Witness:
    """A write transaction that remembers what was inserted; all else is the transaction's own."""

    def __init__(self, transaction: Writing, written: list[Entry]) -> None:
        self._transaction = transaction
        self._written = written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)

    def insert(self, entries: Sequence[Entry]) -> None:
        self._transaction.insert(entries)
        self._written += entries

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        before = len(self._written)
        try:
            with self._transaction.savepoint():
                yield
        except BaseException:
            del self._written[before:]
            raise
