"""What the run machine keeps: attempts fence, calls open and return once, questions are decided once."""

from datetime import UTC, datetime

import pytest

from eventstore.errors import (
    AlreadyAsked,
    AlreadyResolved,
    CallNotOpen,
    CallReused,
    DigestMismatch,
    Fenced,
    IllegalTransition,
    NotApproved,
    QuestionOpen,
    QuestionUnknown,
)
from eventstore.notes import LogRecorded
from eventstore.payloads import digest
from eventstore.testing import Rehearsal
from eventstore.workflow import (
    ACTIVE,
    RUN,
    CheckpointSaved,
    ConfirmationExpired,
    ConfirmationRequested,
    ConfirmationResolved,
    Error,
    InterruptRequested,
    MessageRecorded,
    Phase,
    RunCancelled,
    RunCompleted,
    RunConfigured,
    RunCrashed,
    RunDescribed,
    RunDropped,
    RunFailed,
    RunInterrupted,
    RunPaused,
    RunQueued,
    RunRequeued,
    RunResumed,
    RunStarted,
    ToolCalled,
    ToolReturned,
    UsageRecorded,
)

LATER = datetime(2026, 6, 1, tzinfo=UTC)
ENDS = (
    RunCompleted(), RunFailed(Error("t", "m")), RunCrashed(), RunInterrupted(), RunDropped(), RunCancelled(),
)  # fmt: skip
WORKERS_EVENTS = (
    RunPaused("time"),
    RunRequeued(),
    RunCompleted(),
    RunFailed(Error("t", "m")),
    RunCrashed(),
    RunInterrupted(),
    MessageRecorded("user"),
    ToolCalled("c9", "t"),
    ToolReturned("c1"),
    CheckpointSaved(1),
    UsageRecorded(),
    ConfirmationRequested("q9", "t"),
    LogRecorded("a", "b"),
)
OUTSIDE_EVENTS = (
    RunDropped(),
    RunCancelled(),
    InterruptRequested(),
    RunDescribed("t"),
    RunConfigured(1),
    ConfirmationResolved("q1", "approved"),
    ConfirmationExpired("q1"),
)


def started(*events):
    return Rehearsal(RUN, RunQueued("w"), RunStarted("a"), *events)


def refuses(run, error, event, **options):
    before, seen = run.state, list(run.history)
    with pytest.raises(error) as caught:
        run.take(event, **options)
    assert type(caught.value) is error
    assert run.state is before
    assert run.history == seen
    return caught.value


def name(event):
    return type(event).__name__


# --- attempts -------------------------------------------------------------------------------------------------------


def test_each_start_and_each_resume_begins_the_next_attempt():
    run = started(RunPaused("time"), RunResumed("b"), RunRequeued(), RunStarted("c"), RunResumed("d"))

    assert [item.attempt for item in run.history] == [None, 1, 1, 2, 2, 3, 4]
    assert (run.state.attempt, run.state.worker) == (4, "d")


@pytest.mark.parametrize("event", WORKERS_EVENTS, ids=name)
def test_a_workers_event_carries_its_attempt(event):
    run = started(*([ToolCalled("c1", "t")] if isinstance(event, ToolReturned) else []))

    assert run.take(event).attempt == 1


@pytest.mark.parametrize("event", WORKERS_EVENTS, ids=name)
def test_a_workers_event_is_refused_when_another_attempt_began(event):
    run = started(ToolCalled("c1", "t"), RunResumed("b"))

    error = refuses(run, Fenced, event, attempt=1)

    assert (error.attempt, error.current, error.phase) == (1, 2, "started")


@pytest.mark.parametrize("event", WORKERS_EVENTS, ids=name)
def test_a_workers_event_is_refused_when_the_run_ended(event):
    run = started(ToolCalled("c1", "t"), RunCompleted())

    assert refuses(run, Fenced, event).phase == "completed"


@pytest.mark.parametrize("event", WORKERS_EVENTS, ids=name)
def test_a_workers_event_without_an_attempt_is_refused_while_a_worker_holds_the_run(event):
    run = started(ToolCalled("c1", "t"))
    run.held = None  # another handle

    assert refuses(run, Fenced, event).attempt is None


@pytest.mark.parametrize("event", OUTSIDE_EVENTS, ids=name)
def test_what_comes_from_outside_needs_no_attempt(event):
    run = started(ConfirmationRequested("q1", "t"))
    run.held = None

    assert run.take(event).attempt is None


def test_what_comes_from_outside_is_not_credited_to_the_worker_whose_handle_it_uses():
    assert started().take(InterruptRequested("alice")).attempt is None


def test_an_attempt_of_the_future_is_refused():
    refuses(started(), Fenced, MessageRecorded("user"), attempt=2)
    refuses(started(), Fenced, RunResumed("b"), attempt=3)


def test_a_resume_may_name_the_attempt_it_takes_over_or_begins():
    for attempt in (1, 2):
        assert started().take(RunResumed("b"), attempt=attempt).attempt == 2
    refuses(started(RunResumed("b")), Fenced, RunResumed("c"), attempt=1)


def test_a_childs_result_reaches_a_paused_run_without_an_attempt():
    run = started(ToolCalled("c1", "t"), RunPaused("run"))
    run.held = None

    assert run.take(ToolReturned("c1", 5)).attempt is None
    assert run.state.phase is Phase.PAUSED
    assert run.state.unreturned == frozenset()


def test_an_ended_run_says_how_to_go_on():
    run = started(RunCompleted())
    run.held = None

    error = refuses(run, IllegalTransition, RunStarted("b"))

    assert str(error) == (
        "rehearsal is completed and cannot take RunStarted; it takes RunDescribed. "
        "To go on, submit a new run that continues it."
    )


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_a_resume_of_a_run_that_was_not_paused_counts_as_a_crash():
    run = started(RunResumed("b"), RunResumed("c"))

    assert run.state.crashes == 2


def test_waiting_and_requeueing_are_no_crashes():
    run = started(RunPaused("person"), RunResumed("b"), RunRequeued(), RunStarted("c"))

    assert (run.state.crashes, run.state.attempt) == (0, 3)


def test_a_run_that_crashed_counts_its_last_crash():
    assert started(RunResumed("b"), RunCrashed()).state.crashes == 2
    assert started(RunResumed("b"), RunCompleted()).state.crashes == 1


def test_pausing_keeps_for_what_and_until_when_and_resuming_forgets_it():
    run = started(RunPaused("time", until=LATER))
    assert (run.state.worker, run.state.waiting_for, run.state.until) == (None, "time", LATER)

    run.take(RunResumed("b"))

    assert (run.state.worker, run.state.waiting_for, run.state.until) == ("b", None, None)


def test_a_queued_run_keeps_its_time_until_it_starts():
    run = Rehearsal(RUN, RunQueued("w", not_before=LATER))
    assert run.state.not_before == LATER

    run.take(RunStarted("a"))
    assert run.state.not_before is None

    run.take(RunRequeued(not_before=LATER))
    assert (run.state.not_before, run.state.worker) == (LATER, None)


def test_the_latest_checkpoint_is_kept_by_its_version():
    run = started(CheckpointSaved(1), MessageRecorded("user"), CheckpointSaved(2))

    assert run.state.checkpoint == 5
    run.take(RunCompleted())
    assert run.state.checkpoint == 5


@pytest.mark.parametrize("before", [(), (RunStarted("a"),), (RunStarted("a"), RunPaused("person"))], ids=ACTIVE)
def test_an_interrupt_may_be_requested_while_a_run_is_active_and_is_remembered(before):
    run = Rehearsal(RUN, RunQueued("w"), *before, InterruptRequested("alice"))

    assert run.state.interrupt_requested
    assert run.state.phase in ACTIVE


def test_an_interrupt_stays_requested_over_pause_and_resume():
    run = started(InterruptRequested(), RunPaused("worker"), RunResumed("b"))
    assert run.state.interrupt_requested

    run.take(RunInterrupted())
    assert run.state.phase is Phase.INTERRUPTED


@pytest.mark.parametrize("end", ENDS, ids=name)
def test_when_a_run_ends_what_is_open_is_void_with_it(end):
    run = started(ToolCalled("c1", "t"), ConfirmationRequested("q1", "t"), end)
    run.held = None

    assert not run.state.unreturned
    assert not run.state.unanswered
    assert not run.state.calls
    assert not run.state.questions
    refuses(run, IllegalTransition, ConfirmationResolved("q1", "approved"))
    refuses(run, IllegalTransition, ToolReturned("c1"))


# --- calls ------------------------------------------------------------------------------------------------------------


def test_a_call_is_open_until_it_returns():
    run = started(ToolCalled("c1", "t", 1))
    assert run.state.unreturned == {"c1"}
    assert (run.state.calls["c1"].digest, run.state.calls["c1"].called) == (digest("t", 1), 3)

    run.take(ToolReturned("c1", "out"))

    assert run.state.unreturned == frozenset()
    assert run.state.calls["c1"].returned == 4


def test_a_call_id_is_opened_once_an_attempt():
    refuses(started(ToolCalled("c1", "t")), CallReused, ToolCalled("c1", "t"))


def test_a_call_id_is_returned_once():
    refuses(started(ToolCalled("c1", "t"), ToolReturned("c1")), CallReused, ToolReturned("c1"))


def test_a_returned_call_is_never_opened_again():
    run = started(ToolCalled("c1", "t"), ToolReturned("c1"))
    refuses(run, CallReused, ToolCalled("c1", "t"))

    run.take(RunResumed("b"))

    refuses(run, CallReused, ToolCalled("c1", "t"))


def test_a_return_needs_an_open_call():
    refuses(started(), CallNotOpen, ToolReturned("c1"))


def test_a_later_attempt_may_open_an_unreturned_call_again_with_the_same_tool_and_input_only():
    run = started(ToolCalled("c1", "t", {"a": 1, "b": 2}), RunResumed("b"))
    refuses(run, DigestMismatch, ToolCalled("c1", "t", {"a": 1}))
    refuses(run, DigestMismatch, ToolCalled("c1", "u", {"a": 1, "b": 2}))

    run.take(ToolCalled("c1", "t", {"b": 2, "a": 1}))

    assert (run.state.calls["c1"].attempt, run.state.unreturned) == (2, {"c1"})
    refuses(run, CallReused, ToolCalled("c1", "t", {"a": 1, "b": 2}))


def test_a_later_attempt_may_return_a_call_of_an_earlier_one():
    run = started(ToolCalled("c1", "t"), RunResumed("b"), ToolReturned("c1"))

    assert run.state.calls["c1"].returned == 5


# --- questions --------------------------------------------------------------------------------------------------------


def asked(*events, input=None):  # noqa: A002 - the event's own field name
    return started(ConfirmationRequested("q1", "t", input), *events)


def test_several_questions_may_be_open_and_each_is_decided_by_itself():
    run = asked(ConfirmationRequested("q2", "t"), ConfirmationResolved("q2", "denied", by="alice"))

    assert run.state.unanswered == {"q1"}
    assert run.state.questions["q2"].decision == "denied"
    assert run.state.questions["q1"].decision is None


@pytest.mark.parametrize("phase", ["started", "paused"])
@pytest.mark.parametrize(
    "first", [ConfirmationResolved("q1", "approved", by="alice"), ConfirmationExpired("q1")], ids=name
)
@pytest.mark.parametrize("second", [ConfirmationResolved("q1", "denied"), ConfirmationExpired("q1")], ids=name)
def test_a_question_is_decided_once(phase, first, second):
    run = asked(*([RunPaused("person")] if phase == "paused" else []), first)

    error = refuses(run, AlreadyResolved, second)

    question = run.state.questions["q1"]
    assert (error.decision, error.by, error.at) == (question.decision, question.by, question.at)
    assert question.at == run.history[-1].recorded_at


def test_a_decision_on_what_was_never_asked_is_refused():
    refuses(started(), QuestionUnknown, ConfirmationResolved("q1", "approved"))
    refuses(started(), QuestionUnknown, ConfirmationExpired("q1"))


@pytest.mark.parametrize("answer", [(), (ConfirmationResolved("q1", "approved"),), (ConfirmationExpired("q1"),)])
def test_a_call_id_is_asked_about_once(answer):
    refuses(asked(*answer), AlreadyAsked, ConfirmationRequested("q1", "t"))


def test_a_question_whose_digest_is_not_of_its_tool_and_input_is_refused():
    refuses(started(), DigestMismatch, ConfirmationRequested("q1", "t", 1, digest=digest("t", 2)))
    assert started(ConfirmationRequested("q1", "t", 1, digest=digest("t", 1))).state.unanswered == {"q1"}


def test_a_question_about_an_open_call_is_about_that_call():
    run = started(ToolCalled("c1", "t", 1))
    refuses(run, DigestMismatch, ConfirmationRequested("c1", "t", 2))

    run.take(ConfirmationRequested("c1", "t", 1))

    assert run.state.unanswered == {"c1"}


def test_a_question_about_a_returned_call_is_refused():
    refuses(started(ToolCalled("c1", "t"), ToolReturned("c1")), CallReused, ConfirmationRequested("c1", "t"))


def test_a_call_waits_for_the_answer_to_its_question():
    assert refuses(asked(), QuestionOpen, ToolCalled("q1", "t")).call_ids == ("q1",)


def test_an_approved_call_may_be_made_exactly_as_it_was_approved():
    run = asked(ConfirmationResolved("q1", "approved"), input={"a": 1})
    refuses(run, DigestMismatch, ToolCalled("q1", "t", {"a": 2}))
    refuses(run, DigestMismatch, ToolCalled("q1", "u", {"a": 1}))

    run.take(ToolCalled("q1", "t", {"a": 1}))

    assert run.state.unreturned == {"q1"}


def test_an_edited_input_is_what_was_approved_and_the_old_one_no_longer():
    run = asked(ConfirmationResolved("q1", "approved", input={"a": 2}), input={"a": 1})
    refuses(run, DigestMismatch, ToolCalled("q1", "t", {"a": 1}))

    run.take(ToolCalled("q1", "t", {"a": 2}))

    assert run.state.calls["q1"].digest == digest("t", {"a": 2})


def test_an_approved_call_may_be_opened_again_by_a_later_attempt():
    run = asked(ConfirmationResolved("q1", "approved", input=2), ToolCalled("q1", "t", 2), RunResumed("b"))
    refuses(run, DigestMismatch, ToolCalled("q1", "t", None))

    run.take(ToolCalled("q1", "t", 2))

    assert run.state.calls["q1"].attempt == 2


@pytest.mark.parametrize(
    ("answer", "decision"),
    [(ConfirmationResolved("q1", "denied"), "denied"), (ConfirmationExpired("q1"), "expired")],
    ids=["denied", "expired"],
)
def test_a_call_that_was_not_approved_is_not_made(answer, decision):
    assert refuses(asked(answer), NotApproved, ToolCalled("q1", "t")).decision == decision


def test_a_run_with_an_open_question_does_not_go_back_into_the_queue():
    run = asked(ConfirmationRequested("q0", "t"))
    assert refuses(run, QuestionOpen, RunRequeued()).call_ids == ("q0", "q1")

    run.take(ConfirmationResolved("q0", "approved"))
    run.take(ConfirmationExpired("q1"))
    run.take(RunRequeued())

    assert run.state.phase is Phase.QUEUED


@pytest.mark.parametrize("end", ENDS, ids=name)
def test_no_answer_brings_an_ended_run_back_to_life(end):
    run = asked(end)
    run.held = None

    refuses(run, IllegalTransition, ConfirmationResolved("q1", "approved"))
    refuses(run, IllegalTransition, ConfirmationExpired("q1"))


def test_no_time_of_a_question_passes_by_itself():
    run = started(ConfirmationRequested("q1", "t", expires_at=datetime(2000, 1, 1, tzinfo=UTC)))

    run.take(ConfirmationResolved("q1", "approved"))

    assert run.state.questions["q1"].decision == "approved"
