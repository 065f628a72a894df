"""Notes: what belongs to no run, or to none alone. Generic log entries to ask for, and named values that stand.

Rows say where an entry stands and what it may be asked for by; payloads and values are read from the log. Both stand in
streams of their own, `logs` and `meta` unless another is named, and entries may stand in a run's stream as well.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import frozen

from eventstore.errors import InvalidArgument
from eventstore.limits import PAGE, check_limit, check_name, check_place
from eventstore.notes import LogRecorded, MetaSet
from eventstore.payloads import Json
from projections.pointers import fetched
from projections.tables import Range

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventstore.codec import Recorded
    from eventstore.store import EventStore, Stream
    from projections.logs import LogRow
    from projections.meta import MetaRow
    from projections.views import View

OneOrMore: TypeAlias = str | Collection[str]
"""A text, or several of which any will do."""

_NAMES = ("source", "kind", "ref", "stream")
LOGS_STREAM = "logs"
META_STREAM = "meta"
_HANDLES = 100
"""Streams whose handles are kept: a handle knows where its stream stands, so the next entry need not look."""


@frozen
class LogEntry:
    """A generic log entry, and its place."""

    position: int
    stream: str
    version: int
    source: str
    kind: str
    ref: str | None
    payload: Json
    attempt: int | None
    at: datetime
    """When it happened, as far as anybody said; the order is by position."""


class Logs:
    """Generic log entries. Made by `Runs`, as `runs.logs`.

    Args:
        store: where they stand.
        rows: what they are asked for by.
    """

    def __init__(self, store: EventStore, rows: View[LogRow]) -> None:
        self._store = store
        self._rows = rows
        self._handles: dict[str, Stream[Any]] = {}

    def record(
        self,
        source: str,
        kind: str,
        ref: str | None = None,
        payload: Json = None,
        *,
        stream: str = LOGS_STREAM,
        attempt: int | None = None,
        occurred_at: datetime | None = None,
        key: str | None = None,
    ) -> Recorded:
        """Record an entry, durable when this returns.

        Args:
            source: who says it.
            kind: what it is.
            ref: what it is about: an id of the caller's own.
            payload: any JSON.
            stream: where it stands: any stream of no run, or a run's, where it is work of the started run.
            attempt: that writes it into a run's stream; `attempt.append(LogRecorded(…))` says it by itself.
            occurred_at: when it happened, if not now; aware.
            key: recording again with the same key and content gives what stands.

        Raises:
            InvalidPayload, InvalidArgument, KeyReused, Fenced, IllegalTransition: nothing was written.
        """
        event = LogRecorded(source, kind, ref, payload)
        # A handle holds the attempt that it wrote under, and would lend it to who names none.
        handle = self._handle(stream) if attempt is None else self._store.stream(stream)
        return handle.append(event, attempt=attempt, occurred_at=occurred_at, key=key)[0]

    def where(
        self,
        *,
        source: OneOrMore | None = None,
        kind: OneOrMore | None = None,
        ref: OneOrMore | None = None,
        stream: OneOrMore | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[LogEntry]:
        """The entries that pass every filter, in the order of the log or from its end.

        A page ends at a position, which stays where it is whatever is written: go on with the last one's as `after`
        or, newest first, as `before`.

        Args:
            source: only of this one, or of these; likewise the next three.
            kind: what it is.
            ref: what it is about.
            stream: where it stands.
            since: what happened then or later; aware.
            until: what happened earlier than this; aware.
            after: those behind this position.
            before: those ahead of this position.
            limit: at most so many, from 1 to 10,000; all unless given, but never more than 10,000 at once.
            newest_first: begin at the end.

        Raises:
            InvalidArgument: a filter, position or limit that cannot be, or more than 10,000 where no limit was given.
        """
        if limit is not None:
            check_limit(limit)
        filters = _filters(
            source=source, kind=kind, ref=ref, stream=stream, since=since, until=until, after=after, before=before
        )
        rows = self._rows.where(order="-position" if newest_first else "position", limit=limit, **filters)
        found = {item.position: _entry(item) for item in fetched(self._store, (row.position for row in rows))}
        return [found[row.position] for row in rows]

    def each(self, /, *, newest_first: bool = False, **filters: Any) -> Iterator[LogEntry]:
        """Every entry that passes every filter, however many, a page at a time; arguments and errors as in `where`."""
        if "limit" in filters:
            raise InvalidArgument("limit", filters["limit"], "is for where(); each() gives all of them")
        place = "before" if newest_first else "after"
        while page := self.where(newest_first=newest_first, limit=PAGE, **filters):
            yield from page
            filters[place] = page[-1].position

    def count(self, /, **filters: Any) -> int:
        """How many entries pass every filter; filters and errors as in `where`."""
        return self._rows.count(**_filters(**filters))

    def _handle(self, stream: str) -> Stream[Any]:
        if (handle := self._handles.get(stream)) is None:
            handle = self._store.stream(stream)
            if len(self._handles) >= _HANDLES:
                self._handles.clear()
            self._handles[stream] = handle
        return handle


class Meta:
    """Named values: the last one set stands. Made by `Runs`, as `runs.meta`.

    Args:
        store: where they stand.
        rows: where each was last set.
    """

    def __init__(self, store: EventStore, rows: View[MetaRow]) -> None:
        self._store = store
        self._rows = rows

    def set(self, name: str, value: Json, *, stream: str = META_STREAM, key: str | None = None) -> Recorded:
        """Set a value, durable when this returns.

        Args:
            name: whose.
            value: any JSON.
            stream: whose names these are: any stream of no run.
            key: setting again with the same key and content gives what stands, and changes nothing set since.

        Raises:
            InvalidPayload, InvalidArgument, KeyReused, ForeignEvent: nothing was written.
        """
        event = MetaSet(check_name("name", name, slashes=True), value)
        return self._store.append(stream, event, key=key)[0]

    def get(self, name: str, default: Json = None, *, stream: str = META_STREAM) -> Json:
        """The value of a name; `default` where it was never set."""
        row = self._rows.get(stream, name)
        if row is None:
            return default
        (item,) = fetched(self._store, [row.position])
        return item.event.value

    def all(self, *, stream: str = META_STREAM) -> dict[str, Json]:
        """Every name with its value, by name."""
        rows = list(self._rows.each(stream=stream))
        values = {item.position: item.event.value for item in fetched(self._store, (row.position for row in rows))}
        return {row.name: values[row.position] for row in rows}


def _filters(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    after: int = 0,
    before: int | None = None,
    **only: OneOrMore | None,
) -> dict[str, Any]:
    """What `where` and `count` take, as filters of the view.

    Raises:
        InvalidArgument: a name that is none of theirs, or a position that cannot be.
    """
    if unknown := only.keys() - set(_NAMES):
        raise InvalidArgument("filter", min(unknown), f"is none of {', '.join(_NAMES)}, since, until, after, before")
    filters: dict[str, Any] = {name: wanted for name, wanted in only.items() if wanted is not None}
    if since is not None or until is not None:
        filters["at"] = Range(since, until)
    behind = check_place("after", after) + 1
    # A range and not the view's own `after`: SQLite begins there, where it would walk over all the pages before.
    filters["position"] = Range(min(behind, 2**63 - 1), None if before is None else check_place("before", before))
    return filters


def _entry(item: Recorded) -> LogEntry:
    event: LogRecorded = item.event
    return LogEntry(
        item.position, item.stream, item.version, event.source, event.kind, event.ref, event.payload, item.attempt,
        item.time,
    )  # fmt: skip
