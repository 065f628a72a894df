"""What may be how large, and what may be a name: limits on everything that a caller can make grow.

What the machine checks on replay as well (labels, open questions, open calls) may be raised by a later release and
never lowered: logs that stand would be refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from eventstore.errors import InvalidArgument

MAX_DEPTH = 254
"""How deep a payload may nest; orjson's own bound when writing, a quarter of its bound when reading."""
MAX_BYTES = 32 * 1024 * 1024
"""How large one encoded payload may be."""
MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader brings back exactly."""
MAX_BATCH = 10_000
"""Events in one append."""
MAX_BATCH_BYTES = 256 * 1024 * 1024
"""Bytes of all payloads in one append."""
MAX_NAME = 200
"""Characters in the name of a stream, or in a key."""
MAX_LABELS = 100
"""Labels of a run, with those that were merged in since."""
MAX_LABEL = 1_000
"""Characters in the value of a label; its name has at most `MAX_NAME`."""
MAX_OPEN = 1_000
"""Questions of a run that wait for their answer, and likewise calls that have not returned."""
MAX_ROWS = 10_000
"""Rows that a view gives at once; `View.each` goes through any number of them."""
MAX_TREE = 5_000
"""Runs of one tree, of a run and all under it, that are read together."""
PAGE = 500
"""Entries that are read at once."""
PAGE_BYTES = 8 * 1024 * 1024
"""A page of entries ends early when its payloads have grown past this, so that memory stays bounded."""


def check_name(what: str, value: str, *, slashes: bool = False) -> str:
    """A name that every file system, shell and database takes: printable, bounded, no slash, no leading dot or dash.

    Raises:
        InvalidArgument: with what is wrong.
    """
    if not isinstance(value, str) or not value:
        raise InvalidArgument(what, value, "must be a text of at least one character")
    if len(value) > MAX_NAME:
        raise InvalidArgument(what, f"{value[:20]}…", f"must have at most {MAX_NAME} characters, not {len(value)}")
    if not value.isprintable() or value != value.strip():
        raise InvalidArgument(what, value, "must be printable text without spaces at its ends")
    if not slashes and ("/" in value or "\\" in value or value[0] in ".-"):
        raise InvalidArgument(what, value, "must hold no slash and begin with neither a dot nor a dash")
    return value


def check_limit(limit: int) -> int:
    """How many a page may hold.

    Raises:
        InvalidArgument: no integer, less than 1 or more than `MAX_ROWS`.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_ROWS:
        raise InvalidArgument("limit", limit, f"must be an integer from 1 to {MAX_ROWS}; go on from the page's last")
    return limit


def check_count(what: str, number: int, *, least: int = 0) -> int:
    """How many of something.

    Raises:
        InvalidArgument: no integer, or too few.
    """
    if not _is_count(number) or number < least:
        raise InvalidArgument(what, number, f"must be an integer, {least} or more")
    return number


def check_names(what: str, names: Iterable[str]) -> tuple[str, ...]:
    """A list of names. One text would be taken for its letters, and nothing be found by them, ever.

    Raises:
        InvalidArgument: one text, no list, or something else than texts in it.
    """
    given: tuple[Any, ...] = (names,) if isinstance(names, str) or not isinstance(names, Iterable) else tuple(names)
    if given == (names,) or not all(isinstance(name, str) for name in given):
        example = names if isinstance(names, str) else "name"
        raise InvalidArgument(what, names, f"must be a list of names, such as [{example!r}]")
    return given


def check_seconds(what: str, seconds: float) -> float:
    """How long to wait; what is less than nothing, as the rest until a moment that has passed may be, is none.

    Raises:
        InvalidArgument: no number.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds != seconds:  # noqa: PLR0124 - NaN
        raise InvalidArgument(what, seconds, "must be a number of seconds")
    return seconds


def check_age(what: str, age: timedelta) -> timedelta:
    """How old something is to be.

    Raises:
        InvalidArgument: no timedelta, or a negative one.
    """
    if not isinstance(age, timedelta) or age < timedelta(0):
        raise InvalidArgument(what, str(age), "must be a timedelta, 0 or more, such as timedelta(days=1)")
    return age


def check_function(what: str, function: Any, of: str) -> Any:
    """What is to be called, looked at before anything is written.

    Raises:
        InvalidArgument: it cannot be.
    """
    if not callable(function):
        raise InvalidArgument(what, function, f"must be a function of the {of}")
    return function


def check_place(what: str, place: int) -> int:
    """A version, position or number that a page begins or ends at.

    Raises:
        InvalidArgument: no integer, or negative.
    """
    return check_count(what, place)


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**63


def check_range(after: int, limit: int | None) -> None:
    """A place and a limit that a reader may ask for.

    Raises:
        InvalidArgument: one of them is no integer, or negative.
    """
    if not _is_count(after):
        raise InvalidArgument("after", after, "must be 0 (before the first) or a place that was read")
    if limit is not None and not _is_count(limit):
        raise InvalidArgument("limit", limit, "must be 0 or more; leave it out for all")
