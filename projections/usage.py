"""usage: the tokens and the money that each run spent, over all of its attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.workflow import UsageRecorded
from projections.projection import Projection

if TYPE_CHECKING:
    from eventstore.codec import Recorded


@frozen
class UsageRow:
    """Sums over a run's UsageRecorded events; money in US dollars."""

    run_id: str
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    records: int = 0


def evolve(row: UsageRow | None, recorded: Recorded) -> UsageRow | None:
    """The sums after one more record; pure. Added in log order, so a rebuild gives the same floats."""
    before = row or UsageRow(recorded.stream)
    event: UsageRecorded = recorded.event
    return UsageRow(
        run_id=before.run_id,
        input_tokens=before.input_tokens + event.input_tokens,
        output_tokens=before.output_tokens + event.output_tokens,
        cost_usd=before.cost_usd + event.cost_usd,
        records=before.records + 1,
    )


USAGE: Projection[UsageRow] = Projection(
    name="usage", version=1, row=UsageRow, key=("run_id",), events=(UsageRecorded,), evolve=evolve
)
