"""An encrypted store: who has its key notices nothing of it, and who has not learns nothing and changes nothing."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import eventstore
import projections
from eventstore import MetaSet
from eventstore.errors import CannotOpen, DatabaseBusy, InvalidArgument, LostTail, WrongKey
from eventstore.sqlite import SQLiteLog, driver, unlocking
from eventstore.testing import LogContract

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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent.db"


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


def test_a_passphrase_is_stretched_once_and_not_for_each_connection(path, monkeypatch):
    make(path, "correct horse")
    stretched = []
    monkeypatch.setattr(unlocking, "_hex", lambda *given, real=unlocking._hex: stretched.append(1) or real(*given))

    with eventstore.connect(path, key="correct horse") as store, store.log.reading(), store.log.reading():
        store.append("s", MetaSet("name", 1))

    assert stretched == [1]


def test_processes_that_open_a_new_file_at_once_agree_on_its_salt(path):
    program = """
import sys, eventstore
sys.stdin.readline()
with eventstore.connect("agent.db", key=bytes(range(32))) as store:
    store.append("s", eventstore.MetaSet("name", 1))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    children = [
        subprocess.Popen([sys.executable, "-c", program], cwd=path.parent, env=environment, stdin=subprocess.PIPE)
        for _ in range(4)
    ]
    for child in children:
        child.stdin.write(b"\n")
        child.stdin.close()

    assert [child.wait(60) for child in children] == [0] * 4
    assert value_in(path, KEY) == [1] * 4


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


def test_a_sqlcipher3_that_does_not_encrypt_is_refused_since_it_would_write_plain_text(path, monkeypatch):
    monkeypatch.setattr(unlocking, "import_module", lambda _name: sqlite3)
    unlocking._loaded.cache_clear()

    with pytest.raises(CannotOpen, match="does not encrypt"):
        eventstore.connect(path, key=KEY)

    unlocking._loaded.cache_clear()
    assert list(path.parent.iterdir()) == []


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

    assert digest not in path.with_name("agent.db-witness").read_bytes()


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
