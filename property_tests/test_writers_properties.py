"""Many writers on one stream: what was acknowledged is in the log, each once, each legal; what was refused is not."""

import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import RUN, EventStore
from eventstore.errors import Refused
from eventstore.gate import Folded
from eventstore.log import Member
from eventstore.memory import MemoryLog
from eventstore.notes import NOTES, MetaSet
from eventstore.sqlite import SQLiteLog
from eventstore.testing import histories
from eventstore.workflow import RunQueued


class Handles:
    """Further handles on one new log."""

    def __init__(self, backend):
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "agent.db" if backend == "sqlite" else None
        self._memory = MemoryLog()
        self._open = []

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        for store in self._open:
            store.close()
        self._folder.cleanup()

    def another(self):
        log = SQLiteLog(self._path, synchronous="NORMAL") if self._path else self._memory.reopen()
        self._open.append(EventStore(log, (RUN,)))
        return self._open[-1]


def legal(store):
    """Every entry is one that its stream could take, from the first one on."""
    views = {}
    for recorded in store.read_all():
        view = views.get(recorded.stream) or store.gate.start(None)
        views[recorded.stream] = store.gate.admit(view, recorded)
        store.gate.refence(view, recorded)


def try_to(stream, event, **options):
    try:
        return stream.append(event, **options)
    except Refused:
        return ()


SOURCES = st.lists(histories(RUN, min_size=1, max_size=10), min_size=2, max_size=3)


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(sources=SOURCES, order=st.lists(st.integers(0, 2), max_size=30), keyed=st.booleans())
def test_interleaved_by_hand_acknowledged_is_in_the_log_once_and_refused_is_not(backend, sources, order, keyed):
    """Each writer has a handle, a history of its own in mind, and an old view of the one stream they share."""
    with Handles(backend) as handles:
        streams = [handles.another().stream("run-1", RUN) for _ in sources]
        left = [list(enumerate(history)) for history in sources]
        acknowledged = []
        for turn in [*order, *(n for n in range(len(sources)) for _ in range(10))]:
            who = turn % len(sources)
            if left[who]:
                number, event = left[who].pop(0)
                before = handles._open[0].head()
                done = try_to(streams[who], event, key=f"{who}-{number}" if keyed else None)
                if done and keyed:
                    assert streams[who].append(event, key=f"{who}-{number}") == done
                acknowledged += done
                assert done or handles._open[0].head() == before

        reader = handles.another()
        assert list(reader.read_all()) == acknowledged
        assert [recorded.version for recorded in acknowledged] == list(range(1, len(acknowledged) + 1))
        legal(reader)
        states = [stream.refresh().state for stream in streams]
        assert all(state == states[0] for state in states)


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(sources=st.lists(histories(RUN, min_size=2, max_size=8), min_size=3, max_size=3), shared=st.booleans())
def test_threads_at_once_acknowledged_is_in_the_log_once_in_each_threads_order(backend, sources, shared):
    with Handles(backend) as handles:
        one = handles.another()
        handle = one.stream("run-1", RUN)
        streams = [handle if shared else (one if n == 0 else handles.another()).stream("run-1", RUN) for n in range(3)]
        gate = threading.Barrier(3)

        def write(who):
            gate.wait()
            done = []
            for number, event in enumerate(sources[who]):
                done += try_to(streams[who], event, key=f"{who}-{number}")
            return done

        with ThreadPoolExecutor(3) as pool:
            acknowledged = list(pool.map(write, range(3)))

        written = list(handles.another().read_all())
        assert sorted(r.position for done in acknowledged for r in done) == [r.position for r in written]
        assert {r.entry for done in acknowledged for r in done} == {r.entry for r in written}
        for done in acknowledged:
            assert [r.position for r in done] == sorted(r.position for r in done)
        legal(handles.another())


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(keys=st.lists(st.sampled_from("abc"), min_size=3, max_size=12))
def test_the_same_key_from_many_threads_is_one_entry_for_all(backend, keys):
    with Handles(backend) as handles:
        stores = [handles.another() for _ in range(3)]

        def submit(item):
            number, key = item
            return stores[number % 3].append(f"run-{key}", RunQueued("deploy", {"of": key}), key=key)

        with ThreadPoolExecutor(3) as pool:
            answers = [answer for (answer,) in pool.map(submit, enumerate(keys))]

        assert Counter(r.stream for r in stores[0].read_all()) == Counter({f"run-{key}": 1 for key in keys})
        assert {r.entry for r in answers} == {r.entry for r in stores[0].read_all()}


def performs(store, steps):
    """A job that takes these steps in its transaction; it gives what it saw on the way."""

    def job(transaction):
        seen = []
        _take(store, transaction, steps, seen)
        return seen

    return job


def _take(store, transaction, steps, seen):
    for what, *details in steps:
        if what == "append":
            stream, size, key = details
            drafts = store.gate.draft(stream, [MetaSet("n", "x" * size)], key=key)
            if store.gate.standing(transaction, stream, drafts) is None:
                store.gate.place(transaction, store.gate.fold(transaction, stream, NOTHING), stream, drafts)
        elif what == "known":  # as `Stream` does, without a look
            view = store.gate.latest(transaction, "known", NOTHING._replace(version=transaction.version("known")))
            store.gate.place(transaction, view, "known", store.gate.draft("known", [MetaSet("n", 1)]))
        elif what == "look":
            seen.append([(entry.stream, entry.key, entry.data) for entry in transaction.read_all(after=0, limit=99)])
        elif what == "part":
            with suppress(LookupError), transaction.savepoint():
                _take(store, transaction, *details, seen)
        else:
            raise LookupError


NOTHING = Folded(None, 0, NOTES.initial)
STEPS = st.recursive(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("append"), st.sampled_from("ab"), st.sampled_from([1, 9_000]), st.sampled_from([None, "k"])
            ),
            st.sampled_from([("known",), ("look",), ("fail",)]),
        ),
        max_size=3,
    ),
    lambda steps: st.lists(st.tuples(st.just("part"), steps), min_size=1, max_size=2),
    max_leaves=3,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=2, max_size=5))
def test_jobs_that_share_a_commit_end_as_they_would_one_after_another(jobs):
    ends = []
    for backend in ("sqlite", "memory"):
        with Handles(backend) as handles:
            store = handles.another()
            members = [Member(performs(store, steps)) for steps in jobs]
            commit = store.log.submit if backend == "memory" else store.log._commit
            commit(members)
            outcomes = [(member.result if member.error is None else None, type(member.error)) for member in members]
            store.close()
            standing = [
                (recorded.entry.stream, recorded.entry.version, recorded.entry.data)
                for recorded in handles.another().read_all()
            ]
            ends.append((outcomes, standing))

    assert ends[0] == ends[1]
