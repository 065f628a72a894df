"""Mutants: the store with one deliberate fault each, and the harness that must report it.

A check that cannot fail is no check. Each mutant is planted in this process while its harness performs, and taken away
before it judges; what is then reported is the proof that the harness looks. `tests/planted` holds more of them, for the
demo's own processes.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path

from attrs import frozen

import eventstore.sqlite.log
import eventstore.sqlite.writer
import projections
from eventstore.errors import EventStoreError, OutcomeUnknown
from eventstore.notes import LogRecorded
from eventstore.packing import bases
from eventstore.sqlite import SQLiteLog, sqlite3
from eventstore.workflow import RUN, RunResumed, RunStarted
from projections import verifying
from projections.projector import Projector
from projections.verifying import verify
from tests.faults.payloads import grown
from tests.faults.power import FAST, campaign
from tests.faults.recording import files_in, shim, write_files
from tests.faults.shim import SQLITE_IOERR_FSYNC, SQLITE_IOERR_WRITE, SQLITE_OK, Operation

Reports = list[str]


# --- planting -----------------------------------------------------------------------------------------------------


@contextmanager
def instead(owner: object, name: str, other: object) -> Iterator[None]:
    """Something else stands under a name, for the time of the block."""
    honest = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, honest)


def syncs_nothing():
    """FULL is promised, and no sync is made."""
    honest = eventstore.sqlite.log.connection_to

    def lax(*arguments, **options):
        connection = honest(*arguments, **options)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    return instead(eventstore.sqlite.log, "connection_to", lax)


@contextmanager
def acknowledges_before_commit():
    """A write returns at once, and is committed when the next one comes, or the close."""
    close = SQLiteLog.close

    def commit(log):
        if log._writer.connection.in_transaction:
            log._writer.connection.execute("COMMIT")

    def hasty(log, members):
        commit(log)
        log._writer.begin(log._writer.connection)
        transaction = eventstore.sqlite.log.SQLiteTransaction(log._writer.connection, log._genesis)
        for member in members:
            member.result = member.job(transaction)
        transaction.deferred.run(transaction)

    def last_chance(log):
        if not log.closed:
            commit(log)
        close(log)

    with instead(SQLiteLog, "_commit", hasty), instead(SQLiteLog, "close", last_chance):
        yield


@contextmanager
def moves_cursors_afterwards():
    """The rows are written with the events, the cursors in a transaction of their own."""
    write, move, inline = SQLiteLog.write, Projector.move, Projector.inline
    left = []

    def fold(projector, transaction, before, recorded):
        with instead(Projector, "move", lambda _projector, _transaction, *cursors: left.extend(cursors)):
            inline(projector, transaction, before, recorded)
        if left:
            left.insert(0, projector)

    def twice(log, job, **options):
        result = write(log, job, **options)
        if left:
            projector, *cursors = left
            left.clear()
            write(log, lambda transaction: move(projector, transaction, *cursors))
        return result

    with instead(Projector, "inline", fold), instead(SQLiteLog, "write", twice):
        yield


@contextmanager
def checks_no_fence():
    """The machine takes an event from whatever attempt sends it."""
    honest = RUN.fence

    def no_fence(state, _stream, kind, attempt, held):
        return state.attempt + 1 if kind in (RunStarted, RunResumed) else attempt or held

    object.__setattr__(RUN, "fence", no_fence)
    try:
        yield
    finally:
        object.__setattr__(RUN, "fence", honest)


def checks_no_chain():
    """`verify` believes each entry's own hash."""
    return instead(verifying, "chain", lambda _previous, entry: entry.hash)


def writes_the_witness_first():
    """The witness says that a commit stands which is still to come."""
    honest = SQLiteLog._commit

    def early(log, members):
        def seen(job):
            def look(transaction):
                result = job(transaction)
                if transaction.last is not None:
                    log._witness.saw(log.id, transaction.last)
                return result

            return look

        for member in members:
            member.job = seen(member.job)
        honest(log, members)

    return instead(SQLiteLog, "_commit", early)


def resolves_without_a_commit():
    """After an unknown outcome it only opens anew and looks."""

    def look(writer):
        if writer._unsettled:
            writer.connection, writer._settling, writer._unsettled = writer._connect(), None, False

    return instead(eventstore.sqlite.writer.Writer, "settle", look)


def takes_a_base_unseen():
    """What was packed last is the next one's base, whether or not it stands in the log."""
    return instead(bases, "_stands", lambda _entry, _held, _rows: True)


# --- the harnesses ------------------------------------------------------------------------------------------------


Plant = Callable[[], AbstractContextManager[object]]
Harness = Callable[[Plant], Reports]


def cut(workload: str, states: int, *, seed: int = 1) -> Harness:
    """Power loss in one workload, with FULL, up to the first finding; the judge is honest."""

    def harness(plant: Plant) -> Reports:
        tally = campaign(workload, "FULL", seed=seed, wanted=states, planted=plant, enough=lambda tally: tally.failures)
        return [f"{kind}: {words}" for recipe in tally.failures for kind, words in recipe.wrong]

    return harness


def resolved_outcomes(plant: Plant) -> Reports:
    """The disk fails at each operation of a COMMIT in turn, `resolve` answers, and the process is killed at once.

    Whoever opens the files next must find what `resolve` said. (`disks` has the handle go on writing first.)
    """
    wrong, index, failed = [], 0, True
    while failed:
        failed = False
        with tempfile.TemporaryDirectory(dir=FAST) as folder:
            failing = _Failing()
            with shim().installed(failing), plant():
                runs = projections.connect(Path(folder, "agent.db"))
                runs.store.append("notes", _NOTE)
                failing.left = index
                try:
                    runs.store.append("notes", _NOTE)
                except OutcomeUnknown as unknown:
                    failed = True
                    answer = runs.store.log.resolve(unknown.position, unknown.hash)
                    wrong += _answered(files_in(Path(folder)), unknown, index, answer=answer)
                runs.close()
                while eventstore.sqlite.writer._POISONED:  # only a harness may: nobody looks at these files any more
                    eventstore.sqlite.writer._POISONED.pop().close()
        index += 1
    return wrong if index > 1 else ["no operation of the COMMIT could be made to fail"]


_NOTE = LogRecorded("mutants", "note")


def undone_bases(plant: Plant) -> Reports:
    """The disk fails at each operation of saving a state, the store goes on, and all that stands must be readable."""
    wrong, index, failed = [], 0, True
    while failed:
        failed = False
        with tempfile.TemporaryDirectory(dir=FAST) as folder:
            failing = _Failing()
            with shim().installed(failing), plant():
                runs = projections.connect(Path(folder, "agent.db"))
                for step in range(6):
                    failing.left = index if step == 3 else -1
                    try:
                        runs.store.append("notes", LogRecorded("mutants", "state", payload=grown(step + 20)))
                    except (EventStoreError, sqlite3.Error):
                        failed = True
                runs.close()
                while eventstore.sqlite.writer._POISONED:
                    eventstore.sqlite.writer._POISONED.pop().close()
            try:
                with projections.connect(Path(folder, "agent.db"), accept_loss=True) as runs:
                    found = runs.verify().findings
            except EventStoreError as error:
                found = (error,)
            wrong += [f"failed at operation {index}: {finding}" for finding in found]
        index += 1
    return wrong if index > 1 else ["no operation could be made to fail"]


class _Failing:
    """A disk that fails once, after so many changes."""

    left = -1

    def __call__(self, operation: Operation) -> int:
        if self.left < 0 or operation.kind not in ("write", "sync"):
            return SQLITE_OK
        self.left -= 1
        if self.left >= 0:
            return SQLITE_OK
        return SQLITE_IOERR_FSYNC if operation.kind == "sync" else SQLITE_IOERR_WRITE


def _answered(files: dict[str, bytes], unknown: OutcomeUnknown, index: int, *, answer: bool) -> Reports:
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        write_files(Path(folder), files)
        log = SQLiteLog(Path(folder, "agent.db"))
        with log.reading() as reading:
            stands = reading.hash_at(unknown.position) == unknown.hash
        log.close()
    return [] if stands == answer else [f"failed at operation {index}: resolve said {answer}, and it is {stands}"]


_ALTERED = (
    ("data", """json_set(data, '$.ref', 'other')"""),
    ("type", "'MetaSet'"),
    ("stream", "'other'"),
    ("recorded_at", "recorded_at + 1"),
    ("occurred_at", "1"),
    ("attempt", "9"),
    ("key", "'other'"),
    ("meta", """'{"by":"other"}'"""),
    ("hash", "randomblob(32)"),
)


def altered_entries(plant: Plant) -> Reports:
    """Each column of an entry is altered in turn, behind the store's back; `verify` must say so."""
    missed = []
    for column, value in _ALTERED:
        with tempfile.TemporaryDirectory(dir=FAST) as folder:
            path = Path(folder, "agent.db")
            with projections.connect(path) as runs:
                for number in range(3):
                    runs.store.append("notes", LogRecorded("mutants", "note", ref=str(number)), key=f"k{number}")
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                (trigger,) = other.execute("SELECT sql FROM sqlite_schema WHERE name = 'events_keep'").fetchone()
                other.execute("DROP TRIGGER events_keep")
                other.execute(f"UPDATE events SET {column} = {value} WHERE position = 3")
                other.execute(trigger)
            with projections.connect(path, accept_loss=True) as runs, plant():
                if verify(runs.store, runs._rebuilder).ok:
                    missed.append(f"an altered {column} was not noticed")
    return missed


@frozen
class Mutant:
    """A fault, and the harness that must report it."""

    plant: Plant
    harness: Harness

    @property
    def name(self) -> str:
        """What it does."""
        return self.plant.__name__.replace("_", " ")

    def reports(self) -> Reports:
        """What the harness finds."""
        return self.harness(self.plant)

    def false_alarms(self) -> Reports:
        """What the same harness finds where nothing is planted."""
        return self.harness(nullcontext)


# Each so many disks as find its mutants with any of six seeds, and as many again where that is not much.
_APPENDS, _LIVES, _RECOVERY = cut("appends", 200), cut("runs living their lives", 130), cut("recovery by a worker", 1)
MUTANTS = (
    Mutant(syncs_nothing, _APPENDS),
    Mutant(acknowledges_before_commit, _APPENDS),
    Mutant(moves_cursors_afterwards, _LIVES),
    Mutant(checks_no_fence, _RECOVERY),
    Mutant(checks_no_chain, altered_entries),
    Mutant(writes_the_witness_first, _APPENDS),
    Mutant(resolves_without_a_commit, resolved_outcomes),
    Mutant(takes_a_base_unseen, undone_bases),
)
