"""The SQLite log keeps the contract, and what only a file can promise."""

import contextlib
import gc
import struct
import threading
import time
import weakref
from pathlib import Path

import pytest

from eventstore.errors import CannotOpen, DatabaseBusy, InvalidArgument, NewerDatabase, StoreClosed
from eventstore.notes import LogRecorded
from eventstore.sqlite import APPLICATION_ID, SQLiteLog, driver, opening, sqlite3
from eventstore.store import EventStore
from eventstore.testing import LogContract
from tests.forking import at_once

ROOT = Path(__file__).parent.parent
LINE = LogRecorded("test", "line")
_NAMES = "(position, stream, version, type, recorded_at, hash, data)"


class TestSQLiteLog(LogContract):
    def open(self, folder):
        return SQLiteLog(folder / "agent.db")

    def reopen(self, log):
        return SQLiteLog(log.url)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent.db"


@pytest.fixture
def log(path):
    log = SQLiteLog(path)
    EventStore(log, []).append("s", LINE, LINE)
    yield log
    log.close()


def entries(log):
    with log.reading() as view:
        return list(view.read_all(after=0, limit=10_000))


def pragma(log, name):
    with log.reading() as view:
        return view.execute(f"PRAGMA {name}").fetchone()[0]


def change(path, *statements):
    """Change a database that no log has open, as another program would."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


# --- what a writer may go on knowing --------------------------------------------------------------------------------


class InterruptedConnection:
    """A connection through which an interrupt comes right after COMMIT, when the commit stands and nobody knows yet."""

    def __init__(self, connection):
        self._connection = connection

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def run(self, sql, *values):
        answer = self._connection.run(sql, *values)
        if sql == "COMMIT":
            raise KeyboardInterrupt
        return answer


def test_what_was_written_when_an_interrupt_came_is_seen_by_the_next_append(log):
    store = EventStore(log, [])
    store.append("s", LINE)
    connection = log._writer.connection
    log._writer.connection = InterruptedConnection(connection)
    with pytest.raises(KeyboardInterrupt):
        EventStore(log, []).append("s", LINE)
    log._writer.connection = connection

    (recorded,) = store.append("s", LINE)

    assert (recorded.position, recorded.version) == (5, 5)


def test_what_another_program_puts_into_the_file_is_seen_by_the_next_append(log, path):
    store = EventStore(log, [])
    store.append("s", LINE)
    payload = '{"source":"a","kind":"b"}'
    change(path, f"INSERT INTO events{_NAMES} VALUES (4, 's', 4, 'LogRecorded', 9, x'09', '{payload}')")

    (recorded,) = store.append("s", LINE)

    assert (recorded.position, recorded.version) == (5, 5)


# --- append-only by force -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET data = '{}' WHERE position = 1",
        "UPDATE OR REPLACE events SET position = 2 WHERE position = 1",
        "DELETE FROM events",
        "DELETE FROM events WHERE position = 2",
        "INSERT OR REPLACE INTO events SELECT * FROM events WHERE position = 1",
        "REPLACE INTO events" + _NAMES + " SELECT 9, 's', 1, 'T', 0, x'00', ''",
        "INSERT INTO events SELECT * FROM events WHERE position = 1",
        "INSERT INTO events" + _NAMES + " VALUES (3, 's', 2, 'T', 0, x'00', '{}')",
    ],
)
def test_what_stands_cannot_be_changed_or_taken_away(log, statement):
    before = entries(log)

    with pytest.raises(sqlite3.IntegrityError) as caught:
        log.write(lambda transaction: transaction.execute(statement))

    assert log.url in caught.value.__notes__[0]
    assert entries(log) == before


# --- the file -------------------------------------------------------------------------------------------------------


def test_the_file_is_ours_by_its_application_id_in_wal_and_synced_at_each_commit(log):
    assert pragma(log, "application_id") == APPLICATION_ID
    assert pragma(log, "user_version") == 2
    assert pragma(log, "journal_mode") == "wal"
    assert pragma(log, "synchronous") == 2
    assert pragma(log, "trusted_schema") == 0
    assert pragma(log, "recursive_triggers") == 1


def test_less_syncing_must_be_asked_for_by_name(path):
    with pytest.raises(InvalidArgument):
        SQLiteLog(path, synchronous="OFF")
    assert not path.exists()

    log = SQLiteLog(path, synchronous="NORMAL")
    assert pragma(log, "synchronous") == 1
    log.close()


def test_the_payload_is_readable_with_any_sqlite_tool(log, path):
    EventStore(log, []).append("s", LogRecorded("a", "b", payload={"é": [1, None]}), meta={"by": "me"})
    log.close()

    connection = sqlite3.connect(path)
    row = connection.execute(
        "SELECT data ->> '$.payload.é[0]', meta ->> 'by', typeof(data) FROM events WHERE position = 3"
    ).fetchone()
    connection.close()

    assert row == (1, "me", "text")


def test_a_file_name_may_hold_what_a_uri_would_read_otherwise(tmp_path):
    path = tmp_path / "a b?mode=ro#x%41é.db"

    SQLiteLog(path).close()

    assert path.exists()


def test_a_missing_folder_is_refused_and_not_made(tmp_path):
    with pytest.raises(CannotOpen, match="does not exist"):
        SQLiteLog(tmp_path / "missing" / "agent.db")

    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_refused_where_none_is_to_be_made(tmp_path, path):
    for options in ({"create": False}, {"read_only": True}):
        with pytest.raises(CannotOpen):
            SQLiteLog(path, **options)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_log(tmp_path):
    with pytest.raises(CannotOpen):
        SQLiteLog(tmp_path)


def refused_untouched(path, error):
    before = path.read_bytes()
    for options in ({}, {"create": False}, {"read_only": True}):
        with pytest.raises(error) as caught:
            SQLiteLog(path, **options)
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} <= {path.name, f"{path.name}-witness"}
    return caught.value


def test_who_opens_a_file_as_another_is_killed_who_puts_it_to_rest_is_not_refused(log, path, monkeypatch):
    log.close()
    change(path, "PRAGMA journal_mode = DELETE")
    hot = struct.pack(">8s5I", bytes.fromhex("d9d505f920a163d7"), 0, 0, path.stat().st_size // 4096, 512, 4096)
    journal, roll_back = path.with_name(f"{path.name}-journal"), opening.roll_back

    def killed_behind(*arguments):
        monkeypatch.undo()
        found = roll_back(*arguments)
        journal.write_bytes(hot.ljust(512, bytes(1)))
        return found

    monkeypatch.setattr("eventstore.sqlite.log.roll_back", killed_behind)
    with contextlib.closing(SQLiteLog(path)):
        assert not journal.exists()


def test_a_text_file_is_refused_and_untouched(path):
    path.write_text("this is not a database, and long enough to have a header\n" * 20)

    assert "not a SQLite database" in str(refused_untouched(path, CannotOpen))


def test_another_programs_database_is_refused_and_untouched(path):
    change(path, "CREATE TABLE customers(name TEXT)")

    assert "another program" in str(refused_untouched(path, CannotOpen))


def test_another_programs_empty_but_numbered_database_is_refused_and_untouched(path):
    change(path, "PRAGMA user_version = 7")

    refused_untouched(path, CannotOpen)


def test_a_database_of_a_newer_release_is_refused_and_untouched(log, path):
    log.close()
    change(path, "PRAGMA user_version = 99", "PRAGMA journal_mode = DELETE")

    error = refused_untouched(path, NewerDatabase)

    assert (error.found, error.known) == (99, 2)


@pytest.mark.parametrize("key", [None, bytes(32)], ids=["plain", "encrypted"])
def test_nothing_is_left_in_memory_of_a_log_that_was_closed(path, key):
    log = SQLiteLog(path, key=key)
    EventStore(log, []).append("s", LINE)
    connections = [weakref.ref(connection) for connection in driver._OPEN if connection.path == path]

    log.close()
    del log

    gc.collect()
    assert len(connections) > 1
    assert [connection() for connection in connections if connection() is not None] == []


# --- read-only ------------------------------------------------------------------------------------------------------


def test_a_read_only_handle_reads_what_others_write_and_writes_nothing(log, path):
    reader = SQLiteLog(path, read_only=True)
    EventStore(log, []).append("s", LINE)

    assert entries(reader) == entries(log)
    before = entries(log)
    with pytest.raises(CannotOpen, match="may not be written"):
        EventStore(reader, []).append("s", LINE)
    assert entries(log) == before
    reader.close()


def test_a_read_only_handle_does_not_migrate(path):
    path.touch()

    with pytest.raises(CannotOpen, match="open it once for writing"):
        SQLiteLog(path, read_only=True)

    assert path.read_bytes() == b""


# --- locks ----------------------------------------------------------------------------------------------------------


def test_a_log_that_another_holds_for_too_long_is_busy_and_nothing_is_written(log, path):
    impatient = SQLiteLog(path, busy_timeout=0.01)
    before = entries(log)

    def job(_transaction):
        with pytest.raises(DatabaseBusy) as caught:
            EventStore(impatient, []).append("s", LINE)
        assert (caught.value.url, caught.value.seconds) == (str(path), 0.01)

    log.write(job)
    assert entries(log) == before
    EventStore(impatient, []).append("s", LINE)
    assert len(entries(log)) == 3
    impatient.close()


def test_who_waits_for_another_looks_again_and_again_and_writes_when_it_is_done(log, path):
    waiting = SQLiteLog(path)
    looks = []
    waiting._writer.connection.set_trace_callback(looks.append)
    appending = threading.Thread(target=EventStore(waiting, []).append, args=("s", LINE))

    def job(_transaction):
        appending.start()
        until = time.monotonic() + 10
        while looks.count("BEGIN IMMEDIATE") < 3 and time.monotonic() < until:
            time.sleep(0.001)

    log.write(job)
    appending.join()
    assert looks.count("BEGIN IMMEDIATE") >= 3
    assert len(entries(log)) == 3
    waiting.close()


def test_a_new_file_that_another_holds_for_too_long_is_busy(path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")

    with pytest.raises(DatabaseBusy):
        SQLiteLog(path, busy_timeout=0.01)

    other.execute("ROLLBACK")
    other.close()
    SQLiteLog(path).close()


def test_a_reader_waits_for_no_writer(log, path):
    other = SQLiteLog(path, busy_timeout=0.01)

    def job(_transaction):
        return len(entries(other))

    assert log.write(job) == 2
    other.close()


def test_a_view_that_outlives_its_log_is_released_with_it(log):
    with log.reading() as view:
        log.close()
        assert view.head().position == 2

    with pytest.raises(StoreClosed):
        entries(log)
    assert log._idle == []


# --- many processes -------------------------------------------------------------------------------------------------


def test_eight_processes_may_open_a_new_file_at_once(path):
    program = "from eventstore.sqlite import SQLiteLog; log = SQLiteLog(arguments[0]); print(log.id); log.close()"
    ids = at_once(8, program, path)

    assert len(set(ids)) == 1
    log = SQLiteLog(path)
    assert log.id == ids[0].strip()
    assert entries(log) == []
    log.close()


APPEND = """
from eventstore import LogRecorded, connect
with connect(arguments[0]) as store:
    for count in range(500):
        store.append(f's{number % 4}', LogRecorded('process', str(number), payload=count), key=f'{number}-{count}')
"""


def test_eight_processes_append_five_hundred_each_and_all_of_them_stand(path):
    at_once(8, APPEND, path)

    log = SQLiteLog(path)
    store = EventStore(log, [])
    recorded = list(store.read_all())
    assert [item.position for item in recorded] == list(range(1, 4001))
    for stream in ("s0", "s1", "s2", "s3"):
        assert [item.version for item in store.read(stream)] == list(range(1, 1001))
    for number in range(8):
        mine = [item.event.payload for item in recorded if item.event.kind == str(number)]
        assert mine == list(range(500))
    log.close()


# --- glances --------------------------------------------------------------------------------------------------------


def glances(log, stream=None):
    with log.reading() as view:
        return view.glance(after=0, limit=9, peek={"LogRecorded": 9}, stream=stream)


def test_a_forged_name_that_would_part_in_two_shows_nothing_in_a_wrong_place(log, path):
    log.close()
    odd = "s\x1ft"
    change(path, f"INSERT INTO events{_NAMES} VALUES (3, '{odd}', 1, 'LogRecorded', 3, x'00', '{{}}')")
    log = SQLiteLog(path)

    found = glances(log)

    assert [*zip(found.positions, found.streams, found.versions, strict=True)] == [
        (1, "s", "1"), (2, "s", "2"), (3, odd, "1")
    ]  # fmt: skip
    assert list(glances(log, odd).positions) == [3]
    log.close()


def test_a_glance_counts_a_payload_by_characters(log):
    last = EventStore(log, ()).append("n", LogRecorded("\u00e5\u20ac\U0001f600", "ok"))[-1]
    data, after = last.entry.data, last.position - 1

    with log.reading() as view:
        for size in (1, 11, 12, 13, 14, 20, len(data) - 1, len(data), len(data.encode()) - 1, 2 * len(data)):
            peek = {"LogRecorded": size}
            assert list(view.glance(after=after, limit=1, peek=peek).heads) == [data[:size]]
            assert list(view.glance(after=0, limit=1, peek=peek, stream="n").heads) == [data[:size]]


def test_a_glance_at_a_stream_is_in_order_without_its_index_too(log, path):
    log.close()
    change(
        path,
        "DROP INDEX events_by_stream",
        f"INSERT INTO events{_NAMES} VALUES (3, 'u', 2, 'LogRecorded', 3, x'00', '{{}}')",
        f"INSERT INTO events{_NAMES} VALUES (4, 'u', 1, 'LogRecorded', 4, x'00', '{{}}')",
    )
    log = SQLiteLog(path)

    assert list(glances(log, "u").versions) == ["1", "2"]
    assert list(glances(log, "u").positions) == [4, 3]
    log.close()
