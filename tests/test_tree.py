"""A run, those under it, and what all of them spent."""

import inspect
import sys

import pytest

from eventstore.errors import InvalidArgument, RunNotFound
from eventstore.workflow import RunQueued, RunStarted, UsageRecorded
from projections import tree
from projections.usage import UsageRow


@pytest.fixture
def runs(world):
    """`root` has `b` and, after it, `a`; `b` has `c`. Each spent a tenth of a dollar, and `c` a dollar."""
    runs = world.runs()
    for run_id, parent in (("other", None), ("root", None), ("b", "root"), ("c", "b"), ("a", "root"), ("d", "other")):
        runs.submit("w", run_id=run_id, parent_id=parent)
    for run_id, cost in (("root", 0.1), ("a", 0.1), ("b", 0.1), ("c", 1.0)):
        stream = runs.store.stream(run_id)
        stream.append(RunStarted("w"), UsageRecorded("m", 10, 1, cost))
    return runs


def shape(node):
    return [(depth, item.row.run_id) for depth, item in node.walk()]


def test_children_come_in_order_of_arrival_each_with_all_under_it(runs):
    assert shape(runs.tree("root")) == [(0, "root"), (1, "b"), (2, "c"), (1, "a")]
    assert shape(runs.tree("b")) == [(0, "b"), (1, "c")]


def test_a_node_tells_what_it_spent_and_what_all_under_it_did(runs):
    root = runs.tree("root")

    assert root.usage == UsageRow("root", 10, 1, 0.1, 1)
    assert root.total == UsageRow("root", 40, 4, pytest.approx(1.3), 4)
    assert root.children[0].total == UsageRow("b", 20, 2, 1.1, 2)
    assert runs.tree("d").total == UsageRow("d")


def test_a_run_that_nobody_knows_has_no_tree(runs):
    with pytest.raises(RunNotFound, match="nobody"):
        runs.tree("nobody")


def test_more_runs_than_asked_for_are_refused_and_not_cut_off(runs):
    assert len(shape(runs.tree("root", limit=4))) == 4

    for limit in (1, 2, 3):
        with pytest.raises(InvalidArgument, match=f"limit {limit} is less than the runs under root"):
            runs.tree("root", limit=limit)
    for limit in (0, -1, 5_001, "1", True, None):
        with pytest.raises(InvalidArgument, match="limit"):
            runs.tree("root", limit=limit)


@pytest.mark.parametrize("circle", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_circle_of_parents_is_read_once_round_and_told(world, circle):
    runs = world.runs()
    for run_id, parent in zip(circle, [circle[-1], *circle], strict=False):
        runs.store.append(run_id, RunQueued("w", parent_id=parent))

    root = runs.tree("a")
    assert [item.row.run_id for _, item in root.walk()] == circle
    assert [item.cycle for _, item in root.walk()] == [None] * (len(circle) - 1) + ["a"]


def test_a_parent_that_does_not_stand_in_the_log_matters_to_nobody_below(world):
    runs = world.runs()
    runs.store.append("orphan", RunQueued("w", parent_id="gone"))

    assert shape(runs.tree("orphan")) == [(0, "orphan")]


def test_a_tree_deeper_than_a_stack_is_read(world, monkeypatch):
    monkeypatch.setattr(tree, "_MANY", 3)
    runs, deep, limit = world.runs(), 250, sys.getrecursionlimit()
    for number in range(deep):
        runs.store.append(f"run-{number}", RunQueued("w", parent_id=f"run-{number - 1}"))

    sys.setrecursionlimit(len(inspect.stack(0)) + 120)  # or it takes a thousand runs, each of which looks at all
    try:
        depths = [depth for depth, _ in runs.tree("run-0", limit=2_000).walk()]
    finally:
        sys.setrecursionlimit(limit)

    assert depths == [*range(deep)]


def test_a_broad_tree_is_asked_for_in_parts(world, monkeypatch):
    monkeypatch.setattr(tree, "_MANY", 2)
    runs = world.runs()
    runs.submit("w", run_id="root")
    for number in range(5):
        runs.submit("w", run_id=f"child-{number}", parent_id="root")
    for number in reversed(range(5)):
        runs.submit("w", run_id=f"grandchild-{number}", parent_id=f"child-{number}")

    assert shape(runs.tree("root"))[1:] == [
        (depth, f"{name}-{number}") for number in range(5) for depth, name in ((1, "child"), (2, "grandchild"))
    ]
