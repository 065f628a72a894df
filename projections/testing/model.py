"""What is expected of a store of runs, in plain values: the model that `DaemonMachine` compares with.

It is told every entry that was committed, reads its JSON, and knows nothing of the machine's table, of folds or of
rows. So what it says of a run is a second opinion, and where the two differ one of them is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from eventstore.log import Entry
    from projections.workflow_runs import RunRow

ENDS = {
    "RunCompleted": "completed",
    "RunFailed": "failed",
    "RunCrashed": "crashed",
    "RunInterrupted": "interrupted",
    "RunDropped": "dropped",
    "RunCancelled": "cancelled",
}
COMPARED = (
    "phase", "workflow", "parent_id", "priority", "position", "worker", "attempt", "crashes", "waiting_for",
    "waiting_until", "not_before", "open_questions", "interrupt_requested",
)  # fmt: skip
"""Columns of a run's row that the model knows as well."""


@attrs.define
class ModelRun:
    """A run as the model sees it."""

    run_id: str
    position: int
    workflow: str
    priority: int = 0
    parent_id: str | None = None
    phase: str = "queued"
    worker: str | None = None
    attempt: int = 0
    crashes: int = 0
    waiting_for: str | None = None
    waiting_until: datetime | None = None
    not_before: datetime | None = None
    interrupt_requested: bool = False
    questions: dict[str, str | None] = attrs.field(factory=dict)
    """Call id to decision; None while it waits."""
    expires: dict[str, datetime] = attrs.field(factory=dict)
    calls: dict[str, str] = attrs.field(factory=dict)
    """Call id to "open" or "returned"."""

    @property
    def active(self) -> bool:
        """Whether there is something left to do."""
        return self.phase in ("queued", "started", "paused")

    @property
    def unanswered(self) -> list[str]:
        """The call ids whose question waits."""
        return sorted(call_id for call_id, decision in self.questions.items() if decision is None)

    @property
    def unreturned(self) -> list[str]:
        """The calls of which nobody knows how they ended."""
        return sorted(call_id for call_id, state in self.calls.items() if state == "open")

    @property
    def open_questions(self) -> int:
        """How many questions wait."""
        return len(self.unanswered)


class Model:
    """All runs, and every entry that was committed, in order."""

    def __init__(self, *, max_crashes: int) -> None:
        self.runs: dict[str, ModelRun] = {}
        self.entries: list[Entry] = []
        self.max_crashes = max_crashes
        self.alive: set[str] = set()
        """Ids of the workers that live."""

    # --- what was committed -------------------------------------------------------------------------------------

    def committed(self, entries: Sequence[Entry]) -> None:
        """Take in one transaction's entries."""
        for entry in entries:
            self.entries.append(entry)
            self._take(entry, json.loads(entry.data))

    def _take(self, entry: Entry, data: dict[str, Any]) -> None:
        if entry.type == "RunQueued":
            assert entry.stream not in self.runs, f"{entry.stream} was queued twice"
            self.runs[entry.stream] = ModelRun(
                entry.stream,
                entry.position,
                data["workflow"],
                data.get("priority", 0),
                data.get("parent_id"),
                not_before=_moment(data.get("not_before")),
            )
            return
        run = self.runs[entry.stream]
        assert run.active, f"{run.run_id} is {run.phase} and took {entry.type}"
        match entry.type:
            case "RunStarted" | "RunResumed":
                self._begin(run, entry, data["worker"])
            case "RunPaused":
                run.phase = "paused"
                run.waiting_for, run.waiting_until = data["waiting_for"], _moment(data.get("until"))
            case "RunRequeued":
                run.phase, run.not_before = "queued", _moment(data.get("not_before"))
            case "ConfirmationRequested":
                run.questions[data["call_id"]] = None
                if (until := _moment(data.get("expires_at"))) is not None:
                    run.expires[data["call_id"]] = until
            case "ConfirmationResolved":
                self._decide(run, data["call_id"], data["decision"])
            case "ConfirmationExpired":
                self._decide(run, data["call_id"], "expired")
            case "ToolCalled":
                assert run.calls.get(data["call_id"]) != "returned", "a call that returned was opened again"
                run.calls[data["call_id"]] = "open"
            case "ToolReturned":
                assert run.calls[data["call_id"]] == "open", "a call returned twice"
                run.calls[data["call_id"]] = "returned"
            case "InterruptRequested":
                run.interrupt_requested = True
            case end if end in ENDS:
                run.crashes += end == "RunCrashed"
                run.phase = ENDS[end]
                run.waiting_for = run.waiting_until = run.not_before = None
                run.questions, run.expires, run.calls = {}, {}, {}

    def _begin(self, run: ModelRun, entry: Entry, worker: str) -> None:
        assert entry.attempt == run.attempt + 1, f"attempt {entry.attempt} came after {run.attempt}"
        if run.phase == "started":
            assert run.worker not in self.alive, f"{run.run_id} was taken from {run.worker}, which lives"
            run.crashes += 1
        run.phase, run.worker, run.attempt = "started", worker, run.attempt + 1
        run.waiting_for = run.waiting_until = run.not_before = None

    @staticmethod
    def _decide(run: ModelRun, call_id: str, decision: str) -> None:
        assert run.questions[call_id] is None, f"{call_id} was decided twice"
        run.questions[call_id] = decision

    # --- what is expected ---------------------------------------------------------------------------------------

    def runnable(self, run: ModelRun, now: datetime) -> bool:
        """Whether a worker may take the run up, be it to end it."""
        if run.phase == "started":
            return run.worker not in self.alive
        if run.phase == "queued":
            return run.interrupt_requested or run.not_before is None or run.not_before <= now
        if run.phase != "paused":
            return False
        if run.interrupt_requested:
            return True
        children = any(other.active for other in self.runs.values() if other.parent_id == run.run_id)
        blocked = (
            run.unanswered
            or (run.waiting_for == "run" and children)
            or (run.waiting_for == "operator" and run.unreturned)
        )
        return not blocked and (run.waiting_until is None or run.waiting_until <= now)

    def ends(self, run: ModelRun) -> str | None:
        """How a run ends instead of being taken up."""
        if run.interrupt_requested:
            return "interrupted"
        return "crashed" if run.phase == "started" and run.crashes >= self.max_crashes else None

    def claimable(self, now: datetime) -> list[ModelRun]:
        """The runs that a worker would take up now, the next one first."""
        order = {"started": 0, "paused": 1, "queued": 2}
        found = [run for run in self.runs.values() if self.runnable(run, now)]
        return sorted(
            found, key=lambda run: (order[run.phase], -run.priority if run.phase == "queued" else 0, run.position)
        )

    def next_claim(self, now: datetime) -> str | None:
        """The run that a claim returns now."""
        return next((run.run_id for run in self.claimable(now) if self.ends(run) is None), None)

    def overdue(self, now: datetime) -> set[tuple[str, str]]:
        """The questions whose time has passed."""
        return {
            (run.run_id, call_id)
            for run in self.runs.values()
            for call_id in run.unanswered
            if call_id in run.expires and run.expires[call_id] <= now
        }

    def lost(self) -> list[ModelRun]:
        """The runs that a dead worker held, in the order in which they arrived."""
        return [run for run in self.runs.values() if run.phase == "started" and run.worker not in self.alive]

    def differences(self, rows: Iterable[RunRow]) -> list[str]:
        """Where rows of `workflow_runs` are not what the model holds."""
        standing = {row.run_id: row for row in rows}
        found = [f"{run_id} has no row" for run_id in self.runs if run_id not in standing]
        for run_id, row in standing.items():
            if (run := self.runs.get(run_id)) is None:
                found.append(f"{run_id} should have no row")
                continue
            found += [
                f"{run_id}: {name} is {getattr(row, name)!r} and should be {getattr(run, name)!r}"
                for name in COMPARED
                if getattr(row, name) != getattr(run, name)
            ]
        return found


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
