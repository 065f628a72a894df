"""Events told in one line each, for people.

It goes by the stored JSON and not by classes, so that events of machines this program does not know, and ones whose
payload no longer fits, are told as well as others.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson
from rich.text import Text

from projections.cli.output import amount, clean, console, cut

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from eventstore.codec import Recorded

_BARE = {
    "RunQueued": ("workflow", "agent"),
    "RunStarted": ("worker",),
    "RunResumed": ("worker", "reason"),
    "RunPaused": ("waiting_for", "reason"),
    "RunRequeued": ("reason",),
    "RunFailed": ("error", "reason"),
    "RunCompleted": ("output",),
    "MessageRecorded": ("role", "content"),
    "ToolCalled": ("call_id", "tool", "input"),
    "ToolReturned": ("call_id", "output"),
    "CheckpointSaved": ("step",),
    "ConfirmationRequested": ("call_id", "tool", "reason", "input"),
    "ConfirmationResolved": ("call_id", "decision", "by", "comment"),
    "ConfirmationExpired": ("call_id",),
    "RunDescribed": ("title", "summary"),
    "LogRecorded": ("source", "kind", "ref", "payload"),
    "MetaSet": ("name", "value"),
}
"""The fields that need no name to be understood; the others follow with theirs."""
_SILENT = {"CheckpointSaved": ("state",), "ConfirmationRequested": ("digest",)}
_STYLES = {
    "RunQueued": "cyan",
    "RunStarted": "green",
    "RunResumed": "green",
    "RunPaused": "yellow",
    "RunRequeued": "cyan",
    "RunCompleted": "bold green",
    "RunFailed": "bold red",
    "RunCrashed": "bold red",
    "RunInterrupted": "magenta",
    "RunDropped": "magenta",
    "RunCancelled": "magenta",
    "ConfirmationRequested": "bold yellow",
    "ConfirmationResolved": "yellow",
    "ConfirmationExpired": "yellow",
    "InterruptRequested": "magenta",
}
_LONGEST = 400
_TYPE = 21
"""The width of the longest built-in event name."""


def summary(recorded: Recorded, longest: int | None = _LONGEST) -> str:
    """What an event says, on one line, each value cut at so many signs."""
    entry = recorded.entry
    fields = _fields(entry.data)
    bare = [name for name in _BARE.get(entry.type, ()) if name in fields]
    silent = _SILENT.get(entry.type, ())
    words = [_value(fields[name], longest) for name in bare]
    words += [
        f"{name}={_value(value, longest)}" for name, value in fields.items() if name not in bare and name not in silent
    ]
    if entry.type == "CheckpointSaved":
        words = [f"step {' '.join(words)}", f"({amount(len(entry.data))})"]
    return " ".join(word for word in words if word)


def _fields(data: str) -> dict[str, Any]:
    """The payload's fields; what is no object, which only a forged entry holds, is shown as it is."""
    try:
        fields = orjson.loads(data)
    except ValueError:
        fields = None
    return fields if isinstance(fields, dict) else {"data": ascii(data)}


def output_of(recorded: Recorded) -> str:
    """What a run gave in its end, on one line."""
    return _value(_fields(recorded.entry.data).get("output"), None)


def _value(value: Any, longest: int | None) -> str:
    if isinstance(value, str):
        return clean(value[:longest])
    if isinstance(value, dict) and value.keys() == {"tag", "message"}:
        return clean(f"{value['tag']}: {value['message']}"[:longest])
    return clean(json.dumps(value, ensure_ascii=False)[:longest])


class Teller:
    """Prints events one by one, in columns, cut at the width; a new day has a line of its own.

    Args:
        streams: name the stream and place in the log of each; else its version and attempt, as for one stream.
        full: cut nothing off.
    """

    def __init__(self, *, streams: bool, full: bool = False) -> None:
        self._streams = streams
        self._full = full
        self._console = console()
        self._day: date | None = None
        self._width = 8

    def tell(self, recorded: Recorded) -> None:
        """Print one."""
        if (day := recorded.time.date()) != self._day:
            self._day = day
            self._console.print(Text(f"{day.isoformat()} (UTC)", style="dim"))
        line = Text(no_wrap=True, overflow="ellipsis")
        if self._streams:
            self._width = max(self._width, min(len(recorded.stream), 24))
            stream = cut(recorded.stream, 24).ljust(self._width)
            line.append(f"{recorded.position:>6}  {recorded.time:%H:%M:%S}  ", style="dim").append(f"{stream}  ")
        else:
            attempt = "" if recorded.attempt is None else f"#{recorded.attempt}"
            line.append(f"{recorded.version:>5}  {recorded.time:%H:%M:%S}  {attempt:>3}  ", style="dim")
        line.append(cut(recorded.type, 40).ljust(_TYPE), style=_STYLES.get(recorded.type, "")).append("  ")
        line.append(summary(recorded, None if self._full else _LONGEST))
        shown = line.plain if self._full else cut(line.plain, self._console.width)
        self._console.print(Text(shown, spans=line.spans), soft_wrap=True)

    def tell_all(self, events: Iterable[Recorded]) -> int:
        """Print them all; how many they were."""
        number = 0
        for number, recorded in enumerate(events, start=1):  # noqa: B007 - counted
            self.tell(recorded)
        return number
