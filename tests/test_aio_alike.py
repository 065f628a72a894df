"""The two faces are one: whatever a handle can do is awaited alike, with the same arguments, answers and errors."""

import asyncio
import inspect
from collections.abc import Iterator

import pytest

import projections
from eventstore.aio import Handle, streamed
from eventstore.errors import InvalidArgument, RunNotFound
from eventstore.notes import LogRecorded, MetaSet
from eventstore.workflow import RUN, CheckpointSaved, MessageRecorded, RunCompleted
from tests.test_aio import run

NO_WAITING = "known without waiting; ask the handle underneath"
OTHER_ROOMS = "for other rooms only"
NOT_AWAITED = {
    "Attempt.begin": OTHER_ROOMS,
    "Attempt.end": OTHER_ROOMS,
    "Attempt.provided": OTHER_ROOMS,
    "EventStore.appending": OTHER_ROOMS,
    "EventStore.close": "the store is closed by its runs, and the threads with it",
    "EventStore.closed": NO_WAITING,
    "EventStore.follow(stop)": "a task that follows is cancelled",
    "EventStore.gate": OTHER_ROOMS,
    "EventStore.log": OTHER_ROOMS,
    "EventStore.opening": OTHER_ROOMS,
    "EventStore.place": OTHER_ROOMS,
    "EventStore.reading": OTHER_ROOMS,
    "EventStore.stored_names": OTHER_ROOMS,
    "EventStore.watch": OTHER_ROOMS,
    "EventStore.write": OTHER_ROOMS,
    "Runs.projections": NO_WAITING,
    "Stream.attempt": NO_WAITING,
    "Stream.job": OTHER_ROOMS,
    "Stream.name": NO_WAITING,
    "Stream.seen": OTHER_ROOMS,
    "Stream.store": OTHER_ROOMS,
    "Stream.took": OTHER_ROOMS,
    "Stream.version": NO_WAITING,
    "View.projection": NO_WAITING,
    "Worker.active": NO_WAITING,
    "Worker.id": NO_WAITING,
    "Worker.retained": NO_WAITING,
    "Worker.stopping": NO_WAITING,
}
AT_ONCE = {
    "Attempt.publish": "nothing is stored, and nothing waits",
    "EventStore.stream": "a handle; the stream is looked at when it is asked something",
    "Runs.view": "a handle likewise",
    "Worker.stop": "safe in a signal handler",
}
"""Methods that are not awaited there either."""


def public(thing):
    return {name for name in dir(thing) if not name.startswith("_")}


def within(handle):
    """A handle, and those that hang on it under a name of their own."""
    yield handle
    for name in sorted(public(handle)):
        if isinstance(child := getattr(handle, name), Handle):
            yield from within(child)


async def every_handle(runs):
    """One handle of each class."""
    await runs.submit("w", run_id="run-1")
    worker = await runs.worker("w")
    attempt = await worker.claim()
    async with await runs.snapshots() as persistence:
        found = [it for handle in (runs, worker, attempt, persistence) for it in within(handle)]
    await attempt.append(RunCompleted())
    await worker.close()
    return {type(handle._under).__name__: handle for handle in found}


def is_given_one_by_one(method):
    """Whether a method is to be gone through; a listener is waited for in its own way."""
    return str(inspect.signature(method).return_annotation).startswith(("Iterator", "AsyncIterator", "Listener"))


def parameters(method):
    """Of each parameter how it is given, and what it is unless it is given; `**options` would hide what it takes."""
    return {name: (given.kind, given.default) for name, given in inspect.signature(method).parameters.items()}


def lacking(name, handle):
    """What the handle underneath can do and this one cannot, or does without being awaited."""
    under = handle._under
    for member in sorted(public(under)):
        full = f"{name}.{member}"
        if not hasattr(handle, member):
            yield full
            continue
        there, here = getattr(under, member), getattr(handle, member)
        if not inspect.ismethod(there) or full in AT_ONCE:
            continue
        waits = inspect.isasyncgenfunction if is_given_one_by_one(there) else inspect.iscoroutinefunction
        if not waits(here):
            yield f"{full} is not awaited"
        taken, wanted = parameters(here), parameters(there)
        yield from (f"{full}({given})" for given in sorted({*taken, *wanted}) if taken.get(given) != wanted.get(given))


def test_whatever_a_handle_can_do_is_awaited_alike_or_has_a_reason():
    async def program():
        async with projections.aconnect("memory:") as runs:
            handles = await every_handle(runs)
            return [one for name, handle in handles.items() for one in lacking(name, handle)]

    assert sorted(run(program())) == sorted(NOT_AWAITED)


# --- the same answers -----------------------------------------------------------------------------------------------

ASKED = {
    "blobs.check": lambda runs: runs.blobs.check(),
    "blobs.exists": lambda runs: runs.blobs.exists("0" * 64),
    "blobs.gc": lambda runs: runs.blobs.gc(dry_run=True),
    "blobs.write": lambda runs: runs.blobs.write(b"bytes"),
    "checkpoints.where": lambda runs: runs.checkpoints.where(),
    "confirmations.count": lambda runs: runs.confirmations.count(decision=None),
    "events": lambda runs: runs.events("run-1"),
    "files.of": lambda runs: runs.files.of("run-1"),
    "jobs.checkpoints": lambda runs: runs.jobs.checkpoints("job-1"),
    "jobs.count": lambda runs: runs.jobs.count(),
    "jobs.events": lambda runs: runs.jobs.events("job-1", upto_step=1),
    "jobs.get": lambda runs: runs.jobs.get("job-1"),
    "jobs.runs": lambda runs: runs.jobs.runs("job-1"),
    "jobs.where": lambda runs: runs.jobs.where(limit=1),
    "logs.count": lambda runs: runs.logs.count(kind="seen"),
    "logs.each": lambda runs: runs.logs.each(source="test"),
    "logs.record": lambda runs: runs.logs.record("test", "said", key="once"),
    "logs.where": lambda runs: runs.logs.where(newest_first=True, limit=1),
    "lost": lambda runs: runs.lost(),
    "messages": lambda runs: runs.messages("run-1", newest_first=True),
    "meta.all": lambda runs: runs.meta.all(),
    "meta.get": lambda runs: runs.meta.get("colour"),
    "meta.set": lambda runs: runs.meta.set("shape", "round", key="once"),
    "saved": lambda runs: runs.saved("run-1", step=2),
    "search": lambda runs: runs.search("dusty"),
    "sessions.accepting": lambda runs: runs.sessions.accepting("run-1"),
    "sessions.ancestors": lambda runs: runs.sessions.ancestors("run-2"),
    "sessions.count": lambda runs: runs.sessions.count("run-2"),
    "sessions.count_rounds": lambda runs: runs.sessions.count_rounds("run-1"),
    "sessions.descendants": lambda runs: runs.sessions.descendants("run-1"),
    "sessions.folders": lambda runs: runs.sessions.folders(),
    "sessions.history": lambda runs: runs.sessions.history("run-2"),
    "sessions.pending": lambda runs: runs.sessions.pending(),
    "sessions.rounds": lambda runs: runs.sessions.rounds("run-1"),
    "sessions.tool_uses": lambda runs: runs.sessions.tool_uses("run-1"),
    "standings": lambda runs: runs.standings(),
    "store.head": lambda runs: runs.store.head(),
    "store.stream.read": lambda runs: runs.store.stream("run-1").read(after=2),
    "texts.search": lambda runs: runs.texts.search("dusty"),
    "usage.each": lambda runs: runs.usage.each(),
    "view": lambda runs: runs.view("jobs").get("job-1"),
    "workflow_runs.each": lambda runs: runs.workflow_runs.each(order="-position"),
    "workflow_runs.look": lambda runs: runs.workflow_runs.look("run-1", then=lambda reading, row: row.phase),
}


def written(runs):
    runs.submit("w", run_id="run-1", job_id="job-1")
    with runs.worker("w") as worker, worker.claim() as attempt:
        attempt.append(MessageRecorded("user", "tidy up"), CheckpointSaved(1, {"n": 1}))
        attempt.append(MessageRecorded("assistant", "dusty"), CheckpointSaved(2, {"n": 2}), LogRecorded("test", "seen"))
        attempt.append(RunCompleted("tidy"))
    runs.continue_from("run-1", run_id="run-2")
    runs.meta.set("colour", "red")


async def answered(asked):
    return [item async for item in asked] if inspect.isasyncgen(asked) else await asked


@pytest.mark.parametrize("name", ASKED)
def test_the_answers_are_those_of_the_handle_underneath(name):
    async def program():
        async with projections.aconnect("memory:") as runs:
            written(runs.runs)
            alike = await answered(ASKED[name](runs))
            there = ASKED[name](runs.runs)

            assert alike == (list(there) if isinstance(there, Iterator) else there)

    run(program())


def test_what_is_decided_about_a_run_and_its_files_is_awaited_alike(tmp_path):
    (tmp_path / "a.txt").write_text("a")

    async def program():
        async with projections.aconnect("memory:") as runs, await runs.worker("w") as worker:
            await runs.submit("w", run_id="run-1")
            async with await worker.claim() as attempt:
                assert await attempt.workflow() == "w"
                await runs.sessions.auto_accept("run-1", "look", by="alice")
                assert (await runs.sessions.accepting("run-1")).tools == {"look"}
                await runs.sessions.withdraw("run-1", by="alice")
                assert await runs.sessions.accepting("run-1") is None
                await attempt.save_files(tmp_path)
                await attempt.append(RunCompleted())
            restored = await runs.files.restore("run-1", tmp_path / "again")
            with await runs.blobs.open(restored.files["a.txt"].digest) as file:
                assert await asyncio.to_thread(file.read) == b"a"
            assert await runs.blobs.read(restored.files["a.txt"].digest) == b"a"

    run(program())


def test_a_decision_on_the_present_state_is_awaited_alike():
    async def program():
        async with projections.aconnect("memory:") as runs:
            await runs.submit("w", run_id="run-1")
            stream = runs.store.stream("run-1", RUN)
            assert await stream.transact(lambda state: None if state.phase == "queued" else RunCompleted()) == ()
            await runs.store.stream("notes").transact(lambda _state: [MetaSet("n", 1), MetaSet("n", 2)])
            assert (await runs.store.head()).position == 3

    run(program())


def test_snapshots_of_a_loop_are_saved_and_loaded_by_tasks():
    async def program():
        async with projections.aconnect("memory:") as runs:
            async with await runs.snapshots(workflow="loop") as persistence:
                await persistence.on_run_start("run-1", plan=["look", "act"])
                await persistence.on_step_complete("run-1", 1, {"did": "look"})
            assert (await runs.workflow_runs.get("run-1")).waiting_for == "worker"
            async with await runs.snapshots(workflow="loop") as persistence:
                await persistence.on_run_start("run-1", resume=True)
                ended = await persistence.on_run_complete("run-1", text="tidy")
                assert await persistence.load_run("run-1") == ended
            assert (ended.step_index, ended.text, ended.phase) == (1, "tidy", "completed")

    run(program())


# --- errors ---------------------------------------------------------------------------------------------------------


def test_refusals_are_raised_where_they_are_awaited():
    async def program():
        async with projections.aconnect("memory:") as runs:
            with pytest.raises(RunNotFound):
                await anext(runs.messages("nobody"))
            with pytest.raises(InvalidArgument):
                await anext(runs.store.read("notes", limit=-1))
            with pytest.raises(InvalidArgument):
                runs.view("nothing")
            assert (await runs.store.head()).position == 0

    run(program())


def test_an_error_in_the_middle_comes_behind_the_items_before_it():
    class Counter:
        def count(self):
            yield 1
            yield 2
            raise ZeroDivisionError

    class AsyncCounter(Handle[Counter]):
        count = streamed(Counter.count)

    async def program():
        async with projections.aconnect("memory:") as runs:
            counted = AsyncCounter(Counter(), runs._loop).count()
            assert [await anext(counted), await anext(counted)] == [1, 2]
            with pytest.raises(ZeroDivisionError):
                await anext(counted)

    run(program())
