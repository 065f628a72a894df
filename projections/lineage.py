"""Where a run comes from: the run that it continues, and what it begins with of that one's.

A new run names what it continues: a run, and a version of it. What stands up to that version never changes, so nothing
is copied: the checkpoint that a run begins with is looked for in the log whenever it is asked for, and each attempt,
each process and each rebuild finds the same one. It may lie several runs back.

`submit` lets no chain begin that leads nowhere or back to itself. Whoever appends past it can write one; a walk along
such a chain ends, and says where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.errors import (
    AgentDiffers,
    InvalidArgument,
    LineageBroken,
    NoCheckpoint,
    RunNotFound,
    SelfReference,
    SpecDiffers,
    VersionBeyondEnd,
)
from eventstore.limits import PAGE, check_name
from eventstore.workflow import RUN, CheckpointSaved, Continues, RunConfigured, RunQueued

if TYPE_CHECKING:
    from eventstore.codec import Recorded
    from eventstore.log import Reading
    from eventstore.payloads import Json
    from eventstore.store import EventStore

_STRETCH = 1_000
"""Entries of a stream that are glanced at together."""


@frozen
class Fork:
    """A run to go on from, at a version of it, and what a new run takes over unless it is told otherwise."""

    continues: Continues
    workflow: str
    inherited: dict[str, Json]


def admit(
    store: EventStore,
    reading: Reading,
    run_id: str | None,
    *,
    parent_id: str | None = None,
    continues: Continues | None = None,
) -> None:
    """Refuse a new run whose parent, or the run that it continues, is not there to be one.

    Raises:
        RunNotFound, SelfReference, VersionBeyondEnd, InvalidArgument: as `Runs.submit` says.
    """
    named = {"parent_id": parent_id, "continues": None if continues is None else continues.run_id}
    for role, other in named.items():
        if other is None:
            continue
        if other == run_id:
            raise SelfReference(run_id, role)
        if not _is_run(store, reading, other):
            raise RunNotFound(other)
    if continues is not None:
        if isinstance(continues.version, bool) or not isinstance(continues.version, int) or continues.version < 1:
            raise InvalidArgument("version", continues.version, "must be a version of the run to go on from: 1, 2, 3 …")
        if continues.version > (end := reading.version(continues.run_id)):
            raise VersionBeyondEnd(continues.run_id, continues.version, end)


def fork(
    store: EventStore,
    run_id: str,
    version: int | None,
    *,
    agent: str | None,
    spec_hash: str | None,
    needs_checkpoint: bool,
) -> Fork:
    """What a run that goes on from this one begins with.

    Args:
        store: that holds it.
        run_id: the run to go on from.
        version: where; its end, as it is now, unless given.
        agent: refuse unless it was this one's; None asks for none.
        spec_hash: likewise.
        needs_checkpoint: refuse where no checkpoint stands there.

    Raises:
        RunNotFound, VersionBeyondEnd, AgentDiffers, SpecDiffers, NoCheckpoint, InvalidArgument: as
            `Runs.continue_from` says.
    """
    check_name("run_id", run_id)
    with store.reading() as reading:
        origin = Continues(run_id, reading.version(run_id) if version is None else version)
        admit(store, reading, None, continues=origin)
        queued = _queued(store, reading, run_id)
        if queued is None:
            raise InvalidArgument("run", run_id, "was dropped before it was queued; submit it again instead")
        if agent is not None and agent != queued.agent:
            raise AgentDiffers(run_id, queued.agent, agent)
        if spec_hash is not None and spec_hash != queued.spec_hash:
            raise SpecDiffers(run_id, queued.spec_hash, spec_hash)
        if needs_checkpoint and checkpoint_before(store, reading, run_id, origin) is None:
            raise NoCheckpoint(run_id, origin.version)
        configured = latest(store, reading, run_id, RunConfigured, upto=origin.version)
        inherited = {name: getattr(queued, name) for name in ("input", "agent", "spec_hash", "job_id")}
        config = queued.config if configured is None else configured.event.config
        if isinstance(config, dict):  # a permission is that run's own: going on is asked for anew
            config = {name: value for name, value in config.items() if name != "auto_accept"}
        return Fork(origin, queued.workflow, {**inherited, "config": config})


def submission(store: EventStore, run_id: str) -> Recorded | None:
    """The event that submitted a run; None where it was dropped before, or is not there."""
    with store.reading() as reading:
        first = _first(store, reading, run_id)
        return first if first is not None and first.kind is RunQueued else None


def begun(store: EventStore, run_id: str) -> Continues | None:
    """What a run that stands goes on from."""
    first = submission(store, run_id)
    return None if first is None else first.event.continues


def inherited_checkpoint(store: EventStore, run_id: str, continues: Continues | None) -> Recorded | None:
    """The checkpoint that a run goes on from: of the run that it continues or, if that had none, of the one before.

    Raises:
        LineageBroken: the chain leads to a run that is not there, or back to itself.
    """
    with store.reading() as reading:
        return checkpoint_before(store, reading, run_id, continues)


def latest(store: EventStore, reading: Reading, run_id: str, kind: type, *, upto: int) -> Recorded | None:
    """The last event of a kind in a stream, up to and with this version; what lies behind it is not looked at."""
    names = store.stored_names((kind,))
    last = min(upto, reading.version(run_id))
    while last > 0:
        start = max(last - _STRETCH, 0)
        seen = reading.glance(after=start, limit=last - start, peek={}, stream=run_id)
        for version, name in zip(reversed(seen.versions), reversed(seen.types), strict=True):
            if name in names:
                return store.gate.codec.recorded(*reading.read(run_id, after=int(version) - 1, limit=1))
        last = start
    return None


def earliest(store: EventStore, reading: Reading, run_id: str, kind: type) -> Recorded | None:
    """The first event of a kind in a stream; what lies behind it is not looked at."""
    names = store.stored_names((kind,))
    for start in range(0, reading.version(run_id), _STRETCH):
        seen = reading.glance(after=start, limit=_STRETCH, peek={}, stream=run_id)
        for version, name in zip(seen.versions, seen.types, strict=True):
            if name in names:
                return store.gate.codec.recorded(*reading.read(run_id, after=int(version) - 1, limit=1))
    return None


def checkpoint_before(store: EventStore, reading: Reading, run_id: str, link: Continues | None) -> Recorded | None:
    """As `inherited_checkpoint`, within a view or transaction of the caller's."""
    seen: set[str] = set()
    while link is not None:
        if link.run_id in seen:
            raise LineageBroken(run_id, link.run_id, "leads back to itself there")
        if not reading.version(link.run_id):
            raise LineageBroken(run_id, link.run_id, "does not stand in this log")
        seen.add(link.run_id)
        if (found := latest(store, reading, link.run_id, CheckpointSaved, upto=link.version)) is not None:
            return found
        queued = _queued(store, reading, link.run_id)
        link = None if queued is None else queued.continues
    return None


def _queued(store: EventStore, reading: Reading, run_id: str) -> RunQueued | None:
    """The event that submitted a run: its first one, but for notes before it."""
    first = _first(store, reading, run_id)
    return first.event if first is not None and first.kind is RunQueued else None


def _is_run(store: EventStore, reading: Reading, stream: str) -> bool:
    first = _first(store, reading, stream)
    return first is not None and store.gate.owner(first.kind) is RUN


def _first(store: EventStore, reading: Reading, stream: str) -> Recorded | None:
    """The first event of a stream that belongs to a machine; it fixes whose the stream is."""
    after, limit = 0, 1
    while entries := reading.read(stream, after=after, limit=limit):
        for entry in entries:
            recorded = store.gate.codec.recorded(entry)
            if store.gate.owner(recorded.kind) is not None:
                return recorded
        after, limit = entries[-1].version, PAGE
    return None
