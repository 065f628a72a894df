"""What is cut: small programs that use the store, each with an eye to one way of writing.

A workload gets a `Session`, opens stores through it, and makes every call that acknowledges something through
`session.did`. `start` makes the disk that it begins with, all of it durable.

To take in another part of Runfold, write one more function and add it to `WORKLOADS`; those of archive, blobs and
backup stand in `kept`. What must hold beside the log it says with `session.promise(name)`, and its `holds` looks at the
opened store. Where the part asks its disk for something new, `RecordingOS` refuses it until it is taught.
"""

import hashlib
import shutil
import tempfile
import threading
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import projections
from eventstore.errors import EventStoreError, LostTail
from eventstore.workflow import (
    CheckpointSaved,
    MessageRecorded,
    RunCompleted,
    RunFailed,
    RunRequeued,
    UsageRecorded,
)
from eventstore.workflow import Error as RunError
from projections.cli import main
from tests.faults.kept import KEPT
from tests.faults.payloads import grown
from tests.faults.recording import Session, booted, machine
from tests.faults.workload import EARLIER_BOOT, LEASE, Workload, note, some_runs


def creation(session: Session) -> None:
    """A new database: made, migrated, closed, opened again, written to."""
    session.connect()
    session.close()
    runs = session.connect()
    session.did(runs.store.append, "notes", note(1))
    session.close()


def appends(session: Session) -> None:
    """Single events, batches, keys, large payloads."""
    runs = session.connect()
    for number in range(6):
        session.did(runs.store.append, f"notes-{number % 2}", note(number), key=f"k{number}")
    session.did(runs.store.append, "notes-0", *(note(number) for number in range(10, 30)))
    session.did(runs.store.append, "notes-1", note(30, 40_000))
    session.did(runs.store.append, "notes-1", note(31, 40_000), note(32, 9_000), note(33))
    session.did(runs.store.append, "notes-0", note(0), key="k0")
    session.close()


def lives(session: Session) -> None:
    """Runs that are submitted, claimed, worked on, asked about, parked, ended: every table changes."""
    runs = session.connect()
    worker = session.did(runs.worker, "w", lease=LEASE)
    for number in range(3):
        session.did(runs.submit, "deploy", input={"n": number}, run_id=f"run-{number}", key=f"submit-{number}")
    first = session.did(worker.claim)
    session.did(first.append, MessageRecorded("user", "hello"), UsageRecorded("m", 10, 20, 0.5))
    session.did(first.call, "c0", "tool", {"a": 1}, lambda _input: {"b": 2})
    session.did(first.append, CheckpointSaved(step=1, state={"messages": ["hello"] * 20}))

    def ask() -> None:
        with first:
            first.ask("c1", "ship", {"to": "production"}, reason="risky")

    session.did(ask)
    second = session.did(worker.claim)
    session.did(second.append, UsageRecorded("m", 1, 2, 0.25), CheckpointSaved(step=1, state={"s": 1}))
    session.did(second.append, RunFailed(RunError("tag", "no")))
    session.did(runs.resolve, "run-0", "c1", "approved", by="alice", key="decision")
    again = session.did(worker.claim)
    session.did(again.append, UsageRecorded("m", 5, 5, 0.125), RunRequeued("later"))
    last = session.did(worker.claim)
    session.did(last.append, RunCompleted(output={"done": True}))
    session.did(worker.close)
    session.close()


def saves(session: Session) -> None:
    """States that grow, saved over one another: by one handle, by two in turns, several at once, by one that is new."""
    runs = session.connect()
    worker = session.did(runs.worker, "w", lease=LEASE)
    for number in range(2):
        session.did(runs.submit, "deploy", run_id=f"run-{number}")
    attempts = [session.did(worker.claim) for _ in range(2)]
    for step in range(6):
        for number, attempt in enumerate(attempts):
            session.did(attempt.append, CheckpointSaved(step, grown(step, seed=100 * number)), key=f"k{step}")
    first = attempts[0]
    session.did(first.append, *[CheckpointSaved(step, grown(step)) for step in range(6, 9)])
    other = session.connect(checkpoint_every=20, pid=9)
    for step in range(9, 13):
        session.did(other.store.append, "run-0", CheckpointSaved(step, grown(step)), attempt=first.number)
        session.did(first.append, CheckpointSaved(step, grown(step + 1)))
    session.did(worker.close)
    session.close()
    runs = session.connect()
    session.did(runs.store.append, "run-1", CheckpointSaved(7, grown(7, seed=100)), attempt=1)
    session.close()


def _checkpointing(session: Session, *, every: int | None, appends: int, size: int) -> None:
    runs = session.connect(checkpoint_every=every)
    for number in range(appends):
        session.did(runs.store.append, f"notes-{number % 3}", note(number, size), key=f"k{number}")
    session.close()
    runs = session.connect(checkpoint_every=every)
    session.did(runs.store.append, "notes-0", note(-1))
    session.close()


def checkpoints(session: Session) -> None:
    """The WAL grows past its bound several times, is written back, begun anew, and goes with the close."""
    _checkpointing(session, every=None, appends=70, size=60_000)


def small_checkpoints(session: Session) -> None:
    """The same with a bound of 20 pages, so that there are many and each disk is quick to judge."""
    _checkpointing(session, every=20, appends=40, size=3_000)


def rebuild(session: Session) -> None:
    """All tables are made anew, while others append, and swapped in."""
    runs = session.connect()

    def meanwhile(position: int, _head: int) -> None:
        if position and runs.store.head().position < 40:
            session.did(runs.store.append, "notes", note(position), note(position + 1))
            session.did(runs.submit, "deploy", run_id=f"beside-{position}")

    session.did(runs.rebuild, progress=meanwhile)
    session.did(runs.submit, "deploy", run_id="after")
    session.did(runs.check)
    session.close()


def recovery(session: Session) -> None:
    """A worker finds what a dead one left: ends some, takes up others, asks who is alive, goes on."""
    runs = session.connect()
    worker = session.did(runs.worker, "w", lease=LEASE)
    session.did(worker.recover, max_crashes=3)
    attempt = session.did(worker.claim)
    session.did(attempt.append, UsageRecorded("m", 1, 1, 0.5))
    second = session.connect(pid=9)
    other = session.did(second.worker, "v", lease=LEASE)  # in a container of its own: it sees no other process
    session.did(other.recover, max_crashes=3)
    taken = session.did(other.claim)
    while taken.run_id != attempt.run_id:
        taken = session.did(other.claim)
    session.refused(attempt.append, UsageRecorded("m", 1, 1, 0.5))
    session.did(taken.append, RunCompleted(output="by the other"))
    session.refused(attempt.append, RunCompleted(output="by the first"))
    session.did(other.recover, max_crashes=0)
    session.did(other.close)
    session.did(worker.close)
    session.close()


def two_handles(session: Session) -> None:
    """Two connections take turns; one is closed and opened amid; both read, so that the WAL is not always reset."""
    one = session.connect(checkpoint_every=15)
    two = session.connect(checkpoint_every=40, pid=9)
    for number in range(8):
        session.did(one.store.append, "notes", note(number, 500))
        session.did(two.submit, "deploy", run_id=f"run-{number}")
        if number == 3:
            with two.store.reading() as reading:
                reading.head()
                session.did(one.store.append, "notes", note(100, 30_000))
                session.did(one.store.append, "notes", note(101, 30_000))
        if number == 5:
            two.close()
            two = session.connect(checkpoint_every=10, pid=9)
    session.close()


def two_threads(session: Session) -> None:
    """Two threads of one store append at once."""
    runs = session.connect(checkpoint_every=30)

    def work(name: str) -> None:
        for number in range(8):
            session.did(runs.store.append, name, note(number, 200), note(number))

    threads = [threading.Thread(target=work, args=(f"notes-{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.close()


def shared_commits(session: Session) -> None:
    """Six threads of one store append at once, so that most commits hold several appends; some are refused."""
    runs = session.connect(checkpoint_every=30)

    def work(name: str) -> None:
        for number in range(4):
            session.did(runs.store.append, name, note(number, 200), note(number))
            with suppress(EventStoreError):
                session.did(runs.store.append, name, RunCompleted())

    threads = [threading.Thread(target=work, args=(f"notes-{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.close()


def _cut_before(folder: Path) -> None:
    """A disk on which the power went once already: a WAL with a torn end, presence rows of the dead."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        some_runs(Path(place))
        with booted(EARLIER_BOOT), projections.connect(Path(place, "agent.db")) as runs:
            for number in range(5):
                runs.store.append("notes", note(number, 500))
            for file in Path(place).iterdir():
                if not file.name.endswith("-shm"):
                    shutil.copy(file, folder)
    with (folder / "agent.db-wal").open("ab") as wal:
        wal.write(bytes(24) + b"torn" * 300)


def after_a_cut(session: Session) -> None:
    """A store that a cut left with a WAL to recover goes on, and is cut again."""
    runs = session.connect(checkpoint_every=25)
    session.did(runs.store.append, "notes", note(10, 500), note(11))
    worker = session.did(runs.worker, "w", lease=LEASE)
    session.did(worker.recover)
    for number in range(3):
        attempt = session.did(worker.claim)
        session.did(attempt.append, UsageRecorded("m", number, 1, 0.5), RunCompleted(output=number))
    session.did(worker.close)
    session.close()


def _tail_lost(folder: Path) -> None:
    """A disk on which the witness, synced, is ahead of the log."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        place = Path(name)
        system = machine(EARLIER_BOOT, 5)
        with booted(EARLIER_BOOT), projections.connect(place / "agent.db", system=system) as runs:
            for number in range(10):
                if number == 7:
                    for file in ("agent.db", "agent.db-wal"):
                        shutil.copy(place / file, folder)
                runs.store.append("notes", note(number))
        shutil.copy(place / "agent.db-witness", folder)


def loss_accepted(session: Session) -> None:
    """Acknowledged entries are gone, somebody goes on all the same, and the log grows past where the witness stood."""
    runs = session.connect(checkpoint_every=25, accept_loss=True)
    for number in range(8):
        session.did(runs.store.append, "notes", note(20 + number))
    session.close()
    runs = session.connect()
    session.did(runs.store.append, "notes", note(30))
    session.close()


def loss_refused(session: Session) -> None:
    """Opening is refused, the WAL is kept aside, once; then somebody goes on without what is gone."""
    wal = hashlib.sha256((session.folder / "agent.db-wal").read_bytes()).hexdigest()
    session.promise(f"whole if there {wal}")
    for _ in range(2):
        with suppress(LostTail):
            session.connect()
        session.promise(f"kept {wal}")
    runs = session.connect(checkpoint_every=15, accept_loss="alice")
    for number in range(6):
        session.did(runs.store.append, "notes", note(20 + number, 1_000))
    session.close()


def _keeps_the_wal(runs: projections.Runs, names: frozenset[str]) -> list[tuple[str, str]]:
    path = Path(runs.store.log.url)
    found = list(path.parent.glob(f"{path.name}-wal.lost-*"))
    wrong = [("lost", "the WAL was kept aside, and is gone")] if not found and "kept" in " ".join(names) else []
    torn = (file for file in found if file.suffix != ".tmp" and names)
    digests = {name.rpartition(" ")[2] for name in names}
    return wrong + [
        ("corrupt", f"{file.name} is not the WAL that stood") for file in torn
        if {hashlib.sha256(file.read_bytes()).hexdigest()} != digests
    ]  # fmt: skip


def imported(session: Session) -> None:
    """An import makes the database: beside, whole, and then by its name; a second one adds to it."""
    for number, size in ((1, 8), (2, 5)):
        file = session.folder.with_name(f"lines-{number}")
        lines = (
            f'{{"stream": "s{number}", "type": "MetaSet", "data": {{"name": "n", "value": {n}}}}}' for n in range(size)
        )
        file.write_text("".join(f"{line}\n" for line in lines))
        with session.writing(8 if number == 1 else 13), suppress(SystemExit), redirect_stdout(StringIO()):
            main(["import", str(session.path), str(file)])
    session.close()


def mixed_syncing(session: Session) -> None:
    """A handle that syncs and one that does not take turns: what the first acknowledged covers all before it."""
    syncing = session.connect(checkpoint_every=20, synchronous="FULL")
    quick = session.connect(checkpoint_every=12, synchronous="NORMAL", pid=9)
    for number in range(10):
        for _ in range(number % 3):
            session.did(quick.store.append, "quick", note(number, 700), note(number))
        session.did(syncing.submit, "deploy", run_id=f"run-{number}")
        if number == 4:
            with quick.store.reading() as reading:
                reading.head()
                session.did(syncing.store.append, "notes", note(100, 20_000))
        if number == 6:
            quick.close()
            quick = session.connect(checkpoint_every=8, synchronous="NORMAL", pid=9)
    for number in range(5):
        session.did(quick.store.append, "quick", note(number, 2_000))
    session.close()


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("creation and migration", creation),
        Workload("appends", appends),
        Workload("runs living their lives", lives),
        Workload("states saved over one another", saves),
        Workload("checkpoints of the WAL", checkpoints, share=0.3),
        Workload("small checkpoints", small_checkpoints),
        Workload("rebuild's swap", rebuild, some_runs),
        Workload("recovery by a worker", recovery, some_runs),
        Workload("after an earlier cut", after_a_cut, _cut_before),
        Workload("a loss that was accepted", loss_accepted, _tail_lost),
        Workload("a loss that was refused", loss_refused, _tail_lost, holds=_keeps_the_wal),
        Workload("a database made by an import", imported, synchronous=("FULL",)),
        Workload("two handles", two_handles),
        Workload("one handle syncs and one does not", mixed_syncing, synchronous=("NORMAL",)),
        Workload("two threads", two_threads),
        Workload("shared commits", shared_commits),
        *KEPT,
    )
}
