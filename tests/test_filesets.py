"""Files that a run saves come back as they were, and never anywhere else."""

import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
import unicodedata
from datetime import timedelta
from pathlib import Path

import pytest

import projections
from eventstore.errors import Fenced, InvalidArgument, InvalidPayload, MissingBlob, RunNotFound
from eventstore.files import MemoryFiles
from eventstore.notes import LogRecorded
from eventstore.workflow import CheckpointSaved, RunCancelled
from projections.filesets import FileSets, SavedFile
from tests.blobbing import ages, begun

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="modes and symlinks are of POSIX")


@pytest.fixture(params=["agent.db", "memory:"])
def runs(request, tmp_path):
    url = request.param if request.param == "memory:" else tmp_path / request.param
    with projections.connect(url) as runs:
        yield runs


@pytest.fixture
def work(tmp_path):
    """A folder with a few files."""
    folder = tmp_path / "work"
    (folder / "src" / "deep").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "a.txt").write_text("one")
    (folder / "src" / "same.txt").write_text("one")
    (folder / "src" / "deep" / "ü.bin").write_bytes(bytes(3_000_000))
    (folder / "run.sh").write_text("#!/bin/sh")
    (folder / "run.sh").chmod(0o755)
    return folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_come_back_as_they_were_saved(runs, work, tmp_path):
    before = content(work)
    attempt = begun(runs)
    with attempt:
        recorded = attempt.save_files(work)
    for path in (work / "a.txt", work / "run.sh"):
        path.unlink()
    found = runs.files.restore("run-1", tmp_path / "new" / "place")

    assert content(tmp_path / "new" / "place") == before
    assert (found.run_id, found.version, found.name, found.left_out) == ("run-1", recorded.version, "files", ())
    assert found.files["run.sh"] == SavedFile(found.files["run.sh"].digest, 9, executable=True)
    assert not found.files["a.txt"].executable
    assert found.files["a.txt"].digest == found.files["src/same.txt"].digest


@POSIX
def test_the_executable_bit_comes_back_and_nobody_else_may_read(runs, work, tmp_path):
    begun(runs).save_files(work)
    runs.files.restore("run-1", tmp_path / "back")

    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "back").rglob("*")}
    assert modes == {"a.txt": 0o600, "run.sh": 0o700, "src": 0o700, "deep": 0o700, "same.txt": 0o600, "ü.bin": 0o600}


def test_sets_are_listed_and_the_last_of_a_name_or_one_of_a_version_is_brought_back(runs, work, tmp_path):
    attempt = begun(runs)
    first = attempt.save_files(work, "draft")
    (work / "a.txt").write_text("two")
    attempt.save_files(work, "draft")
    attempt.save_files(work / "src", "sources")

    assert [item.name for item in runs.files.of("run-1")] == ["draft", "draft", "sources"]
    assert [len(item.files) for item in runs.files.of("run-1", name="sources")] == [2]
    runs.files.restore("run-1", tmp_path / "last", name="draft")
    runs.files.restore("run-1", tmp_path / "first", version=first.version)
    assert [(tmp_path / name / "a.txt").read_text() for name in ("last", "first")] == ["two", "one"]
    assert runs.files.restore("run-1", tmp_path / "any").name == "sources"


def test_what_stands_in_the_folder_is_replaced_by_files_of_the_same_path_only(runs, work, tmp_path):
    begun(runs).save_files(work)
    back = tmp_path / "back"
    back.mkdir()
    (back / "a.txt").write_text("before")
    (back / "other").write_text("stays")
    runs.files.restore("run-1", back)

    assert ((back / "a.txt").read_text(), (back / "other").read_text()) == ("one", "stays")


def test_a_collector_and_a_check_know_what_sets_list(runs, work):
    begun(runs).save_files(work)
    orphan = runs.blobs.write(b"orphan")
    ages(runs.store.log)

    assert runs.blobs.gc().digests == (orphan,)
    assert runs.blobs.check().ok
    lost = runs.files.of("run-1")[0].files["a.txt"].digest
    for item in runs.store.log.blobs.each():
        if item.name == lost:
            runs.store.log.blobs._files.remove(item.path)
    (fault,) = runs.blobs.check().faults
    assert (fault.digest, [need.stream for need in fault.needs]) == (lost, ["run-1"])
    assert [finding.check for finding in runs.verify().findings] == ["blobs"]


def test_a_set_with_a_missing_file_is_refused_before_anything_is_written(runs, work, tmp_path):
    begun(runs).save_files(work)
    lost = runs.files.of("run-1")[0].files["run.sh"].digest
    for item in runs.store.log.blobs.each():
        if item.name == lost:
            runs.store.log.blobs._files.remove(item.path)

    with pytest.raises(MissingBlob) as caught:
        runs.files.restore("run-1", tmp_path / "back")
    assert caught.value.digest == lost
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    "path", ["../escape", "/etc/escape", "a/../../escape", "", ".", "a//b", "a/.", "..", "a\0b", "a/"]
)
def test_a_path_that_leads_out_of_the_folder_is_refused_and_nothing_is_written(runs, tmp_path, path):
    digest = runs.blobs.write(b"one")
    attempt = begun(runs)
    files = {"good": {"blob": digest}, path: {"blob": digest}}
    if "\0" in path:  # no log takes that, so nobody can forge it
        return
    attempt.append(LogRecorded("runfold", "files-saved", "files", {"files": files}))
    before = content(tmp_path)

    with pytest.raises(InvalidArgument, match="out of the folder"):
        runs.files.restore("run-1", tmp_path / "back" / "deep")
    assert not (tmp_path / "back").exists()
    assert {name for name in content(tmp_path) if not name.startswith("agent.db")} == {
        name for name in before if not name.startswith("agent.db")
    }


@pytest.mark.parametrize("files", [5, {"a": 5}, {"a": {"blob": "../../escape"}}, {"a": {}}, None])
def test_a_forged_set_brings_nothing_back(runs, tmp_path, files):
    begun(runs).append(LogRecorded("runfold", "files-saved", "files", {"files": files, "left_out": 5}))
    if isinstance(files, dict) and isinstance(files["a"], dict):
        with pytest.raises(InvalidArgument, match="64 hex digits"):
            runs.files.restore("run-1", tmp_path / "back")
        assert not (tmp_path / "back").exists()
    else:
        assert runs.files.restore("run-1", tmp_path / "back").files == {}


@POSIX
def test_symlinks_and_pipes_are_left_out_and_told(runs, work, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (work / "link").symlink_to(tmp_path / "secret")
    (work / "folder").symlink_to(tmp_path)
    os.mkfifo(work / "pipe")
    begun(runs).save_files(work)
    (found,) = runs.files.of("run-1")

    assert found.left_out == ("folder", "link", "pipe")
    assert sorted(found.files) == ["a.txt", "run.sh", "src/deep/ü.bin", "src/same.txt"]


@POSIX
def test_a_symlink_where_files_are_brought_back_is_not_followed(runs, work, tmp_path):
    begun(runs).save_files(work)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    back = tmp_path / "back"
    back.mkdir()
    (back / "src").symlink_to(theirs)
    (back / "a.txt").symlink_to(theirs / "a.txt")

    with pytest.raises(OSError, match="symlink"):
        runs.files.restore("run-1", back)
    assert [*theirs.iterdir()] == []
    assert (back / "a.txt").read_text() == "one"
    assert not (back / "a.txt").is_symlink()


@POSIX
def test_a_folder_that_is_named_by_a_symlink_is_the_one_it_leads_to(runs, work, tmp_path):
    (tmp_path / "link").symlink_to(work)
    begun(runs).save_files(tmp_path / "link")
    (tmp_path / "place").mkdir()
    (tmp_path / "to").symlink_to(tmp_path / "place")
    runs.files.restore("run-1", tmp_path / "to")

    assert content(tmp_path / "place") == content(work)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_a_name_that_is_no_text_is_refused_and_nothing_is_recorded(runs, work):
    (work / os.fsdecode(b"\xff")).write_text("one")
    attempt = begun(runs)
    before = runs.store.head()

    with pytest.raises(InvalidArgument, match="no text"):
        attempt.save_files(work)
    assert runs.store.head() == before


def test_what_cannot_be_saved_or_brought_back_is_said(runs, work, tmp_path):
    attempt = begun(runs)
    before = runs.store.head()

    with pytest.raises(InvalidArgument, match="no folder"):
        attempt.save_files(tmp_path / "nosuch")
    with pytest.raises(RunNotFound):
        runs.files.of("run-2")
    for chosen in ({}, {"name": "nosuch"}, {"version": 1}):
        with pytest.raises(InvalidArgument, match="no files that run-1 saved"):
            runs.files.restore("run-1", tmp_path / "back", **chosen)
    assert runs.store.head() == before
    assert not (tmp_path / "back").exists()


def test_a_fenced_attempt_saves_nothing(runs, work):
    attempt = begun(runs)
    runs.store.append("run-1", RunCancelled("alice"))
    before = runs.store.head()

    with pytest.raises(Fenced):
        attempt.save_files(work)
    assert runs.store.head() == before
    assert runs.files.of("run-1") == []


def test_saving_again_under_the_same_key_gives_what_stands(runs, work):
    attempt = begun(runs)
    first = attempt.save_files(work, key="k")

    assert attempt.save_files(work, key="k").position == first.position
    assert len(runs.files.of("run-1")) == 1


def test_files_are_saved_from_asyncio_too(work, tmp_path):
    async def main():
        async with await projections.aconnect(tmp_path / "agent.db") as runs:
            await runs.submit("deploy", run_id="run-1")
            async with await runs.worker("w") as worker:
                attempt = await worker.claim()
                await attempt.save_files(work)
            return len(runs.runs.files.of("run-1")[0].files)

    assert asyncio.run(main()) == 4


@POSIX
def test_a_folder_that_holds_the_store_is_saved_without_it_and_no_lock_is_lost(tmp_path):
    """Reading and closing its files would: the next process to close it would take the WAL of those at work away."""
    (tmp_path / "report.txt").write_text("one")
    with projections.connect(tmp_path / "agent.db") as runs:
        os.link(tmp_path / "agent.db", tmp_path / "other name")
        attempt = begun(runs)
        runs.blobs.write(b"one")
        attempt.save_files(tmp_path)
        attempt.save_files(tmp_path)
        (tmp_path / "other name").unlink()
        other = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM events').close()"
        subprocess.run([sys.executable, "-c", other, tmp_path / "agent.db"], check=True)
        attempt.append(CheckpointSaved(step=1, state={}))

        assert (tmp_path / "agent.db-wal").exists()
        for found in runs.files.of("run-1"):
            assert [*found.files] == ["report.txt"]
            assert {"agent.db", "agent.db-blobs", "agent.db-shm", "agent.db-wal", "other name"} <= {*found.left_out}


@pytest.mark.parametrize("path", ["agent.db", "agent.db-wal", "agent.db-journal", "agent.db-blobs/aa/file"])
def test_nothing_is_brought_back_over_a_file_of_the_store(tmp_path, path):
    with projections.connect(tmp_path / "agent.db") as runs:
        digest = runs.blobs.write(b"one")
        files = {name: {"blob": digest} for name in ("a.txt", path)}
        begun(runs).append(LogRecorded("runfold", "files-saved", "files", {"files": files}))
        before = sorted(tmp_path.rglob("*"))

        with pytest.raises(InvalidArgument, match="is a file of an open store"):
            runs.files.restore("run-1", tmp_path)
        assert sorted(tmp_path.rglob("*")) == before
        assert runs.verify().ok
        runs.files.restore("run-1", tmp_path / "elsewhere")
        assert (tmp_path / "elsewhere" / path).read_bytes() == b"one"


@POSIX
def test_files_of_another_store_that_is_open_in_this_process_are_neither_saved_nor_written_over(work):
    other = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM events').close()"
    with projections.connect("memory:") as runs, projections.connect(work / "other.db") as theirs:
        theirs.blobs.write(b"one")
        attempt = begun(runs)
        attempt.save_files(work)
        subprocess.run([sys.executable, "-c", other, work / "other.db"], check=True)
        files = {"other.db-wal": {"blob": runs.blobs.write(b"two")}}
        attempt.append(LogRecorded("runfold", "files-saved", "forged", {"files": files}))

        assert (work / "other.db-wal").exists()  # or what they acknowledged next would be lost with it
        (saved,) = runs.files.of("run-1", name="files")
        assert {"other.db", "other.db-blobs", "other.db-shm", "other.db-wal"} <= {*saved.left_out}
        assert not [path for path in saved.files if path.startswith("other.db")]
        with pytest.raises(InvalidArgument, match="is a file of an open store"):
            runs.files.restore("run-1", work, name="forged")
        theirs.close()
        attempt.save_files(work, "later")
        assert "other.db" in runs.files.of("run-1", name="later")[0].files


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("src/Read.me", "SRC/read.me", str.lower),
        ("\u00fc", "u\u0308", lambda name: unicodedata.normalize("NFD", name)),
        ("\u00dc", "u\u0308", lambda name: unicodedata.normalize("NFD", name).lower()),
    ],
    ids=["case", "accents", "both"],
)
def test_two_files_that_a_disk_takes_for_one_are_refused_by_their_names_and_nothing_is_written(one, other, alike):
    class Alike(MemoryFiles):
        def _of(self, path):
            return Path(alike(str(path)))

        def folder(self, path):
            super().folder(self._of(path))

        def stat(self, path):
            return super().stat(self._of(path))

        def _found(self, path):
            return super()._found(self._of(path))

        def _within(self, path):
            return super()._within(self._of(path))

        def writing(self, path, **options):
            return super().writing(self._of(path), **options)

        def remove(self, path):
            return super().remove(self._of(path))

    with projections.connect("memory:") as runs:
        with begun(runs) as attempt:
            files = {path: {"blob": runs.blobs.write(path.encode()), "size": 1} for path in (one, other, "c")}
            attempt.append(LogRecorded("runfold", "files-saved", "files", {"files": files}))
        disks = Alike(), MemoryFiles()
        sets = [FileSets(runs.blobs, runs.logs.each, runs.files._stream, disk) for disk in disks]
        with pytest.raises(InvalidArgument) as refused:
            sets[0].restore("run-1", "/new/place")

        assert repr(one) in str(refused.value)
        assert repr(other) in str(refused.value)
        assert disks[0].names(Path("/")) == []
        sets[1].restore("run-1", "/new/place")
        assert {path: disks[1].read(Path("/new/place") / path) for path in files} == {p: p.encode() for p in files}


# --- a collector beside it, a redactor before it ----------------------------------------------------------------------


class Collecting:
    """Collects what no entry mentions, whatever its age, before the next writes of a log."""

    def __init__(self, runs, times):
        self.runs, self.times, self.write = runs, times, runs.store.log.write

    def __call__(self, job, *, shared=False):
        if self.times:
            self.times -= 1
            ages(self.runs.store.log)
            self.runs.store.log.write = self.write
            self.runs.blobs.gc(min_age=timedelta(0))
            self.runs.store.log.write = self
        return self.write(job, shared=shared)


def test_a_set_is_recorded_only_while_all_of_its_files_stand(runs, work, tmp_path, monkeypatch):
    attempt = begun(runs)
    monkeypatch.setattr(runs.store.log, "write", Collecting(runs, 2))
    attempt.save_files(work)
    runs.blobs.gc(min_age=timedelta(0))

    runs.files.restore("run-1", tmp_path / "back")
    assert content(tmp_path / "back") == content(work)
    assert len(runs.files.of("run-1")) == 1


def test_a_set_whose_files_are_taken_again_and_again_is_not_recorded(runs, work, monkeypatch):
    attempt = begun(runs)
    before = runs.store.head()
    monkeypatch.setattr(runs.store.log, "write", Collecting(runs, 9))

    with pytest.raises(MissingBlob):
        attempt.save_files(work)
    assert runs.store.head() == before


@pytest.mark.parametrize("secret", [r"[0-9a-f]{64}", r"[a-z]+[.](txt|sh)"])
def test_a_redactor_that_changes_which_files_a_set_names_is_refused(work, secret):
    def redactor(_kind, fields):
        return json.loads(re.sub(secret, "[secret]", json.dumps(fields)))

    with projections.connect("memory:", app=projections.App(redactor=redactor)) as runs:
        attempt = begun(runs)
        before = runs.store.head()

        with pytest.raises(InvalidPayload, match="changed by the redactor"):
            attempt.save_files(work)
        assert runs.store.head() == before


# --- names, and how deep ----------------------------------------------------------------------------------------------


@POSIX
def test_names_as_long_as_a_folder_takes_and_odd_ones_come_back(runs, work, tmp_path):
    odd = ("two\nlines", "e\N{COMBINING ACUTE ACCENT}", "\N{LATIN SMALL LETTER E WITH ACUTE}", "...", " ", "a\\b")
    for name in ("a" * 255, "\N{GRINNING FACE}" * 63, *odd):
        (work / name).write_text(name)
    begun(runs).save_files(work)
    runs.files.restore("run-1", tmp_path / "back")

    assert content(tmp_path / "back") == content(work)


@POSIX
def test_folders_may_lie_deeper_than_python_calls_itself(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(220):
        Path("d").mkdir()
        os.chdir("d")
    Path("f").write_text("deep")
    os.chdir(tmp_path)
    attempt, limit = begun(runs), sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 120)  # of a thousand calls, a thousand folders, it takes minutes
    try:
        attempt.save_files("d")
    finally:
        sys.setrecursionlimit(limit)

    assert [*runs.files.of("run-1")[0].files] == ["d/" * 219 + "f"]


@POSIX
def test_who_waits_at_a_pipe_is_not_let_go_by_a_save(runs, work, monkeypatch):
    os.mkfifo(work / "pipe")
    opened = []
    actual = os.open

    def watched(path, *arguments, **options):
        opened.append(Path(path).name)
        return actual(path, *arguments, **options)

    monkeypatch.setattr(os, "open", watched)
    begun(runs).save_files(work)

    assert runs.files.of("run-1")[0].left_out == ("pipe",)
    assert ("a.txt" in opened, "pipe" in opened) == (True, False)
