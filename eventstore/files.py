"""The port for file work: all that Runfold does with files itself, beside what SQLite does with its own.

A few verbs, each with a promise about a power cut, so that tests can put another `Files` in their place, write down
every step, and rebuild what a cut between any two steps would leave. Files are 0600, and a symlink is never followed.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

FILE_MODE = 0o600
FOLDER_MODE = 0o700


class Held(Protocol):
    """An open file that is written over in place, again and again."""

    def overwrite(self, data: bytes) -> None:
        """Write these bytes over the beginning, in one call and without a sync: a cut may tear or lose it."""

    def sync(self) -> None:
        """What was written is on the disk when this returns."""

    def close(self) -> None:
        """Let go of it."""


class Files(Protocol):
    """What Runfold asks of a file system."""

    def read(self, path: Path) -> bytes | None:
        """All of a file's bytes; None if there is no such file."""

    def make(self, path: Path) -> bool:
        """Make an empty file, readable by its owner only; False, and nothing changed, if something is there."""

    def hold(self, path: Path) -> Held:
        """Open a file for overwriting; it is made if it is not there."""

    def put(self, path: Path, data: bytes) -> None:
        """Make or replace a file whole: a cut leaves the old bytes or the new ones, and once this returned the new."""

    def publish(self, source: Path, target: Path) -> bool:
        """Give a file, whole and synced, the name that it is known by from now on; durable when this returns.

        False, and nothing changed, if something stands there.
        """


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


_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class OperatingSystem:
    """The files of the machine."""

    def read(self, path: Path) -> bytes | None:
        """See `Files`."""
        try:
            descriptor = os.open(path, os.O_RDONLY | _NO_LINK)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    def make(self, path: Path) -> bool:
        """See `Files`."""
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK, FILE_MODE))
        except FileExistsError:
            return False
        return True

    def hold(self, path: Path) -> Held:
        """See `Files`."""
        return _Descriptor(os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, FILE_MODE))

    def put(self, path: Path, data: bytes) -> None:
        """See `Files`."""
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_LINK, FILE_MODE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)

    def publish(self, source: Path, target: Path) -> bool:
        """See `Files`."""
        try:
            os.link(source, target, follow_symlinks=False)
        except FileExistsError:
            return False
        except OSError:  # a file system without links: there somebody may take the name between the look and the act
            if os.path.lexists(target):
                return False
            source.rename(target)
        else:
            source.unlink()
        _sync_folder(target.parent)
        return True


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
