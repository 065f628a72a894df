"""Appends, jumps of the clock, archive runs, restores and reads in any order, held against a plain list of entries."""

import tempfile
from itertools import groupby
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import EventStore, LogRecorded
from eventstore.archiving import archive, restore_days
from eventstore.memory import MemoryLog
from eventstore.notes import MetaSet
from eventstore.segments import day_of, entry_of
from eventstore.sqlite import SQLiteLog
from eventstore.workflow import RUN, MessageRecorded, RunCompleted, RunDescribed, RunQueued, RunStarted

HOUR = 3_600_000_000
START = 1_767_225_600_000_000 - HOUR
"""An hour before midnight."""
RUNS = ("run-1", "run-2", "run-3")

acts = st.one_of(
    st.tuples(st.just("work"), st.sampled_from(RUNS), st.integers(1, 4)),
    st.tuples(st.just("end"), st.sampled_from(RUNS)),
    st.tuples(st.just("describe"), st.sampled_from(RUNS)),
    st.tuples(st.just("note"), st.sampled_from(("notes", "more")), st.integers(1, 12), st.sampled_from((1, 5_000))),
    st.tuples(st.just("pass"), st.sampled_from((1, 23, 24, 25, 60, -30))),
    st.tuples(st.just("archive"), st.integers(0, 2), st.sampled_from((None, 1)), st.booleans()),
    st.tuples(st.just("restore"), st.integers(0, 3)),
)


class Lived:
    """A log, the clock that it goes by, and the entries that were written, in a list."""

    def __init__(self, log):
        self.log, self.now, self.entries = log, START, []
        self.ended = set()

    def store(self):
        """As another process sees it: nothing is remembered."""
        return EventStore(self.log, [RUN], clock=lambda: self.now)

    def act(self, kind, *how):
        getattr(self, f"_{kind}")(*how)
        self.check()

    def _append(self, stream, *events, **options):
        self.entries += [recorded.entry for recorded in self.store().append(stream, *events, **options)]

    def _work(self, run, count):
        if run in self.ended:
            return
        if not any(entry.stream == run for entry in self.entries):
            self._append(run, RunQueued("w"), RunStarted("w1"))
        self._append(run, *(MessageRecorded("user", f"{number} " * 900) for number in range(count)), attempt=1)

    def _end(self, run):
        if run not in self.ended and any(entry.stream == run for entry in self.entries):
            self._append(run, RunCompleted("done"), attempt=1)
            self.ended.add(run)

    def _describe(self, run):
        if run in self.ended:
            self._append(run, RunDescribed("a title"))

    def _note(self, stream, count, size):
        events = [LogRecorded("app", "line", None, f"{number}" * size) for number in range(count)]
        self._append(stream, *events, *([MetaSet("count", count)] if stream == "more" else []))

    def _pass(self, hours):
        self.now += hours * HOUR

    def _archive(self, keep_days, max_days, compress):
        promised = archive(self.store(), keep_days=keep_days, max_days=max_days, compress=compress, dry_run=True)
        done = archive(self.store(), keep_days=keep_days, max_days=max_days, compress=compress)
        assert (promised.sealed, promised.released) == (done.sealed, done.released)
        notes = [recorded.entry for recorded in self.store().read_all(after=len(self.entries))]
        assert [(note.stream, note.type) for note in notes] == [("runfold", "LogRecorded")] * len(done.sealed)
        self.entries += notes

    def _restore(self, which):
        with self.log.reading() as reading:
            days = [segment.day for segment in reading.segments()]
        restore_days(self.store(), days[which : which + 1])

    def check(self):
        store = self.store()
        entries = self.entries
        middle = len(entries) // 2
        assert [recorded.entry for recorded in store.read_all()] == entries
        assert [recorded.entry for recorded in store.read_all(after=middle, limit=3)] == entries[middle : middle + 3]
        typed = [entry for entry in entries if entry.type in ("MessageRecorded", "MetaSet")]
        assert [recorded.entry for recorded in store.read_all(types=[MessageRecorded, MetaSet])] == typed
        last = {entry.stream: entry for entry in entries}
        for stream in last:
            of_stream = [entry for entry in entries if entry.stream == stream]
            assert [recorded.entry for recorded in store.read(stream)] == of_stream
            assert store.stream(stream).version == len(of_stream)
        with self.log.reading() as reading:
            assert [reading.hash_at(entry.position) for entry in entries] == [entry.hash for entry in entries]
            glance = reading.glance(after=1, limit=999, peek={})
            assert [*map(int, glance.versions)] == [entry.version for entry in entries[1:]]
            hot = {entry.position for entry in entries if reading.standing(entry.position, entry.position)}
            segments = reading.segments()
            sealed = [reading.blocks(segment) for segment in segments]
        assert hot.issuperset(entry.position for entry in last.values())
        assert hot.issuperset(entry.position for entry in entries if entry.stream in set(RUNS) - self.ended)
        past = segments[-1].last if segments else 0
        assert hot.issuperset(range(past + 1, len(entries) + 1))
        by_day = {day: [*of_day] for day, of_day in groupby(entries[:past], lambda entry: day_of(entry.recorded_at))}
        assert [segment.day for segment in segments] == [*by_day]
        for segment, blocks in zip(segments, sealed, strict=True):
            lines = [line for block in blocks for line in self.log.archive.lines(segment, block)]
            assert [*map(entry_of, lines)] == by_day[segment.day]
        assert {day_of(entry.recorded_at) for entry in entries[past:]}.isdisjoint(by_day)


@settings(max_examples=40)
@given(st.lists(acts, min_size=6, max_size=20))
def test_whatever_is_appended_archived_restored_and_read_the_log_is_the_list_that_was_written(history):
    lived = Lived(MemoryLog())
    for act in history:
        lived.act(*act)


@settings(max_examples=6)
@given(st.lists(acts, min_size=10, max_size=16))
def test_whatever_is_done_to_a_log_in_a_file_it_is_the_list_that_was_written(history):
    with tempfile.TemporaryDirectory() as folder:
        lived = Lived(SQLiteLog(Path(folder) / "agent.db", synchronous="NORMAL"))
        try:
            for act in history:
                lived.act(*act)
        finally:
            lived.log.close()
