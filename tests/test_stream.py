"""One stream and its handles: append, transact, refresh, and two who write at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from eventstore import RUN, Refused, connect
from eventstore.errors import AlreadyAsked, AlreadyResolved, Fenced, IllegalTransition, InvalidArgument, VersionConflict
from eventstore.limits import check_name
from eventstore.notes import MetaSet
from eventstore.workflow import (
    ConfirmationRequested,
    ConfirmationResolved,
    MessageRecorded,
    Phase,
    RunCancelled,
    RunCompleted,
    RunDescribed,
    RunQueued,
    RunResumed,
    RunStarted,
    ToolCalled,
)


@pytest.fixture(params=["memory:", "agent.db"])
def store(request, tmp_path):
    with connect(request.param if request.param == "memory:" else tmp_path / request.param) as store:
        yield store


@pytest.fixture
def run(store):
    return store.stream("run-1", RUN)


def everything(store):
    return list(store.read_all())


def test_append_returns_the_events_in_their_places(store, run):
    queued, started = run.append(RunQueued("w"), RunStarted("a"), meta={"by": "me"})

    assert (queued.position, queued.version, queued.stream, queued.type) == (1, 1, "run-1", "RunQueued")
    assert (started.event, started.attempt, started.meta) == (RunStarted("a"), 1, {"by": "me"})
    assert [queued, started] == everything(store)


def test_a_handle_follows_its_own_appends(run):
    assert (run.version, run.state.phase) == (0, Phase.NEW)

    run.append(RunQueued("w"))

    assert (run.version, run.state.phase) == (1, Phase.QUEUED)


def test_what_a_caller_changes_while_an_append_waits_is_in_neither_log_nor_state(store, run):
    run.append(RunQueued("w"), RunStarted("a"))
    given = {"path": "a"}
    job = run.job(ToolCalled("c1", "read", given))
    given["path"] = "b"

    run.took(store.log.write(job, shared=True))

    assert everything(store)[-1].event.input == {"path": "a"}
    assert run.state == store.stream("run-1", RUN).state


def test_a_handle_sees_others_when_it_refreshes_or_appends(store, run):
    run.append(RunQueued("w"))
    store.append("run-1", RunStarted("b"))
    assert run.state.phase is Phase.QUEUED

    assert run.refresh().state.phase is Phase.STARTED

    store.append("run-1", RunDescribed("title"))
    run.append(RunDescribed("other"))
    assert run.version == 4


def test_a_refused_append_leaves_handle_and_log_as_they_were(store, run):
    run.append(RunQueued("w"), RunStarted("a"))
    before, state, version, attempt = everything(store), run.state, run.version, run.attempt

    for refused in (
        lambda: run.append(RunStarted("b")),
        lambda: run.append(MessageRecorded("user"), RunQueued("w")),
        lambda: run.append(RunResumed("b"), RunStarted("c")),
        lambda: run.append(MetaSet("a")),
        lambda: run.append(MessageRecorded("user"), expected_version=1),
        lambda: run.append(MessageRecorded("user"), attempt=2),
        lambda: run.append(MessageRecorded("user", {1, 2})),
    ):
        with pytest.raises(Refused):
            refused()

    assert everything(store) == before
    assert (run.state, run.version, run.attempt) == (state, version, attempt)


def test_an_expected_version_asks_for_a_conflict_instead_of_a_second_look(store, run):
    run.append(RunQueued("w"), expected_version=0)
    before = everything(store)

    for expected in (0, 2):
        with pytest.raises(VersionConflict) as caught:
            run.append(RunDescribed("t"), expected_version=expected)
        assert (caught.value.expected, caught.value.actual) == (expected, 1)

    assert everything(store) == before
    assert run.append(RunDescribed("t"), expected_version=1)[0].version == 2


# --- transact -------------------------------------------------------------------------------------------------------


def test_transact_decides_on_the_present_state_and_not_on_the_one_last_seen(store, run):
    run.append(RunQueued("w"))
    store.append("run-1", RunCancelled())
    seen = []

    def decide(state):
        seen.append(state.phase)
        return RunDescribed("t") if state.phase is Phase.CANCELLED else RunStarted("a")

    (recorded,) = run.transact(decide)

    assert seen == [Phase.CANCELLED]
    assert recorded.event == RunDescribed("t")


def test_transact_takes_one_event_several_or_none(run):
    assert len(run.transact(lambda _state: RunQueued("w"))) == 1
    assert len(run.transact(lambda _state: [RunStarted("a"), MessageRecorded("user")])) == 2
    assert len(run.transact(lambda _state: (RunDescribed(name) for name in "ab"))) == 2
    assert run.transact(lambda _state: None) == ()
    assert run.transact(lambda _state: []) == ()
    assert run.version == 5


def test_what_decide_raises_passes_and_nothing_is_written(store, run):
    run.append(RunQueued("w"))
    before = everything(store)

    def decide(_state):
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        run.transact(decide)

    assert everything(store) == before
    run.append(RunStarted("a"))


def test_a_decide_that_writes_to_the_store_is_refused(store, run):
    run.append(RunQueued("w"))
    before = everything(store)

    with pytest.raises(RuntimeError, match="write inside a write"):
        run.transact(lambda _state: store.append("run-2", RunQueued("w")))

    assert everything(store) == before


def test_of_many_who_transact_at_once_each_decides_on_the_others_results(store):
    def ask_once(number):
        call_id = f"c{number % 5}"
        stream = store.stream("run-1", RUN)

        def decide(state):
            return None if call_id in state.questions else ConfirmationRequested(call_id, "t")

        return len(stream.transact(decide, attempt=1))

    store.append("run-1", RunQueued("w"), RunStarted("a"))
    with ThreadPoolExecutor(8) as pool:
        written = sum(pool.map(ask_once, range(40)))

    assert written == 5
    assert len(store.stream("run-1", RUN).state.unanswered) == 5


# --- two writers and the fence --------------------------------------------------------------------------------------


def test_a_handle_that_began_an_attempt_writes_with_it(run):
    run.append(RunQueued("w"), RunStarted("a"))

    assert run.attempt == 1
    assert run.append(MessageRecorded("user"))[0].attempt == 1


def test_a_handle_that_began_nothing_is_no_worker(store, run):
    run.append(RunQueued("w"), RunStarted("a"))
    before = everything(store)

    with pytest.raises(Fenced):
        store.stream("run-1", RUN).append(MessageRecorded("user"))

    assert everything(store) == before
    assert store.stream("run-1", RUN).append(MessageRecorded("user"), attempt=1)[0].attempt == 1


def test_a_worker_that_was_taken_over_is_fenced_and_writes_nothing(store, run):
    run.append(RunQueued("w"), RunStarted("a"))
    other = store.stream("run-1", RUN)
    other.append(RunResumed("b"))
    before = everything(store)

    for event in (MessageRecorded("user"), RunCompleted()):
        with pytest.raises(Fenced) as caught:
            run.append(event)
        assert (caught.value.attempt, caught.value.current) == (1, 2)

    assert everything(store) == before
    assert other.append(RunCompleted())[0].attempt == 2


def test_of_many_workers_that_start_one_run_at_once_one_wins(store):
    store.append("run-1", RunQueued("w"))
    together = threading.Barrier(8)

    def start(number):
        stream = store.stream("run-1", RUN)
        together.wait()
        try:
            stream.append(RunStarted(f"w{number}"))
        except IllegalTransition:
            return None
        return stream.attempt

    with ThreadPoolExecutor(8) as pool:
        attempts = list(pool.map(start, range(8)))

    assert sorted(attempts, key=str) == [1, *[None] * 7]
    assert store.stream("run-1", RUN).version == 2


def test_of_many_answers_at_once_one_stands(store, run):
    run.append(RunQueued("w"), RunStarted("a"), ConfirmationRequested("c1", "t"))

    def answer(name):
        try:
            return store.append("run-1", ConfirmationResolved("c1", "approved", by=name))[0].event.by
        except AlreadyResolved as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, "abcdefgh"))

    (winner,) = [answer for answer in answers if isinstance(answer, str)]
    assert {error.by for error in answers if error != winner} == {winner}
    with pytest.raises(AlreadyAsked):
        run.append(ConfirmationRequested("c1", "t"))


# --- handles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", " a", "a ", "a\n", "a\0", "a/b", "a\\b", ".a", "-a", "x" * 201, "\ud800", None, 1, "a\u200b"], ids=repr
)
def test_a_stream_name_that_cannot_be_is_refused(store, name):
    for use in (store.stream, store.append, store.read):
        with pytest.raises(InvalidArgument):
            use(name)


@pytest.mark.parametrize("name", ["a", "run-42", "läuft", "a b", "a.b", "x" * 200, "日本"])
def test_a_stream_name_that_can_be_is_taken(name):
    assert check_name("stream", name) == name


def test_a_machine_that_the_store_was_not_connected_with_is_refused(tmp_path):
    with connect("memory:", machines=[]) as store, pytest.raises(InvalidArgument, match="is not known to this store"):
        store.stream("run-1", RUN)


def test_without_a_machine_the_first_event_tells_it(store, run):
    run.append(RunQueued("w"))

    assert store.stream("run-1").state.phase is Phase.QUEUED


def test_a_stream_reads_its_own_events_only(store, run):
    run.append(RunQueued("w"))
    store.append("run-2", RunQueued("w"))
    run.append(RunStarted("a"))

    assert [recorded.position for recorded in run.read()] == [1, 3]
    assert [recorded.version for recorded in run.read(after=1, limit=5)] == [2]


def test_an_append_by_many_threads_of_one_handle_keeps_its_view_true(store, run):
    run.append(RunQueued("w"), RunStarted("a"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: run.append(MessageRecorded("user", number)), range(80)))

    assert run.version == store.stream("run-1", RUN).version == 82
    assert run.state == store.stream("run-1", RUN).state
