"""What a run's log says of one call: whether it is the one under its id, what it gave, what was given in its place.

Readings of a state and of a few entries, for those who make calls (`attempt`) and those who delegate them
(`delegation`). Nothing is written here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore.errors import CallFailed, DigestMismatch, Fenced, NotApproved, QuestionOpen
from eventstore.payloads import digest
from eventstore.workflow import Phase, ToolCalled

if TYPE_CHECKING:
    from eventstore.payloads import Json
    from eventstore.store import Stream
    from eventstore.workflow import Call, RunState, ToolReturned


def standing(stream: Stream[RunState], call_id: str, tool: str, input: Json) -> Call | None:  # noqa: A002
    """The call that stands under this id, as the stream was last seen; None if none was opened.

    Raises:
        DigestMismatch: it is one of another tool or input.
    """
    state = stream.state
    call = state.calls.get(call_id)
    if call is not None:
        # A decision may have edited the input since the call was opened; it is then bound to that.
        bound = (state.questions.get(call_id) or call).digest
        if bound != (wanted := digest(tool, input)):
            raise DigestMismatch(stream.name, call_id, bound, wanted)
    return call


def returned(stream: Stream[RunState], call_id: str, version: int) -> Json:
    """What a call gave, as its return at this version says.

    Raises:
        CallFailed: it returned with an error.
    """
    (recorded,) = stream.read(after=version - 1, limit=1)
    event: ToolReturned = recorded.event
    if event.is_error:
        raise CallFailed(stream.name, call_id, event.output)
    return event.output


def given(stream: Stream[RunState], call_id: str) -> Json:
    """The result that a person gave with an approval, in place of the call; None if there is none."""
    question = stream.state.questions.get(call_id)
    if question is None or question.decision != "approved" or question.resolved is None:
        return None
    (resolved,) = stream.read(after=question.resolved - 1, limit=1)
    return resolved.event.result


def may_repeat(state: RunState, run_id: str, call_id: str, attempt: int) -> None:
    """Whether an attempt may make a call that it opened itself: opening it anew, the gate would say as much.

    Raises:
        Fenced, QuestionOpen, NotApproved: it may not.
    """
    if state.phase is not Phase.STARTED or state.attempt != attempt:
        raise Fenced(run_id, ToolCalled.__name__, attempt, state.attempt, str(state.phase))
    question = state.questions.get(call_id)
    if question is not None and question.decision is None:
        raise QuestionOpen(run_id, ToolCalled.__name__, (call_id,))
    if question is not None and question.decision != "approved":
        raise NotApproved(run_id, call_id, question.decision or "")
