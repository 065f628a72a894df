"""A world for tests: a clock that stands until it is moved, a table of processes, daemons that can vanish from it.

`World` opens stores on one log, each as a process of its own; nothing waits, nothing is timed, nothing is mocked.
"""

import hashlib
from datetime import timedelta
from itertools import count

import pytest

from eventstore.log import Entry
from eventstore.memory import MemoryLog
from eventstore.payloads import from_microseconds
from eventstore.sqlite import SQLiteLog
from projections import System, connect
from projections.connecting import tables_of
from projections.system import Identity


class World:
    def __init__(self, folder=None, app=None):
        self.app = app
        self.path = None if folder is None else folder / "agent.db"
        self.memory = MemoryLog() if folder is None else None
        self.microseconds = 1_767_225_600_000_000
        self.seconds = 0.0
        self.processes = {}
        self.slept = []
        self.while_asleep = lambda: None
        self._numbers = count(1)
        self._open = []

    # --- the clocks ---

    @property
    def now(self):
        return from_microseconds(self.microseconds)

    def jumps(self, **by):
        """The wall clock, and it alone."""
        self.microseconds += timedelta(**by) // timedelta(microseconds=1)

    def passes(self, seconds):
        """Real time: both clocks."""
        self.seconds += seconds
        self.jumps(seconds=seconds)

    def _sleep(self, seconds):
        self.slept.append(seconds)
        self.passes(seconds)
        self.while_asleep()

    # --- processes ---

    def system(self, *, pid=None, boot="boot", namespace="ns"):
        started = next(self._numbers)
        me = Identity(boot, namespace, pid or 1000 + started, started)
        self.processes[me.pid] = started
        return System(
            microseconds=lambda: self.microseconds,
            monotonic=lambda: self.seconds,
            sleep=self._sleep,
            new_id=lambda: f"{next(self._numbers):08d}",
            identity=lambda: me,
            start_of=self.processes.get,
        )

    def log(self, **options):
        log = self.memory.reopen() if self.memory else SQLiteLog(self.path, synchronous="NORMAL", **options)
        self._open.append(log)
        return log

    def runs(self, *, app=None, system=None, log=None, **identity):
        log = log or self.log()
        tables = tables_of(getattr(log, "inner", log))
        return connect(log, app=app or self.app, system=system or self.system(**identity), tables=tables)

    def worker(self, *, lease=timedelta(hours=12), **identity):
        """A daemon process: its store and its worker."""
        runs = self.runs(**identity)
        worker = runs.worker("w", lease=lease)
        self._open.insert(0, worker)
        return worker

    def dies(self, worker):
        """The worker's process vanishes; nobody is told."""
        self.processes.pop(worker._system.identity().pid, None)

    def close(self):
        for thing in self._open:
            thing.close()


class Refusal:
    """The block raises this, and neither the log nor any row changed."""

    def __init__(self, runs, kind, match=None):
        self.runs, self.raises = runs, pytest.raises(kind, match=match)

    def _everything(self):
        return list(self.runs.store.read_all()), self.runs.workflow_runs.where(), self.runs.confirmations.where()

    def __enter__(self):
        self.before = self._everything()
        return self.raises.__enter__()

    def __exit__(self, *error):
        passed = self.raises.__exit__(*error)
        assert self._everything() == self.before
        return passed


def forge(log, *entries, stream="run-1", attempt=1):
    """Put (type, JSON) entries straight into a log, past store and gate, as no program would."""

    def job(transaction):
        head = transaction.head()
        version = transaction.version(stream)
        transaction.insert([
            Entry(head.position + number, stream, version + number, kind, head.recorded_at, None, attempt, None,
                  hashlib.sha256(head.hash + bytes([number])).digest(), None, data)
            for number, (kind, data) in enumerate(entries, start=1)
        ])  # fmt: skip

    log.write(job)
