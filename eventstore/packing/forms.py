"""The packed forms as bytes: what stands in `data` in place of JSON text, told by its first byte. Pure.

    01  whole: the JSON, compressed
    02  difference: pieces over an earlier entry of the same stream, the base
    03  reference: the JSON is a blob, a file beside the database
    04  kept for what was redacted

    whole       = 01 crc length frame
    difference  = 02 crc length generation back check steps method (skip copy literal)* literals
    reference   = 03 crc length digest

`crc` is the CRC-32 of all that follows it, `length` that of the JSON in bytes, `back` how many versions the base lies
before, `generation` is one more than that of the entry it came after, `check` the first 8 bytes of the base's hash in
the log's chain, `digest` the SHA-256 of the JSON, which names the blob. So far numbers take 4 bytes, the highest first,
but for `back` (8), `steps` (3) and `method` (1). Each step is three varints, seven bits a byte, the lowest first: it
takes `copy` bytes of the base, `skip` behind the ones taken last, and then `literal` bytes of the literals, which are
one zstd frame (method 1) or stand as they are (0).

So a flipped bit is found when it is read, at the cost of the packed bytes alone: the form by its CRC, the base by the
check, and the base's own form again by its CRC. That the JSON is the one that was saved is proved by the chain, which
is made over the JSON itself.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.limits import MAX_BYTES
from eventstore.packing.pieces import Piece

if TYPE_CHECKING:
    import zstandard

WHOLE = 1
DIFFERENCE = 2
REFERENCE = 3
CHECK = 8
"""Bytes of the base's hash that a difference holds."""
_CRC = struct.Struct(">BI")
_LENGTH = struct.Struct(">I")
_BASE = struct.Struct(f">IIQ{CHECK}sI")
_DIGEST = struct.Struct(">I32s")
_PLAIN = 0
_COMPRESSED = 1
_WORTH = 512
"""Literals of fewer bytes are not worth compressing."""
_LEVEL = 1
_MOST_BITS = 35
"""Of a varint: no number in here is larger than a payload may be."""


class DamagedForm(ValueError):
    """Bytes that are no packed form, or not any more; its text says why. The backend tells which entry's they are."""

    blob = ""
    """The digest of the blob that is missing or damaged, if that is why."""


@frozen
class Form:
    """A packed payload, unpacked but for its base."""

    length: int
    """Bytes of the JSON."""
    pieces: list[Piece]
    """Over the base; all literal where there is none."""
    generation: int = 0
    """0 if it stands whole; a base is always of a lower one."""
    back: int = 0
    """How many versions before this one the base stands, 0 if there is none."""
    check: bytes = b""
    """The beginning of the base's hash."""
    blob: bytes = b""
    """The SHA-256 of the blob that holds the JSON, if one does; then there are no pieces."""


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
    return _sealed(WHOLE, _LENGTH.pack(len(data)) + compression.compress(data))


def encode_difference(
    pieces: list[Piece], compression: Compression, *, length: int, generation: int, back: int, base: bytes
) -> bytes:
    """The form over a base of that hash; its pieces must go forward."""
    steps = _steps(pieces)
    literals = b"".join([source[at : at + size] for at, size, source in pieces if source is not None])
    method = _PLAIN
    if len(literals) >= _WORTH and len(frame := compression.compress(literals)) < len(literals):
        literals, method = frame, _COMPRESSED
    counted = len(steps) // 3 << 8 | method
    head = _BASE.pack(length, generation, back, base[:CHECK], counted)
    return _sealed(DIFFERENCE, b"".join((head, _varints(steps), literals)))


def reference_to(digest: bytes, length: int) -> bytes:
    """A payload of so many bytes that is the blob of this SHA-256."""
    return _sealed(REFERENCE, _DIGEST.pack(length, digest))


def reference_of(packed: bytes) -> bytes | None:
    """The SHA-256 of the blob that a packed form refers to; None if it is another form, or none."""
    return packed[-32:] if len(packed) == _CRC.size + _DIGEST.size and packed[0] == REFERENCE else None


def decode(packed: bytes, compression: Compression) -> Form:
    """What `encode_whole`, `encode_difference` or `reference_to` made.

    Raises:
        DamagedForm: it is none of these, or a bit of it changed.
    """
    try:
        tag, crc = _CRC.unpack_from(packed)
        length = plain_length(packed)
        if tag not in (WHOLE, DIFFERENCE, REFERENCE):
            raise DamagedForm("its payload is neither JSON nor a packed form that this release knows")
        if zlib.crc32(memoryview(packed)[_CRC.size :]) != crc:
            raise DamagedForm("its packed form is damaged (its CRC does not fit)")
        if length > MAX_BYTES:
            raise DamagedForm(f"it claims {length} bytes, more than an event may have")
        if tag == REFERENCE:
            return Form(length, [], blob=_DIGEST.unpack(packed[_CRC.size :])[1])
        if tag == WHOLE:
            frame = packed[_CRC.size + _LENGTH.size :]
            return Form(length, [(0, length, compression.decompress(frame, length))])
        return _difference(packed, compression)
    except (struct.error, IndexError):
        raise DamagedForm("its packed form ends early") from None


def _difference(packed: bytes, compression: Compression) -> Form:
    length, generation, back, check, counted = _BASE.unpack_from(packed, _CRC.size)
    if not (back and generation):
        raise DamagedForm("it names no base")
    numbers, at = _numbers(packed, _CRC.size + _BASE.size, 3 * (counted >> 8))
    literal = sum(numbers[2::3])
    if sum(numbers[1::3]) + literal != length:
        raise DamagedForm("its pieces do not make up its length")
    literals = packed[at:]
    if counted & 0xFF == _COMPRESSED:
        literals = compression.decompress(literals, literal)
    elif len(literals) != literal:
        raise DamagedForm("its literal bytes are more or fewer than its pieces")
    return Form(length, _pieces(numbers, literals), generation, back, check)


def plain_length(packed: bytes) -> int:
    """Bytes of the JSON, by what the form says of itself; the first 9 bytes of it are enough. Nothing is proved.

    Raises:
        struct.error: it is shorter.
    """
    length: int = _LENGTH.unpack_from(packed, _CRC.size)[0]
    return length


def back_of(packed: bytes) -> int:
    """How many versions before it the base stands, 0 if there is none; the first 64 bytes tell. Nothing is proved."""
    if packed[:1] != bytes([DIFFERENCE]) or len(packed) < _CRC.size + _BASE.size:
        return 0
    back: int = _BASE.unpack_from(packed, _CRC.size)[2]
    return back


def generation_of(packed: bytes) -> int:
    """The form's generation; the first 64 bytes tell. Nothing is proved."""
    if packed[:1] != bytes([DIFFERENCE]) or len(packed) < _CRC.size + _BASE.size:
        return 0
    generation: int = _BASE.unpack_from(packed, _CRC.size)[1]
    return generation


def _sealed(tag: int, body: bytes) -> bytes:
    return _CRC.pack(tag, zlib.crc32(body)) + body


def _steps(pieces: list[Piece]) -> list[int]:
    """Skip, copy, literal, and so on: each copy with the literal behind it."""
    steps: list[int] = []
    at = 0
    for offset, length, source in pieces:
        if source is None:
            steps += (offset - at, length, 0)
            at = offset + length
        elif steps and not steps[-1]:
            steps[-1] = length
        else:
            steps += (0, 0, length)
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


def _varints(numbers: list[int]) -> bytes:
    out = bytearray()
    for number in numbers:
        while number >= 0x80:  # noqa: PLR2004 - seven bits a byte
            out.append(number & 0x7F | 0x80)
            number >>= 7  # noqa: PLW2901 - what is left of it
        out.append(number)
    return bytes(out)


def _numbers(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """So many varints, and where the next byte is."""
    found: list[int] = []
    while len(found) < count:
        byte = data[at]
        at += 1
        number, shift = byte & 0x7F, 7
        while byte >= 0x80:  # noqa: PLR2004 - more follow
            if shift >= _MOST_BITS:
                raise DamagedForm("its packed form holds a number that cannot be")
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
        found.append(number)
    return found, at
