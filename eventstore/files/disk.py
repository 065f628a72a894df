"""The files of the machine. Everything that a power cut could undo goes through this module's `os`: tests watch it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from eventstore.files.port import FILE_MODE, FOLDER_MODE, Held, Stat, Writer

if sys.platform != "win32":
    import fcntl

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_READ = os.O_RDONLY | _NO_LINK | getattr(os, "O_NONBLOCK", 0)  # or opening a pipe in a file's place would never return
_LONG, _SHORT = 64, 16
"""Bytes of a file's name, and how many characters of a longer one its temporary name takes: with the ending it would be
too long for the folder. Blobs, which a collector tells by their digits, have shorter ones."""


class _Descriptor:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def overwrite(self, data: bytes) -> None:
        os.pwrite(self._descriptor, data, 0)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class OperatingSystem:
    """The files of the machine; `port.Files` says what each verb promises."""

    _own: tuple[Path, ...] = ()
    _settled: frozenset[Path] = frozenset()
    """Folders whose names this object knows to be durable: nobody takes one of ours away."""

    def own(self, folder: Path) -> None:
        """See `Files`."""
        if folder not in self._own:
            self._own = (*self._own, folder)

    def folder(self, path: Path) -> None:
        """See `Files`."""
        self._refuse_links(path / "it")
        wanted = [path, *(above for above in path.parents if any(own in (above, *above.parents) for own in self._own))]
        wanted += [above for above in path.parents if above not in wanted and not os.path.lexists(above)]
        for level in reversed(wanted):
            if level in self._settled and os.path.lexists(level):
                continue
            with contextlib.suppress(FileExistsError):
                os.mkdir(level, FOLDER_MODE)
            mode = os.lstat(level).st_mode
            if stat.S_ISLNK(mode):
                raise _refused(level)
            if not stat.S_ISDIR(mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(level))
            _sync_folder(level.parent)  # also where it stood: whoever made it may have been killed before this
            self._settled |= {level}

    def read(self, path: Path) -> bytes | None:
        """See `Files`."""
        file = self.open(path)
        if file is None:
            return None
        with file:
            return file.read()

    def open(self, path: Path) -> BinaryIO | None:
        """See `Files`."""
        self._refuse_links(path)
        try:
            descriptor = os.open(path, _READ)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is no file", str(path))
        return os.fdopen(descriptor, "rb")

    def names(self, folder: Path) -> list[str]:
        """See `Files`."""
        self._refuse_links(folder / "it")
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []

    def stat(self, path: Path) -> Stat | None:
        """See `Files`."""
        self._refuse_links(path)
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(found.st_mode):
            raise _refused(path)
        mode = found.st_mode
        executable = stat.S_ISREG(mode) and bool(mode & stat.S_IXUSR)
        return Stat(found.st_size, found.st_mtime_ns // 1000, stat.S_ISDIR(mode), executable)

    def make(self, path: Path) -> bool:
        """See `Files`."""
        self._refuse_links(path)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK, FILE_MODE))
        except FileExistsError:
            return False
        return True

    def hold(self, path: Path) -> Held:
        """See `Files`."""
        self._refuse_links(path)
        return _Descriptor(os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, FILE_MODE))

    def put(self, path: Path, data: bytes) -> None:
        """See `Files`."""
        with self.writing(path) as file:
            file.write(data)

    @contextlib.contextmanager
    def writing(self, path: Path, *, executable: bool = False) -> Iterator[Writer]:
        """See `Files`."""
        self._refuse_links(path)
        # A name that nobody else has: two may write the same file at once, in containers where they are the same pid.
        stem = path.name if len(path.name.encode(errors="surrogateescape")) <= _LONG else path.name[:_SHORT]
        temporary = path.with_name(f"{stem}.{os.urandom(8).hex()}.tmp")
        mode = FOLDER_MODE if executable else FILE_MODE
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_folder(path.parent)

    def touch(self, path: Path) -> bool:
        """See `Files`."""
        try:
            if self.stat(path) is None:
                return False
            os.utime(path, follow_symlinks=os.utime not in os.supports_follow_symlinks)
        except FileNotFoundError:
            return False
        _sync_folder(path.parent)
        return True

    def rename(self, source: Path, target: Path) -> None:
        """See `Files`."""
        self._refuse_links(source)
        self._refuse_links(target)
        os.replace(source, target)
        _sync_folder(target.parent)
        if source.parent != target.parent:
            _sync_folder(source.parent)

    def publish(self, source: Path, target: Path) -> bool:
        """See `Files`."""
        try:
            os.link(source, target, follow_symlinks=False)
        except FileExistsError:
            return False
        except OSError:  # a file system without links: there somebody may take the name between the look and the act
            if os.path.lexists(target):
                return False
            os.replace(source, target)
        else:
            os.unlink(source)
        _sync_folder(target.parent)
        return True

    def remove(self, path: Path) -> bool:
        """See `Files`."""
        self._refuse_links(path)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        _sync_folder(path.parent)
        return True

    @contextlib.contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """See `Files`."""
        self._refuse_links(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, FILE_MODE)
        try:
            if sys.platform != "win32":  # there nobody is kept out
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                yield
            finally:
                if sys.platform != "win32":  # closing would not do: a child that was forked meanwhile has it open too
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def _refuse_links(self, path: Path) -> None:
        """Whether each folder of ours on the way to it is one.

        Raises:
            OSError: one of them is a symlink (ELOOP).
        """
        text = os.fspath(path)
        for own in map(os.fspath, self._own):
            if not text.startswith(own + os.path.sep):
                continue
            above = text
            while above != own:  # as texts: asking `Path.parents` was most of what reading an archive took
                above = os.path.dirname(above)
                if os.path.islink(above):
                    raise _refused(Path(above))


def _refused(path: Path) -> OSError:
    reason = "it is a symlink, which is not followed here; put what it leads to in its place, or mount it there"
    return OSError(errno.ELOOP, reason, str(path))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def boot_id() -> str:
    """Name this boot of the machine, "" where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
