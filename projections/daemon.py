"""The shell of a daemon: a worker that is seen to be alive, recovers what the dead left, and claims what may go on.

Decisions are `recovery`'s, facts are the log's; here they are put together: look, decide, append at the version that
was looked at. Whoever comes second finds a newer version, and looks again.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from eventstore.errors import InvalidArgument, Refused, RunNotFound, StoreClosed, UnreadableEntry, WorkerClosed
from eventstore.limits import check_count, check_name, check_names, check_seconds
from eventstore.store import EventStore, Stream
from eventstore.workflow import RUN, Phase, RunResumed, RunStarted, RunState
from projections.attempt import Attempt
from projections.leaving import is_of
from projections.metrics import settled
from projections.recovery import Recovery, overdue, runnable, settle, take
from projections.retention import Keeper, Retention
from projections.tables import Range
from projections.workflow_runs import RunRow

if TYPE_CHECKING:
    from projections.confirmations import ConfirmationRow
    from projections.leases import Presence
    from projections.retention import Round
    from projections.steps import Steps
    from projections.streaming import Channel
    from projections.system import System
    from projections.views import View

_LOG = logging.getLogger("runfold")
_LOOK = 0.05
"""Seconds between two looks for work."""
_PAGE = 50


class Worker:
    """A worker process in its store. Made by `Runs.worker`; use it as a context manager.

    It may be used from any thread, and each attempt it hands out by the thread that performs it.
    """

    def __init__(
        self,
        name: str,
        lease: timedelta,
        *,
        store: EventStore,
        workflow_runs: View[RunRow],
        confirmations: View[ConfirmationRow],
        presence: Presence,
        system: System,
        channel: Channel,
        steps: Steps,
        retention: Retention | None = None,
    ) -> None:
        if retention is not None and not isinstance(retention, Retention):
            raise InvalidArgument("retention", retention, "must be a projections.Retention, or None")
        if not (isinstance(lease, timedelta) and timedelta(0) < lease <= timedelta(days=1)):
            raise InvalidArgument("lease", str(lease), "must be a timedelta, more than nothing and at most a day")
        # A new id each time: a restart must never take its predecessor for itself.
        self.id = f"{check_name('worker', name)}:{system.new_id()[:8]}"
        self._term = lease.total_seconds()
        self._store = store
        self._runs = workflow_runs
        self._confirmations = confirmations
        self._presence = presence
        self._system = system
        self._channel = channel
        self._steps = steps
        self._max_crashes = 3
        self._active = 0
        self._unsaid: list[Callable[[], None]] = []
        self._told: list[Callable[[], None]] = []
        self._counting = threading.Lock()
        self._stopping = False
        self._closed = threading.Event()
        self._looked_at: dict[str, int] = {}
        self._taking: set[str] = set()
        self._doubtful: set[str] = set()
        self._unreadable: set[str] = set()
        self._remembered: deque[RunRow] = deque()
        presence.enter(self.id, self._term)
        self._renewer = threading.Thread(target=self._renew, name=f"lease of {self.id}", daemon=True)
        self._renewer.start()
        self._keeper: Keeper | None = None
        if retention is not None:
            self._keeper = Keeper(store, retention, system, self._ending)
            self._keeping = threading.Thread(
                target=self._keeper.run, args=(self._closed,), name=f"retention of {self.id}", daemon=True
            )
            self._keeping.start()

    def __repr__(self) -> str:
        return f"<worker {self.id}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """End `claims` soon; what was claimed goes on. Safe in a signal handler: it sets a flag and takes no lock."""
        self._stopping = True

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    @property
    def active(self) -> int:
        """Attempts that were handed out and have not been left."""
        return self._active

    @property
    def retained(self) -> Round | None:
        """What the retention that this worker was given did last; None before that."""
        return None if self._keeper is None else self._keeper.last

    def _ending(self) -> bool:
        return self._stopping or self._closed.is_set()

    def close(self) -> None:
        """Stop, and take the worker's row away: what it still holds is anybody's. The second time it does nothing."""
        self._stopping = True
        if self._closed.is_set():
            return
        self._closed.set()
        self._renewer.join()
        if self._keeper is not None:
            self._keeping.join()
        with suppress(StoreClosed):
            self._presence.leave(self.id)

    def _renew(self) -> None:
        while not self._closed.wait(self._term / 3):
            try:
                self._presence.beat(self.id, self._term)
            except StoreClosed:
                return
            except Exception:  # noqa: BLE001 - the lease must outlive a passing fault of the disk or a lock
                _LOG.exception("%s could not renew its lease; trying again", self.id)

    # --- recovery -----------------------------------------------------------------------------------------------

    def recover(self, max_crashes: int = 3, *, dry_run: bool = False) -> Recovery:
        """Settle what dead workers left: end what was to be interrupted or crashed too often, expire what is overdue.

        What may go on is left to `claim`. It costs by the active runs, not by the log; run it as often as you like,
        by as many workers as you like. A run that cannot be read is left as it is, and named.

        Args:
            max_crashes: how many workers may die under a run; `claim` goes by the last value given here.
            dry_run: only say what would be done.
        """
        self._max_crashes = check_count("max_crashes", max_crashes)
        if not dry_run:
            self._presence.sweep()
        unreadable: list[str] = []
        expired = self._expire(unreadable, dry_run=dry_run)
        interrupted: list[str] = []
        crashed: list[str] = []
        started, lost = self._started()
        asked = self._runs.each(phase=Phase.PAUSED, interrupt_requested=True, order="position")
        resumable: list[RunRow] = []
        for row in sorted([*lost, *asked], key=lambda row: row.position):
            # Most runs may go on, which their rows tell: only those are folded of which something is to be written.
            if not settle(row, dead=True, max_crashes=max_crashes):
                resumable.append(row)
                continue
            with self._passing_over(row.run_id, unreadable):
                stream = self._stream(row.run_id)
                events = settle(stream.state, dead=self._held_by_the_dead(stream.state), max_crashes=max_crashes)
                if events and (dry_run or self._settled(stream, events)):
                    (interrupted if stream.state.interrupt_requested else crashed).append(row.run_id)
        self._keep(resumable)
        return Recovery(
            tuple(interrupted),
            tuple(crashed),
            tuple(row.run_id for row in resumable),
            tuple(expired),
            tuple(dict.fromkeys(unreadable)),
            running=started - len(lost),
            dry_run=dry_run,
        )

    def expire(self, *, dry_run: bool = False) -> list[tuple[str, str]]:
        """Expire the questions whose time has passed; `claims` does so all along."""
        return self._expire([], dry_run=dry_run)

    def _expire(self, unreadable: list[str], *, dry_run: bool) -> list[tuple[str, str]]:
        now = self._system.now()
        due = self._confirmations.each(decision=None, expires_at=Range(stop=now + timedelta(microseconds=1)))
        expired: list[tuple[str, str]] = []
        for run_id in dict.fromkeys(row.run_id for row in due):
            with self._passing_over(run_id, unreadable):
                stream = self._stream(run_id)
                events = overdue(stream.state, now)
                if events and (dry_run or self._settled(stream, events)):
                    expired += [(run_id, event.call_id) for event in events]  # type: ignore[attr-defined]
        return expired

    @contextmanager
    def _passing_over(self, run_id: str, unreadable: list[str]) -> Iterator[None]:
        """Go on with the next run where this one's stream cannot be read, or does not follow; that is told once.

        Else a blob that is gone from one run would keep every other run from being claimed, by every worker.
        """
        try:
            yield
        except (UnreadableEntry, Refused) as error:
            unreadable.append(run_id)
            if run_id not in self._unreadable:
                self._unreadable.add(run_id)
                _LOG.error("%s cannot be taken up, and is left as it is: %s", run_id, error)

    def _started(self, **only: Any) -> tuple[int, list[RunRow]]:
        """How many runs are started, and those of them whose worker is dead."""
        started = list(self._runs.each(phase=Phase.STARTED, order="position", **only))
        dead = self._presence.dead({row.worker for row in started})
        return len(started), [row for row in started if row.worker in dead]

    def _held_by_the_dead(self, state: RunState) -> bool:
        return bool(self._presence.dead([state.worker]))

    def _settled(self, stream: Stream[RunState], events: Iterable[object]) -> bool:
        """Append at the version that was looked at; False if somebody was faster."""
        state = stream.state
        attempt = state.attempt if state.phase is Phase.STARTED else None
        try:
            stream.append(*events, expected_version=stream.version, attempt=attempt)
        except Refused:
            return False
        if (watch := self._store.watch) is not None:
            settled(watch, state, events)
        return True

    # --- claiming -----------------------------------------------------------------------------------------------

    def claim(self, workflows: Iterable[str] | None = None, wait: float = 0.0) -> Attempt | None:
        """Take up the next run: of dead workers first, then paused ones that may go on, then queued by priority.

        Args:
            workflows: only of these; of all unless given.
            wait: seconds to wait for one.

        Returns:
            An attempt, begun and durable; None if there was nothing to take up.

        Raises:
            InvalidArgument: `workflows` is one text, or `wait` no number.
        """
        if self._closed.is_set():
            raise WorkerClosed(self.id)
        wanted = named(workflows)
        deadline = self._system.monotonic() + check_seconds("wait", wait)
        while True:
            self._say_last_words()
            for row in self._candidates(wanted):
                attempt = None
                with self._passing_over(row.run_id, []):
                    attempt = self._take(row)
                if attempt is not None:
                    return attempt
            left = deadline - self._system.monotonic()
            if left <= 0 or self._stopping:
                return None
            self._system.sleep(min(left, _LOOK))

    def take(self, run_id: str) -> Attempt | None:
        """Take up this very run, for a program that knows which it wants.

        Returns:
            An attempt, begun and durable; None if it may not be taken up now: another worker holds it, it waits for
            something, or it has ended.

        Raises:
            RunNotFound: no run of that id.
            UnreadableEntry: an entry of it cannot be read.
        """
        if self._closed.is_set():
            raise WorkerClosed(self.id)
        self._say_last_words()
        row = self._runs.get(run_id)
        if row is None:
            raise RunNotFound(run_id)
        may = row.phase is Phase.STARTED or self._runnable(row, self._system.now())
        return self._take(row) if may else None

    def claims(self, workflows: Iterable[str] | None = None, *, limit: int = 1) -> Iterator[Attempt]:
        """Take up runs as they come, until `stop`.

        Args:
            workflows: only of these; of all unless given.
            limit: how many attempts may be unfinished at a time.
        """
        check_count("limit", limit, least=1)
        wanted = named(workflows)
        next_look = self._system.monotonic()
        while not self._stopping:
            if self._system.monotonic() >= next_look:
                self.expire()
                next_look = self._system.monotonic() + 1.0
            attempt = self.claim(wanted) if self._active < limit else None
            if attempt is None:
                self._system.sleep(_LOOK)
            else:
                yield attempt

    def _candidates(self, workflows: tuple[str, ...] | None) -> Iterator[RunRow]:
        only: dict[str, Any] = {} if workflows is None else {"workflow": workflows}
        now = self._system.now()
        yield from self._begun_perhaps(workflows)
        yield from self._kept(workflows)
        if self._some_are_lost(only):
            self._keep(self._started(**only)[1])
            yield from self._kept(workflows)
        for row in self._runs.each(phase=Phase.PAUSED, order="position", **only):
            if self._runnable(row, now) and self._worth_a_look(row):
                yield row
        page: list[RunRow] = []
        while page := self._runs.where(
            phase=Phase.QUEUED, order=("-priority", "position"), limit=_PAGE, after=page[-1] if page else None, **only
        ):
            yield from (row for row in page if runnable(row, now))

    def _runnable(self, row: RunRow, now: datetime) -> bool:
        children = 0
        if row.waiting_for == "run":
            children = self._runs.count(parent_id=row.run_id, phase=[Phase.QUEUED, Phase.STARTED, Phase.PAUSED])
        return runnable(row, now, open_children=children)

    def _some_are_lost(self, only: dict[str, Any]) -> bool:
        """Whether more runs are started than living workers hold: two counts in place of all the rows."""
        held = self._runs.count(phase=Phase.STARTED, worker=self._presence.living(), **only)
        return held < self._runs.count(phase=Phase.STARTED, **only)

    def _keep(self, lost: Iterable[RunRow]) -> None:
        """Remember the runs of dead workers, so that they are listed once and not at each claim.

        They are a hint: whether one is still to be had, `_take` judges on its state.
        """
        with self._counting:
            self._remembered = deque(lost)

    def _kept(self, workflows: tuple[str, ...] | None) -> Iterator[RunRow]:
        while True:
            with self._counting:
                fitting = (row for row in self._remembered if workflows is None or row.workflow in workflows)
                if (row := next(fitting, None)) is None:
                    return
                self._remembered.remove(row)
            yield row

    def _worth_a_look(self, row: RunRow) -> bool:
        """Runs that wait for an operator change without their row changing; look only at what grew since."""
        if row.waiting_for != "operator" or row.interrupt_requested or row.waiting_until is not None:
            return True
        with self._store.reading() as reading:
            return reading.version(row.run_id) != self._looked_at.get(row.run_id)

    def _begun_perhaps(self, workflows: tuple[str, ...] | None) -> list[RunRow]:
        """The runs that this worker tried to begin, and nobody knows whether it did: the commit failed, say.

        Where it did, the run stands in the name of a living worker, and nobody else would ever take it up.
        """
        with self._counting:
            doubtful = sorted(self._doubtful)
        rows = [row for run_id in doubtful if (row := self._runs.get(run_id)) is not None]
        return [row for row in rows if workflows is None or row.workflow in workflows]

    def _take(self, row: RunRow) -> Attempt | None:
        with self._counting:
            if row.run_id in self._taking:
                return None  # another thread of this worker is at it
            self._taking.add(row.run_id)
        try:
            return self._taken(row)
        finally:
            with self._counting:
                self._taking.discard(row.run_id)

    def _taken(self, row: RunRow) -> Attempt | None:
        stream = self._stream(row.run_id)
        state = stream.state
        if row.run_id in self._doubtful and state.phase is Phase.STARTED and state.worker == self.id:
            stream.attempt = state.attempt
            return self._handed_out(stream)
        if state.phase is not row.phase:
            return None  # it went on since; whether it waits for its children, say, only its row of now tells
        dead = self._held_by_the_dead(state)
        events = take(state, self.id, self._system.now(), dead=dead, max_crashes=self._max_crashes)
        if not events and state.waiting_for == "operator":
            self._looked_at[row.run_id] = stream.version
        if not events:
            if state.phase not in (Phase.QUEUED, Phase.PAUSED):  # it ended, or is another's
                with self._counting:
                    self._doubtful.discard(row.run_id)
            return None
        try:
            if not self._settled(stream, events) or not isinstance(events[-1], RunStarted | RunResumed):
                return None
            return self._handed_out(stream)
        except BaseException:
            with self._counting:
                self._doubtful.add(row.run_id)
            raise

    def _handed_out(self, stream: Stream[RunState]) -> Attempt:
        attempt = Attempt(stream, self._system, self._finished, self._channel, self._steps)
        with self._counting:
            self._active += 1
            self._doubtful.discard(stream.name)
        return attempt

    def _finished(self, unsaid: Callable[[], None] | None) -> None:
        with self._counting:
            self._active -= 1
            if unsaid is not None:
                self._unsaid.append(unsaid)

    def _say_last_words(self) -> None:
        """End or park what the store could not end or park when its block was left.

        While the store fails, that is raised. A word that cannot be said for another reason (a redactor raises at it,
        say) waits for the next claim, and holds up no other run.
        """
        with self._counting:
            unsaid, self._unsaid = self._unsaid, []
        left = unsaid[:]
        try:
            for say in unsaid:
                try:
                    say()
                except Exception as error:
                    if is_of(self._store, error) and not isinstance(error, UnreadableEntry):
                        raise
                    if say not in self._told:
                        self._told.append(say)
                        _LOG.exception("a run that was left can be neither ended nor parked")
                else:
                    left.remove(say)
                    self._told = [other for other in self._told if other is not say]
        finally:
            with self._counting:
                self._unsaid += left

    def _stream(self, run_id: str) -> Stream[RunState]:
        return self._store.stream(run_id, RUN).refresh()


def named(workflows: Iterable[str] | None) -> tuple[str, ...] | None:
    """The workflows that are wanted; None for all."""
    return None if workflows is None else check_names("workflows", workflows)


def stop_on_sigterm(stop: Callable[[], None]) -> None:
    """Call `stop` when the process is asked to end (SIGTERM). Only the main thread may set this up."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop())
