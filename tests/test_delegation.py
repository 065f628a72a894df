"""Delegation: a child run is made once, its result comes back once, and whoever is killed goes on from what stands."""

import asyncio
from datetime import timedelta
from itertools import count

import pytest

import projections
from eventstore.errors import (
    CallFailed,
    CallReused,
    ChildrenOpen,
    DigestMismatch,
    EventStoreError,
    Fenced,
    InvalidArgument,
    NotApproved,
    QuestionOpen,
    Refused,
    Waiting,
)
from eventstore.memory import MemoryLog
from eventstore.workflow import (
    Error,
    RunCompleted,
    RunDescribed,
    RunFailed,
    RunInterrupted,
    RunQueued,
    ToolReturned,
)
from projections import Child
from projections.delegation import child_id
from projections.testing import Killed, MortalLog
from tests.world import Refusal, World

CHILD = child_id("boss", "c1")


@pytest.fixture
def worker(world):
    return world.worker()


@pytest.fixture
def runs(world, worker):
    runs = world.runs()
    runs.submit("plan", run_id="boss", job_id="job-1")
    return runs


def plan(attempt):
    with attempt:
        found = attempt.delegate(
            "c1", "search", input={"q": "moss"}, priority=7, labels={"by": "boss"}, config={"n": 1}
        )
        attempt.append(RunCompleted(output=[found]))


def search(attempt):
    with attempt:
        attempt.append(RunCompleted(output={"found": attempt.input["q"]}))


def drain(worker):
    """Perform runs as they may go on, until there is none; the ids, in order."""
    performed = []
    while (attempt := worker.claim()) is not None:
        performed.append(attempt.run_id)
        {"plan": plan, "search": search}[attempt.workflow](attempt)
    return performed


def types(runs, run_id="boss"):
    return [recorded.type for recorded in runs.store.read(run_id)]


# --- one child ------------------------------------------------------------------------------------------------------


def test_a_run_waits_for_its_child_without_a_worker_and_goes_on_with_its_output(runs, worker):
    assert drain(worker) == ["boss", CHILD, "boss"]

    assert runs.output("boss") == [{"found": "moss"}]
    assert types(runs) == [
        "RunQueued", "RunStarted", "ToolCalled", "RunPaused", "RunResumed", "ToolReturned", "RunCompleted"
    ]  # fmt: skip
    (call,) = runs.calls("boss")
    assert (call.tool, call.input, call.output) == ("search", {"q": "moss"}, {"found": "moss"})


def test_the_child_is_a_run_of_its_parents_job_as_it_was_asked_for(runs, worker):
    plan(worker.claim())

    row = runs.workflow_runs.get(CHILD)
    assert (row.workflow, row.parent_id, row.job_id, row.priority, row.labels) == (
        "search", "boss", "job-1", 7, {"by": "boss"}
    )  # fmt: skip
    assert runs.settings(CHILD) == {"n": 1}
    parent = runs.workflow_runs.get("boss")
    assert (parent.phase, parent.waiting_for, CHILD in parent.reason) == ("paused", "run", True)


def test_the_parent_is_woken_by_the_end_of_its_child_and_by_nothing_before(runs, worker):
    plan(worker.claim())
    child = worker.claim()

    assert child.run_id == CHILD
    assert worker.claim() is None
    search(child)
    assert worker.claim().run_id == "boss"


def test_a_child_that_ended_before_its_parent_was_parked_wakes_it_all_the_same(world, runs, worker):
    parent = worker.claim()
    with parent:
        try:
            parent.delegate("c1", "search", input={"q": "moss"})
        except ChildrenOpen:
            search(world.worker().claim())
            raise

    assert drain(worker) == ["boss"]


def test_a_result_stands_and_is_given_again_without_asking_the_child(runs, worker):
    plan(worker.claim())
    search(worker.claim())
    parent = worker.claim()
    first = parent.delegate("c1", "search", input={"q": "moss"})

    with Refusal(runs, CallReused):
        parent.append(ToolReturned("c1", "another result"))
    before = runs.store.head()
    assert parent.delegate("c1", "search", input={"q": "moss"}) == first
    assert runs.store.head() == before


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (RunFailed(Error("Oops", "no moss")), {"phase": "failed", "error": {"tag": "Oops", "message": "no moss"}}),
        (RunInterrupted("enough"), {"phase": "interrupted", "reason": "enough"}),
    ],
)
def test_a_child_that_did_not_complete_is_a_call_that_failed_and_stays_one(runs, worker, end, told):
    plan(worker.claim())
    worker.claim().append(end)
    runs.store.append(CHILD, RunDescribed(title="what a pity"))

    parent = worker.claim()
    for _ in range(2):
        with pytest.raises(CallFailed) as failed:
            parent.delegate("c1", "search", input={"q": "moss"})
        assert failed.value.output == {"run_id": CHILD, "reason": None, **told}
    assert [call.is_error for call in runs.calls("boss")] == [True]


def test_a_cancelled_child_fails_its_parents_call_and_an_uncaught_failure_fails_the_parent(runs, worker):
    plan(worker.claim())
    runs.cancel(CHILD, by="alice", reason="too dear")

    with pytest.raises(CallFailed, match="too dear"):
        drain(worker)
    assert runs.workflow_runs.get("boss").error["tag"] == "CallFailed"


def test_a_child_goes_on_when_its_parent_is_cancelled(runs, worker):
    plan(worker.claim())
    runs.cancel("boss", by="alice")

    assert drain(worker) == [CHILD]
    assert runs.workflow_runs.get(CHILD).phase == "completed"
    assert runs.workflow_runs.get("boss").phase == "cancelled"


def test_the_same_call_with_another_input_is_refused(runs, worker):
    plan(worker.claim())
    search(worker.claim())
    parent = worker.claim()

    with Refusal(runs, DigestMismatch):
        parent.delegate("c1", "search", input={"q": "fern"})


def test_an_id_that_is_another_runs_is_refused_and_the_call_is_not_opened(runs, worker):
    runs.submit("other", run_id=CHILD)
    parent = worker.claim(["plan"])

    with Refusal(runs, Refused, "cannot take RunQueued"):
        parent.delegate("c1", "search")


def test_a_worker_that_was_taken_for_dead_makes_no_child(world, runs, worker):
    zombie = worker.claim()
    world.dies(worker)
    world.worker().claim()

    with Refusal(runs, Fenced):
        zombie.delegate("c1", "search", input={"q": "moss"})


def test_a_call_that_an_earlier_program_began_itself_may_be_delegated_by_a_later_one(world, runs, worker):
    worker.claim().begin("c1", "search", {"q": "moss"})
    world.dies(worker)

    assert drain(world.worker()) == ["boss", CHILD, "boss"]


def test_a_delegation_may_be_asked_about_first_and_a_given_result_takes_the_childs_place(runs, worker):
    def careful(attempt):
        with attempt:
            if attempt.ask("c1", "search", {"q": "moss"}).approved:
                attempt.append(RunCompleted(output=attempt.delegate("c1", "search", input={"q": "moss"})))

    parent = worker.claim()
    with pytest.raises(EventStoreError):
        parent.ask("c1", "search", {"q": "moss"})
    with Refusal(runs, QuestionOpen):
        parent.delegate("c1", "search", input={"q": "moss"})
    careful(parent)
    runs.resolve("boss", "c1", "approved", by="alice", result="I know it")
    careful(worker.claim())

    assert runs.output("boss") == "I know it"
    assert runs.workflow_runs.get(CHILD) is None


# --- several at once ------------------------------------------------------------------------------------------------

TWO = {"a": Child("search", {"q": "moss"}), "b": Child("search", {"q": "fern"})}


def test_several_children_are_submitted_at_once_and_the_parent_wakes_when_all_have_ended(runs, worker):
    def both(attempt):
        with attempt:
            attempt.append(RunCompleted(output=attempt.delegate_all(TWO)))

    before = runs.store.head().position
    both(worker.claim())
    entries = [item.type for item in runs.store.read_all(after=before + 1)]
    search(worker.claim())
    second = worker.claim()

    assert entries == ["ToolCalled", "ToolCalled", "RunQueued", "RunQueued", "RunPaused"]
    assert second.run_id == child_id("boss", "b")
    assert worker.claim() is None
    search(second)
    both(worker.claim())
    assert runs.output("boss") == {"a": {"found": "moss"}, "b": {"found": "fern"}}


def test_of_several_one_that_failed_is_told_and_what_the_others_gave_can_be_had(runs, worker):
    parent = worker.claim()
    with parent:
        parent.delegate_all(TWO)
    worker.claim().append(RunFailed(Error("Oops", "no moss")))
    search(worker.claim())

    parent = worker.claim()
    with pytest.raises(CallFailed) as failed:
        parent.delegate_all(TWO)
    assert failed.value.call_id == "a"
    assert parent.delegate("b", "search", input={"q": "fern"}) == {"found": "fern"}


def test_delegating_to_nobody_is_refused(runs, worker):
    parent = worker.claim()

    with Refusal(runs, InvalidArgument, "name no child"):
        parent.delegate_all({})


# --- killed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_commit", [False, True])
def test_killed_at_any_write_of_a_delegation_it_goes_on_and_makes_one_child(after_commit):
    for write in count(1):
        world = World()
        runs = world.runs()
        runs.submit("plan", run_id="boss")
        log = MortalLog(world.log())
        mortal = world.runs(log=log).worker("w", lease=timedelta(hours=12))
        log.doom(write, after_commit=after_commit)
        try:
            drain(mortal)
        except Killed:
            world.dies(mortal)
        else:
            break
        mortal._closed.set()
        drain(world.worker())

        assert runs.output("boss") == [{"found": "moss"}]
        assert sum(item.kind is RunQueued for item in runs.store.read_all()) == 2
        assert types(runs).count("ToolReturned") == 1
        assert runs.check().ok
        world.close()
    assert write > 8  # both runs' beginnings, the delegation, the parking, the result, the ends


# --- asyncio --------------------------------------------------------------------------------------------------------


def test_tasks_delegate_as_threads_do():
    async def perform(attempt):
        async with attempt:
            if (await attempt.queued()).workflow == "search":
                await attempt.append(RunCompleted("found"))
            else:
                one = await attempt.delegate("c1", "search")
                await attempt.append(RunCompleted([one, await attempt.delegate_all({"c2": Child("search")})]))

    async def daemon():
        async with projections.aconnect(MemoryLog()) as runs, await runs.worker("w") as worker:
            await runs.submit("plan", run_id="boss")
            while (attempt := await worker.claim()) is not None:
                await perform(attempt)
            return await runs.output("boss")

    assert asyncio.run(daemon()) == ["found", {"c2": "found"}]


def test_a_call_that_was_begun_and_then_denied_is_not_delegated_by_the_same_attempt(runs, worker):
    attempt = worker.claim()
    attempt.begin("c1", "search", {"q": "moss"})
    with pytest.raises(Waiting):
        attempt.ask("c1", "search", {"q": "moss"})

    with Refusal(runs, QuestionOpen):
        attempt.delegate("c1", "search", input={"q": "moss"})
    runs.resolve("boss", "c1", "denied", by="alice")
    with Refusal(runs, NotApproved):
        attempt.delegate("c1", "search", input={"q": "moss"})


def test_a_child_with_a_setting_of_the_wrong_shape_is_refused_as_submit_would(runs, worker):
    attempt = worker.claim()

    with Refusal(runs, InvalidArgument, match="step_limit"):
        attempt.delegate("c1", "search", config={"step_limit": -1})
