"""What the tests of blobs stand on: bytes that do not compress, stores on both backends, files that are watched."""

import base64
import os
import random
from contextlib import contextmanager

import projections
from eventstore.files import OperatingSystem
from eventstore.memory import MemoryLog
from eventstore.packing import BLOB_FROM
from eventstore.sqlite import SQLiteLog

DAY = 86_400_000_000


def noise(seed=1, size=BLOB_FROM + 40_000):
    """Text that a log keeps as a blob: base64 of noise, which compresses by a quarter."""
    return base64.b64encode(random.Random(seed).randbytes(size)).decode()


def logs(kind, folder, **options):
    """A log of this kind, and how it is opened again."""
    if kind == "memory":
        log = MemoryLog()
        return log, log.reopen
    return SQLiteLog(folder / "agent.db", **options), lambda: SQLiteLog(folder / "agent.db", **options)


class Killed(BaseException):
    """The process is dead: nothing of it runs any more."""


class Watched:
    """Files of which each verb is told before it is done; `done` tells of a file that got its name.

    `before(verb, path)` may raise, or do what another process would.
    """

    def __init__(self, files=None, before=lambda _verb, _path: None):
        self.files = files or OperatingSystem()
        self.before = before

    def __getattr__(self, name):
        verb = getattr(self.files, name)

        def call(*arguments):
            self.before(name, arguments[0])
            return verb(*arguments)

        return verb if name == "own" else call

    @contextmanager
    def writing(self, path, **options):
        self.before("writing", path)
        with self.files.writing(path, **options) as file:
            yield file
            self.before("naming", path)
        self.before("named", path)


def dies_at(number):
    """A `before` that kills at that verb, and at each one after it."""
    count = 0

    def before(_verb, _path):
        nonlocal count
        count += 1
        if count > number:
            raise Killed

    return before


def ages(log, by=2 * DAY):
    """Every blob is so much older."""
    for item in log.blobs.each():
        if isinstance(log, MemoryLog):
            log.blobs._files._found(item.path).modified -= by
        else:
            at = item.path.stat().st_mtime_ns - by * 1000
            os.utime(item.path, ns=(at, at))


def begun(runs, run_id="run-1"):
    """A run that was submitted, and the attempt at it."""
    runs.submit("deploy", input={}, run_id=run_id)
    worker = runs.worker("w")
    return worker.claim()


def opened(log):
    """Runs over a log."""
    return projections.connect(log)
