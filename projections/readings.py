"""Readings of one run over the log's own index: messages, calls and settings, folded when asked for, copied nowhere."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.changing import changed
from eventstore.payloads import Json
from eventstore.workflow import MessageRecorded, RunConfigured, RunQueued, ToolCalled, ToolReturned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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

    @property
    def open(self) -> bool:
        """Whether it has not come back."""
        return self.returned_at is None


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


def calls(recorded: Iterable[Recorded]) -> list[ToolCall]:
    """The tool calls among a run's events, in the order in which they were first opened; pure."""
    found: dict[str, ToolCall] = {}
    for item in recorded:
        if item.kind is ToolCalled:
            event: ToolCalled = item.event
            found[event.call_id] = ToolCall(
                event.call_id, event.tool, event.input, item.attempt, item.time, event.parent_call_id
            )
        elif item.kind is ToolReturned:
            back: ToolReturned = item.event
            found[back.call_id] = changed(
                found[back.call_id], output=back.output, is_error=back.is_error, returned_at=item.time
            )
    return list(found.values())


def settings(recorded: Iterable[Recorded]) -> Iterator[Configured]:
    """What a run's settings were, from its submission on, in order; pure."""
    for item in recorded:
        if item.kind is RunConfigured:
            yield Configured(item.event.config, item.version, item.time, item.event.by)
        elif item.kind is RunQueued:
            yield Configured(item.event.config, item.version, item.time)
