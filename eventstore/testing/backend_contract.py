"""The contract of `eventstore.log`, sentence by sentence, as tests of one backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from threading import Event, Lock
from time import sleep
from typing import Any

from eventstore.errors import (
    StoreClosed,
)
from eventstore.integrity import genesis
from eventstore.limits import PAGE_BYTES
from eventstore.log import Head, Member, Writing
from eventstore.notes import LogRecorded
from eventstore.testing.scaffold import (
    COUNT,
    PATIENCE,
    Boom,
    Count,
    Counted,
    CountPhase,
    Scaffold,
    raise_boom,
    raises,
)


class BackendContract(Scaffold):
    """Writes, savepoints, reads, shared commits, waiting and closing."""

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

    def test_a_sound_log_has_no_remarks_new_or_reopened_or_from_beside(self) -> None:
        assert self.log.remarks == ()

        self.store.append("s", Counted())
        beside = self.other().log
        again = self.again().log

        assert [log.remarks for log in (self.log, beside, again)] == [(), (), ()]

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
            self.log.write(raise_boom)

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

    # --- what a writer may go on knowing -------------------------------------------------------------------------

    def test_a_job_finds_the_log_named_as_the_one_before_left_it(self) -> None:
        left = self.log.write(lambda transaction: transaction.after)

        found = self.log.write(lambda transaction: (transaction.before, transaction.after))

        assert found[0] is left
        assert found[1] is not left

    def test_a_name_does_not_outlive_what_another_handle_writes(self) -> None:
        beside = self._kept(self.beside(self.log))
        left = self.log.write(lambda transaction: transaction.after)
        beside.write(self._insert("s"))

        found = self.log.write(lambda transaction: (transaction.before, transaction.head().position))

        assert found[0] is not left
        assert found[1] == 1

    def test_a_name_outlives_a_job_that_failed_whose_own_name_is_never_found(self) -> None:
        names: list[object] = []

        def job(transaction: Writing) -> None:
            transaction.insert(self._new(transaction, "s"))
            names.append(transaction.after)
            raise Boom

        left = self.log.write(lambda transaction: transaction.after)
        with self.refused(Boom):
            self.log.write(job)

        assert self.log.write(lambda transaction: transaction.before) is left
        assert self.log.write(lambda transaction: transaction.before) is not names[0]

    def test_each_part_has_names_of_its_own_and_one_that_fails_takes_them_with_it(self) -> None:
        def job(transaction: Writing) -> tuple[object, ...]:
            first = transaction.after
            with transaction.savepoint():
                second = transaction.after
                assert (transaction.before is first, second is first) == (True, False)
            # What was known before the part is not what stands behind it.
            assert (transaction.before is second, transaction.after is second) == (True, True)
            try:
                with transaction.savepoint():
                    assert transaction.before is second
                    raise Boom
            except Boom:
                assert (transaction.before is second, transaction.after is second) == (True, True)
            return (transaction.after,)

        (left,) = self.log.write(job)

        assert self.log.write(lambda transaction: transaction.before) is left

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

    def test_what_readers_know_is_kept_until_anybody_writes(self) -> None:
        for writer in (self.log, self._kept(self.beside(self.log))):
            with self.log.reading() as view:
                view.known["found"] = True
                writer.write(self._insert("s"))
                assert view.known["found"]  # of this view it is still true
            for expected in ({}, {"again": True}):
                with self.log.reading() as view:
                    assert view.known == expected
                    view.known["again"] = True

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

    def test_entries_are_found_by_their_positions(self) -> None:
        """In their order, whatever was asked; none that is not there."""
        self.log.write(self._insert("s", "t", "s"))

        with self.log.reading() as view:
            assert [entry.position for entry in view.at([3, 1, 1, 7])] == [1, 3]
            assert list(view.at([])) == []

    def test_entries_by_position_end_early_where_they_are_large_and_never_empty(self) -> None:
        large = "x" * (PAGE_BYTES // 2 + 1)
        self.store.append("s", *[LogRecorded("a", "b", payload=large)] * 3)

        with self.log.reading() as view:
            assert [entry.position for entry in view.at([1, 2, 3])] == [1, 2]

    def test_a_glance_shows_a_stretch_of_the_log_or_of_a_stream_without_payloads(self) -> None:
        def job(transaction: Writing) -> None:
            first, second, third, fourth = self._new(transaction, "s", "t", "s", "s")
            transaction.insert([first, second, third._replace(attempt=7), fourth._replace(type="Other")])

        self.log.write(job)
        kind, data = self.everything()[0].type, self.everything()[0].data
        with self.log.reading() as view:
            found = view.glance(after=1, limit=2, peek={})
            of_stream = view.glance(after=1, limit=2, peek={kind: 5}, stream="s")

        assert (list(found.positions), list(found.streams), list(found.versions)) == ([2, 3], ["t", "s"], ["1", "2"])
        assert (list(found.types), list(found.attempts), list(found.heads)) == ([kind, kind], ["", "7"], ["", ""])
        assert (list(of_stream.positions), list(of_stream.versions)) == ([3, 4], ["2", "3"])
        assert list(of_stream.heads) == [data[:5], ""]

    def test_a_glance_beyond_the_last_entry_shows_nothing(self) -> None:
        self.log.write(self._insert("s"))

        with self.log.reading() as view:
            assert list(view.glance(after=1, limit=9, peek={"Counted": 9}).positions) == []
            assert list(view.glance(after=1, limit=9, peek={}, stream="s").positions) == []
            assert list(view.glance(after=0, limit=9, peek={}, stream="none").positions) == []

    # --- commits that are shared ----------------------------------------------------------------------------------

    def _submitted(self, *jobs: Callable[[Writing], Any]) -> list[Member]:
        """The jobs, queued up while another write is under way, with their outcomes."""
        begun, told, settled, lock = Event(), Event(), list[Member](), Lock()

        def first(_transaction: Writing) -> None:
            begun.set()
            told.wait(PATIENCE)

        def done(members: Sequence[Member]) -> None:
            with lock:
                settled.extend(members)

        members = [Member(job, done) for job in jobs]
        with ThreadPoolExecutor(2) as pool:
            writing = pool.submit(self.log.write, first)
            assert begun.wait(PATIENCE)
            # In a thread: a backend without a queue lets it wait for its turn.
            submitting = pool.submit(self.log.submit, members)
            wait([submitting], 0.05)
            told.set()
            writing.result(PATIENCE)
            submitting.result(PATIENCE)
        for _ in range(int(PATIENCE * 100)):
            with lock:
                if len(settled) == len(jobs):
                    break
            sleep(0.01)
        assert {id(member) for member in settled} == {id(member) for member in members}
        return members

    def test_jobs_that_share_a_commit_run_in_the_order_of_their_coming_each_after_the_results_of_the_one_before(
        self,
    ) -> None:
        def job(transaction: Writing) -> int:
            before = transaction.version("s")
            transaction.insert(self._new(transaction, "s"))
            return before

        members = self._submitted(*[job] * 20)

        assert [member.outcome() for member in members] == list(range(20))
        assert [entry.version for entry in self.everything()] == list(range(1, 21))

    def test_a_job_that_raises_leaves_those_alone_that_share_its_commit(self) -> None:
        def fails(transaction: Writing) -> None:
            transaction.insert(self._new(transaction, "lost", "lost"))
            raise Boom

        well = self._insert("s")
        members = self._submitted(well, fails, well, raise_boom, well)

        assert [type(member.error) for member in members] == [type(None), Boom, type(None), Boom, type(None)]
        assert [entry.stream for entry in self.everything()] == ["s"] * 3
        assert [entry.position for entry in self.everything()] == [1, 2, 3]

    def test_what_is_deferred_runs_before_the_commit_without_what_was_undone(self) -> None:
        seen: list[tuple[int, list[str]]] = []

        def fold(transaction: Writing, before: Head, items: Sequence[Any]) -> None:
            assert transaction.head().position == 2
            seen.append((before.position, list(items)))

        def job(name: str, *, fails: bool = False) -> Callable[[Writing], None]:
            def write(transaction: Writing) -> None:
                before = transaction.head()
                transaction.insert(self._new(transaction, name))
                transaction.defer(fold, before, [name])
                if fails:
                    raise Boom

            return write

        def both(transaction: Writing) -> None:
            for name, fails in (("one", False), ("lost", True), ("two", False)):
                with suppress(Boom), transaction.savepoint():
                    job(name, fails=fails)(transaction)

        self.log.write(both)

        assert seen == [(0, ["one", "two"])]
        assert [entry.stream for entry in self.everything()] == ["one", "two"]

    def test_what_a_deferred_fold_raises_undoes_the_write(self) -> None:
        def job(transaction: Writing) -> None:
            transaction.insert(self._new(transaction, "s"))
            transaction.defer(lambda *_: raise_boom(transaction), transaction.head(), ["s"])

        with self.refused(Boom):
            self.log.write(job)

    def test_a_write_inside_a_submitted_job_is_refused_and_the_others_go_on(self) -> None:
        members = self._submitted(self._insert("s"), lambda _: self.log.write(self._insert("t")), self._insert("s"))

        assert [type(member.error) for member in members] == [type(None), RuntimeError, type(None)]
        assert [entry.stream for entry in self.everything()] == ["s", "s"]

    def test_many_threads_that_share_commits_each_get_their_own_answer(self) -> None:
        streams = [self.store.stream(f"s{number % 5}", COUNT) for number in range(16)]

        def work(stream: Any) -> list[int]:
            return [stream.append(Counted())[0].position for _ in range(10)]

        with ThreadPoolExecutor(16) as pool:
            positions = list(pool.map(work, streams))

        assert sorted(chain.from_iterable(positions)) == list(range(1, 161))
        assert all(one == sorted(one) for one in positions)
        assert [self.store.stream(f"s{number}", COUNT).state.total for number in range(5)] == [40, 30, 30, 30, 30]

    # --- wait and close -----------------------------------------------------------------------------------------

    def test_waiting_for_what_stands_already_returns_at_once(self) -> None:
        self.log.write(self._insert("s"))

        assert self.log.wait(0, PATIENCE) is True
        assert self.log.wait(1, 0) is False

    def test_waiting_ends_when_another_handle_appends(self) -> None:
        other = self.other()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.log.wait, 0, PATIENCE)
            other.append("s", Counted())

            assert waiting.result(PATIENCE) is True

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
            raises(StoreClosed, use)
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
