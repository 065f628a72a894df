"""An encrypted store: who has its key notices nothing of it, and who has not learns nothing and changes nothing."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from functools import cache, partial
from pathlib import Path

import pytest

import eventstore
import projections
from eventstore import MetaSet
from eventstore.errors import CannotOpen, DatabaseBusy, InvalidArgument, LostTail, WrongKey
from eventstore.notes import LogRecorded
from eventstore.sqlite import SQLiteLog, driver, unlocking
from eventstore.testing import LogContract
from projections.connecting import tables_of
from projections.testing import TablesContract
from tests.faults.shim import SQLITE_FULL, SQLITE_IOERR_FSYNC, SQLITE_IOERR_WRITE, SQLITE_OK, Shim
from tests.forking import at_once

pytest.importorskip("sqlcipher3", reason="the extra runfold[encryption] is not installed")

ROOT = Path(__file__).parent.parent
KEY = bytes(range(32))
OTHER = bytes(32)
MARKER = "Zibeline4711"


class TestEncryptedLog(LogContract):
    def open(self, folder):
        return SQLiteLog(folder / "agent.db", key=KEY)

    def reopen(self, log):
        return SQLiteLog(log.url, key=KEY)


class TestEncryptedTables(TablesContract):
    def open_log(self, folder):
        return SQLiteLog(folder / "agent.db", key=KEY, synchronous="NORMAL")

    def open_tables(self, log):
        return tables_of(log)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent.db"


@pytest.fixture
def quick(monkeypatch):
    """A passphrase is stretched for a quarter of a second, which is of no interest here."""
    monkeypatch.setattr(unlocking, "_ROUNDS", 10)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder that a killed writer left: most of its log stands in the WAL."""
    folder = tmp_path_factory.mktemp("killed")
    program = f"""
import os, eventstore
store = eventstore.connect("agent.db", key=bytes(range(32)))
for number in range(3):
    store.append("s", eventstore.MetaSet("name", "{MARKER}" * 200))
os.kill(os.getpid(), 9)
"""
    subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert (folder / "agent.db-wal").stat().st_size
    return folder


@pytest.fixture
def left(killed, tmp_path):
    """A copy of it, and the database's name in it."""
    for file in killed.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / "agent.db"


def everything(folder):
    """Every file with its bytes and the time of its last change."""
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


def make(path, key=KEY, value=MARKER):
    with eventstore.connect(path, **({} if key is None else {"key": key})) as store:
        store.append("s", MetaSet("name", value))


def value_in(path, key):
    with eventstore.connect(path, key=key) as store:
        return [recorded.event.value for recorded in store.read_all()]


# --- what opens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, "correct horse battery staple", "a \"quoted\" 'passphrase' äöü"])
@pytest.mark.usefixtures("quick")
def test_what_was_written_with_a_key_is_read_with_it_and_stands_nowhere_in_plain_text(path, key):
    make(path, key)

    assert value_in(path, key) == [MARKER]
    for file in path.parent.iterdir():
        assert MARKER.encode() not in file.read_bytes()
        assert b"SQLite format 3" not in file.read_bytes()


def test_a_passphrase_is_stretched_as_sqlcipher_does_so_any_of_its_tools_opens_the_database(path):
    import sqlcipher3.dbapi2 as sqlcipher  # noqa: PLC0415 - an extra

    make(path, "correct horse")

    with contextlib.closing(sqlcipher.connect(path)) as connection:
        connection.execute("PRAGMA key = 'correct horse'")
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (1,)


@pytest.mark.usefixtures("quick")
def test_a_passphrase_is_stretched_once_and_not_for_each_connection(path, monkeypatch):
    make(path, "correct horse")
    stretched = []
    real = unlocking._stretched
    monkeypatch.setattr(unlocking, "_stretched", lambda *given: stretched.append(1) or real(*given))

    with eventstore.connect(path, key="correct horse") as store, store.log.reading(), store.log.reading():
        store.append("s", MetaSet("name", 1))

    assert stretched == [1]


def test_processes_that_open_a_new_file_at_once_agree_on_its_salt(path):
    program = """
import eventstore
with eventstore.connect(arguments[0], key=bytes(range(32))) as store:
    store.append("s", eventstore.MetaSet("name", 1))
"""
    at_once(4, program, path)

    assert value_in(path, KEY) == [1] * 4


@pytest.mark.usefixtures("quick")
def test_whoever_finds_a_file_that_another_process_made_meanwhile_takes_over_its_salt(path, monkeypatch):
    path.touch(0o600)
    real = unlocking.access_to
    once = iter([lambda: make(path, "correct horse", 1)])

    def overtaken(*given):
        access = real(*given)
        next(once, lambda: None)()
        return access

    monkeypatch.setattr("eventstore.sqlite.unlocking.access_to", overtaken)

    assert value_in(path, "correct horse") == [1]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_another_process_made_while_its_salt_was_looked_for_is_opened_and_stays_whole(
    path, monkeypatch, read_only
):
    path.touch(0o600)
    real = unlocking._salt
    once = iter([lambda: make(path)])

    def overtaken(*given):
        salt = real(*given)
        next(once, lambda: None)()
        return salt

    monkeypatch.setattr("eventstore.sqlite.unlocking._salt", overtaken)

    with eventstore.connect(path, key=KEY, read_only=read_only) as store:
        assert [recorded.event.value for recorded in store.read_all()] == [MARKER]


def test_a_killed_writers_log_is_read_whole_from_its_wal(left):
    assert value_in(left, KEY) == [MARKER * 200] * 3


# --- what is refused ------------------------------------------------------------------------------------------------


def refusals(path):
    """Every way to open an encrypted database that is none."""
    yield WrongKey, lambda: eventstore.connect(path, key=OTHER)
    yield WrongKey, lambda: eventstore.connect(path, key="a passphrase")
    yield WrongKey, lambda: eventstore.connect(path, key=OTHER, read_only=True)
    yield CannotOpen, lambda: eventstore.connect(path)
    yield CannotOpen, lambda: projections.connect(path, create=False)
    yield CannotOpen, lambda: eventstore.connect(path, read_only=True)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("rest", ["closed", "killed", "without an index"])
def test_a_wrong_or_missing_key_is_refused_before_any_file_is_touched(left, rest, number):
    if rest == "closed":
        make(left, KEY, 1)
    if rest == "without an index":
        left.with_name("agent.db-shm").unlink()
    before = everything(left.parent)
    kind, attempt = list(refusals(left))[number]

    with pytest.raises(kind) as refused:
        attempt()

    after = everything(left.parent)
    if rest == "without an index":  # SQLite may make one: it holds nothing
        after.pop("agent.db-shm", None)
    assert after == before
    assert "\n" not in str(refused.value)
    assert value_in(left, KEY)[:3] == [MARKER * 200] * 3


def test_a_key_for_a_plain_database_is_refused_and_nothing_changes(path):
    make(path, None)
    before = everything(path.parent)

    with pytest.raises(WrongKey, match="is not encrypted; open it without a key"):
        eventstore.connect(path, key=KEY)

    assert everything(path.parent) == before


def test_something_else_is_refused_with_and_without_a_key(path):
    path.write_bytes(b"a letter to somebody" * 1000)
    before = everything(path.parent)

    with pytest.raises(CannotOpen, match="not a SQLite database, or it is encrypted"):
        eventstore.connect(path)
    with pytest.raises(WrongKey, match="another key, is no database, or is damaged"):
        eventstore.connect(path, key=KEY)

    assert everything(path.parent) == before


@pytest.mark.parametrize("key", [b"short", bytes(31), bytes(33), "", "two\nlines", "\0", 5, bytearray(32)])
def test_what_can_be_no_key_is_refused_before_a_file_is_made_and_is_not_shown(path, key):
    with pytest.raises(InvalidArgument) as refused:
        eventstore.connect(path, key=key)

    assert str(refused.value) == "key '…' must be 32 random bytes, or a passphrase: a text of one line"
    assert list(path.parent.iterdir()) == []


def test_a_log_in_memory_takes_no_key_and_does_not_show_it():
    with pytest.raises(InvalidArgument, match="is no option of a log in memory") as refused:
        eventstore.connect("memory:", key="correct horse")

    assert "horse" not in repr(refused.value)


@pytest.mark.parametrize("package", ["sqlcipher3", "cryptography"])
def test_without_the_extra_a_key_is_refused_with_what_to_install_and_no_file_is_made(path, package, monkeypatch):
    real = unlocking.find_spec
    monkeypatch.setattr(unlocking, "find_spec", lambda name: None if name == package else real(name))

    with pytest.raises(CannotOpen, match=rf"{package} is not installed; pip install 'runfold\[encryption\]'"):
        eventstore.connect(path, key=KEY)

    assert list(path.parent.iterdir()) == []


def test_without_the_extra_a_restore_under_a_key_is_refused_by_the_name_that_was_asked_for(path, monkeypatch):
    with projections.connect(path) as runs:
        runs.backup(path.with_name("backup"))
    monkeypatch.setattr(unlocking, "find_spec", lambda _name: None)
    stood = sorted(path.parent.rglob("*"))

    with pytest.raises(CannotOpen, match="is not installed") as refused:
        projections.restore(path.with_name("backup"), path.with_name("new.db"), new_key=KEY)

    assert refused.value.url == str(path.with_name("new.db"))
    assert sorted(path.parent.rglob("*")) == stood


def test_a_sqlcipher3_that_does_not_encrypt_is_refused_since_it_would_write_plain_text(path, monkeypatch):
    monkeypatch.setattr(unlocking, "import_module", lambda _name: sqlite3)
    unlocking._loaded.cache_clear()

    with pytest.raises(CannotOpen, match="does not encrypt"):
        eventstore.connect(path, key=KEY)

    unlocking._loaded.cache_clear()
    assert list(path.parent.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_a_key_is_shown_by_no_error_and_no_repr(path):
    make(path, "correct horse")

    with eventstore.connect(path, key="correct horse") as store:
        told = [repr(store), repr(store.log), repr(store.log._access), repr(vars(store.log))]
    with pytest.raises(WrongKey) as refused:
        eventstore.connect(path, key="another horse")

    assert not any("horse" in text for text in (*told, repr(refused.value), str(refused.value)))
    assert not any("PRAGMA key" in text for text in told)


# --- two libraries in one process -----------------------------------------------------------------------------------


def test_a_database_that_is_open_with_a_key_is_not_opened_by_the_other_library_which_would_drop_its_locks(path):
    with eventstore.connect(path, key=KEY) as store:
        store.append("s", MetaSet("name", 1))
        with pytest.raises(CannotOpen, match="open in this process with a key"):
            eventstore.connect(path)
        store.append("s", MetaSet("name", 2))

    make(path.with_name("plain.db"), None)
    with eventstore.connect(path.with_name("plain.db")), pytest.raises(CannotOpen, match="process without a key"):
        eventstore.connect(path.with_name("plain.db"), key=KEY)


def test_asking_for_the_salt_and_trying_a_key_leaves_the_locks_of_this_process_alone(path):
    make(path)
    program = """
import sys, eventstore
try:
    eventstore.connect("agent.db", key=bytes(range(32)), busy_timeout=0).append("s", eventstore.MetaSet("name", 2))
except eventstore.EventStoreError as error:
    sys.exit(type(error).__name__)
"""
    with eventstore.connect(path, key=KEY) as store:

        def meanwhile(_writing):
            with contextlib.suppress(WrongKey):
                eventstore.connect(path, key=OTHER)
            eventstore.connect(path, key=KEY, read_only=True).close()
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            return subprocess.run(
                [sys.executable, "-c", program], cwd=path.parent, env=environment, stderr=subprocess.PIPE, check=False
            )

        assert b"DatabaseBusy" in store.log.write(meanwhile).stderr


def test_errors_of_both_libraries_are_told_in_our_words(path):
    make(path)

    assert len(driver.failures()) == 2
    options = {"key": KEY, "busy_timeout": 0}
    with eventstore.connect(path, **options) as one, eventstore.connect(path, **options) as two:
        refused = partial(one.log.write, lambda _writing: two.append("s", MetaSet("name", 1)))
        with pytest.raises(DatabaseBusy):
            refused()


# --- what stands beside it ------------------------------------------------------------------------------------------


def test_a_lost_tail_is_noticed_and_the_wal_that_is_kept_aside_is_encrypted_too(left):
    wal = left.with_name("agent.db-wal")
    bytes_ = bytearray(wal.read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    wal.write_bytes(bytes_)

    with pytest.raises(LostTail) as lost:
        eventstore.connect(left, key=KEY)

    kept = Path(lost.value.kept).read_bytes()
    assert kept == bytes(bytes_)
    assert MARKER.encode() not in kept
    with eventstore.connect(left, key=KEY, accept_loss="alice") as store:
        assert [*store.read_all()][-1].event.kind == "tail-lost"


def test_the_witness_of_an_encrypted_log_holds_no_hash_that_a_guess_could_be_held_against(path):
    make(path)
    with eventstore.connect(path, key=KEY) as store, store.log.reading() as view:
        digest = view.head().hash

    told = path.with_name("agent.db-witness").read_bytes()
    assert digest not in told
    assert digest.hex().encode() not in told.lower()


def test_the_files_key_is_random_and_stays_when_the_store_is_opened_again(path):
    make(path)
    make(path.with_name("other.db"))
    with eventstore.connect(path, key=KEY) as store:
        box = store.log.cipher.seal(b"secret", b"here")

    with eventstore.connect(path, key=KEY, read_only=True) as store:
        assert store.log.cipher.open(box, b"here") == b"secret"
    with eventstore.connect(path.with_name("other.db"), key=KEY) as store, pytest.raises(ValueError, match="altered"):
        store.log.cipher.open(box, b"here")


def test_a_plain_store_has_no_cipher_and_no_place_for_a_key(path):
    with eventstore.connect(path) as store, store.log.reading() as view:
        assert store.log.cipher is None
        assert view.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'secrets'").fetchone() == (0,)


# --- another key ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("old", "new"), [(KEY, OTHER), (KEY, "a passphrase"), ("a passphrase", "another one")])
def test_after_a_change_the_new_key_opens_the_log_and_the_old_one_does_not(path, old, new):
    with eventstore.connect(path, key=old) as store:
        store.append("s", MetaSet("name", 1))
        box = store.log.cipher.seal(b"secret", b"here")
        assert store.log.rekey(new)
        store.append("s", MetaSet("name", 2))
        assert len([*store.read_all()]) == 2

    assert value_in(path, new) == [1, 2]
    with pytest.raises(WrongKey):
        eventstore.connect(path, key=old)
    with eventstore.connect(path, key=new) as store:
        assert store.log.cipher.open(box, b"here") == b"secret"


def test_a_change_leaves_no_page_that_the_old_key_opens(path):
    with eventstore.connect(path, key=KEY) as store:
        for number in range(50):
            store.append("s", MetaSet("name", "x" * 1000 + str(number)))
        assert store.log.rekey(OTHER)
        size = path.with_name("agent.db-wal").stat().st_size
        with store.log.reading() as view:
            assert view.execute("PRAGMA cipher_integrity_check").fetchall() == []

    assert size == 0


def test_a_reader_of_an_older_state_reads_on_and_is_told_of_since_its_pages_are_left(path):
    make(path)
    with eventstore.connect(path, key=KEY, busy_timeout=0) as store:
        with store.log.reading() as view:
            assert view.head().position == 1
            assert not store.log.rekey(OTHER)
            assert [entry.position for entry in view.read_all(after=0, limit=10)] == [1]
        assert store.log.rekey(OTHER)
        assert len([*store.read_all()]) == 1


def test_another_process_that_has_it_open_is_told_that_its_key_was_changed_and_writes_nothing(path):
    make(path, KEY, 1)
    with eventstore.connect(path, key=KEY) as one, eventstore.connect(path, key=KEY) as other:
        with other.log.reading() as first, other.log.reading() as second:  # two connections that wait for readers
            assert first.head() == second.head()
        one.log.rekey(OTHER)

        for attempt in (
            lambda: [*other.read_all()],
            lambda: other.stream("t").append(LogRecorded("s", "k", None, {})),  # which looks at the stream first
            lambda: other.append("s", MetaSet("name", 2)),
            lambda: [*other.read_all()],
        ):
            with pytest.raises(WrongKey, match="was given another one meanwhile"):
                attempt()
    assert value_in(path, OTHER) == [1]


def test_threads_that_read_while_their_own_process_changes_the_key_read_on(path, monkeypatch):
    """Between the change in the file and the handle's knowing of it."""
    make(path, KEY, 1)
    read = []
    change = unlocking.change

    def changed(*given):
        access = change(*given)
        reader = threading.Thread(target=lambda: read.append(len([*store.read_all()])))
        reader.start()
        reader.join(0.1)
        readers.append(reader)
        return access

    readers = []
    monkeypatch.setattr(unlocking, "change", changed)
    with eventstore.connect(path, key=KEY) as store:
        assert len([*store.read_all()]) == 1  # and the connection waits for the next reader
        store.log.rekey(OTHER)
        readers[0].join()

    assert read == [1]


@cache
def shim():
    """The one of this process: its callbacks must outlive the library's use of them."""
    return Shim("sqlcipher3._sqlite3")


def sqlcipher_error():
    return driver.failures()[-1]


def test_while_somebody_writes_the_key_is_not_changed(path):
    make(path, KEY, 1)
    with eventstore.connect(path, key=KEY, busy_timeout=0) as one, eventstore.connect(path, key=KEY) as other:

        def meanwhile(_writing):
            with pytest.raises(DatabaseBusy):
                one.log.rekey(OTHER)

        other.log.write(meanwhile)
        one.append("s", MetaSet("name", 2))

    assert value_in(path, KEY) == [1, 2]


@pytest.mark.parametrize("failing", ["write", "sync", "full"])
def test_where_the_disk_fails_the_old_key_holds_and_the_handle_goes_on_writing_under_it(path, failing):
    make(path, KEY, 1)
    make(path, KEY, "x" * 100_000)
    seen = Counter()

    def watch(operation):
        seen[operation.kind] += armed
        wal = operation.path.endswith("-wal")
        if armed and wal and operation.kind == "write" and failing != "sync" and seen["write"] > 10:
            return SQLITE_FULL if failing == "full" else SQLITE_IOERR_WRITE
        return SQLITE_IOERR_FSYNC if armed and wal and operation.kind == failing else SQLITE_OK

    with shim().installed(watch):
        armed = False
        with eventstore.connect(path, key=KEY, busy_timeout=1) as store:
            armed = True
            with pytest.raises((CannotOpen, sqlcipher_error())):
                store.log.rekey(OTHER)
            armed = False
            store.append("s", MetaSet("name", 3))
            assert len([*store.read_all()]) == 3
    assert seen["write"]
    with eventstore.connect(path, key=KEY) as store:
        assert [len(str(recorded.event.value)) for recorded in store.read_all()] == [1, 100_000, 1]
        assert store.log.examine() == []


def test_killed_anywhere_in_a_change_the_log_opens_with_one_key_and_is_whole(tmp_path):
    """Each state that a kill could leave: all operations up to one, on the files as they stood before."""
    path = tmp_path / "agent.db"
    make(path, KEY, 1)
    make(path, KEY, "x" * 30_000)
    start = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    steps = []

    def watch(operation):
        if operation.kind in ("write", "truncate", "delete", "open") and not operation.path.endswith("-shm"):
            steps.append(operation)
        return SQLITE_OK

    with shim().installed(watch), eventstore.connect(path, key=KEY) as store:
        store.log.rekey(OTHER)
    opened = Counter()
    for cut in range(len(steps) + 1):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        files = {name: bytearray(data) for name, data in start.items()}
        for step in steps[:cut]:
            happen(files, step)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        keys = [key for key in (KEY, OTHER) if opens(folder / "agent.db", key)]
        assert len(keys) == 1
        opened[keys[0]] += 1
        with eventstore.connect(folder / "agent.db", key=keys[0]) as store:
            assert [len(str(recorded.event.value)) for recorded in store.read_all()] == [1, 30_000]
            assert store.log.examine() == []

    assert opened[KEY] > 10
    assert opened[OTHER] > 10


def opens(path, key):
    try:
        eventstore.connect(path, key=key, read_only=True).close()
    except WrongKey:
        return False
    return True


def happen(files, step):
    """One operation, as it changes the files."""
    name = Path(step.path).name
    if step.kind == "delete":
        files.pop(name, None)
    elif step.kind == "open":
        files.setdefault(name, bytearray())
    elif step.kind == "truncate":
        del files[name][step.offset :]
    else:
        data = files.setdefault(name, bytearray())
        data.extend(bytes(max(0, step.offset - len(data))))
        data[step.offset : step.offset + len(step.data)] = step.data


def test_what_cannot_be_changed_is_refused_and_the_key_not_shown(path):
    with eventstore.connect(path) as store, pytest.raises(InvalidArgument, match="it is plain; back it up") as plain:
        store.log.rekey(KEY)
    with eventstore.connect("memory:") as store, pytest.raises(InvalidArgument, match="which is on no disk") as memory:
        store.log.rekey("correct horse")
    with eventstore.connect(path.with_name("b.db"), key=KEY) as store, pytest.raises(InvalidArgument) as none:
        store.log.rekey("")

    assert not any("horse" in repr(refused.value) for refused in (plain, memory, none))
