"""What the tests share: readable failures of the contract suite, the usual world."""

import pytest

from tests.world import World

pytest.register_assert_rewrite("eventstore.testing")


@pytest.fixture(params=["memory", "sqlite"])
def world(request, tmp_path):
    """Most promises hold on both backends; who needs one of them alone, or an app, makes a world of his own."""
    world = World(tmp_path if request.param == "sqlite" else None)
    yield world
    world.close()


@pytest.fixture
def runs(world):
    return world.runs()
