"""The folder of one log's segments: where files are written, read block by block, and proved."""

from __future__ import annotations

import io
import re
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING, Any

from eventstore.errors import ArchiveBusy, CannotOpen, DamagedSegment, SegmentMissing
from eventstore.integrity import chain
from eventstore.limits import MAX_BYTES
from eventstore.log import Block, Entry, Segment, Span
from eventstore.segments.lines import closing_line, day_of, entry_of
from eventstore.segments.writing import BLOCK_BYTES, COMPRESSED_BLOCK_BYTES, Index, Sealed, SegmentWriter

if TYPE_CHECKING:
    from pathlib import Path

    from eventstore.ciphers import Cipher
    from eventstore.files import Files

_LARGEST = COMPRESSED_BLOCK_BYTES + 4 * MAX_BYTES
"""No block has more bytes: what claims to is refused before memory is taken for it."""
_CACHED = 16 * 1024 * 1024
"""Bytes of blocks that were read last and are kept, the last one always: a stream is read page by page."""
_ROWS = 500
"""Rows of an index that are written in one transaction: so long others wait, some milliseconds."""
_LEVEL = 6
_WINDOW = 22
"""As a power of two, how far zstd looks back: over all of a block. `zstd -d` takes 27."""
_LENGTH = struct.Struct(">Q")
_NAME = re.compile(r"\d{4}-\d{2}-\d{2}\.jsonl(\.zst)?(\.enc)?")
_NEW = ".new"


class Archive:
    """The folder of one log's segments.

    Args:
        files: the port for file work.
        folder: `agent.db-archive`; it is made when the first segment is written.
        log_id: whose segments; a file of another log is told by it.
        cipher: gives what encrypts the blocks, or None to leave them readable; asked when there are some.
    """

    def __init__(
        self, files: Files, folder: Path, log_id: str, cipher: Callable[[], Cipher | None] = lambda: None
    ) -> None:
        self.files = files
        self.folder = folder
        self._logs = folder / "logs"
        self._log_id = log_id
        self._cipher = cipher
        self._cached: OrderedDict[tuple[str, int], tuple[Any, int, list[bytes]]] = OrderedDict()
        self._bytes = 0
        self._caching = threading.Lock()
        files.own(folder)

    def path(self, file: str) -> Path:
        """Where a segment's file lies."""
        return self._logs / file

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder, which is made: whoever writes segments or lets entries go is alone.

        Raises:
            ArchiveBusy: somebody else holds it.
            CannotOpen: it is a symlink, or cannot be made or written.
        """
        with ExitStack() as stack:
            try:
                self.files.folder(self._logs)
                stack.enter_context(self.files.lock(self.folder / "lock"))
            except BlockingIOError as error:
                raise ArchiveBusy(str(self.folder)) from error
            except OSError as error:
                raise CannotOpen(str(error.filename or self.folder), _why(error)) from error
            for name in self.files.names(self._logs):  # what a killed run left: nobody else writes here now
                if name.endswith((".tmp", _NEW)):
                    self.files.remove(self._logs / name)
            yield

    def write(self, before: bytes, entries: Iterable[Entry], *, compress: bool = False, dry: bool = False) -> Sealed:
        """Write the segment of a day, durably and under its own name: nothing of it is recorded yet.

        What a killed run left under the name is replaced, where it is the same; else it is put aside.

        Args:
            before: the chain's hash before the first entry.
            entries: all of the day, in order, at least one.
            compress: with zstd.
            dry: write nothing, and only say what would be.

        Raises:
            UnreadableEntry: an entry does not follow from those before it; nothing was written.
        """
        entries = iter(entries)
        first = next(entries)
        day = day_of(first.recorded_at)
        file = f"{day}.jsonl{'.zst' if compress else ''}{'.enc' if self._cipher() else ''}"
        kept = None if dry else self._last_line(file)
        path = self.path(file) if kept is None else self.path(file + _NEW)
        with nullcontext() if dry else self.files.writing(path) as output:
            put = (lambda _: None) if output is None else output.write
            size = COMPRESSED_BLOCK_BYTES if compress else BLOCK_BYTES
            stored = partial(self._stored, file)
            writer = SegmentWriter(day, before, size, put, stored)
            writer.add(first)
            for entry in entries:
                writer.add(entry)
            sealed = writer.close(self._log_id, file)
        if kept is not None:
            self._replace(file, same=kept == closing_line(self._log_id, sealed.segment))
        return sealed

    def index(self, sealed: Sealed, write: Callable[[Callable[[Any], None]], object]) -> None:
        """Prove a file that was written just now, and tell the log where entries stand in it, some at a time.

        It means nothing until the day is recorded; the next try takes away what one left that came to nothing.

        Args:
            sealed: what was written.
            write: runs a job in a write transaction of the log.

        Raises:
            SegmentMissing, DamagedSegment: as `prove`.
        """
        blocks: list[Block] = []
        spans: list[Span] = []

        def tell(block: Block, of_it: list[Span]) -> None:
            blocks.append(block)
            spans.extend(of_it)
            if len(spans) >= _ROWS or block is sealed.blocks[-1]:
                write(lambda writing: writing.index(tuple(blocks), tuple(spans)))
                blocks.clear()
                spans.clear()

        self.prove(sealed.segment, sealed.blocks, tell)

    def prove(
        self,
        segment: Segment,
        blocks: Sequence[Block],
        tell: Callable[[Block, list[Span]], object] = lambda _block, _spans: None,
    ) -> None:
        """Read a segment from the disk and prove all of it: every line, its chain, its digest, its closing line.

        Args:
            segment: as it was recorded, or is to be.
            blocks: its parts.
            tell: is told of each part, when it was read, which versions of which streams stand in it.

        Raises:
            SegmentMissing, DamagedSegment: nothing was changed.
        """
        self._forget()
        hashed, whole = segment.before, sha256()
        position, offset, index = segment.first, 0, Index()
        for block in blocks:
            if block.first != position or block.offset != offset:
                raise self._damaged(segment, "its index has holes: make the tables anew from the file")
            lines = self.lines(segment, block)
            for line in lines:
                entry = self._entry(segment, line)
                if entry.position != position or chain(hashed, entry) != entry.hash:
                    raise self._damaged(segment, f"at position {position} the chain does not follow")
                if day_of(entry.recorded_at) != segment.day:
                    raise self._damaged(segment, f"position {position} was recorded on another day")
                index.add(entry)
                hashed, position = entry.hash, position + 1
            tell(block, index.cut(block.first))
            whole.update(b"".join(lines))
            offset += block.size
        end = Block(0, 0, len(blocks), offset, segment.size - offset, b"")
        closing = self._read(segment, end)
        if position != segment.last + 1 or hashed != segment.after or whole.digest() != segment.digest:
            raise self._damaged(segment, "it does not hold what was recorded of it")
        if closing != closing_line(self._log_id, segment):
            raise self._damaged(segment, "its closing line is not the one that was written")
        if index.types != dict(segment.types):
            raise self._damaged(segment, "it holds other types than the log's tables tell of: somebody altered them")

    def spare(self, segments: Iterable[Segment]) -> Iterator[tuple[Segment, str]]:
        """Files that hold just what a segment does, under the other names of its day: nobody recorded them.

        A run that was killed before it recorded a day leaves one, if the next seals that day compressed, or no longer.
        """
        sealed = {segment.day: segment for segment in segments}
        for file in self.files.names(self._logs):
            segment = sealed.get(file[: len("2026-11-20")])
            if segment and file != segment.file and _NAME.fullmatch(file) and self._is_alike(file, segment):
                yield segment, file

    def lines(self, segment: Segment, block: Block) -> list[bytes]:
        """The lines of a block, held against its digest; those that were read before, if the file is still that one.

        Raises:
            SegmentMissing, DamagedSegment: nothing was changed.
        """
        key, stat = (segment.file, block.offset), self._stat(segment)
        with self._caching:
            held = self._cached.get(key)
            if held is not None and held[0] == stat:
                self._cached.move_to_end(key)
                return held[2]
        text = self._read(segment, block)
        lines = io.BytesIO(text).readlines()
        if sha256(text).digest() != block.digest or len(lines) != block.last - block.first + 1:
            raise self._damaged(segment, self._other(lines, block))
        self._keep(key, stat, len(text), lines)
        return lines

    def entries(self, segment: Segment, block: Block) -> Iterator[Entry]:
        """The entries of a block."""
        return (self._entry(segment, line) for line in self.lines(segment, block))

    # --- one file -----------------------------------------------------------------------------------------------

    def _stored(self, file: str, lines: bytes, number: int) -> bytes:
        if ".zst" in file:
            import zstandard  # noqa: PLC0415 - imported when something is compressed

            how = zstandard.ZstdCompressionParameters.from_level(
                _LEVEL, source_size=len(lines), window_log=_WINDOW, enable_ldm=True, write_content_size=1
            )
            lines = zstandard.ZstdCompressor(compression_params=how).compress(lines)
        cipher = self._cipher()
        if cipher is None:
            return lines
        box = cipher.seal(lines, self._context(file, number))
        return _LENGTH.pack(len(box)) + box

    def _replace(self, file: str, *, same: bool) -> None:
        """Give a new file its name. What bore it is nobody's record; but where it differs, a person must decide."""
        if not same:
            names = (self.path(f"{file}.aside-{number}") for number in count(1))
            self.files.rename(self.path(file), next(name for name in names if self.files.stat(name) is None))
        self.files.rename(self.path(file + _NEW), self.path(file))

    def _last_line(self, file: str) -> bytes | None:
        """The last line of a file that nobody recorded, b"" where it cannot be read; None if it is not there."""
        if self.files.stat(self.path(file)) is None:
            return None
        line = b""
        with suppress(ValueError, OSError):
            for line in self.scan(file):  # noqa: B007 - the last one is what is looked for
                pass
        return line

    def _is_alike(self, file: str, segment: Segment) -> bool:
        """Whether a file has the lines of a segment, the closing one too, and no others."""
        whole, last = sha256(), b""
        try:
            for line in self.scan(file):
                whole.update(last)
                last = line
        except (ValueError, OSError):
            return False
        return whole.digest() == segment.digest and last == closing_line(self._log_id, segment)

    def scan(self, file: str) -> Iterator[bytes]:
        """All lines of a file, the closing one too, without looking at what is recorded of it.

        Raises:
            ValueError, OSError: it is none of ours, damaged, or not there.
        """
        with self.files.open(self.path(file)) or nullcontext() as source:
            if source is None:
                raise FileNotFoundError(file)
            if file.endswith(".enc"):
                number = 0
                while length := source.read(_LENGTH.size):
                    size = min(*_LENGTH.unpack(length), _LARGEST)
                    yield from io.BytesIO(self._plain(file, length + source.read(size), number))
                    number += 1
            elif ".zst" in file:
                import zstandard  # noqa: PLC0415 - imported when something is compressed

                try:
                    with zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True) as reader:
                        yield from io.BufferedReader(reader)
                except zstandard.ZstdError as error:
                    raise ValueError(f"its compressed part cannot be read ({error})") from None
            else:
                yield from source

    def _context(self, file: str, number: int) -> bytes:
        return f"segment {self._log_id} {file} {number}".encode()

    def _plain(self, file: str, stored: bytes, number: int) -> bytes:
        """The lines of a block's bytes.

        Raises:
            ValueError: they are not what was written.
        """
        if file.endswith(".enc"):
            cipher = self._cipher()
            if cipher is None:
                raise ValueError("it is encrypted, and this log is not")
            stored = cipher.open(stored[_LENGTH.size :], self._context(file, number))
        if ".zst" not in file:
            return stored
        import zstandard  # noqa: PLC0415 - imported when something is compressed

        try:
            if not 0 <= zstandard.frame_content_size(stored) <= _LARGEST:
                raise ValueError("its compressed part is of another size")
            return zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ValueError(f"its compressed part cannot be read ({error})") from None

    @staticmethod
    def _other(lines: Sequence[bytes], block: Block) -> str:
        """In what lines differ from those that were sealed."""
        try:
            found = entry_of(lines[0]).position
        except (IndexError, KeyError, ValueError):
            found = block.first
        if found != block.first:
            return f"position {found} stands where {block.first} must stand: it is another file"
        return "its bytes are not those that were sealed"

    def _keep(self, key: tuple[str, int], stat: object, size: int, lines: list[bytes]) -> None:
        with self._caching:
            if (before := self._cached.pop(key, None)) is not None:
                self._bytes -= before[1]
            self._cached[key] = stat, size, lines
            self._bytes += size
            while self._bytes > _CACHED and len(self._cached) > 1:
                self._bytes -= self._cached.popitem(last=False)[1][1]

    def _forget(self) -> None:
        with self._caching:
            self._cached.clear()
            self._bytes = 0

    def _stat(self, segment: Segment) -> object:
        if not _NAME.fullmatch(segment.file) or not segment.file.startswith(segment.day):
            raise self._damaged(segment, "no segment has such a name: somebody altered the log's tables")
        try:
            stat = self.files.stat(self.path(segment.file))
        except OSError as error:  # a symlink, or no folder where one is to be
            raise self._damaged(segment, _why(error)) from error
        if stat is None:
            raise SegmentMissing(segment.day, self._shown(segment), segment.first, segment.last)
        if stat[0] != segment.size:
            raise self._damaged(segment, f"it has {stat[0]} bytes, and {segment.size} were written")
        return stat

    def _read(self, segment: Segment, block: Block) -> bytes:
        """The lines of a block, as they stand in the file."""
        self._stat(segment)
        try:
            with self.files.open(self.path(segment.file)) or nullcontext() as file:
                if file is None:
                    raise SegmentMissing(segment.day, self._shown(segment), segment.first, segment.last)
                file.seek(block.offset)
                return self._plain(segment.file, file.read(block.size), block.number)
        except (ValueError, OSError) as error:
            raise self._damaged(segment, _why(error)) from error

    def _entry(self, segment: Segment, line: bytes) -> Entry:
        try:
            return entry_of(line)
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(segment, f"a line cannot be read ({error})") from error

    def _shown(self, segment: Segment) -> str:
        """Where its file belongs, seen from beside the database."""
        return f"{self.folder.name}/{self._logs.name}/{segment.file}"

    def _damaged(self, segment: Segment, reason: str) -> DamagedSegment:
        return DamagedSegment(segment.day, self._shown(segment), segment.first, segment.last, reason)


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
