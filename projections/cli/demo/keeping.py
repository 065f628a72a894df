"""The demo's last step: the log is backed up, made anew from its backup, archived there, and put back from the archive.

The archive is tried on the restored copy, by a clock of the day after: a log's time never goes back, so whoever keeps
the demo's database would else have one that lives in the future. After each step the log must read as it did, to the
byte, and prove.
"""

from __future__ import annotations

import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import define, field

import projections
from eventstore.exchange import export_lines
from eventstore.gate import microseconds_now
from projections import System

if TYPE_CHECKING:
    from projections import Runs

_TWO_DAYS = 2 * 24 * 60 * 60 * 1_000_000


@define
class Kept:
    """What the last step did, and everything that was wrong. Counts are of entries."""

    backed_up: int = 0
    """Copied into the backup, and read from the log that was made of it."""
    archived: int = 0
    """That left the database, and were read from a sealed file."""
    put_back: int = 0
    wrong: list[str] = field(factory=list)


def keep(runs: Runs) -> Kept:
    """Back the store up, restore it elsewhere, archive, verify and put back what was archived there.

    Raises:
        EventStoreError: a step was refused.
    """
    kept = Kept()
    end = runs.store.head().position
    read = _as_read(runs, end)
    with tempfile.TemporaryDirectory(prefix="runfold-demo-") as folder:
        backup, copy = Path(folder, "backup"), Path(folder, "restored.db")
        kept.backed_up = runs.backup(backup).entries
        projections.restore(backup, copy)
        later = System(microseconds=lambda: microseconds_now() + _TWO_DAYS)
        with projections.connect(copy, system=later) as restored:
            _prove(restored, end, read, "restored from its backup", kept)
            kept.archived = restored.archive(keep_days=0, compress=True).released
            _prove(restored, end, read, "archived", kept)
            kept.put_back = restored.restore_days().entries
            _prove(restored, end, read, "taken out of the archive", kept)
    return kept


def _as_read(runs: Runs, end: int) -> str:
    digest = sha256()
    for line in export_lines(runs.store, until=end):
        digest.update(line)
    return digest.hexdigest()


def _prove(runs: Runs, end: int, read: str, step: str, kept: Kept) -> None:
    if _as_read(runs, end) != read:
        kept.wrong.append(f"the log reads otherwise since it was {step}")
    kept.wrong += [f"since it was {step}: {finding}" for finding in runs.verify().findings]
