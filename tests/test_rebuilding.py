"""Tables made anew and proved right: swapped whole or not at all, every difference named, an illegal entry named."""

import pytest

from eventstore import RUN, EventStore
from eventstore.errors import InvalidArgument, RebuildSuperseded, ReplayRefused
from eventstore.log import Head
from eventstore.replaying import Ahead, Replay, replay
from eventstore.workflow import (
    CheckpointSaved,
    ConfirmationRequested,
    MessageRecorded,
    RunCompleted,
    RunDescribed,
    RunPaused,
    RunQueued,
    RunStarted,
    UsageRecorded,
)
from projections import App, rebuilding
from projections.connecting import BUILT_IN
from projections.projector import CURSORS
from projections.tables import query
from projections.testing import Killed, MortalLog
from projections.usage import USAGE
from projections.workflow_runs import WORKFLOW_RUNS
from tests.folds import MARKS, TALLY
from tests.world import World, forge

APP = App(projections=[TALLY, MARKS])
NAMES = (*(projection.name for projection in BUILT_IN), "tally", "marks")


@pytest.fixture(params=["memory", "sqlite"])
def world(request, tmp_path):
    world = World(tmp_path if request.param == "sqlite" else None, app=APP)
    yield world
    world.close()


@pytest.fixture
def runs(world):
    """Three runs in different phases, and something in every table."""
    runs = world.runs()
    store = runs.store
    for run_id in ("run-1", "run-2", "run-3"):
        store.append(run_id, RunQueued("deploy", labels={"n": run_id}), RunStarted("w1"))
        store.append(run_id, MessageRecorded("user", "hi"), CheckpointSaved(1, {}), UsageRecorded("m", 1, 2, 0.1),
                     attempt=1)  # fmt: skip
    store.append("run-1", RunCompleted(output="done"), attempt=1)
    store.append("run-2", ConfirmationRequested("c1", "ship"), RunPaused("person"), attempt=1)
    return runs


def contents(runs):
    """Every table as it stands, cursors too."""
    projector = runs._projector
    with runs.store.reading() as reading:
        tables = [CURSORS, *(projector.table(projection) for projection in runs.projections)]
        return {table.name: projector.tables.select(reading, table, query(table, {})) for table in tables}


def put(world, runs, projection, **changed):
    """Alter one row by hand."""
    table = runs._projector.table(projection)

    def job(transaction):
        (values, *_) = runs._projector.tables.select(transaction, table, query(table, {}))
        altered = list(values)
        for name, value in changed.items():
            altered[table.column(name)[0]] = value
        runs._projector.tables.put(transaction, table, [tuple(altered)])

    world.log().write(job)


def tamper(world, *entries, stream="run-1", attempt=1):
    forge(world.log(), *entries, stream=stream, attempt=attempt)


# --- rebuild --------------------------------------------------------------------------------------------------------


def test_a_rebuild_gives_the_same_tables(runs):
    before = contents(runs)

    report = runs.rebuild()

    assert contents(runs) == before
    assert (report.projections, report.entries, report.ok) == (NAMES, 18, True)
    assert report.rows == sum(len(rows) for name, rows in before.items() if name != "cursors")


def test_tables_dropped_by_hand_come_back_identical(world, runs):
    before = contents(runs)
    projector = runs._projector

    def drop_everything(transaction):
        for table in [CURSORS, *(projector.table(projection) for projection in runs.projections)]:
            projector.tables.drop(transaction, table)

    world.log().write(drop_everything)
    runs.rebuild()

    assert contents(runs) == before
    assert runs.check().ok
    world.log().write(drop_everything)
    assert world.runs().workflow_runs.count() == 3


def test_only_the_named_are_made_anew(world, runs):
    put(world, runs, USAGE, input_tokens=99)
    put(world, runs, TALLY, messages=99)

    runs.rebuild("usage")

    assert runs.usage.get("run-1").input_tokens == 1
    assert runs.view(TALLY).get("user").messages == 99


def test_an_unknown_name_is_refused_and_nothing_changed(runs):
    before = contents(runs)

    for act in (runs.rebuild, runs.check):
        with pytest.raises(InvalidArgument, match="workflow_runs"):
            act("nothing")
    assert contents(runs) == before


@pytest.mark.parametrize("chunk", [1, 5, 18, 1000])
def test_a_rebuild_is_the_same_in_any_chunks(runs, monkeypatch, chunk):
    monkeypatch.setattr(rebuilding, "CHUNK", chunk)
    before = contents(runs)
    seen = []

    runs.rebuild(progress=lambda done, total: seen.append((done, total)))

    assert contents(runs) == before
    assert seen[-1] == (18, 18)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_what_is_appended_meanwhile_is_in_the_new_tables(runs, monkeypatch):
    monkeypatch.setattr(rebuilding, "CHUNK", 4)
    more = iter(range(5))

    def meanwhile(_done, _total):
        if next(more, None) is not None:
            runs.store.append("run-3", MessageRecorded("user", "more"), UsageRecorded("m", 1), attempt=1)

    runs.rebuild(progress=meanwhile)

    assert runs.view(TALLY).get("user").messages == 8
    assert runs.usage.get("run-3").input_tokens == 6
    assert runs.check().ok


def test_a_rebuild_holds_the_lock_for_few_rows_at_a_time(world, monkeypatch):
    monkeypatch.setattr(rebuilding, "ROWS", 3)
    runs = world.runs()
    for number in range(20):
        runs.submit("deploy", run_id=f"run-{number}")
    tables, held = runs._projector.tables, []
    put, write = tables.put, runs.store.log.write
    monkeypatch.setattr(
        tables, "put", lambda transaction, table, rows: (held.append(len(rows)), put(transaction, table, rows))
    )
    monkeypatch.setattr(runs.store.log, "write", lambda job, **options: (held.append("lock"), write(job, **options))[1])

    runs.rebuild("workflow_runs")

    counts = [0]
    for step in held:
        counts = [*counts, 0] if step == "lock" else [*counts[:-1], counts[-1] + step]
    assert max(counts) == 3
    assert sum(counts) >= 20


def test_where_much_was_appended_meanwhile_it_is_folded_before_the_lock_is_taken(runs, monkeypatch):
    monkeypatch.setattr(rebuilding, "FEW", 2)
    late, log = iter(range(3)), runs.store.log
    write = log.write

    def others_first(job, **options):
        if next(late, None) is not None:
            write(lambda transaction: runs.store.gate.insert(transaction, transaction.head(), more(transaction)))
        return write(job, **options)

    def more(transaction):
        head, found, view = (
            transaction.head(),
            [],
            runs.store.gate.fold(transaction, "run-3", runs.store.gate.start(None)),
        )
        for draft in runs.store.gate.draft("run-3", [MessageRecorded("user", "more")] * 5, attempt=1):
            view, recorded = runs.store.gate.judged(view, "run-3", draft, head, recorded_at=head.recorded_at)
            found.append(recorded)
            head = Head(recorded.position, recorded.entry.hash, head.recorded_at)
        return found

    monkeypatch.setattr(log, "write", others_first)
    runs.rebuild()
    monkeypatch.undo()

    assert runs.view(TALLY).get("user").messages == 18
    assert runs.check().ok


# --- stopped, killed, superseded ------------------------------------------------------------------------------------


def no_shadows(runs):
    with runs.store.reading() as reading:
        names = set(runs._projector.cursors(reading))
        return names == set(NAMES) and not any(
            runs._projector.tables.exists(
                reading, runs._projector.table(projection).renamed(f"{projection.name}__{of}")
            )
            for projection in runs.projections
            for of in ("shadow", "old")
        )


@pytest.mark.parametrize("act", ["rebuild", "check"])
def test_ctrl_c_leaves_the_old_tables_and_nothing_else(runs, monkeypatch, act):
    monkeypatch.setattr(rebuilding, "CHUNK", 4)
    before = contents(runs)

    def stop(done, _total):
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        getattr(runs, act)(progress=stop)
    assert contents(runs) == before
    assert no_shadows(runs)


@pytest.mark.parametrize("write", [1, 2, 3, 6, 7])
def test_killed_at_any_write_the_old_tables_stand_and_the_next_rebuild_sweeps_up(world, runs, monkeypatch, write):
    monkeypatch.setattr(rebuilding, "CHUNK", 4)
    monkeypatch.setattr(rebuilding, "ROWS", 1)
    monkeypatch.setattr(rebuilding, "SMALL", 0 if write % 2 else 5_000)  # put aside, or taken away in the swap
    before = {name: rows for name, rows in contents(runs).items() if name != "cursors"}
    log = MortalLog(world.log())
    log.doom(write, after_commit=True)
    with pytest.raises(Killed):
        world.runs(log=log).rebuild()

    after = contents(runs)
    assert {name: rows for name, rows in after.items() if name != "cursors"} == before
    assert runs.workflow_runs.count() == 3
    runs.rebuild()
    assert runs.check().ok
    assert no_shadows(runs)


@pytest.mark.parametrize("others", [False, True])
def test_a_rebuild_pauses_between_its_writes_where_others_write_as_well(world, runs, monkeypatch, others):
    monkeypatch.setattr(rebuilding, "CHUNK", 4)
    monkeypatch.setattr(rebuilding, "ROWS", 1)
    beside, pauses = world.runs(), []
    world.while_asleep = lambda: pauses.append(1)

    def progress(done, _total):
        if others and done < 9:
            beside.store.append("run-2", RunDescribed(title=f"{done}"))

    runs.rebuild(progress=progress)

    assert bool(pauses) == others
    assert runs.check().ok


@pytest.mark.parametrize("small", [0, 1, 5_000])
def test_tables_are_swapped_whether_the_old_ones_are_put_aside_or_taken_away(world, runs, monkeypatch, small):
    monkeypatch.setattr(rebuilding, "SMALL", small)
    before = {name: rows for name, rows in contents(runs).items() if name != "cursors"}
    put(world, runs, WORKFLOW_RUNS, title="forged")

    assert not runs.check().ok
    runs.rebuild()
    assert {name: rows for name, rows in contents(runs).items() if name != "cursors"} == before
    assert no_shadows(runs)


def test_of_two_rebuilds_the_later_one_goes_on_and_the_first_one_stops(world, runs, monkeypatch):
    monkeypatch.setattr(rebuilding, "CHUNK", 4)
    before = contents(runs)
    begun = []

    def another(_done, _total):
        if not begun:
            begun.append(1)
            world.runs().rebuild()

    with pytest.raises(RebuildSuperseded, match="another rebuild"):
        runs.rebuild(progress=another)
    assert contents(runs) == before
    assert no_shadows(runs)


def test_a_rebuild_that_is_superseded_in_one_table_leaves_no_shadow_of_the_others(world, runs, monkeypatch):
    monkeypatch.setattr(rebuilding, "CHUNK", 4)
    begun = []

    def another(_done, _total):
        if not begun:
            begun.append(1)
            world.runs().rebuild("usage")

    with pytest.raises(RebuildSuperseded):
        runs.rebuild(progress=another)
    assert no_shadows(runs)


def test_a_rebuild_and_a_check_do_not_disturb_each_other(world, runs, monkeypatch):
    monkeypatch.setattr(rebuilding, "CHUNK", 4)
    reports = []

    runs.rebuild(progress=lambda _done, _total: reports.append(world.runs().check().ok))

    assert all(reports)
    assert runs.check().ok


# --- entries that the machine refuses -------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["rebuild", "check"])
def test_an_illegal_entry_stops_the_replay_and_tells_where_what_and_what_would_have_been_allowed(world, runs, act):
    before = contents(runs)
    tamper(world, ("RunStarted", '{"worker":"evil"}'))

    with pytest.raises(ReplayRefused) as refused:
        getattr(runs, act)()
    error = refused.value
    assert (error.position, error.stream, error.version, error.phase, error.event) == (
        19, "run-1", 7, "completed", "RunStarted"
    )  # fmt: skip
    assert "RunDescribed" in error.reason
    assert "--skip-invalid" in str(error)
    assert contents(runs) == before
    assert no_shadows(runs)


def test_skipping_leaves_out_lists_and_counts(world, runs):
    tamper(world, ("RunStarted", '{"worker":"evil"}'), ("RunDescribed", '{"title":"kept"}'))
    tamper(world, ("ToolReturned", '{"call_id":"never opened"}'), stream="run-3")

    report = runs.rebuild(skip_invalid=True)

    assert [(item.position, item.stream, item.event) for item in report.listed_skipped] == [
        (19, "run-1", "RunStarted"), (21, "run-3", "ToolReturned")
    ]  # fmt: skip
    assert (report.skipped, report.ok) == (2, False)
    row = runs.workflow_runs.get("run-1")
    assert (row.phase, row.title, row.attempt) == ("completed", "kept", 1)
    assert runs.check(skip_invalid=True).differences == 0


@pytest.mark.parametrize("kind", ["NeverHeardOf", "MessageRecorded"])
def test_an_entry_that_cannot_be_read_is_refused_as_well_and_may_be_skipped(world, runs, kind):
    tamper(world, (kind, '{"nonsense":1}'), stream="run-3")

    if kind == "NeverHeardOf":
        with pytest.raises(ReplayRefused, match="no class of that name"):
            runs.rebuild("workflow_runs")
    report = runs.rebuild("workflow_runs", skip_invalid=True)
    assert report.skipped == (kind == "NeverHeardOf")
    assert runs.workflow_runs.get("run-3").phase == "started"


def test_more_are_counted_than_listed(world, runs, monkeypatch):
    monkeypatch.setattr(rebuilding, "LISTED", 2)
    tamper(world, *[("RunStarted", '{"worker":"evil"}')] * 5)

    report = runs.rebuild(skip_invalid=True)

    assert (report.skipped, len(report.listed_skipped)) == (5, 2)


@pytest.mark.parametrize("remembered", [1, 2, 1000])
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_a_stream_that_fell_out_of_memory_is_judged_as_if_it_had_not(world, runs, monkeypatch, remembered, chunk):
    monkeypatch.setattr(replay, "REMEMBERED_STREAMS", remembered)
    monkeypatch.setattr(rebuilding, "CHUNK", chunk)
    tamper(world, ("RunStarted", '{"worker":"evil"}'))
    tamper(world, ("RunQueued", '{"workflow":"again"}'), stream="run-2")
    tamper(world, ("RunDescribed", '{"title":"one"}'))
    tamper(world, ("RunDescribed", '{"title":"two"}'), stream="run-2")
    tamper(world, ("RunResumed", '{"worker":"w2"}'), stream="run-2", attempt=2)

    report = runs.rebuild(skip_invalid=True)

    assert [item.position for item in report.listed_skipped] == [19, 20]
    assert runs.workflow_runs.get("run-1").title == "one"
    assert (runs.workflow_runs.get("run-2").title, runs.workflow_runs.get("run-2").phase) == ("two", "started")


def test_a_replay_keeps_no_more_streams_than_it_says(world, monkeypatch):
    monkeypatch.setattr(replay, "REMEMBERED_STREAMS", 4)
    runs = world.runs()
    for number in range(20):
        runs.submit("deploy", run_id=f"run-{number}")
    replayed = Replay(runs.store.gate)
    sizes = []

    with runs.store.reading() as reading:
        for after in range(20):
            glance = reading.glance(after=after, limit=1, peek=replayed.peek)
            replayed.refused(reading, glance, Ahead.of(reading, runs.store.gate.codec, glance, replayed.wanted))
            sizes.append(len(replayed))

    assert max(sizes) == 4


# --- check ----------------------------------------------------------------------------------------------------------


def test_right_tables_are_right_and_stay_as_they_are(runs):
    before = contents(runs)

    assert runs.check().ok
    assert contents(runs) == before
    assert no_shadows(runs)


@pytest.mark.parametrize(
    ("projection", "column", "value", "event"),
    [
        (WORKFLOW_RUNS, "phase", "started", "RunCompleted"),
        (WORKFLOW_RUNS, "labels", "{}", "RunCompleted"),
        (WORKFLOW_RUNS, "attempt", 2, "RunCompleted"),
        (WORKFLOW_RUNS, "worker", None, "RunCompleted"),
        (WORKFLOW_RUNS, "started_at", 1, "RunCompleted"),
        (USAGE, "cost_usd", 0.2, "UsageRecorded"),
        (TALLY, "messages", 4, "MessageRecorded"),
    ],
)
def test_an_altered_row_is_found_with_column_both_values_and_the_event(world, runs, projection, column, value, event):
    before = contents(runs)[projection.name][0]
    put(world, runs, projection, **{column: value})

    report = runs.check()

    (found,) = report.listed
    place, _ = runs._projector.table(projection).column(column)
    assert (found.projection, found.column, found.stored, found.expected) == (
        projection.name, column, value, before[place]
    )  # fmt: skip
    assert (found.position, found.event) == (before[-1], event)
    assert found.key == before[:1]
    assert (report.ok, report.differences) == (False, 1)
    for word in (projection.name, column, repr(value), event):
        assert word in str(found)
    runs.rebuild()
    assert runs.check().ok


@pytest.mark.parametrize("chunk", [1, 2, 1000])
def test_an_added_and_a_missing_row_are_found(world, runs, monkeypatch, chunk):
    monkeypatch.setattr(rebuilding, "CHUNK", chunk)
    table = runs._projector.table(USAGE)
    projector = runs._projector

    def job(transaction):
        projector.tables.delete(transaction, table, [("run-2",)])
        projector.tables.put(transaction, table, [("run-0", 1, 1, 1.0, 1, 3), ("run-9", 1, 1, 1.0, 1, 10**9)])

    world.log().write(job)
    report = runs.check()

    assert [(found.key, found.column, found.stored, found.expected) for found in report.listed] == [
        (("run-0",), None, "there", "absent"), (("run-2",), None, "absent", "there"),
        (("run-9",), None, "there", "absent"),
    ]  # fmt: skip
    assert [found.event for found in report.listed] == ["MessageRecorded", "UsageRecorded", None]


def test_a_row_whose_position_was_altered_is_found(world, runs):
    table = runs._projector.table(USAGE)

    def job(transaction):
        (values, *_) = runs._projector.tables.select(transaction, table, query(table, {}))
        runs._projector.tables.put(transaction, table, [(*values[:-1], 1)])

    world.log().write(job)
    (found,) = runs.check().listed

    assert (found.column, found.stored, found.expected) == ("_position", 1, 5)


def test_a_table_that_is_only_behind_is_right(world, runs):
    other = EventStore(world.log(), (RUN,))
    other.append("run-1", RunDescribed(title="late"))

    assert runs.check().ok
    assert runs.workflow_runs.get("run-1").title == "late"


def test_more_differences_are_counted_than_listed(world, runs, monkeypatch):
    monkeypatch.setattr(rebuilding, "LISTED", 1)
    put(world, runs, WORKFLOW_RUNS, phase="failed", attempt=7, crashes=7)

    report = runs.check()

    assert (report.differences, len(report.listed)) == (3, 1)


def test_differences_are_found_in_any_chunks(world, runs, monkeypatch):
    monkeypatch.setattr(rebuilding, "CHUNK", 1)
    put(world, runs, USAGE, input_tokens=9)

    assert [found.key for found in runs.check().listed] == [("run-1",)]


def test_a_check_writes_nothing(runs, monkeypatch):
    monkeypatch.setattr(rebuilding, "CHUNK", 4)
    monkeypatch.setattr(runs.store.log, "write", None)

    assert runs.check().ok


def meanwhile(runs, monkeypatch, append):
    """Have something appended before each page that a check compares."""
    monkeypatch.setattr(rebuilding, "CHUNK", 1)
    select = runs._projector.tables.select

    def others_first(place, table, wanted):
        if wanted.limit == 1:
            append()
        return select(place, table, wanted)

    monkeypatch.setattr(runs._projector.tables, "select", others_first)


def test_what_is_appended_while_a_check_compares_is_no_difference_and_hides_none(world, runs, monkeypatch):
    put(world, runs, USAGE, input_tokens=9)
    more = iter(range(30))

    def append():
        if (number := next(more, None)) is not None:
            runs.store.append("run-3", UsageRecorded("m", 1), attempt=1)
            runs.submit("deploy", run_id=f"run-1{number}")

    meanwhile(runs, monkeypatch, append)
    found = runs.check().listed

    assert [(item.key, item.column) for item in found] == [(("run-1",), "input_tokens")]
    assert next(more, None) is None


def test_a_check_goes_on_beside_a_store_without_projections(world, runs, monkeypatch):
    other, more = EventStore(world.log(), (RUN,)), iter(range(30))

    def append():
        if next(more, None) is not None:
            other.append("run-3", UsageRecorded("m", 1), attempt=1)

    meanwhile(runs, monkeypatch, append)

    assert runs.check().ok
    assert next(more, None) is None
    assert runs.usage.get("run-3").input_tokens == 31
