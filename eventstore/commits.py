"""Commits that concurrent callers share: one sync of the disk for all who came while the last one was under way.

A caller who finds nobody at work commits by himself, in his own thread: a lone caller pays no hand-over. Who finds
somebody at work queues up, and a thread of ours, which lives only while there is a queue, takes all that waits into
the next commit. Work that must be alone (an import, a rebuild's chunk) takes turns with the queue, in its own thread.
What a commit is, and what one member's failure means for the others, is the backend's.

A lock alone will not do: it is not fair, who lets it go takes it again before any other wakes, and where the first
waiter takes along what stands behind it, 1.7 callers share a commit on average.

Who was answered mostly comes back at once with his next job. So our thread, when it has answered several, waits for as
many before it begins again, though never for longer than their commit took. Otherwise the first to come back has a
commit to himself, and the others wait for it: 64 threads then share commits of 1 and 63 in turn, in half of the pace,
and have the interpreter taken from each other and from the commit at every statement.
"""

from __future__ import annotations

import _thread
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from eventstore.errors import StoreClosed
from eventstore.log import Fold, Head, Member

LARGEST = 256
"""Members of one commit: beyond that, the first would wait longer for the last than for the disk."""
_MANY = 1_000
"""Items that wait for the commit, where no part may still be undone."""
_LINGER = 1.0
"""Seconds that our thread waits for another queue before it ends."""


class Deferred:
    """What is done once for all members, before their commit: the one place of a transaction where it is kept."""

    def __init__(self) -> None:
        self._items: dict[Fold, tuple[Head, list[Any]]] = {}
        self._parts = 0
        self.added = 0
        """How often something was."""

    def add(self, transaction: Any, fold: Fold, before: Head, items: Sequence[Any]) -> None:
        """Have `fold` called with these, after those of earlier members; `before` is the head before the first."""
        kept = self._items.setdefault(fold, (before, []))[1]
        kept.extend(items)
        self.added += 1
        if len(kept) > _MANY and not self._parts:  # an import: memory stays bounded
            self.run(transaction)

    def mark(self) -> dict[Fold, int]:
        """A part begins that may be undone."""
        self._parts += 1
        return {fold: len(items) for fold, (_, items) in self._items.items()}

    def kept(self) -> None:
        """The part has ended well."""
        self._parts -= 1

    def back_to(self, mark: dict[Fold, int]) -> None:
        """The part is undone, and what was added in it is forgotten."""
        self._parts -= 1
        self._items = {
            fold: (before, items[: mark[fold]]) for fold, (before, items) in self._items.items() if fold in mark
        }

    def run(self, transaction: Any) -> None:
        """Do it."""
        while self._items:
            fold = next(iter(self._items))
            fold(transaction, *self._items.pop(fold))


class Commits:
    """The queue of one backend's handle.

    Args:
        commit: runs the members' jobs in one transaction, in order, and leaves in each what became of it. What it
            raises itself becomes the error of every member.
    """

    def __init__(self, commit: Callable[[Sequence[Member]], None]) -> None:
        self._commit = commit
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._queue: deque[Member] = deque()
        self._busy = False
        self._turns = 0
        """Callers who wait to be alone."""
        self._turn_next = False
        """Whether, of queue and turns, it is the turns' time."""
        self._thread: threading.Thread | None = None
        self._closed = False
        self._working: int | None = None
        self._expected = 0
        """So many were answered together, and may be back at any moment; 0 when nobody is waited for."""
        self._expected_until = 0.0

    def write(self, job: Callable[[Any], Any]) -> Any:
        """Commit a job, alone or with others'; what it returned, once that is durable.

        An interrupt that comes before the job began takes it out of the queue, so that nothing was written; one that
        comes later is raised when the outcome is known, with a note that tells it.

        Raises:
            StoreClosed: after `close`.
            RuntimeError: from inside a job, which would wait for itself.
        """
        self.refuse_inside()
        member = Member(job)
        alone = False  # said before it is so: an interrupt may come anywhere
        try:
            with self._lock:
                if alone := not (self._busy or self._queue or self._turns or self._expected):
                    self._begin()
                else:
                    self._open_queue(1)
                    member.lock = lock = _held_lock()
                    self._queue.append(member)
            if alone:
                self._commit((member,))
            else:
                lock.acquire()
        except BaseException as interrupt:
            if not (alone or self.withdraw(member)) and member.begun:
                if not member.settled:
                    lock.acquire()
                told = "it was committed" if member.error is None else f"it was not: {member.error}"
                interrupt.add_note(f"an append was under way; {told}")
            raise
        finally:
            if alone:
                self._end()
        return member.outcome()

    def submit(self, members: Sequence[Member]) -> None:
        """Queue jobs up and return at once; each member's `done` is called when there is an outcome.

        Raises:
            StoreClosed: after `close`.
        """
        with self._lock:
            self._open_queue(len(members))
            self._queue.extend(members)

    def withdraw(self, member: Member) -> bool:
        """Take a job out of the queue; False if it has been begun, and what becomes of it must be waited for."""
        with self._lock:
            try:
                self._queue.remove(member)
            except ValueError:
                return False
            return True

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be alone for the time of the block; whoever comes meanwhile waits.

        Raises:
            StoreClosed, RuntimeError: as for `write`.
        """
        self.refuse_inside()
        begun = False  # said before it is so: an interrupt may come anywhere
        try:
            with self._lock:
                self._turns += 1
                try:
                    while self._busy or (self._queue and not self._turn_next):
                        self._changed.wait()
                    begun = True
                    self._begin()
                finally:
                    self._turns -= 1
            yield
        finally:
            if begun:
                self._end(turn_next=False)

    def close(self) -> None:
        """Wait for what is queued, and refuse what comes; the second time it does nothing."""
        self.refuse_inside()
        with self._lock:
            self._closed = True
            while self._busy or self._queue:
                self._changed.wait()
            self._changed.notify_all()

    def refuse_inside(self) -> None:
        """Refuse a write inside a write of one thread."""
        if self._working == _thread.get_ident():
            raise RuntimeError("a write inside a write of one thread would wait for itself; append before or after it")

    # --- under the lock -----------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._closed:
            raise StoreClosed
        me = _thread.get_ident()
        self._working, self._busy = me, True  # with no call between them, so that no interrupt parts them

    def _open_queue(self, more: int) -> None:
        if self._closed:
            raise StoreClosed
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="runfold commits", daemon=True)
            thread.start()  # first: where there is no thread to be had, nothing is queued
            self._thread = thread
        elif not self._busy and len(self._queue) + more >= self._expected:
            self._changed.notify_all()

    def _end(self, *, turn_next: bool = True) -> None:
        me = _thread.get_ident()
        with self._lock:
            if self._working == me:  # else it was refused before it began, and somebody else may be at work
                self._working, self._busy = None, False
            self._turn_next = turn_next and self._turns > 0
            if self._queue or self._turns or self._closed:
                self._changed.notify_all()

    # --- our thread ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while batch := self._next():
            begun = time.monotonic()
            try:
                self._commit(batch)
            except BaseException as error:  # noqa: BLE001 - it is every member's, and none of ours
                for member in batch:
                    member.error = error
            finally:
                self._expect(batch, time.monotonic() - begun)
                self._end()
            _tell(batch)

    def _expect(self, batch: Sequence[Member], taken: float) -> None:
        """Say that those threads may be back at once. The tasks of a loop come together as they are."""
        threads = sum(member.lock is not None for member in batch)
        with self._lock:
            self._expected = threads if threads > 1 else 0
            self._expected_until = time.monotonic() + taken

    def _await_those_answered(self) -> None:
        while len(self._queue) < self._expected and not (self._busy or self._turns or self._closed):
            left = self._expected_until - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                break
        self._expected = 0

    def _next(self) -> list[Member]:
        with self._lock:
            self._await_those_answered()
            while self._busy or not self._queue or (self._turns and self._turn_next):
                ended = self._closed and not (self._busy or self._queue)
                if ended or not (self._changed.wait(_LINGER) or self._busy or self._queue):
                    self._thread = None
                    return []
            self._busy = True
            self._working = _thread.get_ident()
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), LARGEST))]
            for member in batch:
                member.begun = True
            return batch


def _held_lock() -> _thread.LockType:
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock


def _tell(batch: Sequence[Member]) -> None:
    told: dict[Callable[[Sequence[Member]], None], list[Member]] = {}
    for member in batch:
        if member.lock is not None:
            member.settled = True
            member.lock.release()
        if member.done is not None:
            told.setdefault(member.done, []).append(member)
    for done, members in told.items():
        try:
            done(members)
        except Exception:  # noqa: BLE001 - theirs, and it costs nobody else his answer, nor the queue its thread
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
