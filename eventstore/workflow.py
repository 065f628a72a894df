"""The run: its events, its phases, the table of what may happen, and what is kept of it.

House rules. (1) What may happen stands in `TRANSITIONS` and nowhere else: an absent key is the refusal. (2) The
guards look at data (calls, questions), never at phases, and the fold never at clocks: time enters only as events.

A run is queued, then started by a worker, and ends in one of six final phases. Between, it may be paused while it
waits for a person, another run, a time, a worker or an operator, and it may be put back into the queue. Each time a
worker takes it up, a new *attempt* begins; the attempt is the fencing token of everything that worker writes. From a
final phase nothing leads on: going on is a new run that names what it continues.

A newcomer reads downward: phases, events, table, state, fence, seals, guards, fold, machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from attrs import field, frozen
from rpds import HashTrieMap

from eventstore.changing import changed
from eventstore.errors import (
    AlreadyAsked,
    AlreadyResolved,
    CallNotOpen,
    CallReused,
    DigestMismatch,
    Fenced,
    InvalidPayload,
    LimitReached,
    NotApproved,
    NotCovered,
    QuestionOpen,
    QuestionUnknown,
)
from eventstore.limits import MAX_LABEL, MAX_LABELS, MAX_NAME, MAX_OPEN
from eventstore.machine import Machine, Seal
from eventstore.notes import LogRecorded
from eventstore.payloads import Json, canonical, digest
from eventstore.settings import AutoAccept, auto_accept

if TYPE_CHECKING:
    from eventstore.codec import Recorded


class Phase(StrEnum):
    """Where a run stands."""

    NEW = "new"
    """Before its first event."""
    QUEUED = "queued"
    STARTED = "started"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"
    DROPPED = "dropped"
    CANCELLED = "cancelled"


ACTIVE = (Phase.STARTED, Phase.PAUSED, Phase.QUEUED)
"""The phases in which there is something left to do, the busiest first."""

POLICY = "policy"
"""Who decides where a standing permission does (`by` of a ConfirmationResolved); no person may bear this name."""

WaitingFor = Literal["person", "run", "time", "worker", "operator"]


# --- life ---------------------------------------------------------------------------------------------------------


@frozen
class Continues:
    """The run, and the version of it, that a new run goes on from."""

    run_id: str
    version: int


@frozen
class RunQueued:
    """A run waits for a worker; higher priorities first, none before `not_before`."""

    workflow: str
    input: Json = None
    agent: str | None = None
    spec_hash: str | None = None
    job_id: str | None = None
    parent_id: str | None = None
    continues: Continues | None = None
    priority: int = 0
    not_before: datetime | None = None
    labels: dict[str, str] = field(factory=dict)
    config: Json = None


@frozen
class RunStarted:
    """A worker took the run from the queue; a new attempt begins."""

    worker: str


@frozen
class RunResumed:
    """A worker took up a paused run, or one whose worker died; a new attempt begins."""

    worker: str
    reason: str | None = None


@frozen
class RunPaused:
    """The run waits, and no worker holds it."""

    waiting_for: WaitingFor
    until: datetime | None = None
    reason: str | None = None


@frozen
class RunRequeued:
    """Back into the queue: retry later, or a daemon that drains."""

    reason: str | None = None
    not_before: datetime | None = None
    failures: int = 0
    """Where it is to be retried: how often it has failed so far. A drain is no failure, and says 0."""


@frozen
class RunCompleted:
    """The run reached its end."""

    output: Json = None


@frozen
class Error:
    """What went wrong: a short tag for programs, a message for people."""

    tag: str
    message: str


@frozen
class RunFailed:
    """The run ended with an error of its own, or its input was no good."""

    error: Error
    reason: str | None = None


@frozen
class RunCrashed:
    """The run's worker died, and once too often."""

    reason: str | None = None
    exit_code: int | None = None


@frozen
class RunInterrupted:
    """The run ended because somebody asked it to stop."""

    reason: str | None = None


@frozen
class RunDropped:
    """The run was not taken in, or thrown out of an overflowing queue."""

    reason: str | None = None


@frozen
class RunCancelled:
    """Somebody ended the run from outside, without asking it."""

    by: str | None = None
    reason: str | None = None
    exit_code: int | None = None


# --- work ---------------------------------------------------------------------------------------------------------


@frozen
class MessageRecorded:
    """One message of the conversation."""

    role: str
    content: Json = None


@frozen
class ToolCalled:
    """A tool call is about to be made; what it does may happen from here on."""

    call_id: str
    tool: str
    input: Json = None
    parent_call_id: str | None = None
    digest: str | None = None
    """Of tool and input as they were given, where a redactor changed the input on its way into the log."""


@frozen
class ToolReturned:
    """A tool call came back."""

    call_id: str
    output: Json = None
    is_error: bool = False


@frozen
class CheckpointSaved:
    """The run's whole state after a step: from here it can go on."""

    step: int
    state: Json = None


@frozen
class UsageRecorded:
    """Tokens and money that the run spent."""

    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


@frozen
class ConfirmationRequested:
    """A question to a person about one tool call, bound to the digest of its tool and input as they were given."""

    call_id: str
    tool: str
    input: Json = None
    digest: str | None = None
    reason: str | None = None
    expires_at: datetime | None = None


@frozen
class ConfirmationResolved:
    """The decision; it may carry an edited input, or the result itself."""

    call_id: str
    decision: Literal["approved", "denied"]
    by: str | None = None
    comment: str | None = None
    input: Json = None
    result: Json = None


@frozen
class ConfirmationExpired:
    """Nobody answered in time."""

    call_id: str


@frozen
class InterruptRequested:
    """Somebody asked the run to stop; its worker, or the next recovery, ends it."""

    by: str | None = None
    reason: str | None = None


@frozen
class RunDescribed:
    """A title, a summary, labels; what is None stays as it was, labels are merged."""

    title: str | None = None
    summary: str | None = None
    labels: dict[str, str] = field(factory=dict)


@frozen
class RunConfigured:
    """The run's settings from here on: all of them, and not only what changed."""

    config: Json = None
    by: str | None = None


# --- the table ----------------------------------------------------------------------------------------------------

_ANYTIME = (InterruptRequested, RunDescribed, RunConfigured)
_WORK = (
    MessageRecorded,
    ToolCalled,
    ToolReturned,
    CheckpointSaved,
    UsageRecorded,
    ConfirmationRequested,
    ConfirmationResolved,
    ConfirmationExpired,
    LogRecorded,
    *_ANYTIME,
)
_FINAL = {
    RunCompleted: Phase.COMPLETED,
    RunFailed: Phase.FAILED,
    RunCrashed: Phase.CRASHED,
    RunInterrupted: Phase.INTERRUPTED,
    RunDropped: Phase.DROPPED,
    RunCancelled: Phase.CANCELLED,
}

TRANSITIONS: dict[Phase, dict[type, Phase]] = {
    Phase.NEW: {
        RunQueued: Phase.QUEUED,
        RunDropped: Phase.DROPPED,
    },
    Phase.QUEUED: {
        RunStarted: Phase.STARTED,
        RunFailed: Phase.FAILED,
        RunDropped: Phase.DROPPED,
        RunCancelled: Phase.CANCELLED,
        **dict.fromkeys(_ANYTIME, Phase.QUEUED),
    },
    Phase.STARTED: {
        RunResumed: Phase.STARTED,
        RunPaused: Phase.PAUSED,
        RunRequeued: Phase.QUEUED,
        **_FINAL,
        **dict.fromkeys(_WORK, Phase.STARTED),
    },
    Phase.PAUSED: {
        RunResumed: Phase.STARTED,
        RunFailed: Phase.FAILED,
        RunInterrupted: Phase.INTERRUPTED,
        RunCancelled: Phase.CANCELLED,
        **dict.fromkeys((ConfirmationResolved, ConfirmationExpired, ToolReturned, *_ANYTIME), Phase.PAUSED),
    },
    **{phase: {RunDescribed: phase} for phase in _FINAL.values()},
}


# --- the state ----------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """A tool call: what it was bound to, who opened it, whether it came back (the versions of both events)."""

    digest: str
    attempt: int
    called: int
    returned: int | None = None


@frozen
class Question:
    """A confirmation: what it is about and, once there is one, the decision."""

    tool: str
    digest: str
    asked: int
    """Version of the ConfirmationRequested."""
    expires_at: datetime | None = None
    decision: Literal["approved", "denied", "expired"] | None = None
    by: str | None = None
    at: datetime | None = None
    resolved: int | None = None
    """Version of the decision."""


class RunState(NamedTuple):
    """What the machine keeps of a run: enough to judge the next event, and no payloads.

    The maps are persistent ones, so that a fold of many calls stays pure without copying them at each event. Those of a
    long history that was opened anew are a `replaying.History`, which makes a call when it is asked for it.

    It and its calls are no attrs classes: a fold makes one anew for each event, in a third of the time.
    """

    phase: Phase = Phase.NEW
    attempt: int = 0
    worker: str | None = None
    crashes: int = 0
    """How often a worker died under it; waiting for a person is no failure."""
    failures: int = 0
    """How often it was put back into the queue because it had failed."""
    interrupt_requested: bool = False
    waiting_for: WaitingFor | None = None
    until: datetime | None = None
    """Paused: not before this time."""
    not_before: datetime | None = None
    """Queued: not before this time."""
    checkpoint: int = 0
    """Version of the latest CheckpointSaved, 0 if there is none."""
    calls: HashTrieMap[str, Call] = HashTrieMap()  # as persistent as the rest, so that all may share it
    unreturned: frozenset[str] = frozenset()
    questions: HashTrieMap[str, Question] = HashTrieMap()
    unanswered: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()
    """The names of its labels, which are counted."""
    configured: int = 0
    """Version of the event that holds its settings: its RunQueued, or the latest RunConfigured."""
    accepting: AutoAccept | None = None
    """The standing permission among its settings: what may be approved in the name of `POLICY`."""


# --- fence --------------------------------------------------------------------------------------------------------

_BEGIN = frozenset({RunStarted, RunResumed})
_OUTSIDE = frozenset(
    {
        RunQueued,
        RunDropped,
        RunCancelled,
        InterruptRequested,
        RunDescribed,
        RunConfigured,
        ConfirmationResolved,
        ConfirmationExpired,
    }
)
_FINAL_PHASES = frozenset(_FINAL.values())


def fence(state: RunState, stream: str, kind: type, attempt: int | None, held: int | None) -> int | None:
    """The attempt that an event is stored with, or `Fenced`.

    `attempt` is what the caller named; `held` is what the handle it writes through began. A start or resume begins
    the next attempt. What comes from outside needs none. A run that no worker holds (it is queued or paused) takes
    events without one: the table says which. All else is a worker's, and is its own only while the attempt it names
    is the run's and the run has not ended.
    """
    current = state.attempt
    outside = kind in _OUTSIDE
    if kind in _BEGIN:
        if attempt is not None and attempt not in (current, current + 1):
            raise Fenced(stream, kind.__name__, attempt, current, str(state.phase))
        return current + 1
    if attempt is None and not outside:
        attempt = held
    if attempt is None:
        if state.phase is Phase.STARTED and not outside and kind in TRANSITIONS[Phase.STARTED]:
            raise Fenced(stream, kind.__name__, None, current, str(state.phase))
        return None
    if attempt != current or (state.phase in _FINAL_PHASES and not outside):
        raise Fenced(stream, kind.__name__, attempt, current, str(state.phase))
    return attempt


# --- seals --------------------------------------------------------------------------------------------------------

IDENTIFIERS = frozenset(
    {
        "call_id", "continues", "decision", "digest", "expires_at", "failures", "is_error", "job_id", "not_before",
        "parent_call_id", "parent_id", "priority", "step", "tool", "until", "waiting_for", "worker", "workflow",
    }
)  # fmt: skip
"""The fields that machine, worker and recovery go by."""


def bound(event: ToolCalled | ConfirmationRequested) -> str:
    """The digest of tool and input that a call or a question is bound to: as they were given, before any redactor."""
    return event.digest or digest(event.tool, event.input)


def _bound(recorded: Recorded) -> str:
    """As `bound`, of a call in its place."""
    given, tool, input_ = recorded.stored("digest", "tool", "input")
    return given or digest(tool, input_)


def _seal_input(stream: str, given: Any, kept: Any, vouched: bool) -> Any:  # noqa: FBT001 - a `Seal`
    if given.digest is not None:
        if not vouched and given.digest != (wanted := digest(given.tool, given.input)):
            raise DigestMismatch(stream, given.call_id, wanted, given.digest)
        return kept
    return kept if kept is given else changed(kept, digest=digest(given.tool, given.input))


def _seal_answer(_stream: str, given: Any, kept: Any, _vouched: bool) -> Any:  # noqa: FBT001 - a `Seal`
    # The worker acts on an edited input as the log holds it, and what was taken out of it is nowhere else.
    if kept is not given and canonical(kept.input) != canonical(given.input):
        raise InvalidPayload(
            "ConfirmationResolved", "$.input", "is changed by the redactor, so no worker could act on it; decide "
            "without an edited input"
        )  # fmt: skip
    return kept


SEALS: Mapping[type, Seal] = {
    ToolCalled: _seal_input,
    ConfirmationRequested: _seal_input,
    ConfirmationResolved: _seal_answer,
}


# --- guards on data -----------------------------------------------------------------------------------------------


def _guard_call(state: RunState, recorded: Recorded) -> None:
    call_id: str = recorded.plain("call_id")
    question = state.questions.get(call_id)
    call = state.calls.get(call_id)
    # Most calls are new and were not asked about: there is nothing to compare a digest with.
    wanted = "" if question is None and call is None else _bound(recorded)
    if question is not None:
        if question.decision is None:
            raise QuestionOpen(recorded.stream, recorded.type, (call_id,))
        if question.decision != "approved":
            raise NotApproved(recorded.stream, call_id, question.decision)
        if question.digest != wanted:
            raise DigestMismatch(recorded.stream, call_id, question.digest, wanted)
    if call is None:
        if len(state.unreturned) >= MAX_OPEN:
            raise LimitReached(recorded.stream, "open calls", MAX_OPEN, "let some return first")
        return
    if call.returned is not None:
        raise CallReused(recorded.stream, call_id, f"returned already at version {call.returned}")
    if call.attempt == recorded.attempt:
        raise CallReused(recorded.stream, call_id, f"was opened already at version {call.called}")
    if question is None and call.digest != wanted:
        raise DigestMismatch(recorded.stream, call_id, call.digest, wanted)


def _guard_return(state: RunState, recorded: Recorded) -> None:
    call_id: str = recorded.plain("call_id")
    call = state.calls.get(call_id)
    if call is None:
        raise CallNotOpen(recorded.stream, call_id)
    if call.returned is not None:
        raise CallReused(recorded.stream, call_id, f"returned already at version {call.returned}")


def _guard_question(state: RunState, recorded: Recorded) -> None:
    event: ConfirmationRequested = recorded.event
    wanted = bound(event)
    if (question := state.questions.get(event.call_id)) is not None:
        raise AlreadyAsked(recorded.stream, event.call_id, question.decision or "waiting for its answer")
    if len(state.unanswered) >= MAX_OPEN:
        raise LimitReached(recorded.stream, "open questions", MAX_OPEN, "let some be answered first")
    if (call := state.calls.get(event.call_id)) is None:
        return
    if call.returned is not None:
        raise CallReused(recorded.stream, event.call_id, f"returned already at version {call.returned}")
    if call.digest != wanted:
        raise DigestMismatch(recorded.stream, event.call_id, call.digest, wanted)


def _guard_answer(state: RunState, recorded: Recorded) -> None:
    call_id: str = recorded.event.call_id
    question = state.questions.get(call_id)
    if question is None:
        raise QuestionUnknown(recorded.stream, call_id)
    if question.decision is not None:
        raise AlreadyResolved(recorded.stream, call_id, question.decision, question.by, question.at)


def _guard_decision(state: RunState, recorded: Recorded) -> None:
    _guard_answer(state, recorded)
    event: ConfirmationResolved = recorded.event
    if event.by != POLICY:
        return
    # Whether its time has passed is compared by whoever decides in its name: nothing here knows a clock.
    tool = state.questions[event.call_id].tool
    covered = state.accepting is not None and state.accepting.covers(tool)
    as_asked = event.decision == "approved" and event.input is None and event.result is None
    if not (covered and as_asked):
        raise NotCovered(recorded.stream, event.call_id, tool)


def _guard_requeue(state: RunState, recorded: Recorded) -> None:
    # The queue takes no answers: a question would wait there without anybody being able to decide it.
    if state.unanswered:
        raise QuestionOpen(recorded.stream, recorded.type, tuple(sorted(state.unanswered)))


def _guard_labels(state: RunState, recorded: Recorded) -> None:
    labels: dict[str, str] = recorded.event.labels
    if len(state.labels.union(labels)) > MAX_LABELS:
        raise LimitReached(recorded.stream, "labels", MAX_LABELS, "give those it has new values, or put more into one")
    if any(len(name) > MAX_NAME or len(value) > MAX_LABEL for name, value in labels.items()):
        what = f"characters in a label's value, and {MAX_NAME} in its name"
        raise LimitReached(recorded.stream, what, MAX_LABEL, "say more in its summary, or in a LogRecorded")


GUARDS: Mapping[type, Callable[[RunState, Recorded], None]] = {
    ToolCalled: _guard_call,
    ToolReturned: _guard_return,
    ConfirmationRequested: _guard_question,
    ConfirmationResolved: _guard_decision,
    ConfirmationExpired: _guard_answer,
    RunRequeued: _guard_requeue,
    RunQueued: _guard_labels,
    RunDescribed: _guard_labels,
}


# --- the fold -----------------------------------------------------------------------------------------------------


def _queued(state: RunState, recorded: Recorded) -> RunState:
    event: RunQueued = recorded.event
    return changed(
        state,
        not_before=event.not_before,
        labels=frozenset(event.labels),
        configured=recorded.version,
        accepting=None if event.config is None else auto_accept(event.config),
    )


def _configured(state: RunState, recorded: Recorded) -> RunState:
    return changed(state, configured=recorded.version, accepting=auto_accept(recorded.event.config))


def _described(state: RunState, recorded: Recorded) -> RunState:
    labels: dict[str, str] = recorded.event.labels
    return changed(state, labels=state.labels.union(labels)) if labels else state


def _begun(state: RunState, recorded: Recorded) -> RunState:
    # A resume of a run that was not paused tells that its worker died under it.
    died = state.phase is Phase.STARTED
    return changed(
        state,
        attempt=state.attempt + 1 if recorded.attempt is None else recorded.attempt,
        worker=recorded.event.worker,
        crashes=state.crashes + died,
        waiting_for=None,
        until=None,
        not_before=None,
    )


def _paused(state: RunState, recorded: Recorded) -> RunState:
    event: RunPaused = recorded.event
    return changed(state, worker=None, waiting_for=event.waiting_for, until=event.until)


def _requeued(state: RunState, recorded: Recorded) -> RunState:
    event: RunRequeued = recorded.event
    return changed(state, worker=None, not_before=event.not_before, failures=event.failures or state.failures)


def _ended(state: RunState, recorded: Recorded) -> RunState:
    # What is open is void with the run, and a final phase asks for none of it again.
    return RunState(
        phase=state.phase,
        attempt=state.attempt,
        worker=state.worker,
        crashes=state.crashes + (recorded.kind is RunCrashed),
        interrupt_requested=state.interrupt_requested,
        checkpoint=state.checkpoint,
        labels=state.labels,
        configured=state.configured,
    )


def _called(state: RunState, recorded: Recorded) -> RunState:
    call_id: str = recorded.plain("call_id")
    call = Call(_bound(recorded), recorded.attempt or state.attempt, recorded.version)
    return changed(state, calls=state.calls.insert(call_id, call), unreturned=state.unreturned | {call_id})


def _returned(state: RunState, recorded: Recorded) -> RunState:
    call_id: str = recorded.plain("call_id")
    call = changed(state.calls[call_id], returned=recorded.version)
    return changed(state, calls=state.calls.insert(call_id, call), unreturned=state.unreturned - {call_id})


def _checkpointed(state: RunState, recorded: Recorded) -> RunState:
    return changed(state, checkpoint=recorded.version)


def _asked(state: RunState, recorded: Recorded) -> RunState:
    event: ConfirmationRequested = recorded.event
    question = Question(event.tool, bound(event), recorded.version, event.expires_at)
    return changed(
        state,
        questions=state.questions.insert(event.call_id, question),
        unanswered=state.unanswered | {event.call_id},
    )


def _resolved(state: RunState, recorded: Recorded) -> RunState:
    event: ConfirmationResolved = recorded.event
    question = state.questions[event.call_id]
    decided = changed(
        question,
        decision=event.decision,
        by=event.by,
        at=recorded.time,
        resolved=recorded.version,
        digest=question.digest if event.input is None else digest(question.tool, event.input),
    )
    return _answered(state, event.call_id, decided)


def _expired(state: RunState, recorded: Recorded) -> RunState:
    call_id: str = recorded.event.call_id
    question = changed(state.questions[call_id], decision="expired", at=recorded.time, resolved=recorded.version)
    return _answered(state, call_id, question)


def _answered(state: RunState, call_id: str, question: Question) -> RunState:
    return changed(state, questions=state.questions.insert(call_id, question), unanswered=state.unanswered - {call_id})


def _interrupt_requested(state: RunState, _recorded: Recorded) -> RunState:
    return changed(state, interrupt_requested=True)


_FOLDS: dict[type, Callable[[RunState, Recorded], RunState]] = {
    RunQueued: _queued,
    RunStarted: _begun,
    RunResumed: _begun,
    RunPaused: _paused,
    RunRequeued: _requeued,
    **dict.fromkeys(_FINAL, _ended),
    ToolCalled: _called,
    ToolReturned: _returned,
    CheckpointSaved: _checkpointed,
    ConfirmationRequested: _asked,
    ConfirmationResolved: _resolved,
    ConfirmationExpired: _expired,
    InterruptRequested: _interrupt_requested,
    RunDescribed: _described,
    RunConfigured: _configured,
}


def evolve(state: RunState, recorded: Recorded) -> RunState:
    """The state after an event that the gate let pass; pure. The phase is set by the machine, from the table."""
    fold = _FOLDS.get(recorded.kind)
    return state if fold is None else fold(state, recorded)


RUN: Machine[RunState] = Machine(
    name="run",
    initial=RunState(),
    table=TRANSITIONS,
    evolve=evolve,
    guards=GUARDS,
    fence=fence,
    seals=SEALS,
    identifiers=IDENTIFIERS,
    hints=dict.fromkeys(_FINAL_PHASES, "To go on, submit a new run that continues it."),
)
