"""asyncio over the same runs: thin handles with the same names, whose methods are awaited.

A class here is a list of what the one underneath can do, and by which of two ways: `awaited` for what gives a value,
`streamed` for what gives many. Written out is only what waits in another way than by keeping a thread. A test holds
each against the one underneath, so nothing is missing here that is there.

`runs`, `worker` and `attempt` stand underneath each handle for what needs no waiting. What is written under a key is
safe to repeat after a cancellation; `append` tells itself what became of it (see `eventstore.aio.Committed`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, Self, TypeVar

from eventstore.aio import AsyncStore, AsyncStream, Committed, Handle, Loop, U_co, alike, awaited, streamed
from eventstore.errors import Waiting
from eventstore.limits import check_count, check_function, check_seconds
from projections.attempt import Answer, Attempt
from projections.daemon import Worker, named
from projections.delegation import Child
from projections.filesets import FileSets
from projections.jobs import Jobs
from projections.notes import Logs, Meta
from projections.runs import Runs
from projections.sessions import Sessions
from projections.snapshots import SnapshotPersistence
from projections.streaming import KEPT, Delta
from projections.views import View

if TYPE_CHECKING:
    from types import TracebackType

    from eventstore.codec import Recorded
    from eventstore.payloads import Json
    from projections.projection import Projection
    from projections.retention import Retention

__all__ = ["AsyncAttempt", "AsyncRuns", "AsyncWorker", "Committed"]

R = TypeVar("R")

_LOOK = 0.05
"""Seconds between two looks for work or for an answer."""


async def opened(connect: Callable[[], Runs]) -> AsyncRuns:
    """What `connect` opens in a thread. Where the task is cancelled meanwhile, it is closed as soon as it is open."""
    opened: list[Runs] = []
    given_up = Event()

    def open_unless_given_up() -> Runs:
        opened.append(runs := connect())
        if given_up.is_set():
            runs.close()
        return runs

    try:
        return AsyncRuns(await asyncio.to_thread(open_unless_given_up))
    except asyncio.CancelledError:
        given_up.set()  # whichever of the two comes second closes: that thread, or this task
        for runs in opened:
            asyncio.get_running_loop().run_in_executor(None, runs.close)
        raise


def _close(made: Worker | SnapshotPersistence, _cancelled: BaseException) -> None:
    made.close()  # or its thread would renew the lease of a worker that nobody holds


def _leave(taken: Attempt | None, cancelled: BaseException) -> None:
    if taken is not None:  # nobody will perform it: it is left as it was found
        taken.__exit__(type(cancelled), cancelled, None)


class AsyncView(Handle[View[R]]):
    """The rows of one projection, for tasks; see `views.View`."""

    get = awaited(View[R].get)
    look = awaited(View[R].look)
    where = awaited(View[R].where)
    each = streamed(View[R].each)
    search = awaited(View[R].search)
    count = awaited(View[R].count)


class AsyncSessions(Handle[Sessions]):
    """Conversations over several runs, for tasks; see `sessions.Sessions`."""

    ancestors = awaited(Sessions.ancestors)
    descendants = streamed(Sessions.descendants)
    history = awaited(Sessions.history)
    count = awaited(Sessions.count)
    rounds = awaited(Sessions.rounds)
    count_rounds = awaited(Sessions.count_rounds)
    tool_uses = awaited(Sessions.tool_uses)
    pending = streamed(Sessions.pending)
    auto_accept = awaited(Sessions.auto_accept)
    withdraw = awaited(Sessions.withdraw)
    accepting = awaited(Sessions.accepting)
    folders = awaited(Sessions.folders)


class AsyncLogs(Handle[Logs]):
    """Generic log entries, for tasks; see `notes.Logs`."""

    record = awaited(Logs.record)
    where = awaited(Logs.where)
    each = streamed(Logs.each)
    count = awaited(Logs.count)


class AsyncMeta(Handle[Meta]):
    """Named values, for tasks; see `notes.Meta`."""

    set = awaited(Meta.set)
    get = awaited(Meta.get)
    all = awaited(Meta.all)


class AsyncFileSets(Handle[FileSets]):
    """Saved sets of files, for tasks; see `filesets.FileSets`."""

    of = awaited(FileSets.of)
    restore = awaited(FileSets.restore)


class AsyncJobs(Handle[Jobs]):
    """The jobs of one store, for tasks; see `jobs.Jobs`."""

    get = awaited(Jobs.get)
    where = awaited(Jobs.where)
    count = awaited(Jobs.count)
    runs = awaited(Jobs.runs)
    checkpoints = streamed(Jobs.checkpoints)
    events = streamed(Jobs.events)


class _Closing(Handle[U_co]):
    """A handle that is closed on leaving its block."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def close(self) -> Awaitable[None]:
        raise NotImplementedError


class AsyncSnapshotPersistence(_Closing[SnapshotPersistence]):
    """Snapshots of an agent loop, for tasks; see `snapshots.SnapshotPersistence`."""

    close = awaited(SnapshotPersistence.close)
    on_run_start = awaited(SnapshotPersistence.on_run_start)
    on_step_complete = awaited(SnapshotPersistence.on_step_complete)
    on_run_complete = awaited(SnapshotPersistence.on_run_complete)
    load_run = awaited(SnapshotPersistence.load_run)


class AsyncRuns(_Closing[Runs]):
    """The runs of one store, for tasks of the running loop; see `Runs`, which is `runs` underneath."""

    def __init__(self, runs: Runs) -> None:
        super().__init__(runs, loop := Loop(runs.store.log))
        self.runs = runs
        self.store = AsyncStore(runs.store, loop)
        """The log underneath, which speaks in events."""
        self.blobs = self.store.blobs
        self.workflow_runs = AsyncView(runs.workflow_runs, loop)
        self.checkpoints = AsyncView(runs.checkpoints, loop)
        self.confirmations = AsyncView(runs.confirmations, loop)
        self.usage = AsyncView(runs.usage, loop)
        self.texts = AsyncView(runs.texts, loop)
        self.sessions = AsyncSessions(runs.sessions, loop)
        self.logs = AsyncLogs(runs.logs, loop)
        self.files = AsyncFileSets(runs.files, loop)
        self.meta = AsyncMeta(runs.meta, loop)
        self.jobs = AsyncJobs(runs.jobs, loop)

    async def close(self) -> None:
        """Wait for what is queued, then release files and locks; the second time it does nothing."""
        if self._loop.closed:
            return
        await self._loop.run(self.runs.close)
        self._loop.close()

    submit = awaited(Runs.submit)
    continue_from = awaited(Runs.continue_from)
    resolve = awaited(Runs.resolve)
    settle = awaited(Runs.settle)
    cancel = awaited(Runs.cancel)
    interrupt = awaited(Runs.interrupt)
    configure = awaited(Runs.configure)
    settings = awaited(Runs.settings)
    settings_history = awaited(Runs.settings_history)
    input = awaited(Runs.input)
    output = awaited(Runs.output)
    checkpoint = awaited(Runs.checkpoint)
    saved = streamed(Runs.saved)
    messages = streamed(Runs.messages)
    events = streamed(Runs.events)
    calls = awaited(Runs.calls)
    tree = awaited(Runs.tree)
    search = awaited(Runs.search)
    lost = awaited(Runs.lost)
    standings = awaited(Runs.standings)
    rebuild = awaited(Runs.rebuild)
    check = awaited(Runs.check)
    verify = awaited(Runs.verify)
    archive = awaited(Runs.archive)
    restore_days = awaited(Runs.restore_days)
    segments = awaited(Runs.segments)
    growth = awaited(Runs.growth)
    backup = awaited(Runs.backup)
    rekey = awaited(Runs.rekey)

    def view(self, projection: Projection[R] | str) -> AsyncView[R]:
        """The rows of a projection, by itself or by name; see `Runs.view`."""
        return AsyncView(self.runs.view(projection), self._loop)

    async def worker(
        self, name: str, *, lease: timedelta = timedelta(seconds=30), retention: Retention | None = None
    ) -> AsyncWorker:
        """A worker of this process; see `Runs.worker`."""
        making = partial(self.runs.worker, name, lease=lease, retention=retention)
        return AsyncWorker(await self._loop.made(making, _close), self._loop)

    async def snapshots(self, *, workflow: str = "snapshot", name: str = "snapshots") -> AsyncSnapshotPersistence:
        """Snapshots of an agent loop; see `snapshots.SnapshotPersistence`, which is given these runs."""
        making = partial(SnapshotPersistence, self.runs, workflow=workflow, name=name)
        return AsyncSnapshotPersistence(await self._loop.made(making, _close), self._loop)

    async def listen(self, run_id: str | None = None, *, kept: int = KEPT) -> AsyncIterator[Delta]:
        """Hear what attempts `publish` in this process, of one run or of all, until the store is closed."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        channel = self.runs._channel  # noqa: SLF001 - the same face, woken another way

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody listens
                loop.call_soon_threadsafe(woken.set)

        with channel.listen(run_id, kept, wake) as listener:
            while True:
                woken.clear()
                while (delta := listener.next(0)) is not None:
                    yield delta
                if listener.closed:
                    return
                await woken.wait()


class AsyncWorker(_Closing[Worker]):
    """A worker, for tasks; see `Worker`, which is `worker` underneath."""

    def __init__(self, worker: Worker, loop: Loop) -> None:
        super().__init__(worker, loop)
        self.worker = worker

    def stop(self) -> None:
        """End `claims` soon; what was claimed goes on. Safe in a signal handler."""
        self.worker.stop()

    close = awaited(Worker.close)
    recover = awaited(Worker.recover)
    expire = awaited(Worker.expire)

    async def take(self, run_id: str) -> AsyncAttempt | None:
        """Take up this very run; see `Worker.take`."""
        return await self._taken(partial(self.worker.take, run_id))

    async def claim(self, workflows: Iterable[str] | None = None, wait: float = 0.0) -> AsyncAttempt | None:
        """Take up the next run; see `Worker.claim`."""
        wanted = named(workflows)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + check_seconds("wait", wait)
        while True:
            attempt = await self._taken(partial(self.worker.claim, wanted))
            left = deadline - loop.time()
            if attempt is not None or left <= 0 or self.worker.stopping:
                return attempt
            await asyncio.sleep(min(left, _LOOK))

    async def claims(self, workflows: Iterable[str] | None = None, *, limit: int = 1) -> AsyncIterator[AsyncAttempt]:
        """Take up runs as they come, until `stop`; at most `limit` attempts unfinished at a time."""
        check_count("limit", limit, least=1)
        wanted = named(workflows)
        loop = asyncio.get_running_loop()
        next_look = loop.time()
        while not self.worker.stopping:
            if loop.time() >= next_look:
                await self.expire()
                next_look = loop.time() + 1.0
            claim = partial(self.worker.claim, wanted)
            attempt = await self._taken(claim) if self.worker.active < limit else None
            if attempt is None:
                await asyncio.sleep(_LOOK)
            else:
                yield attempt

    async def _taken(self, take: Callable[[], Attempt | None]) -> AsyncAttempt | None:
        taken = await self._loop.made(take, _leave)
        return None if taken is None else AsyncAttempt(taken, self._loop)


class AsyncAttempt(Handle[Attempt]):
    """A run in a task's hands: `async with attempt`; see `Attempt`, which is `attempt` underneath."""

    def __init__(self, attempt: Attempt, loop: Loop) -> None:
        super().__init__(attempt, loop)
        self.attempt = attempt
        self.stream = AsyncStream(attempt.stream, loop)
        self.run_id: str = attempt.run_id
        self.number: int = attempt.number
        """1, 2, 3 …; the fencing token of everything written here."""

    @alike(Attempt.append)
    async def append(self, *events: object, **options: Any) -> tuple[Recorded, ...]:
        """Append events of this attempt, all or none, durable when this returns; concurrent tasks share commits.

        Raises:
            Fenced: another attempt began, or the run ended; nothing was written.
            Committed: the task was cancelled, but the events stand.
            asyncio.CancelledError: the task was cancelled, and nothing was written.
        """
        provided = self.attempt.provided(events)
        return await self.stream.append(*events, attempt=self.number, provided=provided, **options)

    async def queued(self) -> Any:
        """The event that submitted the run: its workflow, input, labels and config."""
        return await self._loop.run(lambda: self.attempt.queued)

    async def workflow(self) -> str:
        """What kind of run it is."""
        return await self._loop.run(lambda: self.attempt.workflow)

    async def input(self) -> Json:
        """The run's input."""
        return (await self.queued()).input

    async def checkpoint(self) -> Json:
        """The state that the latest checkpoint held when this attempt began; None if there was none."""
        return await self._loop.run(lambda: self.attempt.checkpoint)

    async def since(self) -> tuple[Recorded, ...]:
        """What earlier attempts recorded after that checkpoint, in order."""
        return await self._loop.run(lambda: self.attempt.since)

    @property
    def unreturned(self) -> tuple[str, ...]:
        """The calls that were opened and have not come back, as last seen."""
        return self.attempt.unreturned

    async def interrupt_requested(self) -> bool:
        """Whether somebody asked the run to stop; looks at the log."""
        return await self._loop.run(lambda: self.attempt.interrupt_requested)

    def publish(self, data: Any) -> None:
        """Say something to those who listen in this process: nothing is stored, and nothing waits."""
        self.attempt.publish(data)

    retry = awaited(Attempt.retry)
    save_files = awaited(Attempt.save_files)

    async def call(
        self,
        call_id: str,
        tool: str,
        input: Json,  # noqa: A002 - the event's own field name
        do: Callable[[Json], Awaitable[Json]],
        *,
        repeat: bool = False,
    ) -> Json:
        """Make a tool call once: written down, then `await do(input)`, then its output written down; as `Attempt.call`.

        A task that is cancelled inside `do` leaves the call open.
        """
        check_function("do", do, "input")
        returned, output = await self._loop.run(partial(self.attempt.begin, call_id, tool, input, repeat=repeat))
        return output if returned else await self._loop.run(self.attempt.end, call_id, await do(input))

    delegate_all = awaited(Attempt.delegate_all)

    async def delegate(self, call_id: str, workflow: str, *, input: Json = None, **options: Any) -> Json:  # noqa: A002
        """Have another run make a call; as `Attempt.delegate`."""
        return (await self.delegate_all({call_id: Child(workflow, input, **options)}))[call_id]

    async def ask(
        self,
        call_id: str,
        tool: str,
        input: Json,  # noqa: A002 - the event's own field name
        *,
        reason: str | None = None,
        wait: float = 0.0,
        expires_in: timedelta | None = None,
    ) -> Answer:
        """Ask a person about a call that is to be made; as `Attempt.ask`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + check_seconds("wait", wait)
        asking = partial(self.attempt.ask, call_id, tool, input, reason=reason, expires_in=expires_in)
        while True:
            try:
                return await self._loop.run(asking)
            except Waiting:
                left = deadline - loop.time()
                if left <= 0:
                    raise
            await asyncio.sleep(min(left, _LOOK))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return await self._loop.run(self.attempt.__exit__, kind, error, trace)
