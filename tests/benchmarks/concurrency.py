"""Many callers at once: threads and asyncio tasks that share commits, against those who wait for one another.

Each round, every writer makes two tool calls of a run of its own, each of which returns: four events, one at a time,
and it waits for each. "Batches" is as many ready rows, of the same bytes, in commits of a hundred: what sharing could
reach if nothing had to be prepared or judged. "Lock" is what most stores are: one connection behind a lock, in the same
process, a commit for each.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, islice
from typing import Any

import projections
from eventstore.codec import Codec
from eventstore.log import Member
from eventstore.workflow import RunQueued, RunStarted, ToolCalled, ToolReturned
from tests.benchmarks import workload
from tests.benchmarks.bare import Bare, Row
from tests.benchmarks.harness import Figure, Outcome, Samples, Setting, median, percentile, ratio, take_turns

_EACH = 4
"""Events that a writer appends in a round: two calls that return, so that the run's state stays as small as it was."""
_HUNDRED = 100
_NOTE, _LOG = (workload.words(random.Random(1), size) for size in (181, 616))


def _steps() -> Iterator[ToolCalled | ToolReturned]:
    """What one writer appends: a call, its return, the next call …, of the usual sizes."""
    for number in count():
        yield ToolCalled(f"call-{number}", "run_tests", {"path": "src/module_1.py", "note": _NOTE})
        yield ToolReturned(f"call-{number}", {"exit": 0, "log": _LOG})


class _Rows:
    """Ready rows for a bare table, of the bytes that one writer of ours writes; made before anything is timed."""

    def __init__(self, codec: Codec, rounds: int, size: int) -> None:
        rows = self._all(codec)
        self._rounds = [list(islice(rows, size)) for _ in range(rounds)]

    @staticmethod
    def _all(codec: Codec) -> Iterator[Row]:
        for at, event in enumerate(_steps(), start=1):
            yield (at, "run-1", at, type(event).__name__, at, None, 1, None, bytes(32), None, codec.encode(event))

    def insert_in_batches(self, bare: Bare, number: int) -> None:
        """The rows of a round, a hundred a commit."""
        rows = self._rounds[number]
        for start in range(0, len(rows), _HUNDRED):
            bare.insert_many(rows[start : start + _HUNDRED])

    def of_writers(self, number: int) -> list[list[Row]]:
        """The rows of a round, by writer."""
        rows = self._rounds[number]
        return [rows[start : start + _EACH] for start in range(0, len(rows), _EACH)]


def tasks(setting: Setting) -> Outcome:
    """64 asyncio tasks, one event at a time, FULL: against batches of ready rows, and one connection behind a lock."""
    writers = setting.pick(smallest=4, quick=64, full=64)
    rounds = setting.pick(smallest=1, quick=10, full=60)
    loop = asyncio.new_event_loop()
    runs = loop.run_until_complete(_connected(setting))
    writing = [(stream, _steps()) for stream in loop.run_until_complete(_begun(runs, writers))]
    rows = _Rows(runs.runs.store.gate.codec, rounds + 1, writers * _EACH)
    bare, locked = Bare(setting.path("bare")), Bare(setting.path("locked"))

    async def appends(stream: Any, events: Iterator[Any]) -> None:
        for event in islice(events, _EACH):
            await stream.append(event)

    async def all_append() -> None:
        await asyncio.gather(*(appends(stream, events) for stream, events in writing))

    async def all_wait(number: int) -> None:
        lock = asyncio.Lock()

        async def writes(mine: list[Row]) -> None:
            for row in mine:
                async with lock:
                    await asyncio.to_thread(locked.insert, row)

        await asyncio.gather(*map(writes, rows.of_writers(number)))

    contenders = {
        "ours": lambda _number: loop.run_until_complete(all_append()),
        "batches": lambda number: rows.insert_in_batches(bare, number),
        "lock": lambda number: loop.run_until_complete(all_wait(number)),
    }
    taken = take_turns(contenders, rounds, seed=setting.seed, warmup=1)
    loop.run_until_complete(runs.close())
    loop.close()
    bare.close()
    locked.close()
    return Outcome(_rates("64 asyncio tasks", taken, writers, (0.4, 0.55), (7.0, None)), taken)


async def _connected(setting: Setting) -> Any:
    return await projections.aconnect(setting.path("ours"))


async def _begun(runs: Any, writers: int, name: str = "run") -> list[Any]:
    streams = [runs.store.stream(f"{name}-{number}") for number in range(writers)]
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
        writing = [_steps() for _ in streams]
        rows = _Rows(runs.store.gate.codec, rounds + 1, writers * _EACH)
        bare, locked = Bare(setting.path("bare")), Bare(setting.path("locked"))
        lock = threading.Lock()

        def appends(stream: Any, events: Iterator[Any]) -> None:
            for event in islice(events, _EACH):
                begun = time.perf_counter_ns()
                stream.append(event)
                waits.append((time.perf_counter_ns() - begun) / 1000)

        def writes(mine: list[Row]) -> None:
            for row in mine:
                with lock:
                    locked.insert(row)

        contenders = {
            "ours": lambda _number: list(pool.map(appends, streams, writing)),
            "batches": lambda number: rows.insert_in_batches(bare, number),
            "lock": lambda number: list(pool.map(writes, rows.of_writers(number))),
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
    """Throughput over writers: 1, 2, 4 … 128 threads, and as many tasks; of each the best of three goes."""
    most = setting.pick(smallest=2, quick=16, full=128)
    events = setting.pick(smallest=4, quick=256, full=2_048)
    rounds = setting.pick(smallest=1, quick=1, full=3)
    rates: dict[str, dict[str, float]] = {"threads": {}, "tasks": {}}
    loop = asyncio.new_event_loop()
    runs = loop.run_until_complete(_connected(setting))
    sizes = [2**power for power in range(most.bit_length())]
    for size in sizes:
        for kind, rate in (("threads", _rate_of_threads), ("tasks", partial(_rate_of_tasks, loop))):
            streams = loop.run_until_complete(_begun(runs, size, f"{kind}-{size}"))
            writing = [(stream, _steps()) for stream in streams]
            rates[kind][str(size)] = max(rate(writing, events // size) for _ in range(rounds))
    rows = _Rows(runs.runs.store.gate.codec, rounds, events)
    bare = Bare(setting.path("bare"))
    batches = (partial(rows.insert_in_batches, bare, number) for number in range(rounds))
    rates["batches"] = {str(_HUNDRED): max(_rate(events, work) for work in batches)}
    bare.close()
    loop.run_until_complete(runs.close())
    loop.close()
    figures = []
    for kind in ("threads", "tasks"):
        alone, many = rates[kind]["1"], rates[kind][str(sizes[-1])]
        figures += [
            Figure(f"{sizes[-1]} {kind}, of the rate of one", many / alone, more_is_better=True),
            Figure(f"{sizes[-1]} {kind}", many, "events/s"),
        ]
    return Outcome(figures, facts=rates)


def _rate(events: int, work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return events / (time.perf_counter() - begun)


_Writing = list[tuple[Any, Iterator[Any]]]
"""Handles of asyncio, each with what its writer appends."""


def _rate_of_threads(writing: _Writing, each: int) -> float:
    def appends(handle: Any, events: Iterator[Any]) -> None:
        for event in islice(events, each):
            handle.stream.append(event)

    with ThreadPoolExecutor(len(writing)) as pool:
        return _rate(each * len(writing), lambda: list(pool.map(appends, *zip(*writing, strict=True))))


def _rate_of_tasks(loop: asyncio.AbstractEventLoop, writing: _Writing, each: int) -> float:
    async def appends(handle: Any, events: Iterator[Any]) -> None:
        for event in islice(events, each):
            await handle.append(event)

    async def all_append() -> None:
        await asyncio.gather(*(appends(handle, events) for handle, events in writing))

    return _rate(each * len(writing), lambda: loop.run_until_complete(all_append()))
