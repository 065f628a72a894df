"""The workload that all is measured on: runs of 30 events, eight at a time, one in ten asking a person.

Each step of a run is a tool call (265 bytes of JSON), its result (665), and a checkpoint of about 4 KB that grows as a
state does that gathers messages. Made of words drawn with a seed: the same each time, and as compressible as text.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import islice, repeat
from typing import Any, TypeVar

from eventstore.codec import Codec
from eventstore.workflow import (
    TRANSITIONS,
    CheckpointSaved,
    ConfirmationRequested,
    ConfirmationResolved,
    MessageRecorded,
    RunCompleted,
    RunQueued,
    RunStarted,
    ToolCalled,
    ToolReturned,
)
from tests.benchmarks.bare import Row

T = TypeVar("T")

EVENTS_PER_RUN = 30
AT_A_TIME = 8
_WORDS = "the tests pass now so deploy fix parser error branch review merge retry file line import module value".split()
_OPENING_BYTES = 2_360
_GROWTH_BYTES = 320
NAMES = tuple({kind.__name__ for row in TRANSITIONS.values() for kind in row})


def interleaved(runs: int, *, seed: int = 1, name: str = "run") -> Iterator[tuple[str, Any]]:
    """(run id, event) of so many runs, eight of them at any time, in the order in which they are to be appended."""
    draw = random.Random(seed)
    return in_turns((f"{name}-{number:07d}", one_run(number, draw)) for number in range(runs))


def in_turns(runs: Iterator[tuple[str, Iterable[T]]]) -> Iterator[tuple[str, T]]:
    """One of each of eight runs in turns; where one has no more, the next run takes its place."""
    waiting = (zip(repeat(run_id), items) for run_id, items in runs)
    active = list(islice(waiting, AT_A_TIME))
    while active:
        for run in tuple(active):
            if (item := next(run, None)) is not None:
                yield item
            else:
                active.remove(run)
                active += islice(waiting, 1)


def one_run(number: int, draw: random.Random) -> list[Any]:
    """The 30 events of a run; every tenth run asks for a confirmation in place of its last step."""
    events: list[Any] = [RunQueued("deploy", input={"env": "prod", "number": number}, agent="coder"), RunStarted("mac")]
    state: dict[str, Any] = {"plan": words(draw, _OPENING_BYTES), "messages": []}
    asks = number % 10 == 0
    for number_of_step in range(8 if asks else 9):
        call, result, saved = step(f"call-{number_of_step}", number_of_step, state, draw)
        state = saved.state
        if asks and number_of_step == 0:
            events += [ConfirmationRequested(call.call_id, call.tool, call.input)]
            events += [ConfirmationResolved(call.call_id, "approved", by="ann")]
        events += [call, result, saved]
    if asks:
        events.append(MessageRecorded("assistant", words(draw, 200)))
    return [*events, RunCompleted(output={"ok": True})]


def cut_short(number: int, draw: random.Random) -> list[Any]:
    """A run whose worker died: a checkpoint, what came since, and a call of which nobody knows how it ended."""
    state = {"plan": words(draw, _OPENING_BYTES), "messages": []}
    saved = step("call-0", 0, state, draw)
    since = step("call-1", 1, state, draw)[:2]
    last = step("call-2", 2, state, draw)[:1]
    return [RunQueued("deploy", input={"env": "prod", "number": number}), RunStarted("gone"), *saved, *since, *last]


def step(
    call_id: str, number: int, state: dict[str, Any], draw: random.Random
) -> tuple[ToolCalled, ToolReturned, CheckpointSaved]:
    """A tool call, its result, and the checkpoint of a state that gathered one message more."""
    call = ToolCalled(call_id, "run_tests", {"path": f"src/module_{number}.py", "note": words(draw, 181)})
    result = ToolReturned(call_id, {"exit": 0, "log": words(draw, 616)})
    messages = [*state.get("messages", ()), {"step": number, "text": words(draw, _GROWTH_BYTES)}]
    return call, result, CheckpointSaved(number + 1, {**state, "messages": messages})


def words(draw: random.Random, size: int) -> str:
    """So many characters of text."""
    return " ".join(draw.choices(_WORDS, k=size // 4 + 1))[:size]


def ready(runs: int, *, seed: int = 1) -> Iterator[Row]:
    """The same workload as rows of ready bytes for the floor, with places as a log would give them."""
    codec = Codec(kind for row in TRANSITIONS.values() for kind in row)
    versions: dict[str, int] = {}
    for position, (stream, event) in enumerate(interleaved(runs, seed=seed), start=1):
        version = versions[stream] = versions.get(stream, 0) + 1
        attempt = None if version == 1 else 1
        digest = position.to_bytes(32, "big")
        at = 1_767_225_600_000_000 + position
        yield (
            position, stream, version, type(event).__name__, at, None, attempt, None, digest, None, codec.encode(event)
        )  # fmt: skip


def sizes(runs: int) -> dict[str, float]:
    """Mean bytes of JSON by event type: what the workload really is."""
    found: dict[str, list[int]] = {}
    for row in ready(runs):
        found.setdefault(row[3], []).append(len(row[-1]))
    return {name: sum(bytes_of) / len(bytes_of) for name, bytes_of in found.items()}
