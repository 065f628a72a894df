"""What the backend suite stands on: a machine of its own, an empty log for each test, and a clock that it moves."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from eventstore.codec import Recorded
from eventstore.errors import (
    EventStoreError,
)
from eventstore.integrity import chain
from eventstore.log import Entry, Log, Reading, Writing
from eventstore.machine import Machine
from eventstore.store import EventStore
from eventstore.workflow import (
    RUN,
)

PATIENCE = 30.0
"""Seconds a thread may take before a test gives it up; none needs them."""


# --- a machine of the suite's own ---------------------------------------------------------------------------------


@frozen
class Counted:
    """One more."""

    amount: int = 1


@frozen
class CountClosed:
    """No more."""


class CountPhase(StrEnum):
    """Open until closed."""

    NEW = "new"
    OPEN = "open"
    CLOSED = "closed"


@frozen
class Count:
    """How many so far."""

    phase: CountPhase = CountPhase.NEW
    total: int = 0


def _count(state: Count, recorded: Recorded) -> Count:
    return evolve(state, total=state.total + recorded.event.amount) if recorded.kind is Counted else state


COUNT = Machine(
    name="count",
    initial=Count(),
    table={
        CountPhase.NEW: {Counted: CountPhase.OPEN},
        CountPhase.OPEN: {Counted: CountPhase.OPEN, CountClosed: CountPhase.CLOSED},
        CountPhase.CLOSED: {},
    },
    evolve=_count,
)
"""A machine without a fence or guards, so that what is tested is the log."""


class Boom(Exception):
    """What a job raises here."""


class Scaffold:
    """What each test begins with: a new, empty log in `self.log`, opened as the subclass says."""

    log: Log
    store: EventStore
    folder: Path

    def open(self, folder: Path) -> Log:
        """A new, empty log; `folder` is empty and the test's own."""
        raise NotImplementedError

    def reopen(self, log: Log) -> Log:
        """The same log in a new handle, after the old one was closed."""
        raise NotImplementedError

    def beside(self, log: Log) -> Log:
        """The same log in another handle while the first is open, as another process has it."""
        return self.reopen(log)

    # --- scaffolding --------------------------------------------------------------------------------------------

    def setup_method(self) -> None:
        """An empty folder, an empty log, a clock that stands at 1,000,000 until a test moves it."""
        self._temporary = tempfile.TemporaryDirectory()
        self._open: list[Log] = []
        self.folder = Path(self._temporary.name)
        self.now = 1_000_000
        self.log = self._kept(self.open(self.folder))
        self.store = self.over(self.log)

    def teardown_method(self) -> None:
        """Close what was opened."""
        for log in self._open:
            log.close()
        self._temporary.cleanup()

    def _kept(self, log: Log) -> Log:
        self._open.append(log)
        return log

    def over(self, log: Log, machines: Sequence[Machine[Any]] = (RUN, COUNT)) -> EventStore:
        """A store on a log, with this test's clock."""
        return EventStore(log, machines, clock=lambda: self.now)

    def again(self) -> EventStore:
        """What the next process finds: the log closed and opened anew."""
        self.log.close()
        self.log = self._kept(self.reopen(self.log))
        self.store = self.over(self.log)
        return self.store

    def other(self) -> EventStore:
        """A second handle on the log, beside the first."""
        return self.over(self._kept(self.beside(self.log)))

    def everything(self) -> list[Entry]:
        """All that stands in the log, as seen by a reader that has seen nothing yet."""
        return [recorded.entry for recorded in self.over(self.log).read_all()]

    @contextmanager
    def refused(self, kind: type[BaseException]) -> Iterator[None]:
        """The block raises exactly this, and the log is what it was."""
        before = self.everything()
        try:
            yield
        except kind as error:
            raised = type(error)
        else:
            raise AssertionError(f"{kind.__name__} was not raised")
        assert raised is kind
        assert self.everything() == before

    def _new(self, view: Reading, *streams: str, key: str | None = None) -> list[Entry]:
        """Entries at the end of the log, one for each stream named."""
        head = view.head()
        entries: list[Entry] = []
        position, previous = head.position, head.hash
        for stream in streams:
            position += 1
            version = view.version(stream) + sum(entry.stream == stream for entry in entries) + 1
            time = max(self.now, head.recorded_at)
            entry = Entry(position, stream, version, "Counted", time, None, None, key, b"", None, "{}")
            previous = chain(previous, entry)
            entries.append(entry._replace(hash=previous))
        return entries

    def _insert(self, *streams: str) -> Callable[[Writing], None]:
        return lambda transaction: transaction.insert(self._new(transaction, *streams))


class Seen:
    """What a following thread has seen so far."""

    def __init__(self) -> None:
        self.recorded: list[Recorded] = []
        self._grown = threading.Condition()

    def take(self, following: Iterator[Recorded]) -> None:
        for recorded in following:
            with self._grown:
                self.recorded.append(recorded)
                self._grown.notify_all()

    def wait_for(self, count: int) -> None:
        with self._grown:
            assert self._grown.wait_for(lambda: len(self.recorded) >= count, PATIENCE), "nothing more was seen"


def raise_boom(_transaction: Writing) -> None:
    """A job that fails."""
    raise Boom


def raises(kind: type[EventStoreError], call: Callable[[], object]) -> None:
    """The call raises an error of this kind."""
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")
