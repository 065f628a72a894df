"""How all tests run, wherever they stand: Hypothesis' profiles, and bytecode that is kept.

No deadlines and no look at how long drawing takes (two cores are shared); the same examples each time where CI is set.
"""

import os
import sys

from hypothesis import HealthCheck, settings

# Where Python is told to write no bytecode, each of the hundreds of processes that tests start would compile the
# project anew (a third of its start), and each worker of xdist all tests (7 s).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
