"""The latest checkpoint of a run: a pointer; the state itself is read from the log."""

import pytest

from eventstore.codec import Codec, Upcaster
from eventstore.log import Entry
from eventstore.workflow import CheckpointSaved, MessageRecorded, RunCompleted, RunQueued, RunResumed, RunStarted
from projections import App
from projections.checkpoints import evolve
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


def test_a_row_is_made_without_decoding_the_state(world, monkeypatch):
    runs = world.runs()
    runs.store.append("run-1", RunQueued("deploy"), RunStarted("w1"))
    decoded, honest = [], Codec.decode
    monkeypatch.setattr(Codec, "decode", lambda codec, entry: (decoded.append(entry.type), honest(codec, entry))[1])

    runs.store.append("run-1", CheckpointSaved(-7, {"step": 3}), attempt=1)

    assert runs.checkpoints.get("run-1").step == -7
    assert "CheckpointSaved" not in decoded


def test_the_step_of_an_older_shape_is_read_through_its_upcaster(world):
    world.app = App(upcasters=[Upcaster("Saved", CheckpointSaved, lambda old: {"step": old["step"] + 100})])
    runs = world.runs()
    entry = Entry(1, "run-1", 3, "Saved", 0, None, 1, None, b"", None, '{"step":1,"old":true}')

    assert evolve(None, runs.store.gate.codec.recorded(entry)).step == 101
