"""How the commands speak: tables and lines for people, JSON for programs.

Whatever comes from a payload passes `clean` before it reaches a terminal, so that no stored text can move the cursor
or forge a line. Colours are rich's: none where the output is no terminal, or NO_COLOR is set.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import attrs
import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eventstore.codec import Recorded, to_iso
from eventstore.exchange import fields_of

PHASE_STYLES = {
    "started": "green",
    "paused": "yellow",
    "queued": "cyan",
    "completed": "",
    "failed": "red",
    "crashed": "red",
    "interrupted": "magenta",
    "cancelled": "magenta",
    "dropped": "magenta",
}
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Leave it to the command, which knows the exit code."""
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """Where people read: nothing in a text is markup, a link, or a number to be coloured."""
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def clean(text: object) -> str:
    """A text on one line and without control codes."""
    return "".join(sign if sign.isprintable() else "·" for sign in " ".join(str(text).split()))


def table(
    *columns: str, rows: Iterable[Iterable[object]], wraps: Iterable[str] = (), right: Iterable[str] = ()
) -> None:
    """Print a table: `wraps` names the columns that may take several lines, the last one is cut instead."""
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), show_header=any(columns))
    for column in columns:
        last = column == columns[-1]
        shown.add_column(
            column,
            no_wrap=column not in wraps,
            overflow="ellipsis" if last and column not in wraps else "fold",
            justify="right" if column in right else "left",
        )
    for row in rows:
        shown.add_row(*(cell if isinstance(cell, Text) else Text(clean(cell)) for cell in row))
    console().print(shown)


def fields(values: Mapping[str, object]) -> None:
    """Print names and values in two columns; what is absent is left out."""
    shown = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    shown.add_column(style="dim", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in values.items():
        if value not in (None, "", {}, []):
            shown.add_row(name, value if isinstance(value, Text) else clean(value))
    console().print(shown)


def phase(name: object) -> Text:
    """A phase in its colour."""
    return Text(str(name), style=PHASE_STYLES.get(str(name), ""))


def say(text: str = "", style: str = "") -> None:
    """Print a line, wrapped at words."""
    console().print(Text(text, style=style))


def note(text: str) -> None:
    """A remark beside the output: on stderr, so that what is piped stays pure."""
    console(stderr=True).print(Text(clean(text), style="dim"))


def cut(text: str, width: int) -> str:
    """At most so many signs, the last one a mark that there are more."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def moment(when: datetime) -> str:
    """A time for people, in UTC."""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def span(seconds: float) -> str:
    """A length of time, roughly."""
    seconds = max(seconds, 0)
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < 2 * _DAY:
        return f"{seconds / _HOUR:.0f} h"
    return f"{seconds / _DAY:.0f} d"


def ago(when: datetime | None, now: datetime) -> str:
    """How long ago, or in how long."""
    if when is None:
        return ""
    if when > now + timedelta(seconds=1):
        return f"in {span((when - now).total_seconds())}"
    return f"{span((now - when).total_seconds())} ago"


def amount(size: int) -> str:
    """A number of bytes for people."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:  # noqa: PLR2004 - SI
            return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"  # noqa: PLR2004
        value /= 1000
    return f"{value:.1f} TB"


def count(number: int, one: str, many: str | None = None) -> str:
    """A number and its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


# --- for programs -------------------------------------------------------------------------------------------------


def document(value: Any) -> None:
    """Print one JSON document."""
    click.echo(orjson.dumps(plain(value), option=orjson.OPT_INDENT_2))


def line(value: Any) -> None:
    """Print one line of JSON Lines."""
    click.echo(orjson.dumps(plain(value)))


def event(recorded: Recorded) -> dict[str, Any]:
    """An event as an exported line has it, and its place."""
    return {"position": recorded.position, "version": recorded.version, **fields_of(recorded.entry)}


def plain(value: Any) -> Any:
    """Plain JSON of rows, reports and times."""
    if attrs.has(type(value)):
        return {field.name: plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return to_iso(value)
    return value.value if isinstance(value, enum.Enum) else value
