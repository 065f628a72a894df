"""An encrypted store does all that a store can do, and nothing that it was told is to be found in any of its files.

A marker stands in every kind of payload, name and meta. The files are looked at in the middle and at rest, after a
`kill -9`, and beside a lost tail: as they are, as UTF-16, and within every frame of zstd that can be found in them.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

import eventstore
import projections
from eventstore.blobs import Blobs
from eventstore.errors import LostTail
from eventstore.workflow import CheckpointSaved, MessageRecorded, RunCompleted, RunDescribed, UsageRecorded
from projections import System
from projections.connecting import tables_of
from tests.faults.payloads import noise

pytest.importorskip("sqlcipher3", reason="the extra runfold[encryption] is not installed")

ROOT = Path(__file__).parent.parent
KEY = bytes(range(32))
MARKER = "Zibeline4711"
DAY = 86_400_000_000
FRAME = b"\x28\xb5\x2f\xfd"
"""What every frame of zstd begins with."""
WORDS = {MARKER: MARKER, "text": f"say {MARKER} again"}
PACKED = {"state": [f"{MARKER} {number}" for number in range(500)]}
BLOB = {"state": noise(1, 160_000), "words": WORDS}


def told_by(data):
    """Whether these bytes tell the marker."""
    spellings = [MARKER.encode(encoding) for encoding in ("utf-8", "utf-16-le", "utf-16-be")]
    if any(spelling in data or spelling.hex().encode() in data.lower() for spelling in spellings):
        return True
    at = data.find(FRAME)
    while at >= 0:
        try:
            if told_by(zstandard.ZstdDecompressor().decompressobj().decompress(data[at:])):
                return True
        except zstandard.ZstdError:
            pass
        at = data.find(FRAME, at + 1)
    return False


def tellers(folder, *digests):
    """The files under a folder that tell the marker, by what is in them or what they are called."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder)).replace("/", "")
        if (
            MARKER in name
            or any(digest in name for digest in digests)
            or (path.is_file() and told_by(path.read_bytes()))
        ):
            found.append(str(path.relative_to(folder)))
    return found


def work(runs, files, look):
    """All that a store can do; `look` is called in the middle of it. The digests of what it keeps as blobs."""
    (files / MARKER).write_text(MARKER)
    text = {"labels": {MARKER: MARKER}, "job_id": f"job-{MARKER}", "agent": MARKER, "config": {MARKER: MARKER}}
    run_id = runs.submit(MARKER, input=WORDS, run_id=f"run-{MARKER}", key=MARKER, **text)
    runs.logs.record(MARKER, MARKER, ref=MARKER, payload=WORDS)
    runs.meta.set(MARKER, WORDS)
    digest = runs.blobs.write(MARKER.encode() * 1000)
    with runs.worker(f"worker-{MARKER}") as worker:
        attempt = worker.claim()
        with attempt:
            for number, state in enumerate((WORDS, PACKED, {**PACKED, "more": MARKER}, BLOB)):
                attempt.append(CheckpointSaved(number, state), meta=WORDS)
            attempt.append(MessageRecorded("user", f"say {MARKER}"), UsageRecorded(MARKER, 1, 1, 0.0))
            attempt.call(f"call-{MARKER}", MARKER, WORDS, lambda given: given)
            attempt.save_files(files, MARKER)
            look()
            attempt.ask(f"ask-{MARKER}", MARKER, WORDS, reason=MARKER)
        runs.resolve(run_id, f"ask-{MARKER}", "approved", by=MARKER, comment=MARKER)
        with worker.claim() as attempt:
            attempt.append(RunCompleted(output=WORDS))
    runs.store.append(run_id, RunDescribed(title=MARKER, summary=MARKER))
    assert runs.search(MARKER)
    return digest, hashlib.sha256(MARKER.encode()).hexdigest()


def copied(folder, target):
    """The files as they are at this moment; another process reads them, or SQLite's locks would be dropped here."""
    subprocess.run(["cp", "-a", folder, target], check=True)
    return target


def unnamed():
    """What this process holds open that has no name any more: where SQLite's temporary files would be."""
    links = [*Path("/proc/self/fd").iterdir()]
    return [
        link
        for link in links
        if link.is_symlink() and "(deleted)" in str(link.readlink()) and told_by(link.read_bytes())
    ]


@pytest.fixture
def folder(tmp_path):
    for name in ("store", "files"):
        (tmp_path / name).mkdir()
    return tmp_path / "store"


def test_no_file_of_an_encrypted_store_tells_anything_in_the_middle_or_at_rest(folder):
    middle = folder.with_name("middle")
    now = [1_767_225_600_000_000]
    with projections.connect(folder / "agent.db", key=KEY, system=System(microseconds=lambda: now[0])) as runs:
        digests = work(runs, folder.with_name("files"), lambda: copied(folder, middle))
        for compress in (False, True):
            runs.logs.record(MARKER, MARKER, payload=WORDS)
            now[0] += DAY
            runs.logs.record("a", "day later", payload=None)
            now[0] += DAY
            assert runs.archive(keep_days=0, compress=compress, vacuum=compress).sealed
        assert runs.search(MARKER)
        runs.rebuild()
        with tables_of(runs.store.log).scratch() as scratch:
            assert scratch.execute("PRAGMA temp_store").fetchone() == (2,), "in memory"
        assert runs.check().ok
        assert runs.verify().ok
        assert unnamed() == []
        runs.backup(folder / "backup")
        runs.restore_days(days=None)
        runs.rekey(bytes(32))
        copied(folder, folder.with_name("end"))
    projections.restore(folder / "backup", folder / "restored.db", key=KEY)

    for stage in ("middle", "end", "store"):
        files = {path.name for path in folder.with_name(stage).rglob("*") if path.is_file()}
        assert tellers(folder.with_name(stage), *digests) == [], stage
        assert {"agent.db", "agent.db-witness"} < files
        assert len(files) > 4, "there are blobs beside it"
    assert {path.suffixes[1:2] == [".zst"] for path in (folder / "agent.db-archive").rglob("*.enc")} == {True, False}
    assert (folder / "backup" / "log.db").exists()


@pytest.mark.parametrize(
    "keys", [(None, KEY), (KEY, None), (KEY, bytes(32))], ids=["plain to key", "key to plain", "key to key"]
)
def test_a_restore_under_another_key_is_the_same_store_and_tells_nothing_where_there_is_one(folder, keys):
    old, new = ({} if key is None else {"key": key} for key in keys)
    now = [1_767_225_600_000_000]
    system = System(microseconds=lambda: now[0])
    with projections.connect(folder / "agent.db", **old, system=system) as runs:
        digest, file = work(runs, folder.with_name("files"), lambda: None)
        now[0] += 2 * DAY
        runs.archive(keep_days=0, compress=True)
        log_id, told = runs.store.log.id, entries(runs)
        runs.backup(folder.with_name("backup"))
    folder.with_name("made").mkdir()
    made = folder.with_name("made") / "agent.db"
    restored = projections.restore(folder.with_name("backup"), made, new_key=keys[1], **old)

    assert not restored.log.findings
    with projections.connect(made, **new) as runs:
        assert runs.store.log.id == log_id
        assert entries(runs) == told
        assert runs.blobs.read(digest) == MARKER.encode() * 1000
        assert runs.verify().ok
        assert not Blobs(runs.store.log).check().faults
    assert bool(tellers(made.parent, digest, file)) == (keys[1] is None)


def entries(runs):
    with runs.store.log.reading() as reading:
        return [*reading.read_all(after=0, limit=1000)]


def test_the_files_of_a_plain_store_tell_so_the_search_finds_what_there_is(folder):
    with projections.connect(folder / "agent.db") as runs:
        digests = work(runs, folder.with_name("files"), lambda: copied(folder, folder.with_name("middle")))

    assert "agent.db-wal" in tellers(folder.with_name("middle"))
    assert {"agent.db", f"agent.db-blobs/{digests[0][:2]}/{digests[0][2:]}"} < {*tellers(folder, *digests)}
    assert told_by(b"x" + zstandard.compress(MARKER.encode()))
    assert told_by(MARKER.encode("utf-16"))


def test_neither_what_a_killed_writer_left_nor_the_wal_that_is_kept_of_a_lost_tail_tells_anything(folder):
    program = f"""
import os, eventstore
store = eventstore.connect("agent.db", key=bytes(range(32)))
for number in range(3):
    store.append("{MARKER}", eventstore.MetaSet("{MARKER}", "{MARKER} " * 2000))
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=False)
    assert tellers(folder) == []

    wal = folder / "agent.db-wal"
    wal.write_bytes(wal.read_bytes()[:-1000])
    with pytest.raises(LostTail) as lost:
        eventstore.connect(folder / "agent.db", key=KEY)

    assert Path(lost.value.kept).exists()
    assert tellers(folder) == []
