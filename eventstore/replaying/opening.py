"""Opening: the state of a run from its first entry on, without decoding more of a long history than the state holds.

It is what `gate.fold` gives, and where anything is out of the ordinary `gate.fold` gives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import attrs
import orjson
from attrs import field, frozen
from rpds import HashTrieMap

from eventstore.changing import changed
from eventstore.codec import Codec, Recorded
from eventstore.errors import InvalidPayload, Refused, UnreadableEntry
from eventstore.gate import Folded, Gate
from eventstore.log import Glance, Reading
from eventstore.notes import FREE, NOTES, NotesPhase
from eventstore.replaying.cells import Cells, NotPlain
from eventstore.replaying.replay import HEAD, STRETCH, Ahead
from eventstore.replaying.tracks import ABOUT_A_CALL, ACTS, LIVED, Run, new_call
from eventstore.workflow import RUN, Call, CheckpointSaved, RunState, ToolCalled, bound

S = TypeVar("S", bound=Any)

SHORT = 8
"""Streams of fewer entries are folded one by one."""
_WHOLE = 1_000
"""Characters of a payload that are asked for: of nearly every call that is all of it."""


class Opening:
    """How the streams of one store are folded from their beginning."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._cells = Cells(gate, RUN, _OPENING)
        self._runs = gate.machines.get(RUN.name) is RUN
        self._free = frozenset(gate.codec.stored_names(FREE))
        self._notes = frozenset(gate.codec.stored_names(NOTES.events))

    def fold(self, reading: Reading, stream: str, view: Folded[S]) -> Folded[S]:
        """The view after everything that stands in the log by now, from that of an empty stream.

        Raises:
            Refused, UnreadableEntry: as `Gate.fold`.
        """
        if self._runs and view.machine in (None, RUN):
            entries = reading.read(stream, after=0, limit=SHORT)
            kind = self._gate.codec.kind(entries[0].type) if len(entries) >= SHORT else None
            if self._gate.owner(kind) is RUN:
                try:
                    return _Walk(self._gate, self._cells, reading, stream).opened()  # type: ignore[return-value]
                except (NotPlain, Refused, UnreadableEntry, InvalidPayload):
                    return self._gate.fold(reading, stream, view)
            if len(entries) >= SHORT and (noted := self._noted(reading, stream, view)) is not None:
                return noted
            for entry in entries:
                view = self._gate.admit(view, self._gate.codec.recorded(entry))
        return self._gate.fold(reading, stream, view)

    def _noted(self, reading: Reading, stream: str, view: Folded[S]) -> Folded[S] | None:
        """The view of notes, which may be very many: their types are all that it depends on. None of other streams."""
        if view.machine not in (None, NOTES):
            return None
        # What was sealed of it may be very many days: of these no file is read.
        version, types = reading.sealed_types(stream)
        if not self._notes.issuperset(types):
            return None
        named = not self._free.issuperset(types)
        while True:
            # A few at first: of most other streams these tell that they are none of ours.
            glance = reading.glance(after=version, limit=STRETCH if version else SHORT, peek={}, stream=stream)
            if not glance.types:
                break
            version += len(glance.types)
            if not self._notes.issuperset(glance.types) or int(glance.versions[-1]) != version:
                return None
            named = named or not self._free.issuperset(glance.types)
        machine: Any = NOTES if named else view.machine
        state: Any = changed(NOTES.initial, phase=NotesPhase.OPEN) if named else NOTES.initial
        return Folded(machine, version, state)


def _shown_call(walk: _Walk, run: Run, head: str, version: int) -> None:
    new_call(walk, run, head, version)
    walk.keep(head, version)


_OPENING = {**ACTS, ToolCalled: _shown_call}


@frozen(eq=False)
class _Kept:
    """What is kept of a history's calls: by call id the versions, by version the rest."""

    codec: Codec
    stream: str
    calls: dict[str, int] = field(factory=dict)
    returns: dict[str, int] = field(factory=dict)
    shown: dict[int, str] = field(factory=dict)
    """Their payloads, but of large ones."""
    attempts: dict[int, int] = field(factory=dict)
    positions: list[int] = field(factory=list)
    """Of all entries, from version 1 on."""
    digests: dict[int, str] = field(factory=dict)
    """Of large ones."""

    def call(self, call_id: str) -> Call:
        """One of them.

        Raises:
            KeyError: there is none of this id.
            UnreadableEntry: its payload is garbled.
        """
        version = self.calls[call_id]
        digest = self.digests.get(version) or self._digest(version)
        return Call(digest, self.attempts[version], version, self.returns.get(call_id))

    def _digest(self, version: int) -> str:
        name = ToolCalled.__name__
        try:
            return bound(self.codec.parse(name, orjson.loads(self.shown[version])))
        except (ValueError, InvalidPayload) as error:
            raise UnreadableEntry(self.positions[version - 1], self.stream, name, str(error)) from error


class History(Mapping[str, Call]):
    """The calls of a long history, each made when it is asked for: hardly one is. Persistent, as a HashTrieMap is."""

    __slots__ = ("_kept", "_since")

    def __init__(self, kept: _Kept, since: HashTrieMap[str, Call]) -> None:
        self._kept = kept
        self._since = since

    def __getitem__(self, call_id: str) -> Call:
        return self._since.get(call_id) or self._kept.call(call_id)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._kept.calls, **dict.fromkeys(self._since)})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def insert(self, call_id: str, call: Call) -> History:
        """The same with this call under this id."""
        return History(self._kept, self._since.insert(call_id, call))


class _Walk:
    """One stream, walked once."""

    def __init__(self, gate: Gate, cells: Cells, reading: Reading, stream: str) -> None:
        self.gate = gate
        self._reading = reading
        self._stream = stream
        self._run = Run(cells.initial)
        self._version = 0
        self._state: RunState = RUN.initial
        self._known: dict[int, Recorded] = {}
        self._kept = _Kept(gate.codec, stream)
        self._large: list[int] = []
        """Versions of calls whose payload is not shown whole."""

    def keep(self, head: str, version: int) -> None:
        """Keep what a call's digest can be taken of later."""
        self._kept.attempts[version] = self._run.cell.attempt
        if 0 < len(head) < _WHOLE:
            self._kept.shown[version] = head
        else:
            self._large.append(version)

    def _keep_all(self, heads: list[str], versions: list[int]) -> None:
        if max(map(len, heads), default=0) < _WHOLE:
            self._kept.attempts.update(dict.fromkeys(versions, self._run.cell.attempt))
            self._kept.shown.update(zip(versions, heads, strict=True))
        else:
            for head, version in zip(heads, versions, strict=True):
                self.keep(head, version)

    def recorded(self, version: int) -> Recorded:
        """The whole entry at a version."""
        found = self._known.get(version)
        if found is None:
            found = self.gate.codec.recorded(self._reading.read(self._stream, after=version - 1, limit=1)[0])
        return found

    def opened(self) -> Folded[RunState]:
        """The view at the stream's end."""
        peek = {kind.__name__: HEAD for kind in ABOUT_A_CALL} | {ToolCalled.__name__: _WHOLE}
        while True:
            glance = self._reading.glance(after=self._version, limit=STRETCH, peek=peek, stream=self._stream)
            if not glance.positions:
                break
            if int(glance.versions[-1]) != self._version + len(glance.versions):
                raise NotPlain  # versions are missing
            self._pass(glance)
        run = self._run
        state = changed(
            self._state,
            calls=History(attrs.evolve(self._kept, calls=run.calls, returns=run.returns), HashTrieMap()),
            unreturned=frozenset(run.open),
            questions=self._questions(),
            unanswered=frozenset(run.unanswered),
        )
        return Folded(RUN, self._version, state)

    def _pass(self, glance: Glance) -> None:
        run, codec = self._run, self.gate.codec
        types = set(glance.types)
        changing = frozenset(codec.stored_names(LIVED))
        lived = [] if types.isdisjoint(changing) else [*Ahead.of(self._reading, codec, glance, changing)]
        self._known.update((recorded.version, recorded) for recorded in lived)
        versions = range(self._version + 1, self._version + len(glance.positions) + 1)
        if (called := run.passes(glance, versions)) is not None:
            self._keep_all([glance.heads[at] for at in called], [versions[at] for at in called])
        else:
            self._walk(glance, versions)
        for recorded in lived:
            self._state = RUN.judge(self._state, recorded)
        self._kept.positions.extend(glance.positions)
        large = [self._kept.positions[version - 1] for version in self._large]
        self._large.clear()
        for recorded in Ahead(large, lambda wanted: map(codec.recorded, self._reading.at(wanted))):
            self._kept.digests[recorded.version] = bound(recorded.event)
        saved = types.intersection(codec.stored_names([CheckpointSaved]))
        if saved:
            back = next(index for index, stored in enumerate(reversed(glance.types)) if stored in saved)
            self._state = changed(self._state, checkpoint=versions[-1] - back)
        self._version = versions[-1]

    def _walk(self, glance: Glance, versions: range) -> None:
        run = self._run
        for version, stored, attempt, head in zip(versions, glance.types, glance.attempts, glance.heads, strict=True):
            try:
                cell, act = run.cell[stored, attempt]
                if act is not None:
                    act(self, run, head, version)
            except NotPlain:
                recorded = self.recorded(version)
                run.judge(self, recorded, version)
                if recorded.kind is ToolCalled:
                    self.keep("", version)
            else:
                run.cell = cell

    def _questions(self) -> Any:
        state = RunState()
        for versions in self._run.questions.values():
            for version in versions:
                state = RUN.evolve(state, self.recorded(version))
        return state.questions
