"""asyncio over the same core: appends share commits, a cancellation tells what stands, nothing blocks."""

import asyncio
import threading

import pytest

import projections
from eventstore.aio import Committed
from eventstore.errors import CallFailed, Fenced, IllegalTransition, InvalidArgument, OutcomeUnknown, StoreClosed
from eventstore.notes import MetaSet
from eventstore.sqlite import sqlite3
from eventstore.workflow import CheckpointSaved, MessageRecorded, RunCompleted, RunQueued, RunStarted
from projections.aio import opened

PATIENCE = 20.0


@pytest.fixture(params=["memory", "sqlite"])
def url(request, tmp_path):
    return "memory:" if request.param == "memory" else str(tmp_path / "agent.db")


def run(program):
    return asyncio.run(asyncio.wait_for(program, PATIENCE))


class Held:
    """The log, held by a write of another thread until `let_go`."""

    def __init__(self, log):
        self._held, self._told = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=log.write, args=(self._hold,))
        self._thread.start()
        assert self._held.wait(PATIENCE)

    def _hold(self, _transaction):
        self._held.set()
        self._told.wait(PATIENCE)

    def let_go(self):
        self._told.set()
        self._thread.join(PATIENCE)


async def until(condition):
    while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
        await asyncio.sleep(0.001)


async def types(runs, run_id="run-1"):
    return [recorded.type async for recorded in runs.store.read(run_id)]


# --- a daemon -------------------------------------------------------------------------------------------------------


def test_what_operators_do_with_old_days_is_awaited_alike(tmp_path):
    clock = [1_767_225_600_000_000]

    async def program():
        async with projections.aconnect(
            tmp_path / "agent.db", system=projections.System(microseconds=lambda: clock[0])
        ) as runs:
            for number in range(3):
                await runs.store.stream("notes").append(MetaSet("n", number))
            clock[0] += 86_400_000_000
            archived = await runs.archive(keep_days=0)
            assert [segment.day for segment in archived.sealed] == ["2026-01-01"]
            assert await runs.segments() == [*archived.sealed]
            assert (await runs.restore_days()).days == ("2026-01-01",)
            assert (await runs.growth()).weights.entries == 4

    run(program())


def test_a_daemon_of_tasks_performs_runs_to_their_end(url):
    async def perform(attempt):
        async with attempt:
            state = await attempt.checkpoint() or {"step": 0}
            result = await attempt.call("c1", "add", await attempt.input(), add)
            await attempt.append(CheckpointSaved(step=1, state={**state, "sum": result}))
            await attempt.append(RunCompleted(output=result))

    async def add(numbers):
        await asyncio.sleep(0)
        return sum(numbers)

    async def program():
        async with projections.aconnect(url) as runs, await runs.worker("w") as worker:
            ids = [await runs.submit("add", input=[number, 1], run_id=f"run-{number}") for number in range(6)]
            assert (await worker.recover()).running == 0
            tasks = []
            async for attempt in worker.claims(limit=3):
                tasks.append(asyncio.create_task(perform(attempt)))
                if len(tasks) == len(ids):
                    worker.stop()
            await asyncio.gather(*tasks)

            assert [await runs.output(run_id) for run_id in ids] == [1, 2, 3, 4, 5, 6]
            assert (await runs.verify()).ok
            assert await runs.checkpoint("run-3") == {"step": 0, "sum": 4}

    run(program())


def test_a_question_parks_the_run_and_its_answer_lets_it_go_on(url):
    async def program():
        async with projections.aconnect(url) as runs, await runs.worker("w") as worker:
            await runs.submit("w", run_id="run-1")
            async with await worker.claim() as attempt:
                await attempt.ask("c1", "ship", {"env": "prod"})
                pytest.fail("went on without an answer")
            assert runs.runs.workflow_runs.get("run-1").waiting_for == "person"
            assert await worker.claim() is None

            await runs.resolve("run-1", "c1", "approved", by="alice")
            async with await worker.claim(wait=PATIENCE) as attempt:
                answer = await attempt.ask("c1", "ship", {"env": "prod"})
                assert answer.approved
                await attempt.append(RunCompleted())
            assert (await types(runs))[-1] == "RunCompleted"

    run(program())


def test_a_question_that_is_waited_for_here_is_answered_here(url):
    async def program():
        async with projections.aconnect(url) as runs, await runs.worker("w") as worker:
            await runs.submit("w", run_id="run-1")
            async with await worker.claim() as attempt:
                asking = asyncio.create_task(attempt.ask("c1", "ship", 1, wait=PATIENCE))
                await until(lambda: runs.runs.confirmations.count(decision=None))
                await runs.resolve("run-1", "c1", "denied", by="bob")
                assert (await asking).denied
                await attempt.append(RunCompleted())

    run(program())


def test_calls_and_fences_are_those_of_an_attempt(url):
    async def program():
        async with projections.aconnect(url) as runs, await runs.worker("w") as worker:
            await runs.submit("w", run_id="run-1")
            async with await worker.claim() as attempt:

                async def never(_input):
                    pytest.fail("called again")

                async def once(given):
                    return given * 2

                assert await attempt.call("c1", "double", 21, once) == 42
                assert await attempt.call("c1", "double", 21, never) == 42
                await runs.cancel("run-1", by="alice")
                with pytest.raises(Fenced):
                    await attempt.append(MessageRecorded("user", "late"))
                with pytest.raises(Fenced):
                    await attempt.call("c3", "double", 1, once)
            assert (await types(runs))[-1] == "RunCancelled"

    run(program())


def test_a_task_that_is_cancelled_inside_its_block_parks_the_run_for_a_worker(url):
    async def program():
        async with projections.aconnect(url) as runs, await runs.worker("w") as worker:
            await runs.submit("w", run_id="run-1")
            begun = asyncio.Event()

            async def perform():
                async with await worker.claim() as attempt:
                    await attempt.append(MessageRecorded("user", "hi"))
                    begun.set()
                    await asyncio.sleep(PATIENCE)

            task = asyncio.create_task(perform())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            row = runs.runs.workflow_runs.get("run-1")
            assert (row.phase, row.waiting_for) == ("paused", "worker")

    run(program())


# --- appends --------------------------------------------------------------------------------------------------------


def test_tasks_of_one_loop_share_commits_and_each_has_its_own_answer(tmp_path):
    async def program():
        async with projections.aconnect(tmp_path / "agent.db") as runs:
            held = Held(runs.runs.store.log)
            commits = []
            runs.runs.store.log._writer.connection.set_trace_callback(
                lambda sql: commits.append(sql) if sql == "COMMIT" else 0
            )
            tasks = [asyncio.create_task(runs.store.append(f"run-{n}", RunQueued("w"))) for n in range(20)]
            await until(lambda: len(runs.runs.store.log._commits._queue) == len(tasks))
            tasks.append(asyncio.create_task(runs.store.append("run-3", RunQueued("again"))))
            await until(lambda: len(runs.runs.store.log._commits._queue) >= len(tasks))
            held.let_go()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)

            assert sorted(recorded[0].position for recorded in outcomes[:20]) == list(range(1, 21))
            assert type(outcomes[20]) is IllegalTransition
            assert len(commits) == 2, "the one that held the log, and one for all"
            assert runs.runs.workflow_runs.count() == 20

    run(program())


def test_the_loop_goes_on_while_an_append_waits_for_the_disk(tmp_path):
    async def program():
        async with projections.aconnect(tmp_path / "agent.db") as runs:
            held = Held(runs.runs.store.log)
            task = asyncio.create_task(runs.store.append("notes", MetaSet("n", 1)))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not task.done()
            held.let_go()
            await task

    run(program())


def test_cancelled_before_it_was_begun_an_append_writes_nothing(tmp_path):
    async def program():
        async with projections.aconnect(tmp_path / "agent.db") as runs:
            held = Held(runs.runs.store.log)
            task = asyncio.create_task(runs.store.append("notes", MetaSet("n", 1)))
            await until(lambda: runs.runs.store.log._commits._queue)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await task
            held.let_go()

            assert type(cancelled.value) is asyncio.CancelledError
            assert task.cancelled()
            assert [item async for item in runs.store.read_all()] == []

    run(program())


def slowed(store, begun, go):
    """Each append begins, and then waits for a word."""
    honest = store.gate.place

    def slow(*arguments, **options):
        begun.set()
        go.wait(PATIENCE)
        return honest(*arguments, **options)

    store.gate.place = slow


def test_cancelled_while_it_is_committed_an_append_says_what_stands(tmp_path):
    async def program():
        async with projections.aconnect(tmp_path / "agent.db") as runs:
            begun, go = threading.Event(), threading.Event()
            slowed(runs.runs.store, begun, go)
            task = asyncio.create_task(runs.store.append("notes", MetaSet("n", 1)))
            await asyncio.to_thread(begun.wait)
            task.cancel()
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done(), "it waits for the outcome"
            go.set()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await task

            assert type(cancelled.value) is Committed
            assert [recorded.position for recorded in cancelled.value.recorded] == [1]
            assert task.cancelled()
            assert [item.position async for item in runs.store.read_all()] == [1]

    run(program())


def test_cancelled_and_then_refused_an_append_wrote_nothing(tmp_path):
    async def program():
        async with projections.aconnect(tmp_path / "agent.db") as runs:
            begun, go = threading.Event(), threading.Event()
            slowed(runs.runs.store, begun, go)
            task = asyncio.create_task(runs.store.append("run-1", RunStarted("w")))
            await asyncio.to_thread(begun.wait)
            task.cancel()
            go.set()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await task

            assert type(cancelled.value) is asyncio.CancelledError
            assert isinstance(cancelled.value.__cause__, IllegalTransition)

    run(program())


def test_an_error_at_the_commit_reaches_each_task_by_its_own_entry(tmp_path):
    class Breaks:
        def __init__(self, connection):
            self._connection = connection

        def __getattr__(self, name):
            return getattr(self._connection, name)

        def run(self, sql, *arguments):
            if sql == "COMMIT":
                self._connection.run("ROLLBACK")
                raise sqlite3.OperationalError("disk I/O error")
            return self._connection.run(sql, *arguments)

    async def program():
        async with projections.aconnect(tmp_path / "agent.db") as runs:
            log = runs.runs.store.log
            held = Held(log)
            tasks = [asyncio.create_task(runs.store.append(f"n-{n}", MetaSet("n", n))) for n in range(3)]
            await until(lambda: len(log._commits._queue) >= 3)
            log._writer.connection = Breaks(log._writer.connection)
            held.let_go()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)

            assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown] * 3
            assert sorted(outcome.position for outcome in outcomes) == [1, 2, 3]
            assert not runs.runs.store.resolve(outcomes[1])
            await runs.store.append("n-1", MetaSet("n", 1))
            assert len([item async for item in runs.store.read_all()]) == 1

    run(program())


@pytest.mark.parametrize("when", ["while it opens", "when it has just opened"])
def test_an_opening_that_is_cancelled_leaves_nothing_open(when):
    """A store that nobody holds would keep its file until the process ends."""
    begun, goes_on, made = threading.Event(), threading.Event(), []

    def connect():
        begun.set()
        goes_on.wait(PATIENCE)
        made.append(projections.connect("memory:"))
        return made[0]

    async def program():
        task = asyncio.create_task(opened(connect))
        await until(begun.is_set)
        if when == "when it has just opened":
            goes_on.set()
            while not made:  # and the loop has not heard of it
                pass
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        goes_on.set()
        await until(lambda: made and made[0].store.closed)

    run(program())


def test_closing_waits_for_what_is_queued_and_refuses_what_comes(tmp_path):
    async def program():
        runs = await projections.aconnect(tmp_path / "agent.db")
        held = Held(runs.runs.store.log)
        task = asyncio.create_task(runs.store.append("notes", MetaSet("n", 1)))
        await until(lambda: runs.runs.store.log._commits._queue)
        closing = asyncio.create_task(runs.close())
        await until(lambda: runs.runs.store.log._commits._closed)
        with pytest.raises(StoreClosed):
            await runs.store.append("notes", MetaSet("n", 2))
        held.let_go()
        await closing
        assert [recorded.position for recorded in await task] == [1]

    run(program())


@pytest.mark.parametrize("way", ["claim", "take"])
def test_a_claim_that_was_cancelled_leaves_its_run_to_others(url, way):
    async def program():
        async with projections.aconnect(url) as runs, await runs.worker("w") as worker:
            await runs.submit("w", run_id="run-1")
            honest, begun, go = getattr(worker.worker, way), threading.Event(), threading.Event()

            def slow(what):
                begun.set()
                go.wait(PATIENCE)
                return honest(what)

            setattr(worker.worker, way, slow)
            task = asyncio.create_task(worker.claim() if way == "claim" else worker.take("run-1"))
            await asyncio.to_thread(begun.wait)
            task.cancel()
            await asyncio.sleep(0.01)
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            setattr(worker.worker, way, honest)

            row = runs.runs.workflow_runs.get("run-1")
            assert (row.phase, row.waiting_for) == ("paused", "worker")
            assert worker.worker.active == 0
            assert (await worker.claim(wait=PATIENCE)).run_id == "run-1"

    run(program())


def slowly(function, made, begun, go):
    def slow(*args, **options):
        begun.set()
        go.wait(PATIENCE)
        made.append(function(*args, **options))
        return made[-1]

    return slow


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("way", ["worker", "snapshots"])
def test_a_worker_whose_making_was_cancelled_is_left_and_no_thread_renews_its_lease(way, again):
    made, begun, go = [], threading.Event(), threading.Event()

    async def program():
        async with projections.aconnect("memory:") as runs:
            runs.runs.worker = slowly(runs.runs.worker, made, begun, go)
            task = asyncio.create_task(runs.worker("w") if way == "worker" else runs.snapshots())
            await asyncio.to_thread(begun.wait)
            others, busy, idle = [], [], threading.Event()
            if again:  # every thread has something else to do before the worker can be left
                hold = lambda: busy.append(1) or idle.wait(PATIENCE)  # noqa: E731
                others = [asyncio.create_task(runs._loop.run(hold)) for _ in range(4)]
            task.cancel()
            await asyncio.sleep(0)
            go.set()
            await until(lambda: made)
            if again:
                await until(lambda: len(busy) == 4 and runs._loop._pool._work_queue.qsize() == 1)
                task.cancel()
                await asyncio.sleep(0)
            idle.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.gather(*others)

            assert not made[0]._renewer.is_alive()
            assert runs.runs._presence.living() == frozenset()

    run(program())


def test_a_worker_that_cannot_be_left_is_told_as_the_cause_of_the_cancellation(monkeypatch):
    made, begun, go = [], threading.Event(), threading.Event()

    async def program():
        async with projections.aconnect("memory:") as runs:
            runs.runs.worker = slowly(runs.runs.worker, made, begun, go)
            task = asyncio.create_task(runs.worker("w"))
            await asyncio.to_thread(begun.wait)
            monkeypatch.setattr(runs.runs._presence, "leave", lambda _worker: 1 // 0)
            task.cancel()
            await asyncio.sleep(0)
            go.set()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await task

            assert isinstance(cancelled.value.__cause__, ZeroDivisionError)
            assert not made[0]._renewer.is_alive()

    run(program())


@pytest.mark.parametrize("way", ["claim", "claims"])
def test_one_text_for_the_workflows_is_refused_to_tasks_too(way):
    async def program():
        async with projections.aconnect("memory:") as runs, await runs.worker("w") as worker:
            await runs.submit("w", run_id="run-1")
            with pytest.raises(InvalidArgument, match=r"\['w'\]"):
                await (worker.claim("w") if way == "claim" else anext(worker.claims("w")))

            assert runs.runs.workflow_runs.get("run-1").phase == "queued"

    run(program())


def test_a_limit_of_nothing_is_refused(url):
    async def program():
        async with projections.aconnect(url) as runs, await runs.worker("w") as worker:
            with pytest.raises(InvalidArgument):
                await anext(worker.claims(limit=0))

    run(program())


# --- reading and following ------------------------------------------------------------------------------------------


def test_reading_is_paged_and_limited_as_ever(url):
    async def program():
        async with projections.aconnect(url) as runs:
            await runs.store.append("notes", *(MetaSet("n", number) for number in range(1_201)))
            assert len([item async for item in runs.store.read("notes")]) == 1_201
            assert [item.version async for item in runs.store.read("notes", after=1_199)] == [1_200, 1_201]
            assert [item.position async for item in runs.store.read_all(after=3, limit=2)] == [4, 5]
            assert [item async for item in runs.store.read_all(types=[RunQueued])] == []

    run(program())


def test_what_cannot_be_called_is_refused_before_the_call_is_written_down():
    async def program():
        async with projections.aconnect("memory:") as runs, await runs.worker("w") as worker:
            await runs.submit("w", run_id="run-1")
            async with await worker.claim() as attempt:
                with pytest.raises(InvalidArgument):
                    await attempt.call("c1", "add", 1, None)

                assert attempt.unreturned == ()
                await attempt.append(RunCompleted())

    run(program())


@pytest.mark.parametrize("wrong", [{"types": ["Nothing"]}, {"after": -1}, {"after": "5"}])
def test_following_what_cannot_be_is_refused_at_once(wrong):
    async def program():
        async with projections.aconnect("memory:") as runs:
            with pytest.raises(InvalidArgument):
                await anext(runs.store.follow(**wrong))

    run(program())


def test_following_gives_what_stands_and_then_what_comes_and_ends_with_the_store(url):
    async def program():
        seen = []
        note = seen.append
        async with projections.aconnect(url) as runs:
            await runs.store.append("notes", MetaSet("n", 1), MetaSet("n", 2))

            async def follow():
                async for recorded in runs.store.follow(types=[MetaSet]):
                    note(recorded.position)

            following = asyncio.create_task(follow())
            await until(lambda: len(seen) >= 2)
            await runs.store.append("run-1", RunQueued("w"))
            await runs.store.append("notes", MetaSet("n", 3))
            await until(lambda: len(seen) >= 3)
        await following
        assert seen == [1, 2, 4]

    run(program())


def test_what_an_attempt_publishes_is_heard_by_tasks_and_stored_nowhere(url):
    async def program():
        async with projections.aconnect(url) as runs, await runs.worker("w") as worker:
            await runs.submit("w", run_id="run-1")
            heard = []
            note = heard.append

            async def listen():
                async for delta in runs.listen("run-1"):
                    note((delta.attempt, delta.data))

            listening = asyncio.create_task(listen())
            await asyncio.sleep(0)
            async with await worker.claim() as attempt:
                before = runs.runs.store.head()
                for token in ("to", "ken"):
                    attempt.publish(token)
                assert runs.runs.store.head() == before
                await until(lambda: len(heard) >= 2)
                await attempt.append(RunCompleted())
        await listening
        assert heard == [(1, "to"), (1, "ken")]

    run(program())


def test_what_a_call_raises_goes_on_and_a_settled_failure_is_told(url):
    async def program():
        async with projections.aconnect(url) as runs, await runs.worker("w") as worker:
            await runs.submit("w", run_id="run-1")

            async def fails(_input):
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                async with await worker.claim() as attempt:
                    await attempt.call("c1", "t", None, fails)
            assert runs.runs.workflow_runs.get("run-1").phase == "failed"

            await runs.submit("w", run_id="run-2")
            async with await worker.claim() as attempt:
                await attempt.append(RunCompleted())
            assert issubclass(CallFailed, Exception)

    run(program())
