"""A machine is its table: what is not in it is refused, and the phase comes from nowhere else."""

from enum import StrEnum

import pytest
from attrs import evolve, frozen

from eventstore.errors import CallNotOpen, Fenced, IllegalTransition, InvalidArgument
from eventstore.machine import Machine
from eventstore.notes import NOTES, LogRecorded, MetaSet
from eventstore.store import EventStore
from eventstore.testing import Rehearsal
from eventstore.workflow import RUN


class Phase(StrEnum):
    NEW = "new"
    OPEN = "open"
    DONE = "done"


@frozen
class Opened:
    name: str = "a"


@frozen
class Renamed:
    name: str


@frozen
class Done:
    pass


@frozen
class Door:
    phase: Phase = Phase.NEW
    name: str = ""


TABLE = {
    Phase.NEW: {Opened: Phase.OPEN},
    Phase.OPEN: {Renamed: Phase.OPEN, Done: Phase.DONE},
    Phase.DONE: {},
}


def fold(door, recorded):
    return evolve(door, name=getattr(recorded.event, "name", door.name))


def machine(**changes):
    return Machine(**{"name": "door", "initial": Door(), "table": TABLE, "evolve": fold} | changes)


def test_the_phase_after_an_event_is_the_tables():
    door = Rehearsal(machine())

    phases = [door.state.phase]
    for event in (Opened(), Renamed("b"), Done()):
        door.take(event)
        phases.append(door.state.phase)

    assert phases == [Phase.NEW, Phase.OPEN, Phase.OPEN, Phase.DONE]
    assert door.state.name == "b"


def test_a_fold_that_sets_the_phase_is_overruled_by_the_table():
    door = Rehearsal(machine(evolve=lambda state, _recorded: evolve(state, phase=Phase.DONE)), Opened())

    assert door.state.phase is Phase.OPEN


def test_an_absent_key_is_the_refusal_and_the_state_is_untouched():
    door = Rehearsal(machine(), Opened())
    before = door.state

    with pytest.raises(IllegalTransition) as caught:
        door.take(Opened())

    assert door.state is before
    error = caught.value
    assert (error.stream, error.machine, error.phase, error.event) == ("rehearsal", "door", "open", "Opened")
    assert error.allowed == ("Renamed", "Done")
    assert str(error) == "rehearsal is open and cannot take Opened; it takes Renamed, Done."


def test_a_final_phase_takes_nothing_and_its_hint_ends_the_refusal():
    door = Rehearsal(machine(hints={Phase.DONE: "Open another."}), Opened(), Done())

    with pytest.raises(IllegalTransition) as caught:
        door.take(Done())

    assert str(caught.value) == "rehearsal is done and cannot take Done; it takes nothing. Open another."


def test_a_guard_may_refuse_what_the_table_allows():
    def not_twice(state, recorded):
        if recorded.event.name == state.name:
            raise CallNotOpen(recorded.stream, state.name)

    door = Rehearsal(machine(guards={Renamed: not_twice}), Opened("a"))
    before = door.state

    with pytest.raises(CallNotOpen):
        door.take(Renamed("a"))
    assert door.state is before
    door.take(Renamed("b"))
    assert door.state.name == "b"


def test_a_guard_is_not_asked_about_what_the_table_refuses():
    def never(_state, _recorded):
        raise AssertionError

    with pytest.raises(IllegalTransition):
        Rehearsal(machine(guards={Renamed: never})).take(Renamed("a"))


def test_without_a_fence_attempts_are_stored_as_they_come():
    door = Rehearsal(machine())

    assert door.take(Opened(), attempt=7).attempt == 7
    assert door.take(Renamed("b")).attempt is None


def test_a_fence_decides_the_attempt_that_is_stored():
    def only_three(state, stream, kind, attempt, held):
        if attempt not in (None, 3):
            raise Fenced(stream, kind.__name__, attempt, 3, str(state.phase))
        return held or 3

    door = Rehearsal(machine(fence=only_three))
    with pytest.raises(Fenced):
        door.take(Opened(), attempt=2)

    assert door.state == Door()
    assert door.take(Opened()).attempt == 3


def test_a_table_that_leads_into_a_phase_without_a_row_is_refused():
    with pytest.raises(InvalidArgument, match="done"):
        machine(table={Phase.NEW: {Opened: Phase.OPEN}, Phase.OPEN: {Done: Phase.DONE}})
    with pytest.raises(InvalidArgument, match="new"):
        machine(table={Phase.OPEN: {}})


def test_a_machine_knows_its_events_and_its_final_phases():
    assert machine().events == {Opened, Renamed, Done}
    assert machine().final == {Phase.DONE}
    assert repr(machine()) == "Machine('door')"


def test_the_diagram_has_a_line_for_each_pair_of_phases():
    assert machine().diagram() == (
        "stateDiagram-v2\n"
        "    [*] --> open: Opened\n"
        "    open --> open: Renamed\n"
        "    open --> done: Done\n"
        "    done --> [*]\n"
    )


def test_the_diagram_of_the_run_names_every_cell_of_its_table():
    lines = RUN.diagram().splitlines()

    for phase, row in RUN.table.items():
        source = "[*]" if phase == "new" else phase
        for event, target in row.items():
            line = next(line for line in lines if line.startswith(f"    {source} --> {target}:"))
            assert event.__name__ in line.partition(": ")[2].split("<br>")


def test_a_stream_of_notes_refuses_nothing_of_its_own():
    notes = Rehearsal(NOTES)
    for event in (LogRecorded("a", "b"), MetaSet("x", 1), LogRecorded("a", "b"), MetaSet("x", None)):
        notes.take(event)

    assert notes.state.phase == "open"


def test_an_event_type_belongs_to_one_machine():
    with pytest.raises(ValueError, match="belongs to the machines 'door' and 'gate'"):
        EventStore(None, [machine(), machine(name="gate")])
