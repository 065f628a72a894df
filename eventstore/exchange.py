"""The log as JSON Lines, out and in again: archives, fixtures, another machine.

    {"stream": …, "type": …, "data": {…}[, "recorded_at": …, "occurred_at": …, "attempt": …, "key": …, "meta": …]}

One line is one event. What comes in passes the same gate as any append, in one write transaction: a file is taken
whole or not at all, and each refusal names its line. What goes out can be taken in again and gives the same events.
Neither side holds a file in memory: lines are read bounded, and what is kept is a page of entries, the folds of the
streams seen last, and two numbers a stream.

Two rules make the round trip exact. The log's own `recorded_at` belongs to the log that gave it, so a taken-in one
becomes `occurred_at`. And an attempt that is left out is that of the last start or resume before it in its stream, as
a trace from elsewhere means it, while `"attempt": null` says that the entry has none.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any

import attrs
import orjson
from attrs import frozen

from eventstore.codec import Recorded
from eventstore.errors import EventStoreError, ImportRefused, InvalidArgument
from eventstore.gate import Draft, Folded, same_json
from eventstore.limits import MAX_BYTES, check_name
from eventstore.log import Head, Writing
from eventstore.payloads import Json, from_iso, from_microseconds, loads_strictly, to_iso
from eventstore.store import EventStore

if TYPE_CHECKING:
    from datetime import datetime

    from eventstore.log import Entry

MAX_LINE = 2 * MAX_BYTES + 64 * 1024
"""Bytes of one line: payload and meta at their limits, and room for the rest."""
_PENDING = 500
_PENDING_BYTES = 4 * 1024 * 1024
_REMEMBERED = 10_000
"""Streams whose fold is kept; one that falls out is folded again from the log."""
_OF_A_BATCH = re.compile(r" [1-9][0-9]*/(.+)")
"""The key that the second, third … event of a batch was given by the store itself."""


@frozen
class Imported:
    """What became of one file."""

    source: str
    events: int
    """Appended."""
    skipped: int
    """Stood already, with the same content."""
    streams: int


def export_lines(store: EventStore, streams: Iterable[str] = (), *, until: int | None = None) -> Iterator[bytes]:
    """The events that stand by now as lines, in the order of the log.

    Args:
        store: whose.
        streams: only these.
        until: up to this position and no further; up to the head unless given.

    Raises:
        InvalidArgument: a stream that does not exist.
    """
    head = store.head().position
    last = head if until is None else min(until, head)
    names = list(dict.fromkeys(streams))
    with store.reading() as reading:
        for name in names:
            if not reading.version(check_name("stream", name)):
                raise InvalidArgument("stream", name, "is none of this log; `runfold events` shows them")
    if names:
        entries: Iterable[Recorded] = heapq.merge(*map(store.read, names), key=lambda recorded: recorded.position)
    else:
        entries = store.read_all()
    for recorded in entries:
        if recorded.position > last:
            return
        yield orjson.dumps(fields_of(recorded.entry)) + b"\n"


def fields_of(entry: Entry) -> dict[str, Any]:
    """An entry as a line's fields; payload and meta as they stand, so no class of theirs need be known."""
    fields: dict[str, Any] = {
        "stream": entry.stream,
        "type": entry.type,
        "data": orjson.Fragment(entry.data),
        "recorded_at": to_iso(from_microseconds(entry.recorded_at)),
    }
    if entry.occurred_at is not None:
        fields["occurred_at"] = to_iso(from_microseconds(entry.occurred_at))
    fields["attempt"] = entry.attempt
    if entry.key is not None:
        fields["key"] = entry.key
    if entry.meta is not None:
        fields["meta"] = orjson.Fragment(entry.meta)
    return fields


def import_lines(store: EventStore, lines: IO[bytes], *, source: str = "-", resume: bool = False) -> Imported:
    """Append a file's events, all or none.

    The write lock is held until the file was read, so give a file and no terminal.

    Args:
        store: where to.
        lines: a file opened for bytes.
        source: what messages call it.
        resume: skip what stands already with the same content (type, data and, where the line has one, key, at the
            same place of its stream) and append the rest. Otherwise a stream that stands already is refused.

    Raises:
        ImportRefused: the line, and why; nothing of the file was written.
    """

    def job(transaction: Writing) -> Imported:
        taking = _Import(store, transaction, resume=resume)
        number = 0
        while raw := lines.readline(MAX_LINE + 1):
            number += 1
            try:
                taking.take(_parsed(raw))
            except (EventStoreError, ValueError) as error:
                raise ImportRefused(source, number, str(error)) from error
            except Exception as error:  # a user's own machine may raise anything
                error.add_note(f"at {source}, line {number}; nothing of this file was written")
                raise
        if not number:
            raise ImportRefused(source, 1, "the file holds no events")
        taking.flush()
        return Imported(source, taking.events, taking.skipped, len(taking.places))

    return store.write(job)


# --- one line -----------------------------------------------------------------------------------------------------


@frozen
class _Line:
    """A line whose fields are of the right types."""

    stream: str
    type: str
    data: dict[str, Json]
    time: datetime | None
    attempt: int | None
    inherits: bool
    """Whether the attempt was left out."""
    key: str | None
    meta: Json


def _text(value: Json) -> bool:
    return isinstance(value, str)


def _whole(value: Json) -> bool:
    return value is None or type(value) is int


_FIELDS: dict[str, tuple[Callable[[Json], bool], str]] = {
    "stream": (_text, "text"),
    "type": (_text, "text"),
    "data": (lambda value: isinstance(value, dict), "an object"),
    "recorded_at": (lambda value: value is None or _text(value), "an ISO 8601 time as text"),
    "occurred_at": (lambda value: value is None or _text(value), "an ISO 8601 time as text"),
    "attempt": (_whole, "a whole number, or null for none"),
    "key": (lambda value: value is None or _text(value), "text"),
    "meta": (lambda _value: True, "any JSON"),
}


def _parsed(raw: bytes) -> _Line:
    """The line's fields.

    Raises:
        ValueError: with the reason.
    """
    if len(raw) > MAX_LINE:
        raise ValueError(f"the line is longer than {MAX_LINE} bytes; keep large data apart")
    fields = _json(raw)
    if not isinstance(fields, dict):
        raise ValueError("the line must hold an object with stream, type and data")  # noqa: TRY004 - a reason, no bug
    if missing := [name for name in ("stream", "type", "data") if name not in fields]:
        raise ValueError(f"the line lacks {' and '.join(missing)}")
    if unknown := sorted(fields.keys() - _FIELDS.keys()):
        known = ", ".join(_FIELDS)
        raise ValueError(f"the line has a field that is not known: {', '.join(map(repr, unknown))}; it takes {known}")
    for name, value in fields.items():
        fits, words = _FIELDS[name]
        if not fits(value):
            raise ValueError(f"{name} must be {words}, not {_shown(value)}")
    time = fields.get("occurred_at") or fields.get("recorded_at")
    return _Line(
        fields["stream"],
        fields["type"],
        fields["data"],
        None if time is None else from_iso(time),
        fields.get("attempt"),
        "attempt" not in fields,
        fields.get("key"),
        fields.get("meta"),
    )


def _json(raw: bytes) -> Json:
    try:
        text = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"the line is not UTF-8 at byte {error.start + 1}; write it as UTF-8") from None
    if not text.strip():
        raise ValueError("the line is blank; each line holds one event")
    try:
        return loads_strictly(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the line is not JSON: {error.msg} at column {error.colno}") from None


def _shown(value: Json) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"  # noqa: PLR2004 - a glance


# --- one file -----------------------------------------------------------------------------------------------------


@attrs.define
class _Place:
    """How far the file has come in one stream, and at which version the stream stood before it."""

    standing: int
    line: int = 0


class _Import:
    """One file on its way into the log, inside the transaction that takes it."""

    def __init__(self, store: EventStore, transaction: Writing, *, resume: bool) -> None:
        self.events = 0
        self.skipped = 0
        self.places: dict[str, _Place] = {}
        self._store = store
        self._transaction = transaction
        self._resume = resume
        self._before = self._head = transaction.head()
        self._recorded_at = store.gate.now(self._head)
        self._views: OrderedDict[str, tuple[Folded[Any], int | None]] = OrderedDict()
        self._pending: list[Recorded] = []
        self._pending_bytes = 0
        self._pending_keys: dict[tuple[str, str], int] = {}

    def take(self, line: _Line) -> None:
        """Skip the line or judge it, as its place in its stream says.

        Raises:
            ValueError, EventStoreError: with the reason.
        """
        place = self._place(line.stream)
        draft = self._draft(line)
        place.line += 1
        if place.line <= place.standing:
            self._compare(line, draft, place.line)
            self.skipped += 1
        else:
            self._append(line, draft)
            self.events += 1

    def flush(self) -> None:
        """Write what was judged, and bring the projections along."""
        self._store.gate.insert(self._transaction, self._before, self._pending)
        self._before = self._head
        self._pending, self._pending_bytes = [], 0
        self._pending_keys.clear()

    def _place(self, stream: str) -> _Place:
        if (place := self.places.get(stream)) is not None:
            return place
        standing = self._transaction.version(check_name("stream", stream))
        if standing and not self._resume:
            raise ValueError(
                f"the stream {stream} stands already, at version {standing}; resume the import (--resume) to skip "
                "what stands and append the rest"
            )
        return self.places.setdefault(stream, _Place(standing))

    def _draft(self, line: _Line) -> Draft:
        event = self._store.gate.codec.parse(line.type, line.data)
        part = _OF_A_BATCH.fullmatch(line.key) if line.key else None
        (draft,) = self._store.gate.draft(
            line.stream,
            [event],
            vouched=True,
            attempt=line.attempt,
            key=part[1] if part else line.key,
            meta=line.meta,
            occurred_at=line.time,
        )
        return draft._replace(key=line.key) if part else draft

    def _compare(self, line: _Line, draft: Draft, version: int) -> None:
        (entry,) = self._transaction.read(line.stream, after=version - 1, limit=1)
        standing = self._store.gate.codec.recorded(entry)
        if standing.kind is not draft.kind:
            differs = f"is {standing.type} and not {draft.type}"
        elif draft.key is not None and draft.key != entry.key:
            differs = f"bears the key {entry.key!r} and not {draft.key!r}"
        elif not any(
            same_json(data, draft.data) for data in (entry.data, self._store.gate.codec.encode(standing.event))
        ):
            differs = "holds other data"  # an older stored shape was compared in its present one
        else:
            return
        raise ValueError(f"version {version} of {line.stream} stands already and {differs}; it cannot be resumed here")

    def _append(self, line: _Line, draft: Draft) -> None:
        view, held = self._view(line.stream)
        self._refuse_key(line.stream, draft)
        view, recorded = self._store.gate.judged(
            view, line.stream, draft, self._head, recorded_at=self._recorded_at, held=held if line.inherits else None
        )
        self._views[line.stream] = (view, held if recorded.attempt is None else recorded.attempt)
        self._head = Head(recorded.position, recorded.entry.hash, self._recorded_at)
        self._pending.append(recorded)
        self._pending_bytes += len(draft.data)
        if draft.key is not None:
            self._pending_keys[line.stream, draft.key] = recorded.version
        if len(self._pending) >= _PENDING or self._pending_bytes > _PENDING_BYTES:
            self.flush()

    def _refuse_key(self, stream: str, draft: Draft) -> None:
        if draft.key is None:
            return
        version = self._pending_keys.get((stream, draft.key))
        if version is None and (entry := self._transaction.keyed(stream, draft.key)) is not None:
            version = entry.version
        if version is not None:
            raise ValueError(
                f"version {version} of {stream} bears the key {draft.key!r} already, and a key names one event; take "
                "it out of the line that it names no more, or restore a backup instead"
            )

    def _view(self, stream: str) -> tuple[Folded[Any], int | None]:
        """The stream's fold and the attempt that began last."""
        if stream in self._views:
            self._views.move_to_end(stream)
            return self._views[stream]
        view: Folded[Any] = self._store.gate.start(None)
        held: int | None = None
        place = self.places[stream]
        if place.standing or place.line > 1:
            self.flush()  # what is to be folded again must stand
        while entries := self._transaction.read(stream, after=view.version, limit=_PENDING):
            for entry in entries:
                view = self._store.gate.admit(view, self._store.gate.codec.recorded(entry))
                held = held if entry.attempt is None else entry.attempt
        self._views[stream] = (view, held)
        if len(self._views) > _REMEMBERED:
            self._views.popitem(last=False)
        return view, held
