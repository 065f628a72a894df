"""A run that failed is tried again later: each wait twice the last, so often and no more."""

from datetime import timedelta

import pytest

from eventstore.errors import Fenced, InvalidArgument, QuestionOpen, Unreturned, Waiting
from eventstore.workflow import RUN, CheckpointSaved, Error, RunFailed, RunInterrupted, RunRequeued, RunState
from projections.retrying import after_failure
from tests.world import Refusal, World

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
FAILURE = Error("TimeoutError", "no answer")


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


@pytest.fixture
def runs(world):
    runs = world.runs()
    runs.submit("deploy", run_id="run-1")
    return runs


@pytest.fixture
def worker(world, runs):
    return world.worker()


def fails(worker, error=TimeoutError("no answer"), **options):  # noqa: B008
    with worker.claim() as attempt:
        return attempt.retry(error, **options)


def test_each_wait_is_twice_the_one_before_up_to_the_longest(world):
    state, waits = RunState(), []
    for failures in range(5):
        event = after_failure(
            RunState(failures=failures), FAILURE, world.now, max_attempts=99, backoff=SECOND, longest=5 * SECOND
        )
        waits.append((event.not_before - world.now) / SECOND)

    assert waits == [1, 2, 4, 5, 5]
    assert state == RunState()


@pytest.mark.parametrize("failures", [0, 1, 10**6])
def test_no_wait_outgrows_what_a_time_can_say(world, failures):
    for backoff, longest in ((timedelta(0), HOUR), (SECOND, timedelta(days=366)), (HOUR, HOUR)):
        event = after_failure(
            RunState(failures=failures), FAILURE, world.now, max_attempts=10**9, backoff=backoff, longest=longest
        )
        assert backoff <= event.not_before - world.now <= longest


def test_a_run_that_failed_is_queued_again_and_not_taken_up_before_its_time(world, runs, worker):
    due = fails(worker, backoff=2 * SECOND)

    row = runs.workflow_runs.get("run-1")
    assert (row.phase, row.not_before, row.failures) == ("queued", due, 1)
    assert (row.reason, due - world.now) == ("TimeoutError: no answer", 2 * SECOND)
    assert worker.claim() is None
    world.passes(2)
    assert worker.claim().number == 2


def test_with_as_many_failures_as_it_may_have_it_has_failed(world, runs, worker):
    dues = []
    for _ in range(3):
        dues.append(fails(worker, max_attempts=3))
        world.passes(60)

    assert [due is None for due in dues] == [False, False, True]
    row = runs.workflow_runs.get("run-1")
    assert (row.phase, row.error) == ("failed", {"tag": "TimeoutError", "message": "no answer"})
    assert (row.reason, row.failures) == ("failed 3 of at most 3 times", 2)


def test_to_wait_to_be_drained_and_to_lose_a_worker_are_no_failures(world, runs, worker):
    fails(worker, max_attempts=3)
    world.passes(60)
    with worker.claim() as attempt:
        attempt.ask("c1", "ship", None)
    runs.resolve("run-1", "c1", "approved", by="alice")
    with worker.claim() as attempt:
        attempt.append(RunRequeued("drained"))
    world.dies(worker)
    other = world.worker()
    dead = world.worker()
    dead.claim()
    world.dies(dead)

    assert runs.store.stream("run-1", RUN).state.failures == 1
    assert fails(other, max_attempts=3) is not None
    assert runs.workflow_runs.get("run-1").failures == 2


def test_failures_are_counted_over_crashes_and_rebuilds(world, runs, worker):
    fails(worker)
    world.passes(60)
    world.dies(worker)
    runs.rebuild()
    fails(world.worker())

    assert [item.event.failures for item in runs.store.read("run-1") if item.kind is RunRequeued] == [1, 2]
    assert world.runs().check().ok


def test_a_run_that_was_asked_to_stop_is_not_tried_again(runs, worker):
    attempt = worker.claim()
    runs.interrupt("run-1", by="alice")

    assert attempt.retry("no answer") is None
    row = runs.workflow_runs.get("run-1")
    assert (row.phase, row.reason) == ("interrupted", "interrupt requested; Failed: no answer")


def test_what_failed_may_be_told_in_words_that_no_log_could_hold(runs, worker):
    fails(worker, "a\0b\ud800" + "x" * 20_000, max_attempts=1)

    assert runs.workflow_runs.get("run-1").error["tag"] == "Failed"
    assert len(runs.workflow_runs.get("run-1").error["message"]) == 10_000


def test_an_open_call_is_made_again_only_where_that_is_said(world, runs, worker):
    made = []

    def tool(_input):
        made.append("made")
        if len(made) == 1:
            raise TimeoutError("no answer")
        return "done"

    attempt = worker.claim()
    with pytest.raises(TimeoutError):
        attempt.call("c1", "fetch", None, tool)
    attempt.retry("no answer")
    world.passes(60)
    again = worker.claim()

    with pytest.raises(Unreturned):
        again.call("c1", "fetch", None, tool)
    assert again.call("c1", "fetch", None, tool, repeat=True) == "done"


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": True},
        {"max_attempts": 1.5},
        {"backoff": -SECOND},
        {"backoff": 2 * HOUR},
        {"longest": timedelta(days=1_000)},
    ],
)
def test_bounds_that_cannot_be_are_refused(runs, worker, options):
    attempt = worker.claim()

    with Refusal(runs, InvalidArgument):
        attempt.retry("no answer", **options)


def test_a_worker_that_is_no_longer_the_runs_cannot_put_it_back(world, runs, worker):
    attempt = worker.claim()
    runs.cancel("run-1", by="alice")

    with Refusal(runs, Fenced):
        attempt.retry("no answer")


def test_a_run_whose_question_is_open_is_not_put_where_nobody_can_answer(runs, worker):
    attempt = worker.claim()
    with pytest.raises(Waiting):
        attempt.ask("c1", "ship", None)

    with Refusal(runs, QuestionOpen):
        attempt.retry("no answer")


def test_a_retry_goes_on_from_the_checkpoint(world, worker):
    with worker.claim() as attempt:
        attempt.append(CheckpointSaved(1, "one"))
        attempt.retry("no answer")
    world.passes(60)

    assert worker.claim().checkpoint == "one"


def test_the_events_of_an_ending_are_the_machines_own(world):
    bounds = {"max_attempts": 1, "backoff": SECOND, "longest": HOUR}

    assert isinstance(after_failure(RunState(), FAILURE, world.now, **bounds), RunFailed)
    assert isinstance(after_failure(RunState(interrupt_requested=True), FAILURE, world.now, **bounds), RunInterrupted)


@pytest.mark.parametrize("bounds", [{"backoff": 5}, {"longest": "1h"}, {"backoff": None}])
def test_a_wait_that_is_no_span_of_time_is_refused(runs, worker, bounds):
    attempt = worker.claim()

    with Refusal(runs, InvalidArgument, match="timedelta"):
        attempt.retry("no answer", **bounds)
