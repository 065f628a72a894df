"""What `import eventstore` costs: whole processes, each of them new, in turns with a Python that imports nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.harness import Figure, Outcome, Setting, median, percentile, take_turns

_ROOT = Path(__file__).parents[2]
_PROGRAMS = {
    "python": "pass",
    "eventstore": "import eventstore",
    "eventstore, connected": "import eventstore; eventstore.connect('memory:').close()",
    "projections": "from projections import Runs",
    "command": "from projections.cli import main",
}


def imports(setting: Setting) -> Outcome:
    """`import eventstore` over bare Python, and what the first use and the read side add; compiled files in place."""
    # Compiled files are where everybody has them after the first import, whatever this process was told about them.
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONPYCACHEPREFIX": str(setting.folder / "compiled")}
    if setting.size == "smallest":  # the seconds that compiling takes are nobody's there
        environment.pop("PYTHONPYCACHEPREFIX")
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def program(text: str) -> None:
        subprocess.run([sys.executable, "-c", text], env=environment, check=True)

    contenders = {name: lambda _number, text=text: program(text) for name, text in _PROGRAMS.items()}
    rounds = setting.pick(smallest=1, quick=21, full=101)
    taken = take_turns(contenders, rounds, seed=setting.seed, warmup=setting.pick(smallest=0, quick=1, full=1))
    bare = taken["python"]
    figures = []
    for name, values in taken.items():
        if name != "python":
            over = (median(values) - median(bare)) / 1000
            # What one process takes over its neighbour in time, from the quickest tenth of them to the slowest.
            pairs = [(one - other) / 1000 for one, other in zip(values, bare, strict=True)]
            target = 30.0 if name == "eventstore" else None
            spread = (percentile(pairs, 10), percentile(pairs, 90))
            figures.append(Figure(f"import of {name} over bare Python", over, "ms", target=target, spread=spread))
    return Outcome([*figures, Figure("bare Python, start to end", median(bare) / 1000, "ms")], taken)
