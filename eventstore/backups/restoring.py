"""Making a log of a backup again: beside its place, proved, and only then under its name."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from attrs import frozen

from eventstore.backups.copying import (
    Copied,
    Progress,
    Unproved,
    complete,
    copy,
    found_of,
    hash_at,
    moment_of,
    prove,
    told,
)
from eventstore.backups.manifest import DATABASE, LOCK, MANIFEST, Manifest, manifest_in
from eventstore.connecting import BESIDE, open_copy, open_log
from eventstore.errors import CannotOpen, LostTail, RestoreRefused
from eventstore.files import Files, OperatingSystem
from eventstore.integrity import genesis
from eventstore.log import Cursor
from eventstore.making import making, publish, sweep

if TYPE_CHECKING:
    from os import PathLike

    from eventstore.log import Log


@frozen
class Restored:
    """What was made of a backup."""

    database: str
    log: str
    """The id of the log: it is the same log, as it was then."""
    position: int
    """Of its last entry."""
    hash: str
    """The hash there, as hex; a reader whose cursor lies behind it gets `CursorConflict`."""
    segments: int
    blobs: int
    made_at: str
    """When the last backup into the folder ended."""
    findings: tuple[str, ...] = ()
    """Blobs that are damaged or missing in the backup, in words; the rest is whole."""


def restore(
    folder: str | PathLike[str],
    target: str | PathLike[str],
    *,
    finish: Callable[[Path], None] | None = None,
    files: Files | None = None,
    progress: Progress | None = None,
    new_key: bytes | str | EllipsisType | None = ...,
    **options: Any,
) -> Restored:
    """Make a log of a backup, in a place where nothing stands.

    Every entry is proved when it is read and when it was written; the database gets its name when all of it is whole.

    Args:
        folder: of the backup, which is not changed.
        target: the database to be made; its folder must exist, and neither it nor any file that belongs to it.
        finish: what else is to be done with the new database, closed, before it gets its name: making its tables.
        files: the port for file work.
        progress: called after each page with (entries copied, entries to copy).
        new_key: of the new database, where it is not to have the backup's: it and all that stands beside it is
            encrypted anew, or with None not at all.
        options: the backend's own, for the backup's database and the new one.

    Raises:
        RestoreRefused: there is no backup, it does not prove, something stands there already, or the disk fails or is
            full; nothing was made.
    """
    files = files or OperatingSystem()
    copied_to = open_copy if isinstance(new_key, EllipsisType) else partial(open_copy, key=new_key)
    source, place = Path(folder), Path(target).absolute()  # the process may change its folder meanwhile
    with told(RestoreRefused, source), ExitStack() as stack:
        manifest = _manifest(files, source, stack)
        _refuse_standing(source, Path(target))
        written = stack.enter_context(making(place)) / place.name
        options["files"] = files
        stack.enter_context(_called(target, written))
        head, copied, findings = _copied(source, manifest, written, progress, options, copied_to=copied_to)
        if finish is not None:
            finish(written)
        if (why := publish(files, written, place)) is not None:
            raise RestoreRefused(str(source), f"{why}; try again")
    return Restored(
        str(target),
        manifest.log,
        head.position,
        head.hash.hex(),
        copied.segments,
        copied.blobs,
        manifest.made_at,
        findings,
    )


@contextmanager
def _called(target: str | PathLike[str], written: Path) -> Iterator[None]:
    """Have a refusal speak of the database by the name that it is to have, not by that of a folder that is gone."""
    try:
        yield
    except CannotOpen as error:
        if error.url != str(written):
            raise
        raise CannotOpen(os.fspath(target), error.reason) from error


def _manifest(files: Files, folder: Path, stack: ExitStack) -> Manifest:
    try:
        if files.read(folder / MANIFEST) is not None:
            _hold(files, folder, stack)
        manifest = manifest_in(files, folder)
    except BlockingIOError as error:
        raise RestoreRefused(str(folder), "a backup or restore works in it; wait for its end") from error
    except NotADirectoryError as error:
        raise RestoreRefused(str(folder), "it is a file; name the folder of a backup") from error
    except ValueError as error:
        raise RestoreRefused(str(folder), f"its {MANIFEST} {error}") from error
    if manifest is None and not files.names(folder):
        raise RestoreRefused(str(folder), "there is no such folder, or nothing in it; check the name")
    if manifest is None:
        raise RestoreRefused(str(folder), f"no backup into it ever ended: it has no {MANIFEST}; check the name")
    return manifest


def _hold(files: Files, folder: Path, stack: ExitStack) -> None:
    try:
        stack.enter_context(files.lock(folder / LOCK))
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise


_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Of a medium that is not to be written nobody makes a backup either, as far as we are concerned."""


def _refuse_standing(folder: Path, place: Path) -> None:
    if not place.parent.is_dir():
        raise RestoreRefused(str(folder), f"the folder {place.parent} does not exist; make it first")
    sweep(place)
    for suffix in BESIDE:
        beside = place.with_name(place.name + suffix)
        if os.path.lexists(beside):
            raise RestoreRefused(str(folder), f"{beside} stands already; move it away, or choose another name")


def _copied(
    folder: Path,
    manifest: Manifest,
    place: Path,
    progress: Progress | None,
    options: dict[str, Any],
    *,
    copied_to: Callable[..., Log],
) -> tuple[Cursor, Copied, tuple[str, ...]]:
    """Copy the backup's log and read it back; where it ends, what it holds, what is to be said of blobs."""
    try:
        with closing(open_log(folder / DATABASE, create=False, read_only=True, **options)) as source:
            _refuse_another(folder, source, manifest)
            moment = moment_of(source)  # perhaps behind the manifest's: of a backup that was killed, as good as any
            with closing(copied_to(source, place, create=True)) as written:
                copied = copy(source, written, moment, progress=progress)
                complete(written)
                with closing(copied_to(source, place, read_only=True)) as proof:
                    prove(proof, Cursor(0, genesis(source.id)), moment.head)
                    return moment.head, copied, found_of(copied, proof, everything=True)
    except Unproved as error:
        raise RestoreRefused(str(folder), f"it does not prove: {error}") from error
    except LostTail as error:
        reason = f"it held entries up to position {error.expected} and ends at {error.found}"
        raise RestoreRefused(str(folder), f"{reason}; look at {error.url}, or take another backup") from error


def _refuse_another(folder: Path, source: Log, manifest: Manifest) -> None:
    if not manifest.tells_of(source, hash_at(source, manifest.position)):
        reason = f"its {DATABASE} is not what {MANIFEST} tells of; take another backup"
        raise RestoreRefused(str(folder), reason)
