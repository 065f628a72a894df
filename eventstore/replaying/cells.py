"""Cells: where streams stand, as far as a machine's table and fence go.

Made from the machine's own table and fence when first entered, and a dict lookup from then on: so the rules are not
written down a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from eventstore.errors import Refused
from eventstore.gate import Gate
from eventstore.machine import Machine
from eventstore.notes import FREE
from eventstore.workflow import RunResumed, RunStarted, RunState

_KEPT_ATTEMPTS = 100
"""Attempts of a run whose cells are kept for all runs."""

Act = Callable[[Any, Any, str, int], None]
"""`(replay, track, head, position)`: keep what later entries may be judged by."""


class NotPlain(Exception):
    """No error: the entry has to be looked at."""


class Cell(dict[tuple[str, str], tuple["Cell", "Act | None"]]):
    """Machine, phase and attempt; and by (stored type, attempt as text) where each entry leads."""

    def __init__(self, cells: Cells, phase: Any, attempt: int) -> None:
        super().__init__()
        self.cells = cells
        self.phase = phase
        self.attempt = attempt

    def __missing__(self, key: tuple[str, str]) -> tuple[Cell, Act | None]:
        stored, given = key
        kind: Any = self.cells.kind(stored)
        leads = self.cells.after(self, kind, int(given) if given else None), self.cells.acts.get(kind)
        if leads[0].attempt <= _KEPT_ATTEMPTS:
            self[key] = leads
        return leads


class Cells:
    """The cells of one machine, or of streams that have none yet."""

    def __init__(self, gate: Gate, machine: Machine[Any] | None, acts: Mapping[Any, Act]) -> None:
        self.kind = gate.codec.kind
        self.machine = machine
        self.acts = acts
        self._known: dict[tuple[Any, int], Cell] = {}
        self.initial = self.cell(None if machine is None else machine.initial.phase, 0)

    def cell(self, phase: Any, attempt: int) -> Cell:
        """The cell of a phase and an attempt."""
        found = self._known.get((phase, attempt))
        if found is None:
            found = Cell(self, phase, attempt)
            if attempt <= _KEPT_ATTEMPTS:
                self._known[phase, attempt] = found
        return found

    def after(self, cell: Cell, kind: Any, attempt: int | None) -> Cell:
        """The cell after an event of this class, by table and fence.

        Raises:
            NotPlain: they do not let it pass, or do not know it.
        """
        machine = self.machine
        if kind in FREE and (machine is None or kind not in machine.events):
            return cell
        if machine is None or (kind in FREE and cell is self.initial):
            raise NotPlain
        phase = machine.table[cell.phase].get(kind)
        if phase is None:
            raise NotPlain
        if machine.fence is None:
            return self.cell(phase, 0)
        try:
            given = machine.fence(RunState(phase=cell.phase, attempt=cell.attempt), "", kind, attempt, None)
        except Refused:
            raise NotPlain from None
        if given != attempt:
            raise NotPlain
        return self.cell(phase, attempt if attempt is not None and kind in (RunStarted, RunResumed) else cell.attempt)


class Opaque(Cell):
    """Where nothing is plain."""

    def __missing__(self, key: tuple[str, str]) -> tuple[Cell, Act | None]:
        raise NotPlain
