"""Views: typed rows, filters that are values and never SQL, pages that give every row once."""

import re
from datetime import timedelta

import pytest

from eventstore.errors import InvalidArgument
from eventstore.workflow import Phase
from projections import Range
from projections.sqlite import SQLiteTables
from tests.world import World


@pytest.fixture
def runs(world):
    runs = world.runs()
    for number in range(7):
        runs.submit(
            "deploy" if number % 2 else "triage", run_id=f"run-{number}", priority=number % 3,
            agent=None if number < 3 else "a", not_before=world.now + timedelta(hours=number),
        )  # fmt: skip
    runs.cancel("run-6", by="alice")
    return runs


def ids(rows):
    return [row.run_id[-1] for row in rows]


def test_a_row_is_had_by_its_key(runs):
    assert runs.workflow_runs.get("run-3").workflow == "deploy"
    assert runs.workflow_runs.get("nobody") is None


@pytest.mark.parametrize("key", [(), ("run-1", "more"), (1,), (None,)])
def test_a_key_of_another_shape_is_refused(runs, key):
    with pytest.raises(InvalidArgument):
        runs.workflow_runs.get(*key)


def test_rows_are_had_by_what_their_columns_are(world, runs):
    view = runs.workflow_runs

    assert ids(view.where(workflow="deploy")) == ["1", "3", "5"]
    assert ids(view.where(phase=Phase.CANCELLED)) == ids(view.where(phase="cancelled")) == ["6"]
    assert ids(view.where(phase=["cancelled", "started"], workflow="triage")) == ["6"]
    assert ids(view.where(agent=None)) == ["0", "1", "2"]
    assert ids(view.where(agent=[None, "b"], priority=[1, 2])) == ["1", "2"]
    assert ids(view.where(priority=Range(1, 2))) == ["1", "4"]
    assert ids(view.where(not_before=Range(stop=world.now + timedelta(hours=2)))) == ["0", "1"]
    assert ids(view.where(not_before=Range(start=world.now + timedelta(hours=4)))) == ["4", "5"]
    assert ids(view.where(run_id=Range("run-2", "run-4"))) == ["2", "3"]
    assert view.where(workflow="nothing") == []


def test_an_end_clears_when_a_run_might_have_begun(runs):
    assert runs.workflow_runs.get("run-6").not_before is None


def test_counting_agrees_with_the_rows(runs):
    view = runs.workflow_runs

    assert view.count() == 7
    assert view.count(workflow="deploy") == len(view.where(workflow="deploy"))
    assert view.count(priority=Range(1)) == len(view.where(priority=Range(1)))


def test_rows_come_in_the_order_that_was_asked_for_and_ties_by_key(runs):
    view = runs.workflow_runs

    assert ids(view.where()) == [*"0123456"]
    assert ids(view.where(order="-priority")) == ["2", "5", "1", "4", "0", "3", "6"]
    assert ids(view.where(order=("agent", "-position"))) == ["2", "1", "0", "6", "5", "4", "3"]
    assert ids(view.where(order="-run_id", limit=2)) == ["6", "5"]


def test_lists_by_what_runs_are_asked_for_go_over_an_index(tmp_path, monkeypatch):
    world = World(tmp_path)
    runs, plans, sorts = world.runs(), [], []
    honest = SQLiteTables.select

    def explained(tables, transaction, table, wanted):
        execute = transaction.execute
        asked = []
        monkeypatch.setattr(transaction, "execute", lambda *sql: (asked.append(sql), execute(*sql))[1], raising=False)
        rows = honest(tables, transaction, table, wanted)
        sql, values = asked[-1]
        plan = [row[3] for row in execute(f"EXPLAIN QUERY PLAN {sql}", values)]
        plans.extend(step for step in plan if "INDEX" in step)
        sorts.append(any("TEMP" in step for step in plan))
        return rows

    monkeypatch.setattr(SQLiteTables, "select", explained)
    for filters in ({"agent": "a"}, {"parent_id": None}, {"parent_id": "p"}, {"phase": ["queued", "started"]}):
        runs.workflow_runs.where(order="position", limit=5, **filters)
    runs.workflow_runs.where(order="-started_at", limit=5, started_at=Range(start=world.now))
    world.close()

    names = [re.search("INDEX workflow_runs_(.*)_[0-9a-f]{8} ", plan)[1] for plan in plans]
    by_position = ["agent_position", "parent_id_position", "parent_id_position", "phase_position", "phase_position"]
    assert names == [*by_position, "started_at"]
    assert not any(sorts[:4])


def test_a_page_can_be_had_by_its_number(runs):
    pages = [ids(runs.workflow_runs.where(order="-run_id", limit=3, offset=3 * number)) for number in range(4)]

    assert pages == [["6", "5", "4"], ["3", "2", "1"], ["0"], []]


@pytest.mark.parametrize("order", ["-priority", "agent", "-agent", ("workflow", "-not_before"), "-run_id", ()])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pages_give_every_row_once(runs, order, size):
    view = runs.workflow_runs
    rows = []
    while page := view.where(order=order, limit=size, after=rows[-1] if rows else None):
        assert len(page) <= size
        rows += page

    assert rows == view.where(order=order)


def test_a_page_begins_after_its_row_even_where_that_row_is_gone(runs):
    last = runs.workflow_runs.where(workflow="triage", phase="queued", limit=2)[-1]
    runs.cancel(last.run_id, by="alice")

    assert ids(runs.workflow_runs.where(workflow="triage", phase="queued", after=last)) == ["4"]


@pytest.mark.parametrize(
    "question",
    [
        {"nothing": 1},
        {"phase": "sideways"},
        {"priority": "1"},
        {"priority": Range("1")},
        {"labels": {}},
        {"order": "labels"},
        {"order": "priority; DROP TABLE events"},
        {"limit": -1},
        {"limit": 1.5},
        {"limit": "1"},
        {"offset": -1},
        {"offset": True},
        {"offset": "1"},
        {"after": "run-1"},
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(runs, question):
    with pytest.raises(InvalidArgument):
        runs.workflow_runs.where(**question)


def test_a_value_is_never_a_piece_of_sql(runs):
    assert runs.workflow_runs.where(workflow="x' OR '1'='1") == []
    assert runs.workflow_runs.count(run_id="'; DROP TABLE workflow_runs; --") == 0
    assert runs.workflow_runs.count() == 7


def test_a_row_cannot_be_changed(runs):
    with pytest.raises(AttributeError):
        runs.workflow_runs.get("run-1").phase = "completed"
