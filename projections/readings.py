"""Readings of one run: messages, rounds, calls, settings, folded from its stream when asked for and copied nowhere.

What a page may be is said here too, once for all that is paged by a number: see `window`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.changing import changed
from eventstore.errors import InvalidArgument
from eventstore.limits import check_limit, check_place
from eventstore.payloads import Json
from eventstore.workflow import CheckpointSaved, MessageRecorded, RunConfigured, RunQueued, ToolCalled, ToolReturned
from projections.checkpoints import step_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from eventstore.codec import Recorded


@frozen
class Message:
    """One message of a run, and its place."""

    role: str
    content: Json
    version: int
    attempt: int | None
    at: datetime


@frozen
class HistoryMessage:
    """One message of a run's history: its number there, from 1, and the run that it was recorded in."""

    number: int
    run_id: str
    role: str
    content: Json
    version: int
    attempt: int | None
    at: datetime


@frozen
class Round:
    """What a user said, and all that followed until the user spoke again.

    Rounds are numbered from 1 without gaps, and a round keeps its number for ever. The second message of role "user"
    and each one after it begin another round; what stands before the first (a system's message, say) belongs to round
    1. Only roles decide: what a message holds, were it `5` or `{}` or nothing, neither makes a number nor loses one.
    """

    number: int
    messages: tuple[Message, ...]


@frozen
class Saved:
    """A checkpoint of a run, without its state."""

    step: int
    version: int
    attempt: int | None
    at: datetime


@frozen
class ToolCall:
    """One tool call of a run; open while `returned_at` is None."""

    call_id: str
    tool: str
    input: Json
    attempt: int | None
    """That opened it last."""
    called_at: datetime
    parent_call_id: str | None = None
    output: Json = None
    is_error: bool = False
    returned_at: datetime | None = None
    after_step: int = 0
    """The step of the run's latest checkpoint when it was opened: it belongs to the step that follows that one."""

    @property
    def open(self) -> bool:
        """Whether it has not come back."""
        return self.returned_at is None


@frozen
class Checkpoint:
    """A run's state after a step, and its place."""

    run_id: str
    step: int
    state: Json
    version: int
    attempt: int | None
    at: datetime


@frozen
class Configured:
    """A run's settings from one version on: all of them."""

    config: Json
    version: int
    at: datetime
    by: str | None = None


def messages(recorded: Iterable[Recorded]) -> Iterator[Message]:
    """The messages among a run's events, in order; pure."""
    for item in recorded:
        if item.kind is MessageRecorded:
            yield Message(item.event.role, item.event.content, item.version, item.attempt, item.time)


def saved(recorded: Iterable[Recorded]) -> Iterator[Saved]:
    """Where the checkpoints among a run's events lie, in order, without their states; pure."""
    for item in recorded:
        if item.kind is CheckpointSaved:
            yield Saved(step_of(item), item.version, item.attempt, item.time)


def calls(recorded: Iterable[Recorded]) -> list[ToolCall]:
    """The tool calls among a run's events, in the order in which they were first opened; pure."""
    found: dict[str, ToolCall] = {}
    step = 0
    for item in recorded:
        if item.kind is CheckpointSaved:
            step = step_of(item)
        elif item.kind is ToolCalled:
            event: ToolCalled = item.event
            found[event.call_id] = ToolCall(
                event.call_id, event.tool, event.input, item.attempt, item.time, event.parent_call_id, after_step=step
            )
        elif item.kind is ToolReturned:
            back: ToolReturned = item.event
            found[back.call_id] = changed(
                found[back.call_id], output=back.output, is_error=back.is_error, returned_at=item.time
            )
    return list(found.values())


def checkpoints(recorded: Iterable[Recorded]) -> Iterator[Checkpoint]:
    """The checkpoints among the events of runs, in order; pure."""
    for item in recorded:
        if item.kind is CheckpointSaved:
            event: CheckpointSaved = item.event
            yield Checkpoint(item.stream, event.step, event.state, item.version, item.attempt, item.time)


def upto(recorded: Iterable[Recorded], step: int | None) -> Iterator[Recorded]:
    """A run's events up to and with the checkpoint of a step; all of them for None, or where it came less far; pure.

    Where no checkpoint is of this very step, the one before it is the last, and what was on the way to a later one is
    left out.

    Raises:
        InvalidArgument: no number of a step.
    """
    return _upto(recorded, None if step is None else check_step(step))


def check_step(step: int) -> int:
    """The number of a step.

    Raises:
        InvalidArgument: no integer.
    """
    if isinstance(step, bool) or not isinstance(step, int):
        raise InvalidArgument("step", step, "must be the number of a step")
    return step


def _upto(recorded: Iterable[Recorded], step: int | None) -> Iterator[Recorded]:
    held: list[Recorded] = []
    for item in recorded:
        if step is None or item.kind is not CheckpointSaved:
            held.append(item)
            if step is None:
                yield held.pop()
            continue
        if (reached := step_of(item)) > step:
            return
        yield from (*held, item)
        held.clear()
        if reached == step:
            return
    yield from held


def settings(recorded: Iterable[Recorded]) -> Iterator[Configured]:
    """What a run's settings were, from its submission on, in order; pure."""
    for item in recorded:
        if item.kind is RunConfigured:
            yield Configured(item.event.config, item.version, item.time, item.event.by)
        elif item.kind is RunQueued:
            yield Configured(item.event.config, item.version, item.time)


def round_starts(by_user: Sequence[bool]) -> list[int]:
    """The places, from 0, of the messages that begin a round; pure.

    Args:
        by_user: of each message, whether a user said it.
    """
    spoken = [place for place, said in enumerate(by_user) if said]
    return [0, *spoken[1:]] if by_user else []


def window(numbers: Sequence[int], after: int, before: int | None, limit: int | None, *, newest_first: bool) -> range:
    """Which of these ascending numbers make a page, as places in them, in the order in which they are given; pure.

    A page lies between `after` and `before`, neither of which is in it. Going on is the same question with the last
    number of the page as `before`, newest first, or as `after`.

    Raises:
        InvalidArgument: a number or limit that cannot be.
    """
    start = bisect_right(numbers, check_place("after", after))
    stop = len(numbers) if before is None else max(bisect_left(numbers, check_place("before", before)), start)
    if limit is not None:
        check_limit(limit)
        start, stop = (max(start, stop - limit), stop) if newest_first else (start, min(stop, start + limit))
    return range(stop - 1, start - 1, -1) if newest_first else range(start, stop)
