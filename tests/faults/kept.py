"""Workloads of what leaves the database, or stands beside it: archived days, blobs, backups; and their own judges.

The days that are archived lie in January of a year that is over, whenever this runs; so a judge's archive run seals all
of them, and has nothing to do with the day that it runs on.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import eventstore.making
import projections
from eventstore.backups.manifest import Manifest
from eventstore.errors import EventStoreError
from eventstore.log import Entry, Segment
from eventstore.notes import LogRecorded
from eventstore.packing import BLOB_FROM
from eventstore.payloads import from_iso, to_microseconds
from eventstore.workflow import (
    CheckpointSaved,
    MessageRecorded,
    RunCompleted,
    RunDescribed,
    RunQueued,
    RunStarted,
    ToolCalled,
    ToolReturned,
)
from tests.faults.payloads import grown, large
from tests.faults.recording import Session, booted, machine, read_log
from tests.faults.workload import EARLIER_BOOT, LEASE, Workload, note

DAYS = ("2026-01-01", "2026-01-02", "2026-01-04")
_YEAR = "2026-01-"
MENTIONED = b"mentioned by an entry of an old day"
Wrong = list[tuple[str, str]]


class Calendar:
    """A clock that is set to noon of a day, and goes on by a millisecond each time it is looked at."""

    def __init__(self, day: str) -> None:
        self.to(day)

    def to(self, day: str) -> None:
        """It is noon of this day."""
        self._now = to_microseconds(from_iso(f"{day}T12:00:00Z"))

    def __call__(self) -> int:
        self._now += 1_000
        return self._now


# --- disks to begin with --------------------------------------------------------------------------------------------


def old_days(folder: Path) -> None:
    """Three days with a day between: runs that ended, with packed states, one that may go on, and notes."""
    clock = Calendar(DAYS[0])
    with _before(folder, clock) as runs:
        store = runs.store
        store.append("run-1", RunQueued("deploy", {"n": 1}), RunStarted("w"))
        for step in range(4):
            saved = MessageRecorded("user", f"{step} hello"), CheckpointSaved(step, grown(step))
            store.append("run-1", *saved, attempt=1)
        called = ToolCalled("c1", "search", {}), ToolReturned("c1", {"hits": 1})
        store.append("run-1", *called, RunCompleted("done"), attempt=1)
        store.append("run-2", RunQueued("deploy"), RunStarted("w"), key="begun")
        store.append("notes", *(note(number, 300) for number in range(20)))
        clock.to(DAYS[1])
        store.append("run-2", MessageRecorded("user", "are you there?"), attempt=1)
        store.append("run-3", RunQueued("deploy"), RunStarted("w"), RunCompleted("at once"))
        store.append("notes", note(20, 3_000), note(21, ref=sha256(MENTIONED).hexdigest()), key="large")
        clock.to(DAYS[2])
        store.append("notes", *(note(number) for number in range(22, 30)))
        store.append("run-3", RunDescribed("a title"))
        clock.to("2026-01-06")
        store.append("run-2", MessageRecorded("assistant", "yes"), attempt=1)


def _before(folder: Path, clock: Calendar) -> projections.Runs:
    with booted(EARLIER_BOOT):
        return projections.connect(folder / "agent.db", system=machine(EARLIER_BOOT, 5, clock))


def archived_days(folder: Path) -> None:
    """The old days, sealed and released."""
    old_days(folder)
    with _before(folder, Calendar("2026-01-06")) as runs:
        runs.archive(keep_days=0)


def _cut_amid(folder: Path) -> None:
    """An archive run was killed behind the release of some entries, another before it recorded a day's file."""
    old_days(folder)
    with _before(folder, Calendar("2026-01-06")) as runs:
        runs.archive(keep_days=10_000, max_days=1)
        _killed(runs, "release", keep_days=0, max_days=1)
        _killed(runs, "seal", keep_days=10_000)
    logs = folder / "agent.db-archive" / "logs"
    shutil.copy(logs / f"{DAYS[1]}.jsonl", logs / f"{DAYS[2]}.jsonl.0123456789abcdef.tmp")
    with (logs / f"{DAYS[2]}.jsonl.0123456789abcdef.tmp").open("rb+") as left:
        left.truncate(700)


class _Killed(BaseException):
    pass


def _killed(runs: projections.Runs, verb: str, **options: int) -> None:
    """An archive run that ends within the second transaction of a kind, or the first where there is but one."""
    write = runs.store.log.write
    seen = 0

    def dying(job, **more):
        def acted(writing):
            nonlocal seen
            real = getattr(writing, verb)

            def once(*arguments):
                nonlocal seen
                seen += 1
                if seen > (verb == "release"):
                    raise _Killed
                return real(*arguments)

            setattr(writing, verb, once)
            return job(writing)

        return write(acted, **more)

    runs.store.log.write = dying
    try:
        runs.archive(**options)
    except _Killed:
        return
    finally:
        del runs.store.log.write
    raise AssertionError("it was to be killed, and ended")


# --- archive --------------------------------------------------------------------------------------------------------


def _sealed(session: Session, runs: projections.Runs, **options: object) -> None:
    session.did(runs.archive, **options)
    if session.synchronous == "FULL":
        for segment in runs.segments():
            session.promise(f"sealed {segment.day}")


def archive(session: Session) -> None:
    """One day is sealed and kept, then all are, and released; entries come before, between and behind."""
    runs = session.connect()
    session.did(runs.store.append, "notes", note(40))
    _sealed(session, runs, keep_days=10_000, max_days=1)
    session.did(runs.store.append, "run-2", MessageRecorded("user", "and now?"), attempt=1)
    _sealed(session, runs, keep_days=0)
    session.did(runs.store.append, "notes", note(41, 2_000))
    session.close()
    runs = session.connect()
    _sealed(session, runs, keep_days=0)
    session.did(runs.store.append, "notes", note(42))
    session.close()


def compressed(session: Session) -> None:
    """The same compressed, with a small WAL, and the room given back to the file system."""
    runs = session.connect(checkpoint_every=15)
    _sealed(session, runs, keep_days=0, compress=True, max_days=2)
    session.did(runs.store.append, "notes", note(40))
    _sealed(session, runs, keep_days=0, compress=True, vacuum=True)
    session.did(runs.store.append, "notes", note(41))
    session.close()


def archived_again(session: Session) -> None:
    """What a killed archive run left is gone on with."""
    runs = session.connect(checkpoint_every=25)
    _sealed(session, runs, keep_days=0)
    session.did(runs.store.append, "notes", note(40))
    session.close()


def days_restored(session: Session) -> None:
    """Archived days are put back, one and then all, entries come between, and leave again."""
    runs = session.connect(checkpoint_every=30)
    session.did(runs.restore_days, [DAYS[1]])
    session.did(runs.store.append, "run-2", MessageRecorded("user", "and now?"), attempt=1)
    session.did(runs.restore_days)
    session.did(runs.store.append, "notes", note(40))
    _sealed(session, runs, keep_days=0)
    session.close()


def _days_hold(runs: projections.Runs, names: frozenset[str], *, compress: bool = False, alike: bool = True) -> Wrong:
    """Each sealed day stands whole in its file, and an archive run ends where any other does from the same log."""
    days = {segment.day: segment for segment in runs.segments()}
    wrong = [("lost", f"{name}, it was said") for name in names if name.rpartition(" ")[2] not in days]
    for segment in days.values():
        with runs.store.reading() as reading:
            blocks = reading.blocks(segment)
        runs.store.log.archive.prove(segment, blocks)
    before = read_log(runs.store.log)
    runs.archive(keep_days=0, compress=compress)
    if (again := runs.archive(keep_days=0, compress=compress)).sealed or again.released:
        wrong.append(("corrupt", "an archive run right behind another finds something to do"))
    if read_log(runs.store.log)[: len(before)] != before:
        wrong.append(("lost", "archiving it again changed what is read"))
    ended = [*map(_facts, runs.segments()), _hot(runs) if alike else []]
    if _ENDED.setdefault(before[-1].hash if before else b"", ended) != ended:
        wrong.append(("corrupt", "archiving it again ends in another state than it did from another cut"))
    files = {file.name for file in (Path(f"{runs.store.log.url}-archive") / "logs").iterdir()}
    left = files - {segment.file for segment in runs.segments()}
    return wrong + [("corrupt", f"{name} is left over for ever") for name in sorted(left)]


_ENDED: dict[bytes, list[object]] = {}
"""By the hash of the last entry that stood, how archiving that log ended the first time."""


def _facts(segment: Segment) -> tuple[object, ...]:
    # Where it was sealed, and where it lies, are the run's own.
    return (segment.day, segment.last, segment.after, segment.digest) if segment.day.startswith(_YEAR) else ()


def _hot(runs: projections.Runs) -> list[int]:
    last = max((segment.last for segment in runs.segments() if segment.day.startswith(_YEAR)), default=0)
    with runs.store.reading() as reading:
        return [row[0] for row in reading.execute("SELECT position FROM events WHERE position <= ?", (last,))]


# --- blobs ----------------------------------------------------------------------------------------------------------

LARGE = BLOB_FROM + 10_000
_NO_TIME = timedelta(0)


def _large(number: int) -> LogRecorded:
    """An entry whose payload goes into a blob by itself."""
    return LogRecorded(source="workload", kind="large", ref=str(number), payload=large(number, LARGE))


def blobs(session: Session) -> None:
    """Blobs are written, whole and as streams, twice, and mentioned; large payloads and saved files become some."""
    runs = session.connect()
    for data in (b"first", b"second " * 200, b"first"):
        _kept(session, runs.blobs.write, data)
    _kept(session, lambda data: runs.blobs.write(BytesIO(data)), b"streamed " * 300)
    session.did(runs.store.append, "notes", note(1, ref=sha256(b"first").hexdigest()))
    session.did(runs.store.append, "notes", _large(2), note(3))
    session.did(runs.store.append, "run-1", RunQueued("deploy"), RunStarted("w"), CheckpointSaved(1, large(4, LARGE)))
    session.did(runs.store.append, "notes", _large(2))
    made = session.folder.with_name("made")
    (made / "sub").mkdir(parents=True)
    (made / "a.txt").write_bytes(b"a file")
    (made / "sub" / "b.txt").write_bytes(b"first")
    session.did(runs.submit, "deploy", run_id="run-2")
    worker = session.did(runs.worker, "w", lease=LEASE)
    session.did(session.did(worker.claim).save_files, made)
    session.did(worker.close)
    session.close()


def _kept(session: Session, write, data: bytes) -> None:
    digest = session.did(write, data)
    session.promise(f"blob {digest} {data.hex()}")


def _before_collecting(folder: Path) -> None:
    """Archived days, one of which mentions a blob; others that nobody mentions; what killed processes left."""
    archived_days(folder)
    with projections.connect(folder / "agent.db") as runs:
        runs.store.append("notes", _large(50))
        for data in (MENTIONED, *(b"nobody's %d" % number for number in range(3)), b"soon needed", b"found again"):
            runs.blobs.write(data)
        root = runs.store.log.blobs.root
    aside = root / sha256(MENTIONED).hexdigest()[:2] / sha256(MENTIONED).hexdigest()[2:]
    aside.rename(aside.with_name(f"{aside.name}.aside"))
    aside.with_name(f"{aside.name}.0123456789abcdef.tmp").write_bytes(b"half")


def collecting(session: Session) -> None:
    """What nobody mentions goes, beside one who mentions a blob, one who writes a blob again, and large payloads."""
    session.promise(f"blob {sha256(MENTIONED).hexdigest()} {MENTIONED.hex()}")
    runs = session.connect(checkpoint_every=20)
    _kept(session, runs.blobs.write, b"soon needed")
    session.did(runs.store.append, "notes", note(60, ref=sha256(b"soon needed").hexdigest()))
    let_go = runs.store.log.blobs.let_go

    def beside(item, before):
        if item.name == sha256(b"found again").hexdigest():
            _kept(session, runs.blobs.write, b"found again")
        return let_go(item, before)

    runs.store.log.blobs.let_go = beside
    runs.blobs.gc(min_age=_NO_TIME)
    session.did(runs.store.append, "notes", note(61, ref=sha256(b"found again").hexdigest()), _large(62))
    runs.blobs.gc(min_age=_NO_TIME)
    session.close()


def _blobs_hold(runs: projections.Runs, names: frozenset[str]) -> Wrong:
    """Each blob that was acknowledged can be read, and what an entry needs also behind a collection."""
    wrong: Wrong = []
    for name in names:
        _, digest, data = name.split(" ")
        try:
            found = runs.blobs.read(digest)
        except EventStoreError as error:
            wrong.append(("lost", str(error)))
            continue
        if found != bytes.fromhex(data):
            wrong.append(("corrupt", f"the blob {digest} holds other bytes"))
    wrong += [("lost", str(fault)) for fault in runs.blobs.check().faults]
    entries = read_log(runs.store.log)
    runs.blobs.gc(min_age=_NO_TIME)
    wrong += [("lost", f"behind a collection: {fault}") for fault in runs.blobs.check().faults]
    if read_log(runs.store.log) != entries:
        wrong.append(("lost", "a collection changed what is read"))
    mentioned = {digest for entry in entries for digest in _DIGEST.findall(entry.data)}
    gone = [name for name in names if name.split(" ")[1] in mentioned and not runs.blobs.exists(name.split(" ")[1])]
    return wrong + [("lost", f"a collection took the {name}, which an entry mentions") for name in gone]


_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


# --- backups --------------------------------------------------------------------------------------------------------


def backup(session: Session) -> None:
    """A first backup, one that finds nothing new, one of what was appended, archived and written as blobs since."""
    runs = session.connect(checkpoint_every=25)
    session.did(runs.store.append, "notes", _large(60), note(61))
    for number in range(3):
        position = runs.backup(session.folder / "backup").position
        session.promise(f"backup {position}")
        if number == 1:
            session.did(runs.store.append, "notes", note(62), note(63, 500))
            _kept(session, runs.blobs.write, b"mentioned")
            session.did(runs.store.append, "notes", note(64, ref=sha256(b"mentioned").hexdigest()))
            session.did(runs.archive, keep_days=0)
    session.close()


def _backup_holds(runs: projections.Runs, names: frozenset[str]) -> Wrong:
    """A backup that ended restores, proves, and is a beginning of the log; the next one goes on from what stands."""
    wrong: Wrong = []
    here = Path(runs.store.log.url).parent
    entries = read_log(runs.store.log)
    promised = max((int(name.split(" ")[1]) for name in names if name.startswith("backup ")), default=0)
    if (here / "backup" / "backup.json").exists():
        wrong += _restored(here, entries, promised, "what a cut left")
    elif promised:
        wrong.append(("lost", "a backup ended, and there is none"))
    made = runs.backup(here / "backup", everything=True)
    wrong += [("lost", f"a backup behind the cut: {finding}") for finding in made.findings]
    return wrong + _restored(here, entries, len(entries), "a backup behind the cut")


def _restored(here: Path, entries: list[Entry], least: int, what: str) -> Wrong:
    wrong: Wrong = []
    place = here.parent / "restored"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        made = projections.restore(here / "backup", place / "agent.db")
        with projections.connect(place / "agent.db") as runs:
            found = read_log(runs.store.log)
            wrong += [("corrupt", f"{what}: {finding}") for finding in (*made.log.findings, *runs.verify().findings)]
    except EventStoreError as error:
        return [("lost", f"{what} cannot be restored: {error}")]
    if found != entries[: len(found)]:
        wrong.append(("corrupt", f"{what} holds other entries than the log"))
    if len(found) < least:
        wrong.append(("lost", f"{what} was to hold {least} entries, and holds {len(found)}"))
    return wrong


def _backed_up(folder: Path) -> None:
    """A backup of archived days and a blob, and no database."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        archived_days(Path(name))
        with projections.connect(Path(name, "agent.db")) as runs:
            runs.store.append("notes", _large(60), note(61))
            runs.backup(folder / "backup")


def restored(session: Session) -> None:
    """A backup is made a log of, which is then gone on with."""
    last = Manifest.decode((session.folder / "backup" / "backup.json").read_bytes()).position
    with session.writing(last), _folders_alike():
        projections.restore(session.folder / "backup", session.path, synchronous=session.synchronous)
    runs = session.connect()
    session.did(runs.store.append, "notes", note(70))
    session.close()


def _restored_again(folder: Path) -> None:
    """Whoever finds no database restores it once more; what the first attempt left is in nobody's way."""
    if not (folder / "agent.db").exists():
        with _folders_alike():
            projections.restore(folder / "backup", folder / "agent.db")


@contextmanager
def _folders_alike() -> Iterator[None]:
    """A folder that stands again after a cut is known to be the one that stood: here it has another inode each time."""
    honest = eventstore.making._mark
    eventstore.making._mark = lambda folder: int(folder.is_dir())
    try:
        yield
    finally:
        eventstore.making._mark = honest


def _nothing_left(runs: projections.Runs, names: frozenset[str]) -> Wrong:
    here = Path(runs.store.log.url).parent
    left = {path.name for path in here.iterdir() if not path.name.startswith("agent.db")} - {"backup"}
    left = {name for name in left if not name.startswith(".agent.db.importing-")}  # the next maker sweeps them up
    faults = runs.blobs.check().faults
    return [("corrupt", f"{left} is left over") for _ in left] + [("lost", str(fault)) for fault in faults]


_WITHOUT_NORMAL = ("FULL",)
KEPT = (
    Workload("old days archived", archive, old_days, holds=_days_hold),
    Workload("old days compressed, and vacuumed", compressed, old_days, holds=partial(_days_hold, compress=True)),
    Workload("archived again after an earlier cut", archived_again, _cut_amid, holds=_days_hold),
    Workload("archived days put back", days_restored, archived_days, holds=partial(_days_hold, alike=False)),
    Workload("blobs", blobs, share=0.5, holds=_blobs_hold),
    Workload("blobs collected", collecting, _before_collecting, share=0.5, holds=_blobs_hold),
    Workload("backups", backup, old_days, synchronous=_WITHOUT_NORMAL, share=0.4, holds=_backup_holds),
    Workload(
        "a backup restored",
        restored,
        _backed_up,
        synchronous=_WITHOUT_NORMAL,
        share=0.5,
        holds=_nothing_left,
        mend=_restored_again,
    ),
)
