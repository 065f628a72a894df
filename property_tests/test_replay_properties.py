"""The quick replay refuses what the judge refuses, entry by entry and word by word, whatever was done to a log."""

import copy
import hashlib
from enum import StrEnum

import pytest
from attrs import evolve as changed
from attrs import frozen
from hypothesis import event, given, settings
from hypothesis import strategies as st

from eventstore import RUN, EventStore, LogRecorded, Machine, MetaSet
from eventstore.errors import CallNotOpen, CallReused, Refused, UnreadableEntry
from eventstore.gate import Folded
from eventstore.log import Entry, Glance
from eventstore.memory import MemoryLog
from eventstore.replaying import Ahead, Replay, opening, replay, tracks
from eventstore.replaying.cells import Cells, NotPlain
from eventstore.sqlite import SQLiteLog
from eventstore.testing import Rehearsal, histories
from eventstore.workflow import Phase, RunQueued, RunStarted, ToolCalled, ToolReturned


class Door(StrEnum):
    SHUT = "shut"
    OPEN = "open"


@frozen
class Opened:
    by: str


@frozen
class Shut:
    by: str


@frozen
class DoorState:
    phase: Door = Door.SHUT


DOOR = Machine(
    "door", DoorState(), {Door.SHUT: {Opened: Door.OPEN}, Door.OPEN: {Shut: Door.SHUT}}, lambda state, _recorded: state
)
"""Without guards and fence: its table alone says what may happen."""


class Full(Refused):
    def __str__(self) -> str:
        return "full"


@frozen
class Filled:
    amount: int


@frozen
class JugState:
    phase: Door = Door.OPEN
    holds: int = 0


def overflows(state, recorded):
    if state.holds + recorded.event.amount > 5:
        raise Full


JUG = Machine(
    "jug",
    JugState(),
    {Door.OPEN: {Filled: Door.OPEN}, Door.SHUT: {}},
    lambda state, recorded: changed(state, holds=state.holds + recorded.event.amount),
    guards={Filled: overflows},
)
"""With a guard that looks at data of its own."""
MACHINES = (RUN, DOOR, JUG)
FILLS = {Filled: lambda _state: st.builds(Filled, st.integers(0, 3))}


@frozen
class Line:
    """An entry before it has a place."""

    stream: str
    type: str
    attempt: int | None
    data: str


def lines(machine, stream, events):
    rehearsal = Rehearsal(machine, *events)
    return [Line(stream, item.entry.type, item.entry.attempt, item.entry.data) for item in rehearsal.history]


NOTED = st.lists(
    st.sampled_from([Line("s", "LogRecorded", None, '{"source":"a","kind":"b"}'),
                     Line("s", "MetaSet", None, '{"name":"n"}')]), max_size=4,
)  # fmt: skip


@st.composite
def streams(draw):
    """A few streams of all machines, each legal, interleaved anyhow."""
    pending = []
    for number in range(draw(st.integers(1, 4))):
        machine = draw(st.sampled_from([RUN, RUN, RUN, DOOR, JUG, None]))
        name = f"s-{number}"
        if machine is None:
            pending.append([changed(line, stream=name) for line in draw(NOTED)])
        else:
            events = draw(histories(machine, events=FILLS if machine is JUG else None, max_size=14))
            pending.append(lines(machine, name, events))
    merged = []
    while pending := [line for line in pending if line]:
        merged.append(draw(st.sampled_from(pending)).pop(0))
    return merged


ODD = st.sampled_from(
    ["ToolReturned", "ToolCalled", "RunStarted", "RunResumed", "RunQueued", "RunDescribed", "RunCompleted", "Opened",
     "Shut", "Filled", "LogRecorded", "MetaSet", "NeverHeardOf", "ConfirmationResolved", "RunRequeued"]
)  # fmt: skip
PAYLOADS = st.sampled_from(
    ['{"call_id":"c0"}', '{"call_id":"c1","output":2}', '{ "call_id": "c0" }', '{"call_id":"c\\u0030"}', "{}",
     '{"call_id":"c0","tool":"t"}', '{"tool":"t","call_id":"c1"}', '{"worker":"w"}', '{"workflow":"w"}', '{"amount":4}',
     '{"call_id":"c0","decision":"approved"}', '{"call_id":"c0","decision":"denied"}', '{"labels":{"a":"b"}}']
)  # fmt: skip


@st.composite
def tampered(draw):
    """The same, after somebody took out, doubled, moved and altered what he liked."""
    log = draw(streams())
    for _ in range(draw(st.integers(0, 4))):
        if not log:
            break
        place = draw(st.integers(0, len(log) - 1))
        line = log[place]
        match draw(st.sampled_from(["take out", "double", "move", "type", "attempt", "payload", "stream"])):
            case "take out":
                del log[place]
            case "double":
                log.insert(draw(st.integers(0, len(log))), line)
            case "move":
                log.insert(draw(st.integers(0, len(log) - 1)), log.pop(place))
            case "type":
                log[place] = changed(line, type=draw(ODD))
            case "attempt":
                log[place] = changed(line, attempt=draw(st.none() | st.integers(0, 3)))
            case "payload":
                log[place] = changed(line, data=draw(PAYLOADS))
            case "stream":
                log[place] = changed(line, stream=draw(st.sampled_from(["s-0", "s-1", "s-9"])))
    return log


CALLS = {
    "ToolCalled": ['{"call_id":"c%d","tool":"t"}', '{"call_id":"c%d","tool":"t","input":1}'],
    "ToolReturned": ['{"call_id":"c%d"}', '{ "call_id":"c%d"}'],
    "ConfirmationRequested": ['{"call_id":"c%d","tool":"t"}', '{"call_id":"c%d","tool":"t","input":1}'],
    "ConfirmationResolved": ['{"call_id":"c%d","decision":"approved"}', '{"call_id":"c%d","decision":"denied"}',
                             '{"call_id":"c%d","decision":"approved","input":1}',
                             '{"call_id":"c%d","decision":"approved","by":"policy"}'],
    "ConfirmationExpired": ['{"call_id":"c%d"}'],
}  # fmt: skip
LIVED = {
    "RunPaused": '{"waiting_for":"person"}', "RunResumed": '{"worker":"w"}', "RunRequeued": "{}",
    "RunStarted": '{"worker":"w"}', "RunCompleted": "{}", "MessageRecorded": '{"role":"user"}',
    "RunDescribed": '{"labels":{"a":"b","c":"d"}}',
}  # fmt: skip
SETTINGS = [
    '{"config":{"auto_accept":true}}', '{"config":{"auto_accept":{"tools":["t"]}}}', '{"config":{"auto_accept":["u"]}}',
    "{}", '{"config":5}',
]  # fmt: skip
OTHER_LABELS = '{"labels":{' + ",".join(f'"l{number}":""' for number in range(99)) + "}}"


@st.composite
def crowded(draw):
    """One run in which two call ids meet in every way, allowed or not, over two attempts."""
    queued = draw(st.sampled_from(['{"workflow":"w"}', '{"workflow":"w","config":{"auto_accept":["t"]}}']))
    log = [Line("s-0", "RunQueued", None, queued), Line("s-0", "RunStarted", 1, '{"worker":"w"}')]
    attempt = 1
    for _ in range(draw(st.integers(1, 16))):
        kind = draw(st.sampled_from([*CALLS, *CALLS, *CALLS, *LIVED, "RunConfigured"]))
        if kind in CALLS:
            data = draw(st.sampled_from(CALLS[kind])) % draw(st.integers(0, 1))
        else:
            data = draw(st.sampled_from(SETTINGS)) if kind == "RunConfigured" else LIVED[kind]
        attempt += kind in {"RunResumed", "RunStarted"}
        outside = kind in {"RunDescribed", "RunConfigured", "ConfirmationResolved", "ConfirmationExpired"}
        odd = draw(st.integers(0, 15)) == 0
        if kind == "RunDescribed" and draw(st.booleans()):
            data = OTHER_LABELS
        log.append(Line("s-0", kind, None if outside is not odd else attempt, data))
    return log


LOGS = st.one_of(tampered(), crowded())


def written(log, found):
    versions = {}
    entries = []
    for position, line in enumerate(found, start=1):
        version = versions[line.stream] = versions.get(line.stream, 0) + 1
        digest = hashlib.sha256(b"%d" % position).digest()
        entries.append(Entry(position, line.stream, version, line.type, position, None, line.attempt, None, digest,
                             None, line.data))  # fmt: skip
    if entries:
        log.write(lambda transaction: transaction.insert(entries))
    return EventStore(log, MACHINES)


def judged(store):
    """What the judge says of each entry, with all of the state and all of the payload before it."""
    gate, views, refused = store.gate, {}, []
    for recorded in store.read_all():
        view = views.get(recorded.stream) or gate.start(None)
        try:
            after = gate.admit(view, recorded)
            gate.refence(view, recorded)
        except (Refused, UnreadableEntry) as error:
            stands = gate.fixed(view, recorded.kind).state  # where nothing stood yet: what its machine begins with
            refused.append((recorded.position, str(stands.phase), recorded.type, str(error)))
            after = Folded(view.machine, recorded.version, view.state)
        views[recorded.stream] = after
    return refused


def replayed(store, *, stretch, decoded):
    codec, quick, refused = store.gate.codec, Replay(store.gate, decoded), []
    with store.reading() as reading:
        for after in range(0, reading.head().position, stretch):
            glance = reading.glance(after=after, limit=stretch, peek=quick.peek)
            known = Ahead.of(reading, codec, glance, quick.wanted)
            refused += quick.refused(reading, glance, known)
    return [(item.position, item.phase, item.event, item.reason) for item in refused]


@settings(max_examples=60)
@given(LOGS, st.integers(1, 40), st.sampled_from([1, 2, 4, 10_000]))
def test_what_decodes_every_payload_refuses_what_the_judge_refuses(found, stretch, remembered):
    store = written(MemoryLog(), found)
    kept, replay.REMEMBERED_STREAMS = replay.REMEMBERED_STREAMS, remembered
    try:
        refused = replayed(store, stretch=stretch, decoded=store.gate.codec.names)
    finally:
        replay.REMEMBERED_STREAMS = kept

    expected = judged(store)
    event(f"{min(len(expected), 3)} refused")
    assert refused == expected


ALLOWED = ('{"auto_accept":true}', '{"auto_accept":["t"]}', '{"auto_accept":{"tools":["t","u"],"until":null}}')
FORBIDDEN = ("null", '{"auto_accept":false}', '{"auto_accept":["u"]}', '{"auto_accept":{"tools":["t"],"until":"soon"}}')


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("config", [*ALLOWED, *FORBIDDEN])
def test_a_decision_in_the_name_of_a_permission_is_judged_by_the_settings_that_stand(config, later):
    first = ALLOWED[0] if config in FORBIDDEN else FORBIDDEN[0]
    found = [Line("s-0", "RunQueued", None, f'{{"workflow":"w","config":{first if later else config}}}'),
             Line("s-0", "RunStarted", 1, '{"worker":"w"}')]  # fmt: skip
    found += [Line("s-0", "RunConfigured", None, f'{{"config":{config}}}')] if later else []
    found += [Line("s-0", "ConfirmationRequested", 1, '{"call_id":"c0","tool":"t"}')]
    found += [Line("s-0", "ConfirmationResolved", None, '{"call_id":"c0","decision":"approved","by":"policy"}')]
    store = written(MemoryLog(), found)

    refused = [position for position, *_ in judged(store)]
    assert refused == ([len(found)] if config in FORBIDDEN else [])
    for decoded in ((), store.gate.codec.names):
        assert [position for position, *_ in replayed(store, stretch=2, decoded=decoded)] == refused


def readable(store):
    for recorded in store.read_all():
        try:
            recorded.event  # noqa: B018
        except UnreadableEntry:
            return False
    return True


@given(LOGS, st.integers(1, 40))
def test_where_all_payloads_are_readable_a_glance_at_them_is_as_good(found, stretch):
    store = written(MemoryLog(), found)
    if not readable(store):
        event("unreadable")
        return

    expected = judged(store)
    event(f"{min(len(expected), 3)} refused")
    assert replayed(store, stretch=stretch, decoded=()) == expected


@settings(max_examples=20)  # a file each, and what is judged is judged above
@given(LOGS)
def test_sqlite_shows_the_same_glances(tmp_path_factory, found):
    log = SQLiteLog(tmp_path_factory.mktemp("glance") / "agent.db", synchronous="NORMAL")
    store, other = written(log, found), written(MemoryLog(), found)

    assert replayed(store, stretch=7, decoded=()) == replayed(other, stretch=7, decoded=())
    log.close()


def folded(store, fold, stream):
    """Version, state and machine of a stream; or what was raised."""
    with store.reading() as reading:
        try:
            view = fold(reading, stream, store.gate.start(None))
        except (Refused, UnreadableEntry) as error:
            return str(error)
    return view


LEGAL = histories(RUN, min_size=4, max_size=40).map(lambda events: lines(RUN, "s-0", events))


@settings(max_examples=60)
@given(LEGAL | LOGS, st.integers(1, 8), st.sampled_from([1, 40, 1000]), st.sampled_from([1, 5]))
def test_a_stream_that_is_opened_is_what_the_gate_folds(found, stretch, whole, short):
    store = written(MemoryLog(), found)
    if not readable(store):
        event("unreadable")
        return

    kept = opening.STRETCH, opening._WHOLE, opening.SHORT
    opening.STRETCH, opening._WHOLE, opening.SHORT = stretch, whole, short
    try:
        for stream in sorted({line.stream for line in found}):
            opened, expected = (folded(store, fold, stream) for fold in (store.opening.fold, store.gate.fold))
            assert opened == expected
            event(
                "refused" if isinstance(expected, str) else f"{min(len(getattr(expected.state, 'calls', ())), 2)} calls"
            )
    finally:
        opening.STRETCH, opening._WHOLE, opening.SHORT = kept


STARTED = Cells(EventStore(MemoryLog(), MACHINES).gate, RUN, tracks.ACTS).cell(Phase.STARTED, 1)


def begun(before):
    """A track of a started run, after these calls and questions."""
    run = tracks.Run(STARTED)
    one_by_one(run, before)
    return run


def one_by_one(run, items):
    """Whether all are plain, up to the first that is not."""
    for at, (kind, number) in enumerate(items):
        try:
            cell, act = run.cell[kind, "1"]
            if act is not None:
                act(None, run, f'{{"call_id":"c{number}"', 100 + at)
            run.cell = cell
        except NotPlain:
            return False
    return True


def stands(run):
    return run.cell.phase, run.calls, run.returns, run.open, run.questions, run.unanswered


KINDS = st.sampled_from(["ToolCalled", "ToolCalled", "ToolReturned", "ToolReturned", "MessageRecorded"])
ITEMS = st.lists(st.tuples(KINDS, st.integers(0, 2)), max_size=5)
BEFORE = st.lists(st.tuples(st.sampled_from(["ToolCalled", "ConfirmationRequested"]), st.integers(0, 2)), max_size=2)


@settings(max_examples=300)
@given(BEFORE, ITEMS, st.sampled_from([False, False, False, True]), st.sampled_from([1, 2, 9]))
def test_calls_that_pass_at_once_are_those_that_pass_one_by_one(before, items, ends, most):
    items += [("RunCompleted", 0)] * ends
    glance = Glance(types=[kind for kind, _ in items], attempts=["1"] * len(items),
                    heads=[f'{{"call_id":"c{number}"' for _, number in items])  # fmt: skip
    kept, tracks.MAX_OPEN = tracks.MAX_OPEN, most
    try:
        run, slow = begun(before), begun(before)
        untouched = copy.deepcopy(stands(run)[1:])
        called = run.passes(glance, range(100, 100 + len(items)))
        plain = one_by_one(slow, items) and not ends
    finally:
        tracks.MAX_OPEN = kept

    event("plain" if plain else "not plain")
    assert (called is not None) is plain
    assert stands(run)[1:] == (stands(slow)[1:] if plain else untouched)
    assert called is None or called == [at for at, (kind, _) in enumerate(items) if kind == "ToolCalled"]


def test_an_opened_run_goes_on_as_any_other():
    store = EventStore(MemoryLog(), MACHINES)
    first = store.stream("s-0", RUN)
    first.append(RunQueued("w"), RunStarted("w"))
    for number in range(20):
        first.append(ToolCalled(f"c{number}", "t", number), ToolReturned(f"c{number}"))
    first.append(ToolCalled("open", "t", 1))
    second = store.stream("s-0", RUN)
    assert second.version == 43

    second.append(ToolCalled("more", "t"), ToolReturned("open"), attempt=1)
    first.refresh()

    assert second.state == first.state
    assert (second.state.calls["open"].returned, second.state.calls["more"].called) == (45, 44)
    assert len(second.state.calls) == 22
    assert set(second.state.calls) == set(first.state.calls)
    for known in (first, second):
        with pytest.raises(CallReused):
            known.append(ToolReturned("c3"), attempt=1)
        with pytest.raises(CallNotOpen):
            known.append(ToolReturned("c20"), attempt=1)
    with pytest.raises(KeyError):
        second.state.calls["none"]


def test_a_call_that_is_garbled_in_a_long_history_is_told_when_it_is_asked_for():
    found = [Line("s-0", "RunQueued", None, '{"workflow":"w"}'), Line("s-0", "RunStarted", 1, '{"worker":"w"}')]
    found += [Line("s-0", "MessageRecorded", 1, '{"role":"user"}')] * 9
    found += [Line("s-0", "ToolCalled", 1, '{"call_id":"c0","nonsense":1}')]
    stream = written(MemoryLog(), found).stream("s-0", RUN)

    assert stream.refresh().state.unreturned == {"c0"}
    with pytest.raises(UnreadableEntry, match=r"position 12 \(ToolCalled of s-0\)"):
        stream.state.calls["c0"].digest  # noqa: B018


def test_labels_are_counted_over_all_that_describes_a_run():
    described = [Line("s-0", "RunDescribed", None, data) for data in (LIVED["RunDescribed"], OTHER_LABELS)]
    queued = Line("s-0", "RunQueued", None, '{"workflow":"w"}')
    store = written(MemoryLog(), [queued, *described])

    assert replayed(store, stretch=9, decoded=()) == judged(store)
    assert [position for position, *_ in judged(store)] == [3]


def test_notes_are_read_by_their_own_rules():
    """A pair of the kinds that belong to no run, so that the drawing above is not all there is of them."""
    store = EventStore(MemoryLog(), MACHINES)
    store.append("n", LogRecorded("a", "b"), MetaSet("x"), LogRecorded("a", "b"))

    assert replayed(store, stretch=2, decoded=()) == judged(store) == []
