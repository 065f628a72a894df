"""A segment as it grows: entries become lines, lines blocks, and blocks bytes; where these go is told from outside."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import attrs
from attrs import define, field, frozen

from eventstore.errors import UnreadableEntry
from eventstore.integrity import chain
from eventstore.log import Block, Entry, Segment, Span
from eventstore.segments.lines import closing_line, line_of

BLOCK_BYTES = 128 * 1024
"""Of lines, from which a block ends: reading an entry costs one."""
COMPRESSED_BLOCK_BYTES = 4 * 1024 * 1024
"""The same of a compressed file: checkpoints stand whole in it, and what one repeats of another is to be found."""
_FEW_TYPES = 2
ALTERED = "`runfold verify` tells what is sound; restore a backup"
"""What to do about a log to which somebody did what no program of ours does."""


@frozen
class Sealed:
    """A segment, and where in its file the entries stand."""

    segment: Segment
    blocks: tuple[Block, ...]


@define(eq=False)
class Index:
    """What the log's tables tell of a file, made of its entries: their types, and which of them stand in which block.

    Of a day of many streams there may be as many spans as entries, so those of one block are held at a time.
    """

    types: dict[str, tuple[int, int]] = field(factory=dict)
    """Of each type the entries, and the bytes of their payloads."""
    _open: dict[str, tuple[int, int, set[str]]] = field(factory=dict)

    def add(self, entry: Entry) -> None:
        """One more entry of this block."""
        count, size = self.types.get(entry.type, (0, 0))
        self.types[entry.type] = count + 1, size + len(entry.data.encode())
        first, _, types = self._open.get(entry.stream) or (entry.version, 0, set())
        types.add(entry.type)
        self._open[entry.stream] = first, entry.version, types

    def cut(self, block: int) -> list[Span]:
        """The block ends, which began at this position; what stands in it."""
        held, self._open = self._open, {}
        return [
            Span(stream, begin, end, block, tuple(sorted(types)) if len(types) <= _FEW_TYPES else None)
            for stream, (begin, end, types) in held.items()
        ]


@define(eq=False)
class SegmentWriter:
    """One file as it grows: lines become blocks, blocks become bytes."""

    day: str
    before: bytes
    block_bytes: int
    """From which a block ends."""
    put: Callable[[bytes], object]
    """Where the file's bytes go."""
    stored: Callable[[bytes, int], bytes]
    """The bytes of a block as they stand in the file, by its number."""
    blocks: list[Block] = field(factory=list)
    index: Index = field(factory=Index)
    offset: int = 0
    _whole: Any = field(factory=sha256)
    _lines: list[bytes] = field(factory=list)
    _size: int = 0
    _last: Entry | None = None

    def add(self, entry: Entry) -> None:
        """Write one more entry.

        Raises:
            UnreadableEntry: its hash does not follow from the entries before it: nothing is sealed that is damaged.
        """
        previous = self.before if self._last is None else self._last.hash
        if chain(previous, entry) != entry.hash:
            reason = "it, or an entry before it, was altered: its hash does not follow"
            raise UnreadableEntry(entry.position, entry.stream, entry.type, reason, ALTERED)
        line = line_of(entry)
        self._lines.append(line)
        self._size += len(line)
        self.index.add(entry)
        self._last = entry
        if self._size >= self.block_bytes:
            self._cut(entry)

    def close(self, log_id: str, file: str) -> Sealed:
        """Write the closing line; what was written."""
        assert self._last is not None, "a day without entries has no segment"  # noqa: S101 - a pair assertion
        if self._lines:
            self._cut(self._last)
        segment = Segment(
            self.day, self.blocks[0].first, self._last.position, self.before, self._last.hash, self._whole.digest(),
            file, 0, self.index.types,
        )  # fmt: skip
        end = self.stored(closing_line(log_id, segment), len(self.blocks))
        self.put(end)
        size = self.offset + len(end)
        return Sealed(attrs.evolve(segment, size=size), tuple(self.blocks))

    def _cut(self, last: Entry) -> None:
        lines = b"".join(self._lines)
        stored = self.stored(lines, len(self.blocks))
        first = last.position - len(self._lines) + 1
        digest = sha256(lines).digest()
        self.blocks.append(Block(first, last.position, len(self.blocks), self.offset, len(stored), digest))
        self.index.cut(first)
        self._whole.update(lines)
        self.put(stored)
        self.offset += len(stored)
        self._lines, self._size = [], 0
