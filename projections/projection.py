"""A projection: a pure fold of the whole log into rows, declared by one value.

    ITEMS = Projection(name="items", version=1, row=ItemRow, key=("item",), events=(OrderPlaced,), evolve=count_orders,
                       locate=lambda recorded: (recorded.event.item,))

`evolve(row | None, recorded) -> row | None` is all of it; it sees one row and one event, reads no clock and does no
I/O. Where rows are kept, and when they are folded, is said elsewhere (`tables`, `projector`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import attrs
from attrs import field, frozen

from eventstore.codec import Recorded
from eventstore.errors import InvalidArgument

R = TypeVar("R")

Key = tuple[Any, ...]
RESERVED = frozenset({"events", "log", "cursors", "workers"})


def _own_stream(recorded: Recorded) -> Key:
    return (recorded.stream,)


@frozen(eq=False)
class Projection(Generic[R]):
    """A fold of the log into rows.

    Args:
        name: of the projection and of its table: lower case, digits and underscores.
        version: raise it when `evolve` changes its meaning; rows of another version are never mixed in.
        row: a frozen attrs class; its fields are the columns.
        key: the fields that tell rows apart.
        events: the event classes that `evolve` wants to see.
        evolve: the fold; None in means "no row yet", None out means "no row any more".
        locate: the key of the row that an event concerns; the stream's name unless given. A tuple shorter than the
            key concerns every standing row whose key begins so.
        indexes: columns to look up by, besides the key.
        by_stream: whether each row belongs to one stream: its key begins with the stream's name, and no other stream's
            events touch it. So it is without `locate`; with one, say so where it is, and a rebuild is quicker.
        latest: whether `evolve` looks at the event alone and never at the row before: of a stream's many, a rebuild
            folds the last one only.
        search: fields that hold text and are indexed by their words, for `View.search`.

    Raises:
        InvalidArgument: a name, key or row class that cannot be.
    """

    name: str
    version: int
    row: type[R]
    key: tuple[str, ...]
    events: tuple[type, ...]
    evolve: Callable[[R | None, Recorded], R | None]
    locate: Callable[[Recorded], Key] = _own_stream
    indexes: tuple[tuple[str, ...], ...] = ()
    by_stream: bool = field()
    latest: bool = False
    search: tuple[str, ...] = ()
    kinds: frozenset[type] = field(init=False)
    fingerprint: str = field(init=False)

    @by_stream.default
    def _unless_located(self) -> bool:
        return self.locate is _own_stream

    @kinds.default
    def _as_set(self) -> frozenset[type]:
        return frozenset(self.events)

    @fingerprint.default
    def _of_version_and_row(self) -> str:
        attrs.resolve_types(self.row)  # type: ignore[type-var]
        shape = [f"{column.name}:{column.type}" for column in attrs.fields(self.row)]  # type: ignore[arg-type]
        shape += [f"search:{name}" for name in self.search]
        return hashlib.sha256(repr((self.name, self.version, self.key, shape)).encode()).hexdigest()[:16]

    def __attrs_post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,50}", self.name) or "__" in self.name or self.name in RESERVED:
            raise InvalidArgument(
                "name", self.name, f"must be lower case, digits and single underscores, and none of {sorted(RESERVED)}"
            )
        names = {column.name for column in attrs.fields(self.row)}  # type: ignore[arg-type]
        if not self.key or not names.issuperset(self.key):
            raise InvalidArgument("key", self.key, f"must name fields of {self.row.__name__}")
        if not names.issuperset(self.search):
            raise InvalidArgument("search", self.search, f"must name fields of {self.row.__name__}")
        if self.latest and self.locate is not _own_stream:
            raise InvalidArgument("latest", True, "is for one row a stream: leave `locate` out, or this")  # noqa: FBT003

    def __repr__(self) -> str:
        return f"Projection({self.name!r}, version={self.version})"
