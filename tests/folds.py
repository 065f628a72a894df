"""Projections for tests: one that counts, one that names many rows at once, one that breaks when told to."""

from attrs import field, frozen

from eventstore import Json
from eventstore.notes import LogRecorded, MetaSet
from eventstore.workflow import MessageRecorded, RunQueued
from projections import Projection


@frozen
class TallyRow:
    role: str
    messages: int
    last: Json = field(factory=dict)


def tally(row, recorded):
    if recorded.event.content == "forget":
        return None
    return TallyRow(recorded.event.role, 1 + (row.messages if row else 0), {"at": recorded.version})


TALLY = Projection(
    name="tally",
    version=1,
    row=TallyRow,
    key=("role",),
    events=(MessageRecorded,),
    evolve=tally,
    locate=lambda recorded: (recorded.event.role,),
)


@frozen
class MarkRow:
    stream: str
    name: str
    value: Json
    seen: int = 0


def mark(row, recorded):
    """MetaSet names a row; LogRecorded concerns every row of its stream, and "clear" takes them away."""
    if recorded.kind is MetaSet:
        return MarkRow(recorded.stream, recorded.event.name, recorded.event.value, row.seen if row else 0)
    if recorded.event.kind == "clear":
        return None
    return MarkRow(row.stream, row.name, row.value, row.seen + 1)


MARKS = Projection(
    name="marks",
    version=1,
    row=MarkRow,
    key=("stream", "name"),
    events=(MetaSet, LogRecorded),
    evolve=mark,
    locate=lambda recorded: (recorded.stream, recorded.event.name) if recorded.kind is MetaSet else (recorded.stream,),
)


@frozen
class BrittleRow:
    workflow: str
    runs: int


def brittle(row, recorded):
    if recorded.event.workflow == "bad":
        raise LookupError("no such thing as bad")
    return BrittleRow(recorded.event.workflow, 1 + (row.runs if row else 0))


def by_workflow(recorded):
    return (recorded.event.workflow,)


BRITTLE = Projection("brittle", 1, BrittleRow, ("workflow",), (RunQueued,), brittle, by_workflow)
