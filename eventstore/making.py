"""A folder beside a database that is being made; whoever comes after one that was killed in it sweeps it up.

Its maker holds a lock on the folder, which ends with the maker however it ends, whatever boot, container or machine it
ran in. So who gets the lock knows that the maker is gone, and nobody else's folder is ever touched. Where the file
system has no such locks nothing is swept up.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventstore.files import Files


@contextmanager
def making(target: Path) -> Iterator[Path]:
    """A new folder beside the target, which is taken away at the end of the block with all that is left in it.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        with suppress(BlockingIOError, FileNotFoundError):  # a sweeper, who came between the two lines
            held = _hold(folder)
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def sweep(target: Path) -> None:
    """Take away what makers of this database left who were killed in the middle."""
    with suppress(OSError):
        left = [entry for entry in os.scandir(target.parent) if entry.name.startswith(_prefix(target))]
        for entry in left:
            folder, held = Path(entry.path), None
            with suppress(OSError):
                held = _hold(folder)
            if held is None:
                continue
            try:
                # What else lies there is somebody's: no maker puts anything but the database's own files there.
                if all(part.name.startswith(target.name) for part in folder.iterdir()):
                    _take_away_moved(folder, target)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)


def publish(files: Files, part: Path, target: Path) -> str | None:
    """Give a database that was made and closed the name that it is known by; None, or why it did not get it.

    The folders beside it come first, so that it never stands without them.
    """
    wal = part.with_name(f"{part.name}-wal")
    if wal.exists() and wal.stat().st_size:  # closed, it has all in one file, unless the disk failed
        return "the disk failed when it was closed"
    with ExitStack() as undone:
        folders = {name: part.with_name(part.name + name) for name in _FOLDERS}
        folders = {name: folder for name, folder in folders.items() if folder.is_dir()}
        if folders:
            files.folder(part.parent)  # a cut that keeps a folder's new name must keep what tells of it
            marks = {name: _mark(folder) for name, folder in folders.items()}
            files.put(part.with_name(part.name + _MOVING), json.dumps(marks).encode())
        for name, folder in folders.items():
            beside = target.with_name(target.name + name)
            if os.path.lexists(beside):
                return f"{beside} came into being meanwhile"
            files.rename(folder, beside)
            undone.callback(files.rename, beside, folder)
        if not files.publish(part, target):
            return f"{target} came into being meanwhile"
        undone.pop_all()
    with suppress(OSError):  # without it a lost tail is noticed from the next append on
        if witness := files.read(part.with_name(f"{part.name}-witness")):
            files.put(target.with_name(f"{target.name}-witness"), witness)
    return None


_FOLDERS = ("-archive", "-blobs")
"""What may stand beside a database, by what is added to its name."""
_MOVING = "-moving"
"""The file that says which folders are about to get their names, so that a kill between leaves nothing nameless."""


def _mark(folder: Path) -> int:
    """By which a folder is known again, also after a reboot, which may give its disk another number."""
    return folder.lstat().st_ino


def _take_away_moved(folder: Path, target: Path) -> None:
    """Take away what a killed maker gave its name already, where no database came to stand beside it."""
    if os.path.lexists(target):
        return
    with suppress(OSError, ValueError, AttributeError):
        marks = json.loads((folder / f"{target.name}{_MOVING}").read_bytes())
        for name, mark in marks.items():
            beside = target.with_name(target.name + name)
            # The very folder, which was renamed within one disk, and not another of that name.
            if name in _FOLDERS and _mark(beside) == mark and beside.lstat().st_dev == folder.lstat().st_dev:
                shutil.rmtree(beside, ignore_errors=True)


def _prefix(target: Path) -> str:
    return f".{target.name}.importing-"


def _hold(folder: Path) -> int | None:
    """The lock on a folder that still stands; None where there are none.

    Raises:
        BlockingIOError: somebody else holds it.
        FileNotFoundError: it is gone, perhaps since a moment ago.
    """
    if sys.platform == "win32":
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.lstat()  # gone, if a sweeper had the lock before
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError | FileNotFoundError):
            raise
        return None
    return descriptor
