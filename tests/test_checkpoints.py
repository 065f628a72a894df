"""The latest checkpoint of a run: a pointer; the state itself is read from the log."""

import pytest

from eventstore.workflow import CheckpointSaved, MessageRecorded, RunCompleted, RunQueued, RunResumed, RunStarted
from tests.world import World


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


def test_the_row_points_at_the_latest_checkpoint_whatever_its_step(world):
    runs = world.runs()
    runs.store.append("run-1", RunQueued("deploy"), RunStarted("w1"))
    runs.store.append("run-1", CheckpointSaved(5, {"big": [1] * 99}), MessageRecorded("user"), attempt=1)
    runs.store.append("run-1", RunResumed("w2"))
    runs.store.append("run-1", CheckpointSaved(2, {"small": 1}), RunCompleted(), attempt=2)

    row = runs.checkpoints.get("run-1")

    assert (row.step, row.version, row.attempt, row.position) == (2, 6, 2, 6)
    assert runs.checkpoint("run-1") == {"small": 1}
    assert not hasattr(row, "state")


def test_a_state_comes_back_equal_to_what_was_saved_and_not_as_what_became_of_it(world):
    runs = world.runs()
    runs.store.append("run-1", RunQueued("deploy"), RunStarted("w1"))
    state = {"nested": {"list": [1, 2.5, None, "é"]}}
    runs.store.append("run-1", CheckpointSaved(1, state), attempt=1)
    state["nested"]["list"].append("later")
    runs.checkpoint("run-1")["nested"]["list"].append("later still")

    assert runs.checkpoint("run-1") == {"nested": {"list": [1, 2.5, None, "é"]}}
