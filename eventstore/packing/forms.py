"""The packed forms as bytes: what stands in `data` in place of JSON text, told by its first byte. Pure.

    01  whole: the JSON, compressed
    02  difference: pieces over an earlier entry of the same stream, the base
    03  kept for a reference to a blob; 04 kept for what was redacted

    whole       = 01 crc length frame
    difference  = 02 crc length generation back check count (skip copy literal)* method literals

`crc` (4 bytes, big-endian) is the CRC-32 of all that follows it, `check` the first 8 bytes of the base's hash in the
log's chain; every other number is a varint, seven bits a byte, the lowest first. `length` is that of the JSON in
bytes; `back` how many versions the base lies before, `generation` how many bases lie below. Each step takes `copy`
bytes of the base, `skip` behind the ones taken last, and then `literal` bytes of the literals, which are one zstd frame
(method 1) or stand as they are (0).

So a flipped bit is found when it is read, at the cost of the packed bytes alone: the form by its CRC, the base by the
check, and the base's own form again by its CRC. That the JSON is the one that was saved is proved by the chain, which
is made over the JSON itself.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.limits import MAX_BYTES
from eventstore.packing.pieces import Piece

if TYPE_CHECKING:
    import zstandard

WHOLE = 1
DIFFERENCE = 2
CHECK = 8
"""Bytes of the base's hash that a difference holds."""
_START = 5
"""Bytes before what the CRC is of."""
_PLAIN = 0
_COMPRESSED = 1
_WORTH = 64
"""Literals of fewer bytes are not worth compressing."""
_LEVEL = 1
_MOST_BITS = 35
"""Of a varint: no number in here is larger than a payload may be, or a stream long."""


class DamagedForm(ValueError):
    """Bytes that are no packed form, or not any more; its text says why. The backend tells which entry's they are."""


@frozen
class Form:
    """A packed payload, unpacked but for its base."""

    length: int
    """Bytes of the JSON."""
    pieces: list[Piece]
    """Over the base; all literal where there is none."""
    generation: int = 0
    """How many bases lie below."""
    back: int = 0
    """How many versions before this one the base stands, 0 if there is none."""
    check: bytes = b""
    """The beginning of the base's hash."""


class Compression:
    """zstd, imported when it is first needed, which costs 20 ms; one thread at a time."""

    def __init__(self) -> None:
        self._compressor: zstandard.ZstdCompressor | None = None
        self._decompressor: zstandard.ZstdDecompressor | None = None

    def compress(self, data: bytes) -> bytes:
        """One frame that knows its size."""
        if self._compressor is None:
            import zstandard  # noqa: PLC0415 - see above

            self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
        return self._compressor.compress(data)

    def decompress(self, frame: bytes, size: int) -> bytes:
        """The frame's `size` bytes; what claims to be larger is refused before memory is taken for it.

        Raises:
            DamagedForm: it is no frame, or holds other than so many bytes.
        """
        import zstandard  # noqa: PLC0415 - see above

        if self._decompressor is None:
            self._decompressor = zstandard.ZstdDecompressor()
        try:
            if zstandard.frame_content_size(frame) != size:
                raise DamagedForm("its compressed part is of another size")
            return self._decompressor.decompress(frame, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise DamagedForm(f"its compressed part cannot be read ({error})") from None


def encode_whole(data: bytes, compression: Compression) -> bytes:
    """The form that stands by itself."""
    return _sealed(WHOLE, _varint(len(data)) + compression.compress(data))


def encode_difference(form: Form, compression: Compression) -> bytes:
    """The form over a base; its pieces must go forward."""
    parts = [_varint(form.length), _varint(form.generation), _varint(form.back), form.check]
    steps = _steps(form.pieces)
    parts.append(_varint(len(steps)))
    parts += [_varint(number) for step in steps for number in step]
    literals = b"".join([source[at : at + length] for at, length, source in form.pieces if source is not None])
    if len(literals) >= _WORTH and len(frame := compression.compress(literals)) < len(literals):
        parts += [_varint(_COMPRESSED), frame]
    else:
        parts += [_varint(_PLAIN), literals]
    return _sealed(DIFFERENCE, b"".join(parts))


def decode(packed: bytes, compression: Compression) -> Form:
    """What `encode_whole` or `encode_difference` made.

    Raises:
        DamagedForm: it is neither, or a bit of it changed.
    """
    body = _unsealed(packed)
    reader = _Reader(packed, _START)
    length = reader.number()
    if length > MAX_BYTES:
        raise DamagedForm(f"it claims {length} bytes, more than an event may have")
    if body == WHOLE:
        return Form(length, [(0, length, compression.decompress(reader.rest(), length))])
    generation, back, check = reader.number(), reader.number(), reader.take(CHECK)
    if not (back and generation):
        raise DamagedForm("it names no base")
    numbers = reader.numbers(3 * reader.number())
    literal = sum(numbers[2::3])
    if sum(numbers[1::3]) + literal != length:
        raise DamagedForm("its pieces do not make up its length")
    compressed, literals = reader.number() == _COMPRESSED, reader.rest()
    if compressed:
        literals = compression.decompress(literals, literal)
    elif len(literals) != literal:
        raise DamagedForm("its literal bytes are more or fewer than its pieces")
    return Form(length, _pieces(numbers, literals), generation, back, check)


def plain_length(packed: bytes) -> int:
    """Bytes of the JSON, by what the form says of itself; the beginning of it is enough. Nothing is proved.

    Raises:
        DamagedForm: it does not say.
    """
    return _Reader(packed, _START).number()


def _sealed(tag: int, body: bytes) -> bytes:
    return b"%c%b%b" % (tag, zlib.crc32(body).to_bytes(4, "big"), body)


def _unsealed(packed: bytes) -> int:
    tag = packed[0] if packed else 0
    if tag not in (WHOLE, DIFFERENCE):
        raise DamagedForm("its payload is neither JSON nor a packed form that this release knows")
    if zlib.crc32(memoryview(packed)[_START:]).to_bytes(4, "big") != packed[1:_START]:
        raise DamagedForm("its packed form is damaged (its CRC does not fit)")
    return tag


def _steps(pieces: list[Piece]) -> list[tuple[int, int, int]]:
    """Skip, copy, literal; each copy with the literal behind it."""
    steps: list[tuple[int, int, int]] = []
    at = 0
    for offset, length, source in pieces:
        if source is None:
            steps.append((offset - at, length, 0))
            at = offset + length
        elif steps and not steps[-1][2]:
            steps[-1] = (*steps[-1][:2], length)
        else:
            steps.append((0, 0, length))
    return steps


def _pieces(numbers: list[int], literals: bytes) -> list[Piece]:
    pieces: list[Piece] = []
    at = taken = 0
    for skip, copy, literal in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
        at += skip
        if copy:
            pieces.append((at, copy, None))
            at += copy
        if literal:
            pieces.append((taken, literal, literals))
            taken += literal
    return pieces


def _varint(number: int) -> bytes:
    if number < 0x80:  # noqa: PLR2004 - most are
        return b"%c" % number
    out = bytearray()
    while number >= 0x80:  # noqa: PLR2004 - seven bits a byte
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class _Reader:
    """Takes numbers and bytes off the front."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def number(self) -> int:
        return self.numbers(1)[0]

    def numbers(self, count: int) -> list[int]:
        # In one loop: some forty forms are read for one payload, and a call a number would double their time.
        data, at = self._data, self._at
        found: list[int] = []
        try:
            while len(found) < count:
                byte = data[at]
                at += 1
                number, shift = byte & 0x7F, 7
                while byte >= 0x80 and shift < _MOST_BITS:  # noqa: PLR2004 - more follow
                    byte = data[at]
                    at += 1
                    number |= (byte & 0x7F) << shift
                    shift += 7
                found.append(number)
        except IndexError:
            raise DamagedForm("its packed form ends early") from None
        self._at = at
        return found

    def take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def rest(self) -> bytes:
        return self._data[self._at :]
