"""Tracks: how far one stream was judged, and what later entries of it may be judged by.

An entry is plain when nothing that a guard asks could refuse it: a call id that nobody used, the return of a call that
is open. All others go to the judge, with that part of the state that its guards look at.

A call id is told by the beginning of the payload, where there is no other need for it. What then comes after the id is
not looked at: a payload that somebody garbled passes here, and is told by whoever reads it, and by a check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import product
from operator import lt
from typing import Any, Protocol

from eventstore.changing import changed
from eventstore.codec import Recorded
from eventstore.errors import Refused, UnreadableEntry
from eventstore.gate import Folded, Gate
from eventstore.limits import MAX_OPEN
from eventstore.log import Glance
from eventstore.replaying.cells import Act, Cell, NotPlain
from eventstore.settings import auto_accept
from eventstore.workflow import (
    POLICY,
    RUN,
    ConfirmationExpired,
    ConfirmationRequested,
    ConfirmationResolved,
    InterruptRequested,
    Phase,
    RunConfigured,
    RunDescribed,
    RunPaused,
    RunQueued,
    RunRequeued,
    RunResumed,
    RunStarted,
    RunState,
    ToolCalled,
    ToolReturned,
)

_FIRST_FIELD = '{"call_id":"'
_AT = len(_FIRST_FIELD)
_BETWEEN = "\x1f"
"""Stands in no JSON."""


class Walk(Protocol):
    """Who walks: the log, or one stream."""

    gate: Gate

    def recorded(self, place: int) -> Recorded:
        """The whole entry at a place: a position, or a version where one stream is walked."""


class Track:
    """A stream of a machine without guards and fence, or of none while no event fixed one."""

    __slots__ = ("cell",)

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def phase(self, _replay: Walk, _kind: Any) -> str:
        """Where the stream stands, or would begin with an event of this class."""
        return str(self.cell.phase or Phase.NEW)

    def judge(self, replay: Walk, recorded: Recorded, place: int) -> None:  # noqa: ARG002
        """Have the judge look at an entry that is not plain, and go on behind it; `place` is what it is found by.

        Raises:
            Refused, UnreadableEntry: the judge's word.
        """
        machine = self.cell.cells.machine
        state: Any = None if machine is None else changed(machine.initial, phase=self.cell.phase)
        after = replay.gate.admit(Folded(machine, recorded.version - 1, state), recorded)
        self.cell = self.cell.cells.cell(None if machine is None else after.state.phase, 0)


class Whole(Track):
    """A stream of any other machine: every entry goes to the judge."""

    __slots__ = ("folded",)

    def __init__(self, cell: Cell, folded: Folded[Any]) -> None:
        super().__init__(cell)
        self.folded = folded

    def phase(self, replay: Walk, kind: Any) -> str:
        """See `Track`."""
        return str(replay.gate.fixed(self.folded, kind).state.phase)

    def judge(self, replay: Walk, recorded: Recorded, place: int) -> None:  # noqa: ARG002
        """See `Track`."""
        after = replay.gate.admit(self.folded, recorded)
        replay.gate.refence(self.folded, recorded)
        self.folded = after


class Run(Track):
    """A run: by call id, the positions of what its guards may ask for."""

    __slots__ = ("calls", "configured", "labels", "open", "questions", "returns", "unanswered")

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self.labels: frozenset[str] = frozenset()
        self.configured = 0
        """The place of its settings."""
        self.forget()

    def forget(self) -> None:
        """The run ended: what is open is void with it."""
        self.calls: dict[str, int] = {}
        self.returns: dict[str, int] = {}
        self.open: set[str] = set()
        self.questions: dict[str, tuple[int, ...]] = {}
        self.unanswered: set[str] = set()

    def passes(self, glance: Glance, places: Sequence[int]) -> list[int] | None:
        """Pass a run's next entries at once, where they make and end calls and it goes on; all of them are plain then.

        Returns:
            Which of them are calls; None where none was passed, and each has to be looked at by itself.
        """
        types, heads = glance.types, glance.heads
        opens: set[str] = set()
        closes: set[str] = set()
        acts = self.cell.cells.acts
        try:
            for stored, attempt in _sorts(types, glance.attempts):
                cell, act = self.cell[stored, attempt]
                if cell is not self.cell or act not in (None, acts[ToolCalled], acts[ToolReturned]):
                    return None
                if act is not None:
                    (opens if act is acts[ToolCalled] else closes).add(stored)
        except NotPlain:
            return None
        called = [at for at, stored in enumerate(types) if stored in opens]
        returned = [at for at, stored in enumerate(types) if stored in closes]
        opened = _shown_call_ids([heads[at] for at in called])
        closed = _shown_call_ids([heads[at] for at in returned])
        if opened is None or closed is None or self._too_many(called, returned):
            return None
        if not self._agree(opened, called, closed, returned):
            return None
        self.calls.update(zip(opened, map(places.__getitem__, called), strict=True))
        self.returns.update(zip(closed, map(places.__getitem__, returned), strict=True))
        self.open.update(opened)
        self.open.difference_update(closed)
        return called

    def _too_many(self, called: Sequence[int], returned: Sequence[int]) -> bool:
        """Whether more calls would be open at any time than may be: each that is one too many needs a return first."""
        spare = MAX_OPEN - len(self.open)
        late = called[max(spare, 0) :]
        return spare < 0 or len(returned) < len(late) or not all(map(lt, returned, late))

    def _agree(self, opened: list[str], called: list[int], closed: list[str], returned: list[int]) -> bool:
        """Whether each call is of an id that nobody used, and each return of a call that is open by then.

        Given are the ids of calls and returns, and the places of each.
        """
        ids = set(opened)
        if len(ids) < len(opened) or len(set(closed)) < len(closed):
            return False
        if not (ids.isdisjoint(self.calls) and ids.isdisjoint(self.questions)):
            return False
        since = dict.fromkeys(self.open, -1)
        since.update(zip(opened, called, strict=True))
        try:
            return all(map(lt, map(since.__getitem__, closed), returned))
        except KeyError:
            return False

    def judge(self, replay: Walk, recorded: Recorded, place: int) -> None:
        """See `Track`. The judge gets that part of the state that its guards look at for this entry."""
        call_id: str | None = None
        with suppress(UnreadableEntry):  # the table may have something to say first
            call_id = recorded.event.call_id if recorded.kind in ABOUT_A_CALL else None
        before = self._state(replay, call_id)
        if recorded.kind is ConfirmationResolved and self.configured:
            before = changed(before, accepting=auto_accept(replay.recorded(self.configured).event.config))
        view = Folded(RUN, recorded.version - 1, before)
        state = replay.gate.admit(view, recorded).state
        replay.gate.refence(view, recorded)
        self.cell = self.cell.cells.cell(state.phase, state.attempt)
        self.labels = state.labels
        if recorded.kind in (RunQueued, RunConfigured):
            self.configured = place
        if call_id is not None:
            ABOUT_A_CALL[recorded.kind](self, call_id, place)
        elif state.phase in RUN.final:
            self.forget()

    def _state(self, replay: Walk, call_id: str | None) -> RunState:
        before = RunState(phase=self.cell.phase, attempt=self.cell.attempt)
        state = before
        for position in () if call_id is None else self._places(call_id):
            state = RUN.evolve(state, replay.recorded(position))
        return changed(
            before,
            calls=state.calls,
            questions=state.questions,
            unreturned=frozenset(self.open),
            unanswered=frozenset(self.unanswered),
            labels=self.labels,
        )

    def _places(self, call_id: str) -> list[int]:
        places = (self.calls.get(call_id), self.returns.get(call_id), *self.questions.get(call_id, ()))
        return sorted(place for place in places if place is not None)


def _called(run: Run, call_id: str, position: int) -> None:
    run.calls[call_id] = position
    run.open.add(call_id)


def _returned(run: Run, call_id: str, position: int) -> None:
    run.returns[call_id] = position
    run.open.discard(call_id)


def _asked(run: Run, call_id: str, position: int) -> None:
    run.questions[call_id] = (position,)
    run.unanswered.add(call_id)


def _answered(run: Run, call_id: str, position: int) -> None:
    run.questions[call_id] += (position,)
    run.unanswered.discard(call_id)


ABOUT_A_CALL: dict[Any, Callable[[Run, str, int], None]] = {
    ToolCalled: _called,
    ToolReturned: _returned,
    ConfirmationRequested: _asked,
    ConfirmationResolved: _answered,
    ConfirmationExpired: _answered,
}


# --- what is plain --------------------------------------------------------------------------------------------------


def _shown_call_id(head: str) -> str | None:
    """By the payload's first field, as our codec writes it; None where that is not shown or not plain."""
    if head.startswith(_FIRST_FIELD) and (end := head.find('"', _AT)) > 0:
        call_id = head[_AT:end]
        if "\\" not in call_id:
            return call_id
    return None


def _shown_call_ids(heads: Sequence[str]) -> list[str] | None:
    """As `_shown_call_id`, of many in two thirds of the time; None where one of them is not plain to see."""
    text = _BETWEEN + _BETWEEN.join(heads)
    # With a separator for each head there is none within one, so that each stands where a head begins.
    if heads and not text.count(_BETWEEN) == text.count(_BETWEEN + _FIRST_FIELD) == len(heads):
        return None
    try:
        ids = [head[_AT : head.index('"', _AT)] for head in heads]
    except ValueError:
        return None
    return None if "\\" in "".join(ids) else ids


def _sorts(types: Sequence[str], attempts: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Which types stand under which attempts: nearly always all under one."""
    if len(under := set(attempts)) == 1:
        return product(set(types), under)
    return set(zip(types, attempts, strict=True))


def _hidden_call_id(replay: Walk, position: int) -> str:
    """By the whole payload."""
    call_id: str = _readable(replay, position).event.call_id
    return call_id


def _readable(replay: Walk, position: int) -> Recorded:
    recorded = replay.recorded(position)
    try:
        recorded.event  # noqa: B018 - decodes it
    except UnreadableEntry:
        raise NotPlain from None
    return recorded


def new_call(replay: Walk, run: Run, head: str, position: int) -> None:
    """Nobody used its id before: no guard has anything to ask but how many calls are open."""
    if (call_id := _shown_call_id(head)) is None:
        call_id = _hidden_call_id(replay, position)
    if call_id in run.calls or call_id in run.questions or len(run.open) >= MAX_OPEN:
        raise NotPlain
    run.calls[call_id] = position  # as `_called`: a call less, for most of all entries come by here
    run.open.add(call_id)


def _return(replay: Walk, run: Run, head: str, position: int) -> None:
    if (call_id := _shown_call_id(head)) is None:
        call_id = _hidden_call_id(replay, position)
    if call_id not in run.open:
        raise NotPlain
    run.returns[call_id] = position  # as `_returned`
    run.open.discard(call_id)


def _new_question(replay: Walk, run: Run, head: str, position: int) -> None:
    if (call_id := _shown_call_id(head)) is None:
        call_id = _hidden_call_id(replay, position)
    if call_id in run.calls or call_id in run.questions or len(run.unanswered) >= MAX_OPEN:
        raise NotPlain
    _asked(run, call_id, position)


def _answer(replay: Walk, run: Run, head: str, position: int) -> None:
    if (call_id := _shown_call_id(head)) is None:
        call_id = _hidden_call_id(replay, position)
    if call_id not in run.unanswered:
        raise NotPlain
    _answered(run, call_id, position)


def _decision(replay: Walk, run: Run, head: str, position: int) -> None:
    if _readable(replay, position).event.by == POLICY:  # the guard looks at the settings too
        raise NotPlain
    _answer(replay, run, head, position)


def _lived(replay: Walk, _run: Run, _head: str, position: int) -> None:
    _readable(replay, position)


def _requeued(replay: Walk, run: Run, _head: str, position: int) -> None:
    _readable(replay, position)
    if run.unanswered:
        raise NotPlain


def _labelled(replay: Walk, run: Run, _head: str, position: int) -> None:
    recorded = _readable(replay, position)
    if labels := recorded.event.labels:
        state: Any = run  # the guard asks it for its labels and for nothing else
        try:
            RUN.guards[recorded.kind](state, recorded)
        except Refused:
            raise NotPlain from None
        run.labels = run.labels.union(labels)


def _configured(replay: Walk, run: Run, _head: str, position: int) -> None:
    _readable(replay, position)
    run.configured = position


def _queued(replay: Walk, run: Run, head: str, position: int) -> None:
    _labelled(replay, run, head, position)
    run.configured = position


def _ended(_replay: Walk, run: Run, _head: str, _position: int) -> None:
    run.forget()


DECODED: dict[Any, Act] = {
    RunQueued: _queued,
    RunConfigured: _configured,
    RunDescribed: _labelled,
    RunStarted: _lived,
    RunResumed: _lived,
    RunPaused: _lived,
    RunRequeued: _requeued,
}
"""What is rare, and whose payload the machine's fold looks at: it is decoded, so that nothing unreadable passes."""
_ENDED = {
    kind: _ended
    for row in RUN.table.values()
    for kind, phase in row.items()
    if phase in RUN.final and kind is not RunDescribed
}
ACTS: dict[Any, Act] = {
    ToolCalled: new_call,
    ToolReturned: _return,
    ConfirmationRequested: _new_question,
    ConfirmationResolved: _decision,
    ConfirmationExpired: _answer,
    **DECODED,
    **_ENDED,
}
LIVED = (*DECODED, *_ENDED, InterruptRequested)
"""What changes the rest of a run's state: all but its calls, its questions and its checkpoint."""
