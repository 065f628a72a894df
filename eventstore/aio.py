"""asyncio over the same log: an append is queued up and awaited, and all tasks of a loop share commits.

Nothing here decides anything. An append is prepared in the loop, judged and committed in the log's own thread, and its
answer comes back to the loop once for a whole commit. Whatever else blocks goes to a small pool of threads: `awaited`
and `streamed` make of a method of what stands underneath one that is awaited, with its arguments, types and errors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import update_wrapper, wraps
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from eventstore.blobs import Blobs
from eventstore.errors import StoreClosed
from eventstore.limits import PAGE, check_range
from eventstore.log import Member
from eventstore.store import EventStore, Stream

if TYPE_CHECKING:
    from eventstore.codec import Recorded
    from eventstore.log import Cursor, Log
    from eventstore.machine import Machine

P = ParamSpec("P")
S = TypeVar("S", bound=Any)
T = TypeVar("T")
U_co = TypeVar("U_co", covariant=True)

_POLL = 0.02
"""Seconds between two looks for what was appended."""
_TURN = 0.01
"""Seconds that a thread goes on collecting items before it hands them over; so many are never held for long."""


class Committed(asyncio.CancelledError):
    """The task was cancelled while its append was being committed; the append stands.

    Any other `CancelledError` that leaves an append says that nothing was written, unless an `OutcomeUnknown` is its
    cause. `asyncio.wait_for` tells it as the cause of its `TimeoutError`; `asyncio.timeout` may let it pass as it is
    (Python 3.11 does), so catch both there.
    """

    def __init__(self, recorded: tuple[Recorded, ...]) -> None:
        super().__init__(f"cancelled, but {len(recorded)} events were committed")
        self.recorded = recorded
        """The events in their places."""


class Loop:
    """What the asynchronous handles of one store share: its log, the running event loop, a pool of threads."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="runfold")
        self._waiting: dict[Member, asyncio.Future[None]] = {}
        self._gathered: list[Member] = []
        self.closed = False
        """Whether `close` was called."""

    async def commit(self, job: Callable[[Any], T]) -> tuple[T, bool]:
        """What the job returned, once that is durable, and whether the task was cancelled meanwhile.

        Raises:
            asyncio.CancelledError: before the job was begun; it never will be.
            StoreClosed, ForkedStore, CannotOpen: nothing may be written here.
            RuntimeError: the running event loop is another one.
        """
        self._refuse_another_loop()
        member = Member(job, self._settled)
        future = self._waiting[member] = self._loop.create_future()
        if not self._gathered:
            self._loop.call_soon(self._submit)
        self._gathered.append(member)
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                await future
                break
            except asyncio.CancelledError as error:
                if self._withdrawn(member):
                    self._waiting.pop(member, None)
                    raise
                cancelled = error
                if member not in self._waiting:  # it was told just now
                    break
                # A shield would keep the future from being cancelled along: a second one, and a turn of the loop more.
                future = self._waiting[member] = self._loop.create_future()
        if cancelled is not None and member.error is not None:
            raise cancelled from member.error
        return member.outcome(), cancelled is not None

    def _submit(self) -> None:
        # What all tasks of one turn of the loop append goes into the queue at once. One by one, the committing thread
        # would begin with the first, and fight with the loop for the interpreter over each statement of the rest.
        gathered, self._gathered = self._gathered, []
        try:
            self._log.submit(gathered)
        except BaseException as error:  # noqa: BLE001 - it is theirs who wait
            for member in gathered:
                member.error = error
            self._tell(gathered)

    def _withdrawn(self, member: Member) -> bool:
        if member in self._gathered:
            self._gathered.remove(member)
            return True
        return self._log.withdraw(member)

    def _settled(self, members: Sequence[Member]) -> None:
        # From the thread that committed: one call of the loop for all of them.
        try:
            self._loop.call_soon_threadsafe(self._tell, members)
        except RuntimeError:
            return  # the loop is closed, and nobody waits

    def _tell(self, members: Sequence[Member]) -> None:
        for member in members:
            future = self._waiting.pop(member, None)
            if future is not None and not future.done():
                future.set_result(None)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what blocks in a thread. Cancelled before it began, it never does; later, its end is waited for.

        Raises:
            StoreClosed: after `close`.
            RuntimeError: the running event loop is another one.
        """
        self._refuse_another_loop()
        if self.closed:
            raise StoreClosed
        return await _ended(self._pool.submit(function, *args, **kwargs))

    async def made(self, make: Callable[[], T], undo: Callable[[T, BaseException], object]) -> T:
        """What `make` gives, made as by `run`. Where the task was cancelled meanwhile, nobody holds it: it is undone.

        Raises:
            asyncio.CancelledError: nothing is left of it. What kept it from being undone, if anything, is the cause.
        """
        made: list[T] = []
        try:
            await self.run(lambda: made.append(make()))
        except asyncio.CancelledError as cancelled:
            if made and not self.closed:  # by closing the store, all is undone
                try:
                    await _ended(self._pool.submit(undo, made[0], cancelled), withdraw=False)
                except Exception as error:
                    raise cancelled from error
            raise
        return made[0]

    def _refuse_another_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("these handles belong to another event loop; connect once in each")

    def close(self) -> None:
        """Let the threads go; the second time it does nothing."""
        self.closed = True
        self._pool.shutdown(wait=False)


async def _ended(called: Future[T], *, withdraw: bool = True) -> T:
    """What a thread was given to do, once it is done; cancelled before it began, it is not, if it may be withdrawn."""
    future = asyncio.wrap_future(called)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            if withdraw and called.cancel():
                raise
            cancelled = error
        except BaseException:
            if not future.done():  # the coroutine is thrown away
                raise
            # else it is what the function raised, and is raised below
    if cancelled is not None:
        raise cancelled from future.exception()
    return future.result()


class Handle(Generic[U_co]):
    """A handle of the same store, whose methods are awaited. What is asked of it without waiting, it still answers."""

    def __init__(self, under: U_co, loop: Loop) -> None:
        self._under = under
        self._loop = loop

    def __repr__(self) -> str:
        return repr(self._under)


def awaited(method: Callable[Concatenate[U_co, P], T]) -> Callable[Concatenate[Handle[U_co], P], Awaitable[T]]:
    """The method of the handle underneath, called in a thread and awaited."""

    @wraps(method)
    async def call(self: Handle[U_co], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._loop.run(method, self._under, *args, **kwargs)

    return call


def streamed(
    method: Callable[Concatenate[U_co, P], Iterator[T]],
) -> Callable[Concatenate[Handle[U_co], P], AsyncIterator[T]]:
    """What the method of the handle underneath gives, for `async for`; collected in a thread, some at a time."""

    @wraps(method)
    async def each(self: Handle[U_co], /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        items = await self._loop.run(method, self._under, *args, **kwargs)
        ended: Exception | None = None
        while ended is None:
            some, ended = await self._loop.run(_some, items)
            for item in some:
                yield item
        if not isinstance(ended, StopIteration):
            raise ended

    return each


def alike(
    method: Callable[Concatenate[U_co, P], object],
) -> Callable[[Callable[..., Awaitable[T]]], Callable[Concatenate[Any, P], Awaitable[T]]]:
    """Says of a method that hands its `**options` on which they are: those of the method of the handle underneath."""

    def decorate(call: Callable[..., Awaitable[T]]) -> Callable[Concatenate[Any, P], Awaitable[T]]:
        return update_wrapper(call, method, assigned=(), updated=())

    return decorate


def _some(items: Iterator[T]) -> tuple[list[T], Exception | None]:
    """The next items, one at least, and what ended them: `StopIteration`, or an error, which comes behind the items."""
    some: list[T] = []
    until = time.monotonic() + _TURN
    try:
        while not some or time.monotonic() < until:
            some.append(next(items))
    except Exception as ended:  # noqa: BLE001 - it is raised where the items are awaited
        return some, ended
    return some, None


class AsyncStream(Handle[Stream[S]]):
    """One stream, for tasks; see `store.Stream`, which is `stream` underneath."""

    def __init__(self, stream: Stream[S], loop: Loop) -> None:
        super().__init__(stream, loop)
        self.stream = stream

    @alike(Stream[S].append)
    async def append(self, *events: object, **options: Any) -> tuple[Recorded, ...]:
        """As `Stream.append`; concurrent tasks share commits.

        Raises:
            Committed: the task was cancelled, but the events stand.
            asyncio.CancelledError: the task was cancelled, and nothing was written.
        """
        if not events:
            return ()
        with self.stream.store.appending():
            if not self.stream.seen:
                await self._loop.run(self.stream.refresh)
            placed, cancelled = await self._loop.commit(self.stream.job(*events, **options))
            recorded = self.stream.took(placed)
        if cancelled:
            raise Committed(recorded)
        return recorded

    transact = awaited(Stream[S].transact)
    read = streamed(Stream[S].read)

    async def refresh(self) -> Self:
        """Fold what others appended since."""
        await self._loop.run(self.stream.refresh)
        return self

    @property
    def state(self) -> S:
        """The state as this handle last saw it; `await refresh()` looks again."""
        return self.stream.state


class AsyncBlobs(Handle[Blobs]):
    """The blobs of a store, for tasks; see `blobs.Blobs`. What `open` gives is a file, and read in a thread."""

    write = awaited(Blobs.write)
    read = awaited(Blobs.read)
    exists = awaited(Blobs.exists)
    open = awaited(Blobs.open)
    check = awaited(Blobs.check)
    missing = awaited(Blobs.missing)
    gc = awaited(Blobs.gc)


class AsyncStore(Handle[EventStore]):
    """A log that speaks in events, for tasks; see `store.EventStore`, which is `store` underneath."""

    def __init__(self, store: EventStore, loop: Loop) -> None:
        super().__init__(store, loop)
        self.store = store
        self.blobs = AsyncBlobs(store.blobs, loop)

    def stream(self, name: str, machine: Machine[S] | None = None) -> AsyncStream[S]:
        """A handle on one stream; it need not exist yet."""
        return AsyncStream(self.store.stream(name, machine), self._loop)

    async def append(self, stream: str, *events: object, **options: Any) -> tuple[Recorded, ...]:
        """Append to a stream without keeping a handle."""
        return await self.stream(stream).append(*events, **options)

    resolve = awaited(EventStore.resolve)
    head = awaited(EventStore.head)
    read = streamed(EventStore.read)
    read_all = streamed(EventStore.read_all)

    async def follow(
        self, *, after: int | Cursor = 0, types: Iterable[type | str] | None = None
    ) -> AsyncIterator[Recorded]:
        """The events of the log as they come; first those that stand already. It ends when the store is closed."""
        position = await self._loop.run(self.store.place, after)
        check_range(position, None)
        kinds = None if types is None else self.store.stored_names(types)
        while True:
            try:
                head = self.store.head().position  # a look at an index, too short for a thread
                if head > position:
                    found = await self._loop.run(self._page, position, kinds)
                else:
                    found = []
                    await asyncio.sleep(_POLL)
            except StoreClosed:
                return
            for recorded in found:
                yield recorded
            # Where nothing of these types stands up to the head, the next look begins there.
            position = found[-1].position if len(found) == PAGE else max(position, head)

    def _page(self, after: int, types: Iterable[type | str] | None) -> list[Recorded]:
        return list(self.store.read_all(after=after, types=types, limit=PAGE))
