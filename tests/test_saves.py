"""Where the checkpoints of a run lie, and the state of each; of one step, the last that was saved counts."""

import pytest

from eventstore.codec import Codec
from eventstore.errors import InvalidArgument, RunNotFound
from eventstore.workflow import CheckpointSaved, MessageRecorded, RunQueued, RunResumed, RunStarted
from projections import saves
from projections.readings import Saved

BIG = [{"role": "user", "content": "x" * 3_000}] * 2


@pytest.fixture
def runs(world):
    """Step 1 in version 3, 2 in 5, 2 again in 7 of the next attempt, 3 in 8."""
    runs = world.runs()
    stream = runs.store.stream("run-1")
    stream.append(RunQueued("deploy"), RunStarted("w1"), CheckpointSaved(1, ["one", *BIG]))
    stream.append(MessageRecorded("user"), CheckpointSaved(2, ["two", *BIG, *BIG]))
    stream.append(RunResumed("w2"), CheckpointSaved(2, ["two again", *BIG, *BIG]), CheckpointSaved(3, "three"))
    runs.submit("deploy", run_id="run-2")
    return runs


def versions(found):
    return [item.version for item in found]


def test_each_checkpoint_is_told_with_its_place_and_without_its_state(world, runs, monkeypatch):
    decoded = []
    honest = Codec.decode
    monkeypatch.setattr(Codec, "decode", lambda codec, entry: (decoded.append(entry), honest(codec, entry))[1])

    assert [*runs.saved("run-1")] == [
        Saved(1, 3, 1, world.now), Saved(2, 5, 1, world.now), Saved(2, 7, 2, world.now), Saved(3, 8, 2, world.now)
    ]  # fmt: skip
    assert decoded == []
    assert [*runs.saved("run-2")] == []


def test_the_last_one_of_a_step_is_its_state(runs):
    assert runs.checkpoint("run-1", step=1)[0] == "one"
    assert runs.checkpoint("run-1", step=2)[0] == "two again"
    assert runs.checkpoint("run-1") == runs.checkpoint("run-1", step=3) == "three"
    assert runs.checkpoint("run-1", step=4) is None
    assert runs.checkpoint("run-2", step=1) is runs.checkpoint("run-2") is None


def test_the_list_is_paged_from_both_ends(runs, monkeypatch):
    monkeypatch.setattr(saves, "_STRETCH", 2)

    assert versions(runs.saved("run-1", limit=3)) == [3, 5, 7]
    assert versions(runs.saved("run-1", limit=3, after=5)) == [7, 8]
    assert versions(runs.saved("run-1", limit=3, newest_first=True)) == [8, 7, 5]
    assert versions(runs.saved("run-1", newest_first=True, before=5)) == [3]
    assert versions(runs.saved("run-1", step=2, newest_first=True)) == [7, 5]
    assert versions(runs.saved("run-1", step=2, after=5)) == [7]
    assert versions(runs.saved("run-1", step=9)) == []


@pytest.mark.parametrize(
    "asked",
    [{"limit": 0}, {"limit": -1}, {"limit": 10_001}, {"limit": "1"}, {"after": -1}, {"before": "x"}, {"step": "1"},
     {"step": True}, {"step": 1, "limit": 0}],
)  # fmt: skip
def test_a_page_that_cannot_be_is_refused_before_anything_is_given(runs, asked):
    with pytest.raises(InvalidArgument):
        runs.saved("run-1", **asked)


def test_a_run_that_nobody_knows_has_no_checkpoints(runs):
    for ask in (runs.saved, runs.checkpoint, lambda run_id: runs.checkpoint(run_id, step=1)):
        with pytest.raises(RunNotFound):
            ask("nobody")
