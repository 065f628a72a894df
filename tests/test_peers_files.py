"""What goes wrong elsewhere with blobs and files, and cannot here: a test for each row of our list, as `test_peers`."""

import random

import pytest

import projections
from eventstore.errors import DamagedBlob, InvalidArgument
from eventstore.notes import LogRecorded
from eventstore.packing import BLOB_FROM
from eventstore.workflow import CheckpointSaved, MessageRecorded
from projections import System
from tests.blobbing import begun, noise


@pytest.fixture
def runs(tmp_path):
    with projections.connect(tmp_path / "agent.db") as runs:
        yield runs


def below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- nerve-store ----------------------------------------------------------------------------------------------------


def test_nerve_store_could_not_heal_a_damaged_blob_and_here_the_right_bytes_do(runs, tmp_path):
    """nerve-store: a damaged blob cannot be healed by writing the right bytes; `exists` says true."""
    digest = runs.blobs.write(b"right")
    (tmp_path / "agent.db-blobs" / digest[:2] / digest[2:]).write_bytes(b"wrong")

    assert not runs.blobs.exists(digest)
    with pytest.raises(DamagedBlob):
        runs.blobs.read(digest)

    runs.blobs.write(b"right")
    assert (runs.blobs.exists(digest), runs.blobs.read(digest)) == (True, b"right")


# --- perstack -------------------------------------------------------------------------------------------------------


def test_perstack_kept_one_file_of_a_hundred_events_of_one_millisecond_and_here_each_blob_stands(tmp_path):
    """perstack: 100 events of one millisecond are stored as one file."""
    system = System(microseconds=lambda: 1_767_225_600_000_000)
    large = "x" * BLOB_FROM  # one that the memory backend keeps as a blob
    with projections.connect("memory:", system=system) as runs:
        attempt = begun(runs)
        attempt.append(*(MessageRecorded("user", f"{number} {large}") for number in range(100)))

        assert len([*runs.store.log.blobs.each()]) == 100
        assert [item.content.split()[0] for item in runs.messages("run-1")] == [str(number) for number in range(100)]


@pytest.mark.parametrize("name", ["../../escape", "/etc/escape", "..", "a/../../b"])
def test_perstack_wrote_outside_the_folder_for_a_job_id_and_here_no_file_is_made_by_such_a_name(runs, tmp_path, name):
    """perstack: job id `../../escape` writes outside the folder."""
    digest = runs.blobs.write(b"one")
    attempt = begun(runs)
    forged = {"files": {name: {"blob": digest}}}
    attempt.append(LogRecorded("runfold", "files-saved", "files", forged))
    before = below(tmp_path)

    for call in (
        lambda: runs.blobs.read(name),
        lambda: runs.blobs.open(name),
        lambda: runs.submit("deploy", run_id=name),
        lambda: runs.files.restore("run-1", tmp_path / "a" / "b"),
    ):
        with pytest.raises(InvalidArgument):
            call()
    assert below(tmp_path) == before


# --- agent stores ---------------------------------------------------------------------------------------------------


def test_agent_stores_wrote_the_full_state_each_step_and_here_a_large_one_makes_one_blob(runs, tmp_path):
    """agent stores: full state each step: 17 GB in one thread, 5.3 GB where 129 MB would do."""
    chance = random.Random(1)
    state = {"document": noise(), "steps": []}
    attempt = begun(runs)
    for step in range(40):
        state["steps"].append(f"{step}: {chance.random()}")
        attempt.append(CheckpointSaved(step, state))
    whole = len(state["document"])
    runs.close()

    taken = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert len([*(tmp_path / "agent.db-blobs").glob("*/*")]) == 1
    assert taken < 4 * whole
    with projections.connect(tmp_path / "agent.db") as again:
        assert again.checkpoint("run-1") == state
