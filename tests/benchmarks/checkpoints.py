"""Checkpoints: what a run that grows by 2 KB a step takes on disk, to save and to read, with a checkpoint each step.

"Encoding" is `orjson.dumps` of the state, which nobody can do without. "Packing" is what finds and stores the
difference. The whole append has more: the chain's SHA-256 over all of the state's JSON, the search for what JSON would
change in silence, machine, tables, commit. "Text" is of three thousand made-up words and compresses to three fifths;
"noise" is random base64, which compresses to three quarters.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

import projections
from eventstore.exchange import import_lines
from eventstore.sqlite import transaction as sqlite_transaction
from eventstore.workflow import RUN, CheckpointSaved, RunQueued, RunStarted
from tests.benchmarks.harness import Figure, Outcome, Samples, Setting, median, ratio, undisturbed

_STEP_BYTES = 2_000
_TURNS = range(5)
"""How often each is read; the best of these counts where the slowest of all is asked for."""
_REAL_RUNS = "RUNFOLD_AGENT_RUNS"
"""Names a folder of real runs as JSON Lines, in the environment: they are not part of the project."""

Text = Callable[[random.Random, int], str]


def checkpoints(setting: Setting) -> Outcome:
    """1,000 steps of a run that grows by 2 KB a step, a checkpoint each: bytes, saving, reading; and real runs."""
    steps = setting.pick(smallest=40, quick=300, full=1_000)
    figures: list[Figure] = []
    samples: Samples = {}
    facts: dict[str, Any] = {"steps": steps}
    for name, text in {"text": _text, "noise": _noise}.items():
        taken, sizes = _grown(setting.path(name), steps, random.Random(setting.seed), text)
        new, stored, disk = sizes["new"][-1], sizes["stored"][-1], sizes["disk"]
        facts[name] = sizes
        figures += [
            Figure(f"bytes on disk over what is new, {name}", disk / new, target=2.0),
            Figure(f"payloads as stored over what is new, {name}", stored / new),
            Figure(f"states as they come over what is new, {name}", sum(sizes["whole"]) / new),
        ]
        samples |= {f"{what}, {name}": values for what, values in taken.items()}
    encoding, packing = samples["encoding, text"], samples["packing, text"]
    both = [one + other for one, other in zip(encoding, packing, strict=True)]
    slowest = max(min(group) for group in zip(*(samples[f"reading {turn}, text"] for turn in _TURNS), strict=True))
    figures += [
        Figure("bytes on disk, text", facts["text"]["disk"] / 1e6, "MB", target=4.0 * steps / 1_000),
        ratio("encoding and packing over encoding", both, encoding, of=sum, target=2.5),
        ratio("the chain's SHA-256 over encoding", samples["hashing, text"], encoding, of=sum),
        ratio("looking for NaN and NUL over encoding", samples["searching, text"], encoding, of=sum),
        ratio("the whole append, NORMAL, over encoding", samples["append, text"], encoding, of=sum),
        Figure("reading the slowest of them", slowest / 1_000, "ms", target=10.0),
        Figure("reading, p50", median(samples["reading 0, text"]) / 1_000, "ms"),
        ratio("reading over decoding what was read", samples["reading 0, text"], samples["decoding, text"]),
        *_real_runs(setting),
    ]
    return Outcome(figures, samples, facts)


def _grown(path: Path, steps: int, draw: random.Random, text: Text) -> tuple[Samples, dict[str, Any]]:
    """Save a growing state at each step, and read each back; microseconds, and bytes step by step."""
    taken: Samples = {name: [] for name in ("encoding", "hashing", "searching", "append")}
    whole: list[int] = []
    with projections.connect(path, synchronous="NORMAL") as runs, _packing_timed() as packing, undisturbed():
        stream = runs.store.stream("run-1", RUN)
        stream.append(RunQueued("deploy"), RunStarted("mac"))
        for state in _states(steps, draw, text):
            encoded = orjson.dumps(state.state)
            whole.append(len(encoded))
            _timed(taken["encoding"], lambda state=state: orjson.dumps(state.state))
            _timed(taken["hashing"], lambda encoded=encoded: hashlib.sha256(encoded).digest())
            _timed(taken["searching"], lambda encoded=encoded: _searched(encoded))
            _timed(taken["append"], lambda state=state: stream.append(state))
        # The first ones, of less than a page, are not given to it.
        taken["packing"] = [0.0] * (steps - len(packing)) + packing
        taken |= _read_back(runs, steps)
        with runs.store.reading() as reading:
            lengths = reading.execute("SELECT octet_length(data) FROM events WHERE type = 'CheckpointSaved'").fetchall()
    stored = [sum(length for (length,) in lengths[: step + 1]) for step in range(steps)]
    new = [size - whole[0] + _STEP_BYTES for size in whole]
    return taken, {"whole": whole, "new": new, "stored": stored, "disk": path.stat().st_size}


def _searched(encoded: bytes) -> bool:
    """As `payloads.encode_json` looks for what JSON would change."""
    return (b"\\" in encoded and b"\\u0000" in encoded) or b"null" in encoded


def _states(steps: int, draw: random.Random, text: Text) -> Iterator[CheckpointSaved]:
    """A state as an agent's is: messages and calls behind one another, and counters before them."""
    state: dict[str, Any] = {"step": 0, "tokens": 0, "messages": [], "plan": ["look", "mend", "test"]}
    for step in range(steps):
        state["step"], state["tokens"] = step, state["tokens"] + draw.randint(100, 5_000)
        call = {"id": f"call-{step}", "function": {"name": "grep", "arguments": {"pattern": text(draw, 60)}}}
        state["messages"] += [
            {"role": "assistant", "content": text(draw, 400), "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call-{step}", "content": text(draw, _STEP_BYTES - 690)},
        ]
        yield CheckpointSaved(step, state)


_WORDS = ["".join(random.Random(word).choices("etaoishrdlucmfw", k=2 + word % 8)) for word in range(3_000)]


def _text(draw: random.Random, size: int) -> str:
    return " ".join(draw.choices(_WORDS, k=size // 5 + 1))[:size]


def _noise(draw: random.Random, size: int) -> str:
    return base64.b64encode(draw.randbytes(size * 3 // 4 + 1)).decode()[:size]


class _packing_timed:  # noqa: N801 - used as a function is
    """The microseconds of each packing, as the log's own transaction asks for it."""

    def __enter__(self) -> list[float]:
        self._honest = sqlite_transaction.pack
        found: list[float] = []

        def timed(*arguments: Any) -> Any:
            begun = time.perf_counter_ns()
            packed = self._honest(*arguments)
            found.append((time.perf_counter_ns() - begun) / 1_000)
            return packed

        sqlite_transaction.pack = timed  # type: ignore[assignment]
        return found

    def __exit__(self, *_: object) -> None:
        sqlite_transaction.pack = self._honest


def _timed(into: list[float], act: Callable[[], object]) -> None:
    begun = time.perf_counter_ns()
    act()
    into.append((time.perf_counter_ns() - begun) / 1_000)


def _read_back(runs: projections.Runs, steps: int) -> Samples:
    """Read each checkpoint in a snapshot of its own, five times, and decode it."""
    taken: Samples = {name: [] for name in (*(f"reading {turn}" for turn in _TURNS), "decoding")}
    for turn in _TURNS:
        for version in range(3, steps + 3):
            data = ""

            def read(version: int = version) -> None:
                nonlocal data
                with runs.store.reading() as reading:
                    data = reading.read("run-1", after=version - 1, limit=1)[0].data

            _timed(taken[f"reading {turn}"], read)
            if turn == 0:
                _timed(taken["decoding"], lambda data=data: orjson.loads(data))
    return taken


def _real_runs(setting: Setting) -> list[Figure]:
    """The runs of real agents, where there are any: all checkpoints of a run over the JSON of its last state."""
    folder = os.environ.get(_REAL_RUNS)
    files = sorted(Path(folder).glob("*.jsonl")) if folder else []
    if not files:
        return []
    found = []
    with projections.connect(setting.path("real")) as runs:
        for file in files:
            with file.open("rb") as lines:
                import_lines(runs.store, lines)
            with runs.store.reading() as reading:
                stored, *_ = reading.execute(
                    "SELECT sum(octet_length(data)) FROM events WHERE type = 'CheckpointSaved' AND stream = ?",
                    (file.stem,),
                ).fetchone()
            states = [len(item.entry.data) for item in runs.store.read(file.stem) if item.kind is CheckpointSaved]
            found.append((stored / states[-1], sum(states) / states[-1]))
    return [
        Figure(f"{len(files)} real runs: checkpoints over the last state, worst", max(found)[0], target=1.0),
        Figure(f"{len(files)} real runs: checkpoints over the last state, p50", median([one for one, _ in found])),
        Figure(f"{len(files)} real runs: as they come, p50", median([whole for _, whole in found])),
    ]
