"""A power cut at any moment costs nothing that was acknowledged: a sample here, a hundred thousand by the script.

Each workload of `tests/faults/workloads.py` is run once, and cut at a sample of all its steps; what a disk may do to
what was not synced stands at the top of `tests/faults/cutting.py`.
"""

import json
import os
import shutil
import sys
from contextlib import contextmanager

import pytest
from attrs import asdict
from click.testing import CliRunner

import eventstore.files.disk
import projections
from eventstore.errors import LostTail
from eventstore.files import OperatingSystem
from eventstore.integrity import Witness
from eventstore.notes import LogRecorded
from eventstore.sqlite import SQLiteLog
from tests.faults.cutting import EXTREMES, Disk, disks, state
from tests.faults.kept import KEPT
from tests.faults.mutants import syncs_nothing
from tests.faults.power import campaign, power, promises, recorded, states
from tests.faults.recording import booted, files_in, read_log, shim, write_files
from tests.faults.run import main
from tests.faults.shim import SQLITE_OK, Operation
from tests.faults.workloads import WORKLOADS, Workload

STATES = 25
OF_KEPT = 12
"""Of those whose judge archives, collects or restores."""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the shim wraps the file system of SQLite on Linux")
NOTE = LogRecorded("test", "note")


@pytest.mark.parametrize("workload", [name for name, workload in WORKLOADS.items() if "FULL" in workload.synchronous])
def test_a_cut_anywhere_costs_nothing_that_was_acknowledged(workload):
    wanted = OF_KEPT if WORKLOADS[workload] in KEPT else STATES

    tally = campaign(workload, "FULL", seed=0, wanted=wanted)

    assert tally.failures == []
    assert tally.largest_loss == 0
    assert tally.states == wanted


@pytest.mark.parametrize("workload", [name for name, workload in WORKLOADS.items() if "NORMAL" in workload.synchronous])
def test_with_less_syncing_a_cut_leaves_a_clean_beginning_and_the_witness_tells_what_is_gone(workload):
    wanted = OF_KEPT if WORKLOADS[workload] in KEPT else STATES

    tally = campaign(workload, "NORMAL", seed=0, wanted=wanted)

    assert tally.failures == []
    assert tally.states == wanted


def test_less_syncing_does_lose_a_tail_and_that_is_told():
    tally = campaign("appends", "NORMAL", seed=1, wanted=60, enough=lambda tally: tally.largest_loss and tally.told)

    assert tally.largest_loss > 0
    assert tally.told > 0


def test_what_a_syncing_handle_acknowledged_covers_what_another_wrote_before(tmp_path):
    made = recorded(WORKLOADS["one handle syncs and one does not"], "NORMAL", tmp_path)
    acknowledged = [step for step in made.steps if step.kind == "acknowledged"]
    last = max(step.position for step in acknowledged if step.synced)

    assert {step.synced for step in acknowledged} == {True, False}
    assert next(promise.must for promise in promises(made) if promise.floor >= last) == last

    tally = campaign(
        "one handle syncs and one does not", "NORMAL", seed=3, wanted=80, enough=lambda tally: tally.largest_loss
    )
    assert tally.largest_loss > 0


def test_a_wal_kept_aside_without_a_sync_is_found():
    @contextmanager
    def planted():
        honest = OperatingSystem.put
        OperatingSystem.put = lambda _self, path, data: eventstore.files.disk.os.pwrite(
            eventstore.files.disk.os.open(path, os.O_RDWR | os.O_CREAT, 0o600), data, 0
        )
        try:
            yield
        finally:
            OperatingSystem.put = honest

    tally = campaign(
        "a loss that was refused", "FULL", seed=0, wanted=60, planted=planted, enough=lambda tally: tally.failures
    )

    assert tally.corrupt + tally.lost > 0


# --- what power cuts found ------------------------------------------------------------------------------------------


def test_a_young_log_that_is_gone_whole_is_missed(tmp_path):
    path = tmp_path / "agent.db"
    with booted("one"), projections.connect(path) as runs:
        runs.store.append("notes", NOTE)
        files = {name: data for name, data in files_in(tmp_path).items() if not name.endswith("-wal")}
    write_files(tmp_path, files)  # the database's first page alone: schema and entries stood in the WAL

    with pytest.raises(LostTail) as caught, booted("two"):
        projections.connect(path)

    assert (caught.value.expected, caught.value.found) == (1, 0)


def test_a_database_that_was_taken_away_on_purpose_is_made_anew(tmp_path):
    path = tmp_path / "agent.db"
    with projections.connect(path) as runs:
        runs.store.append("notes", NOTE)
    path.unlink()

    with projections.connect(path) as runs:
        assert runs.store.head().position == 0


def test_an_accepted_loss_is_on_the_disk_before_anybody_goes_on(tmp_path):
    made = recorded(WORKLOADS["a loss that was accepted"], "FULL", tmp_path)
    opened = next(number for number, step in enumerate(made.steps) if step.kind == "opened")

    _, cut = next(disks(made, {opened}))
    kept = state(cut, opened, 0, "").files["agent.db-witness"]

    assert Witness.decode(kept).position == 8  # the event that tells of the loss, and not 10, the entry that is gone


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_whose_switch_to_a_wal_or_from_it_was_cut_is_opened_and_holds_everything(tmp_path, read_only):
    """A cut amid the end of a backup, or the beginning of the next one, leaves SQLite's journal beside the copy."""
    cut, journals = tmp_path / "cut", []

    def keep(operation):
        if operation.kind == "delete" and operation.path.endswith("-journal") and journals:
            shutil.copytree(tmp_path, journals.pop())
        return SQLITE_OK

    with shim().installed(keep):
        log = SQLiteLog(tmp_path / "log.db")
        projections.connect(log).store.append("notes", NOTE)
        entries = read_log(log)
        journals.append(cut)
        log.rest()
    found = SQLiteLog(cut / "log.db", read_only=read_only)

    assert read_log(found) == entries
    found.close()


def test_a_folder_that_has_its_name_before_its_database_has_it_is_told_of(tmp_path):
    """Whoever restores again would find a folder that nobody made, and ask for it to be moved away by hand."""
    made = recorded(WORKLOADS["a backup restored"], "FULL", tmp_path)
    named = {at + 1 for at, step in enumerate(made.steps) if step.kind == "rename" and step.data == b"agent.db-archive"}

    for cut, disk in disks(made, named):
        for number in range(EXTREMES + 20):
            if (found := state(disk, cut, number, "")) is not None:
                moved = any(name.startswith("agent.db-archive") for name in found.files)
                assert not moved or any(name.endswith("agent.db-moving") for name in found.files)
    assert named


# --- the cutter -----------------------------------------------------------------------------------------------------


def disk(*steps, start=None):
    made = Disk(start or {})
    for step in steps:
        made.take(Operation(*step))
    return made


def left(made, samples=300):
    found = (state(made, 0, number, "seed") for number in range(samples))
    return [item.files for item in found if item is not None]


MADE = (("open", "a", 1), ("dirsync", ""))


def test_what_was_synced_stays():
    made = disk(*MADE, ("write", "a", 0, b"one"), ("sync", "a"), ("write", "a", 3, b"two"))

    assert {files["a"][:3] for files in left(made)} == {b"one"}


def test_what_was_not_synced_may_be_there_or_not():
    made = disk(*MADE, ("write", "a", 0, b"one"), ("write", "a", 3, b"two"))

    found = {files["a"] for files in left(made)}

    assert {b"", b"one", b"onetwo", b"\0\0\0two"} <= found


def test_a_write_is_torn_at_its_sectors():
    made = disk(("write", "a", 100, b"x" * 1000), start={"a": bytes(1536)})

    found = {
        tuple(files["a"][place] == ord("x") for place in (100, 511, 512, 1023, 1024, 1099)) for files in left(made)
    }

    assert found == {(a, a, b, b, c, c) for a in (False, True) for b in (False, True) for c in (False, True)}


def test_a_truncation_may_be_lost():
    made = disk(("truncate", "a", 1), start={"a": b"abc"})

    assert {files["a"] for files in left(made)} == {b"abc", b"a"}


def test_a_folder_that_was_not_synced_into_the_one_above_it_may_be_gone_with_all_in_it():
    within = (("mkdir", "a"), ("open", "a/b", 1), ("write", "a/b", 0, b"one"), ("sync", "a/b"), ("dirsync", "a"))

    assert {files.get("a/b") for files in left(disk(*within))} == {None, b"one"}
    assert {files.get("a/b") for files in left(disk(*within, ("dirsync", "")))} == {b"one"}


def test_a_folder_that_gets_another_name_takes_along_what_was_synced_in_it():
    named = (("mkdir", "a"), ("open", "a/b", 1), ("write", "a/b", 0, b"one"), ("sync", "a/b"), ("dirsync", "a"))
    moved = (*named, ("dirsync", ""), ("rename", "a", 0, b"c"))

    assert {tuple(files) for files in left(disk(*moved))} == {("a/b",), ("c/b",)}
    assert {tuple(files) for files in left(disk(*moved, ("dirsync", "")))} == {("c/b",)}


def test_a_folder_that_was_taken_away_may_come_back_with_what_it_held():
    made = disk(("delete", "a/b"), ("delete", "a"), start={"a/b": b"one"})

    assert {tuple(files) for files in left(made)} == {("a/b",), ("a/",), ()}


def test_a_name_that_was_not_synced_may_be_absent_though_the_file_was():
    made = disk(("open", "a", 1), ("write", "a", 0, b"one"), ("sync", "a"))

    assert {files.get("a") for files in left(made)} == {None, b"one"}


def test_a_deleted_file_may_come_back_with_what_it_held():
    made = disk(("write", "a", 0, b"new"), ("sync", "a"), ("delete", "a"), start={"a": b"old"})

    assert {files.get("a") for files in left(made)} == {None, b"new"}


def test_a_rename_is_atomic_and_may_be_lost():
    steps = (("open", "t", 1), ("write", "t", 0, b"new"), ("sync", "t"), ("rename", "t", 0, b"a"))
    made = disk(*steps, start={"a": b"old"})

    assert {files["a"] for files in left(made)} == {b"old", b"new"}
    assert {files["a"] for files in left(disk(*steps, ("dirsync", ""), start={"a": b"old"}))} == {b"new"}


def test_a_sample_can_be_made_again():
    made = disk(*MADE, *(("write", "a", number * 700, bytes([number]) * 700) for number in range(20)))

    assert [state(made, 3, number, "s").digest for number in range(50)] == [
        state(made, 3, number, "s").digest for number in range(50)
    ]


def test_all_disks_of_a_campaign_differ(tmp_path):
    made = recorded(WORKLOADS["creation and migration"], "FULL", tmp_path)

    found = [(item.digest, promise) for item, promise in states(made, "seed", 800)]

    assert len(set(found)) == len(found) == 800
    assert len(list(promises(made))) == len(made.steps) + 1
    assert 800 / len(made.steps) > EXTREMES


def test_a_workload_may_promise_more_than_its_log(monkeypatch):
    """As archive, blobs and backup will; here the promise is one that no cut keeps."""

    def perform(session):
        runs = session.connect()
        session.did(runs.store.append, "notes", NOTE)
        session.promise("a file that nobody writes")
        session.close()

    broken = Workload("p", perform, holds=lambda _runs, names: [("lost", name) for name in names])
    monkeypatch.setitem(WORKLOADS, "p", broken)

    tally = campaign("p", "FULL", seed=0, wanted=60)

    assert {recipe.wrong for recipe in tally.failures} == {(("lost", "a file that nobody writes"),)}
    assert 0 < tally.lost < tally.states


# --- the script -----------------------------------------------------------------------------------------------------


def test_the_script_prints_a_table_and_exits_0(tmp_path):
    options = ["--states", "10", "--jobs", "1", "--workload", "creation and migration", "--keep", str(tmp_path)]

    result = CliRunner().invoke(main, ["power", *options])

    assert result.exit_code == 0, result.output
    assert "| creation and migration | FULL |" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_failing_disk_is_kept_and_fails_again_when_it_is_replayed(tmp_path):
    with syncs_nothing():
        tally = campaign("appends", "FULL", seed=2, wanted=60, keep=tmp_path)
        recipe = max(tmp_path.glob("*/recipe.json"), key=lambda file: json.loads(file.read_text())["cut"])
        again = CliRunner().invoke(power, ["--replay", str(recipe)])
    mended = CliRunner().invoke(power, ["--replay", str(recipe)])

    assert json.loads(recipe.read_text())["seed"] == 2
    assert asdict(tally.failures[0])["workload"] == "appends"
    assert any((recipe.parent / "disk").iterdir())
    assert again.exit_code == 1
    assert mended.exit_code == 0, mended.output
