"""What every benchmark is made of: its setting, contenders that take turns, figures beside what they should reach.

A machine is noisy and a figure in microseconds says nothing about another machine. So what is compared takes turns
in one run, in an order that changes each round, and what is reported is a ratio: of medians, of 99th percentiles, of
throughputs. `spread` is the same ratio in each tenth of the run: what the noise makes of it.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from attrs import asdict, field, frozen

KEPT = Path(__file__).parent / "out"
"""Where raw results and large logs are kept; git does not see it."""
Size = Literal["smallest", "quick", "full"]
Samples = dict[str, list[float]]
"""Microseconds by contender, in the order they were taken: the n-th of each are neighbours in time."""


@frozen
class Setting:
    """Where a benchmark may write, and how much it should do: "smallest" is for the test that nothing rots."""

    folder: Path
    size: Size = "full"
    seed: int = 1
    events: int | None = None
    """How many the largest log has, if not as many as the size says."""

    def pick(self, *, smallest: int, quick: int, full: int) -> int:
        """As many as this size calls for."""
        return {"smallest": smallest, "quick": quick, "full": full}[self.size]

    def path(self, name: str) -> Path:
        """A file name in a folder of its own, which nothing stands in yet."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        return folder / "agent.db"

    @property
    def logs(self) -> list[int]:
        """The sizes of the logs that are compared, in events: each ten times the one before, the largest last."""
        least = self.pick(smallest=60, quick=3_000, full=10_000)
        largest = self.events or self.pick(smallest=600, quick=30_000, full=1_000_000)
        sizes = [largest]
        while sizes[0] // 10 >= least:
            sizes.insert(0, sizes[0] // 10)
        return sizes


@frozen
class Figure:
    """One line of the table. Without a target it is there to explain the others."""

    what: str
    measured: float
    unit: str = "×"
    target: float | None = None
    dream: float | None = None
    more_is_better: bool = False
    spread: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        """Whether it is where it should be."""
        if self.target is None:
            return ""
        return "dream" if self._reaches(self.dream) else "reached" if self._reaches(self.target) else "MISSED"

    def _reaches(self, wanted: float | None) -> bool:
        if wanted is None:
            return False
        return self.measured >= wanted if self.more_is_better else self.measured <= wanted


@frozen
class Outcome:
    """What a benchmark found: figures for the table, samples and facts for the raw JSON and the pictures."""

    figures: tuple[Figure, ...] = field(converter=tuple)
    samples: Samples = field(factory=dict)
    facts: Mapping[str, Any] = field(factory=dict)

    def plain(self) -> dict[str, Any]:
        """The same as plain JSON; samples are kept to a hundredth of a microsecond."""
        samples = {name: [round(value, 2) for value in values] for name, values in self.samples.items()}
        return {"figures": [asdict(figure) for figure in self.figures], "samples": samples, "facts": dict(self.facts)}


Benchmark = Callable[[Setting], Outcome]


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection while something is timed: it would strike whoever happens to be at it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def take_turns(
    contenders: Mapping[str, Callable[[int], object]], rounds: int, *, seed: int = 1, warmup: int = 0
) -> Samples:
    """Microseconds that each contender takes for round 0, 1, 2 …: all do a round before any does the next.

    Args:
        contenders: by name; each is called with the number of the round.
        rounds: how many are timed.
        seed: of the order within each round.
        warmup: so many rounds go before and are not kept; their numbers count too.
    """
    samples: Samples = {name: [] for name in contenders}
    order = list(contenders.items())
    shuffle = random.Random(seed).shuffle  # an order that everybody can have again
    with undisturbed():
        for number in range(warmup + rounds):
            shuffle(order)
            for name, contender in order:
                begun = time.perf_counter_ns()
                contender(number)
                taken = time.perf_counter_ns() - begun
                if number >= warmup:
                    samples[name].append(taken / 1000)
    return samples


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def ratio(
    what: str,
    ours: Sequence[float],
    floor: Sequence[float],
    *,
    of: Callable[[Sequence[float]], float] = median,
    **wanted: Any,
) -> Figure:
    """Our time over the floor's, as a figure with its spread; `wanted` is target, dream …"""
    tenth = max(1, len(ours) // 10)
    starts = range(0, len(ours) - tenth + 1, tenth)
    parts = [of(ours[start : start + tenth]) / of(floor[start : start + tenth]) for start in starts]
    return Figure(what, of(ours) / of(floor), spread=(min(parts), max(parts)), **wanted)
