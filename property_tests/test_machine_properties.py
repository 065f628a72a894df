"""What must hold of every legal history of the run, whatever it is."""

from enum import StrEnum
from random import Random

import pytest
from attrs import evolve, field, frozen
from hypothesis import Phase as Find
from hypothesis import find, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from eventstore import RUN, EventStore, Json, LogRecorded, Machine, Refused
from eventstore.integrity import chain, genesis
from eventstore.memory import MemoryLog
from eventstore.notes import NOTES
from eventstore.sqlite import SQLiteLog
from eventstore.testing import Rehearsal, histories
from eventstore.workflow import (
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

# Typed by hand a second time, in the other direction than in tests/test_transitions.py: event -> {from: to}.
_SAME = {phase: phase for phase in ("queued", "started", "paused")}
_WORK = {"started": "started"}
_ANSWER = {"started": "started", "paused": "paused"}
BY_EVENT = {
    "RunQueued": {"new": "queued"},
    "RunStarted": {"queued": "started"},
    "RunResumed": {"started": "started", "paused": "started"},
    "RunPaused": {"started": "paused"},
    "RunRequeued": {"started": "queued"},
    "RunCompleted": {"started": "completed"},
    "RunFailed": dict.fromkeys(("queued", "started", "paused"), "failed"),
    "RunCrashed": {"started": "crashed"},
    "RunInterrupted": dict.fromkeys(("started", "paused"), "interrupted"),
    "RunDropped": dict.fromkeys(("new", "queued", "started"), "dropped"),
    "RunCancelled": dict.fromkeys(("queued", "started", "paused"), "cancelled"),
    "MessageRecorded": _WORK,
    "ToolCalled": _WORK,
    "ToolReturned": _ANSWER,
    "CheckpointSaved": _WORK,
    "UsageRecorded": _WORK,
    "ConfirmationRequested": _WORK,
    "ConfirmationResolved": _ANSWER,
    "ConfirmationExpired": _ANSWER,
    "InterruptRequested": _SAME,
    "RunDescribed": _SAME
    | {end: end for end in ("completed", "failed", "crashed", "interrupted", "dropped", "cancelled")},
    "RunConfigured": _SAME,
    "LogRecorded": _WORK,
}
CELLS = {(phase, event) for event, row in BY_EVENT.items() for phase in row}


def one_of_each(state):
    """An event of every type that data allows in this state, as far as it can: only the phase may forbid it."""
    call = next(iter(sorted(state.unreturned)), "none")
    question = next(iter(sorted(state.unanswered)), "none")
    return (
        RunQueued("w"), RunStarted("w"), RunResumed("w"), RunPaused("time"), RunRequeued(), RunCompleted(),
        RunFailed(Error("t", "m")), RunCrashed(), RunInterrupted(), RunDropped(), RunCancelled(),
        MessageRecorded("user"), ToolCalled("fresh", "t"), ToolReturned(call), CheckpointSaved(1), UsageRecorded(),
        ConfirmationRequested("fresh", "t"), ConfirmationResolved(question, "approved"),
        ConfirmationExpired(question), InterruptRequested(), RunDescribed("t"), RunConfigured(1),
        LogRecorded("a", "b"),
    )  # fmt: skip


def forbidden_by_data(event, state):
    return (
        (isinstance(event, ToolReturned) and not state.unreturned)
        or (isinstance(event, ConfirmationResolved | ConfirmationExpired) and not state.unanswered)
        or (isinstance(event, RunRequeued) and bool(state.unanswered))
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A store on each backend for all examples of this module; each example has a stream of its own."""
    file = SQLiteLog(tmp_path_factory.mktemp("log") / "agent.db", synchronous="NORMAL")
    yield [EventStore(MemoryLog(), [RUN]), EventStore(file, [RUN])]
    file.close()


# --- the kit --------------------------------------------------------------------------------------------------------


CORNERS = {
    "a call is opened again": lambda state, event: isinstance(event, ToolCalled) and event.call_id in state.calls,
    "an approved call is made": lambda state, event: isinstance(event, ToolCalled) and event.call_id in state.questions,
    "a question about an open call": lambda state, event: (
        isinstance(event, ConfirmationRequested) and event.call_id in state.calls
    ),
    "an answer edits the input": lambda _state, event: (
        isinstance(event, ConfirmationResolved) and event.input is not None
    ),
    "a denial": lambda _state, event: isinstance(event, ConfirmationResolved) and event.decision == "denied",
    "two questions are open": lambda state, _event: len(state.unanswered) > 1,
    "a second crash": lambda state, _event: state.crashes > 1,
    "a return by a later attempt": lambda state, event: (
        isinstance(event, ToolReturned) and state.calls[event.call_id].attempt < state.attempt
    ),
}


@pytest.fixture(scope="module")
def reached():
    """What histories reach, cells and corners: the same ones each time, until all is reached; 2,400 at most."""
    cells, corners = set(), set()
    for number in range(80):  # often anew, and a few each time: the more there are, the more they are alike

        @seed(number)
        @settings(max_examples=30, database=None, phases=[Find.generate])
        @given(histories(RUN) | histories(RUN, max_size=3) | histories(RUN, max_size=6))  # for ends that come soon
        def show(history):
            run = Rehearsal(RUN)
            for event in history:
                cells.add((str(run.state.phase), type(event).__name__))
                corners.update(name for name in CORNERS.keys() - corners if CORNERS[name](run.state, event))
                run.take(event)

        show()
        if cells == CELLS and corners == CORNERS.keys():
            break
    return cells, corners


def test_the_kit_reaches_every_cell_of_the_table(reached):
    assert reached[0] == CELLS


def test_the_kit_reaches_the_rare_corners(reached):
    assert reached[1] == CORNERS.keys()


@given(histories(RUN, min_size=3, max_size=8))
def test_a_history_is_as_long_as_was_asked_for(history):
    assert 3 <= len(history) <= 8


def test_a_failing_history_shrinks_to_what_matters():
    found = find(
        histories(RUN, max_size=12),
        lambda history: any(isinstance(event, RunCrashed) for event in history),
        # Nothing is to be explained: what else might vary takes longer to find out than all the rest.
        settings=settings(max_examples=2000, database=None, phases=[Find.generate, Find.shrink]),
        random=Random(0),  # one beginning, for Hypothesis gives up shrinking some others early
    )

    assert [type(event) for event in found] == [RunQueued, RunStarted, RunCrashed]


# --- the run --------------------------------------------------------------------------------------------------------


@given(histories(RUN))
@settings(max_examples=60)
def test_every_history_replays_to_the_same_state_through_the_store_on_both_backends(stores, history):
    states = []
    for store in stores:
        name = f"run-{store.head().position}"
        stream = store.stream(name, RUN)
        for event in history:
            stream.append(event)
        states += [timeless(stream.state), timeless(store.stream(name, RUN).state)]
        assert [recorded.event for recorded in stream.read()] == history

    assert states == [timeless(Rehearsal(RUN, *history).state)] * 4


@given(histories(RUN, max_size=12))
@settings(max_examples=30)
def test_a_history_appended_as_one_batch_is_the_same_history(stores, history):
    one, other = (stores[0].stream(f"{name}-{stores[0].head().position}", RUN) for name in ("batch", "single"))
    one.append(*history)
    for event in history:
        other.append(event)

    assert timeless(one.state) == timeless(other.state)
    assert [item.entry.attempt for item in one.read()] == [item.entry.attempt for item in other.read()]


def timeless(state):
    """A state without the moments at which a store happened to take its events."""
    questions = state.questions
    for call_id, question in state.questions.items():
        questions = questions.insert(call_id, evolve(question, at=None))
    return state._replace(questions=questions)


@given(histories(RUN, max_size=20))
@settings(max_examples=100)
def test_every_event_in_every_reachable_state_goes_as_the_second_table_says(history):
    run = Rehearsal(RUN, *history)
    before, seen = run.state, list(run.history)

    for event in one_of_each(before):
        target = BY_EVENT[type(event).__name__].get(str(before.phase))
        if target is not None and not forbidden_by_data(event, before):
            run.take(event)
            assert run.state.phase == target
            run = Rehearsal(RUN)
            run.state, run.held, run.history = before, None, list(seen)
            run.held = before.attempt if before.phase is Phase.STARTED else None
        else:
            with pytest.raises(Refused):
                run.take(event)
            assert run.state is before
            assert run.history == seen


@given(histories(RUN), st.integers(0, 30))
@settings(max_examples=100)
def test_a_history_may_stop_anywhere_and_its_beginning_is_legal(history, cut):
    Rehearsal(RUN, *history[:cut])


@given(histories(RUN))
@settings(max_examples=100)
def test_what_is_kept_of_a_run_is_consistent(history):
    state = Rehearsal(RUN, *history).state

    assert state.unreturned == {call_id for call_id, call in state.calls.items() if call.returned is None}
    assert state.unanswered == {call_id for call_id, question in state.questions.items() if question.decision is None}
    assert 0 <= state.crashes <= state.attempt + 1
    assert state.attempt == sum(isinstance(event, RunStarted | RunResumed) for event in history)
    assert (state.worker is not None) >= (state.phase is Phase.STARTED)
    assert state.phase in RUN.table
    if state.phase in RUN.final:
        assert not state.calls
        assert not state.questions


@given(st.lists(histories(RUN, max_size=8), min_size=1, max_size=3), st.data())
@settings(max_examples=40)
def test_streams_that_interleave_are_judged_each_by_itself_and_chained_as_one_log(several, data):
    store = EventStore(MemoryLog(), [RUN])
    streams = [store.stream(f"run-{number}", RUN) for number in range(len(several))]
    left = [list(history) for history in several]
    while any(left):
        number = data.draw(st.sampled_from([number for number, events in enumerate(left) if events]))
        streams[number].append(left[number].pop(0))

    previous = genesis(store.log.id)
    for position, recorded in enumerate(store.read_all(), start=1):
        previous = chain(previous, recorded.entry)
        assert (recorded.position, recorded.entry.hash) == (position, previous)
    for stream, history in zip(streams, several, strict=True):
        assert [recorded.event for recorded in stream.read()] == history


# --- other machines -------------------------------------------------------------------------------------------------


class Step(StrEnum):
    NEW = "new"
    OPEN = "open"
    DONE = "done"


@frozen
class Inner:
    name: str
    sizes: tuple[int, ...] = ()


@frozen
class Began:
    inner: Inner
    rate: float
    step: Step
    payload: Json = None
    labels: dict[str, Inner] = field(factory=dict)
    perhaps: Inner | None = None


@frozen
class Closed:
    total: int


@frozen
class Till:
    phase: Step = Step.NEW
    total: int = 0


def began(till, recorded):
    return evolve(till, total=till.total + 1) if recorded.kind is Began else till


def exact(till, recorded):
    if recorded.event.total != till.total:
        raise Refused


TILL = Machine(
    "till",
    Till(),
    {Step.NEW: {Began: Step.OPEN}, Step.OPEN: {Began: Step.OPEN, Closed: Step.DONE}, Step.DONE: {}},
    began,
    guards={Closed: exact},
)


@given(histories(TILL, max_size=8))
@settings(max_examples=40)
def test_events_of_any_machine_are_made_of_their_fields(history):
    store = EventStore(MemoryLog(), [TILL])
    store.append("till-1", *history)

    assert [recorded.event for recorded in store.read("till-1")] == history


def test_a_strategy_sees_the_state_and_may_say_not_now():
    def begun(_till):  # plain: drawn with any payload, it takes fifty times as long, and hangs on what is imported
        return st.just(Began(Inner("x"), 0.5, Step.NEW))

    def closed(till):
        return st.just(Closed(till.total)) if till.total >= 3 else st.nothing()

    lengths = set()

    @given(histories(TILL, events={Began: begun, Closed: closed}, max_size=8))
    @settings(max_examples=200, derandomize=True, database=None)
    def collect(history):
        if history and isinstance(history[-1], Closed):
            lengths.add(history[-1].total)
        assert all(not isinstance(event, Closed) or event.total >= 3 for event in history)

    collect()

    assert lengths
    assert min(lengths) == 3


def test_what_a_guard_refuses_is_not_drawn():
    with pytest.raises(NoSuchExample):
        find(
            histories(TILL, events={Closed: lambda _till: st.just(Closed(-1))}, max_size=8),
            lambda history: any(isinstance(event, Closed) for event in history),
            settings=settings(max_examples=40, derandomize=True, database=None),
        )


def test_a_strategy_for_an_event_of_another_machine_is_refused():
    with pytest.raises(ValueError, match="has no event RunQueued"):
        histories(TILL, events={RunQueued: lambda _state: st.nothing()})


@given(histories(NOTES, min_size=1, max_size=8))
@settings(max_examples=20)
def test_notes_have_histories_too(history):
    assert Rehearsal(NOTES, *history).state.phase == "open"
