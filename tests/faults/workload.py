"""What a workload is, and the disks and entries that most of them begin with."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from attrs import frozen

import projections
from eventstore.notes import LogRecorded
from eventstore.workflow import CheckpointSaved, RunCompleted, UsageRecorded
from tests.faults.judging import Holds, holds_nothing_else
from tests.faults.payloads import noise
from tests.faults.recording import Session, booted, machine

EARLIER_BOOT = "boot-before-all"
LEASE = timedelta(hours=12)


@frozen
class Workload:
    """A program to cut, and the disk that it begins with."""

    name: str
    perform: Callable[[Session], None]
    start: Callable[[Path], None] = lambda _folder: None
    synchronous: tuple[str, ...] = ("FULL", "NORMAL")
    share: float = 1.0
    """Of the disks that each gets; less where they are large."""
    holds: Holds = holds_nothing_else
    mend: Callable[[Path], None] = lambda _folder: None
    """What is done with a disk that a cut left before the store is opened: what had made the store is done again."""


def note(number: int, size: int = 0, ref: str | None = None) -> LogRecorded:
    """A generic entry whose payload takes about so many bytes."""
    return LogRecorded(source="workload", kind="note", ref=ref or str(number), payload=noise(number, size))


def some_runs(path: Path) -> None:
    """Runs of a process that lost its power: one ended, three were begun, two wait."""
    with booted(EARLIER_BOOT), projections.connect(path / "agent.db", system=machine(EARLIER_BOOT, 5)) as runs:
        worker = runs.worker("before", lease=LEASE)
        for number in range(6):
            runs.submit("deploy", input=number, run_id=f"run-{number}")
        for number in range(4):
            attempt = worker.claim()
            attempt.append(UsageRecorded("m", number, 1, 0.5), CheckpointSaved(step=1, state=number))
            if number == 0:
                attempt.append(RunCompleted())
        runs.interrupt("run-1", by="operator")
        # No goodbye: its rows stay, as those of a process do that lost its power.
        worker._closed.set()
        worker._renewer.join()
