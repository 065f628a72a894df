"""Many callers at once: threads and asyncio tasks that share commits, against those who wait for one another.

Each round, every writer appends a few events of a tool call, one at a time, and waits for each. "Batches" is the same
number of ready rows in commits of a hundred: what sharing could reach if nothing had to be prepared or judged. "Lock"
is what most stores are: one connection behind a lock, in the same process, a commit for each.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import projections
from eventstore.log import Member
from eventstore.workflow import RunQueued, RunStarted, ToolCalled
from tests.benchmarks.bare import Bare, Row
from tests.benchmarks.harness import Figure, Outcome, Samples, Setting, median, percentile, ratio, take_turns

_PAYLOAD = "x" * 220
_EACH = 4
"""Events that a writer appends in a round."""
_HUNDRED = 100


class _Rows:
    """Ready rows for bare tables: as large as what the store writes."""

    def __init__(self, data: str) -> None:
        self._data = data
        self._numbers = count(1)

    def one(self) -> Row:
        number = next(self._numbers)
        return (number, "run-1", number, "ToolCalled", number, None, 1, None, bytes(32), None, self._data)

    def many(self, size: int) -> list[Row]:
        return [self.one() for _ in range(size)]


def _ready(runs: projections.Runs) -> _Rows:
    return _Rows(runs.store.gate.codec.encode(ToolCalled("c-1-1", "shell", {"command": _PAYLOAD})))


def _batches(bare: Bare, rows: _Rows, events: int) -> Callable[[int], None]:
    def write(_number: int) -> None:
        for start in range(0, events, _HUNDRED):
            bare.insert_many(rows.many(min(_HUNDRED, events - start)))

    return write


def tasks(setting: Setting) -> Outcome:
    """64 asyncio tasks, one event at a time, FULL: against batches of ready rows, and one connection behind a lock."""
    writers = setting.pick(smallest=4, quick=64, full=64)
    rounds = setting.pick(smallest=1, quick=10, full=60)
    loop = asyncio.new_event_loop()
    runs = loop.run_until_complete(_connected(setting))
    streams = loop.run_until_complete(_begun(runs, writers))
    rows = _ready(runs.runs)
    bare, locked = Bare(setting.path("bare")), Bare(setting.path("locked"))
    numbers = count(1)

    async def appends(stream: Any) -> None:
        for _ in range(_EACH):
            await stream.append(ToolCalled(f"c-{next(numbers)}", "shell", {"command": _PAYLOAD}))

    async def all_append() -> None:
        await asyncio.gather(*map(appends, streams))

    async def all_wait() -> None:
        lock = asyncio.Lock()

        async def writes() -> None:
            for _ in range(_EACH):
                async with lock:
                    await asyncio.to_thread(locked.insert, rows.one())

        await asyncio.gather(*(writes() for _ in range(writers)))

    contenders = {
        "ours": lambda _number: loop.run_until_complete(all_append()),
        "batches": _batches(bare, rows, writers * _EACH),
        "lock": lambda _number: loop.run_until_complete(all_wait()),
    }
    taken = take_turns(contenders, rounds, seed=setting.seed, warmup=1)
    loop.run_until_complete(runs.close())
    loop.close()
    bare.close()
    locked.close()
    return Outcome(_rates("64 asyncio tasks", taken, writers, (0.4, 0.55), (7.0, None)), taken)


async def _connected(setting: Setting) -> Any:
    return await projections.aconnect(setting.path("ours"))


async def _begun(runs: Any, writers: int) -> list[Any]:
    streams = [runs.store.stream(f"run-{number}") for number in range(writers)]
    for stream in streams:
        await stream.append(RunQueued("w"), RunStarted("w"))
    return streams


def _rates(
    who: str, taken: Samples, writers: int, batches: tuple[float, float | None], lock: tuple[float, float | None]
) -> list[Figure]:
    return [
        ratio(f"{who}, of the rate of bare batches of 100", taken["batches"], taken["ours"], target=batches[0],
              dream=batches[1], more_is_better=True),
        ratio(f"{who}, of the rate of one connection behind a lock", taken["lock"], taken["ours"], target=lock[0],
              dream=lock[1], more_is_better=True),
        Figure(f"{who}", writers * _EACH / median(taken["ours"]) * 1e6, "events/s"),
        Figure("bare batches of 100", writers * _EACH / median(taken["batches"]) * 1e6, "events/s"),
        Figure("one connection behind a lock", writers * _EACH / median(taken["lock"]) * 1e6, "events/s"),
    ]  # fmt: skip


def threads(setting: Setting) -> Outcome:
    """64 threads, one event at a time, FULL: against one connection behind a lock; and what a lone caller pays."""
    writers = setting.pick(smallest=4, quick=64, full=64)
    rounds = setting.pick(smallest=1, quick=10, full=60)
    waits: list[float] = []
    with projections.connect(setting.path("ours")) as runs, ThreadPoolExecutor(writers) as pool:
        streams = [runs.store.stream(f"run-{number}") for number in range(writers)]
        for stream in streams:
            stream.append(RunQueued("w"), RunStarted("w"))
        rows = _ready(runs)
        bare, locked = Bare(setting.path("bare")), Bare(setting.path("locked"))
        numbers, lock = count(1), threading.Lock()

        def appends(stream: Any) -> None:
            for _ in range(_EACH):
                begun = time.perf_counter_ns()
                stream.append(ToolCalled(f"c-{next(numbers)}", "shell", {"command": _PAYLOAD}))
                waits.append((time.perf_counter_ns() - begun) / 1000)

        def writes(_stream: Any) -> None:
            for _ in range(_EACH):
                with lock:
                    locked.insert(rows.one())

        contenders = {
            "ours": lambda _number: list(pool.map(appends, streams)),
            "batches": _batches(bare, rows, writers * _EACH),
            "lock": lambda _number: list(pool.map(writes, streams)),
        }
        taken = take_turns(contenders, rounds, seed=setting.seed, warmup=1)
        bare.close()
        locked.close()
    figures = _rates("64 threads", taken, writers, (0.0, None), (5.0, None))
    waiting = Figure("64 threads, how long one append takes, p99", percentile(waits, 99) / 1000, "ms", target=20)
    alone = _alone(setting)
    return Outcome([*figures[1:2], waiting, _lone_figure(alone), *figures[2:]], taken | alone | {"waits": waits})


def _alone(setting: Setting) -> Samples:
    """A job through the queue's door, where nobody waits, and the same commit without any door."""
    rounds = setting.pick(smallest=2, quick=200, full=3_000)
    with projections.connect(setting.path("alone")) as runs:
        log: Any = runs.store.log
        numbers = count(1)

        def job(transaction: Any) -> None:
            transaction.execute("INSERT OR REPLACE INTO door VALUES (1, ?)", (next(numbers),))

        log.write(lambda transaction: transaction.execute("CREATE TABLE door(id INTEGER PRIMARY KEY, n INTEGER)"))
        contenders = {
            "lone, through the door": lambda _number: log.write(job, shared=True),
            "lone, straight": lambda _number: log._commit((Member(job),)),
        }
        return take_turns(contenders, rounds, seed=setting.seed, warmup=min(20, rounds))


def _lone_figure(taken: Samples) -> Figure:
    return ratio(
        "one caller alone, of a direct commit", taken["lone, through the door"], taken["lone, straight"], target=1.05
    )


def writers(setting: Setting) -> Outcome:
    """Throughput over writers: 1, 2, 4 … 128 threads, and as many tasks."""
    most = setting.pick(smallest=2, quick=16, full=128)
    events = setting.pick(smallest=4, quick=256, full=1_024)
    rates: dict[str, dict[int, float]] = {"threads": {}, "tasks": {}}
    loop = asyncio.new_event_loop()
    runs = loop.run_until_complete(_connected(setting))
    numbers = count(1)
    size = 1
    while size <= most:
        streams = [runs.store.stream(f"run-{size}-{number}") for number in range(size)]
        for stream in streams:
            loop.run_until_complete(stream.append(RunQueued("w"), RunStarted("w")))

        async def appends(stream: Any, each: int = events // size) -> None:
            for _ in range(each):
                await stream.append(ToolCalled(f"c-{next(numbers)}", "shell", {"command": _PAYLOAD}))

        def append(stream: Any, each: int = events // size) -> None:
            for _ in range(each):
                stream.stream.append(ToolCalled(f"c-{next(numbers)}", "shell", {"command": _PAYLOAD}))

        async def all_append(streams: list[Any] = streams) -> None:
            await asyncio.gather(*map(appends, streams))

        with ThreadPoolExecutor(size) as pool:
            for kind, work in (
                ("threads", lambda pool=pool, streams=streams, append=append: list(pool.map(append, streams))),
                ("tasks", lambda all_append=all_append: loop.run_until_complete(all_append())),
            ):
                begun = time.perf_counter()
                work()
                rates[kind][size] = events // size * size / (time.perf_counter() - begun)
        size *= 2
    loop.run_until_complete(runs.close())
    loop.close()
    figures = [
        Figure(
            f"{kind}: {found[max(found)] / found[1]:.1f} times the rate of one, with {max(found)}",
            found[max(found)],
            "events/s",
        )
        for kind, found in rates.items()
    ]
    return Outcome(
        figures, facts={kind: {str(size): rate for size, rate in found.items()} for kind, found in rates.items()}
    )
