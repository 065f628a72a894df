"""Finding messages, titles and summaries by their words: a page of the projection `texts`, and what stands around."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventstore.limits import check_limit, check_place
from projections.searching import parse
from projections.tables import Range
from projections.texts import Found, found

if TYPE_CHECKING:
    from projections.texts import TextRow
    from projections.views import View


def find(view: View[TextRow], query: str, *, run_id: str | None, limit: int, before: int | None) -> list[Found]:
    """Where messages, titles and summaries hold what is asked for, the newest first.

    Args:
        view: of the projection `texts`.
        query: words, "a phrase", begin*, OR, -without; see `docs/how-to/search-and-policies.md`.
        run_id: of this run only.
        limit: at most so many, 1 to 10,000.
        before: only what was recorded before this position; that of the last one found gives the next page.

    Raises:
        InvalidArgument: a query that does not parse, a limit or a position that cannot be.
        StaleProjection, ProjectionHalted: the table `texts` cannot answer, and why.
    """
    check_limit(limit)
    if before is not None:
        check_place("before", before)
    wanted = parse(query)
    filters: dict[str, Any] = {} if run_id is None else {"run_id": run_id}
    rows = view.search(query, order="-position", limit=limit, position=Range(stop=before), **filters)
    return [found(row, wanted) for row in rows]
