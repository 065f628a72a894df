"""Logs of each release must replay for ever, byte for byte and phase for phase.

`tests/golden/<release>/log.jsonl`: the first line names the log, each other line is an entry with its hash and the
phase of its stream after it. `packed.jsonl` beside it holds packed payloads as they stood in one stream, and the
SHA-256 of what they must come back as. A golden file is never written again: when this test fails, the program is
wrong, or a new shape needs a new name and an upcaster.
"""

import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attrs import evolve

from eventstore import RUN, EventStore, LogRecorded, MetaSet
from eventstore.integrity import chain, genesis
from eventstore.log import Entry
from eventstore.memory import MemoryLog
from eventstore.notes import NOTES
from eventstore.packing.forms import Compression, decode
from eventstore.sqlite import SQLiteLog
from eventstore.workflow import (
    CheckpointSaved,
    ConfirmationExpired,
    ConfirmationRequested,
    ConfirmationResolved,
    Continues,
    Error,
    InterruptRequested,
    MessageRecorded,
    Phase,
    RunCancelled,
    RunCompleted,
    RunConfigured,
    RunCrashed,
    RunDescribed,
    RunDropped,
    RunFailed,
    RunInterrupted,
    RunPaused,
    RunQueued,
    RunRequeued,
    RunResumed,
    RunStarted,
    ToolCalled,
    ToolReturned,
    UsageRecorded,
)
from tests.packed import Payloads

GOLDEN = Path(__file__).parent / "golden"
RELEASES = sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir())
LOG_ID = "0123456789abcdef0123456789abcdef"
LATER = datetime(2026, 6, 1, 12, 30, tzinfo=UTC)
DEEP = {"é": [1, 2.5, -0.1, True, None, '🏃\u2028\\"'], "": {"n": 9007199254740991}}


def read(release):
    with (GOLDEN / release / "log.jsonl").open(encoding="utf-8") as file:  # splitlines() would also split at U+2028
        head, *lines = map(json.loads, file)
    names = Entry._fields
    entries = [Entry(**{name: line[name] for name in names} | {"hash": bytes.fromhex(line["hash"])}) for line in lines]
    return head["log"], entries, [line["phase"] for line in lines]


def memory_log(log_id):
    log = MemoryLog()
    log.id = log._disk.id = log_id
    log._disk.genesis = genesis(log_id)
    log._disk.root = evolve(log._disk.root, head=evolve(log._disk.root.head, hash=genesis(log_id)))
    return log


def sqlite_log(log_id, folder):
    log = SQLiteLog(folder / "golden.db")
    log.write(lambda transaction: transaction.execute("UPDATE log SET id = ?", (log_id,)))
    log.close()
    return SQLiteLog(log.url)


@pytest.fixture(params=["memory", "sqlite"])
def open_log(request, tmp_path):
    opened = []

    def new(log_id):
        opened.append(memory_log(log_id) if request.param == "memory" else sqlite_log(log_id, tmp_path))
        return opened[-1]

    yield new
    for log in opened:
        log.close()


def write_history(log):
    """What release 0.1 wrote: every event type of both machines, with and without its optional fields."""
    clock = iter(range(1_767_225_600_000_000, 1_767_225_700_000_000, 1_000_001))
    store = EventStore(log, [RUN], clock=lambda: next(clock))
    one = store.stream("run-1", RUN)
    one.append(
        RunQueued("deploy", DEEP, "agent", "spec", "job", "parent", None, 5, LATER, {"env": "prod"}, {"model": "m"}),
        key="submit/run-1",
        meta={"actor": "alice"},
    )
    one.append(RunDescribed("a title", "a summary", {"team": "é"}), RunConfigured({"model": "n"}), key="described")
    one.append(RunStarted("w1"))
    one.append(MessageRecorded("user", [{"type": "text", "text": "hello"}]), occurred_at=LATER)
    one.append(LogRecorded("stdout", "line", "ref", {"line": 1}))
    one.append(ToolCalled("c1", "search", {"q": "tea"}, "c0"), UsageRecorded("m", 10, 20, 0.25))
    one.append(RunResumed("w2", "its worker died"))
    one.append(ToolCalled("c1", "search", {"q": "tea"}), ToolReturned("c1", {"hits": []}, is_error=True))
    one.append(ConfirmationRequested("q1", "ship", DEEP, None, "touches production", LATER))
    one.append(RunPaused("person", LATER, "asked"))
    store.append("run-1", ConfirmationResolved("q1", "approved", "alice", "go", {"edited": True}, {"done": 1}))
    one.append(RunResumed("w2"), ConfirmationRequested("q2", "ship"), ConfirmationExpired("q2"))
    one.append(CheckpointSaved(3, DEEP), RunRequeued("draining", LATER))
    one.append(RunStarted("w3"), InterruptRequested("bob", "stop"), RunInterrupted("asked to"))
    two = store.stream("run-2", RUN)
    two.append(RunQueued("deploy", continues=Continues("run-1", 22)), RunStarted("w1"), RunCompleted({"ok": True}))
    three = store.stream("run-3", RUN)
    three.append(RunQueued("deploy"), RunStarted("w1"), RunFailed(Error("tool", "it broke"), "no retries left"))
    four = store.stream("run-4", RUN)
    four.append(RunQueued("deploy"), RunStarted("w1"), RunCrashed("killed", 137))
    store.append("run-5", RunDropped("the queue is full"))
    store.append("run-6", RunQueued("deploy"), RunCancelled("alice", "no need", 130), RunDescribed("cancelled"))
    store.append("notes", LogRecorded("import", "begun"), MetaSet("schema", {"version": 1}), MetaSet("schema"))
    return list(store.read_all())


@pytest.mark.parametrize("release", RELEASES)
def test_the_chain_of_a_golden_log_recomputes(release):
    log_id, entries, _ = read(release)

    previous = genesis(log_id)
    for entry in entries:
        previous = chain(previous, entry)
        assert entry.hash == previous, f"position {entry.position}"


@pytest.mark.parametrize("release", RELEASES)
def test_a_golden_log_replays_to_the_phases_that_its_release_saw(release, open_log):
    log_id, entries, phases = read(release)
    log = open_log(log_id)
    log.write(lambda transaction: transaction.insert(entries))
    store = EventStore(log, [RUN])

    views = {}
    for recorded, phase in zip(store.read_all(), phases, strict=True):
        assert recorded.event is not None
        views[recorded.stream] = store.gate.admit(views.get(recorded.stream) or store.gate.start(None), recorded)
        assert views[recorded.stream].state.phase == phase, f"position {recorded.position}"
    assert store.head().hash == entries[-1].hash


@pytest.mark.parametrize("release", RELEASES)
def test_a_golden_log_can_be_gone_on_with(release, open_log):
    log_id, entries, _ = read(release)
    log = open_log(log_id)
    log.write(lambda transaction: transaction.insert(entries))

    (recorded,) = EventStore(log, [RUN]).append("run-1", RunDescribed("seen again"))

    assert recorded.position == len(entries) + 1
    assert recorded.entry.hash == chain(entries[-1].hash, recorded.entry)


@pytest.mark.parametrize("release", RELEASES)
def test_packed_payloads_of_a_release_come_back(release):
    payloads, wanted = Payloads(), []
    for line in map(json.loads, (GOLDEN / release / "packed.jsonl").read_text().splitlines()):
        version, digest, data = line["version"], bytes.fromhex(line["hash"]), base64.b64decode(line["data"])
        row = Entry(version, "run-1", version, "CheckpointSaved", 0, None, None, None, digest, None, data)
        payloads.rows[version] = row
        wanted.append(line["sha256"])

    assert [hashlib.sha256(payloads.load(version).encode()).hexdigest() for version in payloads.rows] == wanted
    forms = [decode(row.data, Compression()) for row in payloads.rows.values()]
    assert {form.back for form in forms} >= {0, 1, 32}


def test_what_is_written_today_is_what_0_1_wrote(open_log):
    _, entries, _ = read("0.1")

    assert [recorded.entry for recorded in write_history(open_log(LOG_ID))] == entries


def test_the_golden_log_holds_every_event_type_and_every_phase():
    _, entries, phases = read("0.1")

    assert {entry.type for entry in entries} == {event.__name__ for event in RUN.events | NOTES.events}
    assert set(phases) >= {phase.value for phase in Phase if phase is not Phase.NEW}


def test_the_fold_of_the_golden_run_is_known(open_log):
    log_id, entries, _ = read("0.1")
    log = open_log(log_id)
    log.write(lambda transaction: transaction.insert(entries))

    state = EventStore(log, [RUN]).stream("run-1", RUN).state

    assert (state.phase, state.attempt, state.crashes, state.worker) == (Phase.INTERRUPTED, 4, 1, "w3")
    assert (state.interrupt_requested, state.checkpoint) == (True, 18)
    assert not state.calls
    assert not state.questions


def test_format_1_is_what_it_was_said_to_be():
    # Every byte by hand: netstrings of position, stream, version, type, recorded_at, occurred_at, attempt, key, and
    # the SHA-256 of meta and data.
    first = Entry(1, "run-1", 1, "RunQueued", 1000, None, None, None, b"", None, '{"workflow":"w"}')
    second = Entry(2, "läuft", 10, "MetaSet", -5, 999, 7, "k/1", b"", '{"a":1}', "{}")

    def sha(data):
        return hashlib.sha256(data).digest()

    start = sha(b"runfold/1" + b"0123456789abcdef0123456789abcdef")
    one = sha(start + b"1:1,5:run-1,1:1,9:RunQueued,4:1000,0:,0:,0:,0:,32:" + sha(b'{"workflow":"w"}') + b",")
    two = sha(
        one
        + b"1:2,6:l\xc3\xa4uft,2:10,7:MetaSet,2:-5,3:999,1:7,3:k/1,32:"
        + sha(b'{"a":1}')
        + b",32:"
        + sha(b"{}")
        + b","
    )

    assert genesis(LOG_ID) == start
    assert chain(start, first) == one
    assert chain(one, second) == two
    assert start.hex() == "d9bb73bafc6e163ad98e7be5bfe08ed5630df1ce04badbf387986a5567d9b69c"
    assert one.hex() == "99b0ba33c1981f1cb98781102e4ad8aef7282d173aa8a0c7be85f8846a33bb0b"
    assert two.hex() == "940d55063059fb5370c4d905a0562e2e7ba2702190b1f03057bf4ca06581b739"
