"""`log`: the generic entries, by what they are about."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from eventstore.limits import MAX_ROWS
from projections.cli import output
from projections.cli.opening import store_command
from projections.cli.runs import Since

if TYPE_CHECKING:
    from projections import Runs
    from projections.notes import LogEntry

_LONGEST = 400
"""Signs of a payload that a line may show."""


@store_command()
@click.option("--source", "sources", multiple=True, help="Only of this source; may be given several times.")
@click.option("--kind", "kinds", multiple=True, help="Only of this kind; may be given several times.")
@click.option("--ref", "refs", multiple=True, help="Only about this; may be given several times.")
@click.option("--stream", "streams", multiple=True, metavar="NAME", help="Only of this stream, a run's id say.")
@click.option("--since", type=Since(), help="Only since then: ISO 8601, a date, or an age such as 90m, 12h, 7d.")
@click.option("--until", type=Since(), help="Only before then: as --since.")
@click.option("--after", type=click.IntRange(0), default=0, metavar="POSITION", help="Only those after this position.")
@click.option("--before", type=click.IntRange(0), metavar="POSITION", help="Only those before this position.")
@click.option("--newest", "newest_first", is_flag=True, help="Newest first.")
@click.option("--limit", type=click.IntRange(1, MAX_ROWS), default=50, show_default=True, help="At most so many.")
def log(  # noqa: PLR0917 - click names them all
    runs: Runs,
    sources: tuple[str, ...],
    kinds: tuple[str, ...],
    refs: tuple[str, ...],
    streams: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    after: int,
    before: int | None,
    newest_first: bool,  # noqa: FBT001
    limit: int,
    as_json: bool,  # noqa: FBT001
) -> None:
    """List generic entries (LogRecorded), in the order of the log.

    What sources recorded of kinds about refs, into any stream. Payloads are cut at the width; --json has them whole.
    """
    chosen: dict[str, Any] = {
        "source": sources or None, "kind": kinds or None, "ref": refs or None, "stream": streams or None,
        "since": since, "until": until,
    }  # fmt: skip
    page = runs.logs.where(after=after, before=before, limit=limit, newest_first=newest_first, **chosen)
    if as_json:
        output.document(page)
    elif page:
        _table(page)
    else:
        output.say("no entries" if not runs.logs.count() else "no entries of that kind")
    place: dict[str, int | None] = {"after": after, "before": page[-1].position} if newest_first and page else {}
    if page and not newest_first:
        place = {"after": page[-1].position, "before": before}
    if page and (left := runs.logs.count(**place, **chosen)):
        going_on = f"--before {page[-1].position}" if newest_first else f"--after {page[-1].position}"
        output.note(f"{output.count(left, 'entry', 'entries')} more with {going_on}")


def _table(page: list[LogEntry]) -> None:
    output.table(
        "position", "time (UTC)", "source", "kind", "ref", "payload",
        rows=[
            (entry.position, output.moment(entry.at), entry.source, entry.kind, entry.ref or "",
             "" if entry.payload is None else json.dumps(entry.payload, ensure_ascii=False)[:_LONGEST])
            for entry in page
        ],
        wraps=("source", "kind", "ref"),
        right=("position",),
    )  # fmt: skip
