"""Traces: recorded runs, a line an event, that the demo performs again; and sample ones for those who brought none."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import orjson
from attrs import frozen

from eventstore.errors import InvalidArgument
from eventstore.payloads import loads_strictly
from eventstore.workflow import RunPaused, RunQueued, RunRequeued, RunResumed, RunStarted

if TYPE_CHECKING:
    from pathlib import Path

    from eventstore.codec import Codec

_LIVES = (RunResumed, RunPaused, RunRequeued)


@frozen
class Trace:
    """One run's events, line by line; line numbers count from 1 within the run."""

    run_id: str
    events: tuple[Any, ...]

    @property
    def lines(self) -> Iterator[tuple[int, Any]]:
        """(number, event) of each line."""
        return iter(enumerate(self.events, start=1))


def key_of(number: int) -> str:
    """The key that a line's append bears."""
    return f"line-{number}"


def load(paths: Iterable[Path], codec: Codec) -> list[Trace]:
    """The runs in these JSON Lines files, in the order in which they begin.

    Raises:
        InvalidArgument: a line that is no event, or a run that the demo cannot perform.
    """
    events: dict[str, list[Any]] = {}
    for path in paths:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    entry = loads_strictly(line)
                    events.setdefault(entry["stream"], []).append(codec.parse(entry["type"], entry["data"]))
                except (ValueError, KeyError, TypeError) as error:
                    raise InvalidArgument("trace", str(path), f"holds no event in line {number}: {error}") from error
    traces = [Trace(run_id, tuple(listed)) for run_id, listed in events.items()]
    for trace in traces:
        kinds = [type(event) for event in trace.events]
        if kinds[0] is not RunQueued or kinds.count(RunStarted) != 1 or any(kind in _LIVES for kind in kinds):
            raise InvalidArgument(
                "trace", trace.run_id, "must be a run of one attempt: RunQueued, one RunStarted, work, an end"
            )
    return traces


def write(path: Path, traces: Iterable[Trace], codec: Codec) -> None:
    """The traces as one file that `load` reads."""
    with path.open("wb") as file:
        for trace in traces:
            for event in trace.events:
                data = orjson.loads(codec.encode(event))
                line = {"stream": trace.run_id, "type": type(event).__name__, "data": data}
                file.write(orjson.dumps(line) + b"\n")


def samples(seed: int, codec: Codec, count: int = 6) -> list[Trace]:
    """Made-up runs of an agent that looks, thinks, writes, and asks before it ships."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    return [_sample(f"sample-{number}", chance, codec) for number in range(1, count + 1)]


def _sample(run_id: str, chance: random.Random, codec: Codec) -> Trace:
    lines: list[tuple[str, dict[str, Any]]] = [
        ("RunQueued", {"workflow": "sample-agent", "input": {"task": f"mend issue {chance.randint(1, 999)}"}}),
        ("RunStarted", {"worker": "sample"}),
    ]
    messages: list[dict[str, str]] = []
    steps = chance.randint(4, 9)
    for step in range(1, steps + 1):
        thought = {"role": "assistant", "content": f"step {step}: " + "look closer. " * chance.randint(1, 30)}
        call = {"call_id": f"call-{step}", "tool": "shell", "input": {"command": f"make step-{step}"}}
        output = "ok\n" * chance.randint(1, 60)
        messages += [thought, {"role": "tool", "content": output}]
        lines += [("MessageRecorded", thought)]
        if step == steps:
            call |= {"tool": "ship"}
            question = {**call, "reason": "touches production"}
            answer = {"call_id": call["call_id"], "decision": "approved", "by": "reviewer"}
            lines += [("ToolCalled", call), ("ConfirmationRequested", question), ("ConfirmationResolved", answer)]
        else:
            lines += [("ToolCalled", call)]
        lines += [
            ("ToolReturned", {"call_id": call["call_id"], "output": output, "is_error": False}),
            ("CheckpointSaved", {"step": step, "state": {"messages": list(messages)}}),
        ]
    lines += [
        ("UsageRecorded", {"input_tokens": 900 * steps, "output_tokens": 70 * steps, "cost_usd": 0.01 * steps}),
        ("RunCompleted", {"output": {"steps": steps}}),
    ]
    return Trace(run_id, tuple(codec.parse(name, data) for name, data in lines))
