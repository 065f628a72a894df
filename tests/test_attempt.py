"""An attempt: every way out of the block, calls made once, questions asked once, nothing written by who is fenced."""

import asyncio
from concurrent.futures import CancelledError
from datetime import timedelta

import pytest

import projections
from eventstore.errors import (
    CallFailed,
    CallReused,
    DigestMismatch,
    Fenced,
    InvalidArgument,
    NotApproved,
    QuestionOpen,
    UnreadableEntry,
    Unreturned,
    Waiting,
    WorkerClosed,
)
from eventstore.workflow import (
    CheckpointSaved,
    ConfirmationRequested,
    MessageRecorded,
    RunCancelled,
    RunCompleted,
    RunPaused,
    RunRequeued,
    ToolCalled,
    ToolReturned,
)
from tests.world import forge


@pytest.fixture
def worker(world):
    return world.worker()


@pytest.fixture
def runs(world, worker):
    return world.runs()


@pytest.fixture
def attempt(runs, worker):
    runs.submit("deploy", input={"env": "prod"}, run_id="run-1")
    return worker.claim()


def types(runs, run_id="run-1"):
    return [recorded.type for recorded in runs.store.read(run_id)]


def row(runs, run_id="run-1"):
    return runs.workflow_runs.get(run_id)


def taken_over(world, worker):
    """The worker is taken for dead, and another goes on with its run."""
    world.dies(worker)
    return world.worker().claim()


# --- leaving --------------------------------------------------------------------------------------------------------


def test_a_final_event_of_ones_own_ends_the_run_and_leaving_adds_nothing(attempt, runs):
    with attempt:
        attempt.append(RunCompleted(output=7))

    assert row(runs).phase == "completed"
    assert runs.output("run-1") == 7
    assert types(runs)[-1] == "RunCompleted"


def test_waiting_parks_the_run_for_a_person_and_ends_the_block_quietly(attempt, runs):
    with attempt:
        attempt.ask("c1", "ship", {})
        pytest.fail("went on without an answer")

    assert (row(runs).phase, row(runs).waiting_for, row(runs).open_questions) == ("paused", "person", 1)


def test_unreturned_parks_the_run_for_an_operator_and_ends_the_block_quietly(world, worker, attempt, runs):
    attempt.append(ToolCalled("c1", "ship"))
    second = taken_over(world, worker)

    with second:
        second.call("c1", "ship", None, lambda _input: pytest.fail("made again"))

    assert (row(runs).phase, row(runs).waiting_for) == ("paused", "operator")
    assert "c1" in row(runs).reason


def test_leaving_unfinished_parks_the_run_for_a_worker(attempt, runs):
    with attempt:
        attempt.append(MessageRecorded("user", "hi"))

    assert (row(runs).phase, row(runs).waiting_for, row(runs).reason) == ("paused", "worker", "left unfinished")


@pytest.mark.parametrize("way", [KeyboardInterrupt, SystemExit, CancelledError, asyncio.CancelledError, GeneratorExit])
def test_being_stopped_parks_the_run_for_a_worker_and_goes_on_upward(attempt, runs, way):
    with pytest.raises(way), attempt:
        raise way

    assert (row(runs).phase, row(runs).waiting_for) == ("paused", "worker")


@pytest.mark.parametrize("way", [None, KeyboardInterrupt, CancelledError])
def test_leaving_unfinished_when_asked_to_stop_interrupts_the_run(attempt, runs, way):
    runs.interrupt("run-1", by="alice")
    assert attempt.interrupt_requested
    try:
        with attempt:
            if way:
                raise way
    except (KeyboardInterrupt, CancelledError):
        pass

    assert row(runs).phase == "interrupted"


def test_any_other_exception_fails_the_run_and_goes_on_upward(attempt, runs):
    with pytest.raises(ZeroDivisionError), attempt:
        1 / 0  # noqa: B018 - it raises

    assert row(runs).phase == "failed"
    assert row(runs).error == {"tag": "ZeroDivisionError", "message": "division by zero"}


def test_an_entry_that_cannot_be_read_parks_the_run_until_it_can_be(world, worker, attempt, runs, monkeypatch):
    attempt.append(CheckpointSaved(1, "state"))
    forge(runs.store.log, ("FromElsewhere", "{}"), stream="notes")
    with pytest.raises(UnreadableEntry), attempt:
        next(runs.store.read("notes")).event  # noqa: B018 - it raises

    assert (row(runs).phase, row(runs).waiting_for) == ("paused", "worker")
    assert "cannot be read" in row(runs).reason
    assert worker.claim() is None
    world.passes(60)
    assert worker.claim().checkpoint == "state"


def test_a_message_that_cannot_be_stored_fails_the_run_all_the_same(attempt, runs):
    with pytest.raises(ValueError, match="x"), attempt:
        raise ValueError("x\0\ud800" * 10_000)

    assert row(runs).phase == "failed"
    assert len(row(runs).error["message"]) <= 10_000


def test_an_exception_after_the_end_changes_nothing(attempt, runs):
    attempt.append(RunCompleted())
    with pytest.raises(ZeroDivisionError), attempt:
        1 / 0  # noqa: B018 - it raises

    assert row(runs).phase == "completed"


def test_being_fenced_ends_the_block_quietly_and_writes_nothing(world, worker, attempt, runs):
    second = taken_over(world, worker)
    before = types(runs)

    with attempt:
        attempt.append(MessageRecorded("user", "from the grave"))
        pytest.fail("wrote")

    assert types(runs) == before
    assert (row(runs).phase, row(runs).attempt) == ("started", second.number)


@pytest.mark.parametrize("way", [None, ValueError, KeyboardInterrupt])
def test_who_was_taken_over_leaves_without_a_word(world, worker, attempt, runs, way):
    taken_over(world, worker)
    before = types(runs)
    try:
        with attempt:
            if way:
                raise way
    except (ValueError, KeyboardInterrupt):
        pass

    assert types(runs) == before


def test_a_cancelled_run_stays_cancelled_whatever_its_worker_does(attempt, runs):
    with attempt:
        runs.cancel("run-1", by="alice")
        attempt.append(RunCompleted(output="too late"))

    assert row(runs).phase == "cancelled"
    assert types(runs)[-1] == "RunCancelled"


def test_another_runs_fence_or_question_is_an_error_of_this_one(attempt, runs):
    with pytest.raises(Fenced), attempt:
        raise Fenced("run-2", "RunCompleted", 1, 2, "started")

    assert row(runs).phase == "failed"


def test_another_runs_waiting_does_not_park_this_one(attempt, runs):
    with pytest.raises(Waiting), attempt:
        raise Waiting("run-2", ("c1",))

    assert row(runs).phase == "failed"


@pytest.mark.parametrize(
    ("event", "phase"), [(RunPaused("time"), "paused"), (RunRequeued("later"), "queued"), (RunCancelled(), "cancelled")]
)
def test_a_run_that_was_parked_by_its_own_hand_stays_where_it_is(attempt, runs, event, phase):
    with attempt:
        attempt.append(event)

    assert row(runs).phase == phase
    assert types(runs)[-1] == type(event).__name__


# --- what is known --------------------------------------------------------------------------------------------------


def test_an_attempt_knows_its_input_and_what_came_before(world, worker, attempt, runs):
    attempt.append(MessageRecorded("user", "before"), CheckpointSaved(1, {"step": 1}), MessageRecorded("user", "after"))
    assert (attempt.number, attempt.checkpoint) == (1, None)
    assert [recorded.type for recorded in attempt.since] == ["RunQueued", "RunStarted"]

    second = taken_over(world, worker)

    assert (second.number, second.workflow, second.input) == (2, "deploy", {"env": "prod"})
    assert second.checkpoint == {"step": 1}
    assert [recorded.type for recorded in second.since] == ["MessageRecorded", "RunResumed"]


def test_a_checkpoint_is_what_was_saved_whatever_the_caller_does_to_it_since(world, worker, attempt):
    state = {"messages": ["one"], "step": 1}
    attempt.append(CheckpointSaved(1, state))
    state["messages"].append("two")

    assert taken_over(world, worker).checkpoint == {"messages": ["one"], "step": 1}


def test_the_latest_checkpoint_counts_whatever_its_step(world, worker, attempt):
    attempt.append(CheckpointSaved(5, "five"))
    attempt.append(CheckpointSaved(2, "two"))

    assert taken_over(world, worker).checkpoint == "two"


# --- calls ----------------------------------------------------------------------------------------------------------


def test_a_call_is_written_down_before_it_is_made_and_when_it_is_back(attempt, runs):
    seen = []

    output = attempt.call("c1", "ship", {"n": 1}, lambda given: seen.append((given, types(runs)[-1])) or "shipped")

    assert (output, seen) == ("shipped", [({"n": 1}, "ToolCalled")])
    assert types(runs)[-2:] == ["ToolCalled", "ToolReturned"]
    assert attempt.unreturned == ()


def test_what_cannot_be_called_is_refused_before_the_call_is_written_down(attempt, runs):
    before = runs.store.head()

    with pytest.raises(InvalidArgument, match="must be a function of the input"):
        attempt.call("c1", "ship", {}, "ship")

    assert runs.store.head() == before


def test_a_call_that_returned_gives_its_output_in_every_later_attempt_and_is_not_made(world, worker, attempt, runs):
    attempt.call("c1", "ship", {"n": 1}, lambda _input: ["shipped"])
    second = taken_over(world, worker)
    before = types(runs)

    assert second.call("c1", "ship", {"n": 1}, lambda _input: pytest.fail("made again")) == ["shipped"]
    assert types(runs) == before


def test_a_call_that_began_and_never_returned_is_not_made_again(world, worker, attempt, runs):
    with pytest.raises(KeyboardInterrupt):
        attempt.call("c1", "ship", None, lambda _input: (_ for _ in ()).throw(KeyboardInterrupt))
    second = taken_over(world, worker)
    before = types(runs)

    assert second.unreturned == ("c1",)
    with pytest.raises(Unreturned, match="c1"):
        second.call("c1", "ship", None, lambda _input: pytest.fail("made again"))
    assert types(runs) == before


def test_a_call_is_made_again_where_the_caller_says_that_it_may_be(world, worker, attempt, runs):
    attempt.append(ToolCalled("c1", "ship"))
    second = taken_over(world, worker)

    assert second.call("c1", "ship", None, lambda _input: "again", repeat=True) == "again"
    assert [call.attempt for call in runs.calls("run-1")] == [2]


def test_a_call_whose_tool_raised_may_be_repeated_within_the_attempt(attempt, runs):
    with pytest.raises(ZeroDivisionError):
        attempt.call("c1", "ship", None, lambda _input: 1 / 0)
    with pytest.raises(Unreturned):
        attempt.call("c1", "ship", None, lambda _input: pytest.fail("made again"))

    assert attempt.call("c1", "ship", None, lambda _input: "fine", repeat=True) == "fine"
    assert types(runs).count("ToolCalled") == 1


@pytest.mark.parametrize(("tool", "given"), [("ship", {"env": "dev"}), ("shop", {"env": "prod"})])
@pytest.mark.parametrize("returned", [True, False])
def test_a_call_id_stands_for_one_tool_and_input(world, worker, attempt, runs, tool, given, returned):
    attempt.append(ToolCalled("c1", "ship", {"env": "prod"}))
    if returned:
        attempt.append(ToolReturned("c1"))
    second = taken_over(world, worker)
    before = types(runs)

    with pytest.raises(DigestMismatch):
        second.call("c1", tool, given, lambda _input: pytest.fail("made"), repeat=True)
    assert types(runs) == before


def test_equal_input_is_equal_whatever_the_order_of_its_keys(world, worker, attempt):
    attempt.call("c1", "ship", {"a": 1, "b": [2]}, lambda _input: "done")

    again = taken_over(world, worker).call("c1", "ship", {"b": [2], "a": 1}, lambda _input: pytest.fail("made again"))

    assert again == "done"


@pytest.mark.parametrize("repeat", [False, True])
def test_a_fenced_worker_makes_no_call(world, worker, attempt, runs, repeat):
    """A zombie that repeats a call of its own would otherwise act, and only then learn that it may not write."""
    attempt.append(ToolCalled("c1", "ship"))
    taken_over(world, worker)
    before = types(runs)

    for call_id in ("c1", "c2"):
        with pytest.raises((Fenced, Unreturned)):
            attempt.call(call_id, "ship", None, lambda _input: pytest.fail("made"), repeat=repeat)
    assert types(runs) == before


@pytest.mark.parametrize(("decision", "error"), [(None, QuestionOpen), ("denied", NotApproved)])
@pytest.mark.parametrize("opened", ["before", "never"])
def test_a_call_that_was_asked_about_is_made_only_when_it_is_approved(attempt, runs, decision, error, opened):
    """Also where the call was opened first, by this very attempt, and is to be repeated."""
    if opened == "before":
        attempt.append(ToolCalled("c1", "ship"))
    with pytest.raises(Waiting):
        attempt.ask("c1", "ship", None)
    if decision:
        runs.resolve("run-1", "c1", decision, by="alice")
    before = types(runs)

    with pytest.raises(error):
        attempt.call("c1", "ship", None, lambda _input: pytest.fail("made"), repeat=True)
    assert types(runs) == before


def test_an_edited_approval_binds_the_call_to_the_edited_input(attempt, runs):
    with pytest.raises(Waiting):
        attempt.ask("c1", "ship", {"env": "prod"})
    runs.resolve("run-1", "c1", "approved", by="alice", input={"env": "dev"})
    answer = attempt.ask("c1", "ship", {"env": "prod"})
    before = types(runs)

    with pytest.raises(DigestMismatch):
        attempt.call("c1", "ship", {"env": "prod"}, lambda _input: pytest.fail("made"))
    assert types(runs) == before
    assert answer.input == {"env": "dev"}
    assert attempt.call("c1", "ship", answer.input, lambda given: given) == {"env": "dev"}


def test_an_approval_that_edits_a_call_begun_before_it_was_asked_about_can_be_acted_on(world, worker, attempt, runs):
    attempt.append(ToolCalled("c1", "ship", {"env": "prod"}))
    second = taken_over(world, worker)
    with second:
        second.ask("c1", "ship", {"env": "prod"})
    runs.resolve("run-1", "c1", "approved", by="alice", input={"env": "dev"})

    third = world.worker().claim()

    assert third.call("c1", "ship", {"env": "dev"}, lambda given: given, repeat=True) == {"env": "dev"}


def test_an_output_that_is_no_json_leaves_the_call_open_and_says_where(attempt, runs):
    with pytest.raises(Exception, match="ToolReturned"):
        attempt.call("c1", "ship", None, lambda _input: {"when": object()})

    assert attempt.unreturned == ("c1",)
    assert types(runs)[-1] == "ToolCalled"


# --- questions --------------------------------------------------------------------------------------------------------


def test_asking_again_is_no_second_question(attempt, runs):
    for _ in range(3):
        with pytest.raises(Waiting):
            attempt.ask("c1", "ship", {"a": 1, "b": 2})
    with pytest.raises(Waiting):
        attempt.ask("c1", "ship", {"b": 2, "a": 1})

    assert types(runs).count("ConfirmationRequested") == 1


def test_an_answer_is_given_again_in_every_later_attempt(world, worker, attempt, runs):
    with pytest.raises(Waiting):
        attempt.ask("c1", "ship", None)
    runs.resolve("run-1", "c1", "approved", by="alice", comment="go", result={"r": 1})
    second = taken_over(world, worker)

    for _ in range(2):
        answer = second.ask("c1", "ship", None)
        assert (answer.approved, answer.denied, answer.decision) == (True, False, "approved")
        assert (answer.by, answer.comment, answer.result) == ("alice", "go", {"r": 1})
    assert types(runs).count("ConfirmationRequested") == 1


def test_a_denial_is_an_answer(attempt, runs):
    with pytest.raises(Waiting):
        attempt.ask("c1", "ship", None)
    runs.resolve("run-1", "c1", "denied", by="bob", comment="not on Friday")

    answer = attempt.ask("c1", "ship", None)

    assert (answer.denied, answer.approved, answer.comment) == (True, False, "not on Friday")


def test_a_question_that_nobody_answered_in_time_is_denied(world, worker, attempt, runs):
    with pytest.raises(Waiting):
        attempt.ask("c1", "ship", None, expires_in=timedelta(minutes=5))
    world.jumps(minutes=5)
    assert worker.expire() == [("run-1", "c1")]

    answer = attempt.ask("c1", "ship", None)

    assert (answer.decision, answer.denied) == ("expired", True)


@pytest.mark.parametrize(("tool", "given"), [("ship", {"env": "dev"}), ("shop", {"env": "prod"})])
def test_a_question_is_bound_to_its_tool_and_input(attempt, runs, tool, given):
    with pytest.raises(Waiting):
        attempt.ask("c1", "ship", {"env": "prod"})
    runs.resolve("run-1", "c1", "approved", by="alice")
    before = types(runs)

    with pytest.raises(DigestMismatch):
        attempt.ask("c1", tool, given)
    assert types(runs) == before


def test_an_answer_that_comes_while_asking_is_waited_for(world, attempt, runs):
    answers = iter([None, "approved"])

    def meanwhile():
        if (decision := next(answers, None)) is not None:
            runs.resolve("run-1", "c1", decision, by="alice")

    world.while_asleep = meanwhile

    assert attempt.ask("c1", "ship", None, wait=60).approved
    assert len(world.slept) == 2


def test_waiting_for_an_answer_ends_when_its_time_has_passed(world, attempt):
    with pytest.raises(Waiting):
        attempt.ask("c1", "ship", None, wait=0.2)

    assert sum(world.slept) == pytest.approx(0.2)


def test_who_is_fenced_while_waiting_for_an_answer_stops_waiting(world, worker, attempt, runs):
    world.while_asleep = lambda: runs.cancel("run-1", by="alice")

    with pytest.raises(Fenced):
        attempt.ask("c1", "ship", None, wait=60)


def test_a_question_about_a_call_that_returned_is_refused(attempt, runs):
    attempt.call("c1", "ship", None, lambda _input: 1)
    before = types(runs)

    with pytest.raises(CallReused):
        attempt.ask("c1", "ship", None)
    assert types(runs) == before


def test_several_questions_may_wait_at_once_and_the_run_goes_on_when_all_are_answered(world, worker, attempt, runs):
    attempt.append(ConfirmationRequested("c1", "ship"), ConfirmationRequested("c2", "ship"))
    with attempt:
        pass
    runs.resolve("run-1", "c2", "approved", by="alice")
    assert worker.claim() is None

    runs.resolve("run-1", "c1", "denied", by="alice")

    assert worker.claim().run_id == "run-1"


def test_a_run_with_an_open_question_does_not_go_back_into_the_queue(attempt, runs):
    with pytest.raises(Waiting):
        attempt.ask("c1", "ship", None)
    before = types(runs)

    with pytest.raises(QuestionOpen):
        attempt.append(RunRequeued())
    assert types(runs) == before


def test_an_append_is_whole_or_absent(attempt, runs):
    before = types(runs)

    with pytest.raises(CallReused):
        attempt.append(MessageRecorded("user", 1), ToolCalled("c1", "t"), ToolCalled("c1", "t"))
    with pytest.raises(Fenced):
        attempt.append(MessageRecorded("user", 1), RunCompleted(), RunPaused("time"))
    assert types(runs) == before


# --- what people and operators gave in place of a call --------------------------------------------------------------


def never(_input):
    raise AssertionError("the tool was called")


def test_a_result_that_came_with_the_approval_stands_in_place_of_the_call():
    with projections.connect("memory:") as runs, runs.worker("w") as worker:
        runs.submit("deploy", run_id="run-1")
        with worker.claim() as attempt:
            attempt.ask("c1", "ship", 1)
        runs.resolve("run-1", "c1", "approved", by="alice", result="did it by hand")
        with worker.claim() as attempt:
            answer = attempt.ask("c1", "ship", 1)

            assert attempt.call("c1", "ship", answer.input, never) == "did it by hand"
            assert attempt.unreturned == ()


def test_a_call_that_was_settled_as_failed_raises_and_is_not_made_again():
    with projections.connect("memory:") as runs, runs.worker("w") as worker:
        runs.submit("deploy", run_id="run-1")
        with worker.claim() as attempt:
            attempt.append(ToolCalled("c1", "ship", 1), RunPaused("operator"))
        runs.settle("run-1", "c1", "no route", is_error=True)
        with worker.claim() as attempt, pytest.raises(CallFailed) as caught:
            attempt.call("c1", "ship", 1, never)

    assert caught.value.output == "no route"


def test_a_call_of_a_dead_worker_may_be_settled_and_one_of_a_living_worker_may_not():
    with projections.connect("memory:") as runs, runs.worker("w") as worker:
        runs.submit("deploy", run_id="run-1")
        worker.claim().append(ToolCalled("c1", "ship", 1))
        with pytest.raises(InvalidArgument, match="in the hands of the living worker"):
            runs.settle("run-1", "c1", "shipped")
        worker.close()

        runs.settle("run-1", "c1", "shipped")

        with pytest.raises(WorkerClosed):
            worker.claim()
        with runs.worker("next") as other, other.claim() as attempt:
            assert attempt.call("c1", "ship", 1, never) == "shipped"
        assert runs.workflow_runs.get("run-1").crashes == 1
        assert runs.check().ok
