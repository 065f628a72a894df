"""The store of the acceptance tests, once in memory and once in a file."""

import pytest

import projections


@pytest.fixture(params=["memory", "sqlite"])
def runs(request, tmp_path):
    with projections.connect("memory:" if request.param == "memory" else tmp_path / "agent.db") as opened:
        yield opened


@pytest.fixture
def worker(runs):
    with runs.worker("w1") as opened:
        yield opened
