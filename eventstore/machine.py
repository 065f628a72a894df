"""A machine: one table of phases and events, one fold, and the gate that every event passes.

Two rules make the whole of it.

1. The table is total, `phase -> {event class: next phase}`, and an absent key is the refusal. There is no other
   place where a transition is allowed, and none where one is forbidden but the guards, which look at data.
2. `evolve(state, recorded)` is pure and sets data only; the phase is set here, from the table. So a fold can
   never disagree with the table it belongs to.

A machine knows nothing of logs, clocks or files. `store` puts it in front of each write; `rebuild` puts it in front
of each entry that it replays; `testing` draws legal histories from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from attrs import field, frozen

from eventstore.changing import changed
from eventstore.errors import IllegalTransition, InvalidArgument

if TYPE_CHECKING:
    from eventstore.codec import Recorded


class State(Protocol):
    """What a machine folds a stream into: an attrs class with a phase and whatever data the fold keeps."""

    @property
    def phase(self) -> StrEnum:
        """Where it stands: a row of the table."""


S = TypeVar("S", bound=State)

Table = Mapping[Any, Mapping[type, Any]]
Guard = Callable[[S, "Recorded"], None]
Fence = Callable[[S, str, type, "int | None", "int | None"], "int | None"]
Seal = Callable[[str, Any, Any, bool], Any]


@frozen(eq=False, repr=False)
class Machine(Generic[S]):
    """The rules of one kind of stream.

    Args:
        name: what it is called in messages.
        initial: the state before the first event; its phase is the table's entry.
        table: `phase -> {event class: next phase}`, total: every phase has a row, a final one perhaps `{}`.
        evolve: `(state, recorded) -> state`, pure; it need not set the phase.
        guards: `event class -> (state, recorded) -> None`, pure, raising a `Refused` for what data forbids.
        fence: `(state, stream, event class, attempt named, attempt held) -> attempt to store`, pure, raising
            `Fenced`; without it attempts are stored as they come.
        hints: `phase -> a sentence` that ends the refusal of an event there.
        seals: `event class -> (stream, event as given, event as redacted, vouched) -> event to write`, pure. Here an
            event is given what its guards will need of the part that a redactor took out. `vouched` is an event that
            was sealed by another log, and is taken in from there. It raises a `Refused` for what cannot be redacted.
        identifiers: the fields by which events are told apart and judged; a redactor may not change them.

    Raises:
        InvalidArgument: the table is not total.
    """

    name: str
    initial: S
    table: Table
    evolve: Callable[[S, Recorded], S]
    guards: Mapping[type, Guard[S]] = field(factory=dict)
    fence: Fence[S] | None = None
    hints: Mapping[Any, str] = field(factory=dict)
    seals: Mapping[type, Seal] = field(factory=dict)
    identifiers: frozenset[str] = frozenset()
    events: frozenset[type] = field(init=False)

    @events.default
    def _every_event(self) -> frozenset[type]:
        return frozenset(event for row in self.table.values() for event in row)

    def __attrs_post_init__(self) -> None:
        targets = {self.initial.phase} | {phase for row in self.table.values() for phase in row.values()}
        if missing := [str(phase) for phase in targets if phase not in self.table]:
            raise InvalidArgument("table", missing, f"lack a row each, which the machine {self.name!r} needs")

    def __repr__(self) -> str:
        return f"Machine({self.name!r})"

    @property
    def final(self) -> frozenset[StrEnum]:
        """The phases that no event leads out of."""
        return frozenset(phase for phase, row in self.table.items() if all(to == phase for to in row.values()))

    def judge(self, state: S, recorded: Recorded) -> S:
        """The gate: the state after the event.

        Raises:
            IllegalTransition: the table has no such cell; the given state is untouched.
            Refused: a guard's own.
        """
        row = self.table[state.phase]
        phase = row.get(recorded.kind)
        if phase is None:
            raise IllegalTransition(
                recorded.stream,
                self.name,
                str(state.phase),
                recorded.type,
                tuple(event.__name__ for event in row),
                self.hints.get(state.phase, ""),
            )
        if guard := self.guards.get(recorded.kind):
            guard(state, recorded)
        after = self.evolve(state, recorded)
        # The phase comes from the table alone.
        return after if after.phase is phase else changed(after, phase=phase)

    def diagram(self) -> str:
        """The table as a Mermaid state diagram, a line for each pair of phases."""
        lines = ["stateDiagram-v2"]
        for phase, row in self.table.items():
            source = "[*]" if phase == self.initial.phase else str(phase)
            arrows: dict[Any, list[str]] = {}
            for event, target in row.items():
                arrows.setdefault(target, []).append(event.__name__)
            lines += [f"    {source} --> {target}: {'<br>'.join(events)}" for target, events in arrows.items()]
        lines += [f"    {phase} --> [*]" for phase in self.table if phase in self.final]
        return "\n".join(lines) + "\n"
