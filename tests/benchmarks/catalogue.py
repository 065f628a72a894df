"""Every benchmark by name. To add one: a function `(Setting) -> Outcome` in a file of its own, and a line here.

Its docstring's first line is what `--list` shows. A test runs each in its smallest size, so that none can rot.
"""

from __future__ import annotations

import importlib

from tests.benchmarks.harness import Benchmark

BENCHMARKS = {
    "lone": "tests.benchmarks.lone:lone",
    "profile": "tests.benchmarks.profile:profile",
    "batch": "tests.benchmarks.lone:batch",
    "threads": "tests.benchmarks.concurrency:threads",
    "tasks": "tests.benchmarks.concurrency:tasks",
    "writers": "tests.benchmarks.concurrency:writers",
    "checkpoints": "tests.benchmarks.checkpoints:checkpoints",
    "rebuild": "tests.benchmarks.rebuilding:rebuild",
    "beside": "tests.benchmarks.rebuilding:beside",
    "opening": "tests.benchmarks.starting:opening",
    "start": "tests.benchmarks.starting:start",
    "lists": "tests.benchmarks.lists:lists",
    "space": "tests.benchmarks.space:space",
    "encrypted": "tests.benchmarks.encrypted:encrypted",
    "imports": "tests.benchmarks.imports:imports",
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of a name; its module is imported only now, so that one may be broken without the others."""
    module, _, function = BENCHMARKS[name].partition(":")
    found: Benchmark = getattr(importlib.import_module(module), function)
    return found
