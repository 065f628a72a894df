"""texts: what was said in each run, and what runs are called, indexed by its words; see `searching`.

A message is a row. A run's title and summary are another, at message 0, as they stand now. Of a message's content,
which is any JSON, the texts in it count, and neither names nor numbers; what a redactor took out was never there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from attrs import frozen

from eventstore.changing import changed
from eventstore.payloads import Json
from eventstore.workflow import MessageRecorded, RunDescribed
from projections.projection import Projection
from projections.searching import Wanted, excerpt

if TYPE_CHECKING:
    from eventstore.codec import Recorded
    from projections.projection import Key

MAX_TEXT = 100_000
"""Characters of a message, and of a summary, that are kept to be searched."""
_SPACE = re.compile(r"\s")
_NO_TEXT = 2_000
"""Of so many characters without any space between, in ASCII, nobody reads one: it is an image, a key, an archive."""


@frozen
class TextRow:
    """One message, or what a run is called (at message 0)."""

    run_id: str
    message: int
    """Its version in the run's stream."""
    role: str | None
    """Who said it; None for title and summary."""
    title: str | None
    text: str
    """What was said, or the summary."""
    whole: bool
    """False: it is longer, and only its beginning is searched."""
    at: datetime
    position: int


@frozen
class Found:
    """A message, or a run's title and summary (`message` is 0), in which something was found."""

    run_id: str
    message: int
    role: str | None
    title: str | None
    excerpt: str
    """What stands around it, on one line."""
    whole: bool
    """False: it is longer than what was searched."""
    at: datetime
    position: int


def texts_in(content: Json) -> Iterator[str]:
    """The texts in any JSON, in order; what is one long word is none."""
    if isinstance(content, str):
        if len(content) <= _NO_TEXT or not content.isascii() or _SPACE.search(content):
            yield content
    elif isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from texts_in(part)


def evolve(row: TextRow | None, recorded: Recorded) -> TextRow | None:
    """The row of a message, or what the run is called from here on; pure."""
    if recorded.kind is MessageRecorded:
        text = "\n".join(texts_in(recorded.event.content))
        return TextRow(
            recorded.stream, recorded.version, recorded.event.role, None, text[:MAX_TEXT], len(text) <= MAX_TEXT,
            recorded.time, recorded.position,
        )  # fmt: skip
    event: RunDescribed = recorded.event
    if event.title is None and event.summary is None:
        return row
    called = row or TextRow(recorded.stream, 0, None, None, "", True, recorded.time, recorded.position)  # noqa: FBT003
    summary = called.text if event.summary is None else event.summary[:MAX_TEXT]
    whole = called.whole if event.summary is None else len(event.summary) <= MAX_TEXT
    title = called.title if event.title is None else event.title[:MAX_TEXT]
    return changed(called, title=title, text=summary, whole=whole, at=recorded.time, position=recorded.position)


def locate(recorded: Recorded) -> Key:
    """A message by its version; what the run is called at 0, which is no version."""
    return (recorded.stream, recorded.version if recorded.kind is MessageRecorded else 0)


TEXTS: Projection[TextRow] = Projection(
    name="texts",
    version=1,
    row=TextRow,
    key=("run_id", "message"),
    events=(MessageRecorded, RunDescribed),
    evolve=evolve,
    locate=locate,
    indexes=(("position",),),
    by_stream=True,
    search=("title", "text"),
)


def found(row: TextRow, wanted: Wanted) -> Found:
    """What is told of a row in which something was found; pure."""
    shown = excerpt(wanted, row.title, row.text)
    return Found(row.run_id, row.message, row.role, row.title, shown, row.whole, row.at, row.position)
