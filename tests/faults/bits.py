"""Flipped bits: in the database, the WAL and the witness of a process that was killed, and in what stands beside them.

Each case flips one bit of one file. Then either nothing that can be observed has changed: every entry, by position, by
stream and by key, and every row, by key and by filter; or opening says so, or `verify` does. For the WAL of a killed
process more is asked, since SQLite itself silently drops all commits from a flipped bit on: every flip is a `LostTail`
on opening, or harmless.

Exempt, since nothing that is observed hangs on them: free pages and unused bytes, frames of the WAL that a later
checkpoint made void, the rows of `workers` (presence, not facts), and how often an outcome was settled. A flip in the
witness alone weakens it, with a warning; only two flips, in WAL and witness, could hide a tail.

A flip in a segment or a blob is said by whoever reads there, and always by `verify`. With one in a file of a backup,
what is restored is what was backed up, or the restore is refused, or says what is damaged.
"""

from __future__ import annotations

import logging
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from attrs import define, field, frozen

import projections
from eventstore.errors import EventStoreError, LostTail
from eventstore.notes import LogRecorded, MetaSet
from eventstore.sqlite import sqlite3
from eventstore.workflow import CheckpointSaved, MessageRecorded, RunCompleted, ToolCalled, UsageRecorded
from projections.tables import Range
from tests.faults.kept import LARGE, old_days
from tests.faults.payloads import grown, large
from tests.faults.recording import files_in, read_log, write_files

NAME = "agent.db"
SUFFIXES = {"database": "", "WAL": "-wal", "witness": "-witness"}
_HEADER = 100
_FRAME = 24


@frozen
class Flip:
    """One bit of one file."""

    file: str
    offset: int
    bit: int


BESIDE = {"segments": f"{NAME}-archive/logs/", "blobs": f"{NAME}-blobs/", "backup": "backup/"}
"""What stands beside the database, and where."""


@define
class Tally:
    """What the flips came to, by file: harmless, LostTail, said on opening, said by verify, silent."""

    flips: Counter[tuple[str, str]] = field(factory=Counter)
    silent: list[Flip] = field(factory=list)

    def of(self, file: str) -> dict[str, int]:
        """The counts of one file."""
        return {verdict: number for (name, verdict), number in self.flips.items() if name == file}


class Specimen:
    """The files of a process that was killed, or ended well, and what they say when they are whole."""

    def __init__(self, folder: Path, *, closed: bool = False) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.files = _built(folder / "built", closed=closed)
        self.truth = self._observed(self._laid_out({}))

    def flips(self, file: str, number: int, chance: random.Random) -> Iterator[Flip]:
        """So many bits of one file; of the WAL, only of frames that count."""
        size = len(self.files[file])
        end = _valid(self.files["WAL"]) if file == "WAL" else size
        for _ in range(number):
            yield Flip(file, chance.randrange(end), chance.randrange(8))

    def header(self) -> Iterator[Flip]:
        """Every bit of the database's header."""
        return (Flip("database", offset, bit) for offset in range(_HEADER) for bit in range(8))

    def verdict(self, flip: Flip) -> str:
        """What becomes of a flip."""
        data = bytearray(self.files[flip.file])
        data[flip.offset] ^= 1 << flip.bit
        place = self._laid_out({flip.file: bytes(data)})
        try:
            runs = projections.connect(place / NAME)
        except LostTail:
            return "LostTail"
        except Exception as error:  # noqa: BLE001 - whatever it is, it says so
            return "said on opening" if str(error) else "silent"
        with runs:
            try:
                same = _look(runs) == self.truth
            except Exception:  # noqa: BLE001
                same = False
            if same:
                return "harmless"
            try:
                return "silent" if runs.verify().ok else "said by verify"
            except Exception:  # noqa: BLE001
                return "said by verify"

    def _laid_out(self, changed: dict[str, bytes]) -> Path:
        place = self._folder / "opened"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for name, data in {**self.files, **changed}.items():
            (place / f"{NAME}{SUFFIXES[name]}").write_bytes(data)
        return place

    @staticmethod
    def _observed(place: Path) -> Any:
        with projections.connect(place / NAME) as runs:
            assert runs.verify().ok
            return _look(runs)


def _built(folder: Path, *, closed: bool) -> dict[str, bytes]:
    """Runs of every phase; unless it was closed, the later half stands in the WAL alone."""
    folder.mkdir()
    with projections.connect(folder / NAME) as runs, runs.worker("w") as worker:
        for number in range(24):
            run_id = runs.submit(f"w{number}", run_id=f"run-{number}", input={"n": number}, labels={"team": "infra"})
            attempt = worker.claim([f"w{number}"])
            attempt.append(MessageRecorded("user", f"message {number} " + "x" * (number * 40)), key=f"m{number}")
            attempt.append(UsageRecorded("m", 10 * number, number, 0.25), CheckpointSaved(1, {"state": [number] * 50}))
            attempt.append(*[CheckpointSaved(step, grown(step, seed=number)) for step in range(2, 2 + number % 3)])
            runs.store.append("notes", LogRecorded("t", "line", payload="y" * 10 ** (number % 4)), MetaSet("a", number))
            with attempt:
                if number % 4 == 0:
                    attempt.ask("c1", "ship", {"n": number})
                elif number % 4 == 1:
                    attempt.append(ToolCalled("c1", "ship", {}))
                elif number % 4 == 2:
                    attempt.append(RunCompleted({"answer": number}))
            if number % 8 == 0:
                runs.resolve(run_id, "c1", "approved", by="alice", key="r")
            if number == 12:
                runs.store.log._writer.connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        files = {} if closed else _read(folder)
    files = files or _read(folder)
    shutil.rmtree(folder)
    return files


def _read(folder: Path) -> dict[str, bytes]:
    # While it is open the database itself is read past SQLite, which drops its locks: nobody else is there.
    paths = {name: folder / f"{NAME}{suffix}" for name, suffix in SUFFIXES.items()}
    return {name: path.read_bytes() for name, path in paths.items() if path.exists()}


def _valid(wal: bytes) -> int:
    """Where the frames end that bear the WAL's present salts; what stands behind them is void."""
    page = int.from_bytes(wal[8:12], "big")
    salts = wal[16:24]
    end = 32
    while wal[end + 8 : end + 16] == salts and end + _FRAME + page <= len(wal):
        end += _FRAME + page
    return end


def _look(runs: Any) -> Any:
    """All that can be observed."""
    views = (runs.workflow_runs, runs.checkpoints, runs.confirmations, runs.usage)
    with runs.store.reading() as reading:
        entries = list(reading.read_all(after=0, limit=100_000))
        streams = sorted({entry.stream for entry in entries})
        by_stream = [list(reading.read(stream, after=0, limit=100_000)) for stream in streams]
        by_key = [reading.keyed(entry.stream, entry.key) for entry in entries if entry.key]
        versions = [reading.version(stream) for stream in streams]
    rows = [view.where() for view in views]
    ids = [row.run_id for row in runs.workflow_runs.where(order="position")]
    phases = [runs.workflow_runs.where(phase=phase) for phase in ("queued", "started", "paused", "completed")]
    filtered = [runs.confirmations.where(decision=None), runs.confirmations.where(expires_at=Range(stop=_LATER))]
    single = [runs.workflow_runs.get(run_id) for run_id in ids]
    return entries, by_stream, by_key, versions, rows, phases, filtered, single


_LATER = datetime(2100, 1, 1, tzinfo=UTC)


class Beside:
    """Archived days, blobs, and a backup of all that; and what they say when they are whole."""

    def __init__(self, folder: Path, *, compress: bool) -> None:
        self._folder = folder
        place = folder / "built"
        place.mkdir(parents=True)
        old_days(place)
        with projections.connect(place / NAME) as runs:
            runs.archive(keep_days=0, compress=compress)
            runs.store.append("notes", LogRecorded("t", "large", payload=large(1, LARGE)))
            runs.store.append("notes", LogRecorded("t", "mention", ref=runs.blobs.write(b"mentioned")))
            runs.backup(place / "backup")
            self._truth = _everything(runs)
        self._files = files_in(place)

    def flips(self, kind: str, number: int, chance: random.Random) -> Iterator[Flip]:
        """So many bits of files of a kind, of each file alike."""
        names = [name for name, data in self._files.items() if name.startswith(BESIDE[kind]) and data]
        for _ in range(number):
            name = chance.choice(names)
            yield Flip(name, chance.randrange(len(self._files[name])), chance.randrange(8))

    def verdict(self, kind: str, flip: Flip) -> str:
        """What becomes of a flip."""
        data = bytearray(self._files[flip.file])
        data[flip.offset] ^= 1 << flip.bit
        place = self._folder / "opened"
        shutil.rmtree(place, ignore_errors=True)
        write_files(place, {**self._files, flip.file: bytes(data)})
        return _of_a_backup(place, self._truth) if kind == "backup" else _of_the_log(place, self._truth)


def _of_the_log(place: Path, truth: Any) -> str:
    with projections.connect(place / NAME) as runs:
        try:
            read = "read" if _everything(runs) == truth else "silent"
        except EventStoreError:
            read = "told by who reads"
        if runs.verify().ok and runs.blobs.check().ok:
            return "silent"
        return "said by verify" if read == "read" else read


def _of_a_backup(place: Path, truth: Any) -> str:
    target = place / "restored"
    target.mkdir()
    try:
        made = projections.restore(place / "backup", target / NAME)
    except (EventStoreError, sqlite3.Error) as error:
        return "refused" if str(error) else "silent"
    if made.log.findings:
        return "told by the restore"
    with projections.connect(target / NAME) as runs:
        return "harmless" if _everything(runs) == truth else "silent"


def _everything(runs: Any) -> Any:
    blobs = {item.name: runs.blobs.read(item.name) for item in runs.store.log.blobs.each() if item.name}
    return read_log(runs.store.log), blobs


def flip_beside(folder: Path, number: int, *, seed: int = 1) -> Tally:
    """Flip so many bits of segments, plain and compressed, of blobs, and of a backup of both."""
    tally = Tally()
    chance = random.Random(seed)
    for compress in (False, True):
        specimen = Beside(folder / f"beside-{compress}", compress=compress)
        for kind in BESIDE:
            for flip in specimen.flips(kind, (number + 1) // 2, chance):
                verdict = specimen.verdict(kind, flip)
                tally.flips[kind, verdict] += 1
                if verdict == "silent":
                    tally.silent.append(flip)
    return tally


def flip_all(folder: Path, numbers: dict[str, int], *, seed: int = 1, header: bool = False) -> Tally:
    """Flip so many bits of each file, and all of the database's header if that is wished.

    The database is flipped twice: as a killed process leaves it, where the WAL has newer pages than it, and closed.
    """
    tally = Tally()
    chance = random.Random(seed)
    for closed in (False, True):
        specimen = Specimen(folder / ("closed" if closed else "killed"), closed=closed)
        files = ["database"] if closed else list(numbers)
        cases = [flip for file in files for flip in specimen.flips(file, numbers.get(file, 0), chance)]
        for flip in [*cases, *(specimen.header() if header else ())]:
            verdict = specimen.verdict(flip)
            if flip.file == "WAL" and verdict not in ("LostTail", "harmless"):
                verdict = "silent"
            tally.flips[f"{flip.file}, closed" if closed else flip.file, verdict] += 1
            if verdict == "silent":
                tally.silent.append(flip)
    return tally


@click.command()
@click.option("--flips", default=1_000, show_default=True, type=click.IntRange(1), help="Of each file.")
@click.option("--seed", default=1, show_default=True, help="Of all choices.")
def bits(flips: int, seed: int) -> None:
    """Flip bits of database, WAL, witness, segments, blobs and backups; exits 1 if a change stays silent."""
    logging.disable(logging.WARNING)  # a damaged witness says so each time
    with tempfile.TemporaryDirectory(prefix="runfold-bits-") as folder:
        tally = flip_all(Path(folder), dict.fromkeys(SUFFIXES, flips), seed=seed, header=True)
        beside = flip_beside(Path(folder), flips, seed=seed)
    tally.flips += beside.flips
    tally.silent += beside.silent
    for file in ("database", "database, closed", "WAL", "witness", *BESIDE):
        counts = tally.of(file)
        words = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
        click.echo(f"{file}: {sum(counts.values())} flips: {words}")
    click.echo(f"silent: {len(tally.silent)}")
    for flip in tally.silent[:50]:
        click.echo(f"  wrong: {flip}")
    sys.exit(1 if tally.silent else 0)
