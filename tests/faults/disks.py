"""Disks that fail: every operation of every public call is made to fail, once, and from then on until it is mended.

A case is one call on a store whose disk fails at the n-th thing that the call asks of it: a write, sync, truncation,
deletion, opening or reading by SQLite (through `shim`), or a verb of the port for file work (`FaultyFiles`). Writes
fail with EIO, with a full disk, and short: half is taken, then the disk is full. What is held against the call:

* it returned, and all it wrote stands, once; or it raised an error of ours, or SQLite's own with our note;
* what it wrote in a transaction that was said to have failed is absent, and stays absent, however often the files are
  opened again, by whoever finds them after every process died without closing (the files are copied aside, twice);
* the outcome is said to be unknown when the COMMIT itself failed, and only then; `resolve` then tells what is true, and
  it stays true;
* reads go on while nothing can be written; and once the disk is mended the same handle goes on by itself.

What the kernel keeps to itself is not covered: that after a failed fsync the next one may succeed without the data, and
faults of the memory-mapped `-shm` file, which holds nothing that is not in the WAL.
"""

from __future__ import annotations

import errno
import io
import itertools
import logging
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import click
from attrs import define, field, frozen

import projections
from eventstore.errors import ChildrenOpen, EventStoreError, OutcomeUnknown, RestoreRefused, Waiting
from eventstore.exchange import export_lines, import_lines
from eventstore.files import OperatingSystem
from eventstore.integrity import chain, genesis
from eventstore.notes import LogRecorded
from eventstore.packing import Bases
from eventstore.sqlite import SQLiteLog, sqlite3
from eventstore.sqlite import writer as sqlite_writer
from eventstore.workflow import RUN, CheckpointSaved, MessageRecorded, RunCompleted, RunDescribed
from projections import System
from projections.connecting import tables_of
from projections.system import Identity
from tests.faults import shim
from tests.faults.kept_calls import KEPT_CALLS
from tests.faults.payloads import grown, noise
from tests.faults.recording import files_in
from tests.faults.recording import shim as device

NOW = 1_767_225_600_000_000
ME = Identity("boot", "namespace", 1, 1)
NAME = "agent.db"

_CODES = {
    "write": (("EIO", shim.SQLITE_IOERR_WRITE), ("full", shim.SQLITE_FULL), ("short", shim.SHORT)),
    "sync": (("EIO", shim.SQLITE_IOERR_FSYNC),),
    "truncate": (("EIO", shim.SQLITE_IOERR_TRUNCATE),),
    "open": (("EIO", shim.SQLITE_CANTOPEN),),
    "delete": (("EIO", shim.SQLITE_IOERR_DELETE),),
    "read": (("EIO", shim.SQLITE_IOERR_READ),),
    "files.read": (("EIO", errno.EIO),),
    "files.make": (("EIO", errno.EIO), ("full", errno.ENOSPC)),
    "files.folder": (("EIO", errno.EIO), ("full", errno.ENOSPC)),
    "files.writing": (("EIO", errno.EIO), ("full", errno.ENOSPC)),
    "files.write": (("EIO", errno.EIO), ("full", errno.ENOSPC), ("short", shim.SHORT)),
    "files.open": (("EIO", errno.EIO),),
    "files.names": (("EIO", errno.EIO),),
    "files.stat": (("EIO", errno.EIO),),
    "files.touch": (("EIO", errno.EIO),),
    "files.rename": (("EIO", errno.EIO), ("full", errno.ENOSPC)),
    "files.remove": (("EIO", errno.EIO),),
    "files.publish": (("EIO", errno.EIO), ("full", errno.ENOSPC)),
    "files.lock": (("EIO", errno.EIO), ("full", errno.ENOSPC)),
    "files.hold": (("EIO", errno.EIO), ("full", errno.ENOSPC)),
    "files.overwrite": (("EIO", errno.EIO), ("full", errno.ENOSPC), ("short", shim.SHORT)),
    "files.sync": (("EIO", errno.EIO),),
}
"""How each kind of operation may fail: a name, and SQLite's code or the system's."""
_READS = ("files.read", "files.open", "files.names", "files.stat")
_WRITES = (
    "write", "files.make", "files.hold", "files.overwrite", "files.folder", "files.writing", "files.write",
    "files.rename", "files.publish", "files.lock",
)  # fmt: skip
_CHANGES = (*_WRITES, "sync", "truncate", "delete", "files.sync", "files.touch", "files.remove")


@frozen
class Fault:
    """One way for the disk to fail: at which operation of the call, how, and whether it goes on failing."""

    index: int
    kind: str
    how: str
    stays: bool

    def __str__(self) -> str:
        return f"{self.how} at operation {self.index} ({self.kind}){', and from then on' if self.stays else ''}"

    @property
    def readable(self) -> bool:
        """Whether a handle that was open before can still read."""
        return not (self.stays and self.kind in ("read", "open", *_READS))

    def hits(self, kind: str) -> bool:
        """Whether a disk that stays broken in this way fails at such an operation."""
        if self.kind in ("read", "open", *_READS):
            return kind == self.kind
        return kind in (_CHANGES if self.how == "EIO" else _WRITES)


@define
class Disk:
    """The disk under one store: counts what is asked of it while it is armed, and fails as it was told."""

    armed: bool = False
    fault: Fault | None = None
    asked: list[str] = field(factory=list)
    fired: int = 0

    def __call__(self, operation: shim.Operation) -> int:
        """What becomes of an operation; the watcher of the shim."""
        return self.answer(operation.kind)

    def answer(self, kind: str) -> int:
        """The code that an operation of this kind ends in."""
        if not self.armed or kind not in _CODES:
            return shim.SQLITE_OK
        index = len(self.asked)
        self.asked.append(kind)
        fault = self.fault
        if fault is None or not (index == fault.index or (fault.stays and index > fault.index and fault.hits(kind))):
            return shim.SQLITE_OK
        self.fired += 1
        codes = dict(_CODES[kind])
        return codes.get(fault.how, codes["EIO"])

    def mend(self) -> None:
        """From now on nothing fails."""
        self.armed, self.fault = False, None


class FaultyFiles(OperatingSystem):
    """The port for file work on such a disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def read(self, path: Path) -> bytes | None:
        self._ask("files.read")
        return super().read(path)

    def make(self, path: Path) -> bool:
        self._ask("files.make")
        return super().make(path)

    def folder(self, path: Path) -> None:
        self._ask("files.folder")
        super().folder(path)

    def open(self, path: Path) -> Any:
        self._ask("files.open")
        return super().open(path)

    def names(self, folder: Path) -> list[str]:
        self._ask("files.names")
        return super().names(folder)

    def stat(self, path: Path) -> Any:
        self._ask("files.stat")
        return super().stat(path)

    @contextmanager
    def writing(self, path: Path, *, executable: bool = False) -> Iterator[Any]:
        self._ask("files.writing")
        with super().writing(path, executable=executable) as file:
            yield _FaultyWriter(file, self._disk)
            self._ask("files.sync")
        self._ask("files.sync")  # of the folder: the file stands, but nobody knows for how long

    def touch(self, path: Path) -> bool:
        self._ask("files.touch")
        return super().touch(path)

    def rename(self, source: Path, target: Path) -> None:
        self._ask("files.rename")
        super().rename(source, target)

    def publish(self, source: Path, target: Path) -> bool:
        self._ask("files.publish")
        return super().publish(source, target)

    def remove(self, path: Path) -> bool:
        self._ask("files.remove")
        return super().remove(path)

    @contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        self._ask("files.lock")
        with super().lock(path):
            yield

    def hold(self, path: Path) -> Any:
        self._ask("files.hold")
        return _FaultyHeld(super().hold(path), self._disk)

    def _ask(self, verb: str) -> None:
        _raise(self._disk.answer(verb))


class _FaultyWriter:
    def __init__(self, file: Any, disk: Disk) -> None:
        self._file = file
        self._disk = disk

    def write(self, data: bytes) -> int:
        code = self._disk.answer("files.write")
        if code == shim.SHORT:
            self._file.write(data[: len(data) // 2])
        _raise(code)
        return self._file.write(data)


class _FaultyHeld:
    def __init__(self, held: Any, disk: Disk) -> None:
        self._held = held
        self._disk = disk
        self.close = held.close

    def overwrite(self, data: bytes) -> None:
        code = self._disk.answer("files.overwrite")
        if code == shim.SHORT:
            self._held.overwrite(data[: len(data) // 2])
        _raise(code)
        self._held.overwrite(data)

    def sync(self) -> None:
        _raise(self._disk.answer("files.sync"))
        self._held.sync()


def _raise(code: int) -> None:
    if code != shim.SQLITE_OK:
        number = errno.ENOSPC if code == shim.SHORT else code
        raise OSError(number, os.strerror(number))


# --- what was promised ----------------------------------------------------------------------------------------------

Place = tuple[int, bytes]


@define
class Ledger:
    """What became of each transaction, by what its writer was told."""

    acknowledged: list[Place] = field(factory=list)
    failed: list[Place] = field(factory=list)
    unknown: list[OutcomeUnknown] = field(factory=list)
    wrong: list[str] = field(factory=list)


class WatchedLog(SQLiteLog):
    """The log itself, with a ledger of what it told its callers."""

    def __init__(self, path: Path, ledger: Ledger, *, pages: int | None = None, cache: int | None = None, **rest: Any):
        self._ledger = ledger
        self._pages = pages
        self._cache = cache
        super().__init__(path, **rest)

    def _open(self, mode: Any = None) -> Any:
        connection = super()._open(mode)
        if self._pages:
            connection.execute(f"PRAGMA wal_autocheckpoint = {self._pages}")
        if self._cache:
            connection.execute(f"PRAGMA cache_size = {self._cache}")
        return connection

    def write(self, job: Any, **options: Any) -> Any:
        transactions: list[Any] = []
        done = []

        def watched(transaction: Any) -> Any:
            transactions.append(transaction)
            result = job(transaction)
            transaction.defer(
                lambda *_: done.append(True), transaction.head(), []
            )  # after all that comes before COMMIT
            return result

        try:
            result = super().write(watched, **options)
        except BaseException as error:
            last = transactions[-1].last if transactions else None
            place = None if last is None else (last.position, last.hash)
            if isinstance(error, OutcomeUnknown):
                if not done:
                    self._ledger.wrong.append("an outcome is said to be unknown, but nothing was committed")
                elif place is not None:
                    self._ledger.unknown.append(error)
                    if (error.position, error.hash) != place:
                        self._ledger.wrong.append("an unknown outcome names another entry")
            else:
                if done:
                    self._ledger.wrong.append(f"a COMMIT failed and its caller got {error!r}")
                if place is not None:
                    self._ledger.failed.append(place)
            raise
        if (last := transactions[-1].last) is not None:
            self._ledger.acknowledged.append((last.position, last.hash))
        return result


# --- the calls ------------------------------------------------------------------------------------------------------


class Bench:
    """One store in one folder, and whatever a call needs."""

    def __init__(self, folder: Path, disk: Disk, **options: Any) -> None:
        self.folder = folder
        self.disk = disk
        self.ledger = Ledger()
        self.options = options
        self.runs: Any = None
        self.worker: Any = None
        self.attempt: Any = None
        self.left = False
        self.told: bool | None = None
        """What the call itself said of an unknown outcome."""
        self.effects: list[Any] = []
        self._numbers = itertools.count(1)
        self.processes = {1: 1}
        self.time = NOW

    @property
    def path(self) -> Path:
        """The database."""
        return self.folder / NAME

    def system(self, identity: Identity = ME) -> System:
        """A world in which nothing waits."""
        return System(
            microseconds=lambda: self.time,
            monotonic=lambda: 0.0,
            sleep=lambda _seconds: None,
            new_id=lambda: f"{next(self._numbers):08d}",
            identity=lambda: identity,
            start_of=self.processes.get,
        )

    def files(self) -> FaultyFiles:
        """The port for file work."""
        return FaultyFiles(self.disk)

    def connect(self, identity: Identity = ME) -> Any:
        """Open the store on the disk."""
        log = WatchedLog(self.path, self.ledger, files=self.files(), busy_timeout=1.0, **self.options)
        self.runs = projections.connect(log, system=self.system(identity), tables=tables_of(log))
        return self.runs

    def connect_again(self) -> None:
        """A handle that has nothing in memory yet."""
        self.runs.close()
        self.connect()

    def claims(self, workflow: str) -> None:
        """Take up a run, before the disk fails."""
        self.worker = self.runs.worker("w", lease=timedelta(days=1))
        self.attempt = self.worker.claim([workflow])
        assert self.attempt is not None

    def leave(self) -> None:
        """Close everything; the disk is well."""
        if self.worker is not None:
            self.worker.close()
        if self.runs is not None:
            self.runs.close()
        while sqlite_writer._POISONED:  # only this harness may: the files are judged, and nobody looks at them any more
            sqlite_writer._POISONED.pop().close()


def furnish(folder: Path) -> None:
    """A database in the middle of a daemon's life, its files as a killed process leaves them."""
    with_room = folder.with_name("furnishing")
    with_room.mkdir()
    bench = Bench(with_room, Disk())
    dead = Identity("boot", "namespace", 2, 2)
    bench.processes[2] = 2
    runs = bench.connect(dead)
    worker = runs.worker("dead", lease=timedelta(days=1))
    for name in ("held", "unwanted", "asked", "late", "parked", "done"):
        runs.submit(name, run_id=f"run-{name}", input={"name": name})
    for name in ("held", "unwanted", "asked", "late", "parked", "done"):
        attempt = worker.claim([name])
        attempt.append(MessageRecorded("user", "go"), *[CheckpointSaved(step, grown(step)) for step in range(3)])
        if name == "asked":
            with attempt:
                attempt.ask("c1", "ship", {"env": "prod"})
        elif name == "late":
            with attempt:
                attempt.ask("c1", "ship", {"env": "prod"}, expires_in=timedelta(seconds=1))
        elif name == "parked":
            with attempt:
                pass
        elif name == "done":
            attempt.call("c1", "ship", {}, lambda _input: {"shipped": True})
            attempt.append(RunCompleted({"answer": 42}))
        elif name == "unwanted":
            runs.interrupt("run-unwanted", by="ops")
    for number in range(3):
        runs.submit("deploy", run_id=f"run-{number}", input={"number": number})
    copy(with_room, folder)
    worker.close()
    runs.close()
    shutil.rmtree(with_room)


def copy(source: Path, target: Path) -> Path:
    """The files as they stand, as whoever comes after a kill finds them. Nobody else has them open."""
    target.mkdir()
    for file in source.glob(f"{NAME}*"):
        if file.is_dir():
            shutil.copytree(file, target / file.name)
        elif not file.name.endswith("-shm"):
            shutil.copyfile(file, target / file.name)
    return target


LINE = LogRecorded("test", "line", payload={"n": 1})
AGAIN = LogRecorded("test", "again")
LARGE = [LogRecorded("test", "large", payload=noise(number, 6_000)) for number in range(12)]


def _imported(bench: Bench) -> None:
    line = b'{"stream": "run-new-%d", "type": "RunQueued", "data": {"workflow": "deploy"}}\n'
    lines = b"".join(line % number for number in range(5))
    import_lines(bench.runs.store, io.BytesIO(lines))


def _saved(bench: Bench) -> None:
    bench.claims("deploy")
    bench.attempt.append(CheckpointSaved(1, grown(1)))
    bench.attempt.append(CheckpointSaved(2, grown(2)))


def _saved_and_forgot(bench: Bench) -> None:
    _saved(bench)
    bench.runs.store.log._writer.bases = Bases()


def _performed(bench: Bench) -> None:
    bench.left = True
    with bench.attempt as attempt:
        attempt.append(CheckpointSaved(1, {"a": 1}))
        attempt.append(RunCompleted("done"))


def _left_waiting(bench: Bench) -> None:
    bench.left = True
    with bench.attempt as attempt:
        attempt.ask("c9", "ship", {"env": "prod"})


def _asked(bench: Bench) -> None:
    with suppress(Waiting):
        bench.attempt.ask("c9", "ship", {"env": "prod"})


def _delegated(bench: Bench) -> None:
    with suppress(ChildrenOpen):
        bench.attempt.delegate("c9", "check", input={"env": "prod"})


def _left_to_a_child(bench: Bench) -> None:
    bench.left = True
    with bench.attempt as attempt:
        attempt.delegate("c9", "check", input={"env": "prod"})


def _retried(bench: Bench) -> None:
    bench.left = True
    with bench.attempt as attempt:
        attempt.retry(OSError("no line"))


def _looked(bench: Bench) -> None:
    runs = bench.runs
    runs.workflow_runs.where(order="-position")
    runs.output("run-done")
    runs.checkpoint("run-held")
    list(runs.messages("run-done"))
    runs.calls("run-done")
    list(runs.store.read_all())
    runs.standings()


def _examined(bench: Bench) -> None:
    bench.runs.store.log.facts()
    bench.runs.store.log.examine()


def _left_unknown(bench: Bench) -> None:
    """An append whose sync failed: its frames stand in the WAL, and may or may not count."""
    bench.disk.armed, bench.disk.fault = True, Fault(-1, "sync", "EIO", stays=True)
    with suppress(OutcomeUnknown):
        bench.runs.store.append("notes", LINE)
    bench.disk.mend()
    bench.disk.asked.clear()


def _settled(bench: Bench) -> None:
    (unknown,) = bench.ledger.unknown
    bench.told = bench.runs.store.resolve(unknown)


def _expired(bench: Bench) -> None:
    bench.time += 10_000_000


def _connected_for_the_first_time(bench: Bench) -> None:
    for file in bench.folder.iterdir():
        file.unlink()


@frozen
class Call:
    """A public call: what is done before the disk fails, and the call itself."""

    name: str
    act: Callable[[Bench], object]
    ready: Callable[[Bench], object] = lambda _bench: None
    connected: bool = True
    """Whether the store is open before."""
    closes: bool = False
    options: dict[str, int] = field(factory=dict)
    proof: Callable[[Bench], list[str]] | None = None
    """Of a call that is made again once the disk is mended: what is then not as it must be."""


CALLS = (
    Call("connect (new)", Bench.connect, _connected_for_the_first_time, connected=False),
    Call("connect", Bench.connect, connected=False),
    Call("submit", lambda b: b.runs.submit("deploy", run_id="run-new", input={"a": 1})),
    Call("submit (keyed, bounded)", lambda b: b.runs.submit("deploy", key="k1", max_queued=10)),
    Call("append", lambda b: b.runs.store.append("notes", LINE)),
    Call("append (a batch)", lambda b: b.runs.store.append("notes", *[LINE] * 20, key="b1")),
    Call("append (larger than the cache)", lambda b: b.runs.store.append("notes", *LARGE), options={"cache": 4}),
    Call("append (checkpoints)", lambda b: b.runs.store.append("notes", LINE), options={"pages": 2}),
    Call("transact", lambda b: b.runs.store.stream("run-0", RUN).transact(lambda s: RunDescribed(title=str(s.phase)))),
    Call("worker", lambda b: b.runs.worker("w", lease=timedelta(days=1)).close()),
    Call("claim", lambda b: b.worker.claim(["deploy"]), lambda b: b.claims("deploy")),
    Call("attempt.append", lambda b: b.attempt.append(CheckpointSaved(1, {"a": 1})), lambda b: b.claims("deploy")),
    Call("attempt.append (over a base)", lambda b: b.attempt.append(CheckpointSaved(3, grown(3))), _saved),
    Call(
        "attempt.append (over a base that is read back)",
        lambda b: b.attempt.append(CheckpointSaved(3, grown(3))),
        _saved_and_forgot,
        options={"cache": 1},
    ),
    Call("call", lambda b: b.attempt.call("c9", "t", {}, lambda _i: b.effects.append(1)), lambda b: b.claims("deploy")),
    Call("ask", _asked, lambda b: b.claims("deploy")),
    Call("with attempt", _performed, lambda b: b.claims("deploy")),
    Call("with attempt (asks)", _left_waiting, lambda b: b.claims("deploy")),
    Call("delegate", _delegated, lambda b: b.claims("deploy")),
    Call("with attempt (delegates)", _left_to_a_child, lambda b: b.claims("deploy")),
    Call("with attempt (retries)", _retried, lambda b: b.claims("deploy")),
    Call("continue_from", lambda b: b.runs.continue_from("run-held", run_id="run-on", needs_checkpoint=False)),
    Call("configure", lambda b: b.runs.configure("run-parked", key="s1", model="large")),
    Call("sessions.auto_accept", lambda b: b.runs.sessions.auto_accept("run-asked", ["ship"], by="alice")),
    Call("resolve", lambda b: b.runs.resolve("run-asked", "c1", "approved", by="alice")),
    Call("resolve (late)", lambda b: b.runs.resolve("run-late", "c1", "approved", by="alice"), _expired),
    Call("cancel", lambda b: b.runs.cancel("run-held", by="ops")),
    Call("interrupt", lambda b: b.runs.interrupt("run-parked", by="ops")),
    Call("recover", lambda b: b.worker.recover(), lambda b: (b.claims("deploy"), _died(b))),
    Call("rebuild", lambda b: b.runs.rebuild()),
    Call("check", lambda b: b.runs.check()),
    Call("verify", lambda b: b.runs.verify()),
    Call("import", _imported),
    Call("export", lambda b: list(export_lines(b.runs.store)), lambda b: b.connect_again(), options={"cache": 1}),
    Call("resolve an unknown outcome", _settled, _left_unknown),
    Call("read", _looked, lambda b: b.connect_again(), options={"cache": 1}),
    Call("facts, examine", _examined, lambda b: b.connect_again(), options={"cache": 1}),
    Call("close", lambda b: b.runs.close(), closes=True),
    *(Call(name, act, ready, proof=proof) for name, act, ready, proof in KEPT_CALLS),
)


def _died(bench: Bench) -> None:
    bench.processes.pop(2, None)
    _expired(bench)


# --- one case -------------------------------------------------------------------------------------------------------


@define
class Outcome:
    """What one case came to."""

    asked: list[str]
    fired: int
    ended: str
    unknown: int
    wrong: list[str]
    written: list[tuple[str, str]] = field(factory=list)


def perform(call: Call, template: Path, room: Path, fault: Fault | None, clean: Outcome | None = None) -> Outcome:
    """One call on a disk that fails in this way (None: that does not fail), and everything that is held against it."""
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir(parents=True)
    bench = Bench(copy(template, room / "store"), Disk(), **call.options)
    outcome = Outcome([], 0, "", 0, bench.ledger.wrong)
    try:
        with device().installed(bench.disk):
            _perform(call, bench, room, fault, outcome, clean)
            bench.leave()
    except Exception as error:
        error.add_note(f"{call.name}: {fault}")
        raise
    outcome.unknown = len(bench.ledger.unknown)
    return outcome


def _perform(
    call: Call, bench: Bench, room: Path, fault: Fault | None, outcome: Outcome, clean: Outcome | None
) -> None:
    wrong, disk = outcome.wrong, bench.disk
    if call.connected:
        bench.connect()
    call.ready(bench)
    before = _entries_of(bench.path) if call.connected else []
    disk.armed, disk.fault = True, fault
    error: Exception | None = None
    try:
        call.act(bench)
    except Exception as caught:  # noqa: BLE001 - the very question is what it is
        error = caught
    outcome.asked, outcome.fired = list(disk.asked), disk.fired
    outcome.ended = "returned" if error is None else type(error).__name__
    if error is not None:
        wrong += _unclear(error, bench)
    opened = bench.runs is not None and not bench.runs.store.closed
    if fault is not None and opened:
        wrong += _while_broken(bench, fault, before)
    copy(bench.folder, room / "killed")
    disk.mend()
    so_far = attrs.evolve(bench.ledger, acknowledged=[*bench.ledger.acknowledged], failed=[*bench.ledger.failed])

    answers = {}
    if opened:
        for unknown in bench.ledger.unknown:
            answers[unknown.position, unknown.hash] = _resolve(bench, unknown)
        if bench.told is not None and {*answers.values()} != {bench.told}:
            wrong.append("resolve changed its mind once the disk was mended")
        try:
            bench.runs.store.append("probe", LINE)
            entries = _entries(bench.runs)
        except Exception as caught:  # noqa: BLE001
            wrong.append(f"the handle does not go on once the disk is mended: {caught!r}")
            entries = []
        for unknown in bench.ledger.unknown:
            if _resolve(bench, unknown) != answers[unknown.position, unknown.hash]:
                wrong.append("resolve changed its mind")
        if call.proof is not None:
            wrong += _made_again(call, bench)
        copy(bench.folder, room / "killed later")
        outcome.written = [(e.stream, e.type) for e in entries[len(before) : -1]]
    elif not bench.runs or call.closes:
        answers = {(unknown.position, unknown.hash): None for unknown in bench.ledger.unknown}
        wrong += _unstuck(bench)
    bench.leave()

    if error is None and clean is not None and opened and outcome.written[: len(clean.written)] != clean.written:
        wrong.append(f"it returned, and wrote {outcome.written} instead of {clean.written}")
    maybe: dict[Place, bool | None] = dict.fromkeys(answers)
    wrong += _judged(room / "killed", so_far, maybe, "killed while the disk was broken")
    if opened:
        wrong += _judged(room / "killed later", bench.ledger, answers, "killed after it was mended")
    wrong += _opened_again(bench, answers)


def _made_again(call: Call, bench: Bench) -> list[str]:
    """Whether it can be, once the disk is mended, and what it left; a restore is not made where one stands."""
    try:
        with suppress(RestoreRefused):
            call.act(bench)
        return call.proof(bench) if call.proof is not None else []
    except Exception as error:  # noqa: BLE001
        return [f"it cannot be made again once the disk is mended: {error!r}"]


def _unstuck(bench: Bench) -> list[str]:
    """Whether the run whose block was left can be taken up by the worker that had it, which still lives."""
    if bench.attempt is None or not bench.left:
        return []
    try:
        bench.worker.claim(["nothing"])
        row = bench.runs.workflow_runs.get(bench.attempt.run_id)
    except Exception as error:  # noqa: BLE001
        return [f"the worker does not go on once the disk is mended: {error!r}"]
    held = row.phase == "started" and row.attempt == bench.attempt.number
    return [f"{row.run_id} is stuck: nobody performs it, and its worker lives"] if held else []


def _unclear(error: Exception, bench: Bench) -> list[str]:
    """What is wrong with what a caller was told."""
    if isinstance(error, EventStoreError):
        return [] if str(error) else [f"{error!r} says nothing"]
    notes = getattr(error, "__notes__", ())
    if isinstance(error, sqlite3.Error) and any(str(bench.folder) in note for note in notes):
        return []
    if isinstance(error, OSError) and error.strerror:  # of a file beside the database
        return []
    return [f"the error is not clear: {error!r} with the notes {list(notes)}"]


def _while_broken(bench: Bench, fault: Fault, before: list[Any]) -> list[str]:
    """Look and write while the disk is still as it is."""
    wrong: list[str] = []
    try:
        entries = _entries(bench.runs)
        bench.runs.workflow_runs.count()
        if entries[: len(before)] != before:
            wrong.append("what stood before reads otherwise")
    except Exception as error:  # noqa: BLE001
        if fault.readable:
            wrong.append(f"reads do not go on: {error!r}")
        wrong += _unclear(error, bench)
    try:
        bench.runs.store.append("notes", AGAIN)
    except Exception as error:  # noqa: BLE001
        wrong += _unclear(error, bench)
        if not fault.stays:
            wrong.append(f"the disk failed once, and the next append gets {error!r}")
    return wrong


def _resolve(bench: Bench, unknown: OutcomeUnknown) -> bool:
    store = bench.runs.store
    if hasattr(store, "resolve"):
        return bool(store.resolve(unknown))
    return bool(store.log.resolve(unknown.position, unknown.hash))


def _entries_of(path: Path) -> list[Any]:
    """The entries, through another handle, so that the one under test has nothing in its cache."""
    log = SQLiteLog(path, read_only=True)
    try:
        with log.reading() as reading:
            return list(reading.read_all(after=0, limit=10_000))
    finally:
        log.close()


def _entries(runs: Any) -> list[Any]:
    with runs.store.reading() as reading:
        return list(reading.read_all(after=0, limit=10_000))


def _opened_again(bench: Bench, answers: dict[Place, bool | None]) -> list[str]:
    """Open what was left three times, or until the files are byte for byte those that were just found to be right."""
    wrong: list[str] = []
    judged = None
    for time in ("first", "second", "third"):
        found = files_in(bench.folder)
        if found == judged:
            break
        wrong += _judged(bench.folder, bench.ledger, answers, f"opened for the {time} time")
        judged = found
    return wrong


def _judged(folder: Path, ledger: Ledger, answers: dict[Place, bool | None], when: str) -> list[str]:
    """Open the files and hold the ledger against them."""
    wrong = []
    try:
        runs = projections.connect(folder / NAME)
    except Exception as error:  # noqa: BLE001
        return [f"{when}: it cannot be opened: {error!r}"]
    with runs:
        entries = _entries(runs)
        places = Counter((entry.position, entry.hash) for entry in entries)
        wrong += [f"{when}: acknowledged and lost: position {p[0]}" for p in ledger.acknowledged if places[p] != 1]
        wrong += [f"{when}: said to have failed, and stands: position {p[0]}" for p in ledger.failed if places[p]]
        for place, answer in answers.items():
            if answer is not None and bool(places[place]) is not answer:
                wrong.append(f"{when}: resolve said {answer} of position {place[0]}, which is not so")
        digest = genesis(runs.store.log.id)
        for number, entry in enumerate(entries, start=1):
            digest = chain(digest, entry)
            if (entry.position, entry.hash) != (number, digest):
                wrong.append(f"{when}: the chain is broken at {entry.position}")
        wrong += [f"{when}: the disk's failure counts as the run's own" for e in entries if e.type == "RunFailed"]
        report = runs.check()
        if not report.ok:
            wrong.append(f"{when}: {[*report.troubles, *map(str, report.listed)]}")
        if runs.store.log.loss is not None:
            wrong.append(f"{when}: a loss is said")
    return wrong


# --- all cases ------------------------------------------------------------------------------------------------------


@define
class Tally:
    """What many cases came to."""

    cases: int = 0
    fired: int = 0
    by_call: Counter[str] = field(factory=Counter)
    by_fault: Counter[str] = field(factory=Counter)
    ended: Counter[str] = field(factory=Counter)
    unknown: int = 0
    wrong: list[str] = field(factory=list)


def faults_of(asked: list[str]) -> Iterator[Fault]:
    """Every way in which a call that asks this of its disk can meet a failing one."""
    for index, kind in enumerate(asked):
        for how, _ in _CODES[kind]:
            for stays in (False, True):
                yield Fault(index, kind, how, stays)


def enumerate_all(
    folder: Path, *, every: int = 1, calls: tuple[Call, ...] = CALLS, news: Callable[[str, Tally], None] | None = None
) -> Tally:
    """All faults of all calls, or each `every`-th of them, beginning elsewhere in each call; one of each at least."""
    tally = Tally()
    template = folder / "template"
    furnish(template)
    for number, call in enumerate(CALLS):
        if call not in calls:  # each is sampled from the same place, whichever are asked for
            continue
        clean = perform(call, template, folder / "case", None)
        tally.wrong += [f"{call.name}: {wrong}" for wrong in clean.wrong]
        faults = list(faults_of(clean.asked))  # a call of few operations is sampled all the same
        for fault in faults[number % min(every, len(faults)) :: every]:
            outcome = perform(call, template, folder / "case", fault, clean)
            tally.cases += 1
            tally.fired += outcome.fired
            tally.by_call[call.name] += 1
            tally.by_fault[f"{fault.kind}, {fault.how}"] += 1
            tally.ended[outcome.ended] += 1
            tally.unknown += outcome.unknown
            tally.wrong += [f"{call.name}, {fault}: {wrong}" for wrong in outcome.wrong]
        if news:
            news(call.name, tally)
    return tally


@click.command()
@click.option("--every", default=1, show_default=True, type=click.IntRange(1), help="Try each n-th case only.")
def disks(every: int) -> None:
    """Make every operation of every public call fail, once and for good."""
    logging.disable(logging.WARNING)  # a witness that cannot be written says so each time
    with tempfile.TemporaryDirectory(prefix="runfold-disks-") as folder:
        tally = enumerate_all(
            Path(folder), every=every, news=lambda name, t: click.echo(f"  {name:32} {t.by_call[name]:6} cases")
        )
    click.echo(f"{tally.cases} cases, {tally.fired} operations failed, {tally.unknown} outcomes unknown and resolved")
    click.echo("ended: " + ", ".join(f"{name} {number}" for name, number in tally.ended.most_common()))
    click.echo("faults: " + ", ".join(f"{name} {number}" for name, number in sorted(tally.by_fault.items())))
    click.echo(f"acknowledged and lost, misreported, unclear or stuck: {len(tally.wrong)}")
    for line in tally.wrong[:50]:
        click.echo(f"  wrong: {line}")
    sys.exit(1 if tally.wrong else 0)
