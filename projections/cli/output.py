"""How the commands speak: tables and lines for people, JSON for programs.

Whatever comes from a payload passes `clean` before it reaches a terminal, so that no stored text can move the cursor
or forge a line. Colours are rich's: none where the output is no terminal, or NO_COLOR is set.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import Any, NoReturn

import attrs
import click
import orjson
from rich.console import Console
from rich.text import Text

from eventstore import growth
from eventstore.codec import Recorded
from eventstore.exchange import fields_of
from eventstore.payloads import to_iso
from projections.system import System
from projections.usage import UsageRow

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
amount = growth.amount
_GAP = "  "
_ENOUGH = 16
_NARROWEST = 12
"""Columns that a last column gets if the others can give way, and that the others keep."""
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
    """Print a table. What is too wide is wrapped in the columns that `wraps` names, and cut in the others.

    Our own, since rich's shrinks every column that may wrap until nothing in it can be read; ours takes what room is
    missing from the last column first.
    """
    shown = console()
    cells = [[cell if isinstance(cell, Text) else Text(clean(cell)) for cell in row] for row in rows]
    head = [[Text(column, style="bold") for column in columns]] if any(map(str.strip, columns)) else []
    widths = [max((row[index].cell_len for row in (*head, *cells)), default=0) for index in range(len(columns))]
    flexible = [index for index, column in enumerate(columns[:-1]) if column in wraps]
    widths = _fitted(widths, shown.width - len(_GAP) * (len(widths) - 1), flexible)
    for row in (*head, *cells):
        parts = [
            _lines(shown, cell, width, wrapped=column in wraps)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        for lines in zip_longest(*parts, fillvalue=Text()):
            _print_line(shown, lines, widths, [column in right for column in columns])


def _fitted(widths: list[int], room: int, flexible: list[int]) -> list[int]:
    """The widths that fit: the last column gives way to a point, then those that may wrap, from the right."""
    wanted = min(widths[-1], _ENOUGH)
    while sum(widths[:-1]) + wanted > room:
        yielding = [index for index in flexible if widths[index] > _NARROWEST]
        if not yielding:
            break
        widths[yielding[-1]] -= 1
    return [*widths[:-1], min(widths[-1], max(room - sum(widths[:-1]), _NARROWEST))]


def _lines(shown: Console, cell: Text, width: int, *, wrapped: bool) -> list[Text]:
    if wrapped:
        return [*cell.wrap(shown, width, overflow="fold")] or [Text()]
    cell = cell.copy()
    cell.truncate(width, overflow="ellipsis")
    return [cell]


def _print_line(shown: Console, lines: Iterable[Text], widths: list[int], rights: list[bool]) -> None:
    whole = Text()
    for text, width, right in zip(lines, widths, rights, strict=True):
        missing = " " * (width - text.cell_len)
        whole.append(missing if right else "").append_text(text).append("" if right else missing).append(_GAP)
    whole.rstrip()
    shown.print(whole, soft_wrap=True)


def fields(values: Mapping[str, object]) -> None:
    """Print names and values in two columns; what is absent is left out."""
    known = {name: value for name, value in values.items() if value not in (None, "", {}, []) and str(value)}
    table("", " ", rows=[(Text(name, "dim"), value) for name, value in known.items()], wraps=(" ",))


def phase(name: object) -> Text:
    """A phase in its colour."""
    return Text(str(name), style=PHASE_STYLES.get(str(name), ""))


def say(text: str = "", style: str = "", *, indent: int = 0) -> None:
    """Print lines, wrapped at words, each this far from the edge."""
    shown = console()
    for part in text.split("\n"):
        for line in Text(part, style=style).wrap(shown, max(shown.width - indent, _NARROWEST)) or [Text()]:
            line.rstrip()
            shown.print(Text(" " * indent).append_text(line), soft_wrap=True)


def report(database: str, lines: Iterable[tuple[str, str]]) -> None:
    """Print what was found of a database, each line with its style; the first line names the database."""
    for number, (text, style) in enumerate(lines):
        say(clean(text if number else f"{database}: {text}"), style)


def note(text: str) -> None:
    """A remark beside the output: on stderr, so that what is piped stays pure."""
    console(stderr=True).print(Text(clean(text), style="dim"))


def cut(text: str, width: int) -> str:
    """At most so many signs, the last one a mark that there are more."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def now() -> datetime:
    """The time at this terminal."""
    return System().now()


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


def spent(usage: UsageRow) -> str:
    """Tokens and money."""
    return f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out, ${usage.cost_usd:,.4f}"


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


_WORDS = {"entries": "events", "entries_a_day": "events_a_day", "projections": "tables"}
"""What people are told of in place of these. The library has both words of each pair, and tells them apart."""


def facts(found: attrs.AttrsInstance) -> dict[str, Any]:
    """The fields of a report or row, by the words that people are told in."""
    return {_WORDS.get(field.name, field.name): getattr(found, field.name) for field in attrs.fields(type(found))}


def plain(value: Any) -> Any:
    """Plain JSON of rows, reports and times."""
    if attrs.has(type(value)):
        return {name: plain(item) for name, item in facts(value).items()}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return to_iso(value)
    return value.value if isinstance(value, enum.Enum) else value
