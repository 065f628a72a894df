"""Daemons that die at every point: a Hypothesis state machine over a real store and a plain model.

    class TestMyDaemon(DaemonMachine.TestCase): ...          # memory, as it stands

    class OnMyBackend(DaemonMachine):
        def open_log(self):                                   # a new, empty log; `self.folder` is this example's own
            return MyLog(self.folder / "my.db")

        def reopen_log(self):                                 # another handle on it, as another process opens it
            return MyLog(self.folder / "my.db")

        def open_tables(self, log):                           # where its rows are kept
            return MyTables()

        def system(self, identity):                           # the world as one process sees it; here with own ids
            return attrs.evolve(super().system(identity), new_id=my_ids)

    TestOnMyBackend = OnMyBackend.TestCase
    TestOnMyBackend.settings = settings(max_examples=200, stateful_step_count=60)

`app = App(projections=[MY_TABLE])` on the subclass brings projections of one's own: each check proves them too.

Processes are simulated: each has an identity, a handle on the log and a worker. One that crashes vanishes from the
process table and its handle stays open, so that it can come back as a zombie; one that is killed inside a write never
writes again. The clock is the machine's, and jumps; nothing waits, and nothing is timed.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eventstore.errors import (
    AlreadyResolved,
    CallFailed,
    Fenced,
    IllegalTransition,
    NotApproved,
    QuestionOpen,
    QuestionUnknown,
    Refused,
    Unreturned,
    Waiting,
)
from eventstore.memory import MemoryLog
from eventstore.payloads import from_microseconds
from eventstore.store import EventStore
from eventstore.workflow import (
    RUN,
    CheckpointSaved,
    MessageRecorded,
    RunCompleted,
    RunDescribed,
    RunPaused,
    RunQueued,
    RunRequeued,
    ToolReturned,
    UsageRecorded,
)
from projections.connecting import App, connect, tables_of
from projections.delegation import child_id
from projections.system import Identity, System
from projections.testing.model import Model, ModelRun
from projections.testing.mortal import Killed, MortalLog

if TYPE_CHECKING:
    from eventstore.log import Log
    from projections.attempt import Attempt
    from projections.daemon import Worker
    from projections.runs import Runs
    from projections.tables import Tables

T = TypeVar("T")

MAX_CRASHES = 2
_MINUTE = timedelta(minutes=1)
_LEASE = timedelta(days=1)
_MANY = st.integers(0, 7)
"""Which one of a list: taken modulo its length, so that it shrinks towards the first."""
_SOON = st.sampled_from([None, -1, 1, 30])
"""Minutes from now."""
_CALL = st.sampled_from(["c0", "c1"])
_DELEGATED = "d0"
_WORK = (MessageRecorded("assistant", "hm"), CheckpointSaved(1, {"n": [1]}), UsageRecorded("m", 1, 2, 0.5))


@attrs.define(eq=False)
class Process:
    """A simulated daemon process."""

    identity: Identity
    log: MortalLog
    runs: Runs
    worker: Worker
    attempts: list[Attempt] = attrs.field(factory=list)


class DaemonMachine(RuleBasedStateMachine):
    """Daemons on one store, killed at every point; see the module for how to bring your own."""

    app: ClassVar[App | None] = None
    """Machines and projections of the subclass's own."""
    processes: ClassVar[int] = 3
    """How many may live at once."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="runfold-"))
        self.now = 1_767_225_600_000_000
        self.table_of_processes: dict[int, int] = {}
        self.living: list[Process] = []
        self.zombies: list[Process] = []
        self.buried: list[Process] = []
        self.effects: dict[tuple[str, str], int] = {}
        """How often a call's `do` ran without `repeat=True`."""
        self.model = Model(max_crashes=MAX_CRASHES)
        self._numbers = itertools.count(1)

    # --- what a subclass may bring ------------------------------------------------------------------------------

    def open_log(self) -> Log:
        """A new, empty log."""
        self._first = MemoryLog()
        return self._first

    def reopen_log(self) -> Log:
        """Another handle on that log."""
        return self._first.reopen()

    def open_tables(self, log: Log) -> Tables:
        """The table backend beside a log; known for our own."""
        return tables_of(log)

    def system(self, identity: Identity) -> System:
        """The world as the process of this identity sees it."""
        return System(
            microseconds=lambda: self.now,
            monotonic=lambda: self.now / 1e6,
            sleep=lambda _seconds: None,
            new_id=lambda: f"{next(self._numbers):08d}",
            identity=lambda: identity,
            start_of=self.table_of_processes.get,
        )

    # --- processes ----------------------------------------------------------------------------------------------

    @initialize()
    def _begin(self) -> None:
        self.observer = connect(
            log := self.open_log(), app=self.app, system=self.system(_OUTSIDE), tables=self.open_tables(log)
        )
        self._spawn()
        for _ in range(2):
            self._spawn().runs.submit("deploy", run_id=f"run-{len(self.model.runs)}")
        self._claim(self.living[0])

    def _spawn(self, pid: int | None = None) -> Process:
        started = next(self._numbers)
        identity = Identity("boot", "namespace", pid or 1000 + started, started)
        self.table_of_processes[identity.pid] = identity.started
        inner = self.reopen_log()
        log = MortalLog(inner, self.model.committed)
        runs = connect(log, app=self.app, system=self.system(identity), tables=self.open_tables(inner))
        process = Process(identity, log, runs, runs.worker("w", lease=_LEASE))
        self.model.alive.add(process.worker.id)
        self.living.append(process)
        return process

    def _vanish(self, process: Process, *, zombie: bool) -> None:
        """The process is gone from the table of processes; its handle is neither closed nor told."""
        self.living.remove(process)
        self.model.alive.discard(process.worker.id)
        if self.table_of_processes.get(process.identity.pid) == process.identity.started:
            del self.table_of_processes[process.identity.pid]
        (self.zombies if zombie else self.buried).append(process)

    def _alive(self, number: int) -> Process:
        return self.living[number % len(self.living)] if self.living else self._spawn()

    def _run(self, number: int) -> ModelRun:
        runs = list(self.model.runs.values())
        return runs[number % len(runs)]

    def _attempt(self, number: int) -> tuple[Process, Attempt]:
        held = [(process, attempt) for process in self.living for attempt in process.attempts]
        return held[number % len(held)]

    def _holds(self, attempt: Attempt) -> bool:
        run = self.model.runs[attempt.run_id]
        return run.phase == "started" and run.attempt == attempt.number

    @property
    def _moment(self) -> Any:
        return from_microseconds(self.now)

    def _minutes(self, minutes: int | None) -> Any:
        return None if minutes is None else self._moment + minutes * _MINUTE

    def _refused(self, act: Callable[[], object], *kinds: type[Exception]) -> None:
        """The act is refused, by one of these, and nothing was written."""
        before = len(self.model.entries)
        try:
            act()
        except kinds:
            pass
        else:
            raise AssertionError(f"not refused; expected {', '.join(kind.__name__ for kind in kinds)}")
        assert len(self.model.entries) == before, "refused, and written all the same"

    @precondition(lambda self: len(self.living) < self.processes)
    @rule(same_pid=st.booleans())
    def a_daemon_starts(self, same_pid: bool) -> None:
        """A new process; perhaps with the pid of one that is gone."""
        gone = [process.identity.pid for process in (*self.zombies, *self.buried)]
        free = [pid for pid in gone if pid not in self.table_of_processes]
        self._spawn(free[-1] if same_pid and free else None)

    @precondition(lambda self: self.living)
    @rule(which=_MANY, closes=st.booleans())
    def a_daemon_goes(self, which: int, closes: bool) -> None:
        """It vanishes at rest, its handle dropped without a word; or it closes, perhaps with runs in its hands."""
        process = self._alive(which)
        if closes:
            process.worker.close()
            process.runs.close()
        self._vanish(process, zombie=not closes)

    @rule(minutes=st.integers(-45, 45))
    def the_clock_jumps(self, minutes: int) -> None:
        """Forward or back."""
        self.now += minutes * 60_000_000

    @precondition(lambda self: self.living)
    @rule(
        which=_MANY,
        run=_MANY,
        write=st.integers(1, 3),
        after=st.booleans(),
        what=st.sampled_from(("claim", "recover", "append", "submit", "cancel", "interrupt", "expire")),
    )
    def a_daemon_is_killed_inside(self, which: int, run: int, write: int, after: bool, what: str) -> None:
        """Inside a write of whatever it is doing: before the commit or right after it."""
        process = self._alive(which)
        run_id = self._run(run).run_id if self.model.runs else "nobody"
        doors: dict[str, Callable[[], object]] = {
            "recover": lambda: process.worker.recover(MAX_CRASHES),
            "claim": process.worker.claim,
            "submit": lambda: process.runs.submit("deploy", run_id=f"run-{len(self.model.runs)}"),
            "append": lambda: [attempt.append(_WORK[1]) for attempt in process.attempts],
            "cancel": lambda: process.runs.cancel(run_id, by="operator"),
            "interrupt": lambda: process.runs.interrupt(run_id, by="operator"),
            "expire": process.worker.expire,
        }
        process.log.doom(write, after_commit=after)
        try:
            with suppress(Refused, LookupError):
                if what not in ("cancel", "interrupt") or self.model.runs:
                    claimed = doors[what]()
                    if what == "claim" and claimed is not None:
                        process.attempts.append(claimed)  # type: ignore[arg-type]
        except Killed:
            self._vanish(process, zombie=False)
        else:
            process.log.spare()

    # --- from outside -------------------------------------------------------------------------------------------

    @rule(
        which=_MANY,
        workflow=st.sampled_from(["deploy", "triage"]),
        priority=st.integers(-1, 1),
        minutes=_SOON,
        parent=st.none() | _MANY,
        projections=st.sampled_from([True, True, False]),
    )
    def somebody_submits(
        self, which: int, workflow: str, priority: int, minutes: int | None, parent: int | None, projections: bool
    ) -> None:
        """A run is queued, twice under one key, perhaps by a program that knows no projections."""
        run_id = f"run-{len(self.model.runs)}"
        parent_id = None if parent is None or not self.model.runs else self._run(parent).run_id
        event = RunQueued(workflow, priority=priority, not_before=self._minutes(minutes), parent_id=parent_id)
        before = len(self.model.entries)
        if projections:
            submit = self._alive(which).runs.submit
            given: dict[str, Any] = {"run_id": run_id, "key": run_id, "priority": priority, "parent_id": parent_id}
            given["not_before"] = event.not_before
            for _ in range(2):
                assert submit(workflow, **given) == run_id
        else:
            log = MortalLog(self.reopen_log(), self.model.committed)
            with EventStore(log, (RUN,), clock=lambda: self.now) as store:
                store.append(run_id, event, key=run_id)
                store.append(run_id, event, key=run_id)
        assert len(self.model.entries) == before + 1

    @precondition(lambda self: self.model.runs)
    @rule(which=_MANY, run=_MANY, cancels=st.booleans())
    def somebody_stops(self, which: int, run: int, cancels: bool) -> None:
        """Cancelled, it ends at once. Interrupted, it ends here only if nobody holds it. An ended one refuses."""
        target, runs = self._run(run), self._alive(which).runs
        act = runs.cancel if cancels else runs.interrupt
        if not target.active:
            self._refused(lambda: act(target.run_id, by="operator"), IllegalTransition)
            return
        before = target.phase
        act(target.run_id, by="operator")
        if cancels:
            assert target.phase == "cancelled"
        else:
            assert (target.interrupt_requested, target.phase) == (True, "interrupted" if before == "paused" else before)

    @precondition(lambda self: self.model.runs)
    @rule(which=_MANY, run=_MANY, call_id=_CALL, decision=st.sampled_from(["approved", "denied"]))
    def somebody_decides(self, which: int, run: int, call_id: str, decision: Any) -> None:
        """Each question once, and only while its run lives."""
        target = self._run(run)

        def act() -> object:
            return self._alive(which).runs.resolve(target.run_id, call_id, decision, by="alice")

        if target.active and call_id not in target.questions:
            self._refused(act, QuestionUnknown)
        elif target.phase not in ("started", "paused"):
            self._refused(act, IllegalTransition)
        elif target.questions[call_id] is not None:
            self._refused(act, AlreadyResolved)
        elif (target.run_id, call_id) in self.model.overdue(self._moment):
            with suppress(AlreadyResolved):  # and it is written down that nobody answered in time
                act()
                raise AssertionError("an overdue question was decided")
            assert target.questions[call_id] == "expired"
        else:
            act()
            assert target.questions[call_id] == decision

    @precondition(lambda self: any(run.phase == "paused" and run.unreturned for run in self.model.runs.values()))
    @rule(which=_MANY)
    def an_operator_finds_out_how_a_call_ended(self, which: int) -> None:
        """The one way on for a call that began and never returned."""
        target = next(run for run in self.model.runs.values() if run.phase == "paused" and run.unreturned)
        call_id = target.unreturned[0]
        self._alive(which).runs.store.stream(target.run_id, RUN).append(ToolReturned(call_id, "found out"))
        assert target.calls[call_id] == "returned"

    # --- the daemon's own work ----------------------------------------------------------------------------------

    @rule(which=_MANY)
    def a_daemon_recovers(self, which: int) -> None:
        """What it reports and does is what the model expects; a second time there is nothing left to end."""
        process = self._alive(which)
        expired = self.model.overdue(self._moment)
        paused = [run for run in self.model.runs.values() if run.phase == "paused" and run.interrupt_requested]
        lost = self.model.lost()
        expected = {
            name: {run.run_id for run in (*lost, *paused) if self.model.ends(run) == name}
            for name in ("interrupted", "crashed")
        }
        resumable = {run.run_id for run in lost if self.model.ends(run) is None}
        running = sum(run.phase == "started" for run in self.model.runs.values()) - len(lost)
        before = len(self.model.entries)

        planned = process.worker.recover(MAX_CRASHES, dry_run=True)
        assert len(self.model.entries) == before, "a dry run wrote"
        done = process.worker.recover(MAX_CRASHES)

        for report in (planned, done):
            assert set(report.expired) == expired
            assert {"interrupted": set(report.interrupted), "crashed": set(report.crashed)} == expected
            assert (set(report.resumable), report.running) == (resumable, running)
        again = process.worker.recover(MAX_CRASHES)
        assert (again.interrupted, again.crashed, again.expired) == ((), (), ())

    @rule(which=_MANY, many=st.integers(1, 3))
    def a_daemon_claims(self, which: int, many: int) -> None:
        """It gets exactly the run whose turn it is."""
        process = self._alive(which)
        process.worker.recover(MAX_CRASHES)
        for _ in range(many):
            expected = self.model.next_claim(self._moment)
            claimed = self._claim(process)
            assert [attempt.run_id for attempt in claimed] == ([] if expected is None else [expected])
            assert all(self._holds(attempt) for attempt in claimed)

    @precondition(lambda self: len(self.living) > 1)
    @rule(first=_MANY, second=_MANY, recover=st.booleans())
    def two_daemons_at_once(self, first: int, second: int, recover: bool) -> None:
        """The second comes between the first one's look and its write: each run is settled once, claimed by one."""
        one, other = self._alive(first), self._alive(first + 1 + second % (len(self.living) - 1))
        doomed = [run for run in self.model.lost() if self.model.ends(run)]
        one.log.meanwhile(lambda: other.worker.recover(MAX_CRASHES))
        one.worker.recover(MAX_CRASHES)
        one.log.spare()
        assert all(not run.active for run in doomed)
        if recover:
            return
        claimed: list[Attempt] = []
        one.log.meanwhile(lambda: claimed.extend(self._claim(other)))
        claimed += self._claim(one)
        one.log.spare()
        assert len({attempt.run_id for attempt in claimed}) == len(claimed)
        assert all(self._holds(attempt) for attempt in claimed)

    @staticmethod
    def _claim(process: Process) -> list[Attempt]:
        claimed = [attempt for attempt in (process.worker.claim(),) if attempt is not None]
        process.attempts += claimed
        return claimed

    @precondition(lambda self: any(process.attempts for process in self.living))
    @rule(which=_MANY, what=_MANY)
    def a_worker_works(self, which: int, what: int) -> None:
        """Written while the run is its own, and refused as soon as it is not."""
        _, attempt = self._attempt(which)
        event = _WORK[what % len(_WORK)]
        if self._holds(attempt):
            (recorded,) = attempt.append(event)
            assert self.model.entries[-1] == recorded.entry
        else:
            self._refused(lambda: attempt.append(event), Fenced, IllegalTransition)

    @precondition(lambda self: any(process.attempts for process in self.living))
    @rule(which=_MANY, call_id=_CALL, repeat=st.booleans(), dies=st.sampled_from(["no", "no", "inside", "after"]))
    def a_worker_calls(self, which: int, call_id: str, repeat: bool, dies: str) -> None:
        """An effect happens once, and only while the run is the worker's own."""
        process, attempt = self._attempt(which)
        run, holds = self.model.runs[attempt.run_id], self._holds(attempt)
        before, question = run.calls.get(call_id), run.questions.get(call_id, "approved")
        ran: list[str] = []

        def do(_input: Any) -> str:
            ran.append(call_id)
            if not repeat:
                self.effects[run.run_id, call_id] = self.effects.get((run.run_id, call_id), 0) + 1
            if dies == "inside":
                raise Killed
            if dies == "after":
                process.log.doom(1, after_commit=False)
            return "done"

        def act() -> object:
            return attempt.call(call_id, "tool", {"of": call_id}, do, repeat=repeat)

        if holds and before == "returned":
            assert act() in ("done", "found out")
            assert not ran
        elif not holds:
            with suppress(Fenced, IllegalTransition, Unreturned):
                act()
            assert not ran, "an effect of a worker that does not hold the run"
        elif before == "open" and not repeat:
            self._refused(act, Unreturned)
            assert not ran
        elif question != "approved":
            self._refused(act, QuestionOpen if question is None else NotApproved)
            assert not ran
        else:
            try:
                act()
            except Killed:
                self._vanish(process, zombie=False)
            else:
                assert run.calls[call_id] == "returned"
            assert ran

    @precondition(lambda self: any(process.attempts for process in self.living))
    @rule(which=_MANY, call_id=_CALL, minutes=st.sampled_from([None, 1, 30]), leaves=st.booleans())
    def a_worker_asks(self, which: int, call_id: str, minutes: int | None, leaves: bool) -> None:
        """Asking again is no second question; unanswered, the run is parked for a person."""
        process, attempt = self._attempt(which)
        run, holds = self.model.runs[attempt.run_id], self._holds(attempt)
        expires_in = None if minutes is None else minutes * _MINUTE

        def act() -> Any:
            return attempt.ask(call_id, "tool", {"of": call_id}, expires_in=expires_in)

        if not holds:
            self._refused(act, Fenced, IllegalTransition)
        elif (decision := run.questions.get(call_id)) is not None:
            assert act().decision == decision
        elif run.calls.get(call_id) == "returned":
            self._refused(act, Refused)
        elif leaves:
            with attempt:
                act()
            process.attempts.remove(attempt)
            assert (run.phase, run.waiting_for) == ("paused", "person")
        else:
            before = len(self.model.entries) + (call_id not in run.questions)
            with suppress(Waiting):
                act()
            assert (len(self.model.entries), run.questions[call_id]) == (before, None)

    @precondition(lambda self: any(process.attempts for process in self.living))
    @rule(which=_MANY, dies=st.sampled_from([None, None, 1, 2]), after=st.booleans())
    def a_worker_delegates(self, which: int, dies: int | None, after: bool) -> None:
        """One child however often it is asked for and whoever dies meanwhile; its result comes back once."""
        process, attempt = self._attempt(which)
        run, holds = self.model.runs[attempt.run_id], self._holds(attempt)
        child = child_id(run.run_id, _DELEGATED)
        back, entries = run.calls.get(_DELEGATED) == "returned", len(self.model.entries)
        goes_on = child not in self.model.runs or self.model.runs[child].active
        if dies is not None and holds:
            process.log.doom(dies, after_commit=after)
        try:
            with suppress(Fenced, IllegalTransition, CallFailed), attempt:
                attempt.delegate(_DELEGATED, "triage", input=1)
        except Killed:
            self._vanish(process, zombie=False)
            return
        process.log.spare()
        process.attempts.remove(attempt)
        if not holds:
            assert len(self.model.entries) == entries
        elif not back and goes_on:
            assert (run.phase, run.waiting_for, self.model.runs[child].parent_id) == ("paused", "run", run.run_id)
        else:
            assert _DELEGATED not in run.unreturned

    @precondition(lambda self: any(process.attempts for process in self.living))
    @rule(which=_MANY, how=st.sampled_from(
        ["completes", "raises", "unfinished", "stopped", "unreturned", "time", "run", "requeues"]
    ), minutes=_SOON)  # fmt: skip
    def a_worker_leaves(self, which: int, how: str, minutes: int | None) -> None:
        """Every way out of the block; one that does not hold the run any more writes nothing."""
        process, attempt = self._attempt(which)
        run, holds = self.model.runs[attempt.run_id], self._holds(attempt)
        parked = ("interrupted", None) if run.interrupt_requested else ("paused", "worker")
        expected: dict[str, tuple[str, str | None]] = {
            "completes": ("completed", None),
            "raises": ("failed", None),
            "unfinished": parked,
            "stopped": parked,
            "unreturned": ("paused", "operator"),
            "time": ("paused", "time"),
            "run": ("paused", "run"),
            "requeues": parked if run.unanswered else ("queued", None),
        }
        before = (len(self.model.entries), run.phase)
        with suppress(_OwnError, KeyboardInterrupt), attempt:
            self._leave(attempt, how, minutes)
        process.attempts.remove(attempt)
        if holds:
            assert (run.phase, run.waiting_for) == expected[how]
        else:
            assert (len(self.model.entries), run.phase) == before

    def _leave(self, attempt: Attempt, how: str, minutes: int | None) -> None:
        match how:
            case "completes":
                attempt.append(RunCompleted("out"))
            case "raises":
                raise _OwnError
            case "stopped":
                raise KeyboardInterrupt
            case "unreturned":
                raise Unreturned(attempt.run_id, "c0", 1)
            case "time" | "run" as what:
                attempt.append(RunPaused(what, until=self._minutes(minutes) if what == "time" else None))
            case "requeues":
                with suppress(QuestionOpen):
                    attempt.append(RunRequeued(not_before=self._minutes(minutes)))

    @precondition(lambda self: any(process.attempts for process in self.zombies))
    @rule(which=_MANY, what=_MANY)
    def a_zombie_writes(self, which: int, what: int) -> None:
        """Taken for dead, and not: it may go on until somebody took over, and writes nothing from then on."""
        held = [attempt for process in self.zombies for attempt in process.attempts]
        attempt = held[which % len(held)]
        run = self.model.runs[attempt.run_id]
        event = (*_WORK, RunCompleted("of a zombie"))[what % (len(_WORK) + 1)]
        if self._holds(attempt):
            attempt.append(event)
        elif run.attempt == attempt.number and run.active:
            self._refused(lambda: attempt.append(event), IllegalTransition)
        else:
            self._refused(lambda: attempt.append(event), Fenced)

    # --- what must hold -----------------------------------------------------------------------------------------

    @rule(which=_MANY)
    def somebody_checks(self, which: int) -> None:
        """The tables are the fold of the log, in between as well."""
        report = self._alive(which).runs.check()
        assert report.ok, str(report)

    @invariant()
    def what_was_acknowledged_is_in_the_log_once(self) -> None:
        """And nothing else is."""
        if self.model.entries:
            assert [recorded.entry for recorded in self.observer.store.read_all()] == self.model.entries
            assert [entry.position for entry in self.model.entries] == list(range(1, len(self.model.entries) + 1))

    @invariant()
    def the_rows_are_the_model(self) -> None:
        """Every run, every column that the model knows."""
        if self.model.runs:
            assert not (found := self.model.differences(self.observer.workflow_runs.where())), "\n".join(found)

    @invariant()
    def no_effect_happened_twice(self) -> None:
        """Unless the worker said that it may."""
        assert not {call: times for call, times in self.effects.items() if times > 1}

    def teardown(self) -> None:
        """Everybody dies; one fresh worker must get hold of everything that waits for nobody."""
        try:
            if hasattr(self, "observer"):
                self._nobody_is_stuck()
        finally:
            for process in (*self.living, *self.zombies, *self.buried):
                process.runs.close()
                with suppress(Killed):
                    process.worker.close()
            if hasattr(self, "observer"):
                self.observer.close()
            shutil.rmtree(self.folder)

    def _nobody_is_stuck(self) -> None:
        for process in list(self.living):
            self._vanish(process, zombie=True)
        fresh = self._spawn()
        fresh.worker.recover(MAX_CRASHES)
        while (expected := self.model.next_claim(self._moment)) is not None:
            attempt = fresh.worker.claim()
            assert attempt is not None, f"{expected} is stuck"
            assert attempt.run_id == expected
            fresh.attempts.append(attempt)
        assert fresh.worker.claim() is None
        self._everything_can_end(fresh)
        self.what_was_acknowledged_is_in_the_log_once()
        self.the_rows_are_the_model()
        report = fresh.runs.check()
        assert report.ok, str(report)

    def _everything_can_end(self, fresh: Process) -> None:
        """With every answer given, every call returned and time gone by, every run ends."""
        self.now += 365 * 86_400_000_000
        for attempt in fresh.attempts:
            if self._holds(attempt):
                attempt.append(RunCompleted())
        for _ in range(len(self.model.runs) + 1):  # a child ends before its parent goes on
            for run in self.model.runs.values():
                for call_id in run.unanswered if run.phase == "paused" else ():
                    with suppress(AlreadyResolved):  # its time had passed, which is an answer as well
                        fresh.runs.resolve(run.run_id, call_id, "denied", by="alice")
                for call_id in run.unreturned if run.phase == "paused" else ():
                    fresh.runs.store.stream(run.run_id, RUN).append(ToolReturned(call_id))
            while claimed := self._claim(fresh):
                with claimed[0] as attempt:
                    attempt.append(RunDescribed(title="at last"), RunCompleted())
        waits_for_itself = {run.run_id for run in self.model.runs.values() if run.phase == "paused"}
        assert not {run.run_id for run in self.model.runs.values() if run.active} - waits_for_itself
        assert all(self.model.runs[run_id].waiting_for == "run" for run_id in waits_for_itself)


_OUTSIDE = Identity("boot", "namespace", 1, 1)


class _OwnError(Exception):
    """What a user's workflow raises here."""
