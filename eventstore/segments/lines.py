"""A segment's lines: an entry as JSON from which it comes back byte for byte, and the line that closes a file. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from eventstore.errors import UnreadableEntry
from eventstore.log import Entry, Segment
from eventstore.payloads import from_iso, from_microseconds, to_iso, to_microseconds

FORMAT = 1
DAY = 86_400_000_000
"""Microseconds."""
_JSON = json.JSONDecoder()


def day_of(recorded_at: int) -> str:
    """The UTC day of a time in microseconds: one microsecond before midnight is the old day, midnight the new one."""
    return to_iso(from_microseconds(recorded_at))[:10]


def end_of(recorded_at: int) -> int:
    """The midnight that ends the day of a time, in microseconds."""
    return (recorded_at // DAY + 1) * DAY


def line_of(entry: Entry) -> bytes:
    """An entry as a line, from which it comes back byte for byte.

    Raises:
        UnreadableEntry: somebody put a line break into its payload or meta.
    """
    envelope = orjson.dumps({
        "position": entry.position, "stream": entry.stream, "version": entry.version, "type": entry.type,
        "recorded_at": _iso(entry.recorded_at), "occurred_at": _iso(entry.occurred_at), "attempt": entry.attempt,
        "key": entry.key, "hash": entry.hash.hex(),
    })  # fmt: skip
    meta = b"" if entry.meta is None else b',"meta":' + entry.meta.encode()
    line = b'%b%b,"data":%b}\n' % (envelope[:-1], meta, entry.data.encode())
    if line.count(b"\n") > 1:
        reason = "it holds a line break, which no program of ours writes"
        raise UnreadableEntry(entry.position, entry.stream, entry.type, reason)
    return line


def entry_of(line: bytes) -> Entry:
    """The entry of a line.

    Raises:
        ValueError: it is none.
    """
    fields, meta, data = _parted(line)
    occurred_at = fields["occurred_at"]
    return Entry(
        fields["position"],
        fields["stream"],
        fields["version"],
        fields["type"],
        to_microseconds(from_iso(fields["recorded_at"])),
        None if occurred_at is None else to_microseconds(from_iso(occurred_at)),
        fields["attempt"],
        fields["key"],
        bytes.fromhex(fields["hash"]),
        meta,
        data.decode(),
    )


def glimpse_of(line: bytes, peek: Mapping[str, int]) -> tuple[int, str, str, str, str, str]:
    """A line as a row of `log.Glance`, without decoding more of the payload than is shown."""
    fields, _, data = _parted(line)
    attempt, shown = fields["attempt"], peek.get(fields["type"], 0)
    head = data[: 4 * shown].decode(errors="ignore")[:shown]
    named = "" if attempt is None else str(attempt)
    return fields["position"], fields["stream"], str(fields["version"]), fields["type"], named, head


def lines_of(stream: str, lines: Iterable[bytes]) -> Iterator[bytes]:
    """Those of a stream, told by how they begin."""
    name = b',"stream":%b,"version":' % orjson.dumps(stream)
    near = len(b'{"position":') + 20 + len(name)
    return (line for line in lines if line.find(name, 0, near) >= 0)


def closing_line(log_id: str, segment: Segment) -> bytes:
    """The last line of a segment's file."""
    return orjson.dumps({
        "segment": FORMAT, "log": log_id, "day": segment.day, "count": segment.entries, "first": segment.first,
        "last": segment.last, "before": segment.before.hex(), "after": segment.after.hex(),
        "sha256": segment.digest.hex(),
    }) + b"\n"  # fmt: skip


def _parted(line: bytes) -> tuple[dict[str, Any], str | None, bytes]:
    """The fields of a line, its meta and its payload as they stand.

    Inside a JSON text a quote is escaped, so what is looked for cannot stand in a name before it.
    """
    mark = b',"hash":"'
    end = line.index(b'"', line.index(mark) + len(mark)) + 1
    fields = orjson.loads(line[:end] + b"}")
    if line.startswith(b',"data":', end):
        return fields, None, line[end + 8 : -2]
    text = line[end + len(b',"meta":') :].decode()
    _, stop = _JSON.raw_decode(text)
    if not text.startswith(',"data":', stop):
        raise ValueError("it has no payload")
    return fields, text[:stop], text[stop + 8 : -2].encode()


def _iso(microseconds: int | None) -> str | None:
    return None if microseconds is None else to_iso(from_microseconds(microseconds))
