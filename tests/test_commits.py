"""Commits that callers share, in SQLite: one sync for many, each caller's own answer, nobody starved or left behind."""

import signal
import threading
import time
from collections import deque

import pytest

import projections
from eventstore import commits
from eventstore.errors import CannotOpen, OutcomeUnknown, QueueFull, StoreClosed
from eventstore.log import Member
from eventstore.notes import MetaSet
from eventstore.sqlite import SQLiteLog, sqlite3
from eventstore.store import EventStore
from eventstore.workflow import RUN, RunQueued, RunStarted, UsageRecorded

PATIENCE = 20.0


@pytest.fixture
def log(tmp_path):
    log = SQLiteLog(tmp_path / "agent.db")
    yield log
    log.close()


@pytest.fixture
def store(log):
    return EventStore(log, (RUN,))


class Held:
    """The log, held by a write that ends when it is told to."""

    def __init__(self, log):
        self.log = log
        self._held, self._told = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=log.write, args=(self._hold,))

    def _hold(self, _transaction):
        self._held.set()
        self._told.wait(PATIENCE)

    def __enter__(self):
        self._thread.start()
        assert self._held.wait(PATIENCE)
        return self

    def __exit__(self, *_):
        self.let_go()

    def let_go(self):
        self._told.set()
        self._thread.join(PATIENCE)


class Outcomes:
    """What became of what was submitted, and in which thread and company it was told."""

    def __init__(self):
        self.told = []
        self.all = threading.Semaphore(0)

    def __call__(self, members):
        self.told.append(list(members))
        for _ in members:
            self.all.release()

    def wait(self, count):
        for _ in range(count):
            assert self.all.acquire(timeout=PATIENCE)


def until(condition):
    while not condition():
        time.sleep(0.001)


def statements(log):
    seen = []
    log._writer.connection.set_trace_callback(seen.append)
    return seen


def append(store, name, *events, **options):
    """A job that appends, as a stream's own."""
    found = []
    stream = store.stream(name)

    class Catch:
        def write(self, job, **_options):
            found.append(job)
            raise LookupError

    real, store.log = store.log, Catch()
    stream.refresh = lambda: stream
    try:
        stream.append(*events, **options)
    except LookupError:
        pass
    finally:
        store.log = real
    return found[0]


def submit(log, job, outcomes):
    member = Member(job, outcomes)
    log.submit([member])
    return member


def ctrl_c():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def read(store):
    return [recorded.stream for recorded in store.read_all()]


class Breaks:
    """A connection whose COMMIT fails: what was written is undone, or stands all the same."""

    def __init__(self, connection, *, after):
        self._connection, self._after = connection, after

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def run(self, sql, *arguments):
        if sql == "COMMIT":
            self._connection.run(sql if self._after else "ROLLBACK")
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.run(sql, *arguments)


def test_a_lone_caller_commits_in_its_own_thread(log, store):
    threads = set()

    def job(_transaction):
        threads.add(threading.get_ident())

    for _ in range(3):
        log.write(job, shared=True)

    assert threads == {threading.get_ident()}
    assert log._commits._thread is None


def test_all_who_came_while_a_commit_was_under_way_share_the_next_one(log, store):
    outcomes = Outcomes()
    with Held(log):
        seen = statements(log)
        for number in range(50):
            submit(log, append(store, f"notes-{number}", MetaSet("n", number)), outcomes)
    outcomes.wait(50)

    assert [len(told) for told in outcomes.told] == [50]
    assert seen.count("COMMIT") == 2, "the one that held the log, and one for all"
    assert len(read(store)) == 50


class Shared:
    """A queue whose commits do nothing, and take as long as is said by a clock that stands still between them."""

    def __init__(self, monkeypatch, *, takes):
        self.sizes = []
        self.threads = []
        self._now, self._takes = 0.0, takes
        self.commits = commits.Commits(self._commit)
        monkeypatch.setattr(commits, "time", self)

    def monotonic(self):
        return self._now

    def _commit(self, members):
        self.sizes.append(len(members))
        self.threads.append(threading.current_thread())
        self._now += self._takes

    def write(self, *times):
        """So many threads as numbers are given, which write so often; all of them begin in one commit."""

        def writes(often):
            for _ in range(often):
                self.commits.write(str)

        threads = [threading.Thread(target=writes, args=(often,), daemon=True) for often in times]
        with self.commits.turn():
            for thread in threads:
                thread.start()
            until(lambda: len(self.commits._queue) == len(times))
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
        self.commits.close()
        return threads


def test_those_who_were_answered_together_share_the_next_commit_too(monkeypatch):
    shared = Shared(monkeypatch, takes=3600)
    shared.write(5, 5, 5)

    assert shared.sizes == [3] * 5


def test_nobody_is_waited_for_longer_than_the_commit_took(monkeypatch):
    shared = Shared(monkeypatch, takes=0)
    shared.write(2, 1)

    assert shared.sizes == [2, 1]


def test_who_was_answered_alone_is_not_waited_for_and_goes_on_in_his_own_thread(monkeypatch):
    shared = Shared(monkeypatch, takes=3600)
    (thread,) = shared.write(3)

    assert shared.threads[1:] == [thread, thread]


def test_a_commit_is_shared_by_no_more_than_may_be(log, store, monkeypatch):
    monkeypatch.setattr(commits, "LARGEST", 20)
    outcomes = Outcomes()
    with Held(log):
        for number in range(50):
            submit(log, append(store, f"notes-{number}", MetaSet("n", number)), outcomes)
    outcomes.wait(50)

    assert [len(told) for told in outcomes.told] == [20, 20, 10]


@pytest.mark.parametrize("after", [False, True])
def test_a_failing_commit_is_unknown_to_each_member_by_its_own_entry_and_each_can_ask(log, store, after):
    def refused(_transaction):
        raise LookupError

    outcomes = Outcomes()
    with Held(log):
        for number in range(3):
            submit(log, append(store, f"notes-{number}", MetaSet("n", number), key="k"), outcomes)
        submit(log, append(store, "notes-2", MetaSet("n", 2), key="k"), outcomes)
        submit(log, refused, outcomes)
        writer = log._writer
        writer.connection = Breaks(writer.connection, after=after)  # the write that holds the log has the other one
    outcomes.wait(5)
    (members,) = outcomes.told

    errors = [member.error for member in members]
    assert {type(error) for error in errors} == {OutcomeUnknown}
    assert [error.position for error in errors] == [1, 2, 3, 3, None]
    assert [store.resolve(error) for error in errors] == [after] * 4 + [False]
    assert len(read(store)) == (3 if after else 0)


def test_a_disk_that_fails_inside_one_job_is_told_to_all_whose_work_it_undid(log, store):
    def breaks(transaction):
        transaction.execute("ROLLBACK")
        raise sqlite3.OperationalError("disk I/O error")

    outcomes = Outcomes()
    with Held(log):
        submit(log, append(store, "notes-1", MetaSet("n", 1)), outcomes)
        submit(log, breaks, outcomes)
        submit(log, append(store, "notes-2", MetaSet("n", 2)), outcomes)
    outcomes.wait(3)

    (members,) = outcomes.told
    for member in members:
        with pytest.raises(sqlite3.OperationalError, match="disk I/O error") as failed:
            member.outcome()
        assert any("nothing was written" in note for note in failed.value.__notes__)
    assert read(store) == []
    store.append("notes-3", MetaSet("n", 3))
    assert read(store) == ["notes-3"]


def test_a_job_that_swallows_such_a_failure_is_told_all_the_same(log, store):
    outcomes = Outcomes()
    with Held(log):
        submit(log, lambda transaction: transaction.execute("ROLLBACK"), outcomes)
        submit(log, append(store, "notes-2", MetaSet("n", 2)), outcomes)
    outcomes.wait(2)

    assert all(isinstance(member.error, (CannotOpen, sqlite3.Error)) for member in outcomes.told[0])
    assert read(store) == []


def test_what_was_withdrawn_in_time_writes_nothing_and_later_it_has_an_outcome(log, store):
    outcomes = Outcomes()
    with Held(log):
        kept = submit(log, append(store, "kept", MetaSet("n", 1)), outcomes)
        gone = submit(log, append(store, "gone", MetaSet("n", 2)), outcomes)
        assert log.withdraw(gone)
        assert not log.withdraw(gone)
    outcomes.wait(1)

    assert not log.withdraw(kept)
    assert outcomes.told == [[kept]]
    assert read(store) == ["kept"]


def test_closing_waits_for_what_is_queued_and_refuses_what_comes(log, store):
    outcomes = Outcomes()
    with Held(log) as held:
        for number in range(5):
            submit(log, append(store, f"notes-{number}", MetaSet("n", number)), outcomes)
        closing = threading.Thread(target=log.close)
        closing.start()
        while not log._commits._closed:
            time.sleep(0.001)
        with pytest.raises(StoreClosed):
            submit(log, lambda _transaction: None, outcomes)
        with pytest.raises(StoreClosed):
            log.write(lambda _transaction: None, shared=True)
        assert not log.closed
        held.let_go()
    outcomes.wait(5)
    closing.join(PATIENCE)

    assert log.closed
    assert [member.error for told in outcomes.told for member in told] == [None] * 5


def test_an_interrupt_while_waiting_takes_the_append_out_of_the_queue(log, store):
    job = append(store, "notes", MetaSet("n", 1))
    with Held(log):
        waits = threading.Thread(target=lambda: until(lambda: log._commits._queue) or ctrl_c(), daemon=True)
        waits.start()
        with pytest.raises(KeyboardInterrupt) as interrupt:
            log.write(job, shared=True)

    assert not getattr(interrupt.value, "__notes__", [])
    assert read(store) == []


def test_an_interrupt_that_comes_too_late_tells_what_became_of_the_append(log, store):
    begun, go = threading.Event(), threading.Event()

    def slow(transaction):
        begun.set()
        go.wait(PATIENCE)
        return append_job(transaction)

    append_job = append(store, "notes", MetaSet("n", 1))

    def interrupts():
        begun.wait(PATIENCE)
        ctrl_c()
        time.sleep(0.05)
        go.set()

    with Held(log) as held:
        threading.Thread(target=interrupts).start()
        threading.Timer(0.05, held.let_go).start()
        with pytest.raises(KeyboardInterrupt) as interrupt:
            log.write(slow, shared=True)

    assert interrupt.value.__notes__ == ["an append was under way; it was committed"]
    assert read(store) == ["notes"]


def test_work_that_is_alone_and_appends_that_share_take_turns(log, store):
    """Each goes on while the other never stops."""
    order = deque()
    stop = threading.Event()

    def alone():
        while not stop.is_set():
            log.write(lambda _transaction: order.append("alone"))

    def appends(number):
        while not stop.is_set():
            store.append(f"notes-{number}", MetaSet("n", number))
            order.append("shared")

    threads = [threading.Thread(target=alone)]
    threads += [threading.Thread(target=appends, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and min(order.count("alone"), order.count("shared")) < 50:
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)

    assert order.count("alone") >= 50
    assert order.count("shared") >= 50


def test_the_thread_that_commits_for_others_ends_when_nobody_comes_and_another_takes_its_place(log, store, monkeypatch):
    monkeypatch.setattr(commits, "_LINGER", 0.01)
    outcomes = Outcomes()
    for number in range(3):
        submit(log, append(store, f"notes-{number}", MetaSet("n", number)), outcomes)
        outcomes.wait(1)
        deadline = time.monotonic() + PATIENCE
        while log._commits._thread is not None and time.monotonic() < deadline:
            time.sleep(0.001)
        assert log._commits._thread is None
    assert len(read(store)) == 3


def test_rows_are_right_after_a_shared_commit_and_moved_once(tmp_path):
    with projections.connect(tmp_path / "agent.db") as runs:
        outcomes = Outcomes()
        with Held(runs.store.log):
            seen = statements(runs.store.log)
            for number in range(10):
                submit(runs.store.log, append(runs.store, f"run-{number}", RunQueued("w")), outcomes)
            submit(runs.store.log, append(runs.store, "run-3", RunStarted("w")), outcomes)
            submit(runs.store.log, append(runs.store, "run-4", RunQueued("again")), outcomes)
        outcomes.wait(12)
        moved = [statement for statement in seen if "cursors" in statement and not statement.startswith("SELECT")]

        assert len(moved) <= len(runs.projections)
        assert [type(member.error).__name__ for member in outcomes.told[0]][-2:] == ["NoneType", "IllegalTransition"]
        assert runs.workflow_runs.count() == 10
        assert runs.workflow_runs.get("run-3").phase == "started"
        assert {standing.behind for standing in runs.standings()} == {0}
        assert runs.verify().ok


def test_a_queue_limit_holds_among_those_who_share_a_commit(tmp_path):
    with projections.connect(tmp_path / "agent.db") as runs:
        refused = []

        def queued(number):
            try:
                runs.submit("w", run_id=f"run-{number}", max_queued=3)
            except QueueFull:
                refused.append(number)

        with Held(runs.store.log) as held:
            threads = [threading.Thread(target=queued, args=(number,)) for number in range(12)]
            for thread in threads:
                thread.start()
            while len(runs.store.log._commits._queue) < 12:
                time.sleep(0.001)
            held.let_go()
            for thread in threads:
                thread.join(PATIENCE)

        assert (len(refused), runs.workflow_runs.count()) == (9, 3)
        assert runs.verify().ok


def test_two_stores_on_one_log_that_share_commits_fold_each_event_once(tmp_path):
    log = SQLiteLog(tmp_path / "agent.db")
    with projections.connect(log) as one, projections.connect(log) as two:
        one.submit("w", run_id="run-1")
        two.submit("w", run_id="run-2")
        for round_ in range(3):
            outcomes = Outcomes()
            with Held(log):
                for number, runs in enumerate((one, two, one, two, two, one)):
                    run_id = f"run-{round_}-{number}"
                    submit(log, append(runs.store, run_id, RunQueued("w"), RunStarted("w"), UsageRecorded()), outcomes)
            outcomes.wait(6)
            two.submit("w", run_id=f"run-{round_}-last")

        assert [member.error for told in outcomes.told for member in told] == [None] * 6
        assert [row.records for row in two.usage.where()] == [1] * 18
        assert one.verify().ok
        assert {standing.behind for standing in one.standings()} == {0}
