"""The replay: glances over the log, a track for each stream seen lately, and the judge for what is not plain."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

from eventstore.codec import Codec, Recorded
from eventstore.errors import Refused, ReplayRefused, UnreadableEntry
from eventstore.gate import Gate
from eventstore.log import Glance, Reading
from eventstore.machine import Machine
from eventstore.replaying.cells import Cells, NotPlain, Opaque
from eventstore.replaying.tracks import ABOUT_A_CALL, ACTS, DECODED, Run, Track, Whole
from eventstore.workflow import RUN, ConfirmationResolved

REMEMBERED_STREAMS = 10_000
"""Streams of which a replay keeps where they stand; one that falls out is walked again from its own entries."""
STRETCH = 5_000
"""Entries in one glance."""
HEAD = 100
"""Characters of a payload that a glance shows: enough for the call id of any usual make."""


class Ahead:
    """Whole entries that will be asked for by their positions, in order, fetched a page at a time.

    Args:
        positions: ascending.
        fetch: some entries from the beginning of these positions on, at least one.
    """

    def __init__(self, positions: Sequence[int], fetch: Callable[[Sequence[int]], Iterable[Recorded]]) -> None:
        self._positions = positions
        self._fetch = fetch
        self._page: dict[int, Recorded] = {}

    @classmethod
    def of(cls, reading: Reading, codec: Codec, glance: Glance, types: Container[str]) -> Ahead:
        """Those of a glance that are of these stored types."""
        positions = [place for place, stored in zip(glance.positions, glance.types, strict=True) if stored in types]
        return cls(positions, lambda wanted: map(codec.recorded, reading.at(wanted)))

    def __iter__(self) -> Iterator[Recorded]:
        return (found for position in self._positions if (found := self.get(position)) is not None)

    def get(self, position: int) -> Recorded | None:
        """The entry at a position, None if it is not among them."""
        if (found := self._page.get(position)) is not None:
            return found
        index = bisect_left(self._positions, position)
        if index == len(self._positions) or self._positions[index] != position:
            return None
        # The first page begins with the first of them: whoever goes over all of them later finds it still there.
        for start in (index,) if self._page or not index else (0, index):
            self._page = {recorded.position: recorded for recorded in self._fetch(self._positions[start:])}
            if (found := self._page.get(position)) is not None:
                return found
        return None


class Replay:
    """The machines of one store over its log, in bounded memory: each entry must be one that its stream could take.

    Args:
        gate: of the store.
        decoded: stored types of which no payload is taken at its first word.
    """

    def __init__(self, gate: Gate, decoded: Container[str] = ()) -> None:
        self.gate = gate
        plain = [m for m in gate.machines.values() if m is RUN or not (m.guards or m.fence)]
        whole = [m for m in gate.machines.values() if m not in plain]
        self._cells = {machine: Cells(gate, machine, ACTS) for machine in (None, *plain)}
        self._opaque = Opaque(self._cells[None], None, 0)
        self._young: dict[str, Track] = {}
        self._old: dict[str, Track] = {}
        self._left_out: dict[str, set[int]] = {}
        self._known = Ahead((), lambda _positions: ())
        self._reading: Any = None
        # Their own names only: what an upcaster makes of older ones is known when it is decoded.
        heads = (
            kind.__name__ for kind in ABOUT_A_CALL if kind is not ConfirmationResolved
        )  # by whom stands further on
        self.peek = {name: HEAD for name in heads if name not in decoded}
        kinds = set(DECODED).union(ABOUT_A_CALL, *(machine.events for machine in whole))
        self.wanted = frozenset(gate.codec.stored_names(kinds)).difference(self.peek)
        """The stored types of which whole entries will be asked for: who has them at hand may give them."""

    def __len__(self) -> int:
        """How many streams are remembered."""
        return len(self._young) + len(self._old)

    def refused(self, reading: Reading, glance: Glance, known: Ahead) -> list[ReplayRefused]:
        """Pass the entries of a glance, which follow those of the last; what the judge refuses of them is left out.

        Args:
            reading: a view that holds them.
            glance: made with `peek`.
            known: whole entries, as far as somebody has use for them; best of the types `wanted`.
        """
        self._reading, self._known = reading, known
        return self._pass(glance)

    def recorded(self, position: int) -> Recorded:
        """The whole entry at a position."""
        found = self._known.get(position)
        if found is None:  # a page of one: half the time of `at`, which takes any number of positions
            found = self.gate.codec.recorded(self._reading.read_all(after=position - 1, limit=1)[0])
        return found

    def _pass(self, glance: Glance) -> list[ReplayRefused]:
        refusals: list[ReplayRefused] = []
        young = self._young
        entries = zip(
            glance.streams, glance.types, glance.attempts, glance.heads, glance.positions, glance.versions, strict=True
        )
        for stream, stored, attempt, head, position, version in entries:
            track = young.get(stream)
            if track is None:
                track = self._track(stream, stored, int(version))
                young = self._young
            try:
                cell, act = track.cell[stored, attempt]
                if act is not None:
                    act(self, track, head, position)
            except NotPlain:
                if (refusal := self._judge(stream, track, position)) is not None:
                    refusals.append(refusal)
            else:
                track.cell = cell
        return refusals

    def _judge(self, stream: str, track: Track, position: int) -> ReplayRefused | None:
        recorded = self.recorded(position)
        if track.cell is self._cells[None].initial and (owner := self.gate.owner(recorded.kind)) is not None:
            track = self._begin(owner)  # until now nothing stood there that belongs to a machine
        try:
            track.judge(self, recorded, position)
        except (Refused, UnreadableEntry) as error:
            self._left_out.setdefault(stream, set()).add(position)
            if recorded.version == 1:  # it fixed no machine
                self._young[stream] = self._begin(None)
            phase = track.phase(self, recorded.kind)
            return ReplayRefused(position, stream, recorded.version, phase, recorded.type, str(error))
        self._young[stream] = track
        return None

    # --- tracks -------------------------------------------------------------------------------------------------

    def _begin(self, owner: Machine[Any] | None) -> Track:
        if owner is RUN:
            return Run(self._cells[RUN].initial)
        if owner in self._cells:
            return Track(self._cells[owner].initial)
        return Whole(self._opaque, self.gate.start(None))

    def _track(self, stream: str, stored: str, version: int) -> Track:
        """A stream that was not seen lately, as it stood before this version."""
        if len(self._young) >= max(1, REMEMBERED_STREAMS // 2):
            self._old, self._young = self._young, {}
        track = self._old.pop(stream, None)
        self._young[stream] = track or self._begin(self.gate.owner(self.gate.codec.kind(stored)))
        if track is None and version > 1:
            self._walk(stream, version - 1)
        return self._young[stream]

    def _walk(self, stream: str, last: int) -> None:
        """Bring a stream up to a version by its own entries; what was left out is left out again."""
        self._young[stream] = self._begin(None)
        known, left_out = self._known, self._left_out.get(stream, set())
        for after in range(0, last, STRETCH):
            limit = min(STRETCH, last - after)
            glance = self._reading.glance(after=after, limit=limit, peek=self.peek, stream=stream)
            if left_out:
                glance = glance.without(left_out)
            self._known = Ahead.of(self._reading, self.gate.codec, glance, self.wanted)
            self._pass(glance)
        self._known = known
