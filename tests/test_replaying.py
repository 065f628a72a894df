"""The machines over very many entries: what is told and fetched of stretches of them. That they judge right is drawn in
`property_tests/test_replay_properties.py`."""

from eventstore import EventStore, LogRecorded
from eventstore.memory import MemoryLog
from eventstore.replaying import Ahead


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
