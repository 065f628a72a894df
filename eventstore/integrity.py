"""How the log proves itself: the hash chain of format 1, and the witness beside the database. Pure; no I/O.

The chain makes every entry vouch for all before it. It cannot vouch for what came after: one flipped bit in SQLite's
WAL silently drops the last commits, and what is left is a perfect, shorter log. For that there is the witness, a small
file with the last position and hash. It is rewritten after each commit without a sync, so it is free; and whenever
it is ahead of the log, something acknowledged is gone.
"""

from __future__ import annotations

import zlib
from hashlib import sha256
from typing import Any, NamedTuple

from eventstore.log import Entry

WITNESS_BYTES = 256
"""Of the witness file: fixed, so that each write covers the last one whole."""
_MAGIC = "runfold-witness-1"


def genesis(log_id: str) -> bytes:
    """hash(0) of format 1: the chain begins with the log's own id."""
    return sha256(b"runfold/1" + log_id.encode()).digest()


def chain(previous: bytes, entry: tuple[Any, ...]) -> bytes:
    """hash(p) of format 1, fixed for ever: the previous hash and each column as a netstring, absent ones empty.

    Payload and meta go in by their own SHA-256, over the JSON bytes as first encoded, so that a packed or redacted
    form that keeps the digest keeps the chain.
    """
    # At once, and one format for all: field by field takes half as long again, a loop over the parts three times.
    at, name, number, type_, time, occurred, by, named, _, more, data = entry
    position, version, recorded_at = b"%d" % at, b"%d" % number, b"%d" % time
    stream, kind = name.encode(), type_.encode()
    occurred_at = b"" if occurred is None else b"%d" % occurred
    attempt = b"" if by is None else b"%d" % by
    key = b"" if named is None else named.encode()
    meta = b"" if more is None else sha256(more.encode()).digest()
    return sha256(
        b"%b%d:%b,%d:%b,%d:%b,%d:%b,%d:%b,%d:%b,%d:%b,%d:%b,%d:%b,32:%b," % (
            previous, len(position), position, len(stream), stream, len(version), version, len(kind), kind,
            len(recorded_at), recorded_at, len(occurred_at), occurred_at, len(attempt), attempt, len(key), key,
            len(meta), meta, sha256(data.encode()).digest(),
        )
    ).digest()  # fmt: skip


def chained(previous: bytes, columns: tuple[Any, ...]) -> Entry:
    """The entry of these columns, with its hash in place of whatever they had there."""
    return tuple.__new__(Entry, (*columns[:8], chain(previous, columns), *columns[9:]))  # see `changing`


class Witness(NamedTuple):
    """What was last acknowledged, by the file beside the database."""

    log_id: str
    position: int
    hash: bytes
    synchronous: str
    boot_id: str

    def encode(self) -> bytes:
        """The file's bytes: one readable line, its CRC, padding."""
        boot_id = self.boot_id or "-"
        line = f"{_MAGIC} {self.log_id} {self.position} {self.hash.hex()} {self.synchronous} {boot_id}".encode()
        return (b"%b %08x" % (line, zlib.crc32(line))).ljust(WITNESS_BYTES - 1) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Witness | None:
        """What the bytes say; None if they are damaged, torn, or of another format."""
        try:
            line, crc = data.decode("ascii").rstrip().rsplit(" ", 1)
            magic, log_id, position, digest, synchronous, boot_id = line.split(" ")
            if magic != _MAGIC or len(crc) != 8 or int(crc, 16) != zlib.crc32(line.encode()):  # noqa: PLR2004
                return None
            return cls(log_id, int(position), bytes.fromhex(digest), synchronous, "" if boot_id == "-" else boot_id)
        except ValueError:
            return None
