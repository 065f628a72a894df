"""Blobs beside what else keeps a store: sealed days, encryption."""

from datetime import timedelta

import pytest

import projections
from eventstore.blobs import Blobs
from eventstore.notes import MetaSet
from eventstore.workflow import CheckpointSaved, MessageRecorded, RunCompleted
from tests.blobbing import begun, noise

NO_AGE = timedelta(0)
KEY = bytes(range(32))


@pytest.fixture
def ended(world, runs):
    """A run of an earlier day that mentions a blob and holds payloads that are blobs; and a note of today."""
    digest = runs.blobs.write(b"mentioned")
    attempt = begun(runs)
    attempt.append(MessageRecorded("user", noise()))
    attempt.append(*(CheckpointSaved(step, {"text": noise(2), "step": step}) for step in range(3)))
    attempt.append(RunCompleted(output=digest))
    world.jumps(days=3)
    runs.store.append("notes", MetaSet("n", 1))
    return digest


def payloads(runs):
    return [item.entry.data for item in runs.store.read("run-1")]


def collected(runs):
    """As a day later: the files' own clock is the machine's, and the world's is not."""
    return Blobs(runs.store.log).gc(min_age=NO_AGE)


def test_what_a_sealed_day_mentions_stays_and_the_blobs_of_its_payloads_are_no_longer_needed(world, runs, ended):
    before = payloads(runs)
    runs.archive(keep_days=0)
    assert payloads(runs) == before
    with runs.store.reading() as view:
        needed = {need.digest for need in view.needs()}
    found = collected(runs)

    assert ended not in found.digests
    assert needed.isdisjoint(found.digests)
    assert found.blobs > 0
    assert runs.blobs.read(ended) == b"mentioned"
    assert payloads(world.runs()) == before
    assert runs.verify().ok


def test_days_that_are_put_back_have_their_blobs_again(world, runs, ended):
    before = payloads(runs)
    runs.archive(keep_days=0)
    collected(runs)
    runs.restore_days()

    assert payloads(world.runs()) == before
    assert runs.blobs.check().ok
    assert collected(runs).blobs == 0
    assert payloads(world.runs()) == before


def test_beside_an_encrypted_database_no_blob_or_its_name_gives_anything_away(tmp_path):
    pytest.importorskip("sqlcipher3")
    marker = b"the secret marker"
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "file").write_bytes(marker)
    with projections.connect(tmp_path / "agent.db", key=KEY) as runs:
        attempt = begun(runs)
        digest = runs.blobs.write(marker * 100_000)
        recorded = attempt.append(MessageRecorded("user", {"text": f"{marker.decode()} {noise()}", "blob": digest}))
        attempt.save_files(tmp_path / "work")
        names = {item.name for item in runs.store.log.blobs.each()}
        assert len(names) == 3
        files = [path for path in tmp_path.rglob("*") if path.is_file() and "work" not in path.parts]
        assert [path for path in files if marker in path.read_bytes()] == []
        assert digest not in names

    with projections.connect(tmp_path / "agent.db", key=KEY) as runs:
        assert runs.blobs.read(digest) == marker * 100_000
        assert next(runs.messages("run-1")).content["blob"] == digest
        assert runs.files.restore("run-1", tmp_path / "back").files["file"].size == len(marker)
        assert runs.blobs.check().ok
        assert collected(runs).blobs == 0
        orphan = runs.blobs.write(b"orphan")
        assert collected(runs).blobs == 1
        assert not runs.blobs.exists(orphan)
        assert recorded[0].position == 3
