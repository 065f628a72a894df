"""Changing a run's settings: what changes is merged into what stands, and all of it is written down, with who said so.

An event holds the whole settings, so that whoever reads the latest one knows them; the caller names only what changes.
Between looking and writing somebody else may have changed them too: then the merge is made anew, and nothing is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore.errors import KeyReused
from eventstore.settings import check_settings, merged
from eventstore.workflow import RunConfigured, RunQueued, RunState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventstore.codec import Recorded
    from eventstore.payloads import Json
    from eventstore.store import Stream


def configure(stream: Stream[RunState], changes: Mapping[str, Json], *, by: str | None, key: str | None) -> Recorded:
    """Write down what a run's settings are once these changes are merged into them; see `Runs.configure`."""
    check_settings(dict(changes))
    while True:
        seen = stream.refresh().state.configured
        event = RunConfigured(merged(_config(stream, seen), changes), by)

        def decide(state: RunState, seen: int = seen, event: RunConfigured = event) -> object:
            return event if state.configured == seen else None

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
    """Whether this very change, made on the settings of then, is what an entry says."""
    if standing.kind is not RunConfigured or standing.event.by != by:
        return False
    configs = (item for item in stream.read(limit=standing.version - 1) if item.kind in (RunQueued, RunConfigured))
    before = None
    for item in configs:
        before = item.event.config
    return bool(merged(before, changes) == standing.event.config)


def _config(stream: Stream[RunState], version: int) -> Json:
    return next(stream.read(after=version - 1, limit=1)).event.config if version else None
