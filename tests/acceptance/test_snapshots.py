"""An agent loop that saves a snapshot after each step and goes on from it: plan, trace, history, usage, counters."""

import pytest

import projections
from eventstore.errors import (
    AgentDiffers,
    EventStoreError,
    Fenced,
    InvalidArgument,
    InvalidPayload,
    RunExists,
    RunNotFound,
    SpecDiffers,
    StepLimitReached,
)
from eventstore.workflow import CheckpointSaved, Error, UsageRecorded
from projections.snapshots import SnapshotPersistence


@pytest.fixture
def persistence(runs):
    with SnapshotPersistence(runs) as opened:
        yield opened


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def begun(persistence, **given):
    return persistence.on_run_start("run-1", plan=["look", "act"], messages=[user("tidy up")], **given)


def refused(runs, kind, act, match=None):
    before = runs.store.head()
    with pytest.raises(kind, match=match):
        act()
    assert runs.store.head() == before


def test_a_run_is_saved_step_by_step_and_loaded_whole(persistence):
    begun(persistence, input={"room": 1}, agent="maid", spec_hash="s1")
    persistence.on_step_complete("run-1", 1, {"did": "look"}, messages=[assistant("dusty")], iterations=1)
    given = persistence.on_step_complete(
        "run-1", 2, {"did": "act"}, usage=UsageRecorded("m", 10, 5, 0.5), plan=["act"], iterations=3, revisions=1
    )

    loaded = persistence.load_run("run-1")
    assert loaded == given
    assert (loaded.input, loaded.agent, loaded.spec_hash, loaded.phase) == ({"room": 1}, "maid", "s1", "started")
    assert (loaded.plan, loaded.trace) == (["act"], [{"did": "look"}, {"did": "act"}])
    assert loaded.history == [user("tidy up"), assistant("dusty")]
    assert (loaded.step_index, loaded.iterations, loaded.revisions) == (2, 3, 1)
    assert (loaded.input_tokens, loaded.output_tokens, loaded.cost_usd) == (10, 5, 0.5)
    assert (loaded.text, loaded.error) == (None, None)


def test_there_is_no_snapshot_of_what_never_began(runs, persistence):
    assert persistence.load_run("nobody") is None
    refused(runs, InvalidArgument, lambda: persistence.on_step_complete("nobody", 1, {}), "was not begun here")
    refused(runs, InvalidArgument, lambda: persistence.on_run_complete("nobody"), "was not begun here")
    refused(runs, RunNotFound, lambda: persistence.on_run_start("nobody", resume=True))


def test_how_a_run_ended_is_kept(persistence):
    begun(persistence)
    assert persistence.on_run_complete("run-1", text="tidy").text == "tidy"
    persistence.on_run_start("run-2")
    persistence.on_run_complete("run-2", error=Error("Broom", "broke"))

    assert (persistence.load_run("run-1").phase, persistence.load_run("run-1").text) == ("completed", "tidy")
    failed = persistence.load_run("run-2")
    assert (failed.phase, failed.error) == ("failed", {"tag": "Broom", "message": "broke"})


def test_a_complete_run_never_executes_again_and_its_result_stays(runs, persistence):
    begun(persistence)
    persistence.on_run_complete("run-1", text="tidy")

    refused(runs, InvalidArgument, lambda: persistence.on_run_start("run-1", resume=True), "is completed, and stays so")
    refused(runs, RunExists, lambda: persistence.on_run_start("run-1"))
    refused(runs, InvalidArgument, lambda: persistence.on_step_complete("run-1", 1, {}))
    assert persistence.load_run("run-1").text == "tidy"


def test_a_later_process_goes_on_with_the_next_step(runs, persistence):
    begun(persistence)
    persistence.on_step_complete("run-1", 1, {"did": "look"})
    persistence.close()
    with SnapshotPersistence(runs) as later:
        assert later.on_run_start("run-1", resume=True).step_index == 1
        later.on_step_complete("run-1", 2, {"did": "act"})
        later.on_run_complete("run-1", text="tidy")

    assert persistence.load_run("run-1").trace == [{"did": "look"}, {"did": "act"}]


def test_a_failed_last_step_is_made_again_and_does_not_stand_twice(runs, persistence):
    begun(persistence)
    persistence.on_step_complete("run-1", 1, "look")
    failed = persistence.on_step_complete("run-1", 2, "act: no", failed=True, messages=[assistant("oh")])
    persistence.close()
    with SnapshotPersistence(runs) as later:
        again = later.on_run_start("run-1", resume=True)
        assert (failed.step_index, again.step_index, again.trace) == (1, 1, ["look", "act: no"])
        later.on_step_complete("run-1", 2, "act: yes", messages=[assistant("ah")])

        loaded = later.load_run("run-1")
    assert loaded.trace == ["look", "act: yes"]
    assert loaded.history == [user("tidy up"), assistant("ah")]


def test_a_step_that_is_done_stands_once_and_for_good(runs, persistence):
    begun(persistence)
    first = persistence.on_step_complete("run-1", 1, {"did": "look"}, messages=[assistant("dusty")])
    before = runs.store.head()

    assert persistence.on_step_complete("run-1", 1, {"did": "look"}, messages=[assistant("dusty")]) == first
    assert runs.store.head() == before
    refused(runs, InvalidArgument, lambda: persistence.on_step_complete("run-1", 1, {"did": "else"}), "is done")
    refused(runs, InvalidArgument, lambda: persistence.on_step_complete("run-1", 3, {}), "must be 2")
    refused(runs, InvalidArgument, lambda: persistence.on_step_complete("run-1", 0, {}), "must be 2")


@pytest.mark.parametrize(("given", "kind"), [({"agent": "butler"}, AgentDiffers), ({"spec_hash": "s2"}, SpecDiffers)])
def test_who_goes_on_must_be_who_began(runs, persistence, given, kind):
    begun(persistence, agent="maid", spec_hash="s1")
    persistence.close()
    with SnapshotPersistence(runs) as later:
        refused(runs, kind, lambda: later.on_run_start("run-1", resume=True, **given))
        later.on_run_start("run-1", resume=True, agent="maid", spec_hash="s1")


def test_nobody_takes_a_run_that_another_holds(runs, persistence):
    begun(persistence)
    with SnapshotPersistence(runs) as other:
        refused(runs, InvalidArgument, lambda: other.on_run_start("run-1", resume=True), "in the hands of another")
    refused(runs, InvalidArgument, lambda: begun(persistence), "was begun here already")


def test_a_run_that_was_cancelled_takes_no_further_step(runs, persistence):
    begun(persistence)
    runs.cancel("run-1", by="alice")

    refused(runs, Fenced, lambda: persistence.on_step_complete("run-1", 1, {}))
    refused(runs, Fenced, lambda: persistence.on_run_complete("run-1", text="tidy"))
    assert persistence.load_run("run-1").phase == "cancelled"


def test_a_limit_of_steps_holds_here_too(runs, persistence):
    begun(persistence, config={"step_limit": 1})
    persistence.on_step_complete("run-1", 1, {})

    refused(runs, StepLimitReached, lambda: persistence.on_step_complete("run-1", 2, {}))


def test_what_cannot_be_saved_is_refused_and_nothing_of_the_step_is(runs, persistence):
    begun(persistence)

    for wrong in ({"record": float("nan")}, {"record": {}, "messages": [{"content": "?"}]}, {"record": {}, "tone": 1}):
        refused(runs, EventStoreError, lambda wrong=wrong: persistence.on_step_complete("run-1", 1, **wrong))


def test_a_step_writes_what_is_new_in_it_and_not_the_whole_trace(runs, persistence):
    begun(persistence)
    for step in range(1, 101):
        persistence.on_step_complete("run-1", step, {"did": step, "saw": "x" * 50}, messages=[assistant("…" * 50)])

    sizes = [len(item.entry.data) for item in runs.store.read("run-1") if item.kind is CheckpointSaved]
    assert max(sizes[1:]) - min(sizes[1:]) <= 4
    assert len(persistence.load_run("run-1").trace) == 100


def test_special_characters_and_large_content_come_back_as_they_were(persistence):
    record = {"did": "\n\t\"'; DROP TABLE events; -- 工作 \u2028 🧹", "saw": "x" * 300_000}
    begun(persistence)
    persistence.on_step_complete("run-1", 1, record, messages=[assistant(record)])

    loaded = persistence.load_run("run-1")
    assert (loaded.trace, loaded.history[-1]) == ([record], assistant(record))


def test_its_runs_are_runs_like_any_other(runs, persistence):
    begun(persistence)
    persistence.on_step_complete("run-1", 1, {})
    persistence.close()

    row = runs.workflow_runs.get("run-1")
    assert (row.workflow, row.phase, row.waiting_for) == ("snapshot", "paused", "worker")
    assert runs.check().ok


def test_a_file_is_loaded_by_a_process_that_only_looks(tmp_path):
    with projections.connect(tmp_path / "agent.db") as runs, SnapshotPersistence(runs) as persistence:
        begun(persistence)

        with projections.connect(tmp_path / "agent.db") as others, SnapshotPersistence(others) as other:
            assert other.load_run("run-1").history == [user("tidy up")]


def test_an_opening_that_a_kill_came_before_is_written_by_who_goes_on(runs, persistence):
    runs.submit("snapshot", run_id="run-1")  # killed here: the opening is an append of its own

    made = begun(persistence, resume=True)

    assert (made.plan, made.history) == (["look", "act"], [user("tidy up")])
    persistence.close()
    with SnapshotPersistence(runs) as later:
        assert begun(later, resume=True).history == [user("tidy up")]


def test_a_run_whose_opening_is_refused_is_begun_with_a_better_one(runs, persistence):
    with pytest.raises(InvalidPayload):
        persistence.on_run_start("run-1", plan=float("nan"))
    assert runs.workflow_runs.get("run-1").phase == "paused"

    assert begun(persistence, resume=True).plan == ["look", "act"]
