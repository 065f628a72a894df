"""The port for file work: all that Runfold does with files itself, beside what SQLite does with its own.

A few verbs, each with a promise about a power cut, so that tests can put another `Files` in their place, write down
every step, and rebuild what a cut between any two steps would leave. Files are 0600 and folders 0700. A symlink is
never followed: not in a file's place, and not on the way to it below a folder that is `own` (OSError, ELOOP).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

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


class Writer(Protocol):
    """A file that is being made, piece by piece."""

    def write(self, data: bytes, /) -> int:
        """Add all of these bytes to it."""


class Stat(NamedTuple):
    """What a file system says of a file."""

    size: int
    """In bytes."""
    modified: int
    """When it was last written or touched: microseconds since 1970, UTC, by the file system's clock."""
    folder: bool = False
    executable: bool = False
    """Whether its owner may execute it."""


class Files(Protocol):
    """What Runfold asks of a file system."""

    def own(self, folder: Path) -> None:
        """From now on neither this folder nor any below it may be a symlink: whoever passes by one is refused."""

    def folder(self, path: Path) -> None:
        """Have a folder there, made with those above it where they are not; durable when this returns."""

    def read(self, path: Path) -> bytes | None:
        """All of a file's bytes; None if there is no such file."""

    def open(self, path: Path) -> BinaryIO | None:
        """A file to be read piece by piece, which the caller closes; None if there is no such file."""

    def names(self, folder: Path) -> list[str]:
        """What stands in a folder, by name, sorted; nothing where there is no such folder."""

    def stat(self, path: Path) -> Stat | None:
        """Size and age of what is there; None if nothing is."""

    def make(self, path: Path) -> bool:
        """Make an empty file, readable by its owner only; False, and nothing changed, if something is there."""

    def hold(self, path: Path) -> Held:
        """Open a file for overwriting; it is made if it is not there."""

    def put(self, path: Path, data: bytes) -> None:
        """Make or replace a file whole: a cut leaves the old bytes or the new ones, and once this returned the new."""

    def writing(self, path: Path, *, executable: bool = False) -> AbstractContextManager[Writer]:
        """Make or replace a file whole, as `put` does, of pieces: it stands, durable, when the block was left.

        An exception in the block leaves what was there. Until then the pieces are in a file beside it, `NAME.*.tmp`
        (the beginning of a long name), which only a kill leaves behind.
        """

    def touch(self, path: Path) -> bool:
        """Make a whole file young and its name durable, whoever wrote it; False if there is no such file."""

    def rename(self, source: Path, target: Path) -> None:
        """Give a whole file another name, also in another folder, in place of what has it; durable when this returns.

        Raises:
            FileNotFoundError: there is no such file.
        """

    def publish(self, source: Path, target: Path) -> bool:
        """Give a file, whole and synced, the name that it is known by from now on; durable when this returns.

        False, and nothing changed, if something stands there.
        """

    def remove(self, path: Path) -> bool:
        """Take a file away; durable when this returns. False if there is no such file."""

    def lock(self, path: Path) -> AbstractContextManager[None]:
        """Hold this file, which is made and stays, for the time of the block; a kill lets go of it too.

        Raises:
            BlockingIOError: somebody holds it, in this process or another.
        """
