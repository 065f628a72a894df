"""What every backend promises, as tests: the contract of `eventstore.log`, and the store's promises over it.

A backend's own test file names the backend and says how a log is opened, and opened again:

    class TestMyLog(LogContract):
        def open(self, folder):
            return MyLog(folder / "my.db")

        def reopen(self, log):
            return MyLog(log.url)

pytest finds the rest. For readable failures, put `pytest.register_assert_rewrite("eventstore.testing")` into your
conftest, before the first import of this package. No test here looks at a clock or waits for a time to pass; the
threads that wait have half a minute, and need milliseconds.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from eventstore.codec import Recorded
from eventstore.errors import (
    CursorConflict,
    EventStoreError,
    Fenced,
    ForeignEvent,
    IllegalTransition,
    InvalidArgument,
    InvalidPayload,
    KeyReused,
    StoreClosed,
    UnknownEvent,
    UnreadableEntry,
    VersionConflict,
)
from eventstore.integrity import chain, genesis
from eventstore.limits import MAX_BATCH, PAGE_BYTES
from eventstore.log import Cursor, Entry, Head, Log, Reading, Writing
from eventstore.machine import Machine
from eventstore.notes import LogRecorded, MetaSet
from eventstore.store import EventStore
from eventstore.workflow import (
    RUN,
    MessageRecorded,
    RunCompleted,
    RunDescribed,
    RunQueued,
    RunResumed,
    RunStarted,
)

_PATIENCE = 30.0
"""Seconds a thread may take before a test gives it up; none needs them."""


# --- a machine of the suite's own ---------------------------------------------------------------------------------


@frozen
class Counted:
    """One more."""

    amount: int = 1


@frozen
class CountClosed:
    """No more."""


class CountPhase(StrEnum):
    """Open until closed."""

    NEW = "new"
    OPEN = "open"
    CLOSED = "closed"


@frozen
class Count:
    """How many so far."""

    phase: CountPhase = CountPhase.NEW
    total: int = 0


def _count(state: Count, recorded: Recorded) -> Count:
    return evolve(state, total=state.total + recorded.event.amount) if recorded.kind is Counted else state


COUNT = Machine(
    name="count",
    initial=Count(),
    table={
        CountPhase.NEW: {Counted: CountPhase.OPEN},
        CountPhase.OPEN: {Counted: CountPhase.OPEN, CountClosed: CountPhase.CLOSED},
        CountPhase.CLOSED: {},
    },
    evolve=_count,
)
"""A machine without a fence or guards, so that what is tested is the log."""


class Boom(Exception):
    """What a job raises here."""


class LogContract:
    """The suite. A subclass gives `open` and `reopen`; each test begins with a new, empty log in `self.log`."""

    log: Log
    store: EventStore
    folder: Path

    def open(self, folder: Path) -> Log:
        """A new, empty log; `folder` is empty and the test's own."""
        raise NotImplementedError

    def reopen(self, log: Log) -> Log:
        """The same log in a new handle, after the old one was closed."""
        raise NotImplementedError

    def beside(self, log: Log) -> Log:
        """The same log in another handle while the first is open, as another process has it."""
        return self.reopen(log)

    # --- scaffolding --------------------------------------------------------------------------------------------

    def setup_method(self) -> None:
        """An empty folder, an empty log, a clock that stands at 1,000,000 until a test moves it."""
        self._temporary = tempfile.TemporaryDirectory()
        self._open: list[Log] = []
        self.folder = Path(self._temporary.name)
        self.now = 1_000_000
        self.log = self._kept(self.open(self.folder))
        self.store = self.over(self.log)

    def teardown_method(self) -> None:
        """Close what was opened."""
        for log in self._open:
            log.close()
        self._temporary.cleanup()

    def _kept(self, log: Log) -> Log:
        self._open.append(log)
        return log

    def over(self, log: Log, machines: Sequence[Machine[Any]] = (RUN, COUNT)) -> EventStore:
        """A store on a log, with this test's clock."""
        return EventStore(log, machines, clock=lambda: self.now)

    def again(self) -> EventStore:
        """What the next process finds: the log closed and opened anew."""
        self.log.close()
        self.log = self._kept(self.reopen(self.log))
        self.store = self.over(self.log)
        return self.store

    def other(self) -> EventStore:
        """A second handle on the log, beside the first."""
        return self.over(self._kept(self.beside(self.log)))

    def everything(self) -> list[Entry]:
        """All that stands in the log, as seen by a reader that has seen nothing yet."""
        return [recorded.entry for recorded in self.over(self.log).read_all()]

    @contextmanager
    def refused(self, kind: type[BaseException]) -> Iterator[None]:
        """The block raises exactly this, and the log is what it was."""
        before = self.everything()
        try:
            yield
        except kind as error:
            raised = type(error)
        else:
            raise AssertionError(f"{kind.__name__} was not raised")
        assert raised is kind
        assert self.everything() == before

    def _new(self, view: Reading, *streams: str, key: str | None = None) -> list[Entry]:
        """Entries at the end of the log, one for each stream named."""
        head = view.head()
        entries: list[Entry] = []
        position, previous = head.position, head.hash
        for stream in streams:
            position += 1
            version = view.version(stream) + sum(entry.stream == stream for entry in entries) + 1
            time = max(self.now, head.recorded_at)
            entry = Entry(position, stream, version, "Counted", time, None, None, key, b"", None, "{}")
            previous = chain(previous, entry)
            entries.append(evolve(entry, hash=previous))
        return entries

    def _insert(self, *streams: str) -> Callable[[Writing], None]:
        return lambda transaction: transaction.insert(self._new(transaction, *streams))

    # --- an empty log -------------------------------------------------------------------------------------------

    def test_an_empty_log_has_a_head_before_the_first_entry(self) -> None:
        with self.log.reading() as view:
            assert view.head() == Head(0, genesis(self.log.id), 0)
            assert view.version("s") == 0
            assert list(view.read("s", after=0, limit=9)) == []
            assert list(view.read_all(after=0, limit=9)) == []
            assert view.keyed("s", "k") is None
            assert view.hash_at(0) == genesis(self.log.id)
            assert view.hash_at(1) is None

    def test_each_log_has_an_id_of_its_own_that_reopening_keeps(self) -> None:
        folder = self.folder / "second"
        folder.mkdir()
        first = self.log.id

        assert self._kept(self.open(folder)).id != first
        assert self.again().log.id == first

    # --- write --------------------------------------------------------------------------------------------------

    def test_write_returns_what_the_job_returns(self) -> None:
        assert self.log.write(lambda _transaction: "answer") == "answer"

    def test_a_job_sees_what_it_wrote_and_none_else_does_until_it_is_committed(self) -> None:
        def job(transaction: Writing) -> tuple[int, int]:
            transaction.insert(self._new(transaction, "s", "t"))
            assert transaction.version("s") == 1
            assert [entry.stream for entry in transaction.read_all(after=0, limit=9)] == ["s", "t"]
            with self.log.reading() as view:
                return transaction.head().position, view.head().position

        assert self.log.write(job) == (2, 0)
        assert [entry.position for entry in self.everything()] == [1, 2]

    def test_a_job_that_raises_leaves_nothing(self) -> None:
        self.log.write(self._insert("s"))

        def job(transaction: Writing) -> None:
            transaction.insert(self._new(transaction, "s", "t"))
            raise Boom

        with self.refused(Boom):
            self.log.write(job)

    def test_a_job_that_is_interrupted_leaves_nothing(self) -> None:
        def job(transaction: Writing) -> None:
            transaction.insert(self._new(transaction, "s"))
            raise KeyboardInterrupt

        with self.refused(KeyboardInterrupt):
            self.log.write(job)

    def test_writing_goes_on_after_a_job_that_raised(self) -> None:
        with self.refused(Boom):
            self.log.write(_raise)

        self.log.write(self._insert("s"))

        assert len(self.everything()) == 1

    def test_a_write_inside_a_write_is_refused_and_does_not_wait_for_itself(self) -> None:
        def job(transaction: Writing) -> None:
            transaction.insert(self._new(transaction, "s"))
            self.log.write(self._insert("t"))

        with self.refused(RuntimeError):
            self.log.write(job)

    def test_jobs_of_many_threads_run_one_after_the_other(self) -> None:
        def job(transaction: Writing) -> int:
            transaction.insert(self._new(transaction, "s"))
            return transaction.head().position

        with ThreadPoolExecutor(8) as pool:
            positions = list(pool.map(lambda _number: self.log.write(job), range(80)))

        assert sorted(positions) == list(range(1, 81))

    # --- savepoints ---------------------------------------------------------------------------------------------

    def test_a_part_that_fails_is_undone_and_the_rest_stays(self) -> None:
        def job(transaction: Writing) -> None:
            transaction.insert(self._new(transaction, "before"))
            try:
                with transaction.savepoint():
                    transaction.insert(self._new(transaction, "part", "part"))
                    raise Boom
            except Boom:
                assert transaction.head().position == 1
            transaction.insert(self._new(transaction, "after"))

        self.log.write(job)

        assert [entry.stream for entry in self.everything()] == ["before", "after"]

    def test_a_part_that_succeeds_stays(self) -> None:
        def job(transaction: Writing) -> None:
            with transaction.savepoint():
                transaction.insert(self._new(transaction, "s"))

        self.log.write(job)

        assert [entry.stream for entry in self.everything()] == ["s"]

    def test_a_failing_part_undoes_the_parts_inside_it_and_no_other(self) -> None:
        def job(transaction: Writing) -> None:
            with transaction.savepoint():
                transaction.insert(self._new(transaction, "first"))
            try:
                with transaction.savepoint():
                    with transaction.savepoint():
                        transaction.insert(self._new(transaction, "inner"))
                    raise Boom
            except Boom:
                pass

        self.log.write(job)

        assert [entry.stream for entry in self.everything()] == ["first"]

    def test_what_a_part_raises_goes_on_upward(self) -> None:
        def job(transaction: Writing) -> None:
            transaction.insert(self._new(transaction, "s"))
            with transaction.savepoint():
                raise Boom

        with self.refused(Boom):
            self.log.write(job)

    # --- reading ------------------------------------------------------------------------------------------------

    def test_a_view_stays_as_it_was_and_blocks_no_writer(self) -> None:
        self.log.write(self._insert("s"))

        with self.log.reading() as view:
            assert view.head().position == 1
            self.log.write(self._insert("s", "t"))

            assert view.head().position == 1
            assert view.version("s") == 1
            assert view.version("t") == 0
            assert len(view.read_all(after=0, limit=9)) == 1
            assert view.hash_at(2) is None
        assert len(self.everything()) == 3

    def test_a_page_holds_at_most_its_limit_in_order(self) -> None:
        self.log.write(self._insert("s", "t", "s", "s", "t"))

        with self.log.reading() as view:
            assert [entry.version for entry in view.read("s", after=0, limit=2)] == [1, 2]
            assert [entry.version for entry in view.read("s", after=2, limit=2)] == [3]
            assert list(view.read("s", after=3, limit=2)) == []
            assert list(view.read("s", after=0, limit=0)) == []
            assert [entry.position for entry in view.read_all(after=1, limit=3)] == [2, 3, 4]
            assert list(view.read_all(after=5, limit=3)) == []
            assert list(view.read_all(after=0, limit=0)) == []

    def test_a_page_of_large_payloads_ends_early_and_never_empty(self) -> None:
        large = LogRecorded("s", "k", payload="x" * (PAGE_BYTES + 1))
        self.store.append("s", large, large)

        with self.log.reading() as view:
            assert [entry.version for entry in view.read("s", after=0, limit=9)] == [1]
            assert [entry.position for entry in view.read_all(after=1, limit=9)] == [2]
        assert len(list(self.store.read("s"))) == 2

    def test_entries_come_back_as_they_were_inserted(self) -> None:
        given = self.store.append(
            "läuft 🏃",
            LogRecorded("é", "\u2028", payload={"n": 2**53 - 1, "f": 0.1, "none": None, "deep": [[{}]], "": "\x7f"}),
            key="schlüssel/1",
            attempt=7,
            meta={"trace": ["ü", 1]},
            occurred_at=datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        )

        assert self.everything() == [recorded.entry for recorded in given]
        assert [recorded.entry for recorded in self.again().read("läuft 🏃")] == [item.entry for item in given]
        with self.log.reading() as view:
            assert view.keyed("läuft 🏃", "schlüssel/1") == given[0].entry
            assert view.hash_at(1) == given[0].entry.hash

    def test_streams_whose_names_differ_in_case_or_accents_are_different(self) -> None:
        for stream in ("a", "A", "á", "a%", "a_"):
            self.store.append(stream, Counted(), key="k")

        assert [entry.version for entry in self.everything()] == [1] * 5

    # --- wait and close -----------------------------------------------------------------------------------------

    def test_waiting_for_what_stands_already_returns_at_once(self) -> None:
        self.log.write(self._insert("s"))

        assert self.log.wait(0, _PATIENCE) is True
        assert self.log.wait(1, 0) is False

    def test_waiting_ends_when_another_handle_appends(self) -> None:
        other = self.other()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.log.wait, 0, _PATIENCE)
            other.append("s", Counted())

            assert waiting.result(_PATIENCE) is True

    def test_closing_twice_does_nothing_the_second_time(self) -> None:
        self.log.close()
        self.log.close()

    def test_a_closed_log_says_so(self) -> None:
        stream = self.store.stream("s", COUNT)
        stream.append(Counted())
        self.log.close()

        for use in (
            lambda: self.log.write(self._insert("s")),
            lambda: self.log.reading().__enter__(),
            lambda: stream.append(Counted()),
            stream.refresh,
            lambda: next(self.store.read("s")),
            lambda: next(self.store.read_all()),
            lambda: next(self.store.follow()),
            self.store.head,
        ):
            _raises(StoreClosed, use)
        assert len(list(self.again().read("s"))) == 1

    def test_reopening_finds_everything_and_goes_on(self) -> None:
        self.store.append("s", Counted(2), Counted(3), key="k")
        before, head = self.everything(), self.store.head()

        store = self.again()

        assert self.everything() == before
        assert store.head() == head
        assert store.stream("s", COUNT).state == Count(CountPhase.OPEN, 5)
        assert store.append("s", Counted())[0].position == 3
        assert [recorded.position for recorded in store.append("s", Counted(2), Counted(3), key="k")] == [1, 2]

    # --- append: places, times, chain ---------------------------------------------------------------------------

    def test_positions_are_dense_over_the_log_and_versions_in_each_stream(self) -> None:
        for stream in ("s", "t", "s", "s", "t"):
            self.store.append(stream, Counted(), Counted())

        entries = self.everything()

        assert [entry.position for entry in entries] == list(range(1, 11))
        assert [entry.version for entry in entries if entry.stream == "s"] == [1, 2, 3, 4, 5, 6]
        assert [entry.version for entry in entries if entry.stream == "t"] == [1, 2, 3, 4]

    def test_a_refused_batch_uses_up_no_position(self) -> None:
        self.store.append("s", Counted())
        with self.refused(IllegalTransition):
            self.store.append("s", Counted(), CountClosed(), Counted())

        assert self.store.append("s", Counted())[0].position == 2

    def test_a_batch_is_whole_or_absent(self) -> None:
        good = [Counted(number) for number in range(20)]

        self.store.append("s", *good)
        with self.refused(InvalidPayload):
            self.store.append("s", *good, Counted(2**53))
        with self.refused(IllegalTransition):
            self.store.append("s", *good, CountClosed(), Counted())

        assert [recorded.event for recorded in self.store.read("s")] == good

    def test_each_event_of_a_batch_is_judged_on_those_before_it(self) -> None:
        self.store.append("run-1", RunQueued("w"), RunStarted("a"), MessageRecorded("user"), RunCompleted())

        assert [entry.attempt for entry in self.everything()] == [None, 1, 1, 1]

    def test_an_append_of_nothing_writes_nothing(self) -> None:
        assert self.store.append("s") == ()
        assert self.everything() == []

    def test_too_large_a_batch_is_refused(self) -> None:
        with self.refused(InvalidArgument):
            self.store.append("s", *[Counted()] * (MAX_BATCH + 1))

    def test_recorded_at_never_goes_back_whatever_the_clock_does(self) -> None:
        for moment in (5_000_000, 3_000_000, 0, 6_000_000, 1):
            self.now = moment
            self.store.append("s", Counted(), Counted())
        self.now = 2
        self.again().append("t", Counted())

        seconds = [entry.recorded_at // 1_000_000 for entry in self.everything()]

        assert seconds == [5, 5, 5, 5, 5, 5, 6, 6, 6, 6, 6]

    def test_occurred_at_is_what_the_writer_says_and_orders_nothing(self) -> None:
        early = datetime(2020, 1, 1, tzinfo=UTC)
        self.store.append("s", Counted())
        (recorded,) = self.store.append("s", Counted(), occurred_at=early)

        assert recorded.occurred_at == recorded.time == early
        assert recorded.recorded_at == datetime.fromtimestamp(1, UTC)
        assert [entry.version for entry in self.everything()] == [1, 2]

    def test_a_time_without_a_zone_is_refused(self) -> None:
        with self.refused(InvalidArgument):
            self.store.append("s", Counted(), occurred_at=datetime(2020, 1, 1))  # noqa: DTZ001 - the point of it

    def test_the_chain_recomputed_from_the_entries_is_the_stored_one(self) -> None:
        self.store.append("run-1", RunQueued("w", input={"é": [1.5, None]}), key="k", meta={"by": "alice"})
        self.store.append("run-1", RunStarted("a"), occurred_at=datetime(2020, 1, 1, tzinfo=UTC))
        self.again().append("s", Counted(), Counted(), key="k")

        previous = genesis(self.log.id)
        for entry in self.everything():
            previous = chain(previous, evolve(entry, hash=b""))
            assert entry.hash == previous
        assert self.store.head() == Cursor(4, previous)

    # --- keys ---------------------------------------------------------------------------------------------------

    def test_the_same_key_with_the_same_content_returns_what_stands(self) -> None:
        first = self.store.append("s", Counted(2), key="k")
        self.store.append("s", Counted(3))
        before = self.everything()

        assert self.store.append("s", Counted(2), key="k") == first
        assert self.again().append("s", Counted(2), key="k") == first
        assert self.everything() == before

    def test_the_same_key_with_other_content_is_refused(self) -> None:
        self.store.append("s", Counted(2), key="k")

        with self.refused(KeyReused):
            self.store.append("s", Counted(3), key="k")
        with self.refused(KeyReused):
            self.store.append("s", CountClosed(), key="k")

    def test_content_is_compared_as_json_whatever_the_order_of_keys(self) -> None:
        first = self.store.append("s", LogRecorded("a", "b", payload={"x": 1, "y": 2}), key="k")

        assert self.store.append("s", LogRecorded("a", "b", payload={"y": 2, "x": 1}), key="k") == first
        for other in ({"x": True, "y": 2}, {"x": 1.0, "y": 2}):
            with self.refused(KeyReused):
                self.store.append("s", LogRecorded("a", "b", payload=other), key="k")

    def test_a_key_belongs_to_its_stream(self) -> None:
        self.store.append("s", Counted(2), key="k")
        self.store.append("t", Counted(3), key="k")

        assert [entry.key for entry in self.everything()] == ["k", "k"]

    def test_a_batch_is_retried_whole_by_its_key(self) -> None:
        batch = [Counted(1), Counted(2), Counted(1)]
        first = self.store.append("s", *batch, key="k")
        self.store.append("s", Counted(9))

        assert self.store.append("s", *batch, key="k") == first

    def test_a_shorter_longer_or_reordered_batch_under_the_key_is_refused(self) -> None:
        self.store.append("s", Counted(1), Counted(2), Counted(3), key="k")
        self.store.append("s", Counted(4))

        for other in ([1], [1, 2], [1, 2, 3, 4], [2, 1, 3]):
            with self.refused(KeyReused):
                self.store.append("s", *map(Counted, other), key="k")

    def test_keys_that_end_in_a_number_meet_no_batch(self) -> None:
        one = self.store.append("s", Counted(1), key="job")
        two = self.store.append("s", Counted(2), key="job/2")
        self.store.append("s", Counted(3), key="batch/2")
        batch = self.store.append("s", Counted(4), Counted(5), key="batch")

        assert self.store.append("s", Counted(1), key="job") == one
        assert self.store.append("s", Counted(2), key="job/2") == two
        assert self.store.append("s", Counted(4), Counted(5), key="batch") == batch
        with self.refused(KeyReused):
            self.store.append("s", Counted(1), Counted(2), key="job")

    def test_a_key_answers_after_the_run_ended_and_to_a_fenced_worker(self) -> None:
        worker = self.store.stream("run-1", RUN)
        worker.append(RunQueued("w"), RunStarted("a"))
        first = worker.append(MessageRecorded("user", "hello"), key="k")
        other = self.other().stream("run-1", RUN)
        other.append(RunResumed("b"))

        assert worker.append(MessageRecorded("user", "hello"), key="k") == first
        other.append(RunCompleted())
        assert worker.append(MessageRecorded("user", "hello"), key="k") == first
        assert len(self.everything()) == 5

    def test_two_callers_with_one_key_write_once(self) -> None:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _n: self.store.append("s", Counted(2), Counted(3), key="k"), range(24)))

        assert len(self.everything()) == 2
        assert all(answer == answers[0] for answer in answers)

    def test_a_key_that_cannot_be_is_refused(self) -> None:
        for key in ("", " k", "k\n", "k\0", "k" * 201):
            with self.refused(InvalidArgument):
                self.store.append("s", Counted(), key=key)

    # --- the order of checks ------------------------------------------------------------------------------------

    def test_the_payload_is_checked_before_the_key(self) -> None:
        self.store.append("s", Counted(1), key="k")

        with self.refused(InvalidPayload):
            self.store.append("s", Counted(2**53), key="k")

    def test_the_key_is_checked_before_the_fence(self) -> None:
        worker = self._fenced_worker()

        with self.refused(KeyReused):
            worker.append(MessageRecorded("user", "other"), key="k")

    def test_the_fence_is_checked_before_the_version(self) -> None:
        worker = self._fenced_worker()

        with self.refused(Fenced):
            worker.append(MessageRecorded("user", "other"), expected_version=1)

    def test_the_version_is_checked_before_the_machine(self) -> None:
        self.store.append("s", Counted(), CountClosed())

        with self.refused(VersionConflict):
            self.store.append("s", Counted(), expected_version=1)
        with self.refused(VersionConflict):
            self.store.append("s", MetaSet("a"), expected_version=1)
        with self.refused(IllegalTransition):
            self.store.append("s", Counted(), expected_version=2)

    def _fenced_worker(self) -> Any:
        worker = self.store.stream("run-1", RUN)
        worker.append(RunQueued("w"), RunStarted("a"))
        worker.append(MessageRecorded("user", "hello"), key="k")
        self.store.append("run-1", RunResumed("b"))
        return worker

    # --- machines -----------------------------------------------------------------------------------------------

    def test_the_first_event_fixes_the_machine_and_events_of_another_are_refused(self) -> None:
        self.store.append("s", Counted())
        self.store.append("n", MetaSet("a", 1))

        with self.refused(ForeignEvent):
            self.store.append("s", MetaSet("a"))
        with self.refused(ForeignEvent):
            self.store.append("s", RunQueued("w"))
        with self.refused(ForeignEvent):
            self.store.append("n", Counted())
        with self.refused(ForeignEvent):
            self.store.append("new", Counted(), MetaSet("a"))
        with self.refused(ForeignEvent):
            self.again().stream("new", COUNT).append(MetaSet("a"))

    def test_a_log_line_may_stand_anywhere_where_no_machine_rules_over_it(self) -> None:
        line = LogRecorded("stdout", "line")
        self.store.append("s", line, Counted(2), line, CountClosed(), line)
        self.store.append("run-1", line, RunQueued("w"))
        self.store.append("n", line, MetaSet("a"), line)

        assert self.store.stream("s", COUNT).state == Count(CountPhase.CLOSED, 2)
        assert len(self.everything()) == 10
        with self.refused(IllegalTransition):
            self.store.append("run-1", line)

    def test_an_event_type_of_no_machine_is_refused(self) -> None:
        store = self.over(self.log, [RUN])

        with self.refused(UnknownEvent):
            store.append("s", Counted())

    def test_entries_of_unknown_types_are_readable_but_their_events_are_not(self) -> None:
        self.store.append("s", Counted(2), meta={"by": "alice"})
        self.log.close()
        self.log = self._kept(self.reopen(self.log))
        store = self.over(self.log, [RUN])

        (recorded,) = store.read("s")
        assert (recorded.type, recorded.kind, recorded.version, recorded.meta) == ("Counted", None, 1, {"by": "alice"})
        _raises(UnreadableEntry, lambda: recorded.event)
        with self.refused(UnreadableEntry):
            store.append("s", LogRecorded("a", "b"))

    # --- reading through the store ------------------------------------------------------------------------------

    def test_reading_pages_through_more_than_a_page(self) -> None:
        self.store.append("s", *[Counted(number) for number in range(1203)])

        assert [recorded.event.amount for recorded in self.store.read("s")] == list(range(1203))
        assert [recorded.position for recorded in self.store.read_all(after=600)] == list(range(601, 1204))
        assert [recorded.version for recorded in self.store.read("s", after=499, limit=502)] == [*range(500, 1002)]

    def test_a_limit_is_kept_and_none_is_given_for_zero(self) -> None:
        self.store.append("s", Counted(), Counted(), Counted())

        assert len(list(self.store.read("s", limit=2))) == 2
        assert list(self.store.read("s", limit=0)) == []
        assert list(self.store.read_all(limit=0)) == []
        assert len(list(self.store.read_all(limit=99))) == 3

    def test_negative_limits_and_places_are_refused(self) -> None:
        for ask in (
            lambda: self.store.read("s", limit=-1),
            lambda: self.store.read("s", after=-1),
            lambda: self.store.read_all(limit=-1),
            lambda: self.store.read_all(after=-1),
            lambda: next(self.store.follow(after=-1)),
        ):
            _raises(InvalidArgument, ask)

    def test_the_log_is_filtered_by_event_types(self) -> None:
        self.store.append("s", Counted(1), Counted(2), CountClosed())
        self.store.append("n", MetaSet("a"))

        def positions(types: Sequence[type | str], **options: Any) -> list[int]:
            return [recorded.position for recorded in self.store.read_all(types=types, **options)]

        assert positions([Counted]) == [1, 2]
        assert positions(["MetaSet", CountClosed]) == [3, 4]
        assert positions([Counted], after=1) == [2]
        assert positions([CountClosed, MetaSet], limit=1) == [3]
        assert positions([]) == []
        assert positions([RunQueued]) == []
        _raises(InvalidArgument, lambda: positions(["Nonsense"]))

    def test_a_cursor_goes_on_where_it_was_taken_and_notices_another_log(self) -> None:
        start = self.store.head()
        first, *rest = self.store.append("s", Counted(1), Counted(2), Counted(3))

        assert list(self.store.read_all(after=start)) == [first, *rest]
        assert list(self.store.read_all(after=first.cursor)) == rest
        for wrong in (Cursor(1, b"\0" * 32), Cursor(0, first.cursor.hash), Cursor(4, first.cursor.hash)):
            _raises(CursorConflict, partial(self.store.read_all, after=wrong))

    # --- follow -------------------------------------------------------------------------------------------------

    def test_following_sees_what_stands_and_what_other_handles_append_and_ends_when_told(self) -> None:
        self.store.append("s", Counted(1))
        other, stop, seen = self.other(), threading.Event(), _Seen()
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(lambda: seen.take(self.store.follow(stop=stop)))
            try:
                seen.wait_for(1)
                other.append("s", Counted(2), Counted(3))
                seen.wait_for(3)
                other.append("n", MetaSet("a"))
                seen.wait_for(4)
            finally:
                stop.set()
            done.result(_PATIENCE)

        assert [recorded.position for recorded in seen.recorded] == [1, 2, 3, 4]

    def test_following_some_types_passes_over_the_others(self) -> None:
        stop, seen = threading.Event(), _Seen()
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(lambda: seen.take(self.store.follow(types=[CountClosed], stop=stop)))
            try:
                self.store.append("s", *[Counted()] * 3)
                self.store.append("s", CountClosed())
                seen.wait_for(1)
            finally:
                stop.set()
            done.result(_PATIENCE)

        assert [recorded.position for recorded in seen.recorded] == [4]

    def test_following_misses_nothing_of_more_than_a_page(self) -> None:
        self.store.append("s", *[Counted(number) for number in range(1203)])
        following = self.store.follow(types=[Counted])

        assert [next(following).event.amount for _ in range(1203)] == list(range(1203))

    def test_following_ends_when_the_store_is_closed(self) -> None:
        self.store.append("s", Counted())
        seen = _Seen()
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(lambda: seen.take(self.store.follow()))
            seen.wait_for(1)
            self.store.close()

            done.result(_PATIENCE)
        assert len(seen.recorded) == 1

    def test_following_ends_when_the_store_is_closed_between_two_events(self) -> None:
        self.store.append("s", Counted())
        following = self.store.follow()
        next(following)
        self.store.close()

        assert list(following) == []

    # --- many callers -------------------------------------------------------------------------------------------

    def test_many_threads_append_through_one_store_and_one_stream(self) -> None:
        shared = self.store.stream("shared", COUNT)

        def work(number: int) -> None:
            for _ in range(10):
                shared.append(Counted())
                self.store.append(f"own-{number}", Counted())

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))

        entries = self.everything()
        assert [entry.position for entry in entries] == list(range(1, 161))
        assert [entry.version for entry in entries if entry.stream == "shared"] == list(range(1, 81))
        assert shared.refresh().state.total == 80

    def test_readers_beside_writers_see_whole_batches_only(self) -> None:
        stop = threading.Event()

        def read() -> bool:
            whole = True
            while not stop.is_set():
                with self.log.reading() as view:
                    whole = whole and view.head().position % 3 == 0 and view.version("s") == view.head().position
            return whole

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            try:
                for _ in range(30):
                    self.store.append("s", Counted(), Counted(), Counted())
            finally:
                stop.set()

            assert [reader.result(_PATIENCE) for reader in readers] == [True, True]

    def test_two_handles_see_each_others_appends(self) -> None:
        here, there = self.store.stream("s", COUNT), self.other().stream("s", COUNT)
        for _ in range(5):
            here.append(Counted(1))
            there.append(Counted(10))

        assert here.refresh().state == there.refresh().state == Count(CountPhase.OPEN, 55)
        assert [entry.version for entry in self.everything()] == list(range(1, 11))

    def test_an_ended_stream_refuses_the_handle_that_has_not_seen_the_end(self) -> None:
        here, there = self.store.stream("run-1", RUN), self.other().stream("run-1", RUN)
        here.append(RunQueued("w"), RunStarted("a"))
        assert there.version == 2
        here.append(RunCompleted())

        with self.refused(IllegalTransition):
            there.append(RunStarted("b"))
        there.append(RunDescribed("done"))
        assert there.version == 4


class _Seen:
    """What a following thread has seen so far."""

    def __init__(self) -> None:
        self.recorded: list[Recorded] = []
        self._grown = threading.Condition()

    def take(self, following: Iterator[Recorded]) -> None:
        for recorded in following:
            with self._grown:
                self.recorded.append(recorded)
                self._grown.notify_all()

    def wait_for(self, count: int) -> None:
        with self._grown:
            assert self._grown.wait_for(lambda: len(self.recorded) >= count, _PATIENCE), "nothing more was seen"


def _raise(_transaction: Writing) -> None:
    raise Boom


def _raises(kind: type[EventStoreError], call: Callable[[], object]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")
