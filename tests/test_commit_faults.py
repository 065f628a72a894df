"""What goes wrong around a shared commit: interrupts at odd points, strangers on the log, rows that are refused."""

import contextlib
import sys
import threading
from collections import deque

import pytest

import projections
from eventstore import commits
from eventstore.errors import StoreClosed
from eventstore.log import Member
from eventstore.notes import MetaSet
from eventstore.sqlite import SQLiteLog, sqlite3
from eventstore.sqlite.members import Gathering
from eventstore.store import EventStore
from eventstore.workflow import RUN, RunPaused, RunQueued, RunResumed, RunStarted, UsageRecorded
from tests.test_commits import Held, Outcomes, append, read, submit, until

PATIENCE = 20.0


def read_again(log):
    log.close()
    with contextlib.closing(SQLiteLog(log.url)) as again:
        return read(EventStore(again, (RUN,)))


@pytest.fixture
def log(tmp_path):
    log = SQLiteLog(tmp_path / "agent.db", busy_timeout=0.1)
    yield log
    log.close()


@pytest.fixture
def store(log):
    return EventStore(log, (RUN,))


class Interrupts:
    """A connection behind whose statement an interrupt is raised, as one that came while it waited for a lock."""

    def __init__(self, connection, sql):
        self._connection, self._sql = connection, sql

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def run(self, sql, *arguments):
        answer = self._connection.run(sql, *arguments)
        if sql == self._sql:
            self._sql = None
            raise KeyboardInterrupt
        return answer


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "PRAGMA data_version", "ROLLBACK", "COMMIT"])
def test_an_interrupt_leaves_no_transaction_open_behind_it(log, store, tmp_path, statement):
    def fails(_transaction):
        raise LookupError

    log._writer.connection = Interrupts(log._writer.connection, statement)
    with pytest.raises(KeyboardInterrupt):
        log.write(fails if statement == "ROLLBACK" else append(store, "notes", MetaSet("n", 1)))

    with contextlib.closing(SQLiteLog(tmp_path / "agent.db", busy_timeout=0.1)) as other:
        EventStore(other, (RUN,)).append("theirs", MetaSet("n", 2))
    store.append("ours", MetaSet("n", 3))
    assert read(store)[-2:] == ["theirs", "ours"]


def test_an_interrupt_between_queueing_up_and_waiting_takes_the_append_back(log, store, monkeypatch):
    class Interrupted(deque):
        def append(self, member):
            super().append(member)
            raise KeyboardInterrupt

    with Held(log):
        monkeypatch.setattr(log._commits, "_queue", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            log.write(append(store, "notes", MetaSet("n", 1)), shared=True)

    assert read_again(log) == []


def test_a_row_that_is_refused_is_not_what_the_witness_saw(log, store):
    store.append("notes", MetaSet("n", 0))
    with log.reading() as view:
        (stands,) = view.read("notes", after=0, limit=1)
    outcomes = Outcomes()
    with Held(log):
        submit(log, append(store, "notes", MetaSet("n", 1)), outcomes)
        submit(log, lambda transaction: transaction.insert([stands._replace(position=9, hash=b"x" * 32)]), outcomes)
    outcomes.wait(2)
    assert [type(m.error) for m in outcomes.told[0]] == [type(None), sqlite3.IntegrityError]

    assert read_again(log) == ["notes", "notes"]


@pytest.mark.parametrize("swallowed", [False, True])
def test_a_row_that_is_refused_when_a_neighbour_looks_is_told_to_the_one_whose_it_is(log, store, swallowed):
    def looks(transaction):
        with contextlib.suppress(sqlite3.IntegrityError if swallowed else LookupError):
            transaction.head()
        return append(store, "notes", MetaSet("n", 2))(transaction)

    store.append("notes", MetaSet("n", 0))
    with log.reading() as view:
        (stands,) = view.read("notes", after=0, limit=1)
    outcomes = Outcomes()
    with Held(log):
        submit(log, append(store, "notes", MetaSet("n", 1)), outcomes)
        submit(log, lambda transaction: transaction.insert([stands._replace(position=9, hash=b"x" * 32)]), outcomes)
        submit(log, looks, outcomes)
    outcomes.wait(3)

    assert [type(m.error) for m in outcomes.told[0]] == [type(None), sqlite3.IntegrityError, type(None)]
    assert read_again(log) == ["notes"] * 3


def test_who_looks_finds_what_a_neighbour_inserted_and_refused_costs_it_no_second_go(log, store):
    goes, found = [], []

    def first(transaction):
        goes.append("first")
        return append(store, "one", MetaSet("n", 1))(transaction)

    def looks(transaction):
        found.append([entry.stream for entry in transaction.read_all(after=0, limit=9)])
        raise LookupError

    outcomes = Outcomes()
    with Held(log):
        submit(log, first, outcomes)
        submit(log, looks, outcomes)
        submit(log, append(store, "two", MetaSet("n", 1)), outcomes)
    outcomes.wait(3)

    assert (goes, found) == (["first"], [["one"]])
    assert [type(m.error) for m in outcomes.told[0]] == [type(None), LookupError, type(None)]
    assert read_again(log) == ["one", "two"]


def test_what_a_member_undoes_of_its_own_is_not_what_the_witness_saw(log, store):
    def undoes(transaction):
        with contextlib.suppress(LookupError), transaction.savepoint():
            append(store, "undone", MetaSet("n", 2))(transaction)
            raise LookupError

    outcomes = Outcomes()
    log.submit([Member(append(store, "notes", MetaSet("n", 1)), outcomes), Member(undoes, outcomes)])
    outcomes.wait(2)

    assert [member.error for member in outcomes.told[0]] == [None, None]
    assert read_again(log) == ["notes"]


@pytest.mark.parametrize("neighbours", [0, 1])
def test_who_swallows_that_sqlite_undid_the_transaction_appends_nothing_on_its_own(log, store, neighbours):
    def swallows(transaction):
        transaction.execute("ROLLBACK")  # as SQLite does by itself where the disk fails
        append(store, "alone", MetaSet("n", 2))(transaction)
        transaction.head()

    outcomes = Outcomes()
    jobs = [append(store, "notes", MetaSet("n", 1))] * neighbours + [swallows]
    log.submit([Member(job, outcomes) for job in jobs])
    outcomes.wait(len(jobs))

    assert all(member.error is not None for member in outcomes.told[0])
    assert read_again(log) == []


class Full(Interrupts):
    """A connection whose disk is full when several rows come at once: SQLite undoes the transaction."""

    def executemany(self, _sql, _rows):
        self._connection.run("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")


def test_a_disk_that_is_full_when_all_were_judged_is_told_as_such_to_each(log, store):
    log._writer.connection = Full(log._writer.connection, None)
    outcomes = Outcomes()
    jobs = append(store, "one", MetaSet("n", 1)), append(store, "two", MetaSet("n", 1), MetaSet("n", 2))
    log.submit([Member(job, outcomes) for job in jobs])
    outcomes.wait(2)

    for member in outcomes.told[0]:
        with pytest.raises(sqlite3.OperationalError, match="disk is full") as failed:
            member.outcome()
        assert any("nothing was written" in note for note in failed.value.__notes__)
    assert read_again(log) == []


class Unwanted(BaseException):
    """What is raised between two lines, as an interrupt is, or where memory runs out."""


def raising(lines):
    """A trace function that raises behind so many of the lines by which entries are held back; it uses them up."""

    def at_line(_frame, event, _argument):
        if event == "line" and lines and lines.pop() and not lines:
            raise Unwanted
        return at_line

    held_back = {method.__code__ for method in (Gathering.insert, Gathering.flush)}
    return lambda frame, *_: at_line if frame.f_code in held_back else None


def test_what_is_raised_between_any_two_lines_takes_no_neighbours_entries_with_it(log, store, monkeypatch):
    def looks(transaction):
        transaction.head()
        return append(store, "looks", MetaSet("n", 2))(transaction)

    def commit(members):
        before = sys.gettrace()
        sys.settrace(raising(lines))
        try:
            return committed(members)
        finally:
            sys.settrace(before)

    committed = log._commits._commit
    monkeypatch.setattr(log._commits, "_commit", commit)
    count, lines = 0, []
    while not lines:  # until there are not so many
        count, stood, outcomes = count + 1, len(read(store)), Outcomes()
        lines = [True] * count
        jobs = {
            "one": append(store, "one", MetaSet("n", 1)),
            "looks": looks,
            "two": append(store, "two", MetaSet("n", 3)),
        }
        log.submit([Member(job, outcomes) for job in jobs.values()])
        outcomes.wait(len(jobs))

        acknowledged = [name for name, member in zip(jobs, outcomes.told[0], strict=True) if member.error is None]
        assert read(store)[stood:] == acknowledged
    assert count > 10
    assert len(read_again(log)) == stood + len(jobs)


@pytest.mark.parametrize("order", ["before", "behind", "around"])
def test_what_a_stranger_to_the_tables_wrote_in_the_same_commit_is_folded(tmp_path, order):
    log = SQLiteLog(tmp_path / "agent.db")
    with projections.connect(log) as runs:
        bare = EventStore(log, (RUN,))
        stores = {"before": (bare, runs.store), "behind": (runs.store, bare), "around": (bare, runs.store, bare)}[order]
        runs.submit("w", run_id="first")
        outcomes = Outcomes()
        jobs = [append(store, f"run-{number}", RunQueued("w")) for number, store in enumerate(stores)]
        log.submit([Member(job, outcomes) for job in jobs])  # nobody commits between: what was known is known still
        outcomes.wait(len(stores))
        runs.submit("w", run_id="last")

        assert runs.workflow_runs.count() == len(stores) + 2
        assert runs.verify().ok


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_listens_for_outcomes_and_raises_costs_nobody_else_an_answer(log, store):
    def raises(_members):
        raise LookupError

    outcomes = Outcomes()
    with Held(log):
        submit(log, append(store, "one", MetaSet("n", 1)), raises)
        submit(log, append(store, "two", MetaSet("n", 1)), outcomes)
    outcomes.wait(1)
    submit(log, append(store, "three", MetaSet("n", 1)), outcomes)
    outcomes.wait(1)
    assert sorted(read(store)) == ["one", "three", "two"]


def test_work_that_finds_the_store_closing_ends_nobody_elses(log, monkeypatch):
    """It waited to be alone; the queue's thread, which goes on to the end, must not be taken for done."""
    monkeypatch.setattr(commits, "_LINGER", 0.01)
    sharing, end = log._commits, log._commits._end
    held, go_on, begun, told = (threading.Event() for _ in range(4))

    def first(_transaction):
        held.set()
        go_on.wait(PATIENCE)

    def queued(_transaction):
        begun.set()
        told.wait(PATIENCE)

    def ends(**options):
        if threading.current_thread() is refused:
            begun.wait(PATIENCE)
        end(**options)

    def alone():
        with pytest.raises(StoreClosed), sharing.turn():
            pytest.fail("it was closed")

    monkeypatch.setattr(sharing, "_end", ends)
    threads = [
        threading.Thread(target=log.write, args=(first,), kwargs={"shared": True}),
        refused := threading.Thread(target=alone),
        threading.Thread(target=log.close),
    ]
    outcomes = Outcomes()
    for thread, ready in zip(threads, (held.is_set, lambda: sharing._turns, lambda: sharing._closed), strict=True):
        thread.start()
        until(ready)
        if thread is threads[0]:
            submit(log, queued, outcomes)
    go_on.set()
    refused.join(PATIENCE)

    assert begun.is_set()
    assert sharing._busy
    told.set()
    outcomes.wait(1)
    for thread in threads:
        thread.join(PATIENCE)
    assert outcomes.told[0][0].error is None


def test_an_answer_that_comes_late_takes_no_later_attempt_from_its_handle(log, store):
    stream = store.stream("run-1")
    stream.append(RunQueued("w"), RunStarted("a"))
    late = log.write(stream.job(UsageRecorded()))
    stream.append(RunPaused("worker"), RunResumed("a"))

    stream.took(late)

    assert stream.attempt == 2
    stream.append(UsageRecorded())
