"""Mutants of archive, blobs and backup: each does one thing in the wrong order, or leaves one look out.

Most are caught by doing just what the left-out look is for: a file that is damaged, a process that dies, somebody who
comes between. What only a power cut shows is caught by the power harness.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from hashlib import sha256
from itertools import count
from pathlib import Path

import eventstore.blobfiles
import eventstore.blobs
import eventstore.files.disk
import projections
from eventstore.archiving import _Run
from eventstore.backups import backing_up, copying
from eventstore.backups.manifest import MANIFEST, Manifest
from eventstore.blobfiles import BlobFiles
from eventstore.blobs import MIN_AGE, _Collection
from eventstore.errors import EventStoreError
from eventstore.files import OperatingSystem
from eventstore.segments import Archive
from eventstore.sqlite import SQLiteLog, sqlite3
from eventstore.sqlite.archived import Archived
from tests.faults.kept import MENTIONED, archived_days, old_days
from tests.faults.mutants import Mutant, Plant, Reports, cut, instead
from tests.faults.power import FAST
from tests.faults.recording import read_log
from tests.faults.workload import note

_WANTED = b"wanted"
_DIGEST = sha256(_WANTED).hexdigest()


# --- planting -------------------------------------------------------------------------------------------------------


def _unsynced(which: Callable[[Path], bool]):
    honest = eventstore.files.disk._sync_folder
    lax = lambda folder: None if which(folder) else honest(folder)  # noqa: E731
    return instead(eventstore.files.disk, "_sync_folder", lax)


def gives_segments_names_that_are_not_synced():
    """The folder of the segments is never synced."""
    return _unsynced(lambda folder: folder.name == "logs")


def gives_blobs_names_that_are_not_synced():
    """The folders of blobs are never synced."""
    return _unsynced(lambda folder: folder.parent.name.endswith("-blobs"))


def makes_folders_that_are_not_synced():
    """A folder that was made is not synced into the one above it."""
    return instead(OperatingSystem, "folder", lambda _self, path: path.mkdir(parents=True, exist_ok=True))


def renames_what_is_not_synced():
    """A file gets its name before its bytes are durable."""

    @contextmanager
    def writing(_self, path, **_options):
        system = eventstore.files.disk.os
        temporary = path.with_name(f"{path.name}.{system.urandom(8).hex()}.tmp")
        flags = system.O_WRONLY | system.O_CREAT | system.O_EXCL
        with system.fdopen(system.open(temporary, flags, 0o600), "wb") as file:
            yield file
        system.replace(temporary, path)
        eventstore.files.disk._sync_folder(path.parent)

    return instead(OperatingSystem, "writing", writing)


def reads_no_segment_back():
    """What was written, or lay there, is taken for what was sealed."""
    return instead(Archive, "prove", lambda *_: None)


@contextmanager
def records_a_day_before_its_file_is_published():
    """The row is committed first, then the file gets its name."""
    write, record = Archive.write, _Run._record

    def early(archive, *arguments, **options):
        sealed = write(archive, *arguments, **options)
        path = archive.path(sealed.segment.file)
        path.rename(path.with_name("early"))
        return sealed

    def recorded(run, segment):
        done = record(run, segment)
        path = run.folder.path(segment.file)
        path.with_name("early").rename(path)
        return done

    with instead(Archive, "write", early), instead(_Run, "_record", recorded), reads_no_segment_back():
        yield


def releases_days_that_are_not_recorded():
    """The file stands, and nothing says so."""
    return instead(_Run, "_record", lambda _run, _segment: True)


def releases_runs_that_may_go_on():
    """Every stream is as good as ended."""
    return instead(_Run, "_judge", lambda _run, _stream: 0)


def releases_the_last_entry_of_a_stream():
    """Nothing of it is spared."""

    def leaving(archived, stream, after, until, spared, limit):
        sql = (
            "SELECT position, 1 FROM events WHERE stream = ? AND position > ? AND position <= ? AND version > ? LIMIT ?"
        )
        return archived._execute(sql, (stream, after, until, spared, limit)).fetchall()

    return instead(Archived, "leaving", leaving)


@contextmanager
def collects_the_young():
    """What was written a moment ago goes as well as what is old."""
    honest = _Collection.__init__
    with instead(_Collection, "__init__", lambda self, log, files, *_ages: honest(self, log, files, 2**62, 2**62)):
        yield


@contextmanager
def collects_without_reading_segments():
    """What left the database is not asked which blobs it mentions."""
    honest = eventstore.blobs._walked

    def walked(log, after, until, types=None):
        with log.reading() as view:
            here = {position for (position,) in view.execute("SELECT position FROM events")}
        return (entry for entry in honest(log, after, until, types) if entry.position in here)

    with instead(eventstore.blobs, "_walked", walked):
        yield


@contextmanager
def collects_without_a_look_under_the_lock():
    """What was appended since the log was read is not looked at."""
    honest = _Collection._let_go

    def blind(collection, turn, writing):
        collection._seen = writing.head().position
        return honest(collection, turn, writing)

    with instead(_Collection, "_let_go", blind):
        yield


@contextmanager
def writes_rows_before_their_blobs():
    """The entry is committed, and its blob is written when the next one comes."""
    write, keep = SQLiteLog.write, BlobFiles.write
    waiting: list[tuple[BlobFiles, bytes]] = []

    def late(blobs, source):
        if not isinstance(source, bytes):
            return keep(blobs, source)
        waiting.append((blobs, source))
        return sha256(source).hexdigest()

    def flushing(log, job, **options):
        while waiting:
            keep(*waiting.pop())
        return write(log, job, **options)

    with instead(SQLiteLog, "write", flushing), instead(BlobFiles, "write", late):
        yield


@contextmanager
def writes_the_manifest_first():
    """A backup says that it holds what it is still to copy."""
    honest = backing_up._grown

    def grown(log, folder, last, moment, **options):
        head = moment.head
        said = Manifest(log.id, head.position, head.hash.hex(), "2026-01-01T00:00:00Z")
        (folder / MANIFEST).write_bytes(said.encode())
        return honest(log, folder, last, moment, **options)

    with instead(backing_up, "_grown", grown):
        yield


def restores_without_proof():
    """Each entry of a backup is believed."""
    return instead(copying, "chain", lambda _previous, entry: entry.hash)


def copies_blobs_unseen():
    """A blob gets its name in a copy whether or not it arrived as it was."""
    return instead(BlobFiles, "is_sound", lambda *_: True)


# --- the harnesses --------------------------------------------------------------------------------------------------


@contextmanager
def _store(start: Callable[[Path], None] | None = None) -> Iterator[projections.Runs]:
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        if start is not None:
            start(Path(folder))
        with projections.connect(Path(folder, "agent.db")) as runs:
            yield runs


def _told(act: Callable[[], object], what: str) -> Reports:
    try:
        act()
    except EventStoreError:
        return []
    return [what]


def damaged_days(plant: Plant) -> Reports:
    """A sealed day is damaged: nothing of it is released, and whoever would is told."""
    with _store(old_days) as runs:
        runs.archive(keep_days=100_000)
        before = read_log(runs.store.log)
        file = runs.store.log.archive.path(runs.segments()[0].file)
        file.write_bytes(file.read_bytes().replace(b"hello", b"HELLO"))
        with plant():
            wrong = _told(lambda: runs.archive(keep_days=0), "entries of a damaged day were released")
        try:
            return wrong if read_log(runs.store.log) == before else ["the log reads differently"]
        except EventStoreError as error:
            return [*wrong, f"lost: {error}"]


def damaged_writing(plant: Plant) -> Reports:
    """The disk takes other bytes than it was given: the day is neither recorded nor released."""
    honest = Archive._stored
    with _store(old_days) as runs:
        before = read_log(runs.store.log)
        harmed = lambda *given: honest(*given).replace(b"hello", b"HELLO")  # noqa: E731
        with plant(), instead(Archive, "_stored", harmed):
            wrong = _told(lambda: runs.archive(keep_days=0), "a day was sealed that is not what was written")
        try:
            return wrong if read_log(runs.store.log) == before else ["the log reads differently"]
        except EventStoreError as error:
            return [*wrong, f"lost: {error}"]


class _Killed(BaseException):
    pass


def killed_behind_a_record(plant: Plant) -> Reports:
    """The process dies when a day was recorded: its file is there."""
    honest = _Run._record

    def dying(run, segment):
        done = honest(run, segment)
        if done:
            raise _Killed
        return done

    with _store(old_days) as runs:
        with instead(_Run, "_record", dying), plant(), suppress(_Killed):
            runs.archive(keep_days=0)
        return [finding.fact for finding in runs.verify().findings]


def archived(plant: Plant) -> Reports:
    """All days are archived: everything reads as before, and what may go on stands in the database."""
    with _store(old_days) as runs:
        before = read_log(runs.store.log)
        try:
            with plant():
                runs.archive(keep_days=0)
            if read_log(runs.store.log)[: len(before)] != before:
                return ["the log reads differently"]
        except (EventStoreError, sqlite3.Error) as error:
            return [f"{type(error).__name__}: {error}"]
        with runs.store.reading() as reading:
            hot = {position for (position,) in reading.execute("SELECT position FROM events")}
        return [f"{e.position} of {e.stream} left" for e in before if e.stream == "run-2" and e.position not in hot]


def collected(plant: Plant) -> Reports:
    """Blobs that a day mentions which left, that nobody mentions yet, and that are mentioned while `gc` reads."""
    look, wrong = _Collection._look, []
    with _store(archived_days) as runs:
        looks = count()

        def beside(collection):
            came = look(collection)
            if next(looks):  # the last one before the lock is taken, for there is one turn
                runs.store.append("notes", note(1, ref=_DIGEST))
            return came

        none = timedelta(0)
        for data, age, reading in ((MENTIONED, none, look), (b"young", MIN_AGE, look), (_WANTED, none, beside)):
            digest = runs.blobs.write(data)
            with plant(), instead(_Collection, "_look", reading):
                runs.blobs.gc(min_age=age)
            if not runs.blobs.exists(digest):
                wrong.append(f"a collection took what holds {data!r}")
    return wrong


def killed_backup(plant: Plant) -> Reports:
    """A first backup is killed when it inserts its entries: nothing says that it ended."""

    def dying(*_given, **_options):
        raise _Killed

    with _store(old_days) as runs:
        folder = Path(runs.store.log.url).with_name("backup")
        with plant(), instead(copying, "_insert", dying), suppress(_Killed):
            runs.backup(folder)
        return [f"{MANIFEST} tells of a backup that never ended"] if (folder / MANIFEST).exists() else []


def altered_backup(plant: Plant) -> Reports:
    """An entry of a backup is altered: it is not restored."""
    with _store(old_days) as runs:
        folder = Path(runs.store.log.url).with_name("backup")
        runs.backup(folder)
        with closing(sqlite3.connect(folder / "log.db", isolation_level=None)) as other:
            (trigger,) = other.execute("SELECT sql FROM sqlite_schema WHERE name = 'events_keep'").fetchone()
            other.execute("DROP TRIGGER events_keep")
            other.execute("UPDATE events SET attempt = 9 WHERE position = 3")
            other.execute(trigger)
        with plant():
            return _told(
                lambda: projections.restore(folder, folder.with_name("r.db")), "an altered backup was restored"
            )


def damaged_copies(plant: Plant) -> Reports:
    """The disk of the backup takes other bytes of a blob than it was given: the backup says so."""
    with _store() as runs:
        digest = runs.blobs.write(_WANTED)
        runs.store.append("notes", note(1, ref=digest))
        folder = Path(runs.store.log.url).with_name("backup")
        with plant(), _harmed():
            made = runs.backup(folder)
        kept = folder / "log.db-blobs" / digest[:2] / digest[2:]
        return [] if made.findings or not kept.exists() else ["a damaged copy of a blob got its name"]


@contextmanager
def _harmed() -> Iterator[None]:
    honest = eventstore.blobfiles._pieces
    with instead(eventstore.blobfiles, "_pieces", lambda *given: (piece.upper() for piece in honest(*given))):
        yield


_ARCHIVED, _BLOBS = cut("old days archived", 24, seed=4), cut("blobs", 30)
KEPT_MUTANTS = (
    Mutant(gives_segments_names_that_are_not_synced, _ARCHIVED),
    Mutant(gives_blobs_names_that_are_not_synced, _BLOBS),
    Mutant(makes_folders_that_are_not_synced, _BLOBS),
    Mutant(renames_what_is_not_synced, _BLOBS),
    Mutant(writes_rows_before_their_blobs, _BLOBS),
    Mutant(reads_no_segment_back, damaged_days),
    Mutant(reads_no_segment_back, damaged_writing),
    Mutant(records_a_day_before_its_file_is_published, killed_behind_a_record),
    Mutant(releases_days_that_are_not_recorded, archived),
    Mutant(releases_runs_that_may_go_on, archived),
    Mutant(releases_the_last_entry_of_a_stream, archived),
    Mutant(collects_the_young, collected),
    Mutant(collects_without_reading_segments, collected),
    Mutant(collects_without_a_look_under_the_lock, collected),
    Mutant(writes_the_manifest_first, killed_backup),
    Mutant(restores_without_proof, altered_backup),
    Mutant(copies_blobs_unseen, damaged_copies),
)
