"""Files in memory: beside the log in memory, and in tests. Here nothing is ever lost, and no file is a symlink."""

from __future__ import annotations

import errno
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

from attrs import define

from eventstore.files.port import Held, Stat, Writer


@define(eq=False)
class _File:
    data: bytes
    modified: int
    executable: bool = False


class _Held:
    def __init__(self, file: _File) -> None:
        self._file = file

    def overwrite(self, data: bytes) -> None:
        self._file.data = data + self._file.data[len(data) :]

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


_Folder: TypeAlias = dict[str, "_File | None"]
"""What stands in a folder by name; None is a folder, which has a place of its own."""


def _now() -> int:
    return time.time_ns() // 1000


class MemoryFiles:
    """A file system in memory; `port.Files` says what each verb promises.

    Args:
        microseconds: its clock.
    """

    def __init__(self, microseconds: Callable[[], int] = _now) -> None:
        self._microseconds = microseconds
        self._folders: dict[Path, _Folder] = {Path(): {}, Path("/"): {}}
        self._locked: set[Path] = set()
        self._one = threading.RLock()

    def own(self, folder: Path) -> None:
        """See `Files`."""

    def folder(self, path: Path) -> None:
        """See `Files`."""
        with self._one:
            if path in self._folders:
                return
            self.folder(path.parent)
            if path.name in self._folders[path.parent]:
                raise _error(NotADirectoryError, errno.ENOTDIR, path)
            self._folders[path.parent][path.name] = None
            self._folders[path] = {}

    def read(self, path: Path) -> bytes | None:
        """See `Files`."""
        file = self._found(path)
        return None if file is None else file.data

    def open(self, path: Path) -> BinaryIO | None:
        """See `Files`."""
        data = self.read(path)
        return None if data is None else io.BytesIO(data)

    def names(self, folder: Path) -> list[str]:
        """See `Files`."""
        with self._one:
            if self._folders.get(folder.parent, {}).get(folder.name) is not None:
                raise _error(NotADirectoryError, errno.ENOTDIR, folder)
            return sorted(self._folders.get(folder, ()))

    def stat(self, path: Path) -> Stat | None:
        """See `Files`."""
        if path in self._folders:
            return Stat(0, 0, folder=True)
        file = self._found(path)
        return None if file is None else Stat(len(file.data), file.modified, executable=file.executable)

    def make(self, path: Path) -> bool:
        """See `Files`."""
        with self._one:
            if path.name in self._within(path):
                return False
            self.put(path, b"")
            return True

    def hold(self, path: Path) -> Held:
        """See `Files`."""
        with self._one:
            self.make(path)
            file = self._found(path)
            assert file is not None  # noqa: S101 - made just now
            return _Held(file)

    def put(self, path: Path, data: bytes) -> None:
        """See `Files`."""
        with self.writing(path) as file:
            file.write(data)

    @contextmanager
    def writing(self, path: Path, *, executable: bool = False) -> Iterator[Writer]:
        """See `Files`."""
        self._within(path)
        pieces = io.BytesIO()
        yield pieces
        with self._one:
            folder = self._within(path)
            if path in self._folders:
                raise _error(IsADirectoryError, errno.EISDIR, path)
            folder[path.name] = _File(pieces.getvalue(), self._microseconds(), executable)

    def touch(self, path: Path) -> bool:
        """See `Files`."""
        file = self._found(path)
        if file is None:
            return False
        file.modified = self._microseconds()
        return True

    def rename(self, source: Path, target: Path) -> None:
        """See `Files`."""
        with self._one:
            file, folder = self._found(source), self._within(target)
            if file is None:
                raise _error(FileNotFoundError, errno.ENOENT, source)
            del self._folders[source.parent][source.name]
            folder[target.name] = file

    def publish(self, source: Path, target: Path) -> bool:
        """See `Files`."""
        with self._one:
            if target.name in self._within(target):
                return False
            self.rename(source, target)
            return True

    def remove(self, path: Path) -> bool:
        """See `Files`."""
        with self._one:
            if self._found(path) is None:
                return False
            del self._folders[path.parent][path.name]
            return True

    @contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """See `Files`."""
        with self._one:
            if path in self._locked:
                raise _error(BlockingIOError, errno.EWOULDBLOCK, path)
            self.make(path)
            self._locked.add(path)
        try:
            yield
        finally:
            self._locked.discard(path)

    def _found(self, path: Path) -> _File | None:
        with self._one:
            if path in self._folders:
                raise _error(IsADirectoryError, errno.EISDIR, path)
            return self._folders.get(path.parent, {}).get(path.name)

    def _within(self, path: Path) -> _Folder:
        """The folder that a file is to be made in."""
        if path.parent not in self._folders:
            raise _error(FileNotFoundError, errno.ENOENT, path)
        return self._folders[path.parent]


def _error(kind: type[OSError], number: int, path: Path) -> OSError:
    return kind(number, os.strerror(number), str(path))
