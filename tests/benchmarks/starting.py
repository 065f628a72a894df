"""Starting: a daemon after a crash, with many runs to take up; and the first append to a run with a very long history.

Both should cost by what is active, and not by what was ever written: so each is measured over logs of different sizes.
"""

from __future__ import annotations

import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import projections
from eventstore.workflow import RUN, MessageRecorded, RunQueued, RunStarted
from tests.benchmarks import workload
from tests.benchmarks.bare import Bare, reader
from tests.benchmarks.harness import Figure, Outcome, Samples, Setting, median, ratio, undisturbed
from tests.benchmarks.logs import active_runs, log_of, stream_of


class _Laps:
    """Microseconds between one look and the next, by name."""

    def __init__(self) -> None:
        self.samples: Samples = {}
        self._at = 0

    def start(self) -> None:
        self._at = time.perf_counter_ns()

    def lap(self, name: str) -> None:
        self.samples.setdefault(name, []).append((time.perf_counter_ns() - self._at) / 1_000)
        self.start()


def opening(setting: Setting) -> Outcome:
    """The first append to a stream of 100,000 events through a new handle, and the next; over a scan of its types."""
    events = setting.pick(smallest=60, quick=10_000, full=100_000)
    rounds = setting.pick(smallest=1, quick=10, full=20)
    path = stream_of(setting, "log", events)
    laps = _Laps()
    with projections.connect(path) as runs, closing(reader(path)) as bare, undisturbed():
        other = runs.store.stream("short", RUN)
        other.append(RunQueued("deploy"), RunStarted("mac"))
        for number in range(rounds + 1):
            said = MessageRecorded("assistant", f"done with {number}")
            handle = runs.store.stream("long", RUN)
            laps.start()
            handle.append(said, attempt=1)
            laps.lap("first")
            handle.append(said, attempt=1)
            laps.lap("next")
            other.append(said, attempt=1)
            laps.lap("short run")
            for _ in bare.execute("SELECT version, type FROM events WHERE stream = 'long' ORDER BY version"):
                pass
            laps.lap("scan")
    taken = {name: values[1:] for name, values in laps.samples.items()}
    first, scan = taken["first"], taken["scan"]
    figures = [
        Figure(f"the first append to a stream of {events:,} events", median(first) / 1_000, "ms", target=250.0),
        ratio("the first append, over a bare scan of version and type", first, scan),
        ratio("the next append, of one to a short run, p50", taken["next"], taken["short run"], target=1.1),
        Figure("a bare scan of version and type", median(scan) / 1_000, "ms"),
    ]
    return Outcome(figures, taken)


def start(setting: Setting) -> Outcome:
    """A daemon's start after a crash: worker, recovery, claims, each run's checkpoint and what came since."""
    rounds = setting.pick(smallest=1, quick=3, full=7)
    active = active_runs(setting)
    smallest, largest = setting.logs[0], setting.logs[-1]
    samples: Samples = {}
    for events in (smallest, largest):
        path = log_of(setting, f"log-{events}", events)
        laps = _Laps()
        for _ in range(rounds):
            _start(path, active, laps)
        samples |= {f"{name}, {events}": values for name, values in laps.samples.items()}
        samples[f"knowing, {events}"] = [sum(parts) for parts in zip(*map(laps.samples.get, _KNOWING), strict=True)]  # type: ignore[arg-type]
    samples["commits"] = _commits(setting, active, rounds)
    knowing, claims = samples[f"knowing, {largest}"], samples[f"claims, {largest}"]
    of = f"{active} active runs, {largest:,} events"
    figures = [
        Figure(f"until all is known of {of}", median(knowing) / 1_000, "ms", target=20 + 0.3 * active),
        ratio(f"the same, over a log of {smallest:,}", knowing, samples[f"knowing, {smallest}"], target=1.1),
        *(Figure(f"of that {name}", median(samples[f"{name}, {largest}"]) / 1_000, "ms") for name in _KNOWING),
        Figure(f"the {active} claims, a durable commit each", median(claims) / 1_000, "ms"),
        ratio("the claims, over as many bare inserts", claims, samples["commits"]),
        ratio(f"the claims, over a log of {smallest:,}", claims, samples[f"claims, {smallest}"]),
    ]
    return Outcome(figures, samples)


_KNOWING = ("connect and worker", "recover", "checkpoints and since")
"""What a start takes but for the claims, each of which is a commit that waits for the disk."""


def _start(path: Path, active: int, laps: _Laps) -> None:
    """Take up what a dead worker left. Ours then leaves without a word, so the next one finds the same again."""
    with undisturbed():
        laps.start()
        with projections.connect(path) as runs, runs.worker("mac", lease=timedelta(hours=1)) as worker:
            laps.lap("connect and worker")
            found = worker.recover(max_crashes=1_000)
            laps.lap("recover")
            attempts = [attempt for _ in range(active) if (attempt := worker.claim()) is not None]
            laps.lap("claims")
            states = [(attempt.checkpoint, attempt.since) for attempt in attempts]
            laps.lap("checkpoints and since")
    if not len(found.resumable) == len(attempts) == active or not all(state and since for state, since in states):
        raise RuntimeError(f"of {active} runs {len(found.resumable)} were found and {len(attempts)} claimed")


def _commits(setting: Setting, size: int, rounds: int) -> list[float]:
    """As many bare durable inserts as there are claims."""
    laps = _Laps()
    bare = Bare(setting.path("bare"))
    rows = list(workload.ready(-(-size * rounds // workload.EVENTS_PER_RUN)))
    for number in range(rounds):
        laps.start()
        for row in rows[number * size : (number + 1) * size]:
            bare.insert((*row[:10], "{}"))
        laps.lap("commits")
    bare.close()
    return laps.samples["commits"]
