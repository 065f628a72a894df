"""A run and the runs under it: its children, theirs, and what all of them together spent.

A run's parent never changes, so a tree only grows; rows and usage are as they stand while it is read. It is read a
level at a time over the index on parents, and each node knows the sums of all that hangs under it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.errors import InvalidArgument, RunNotFound
from eventstore.limits import MAX_TREE
from projections.usage import UsageRow
from projections.workflow_runs import RunRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projections.views import View

_MANY = 500
"""Parents that are asked for at once."""


@frozen
class Node:
    """A run in the tree of its descendants."""

    row: RunRow
    usage: UsageRow
    """What it spent itself."""
    total: UsageRow
    """What it and all under it spent, named by its own run id."""
    children: tuple[Node, ...] = ()
    """In order of arrival."""
    cycle: str | None = None
    """A child that is also above it, and was left out here: somebody wrote a circle past `submit`."""

    def walk(self) -> Iterator[tuple[int, Node]]:
        """Itself and all under it, each before its children, with how far down it is: 0 for itself."""
        pending = [(0, self)]
        while pending:
            depth, node = pending.pop()
            yield depth, node
            pending += [(depth + 1, child) for child in reversed(node.children)]


def grown(runs: View[RunRow], usage: View[UsageRow], run_id: str, limit: int) -> Node:
    """The tree under a run; see `Runs.tree`.

    Raises:
        RunNotFound: no run of that id.
        InvalidArgument: a limit that cannot be, or more runs than that.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_TREE:
        raise InvalidArgument("limit", limit, f"must be 1 to {MAX_TREE} runs")
    root = runs.get(run_id)
    if root is None:
        raise RunNotFound(run_id)
    found = {run_id: root}
    cycles: dict[str, str] = {}
    level = [root]
    while level:
        below = _children(runs, [row.run_id for row in level], limit + 1)
        # Each run has one parent, so only the root can turn up again, under one of its descendants.
        cycles.update({row.parent_id: row.run_id for row in below if row.run_id in found and row.parent_id})
        level = [row for row in below if row.run_id not in found]
        found.update({row.run_id: row for row in level})
        if len(found) > limit:
            raise InvalidArgument("limit", limit, f"is less than the runs under {run_id}; raise it, or ask for a part")
    return _joined(found, _spent(usage, [*found]), cycles)


def _children(runs: View[RunRow], parents: list[str], limit: int) -> list[RunRow]:
    """The children of these, in order of arrival; no more than `limit` for each part of the question."""
    rows: list[RunRow] = []
    for start in range(0, len(parents), _MANY):
        some = parents[start : start + _MANY]
        rows += runs.where(parent_id=some, order="position", limit=limit)
    return sorted(rows, key=lambda row: row.position)


def _spent(usage: View[UsageRow], run_ids: list[str]) -> dict[str, UsageRow]:
    parts = (run_ids[start : start + _MANY] for start in range(0, len(run_ids), _MANY))
    return {row.run_id: row for part in parts for row in usage.where(run_id=part)}


def _joined(rows: dict[str, RunRow], spent: dict[str, UsageRow], cycles: dict[str, str]) -> Node:
    """The nodes, from the leaves upward: a level comes after the one above it in `rows`."""
    under: dict[str | None, list[Node]] = {}
    node = None
    for row in reversed(rows.values()):
        own = spent.get(row.run_id) or UsageRow(row.run_id)
        children = tuple(reversed(under.pop(row.run_id, ())))
        node = Node(row, own, _sum(row.run_id, own, children), children, cycles.get(row.run_id))
        under.setdefault(row.parent_id, []).append(node)
    assert node is not None, "a tree has a root"  # noqa: S101 - for the type checker
    return node


def _sum(run_id: str, own: UsageRow, children: tuple[Node, ...]) -> UsageRow:
    parts = [own, *(child.total for child in children)]
    return UsageRow(
        run_id=run_id,
        input_tokens=sum(part.input_tokens for part in parts),
        output_tokens=sum(part.output_tokens for part in parts),
        cost_usd=sum(part.cost_usd for part in parts),
        records=sum(part.records for part in parts),
    )
