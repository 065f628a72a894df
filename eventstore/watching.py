"""The joints at which a store is measured: what it tells of its work, where somebody listens.

Nobody listens unless the program measures (see `metrics`), and a joint then costs a look at an attribute. Whoever
listens must be quick, and must never raise: what is told is no fact, and must cost none.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol


class Instrument(NamedTuple):
    """Something that is measured, named after OpenTelemetry's semantic conventions."""

    name: str
    kind: str
    """"counter", "histogram" or "gauge"."""
    unit: str
    description: str
    attribute: str | None = None
    """What tells its series apart; of few values, and never an id."""
    bounds: tuple[float, ...] | None = None
    """Of a histogram: where its buckets end."""


class Watch(Protocol):
    """Who is told."""

    def clock(self) -> float:
        """Seconds of a clock that never goes back."""

    def appending(self) -> AbstractContextManager[None]:
        """Goes round an append: it is timed, and a refusal is counted by its kind."""

    def placed(self, transaction: Any, before: Any, recorded: Sequence[Any]) -> None:
        """What this transaction is about to commit, as a `log.Fold`; it counts once that is committed."""

    def committed(self, transaction: Any, writes: int, begun: float, ready: float | None) -> None:
        """A transaction is durable.

        Args:
            transaction: as `placed` knows it.
            writes: how many callers' writes it held.
            begun: when the write lock was asked for, by `clock`.
            ready: when all was written and only the disk was waited for; None where there is no disk.
        """

    def add(self, instrument: Instrument, amount: int = 1, attribute: str | None = None) -> None:
        """Count something."""

    def close(self) -> None:
        """The store is closed: its gauges are read no more."""
