"""A table that somebody altered costs no fact and is never read as if nothing were; a rebuild makes it anew."""

import pytest

from eventstore.errors import CannotOpen, ProjectionHalted, StaleProjection, WorkersUnknown
from eventstore.workflow import RunCompleted, RunDescribed
from projections.projector import CURSORS
from tests.commanding import by_hand
from tests.world import World

COPY = "CREATE TABLE copy AS SELECT * FROM workflow_runs"
ALTERATIONS = {
    "a column dropped": ["ALTER TABLE workflow_runs DROP COLUMN labels"],
    "a column added": ["ALTER TABLE workflow_runs ADD COLUMN mine TEXT"],
    "a column that must not be null added": ["ALTER TABLE workflow_runs ADD COLUMN mine TEXT NOT NULL DEFAULT ''"],
    "a check that refuses what comes": ["ALTER TABLE workflow_runs ADD COLUMN mine INT CHECK (position < 2)"],
    "a column renamed": ["ALTER TABLE workflow_runs RENAME COLUMN title TO name"],
    "made anew without types": [COPY, "DROP TABLE workflow_runs", "ALTER TABLE copy RENAME TO workflow_runs"],
    "a unique index, which takes rows away": ["CREATE UNIQUE INDEX mine ON workflow_runs(workflow)"],
    "an index whose expression fails": ["CREATE INDEX mine ON workflow_runs(json_extract(title, '$'))"],
    "an index with a condition": ["CREATE INDEX mine ON workflow_runs(title) WHERE json_extract(title, '$') > 1"],
    "dropped": ["DROP TABLE workflow_runs"],
    "an empty one in its place": ["DROP TABLE workflow_runs", "CREATE TABLE workflow_runs(run_id)"],
}


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


def alter(world, statements):
    """By another handle, as another process would, in one transaction."""

    def job(transaction):
        for statement in statements:
            transaction.execute(statement)

    world.log().write(job)


@pytest.mark.parametrize("what", ALTERATIONS)
@pytest.mark.parametrize("running", [True, False], ids=["under a running program", "between two runs"])
def test_an_altered_table_costs_no_fact_and_says_so(world, what, running):
    runs = world.runs()
    runs.submit("w", run_id="run-1")
    alter(world, ALTERATIONS[what])
    if not running:
        runs.close()
        runs = world.runs()

    with pytest.raises(StaleProjection, match=r"has (a|no) table"):
        runs.workflow_runs.get("run-1")
    runs.submit("w", run_id="run-2")
    runs.store.append("run-2", RunDescribed("no JSON"))

    assert [recorded.type for recorded in runs.store.read_all()] == ["RunQueued", "RunQueued", "RunDescribed"]
    for ask in (runs.workflow_runs.where, runs.workflow_runs.count):
        with pytest.raises(StaleProjection, match="runfold rebuild"):
            ask()
    report = runs.check()
    assert not report.ok
    assert "workflow_runs" in report.troubles[0]
    assert runs.confirmations.count() == 0

    runs.rebuild("workflow_runs")

    assert [row.run_id for row in runs.workflow_runs.where(order="run_id")] == ["run-1", "run-2"]
    runs.submit("w", run_id="run-3")
    assert runs.workflow_runs.count() == 3
    assert runs.check().ok


def test_a_table_put_right_by_hand_still_waits_for_its_rebuild(world):
    """Nobody knows what became of its rows: here one was passed over."""
    runs = world.runs()
    runs.submit("w", run_id="run-1")
    alter(world, ["ALTER TABLE usage RENAME TO hidden"])
    runs.submit("w", run_id="run-2")
    alter(world, ["ALTER TABLE hidden RENAME TO usage"])

    with pytest.raises(ProjectionHalted, match="position 2"):
        runs.usage.where()
    assert runs.workflow_runs.count() == 2


def test_what_was_seen_of_tables_in_a_write_that_was_undone_is_not_gone_by(world):
    """SQLite numbers its schema; who comes after a write that was undone gives another schema the same number."""
    world.runs().submit("w", run_id="run-1")
    runs, shapes = world.runs(), []
    described = runs.store.stream("run-1").job(RunDescribed("never"))

    def seen(transaction, _before, _items):
        shapes.append(runs._projector.tables.shapes(transaction))
        raise OSError("undone")

    def job(transaction):
        transaction.execute("CREATE TABLE mine(a)")
        described(transaction)
        transaction.defer(seen, transaction.head(), [None])

    with pytest.raises(OSError, match="undone"):
        runs.store.write(job)
    alter(world, ALTERATIONS["a column added"])
    runs.store.append("run-1", RunDescribed("a title"))

    with runs.store.reading() as reading:
        assert [runs._projector.tables.shapes(reading)] == shapes
    with pytest.raises(StaleProjection, match="has a table that somebody altered"):
        runs.workflow_runs.get("run-1")
    assert runs.usage.count() == 0


@pytest.mark.parametrize("statement", [
    "ALTER TABLE cursors DROP COLUMN halted_reason",
    "ALTER TABLE cursors ADD COLUMN mine INT CHECK (position < 2)",
    "CREATE UNIQUE INDEX mine ON cursors(name, position)",
])  # fmt: skip
@pytest.mark.parametrize("running", [True, False], ids=["under a running program", "between two runs"])
def test_altered_cursors_cost_no_fact_and_no_row_is_folded_twice(world, statement, running):
    runs = world.runs()
    runs.submit("w", run_id="run-1")
    alter(world, [statement])
    if not running:
        runs.close()
        runs = world.runs()
    runs.submit("w", run_id="run-2")

    with pytest.raises(StaleProjection, match="no cursor"):
        runs.workflow_runs.where()
    assert runs.store.head().position == 2

    runs.rebuild()

    assert runs.workflow_runs.count() == 2
    assert runs.check().ok
    with runs.store.reading() as reading:
        assert runs._projector.tables.fault(reading, CURSORS) is None


@pytest.mark.parametrize("statement", [
    "ALTER TABLE workers DROP COLUMN beat",
    "ALTER TABLE workers ADD COLUMN mine TEXT",
    "ALTER TABLE workers RENAME COLUMN worker TO name",
    "CREATE UNIQUE INDEX mine ON workers(worker, pid)",
])  # fmt: skip
@pytest.mark.parametrize("running", [True, False], ids=["under a running program", "between two runs"])
def test_where_the_table_of_workers_was_altered_nobody_is_taken_for_dead_and_no_fact_is_lost(world, statement, running):
    runs, worker, other = world.runs(), world.worker(), world.worker()
    runs.submit("w", run_id="run-1")
    attempt = worker.claim()
    if running:
        other.recover()
    alter(world, [statement])
    if not running:
        runs = world.runs()

    for ask in (lambda: runs.worker("w"), other.claim, other.recover, lambda: other._presence.beat(other.id, 30.0)):
        with pytest.raises(WorkersUnknown, match=r"nobody can tell .* drop it"):
            ask()
    with pytest.raises(WorkersUnknown):
        runs.lost()
    runs.submit("w", run_id="run-2")
    attempt.append(RunDescribed("goes on"))
    assert (runs.workflow_runs.get("run-1").worker, runs.check().ok) == (worker.id, True)
    other.close()

    alter(world, ["DROP TABLE workers"])
    worker._presence.beat(worker.id, 30.0)

    assert world.worker().claim().run_id == "run-2"
    attempt.append(RunCompleted())


def test_an_index_over_plain_columns_is_an_operators_own_business(world):
    runs = world.runs()
    runs.submit("w", run_id="run-1")
    alter(world, [
        "CREATE INDEX mine ON workflow_runs(agent, title DESC)",
        'CREATE INDEX "my other" ON events ( recorded_at )',
    ])  # fmt: skip
    runs.submit("w", run_id="run-2")
    runs.close()

    again = world.runs()
    again.submit("w", run_id="run-3")
    assert again.workflow_runs.count() == 3
    assert again.verify().ok


@pytest.mark.parametrize("statement", [
    "CREATE UNIQUE INDEX mine ON events(type)",
    "CREATE UNIQUE INDEX mine ON events(recorded_at) WHERE type = 'MetaSet'",
    "CREATE INDEX mine ON events(json_extract(data, '$.workflow'))",
    "CREATE INDEX mine ON events(stream) WHERE json_extract(data, '$.workflow') > 1",
    "CREATE UNIQUE INDEX mine ON log(settled)",
])  # fmt: skip
def test_an_index_that_could_refuse_an_append_is_refused_at_opening(world, statement):
    runs = world.runs()
    runs.submit("w", run_id="run-1")
    runs.close()
    by_hand(world.path, statement)
    before = world.path.read_bytes()

    with pytest.raises(CannotOpen, match=r"index mine .* drop it"):
        world.runs()
    assert world.path.read_bytes() == before


@pytest.mark.parametrize("number", [0, -1])
def test_a_forged_schema_number_is_told_by_its_name_and_not_as_a_lost_tail(world, number):
    runs = world.runs()
    runs.submit("w", run_id="run-1")
    runs.close()
    by_hand(world.path, f"PRAGMA user_version = {number}")
    before = world.path.read_bytes()

    with pytest.raises(CannotOpen, match=f"user_version. says {number}"):
        world.runs()
    assert world.path.read_bytes() == before
