"""Blobs: bytes of any size beside the log, kept as long as an entry needs them."""

import hashlib
import io
import json
import os
import stat
import tracemalloc
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import pytest

import projections
from eventstore import blobs
from eventstore.blobfiles import PIECE, BlobFiles
from eventstore.ciphers import DamagedBox
from eventstore.errors import CannotOpen, DamagedBlob, InvalidArgument, MissingBlob, StoreClosed, UnreadableEntry
from eventstore.files import MemoryFiles, OperatingSystem
from eventstore.notes import LogRecorded, MetaSet
from eventstore.workflow import CheckpointSaved, MessageRecorded, RunCompleted
from tests.blobbing import ages, begun, logs, noise

NO_AGE = timedelta(0)
MISSING = "ab" * 32


@pytest.fixture(params=["disk", "memory"])
def runs(request, tmp_path):
    log, _ = logs(request.param, tmp_path)
    with projections.connect(log) as runs:
        yield runs


@pytest.fixture
def kept(tmp_path):
    """Runs in a file."""
    with projections.connect(tmp_path / "agent.db") as runs:
        yield runs


def file_of(runs, digest):
    return runs.store.log.blobs.root / digest[:2] / digest[2:]


def stored(runs):
    """How the payloads of the log stand, by type: text, or the first byte of a packed form."""
    with runs.store.reading() as view:
        rows = view.execute("SELECT type, data FROM events ORDER BY position").fetchall()
    return [(kind, "text" if isinstance(data, str) else data[0]) for kind, data in rows]


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_bytes_come_back_by_the_digest_that_names_them(runs):
    for data in (b"", b"one", b"x" * (PIECE + 1)):
        digest = runs.blobs.write(data)

        assert digest == hashlib.sha256(data).hexdigest()
        assert runs.blobs.read(digest) == data
        assert runs.blobs.exists(digest)


def test_a_blob_is_a_file_that_its_owner_alone_may_read_in_a_folder_beside_the_database(kept, tmp_path):
    digest = kept.blobs.write(b"one")
    file = tmp_path / "agent.db-blobs" / digest[:2] / digest[2:]

    assert file.read_bytes() == b"one"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (file.parent, file.parent.parent)} == {0o700}


def test_there_is_no_folder_until_there_is_a_blob(kept, tmp_path):
    kept.store.append("s", MetaSet("n", 1))
    kept.blobs.check()
    kept.blobs.gc()

    assert not (tmp_path / "agent.db-blobs").exists()


class Trickle:
    """A stream that gives few bytes at once, as a pipe does, and counts what is asked for."""

    def __init__(self, size):
        self.left = size
        self.largest = 0

    def read(self, size=-1):
        assert size > 0, "all of it at once"
        self.largest = max(self.largest, size)
        given = min(size, self.left, 200_000)
        self.left -= given
        return bytes(given)


def test_a_stream_goes_in_and_comes_out_again_in_pieces(runs):
    digest = runs.blobs.write(Trickle(2 * PIECE + 5))
    with runs.blobs.open(digest) as file:
        pieces = [file.read(10), *iter(lambda: file.read(300_000), b"")]

    assert digest == hashlib.sha256(bytes(2 * PIECE + 5)).hexdigest()
    assert b"".join(pieces) == bytes(2 * PIECE + 5)
    assert runs.blobs.write(io.BytesIO(bytes(2 * PIECE + 5))) == digest


def test_no_size_needs_more_memory_than_a_few_pieces(kept):
    source = Trickle(20 * PIECE)
    tracemalloc.start()
    try:
        digest = kept.blobs.write(source)
        with kept.blobs.open(digest) as file:
            while file.read(PIECE):
                pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 10 * PIECE
    assert source.largest <= PIECE


def test_a_stream_that_nobody_reads_is_closed_all_the_same(kept):
    digest = kept.blobs.write(b"one")
    with kept.blobs.open(digest) as file:
        inner = file.raw._file
    with kept.blobs.open(digest) as begun_only:
        begun_only.read(1)

    assert inner.closed
    assert begun_only.raw._file.closed


@pytest.mark.parametrize("source", ["text", 5, None, io.StringIO("text"), Path("file")])
def test_what_is_neither_bytes_nor_a_stream_of_them_is_refused_and_nothing_is_left(runs, source):
    with pytest.raises(InvalidArgument):
        runs.blobs.write(source)

    assert [*runs.store.log.blobs.each()] == []


def test_other_kinds_of_bytes_are_bytes(runs):
    digest = runs.blobs.write(b"one")

    assert runs.blobs.write(bytearray(b"one")) == digest
    assert runs.blobs.write(memoryview(b"one")) == digest


def test_what_was_not_written_is_missing(runs):
    for look in (runs.blobs.read, runs.blobs.open):
        with pytest.raises(MissingBlob) as caught:
            look(MISSING)

        assert caught.value.digest == MISSING
    assert not runs.blobs.exists(MISSING)


@pytest.mark.parametrize(
    "digest", ["", "../../escape", "AB" * 32, "ab" * 31, "ab" * 33, f"{MISSING}\n", "../" + "a" * 61, 5, None]
)
def test_what_is_no_digest_never_becomes_a_path(runs, digest):
    for look in (runs.blobs.read, runs.blobs.open, runs.blobs.exists):
        with pytest.raises(InvalidArgument, match="64 hex digits"):
            look(digest)


@pytest.mark.parametrize("harm", [b"", b"One", b"one more"], ids=["cut", "changed", "longer"])
def test_a_damaged_blob_is_told_does_not_exist_and_is_healed_by_the_right_bytes(kept, harm):
    digest = kept.blobs.write(b"one")
    file_of(kept, digest).write_bytes(harm)

    with pytest.raises(DamagedBlob) as caught:
        kept.blobs.read(digest)
    assert caught.value.digest == digest
    assert not kept.blobs.exists(digest)

    assert kept.blobs.write(b"one") == digest
    assert (kept.blobs.read(digest), kept.blobs.exists(digest)) == (b"one", True)


def test_a_damaged_blob_is_healed_by_a_stream_too(kept):
    digest = kept.blobs.write(b"one")
    file_of(kept, digest).write_bytes(b"two")
    kept.blobs.write(io.BytesIO(b"one"))

    assert kept.blobs.read(digest) == b"one"


def test_nobody_reads_a_damaged_stream_to_its_end(kept):
    digest = kept.blobs.write(bytes(2 * PIECE))
    file_of(kept, digest).write_bytes(b"1" + bytes(2 * PIECE - 1))
    given = []

    with kept.blobs.open(digest) as file, pytest.raises(DamagedBlob):
        given.extend(iter(lambda: file.read(1000), b""))
    assert sum(map(len, given)) < 2 * PIECE


def test_a_symlink_in_a_blobs_place_is_not_followed_and_writing_takes_its_place(kept, tmp_path):
    (tmp_path / "theirs").write_bytes(b"one")
    digest = kept.blobs.write(b"one")
    file_of(kept, digest).unlink()
    file_of(kept, digest).symlink_to(tmp_path / "theirs")

    with pytest.raises(DamagedBlob, match="symbolic"):
        kept.blobs.read(digest)
    assert not kept.blobs.exists(digest)
    kept.blobs.write(b"one")
    assert not file_of(kept, digest).is_symlink()
    assert kept.blobs.read(digest) == b"one"


@pytest.mark.parametrize("what", ["symlink", "folder"])
def test_a_collector_leaves_alone_what_is_no_file_and_takes_the_rest(kept, tmp_path, what):
    names = [kept.blobs.write(b"theirs"), kept.blobs.write(b"orphan")]
    ages(kept.store.log)
    place = file_of(kept, names[0])
    place.unlink()
    place.symlink_to(tmp_path) if what == "symlink" else place.mkdir()

    assert kept.blobs.gc().digests == (names[1],)
    assert kept.blobs.gc(min_age=timedelta(0)).digests == ()
    assert os.path.lexists(place)
    assert [fault.digest for fault in kept.blobs.check().faults] == [names[0]]


def test_a_folder_of_blobs_that_is_a_symlink_is_refused_and_the_payload_stands_in_the_log(kept, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "agent.db-blobs").symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="symlink"):
        kept.blobs.write(b"one")
    text = noise()
    kept.store.append("s", MetaSet("n", text))

    for look in (kept.blobs.check, kept.blobs.gc, kept.growth):
        with pytest.raises(CannotOpen, match=r"agent\.db-blobs: it is a symlink, which is not followed"):
            look()
    assert [*(tmp_path / "theirs").iterdir()] == []
    assert stored(kept) == [("MetaSet", 1)]
    assert next(kept.store.read("s")).event.value == text


def test_a_store_that_was_opened_read_only_reads_and_checks_and_writes_nothing(kept, tmp_path):
    digest = kept.blobs.write(b"one")
    ages(kept.store.log)
    with projections.connect(tmp_path / "agent.db", read_only=True) as reader:
        assert reader.blobs.read(digest) == b"one"
        assert reader.blobs.check().blobs == 1
        assert reader.blobs.gc(dry_run=True).digests == (digest,)
        for change in (lambda: reader.blobs.write(b"two"), reader.blobs.gc):
            with pytest.raises(CannotOpen, match="read-only"):
                change()
    assert [item.name for item in kept.store.log.blobs.each()] == [digest]


def test_a_closed_store_gives_nothing_away(runs):
    digest = runs.blobs.write(b"one")
    runs.close()

    for call in (lambda: runs.blobs.read(digest), lambda: runs.blobs.write(b""), runs.blobs.check, runs.blobs.gc):
        with pytest.raises(StoreClosed):
            call()


# --- payloads -------------------------------------------------------------------------------------------------------


def test_large_payloads_go_into_blobs_and_come_back_by_themselves(runs):
    texts = [noise(seed) for seed in range(5)]
    attempt = begun(runs)
    with attempt:
        attempt.append(MessageRecorded("user", {"text": texts[0]}))
        assert attempt.call("c1", "tool", {"text": texts[1]}, lambda _input: texts[2]) == texts[2]
        attempt.append(CheckpointSaved(1, {"text": texts[3]}))
        attempt.append(RunCompleted(output=texts[4]))

    with runs.store.reading() as view:
        assert [need.type for need in view.needs()] == [
            "MessageRecorded", "ToolCalled", "ToolReturned", "CheckpointSaved", "RunCompleted"
        ]  # fmt: skip
    assert [message.content["text"] for message in runs.messages("run-1")] == [texts[0]]
    (call,) = runs.calls("run-1")
    assert (call.input["text"], call.output) == (texts[1], texts[2])
    assert (runs.checkpoint("run-1")["text"], runs.output("run-1")) == (texts[3], texts[4])
    assert len([*runs.store.log.blobs.each()]) == 5
    assert runs.verify().ok


def test_a_payload_that_is_small_or_packs_well_makes_no_blob(runs):
    runs.store.append("s", MetaSet("n", 1))
    if not runs.store.log.url.startswith("memory"):
        runs.store.append("s", MetaSet("n", "words " * 100_000))

    assert [*runs.store.log.blobs.each()] == []


def test_a_blob_of_a_payload_is_its_json_for_any_tool(kept):
    kept.store.append("s", MetaSet("n", noise()))
    (item,) = kept.store.log.blobs.each()

    assert json.loads(item.path.read_bytes()) == {"name": "n", "value": noise()}


def test_a_blob_is_the_base_of_later_differences_also_for_a_handle_that_knows_nothing(kept, tmp_path):
    states = [{"text": noise(), "step": step, "more": "x" * step} for step in range(5)]
    attempt = begun(kept)
    attempt.append(*(CheckpointSaved(step, state) for step, state in enumerate(states[:3])))
    kept.close()
    with projections.connect(tmp_path / "agent.db") as later:
        for state in states[3:]:
            later.store.append("run-1", CheckpointSaved(state["step"], state), attempt=1)

        assert [form for kind, form in stored(later) if kind == "CheckpointSaved"] == [3, 2, 2, 2, 2]
        assert len([*later.store.log.blobs.each()]) == 1
    with projections.connect(tmp_path / "agent.db") as last:
        assert [item.event.state for item in last.store.read("run-1") if item.kind is CheckpointSaved] == states


def test_the_blob_stands_before_the_row_does(runs):
    text = noise()

    def job(writing):
        job_of_append(writing)
        with runs.store.reading() as outside:
            assert outside.head().position == 0
        assert len([*runs.store.log.blobs.each()]) == 1

    def job_of_append(writing):
        drafted = runs.store.stream("s").job(MetaSet("n", text))
        drafted(writing)

    runs.store.write(job)
    assert runs.store.head().position == 1


def test_an_append_that_fails_leaves_at_most_an_orphan_which_gc_takes(runs):
    class Boom(Exception):
        pass

    def job(writing):
        runs.store.stream("s").job(MetaSet("n", noise()))(writing)
        raise Boom

    with suppress(Boom):
        runs.store.write(job)
    ages(runs.store.log)

    assert runs.store.head().position == 0
    assert runs.blobs.gc().blobs == 1
    assert [*runs.store.log.blobs.each()] == []


def test_a_disk_that_takes_no_blob_takes_the_payload_into_the_log(tmp_path, caplog):
    class Full(OperatingSystem):
        def writing(self, path, **options):
            raise OSError(28, "No space left on device")

    log, _ = logs("disk", tmp_path, files=Full())
    with projections.connect(log) as runs:
        runs.store.append("s", MetaSet("n", noise()))

        assert stored(runs) == [("MetaSet", 1)]
        assert next(runs.store.read("s")).event.value == noise()
    assert "kept in the database, not in a blob" in caplog.text


def test_two_entries_of_the_same_payload_share_a_blob(kept):
    for stream in ("a", "b"):
        kept.store.append(stream, MetaSet("n", noise()))

    assert stored(kept) == [("MetaSet", 3)] * 2
    assert len([*kept.store.log.blobs.each()]) == 1


# --- what is missing or damaged -------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_an_entry_whose_blob_is_missing_or_damaged_names_it_and_putting_the_bytes_back_mends_it(kept, tmp_path, harm):
    kept.store.append("a", MetaSet("n", 1))
    kept.store.append("s", MetaSet("n", noise()))
    (item,) = kept.store.log.blobs.each()
    data = item.path.read_bytes()
    item.path.write_bytes(b"?") if harm == "damaged" else item.path.unlink()

    with pytest.raises(UnreadableEntry) as caught:
        [*kept.store.read("s")]
    assert (caught.value.position, caught.value.stream, caught.value.type) == (2, "s", "MetaSet")
    assert f"it needs the blob {item.name}, which is {harm}" in caught.value.reason
    assert "blobs put" in str(caught.value)
    (finding, *_) = kept.verify().findings
    assert (finding.position, item.name in finding.fact) == (2, True)

    kept.blobs.write(data)
    assert next(kept.store.read("s")).event.value == noise()
    assert kept.verify().ok


def test_a_check_finds_nothing_where_all_is_well(runs):
    runs.store.append("s", MetaSet("n", noise()))
    runs.blobs.write(b"one")
    found = runs.blobs.check()

    assert (found.ok, found.blobs, found.bytes) == (True, 2, len(noise()) + len('{"name":"n","value":""}') + 3)


def test_a_check_names_every_entry_that_needs_what_is_missing_or_damaged(kept):
    attempt = begun(kept)
    attempt.append(*(CheckpointSaved(step, {"text": noise(), "step": step}) for step in range(3)))
    mentioned = kept.blobs.write(b"mentioned")
    listed = kept.blobs.write(b"listed")
    forgotten = kept.blobs.write(b"forgotten")
    kept.store.append("s", LogRecorded("test", "made", payload={"where": f"in {mentioned}."}))
    kept.store.append("s", LogRecorded("runfold", "files-saved", payload={"files": {"a": {"blob": listed}}}))
    (state,) = {item.name for item in kept.store.log.blobs.each()} - {mentioned, listed, forgotten}
    for digest in (mentioned, forgotten):
        file_of(kept, digest).write_bytes(b"?")
    for digest in (state, listed):
        file_of(kept, digest).unlink()
    before = kept.store.head()

    found = {fault.digest: fault for fault in kept.blobs.check().faults}
    assert {digest: [need.position for need in fault.needs] for digest, fault in found.items()} == {
        state: [3, 4, 5], mentioned: [6], listed: [7], forgotten: []
    }  # fmt: skip
    assert {digest: "missing" in fault.fact for digest, fault in found.items()} == {
        state: True, mentioned: False, listed: True, forgotten: False
    }  # fmt: skip
    assert "3 (CheckpointSaved of run-1)" in str(found[state])
    assert "no entry needs it" in str(found[forgotten])
    assert kept.store.head() == before


def test_a_forged_list_of_files_is_no_list(runs):
    for payload in (None, 5, {}, {"files": 5}, {"files": {"a": 5}}, {"files": {"a": {"blob": "../../escape"}}}):
        runs.store.append("s", LogRecorded("runfold", "files-saved", payload=payload))

    assert runs.blobs.check().ok


# --- collecting -----------------------------------------------------------------------------------------------------


def test_what_no_entry_mentions_goes_and_the_rest_stays(runs):
    digests = {name: runs.blobs.write(name.encode()) for name in ("payload", "meta", "key", "stream", "inside", "none")}
    inside = f"{'0' * 7}{digests['inside'].upper()}ff"
    runs.store.append("s", MetaSet("n", ["see " + digests["payload"]]), meta={"trace": digests["meta"]})
    runs.store.append("s", MetaSet("n", inside), key=digests["key"])
    runs.store.append(digests["stream"], MetaSet("n", noise()))
    ages(runs.store.log)

    expected = ((digests["none"],), 6, 4)
    would = runs.blobs.gc(dry_run=True)
    assert (would.digests, would.kept, would.bytes) == expected
    assert len([*runs.store.log.blobs.each()]) == 7
    did = runs.blobs.gc()
    assert (did.digests, did.kept, did.bytes) == expected
    assert [runs.blobs.exists(digest) for digest in digests.values()] == [True] * 5 + [False]
    assert runs.blobs.gc().blobs == 0
    assert runs.verify().ok


def test_a_digest_that_only_another_blob_holds_counts_when_that_is_a_payload(runs):
    digest = runs.blobs.write(b"one")
    runs.store.append("s", MetaSet("n", [digest, noise()]))
    ages(runs.store.log)

    assert runs.blobs.gc().blobs == 0
    assert runs.blobs.exists(digest)


def test_what_is_young_stays_and_writing_it_again_makes_it_young(runs):
    old, again = runs.blobs.write(b"old"), runs.blobs.write(b"again")
    ages(runs.store.log)
    new = runs.blobs.write(b"new")
    runs.blobs.write(b"again")
    found = runs.blobs.gc()

    assert (found.digests, found.young) == ((old,), 2)
    assert [runs.blobs.exists(digest) for digest in (again, new)] == [True, True]
    assert runs.blobs.gc(min_age=timedelta(days=-1) * -1).blobs == 0


def test_an_age_that_cannot_be_is_refused(runs):
    runs.blobs.write(b"one")

    with pytest.raises(InvalidArgument, match="0 or more"):
        runs.blobs.gc(min_age=timedelta(seconds=-1))
    assert len([*runs.store.log.blobs.each()]) == 1


def test_gc_takes_nothing_while_an_entry_cannot_be_read_since_nobody_knows_what_it_mentions(kept):
    kept.store.append("s", MetaSet("n", noise()))
    (item,) = kept.store.log.blobs.each()
    item.path.unlink()
    digest = kept.blobs.write(b"one")
    ages(kept.store.log)

    for dry_run in (True, False):
        with pytest.raises(UnreadableEntry, match=item.name):
            kept.blobs.gc(dry_run=dry_run)
    assert kept.blobs.exists(digest)


def test_what_a_killed_writer_left_goes_when_it_is_old_and_what_is_not_ours_stays(kept, tmp_path):
    digest = kept.blobs.write(b"one")
    root = tmp_path / "agent.db-blobs"
    (root / "incoming").mkdir()
    left = [root / digest[:2] / f"{digest[2:]}.{'0' * 16}.tmp", root / "incoming" / ("a" * 32)]
    left.append(left[-1].with_name(f"{'b' * 32}.{'0' * 16}.tmp"))
    theirs = [root / "README", root / digest[:2] / "notes.txt", root / "incoming" / "mine"]
    for path in (*left, *theirs):
        path.write_bytes(b"12")
    young = kept.blobs.gc()
    assert (young.blobs, young.bytes) == (0, 0)
    for path in (*left, *theirs):
        os.utime(path, (0, 0))

    found = kept.blobs.gc()
    assert (found.blobs, found.bytes) == (0, 6)
    assert [path.exists() for path in (*left, *theirs)] == [False] * 3 + [True] * 3
    assert kept.blobs.exists(digest)


def test_a_slow_writer_keeps_what_it_has_written_whatever_the_age_that_is_asked_for(kept):
    pieces = [b"one", b"two"]

    class Slow:
        def read(self, _size):
            ages(kept.store.log, by=60_000_000)
            assert kept.blobs.gc(min_age=timedelta(0)).bytes == 0
            return pieces.pop(0) if pieces else b""

    assert kept.blobs.read(kept.blobs.write(Slow())) == b"onetwo"


# --- encrypted ------------------------------------------------------------------------------------------------------


ROT = bytes(range(255, -1, -1))


class Rot:
    """A cipher for tests: nobody should use it."""

    def seal(self, data, context):
        return context[:10].ljust(29, b".") + data.translate(ROT)

    def open(self, box, context):
        if box[:29] != context[:10].ljust(29, b"."):
            raise DamagedBox("not of this place")
        return box[29:].translate(ROT)

    def name(self, digest):
        return digest[::-1]


def test_with_a_cipher_no_file_holds_or_names_what_is_in_it():
    files = MemoryFiles()
    blobs = BlobFiles(Path("blobs"), files, Rot())
    data = b"secret" * PIECE
    digest = blobs.write(io.BytesIO(data))
    (item,) = blobs.each()

    assert item.name == digest[::-1]
    assert b"secret" not in files.read(item.path)
    assert blobs.read(digest) == data
    assert blobs.write(data) == digest
    files.put(item.path, files.read(item.path)[:-1])
    assert not blobs.exists(digest)
    blobs.write(data)
    with closing(blobs.open(digest)) as file:
        assert file.read() == data


def test_what_came_while_a_collector_read_the_log_is_not_left_to_be_read_under_the_write_lock(kept, monkeypatch):
    digests = [kept.blobs.write(b"mentioned late"), kept.blobs.write(b"orphan")]
    collection = blobs._Collection(kept.store.log, kept.store.log.blobs, 2**62, 2**62)
    kept.store.append("notes", LogRecorded("test", "picture", ref=digests[0]))
    monkeypatch.setattr(blobs, "_read", lambda *_: pytest.fail("it was read under the lock"))

    assert collection.go().digests == (digests[1],)
    assert kept.blobs.read(digests[0]) == b"mentioned late"
