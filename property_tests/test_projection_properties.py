"""Inline, caught up in any chunks, and made anew: the same rows, whatever was written, by whom, in which order."""

import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import field, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import RUN, EventStore, Json
from eventstore.memory import MemoryLog
from eventstore.sqlite import SQLiteLog
from eventstore.testing import histories
from eventstore.workflow import MessageRecorded, RunQueued, RunStarted, ToolCalled, ToolReturned
from projections import App, Projection, System, connect, projector, rebuilding
from projections.projector import CURSORS
from projections.tables import query
from tests.examples import examples


@frozen
class ToolRow:
    tool: str
    calls: int = 0
    by: Json = field(factory=dict)


def count_tools(row, recorded):
    before = row or ToolRow(recorded.event.tool)
    return ToolRow(before.tool, before.calls + 1, {**before.by, recorded.stream: recorded.version})


TOOLS = Projection("tools", 1, ToolRow, ("tool",), (ToolCalled,), count_tools, lambda r: (r.event.tool,))


@frozen
class OpenRow:
    run_id: str
    call_id: str


def open_calls(row, recorded):
    return OpenRow(recorded.stream, recorded.event.call_id) if recorded.kind is ToolCalled else None


OPEN = Projection("open_calls", 1, OpenRow, ("run_id", "call_id"), (ToolCalled, ToolReturned), open_calls,
                  lambda r: (r.stream, r.event.call_id))  # fmt: skip


def breaks_at_times(row, recorded):
    if recorded.kind is MessageRecorded:
        raise ZeroDivisionError
    return ToolRow("any", (row.calls if row else 0) + 1)


BRITTLE = Projection("brittle", 1, ToolRow, ("tool",), (RunQueued, RunStarted, MessageRecorded), breaks_at_times,
                     lambda _r: ("any",))  # fmt: skip
APP = App(projections=[TOOLS, OPEN])
STILL = System(microseconds=lambda: 1_767_225_600_000_000)
STREAMS = ("run-1", "run-2", "run-3")


@st.composite
def interleavings(draw):
    """Legal histories of several runs, shuffled into one order, in batches."""
    left = {stream: draw(histories(RUN, max_size=14)) for stream in STREAMS}
    batches = []
    while streams := [stream for stream, events in left.items() if events]:
        stream = draw(st.sampled_from(streams))
        size = draw(st.integers(1, 3))
        batches.append((stream, left[stream][:size]))
        left[stream] = left[stream][size:]
    return batches


@contextmanager
def opened(backend):
    """A function that opens further handles on one new log."""
    with tempfile.TemporaryDirectory() as folder:
        handles = []
        memory = MemoryLog()

        def another():
            path = Path(folder) / "agent.db"
            handles.append(memory.reopen() if backend == "memory" else SQLiteLog(path, synchronous="NORMAL"))
            return handles[-1]

        try:
            yield another
        finally:
            for handle in handles:
                handle.close()


def write(store, batches):
    streams = {name: store.stream(name, RUN) for name in STREAMS}
    for name, events in batches:
        streams[name].append(*events)


def rows(runs):
    found = {}
    for projection in runs.projections:
        table = runs._projector.table(projection)
        runs.view(projection).count()  # what is behind catches up
        with runs.store.reading() as reading:
            found[projection.name] = runs._projector.tables.select(reading, table, query(table, {}))
    return found


@contextmanager
def chunks(size, gap):
    """Fold in chunks of this size, and over gaps of at most that many entries."""
    before = projector.CHUNK, projector.SMALL_GAP, rebuilding.CHUNK
    projector.CHUNK, projector.SMALL_GAP, rebuilding.CHUNK = size, gap, size
    try:
        yield
    finally:
        projector.CHUNK, projector.SMALL_GAP, rebuilding.CHUNK = before


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.too_slow])
@given(batches=interleavings(), size=st.integers(1, 7))
def test_inline_caught_up_in_any_chunks_and_made_anew_are_the_same_rows(backend, batches, size):
    with opened(backend) as another, chunks(size, 1_000):
        inline = connect(another(), app=APP, system=STILL)
        write(inline.store, batches)
        with inline.store.reading() as reading:
            behind = [name for name, c in inline._projector.cursors(reading).items()
                      if c.position != reading.head().position]  # fmt: skip
        assert behind == []
        expected = rows(inline)

        inline.rebuild()
        assert rows(inline) == expected
        assert inline.check().ok

        def forget_everything(transaction):
            for projection in inline.projections:
                inline._projector.tables.drop(transaction, inline._projector.table(projection))
            inline._projector.tables.drop(transaction, CURSORS)

        another().write(forget_everything)
        assert rows(connect(another(), app=APP, system=STILL)) == expected


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.too_slow])
@given(
    batches=interleavings(),
    who=st.lists(st.integers(0, 2), min_size=60, max_size=60),
    size=st.integers(1, 4),
    gap=st.integers(0, 6),
    looks=st.sets(st.integers(0, 60), max_size=5),
)
def test_beside_writers_without_projections_and_readers_that_catch_up_no_row_is_ever_missed(
    backend, batches, who, size, gap, looks
):
    with opened(backend) as another, chunks(size, gap):
        one, other = (
            connect(another(), app=APP, system=STILL),
            connect(another(), app=App(projections=[TOOLS]), system=STILL),
        )
        plain = EventStore(another(), (RUN,), clock=STILL.microseconds)
        stores = (one.store, other.store, plain)
        held = {}
        for number, (name, events) in enumerate(batches):
            stream = stores[who[number % 60]].stream(name, RUN)
            stream.attempt = held.get(name)
            stream.append(*events)
            held[name] = stream.attempt
            if number in looks:
                one.workflow_runs.count()

        alone = connect(MemoryLog(), app=APP, system=STILL)
        write(alone.store, batches)
        assert rows(one) == rows(alone)
        assert one.check().ok
        assert other.check().ok


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.too_slow])
@given(batches=interleavings(), gap=st.integers(0, 3))
def test_a_projection_that_halts_costs_no_fact_and_no_other_row(backend, batches, gap):
    with opened(backend) as another, chunks(3, gap):
        runs = connect(another(), app=App(projections=[TOOLS, BRITTLE]))
        write(runs.store, batches)

        written = [(r.stream, r.type) for r in runs.store.read_all()]
        assert len(written) == sum(len(events) for _, events in batches)
        halts = any(kind == "MessageRecorded" for _, kind in written)
        with runs.store.reading() as reading:
            cursor = runs._projector.cursor(reading, "brittle")
        if halts:
            assert written[cursor.halted_at - 1][1] == "MessageRecorded"
            assert "MessageRecorded" not in [kind for _, kind in written[: cursor.halted_at - 1]]
        else:
            assert cursor.halted_at is None
        assert runs.check("workflow_runs", "checkpoints", "confirmations", "usage", "tools").ok
