"""What two byte strings share: the new one as pieces, copied from the base or given literally. Pure.

States of agents grow, in one place or in several, so almost all of one stands in the one before it. `difference` finds
that at the speed of memcmp: the shared beginning and end first, then, between them, the next place where the two go on
alike. It looks at little and gives up early: what it misses is stored, never wrong. `Whole` is the way back, through
any number of bases, without making any of those.

Copies go forward only, in the base as in the result. So there are never more holes than all pieces together, whatever a
stranger made of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import TypeAlias

Piece: TypeAlias = tuple[int, int, bytes | None]
"""Offset, length, and the bytes they are of; None for those of the base."""

_ANCHOR = 32
"""Bytes that must agree for the search to go on from there: JSON's own phrases are mostly shorter."""
_MOST_EDITS = 512
"""Places that may differ; what comes behind them is literal. Bounds the time, and the pieces of a long descent."""
_FIRST_BLOCK = 256
_LARGEST_BLOCK = 64 * 1024
"""Bytes that are compared at once: not so few that Python's own steps count, and no more than the cache holds."""
_REPLACED = (8, 48)
"""Bytes that may have been replaced by as many others, as a counter is: looked at before anything is searched."""
_LOOKS = (
    (0, 128), (8, 128), (32, 512), (128, 2048), (0, 16_384), (32, 16_384), (512, 16_384), (0, None), (64, None),
    (1024, None),
)  # fmt: skip
"""Where the next shared place is looked for: bytes passed over on one side, and how far to look on the other."""
_SEARCHED = 4
"""How many times the bytes of both may be searched in all, before the rest is taken for different."""


def difference(new: bytes, base: bytes) -> list[Piece]:
    """`new` as pieces over `base`; literal ones are slices of `new` itself."""
    shorter = min(len(new), len(base))
    start = _agree(new, 0, base, 0, shorter)
    end = _agree_backwards(new, len(new), base, len(base), shorter - start)
    pieces: list[Piece] = [(0, start, None)] if start else []
    pieces += _Search(new, len(new) - end, base, len(base) - end).between(start, start)
    if end:
        pieces.append((len(base) - end, end, None))
    return _merged(pieces)


def makes(pieces: Iterable[Piece], base: bytes, new: bytes) -> bool:
    """Whether the pieces make just these bytes; the literal ones are taken to be slices of them."""
    at = 0
    for offset, length, source in pieces:
        if not (offset == at if source is new else _agree(new, at, base, offset, length) == length):
            return False
        at += length
    return at == len(new)


def literal_bytes(pieces: Iterable[Piece]) -> int:
    """How many bytes do not come from the base."""
    return sum(length for _, length, source in pieces if source is not None)


class Whole:
    """A payload that is put together through its bases: bytes that are found, and holes that a base is to fill.

    Each base costs its own pieces and the holes that are left, and the bytes are copied once, at the end.
    """

    def __init__(self, length: int) -> None:
        self._holes: list[tuple[int, int, int]] = [(0, 0, length)]
        """Where in the whole, where in the next base, and how many bytes; ascending in both."""
        self._found: list[tuple[int, int, int, bytes]] = []
        """Where in the whole, where in the bytes, how many of them, and the bytes."""

    def fill(self, pieces: Iterable[Piece]) -> None:
        """Look into the holes: what is literal there is found, what is copied is a hole over the base below."""
        left: list[tuple[int, int, int]] = []
        under = iter(pieces)
        begin = end = offset = 0
        source: bytes | None = None
        for at, wanted, size in self._holes:
            while size:
                while wanted >= end:
                    offset, length, source = next(under)
                    begin, end = end, end + length
                inside = wanted - begin
                taken = min(size, end - wanted)
                if source is not None:
                    self._found.append((at, offset + inside, taken, source))
                elif left and left[-1][1] + left[-1][2] == offset + inside and sum(left[-1][::2]) == at:
                    left[-1] = (*left[-1][:2], left[-1][2] + taken)
                else:
                    left.append((at, offset + inside, taken))
                at, wanted, size = at + taken, wanted + taken, size - taken  # noqa: PLW2901 - the rest of the hole
        self._holes = left

    @property
    def reach(self) -> int:
        """How long the next base must be at least."""
        return self._holes[-1][1] + self._holes[-1][2] if self._holes else 0

    def let_go(self) -> int:
        """Copy what was found, so that what is not used of its sources can be freed; bytes that stay."""
        found = self.join()
        moved, taken = [], 0
        for at, _, length, _ in self._found:
            moved.append((at, taken, length, found))
            taken += length
        self._found = moved
        return taken

    def join(self) -> bytes:
        """All that was found, in order."""
        self._found.sort(key=itemgetter(0))
        return b"".join([memoryview(source)[offset : offset + size] for _, offset, size, source in self._found])


def _merged(pieces: Iterable[Piece]) -> list[Piece]:
    """The same with neighbours made one where they are neighbours in their source too."""
    merged: list[Piece] = []
    for offset, length, source in pieces:
        if merged:
            before = merged[-1]
            if before[2] is source and before[0] + before[1] == offset:
                merged[-1] = (before[0], before[1] + length, source)
                continue
        merged.append((offset, length, source))
    return merged


# --- finding what is shared ---------------------------------------------------------------------------------------


def _agree(one: bytes, i: int, other: bytes, j: int, most: int) -> int:
    """How many bytes agree from `one[i]` and `other[j]` on, at most so many."""
    done, block = 0, _FIRST_BLOCK
    while done < most:
        size = min(block, most - done)
        right = other[j + done : j + done + size]
        if not one.startswith(right, i + done):
            return done + _first_other(one[i + done : i + done + size], right)
        done += size
        block = min(8 * block, _LARGEST_BLOCK)
    return most


def _agree_backwards(one: bytes, i: int, other: bytes, j: int, most: int) -> int:
    """How many bytes agree before `one[i]` and `other[j]`, at most so many."""
    done, block = 0, _FIRST_BLOCK
    while done < most:
        size = min(block, most - done)
        right = other[j - done - size : j - done]
        if not one.endswith(right, 0, i - done):
            return done + _first_other(one[i - done - size : i - done][::-1], right[::-1])
        done += size
        block = min(8 * block, _LARGEST_BLOCK)
    return most


def _first_other(one: bytes, other: bytes) -> int:
    """How many bytes two different strings of one length begin with alike."""
    alike = 0
    while (size := len(one)) > _FIRST_BLOCK:
        half = size // 2
        if one[:half] == other[:half]:
            alike += half
            one, other = one[half:], other[half:]
        else:
            one, other = one[:half], other[:half]
    # As numbers: the lowest bit in which they differ tells the byte, without a step of Python for each.
    differing = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return alike + ((differing & -differing).bit_length() - 1) // 8


class _Search:
    """What lies between the shared beginning and end of two byte strings, and how much of it may still be looked at."""

    def __init__(self, new: bytes, new_end: int, base: bytes, base_end: int) -> None:
        self._new = new
        self._new_end = new_end
        self._base = base
        self._base_end = base_end
        self._left = 0

    def between(self, i: int, j: int) -> list[Piece]:
        """The pieces from these two places on."""
        new, base = self._new, self._base
        pieces: list[Piece] = []
        self._left = _SEARCHED * (self._new_end - i + self._base_end - j)
        for _ in range(_MOST_EDITS):
            if (found := self._next_shared(i, j)) is None:
                break
            at, there = found
            back = _agree_backwards(new, at, base, there, min(at - i, there - j))
            at, there = at - back, there - back
            length = _agree(new, at, base, there, min(self._new_end - at, self._base_end - there))
            if at > i:
                pieces.append((i, at - i, new))
            pieces.append((there, length, None))
            i, j = at + length, there + length
        if self._new_end > i:
            pieces.append((i, self._new_end - i, new))
        return pieces

    def _next_shared(self, i: int, j: int) -> tuple[int, int] | None:
        """The next place in each from which they go on alike for a while, if one is found."""
        shorter = min(self._new_end - i, self._base_end - j)
        if shorter < _ANCHOR:
            return None
        for ahead in _REPLACED:
            if ahead + _ANCHOR <= shorter and self._new.startswith(
                self._base[j + ahead : j + ahead + _ANCHOR], i + ahead
            ):
                return i + ahead, j + ahead
        for ahead, window in _LOOKS:
            if self._left <= 0:
                return None
            reach = ahead + (self._left if window is None else window)
            # Something was put in: the base goes on further behind in the new.
            at = self._found(self._base, j + ahead, self._base_end, self._new, i, min(i + reach, self._new_end))
            if at is not None:
                reach = min(reach, at - i + _ANCHOR)
            # Something was taken out: the new goes on further behind in the base.
            there = self._found(self._new, i + ahead, self._new_end, self._base, j, min(j + reach, self._base_end))
            if there is not None:
                return i + ahead, there
            if at is not None:
                return at, j + ahead
        return None

    def _found(self, one: bytes, anchor: int, end: int, other: bytes, start: int, stop: int) -> int | None:  # noqa: PLR0917
        """Where in the other the bytes at `anchor` are found."""
        if anchor + _ANCHOR > end:
            return None
        at = other.find(one[anchor : anchor + _ANCHOR], start, stop)
        self._left -= (stop if at < 0 else at) - start
        return None if at < 0 else at
