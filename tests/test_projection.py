"""The declaration of a projection: what may be said, and what tells one version of it from another."""

import pytest
from attrs import evolve, frozen

from eventstore.errors import InvalidArgument
from projections import Projection
from tests.folds import TALLY, TallyRow, tally


def declared(**changed):
    values = {"name": "tally", "version": 1, "row": TallyRow, "key": ("role",), "events": TALLY.events, "evolve": tally}
    return Projection(**{**values, **changed})


@pytest.mark.parametrize(
    "name",
    ["", "Tally", "1st", "a-b", "a__shadow", "events", "log", "cursors", "workers", "x" * 60, "a b", 'a"b', "tally\n"],
)
def test_a_name_is_lower_case_short_and_none_that_is_taken(name):
    with pytest.raises(InvalidArgument, match="name"):
        declared(name=name)


@pytest.mark.parametrize("key", [(), ("nothing",), ("role", "nothing")])
def test_a_key_names_fields_of_the_row(key):
    with pytest.raises(InvalidArgument, match="key"):
        declared(key=key)


def test_the_fingerprint_tells_version_key_and_shape_of_the_row():
    @frozen
    class Wider:
        role: str
        messages: int
        last: object = None
        more: int = 0

    same = declared()
    others = [declared(version=2), declared(row=Wider), declared(key=("role", "messages")), declared(name="other")]

    assert same.fingerprint == declared().fingerprint
    assert len({same.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_another_evolve_of_the_same_version_is_the_same_projection():
    """Whoever changes its meaning raises its version; functions cannot be compared."""
    assert evolve(declared(), evolve=lambda row, _recorded: row).fingerprint == declared().fingerprint


def test_a_row_belongs_to_its_stream_unless_said_otherwise():
    class Recorded:
        stream = "run-1"

    assert declared().locate(Recorded()) == ("run-1",)
    assert declared().by_stream
    assert not declared(locate=lambda recorded: (recorded.event.role,)).by_stream
    assert declared(locate=lambda recorded: (recorded.stream,), by_stream=True).by_stream


def test_only_the_last_event_counts_where_each_stream_has_one_row():
    assert declared(latest=True).latest
    with pytest.raises(InvalidArgument, match="one row a stream"):
        declared(latest=True, locate=lambda recorded: (recorded.event.role,))
