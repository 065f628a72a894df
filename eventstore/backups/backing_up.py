"""Making a backup: what is new is copied behind what the folder holds, proved, and then told by the manifest.

The set is that of one moment, the head as the backup found it. What was there before is let stand, so a backup that is
refused, killed, or runs out of space costs none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.backups.copying import (
    Copied,
    Moment,
    Progress,
    Superseded,
    Unproved,
    copy,
    found_of,
    hash_at,
    moment_of,
    prove,
    told,
)
from eventstore.backups.manifest import DATABASE, LOCK, MANIFEST, Manifest, manifest_in
from eventstore.connecting import open_copy
from eventstore.errors import BackupRefused, LostTail
from eventstore.files import Files, OperatingSystem
from eventstore.gate import microseconds_now
from eventstore.integrity import genesis
from eventstore.log import Cursor
from eventstore.payloads import from_microseconds, to_iso

if TYPE_CHECKING:
    from os import PathLike

    from eventstore.log import Log

_ELSEWHERE = "keep this folder and back up into a new one"


@frozen
class Backup:
    """What one backup did, and what the folder holds since."""

    folder: str
    log: str
    """The id of the log."""
    position: int
    """Of the last entry in the folder: all up to it stand there."""
    hash: str
    """The hash there, as hex."""
    entries: int
    """Copied by this backup, as all that follows; the others stood already."""
    segments: int
    blobs: int
    proved: int
    """Entries that were read back and proved by the chain, the last one and those before it."""
    bytes: int
    """By how many the folder grew."""
    findings: tuple[str, ...] = ()
    """Blobs that are damaged or missing, in the log and so in its backup, in words; the rest is whole."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def back_up(
    log: Log,
    folder: str | PathLike[str],
    *,
    everything: bool = False,
    files: Files | None = None,
    microseconds: Callable[[], int] = microseconds_now,
    progress: Progress | None = None,
) -> Backup:
    """Bring a backup folder up to the head of a log, beside its writers.

    Args:
        log: open, for reading at least.
        folder: an empty one, one that is not there yet (in one that is), or one with earlier backups of this log.
        everything: read back and prove all that the folder holds, and not only what is new; damaged blobs are healed.
        files: the port for file work.
        microseconds: the clock.
        progress: called after each page with (entries copied, entries to copy).

    Raises:
        BackupRefused: the folder holds something else, the log does not prove, or the disk fails or is full; earlier
            backups stand as they were.
    """
    files = files or OperatingSystem()
    path = Path(folder)
    if _is_its_own(log, path):
        raise BackupRefused(str(path), "it is the folder of the log itself; name another")
    with told(BackupRefused, path), _held(files, path) as last:
        if last is not None and last.log != log.id:
            raise BackupRefused(str(path), f"it holds a backup of another log; {_ELSEWHERE}")
        before = _size(path)
        moment = moment_of(log)
        start = 0 if everything or last is None else last.position
        copied, findings = _grown(log, path, last, moment, start=start, everything=everything, progress=progress)
        head = moment.head
        manifest = Manifest.of(log, head, to_iso(from_microseconds(microseconds())))
        files.put(path / MANIFEST, manifest.encode())
        grown = _size(path) - before
    return Backup(
        str(path),
        log.id,
        head.position,
        head.hash.hex(),
        copied.entries,
        copied.segments,
        copied.blobs,
        proved=head.position - start,
        bytes=grown,
        findings=findings,
    )


@contextmanager
def _held(files: Files, folder: Path) -> Iterator[Manifest | None]:
    """The folder, made if it is not there and held for the time of the block; what the last backup says.

    Raises:
        BackupRefused: it is somebody else's, or somebody works in it.
    """
    try:
        names = files.names(folder)
    except NotADirectoryError as error:
        raise BackupRefused(str(folder), "it is a file; name a folder") from error
    # A first backup that was cut may have left any of its own names alone; a lock stands among others' things, too.
    ours = all(name == LOCK or name.startswith(DATABASE) for name in names)
    if not ours and not {DATABASE, MANIFEST} & {*names}:
        raise BackupRefused(str(folder), "it holds other things; name an empty folder, or one that is not there yet")
    if not folder.absolute().parent.is_dir():  # a typing error, or a disk that is not there: not to be made on another
        raise BackupRefused(str(folder), f"the folder {folder.parent} does not exist; make it first")
    files.folder(folder)
    try:
        with files.lock(folder / LOCK):
            yield _last(files, folder)
    except BlockingIOError as error:
        raise BackupRefused(str(folder), "another backup or restore works in it; wait for its end") from error


def _last(files: Files, folder: Path) -> Manifest | None:
    try:
        last = manifest_in(files, folder)
    except ValueError as error:
        raise BackupRefused(str(folder), f"its {MANIFEST} {error}, or {_ELSEWHERE}") from error
    if last is not None and files.stat(folder / DATABASE) is None:
        raise BackupRefused(str(folder), f"its {DATABASE} is gone; {_ELSEWHERE}")
    return last


def _grown(
    log: Log,
    folder: Path,
    last: Manifest | None,
    moment: Moment,
    *,
    start: int,
    everything: bool,
    progress: Progress | None,
) -> tuple[Copied, tuple[str, ...]]:
    """Copy what is new, and prove what the folder holds from a place on; what is to be said of blobs."""
    path = folder / DATABASE
    with ExitStack() as stack:
        try:
            written = open_copy(log, path, create=True)
            stack.callback(written.rest)
            if (reason := _differs(log, written, last, moment.head)) is not None:
                raise BackupRefused(str(folder), f"{reason}; {_ELSEWHERE}")
            copied = copy(log, written, moment, progress=progress, heal=everything)
        except LostTail as error:
            reason = f"it held entries up to position {error.expected} and ends at {error.found}"
            raise BackupRefused(str(folder), f"{reason}; {_ELSEWHERE}") from error
        except Superseded as error:
            raise BackupRefused(str(folder), f"{error}; {_ELSEWHERE}") from error
        except Unproved as error:
            reason = f"the log itself does not prove: {error}; look at `runfold verify`"
            raise BackupRefused(str(folder), reason) from error
        try:
            proof = stack.enter_context(closing(open_copy(log, path, read_only=True)))
            # What stands at the start is what the manifest told of (`_differs`).
            prove(proof, Cursor(start, hash_at(proof, start) or genesis(log.id)), moment.head)
        except Unproved as error:
            reason = f"what stands in it does not prove: {error}; look at its disk, {_ELSEWHERE}"
            raise BackupRefused(str(folder), reason) from error
        return copied, found_of(copied, proof, everything=everything)


def _is_its_own(log: Log, folder: Path) -> bool:
    """Whether a folder is that of the log itself, or one beside it; the process may be in another folder by now."""
    place, archive = folder.resolve(), log.archive.folder.resolve()
    if any(own in (place, *place.parents) for own in (archive, log.blobs.root.resolve())):
        return True
    with suppress(OSError):
        return (place / DATABASE).samefile(archive.with_name(archive.name.removesuffix("-archive")))
    return False


def _differs(log: Log, written: Log, last: Manifest | None, until: Cursor) -> str | None:
    """Why this copy cannot be gone on with, if so."""
    begun = moment_of(written).head
    if written.id != log.id:
        return "it holds a backup of another log"
    if written.blobs.cipher != log.blobs.cipher:  # what is told of it here, its own key would not find to be so
        return "its files have another key than those of the log, which was encrypted anew since"
    if last is not None and not last.tells_of(written, hash_at(written, last.position)):
        return f"its {DATABASE} is not what {MANIFEST} tells of"
    if begun.position > until.position:
        ends = f"it holds entries up to position {begun.position}, and the log ends at {until.position}"
        return f"{ends}: the log was rolled back, or is an older copy"
    if hash_at(log, begun.position) != begun.hash:
        return (
            f"at position {begun.position} it holds another entry than the log: one of them was rolled back and went on"
        )
    return None


def _size(folder: Path) -> int:
    """Bytes of all files; whoever reads the copy meanwhile makes some beside it, and takes them away."""
    size = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += file.stat().st_size if file.is_file() else 0
    return size
