"""`runfold blobs`: put, get, check, gc, as an operator and a script see them."""

import hashlib

import pytest

import projections
from eventstore.notes import LogRecorded, MetaSet
from eventstore.workflow import RunCompleted
from tests.blobbing import ages, noise
from tests.commanding import asked, plain_surroundings, process, runfold  # noqa: F401 - a fixture

DIGEST = hashlib.sha256(b"one").hexdigest()


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "agent.db"
    projections.connect(path).close()
    return path


def aged(database):
    with projections.connect(database) as runs:
        ages(runs.store.log)


def test_what_was_put_is_had_by_its_digest_to_a_pipe_or_a_file(database, tmp_path):
    (tmp_path / "one").write_bytes(b"one")
    (tmp_path / "two").write_bytes(b"\xff\x00two")

    assert runfold("blobs", "put", database, "one").stdout == f"{DIGEST}  one\n"
    (two, again) = asked("blobs", "put", database, "two", "one")
    assert (again, two["file"]) == ({"file": "one", "digest": DIGEST}, "two")
    assert runfold("blobs", "get", database, two["digest"]).stdout_bytes == b"\xff\x00two"
    runfold("blobs", "get", database, two["digest"], "-o", "back")
    assert (tmp_path / "back").read_bytes() == b"\xff\x00two"


def test_standard_input_is_put_too(database):
    assert runfold("blobs", "put", database, "-", input=b"one").stdout == f"{DIGEST}  -\n"


def test_the_database_may_be_named_by_the_environment(database, monkeypatch, tmp_path):
    (tmp_path / "one").write_bytes(b"one")
    monkeypatch.setenv("RUNFOLD_DB", str(database))

    runfold("blobs", "put", "one")
    assert runfold("blobs", "get", DIGEST).stdout == "one"


def test_what_is_missing_or_no_digest_or_no_file_is_refused_and_nothing_is_written(database, tmp_path):
    before = sorted(tmp_path.iterdir())

    assert runfold("blobs", "get", database, DIGEST, "-o", "back", code=1).stderr.startswith(
        f"Error: there is no blob {DIGEST}; put it back with `runfold blobs put {database} FILE`"
    )
    assert "64 hex digits" in runfold("blobs", "get", database, "../../escape", code=1).stderr
    assert "no file nosuch; nothing was kept" in runfold("blobs", "put", database, "-", "nosuch", code=1).stderr
    assert "FILE is missing" in runfold("blobs", "put", database, code=2).stderr
    for name in (database, f"{database}-wal", f"{database}-blobs/aa"):
        assert "the database itself" in runfold("blobs", "get", database, DIGEST, "-o", name, code=2).stderr
    assert "the database itself" in runfold("blobs", "put", database, database, code=2).stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_blob_is_given_to_nobody_as_if_it_were_whole(database, tmp_path):
    (tmp_path / "one").write_bytes(b"one")
    runfold("blobs", "put", database, "one")
    (tmp_path / "agent.db-blobs" / DIGEST[:2] / DIGEST[2:]).write_bytes(b"two")
    (tmp_path / "back").write_bytes(b"stays")

    result = runfold("blobs", "get", database, DIGEST, "-o", "back", code=1)
    assert f"the blob {DIGEST} is damaged" in result.stderr
    assert (tmp_path / "back").read_bytes() == b"stays"
    assert runfold("blobs", "get", database, DIGEST, code=1).stdout == ""


def test_a_check_names_what_entries_need_and_put_heals(database, tmp_path):
    (tmp_path / "one").write_bytes(b"one")
    runfold("blobs", "put", database, "one")
    with projections.connect(database) as runs:
        runs.store.append("notes", LogRecorded("test", "made", payload=DIGEST))
    assert runfold("blobs", "check", database).stdout == "1 sound blob, 3 bytes\n"
    (tmp_path / "agent.db-blobs" / DIGEST[:2] / DIGEST[2:]).write_bytes(b"two")

    result = runfold("blobs", "check", database, code=1)
    said = " ".join(result.stdout.split())
    assert f"the blob {DIGEST} is damaged" in said
    assert "the entries at 1 (LogRecorded of notes) need it" in said
    (fault,) = asked("blobs", "check", database, code=1)["faults"]
    assert (fault["digest"], fault["needs"][0]["position"]) == (DIGEST, 1)
    runfold("blobs", "put", database, "one")
    assert asked("blobs", "check", database) == {"ok": True, "blobs": 1, "bytes": 3, "faults": []}


def blobs_of(database, code):
    return next(it for it in asked("doctor", database, code=code)["findings"] if it["what"] == "blobs")


def test_the_doctor_tells_of_missing_blobs_what_to_do_and_reads_none(database, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.txt").write_text("hello")
    with projections.connect(database) as runs:
        runs.submit("deploy", run_id="run-1", input=noise())
        with runs.worker("w") as worker, worker.claim() as attempt:
            attempt.save_files(folder)
            attempt.append(RunCompleted())
    assert blobs_of(database, 0)["ok"]
    files = [file for file in database.with_name("agent.db-blobs").rglob("*") if file.is_file()]
    assert len(files) == 2
    for file in files:  # a damaged one is there, and for others to find
        file.write_bytes(b"garbled")
    assert blobs_of(database, 0)["ok"]

    for file in files:
        file.unlink()
    told = blobs_of(database, 1)

    assert not told["ok"]
    assert "is missing; the entries at 1 (RunQueued of run-1) need it; and 1 more" in told["found"]
    assert "`runfold blobs put FILE`" in told["remedy"]


def test_gc_tells_what_would_go_and_then_takes_it(database, tmp_path):
    (tmp_path / "one").write_bytes(b"one")
    runfold("blobs", "put", database, "one")
    with projections.connect(database) as runs:
        runs.store.append("notes", MetaSet("n", noise()))
    assert runfold("blobs", "gc", database).stdout == (
        "0 blobs went, 0 bytes; 2 younger than 24 h, and of the older ones 0 mentioned\n"
    )
    aged(database)

    would = asked("blobs", "gc", database, "--dry-run")
    assert (would["dry_run"], would["digests"], would["kept"]) == (True, [DIGEST], 1)
    assert runfold("blobs", "gc", database, "--min-age", "7d").stdout.startswith("0 blobs went")
    assert runfold("blobs", "gc", database).stdout == (
        f"{DIGEST}\n1 blob went, 3 bytes; 0 younger than 24 h, and of the older ones 1 mentioned\n"
    )
    assert runfold("blobs", "check", database).stdout.startswith("1 sound blob")


def test_an_age_that_is_none_is_misuse(database):
    assert "30s, 90m, 12h, 7d" in runfold("blobs", "gc", database, "--min-age", "yesterday", code=2).stderr


def test_the_group_says_what_it_holds():
    said = runfold("blobs", "--help").stdout

    assert [name for name in ("put", "get", "check", "gc") if f"  {name} " not in said] == []


def test_a_reader_who_goes_away_ends_it_quietly(database, tmp_path):
    (tmp_path / "large").write_bytes(bytes(8_000_000))
    (item,) = asked("blobs", "put", database, "large")
    reading = process("blobs", "get", database, item["digest"])
    reading.stdout.read(10)
    reading.stdout.close()

    assert reading.wait(60) == 141
    assert reading.stderr.read() == b""
    reading.stderr.close()
