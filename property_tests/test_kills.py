"""Processes killed at random moments of every public call lose nothing that was acknowledged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forked")
def test_thirty_kills_lose_nothing_double_nothing_and_leave_every_table_right():
    """A sample; `python -m tests.faults.run kills` kills thousands of times. A process of its own, as it forks."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.run", "kills", "--kills", "30"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 kills" in done.stdout or "31 kills" in done.stdout
