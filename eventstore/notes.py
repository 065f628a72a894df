"""Streams that are no run: generic log entries and named values, in any order, for ever.

`LogRecorded` belongs to no machine and may stand in any stream; a machine that names it in its table (as RUN does)
also rules over it there. `MetaSet` belongs to `NOTES`, the machine that refuses nothing of its own.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from attrs import frozen

from eventstore.machine import Machine

if TYPE_CHECKING:
    from eventstore.codec import Recorded


@frozen
class LogRecorded:
    """Something worth keeping that no other event tells: a line of a source, of a kind, about a ref."""

    source: str
    kind: str
    ref: str | None = None
    payload: Any = None


@frozen
class MetaSet:
    """A named value of the stream; the last one stands."""

    name: str
    value: Any = None


class NotesPhase(StrEnum):
    """A stream of notes is open from its first event on."""

    NEW = "new"
    OPEN = "open"


@frozen
class NotesState:
    """Nothing but the phase: notes keep no data."""

    phase: NotesPhase = NotesPhase.NEW


def _unchanged(state: NotesState, _recorded: Recorded) -> NotesState:
    return state


NOTES: Machine[NotesState] = Machine(
    name="notes",
    initial=NotesState(),
    table={phase: {LogRecorded: NotesPhase.OPEN, MetaSet: NotesPhase.OPEN} for phase in NotesPhase},
    evolve=_unchanged,
)
FREE: frozenset[type] = frozenset({LogRecorded})
"""The event types that belong to no machine."""
