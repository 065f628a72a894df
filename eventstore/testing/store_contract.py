"""What a store promises over any backend, as tests: places, chain, keys, order of checks, following, many callers."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any

from eventstore.errors import (
    CursorConflict,
    Fenced,
    ForeignEvent,
    IllegalTransition,
    InvalidArgument,
    InvalidPayload,
    KeyReused,
    UnknownEvent,
    UnreadableEntry,
    VersionConflict,
)
from eventstore.integrity import chain, genesis
from eventstore.limits import MAX_BATCH
from eventstore.log import Cursor
from eventstore.notes import LogRecorded, MetaSet
from eventstore.packing import BLOB_FROM
from eventstore.testing.scaffold import (
    COUNT,
    PATIENCE,
    Count,
    CountClosed,
    Counted,
    CountPhase,
    Scaffold,
    Seen,
    raises,
)
from eventstore.workflow import (
    RUN,
    MessageRecorded,
    RunCompleted,
    RunDescribed,
    RunQueued,
    RunResumed,
    RunStarted,
)


class StoreContract(Scaffold):
    """A store over one backend."""

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
            previous = chain(previous, entry)
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
        raises(UnreadableEntry, lambda: recorded.event)
        with self.refused(UnreadableEntry):
            store.append("s", LogRecorded("a", "b"))

    # --- reading through the store ------------------------------------------------------------------------------

    def test_reading_pages_through_more_than_a_page(self) -> None:
        self.store.append("s", *[Counted(number) for number in range(1203)])

        assert [recorded.event.amount for recorded in self.store.read("s")] == list(range(1203))
        assert [recorded.position for recorded in self.store.read_all(after=600)] == list(range(601, 1204))
        assert [recorded.version for recorded in self.store.read("s", after=499, limit=502)] == [*range(500, 1002)]

    def test_a_large_payload_stands_in_a_blob_and_comes_back_whole_through_every_door(self) -> None:
        # Noise, so that no backend can pack it into less.
        large = b64encode(b"".join(sha256(b"%d" % number).digest() for number in range(BLOB_FROM // 16))).decode()
        self.store.append("n", MetaSet("small", 1), MetaSet("large", large), MetaSet("other", 2))
        for again in (False, True):
            store = self.again() if again else self.store
            with store.reading() as view:
                (need,) = view.needs()
                assert (need.position, need.stream, need.type) == (2, "n", "MetaSet")
                assert list(view.needs(after=2)) == []
                pages = (view.read("n", after=1, limit=1), view.read_all(after=1, limit=1), view.at([2]))
                assert all(large in page[0].data for page in pages)
                assert store.log.blobs.read(need.digest) == pages[0][0].data.encode()

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
            raises(InvalidArgument, ask)

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
        raises(InvalidArgument, lambda: positions(["Nonsense"]))

    def test_a_cursor_goes_on_where_it_was_taken_and_notices_another_log(self) -> None:
        start = self.store.head()
        first, *rest = self.store.append("s", Counted(1), Counted(2), Counted(3))

        assert list(self.store.read_all(after=start)) == [first, *rest]
        assert list(self.store.read_all(after=first.cursor)) == rest
        for wrong in (Cursor(1, b"\0" * 32), Cursor(0, first.cursor.hash), Cursor(4, first.cursor.hash)):
            raises(CursorConflict, partial(self.store.read_all, after=wrong))

    # --- follow -------------------------------------------------------------------------------------------------

    def test_following_sees_what_stands_and_what_other_handles_append_and_ends_when_told(self) -> None:
        self.store.append("s", Counted(1))
        other, stop, seen = self.other(), threading.Event(), Seen()
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
            done.result(PATIENCE)

        assert [recorded.position for recorded in seen.recorded] == [1, 2, 3, 4]

    def test_following_some_types_passes_over_the_others(self) -> None:
        stop, seen = threading.Event(), Seen()
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(lambda: seen.take(self.store.follow(types=[CountClosed], stop=stop)))
            try:
                self.store.append("s", *[Counted()] * 3)
                self.store.append("s", CountClosed())
                seen.wait_for(1)
            finally:
                stop.set()
            done.result(PATIENCE)

        assert [recorded.position for recorded in seen.recorded] == [4]

    def test_following_misses_nothing_of_more_than_a_page(self) -> None:
        self.store.append("s", *[Counted(number) for number in range(1203)])
        following = self.store.follow(types=[Counted])

        assert [next(following).event.amount for _ in range(1203)] == list(range(1203))

    def test_following_ends_when_the_store_is_closed(self) -> None:
        self.store.append("s", Counted())
        seen = Seen()
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(lambda: seen.take(self.store.follow()))
            seen.wait_for(1)
            self.store.close()

            done.result(PATIENCE)
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

            assert [reader.result(PATIENCE) for reader in readers] == [True, True]

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
