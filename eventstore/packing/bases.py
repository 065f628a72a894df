"""Which payloads are packed, over which base, and how one is read back through its bases. Pure but for `Rows`.

The first large payload of a type in a stream is stored whole, each further one as its difference to an earlier one:
to the last, as a rule; every 32nd to the one 32 before, every 1,024th to the one 1,024 before, and so on. So a thousand
checkpoints take little more than what is new in them, twice, and none is further than 62 bases from a whole one. What
counts is an entry's `generation`: 0 if it stands whole, else one more than that of the entry before. A small payload
has few bases: where there would be more than one for each 2 KB of it, it begins again over the whole one.

What would still be large when it is packed goes into a blob, and the log refers to it: as good a base as any.

A base is named by its version and checked by its hash. What is remembered between two appends is only a shortcut, and
is looked for in the log, in the transaction that refers to it: so it does not matter whether another process wrote, an
append was undone, or nobody knows how a commit ended. A base that cannot be read back costs bytes, not the append: the
payload is then stored whole.

Whoever takes entries out of the log must leave every base of those that stay, and of those in turn, or pack the ones
that stay anew: a run that may go on keeps its history, and a sealed file must hold JSON, or all of a descent.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol

from attrs import frozen

from eventstore.errors import DamagedBlob, MissingBlob
from eventstore.limits import MAX_BYTES
from eventstore.log import Entry
from eventstore.packing.forms import (
    CHECK,
    Compression,
    DamagedForm,
    Form,
    decode,
    encode_difference,
    encode_whole,
    generation_of,
    reference_to,
)
from eventstore.packing.pieces import Piece, Whole, difference, literal_bytes, makes

PACKED_FROM = 4096
"""Characters from which a payload is packed, a page of SQLite's: packing less takes more time than it is worth, and
JSON can be read with any tool."""
BLOB_FROM = 128 * 1024
"""Bytes of a packed form from which the payload goes into a blob: two more syncs are little beside writing so much into
the WAL and out of it again, and the database stays small enough to be copied."""
LOOKBACK = 200
"""Versions among which a base is looked for when none is remembered."""
_REMEMBERED = 16 * 1024 * 1024
"""Bytes of payloads that are remembered; the last one always is."""
_FAN = 32
_BYTES_A_BASE = 2_048
"""Reading one base costs what decoding some kilobytes does, so a payload may have one for so many of its own."""
_MOST_BASES = 512
"""Of one payload; honest ones have some 31 for each power of 32 among their generations."""
_MOST_HELD = 2 * MAX_BYTES
"""Bytes of literals that are held while reading through bases, before those that are no longer needed are let go."""


class Rows(Protocol):
    """What packing asks of a backend, within one transaction."""

    def glimpsed(self, stream: str, version: int) -> tuple[bytes, Any] | None:
        """The hash of an entry, and the first 64 bytes of its payload as it stands; None if there is no such entry."""

    def stored(self, stream: str, version: int) -> tuple[bytes, Any] | None:
        """The same, and all of its payload."""

    def last_packed(self, stream: str, kind: str, before: int) -> tuple[int, bytes, bytes] | None:
        """Version, hash and packed payload of the last packed entry of that type, at most `LOOKBACK` before."""

    def write_blob(self, data: bytes) -> bytes | None:
        """Make a blob, durable when this returns; its SHA-256, or None where that cannot be."""

    def read_blob(self, digest: bytes) -> bytes:
        """What is in it.

        Raises:
            MissingBlob, DamagedBlob: it is not there, or not what it was.
        """


@frozen
class Base:
    """An entry's payload, unpacked, to be taken as a base."""

    version: int
    hash: bytes
    generation: int
    data: bytes


class Bases:
    """Of each stream and type two payloads that were packed or unpacked last, as long as there is room.

    The last one, which is the next one's base as a rule, and the last of those that are taken over a distance. One
    thread at a time: it belongs to a transaction, or to whoever holds the write lock.
    """

    def __init__(self, compression: Compression | None = None, *, most_bytes: int = _REMEMBERED) -> None:
        self.compression = compression or Compression()
        self._most = most_bytes
        self._bytes = 0
        self._held: OrderedDict[tuple[str, str, bool], Base] = OrderedDict()

    def of(self, entry: Entry) -> list[Base]:
        """What is remembered of the entry's stream and type, which may not stand in the log; the latest first."""
        slots = ((entry.stream, entry.type, far) for far in (False, True))
        found = [held for slot in slots if (held := self._held.get(slot)) is not None]
        return found if len(found) < 2 or found[0].version > found[1].version else found[::-1]  # noqa: PLR2004

    def keep(self, entry: Entry, base: Base) -> None:
        """Remember this one of the entry's stream and type."""
        slot = (entry.stream, entry.type, base.generation % _FAN == 0)
        if (before := self._held.pop(slot, None)) is not None:
            self._bytes -= len(before.data)
        self._held[slot] = base
        self._bytes += len(base.data)
        while self._bytes > self._most and len(self._held) > 1:
            self._bytes -= len(self._held.popitem(last=False)[1].data)


def pack(entry: Entry, rows: Rows, bases: Bases) -> str | bytes:
    """The entry's payload as it is to stand in the log: a packed form, or its JSON where that is short."""
    if len(entry.data) < PACKED_FROM:
        return entry.data
    data = entry.data.encode()
    # JSON always compresses: even noise in base64 does, by a quarter.
    packed, generation = _over_a_base(entry, data, rows, bases) or (encode_whole(data, bases.compression), 0)
    if len(packed) >= BLOB_FROM and (digest := rows.write_blob(data)) is not None:
        packed, generation = reference_to(digest, len(data)), 0
    bases.keep(entry, Base(entry.version, entry.hash, generation, data))
    return packed


def unpack(entry: Entry, packed: bytes, rows: Rows, bases: Bases) -> str:
    """The JSON of a packed payload; the entry's own `data` is not looked at.

    Raises:
        DamagedForm: it, or one of its bases, is damaged or missing.
    """
    form = decode(packed, bases.compression)
    data = _read_back(entry, entry.version, form, rows, bases)
    if not (held := bases.of(entry)) or held[0].version < entry.version:
        bases.keep(entry, Base(entry.version, entry.hash, form.generation, data))
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise DamagedForm("what its pieces make is no text") from None


# --- writing ------------------------------------------------------------------------------------------------------


def _over_a_base(entry: Entry, data: bytes, rows: Rows, bases: Bases) -> tuple[bytes, int] | None:
    """The difference to an earlier entry, and its generation; None where there is none that pays."""
    try:
        found = _base(entry, len(data), rows, bases)
    except DamagedForm:
        found = None
    if found is None:
        return None
    base, generation = found
    pieces = difference(data, base.data)
    # A pair assertion: what is written can be read. It costs a comparison at the speed of memory.
    if literal_bytes(pieces) > len(data) * 3 // 4 or not makes(pieces, base.data, data):
        return None
    packed = encode_difference(
        pieces, bases.compression, length=len(data), generation=generation, back=entry.version - base.version,
        base=base.hash,
    )  # fmt: skip
    return packed, generation


def _base(entry: Entry, size: int, rows: Rows, bases: Bases) -> tuple[Base, int] | None:
    """What to take the difference to, and the generation of what is; it stands in this transaction."""
    held = bases.of(entry)
    last = held[0] if held and _stands(entry, held[0], rows) else _last(entry, rows, bases)
    if last is None:
        return None
    generation = last.generation + 1
    if _bases_of(generation) > size // _BYTES_A_BASE:
        generation = 1
    wanted = generation - _step(generation)
    for base in (last, *held[1:]):
        if base.generation == wanted and (base is last or _stands(entry, base, rows)):
            return base, generation
    return _ancestor(entry, last, wanted, rows, bases), generation


def _stands(entry: Entry, held: Base, rows: Rows) -> bool:
    """Whether what is remembered stands before the entry, in this transaction, and as it did.

    Archived and put back, it may have come over another base: over one of a higher generation nobody could read.
    """
    found = rows.glimpsed(entry.stream, held.version) if held.version < entry.version else None
    if found is None or found[0] != held.hash:
        return False
    return isinstance(found[1], bytes) and generation_of(found[1]) == held.generation


def _last(entry: Entry, rows: Rows, bases: Bases) -> Base | None:
    """The last packed payload before this one, read back."""
    found = rows.last_packed(entry.stream, entry.type, entry.version)
    if found is None:
        return None
    version, digest, packed = found
    form = decode(packed, bases.compression)
    return Base(version, digest, form.generation, _read_back(entry, version, form, rows, bases))


def _step(generation: int) -> int:
    """How many generations down the base lies: 1, or the largest power of 32 that divides the generation."""
    step = 1
    while generation % (step * _FAN) == 0:
        step *= _FAN
    return step


def _bases_of(generation: int) -> int:
    """How many bases lie below an entry of this generation: the sum of its digits to the base of 32."""
    count = 0
    while generation:
        generation, digit = divmod(generation, _FAN)
        count += digit
    return count


def _ancestor(entry: Entry, last: Base, generation: int, rows: Rows, bases: Bases) -> Base:
    """The base of that generation below `last`, read back."""
    stored = rows.stored(entry.stream, last.version)
    if stored is None:
        raise DamagedForm("it is not there")
    version, digest, form = last.version, last.hash, decode(stored[1], bases.compression)
    while form.generation > generation:
        version, digest, form = _below(entry.stream, version, form, rows, bases)
    base = Base(version, digest, form.generation, _read_back(entry, version, form, rows, bases))
    bases.keep(entry, base)
    return base


# --- reading ------------------------------------------------------------------------------------------------------


def _read_back(entry: Entry, version: int, form: Form, rows: Rows, bases: Bases) -> bytes:
    """The payload of a version of the entry's stream, through its bases, copied once."""
    whole = Whole(form.length)
    held = bases.of(entry)
    literals = 0
    for _ in range(_MOST_BASES):
        whole.fill(_blob(entry, version, form, rows) if form.blob else form.pieces)
        if not form.back:
            return whole.join()
        for base in held:
            if base.version == version - form.back and base.hash[:CHECK] == form.check:
                _within(whole.reach, len(base.data))
                whole.fill([(0, len(base.data), base.data)])
                return whole.join()
        literals += literal_bytes(form.pieces)
        if literals > _MOST_HELD:
            literals = whole.let_go()
        version, _, form = _below(entry.stream, version, form, rows, bases)
        _within(whole.reach, form.length)
    raise DamagedForm(f"more than {_MOST_BASES} bases lie below it")


def _blob(entry: Entry, version: int, form: Form, rows: Rows) -> list[Piece]:
    """The payload that is a blob, as one piece."""
    digest = form.blob.hex()
    needed = f"it needs the blob {digest}"
    if version != entry.version:
        needed = f"it needs version {version} of {entry.stream}, and that the blob {digest}"
    try:
        data = rows.read_blob(form.blob)
    except (MissingBlob, DamagedBlob) as error:
        unreadable = DamagedForm(f"{needed}, which {error.fact}")
        unreadable.blob = digest
        raise unreadable from error
    if len(data) != form.length:
        raise DamagedForm(f"{needed}, which is of another length than it claims")
    return [(0, len(data), data)]


def _below(stream: str, version: int, form: Form, rows: Rows, bases: Bases) -> tuple[int, bytes, Form]:
    """Version, hash and form of the base of this one.

    Raises:
        DamagedForm: it is missing, another, or damaged.
    """
    version -= form.back
    found = rows.stored(stream, version) if version > 0 else None
    if found is None:
        raise DamagedForm(f"it needs version {version} of {stream}, which is missing")
    digest, packed = found
    if digest[:CHECK] != form.check:
        raise DamagedForm(f"it needs version {version} of {stream}, which is not the one it was made over")
    if not isinstance(packed, bytes):
        raise DamagedForm(f"it needs version {version} of {stream}, which is not packed")
    try:
        base = decode(packed, bases.compression)
    except DamagedForm as error:
        raise DamagedForm(f"it needs version {version} of {stream}, and there {error}") from None
    if base.generation >= form.generation:
        raise DamagedForm(f"it needs version {version} of {stream}, which is of no earlier generation")
    return version, digest, base


def _within(reach: int, length: int) -> None:
    if reach > length:
        raise DamagedForm("it reaches beyond the end of its base")
