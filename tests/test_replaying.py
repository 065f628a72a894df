"""The machines over very many entries: what is told and fetched of stretches of them. That they judge right is drawn in
`property_tests/test_replay_properties.py`."""

import hashlib

import pytest

from eventstore import RUN, EventStore, LogRecorded
from eventstore.errors import Refused, UnreadableEntry
from eventstore.limits import MAX_OPEN
from eventstore.log import Entry, Numerals
from eventstore.memory import MemoryLog
from eventstore.replaying import Ahead, opening


def fetching(store, positions, *, page):
    """`Ahead` of these positions, so many at a time, and the list of what it fetches."""
    fetched = []

    def fetch(wanted):
        fetched.append(list(wanted[:page]))
        with store.reading() as reading:
            return [store.gate.codec.recorded(entry) for entry in reading.at(wanted[:page])]

    return Ahead(positions, fetch), fetched


def noted(count):
    store = EventStore(MemoryLog(), ())
    store.append("n", *[LogRecorded("a", "b")] * count)
    return store


def test_who_asked_for_a_late_entry_first_goes_over_all_of_them_without_another_fetch():
    ahead, fetched = fetching(noted(4), [1, 2, 4], page=9)

    assert ahead.get(4).position == 4
    assert [recorded.position for recorded in ahead] == [1, 2, 4]
    assert fetched == [[1, 2, 4]]


def test_an_entry_behind_the_first_page_is_found_and_so_is_one_before_the_page_that_is_held():
    ahead, fetched = fetching(noted(5), [1, 2, 4, 5], page=2)

    assert [ahead.get(place).position for place in (4, 1, 5)] == [4, 1, 5]
    assert (ahead.get(3), ahead.get(6)) == (None, None)
    assert [recorded.position for recorded in ahead] == [1, 2, 4, 5]
    assert fetched[:3] == [[1, 2], [4, 5], [1, 2]]


# --- calls of a long history, passed at once ------------------------------------------------------------------------

BEGUN = [("RunQueued", None, '{"workflow":"w"}'), ("RunStarted", 1, '{"worker":"w"}')]


def called(call_id):
    return "ToolCalled", 1, f'{{"call_id":"{call_id}","tool":"t"}}'


def returned(call_id):
    return "ToolReturned", 1, f'{{"call_id":"{call_id}"}}'


def turns(first, last):
    """Calls that return, each before the next."""
    return [make(f"c{number}") for number in range(first, last) for make in (called, returned)]


BEFORE = [*BEGUN, *turns(0, 599)]
"""One stretch, so that what follows is another: in the first a run begins, so nothing of that goes at once."""


@pytest.fixture(autouse=True)
def stretches(monkeypatch):
    monkeypatch.setattr(opening, "STRETCH", len(BEFORE))


def standing(log, lines):
    """A store over a log in which these stand as the entries of a run, whether they may or not."""
    entries = [
        Entry(place, "s", place, kind, place, None, attempt, None, hashlib.sha256(b"%d" % place).digest(), None, data)
        for place, (kind, attempt, data) in enumerate(lines, start=1)
    ]
    log.write(lambda transaction: transaction.insert(entries))
    return EventStore(log, (RUN,))


def folded(store, fold):
    with store.reading() as reading:
        try:
            return fold(reading, "s", store.gate.start(RUN))
        except (Refused, UnreadableEntry) as error:
            return str(error)


PLAIN = [
    [],
    [called("open")],
    [called("\u00e5"), returned("\u00e5")],
    [called(""), called("\\u0061"), returned("a"), returned("")],
    [called("x" * 2_000), returned("x" * 2_000)],
    [("ToolCalled", 1, f'{{"call_id":"large","tool":"t","input":"{"x" * 2_000}"}}')],
    [called("one"), called("two"), returned("one"), returned("two")],
    [("MessageRecorded", 1, '{"role":"user"}'), ("InterruptRequested", None, "{}")],
    [("ToolCalled", 2, called("of-another")[2])],  # whose attempt it was is no question of a fold
    [("ToolCalled", None, called("of-nobody")[2])],
]
FORGED = [
    [called("c3")],
    [called("twice"), called("twice")],
    [called("twice"), returned("twice"), called("twice")],
    [returned("c3")],
    [returned("late"), called("late")],
    [called("one"), returned("one"), returned("one")],
    [returned("none")],
    [called("c\\u0033")],
    [called(f"open-{number}") for number in range(MAX_OPEN + 1)],
    [called("before"), *[called(f"open-{number}") for number in range(MAX_OPEN)], returned("before")],
]


@pytest.mark.parametrize("amid", PLAIN)
def test_a_long_history_is_opened_as_the_gate_folds_it_whatever_stands_amid_its_calls(amid):
    store = standing(MemoryLog(), [*BEFORE, *amid, *turns(700, 709)])
    view = folded(store, store.opening.fold)

    assert not isinstance(view, str)
    assert view == folded(store, store.gate.fold)


@pytest.mark.parametrize("amid", FORGED)
def test_what_somebody_forged_amid_calls_is_refused_in_the_words_of_the_judge(amid):
    store = standing(MemoryLog(), [*BEFORE, *amid, *turns(700, 709)])
    told = folded(store, store.opening.fold)

    assert isinstance(told, str)
    assert told == folded(store, store.gate.fold)


def test_as_many_calls_are_open_as_may_be_and_each_return_makes_room_for_one():
    full = [called(f"open-{number}") for number in range(MAX_OPEN)]
    room = [line for number in range(9) for line in (returned(f"open-{number}"), called(f"more-{number}"))]
    store = standing(MemoryLog(), [*BEFORE, *full, *room])
    view = folded(store, store.opening.fold)

    assert len(view.state.unreturned) == MAX_OPEN
    assert view == folded(store, store.gate.fold)


def test_one_call_too_many_at_the_very_end_is_refused_as_anywhere():
    full = [called(f"open-{number}") for number in range(MAX_OPEN)]
    store = standing(MemoryLog(), [*BEFORE, *full, returned("open-0"), called("one"), called("too-many")])
    told = folded(store, store.opening.fold)

    assert isinstance(told, str)
    assert told == folded(store, store.gate.fold)


def test_a_separator_within_a_garbled_payload_hides_no_call_beside_it():
    """No JSON holds it. What is garbled is told when it is read; until then it must not make up for another's id."""
    odd = ("ToolCalled", 1, '{"call_id":"a\x1f{"call_id":"b"')
    beside = ("ToolCalled", 1, '{"tool":"of a long name","call_id":"c"}')
    store = standing(MemoryLog(), [*BEFORE, odd, beside])
    view = folded(store, store.opening.fold)

    assert view.state.unreturned == {"a\x1f{", "c"}
    with pytest.raises(UnreadableEntry, match=f"position {len(BEFORE) + 1} "):
        view.state.calls["a\x1f{"]


def test_numerals_are_the_numbers_as_text():
    numerals = Numerals(range(7, 12))

    assert (len(numerals), [*numerals], numerals[0], numerals[-1]) == (5, ["7", "8", "9", "10", "11"], "7", "11")
    assert [*numerals[1:3]] == ["8", "9"]
    with pytest.raises(IndexError):
        numerals[5]
