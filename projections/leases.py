"""Who is alive: one row per worker process, renewed by one thread. Presence, not facts: outside the log.

A worker is dead when its process is gone: another boot, or the same namespace without that pid and start time, or no
row at all. Where the observer cannot see the process (another container), the worker is dead when its beat did not
change for one term on the observer's own monotonic clock. No wall clock decides it. A worker's id is new each time, so
a restart never takes its predecessor for itself.

A table that somebody altered tells nothing: then nobody is judged, and so nobody's run is taken away. What living
workers append to their runs, and what comes from outside, needs no presence and goes on.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import attrs
from attrs import frozen

from eventstore.errors import WorkersUnknown
from projections.tables import Query, Table, Tables

if TYPE_CHECKING:
    from eventstore.log import Log, Writing
    from projections.system import Identity, System


@frozen
class WorkerRow:
    """A worker process."""

    worker: str
    boot_id: str
    pid_namespace: str
    pid: int
    started: int
    term: float
    """Seconds after which an unchanged beat means death, to those who cannot see the process."""
    beat: int = 0


WORKERS: Table[WorkerRow] = Table.of("workers", WorkerRow, ("worker",))


def look(row: WorkerRow | None, me: Identity, start: int | None) -> Literal["dead", "alive", "unknown"]:
    """What an observer can tell of a worker at once; pure. `start` is when the process of its pid started, here."""
    if row is None:
        return "dead"
    if not row.boot_id or not me.boot_id:
        return "unknown"
    if row.boot_id != me.boot_id:
        return "dead"
    if row.pid_namespace != me.pid_namespace:
        return "unknown"
    return "alive" if start == row.started else "dead"


class Presence:
    """The rows of all workers of one log, and this process's watch over them."""

    def __init__(self, log: Log, tables: Tables, system: System) -> None:
        self._log = log
        self._tables = tables
        self._system = system
        self._seen: dict[str, tuple[int, float]] = {}
        self._beats = 0
        self._looked: tuple[Hashable, bool, str | None] = (object(), False, None)

    def enter(self, worker: str, term: float, beat: int = 0) -> None:
        """Write this process's row.

        Raises:
            WorkersUnknown: somebody altered the table; nothing was written.
        """
        me = self._system.identity()
        row = WorkerRow(worker, me.boot_id, me.pid_namespace, me.pid, me.started, term, beat)

        def job(transaction: Writing) -> None:
            if not self._made(transaction):
                self._tables.create(transaction, WORKERS)
            self._tables.put(transaction, WORKERS, [WORKERS.encode(row)])

        self._log.write(job)

    def beat(self, worker: str, term: float) -> None:
        """Renew the row; write it again if somebody took it away, with a beat that nobody has seen."""
        self._beats += 1

        def job(transaction: Writing) -> bool:
            row = self._row(transaction, worker)
            if row is None:
                return False
            self._tables.put(transaction, WORKERS, [WORKERS.encode(attrs.evolve(row, beat=row.beat + 1))])
            return True

        if not self._log.write(job):
            self.enter(worker, term, self._beats)

    def leave(self, worker: str) -> None:
        """Take the row away: whatever the worker still held is held by nobody."""

        def job(transaction: Writing) -> None:
            if self._made(transaction):
                self._tables.delete(transaction, WORKERS, [(worker,)])

        with suppress(WorkersUnknown):  # an altered table is read by nobody
            self._log.write(job)

    def dead(self, workers: Iterable[str | None]) -> frozenset[str | None]:
        """Those of these workers that are dead. None stands for "nobody", who is.

        Raises:
            WorkersUnknown: somebody altered the table.
        """
        wanted = set(workers)
        if not wanted:
            return frozenset()
        with self._log.reading() as reading:
            rows = {worker: self._row(reading, worker) for worker in wanted}
        me = self._system.identity()
        return frozenset(worker for worker, row in rows.items() if self._is_dead(row, me))

    def living(self) -> frozenset[str]:
        """The workers that are there and not dead."""
        rows = self._rows()
        me = self._system.identity()
        return frozenset(worker for worker, row in rows.items() if not self._is_dead(row, me))

    def sweep(self) -> None:
        """Take away the rows of the dead, which no run needs: without a row they are as dead."""
        rows = self._rows()
        me = self._system.identity()
        gone = [row for row in rows.values() if self._is_dead(row, me)]

        def job(transaction: Writing) -> None:
            # Whoever was silent for a term and beat since the look lives after all.
            still = [(row.worker,) for row in gone if self._row(transaction, row.worker) == row]
            self._tables.delete(transaction, WORKERS, still)

        if gone:
            self._log.write(job)

    def _made(self, transaction: Any) -> bool:
        """Whether the table is there, as we make it; looked at anew only when some table was made or altered."""
        shapes = self._tables.shapes(transaction)
        known, there, fault = self._looked
        if shapes != known:
            there = self._tables.exists(transaction, WORKERS)
            fault = self._tables.fault(transaction, WORKERS) if there else None
            self._looked = (shapes, there, fault)
        if fault is not None:
            raise WorkersUnknown(self._log.url, fault)
        return there

    def _row(self, view: Any, worker: str | None) -> WorkerRow | None:
        if worker is None or not self._made(view):
            return None
        values = self._tables.get(view, WORKERS, (worker,))
        return None if values is None else WORKERS.decode(values)

    def _rows(self) -> dict[str, WorkerRow]:
        with self._log.reading() as reading:
            view: Any = reading
            if not self._made(view):
                return {}
            rows = [WORKERS.decode(values) for values in self._tables.select(view, WORKERS, Query())]
        return {row.worker: row for row in rows}

    def _is_dead(self, row: WorkerRow | None, me: Identity) -> bool:
        seen = look(row, me, None if row is None else self._system.start_of(row.pid))
        if seen != "unknown" or row is None:
            return seen == "dead"
        now = self._system.monotonic()
        beat, since = self._seen.get(row.worker, (row.beat, now))
        if beat != row.beat:
            beat, since = row.beat, now
        self._seen[row.worker] = (beat, since)
        return now - since > row.term
