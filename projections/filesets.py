"""Sets of files that runs save: a folder's files as blobs, and one event that lists them, to be brought back later.

What a run made (a working copy, a report) is saved under its attempt, fenced as all of its work is: first the blobs,
then a generic entry of kind `files-saved` that names each by path, digest, size and whether it may be executed. A file
that did not change since the last time is kept once. Times, owners and other modes are not kept, nor are empty folders;
symlinks, what is no file, and the files of a store that is open in this process, as the run's own is, are not kept, and
the set tells which were left out.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from attrs import frozen

from eventstore.blobs import FILES_SAVED, listed
from eventstore.connecting import is_open
from eventstore.errors import InvalidArgument, InvalidPayload, MissingBlob
from eventstore.files import Files, OperatingSystem
from eventstore.notes import LogRecorded

if TYPE_CHECKING:
    from datetime import datetime

    from eventstore.blobs import Blobs
    from eventstore.codec import Recorded
    from eventstore.log import Writing
    from eventstore.payloads import Json
    from eventstore.store import EventStore, Stream

SOURCE = "runfold"
_TRIES = 3
"""Times that a folder is read, where a collector takes what was just read of it."""


@frozen
class SavedFile:
    """A file of a set."""

    digest: str
    """Of the blob that holds it."""
    size: int
    executable: bool


@frozen
class FileSet:
    """The files of a folder as they were saved."""

    run_id: str
    version: int
    """Of the event that lists them."""
    name: str
    at: datetime
    files: Mapping[str, SavedFile]
    """By path within the folder, with slashes."""
    left_out: tuple[str, ...]
    """Symlinks, what is no file, and the files of a store that was open in the process."""


def save(stream: Stream[Any], folder: str | Path, name: str, *, attempt: int, key: str | None) -> Recorded:
    """Keep a folder's files as blobs, and record which they are under a run.

    No entry mentions the blobs until it is recorded, and that may be hours after the first of them was written. So it
    is recorded only while all of them stand, under the write lock, where no collector takes any; else they are written
    anew.

    Raises:
        InvalidArgument: there is no such folder, or a name in it is no text.
        InvalidPayload: the redactor changes the list; nothing was recorded.
        MissingBlob: collectors take the files as fast as they are read.
        OSError: a file cannot be read, or the disk takes no more.
    """
    for left in reversed(range(_TRIES)):
        event, digests = gathered(stream.store.blobs, folder, name)
        _check_list(stream.store, stream.name, event, digests)
        try:
            return stream.append(event, attempt=attempt, key=key, provided=_standing(stream.store, digests))[0]
        except MissingBlob:
            if not left:
                raise
    raise AssertionError  # the last try returned or raised


def _standing(store: EventStore, digests: list[str]) -> Callable[[Writing], None]:
    def check(_writing: Writing) -> None:
        for digest in digests:
            if not store.log.blobs.is_there(digest):
                raise MissingBlob(digest)

    return check


def _check_list(store: EventStore, run_id: str, event: LogRecorded, digests: list[str]) -> None:
    """Whether the list is recorded as it is: a digest that a redactor takes for a secret would be the file's loss.

    Raises:
        InvalidPayload: it is not.
    """
    (draft,) = store.gate.draft(run_id, [event])
    if sorted(listed(draft.data)) != sorted(digests):
        reason = f"is changed by the redactor, and is all that leads to the files; let {FILES_SAVED!r} pass there"
        raise InvalidPayload(draft.type, "$.payload.files", reason)


def gathered(blobs: Blobs, folder: str | Path, name: str) -> tuple[LogRecorded, list[str]]:
    """Keep a folder's files as blobs; the event that lists them, and the digests in it.

    Raises:
        InvalidArgument, OSError: as `save` says.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise InvalidArgument("folder", str(folder), "is no folder; name one whose files are to be saved")
    files = OperatingSystem()
    files.own(root)
    saved: dict[str, Json] = {}
    left_out: list[str] = []
    digests: list[str] = []
    for path in _walked(files, root):
        place = root / path
        if not path.isprintable() and not _is_text(path):
            raise InvalidArgument("folder", str(folder), f"holds the name {path!r}, which is no text; rename it")
        # What is open, or no file, is not even opened and closed again: the first would drop SQLite's locks, and of a
        # pipe it would let go of who waits at the other end.
        if is_open(place) or (place.exists() and not place.is_file()):
            left_out.append(path)
            continue
        try:  # both refuse a symlink, and what became something else a moment ago
            found = files.stat(place)
            source = None if found is None else files.open(place)
        except OSError:
            if place.is_file() and not place.is_symlink():
                raise
            left_out.append(path)
            continue
        if found is None or source is None:  # gone since its folder was read
            continue
        with source:
            counted = _Counted(source)
            digests.append(blobs.write(counted))  # type: ignore[arg-type]
        saved[path] = {"blob": digests[-1], "size": counted.size, "executable": found.executable}
    payload: dict[str, Json] = {"files": saved, "left_out": [*left_out]}
    return LogRecorded(SOURCE, FILES_SAVED, name, payload), digests


class FileSets:
    """The sets of files that runs saved. Made by `Runs`, as `runs.files`.

    Args:
        blobs: where the files are kept.
        entries: generic log entries by their filters; see `notes.Logs.each`.
        stream: gives a run's stream; raises `RunNotFound`.
        files: the port for file work, through which they are brought back.
    """

    def __init__(
        self,
        blobs: Blobs,
        entries: Callable[..., Iterator[Any]],
        stream: Callable[[str], Stream[Any]],
        files: Files | None = None,
    ) -> None:
        self._files = files or OperatingSystem()
        self._blobs = blobs
        self._entries = entries
        self._stream = stream

    def of(self, run_id: str, *, name: str | None = None) -> list[FileSet]:
        """The sets that a run saved, in order; only those of a name if one is given.

        Raises:
            RunNotFound: no run of that id.
        """
        stream = self._stream(run_id).name
        only = {} if name is None else {"ref": name}
        found = self._entries(stream=stream, source=SOURCE, kind=FILES_SAVED, **only)
        return [_set(item) for item in found]

    def restore(
        self, run_id: str, folder: str | Path, *, name: str | None = None, version: int | None = None
    ) -> FileSet:
        """Write the files of a set into a folder, each whole or not at all.

        A file of the same path is replaced, and what else is there stays. Nothing is written before every blob was
        read and proved, and nothing outside the folder, whatever the set says: symlinks in it are not followed.

        Args:
            run_id: whose.
            folder: is made if it is not there.
            name: of the set; any unless given.
            version: of the event that lists it; the last one unless given.

        Raises:
            RunNotFound: no run of that id.
            InvalidArgument: it saved no such set, or a path in it leads out of the folder, or to a file of a store
                that is open in this process, or the disk takes two of them for one; nothing was written.
            MissingBlob: a file of it is missing or damaged; nothing was written.
            OSError: the disk does not take it, or a symlink is in the way; some files may stand.
        """
        chosen = [item for item in self.of(run_id, name=name) if version in (None, item.version)]
        if not chosen:
            what, value = ("version", version) if version is not None else ("name", name)
            raise InvalidArgument(what, value, f"names no files that {run_id} saved; `runs.files.of` lists them")
        found = chosen[-1]
        places = {path: _within(path) for path in found.files}
        for digest in {file.digest for file in found.files.values()}:
            if not self._blobs.exists(digest):
                raise MissingBlob(digest)
        root = Path(folder).resolve()
        for path, parts in places.items():
            if is_open(root.joinpath(*parts)):
                reason = f"is a file of an open store in {root}, and would be written over; restore into another folder"
                raise InvalidArgument("path", path, reason)
        files = self._files
        files.own(root)
        _refuse_twins(files, root, found.files)
        files.folder(root)
        for path, file in found.files.items():
            target = root.joinpath(*places[path])
            files.folder(target.parent)
            with self._blobs.open(file.digest) as source, files.writing(target, executable=file.executable) as made:
                while piece := source.read(1024 * 1024):
                    made.write(piece)
        return found


def _set(entry: Any) -> FileSet:
    """A set as its entry tells it. The entry may be anybody's: what is no list of files lists none."""
    payload = entry.payload if isinstance(entry.payload, dict) else {}
    files, left_out = payload.get("files"), payload.get("left_out")
    saved = {
        path: SavedFile(str(file.get("blob")), _number(file.get("size")), file.get("executable") is True)
        for path, file in (files.items() if isinstance(files, dict) else ())
        if isinstance(file, dict)
    }
    names = tuple(map(str, left_out)) if isinstance(left_out, list) else ()
    return FileSet(entry.stream, entry.version, entry.ref or "", entry.at, saved, names)


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _within(path: str) -> list[str]:
    """The parts of a path that stays in its folder.

    Raises:
        InvalidArgument: it does not, or is none.
    """
    parts = path.split("/")
    strange = "\0" in path or (os.sep != "/" and any(sign in path for sign in (os.sep, ":")))
    if strange or any(part in ("", ".", "..") for part in parts):
        raise InvalidArgument("path", path, "leads out of the folder, or is none: somebody forged it")
    return parts


_ALIKE: tuple[tuple[Callable[[str], str], str, str], ...] = (
    (str.casefold, "a", "A"),
    (partial(unicodedata.normalize, "NFC"), "\u00e4", "a\u0308"),
)
"""In what names may differ that a disk takes for one: case, or how an accent is written; each with an example."""


def _refuse_twins(files: Files, root: Path, paths: Collection[str]) -> None:
    """Two files that the disk takes for one would both be written, and the first be gone.

    Raises:
        InvalidArgument: there are such; nothing was written.
    """
    if not _twins(paths, [alike for alike, _, _ in _ALIKE]):
        return
    taken = [alike for alike, one, other in _ALIKE if _takes_for_one(files, root, one, other)]
    for standing, path in _twins(paths, taken):
        reason = f"and {standing!r} are one name to the disk of {root}, so one would be lost; restore elsewhere"
        raise InvalidArgument("path", path, reason)


def _twins(paths: Collection[str], ways: Sequence[Callable[[str], str]]) -> list[tuple[str, str]]:
    """Those that are one where names may differ in all of these ways, each with the first of its kind."""
    first: dict[str, str] = {}
    return [(standing, path) for path in paths if (standing := first.setdefault(_same(path, ways), path)) != path]


def _same(path: str, ways: Sequence[Callable[[str], str]]) -> str:
    return reduce(lambda name, alike: alike(name), ways, path)


def _takes_for_one(files: Files, folder: Path, one: str, other: str) -> bool:
    """Whether names that differ as these two do are one, as a file that is made for a moment tells."""
    while files.stat(folder) is None:
        folder = folder.parent
    name = f".runfold-{os.urandom(8).hex()}-"
    files.make(folder / (name + one))
    try:
        return files.stat(folder / (name + other)) is not None
    finally:
        files.remove(folder / (name + one))


def _walked(files: OperatingSystem, root: Path) -> Iterator[str]:
    """Everything below a folder that is no folder, by path within it, in order; and folders of an open store."""
    waiting = files.names(root)[::-1]
    while waiting:  # no recursion: folders may lie deeper within each other than Python calls itself
        path = waiting.pop()
        place = root / path
        if place.is_dir() and not place.is_symlink() and not is_open(place):
            waiting += [f"{path}/{name}" for name in reversed(files.names(place))]
        else:
            yield path


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Counted:
    """A stream that counts what was read of it: a file may grow after somebody asked for its size."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.size = 0

    def read(self, size: int) -> bytes:
        """See `BinaryIO`."""
        data = self._source.read(size)
        self.size += len(data)
        return data
