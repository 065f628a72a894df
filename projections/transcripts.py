"""A transcript: the messages of one run, found at a glance, and the rounds that they make.

Most of a run is checkpoints and calls, so their payloads are passed over: a scan of types and first characters tells
where the messages stand and which of them a user said, and only what a page shows is fetched whole. Numbers come from
that scan alone. So the count of rounds and their pages agree whatever the messages hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventstore.workflow import MessageRecorded
from projections.pointers import fetched
from projections.readings import Message, Round, messages, round_starts, window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventstore.log import Reading
    from eventstore.store import EventStore

_STRETCH = 5_000
"""Entries that are looked at in one scan."""
_ROLE = '{"role":"'
_USER = (_ROLE + 'user",', _ROLE + 'user"}')
_HEAD = len(_USER[0])


class Transcript:
    """The messages of one run, as they stood when this was made.

    Args:
        store: where the run stands.
        run_id: whose messages.
        until: those up to this version only.
    """

    def __init__(self, store: EventStore, run_id: str, *, until: int | None = None) -> None:
        self._store = store
        self._versions: list[int] = []
        self._positions: list[int] = []
        self._unclear: list[int] = []
        """Places in the lists above of messages whose role the first characters do not tell."""
        self._by_user: list[bool] = []
        with store.reading() as reading:
            self._look(reading, run_id, until)

    def __len__(self) -> int:
        return len(self._versions)

    def messages(
        self, *, after: int = 0, before: int | None = None, limit: int | None = None, newest_first: bool = False
    ) -> Iterator[Message]:
        """The messages between two versions.

        Raises:
            InvalidArgument: a version or limit that cannot be.
        """
        return self.at(window(self._versions, after, before, limit, newest_first=newest_first))

    def at(self, chosen: range) -> Iterator[Message]:
        """The messages at these places, counted from 0: a page at a time where they ascend, else all at once."""
        found = messages(fetched(self._store, (self._positions[index] for index in chosen)))
        return found if chosen.step > 0 else reversed([*found])

    def count_rounds(self) -> int:
        """How many rounds there are."""
        return len(round_starts(self._said_by_user()))

    def rounds(self, before: int | None, limit: int | None) -> list[Round]:
        """The rounds before a number, the newest first.

        Raises:
            InvalidArgument: a number or limit that cannot be.
        """
        starts = round_starts(self._said_by_user())
        chosen = window(range(1, len(starts) + 1), 0, before, limit, newest_first=True)
        if not chosen:
            return []
        ends = [*starts[1:], len(self)]
        first = starts[chosen[-1]]
        said = list(self.at(range(first, ends[chosen[0]])))
        return [Round(index + 1, tuple(said[starts[index] - first : ends[index] - first])) for index in chosen]

    def _look(self, reading: Reading, run_id: str, until: int | None) -> None:
        named = MessageRecorded.__name__
        stored = set(self._store.stored_names([MessageRecorded]))
        end = reading.version(run_id)
        end = end if until is None else min(end, until)
        for start in range(0, end, _STRETCH):
            size = min(_STRETCH, end - start)
            glance = reading.glance(after=start, limit=size, peek={named: _HEAD}, stream=run_id)
            columns = zip(glance.types, glance.versions, glance.positions, glance.heads, strict=True)
            for kind, version, position, head in columns:
                if kind in stored:
                    # A packed payload shows nothing, an older shape says it elsewhere, and an escape may spell "user".
                    if not head.startswith(_ROLE) or "\\" in head:
                        self._unclear.append(len(self._versions))
                    self._versions.append(int(version))
                    self._positions.append(position)
                    self._by_user.append(head in _USER)

    def _said_by_user(self) -> Sequence[bool]:
        places = {self._positions[index]: index for index in self._unclear}
        for recorded in fetched(self._store, places):
            self._by_user[places[recorded.position]] = recorded.event.role == "user"
        self._unclear.clear()
        return self._by_user
