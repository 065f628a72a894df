"""How all tests run, wherever they stand: Hypothesis' profiles, bytecode that is kept, and what no collector looks at.

No deadlines and no look at how long drawing takes (two cores are shared); the same examples each time where CI is set.
"""

import gc
import os
import shutil
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# Where Python is told to write no bytecode, each of the hundreds of processes that tests start would compile the
# project anew (a third of its start), and each worker of xdist all tests (7 s).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A store syncs each append: 2 ms on a disk, nothing in memory, and what a power cut does is played by `tests/faults`.
_MEMORY, _ENOUGH = Path("/dev/shm"), 2_000_000_000  # noqa: S108 - pytest makes a folder of its own in it
if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ENOUGH:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_collection_finish() -> None:
    """Six thousand tests stay to the end: unless it is told, the garbage collector looks at all they are made of."""
    gc.collect()
    gc.freeze()
