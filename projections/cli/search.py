"""`search`: where messages, titles and summaries hold certain words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eventstore.limits import MAX_ROWS
from projections.cli import output
from projections.cli.opening import store_command

if TYPE_CHECKING:
    from projections import Runs
    from projections.texts import Found


@store_command("query")
@click.option("--run", "run_id", metavar="RUN", help="Only in this run.")
@click.option("--limit", type=click.IntRange(1, MAX_ROWS - 1), default=20, show_default=True, help="At most so many.")
@click.option("--before", type=click.IntRange(1), metavar="POSITION", help="Go on before this position.")
def search(runs: Runs, query: str, run_id: str | None, limit: int, before: int | None, as_json: bool) -> None:  # noqa: FBT001, PLR0917
    """Find messages, titles and summaries by their words.

    The newest first. QUERY is one word to the shell, so quote it: 'deploy prod' finds both words, '"roll back"' the
    two side by side, 'deploy*' words that begin so, 'deploy OR release' either, 'deploy -staging' the first without
    the second. Case and accents do not count.
    """
    found = runs.search(query, run_id=run_id, limit=limit + 1, before=before)
    page = found[:limit]
    if as_json:
        output.document(page)
    elif page:
        _table(page)
    else:
        output.say("nothing found")
    if len(found) > limit:
        output.note(f"the newest {limit}; more with --before {page[-1].position}")


def _table(page: list[Found]) -> None:
    now = output.now()
    output.table(
        "run", "version", "who", "when", "what",
        rows=[
            (item.run_id, item.message or "", item.role or "title", output.ago(item.at, now), _what(item))
            for item in page
        ],
        wraps=("run",),
    )  # fmt: skip


def _what(item: Found) -> str:
    beside = f"{item.title}: " if item.title and item.excerpt.strip("…") not in item.title else ""
    return f"{beside}{item.excerpt}" + ("" if item.whole else " (only its beginning is searched)")
