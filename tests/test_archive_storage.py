"""What an archive has to do with the rest of a store's files: older schemas, encryption, blobs, large days."""

import contextlib
import io
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard

import projections
from eventstore import EventStore, LogRecorded, MetaSet
from eventstore.archiving import archive
from eventstore.blobs import Blobs
from eventstore.errors import CannotOpen, DamagedSegment, UnreadableEntry
from eventstore.sqlite import SQLiteLog, opening, schema, sqlite3
from eventstore.workflow import RUN, CheckpointSaved, RunCompleted, RunQueued, RunStarted
from tests.archived import DAYS, everything, lived
from tests.blobbing import ages, noise
from tests.world import World

LINE = LogRecorded("app", "line")


def entries(log):
    return [recorded.entry for recorded in EventStore(log, [RUN]).read_all()]


def query(path, sql):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


# --- a database of the release before -----------------------------------------------------------------------------


@pytest.fixture
def older(monkeypatch):
    """While it is entered, databases are made and opened as the release before did, which knew no segments."""

    @contextlib.contextmanager
    def entered():
        with monkeypatch.context() as patched:
            for room in (schema, opening):
                patched.setattr(room, "MIGRATIONS", schema.MIGRATIONS[:1])
            yield

    return entered


@pytest.fixture
def path(tmp_path, older):
    """A database of the release before, with some entries."""
    with older(), contextlib.closing(SQLiteLog(tmp_path / "agent.db")) as log:
        EventStore(log, [RUN]).append("notes", *[LINE] * 3)
    assert query(tmp_path / "agent.db", "PRAGMA user_version") == [(1,)]
    return tmp_path / "agent.db"


def test_an_older_database_is_brought_up_and_can_be_archived(path):
    with contextlib.closing(SQLiteLog(path)) as log:
        before = entries(log)
        later = EventStore(log, [RUN], clock=lambda: before[0].recorded_at + 2 * 86_400_000_000)

        done = archive(later, keep_days=0)

        assert [segment.last for segment in done.sealed] == [3]
        assert entries(log)[:3] == before
    assert query(path, "PRAGMA user_version") == [(2,)]


def test_an_older_database_is_brought_up_while_a_process_of_that_release_goes_on_writing(path, older):
    with older():
        standing = SQLiteLog(path)
    with contextlib.closing(standing), contextlib.closing(SQLiteLog(path)) as log:
        EventStore(standing, [RUN]).append("notes", LINE)
        EventStore(log, [RUN]).append("notes", LINE)

        assert len(entries(standing)) == len(entries(log)) == 5
        assert log.examine() == []


def test_many_that_open_an_older_database_at_once_bring_it_up_once(path):
    with ThreadPoolExecutor(6) as pool:
        logs = [*pool.map(lambda _: SQLiteLog(path), range(6))]

    assert {len(entries(log)) for log in logs} == {3}
    for log in logs:
        log.close()
    assert query(path, "PRAGMA user_version") == [(2,)]


def test_a_migration_that_fails_in_the_middle_leaves_the_older_database(path, monkeypatch):
    before = query(path, "SELECT * FROM sqlite_schema ORDER BY name")
    monkeypatch.setattr(schema, "ARCHIVE", (*schema.ARCHIVE[:-1], "CREATE nonsense"))

    with pytest.raises((CannotOpen, Exception), match="syntax error"):
        SQLiteLog(path)

    assert query(path, "SELECT * FROM sqlite_schema ORDER BY name") == before
    assert query(path, "PRAGMA user_version") == [(1,)]


def test_an_older_database_that_may_not_be_written_is_refused_and_untouched(path):
    before = path.read_bytes()

    with pytest.raises(CannotOpen, match="open it once for writing"):
        SQLiteLog(path, read_only=True)

    assert path.read_bytes() == before


def test_a_log_that_may_not_be_written_is_not_archived_and_no_folder_is_made(path):
    SQLiteLog(path).close()
    with contextlib.closing(SQLiteLog(path, read_only=True)) as log:
        later = EventStore(log, [RUN], clock=lambda: 2**52)

        assert archive(later, keep_days=0, dry_run=True).released == 0
        with pytest.raises(CannotOpen, match="read-only"):
            archive(later, keep_days=0)

    assert not path.with_name("agent.db-archive").exists()


# --- encryption ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
def test_the_segments_of_an_encrypted_log_tell_nothing_and_read_as_before(tmp_path, compress):
    pytest.importorskip("sqlcipher3")
    world = World(tmp_path)
    runs = world.runs(log=SQLiteLog(world.path, key=bytes(range(32))))
    lived(world, runs)
    until = runs.store.head().position
    before = everything(runs, until)

    runs.archive(keep_days=0, compress=compress)

    names = sorted(file.name for file in (tmp_path / "agent.db-archive" / "logs").iterdir())
    assert names == [f"{day}.jsonl{'.zst' if compress else ''}.enc" for day in DAYS]
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert b"words" not in file.read_bytes()
            assert b"run-1" not in file.read_bytes()
    runs.close()
    again = world.runs(log=SQLiteLog(world.path, key=bytes(range(32))))
    assert everything(again, until) == before
    assert again.verify().ok
    lines = list(again.store.log.archive.scan(names[0]))
    assert len(lines) == again.segments()[0].entries + 1, "all that the tables hold can be made anew from the file"
    _flip(tmp_path / "agent.db-archive" / "logs" / names[0])
    with pytest.raises(DamagedSegment, match="was altered"):
        list(again.store.read("run-1"))
    again.close()


def _flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)


# --- blobs --------------------------------------------------------------------------------------------------------


def test_a_segment_needs_no_blob(tmp_path):
    world = World(tmp_path)
    runs = world.runs()
    noise = os.urandom(200_000).hex()
    runs.store.append("run-1", RunQueued("w"), RunStarted("w"))
    runs.store.append("run-1", CheckpointSaved(1, noise), RunCompleted(), attempt=1)
    assert runs.store.log.blobs is not None
    stored = [file for file in (tmp_path / "agent.db-blobs").rglob("*") if file.is_file() and file.stat().st_size > 99]
    assert stored
    world.jumps(days=1)

    runs.archive(keep_days=0)
    for file in stored:
        file.unlink()

    assert runs.checkpoint("run-1") == noise
    assert runs.verify().ok
    runs.restore_days()
    assert runs.checkpoint("run-1") == noise
    assert [file.exists() for file in stored] == [True] * len(stored), "what comes back is stored as it was"
    assert isinstance(runs.blobs, Blobs)
    runs.close()


def test_what_is_packed_over_a_payload_that_left_and_came_back_can_be_read(tmp_path):
    """Put back alone, a payload stands over another base than it did, and a daemon remembers how it stood."""
    world = World(tmp_path)
    runs = world.runs()
    one, other = ("".join(f"{number * step:x} " for number in range(3_000)) for step in (7, 1_001))
    for days, texts in ((1, [one] * 8), (1, [other]), (1, [one + "as before"])):
        runs.store.append("notes", *(LogRecorded("app", "line", None, f"{text}{n}") for n, text in enumerate(texts)))
        world.jumps(days=days)
    runs.store.append("notes", MetaSet("last", 1))
    world.jumps(days=1)
    assert runs.archive(keep_days=0).released == 2
    assert runs.restore_days([runs.segments()[2].day]).entries == 1

    runs.store.append("notes", LogRecorded("app", "line", None, one + "as before and more"))

    (last,) = world.runs().store.read("notes", after=11)
    assert last.event.payload == one + "as before and more"
    runs.close()


@pytest.mark.parametrize("taken", ["= 1", "= 40", "BETWEEN 30 AND 60"])
def test_a_log_that_lacks_entries_is_not_archived_and_the_first_is_named_that_is_missed(tmp_path, taken):
    world = World(tmp_path)
    runs = world.runs()
    lived(world, runs)
    runs.store.write(lambda writing: writing.execute("DROP TRIGGER events_stay"))
    runs.store.write(lambda writing: writing.execute(f"DELETE FROM events WHERE position {taken}"))
    standing = query(tmp_path / "agent.db", "SELECT count(*) FROM events")

    with pytest.raises(UnreadableEntry, match="`runfold verify` tells what is sound; restore a backup"):
        runs.archive(keep_days=0)

    assert runs.segments() == []
    assert query(tmp_path / "agent.db", "SELECT count(*) FROM events") == standing
    runs.close()


def test_altered_tables_of_sealed_days_are_found_and_a_history_with_a_hole_is_none(tmp_path):
    world = World(tmp_path)
    runs = world.runs()
    lived(world, runs)
    whole = [*runs.store.read("run-1")]
    runs.archive(keep_days=0)

    for holes, harm in (
        (True, "DELETE FROM segment_streams WHERE stream = 'run-1'"),
        (True, "UPDATE segment_streams SET last = last - 1 WHERE stream = 'run-1'"),
        (True, "UPDATE segment_streams SET first = first + 1 WHERE stream = 'run-1'"),
        (True, "UPDATE segment_streams SET stream = 'run-x' WHERE stream = 'run-1'"),
        (False, "UPDATE segment_streams SET types = '[]' WHERE stream = 'notes'"),
        (False, "INSERT INTO segment_streams VALUES ('run-x', 1, 1, 2, NULL)"),
        (False, "UPDATE segments SET types = '{}'"),
    ):
        with _altered(runs, harm):
            assert not runs.verify().ok, harm
            if holes:
                with pytest.raises(UnreadableEntry, match=r"of run-1.*neither in the log nor where"):
                    [*runs.store.read("run-1")]
    assert runs.verify().ok
    assert [*runs.store.read("run-1")] == whole
    runs.close()


@contextlib.contextmanager
def _altered(runs, harm):
    """The log's tables after somebody was at them, for the time of a block."""
    tables = ("segments", "segment_streams")

    def alter(writing):
        kept = {table: writing.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
        writing.execute(harm)
        return kept

    def mend(writing):
        for table, rows in kept.items():
            writing.execute(f"DELETE FROM {table}")
            writing.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)

    kept = runs.store.write(alter)
    yield
    runs.store.write(mend)


def test_who_reads_while_payloads_leave_and_their_blobs_are_collected_reads_on(tmp_path):
    world = World(tmp_path)
    runs, other = world.runs(), world.runs()
    runs.store.append("run-1", RunQueued("w"), RunStarted("w"))
    runs.store.append("run-1", CheckpointSaved(1, noise()), CheckpointSaved(2, noise() + "more"), attempt=1)
    runs.store.append("run-1", RunCompleted(), attempt=1)
    world.jumps(days=1)
    other.archive()
    before = [recorded.entry for recorded in runs.store.read("run-1")]

    with runs.store.reading() as view:
        view.head()
        assert other.archive(keep_days=0).released == 4
        ages(other.store.log)
        assert Blobs(other.store.log).gc().blobs == 1

        assert view.read("run-1", after=0, limit=9) == before
    runs.close()


# --- large days ---------------------------------------------------------------------------------------------------


def test_a_compressed_file_is_read_by_any_zstd_and_finds_what_checkpoints_repeat(tmp_path):
    world = World(tmp_path)
    runs = world.runs()
    runs.store.append("run-1", RunQueued("w"), RunStarted("w"))
    state = []
    for step in range(60):
        state = [*state, os.urandom(1_000).hex()]
        runs.store.append("run-1", CheckpointSaved(step, state), attempt=1)
    runs.store.append("run-1", RunCompleted(), attempt=1)
    world.jumps(days=1)
    plain = runs.archive(keep_days=0, dry_run=True).sealed[0]

    runs.archive(keep_days=0, compress=True)

    (segment,) = runs.segments()
    file = tmp_path / "agent.db-archive" / "logs" / segment.file
    with (
        file.open("rb") as source,
        zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True) as reader,
    ):
        lines = io.BufferedReader(reader).readlines()
    assert len(lines) == segment.entries + 1
    assert sum(map(len, lines)) == plain.size
    assert segment.size < plain.size / 10
    with runs.store.reading() as reading:
        assert len(reading.blocks(segment)) < 3
    assert runs.checkpoint("run-1", step=30) == state[:31]
    runs.close()


def test_a_day_of_many_blocks_is_read_by_single_blocks(tmp_path):
    world = World(tmp_path)
    runs = world.runs()
    for number in range(12):
        runs.store.append(f"notes-{number % 3}", *(LogRecorded("app", "line", None, "x" * 900) for _ in range(60)))
    world.jumps(days=1)
    entries_before = [recorded.entry for recorded in runs.store.read_all()]
    runs.archive(keep_days=0)
    (segment,) = runs.segments()
    with runs.store.reading() as reading:
        blocks = reading.blocks(segment)
    assert len(blocks) > 4
    files, opened = runs.store.log.archive.files, []
    runs.store.log.archive._forget()
    really = files.open
    files.open = lambda path: opened.append(path) or really(path)

    with runs.store.reading() as reading:
        (found,) = reading.at([590])
        of_stream = [recorded.version for recorded in runs.store.read("notes-1", after=100, limit=5)]

    assert found == entries_before[589]
    assert of_stream == [101, 102, 103, 104, 105]
    assert len(opened) == 2, "a block for each"
    assert [recorded.entry for recorded in runs.store.read_all()][:-1] == entries_before
    runs.close()


def test_a_stream_of_notes_is_opened_without_reading_a_file(tmp_path):
    world = World(tmp_path)
    runs = world.runs()
    for _ in range(3):
        runs.store.append("notes", *[LINE] * 30)
        world.jumps(days=1)
    runs.archive(keep_days=0)
    for file in (tmp_path / "agent.db-archive" / "logs").iterdir():
        file.unlink()

    with projections.connect(world.path, system=world.system()) as again:
        assert again.store.append("notes", LINE)[0].version == 91
