"""The port for file work keeps its promises, on the machine's files and on those in memory."""

import os
import stat
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from eventstore.files import MemoryFiles, OperatingSystem, Stat
from tests.faults import disks
from tests.faults.recording import RecordingOS, _patched_os
from tests.faults.shim import Operation

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="modes and symlinks are of POSIX")


@pytest.fixture(params=["disk", "memory"])
def files(request, tmp_path):
    if request.param == "disk":
        return OperatingSystem()
    memory = MemoryFiles()
    memory.folder(tmp_path)
    return memory


def everything(files, folder):
    return {name: files.read(folder / name) for name in files.names(folder)}


# --- what both promise ----------------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_was_put(files, tmp_path):
    files.put(tmp_path / "a", b"one")
    files.put(tmp_path / "a", b"other")

    assert files.read(tmp_path / "a") == b"other"
    assert everything(files, tmp_path) == {"a": b"other"}


def test_a_file_is_made_of_pieces_and_stands_when_the_block_was_left(files, tmp_path):
    files.put(tmp_path / "a", b"before")
    with files.writing(tmp_path / "a") as file:
        file.write(b"one ")
        before = files.read(tmp_path / "a")
        file.write(b"two")

    assert (before, files.read(tmp_path / "a")) == (b"before", b"one two")


def test_an_exception_inside_writing_leaves_what_was_there(files, tmp_path):
    files.put(tmp_path / "old", b"before")
    for name in ("old", "new"):
        with suppress(KeyError), files.writing(tmp_path / name) as file:
            file.write(b"half")
            raise KeyError

    assert everything(files, tmp_path) == {"old": b"before"}


def test_what_is_not_there_is_none_and_nothing(files, tmp_path):
    missing = tmp_path / "missing"

    assert (files.read(missing), files.open(missing), files.stat(missing)) == (None, None, None)
    assert (files.touch(missing), files.remove(missing), files.names(missing)) == (False, False, [])
    with pytest.raises(FileNotFoundError):
        files.rename(missing, tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        files.put(missing / "file", b"")
    assert everything(files, tmp_path) == {}


def test_a_folder_is_made_with_those_above_it_and_again_without_harm(files, tmp_path):
    deep = tmp_path / "a" / "b" / "c"
    for _ in range(2):
        files.folder(deep)
    files.put(deep / "file", b"1")
    files.folder(deep)

    assert (files.names(tmp_path), files.names(deep)) == (["a"], ["file"])


def test_a_file_in_a_folders_place_is_told_and_stays(files, tmp_path):
    files.put(tmp_path / "a", b"1")
    for verb in (files.folder, files.names):
        with pytest.raises(NotADirectoryError):
            verb(tmp_path / "a")
    files.folder(tmp_path / "folder")
    for path in ("folder", "nosuch/file"):
        with pytest.raises(OSError, match=path), files.writing(tmp_path / path) as file:
            file.write(b"2")

    assert (files.read(tmp_path / "a"), files.names(tmp_path)) == (b"1", ["a", "folder"])


def test_names_are_sorted_and_tell_of_folders_too(files, tmp_path):
    for name in ("b", "c", "a"):
        files.put(tmp_path / name, b"")
    files.folder(tmp_path / "bb")

    assert files.names(tmp_path) == ["a", "b", "bb", "c"]


def test_a_file_is_read_piece_by_piece(files, tmp_path):
    files.put(tmp_path / "a", b"12345")
    with files.open(tmp_path / "a") as file:
        pieces = [file.read(2), file.seek(1), file.read(2), file.read()]

    assert pieces == [b"12", 1, b"23", b"45"]


def test_stat_tells_the_size_and_touch_makes_young(tmp_path):
    clock = iter(range(100, 200, 10))
    memory = MemoryFiles(lambda: next(clock))
    memory.folder(tmp_path)
    disk = OperatingSystem()
    for files in (memory, disk):
        files.put(tmp_path / "a", b"123")
    os.utime(tmp_path / "a", (1, 1))

    assert (memory.stat(tmp_path / "a"), disk.stat(tmp_path / "a")) == (Stat(3, 100), Stat(3, 1_000_000))
    assert memory.touch(tmp_path / "a")
    assert disk.touch(tmp_path / "a")
    assert memory.stat(tmp_path / "a") == Stat(3, 110)
    assert disk.stat(tmp_path / "a").modified > 1_700_000_000_000_000


def test_a_file_is_executable_when_it_was_made_so_and_a_folder_is_told(files, tmp_path):
    files.folder(tmp_path / "folder")
    for name, executable in (("script", True), ("text", False)):
        with files.writing(tmp_path / name, executable=executable) as file:
            file.write(b"#!/bin/sh")

    found = {name: files.stat(tmp_path / name) for name in files.names(tmp_path)}
    assert {name: (item.folder, item.executable) for name, item in found.items()} == {
        "folder": (True, False), "script": (False, True), "text": (False, False)
    }  # fmt: skip


def test_a_rename_takes_the_place_of_what_was_there_and_publish_does_not(files, tmp_path):
    files.folder(tmp_path / "folder")
    for name in ("a", "b", "folder/c"):
        files.put(tmp_path / name, name.encode())
    published = files.publish(tmp_path / "a", tmp_path / "b")
    files.rename(tmp_path / "a", tmp_path / "folder" / "c")

    assert (published, files.publish(tmp_path / "b", tmp_path / "d")) == (False, True)
    assert (files.names(tmp_path), files.read(tmp_path / "folder" / "c")) == (["d", "folder"], b"a")


def test_a_file_that_was_removed_is_gone_and_the_others_are_not(files, tmp_path):
    files.put(tmp_path / "a", b"1")
    files.put(tmp_path / "b", b"2")

    assert files.remove(tmp_path / "a")
    assert everything(files, tmp_path) == {"b": b"2"}


def test_who_holds_a_lock_is_not_joined_and_when_it_is_let_go_the_next_gets_it(files, tmp_path):
    lock = tmp_path / "lock"
    with suppress(KeyError), files.lock(lock):
        with pytest.raises(BlockingIOError), files.lock(lock):
            pytest.fail("two hold it")
        with pytest.raises(BlockingIOError), files.lock(lock):
            pytest.fail("a refusal let go of the other's")
        raise KeyError
    with files.lock(lock):
        assert files.names(tmp_path) == ["lock"]


def test_make_and_hold_do_what_the_witness_asks(files, tmp_path):
    assert (files.make(tmp_path / "a"), files.make(tmp_path / "a")) == (True, False)

    held = files.hold(tmp_path / "a")
    held.overwrite(b"12345")
    held.overwrite(b"ab")
    held.sync()
    held.close()
    files.hold(tmp_path / "b").close()

    assert everything(files, tmp_path) == {"a": b"ab345", "b": b""}


# --- the machine's own ----------------------------------------------------------------------------------------------


@POSIX
def test_files_and_folders_are_readable_by_their_owner_only(tmp_path):
    files = OperatingSystem()
    before = os.umask(0)
    try:
        files.folder(tmp_path / "a" / "b")
        files.put(tmp_path / "a" / "file", b"")
        files.make(tmp_path / "a" / "made")
        with files.lock(tmp_path / "a" / "lock"):
            files.hold(tmp_path / "a" / "held").close()
    finally:
        os.umask(before)

    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {
        "a": 0o700, "a/b": 0o700, "a/file": 0o600, "a/made": 0o600, "a/lock": 0o600, "a/held": 0o600
    }  # fmt: skip


@pytest.fixture
def linked(tmp_path):
    """A folder of ours that holds links to a file and a folder of somebody's; and that somebody's folder."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").write_bytes(b"theirs")
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "file").symlink_to(theirs / "file")
    (ours / "folder").symlink_to(theirs)
    return ours, theirs


def hold_lock(files, path):
    with files.lock(path):
        pass


VERBS = {
    "read": lambda files, path: files.read(path),
    "open": lambda files, path: files.open(path),
    "stat": lambda files, path: files.stat(path),
    "touch": lambda files, path: files.touch(path),
    "hold": lambda files, path: files.hold(path),
    "lock": hold_lock,
}


@POSIX
@pytest.mark.parametrize("verb", VERBS)
def test_a_symlink_in_a_files_place_is_refused(linked, verb):
    ours, theirs = linked
    age = (theirs / "file").stat().st_mtime_ns

    with pytest.raises(OSError, match=r"symbolic|symlink"):
        VERBS[verb](OperatingSystem(), ours / "file")
    assert ((theirs / "file").read_bytes(), (theirs / "file").stat().st_mtime_ns) == (b"theirs", age)
    assert [path.name for path in theirs.iterdir()] == ["file"]


@POSIX
def test_what_replaces_or_takes_away_a_symlink_leaves_what_it_leads_to(linked):
    ours, theirs = linked
    files = OperatingSystem()
    files.put(ours / "file", b"ours")
    (ours / "other").symlink_to(theirs / "file")

    assert files.remove(ours / "other")
    assert ((theirs / "file").read_bytes(), files.read(ours / "file")) == (b"theirs", b"ours")


WITHIN = {
    **VERBS,
    "put": lambda files, path: files.put(path, b"escaped"),
    "make": lambda files, path: files.make(path.with_name("new")),
    "remove": lambda files, path: files.remove(path),
    "rename from": lambda files, path: files.rename(path, path.parent.parent / "taken"),
    "rename to": lambda files, path: files.rename(path.parent.parent / "mine", path),
    "names": lambda files, path: files.names(path.parent),
    "folder": lambda files, path: files.folder(path.parent),
    "folder below": lambda files, path: files.folder(path.parent / "deep" / "er"),
}


@POSIX
@pytest.mark.parametrize("verb", WITHIN)
def test_below_a_folder_of_ours_no_symlink_is_passed_by(linked, verb):
    ours, theirs = linked
    files = OperatingSystem()
    files.own(ours)
    files.put(ours / "mine", b"mine")

    with pytest.raises(OSError, match="symlink"):
        WITHIN[verb](files, ours / "folder" / "file")
    assert {path.name: path.read_bytes() for path in theirs.iterdir()} == {"file": b"theirs"}


@POSIX
def test_our_own_folder_may_be_no_symlink_itself_and_those_above_it_may(linked, tmp_path):
    _, theirs = linked
    (tmp_path / "link").symlink_to(theirs)
    files = OperatingSystem()
    files.own(tmp_path / "link" / "ours")
    files.folder(tmp_path / "link" / "ours" / "ab")
    files.put(tmp_path / "link" / "ours" / "ab" / "file", b"1")
    files.own(tmp_path / "link")

    assert (theirs / "ours" / "ab" / "file").read_bytes() == b"1"
    with pytest.raises(OSError, match="symlink"):
        files.read(tmp_path / "link" / "ours" / "ab" / "file")


@POSIX
def test_a_pipe_in_a_files_place_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(OSError, match="no file"):
        OperatingSystem().read(tmp_path / "pipe")


# --- in which order it reaches the disk -----------------------------------------------------------------------------


@contextmanager
def watched(tmp_path):
    """Everything that is asked of the disk inside, without what nobody can name beforehand."""
    steps = []

    def seen(operation: Operation) -> None:
        name = str(Path(operation.path).relative_to(tmp_path))
        steps.append((operation.kind, "temporary" if name.endswith(".tmp") else name))

    with _patched_os(RecordingOS(seen)):
        yield steps


@POSIX
def test_data_is_synced_before_it_gets_its_name_and_the_folder_after(tmp_path):
    with watched(tmp_path) as steps:
        OperatingSystem().put(tmp_path / "a", b"data")

    assert steps == [
        ("open", "temporary"), ("write", "temporary"), ("sync", "temporary"), ("rename", "temporary"), ("dirsync", ".")
    ]  # fmt: skip


@POSIX
def test_each_folder_that_is_made_is_synced_into_the_one_above_it(tmp_path):
    files = OperatingSystem()
    with watched(tmp_path) as steps:
        files.folder(tmp_path / "a" / "b")
        files.folder(tmp_path / "a" / "b")

    assert steps == [("mkdir", "a"), ("dirsync", "."), ("mkdir", "a/b"), ("dirsync", "a")]


@POSIX
def test_a_folder_that_another_made_is_synced_all_the_same_as_he_may_have_been_killed_before(tmp_path):
    (tmp_path / "own" / "b").mkdir(parents=True)
    files = OperatingSystem()
    files.own(tmp_path / "own")
    with watched(tmp_path) as steps:
        files.folder(tmp_path / "own" / "b")

    assert steps == [("dirsync", "."), ("dirsync", "own")]


@POSIX
def test_removing_renaming_and_touching_are_durable_when_they_return(tmp_path):
    files = OperatingSystem()
    files.folder(tmp_path / "folder")
    files.put(tmp_path / "a", b"1")
    with watched(tmp_path) as steps:
        files.touch(tmp_path / "a")
        files.rename(tmp_path / "a", tmp_path / "folder" / "b")
        files.remove(tmp_path / "folder" / "b")

    assert steps == [
        ("dirsync", "."), ("rename", "a"), ("dirsync", "folder"), ("dirsync", "."), ("delete", "folder/b"),
        ("dirsync", "folder"),
    ]  # fmt: skip


# --- in the harness of failing disks --------------------------------------------------------------------------------

CHANGING = {
    "files.folder": lambda files, path: files.folder(path / "folder"),
    "files.writing": lambda files, path: files.put(path / "a", b"new"),
    "files.write": lambda files, path: files.put(path / "a", b"new"),
    "files.touch": lambda files, path: files.touch(path / "a"),
    "files.rename": lambda files, path: files.rename(path / "a", path / "b"),
    "files.remove": lambda files, path: files.remove(path / "a"),
    "files.open": lambda files, path: files.open(path / "a"),
    "files.names": lambda files, path: files.names(path),
    "files.stat": lambda files, path: files.stat(path / "a"),
    "files.lock": lambda files, path: hold_lock(files, path / "lock"),
}


@POSIX
@pytest.mark.parametrize("verb", CHANGING)
def test_a_verb_on_a_disk_that_fails_raises_and_changes_nothing(tmp_path, verb):
    (tmp_path / "a").write_bytes(b"old")
    disk = disks.Disk(armed=True, fault=disks.Fault(0, verb, "EIO", stays=True))
    disk.asked.append("what the fault comes after")
    with pytest.raises(OSError, match="Input/output"):
        CHANGING[verb](disks.FaultyFiles(disk), tmp_path)

    assert disk.fired >= 1
    assert everything(OperatingSystem(), tmp_path) == {"a": b"old"}
