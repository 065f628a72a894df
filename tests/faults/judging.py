"""The judge: open a disk that a power cut left, with the real store, and hold it against what was promised.

With `synchronous=FULL`: everything acknowledged before the cut stands, and nothing but what had begun; what stands is a
beginning of the log as it would have become, ending where one write ended; the chain holds, so each event is there
once; the tables are the fold; SQLite finds its file sound; `LostTail` is not raised; and a worker recovers, claims,
works and finishes, after which all of this still holds. With NORMAL the end may be missing, and then, wherever the
witness survived to tell, opening says so: `LostTail` in the same boot, an event in the log after a reboot.
"""

import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

import eventstore.gate
import projections
from eventstore.codec import Codec
from eventstore.errors import EventStoreError, LostTail
from eventstore.integrity import Witness
from eventstore.log import Entry
from eventstore.sqlite import SQLiteLog, sqlite3
from eventstore.workflow import RunCompleted, UsageRecorded
from tests.faults.cutting import Files
from tests.faults.recording import Mark, Record, booted, chain_holds, machine, read_log, write_files

LATER_BOOT = "boot-after-the-cut"
_NOISE = bytes(range(256)) * 128
KINDS = ("lost", "doubled", "corrupt")


@frozen
class Promise:
    """What a disk must hold that is left by a cut at one point of a record."""

    floor: int
    """The last position that was acknowledged."""
    must: int
    """The last position that must be there: what a handle that syncs acknowledged, which covers all before it, or what
    stood at the last complete close."""
    ends: frozenset[int]
    """Where the log may end: after any write that had begun."""
    opened: bool
    """Whether the log had come into being, and is the same from here on."""
    accepted: bool = True
    """Whether nothing is left of a loss that the record began with: somebody accepted it."""
    names: frozenset[str] = frozenset()
    """What else was promised, for the workload's own judge."""


Holds = Callable[[projections.Runs, frozenset[str]], list[tuple[str, str]]]
"""A workload's own judge: what is wrong, by kind, with an opened store that these promises were made for."""


def holds_nothing_else(_runs: projections.Runs, _names: frozenset[str]) -> list[tuple[str, str]]:
    """For workloads that make no promises of their own."""
    return []


@define
class Verdict:
    """What was found: `wrong` by kind (lost, doubled, corrupt), and how many acknowledged entries are gone."""

    missing: int = 0
    told: bool = False
    """Whether opening said that something is gone."""
    wrong: list[tuple[str, str]] = field(factory=list)

    def says(self, kind: str, words: str) -> None:
        """Something is wrong."""
        self.wrong.append((kind, words))


def promises(record: Record) -> Iterator[Promise]:
    """The promise at each cut: before the first step, and after each."""
    ends = {step.write: step.position for step in record.steps if isinstance(step, Mark) and step.kind == "wrote"}
    full = record.synchronous == "FULL"
    floor = must = record.base
    # What began before any step of the disk may have begun at the first cut, too, where the judge itself does it again.
    early = (mark for mark in takewhile(lambda step: isinstance(step, Mark), record.steps) if mark.kind == "began")
    begun = frozenset([record.base, *(ends[mark.write] for mark in early if mark.write in ends)])
    names: frozenset[str] = frozenset()
    opened = "agent.db" in record.start and not record.lossy
    accepted = not record.lossy
    for step in (None, *record.steps):
        if isinstance(step, Mark):
            if step.kind == "began" and step.write in ends:
                begun |= {ends[step.write]}
            elif step.kind == "acknowledged":
                floor = max(floor, step.position)
                must = max(must, step.position) if step.synced else must
            elif step.kind == "opened":
                opened, accepted = opened or full, True
            elif step.kind == "closed":
                must, opened = floor, True
            elif step.kind == "promised":
                names |= {step.name}
        yield Promise(floor, must, begun, opened, accepted, names)


@cache
def _codec(kinds: tuple[type, ...], upcasters: tuple[object, ...]) -> Codec:
    return Codec(kinds, upcasters)


@contextmanager
def one_codec() -> Iterator[None]:
    """Stores that are opened inside share their codecs, which hold no state; making one is a fourth of judging."""
    honest = eventstore.gate.Codec
    eventstore.gate.Codec = lambda kinds, upcasters: _codec(tuple(kinds), tuple(upcasters))
    try:
        yield
    finally:
        eventstore.gate.Codec = honest


def judge(
    folder: Path,
    files: Files,
    record: Record,
    promise: Promise,
    holds: Holds = holds_nothing_else,
    mend: Callable[[Path], None] = lambda _folder: None,
) -> Verdict:
    """Open the disk and tell what is wrong with it."""
    verdict = Verdict()
    try:
        _fresh(folder, files)
        with one_codec():
            mend(folder)
            try:
                _judge(folder / "agent.db", files, record, promise, verdict, holds)
            except LostTail:
                if promise.accepted:
                    raise
                _judge(folder / "agent.db", files, record, promise, verdict, holds, accept_loss=True)
    except LostTail as error:
        verdict.says("lost", f"LostTail: {error}")
    except (EventStoreError, sqlite3.Error) as error:
        verdict.says("corrupt", f"{type(error).__name__}: {error}")
    return verdict


def _fresh(folder: Path, files: Files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_files(folder, files)
    for name in files:
        if name.endswith("-wal"):  # shared memory is no file of consequence; whatever is left in it must not matter
            (folder / f"{name.removesuffix('-wal')}-shm").write_bytes(_NOISE)


def _judge(
    path: Path, files: Files, record: Record, promise: Promise, verdict: Verdict, holds: Holds, **options: Any
) -> None:
    with booted(LATER_BOOT):
        system = machine(LATER_BOOT, 8)
        with projections.connect(path, synchronous=record.synchronous, system=system, **options) as runs:
            log = runs.store.log
            entries = read_log(log)
            stands = _compare(record, promise, log.id, entries, verdict)
            verdict.wrong += holds(runs, promise.names)
            for trouble in log.examine():
                verdict.says("corrupt", f"SQLite: {trouble}")
            report = runs.check()
            if not report.ok:
                verdict.says("corrupt", f"tables differ from the fold: {report.listed} {report.troubles}")
            _go_on(runs, verdict, record.synchronous)
            after = read_log(log)
            if after[: len(entries)] != entries or not chain_holds(log.id, after):
                verdict.says("corrupt", "going on harmed the log")
        log = SQLiteLog(path, synchronous=record.synchronous)
        with log.reading() as reading:
            if reading.head().hash != after[-1].hash:
                verdict.says("lost", "what was written after recovery is gone without any cut")
        log.close()
    _tells(path, files, record, stands, verdict)


def _compare(record: Record, promise: Promise, log_id: str, entries: list[Entry], verdict: Verdict) -> int:
    """Hold what stands against what was promised; how much of the record stands."""
    same = log_id == record.log_id
    if promise.opened and not same:
        verdict.says("lost", "it is another log")
    stands = 0
    for mine, theirs in zip(record.entries if same else (), entries, strict=False):
        if mine != theirs:
            break
        stands += 1
    extra = entries[stands:]
    verdict.told = len(extra) == 1 and extra[0].stream == "runfold" and "tail-lost" in extra[0].data
    if extra and not verdict.told:
        verdict.says("corrupt", f"after position {stands} stands what was never written: {extra[0]}")
    if verdict.told and promise.accepted and record.synchronous == "FULL":
        verdict.says("corrupt", "a loss is told, and nothing is gone")
    if len({(entry.stream, entry.version) for entry in entries}) < len(entries):
        verdict.says("doubled", "a version stands twice")
    if not chain_holds(log_id, entries):
        verdict.says("corrupt", "the chain does not hold")
    verdict.missing = max(0, promise.floor - stands)
    if stands < promise.must:
        verdict.says("lost", f"{promise.must} entries were acknowledged for good, and {stands} stand")
    if stands not in promise.ends:
        verdict.says("corrupt", f"the log ends at {stands}, within a write or beyond what had begun")
    return stands


def _go_on(runs: projections.Runs, verdict: Verdict, synchronous: str) -> None:
    """Whoever starts next finds a store to work with: recovers, takes up what is there, and ends it."""
    with runs.worker("after the cut") as worker:
        worker.recover(max_crashes=1_000)
        run_id = runs.submit("after the cut")
        taken = []
        for _ in range(2):
            attempt = worker.claim()
            if attempt is None:
                break
            taken.append(attempt.run_id)
            with attempt:
                attempt.append(UsageRecorded(model="m", input_tokens=1), RunCompleted(output=synchronous))
    if not taken or (len(taken) < 2 and run_id not in taken):
        verdict.says("corrupt", f"the run that was submitted after the cut was not taken up, only {taken}")
    if zlib.crc32(run_id.encode()) % 4 == 0 and not (report := runs.check()).ok:  # it costs as much as all the rest
        verdict.says("corrupt", f"going on: tables differ from the fold: {report.listed} {report.troubles}")


def _tells(path: Path, files: Files, record: Record, stands: int, verdict: Verdict) -> None:
    """Where the witness survived and something is gone, opening says so, in words that fit the boot."""
    data = files.get(f"{path.name}-witness")
    witness = None if data is None else Witness.decode(data)
    if witness is None or witness.log_id != record.log_id or witness.position <= stands:
        return
    if not verdict.told:
        verdict.says("lost", f"the witness stands at {witness.position}, the log at {stands}, and opening went on")
    _fresh(path.parent, files)
    with booted(witness.boot_id):
        try:
            projections.connect(path, synchronous=record.synchronous).close()
        except LostTail:
            pass
        else:
            verdict.says("lost", "in the same boot, opening went on without what the witness saw")
        projections.connect(path, synchronous=record.synchronous, accept_loss=True).close()
