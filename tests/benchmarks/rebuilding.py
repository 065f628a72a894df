"""Rebuilding the tables from the log: how long, how much memory, and what a daemon notices that goes on writing.

Each rebuild is a process of its own (`python -m tests.benchmarks.rebuilding`), so that its memory is its own. The floor
is a bare scan of the columns that every entry is judged by, row by row, in Python: what anybody pays who looks at each
entry of a log once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import projections
from tests.benchmarks import workload
from tests.benchmarks.bare import reader
from tests.benchmarks.harness import Figure, Outcome, Samples, Setting, percentile, undisturbed
from tests.benchmarks.logs import log_of
from tests.benchmarks.lone import appended

_ROOT = Path(__file__).parents[2]
_SCAN = "SELECT position, stream, version, type, attempt FROM events NOT INDEXED"
PERIOD = 0.005
"""Seconds between two appends of the writer that a rebuild stands beside."""

# --- in a process of its own --------------------------------------------------------------------------------------


def _scan(path: Path) -> dict[str, Any]:
    connection = reader(path)
    begun = time.monotonic()
    for _ in connection.execute(_SCAN):
        pass
    return {"seconds": time.monotonic() - begun}


def _rebuild(path: Path, *names: str) -> dict[str, Any]:
    with projections.connect(path) as runs:
        looks = [time.monotonic()]
        runs.rebuild(*names, progress=lambda _folded, _all: looks.append(time.monotonic()))
        ended = time.monotonic()
    # `looks` ends with the last look before the tables were swapped.
    return {"seconds": ended - looks[0], "peak": _peak(), "begun": looks[0], "swapping": looks[-1], "ended": ended}


def _peak() -> float:
    """The megabytes that this process held at most; Linux says so. `ru_maxrss` is handed on by who started us."""
    status = Path("/proc/self/status").read_text().splitlines()
    (held,) = (line.split()[1] for line in status if line.startswith("VmHWM:"))
    return int(held) * 1024 / 1e6


_PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "scan": _scan,
    "run rows": lambda path: _rebuild(path, "workflow_runs"),
    "everything": _rebuild,
}


def _process(part: str, path: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    command = [sys.executable, "-m", __spec__.name, part, str(path)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def _told(process: subprocess.Popen[str]) -> dict[str, Any]:
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args!r} failed")
    told: dict[str, Any] = json.loads(said)
    return told


def _measured(setting: Setting, part: str, path: Path) -> dict[str, Any]:
    # A test has no time for a dozen processes; that one can be started is seen in `beside`.
    return _PARTS[part](path) if setting.size == "smallest" else _told(_process(part, path))


# --- how long and how large ---------------------------------------------------------------------------------------


def rebuild(setting: Setting) -> Outcome:
    """Rebuilding run rows alone, and all built-in tables, over sizes of the log: time over a bare scan, and memory."""
    samples: Samples = {}
    peaks: dict[str, float] = {}
    for events in setting.logs:
        rounds = setting.pick(smallest=1, quick=3, full=2 if events >= 1_000_000 else 4)
        path = log_of(setting, f"log-{events}", events)
        _measured(setting, "scan", path)  # the first one finds the file in memory or not
        for _ in range(rounds):
            for part in _PARTS:
                told = _measured(setting, part, path)
                samples.setdefault(f"{part}, {events}", []).append(told["seconds"] * 1e6)
                if part == "everything":
                    peaks[str(events)] = max(told["peak"], peaks.get(str(events), 0))
        path.unlink()
    *_, before, largest = setting.logs
    scan, rows, all_of_it = (samples[f"{part}, {largest}"] for part in _PARTS)
    size = f"{largest:,} events"
    figures = [
        # The best of each: what else the machine does in these seconds only ever adds.
        Figure(f"run rows, {size}, of the rate of a bare scan", min(scan) / min(rows), target=0.6, more_is_better=True),
        Figure(
            f"everything, {size}, of the rate of a bare scan",
            min(scan) / min(all_of_it),
            target=0.2,
            more_is_better=True,
        ),
        Figure(
            f"memory at its peak, {size} over {before:,}",
            peaks[str(largest)] / peaks[str(before)],
            # Below a million there are fewer runs than it remembers.
            target=1.1 if before >= 1_000_000 else None,
        ),
        Figure(f"memory at its peak, {size}", peaks[str(largest)], "MB"),
        *(
            Figure(f"{part}, {size}", largest / min(taken) * 1e6, "events/s")
            for part, taken in zip(_PARTS, (scan, rows, all_of_it), strict=True)
        ),
    ]
    return Outcome(figures, samples, {"peak MB": peaks})


# --- beside a writer ----------------------------------------------------------------------------------------------


def beside(setting: Setting) -> Outcome:
    """A daemon that appends 200 events a second, alone and beside a rebuild of everything in another process."""
    path = log_of(setting, "log", min(setting.logs[-1], 1_000_000))
    alone = setting.pick(smallest=1, quick=20, full=100) / 10
    with projections.connect(path) as runs, undisturbed():
        append = appended(runs, workload.interleaved(1_000_000, seed=setting.seed, name="beside"))
        waits = list(_paced(append, lambda since: since > alone))
        process = _process("everything", path)
        during = list(_paced(append, lambda _since: process.poll() is not None))
        told = _told(process)
        waits += _paced(append, lambda since: since > alone)
    # From when it began to fold, as imports are no rebuild, to when the tables that it put aside were gone.
    with_it = with_those_behind(wait for at, wait in during if told["begun"] <= at + wait and at <= told["ended"])
    swap = [wait for at, wait in during if told["swapping"] <= at + wait and at <= told["ended"]]
    without = with_those_behind(wait for _, wait in waits)
    figures = [
        _share("p99 beside a rebuild, of p99 alone", with_it, without, 99, target=2.0),
        _share("p50 beside a rebuild, of p50 alone", with_it, without, 50),
        Figure("the longest append while tables are swapped", max(swap, default=0) * 1_000, "ms", target=50.0),
        Figure("the longest append beside the rebuild", max(with_it) * 1_000, "ms"),
        Figure("the longest append alone", max(without) * 1_000, "ms"),
        Figure("p99 alone", percentile(without, 99) * 1_000, "ms"),
        Figure("the rebuild beside it", told["seconds"], "s"),
    ]
    samples = {"alone": [wait * 1e6 for wait in without], "beside": [wait * 1e6 for wait in with_it]}
    return Outcome(figures, samples)


def _share(what: str, ours: list[float], floor: list[float], percent: float, **wanted: Any) -> Figure:
    return Figure(what, percentile(ours, percent) / percentile(floor, percent), **wanted)


def _paced(append: Callable[[int], None], enough: Callable[[float], bool]) -> Iterator[tuple[float, float]]:
    """When an append began, and how many seconds later it was durable; 5 ms from one to the next, if there is time."""
    begun = due = time.monotonic()
    for number in count():
        if enough(time.monotonic() - begun):
            return
        time.sleep(max(0.0, due - time.monotonic()))
        at = time.monotonic()
        append(number)
        yield at, time.monotonic() - at
        due = max(due + PERIOD, time.monotonic())


def with_those_behind(waits: Iterable[float]) -> list[float]:
    """These, and of each the waits of those who came meanwhile, one each 5 ms: or a second's stop were one slow append.

    Gil Tene's correction of "coordinated omission", as in HdrHistogram.
    """
    return [wait - PERIOD * behind for wait in waits for behind in range(int(wait / PERIOD) + 1)]


if __name__ == "__main__":
    print(json.dumps(_PARTS[sys.argv[1]](Path(sys.argv[2]))))  # noqa: T201
