"""What the tests share: readable failures of the contract suite, the usual world."""

import importlib.metadata
from functools import cache

import pytest

from tests.world import World

pytest.register_assert_rewrite("eventstore.testing")


@pytest.fixture(autouse=True, scope="session")
def what_is_installed():
    """It stays the same for all tests, and the doctor of each looks through all of it: four fifths of his time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.metadata.packages_distributions", cache(importlib.metadata.packages_distributions))
        yield


@pytest.fixture(params=["memory", "sqlite"])
def world(request, tmp_path):
    """Most promises hold on both backends; who needs one of them alone, or an app, makes a world of his own."""
    world = World(tmp_path if request.param == "sqlite" else None)
    yield world
    world.close()


@pytest.fixture
def runs(world):
    return world.runs()
