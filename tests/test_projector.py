"""Rows in step with the log: inline from the cursor, over gaps, between versions, past a fold that breaks."""

import pytest
from attrs import frozen

from eventstore import RUN, EventStore, MetaSet
from eventstore.errors import InvalidArgument, ProjectionHalted, StaleProjection
from eventstore.notes import LogRecorded
from eventstore.workflow import MessageRecorded, RunQueued, RunStarted
from projections import App, Projection, projector
from projections.projector import CURSORS
from projections.tables import query
from tests.folds import BRITTLE, MARKS, TALLY, BrittleRow, MarkRow, TallyRow, brittle, by_workflow
from tests.world import World

APP = App(projections=[TALLY, MARKS])


@pytest.fixture(params=["memory", "sqlite"])
def world(request, tmp_path):
    world = World(tmp_path if request.param == "sqlite" else None, app=APP)
    yield world
    world.close()


def plain(world):
    """A program that knows no projections."""
    return EventStore(world.log(), (RUN,), clock=lambda: world.microseconds)


def begin(store, stream="run-1"):
    store.append(stream, RunQueued("deploy"), RunStarted("w1"))


def say(store, *contents, role="user", stream="run-1"):
    for content in contents:
        store.append(stream, MessageRecorded(role, content), attempt=1)


def cursor(runs, name):
    with runs.store.reading() as reading:
        return runs._projector.cursor(reading, name)


def alter(world, runs, **changed):
    """Write into the cursor of `tally`, as no program would."""
    from attrs import evolve  # noqa: PLC0415 - this once

    world.log().write(lambda transaction: runs._projector.move(transaction, evolve(cursor(runs, "tally"), **changed)))


def stored(runs, projection):
    """The rows as they stand in the table, whatever the cursor says."""
    table = runs._projector.table(projection)
    with runs.store.reading() as reading:
        values = runs._projector.tables.select(reading, table, query(table, {}))
    return [table.decode(row) for row in values]


def head(runs):
    return runs.store.head().position


# --- inline ---------------------------------------------------------------------------------------------------------


def test_rows_are_right_when_append_returns(world):
    runs = world.runs()
    begin(runs.store)
    say(runs.store, "one", "two")

    assert stored(runs, TALLY) == [TallyRow("user", 2, {"at": 4})]
    assert cursor(runs, "tally").position == head(runs) == 4
    assert cursor(runs, "tally").hash == runs.store.head().hash.hex()


def test_rows_and_cursor_move_with_the_append_or_not_at_all(world):
    runs = world.runs()
    begin(runs.store)

    def append(transaction):
        view = runs.store.gate.fold(transaction, "run-1", runs.store.gate.start(None))
        drafts = runs.store.gate.draft("run-1", [MessageRecorded("user", "one")], attempt=1)
        runs.store.gate.place(transaction, view, "run-1", drafts)

    def fail(transaction, _before, _items):
        assert runs._projector.cursor(transaction, "tally").position == 3
        raise ZeroDivisionError

    def append_and_fail(transaction):
        append(transaction)
        transaction.defer(fail, transaction.head(), [])

    with pytest.raises(ZeroDivisionError):
        runs.store.write(append_and_fail)
    assert (stored(runs, TALLY), cursor(runs, "tally").position, head(runs)) == ([], 2, 2)
    runs.store.write(append)
    assert (len(stored(runs, TALLY)), cursor(runs, "tally").position, head(runs)) == (1, 3, 3)


def test_a_row_that_is_none_is_gone(world):
    runs = world.runs()
    begin(runs.store)
    say(runs.store, "one", "forget")

    assert runs.view(TALLY).where() == []
    say(runs.store, "again")
    assert runs.view(TALLY).get("user").messages == 1


def test_of_a_latest_projection_the_row_before_is_never_shown_and_goes_where_there_is_none(world):
    seen = []

    def latest(row, recorded):
        seen.append(row)
        content = recorded.event.content
        return None if content == "forget" else BrittleRow(recorded.stream, len(content))

    lengths = Projection("lengths", 1, BrittleRow, ("workflow",), (MessageRecorded,), latest, latest=True)
    runs = world.runs(app=App(projections=[lengths]))
    begin(runs.store)
    say(runs.store, "one", "three")

    assert runs.view(lengths).where() == [BrittleRow("run-1", 5)]
    say(runs.store, "forget")
    assert runs.view(lengths).where() == []
    assert seen == [None] * 3


def test_several_events_of_one_append_fold_into_one_row(world):
    runs = world.runs()
    begin(runs.store)
    runs.store.append("run-1", *(MessageRecorded("user", n) for n in range(3)), MessageRecorded("tool", 0), attempt=1)

    assert [(row.role, row.messages) for row in runs.view(TALLY).where()] == [("tool", 1), ("user", 3)]


def test_a_locate_that_gives_less_than_the_key_concerns_every_row_under_it(world):
    runs = world.runs()
    store = runs.store
    store.append("a", MetaSet("x", 1), MetaSet("y", 2))
    store.append("ab", MetaSet("x", 3))
    store.append("a", LogRecorded("s", "tick"), MetaSet("z", 9), LogRecorded("s", "tick"))

    assert runs.view(MARKS).where() == [
        MarkRow("a", "x", 1, 2), MarkRow("a", "y", 2, 2), MarkRow("a", "z", 9, 1), MarkRow("ab", "x", 3, 0)
    ]  # fmt: skip
    store.append("a", MetaSet("new", 0), LogRecorded("s", "clear"), LogRecorded("s", "tick"), MetaSet("x", 7))
    assert runs.view(MARKS).where() == [MarkRow("a", "x", 7, 0), MarkRow("ab", "x", 3, 0)]
    assert runs.check().ok


# --- gaps -----------------------------------------------------------------------------------------------------------


def test_a_small_gap_is_folded_along_with_the_next_append(world):
    runs, other = world.runs(), plain(world)
    begin(other)
    say(other, "one", "two")
    assert cursor(runs, "tally").position == 0

    say(runs.store, "three")

    assert stored(runs, TALLY) == [TallyRow("user", 3, {"at": 5})]
    assert cursor(runs, "tally").position == 5


def test_a_view_that_is_behind_catches_up_before_it_answers(world):
    runs, other = world.runs(), plain(world)
    begin(other)
    say(other, "one", "two")

    assert runs.view(TALLY).get("user").messages == 2
    assert runs.workflow_runs.get("run-1").phase == "started"
    assert cursor(runs, "tally").position == 4


def test_a_large_gap_is_left_to_the_view(world, monkeypatch):
    monkeypatch.setattr(projector, "SMALL_GAP", 3)
    runs, other = world.runs(), plain(world)
    begin(other)
    say(other, "one", "two")

    say(runs.store, "three")

    assert (cursor(runs, "tally").position, stored(runs, TALLY)) == (0, [])
    assert runs.view(TALLY).get("user").messages == 3
    assert cursor(runs, "tally").position == 5


def test_a_gap_without_events_of_its_own_is_passed_over(world):
    runs, other = world.runs(), plain(world)
    begin(other)
    begin(runs.store, "run-2")

    assert cursor(runs, "marks").position == cursor(runs, "usage").position == 4


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_catching_up_gives_the_same_rows_in_any_chunks(world, monkeypatch, chunk):
    monkeypatch.setattr(projector, "CHUNK", chunk)
    monkeypatch.setattr(projector, "SMALL_GAP", 0)
    runs, other = world.runs(), plain(world)
    begin(other)
    say(other, *"abcde")
    other.append("a", MetaSet("x", 1), LogRecorded("s", "tick"))

    assert runs.view(TALLY).get("user") == TallyRow("user", 5, {"at": 7})
    assert runs.view(MARKS).where() == [MarkRow("a", "x", 1, 1)]
    assert runs.check().ok


def test_who_may_not_write_says_that_it_is_behind(tmp_path):
    world = World(tmp_path, app=APP)
    runs, other = world.runs(), plain(world)
    begin(runs.store)
    reader = world.runs(log=world.log(read_only=True))
    assert reader.workflow_runs.count() == 1

    say(other, "one")

    with pytest.raises(StaleProjection, match="tally is behind the log and may not be written here"):
        reader.view(TALLY).where()
    assert runs.view(TALLY).get("user").messages == 1
    assert reader.view(TALLY).get("user").messages == 1
    world.close()


def test_who_may_not_write_says_that_nothing_was_projected_yet(tmp_path):
    world = World(tmp_path)
    begin(plain(world))
    reader = world.runs(log=world.log(read_only=True))

    with pytest.raises(StaleProjection, match="no cursor"):
        reader.workflow_runs.where()
    world.close()


# --- cursors --------------------------------------------------------------------------------------------------------


def test_a_missing_cursor_is_never_read_as_nought(world):
    """Else the log would be folded on top of its own rows."""
    runs = world.runs()
    begin(runs.store)
    say(runs.store, "one", "two")
    world.log().write(lambda transaction: runs._projector.forget(transaction, "tally"))

    for again in (runs, world.runs()):
        with pytest.raises(StaleProjection, match="no cursor"):
            again.view(TALLY).where()
        say(again.store, "more")
        assert stored(again, TALLY) == [TallyRow("user", 2, {"at": 4})]
        assert cursor(again, "tally") is None
        assert not again.check("tally").ok
    runs.rebuild("tally")
    assert runs.view(TALLY).get("user").messages == 4


def test_all_cursors_dropped_under_a_running_program_cost_no_fact_and_no_row_is_folded_twice(world):
    runs = world.runs()
    begin(runs.store)
    say(runs.store, "one")
    world.log().write(lambda transaction: runs._projector.tables.drop(transaction, CURSORS))

    say(runs.store, "two")

    with pytest.raises(StaleProjection, match="no cursor"):
        runs.view(TALLY).where()
    assert len(list(runs.store.read("run-1"))) == 4
    runs.rebuild()
    assert runs.view(TALLY).get("user").messages == 2
    assert runs.check().ok


def test_a_cursor_of_another_log_is_noticed(world):
    runs = world.runs()
    begin(runs.store)
    alter(world, runs, hash="00" * 32)

    say(runs.store, "one")

    with pytest.raises(StaleProjection, match="another log"):
        runs.view(TALLY).where()
    assert stored(runs, TALLY) == []
    assert len(list(runs.store.read("run-1"))) == 3


def test_a_cursor_beyond_the_log_is_noticed(world):
    runs = world.runs()
    begin(runs.store)
    alter(world, runs, position=99)

    with pytest.raises(StaleProjection, match="rolled back"):
        runs.view(TALLY).where()


def test_two_versions_of_a_program_never_write_into_each_others_tables(world):
    @frozen
    class NewRow:
        role: str
        letters: int = 0

    newer = Projection("tally", 2, NewRow, ("role",), TALLY.events, lambda row, _r: row, TALLY.locate)
    old = world.runs()
    begin(old.store)
    say(old.store, "one")
    new = world.runs(app=App(projections=[newer]))

    say(new.store, "two")
    assert stored(old, TALLY) == [TallyRow("user", 1, {"at": 3})]
    with pytest.raises(StaleProjection, match="another version"):
        new.view(newer).where()
    assert new.workflow_runs.count() == 1
    assert old.view(TALLY).get("user").messages == 2

    new.rebuild("tally")
    say(old.store, "three")
    with pytest.raises(StaleProjection, match="another version"):
        old.view(TALLY).where()
    assert new.view(newer).where() == []


def test_a_projection_that_is_added_later_begins_at_the_first_entry(world):
    runs = world.runs(app=App())
    begin(runs.store)
    say(runs.store, "one", "two")

    assert world.runs().view(TALLY).get("user").messages == 2


def test_two_projections_of_one_name_are_refused(world):
    with pytest.raises(InvalidArgument, match="name"):
        world.runs(app=App(projections=[TALLY, TALLY]))


# --- halting --------------------------------------------------------------------------------------------------------


def mended():
    return Projection("brittle", 1, BrittleRow, ("workflow",), (RunQueued,),
                      lambda row, recorded: BrittleRow(recorded.event.workflow, 1 + (row.runs if row else 0)),
                      by_workflow)  # fmt: skip


def test_a_projection_that_raises_never_costs_a_fact_and_says_where_it_stands_still(world):
    runs = world.runs(app=App(projections=[BRITTLE]))
    runs.submit("good", run_id="run-1")
    runs.submit("bad", run_id="run-2")
    runs.submit("good", run_id="run-3")

    assert [row.run_id for row in runs.workflow_runs.where()] == ["run-1", "run-2", "run-3"]
    with pytest.raises(ProjectionHalted) as halted:
        runs.view(BRITTLE).where()
    assert (halted.value.position, halted.value.reason) == (2, "LookupError: no such thing as bad")
    assert "rebuild" in str(halted.value)
    assert stored(runs, BRITTLE) == [BrittleRow("good", 1)]


def test_of_an_append_that_a_projection_breaks_on_it_keeps_nothing(world):
    runs = world.runs(app=App(projections=[BRITTLE]))

    def job(transaction):
        for run_id, workflow in (("run-1", "good"), ("run-2", "bad")):
            view = runs.store.gate.fold(transaction, run_id, runs.store.gate.start(RUN))
            runs.store.gate.place(transaction, view, run_id, runs.store.gate.draft(run_id, [RunQueued(workflow)]))

    runs.store.write(job)

    assert head(runs) == 2
    assert cursor(runs, "brittle").halted_at == 2


def test_a_halted_projection_is_recovered_by_mending_it_and_a_rebuild(world):
    broken = world.runs(app=App(projections=[BRITTLE]))
    broken.submit("bad", run_id="run-1")
    with pytest.raises(ProjectionHalted):
        broken.rebuild("brittle")

    runs = world.runs(app=App(projections=[mended()]))
    with pytest.raises(ProjectionHalted):
        runs.view("brittle").where()
    runs.rebuild("brittle")

    assert runs.view("brittle").where() == [BrittleRow("bad", 1)]
    runs.submit("good")
    assert runs.view("brittle").count() == 2
    assert runs.check().ok


def test_a_check_tells_of_a_projection_that_raises_and_compares_the_others(world):
    runs = world.runs(app=App(projections=[BRITTLE]))
    runs.submit("good", run_id="run-1")
    runs.submit("bad", run_id="run-2")
    runs.submit("good", run_id="run-3")

    report = runs.check()

    assert not report.ok
    (trouble,) = report.troubles
    assert "brittle halted at position 2 (LookupError: no such thing as bad)" in trouble
    assert (report.entries, report.differences, report.rows) == (3, 0, 3)
    (finding,) = runs.verify().findings
    assert "no such thing as bad" in finding.fact


def test_catching_up_halts_as_well(world):
    other = plain(world)
    other.append("run-1", RunQueued("good"))
    other.append("run-2", RunQueued("bad"))
    runs = world.runs(app=App(projections=[BRITTLE]))

    with pytest.raises(ProjectionHalted, match="position 2"):
        runs.view(BRITTLE).where()
    assert runs.workflow_runs.count() == 2


class NotARow:
    pass


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda _r: NotARow(), "must return BrittleRow or None"),
        (lambda _r: {"workflow": "deploy", "runs": 1}, "must return BrittleRow or None"),
        (lambda _r: BrittleRow("another", 1), "must keep the row's key"),
        (lambda r: BrittleRow(r.event.workflow, "1"), "must be an integer"),
        (lambda r: BrittleRow(r.event.workflow, 2**63), "64 bits"),
        (lambda r: BrittleRow(r.event.workflow, runs=True), "must be an integer"),
        (lambda r: BrittleRow(r.event.workflow, None), "must be an integer"),
    ],
)
def test_an_evolve_that_returns_no_row_of_its_class_halts(world, made, reason):
    wrong = Projection("brittle", 1, BrittleRow, ("workflow",), (RunQueued,), lambda _row, r: made(r), by_workflow)
    runs = world.runs(app=App(projections=[wrong]))
    runs.submit("deploy", run_id="run-1")

    with pytest.raises(ProjectionHalted, match=reason):
        runs.view("brittle").where()
    assert runs.workflow_runs.get("run-1").phase == "queued"
    assert stored(runs, wrong) == []


@frozen
class LooseRow:
    workflow: str
    text: str = ""
    weight: float = 0.0


@pytest.mark.parametrize(
    "made",
    [
        lambda _r: LooseRow("deploy", "\ud800"),
        lambda _r: LooseRow("deploy", weight=float("nan")),
        lambda r: LooseRow(r.event.agent),
    ],
    ids=["a lone surrogate", "NaN", "an absent key"],
)
@pytest.mark.parametrize("locate", [by_workflow, lambda _r: (None,)], ids=["by workflow", "by nothing"])
def test_what_a_backend_could_not_keep_halts_the_projection_and_not_the_append(world, made, locate):
    """Python takes it, SQLite does not: refused by the column, the same on every backend."""
    wrong = Projection("loose", 1, LooseRow, ("workflow",), (RunQueued,), lambda _row, r: made(r), locate)
    runs = world.runs(app=App(projections=[wrong]))
    runs.submit("deploy", run_id="run-1")

    with pytest.raises(ProjectionHalted):
        runs.view("loose").where()
    assert runs.workflow_runs.count() == 1


def test_a_locate_that_raises_halts_as_well(world):
    wrong = Projection("brittle", 1, BrittleRow, ("workflow",), (RunQueued,), brittle, lambda r: (r.event.nothing,))
    runs = world.runs(app=App(projections=[wrong]))
    runs.submit("deploy")

    with pytest.raises(ProjectionHalted, match="AttributeError"):
        runs.view("brittle").where()


def test_an_interrupt_inside_a_fold_undoes_the_append_with_it(world):
    def stop(_row, _recorded):
        raise KeyboardInterrupt

    wrong = Projection("brittle", 1, BrittleRow, ("workflow",), (RunQueued,), stop, by_workflow)
    runs = world.runs(app=App(projections=[wrong]))

    with pytest.raises(KeyboardInterrupt):
        runs.submit("deploy")
    assert (head(runs), cursor(runs, "brittle").halted_at) == (0, None)


def test_a_table_dropped_by_hand_under_a_running_program_costs_no_fact(world):
    runs = world.runs()
    begin(runs.store)
    say(runs.store, "one")
    world.log().write(lambda transaction: runs._projector.tables.drop(transaction, runs._projector.table(TALLY)))
    with pytest.raises(StaleProjection, match="no table"):
        runs.view(TALLY).where()
    assert not runs.check("tally").ok

    say(runs.store, "two")

    assert len(list(runs.store.read("run-1"))) == 4
    assert runs.workflow_runs.count() == 1
    runs.rebuild("tally")
    assert runs.view(TALLY).get("user").messages == 2
