"""The recorder: one ordered list of all that a program asks of its disk, and of all that it was promised.

A workload runs in this process with the real store. SQLite's operations come from the shim; those of our own port
come from the `os` that `eventstore.files.disk` uses, so that the port itself is on trial and not a copy of it. Between
them stand marks: a write began, a write came back with its last position, a call was acknowledged to its caller.
From this list `cutting` builds the disks that a power cut could leave, and `judging` knows what each must hold.

Operations are written down just before they happen. A workload is one thread, or its threads exclude each other where
they touch one file, so that a sync in the list covers what stands before it.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from attrs import frozen

import eventstore.files.disk
import eventstore.sqlite.log
import projections
from eventstore.errors import Refused
from eventstore.gate import microseconds_now
from eventstore.integrity import chain, genesis
from eventstore.log import Entry, Log
from eventstore.sqlite import SQLiteLog
from projections.system import Identity, System
from tests.faults.shim import SQLITE_OK, Operation, Shim

BOOT = "boot-before-the-cut"
"""The boot in which workloads run; the machine that is judged was booted since."""
DISK_KINDS = frozenset({"open", "write", "truncate", "sync", "delete", "dirsync", "rename", "link", "mkdir"})


@frozen
class Mark:
    """What was promised, in the same list: `kind` is began, wrote, acknowledged, opened, closed or promised."""

    kind: str
    position: int = 0
    """Of wrote and acknowledged: the last entry's."""
    write: int = 0
    """Of began and wrote: which write."""
    name: str = ""
    """Of promised: what must hold from here on, for the workload's own judge."""
    synced: bool = True
    """Of acknowledged: whether the handle that wrote it syncs each commit."""


@frozen
class Record:
    """What happened, from a disk at rest onward."""

    start: dict[str, bytes]
    """The files, all durable, before the first step; by path within the folder."""
    steps: tuple[Operation | Mark, ...]
    """Paths of operations are within the folder."""
    log_id: str
    entries: tuple[Entry, ...]
    """The log at the end: what each cut recovers must be a beginning of it."""
    synchronous: str
    base: int = 0
    """Where the log ended before the first step."""
    lossy: bool = False
    """Whether the witness is ahead of it then, and the workload accepts that."""
    wrong: tuple[tuple[str, str], ...] = ()
    """What was wrong without any cut, by kind."""


@cache
def shim() -> Shim:
    """The one of this process."""
    return Shim()


# --- our own port -------------------------------------------------------------------------------------------------


class _File:
    """What `fdopen` gives for writing: buffered as the real one is, so that a forgotten flush is not synced here."""

    def __init__(self, system: "RecordingOS", descriptor: int) -> None:
        self._system = system
        self._descriptor = descriptor
        self._buffer = b""
        self._offset = 0

    def write(self, data: bytes) -> int:
        self._buffer += data
        return len(data)

    def flush(self) -> None:
        if self._buffer:
            self._system.pwrite(self._descriptor, self._buffer, self._offset)
        self._offset += len(self._buffer)
        self._buffer = b""

    def fileno(self) -> int:
        return self._descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self._system.close(self._descriptor)


class RecordingOS:
    """`os` as `eventstore.files.disk` sees it: what reaches the disk is written down; what it does not know is refused.

    Times of files are no part of a disk here: all are made new when one is judged.
    """

    _PASSED = frozenset(
        "fspath fstat getpid listdir lstat path scandir stat strerror supports_follow_symlinks urandom utime".split()
    )

    def __init__(self, seen: Callable[[Operation], None]) -> None:
        self._seen = seen
        self._paths: dict[int, str] = {}
        self._real = {name: getattr(os, name) for name in NAMING}

    def __getattr__(self, name: str) -> object:
        known = name.startswith("O_") or name in self._PASSED
        assert known, f"eventstore.files.disk uses os.{name}: teach it to RecordingOS"
        return getattr(os, name)

    def open(self, path, flags, mode=0o777, *, dir_fd=None):
        name = os.fspath(path)
        made = bool(flags & os.O_CREAT) and not os.path.lexists(name)
        descriptor = os.open(path, flags, mode, dir_fd=dir_fd)
        self._paths[descriptor] = name
        if made:
            self._seen(Operation("open", name, 1))
        elif flags & os.O_TRUNC:
            self._seen(Operation("truncate", name, 0))
        return descriptor

    def pwrite(self, descriptor, data, offset):
        self._seen(Operation("write", self._paths[descriptor], offset, bytes(data)))
        return os.pwrite(descriptor, data, offset)

    def ftruncate(self, descriptor, size):
        self._seen(Operation("truncate", self._paths[descriptor], size))
        os.ftruncate(descriptor, size)

    def fsync(self, descriptor):
        name = self._paths[descriptor]
        self._seen(Operation("dirsync" if Path(name).is_dir() else "sync", name))
        os.fsync(descriptor)

    fdatasync = fsync

    def fdopen(self, descriptor, mode="r"):
        return _File(self, descriptor) if mode == "wb" else os.fdopen(descriptor, mode)

    def close(self, descriptor):
        self._paths.pop(descriptor, None)
        os.close(descriptor)

    def link(self, source, target, *, follow_symlinks=True):
        os.link(source, target, follow_symlinks=follow_symlinks)
        self._seen(Operation("link", os.fspath(source), 0, os.fspath(target).encode()))

    def replace(self, source, target, **options):
        self._named("rename", source, os.fspath(target).encode())
        self._real["replace"](source, target, **options)

    def rename(self, source, target, **options):
        self._named("rename", source, os.fspath(target).encode())
        self._real["rename"](source, target, **options)

    def unlink(self, path, *, dir_fd=None):
        self._named("delete", _whole(path, dir_fd))
        self._real["unlink"](path, dir_fd=dir_fd)

    def rmdir(self, path, *, dir_fd=None):
        self._named("delete", _whole(path, dir_fd))
        self._real["rmdir"](path, dir_fd=dir_fd)

    def mkdir(self, path, mode=0o777, **options):
        self._real["mkdir"](path, mode, **options)
        self._seen(Operation("mkdir", os.fspath(path)))

    def _named(self, kind, path, data=b""):
        if os.path.lexists(path):
            self._seen(Operation(kind, os.fspath(path), 0, data))


NAMING = ("replace", "rename", "unlink", "rmdir", "mkdir")
"""What changes names: `pathlib`, `shutil` and `tempfile` go through the real module for these."""


def _whole(path, dir_fd):
    """A path within an open folder, as `shutil.rmtree` names them."""
    return path if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink() / path


@contextmanager
def _patched_os(system: RecordingOS) -> Iterator[None]:
    """Put the recording `os` under the port, and under `pathlib`."""
    real = {name: getattr(os, name) for name in NAMING}
    eventstore.files.disk.os = system  # type: ignore[attr-defined]
    for name in NAMING:
        setattr(os, name, getattr(system, name))
    try:
        yield
    finally:
        eventstore.files.disk.os = os  # type: ignore[attr-defined]
        for name, function in real.items():
            setattr(os, name, function)


@contextmanager
def booted(boot: str) -> Iterator[None]:
    """The machine says that it is in this boot."""
    real = eventstore.sqlite.log.boot_id
    eventstore.sqlite.log.boot_id = lambda: boot
    try:
        yield
    finally:
        eventstore.sqlite.log.boot_id = real


def machine(boot: str, pid: int = 7, clock: Callable[[], int] = microseconds_now) -> System:
    """A process of its own in this boot; it sees no other as alive."""
    me = Identity(boot, "namespace", pid, pid)
    return System(identity=lambda: me, start_of={pid: pid}.get, microseconds=clock)


# --- a session ----------------------------------------------------------------------------------------------------


class RecordingLog(SQLiteLog):
    """The real log; each write leaves its marks."""

    session: "Session"

    def write(self, job, **options):
        """See `log.Log`."""
        session = self.session
        last = [0]

        def noted(transaction):
            result = job(transaction)
            if transaction.last is not None:
                last[0] = transaction.last.position
            return result

        number = next(session.writes)
        session.mark("began", write=number)
        result = super().write(noted, **options)
        if last[0]:
            session.local.position, session.local.synced = last[0], self._synchronous == "FULL"
            session.mark("wrote", last[0], number)
        return result


class Session:
    """What a workload works with: a folder, stores in it, and the list that everything goes into."""

    def __init__(self, folder: Path, synchronous: str) -> None:
        self.folder = folder
        self.path = folder / "agent.db"
        self.synchronous = synchronous
        self.clock = microseconds_now
        """Of the stores that are opened from here on."""
        self.steps: list[Operation | Mark] = []
        self.local = threading.local()
        self.writes = count(1)
        self.wrong: list[tuple[str, str]] = []
        self._root = f"{folder}{os.sep}"
        self._open: list[projections.Runs] = []
        self._recording = False

    def mark(self, kind: str, position: int = 0, write: int = 0) -> None:
        """Put a mark into the list."""
        self.steps.append(Mark(kind, position, write))

    def connect(self, *, checkpoint_every: int | None = None, pid: int = 7, **options: object) -> projections.Runs:
        """Open the store; from here on it must be there after any cut."""
        session = self

        class OurLog(RecordingLog):
            pass

        OurLog.session = session
        log = OurLog(self.path, **{"synchronous": self.synchronous, **options})
        if checkpoint_every is not None:
            log._writer.connection.execute(f"PRAGMA wal_autocheckpoint = {checkpoint_every}")
        runs = projections.connect(log, system=machine(BOOT, pid, self.clock))
        self._open.append(runs)
        self.mark("opened")
        return runs

    @contextmanager
    def writing(self, position: int) -> Iterator[None]:
        """What happens inside appends up to this position through no store of ours, and is acknowledged after it."""
        number = next(self.writes)
        self.mark("began", write=number)
        yield
        self.mark("wrote", position, number)
        self.steps.append(Mark("acknowledged", position))
        self.mark("opened")

    def did(self, call, *arguments, **options):
        """Call, and note that it returned: what it wrote is acknowledged."""
        self.local.position = 0
        result = call(*arguments, **options)
        if self.local.position:
            self.steps.append(Mark("acknowledged", self.local.position, synced=self.local.synced))
        return result

    def promise(self, name: str) -> None:
        """From here on this holds, whatever it is; `Workload.holds` of this workload knows."""
        self.steps.append(Mark("promised", name=name))

    def refused(self, call, *arguments, **options) -> None:
        """Call what must be refused."""
        with suppress(Refused):
            call(*arguments, **options)
            self.wrong.append(("corrupt", f"{call.__qualname__} was to be refused, and was not"))

    def close(self) -> None:
        """Close every store that is still open."""
        while self._open:
            self._open.pop().close()
        self.mark("closed")

    def __call__(self, operation: Operation) -> int:
        """The shim's watcher."""
        self.seen(operation)
        return SQLITE_OK

    def seen(self, operation: Operation) -> None:
        """Write an operation down, if it changes the disk and is in our folder."""
        name = operation.path
        if not self._recording or operation.kind not in DISK_KINDS:
            return
        if operation.kind == "open" and not operation.offset:
            return
        if operation.kind == "dirsync":
            inside = f"{name}{os.sep}".startswith(self._root)
            within = "" if name == str(self.folder) else name.removeprefix(self._root)
        else:
            inside, within = name.startswith(self._root), name.removeprefix(self._root)
        if inside:
            data = operation.data
            if operation.kind in ("rename", "link"):
                data = data.decode().removeprefix(self._root).encode()
            self.steps.append(Operation(operation.kind, within, operation.offset, data))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Write down what happens inside."""
        self._recording = True
        try:
            with booted(BOOT), _patched_os(RecordingOS(self.seen)), shim().installed(self):
                try:
                    yield
                finally:
                    while self._open:  # connections must not outlive the shim
                        with suppress(Exception):
                            self._open.pop().close()
        finally:
            self._recording = False


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file but SQLite's shared memory, which no cut leaves in use; an empty folder's name ends with a slash."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not name.endswith("-shm"):
            files[name] = path.read_bytes()
        elif path.is_dir() and not any(path.iterdir()):
            files[f"{name}/"] = b""
    return files


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Make a folder hold these files."""
    for name, data in files.items():
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def read_log(log: Log) -> list[Entry]:
    """The whole log, as it stands."""
    entries: list[Entry] = []
    with log.reading() as reading:
        while page := reading.read_all(after=len(entries), limit=5_000):
            entries += page
    return entries


def chain_holds(log_id: str, entries: list[Entry] | tuple[Entry, ...]) -> bool:
    """Whether positions, versions and hashes are what format 1 makes of the contents."""
    previous = genesis(log_id)
    versions: dict[str, int] = {}
    for position, entry in enumerate(entries, start=1):
        version = versions.get(entry.stream, 0) + 1
        if (entry.position, entry.version, entry.hash) != (position, version, chain(previous, entry)):
            return False
        previous, versions[entry.stream] = entry.hash, version
    return True


def record(perform: Callable[[Session], None], folder: Path, synchronous: str) -> Record:
    """Run a workload on what stands in the folder, and give what happened."""
    start = files_in(folder)
    session = Session(folder, synchronous)
    base, lossy = 0, False
    if start:
        with TemporaryDirectory(dir=folder.parent) as copy:
            write_files(Path(copy), start)  # without a database one is made here, and ends at 0
            log = SQLiteLog(Path(copy, "agent.db"), accept_loss=True)
            base, lossy = len(read_log(log)), log.loss is not None
            log.close()
    with session.recording():
        perform(session)
    with booted(BOOT):
        log = SQLiteLog(session.path)
        entries, log_id = read_log(log), log.id
        log.close()
    assert chain_holds(log_id, entries), "the workload itself left a log whose chain does not hold"
    return Record(start, tuple(session.steps), log_id, tuple(entries), synchronous, base, lossy, tuple(session.wrong))
