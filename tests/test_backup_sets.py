"""A backup is one set: the log, its blobs, its sealed days; each comes along whole, or is told."""

import shutil
from datetime import timedelta

import pytest
from my_machine import APP

import projections
from eventstore.backups import back_up, copying, restore
from eventstore.errors import BackupRefused, RestoreRefused, RunExists, WrongKey
from eventstore.files import OperatingSystem
from eventstore.memory import MemoryLog
from eventstore.notes import LogRecorded
from eventstore.workflow import MessageRecorded, RunCompleted, RunQueued, RunStarted
from tests.archived import DAYS, GOING, everything, lived
from tests.backing import (  # noqa: F401 - fixtures
    backup_folder,
    contents,
    readings,
    restored,
    unchanged,
    what_stands_at_each_moment,
    work,
    written,
)
from tests.blobbing import noise
from tests.commanding import asked, plain_surroundings, runfold  # noqa: F401 - a fixture
from tests.world import World

# --- blobs --------------------------------------------------------------------------------------------------------


def blobs(path):
    return contents(path.with_name(f"{path.name}-blobs"))


def large(runs, seed=1):
    """An entry whose payload is a blob, and one that mentions another; the digest of that."""
    digest = runs.blobs.write(b"a picture %d" % seed)
    runs.store.append("pictures", LogRecorded("test", "large", payload=noise(seed)))
    runs.store.append("pictures", LogRecorded("test", "picture", ref=digest))
    return digest


def some(moments, number=6):
    """Some of them, from the first to the last."""
    return moments[:: max(len(moments) // number, 1)]


def file_of(path, digest):
    return path.with_name(f"{path.name}-blobs") / digest[:2] / digest[2:]


def test_blobs_come_along_and_back(runs, folder, tmp_path):
    digest = large(runs)
    first = runs.backup(folder)
    large(runs, 2)
    second = runs.backup(folder)

    assert (first.blobs, second.blobs, runs.backup(folder).blobs) == (2, 2, 0)
    assert blobs(folder / "log.db") == blobs(tmp_path / "agent.db")
    with restored(folder, tmp_path / "again.db") as again:
        assert readings(again) == readings(runs)
        assert again.blobs.read(digest) == b"a picture 1"
        assert again.blobs.check().ok
        assert again.verify().ok


def test_blobs_of_a_log_in_memory_come_along_too(folder, tmp_path):
    with projections.connect(MemoryLog(), app=APP) as runs:
        work(runs, 1)
        digest = large(runs)
        runs.backup(folder)

        with restored(folder, tmp_path / "again.db") as again:
            assert readings(again) == readings(runs)
            assert again.blobs.read(digest) == b"a picture 1"


def test_a_blob_that_is_damaged_in_the_log_is_told_and_the_rest_is_backed_up(runs, folder, tmp_path):
    digest = large(runs)
    kept = runs.blobs.write(b"kept before it was damaged")
    runs.backup(folder)
    lost = runs.blobs.write(b"damaged at once")
    for each in (kept, lost):
        file_of(tmp_path / "agent.db", each).write_bytes(b"others")
    work(runs, 2)

    told = runfold("backup", tmp_path / "agent.db", folder, code=1).output.replace("\n", " ")

    assert f"the blob {lost} is damaged" in told
    assert kept not in told
    assert not file_of(folder / "log.db", lost).exists()
    with restored(folder, tmp_path / "again.db") as again:
        assert readings(again) == readings(runs)
        assert again.blobs.read(kept) == b"kept before it was damaged"
        assert again.blobs.read(digest) == b"a picture 1"


def test_a_blob_that_was_damaged_in_the_backup_is_found_and_healed_when_everything_is_proved(runs, folder):
    digest = large(runs)
    runs.backup(folder)
    file_of(folder / "log.db", digest).write_bytes(b"others")

    assert runs.backup(folder).blobs == 0
    assert runs.backup(folder, everything=True).blobs == 1
    assert file_of(folder / "log.db", digest).read_bytes() == b"a picture 1"


def test_a_payload_that_is_gone_is_no_entry_and_the_backup_ends_before_it(runs, folder, tmp_path):
    good = runs.backup(folder)
    runs.store.append("pictures", LogRecorded("test", "large", payload=noise()))
    shutil.rmtree(tmp_path / "agent.db-blobs")

    with pytest.raises(BackupRefused, match=f"position {good.position + 1} .* needs the blob"):
        runs.backup(folder)
    with restored(folder, tmp_path / "again.db") as again:
        assert again.store.head().position == good.position


def test_a_collector_beside_a_backup_takes_nothing_that_it_needs(runs, folder, tmp_path):
    """What no entry mentions may go under its hands; what one mentions does not."""
    digest = large(runs)
    runs.blobs.write(b"mentioned by nobody")

    class Collected(OperatingSystem):
        done = False

        def open(self, path):
            if not self.done and "agent.db-blobs" in str(path):
                self.done = True
                runs.blobs.gc(min_age=timedelta(0))
            return super().open(path)

    source = runs.store.log
    source.blobs._files = Collected()
    done = back_up(source, folder)

    assert done.ok
    with restored(folder, tmp_path / "again.db") as again:
        assert again.blobs.read(digest) == b"a picture 1"
        assert len(blobs(tmp_path / "again.db")) == 2


def test_a_blob_that_a_collector_had_put_aside_when_it_was_killed_comes_along(runs, folder, tmp_path):
    digest = large(runs)
    file = file_of(tmp_path / "agent.db", digest)
    file.rename(file.with_name(f"{file.name}.aside"))

    runs.backup(folder)

    assert file_of(folder / "log.db", digest).read_bytes() == b"a picture 1"


def test_a_link_among_the_blobs_of_a_backup_leads_nobody_outside(runs, folder, tmp_path):
    digest = large(runs)
    runs.backup(folder)
    (tmp_path / "secret").write_bytes(b"a picture 1")
    file_of(folder / "log.db", digest).unlink()
    file_of(folder / "log.db", digest).symlink_to(tmp_path / "secret")

    back = runfold("restore", tmp_path / "again.db", folder, code=1).output

    assert "the blob" in back
    assert not file_of(tmp_path / "again.db", digest).exists()


def test_what_stands_among_the_blobs_and_is_none_is_not_copied(runs, folder, tmp_path):
    large(runs)
    (tmp_path / "agent.db-blobs" / "..letter").mkdir()
    (tmp_path / "agent.db-blobs" / "letter.txt").write_text("dear")

    runs.backup(folder)

    assert len(blobs(folder / "log.db")) == 2


# --- sealed days --------------------------------------------------------------------------------------------------


@pytest.fixture(name="filed")
def log_of_some_days(tmp_path):
    """A daemon's log of some days, its world, and how a backup of it is restored and opened."""
    world = World(tmp_path)
    runs = world.runs()
    lived(world, runs)

    def again(folder, name="again.db"):
        projections.restore(folder, tmp_path / name)
        world.path = tmp_path / name
        return world.runs()

    yield world, runs, again
    world.close()


def archived(log):
    """What stands in the files, and which entries the database itself holds."""
    with log.reading() as reading:
        days = {segment.day: log.archive.files.read(log.archive.path(segment.file)) for segment in reading.segments()}
        return days, list(reading.held(1, reading.head().position))


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
def test_sealed_days_come_along_and_what_left_the_log_is_in_them_alone(filed, folder, compress):
    _, runs, again = filed
    until = runs.store.head().position
    runs.archive(keep_days=0, compress=compress)
    whole = everything(runs, until)

    done = runs.backup(folder)

    assert (done.segments, done.entries) == (3, runs.store.head().position)
    with again(folder) as copy:
        assert everything(copy, until) == whole
        assert archived(copy.store.log) == archived(runs.store.log)
        assert copy.verify().ok
        assert copy.archive(keep_days=0).released == 0


def test_what_leaves_the_log_between_two_backups_leaves_the_backup(filed, folder, tmp_path):
    world, runs, again = filed
    runs.backup(folder)
    size = (folder / "log.db").stat().st_size
    runs.archive(keep_days=2)
    assert runs.backup(folder).segments == 3
    runs.store.append("notes", LogRecorded("app", "line", "x", "z" * 90_000))
    world.jumps(days=3)
    runs.archive(keep_days=0)
    until = runs.store.head().position
    whole = everything(runs, until)

    assert runs.backup(folder).segments == 1
    runs.backup(tmp_path / "at once")

    assert (folder / "log.db").stat().st_size < size + 90_000
    for number, name in enumerate((folder, tmp_path / "at once")):
        copy = again(name, f"{number}.db")
        assert everything(copy, until) == whole
        assert archived(copy.store.log) == archived(runs.store.log)
        assert copy.verify().ok


def test_what_is_released_while_a_backup_is_made_is_not_missed(filed, folder, monkeypatch):
    _, runs, again = filed
    monkeypatch.setattr("eventstore.backups.copying.PAGE", 20)
    until = runs.store.head().position
    whole = everything(runs, until)
    done = []

    def archive(_done, _total):
        done.append(runs.archive(keep_days=0))

    runs.backup(folder, progress=archive)
    assert done[0].released > 20
    assert everything(again(folder, "then.db"), until) == whole
    runs.backup(folder)
    assert everything(again(folder, "now.db"), until) == whole


def test_days_that_were_put_back_are_backed_up_as_they_read(filed, folder):
    _, runs, again = filed
    until = runs.store.head().position
    runs.archive(keep_days=0)
    runs.backup(folder)
    runs.restore_days()
    whole = everything(runs, until)
    runs.backup(folder)
    runs.archive(keep_days=0)
    runs.backup(folder, everything=True)

    copy = again(folder)
    assert everything(copy, until) == whole
    assert copy.verify().ok


def test_keys_that_came_back_with_their_days_are_remembered_by_the_backup_too(filed, folder):
    world, runs, again = filed
    for number in range(12):  # more than a stream of notes spares
        (last,) = runs.store.append("line", LogRecorded("app", "line", payload=number), key=f"k{number}")
    runs.store.append("line", LogRecorded("app", "line"))
    world.jumps(days=1)
    runs.archive(keep_days=0)
    runs.backup(folder)
    runs.restore_days()
    head = runs.store.head()

    runs.backup(folder)

    copy = again(folder)
    assert copy.store.append("line", LogRecorded("app", "line", payload=11), key="k11") == (last,)
    assert copy.store.head() == head
    assert copy.verify().ok


def test_a_run_that_may_go_on_keeps_its_keys_through_backup_and_restore(filed, folder):
    _, runs, again = filed
    runs.archive(keep_days=0)
    runs.backup(folder)
    events = [item.event for item in runs.store.read(GOING, limit=2)]

    copy = again(folder)
    head = copy.store.head()
    assert copy.store.append(GOING, *events, key="begun")[0].version == 1
    assert copy.store.head() == head


def test_a_day_whose_file_is_away_is_told_and_one_that_was_backed_up_is_not_needed(filed, folder):
    world, runs, again = filed
    runs.archive(keep_days=0)
    away = runs.store.log.archive.path(f"{DAYS[1]}.jsonl")
    kept = away.read_bytes()
    away.unlink()
    with pytest.raises(BackupRefused, match=f"the log itself does not prove.*{DAYS[1]}"):
        runs.backup(folder)

    away.write_bytes(kept)
    runs.backup(folder)
    away.unlink()
    runs.store.append("notes", LogRecorded("app", "line"))
    assert runs.backup(folder).entries == 1
    assert again(folder).verify().ok
    assert world


@pytest.mark.parametrize("harm", ["gone", "edited"])
def test_a_day_that_was_damaged_in_the_backup_is_not_restored_and_is_healed_when_everything_is_proved(
    filed, folder, harm
):
    _, runs, again = filed
    runs.archive(keep_days=0)
    runs.backup(folder)
    file = folder / "log.db-archive" / "logs" / f"{DAYS[1]}.jsonl"
    good = file.read_bytes()
    file.unlink() if harm == "gone" else file.write_bytes(good.replace(b"hello", b"hullo").replace(b"1", b"2", 1))

    with pytest.raises(RestoreRefused, match=f"it does not prove: .*{DAYS[1]}"):
        again(folder)
    assert runs.backup(folder, everything=True).segments == 1

    assert file.read_bytes() == good
    assert again(folder).verify().ok


def test_a_damaged_day_that_would_be_another_file_now_is_told(filed, folder, monkeypatch):
    _, runs, _ = filed
    runs.archive(keep_days=0, compress=True)
    runs.backup(folder)
    (folder / "log.db-archive" / "logs" / f"{DAYS[0]}.jsonl.zst").write_bytes(b"spoilt")
    monkeypatch.setattr("eventstore.segments.folder._LEVEL", 1)

    with pytest.raises(BackupRefused, match=f"the day {DAYS[0]} is damaged in the copy"):
        runs.backup(folder, everything=True)


def test_a_key_that_was_used_again_names_its_new_entry_in_the_backup_too(filed, folder):
    world, runs, again = filed
    for number in range(12):  # more than a stream of notes spares
        runs.store.append("line", LogRecorded("app", "line"), key=f"k{number}")
    runs.backup(folder)
    world.jumps(days=2)
    runs.archive(keep_days=0)
    (new,) = runs.store.append("line", LogRecorded("app", "another"), key="k10")

    runs.backup(folder)

    with again(folder).store.reading() as reading:
        assert reading.keyed("line", "k10").position == new.position


def test_a_key_that_was_used_again_behind_the_last_entry_of_a_backup_asks_for_a_new_one(filed, folder, tmp_path):
    world, runs, again = filed
    for _ in range(10):  # as many as a stream of notes spares
        runs.store.append("line", LogRecorded("app", "line"))
    runs.store.append("line", LogRecorded("app", "line"), key="k")
    runs.backup(folder)
    runs.store.append("line", LogRecorded("app", "line"))
    world.jumps(days=2)
    runs.archive(keep_days=0)
    runs.store.append("line", LogRecorded("app", "another"), key="k")
    until = runs.store.head().position

    with pytest.raises(BackupRefused, match=r"the key k of line names position .* back up into a new one"):
        runs.backup(folder)
    runs.backup(tmp_path / "new")
    assert again(folder, "old.db").store.head().position < until
    assert everything(again(tmp_path / "new"), until) == everything(runs, until)


def test_whatever_a_kill_leaves_of_a_backup_of_days_is_gone_on_with(filed, folder, tmp_path, moments):
    world, runs, again = filed
    runs.backup(folder)
    for number in range(30):
        runs.store.append("notes", LogRecorded("app", "line", f"later {number}"), key=f"later-{number}")
    world.jumps(days=2)
    runs.archive(keep_days=0)
    until = runs.store.head().position
    whole = everything(runs, until)

    kept = moments(folder, lambda files: back_up(runs.store.log, folder, files=files))

    for number, moment in enumerate(some(kept, 12)):
        restore(moment, tmp_path / f"{number}-short.db")
    for number, moment in enumerate(some(kept, 4)):
        runs.backup(moment)
        copy = again(moment, f"{number}.db")
        assert everything(copy, until) == whole
        assert archived(copy.store.log) == archived(runs.store.log)


def test_what_a_kill_leaves_of_a_backup_has_the_last_entry_of_each_stream_when_it_is_restored(
    filed, folder, monkeypatch
):
    """The run's last event stood behind the cut, and all others of it in a sealed day alone: it looked like no run."""
    world, runs, again = filed
    runs.backup(folder)
    runs.store.append("run-9", RunQueued("deploy"), RunStarted("w"))
    world.jumps(days=1)
    runs.store.append(GOING, *[MessageRecorded("user", "still there?")] * 20, attempt=1)
    runs.store.append("run-9", RunCompleted(), attempt=1)
    world.jumps(days=2)
    runs.archive(keep_days=0)
    monkeypatch.setattr(copying, "PAGE", 5)

    def killed(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.backup(folder, progress=killed)

    with again(folder) as copy:
        assert copy.workflow_runs.get("run-9").phase == "started"
        assert [recorded.type for recorded in copy.store.read("run-9")] == ["RunQueued", "RunStarted"]
        with pytest.raises(RunExists):
            copy.submit("deploy", run_id="run-9")
        assert copy.verify().ok
    with projections.connect(folder / "log.db") as cut:
        findings = "".join(map(str, cut.verify().findings))
    assert "the last entry of run-9 stands in its segment alone" in findings
    assert runs.backup(folder).ok
    assert again(folder, "whole.db").verify().ok


# --- kills --------------------------------------------------------------------------------------------------------


def test_whatever_a_kill_leaves_of_the_set_is_gone_on_with_and_nothing_is_left_over(runs, folder, tmp_path, moments):
    large(runs)
    runs.backup(folder)
    large(runs, 2)
    work(runs, 2)
    whole = readings(runs)

    kept = moments(folder, lambda files: back_up(runs.store.log, folder, files=files))

    for number, moment in enumerate(some(kept)):
        restore(moment, tmp_path / f"{number}.db")
        assert runs.backup(moment).ok
        assert blobs(moment / "log.db") == blobs(tmp_path / "agent.db")
    with restored(kept[0], tmp_path / "again.db") as again:
        assert readings(again) == whole


def test_a_restore_that_was_killed_leaves_no_folder_that_stands_in_the_way(runs, folder, tmp_path, moments):
    large(runs)
    runs.backup(folder)
    place = tmp_path / "place"
    place.mkdir()

    kept = moments(place, lambda files: restore(folder, place / "agent.db", files=files))

    between = [m for m in kept if (m / "agent.db-blobs").exists() and not (m / "agent.db").exists()]
    assert between
    for moment in {*some(kept), *between}:
        if not (moment / "agent.db").exists():
            mark(moment)
            restore(folder, moment / "agent.db")
        with projections.connect(moment / "agent.db", app=APP) as whole:
            assert whole.store.head() == runs.store.head()
            assert whole.blobs.check().ok


def mark(moment):
    """The folders were copied aside, and are others than those that the mark tells of: put that right."""
    for marks in moment.glob(".agent.db.*/agent.db-moving"):
        folder = moment / "agent.db-blobs"
        if folder.exists():
            marks.write_text(f'{{"-blobs": {folder.stat().st_ino}}}')  # and no device, whose number a reboot changes


def test_a_folder_that_somebody_else_made_is_not_taken_for_one_that_a_kill_left(runs, folder, tmp_path, moments):
    large(runs)
    runs.backup(folder)
    place = tmp_path / "place"
    place.mkdir()
    kept = moments(place, lambda files: restore(folder, place / "agent.db", files=files))
    between = [m for m in kept if (m / "agent.db-blobs").exists() and not (m / "agent.db").exists()]

    with pytest.raises(RestoreRefused, match=r"agent\.db-blobs stands already"):
        restore(folder, between[0] / "agent.db")
    assert len(contents(between[0] / "agent.db-blobs")) == 2


def test_what_takes_the_place_of_the_folders_meanwhile_stays_and_nothing_is_left(runs, folder, tmp_path):
    large(runs)
    runs.backup(folder)
    place = tmp_path / "place"
    place.mkdir()

    with pytest.raises(RestoreRefused, match="came into being meanwhile"):
        restore(folder, place / "agent.db", finish=lambda _: (place / "agent.db").write_bytes(b"mine"))
    assert contents(place) == {"agent.db": b"mine"}


# --- encryption ---------------------------------------------------------------------------------------------------

KEY = bytes(range(32))
MARKER = b"Zibeline4711"


def test_the_backup_of_an_encrypted_log_is_encrypted_with_its_key(folder, tmp_path):
    pytest.importorskip("sqlcipher3", reason="the extra runfold[encryption] is not installed")
    with projections.connect(tmp_path / "agent.db", app=APP, key=KEY) as runs:
        work(runs, 1)
        picture = runs.blobs.write(MARKER)
        runs.store.append("pictures", LogRecorded("test", MARKER.decode(), ref=picture, payload=noise()))
        runs.backup(folder)
        work(runs, 2)
        assert runs.backup(folder).blobs == 0
        whole = readings(runs)

        assert not [name for name, data in contents(folder).items() if MARKER in data or picture.encode() in data]
        with unchanged(folder), pytest.raises(WrongKey):
            projections.restore(folder, tmp_path / "again.db", key=bytes(32))
        with restored(folder, tmp_path / "again.db", key=KEY) as again:
            assert readings(again) == whole
            assert again.blobs.read(picture) == MARKER


def test_no_hash_in_the_files_of_an_encrypted_backup_tells_whose_guess_at_an_entry_is_right(folder, tmp_path):
    pytest.importorskip("sqlcipher3", reason="the extra runfold[encryption] is not installed")
    with projections.connect(tmp_path / "agent.db", app=APP, key=KEY) as runs:
        for number in range(2):
            runs.store.append("notes", LogRecorded("app", "pin", payload=number))
            done = runs.backup(folder)
            with runs.store.log.reading() as view:
                hashes = [view.hash_at(position) for position in range(done.position + 1)]

            assert done.hash == hashes[-1].hex()
            for data in contents(folder).values():
                assert not [it for it in hashes if it in data or it.hex().encode() in data]
    with restored(folder, tmp_path / "again.db", key=KEY) as again:
        assert again.store.head().position == 2


def test_after_a_change_of_the_key_a_backup_is_gone_on_with_when_it_has_the_new_one_too(folder, tmp_path):
    pytest.importorskip("sqlcipher3", reason="the extra runfold[encryption] is not installed")
    with projections.connect(tmp_path / "agent.db", app=APP, key=KEY) as runs:
        work(runs, 1)
        runs.backup(folder)
        runs.rekey(bytes(32))
        runs.store.append("notes", LogRecorded("app", "line"))
        with unchanged(folder), pytest.raises(WrongKey, match=r"log\.db"):
            runs.backup(folder)

        with projections.connect(folder / "log.db", key=KEY) as copy:
            copy.rekey(bytes(32))
        assert runs.backup(folder).entries == 1
        with restored(folder, tmp_path / "again.db", key=bytes(32)) as again:
            assert readings(again) == readings(runs)


def test_a_log_that_was_encrypted_anew_has_a_backup_folder_of_its_own(folder, tmp_path):
    """Its files have another key than those in the folder: what is told of it by the one, the other does not prove."""
    pytest.importorskip("sqlcipher3", reason="the extra runfold[encryption] is not installed")
    with projections.connect(tmp_path / "agent.db", app=APP, key=KEY) as runs:
        work(runs, 1)
        runs.backup(folder)
        whole = readings(runs)
    projections.restore(folder, tmp_path / "anew.db", app=APP, key=KEY, new_key=bytes(32))
    with projections.connect(folder / "log.db", key=KEY) as copy:
        copy.rekey(bytes(32))

    with projections.connect(tmp_path / "anew.db", app=APP, key=bytes(32)) as runs:
        runs.store.append("notes", LogRecorded("app", "line"))
        with pytest.raises(BackupRefused, match="encrypted anew since; keep this folder and back up into a new one"):
            runs.backup(folder)

    with restored(folder, tmp_path / "again.db", key=bytes(32)) as again:
        assert readings(again) == whole
