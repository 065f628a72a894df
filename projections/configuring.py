"""Changing a run's settings: what changes is merged into what stands, and all of it is written down, with who said so.

An event holds the whole settings, so that whoever reads the latest one knows them; the caller names only what changes.
Between looking and writing somebody else may have changed them too: then the merge is made anew, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from eventstore.errors import InvalidArgument, KeyReused
from eventstore.gate import same_json
from eventstore.payloads import to_iso
from eventstore.settings import auto_accept, check_settings, merged
from eventstore.workflow import RunConfigured, RunQueued, RunState
from projections.policies import approvals, check_person

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventstore.codec import Recorded
    from eventstore.payloads import Json
    from eventstore.store import Stream

EVERY_TOOL = "*"


def _nothing(_state: RunState) -> Sequence[object]:
    return ()


def configure(
    stream: Stream[RunState],
    changes: Mapping[str, Json],
    *,
    by: str | None,
    key: str | None,
    then: Callable[[RunState], Sequence[object]] = _nothing,
) -> Recorded:
    """Write down what a run's settings are once these changes are merged into them; see `Runs.configure`.

    `then` gives what is written with it, as follows from the state that the run is in.
    """
    check_person(by)
    check_settings(dict(changes))
    while True:
        seen = stream.refresh().state.configured
        event = RunConfigured(merged(_config(stream, seen), changes), by)

        def decide(state: RunState, seen: int = seen, event: RunConfigured = event) -> object:
            return (event, *then(state)) if state.configured == seen else None

        try:
            if written := stream.transact(decide, key=key):
                return written[0]
        except KeyReused as error:
            # The key stands, and what it changed may have been merged into other settings than those of now.
            standing = next(stream.read(after=error.version - 1, limit=1))
            if not _is_change(stream, standing, changes, by):
                raise
            return standing


def _is_change(stream: Stream[RunState], standing: Recorded, changes: Mapping[str, Json], by: str | None) -> bool:
    """Whether this very change, made on the settings of then, is what an entry says; as a redactor leaves it."""
    if standing.kind is not RunConfigured:
        return False
    configs = (item for item in stream.read(limit=standing.version - 1) if item.kind in (RunQueued, RunConfigured))
    before = None
    for item in configs:
        before = item.event.config
    (draft,) = stream.store.gate.draft(stream.name, [RunConfigured(merged(before, changes), by)])
    return same_json(draft.data, standing.entry.data)


def _config(stream: Stream[RunState], version: int) -> Json:
    return next(stream.read(after=version - 1, limit=1)).event.config if version else None


# --- standing permissions ---------------------------------------------------------------------------------------------


def grant(
    stream: Stream[RunState], tools: Iterable[str] | str, *, until: datetime | None, by: str, now: datetime
) -> Recorded:
    """Write down a permission, and what it decides at once; see `Sessions.auto_accept`."""
    if not by or not isinstance(by, str):
        raise InvalidArgument("by", by, "must name who grants it")
    named = [tools] if isinstance(tools, str) else [*tools] if isinstance(tools, Iterable) else []
    if not named or not all(isinstance(name, str) and name for name in named):
        raise InvalidArgument("tools", tools, f"must name tools, or be {EVERY_TOOL!r} for all")
    names: Json = EVERY_TOOL if EVERY_TOOL in named else sorted({*named})
    if until is not None and not (isinstance(until, datetime) and until.tzinfo is not None and now < until):
        raise InvalidArgument("until", until, "must be a time to come, with a time zone; leave it out for no end")
    value = {"tools": names, "until": None if until is None else to_iso(until), "by": by}
    accepting = auto_accept({"auto_accept": value})
    return configure(
        stream, {"auto_accept": value}, by=by, key=None, then=lambda state: approvals(state, accepting, now)
    )


def withdraw(stream: Stream[RunState], *, by: str) -> Recorded:
    """Take a permission back; what was decided in its name stands."""
    return configure(stream, {"auto_accept": None}, by=by, key=None)
