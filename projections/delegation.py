"""Delegation: a tool call that another run makes.

The caller's run opens the call, the child run does the work, and its output comes back as the call's result.
The call and the child that makes it are written in one transaction: there is never the one without the other. The
child's id follows from its parent and the call, so every later attempt, in whatever process, finds the same child; the
result is written by the attempt that comes back and finds it ended. Killed anywhere, the next attempt goes on from what
stands, and a child is made once.

A child is a run like any other. It goes on when its parent ends before it: what it did stands in a log of its own, and
may be continued from; whoever wants it to end cancels it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from eventstore.errors import CallFailed, ChildrenOpen, InvalidArgument
from eventstore.payloads import Json, encode_json
from eventstore.settings import check_settings
from eventstore.workflow import (
    RUN,
    TRANSITIONS,
    Phase,
    RunCompleted,
    RunDescribed,
    RunFailed,
    RunQueued,
    RunState,
    ToolCalled,
    ToolReturned,
)
from projections import calling

if TYPE_CHECKING:
    from eventstore.codec import Recorded
    from eventstore.log import Reading, Writing
    from eventstore.store import EventStore, Stream

Provided = Callable[[RunQueued, Any], None]
"""Looks at a child before it is written, in the transaction, and may refuse it."""


@frozen
class Child:
    """A run that is to make one call: its workflow (the call's tool), its input, and the rest as for `submit`."""

    workflow: str
    input: Json = None
    agent: str | None = None
    spec_hash: str | None = None
    priority: int = 0
    labels: dict[str, str] = field(factory=dict)
    config: Json = None


def child_id(run_id: str, call_id: str) -> str:
    """The id of the run that makes this call; it is the same whoever asks."""
    return f"run-{hashlib.sha256(encode_json('child', [run_id, call_id]).encode()).hexdigest()[:16]}"


def results(
    stream: Stream[RunState],
    attempt: int,
    children: Mapping[str, Child],
    *,
    job_id: str | None,
    provided: Provided,
) -> dict[str, Json]:
    """What each child run gave, by call id; the calls are opened and the children submitted where they are not yet.

    Args:
        stream: of the parent.
        attempt: the parent's, which writes.
        children: by call id.
        job_id: the job that the children are part of.
        provided: looks at each new child.

    Raises:
        ChildrenOpen, CallFailed, DigestMismatch, Fenced: as `Attempt.delegate` says.
    """
    if not children:
        raise InvalidArgument("children", {}, "name no child; give one for each call id")
    stream.refresh()
    new = {}
    for call_id, child in children.items():
        call = calling.standing(stream, call_id, child.workflow, child.input)
        if call is None or call.returned is None:
            check_settings(child.config)
            new[call_id] = child
    _submit(stream, attempt, new, job_id, provided)
    ends = _ends(stream, new)
    if ends:
        stream.append(*ends, attempt=attempt)
    back = {end.call_id for end in ends}
    if waiting := tuple(child_id(stream.name, call_id) for call_id in new if call_id not in back):
        raise ChildrenOpen(stream.name, waiting)
    return {call_id: _result(stream, call_id) for call_id in children}


def _result(stream: Stream[RunState], call_id: str) -> Json:
    returned = stream.state.calls[call_id].returned
    if returned is None:  # cannot be: it was looked at, or written, a moment ago, and a return is never taken back
        raise CallFailed(stream.name, call_id, None)
    return calling.returned(stream, call_id, returned)


def _submit(
    stream: Stream[RunState], attempt: int, children: Mapping[str, Child], job_id: str | None, provided: Provided
) -> None:
    """Open the calls and put their runs into the queue, in one transaction; what stands already is left as it is."""
    store, state = stream.store, stream.state
    ids = {call_id: child_id(stream.name, call_id) for call_id in children}
    with store.reading() as reading:
        missing = {
            run_id: children[call_id]
            for call_id, run_id in ids.items()
            if calling.given(stream, call_id) is None and (call_id not in state.calls or not reading.version(run_id))
        }
    opening = [
        ToolCalled(call_id, child.workflow, child.input)
        for call_id, child in children.items()
        # A call that was begun without a child is opened anew: so whoever is fenced makes no child either.
        if (call := state.calls.get(call_id)) is None or (ids[call_id] in missing and call.attempt != attempt)
    ]
    if not opening and not missing:
        return
    # What this attempt opened itself, by other means than this, is not opened again: the gate's word is said here.
    begun = {call_id for call_id, run_id in ids.items() if run_id in missing} - {call.call_id for call in opening}
    parent = stream.job(*opening, attempt=attempt)
    handles: list[Stream[RunState]] = [stream]
    jobs = []
    for run_id, child in missing.items():
        queued = RunQueued(
            child.workflow,
            child.input,
            agent=child.agent,
            spec_hash=child.spec_hash,
            job_id=job_id,
            parent_id=stream.name,
            priority=child.priority,
            labels=child.labels,
            config=child.config,
        )
        handle = store.stream(run_id, RUN)
        handles.append(handle)
        jobs.append(handle.job(queued, provided=_looking(provided, queued)))

    def together(transaction: Writing) -> list[Any]:
        placed = parent(transaction)
        for call_id in begun:
            calling.may_repeat(placed[0].state, stream.name, call_id, attempt)
        return [placed, *(job(transaction) for job in jobs)]

    with store.appending():
        for handle, placed in zip(handles, store.log.write(together, shared=True), strict=True):
            handle.took(placed)


def _looking(provided: Provided, queued: RunQueued) -> Callable[[Writing], None]:
    return lambda writing: provided(queued, writing)


def _ends(stream: Stream[RunState], children: Mapping[str, Child]) -> list[ToolReturned]:
    """The returns of those calls whose run has ended, or for which a person gave the result."""
    ends = []
    with stream.store.reading() as reading:
        for call_id in children:
            if (result := calling.given(stream, call_id)) is not None:
                ends.append(ToolReturned(call_id, result))
            elif (last := _last(stream.store, reading, child_id(stream.name, call_id))) is not None:
                ends.extend(returns(call_id, last))
    return ends


def _last(store: EventStore, reading: Reading, run_id: str) -> Recorded | None:
    """The last event of a run, but for descriptions, which may come behind its end."""
    version = reading.version(run_id)
    while version:
        recorded = store.gate.codec.recorded(reading.read(run_id, after=version - 1, limit=1)[0])
        if recorded.kind is not RunDescribed:
            return recorded
        version -= 1
    return None


def returns(call_id: str, last: Recorded) -> tuple[ToolReturned, ...]:
    """How a call came back whose run has this as its last event: `()` if the run has not ended; pure.

    Of a run that did not complete, the output tells what became of it, and is an error.
    """
    phase = TRANSITIONS[Phase.STARTED].get(last.kind or type(None))
    if phase not in RUN.final:
        return ()
    if last.kind is RunCompleted:
        return (ToolReturned(call_id, last.event.output),)
    told: dict[str, Json] = {"run_id": last.stream, "phase": str(phase), "reason": last.event.reason}
    if last.kind is RunFailed:
        told["error"] = {"tag": last.event.error.tag, "message": last.event.error.message}
    return (ToolReturned(call_id, told, is_error=True),)
