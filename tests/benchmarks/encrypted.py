"""What a key costs: appends, a rebuild, opening and bytes, each beside the same without one.

The driver is another library as well (SQLCipher's own build of SQLite), so the difference is not that of AES alone.
Without the extra there is nothing to measure, and both are plain.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import projections
from eventstore.sqlite.driver import Synchronous
from tests.benchmarks.harness import Figure, Outcome, Samples, Setting, median, ratio, undisturbed
from tests.benchmarks.lone import interleaved_appends

_RAW: dict[str, Any] = {"key": bytes(range(32))} if find_spec("sqlcipher3") else {}
_PHRASE: dict[str, Any] = {"key": "correct horse"} if _RAW else {}
_MODES: tuple[Synchronous, ...] = ("FULL", "NORMAL")


def encrypted(setting: Setting) -> Outcome:
    """A store with a key over one without: a durable append, a rebuild, reading all, opening, bytes."""
    samples: Samples = {}
    figures: list[Figure] = []
    paths: dict[str, Path] = {}
    for synchronous in _MODES:
        paths = {name: setting.path(f"{name}-{synchronous}") for name in ("plain", "key")}
        taken = _appends(setting, paths, synchronous)
        samples |= {f"{name}, {synchronous}": values for name, values in taken.items()}
        figures.append(ratio(f"one durable append, {synchronous}, p50", taken["key"], taken["plain"]))
    plain, key = paths["plain"], paths["key"]
    rounds = setting.pick(smallest=1, quick=3, full=7)
    for what, act in (("rebuild", _rebuild), ("reading all", _read)):
        made = {"plain": _timed(rounds, plain, {}, act), "key": _timed(rounds, key, _RAW, act)}
        samples |= {f"{what}, {name}": values for name, values in made.items()}
        figures.append(ratio(what, made["key"], made["plain"]))
    opened = {
        "plain": _opened(rounds, plain, {}),
        "key": _opened(rounds, key, _RAW),
        "passphrase": _opened(rounds, _phrased(setting), _PHRASE),
    }
    samples |= {f"opening, {name}": values for name, values in opened.items()}
    figures += [Figure(f"opening, {name}", median(values) / 1_000, "ms") for name, values in opened.items()]
    figures.append(Figure("bytes on disk", key.stat().st_size / plain.stat().st_size))
    return Outcome(figures, samples)


def _phrased(setting: Setting) -> Path:
    path = setting.path("phrase")
    projections.connect(path, **_PHRASE).close()
    return path


def _appends(setting: Setting, paths: dict[str, Path], synchronous: Synchronous) -> Samples:
    stores = {
        name: projections.connect(paths[name], synchronous=synchronous, **key)
        for name, key in (("plain", {}), ("key", _RAW))
    }
    return interleaved_appends(setting, stores)


def _timed(rounds: int, path: Path, key: dict[str, Any], act: Callable[[projections.Runs], object]) -> list[float]:
    taken = []
    with projections.connect(path, **key) as runs, undisturbed():
        for _ in range(rounds):
            began = time.perf_counter_ns()
            act(runs)
            taken.append((time.perf_counter_ns() - began) / 1_000)
    return taken


def _rebuild(runs: projections.Runs) -> None:
    runs.rebuild()


def _read(runs: projections.Runs) -> None:
    for _ in runs.store.read_all():
        pass


def _opened(rounds: int, path: Path, key: dict[str, Any]) -> list[float]:
    taken = []
    for _ in range(rounds + 1):
        began = time.perf_counter_ns()
        projections.connect(path, **key).close()
        taken.append((time.perf_counter_ns() - began) / 1_000)
    return taken[1:]
