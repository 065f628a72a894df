"""Blobs as files: bytes of any size, named by their SHA-256. What needs them, and what may go, is told by `blobs`.

A blob is the file `ab/cdef…` in a folder of its own: 2 and 62 hex digits of its name. It is written whole, synced, and
only then gets its name, so there is a blob or there is none. Whoever reads one gets its last piece only when all of it
fits its digest; whoever writes one that stands damaged has healed it. In an encrypted store a file is a row of boxes,
each of a mebibyte, and its name tells nothing (see `ciphers`); else it is the bytes themselves, for any tool.

A collector and a writer may meet at one blob. The collector first puts it aside, under another name, and looks at its
age there once more; the writer who found it standing has made it young before he relies on it, or finds it gone and
writes it anew. A reader looks at both names. So a collector that is killed between has taken nothing away.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from eventstore.ciphers import OVERHEAD, DamagedBox
from eventstore.errors import DamagedBlob, InvalidArgument, MissingBlob
from eventstore.files import Stat

if TYPE_CHECKING:
    from eventstore.ciphers import Cipher
    from eventstore.files import Files, Writer

PIECE = 1024 * 1024
"""Bytes that are held at once, and that a box holds."""
PUT_BACK = "put the blob back with `runfold blobs put FILE`, or restore a backup"
"""What to do about an entry whose blob is missing or damaged."""
DIGEST = re.compile(r"[0-9a-f]{64}")
_FOLDER = re.compile(r"[0-9a-f]{2}")
_FILE = re.compile(r"([0-9a-f]{62})(\.aside)?")
_TEMPORARY = re.compile(r"[0-9a-f]+\.[0-9a-f]+\.tmp|[0-9a-f]{32}")
_NEVER = 2**63
"""A time before which nothing is old."""
_INCOMING = "incoming"
"""Where what comes in pieces is kept until its digest, and so its name, is known."""


class BlobFile(NamedTuple):
    """A file of ours in the folder of blobs."""

    name: str
    """Of the blob, 64 hex digits; "" for what a kill left of one that was being written."""
    path: Path
    size: int
    modified: int
    """Microseconds since 1970."""
    aside: bool
    """Whether a collector that was killed had put it aside."""


class BlobFiles:
    """The blobs in one folder.

    Args:
        root: the folder; it is made with the first blob.
        files: the port for file work.
        cipher: what encrypts them, if anything does.
    """

    def __init__(self, root: Path, files: Files, cipher: Cipher | None = None) -> None:
        self.root = root
        self._files = files
        self.cipher = cipher
        files.own(root)

    def name(self, digest: str) -> str:
        """What the blob of this digest is called among the files.

        Raises:
            InvalidArgument: it is no digest.
        """
        if not isinstance(digest, str) or DIGEST.fullmatch(digest) is None:
            raise InvalidArgument("digest", digest, "is no SHA-256 in 64 hex digits, in lower case")
        return self.named(digest)

    def named(self, digest: str) -> str:
        """The same of what is known to be one, or to have the shape of one: a log may hold millions."""
        return digest if self.cipher is None else self.cipher.name(digest)

    # --- writing ------------------------------------------------------------------------------------------------

    def write(self, source: bytes | BinaryIO) -> str:
        """Have these bytes there, durable when this returns; the digest that names them.

        A damaged blob of that name is healed. What comes as a stream is never held in memory.
        """
        if not isinstance(source, bytes):
            return self._taken(source)
        digest = hashlib.sha256(source).hexdigest()
        if not self._stands(digest):
            path = self._path(self.name(digest))
            self._files.folder(path.parent)
            with self._files.writing(path) as file:
                for number, start in enumerate(range(0, len(source), PIECE)):
                    file.write(self._sealed(source[start : start + PIECE], number))
        return digest

    def _taken(self, source: BinaryIO) -> str:
        incoming = self._incoming()
        seen = hashlib.sha256()
        with self._files.writing(incoming) as file:
            for number, piece in enumerate(_pieces(source, PIECE)):
                seen.update(piece)
                file.write(self._sealed(piece, number))
        digest = seen.hexdigest()
        if self._stands(digest):
            self._files.remove(incoming)
            return digest
        path = self._path(self.name(digest))
        self._files.folder(path.parent)
        self._files.rename(incoming, path)
        return digest

    def _incoming(self) -> Path:
        folder = self.root / _INCOMING
        self._files.folder(folder)
        return folder / os.urandom(16).hex()

    def _stands(self, digest: str) -> bool:
        """Whether it is there, sound, and from now on young: no collector takes it away before it is mentioned."""
        return self.exists(digest) and self._files.touch(self._path(self.name(digest)))

    def _sealed(self, piece: bytes, number: int) -> bytes:
        return piece if self.cipher is None else self.cipher.seal(piece, _context(number))

    # --- reading ------------------------------------------------------------------------------------------------

    def is_there(self, digest: str) -> bool:
        """Whether a file of that name is there, which is not looked into: under the write lock it stays.

        Raises:
            InvalidArgument: it is no digest.
        """
        path = self._path(self.name(digest))
        return any(self._files.stat(place) is not None for place in (path, _aside(path)))

    def exists(self, digest: str) -> bool:
        """Whether it can be read: all of it is looked at, so a damaged one does not exist.

        Raises:
            InvalidArgument: it is no digest.
        """
        try:
            for _ in self.pieces(digest):
                pass
        except (MissingBlob, DamagedBlob):
            return False
        return True

    def read(self, digest: str) -> bytes:
        """All of it.

        Raises:
            MissingBlob, DamagedBlob: it is not there, or not what its digest says.
            InvalidArgument: it is no digest.
        """
        return b"".join(self.pieces(digest))

    def open(self, digest: str) -> BinaryIO:
        """A stream of it, which the caller closes; it can be read only forward.

        Reading its last piece raises `DamagedBlob` if what was read is not what the digest says.

        Raises:
            MissingBlob: it is not there.
            InvalidArgument: it is no digest.
        """
        file = self._opened(digest)
        return io.BufferedReader(_Stream(self._proved(file, digest), file), PIECE)

    def pieces(self, digest: str) -> Iterator[bytes]:
        """It, piece by piece; the last one comes when all of them proved to be what the digest says.

        Raises:
            MissingBlob, DamagedBlob: it is not there, or not what its digest says; the former at once.
            InvalidArgument: it is no digest.
        """
        file = self._opened(digest)
        return self._proved(file, digest)

    def digest_of(self, item: BlobFile) -> str:
        """What is really in a file.

        Raises:
            DamagedBlob: it cannot be read.
        """
        seen = hashlib.sha256()
        try:
            file = self._files.open(item.path)
            if file is None:
                raise MissingBlob(item.name)
            with file:
                for piece in self._plain(file):
                    seen.update(piece)
        except (OSError, DamagedBox) as error:
            raise DamagedBlob(item.name, _why(error)) from error
        return seen.hexdigest()

    def _opened(self, digest: str) -> BinaryIO:
        try:
            file = self._found(self.name(digest))
        except OSError as error:
            raise DamagedBlob(digest, _why(error)) from error
        if file is None:
            raise MissingBlob(digest)
        return file

    def _found(self, name: str) -> BinaryIO | None:
        path = self._path(name)
        for place in (path, _aside(path), path):  # the last, if a collector has brought it back meanwhile
            if (file := self._files.open(place)) is not None:
                return file
        return None

    def _proved(self, file: BinaryIO, digest: str) -> Iterator[bytes]:
        seen = hashlib.sha256()
        held = b""
        with file:
            try:
                for piece in self._plain(file):
                    if held:
                        yield held
                    seen.update(piece)
                    held = piece
            except (OSError, DamagedBox) as error:
                raise DamagedBlob(digest, _why(error)) from error
        if seen.hexdigest() != digest:
            raise DamagedBlob(digest, "its bytes are others than were written")
        if held:
            yield held

    def _plain(self, file: BinaryIO) -> Iterator[bytes]:
        if self.cipher is None:
            yield from _pieces(file, PIECE)
            return
        for number, box in enumerate(_pieces(file, PIECE + OVERHEAD)):
            yield self.cipher.open(box, _context(number))

    # --- copying ------------------------------------------------------------------------------------------------

    def is_sound(self, item: BlobFile) -> bool:
        """Whether a file is the blob that its name says."""
        try:
            return self.name(self.digest_of(item)) == item.name
        except (MissingBlob, DamagedBlob):
            return False

    def take(self, name: str, source: BlobFiles) -> bool:
        """Have a blob of another folder here; it gets its name when it was read back.

        Where the other folder has another cipher, or none, it is encrypted anew, and called otherwise.

        Returns:
            Whether it was there: a collector may have taken it away, which no entry mentions then.

        Raises:
            DamagedBlob: it is not what its name says; what stands here stays as it is.
        """
        try:
            file = source._found(name)
        except OSError as error:
            raise DamagedBlob(name, _why(error)) from error
        if file is None:
            return False
        incoming = self._incoming()
        called = name
        with file, self._files.writing(incoming) as copy:
            if self.cipher == source.cipher:
                for piece in _pieces(file, PIECE):
                    copy.write(piece)
            else:
                called = self._recast(name, source, file, copy)
        if not self.is_sound(BlobFile(called, incoming, 0, 0, aside=False)):
            self._files.remove(incoming)
            raise DamagedBlob(name, "its bytes are others than were written")
        path = self._path(called)
        self._files.folder(path.parent)
        self._files.rename(incoming, path)
        return True

    def _recast(self, name: str, source: BlobFiles, file: BinaryIO, copy: Writer) -> str:
        """Write a blob as it stands here, and tell what it is called here."""
        seen = hashlib.sha256()
        try:
            for number, piece in enumerate(source._plain(file)):
                seen.update(piece)
                copy.write(self._sealed(piece, number))
        except DamagedBox as error:
            raise DamagedBlob(name, _why(error)) from error
        digest = seen.hexdigest()
        if source.name(digest) != name:
            raise DamagedBlob(name, "its bytes are others than were written")
        return self.name(digest)

    # --- the files themselves -----------------------------------------------------------------------------------

    def each(self) -> Iterator[BlobFile]:
        """Every file of ours, also what a kill left; what else lies in the folder is somebody's, and passed over."""
        for name in self._files.names(self.root):
            folder = self.root / name
            if _FOLDER.fullmatch(name) or name == _INCOMING:
                for file in self._files.names(folder):
                    item = self._item(name, folder / file)
                    if item is not None:
                        yield item

    def _item(self, folder: str, path: Path) -> BlobFile | None:
        whole = _FILE.fullmatch(path.name) if folder != _INCOMING else None
        if whole is None and _TEMPORARY.fullmatch(path.name) is None:
            return None
        try:
            found = self._files.stat(path)
        except OSError:  # a symlink in its place
            found = Stat(0, 0, folder=True)
        if found is None:  # gone since the folder was read
            return None
        if found.folder:  # no file: `check` says so, and `gc` leaves it to whoever put it there
            return None if whole is None else BlobFile(folder + whole[1], path, 0, _NEVER, aside=bool(whole[2]))
        name = "" if whole is None else folder + whole[1]
        return BlobFile(name, path, found.size, found.modified, aside=bool(whole and whole[2]))

    def bring_back(self, item: BlobFile) -> None:
        """Give a file that was put aside its name again; it is needed."""
        path = self._path(item.name)
        if self._files.stat(path) is None:
            self._files.rename(item.path, path)
        else:
            self._files.remove(item.path)

    def let_go(self, item: BlobFile, before: int) -> bool:
        """Take a file away if it is older than that, also after nobody can find it standing any more.

        Args:
            item: a file that no entry mentions.
            before: microseconds since 1970; what was written or touched since stays.

        Returns:
            Whether it is gone.
        """
        found = self._files.stat(item.path)
        if found is None or found.modified >= before:
            return False
        if not item.name:
            return self._files.remove(item.path)
        path = self._path(item.name)
        aside = _aside(path)
        if not item.aside:
            self._files.rename(path, aside)
            found = self._files.stat(aside)
            if found is not None and found.modified >= before:
                # A writer found it standing a moment ago, and made it young.
                self._files.rename(aside, path)
                return False
        return self._files.remove(aside)

    def _path(self, name: str) -> Path:
        return self.root / name[:2] / name[2:]


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.aside")


def _context(number: int) -> bytes:
    return b"blob %d" % number


def _why(error: Exception) -> str:
    words = error.strerror if isinstance(error, OSError) else None
    return f"it cannot be read ({words or error})"


def _pieces(source: BinaryIO, size: int) -> Iterator[bytes]:
    """All of a stream, in pieces of just that size but for the last: a pipe gives fewer bytes at once."""
    while True:
        held = bytearray()
        while len(held) < size:
            more = source.read(size - len(held))
            if not isinstance(more, bytes):
                raise InvalidArgument("source", type(more).__name__, "is what it gives; open it for reading bytes")
            if not more:
                break
            held += more
        if not held:
            return
        yield bytes(held)


class _Stream(io.RawIOBase):
    """Pieces as a raw stream."""

    def __init__(self, pieces: Iterator[bytes], file: BinaryIO) -> None:
        self._pieces = pieces
        self._file = file
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = memoryview(buffer).cast("B")
        if not self._left:
            self._left = memoryview(next(self._pieces, b""))
        given = self._left[: len(wanted)]
        wanted[: len(given)] = given
        self._left = self._left[len(given) :]
        return len(given)

    def close(self) -> None:
        self._file.close()
        super().close()
