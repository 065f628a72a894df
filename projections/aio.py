"""asyncio over the same runs: thin handles whose appends are awaited, everything else theirs underneath.

`runs`, `worker` and `attempt` stand underneath each handle for what needs no waiting. What is written under a key is
safe to repeat after a cancellation; `append` tells itself what became of it (see `eventstore.aio.Committed`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial, wraps
from threading import Event
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from eventstore.aio import AsyncStore, AsyncStream, Committed, Loop
from eventstore.errors import Waiting
from eventstore.limits import check_count
from projections.attempt import Answer, Attempt
from projections.daemon import Worker
from projections.delegation import Child
from projections.runs import Runs
from projections.streaming import KEPT, Delta

if TYPE_CHECKING:
    from types import TracebackType

    from eventstore.codec import Recorded
    from eventstore.payloads import Json
    from projections.retention import Retention

__all__ = ["AsyncAttempt", "AsyncRuns", "AsyncWorker", "Committed"]

P = ParamSpec("P")
T = TypeVar("T")

_LOOK = 0.05
"""Seconds between two looks for work or for an answer."""


def _awaited(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], Awaitable[T]]:
    """The method of the handle underneath, called in a thread and awaited."""

    @wraps(method)
    async def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._loop.run(partial(method, self._under), *args, **kwargs)  # type: ignore[no-any-return]

    return call


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


class AsyncRuns:
    """The runs of one store, for tasks of the running loop; see `Runs`, which is `runs` underneath."""

    def __init__(self, runs: Runs) -> None:
        self.runs = self._under = runs
        self._loop = Loop(runs.store.log)
        self.store = AsyncStore(runs.store, self._loop)
        """The log underneath, which speaks in events."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for what is queued, then release files and locks; the second time it does nothing."""
        if self._loop.closed:
            return
        await self._loop.run(self.runs.close)
        self._loop.close()

    submit = _awaited(Runs.submit)
    continue_from = _awaited(Runs.continue_from)
    resolve = _awaited(Runs.resolve)
    settle = _awaited(Runs.settle)
    cancel = _awaited(Runs.cancel)
    interrupt = _awaited(Runs.interrupt)
    configure = _awaited(Runs.configure)
    settings = _awaited(Runs.settings)
    settings_history = _awaited(Runs.settings_history)
    output = _awaited(Runs.output)
    checkpoint = _awaited(Runs.checkpoint)
    calls = _awaited(Runs.calls)
    tree = _awaited(Runs.tree)
    input = _awaited(Runs.input)
    rebuild = _awaited(Runs.rebuild)
    check = _awaited(Runs.check)
    verify = _awaited(Runs.verify)
    archive = _awaited(Runs.archive)
    restore_days = _awaited(Runs.restore_days)
    segments = _awaited(Runs.segments)
    growth = _awaited(Runs.growth)
    backup = _awaited(Runs.backup)
    rekey = _awaited(Runs.rekey)

    async def worker(
        self, name: str, *, lease: timedelta = timedelta(seconds=30), retention: Retention | None = None
    ) -> AsyncWorker:
        """A worker of this process; see `Runs.worker`."""
        return AsyncWorker(await self._loop.run(self.runs.worker, name, lease=lease, retention=retention), self._loop)

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


class AsyncWorker:
    """A worker, for tasks; see `Worker`, which is `worker` underneath."""

    def __init__(self, worker: Worker, loop: Loop) -> None:
        self.worker = self._under = worker
        self._loop = loop

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def stop(self) -> None:
        """End `claims` soon; what was claimed goes on. Safe in a signal handler."""
        self.worker.stop()

    close = _awaited(Worker.close)
    recover = _awaited(Worker.recover)
    expire = _awaited(Worker.expire)

    async def take(self, run_id: str) -> AsyncAttempt | None:
        """Take up this very run; see `Worker.take`."""
        attempt = await self._loop.run(self.worker.take, run_id)
        return None if attempt is None else AsyncAttempt(attempt, self._loop)

    async def claim(self, workflows: Iterable[str] | None = None, wait: float = 0.0) -> AsyncAttempt | None:
        """Take up the next run; see `Worker.claim`."""
        wanted = None if workflows is None else tuple(workflows)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            attempt = await self._claimed(wanted)
            left = deadline - loop.time()
            if attempt is not None or left <= 0 or self.worker.stopping:
                return attempt
            await asyncio.sleep(min(left, _LOOK))

    async def claims(self, workflows: Iterable[str] | None = None, *, limit: int = 1) -> AsyncIterator[AsyncAttempt]:
        """Take up runs as they come, until `stop`; at most `limit` attempts unfinished at a time."""
        check_count("limit", limit, least=1)
        wanted = None if workflows is None else tuple(workflows)
        loop = asyncio.get_running_loop()
        next_look = loop.time()
        while not self.worker.stopping:
            if loop.time() >= next_look:
                await self.expire()
                next_look = loop.time() + 1.0
            attempt = await self._claimed(wanted) if self.worker.active < limit else None
            if attempt is None:
                await asyncio.sleep(_LOOK)
            else:
                yield attempt

    async def _claimed(self, workflows: tuple[str, ...] | None) -> AsyncAttempt | None:
        taken: list[Attempt] = []

        def claim() -> None:
            if (attempt := self.worker.claim(workflows)) is not None:
                taken.append(attempt)

        try:
            await self._loop.run(claim)
        except asyncio.CancelledError as error:
            for attempt in taken:  # nobody will perform it: it is left as it was found
                await self._loop.run(attempt.__exit__, asyncio.CancelledError, error, None)
            raise
        return AsyncAttempt(taken[0], self._loop) if taken else None


class AsyncAttempt:
    """A run in a task's hands: `async with attempt`; see `Attempt`, which is `attempt` underneath."""

    def __init__(self, attempt: Attempt, loop: Loop) -> None:
        self.attempt = self._under = attempt
        self._loop = loop
        self._stream = AsyncStream(attempt.stream, loop)
        self.run_id: str = attempt.run_id
        self.number: int = attempt.number
        """1, 2, 3 …; the fencing token of everything written here."""

    def __repr__(self) -> str:
        return repr(self.attempt)

    async def append(self, *events: object, **options: Any) -> tuple[Recorded, ...]:
        """Append events of this attempt, all or none, durable when this returns; concurrent tasks share commits.

        Raises:
            Fenced: another attempt began, or the run ended; nothing was written.
            Committed: the task was cancelled, but the events stand.
            asyncio.CancelledError: the task was cancelled, and nothing was written.
        """
        provided = self.attempt.provided(events)
        return await self._stream.append(*events, attempt=self.number, provided=provided, **options)

    async def queued(self) -> Any:
        """The event that submitted the run: its workflow, input, labels and config."""
        return await self._loop.run(lambda: self.attempt.queued)

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

    retry = _awaited(Attempt.retry)
    save_files = _awaited(Attempt.save_files)

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
        returned, output = await self._loop.run(partial(self.attempt.begin, call_id, tool, input, repeat=repeat))
        return output if returned else await self._loop.run(self.attempt.end, call_id, await do(input))

    delegate_all = _awaited(Attempt.delegate_all)

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
        deadline = loop.time() + wait
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
