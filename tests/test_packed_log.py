"""Checkpoints in SQLite's log: packed where they stand, whole wherever they are read."""

import contextlib
import io
import random
import sqlite3

import orjson
import pytest

import eventstore.sqlite.transaction as sqlite_transaction
import projections
from eventstore.errors import UnreadableEntry
from eventstore.exchange import export_lines, import_lines
from eventstore.limits import PAGE_BYTES
from eventstore.log import Entry
from eventstore.notes import LogRecorded, MetaSet
from eventstore.sqlite import SQLiteLog
from eventstore.store import EventStore
from eventstore.workflow import RUN, CheckpointSaved, MessageRecorded, RunQueued, RunStarted
from tests.packed import states, words

STATES = [orjson.loads(text) for text in states(70)]
NEW = len(orjson.dumps(STATES[-1]))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent.db"


@pytest.fixture
def store(path):
    with EventStore(SQLiteLog(path), [RUN]) as store:
        yield store


def begin(store, name="run-1"):
    stream = store.stream(name, RUN)
    stream.append(RunQueued("w"), RunStarted("w"))
    return stream


def save(stream, states=STATES, start=0):
    for step, state in enumerate(states, start=start):
        stream.append(CheckpointSaved(step, state), key=f"k{step}")


def saved(store, name="run-1"):
    return [item.event.state for item in store.read(name) if item.kind is CheckpointSaved]


def stored(store, name="run-1"):
    """How the payloads of a run's checkpoints stand: the first byte, or "text"; and all their bytes."""
    with store.reading() as view:
        rows = view.execute(
            "SELECT data, octet_length(data) FROM events WHERE type = 'CheckpointSaved' AND stream = ?", (name,)
        ).fetchall()
    return ["text" if isinstance(data, str) else data[0] for data, _ in rows], sum(size for _, size in rows)


def by_hand(path, *statements):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        triggers = connection.execute("SELECT sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        connection.executescript("DROP TRIGGER events_keep; DROP TRIGGER events_stay")
        for statement in statements:
            connection.execute(statement)
        for (trigger,) in triggers:
            connection.execute(trigger)
        connection.commit()


# --- whole wherever they are read ---------------------------------------------------------------------------------


def test_checkpoints_cost_what_is_new_in_them(store):
    save(begin(store))

    forms, size = stored(store)
    assert forms.count(2) >= 67
    assert size < 2 * NEW


def test_a_checkpoint_is_whole_through_every_door(store):
    save(begin(store))

    assert saved(store) == STATES
    assert [item.event.state for item in store.read_all(types=[CheckpointSaved])] == STATES
    lines = [orjson.loads(line) for line in export_lines(store, ["run-1"])]
    assert [line["data"]["state"] for line in lines[2:]] == STATES
    with store.reading() as view:
        assert orjson.loads(view.keyed("run-1", "k65").data)["state"] == STATES[65]
    (one,) = store.read("run-1", after=40, limit=1)
    assert one.event.state == STATES[38]


def test_what_was_read_was_what_was_given_to_the_chain(store):
    runs = begin(store)
    given = [runs.append(CheckpointSaved(step, state))[0].entry for step, state in enumerate(STATES)]

    assert [item.entry for item in store.read("run-1", after=2)] == given


def test_verify_proves_the_json_and_not_its_packed_form(path):
    with projections.connect(path) as runs:
        save(begin(runs.store))
        runs.store.append("notes", LogRecorded("a", "b", payload="x" * 5_000))

        assert runs.verify().ok


def test_an_import_packs_what_it_takes_in(tmp_path, store):
    save(begin(store))
    lines = b"".join(export_lines(store))
    with EventStore(SQLiteLog(tmp_path / "other.db"), [RUN]) as other:
        import_lines(other, io.BytesIO(lines))

        assert saved(other) == STATES
        assert stored(other)[1] < 2 * NEW
        assert b"".join(export_lines(other)).count(b"CheckpointSaved") == len(STATES)


def test_a_batch_is_packed_each_over_the_one_before(store):
    stream = begin(store)
    stream.append(*[CheckpointSaved(step, state) for step, state in enumerate(STATES)])

    assert saved(store) == STATES
    assert stored(store)[1] < 2 * NEW


def test_runs_that_take_turns_keep_apart(store):
    streams = [begin(store, f"run-{number}") for number in range(4)]
    for step, state in enumerate(STATES[:20]):
        for number, stream in enumerate(streams):
            stream.append(CheckpointSaved(step, {**state, "run": number}))

    for number in range(4):
        assert saved(store, f"run-{number}") == [{**state, "run": number} for state in STATES[:20]]
        assert stored(store, f"run-{number}")[0].count(2) >= 18


def test_a_log_of_plain_json_goes_on_packed(path, monkeypatch):
    with EventStore(SQLiteLog(path), [RUN]) as store, monkeypatch.context() as patch:
        patch.setattr(sqlite_transaction, "pack", lambda entry, _rows, _bases: entry.data)
        save(begin(store), STATES[:10])
    with EventStore(SQLiteLog(path), [RUN]) as store:
        for step, state in enumerate(STATES[10:], start=10):
            store.append("run-1", CheckpointSaved(step, state), attempt=1)

        assert saved(store) == STATES
        assert stored(store)[0][:12] == ["text"] * 10 + [1, 2]


def test_what_is_large_in_any_event_is_packed(store):
    chance = random.Random(1)
    store.append("notes", *[LogRecorded("a", "b", payload=words(chance, 6_000)) for _ in range(3)])

    with store.reading() as view:
        sizes = view.execute("SELECT octet_length(data) FROM events").fetchall()
    assert all(size < 3_000 for (size,) in sizes)


def test_a_base_is_of_the_same_type_when_it_is_read_back(path):
    chance = random.Random(1)
    text = words(chance, 9_000)
    for number in range(2):
        with EventStore(SQLiteLog(path), []) as store:
            store.append("notes", LogRecorded("a", "b", payload=f"{text}{number}"))
            store.append("notes", MetaSet("name", f"{text[::-1]}{number}"))

    with contextlib.closing(sqlite3.connect(path)) as connection:
        forms = [data[0] for (data,) in connection.execute("SELECT data FROM events")]
    assert forms == [1, 1, 2, 2]


def test_a_page_ends_by_what_its_payloads_are_and_not_by_what_they_take(store):
    stream = begin(store)
    state = "x" * (PAGE_BYTES // 4)
    stream.append(*[CheckpointSaved(step, state) for step in range(12)])

    with store.reading() as view:
        page = view.read_all(after=0, limit=100)
    assert sum(len(entry.data) for entry in page) < PAGE_BYTES * 3 // 2
    assert saved(store) == [state] * 12


def test_a_census_tells_what_payloads_are_and_what_they_take(store):
    save(begin(store))
    memory = sum(len(item.entry.data.encode()) for item in store.read_all(types=[CheckpointSaved]))

    with store.reading() as view:
        types = {kind: sizes for kind, *sizes in view.census().types}
    assert types["CheckpointSaved"] == [len(STATES), memory, stored(store)[1]]
    assert types["RunQueued"][1] == types["RunQueued"][2]


# --- whoever wrote in between -------------------------------------------------------------------------------------


def test_a_refused_append_leaves_no_base(store):
    stream = begin(store)
    save(stream, STATES[:5])

    def failing(transaction):
        stream_entries = transaction.read("run-1", after=6, limit=1)
        entry = stream_entries[0]
        transaction.insert([_after(transaction, entry, orjson.dumps({"step": 9, "state": STATES[9]}).decode())])
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.write(failing)
    save(stream, STATES[5:12], start=5)

    assert saved(store) == STATES[:12]


def test_an_undone_part_of_a_transaction_is_no_base(store):
    save(begin(store), STATES[:5])

    def job(transaction):
        entry = transaction.read("run-1", after=6, limit=1)[0]
        with contextlib.suppress(RuntimeError), transaction.savepoint():
            transaction.insert([_after(transaction, entry, orjson.dumps({"step": 9, "state": STATES[9]}).decode())])
            raise RuntimeError
        transaction.insert([_after(transaction, entry, orjson.dumps({"step": 6, "state": STATES[10]}).decode())])

    store.write(job)

    assert saved(store) == [*STATES[:5], STATES[10]]


def _after(transaction, entry, data):
    head = transaction.head()
    digest = bytes([len(data) % 256]) * 32
    return Entry(
        head.position + 1, entry.stream, entry.version + 1, entry.type, head.recorded_at, None, 1, None, digest, None,
        data,
    )  # fmt: skip


def test_two_handles_of_one_file_save_by_turns(path):
    with EventStore(SQLiteLog(path), [RUN]) as one, EventStore(SQLiteLog(path), [RUN]) as two:
        begin(one)
        for step, state in enumerate(STATES):
            (one, two)[step % 2].append("run-1", CheckpointSaved(step, state), attempt=1)

        assert saved(one) == saved(two) == STATES
        assert stored(one)[0].count(2) >= 67


def test_a_reader_sees_its_snapshot_while_others_save(store):
    stream = begin(store)
    save(stream, STATES[:40])

    with store.reading() as view:
        before = view.read("run-1", after=0, limit=3)
        save(stream, STATES[40:50], start=40)
        after = view.read("run-1", after=3, limit=500)

    assert [orjson.loads(entry.data)["state"] for entry in [*before, *after][2:]] == STATES[:40]


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(path):
    """A log in which the packed form of version 22 changed by a bit."""
    with projections.connect(path) as runs:
        save(begin(runs.store), STATES[:30])
        runs.store.append("run-1", MessageRecorded("user"), attempt=1)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        ((data,),) = connection.execute("SELECT data FROM events WHERE position = 22")
    form = bytearray(data)
    form[-3] ^= 4
    by_hand(path, f"UPDATE events SET data = x'{form.hex()}' WHERE position = 22")
    return path


def test_a_damaged_checkpoint_is_named_and_so_is_what_needs_it(damaged):
    with EventStore(SQLiteLog(damaged), [RUN]) as store:
        assert len(list(store.read("run-1", limit=21))) == 21
        with pytest.raises(UnreadableEntry, match=r"position 22 .*its packed form is damaged .*; restore a backup"):
            list(store.read("run-1", after=21, limit=1))
        with pytest.raises(UnreadableEntry, match=r"position 25 .*needs version 22 of run-1, and there"):
            list(store.read("run-1", after=24, limit=1))
        assert len(list(store.read("run-1", after=32))) == 1


def test_verify_names_the_damaged_checkpoint_and_proves_what_comes_before(damaged):
    with projections.connect(damaged) as runs:
        verification = runs.verify()

    (finding,) = verification.findings
    assert (finding.check, finding.position) == ("chain", 22)
    assert "its packed form is damaged" in finding.fact
    assert "everything up to position 21 is proved" in finding.remedy


def test_a_run_whose_last_checkpoint_is_damaged_can_save_another(damaged):
    form = "x'0102'"
    by_hand(damaged, f"UPDATE events SET data = {form} WHERE position = 32")
    with EventStore(SQLiteLog(damaged), []) as store:
        digest = bytes(32)

        def job(transaction):
            transaction.insert(
                [Entry(34, "run-1", 34, "CheckpointSaved", 2**50, None, 1, None, digest, None, "x" * 5_000)]
            )

        store.write(job)

        assert stored(store)[0][-1] == 1


def test_a_missing_base_is_named(path):
    with projections.connect(path) as runs:
        save(begin(runs.store), STATES[:30])
    by_hand(path, "DELETE FROM events WHERE position = 22")

    with (
        EventStore(SQLiteLog(path), [RUN]) as store,
        pytest.raises(UnreadableEntry, match=r"position 23 .*needs version 22 of run-1, which is missing"),
    ):
        list(store.read("run-1", after=21))
