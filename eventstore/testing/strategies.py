"""Legal histories of any machine, drawn by Hypothesis.

A history is drawn as a run would live it: the phase says which events the table allows, one of them is drawn from the
state as it is by then, the gate judges it, and the next step begins where it led. So each drawn event is legal, and a
shorter history is a legal one too, which is what makes them shrink. What the gate refuses is not drawn.

For the run machine the strategies stand here and name what is there: a return names an open call, an answer an
open question. For other machines they are given by the caller or made from the fields of the event classes.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any, Generic, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

import attrs
from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from eventstore.codec import Codec, Recorded
from eventstore.errors import InvalidPayload, Refused
from eventstore.limits import MAX_INTEGER
from eventstore.log import Entry
from eventstore.machine import Machine
from eventstore.notes import LogRecorded
from eventstore.payloads import Json, digest
from eventstore.workflow import (
    POLICY,
    RUN,
    CheckpointSaved,
    ConfirmationExpired,
    ConfirmationRequested,
    ConfirmationResolved,
    Error,
    InterruptRequested,
    MessageRecorded,
    RunCancelled,
    RunCompleted,
    RunConfigured,
    RunCrashed,
    RunDescribed,
    RunDropped,
    RunFailed,
    RunInterrupted,
    RunPaused,
    RunQueued,
    RunRequeued,
    RunResumed,
    RunStarted,
    RunState,
    ToolCalled,
    ToolReturned,
    UsageRecorded,
    WaitingFor,
)

S = TypeVar("S", bound=Any)
Events: TypeAlias = Mapping[type, Callable[[Any], SearchStrategy[Any]]]
"""`event class -> (state) -> a strategy of such events`; `st.nothing()` says "not now"."""

_BEGINNING = 1_767_225_600_000_000
"""2026-01-01, in microseconds: when every rehearsal begins."""
_FIRST_TIME, _LAST_TIME = datetime(2026, 1, 1), datetime(2027, 1, 1)  # noqa: DTZ001 - Hypothesis adds the zone


# --- a stream without a log -----------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _codec(machine: Machine[Any]) -> Codec:
    return Codec(machine.events)


class Rehearsal(Generic[S]):
    """A stream that lives in no log: the same seals, fence, guards and fold, one event at a time.

    Args:
        machine: whose stream it is.
        events: taken at once, in order.
    """

    def __init__(self, machine: Machine[S], *events: object, stream: str = "rehearsal") -> None:
        self.machine = machine
        self.stream = stream
        self.state: S = machine.initial
        self.held: int | None = None
        """The attempt that was begun here; worker events carry it."""
        self.history: list[Recorded] = []
        for event in events:
            self.take(event)

    def take(self, event: object, *, attempt: int | None = None) -> Recorded:
        """Judge one event and go on from the state after it.

        Raises:
            Refused: what `Stream.append` would raise; the state is what it was.
        """
        kind, place = type(event), len(self.history) + 1
        codec = _codec(self.machine)
        seal = self.machine.seals.get(kind)
        data = codec.encode(event if seal is None else seal(self.stream, event, event, False))  # noqa: FBT003 - a `Seal`
        if self.machine.fence is not None:
            attempt = self.machine.fence(self.state, self.stream, kind, attempt, self.held)
        moment = _BEGINNING + place * 1_000_000
        entry = Entry(place, self.stream, place, kind.__name__, moment, None, attempt, None, b"", None, data)
        recorded = codec.recorded(entry)
        self.state = self.machine.judge(self.state, recorded)
        if self.machine.fence is not None and attempt is not None:
            self.held = attempt
        self.history.append(recorded)
        return recorded


# --- histories --------------------------------------------------------------------------------------------------------


def histories(
    machine: Machine[Any], *, events: Events | None = None, min_size: int = 0, max_size: int = 30
) -> SearchStrategy[list[Any]]:
    """Legal histories of a machine: lists of events, from the first on, that end anywhere.

    Args:
        machine: any machine.
        events: how an event of a class is drawn, given the state it will meet; `st.nothing()` says "not now". For a
            class that is missing here, the kit's own strategy is used (the run machine) or one is made of its fields.
        min_size: events at least; a machine that cannot go on sooner is an example that Hypothesis throws away.
        max_size: events at most.

    Returns:
        A strategy of lists of events. What the gate refuses is not drawn.

    Raises:
        ValueError: `events` names a class that is no event of the machine.
        InvalidPayload: when drawing, an event that could not be stored; give its text by `texts()`, say.
    """
    given = events or {}
    foreign = [kind.__name__ for kind in given if kind not in machine.events]
    if foreign:
        raise ValueError(f"the machine {machine.name!r} has no event {', '.join(foreign)}; its table names them all")
    own = _RUN_EVENTS if machine is RUN else {}
    sources = {kind: given.get(kind) or own.get(kind) or _always(kind) for kind in machine.events}
    return _histories(_Source(machine, sources), min_size, max_size)


class _Source:
    """A machine and its strategies; a plain class, for Hypothesis prints an attrs one with all there is in it."""

    def __init__(self, machine: Machine[Any], strategies: Events) -> None:
        self.machine = machine
        self.strategies = strategies

    def __repr__(self) -> str:
        return repr(self.machine)


@st.composite
def _histories(draw: st.DrawFn, source: _Source, min_size: int, max_size: int) -> list[Any]:
    stream = Rehearsal(source.machine)
    drawn: list[Any] = []
    # No end before so many events, if it can be helped: all lengths are then as likely, and the middle is seen.
    wished = draw(st.integers(min_size, max_size))
    while len(drawn) < max_size:
        # A step is drawn in one piece, so that a shrinker can cut it out.
        event = draw(_step(stream, source.strategies, early=len(drawn) < wished))
        if event is None:
            if len(drawn) < min_size:
                reject()
            break
        drawn.append(event)
    else:
        draw(_GOES_ON)  # an end that is not needed here, but by the shorter history that a shrinker tries
    return drawn


@st.composite
def _step(draw: st.DrawFn, stream: Rehearsal[Any], sources: Events, *, early: bool) -> Any:
    """One event that was taken, or None where the history ends."""
    # Drawn also where it is not asked, and then never 0, so that a shrinker may lower the wished length and change
    # nothing else.
    if not draw(_GOES_ON_EARLY if early else _GOES_ON):
        return None
    phase = stream.state.phase
    row = tuple(stream.machine.table[phase])
    while row:
        kind = draw(_kinds(stream.machine, phase, row, early))
        strategy = sources[kind](stream.state)
        if not strategy.is_empty:
            event = draw(strategy)
            if type(event) is not kind:
                raise TypeError(f"the strategy of {kind.__name__} drew {event!r}; each draws events of its own class")
            try:
                stream.take(event)
            except InvalidPayload:
                raise  # the strategy's own fault, and a sentence that says where; see `texts` and `json_values`
            except Refused:
                pass
            else:
                return event
        row = tuple(other for other in row if other is not kind)
    return None


_GOES_ON = st.integers(0, 3)
"""0 ends the history here."""
_GOES_ON_EARLY = st.integers(1, 3)


@lru_cache(maxsize=4096)
def _kinds(machine: Machine[Any], phase: Any, row: tuple[type, ...], early: bool) -> SearchStrategy[type]:
    """Which event comes next: events with guards thrice as often, as what these look at takes several that fit.

    The ends stand last: so the others keep their places in what a shrinker sees, whether it is early or not.
    """
    groups: tuple[list[type], list[type], list[type]] = ([], [], [])
    for kind in row:
        target = machine.table[phase][kind]
        group = 0 if target == phase else 2 if target in machine.final else 1
        groups[group].extend([kind] * ((3, 9, 9)[group] * (3 if kind in machine.guards else 1)))
    within, away, ends = groups
    return st.sampled_from(within + away if early and within + away else within + away + ends)


def _always(kind: type) -> Callable[[Any], SearchStrategy[Any]]:
    strategy = events_of(kind)
    return lambda _state: strategy


# --- payloads ---------------------------------------------------------------------------------------------------------


def texts(max_size: int | None = None) -> SearchStrategy[str]:
    """Text that can be stored: no lone surrogates, no NUL.

    Args:
        max_size: characters at most.
    """
    return st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=max_size)


_INTEGERS = st.integers(-MAX_INTEGER, MAX_INTEGER)
_NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
_TIMES = st.datetimes(_FIRST_TIME, _LAST_TIME, timezones=st.just(UTC))


def json_values(*, max_leaves: int = 8) -> SearchStrategy[Json]:
    """Any JSON value that can be stored, and no other.

    Args:
        max_leaves: how many plain values one may hold, about.
    """
    leaves = st.none() | st.booleans() | _INTEGERS | _NUMBERS | texts(20)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts(8), inner, max_size=4),
        max_leaves=max_leaves,
    )


def events_of(kind: type) -> SearchStrategy[Any]:
    """Events of one class, each field drawn by its annotation; `Json` fields hold `json_values()`."""
    attrs.resolve_types(kind)
    return st.builds(
        kind, **{field.alias: _values(field.type) for field in attrs.fields(kind) if field.init and field.alias}
    )


_PLAIN: dict[Any, SearchStrategy[Any]] = {
    Any: json_values(),
    bool: st.booleans(),
    int: _INTEGERS,
    float: _NUMBERS,
    str: texts(20),
    datetime: _TIMES,
    type(None): st.none(),
}


def _values(annotation: Any) -> SearchStrategy[Any]:
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of([_values(argument) for argument in arguments])
    if origin in (list, Sequence, typing.Sequence):
        return st.lists(_values(arguments[0]), max_size=3)
    if origin is tuple and arguments[-1:] == (...,):
        return st.lists(_values(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(_values, arguments))
    if origin in (dict, Mapping, typing.Mapping):
        return st.dictionaries(_values(arguments[0]), _values(arguments[1]), max_size=3)
    if attrs.has(annotation):
        return st.deferred(lambda: events_of(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return st.sampled_from(list(annotation))
    return st.from_type(annotation)


# --- the run machine's own ------------------------------------------------------------------------------------------

_CALLS = {
    digest(tool, value): (tool, value)
    for tool in ("search", "shell")
    for value in (None, {"q": "tea"}, {"q": "tea", "limit": 1.5, "tags": ["é", None]})
}
"""The calls that built-in histories make. The state keeps digests only; by them a call can be made a second time."""
_MADE = tuple(_CALLS.values())
_DEADLINES = (None, datetime(2026, 6, 1, tzinfo=UTC))


def _fresh(state: RunState) -> str:
    number = 1
    while f"c{number}" in state.calls or f"c{number}" in state.questions:
        number += 1
    return f"c{number}"


def _openable(state: RunState) -> list[tuple[str, tuple[str, Json]]]:
    """Call ids that may be opened though they are known: approved ones, and unreturned ones of earlier attempts."""
    found = []
    for call_id in sorted({*state.questions, *state.unreturned}):
        call, question = state.calls.get(call_id), state.questions.get(call_id)
        blocked = question is not None and question.decision != "approved"
        opened = call is not None and (call.returned is not None or call.attempt == state.attempt)
        bound = question or call
        if not blocked and not opened and bound is not None and bound.digest in _CALLS:
            found.append((call_id, _CALLS[bound.digest]))
    return found


def _tool_called(state: RunState) -> SearchStrategy[ToolCalled]:
    again = [ToolCalled(call_id, *made) for call_id, made in _openable(state)]
    fresh = [ToolCalled(_fresh(state), *made) for made in _MADE]
    return st.sampled_from(fresh) | st.sampled_from(again) if again else st.sampled_from(fresh)


def _tool_returned(state: RunState) -> SearchStrategy[ToolReturned]:
    if not state.unreturned:
        return st.nothing()
    ids = st.sampled_from(sorted(state.unreturned))
    return st.builds(ToolReturned, ids, output=_SMALL, is_error=st.booleans())


def _confirmation_requested(state: RunState) -> SearchStrategy[ConfirmationRequested]:
    fresh = [ConfirmationRequested(_fresh(state), *made, expires_at=until) for made in _MADE for until in _DEADLINES]
    known = [
        ConfirmationRequested(call_id, *_CALLS[call.digest], digest=call.digest)
        for call_id in sorted(state.unreturned)
        if call_id not in state.questions and (call := state.calls[call_id]).digest in _CALLS
    ]
    return st.sampled_from(fresh) | st.sampled_from(known) if known else st.sampled_from(fresh)


def _confirmation_resolved(state: RunState) -> SearchStrategy[ConfirmationResolved]:
    if not state.unanswered:
        return st.nothing()
    ids = st.sampled_from(sorted(state.unanswered))
    edited = st.sampled_from([None, *(value for _, value in _MADE)])
    approved = st.builds(ConfirmationResolved, ids, st.just("approved"), by=_WHO, input=edited)
    decided = approved | st.builds(ConfirmationResolved, ids, st.just("denied"), by=_WHO, comment=_WHY)
    accepting = state.accepting
    covered = [each for each in sorted(state.unanswered) if accepting and accepting.covers(state.questions[each].tool)]
    standing = [ConfirmationResolved(call_id, "approved", POLICY) for call_id in covered]
    return decided | st.sampled_from(standing) if standing else decided


def _confirmation_expired(state: RunState) -> SearchStrategy[ConfirmationExpired]:
    overdue = [ConfirmationExpired(call_id) for call_id in sorted(state.unanswered)]
    return st.sampled_from(overdue) if overdue else st.nothing()


def _requeued(state: RunState) -> SearchStrategy[RunRequeued]:
    return st.nothing() if state.unanswered else _REQUEUED


_SMALL = json_values(max_leaves=3)
_WHO = st.sampled_from([None, "alice"])
_WHY = st.sampled_from([None, "a reason"])
_WORKER = st.sampled_from(["w1", "w2"])
_WHEN = st.sampled_from(_DEADLINES)
_LABELS = st.dictionaries(st.sampled_from(["env", "team"]), st.sampled_from(["", "prod"]), max_size=2)
_SETTINGS = st.sampled_from([{"auto_accept": True}, {"auto_accept": {"tools": ["search"]}}])
_REQUEUED = st.builds(RunRequeued, reason=_WHY, not_before=_WHEN, failures=st.integers(0, 3))
_RUN_EVENTS: Events = {
    kind: lambda _state, strategy=strategy: strategy
    for kind, strategy in {
        RunQueued: st.builds(
            RunQueued,
            workflow=st.sampled_from(["deploy", "triage"]),
            input=_SMALL,
            priority=st.integers(-2, 2),
            not_before=_WHEN,
            labels=_LABELS,
        ),
        RunStarted: st.builds(RunStarted, _WORKER),
        RunResumed: st.builds(RunResumed, _WORKER, _WHY),
        RunPaused: st.builds(RunPaused, st.sampled_from(get_args(WaitingFor)), _WHEN, _WHY),
        RunCompleted: st.builds(RunCompleted, _SMALL),
        RunFailed: st.builds(RunFailed, st.just(Error("boom", "it broke")), _WHY),
        RunCrashed: st.builds(RunCrashed, _WHY, st.sampled_from([None, 137])),
        RunInterrupted: st.builds(RunInterrupted, _WHY),
        RunDropped: st.builds(RunDropped, _WHY),
        RunCancelled: st.builds(RunCancelled, _WHO, _WHY),
        MessageRecorded: st.builds(MessageRecorded, st.sampled_from(["user", "assistant"]), _SMALL),
        CheckpointSaved: st.builds(CheckpointSaved, st.integers(0, 9), _SMALL),
        UsageRecorded: st.builds(UsageRecorded, st.just("m"), st.integers(0, 99), st.integers(0, 99), st.just(0.25)),
        InterruptRequested: st.builds(InterruptRequested, _WHO, _WHY),
        RunDescribed: st.builds(RunDescribed, _WHY, _WHY, _LABELS),
        RunConfigured: st.builds(RunConfigured, _SMALL | _SETTINGS),
        LogRecorded: st.builds(LogRecorded, st.just("stdout"), st.just("line"), _WHY, _SMALL),
    }.items()
} | {
    RunRequeued: _requeued,
    ToolCalled: _tool_called,
    ToolReturned: _tool_returned,
    ConfirmationRequested: _confirmation_requested,
    ConfirmationResolved: _confirmation_resolved,
    ConfirmationExpired: _confirmation_expired,
}
