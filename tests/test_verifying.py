"""What `verify` proves, and the first bad position that it names when it cannot."""

import contextlib
import hashlib
import sqlite3
from contextlib import closing

import pytest

import eventstore
import projections
from eventstore.errors import CannotOpen, LostTail
from eventstore.files import OperatingSystem
from eventstore.integrity import Witness, chain
from eventstore.sqlite import SQLiteLog
from eventstore.workflow import RUN, MessageRecorded, RunCompleted, RunQueued, RunStarted
from projections.connecting import BUILT_IN


@pytest.fixture
def path(tmp_path):
    """A closed database of three runs of four events each."""
    place = tmp_path / "agent.db"
    with projections.connect(place) as runs:
        for number in range(3):
            runs.store.stream(f"run-{number}", RUN).append(
                RunQueued("deploy"), RunStarted("w"), MessageRecorded("user", f"text {number}"), RunCompleted()
            )
    return place


def by_hand(path, *statements):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TRIGGER events_keep; DROP TRIGGER events_stay")
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def found(path, check="chain"):
    with projections.connect(path, accept_loss=True) as runs:
        verification = runs.verify()
    assert not verification.ok
    return [finding for finding in verification.findings if finding.check == check]


def test_a_sound_store_is_proved_whole(path):
    seen = []
    with projections.connect(path) as runs:
        verification = runs.verify(progress=lambda *at: seen.append(at))

    assert verification.ok
    assert (verification.entries, verification.streams) == (12, 3)
    assert verification.head.position == 12
    assert seen[-1] == (12, 12)


def test_an_empty_store_is_proved():
    with projections.connect("memory:") as runs:
        assert runs.verify().ok


@pytest.mark.parametrize(
    "change",
    [
        "stream = 'run-9', version = 1",
        "type = 'RunCancelled'",
        "recorded_at = recorded_at + 1",
        "occurred_at = 7",
        "attempt = 2",
        "key = 'k'",
        "hash = randomblob(32)",
        "meta = '{}'",
        'data = \'{"role": "user", "content": "other"}\'',
    ],
)
def test_every_altered_column_of_an_entry_is_found_at_its_position(path, change):
    by_hand(path, f"UPDATE events SET {change} WHERE position = 7")

    (finding,) = found(path)
    assert finding.position == 7
    assert "everything up to position 6 is proved" in finding.remedy


def test_an_entry_taken_out_is_found_where_it_is_missing(path):
    by_hand(path, "DELETE FROM events WHERE position = 7")

    (finding,) = found(path)
    assert finding.fact == "the entries from 7 to 7 are missing"


def test_an_entry_altered_with_a_hash_made_to_fit_is_found_at_the_next_one(path):
    by_hand(path, "UPDATE events SET hash = x'00' WHERE position = 6")

    assert found(path)[0].position == 6


def test_triggers_that_were_taken_out_are_missed(path):
    by_hand(path)

    facts = [finding.fact for finding in found(path, "storage")]
    assert facts == ["events_stay is missing: somebody took it out", "events_keep is missing: somebody took it out"]


def test_a_row_altered_by_hand_is_found_with_what_to_do(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE workflow_runs SET workflow = 'other' WHERE run_id = 'run-1'")
        connection.commit()

    (finding,) = found(path, "tables")
    assert "workflow is 'other' and should be 'deploy'" in finding.fact
    assert "runfold rebuild" in finding.remedy


def test_a_database_that_may_not_be_written_is_proved_too_and_a_table_that_is_behind_is_told(path):
    with projections.connect(path, read_only=True) as runs:
        assert runs.verify().ok
    with eventstore.connect(path) as store:
        store.append("run-9", RunQueued("deploy"))

    with projections.connect(path, read_only=True) as runs:
        facts = [finding.fact for finding in runs.verify().findings]
    assert len(facts) == len(BUILT_IN)
    assert "workflow_runs is behind the log and may not be written here" in facts[0]


def forge(path, **changes):
    """Append behind the gate's back, rightly chained: only the machine can tell."""
    with projections.connect(path) as runs:
        good = next(runs.store.read("run-0", after=3)).entry

        def job(transaction):
            head = transaction.head()
            entry = good._replace(**{"position": head.position + 1, "recorded_at": head.recorded_at} | changes)
            transaction.insert([entry._replace(hash=chain(head.hash, entry))])

        runs.store.write(job)


def test_an_entry_that_its_machine_refuses_is_found(path):
    forge(path, version=5, type="RunStarted", data='{"worker":"w"}')

    (finding,) = found(path, "machine")
    assert finding.position == 13
    assert "cannot take RunStarted" in finding.fact


def test_an_entry_under_an_attempt_that_was_never_begun_is_found(path):
    with projections.connect(path) as runs:
        runs.store.stream("live", RUN).append(RunQueued("deploy"), RunStarted("w"))
    forge(path, stream="live", version=3, type="MessageRecorded", attempt=7, data='{"role":"user"}')

    (finding,) = found(path, "machine")
    assert finding.position == 15
    assert "attempt 7 of live may not write MessageRecorded" in finding.fact


# --- the witness ----------------------------------------------------------------------------------------------------


def cut_tail(path, keep):
    """Lose the tail as a damaged WAL does: the log is a shorter one, and perfect."""
    by_hand(path, f"DELETE FROM events WHERE position > {keep}")


def test_a_lost_tail_is_noticed_when_opening_and_nothing_is_written(path):
    cut_tail(path, 10)
    before = path.read_bytes()

    with pytest.raises(LostTail) as caught:
        projections.connect(path)

    assert (caught.value.expected, caught.value.found) == (12, 10)
    assert path.read_bytes() == before


def test_an_operators_decision_to_go_on_is_recorded_as_an_event(path):
    cut_tail(path, 10)

    with projections.connect(path, accept_loss=True) as runs:
        (recorded,) = runs.store.read("runfold")
        assert recorded.event.kind == "tail-lost"
        assert recorded.event.payload["expected"] == 12
        assert recorded.event.payload["found"] == 10
    with projections.connect(path) as runs:
        assert runs.store.head().position == 11


def test_who_accepted_a_loss_is_written_down_and_told(path):
    cut_tail(path, 10)

    with projections.connect(path, accept_loss="alice") as runs:
        (recorded,) = runs.store.read("runfold")
        loss = runs.store.log.loss

    assert recorded.event.payload["by"] == "alice"
    assert (loss.by, loss.found, loss.expected, loss.recorded) == ("alice", 10, 12, 11)


def test_a_loss_is_written_down_once_however_often_its_log_is_connected(path):
    cut_tail(path, 10)
    log = SQLiteLog(path, accept_loss=True)

    for _ in range(2):
        runs = projections.connect(log)
    runs.close()

    with projections.connect(path) as runs:
        assert len(list(runs.store.read("runfold"))) == 1


@pytest.mark.parametrize("words", ["is not there", "is damaged", "is another log's", "cannot be read"])
def test_verify_says_that_no_witness_could_speak_of_a_lost_tail_and_finds_no_fault_in_that(path, words):
    witness = path.with_name("agent.db-witness")
    with projections.connect(path) as runs:
        assert runs.verify().notes == ()
    if words == "is another log's":
        witness.write_bytes(Witness("ab" * 16, 1, bytes(32), "FULL", "").encode())
    else:
        witness.unlink()
    if words == "is damaged":
        witness.write_bytes(b"x" * 256)
    if words == "cannot be read":
        witness.mkdir()

    with projections.connect(path) as runs:
        verification = runs.verify()

    assert verification.ok
    (note,) = verification.notes
    assert words in note
    assert "a tail that was lost before this opening would not have been noticed" in note


def test_a_new_log_needs_no_witness(tmp_path):
    with projections.connect(tmp_path / "new.db") as runs:
        runs.submit("deploy")
        assert runs.verify().notes == ()


def test_a_shorter_log_that_grew_again_is_noticed_by_its_hash(path):
    witness = path.with_name("agent.db-witness")
    old = witness.read_bytes()
    cut_tail(path, 10)
    with projections.connect(path, accept_loss=True) as runs:
        runs.submit("other", run_id="other")
    witness.write_bytes(old)

    with pytest.raises(LostTail):
        projections.connect(path)


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"runfold-witness-1 a b c d e 00000000"])
def test_a_damaged_witness_proves_nothing_and_is_written_anew(path, damage, caplog):
    witness = path.with_name("agent.db-witness")
    witness.write_bytes(damage)

    with projections.connect(path) as runs:
        runs.submit("deploy", run_id="next")

    assert "damaged" in caplog.text
    assert Witness.decode(witness.read_bytes()).position == 13


def test_a_witness_that_another_process_has_just_made_is_waited_for(path, caplog):
    class Making(OperatingSystem):
        def read(self, name):
            return b"" if next(looks, None) else super().read(name)

    looks = iter([1])
    with closing(SQLiteLog(path, files=Making())) as log:
        assert log.remarks == ()

    assert next(looks, None) is None
    assert "witness" not in caplog.text


def test_a_witness_of_another_log_is_told_and_passed(path, tmp_path, caplog):
    with projections.connect(tmp_path / "other.db") as runs:
        for number in range(40):
            runs.submit("deploy", run_id=f"run-{number}")
    path.with_name("agent.db-witness").write_bytes((tmp_path / "other.db-witness").read_bytes())

    with projections.connect(path) as runs:
        assert runs.store.head().position == 12

    assert "another log" in caplog.text


def test_at_normal_the_window_after_a_reboot_is_passed_and_recorded(path, monkeypatch):
    with projections.connect(path, synchronous="NORMAL") as runs:
        runs.submit("deploy", run_id="acknowledged")
    cut_tail(path, 10)
    with pytest.raises(LostTail):  # no reboot: that was no promised window
        projections.connect(path, synchronous="NORMAL")
    monkeypatch.setattr("eventstore.sqlite.log.boot_id", lambda: "another boot")

    with projections.connect(path, synchronous="NORMAL") as runs:
        (recorded,) = runs.store.read("runfold")

    assert "synchronous=NORMAL" in recorded.event.payload["why"]


def test_a_witness_round_trips_and_one_wrong_byte_spoils_it():
    witness = Witness("ab" * 16, 2**40, hashlib.sha256(b"x").digest(), "FULL", "")
    data = witness.encode()

    assert Witness.decode(data) == witness
    assert len(data) == 256
    spoiled = [Witness.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) for at in range(len(data.rstrip()))]
    assert set(spoiled) == {None}


# --- what a stranger put in -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER spy AFTER INSERT ON events BEGIN DELETE FROM usage; END",
        "CREATE VIEW lies AS SELECT 1",
    ],
)
def test_a_database_with_a_strangers_trigger_or_view_is_refused(path, statement):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)

    with pytest.raises(CannotOpen, match="that runfold did not make"):
        SQLiteLog(path)
