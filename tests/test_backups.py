"""A backup is the log up to a position, whatever happens while it is made; what is restored of it reads the same."""

import asyncio
import errno
import json
import os
import shutil
import stat

import pytest
from my_machine import APP

import projections
from eventstore.backups import back_up, restore
from eventstore.errors import BackupRefused, CursorConflict, OutcomeUnknown, RestoreRefused
from eventstore.exchange import export_lines
from eventstore.files import OperatingSystem
from eventstore.memory import MemoryLog
from eventstore.sqlite import SQLiteLog, sqlite3
from tests.backing import (  # noqa: F401 - fixtures
    LINE,
    backup_folder,
    contents,
    readings,
    restored,
    unchanged,
    what_stands_at_each_moment,
    work,
    written,
)
from tests.commanding import asked, plain_surroundings, runfold  # noqa: F401 - a fixture

# --- what a backup holds ------------------------------------------------------------------------------------------


def test_what_is_restored_gives_every_public_reading_as_the_log_did(runs, folder, tmp_path):
    runs.backup(folder)

    with restored(folder, tmp_path / "again.db") as again:
        assert readings(again) == readings(runs)
        assert again.verify().ok
        assert again.verify().notes == (), "its witness stands beside it"
        assert again.store.log.id == runs.store.log.id


def test_a_backup_that_is_repeated_copies_what_is_new_and_equals_one_made_at_once(runs, folder, tmp_path):
    for number in range(2, 5):
        before = runs.backup(folder).position
        work(runs, number)
        done = runs.backup(folder)
        assert (done.entries, done.proved) == (runs.store.head().position - before,) * 2
    again = runs.backup(folder)
    runs.backup(tmp_path / "at once")

    assert (again.entries, again.proved) == (0, 0)
    for name in (folder, tmp_path / "at once"):
        with restored(name, tmp_path / f"{name.name}.db") as copy:
            assert readings(copy) == readings(runs)


def test_a_backup_holds_the_log_as_it_was_found_and_writers_go_on_beside_it(runs, folder, tmp_path):
    head = runs.store.head()
    copied = []

    def write(done, total):
        copied.append((done, total))
        runs.store.append("notes", LINE)

    done = runs.backup(folder, progress=write)

    assert copied == [(head.position, head.position)]
    assert (done.position, done.hash) == (head.position, head.hash.hex())
    assert runs.store.head().position == head.position + 1
    with restored(folder, tmp_path / "again.db") as again:
        assert again.store.head() == head


def test_a_backup_is_plain_files_that_a_medium_gives_which_cannot_be_written(runs, folder, tmp_path):
    runs.backup(folder)
    stood = contents(folder)
    assert stood.keys() == {"log.db", "log.db-witness", "backup.json", "lock"}
    assert stood["log.db"][18:20] == b"\1\1", "no WAL is looked for"

    class Sealed(OperatingSystem):
        def lock(self, path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with unchanged(folder):
        restore(folder, tmp_path / "again.db", files=Sealed())


def test_the_copy_in_the_folder_is_a_log_that_every_command_reads(runs, folder):
    runs.backup(folder)

    assert runfold("export", folder / "log.db").stdout_bytes == b"".join(export_lines(runs.store))


@pytest.mark.parametrize("command", ["runs", "log", "stats"])
def test_a_command_that_read_the_copy_leaves_it_as_a_medium_needs_it(runs, folder, tmp_path, command):
    runs.backup(folder)
    names = contents(folder).keys()
    assert runfold(command, folder / "log.db").exit_code == 0

    assert contents(folder).keys() == names
    assert contents(folder)["log.db"][18:20] == b"\1\1", "no WAL is looked for"
    work(runs, 2)
    assert runs.backup(folder).ok
    with restored(folder, tmp_path / "again.db") as again:
        assert again.store.head() == runs.store.head()


def test_of_a_copy_that_may_not_be_written_commands_read_what_needs_no_table(runs, folder, monkeypatch):
    runs.backup(folder)
    monkeypatch.setattr("os.access", lambda _path, _mode: False)
    with unchanged(folder):
        assert runfold("export", folder / "log.db").stdout_bytes == b"".join(export_lines(runs.store))
        said = " ".join(runfold("verify", folder / "log.db", "--app", "tests.backing:APP").stdout.split())
        assert "note: no table was proved, for none stands here" in said
        assert "work on a copy elsewhere, such as a restored" in runfold("runs", folder / "log.db", code=1).stderr
        assert "may not be written; check permissions" in runfold("rebuild", folder / "log.db", code=1).stderr


def test_a_copy_that_somebody_else_still_reads_is_left_to_them(runs, folder):
    runs.backup(folder)
    with (
        projections.connect(folder / "log.db", app=APP) as first,
        projections.connect(folder / "log.db", app=APP) as other,
    ):
        first.close()

        assert other.store.head() == runs.store.head()
        assert other.verify().ok


def test_a_log_in_memory_is_backed_up_as_any_other(folder, tmp_path):
    with projections.connect("memory:", app=APP) as runs:
        work(runs, 1)
        runs.backup(folder)
        work(runs, 2)
        runs.backup(folder)

        with restored(folder, tmp_path / "again.db") as again:
            assert readings(again) == readings(runs)


def test_tasks_wait_for_a_backup_as_for_anything_else(folder, tmp_path):
    async def backed_up():
        async with projections.aconnect(tmp_path / "agent.db", app=APP) as runs:
            await runs.submit("deploy")
            return await runs.backup(folder)

    assert asyncio.run(backed_up()).position == 1


def test_an_empty_log_has_a_backup_too(tmp_path, folder):
    with projections.connect(tmp_path / "empty.db") as runs:
        runs.backup(folder)
    projections.restore(folder, tmp_path / "again.db")

    with projections.connect(tmp_path / "again.db") as again:
        assert again.store.head().position == 0


def test_a_log_that_may_only_be_read_is_backed_up(runs, folder, tmp_path):
    runs.close()
    with projections.connect(tmp_path / "agent.db", app=APP, read_only=True) as reader:
        assert reader.backup(folder).position == reader.store.head().position


def test_files_are_for_their_owner_alone(runs, folder, tmp_path):
    runs.backup(folder)
    restored(folder, tmp_path / "again.db").close()

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in (*folder.iterdir(), *tmp_path.glob("again.db*")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_everything_is_proved_when_that_is_asked_for(runs, folder):
    runs.backup(folder)
    spoil(folder / "log.db", 3)
    runs.store.append("notes", LINE)

    assert runs.backup(folder).proved == 1
    with pytest.raises(BackupRefused, match="what stands in it does not prove: position 3"):
        runs.backup(folder, everything=True)


# --- what is refused ----------------------------------------------------------------------------------------------


def spoil(path, position):
    """Alter an entry behind everybody's back."""
    connection = sqlite3.connect(path, isolation_level=None)
    (guard,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'events_keep'").fetchone()
    connection.execute("DROP TRIGGER events_keep")
    connection.execute("UPDATE events SET recorded_at = recorded_at + 1 WHERE position = ?", (position,))
    connection.execute(guard)
    connection.close()


def test_a_folder_of_another_log_is_refused(runs, folder, tmp_path):
    with projections.connect(tmp_path / "other.db") as other:
        other.submit("deploy")
        other.backup(folder)

    with unchanged(folder), pytest.raises(BackupRefused, match="another log; keep this folder and back up into a new"):
        runs.backup(folder)


def test_a_log_that_was_rolled_back_is_refused_and_the_newer_backup_stands(runs, folder, tmp_path):
    runs.backup(tmp_path / "older")
    work(runs, 2)
    runs.backup(folder)

    with restored(tmp_path / "older", tmp_path / "old.db") as old:
        with unchanged(folder), pytest.raises(BackupRefused, match="rolled back, or is an older copy"):
            old.backup(folder)
        work(old, 3)
        work(old, 4)
        with unchanged(folder), pytest.raises(BackupRefused, match=r"another entry than the log.*a new one"):
            old.backup(folder)
        old.backup(tmp_path / "older")


def test_a_copy_that_somebody_wrote_to_is_refused(runs, folder):
    runs.backup(folder)
    with projections.connect(folder / "log.db") as copy:
        copy.store.append("notes", LINE)

    with pytest.raises(BackupRefused, match="rolled back, or is an older copy"):
        runs.backup(folder)
    runs.store.append("notes", LINE)
    with pytest.raises(BackupRefused, match="another entry than the log"):
        runs.backup(folder)


def test_a_copy_that_was_put_back_behind_what_was_proved_is_refused(runs, folder):
    runs.backup(folder)
    kept = contents(folder)
    work(runs, 2)
    runs.backup(folder)
    (folder / "log.db").write_bytes(kept["log.db"])

    with pytest.raises(BackupRefused, match="it held entries up to position"):
        runs.backup(folder)
    (folder / "log.db-witness").unlink()
    with pytest.raises(BackupRefused, match=r"log.db is not what backup.json tells of"):
        runs.backup(folder)


def test_a_log_is_not_backed_up_over_itself(tmp_path):
    with projections.connect(tmp_path / "log.db") as runs:
        runs.submit("deploy")
        runs.backup(tmp_path / "backup")

        for folder in (tmp_path, tmp_path / "backup"):
            with projections.connect(folder / "log.db") as log, pytest.raises(BackupRefused, match="the log itself"):
                log.backup(folder)
    assert not (tmp_path / "backup.json").exists()


@pytest.mark.parametrize("within", ["", "agent.db-blobs", "agent.db-archive/logs"])
def test_a_log_that_was_opened_by_a_relative_name_knows_its_own_folders(tmp_path, monkeypatch, within):
    name = "agent.db" if within else "log.db"
    monkeypatch.chdir(tmp_path)
    with projections.connect(name) as runs:
        monkeypatch.chdir("/")
        before = sorted(tmp_path.iterdir())

        with pytest.raises(BackupRefused, match="the log itself"):
            runs.backup(tmp_path / within)

        assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_told_with_its_name(runs, folder, tmp_path):
    class Broken(OperatingSystem):
        def put(self, path, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        def publish(self, source, target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    with pytest.raises(BackupRefused, match=rf"No space left on device \({folder}/backup.json\); mend that"):
        back_up(runs.store.log, folder, files=Broken())
    runs.backup(folder)
    with pytest.raises(RestoreRefused, match="No space left on device"):
        restore(folder, tmp_path / "again.db", files=Broken())
    assert not [*tmp_path.glob("*again.db*")]


def test_a_folder_with_a_lock_among_other_things_is_refused_such_as_that_of_an_archive(runs, tmp_path):
    runs.archive(keep_days=0)
    other = shutil.copytree(tmp_path / "agent.db-archive", tmp_path / "another.db-archive")

    with unchanged(other), pytest.raises(BackupRefused, match="it holds other things"):
        runs.backup(other)


def test_what_a_cut_left_of_a_first_backup_is_gone_on_with(runs, tmp_path):
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "log.db-journal").write_bytes(bytes(512))

    assert runs.backup(tmp_path / "backup").position == runs.store.head().position


def test_a_folder_of_other_things_or_a_file_is_refused(runs, tmp_path):
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "letter.txt").write_text("dear")
    with unchanged(tmp_path / "things"), pytest.raises(BackupRefused, match="it holds other things"):
        runs.backup(tmp_path / "things")
    with pytest.raises(BackupRefused, match="it is a file"):
        runs.backup(tmp_path / "things" / "letter.txt")


def test_a_backup_to_a_disk_that_is_not_there_is_not_made_on_another(runs, tmp_path):
    with unchanged(tmp_path), pytest.raises(BackupRefused, match=r"the folder .*usb does not exist; make it first"):
        runs.backup(tmp_path / "usb" / "backup")
    with pytest.raises(BackupRefused, match="it holds other things"):
        runs.backup(tmp_path)


def said(**other):
    whole = {"format": 1, "log": "f00d", "position": 1, "hash": "00" * 32, "made_at": "2026-01-01T00:00:00Z"}
    return json.dumps(whole | other)


@pytest.mark.parametrize(
    "text",
    [
        "{}", "[]", "no json", '{"format": 2}', '{"a":' * 3_000, said(hash="zz" * 32), said(hash=None),
        said(position=10**30), said(position=-1), said(made_at=5), said(log=[]),
    ],
)  # fmt: skip
def test_a_manifest_that_says_nothing_is_refused(runs, folder, tmp_path, text):
    runs.backup(folder)
    (folder / "backup.json").write_text(text)

    with unchanged(folder), pytest.raises(BackupRefused, match=r"backup\.json (is damaged|is of format 2)"):
        runs.backup(folder)
    with pytest.raises(RestoreRefused, match=r"backup\.json (is damaged|is of format 2)"):
        projections.restore(folder, tmp_path / "again.db")


def test_two_backups_into_one_folder_at_once_are_one(runs, folder, tmp_path):
    refused = []

    def again(_done, _total):
        for call in (lambda: runs.backup(folder), lambda: projections.restore(folder, tmp_path / "again.db")):
            with pytest.raises((BackupRefused, RestoreRefused)) as error:
                call()
            refused.append(str(error.value))

    runs.backup(folder)
    runs.store.append("notes", LINE)
    runs.backup(folder, progress=again)

    assert all("works in it; wait for its end" in words for words in refused)
    assert len(refused) == 2


def test_a_log_whose_chain_is_broken_is_refused_and_the_backup_before_stands(runs, folder, tmp_path):
    good = runs.backup(folder)
    work(runs, 2)
    broken = good.position + 3
    runs.close()
    spoil(tmp_path / "agent.db", broken)

    with projections.connect(tmp_path / "agent.db", app=APP) as altered:
        manifest = (folder / "backup.json").read_bytes()
        with pytest.raises(BackupRefused, match=f"the log itself does not prove: position {broken}"):
            altered.backup(folder)
    assert (folder / "backup.json").read_bytes() == manifest
    with restored(folder, tmp_path / "again.db") as again:
        assert again.verify().ok
        assert again.store.head().position in range(good.position, broken)


FAILING = pytest.mark.parametrize(
    ("error", "words"),
    [
        (sqlite3.OperationalError("database or disk is full"), "database or disk is full"),
        (OutcomeUnknown("log.db", None, None, "disk I/O error"), r"disk I/O error \(log.db\)"),
    ],
    ids=["full", "unknown"],
)


def failing(error):
    def fails(_self, _job, **_options):
        raise error

    return fails


@FAILING
def test_a_disk_that_fills_up_leaves_the_backup_before_and_the_next_one_goes_on(
    runs, folder, tmp_path, monkeypatch, error, words
):
    good = runs.backup(folder)
    work(runs, 2)
    head = runs.store.head()

    with monkeypatch.context() as patch:
        patch.setattr(SQLiteLog, "write", failing(error))
        with unchanged(folder), pytest.raises(BackupRefused, match=f"{folder}: {words}.*; mend that and try again"):
            runs.backup(folder)
    with restored(folder, tmp_path / "again.db") as again:
        assert again.store.head().position == good.position
    assert runs.backup(folder).position == head.position


@FAILING
def test_a_disk_that_fills_up_while_a_backup_is_restored_leaves_nothing_in_its_place(
    runs, folder, tmp_path, monkeypatch, error, words
):
    runs.backup(folder)
    (tmp_path / "place").mkdir()

    with monkeypatch.context() as patch:
        patch.setattr(SQLiteLog, "write", failing(error))
        with unchanged(folder), pytest.raises(RestoreRefused, match=f"{folder}: {words}.*; mend that and try again"):
            restore(folder, tmp_path / "place" / "again.db")
    assert [*(tmp_path / "place").iterdir()] == []


# --- kills --------------------------------------------------------------------------------------------------------


def test_whatever_a_kill_leaves_is_a_shorter_backup_and_the_next_one_goes_on(runs, folder, tmp_path, moments):
    first = runs.backup(folder)
    work(runs, 2)
    head = runs.store.head()

    kept = moments(folder, lambda files: back_up(runs.store.log, folder, files=files))

    assert len(kept) > 6
    heads = set()
    for number, moment in enumerate(kept):
        last = restore(moment, tmp_path / f"{number}.db").position
        heads.add(last)
        assert first.position <= last <= head.position
        assert runs.backup(moment).position == head.position
        assert restore(moment, tmp_path / f"{number}-again.db").hash == head.hash.hex()
    assert {first.position, head.position} < heads


def test_a_first_backup_that_was_killed_is_gone_on_with_and_is_not_restored(runs, folder, tmp_path, moments):
    head = runs.store.head()

    kept = moments(folder, lambda files: back_up(runs.store.log, folder, files=files))

    for number, moment in enumerate(kept):
        if not (moment / "backup.json").exists():
            with pytest.raises(RestoreRefused, match=r"no backup into it ever ended|nothing in it"):
                restore(moment, tmp_path / f"{number}.db")
            assert not [*tmp_path.glob(f"{number}.db*")]
        assert runs.backup(moment).position == head.position


def test_a_restore_that_was_killed_is_begun_anew_and_leaves_nothing(runs, folder, tmp_path, moments):
    runs.backup(folder)
    place = tmp_path / "place"
    place.mkdir()

    kept = moments(place, lambda files: restore(folder, place / "agent.db", files=files))

    assert len(kept) > 6
    for moment in kept:
        if (moment / "agent.db").exists():
            with projections.connect(moment / "agent.db", app=APP) as whole:
                assert whole.store.head() == runs.store.head()
        else:
            restored(folder, moment / "agent.db").close()
            assert not [path.name for path in moment.iterdir() if path.name.startswith(".")]


# --- restoring ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal", "-witness", "-archive", "-blobs"])
def test_nothing_is_restored_where_something_stands(runs, folder, tmp_path, suffix):
    runs.backup(folder)
    place = tmp_path / "place"
    place.mkdir()
    (place / f"agent.db{suffix}").write_bytes(b"somebody's")

    with unchanged(place), pytest.raises(RestoreRefused, match=f"agent.db{suffix} stands already"):
        projections.restore(folder, place / "agent.db")


def test_what_is_no_backup_is_not_restored(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, words in (
        ("nowhere", "no such folder, or nothing in it"),
        ("empty", "no such folder, or nothing in it"),
        ("file", "it is a file; name the folder"),
        (".", "no backup into it ever ended"),
    ):
        with pytest.raises(RestoreRefused, match=words):
            projections.restore(tmp_path / name, tmp_path / "again.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
    back_up(MemoryLog(), folder)
    with pytest.raises(RestoreRefused, match="does not exist; make it first"):
        projections.restore(folder, tmp_path / "nowhere" / "again.db")

    assert not [*tmp_path.glob("again.db*"), *tmp_path.glob("nowhere")]


def test_a_backup_that_does_not_prove_is_not_restored(runs, folder, tmp_path):
    runs.backup(folder)
    spoil(folder / "log.db", 3)

    with pytest.raises(RestoreRefused, match="it does not prove: position 3"):
        projections.restore(folder, tmp_path / "again.db")
    assert not [*tmp_path.glob("*again.db*")]


def test_what_a_disk_garbles_while_it_is_restored_is_found_before_it_gets_a_name(runs, folder, tmp_path):
    runs.backup(folder)

    def garble(_done, _total):
        (part,) = tmp_path.glob(".again.db.*/again.db")
        spoil(part, 3)

    with pytest.raises(RestoreRefused, match="it does not prove: position 3"):
        restore(folder, tmp_path / "again.db", progress=garble)
    assert not [*tmp_path.glob("*again.db*")]


def test_a_backup_whose_database_is_another_is_not_restored(runs, folder, tmp_path):
    runs.backup(folder)
    with projections.connect(tmp_path / "other.db") as other:
        other.submit("deploy")
        other.backup(tmp_path / "other")
    for name in ("log.db", "log.db-witness"):
        shutil.copy(tmp_path / "other" / name, folder / name)

    with pytest.raises(RestoreRefused, match=r"log\.db is not what backup\.json tells of"):
        projections.restore(folder, tmp_path / "again.db")


def test_somebody_who_takes_the_name_meanwhile_keeps_it(runs, folder, tmp_path):
    runs.backup(folder)

    with pytest.raises(RestoreRefused, match="came into being meanwhile"):
        restore(folder, tmp_path / "again.db", finish=lambda _part: (tmp_path / "again.db").write_bytes(b"mine"))
    assert (tmp_path / "again.db").read_bytes() == b"mine"
    assert not [*tmp_path.glob(".again*")]


def test_tables_that_a_machine_refuses_cost_no_entry(runs, folder, tmp_path):
    """Without the program's own machines; the log is restored, and whoever has them makes the tables."""
    runs.backup(folder)
    made = projections.restore(folder, tmp_path / "again.db")

    assert made.log.position == runs.store.head().position
    assert "OrderPlaced" in made.tables
    with projections.connect(tmp_path / "again.db", app=APP) as again:
        again.rebuild()
        assert readings(again) == readings(runs)


# --- readers of a restored log ------------------------------------------------------------------------------------


@pytest.fixture(name="behind")
def restored_to_before(runs, folder, tmp_path):
    """An older copy, and the cursor of a reader who has seen more."""
    runs.backup(folder)
    work(runs, 2)
    seen = runs.store.head()
    with restored(folder, tmp_path / "again.db") as again:
        yield again, seen


@pytest.mark.parametrize("gone_on", [False, True], ids=["as restored", "after it went on"])
def test_a_reader_who_has_seen_more_than_the_copy_is_told_so(behind, gone_on):
    again, seen = behind
    if gone_on:
        work(again, 3)
        work(again, 4)

    for read in (again.store.read_all, again.store.follow):
        with pytest.raises(CursorConflict):
            next(iter(read(after=seen)))


def test_a_reader_who_has_seen_less_reads_on(runs, folder, tmp_path):
    cursor = runs.store.head()
    work(runs, 2)
    runs.backup(folder)

    with restored(folder, tmp_path / "again.db") as again:
        assert [*again.store.read_all(after=cursor)] == [*runs.store.read_all(after=cursor)]


def test_a_restored_log_goes_on_where_the_backup_ended_with_hashes_of_its_own(behind, runs):
    again, seen = behind
    work(again, 2)

    with again.store.reading() as reading:
        assert reading.hash_at(seen.position) not in (None, seen.hash)
    assert again.verify().ok


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_backs_up_and_restores_and_says_what_it_did(runs, folder, tmp_path):
    head = runs.store.head()
    first = asked("backup", tmp_path / "agent.db", folder)
    told = runfold("backup", tmp_path / "agent.db", folder, "--verify-all").output.replace("\n", " ")
    back = asked("restore", tmp_path / "again.db", folder)

    assert (first["position"], first["events"], first["hash"]) == (head.position, head.position, head.hash.hex())
    assert first["bytes"] > 4096
    assert "0 events copied" in told
    assert f"{head.position} events proved" in told
    assert (back["position"], back["hash"]) == (head.position, head.hash.hex())
    assert "OrderPlaced" in back["refused"]
    assert json.loads((folder / "backup.json").read_text())["position"] == head.position


def test_the_command_says_in_a_line_why_not(runs, folder, tmp_path):
    runs.close()
    (tmp_path / "agent.db-witness").unlink()

    assert "nothing was restored" in runfold("restore", tmp_path / "again.db", folder, code=1).output
    assert "it holds other things" in runfold("backup", tmp_path / "agent.db", tmp_path, code=1).output
    assert [path.name for path in tmp_path.iterdir()] == ["agent.db"]


def test_a_memory_log_is_no_place_to_restore_to(folder):
    back_up(MemoryLog(), folder)

    assert "names no file" in runfold("restore", "memory:", folder, code=1).output
