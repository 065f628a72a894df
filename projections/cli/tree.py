"""`tree`: a run and all under it, and what each and all of them spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.text import Text
from rich.tree import Tree

from eventstore.limits import MAX_TREE
from projections.cli import output
from projections.cli.opening import store_command

if TYPE_CHECKING:
    from projections import Runs
    from projections.tree import Node
    from projections.usage import UsageRow


@store_command("run")
@click.option(
    "--limit", type=click.IntRange(1, MAX_TREE), default=1_000, show_default=True, help="At most so many runs."
)
def tree(runs: Runs, run: str, limit: int, as_json: bool) -> None:  # noqa: FBT001
    """Draw a run and all under it, with what they spent.

    Under each run stand those that name it as their parent, in the order of arrival: its phase and workflow, what it
    spent itself and, where there are runs under it, all of them together. With --json, a list of the same in the same
    order, each with its depth.
    """
    root = runs.tree(run, limit=limit)
    if as_json:
        output.document([_plain(depth, node) for depth, node in root.walk()])
        return
    drawn: dict[str, Tree] = {}
    for depth, node in root.walk():
        label = _label(node)
        above = drawn.get(node.row.parent_id or "") if depth else None
        drawn[node.row.run_id] = Tree(label) if above is None else above.add(label)
        if node.cycle is not None:
            drawn[node.row.run_id].add(Text(f"{output.clean(node.cycle)} again: a circle of parents", "red"))
    output.console().print(drawn[run])


def _plain(depth: int, node: Node) -> dict[str, Any]:
    return {
        "depth": depth,
        "run": node.row,
        "usage": node.usage,
        "total": node.total,
        "cycle": node.cycle,
    }


def _label(node: Node) -> Text:
    row = node.row
    label = Text(output.clean(row.run_id), "bold").append("  ").append_text(output.phase(row.phase))
    parts = [output.clean(row.workflow or ""), output.clean(row.agent or ""), _spent(node.usage)]
    if node.children:
        parts.append(f"in all {_spent(node.total) or 'nothing'}")
    for part in filter(None, parts):
        label.append("  " + part, "not bold")
    return label


def _spent(usage: UsageRow) -> str:
    return output.spent(usage) if usage.records else ""
