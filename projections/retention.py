"""What a daemon keeps small by itself: days that are over are archived, and blobs that nobody mentions are collected.

A `Retention` says what and when; a `Keeper` sees to it, in a thread of the worker that was given one. A round is due
once a day. Of all workers of a database one does it: a lock in the archive's folder keeps the others out, and a file
beside it tells the day that was done. What a round does may end anywhere (see `eventstore.archiving`), so it stops at
the next page when its worker does, and the next round goes on. It never costs a run anything: what fails is told to
the log of the process, counted, and tried again in an hour.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen

from eventstore.archiving import KEEP_DAYS, archive
from eventstore.blobs import MIN_AGE, Blobs
from eventstore.errors import ArchiveBusy, InvalidArgument, StoreClosed
from eventstore.limits import check_age, check_count
from projections.metrics import RELEASED, ROUNDS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from eventstore.log import Log, Reading
    from eventstore.store import EventStore
    from projections.system import System

_LOG = logging.getLogger("runfold")
_LOOK = 60.0
"""Seconds between two looks whether a round is due."""
_AGAIN = 3600.0
"""Seconds until a round that failed is tried again."""
_TICK = 0.5
"""Seconds in which a worker's stop is noticed while there is nothing to do."""
_LOCK = "retention.lock"
_DONE = "retention"


@frozen
class Retention:
    """What a worker archives and collects while it runs."""

    keep_days: int = field(default=KEEP_DAYS)
    """How many days after its end a day's entries stay in the log, at least; see `eventstore.archiving`."""
    max_days: int = field(default=7)
    """Days that are sealed at a time; then it rests for a minute."""
    compress: bool = False
    """Write segments with zstd."""
    gc: bool = True
    """Collect blobs that no entry mentions."""
    min_age: timedelta = field(default=MIN_AGE)
    """Blobs that are younger stay; see `eventstore.blobs`."""
    at: time = field(default=time(3))
    """When a round is due each day, UTC. One that was missed is made up for as soon as a worker runs."""

    def __attrs_post_init__(self) -> None:
        check_count("keep_days", self.keep_days)
        check_count("max_days", self.max_days, least=1)
        check_age("min_age", self.min_age)
        if not isinstance(self.at, time) or self.at.tzinfo is not None:
            raise InvalidArgument("at", str(self.at), "must be a datetime.time without a zone; it is meant in UTC")


@frozen
class Round:
    """What one round did."""

    day: str
    """The day that it was due, such as 2026-01-31."""
    outcome: str
    """"done"; "more" where it goes on in a minute; "stopped" with its worker; "failed"."""
    sealed: int = 0
    """Days that were sealed; not counted where archiving itself was stopped or failed."""
    released: int = 0
    """Entries that left the log, also before it was stopped or failed."""
    released_bytes: int = 0
    """What their payloads took; not counted where archiving itself was stopped or failed."""
    collected: int = 0
    """Blobs that were taken away."""
    collected_bytes: int = 0
    error: str | None = None
    """Why it failed."""


def due(retention: Retention, now: datetime) -> date:
    """The last day whose round is due; pure."""
    at = retention.at
    passed = timedelta(hours=at.hour, minutes=at.minute, seconds=at.second, microseconds=at.microsecond)
    return (now - passed).date()


def _is_done(day: date, last: date | None) -> bool:
    """Whether a day's round was done, if that of `last` was; pure.

    One day ahead is a worker whose clock goes before ours. What is further ahead was written under a clock that was
    wrong; went we by it, nothing would be done until then.
    """
    return last is not None and 0 <= (last - day).days <= 1


def _day_in(data: bytes | None) -> date | None:
    try:
        return None if data is None else date.fromisoformat(data.decode())
    except ValueError:  # damaged: a round too many costs nothing
        return None


class Keeper:
    """Sees to a store's retention.

    Args:
        store: whose log.
        retention: what is wanted.
        system: the clocks.
        stopping: whether to end as soon as possible.
    """

    def __init__(self, store: EventStore, retention: Retention, system: System, stopping: Callable[[], bool]) -> None:
        self.last: Round | None = None
        """What was done last, by this one."""
        self._store = store
        self._retention = retention
        self._system = system
        self._stopping = stopping
        self._done: date | None = None
        self._released = 0
        self._not_before = 0.0

    def run(self, closed: threading.Event) -> None:
        """Look whether a round is due, again and again, until the worker stops."""
        next_look = self._system.monotonic()
        while not (closed.is_set() or self._stopping()):
            if self._system.monotonic() >= next_look:
                try:
                    self.look()
                except StoreClosed:
                    return
                next_look = self._system.monotonic() + _LOOK
            closed.wait(_TICK)

    def look(self) -> Round | None:
        """Do what is due now; None if nothing is, or somebody else is at it.

        Raises:
            StoreClosed: the store was closed.
        """
        day = due(self._retention, self._system.now())
        if _is_done(day, self._done) or self._system.monotonic() < self._not_before:
            return None
        self._released = 0
        try:
            done = self._alone(day)
        except StoreClosed:
            raise
        except (ArchiveBusy, BlockingIOError):
            return None
        except Exception as error:  # noqa: BLE001 - whatever fails here must cost no run anything
            _LOG.exception("the retention of %s failed; trying again in an hour", self._store.log.url)
            self._not_before = self._system.monotonic() + _AGAIN
            done = Round(day.isoformat(), "failed", released=self._released, error=f"{type(error).__name__}: {error}")
        if done is not None:
            self.last = done
            self._tell(done)
        return done

    def _alone(self, day: date) -> Round | None:
        """One round, unless another process is at it, which raises, or has done that day's."""
        folder = self._store.log.archive
        files = folder.files
        files.folder(folder.folder)
        with files.lock(folder.folder / _LOCK):
            if not _is_done(day, _day_in(files.read(folder.folder / _DONE))):
                done = self._round(day.isoformat())
                if done.outcome != "done":
                    return done
                files.put(folder.folder / _DONE, day.isoformat().encode())
                self._done = day
                return done
        self._done = day
        return None

    def _round(self, day: str) -> Round:
        wanted = self._retention
        done = Round(day, "stopped")
        try:
            archived = archive(
                self._store,
                keep_days=wanted.keep_days,
                max_days=wanted.max_days,
                compress=wanted.compress,
                progress=self._go_on,
            )
            done = evolve(
                done, sealed=len(archived.sealed), released=archived.released, released_bytes=archived.released_bytes
            )
            if archived.days_left:
                return evolve(done, outcome="more")
            if wanted.gc:
                log: Any = _Stoppable(self._store.log, self._go_on)
                collected = Blobs(log, self._system.microseconds).gc(min_age=wanted.min_age)
                done = evolve(done, collected=collected.blobs, collected_bytes=collected.bytes)
        except _Stopped:
            return evolve(done, released=self._released)
        return evolve(done, outcome="done")

    def _go_on(self, what: str = "", number: int = 0, _all: int = 0) -> None:
        if what == "release":
            self._released = number
        if self._stopping():
            raise _Stopped

    def _tell(self, done: Round) -> None:
        if (watch := self._store.watch) is not None:
            watch.add(ROUNDS, 1, done.outcome)
            watch.add(RELEASED, done.released)


class _Stopped(Exception):
    """The worker stops."""


class _Stoppable:
    """A log that is read and written only as long as its reader is not to stop: collecting asks for it page by page."""

    def __init__(self, log: Log, go_on: Callable[[], None]) -> None:
        self._log = log
        self._go_on = go_on

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def reading(self) -> AbstractContextManager[Reading]:
        self._go_on()
        return self._log.reading()

    def write(self, job: Callable[[Any], Any], *, shared: bool = False) -> Any:
        self._go_on()
        return self._log.write(job, shared=shared)
