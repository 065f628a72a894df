"""Named values: the last one that the log holds stands."""

from datetime import timedelta

import pytest

from eventstore.errors import ForeignEvent, InvalidArgument, InvalidPayload, KeyReused
from eventstore.notes import MetaSet
from tests.world import World


@pytest.fixture(params=["memory", "sqlite"])
def world(request, tmp_path):
    world = World(None if request.param == "memory" else tmp_path)
    yield world
    world.close()


@pytest.fixture
def runs(world):
    return world.runs()


def test_the_last_value_of_a_name_stands_whatever_the_clock_says(world, runs):
    runs.meta.set("a", 1)
    runs.store.append("meta", MetaSet("a", 2), occurred_at=world.now - timedelta(days=1))

    assert (runs.meta.get("a"), runs.meta.get("b"), runs.meta.get("b", 7)) == (2, None, 7)


def test_all_values_come_by_name(runs):
    values = {"b/1": [1, {"x": None}], "a b": None, "é": "x" * 50_000}
    for name, value in values.items():
        runs.meta.set(name, "before")
        runs.meta.set(name, value)

    assert runs.meta.all() == values
    assert list(runs.meta.all()) == sorted(values)
    assert {name: runs.meta.get(name, "unset") for name in values} == values


def test_each_stream_has_names_of_its_own(runs):
    runs.meta.set("a", 1)
    runs.meta.set("a", 2, stream="other")

    assert (runs.meta.get("a"), runs.meta.get("a", stream="other")) == (1, 2)
    assert (runs.meta.all(stream="other"), runs.meta.all(stream="none")) == ({"a": 2}, {})


def test_setting_again_under_a_key_gives_what_stands_and_undoes_nothing(world, runs):
    first = runs.meta.set("a", 1, key="k")
    runs.meta.set("a", 2)

    assert world.runs().meta.set("a", 1, key="k") == first
    assert runs.meta.get("a") == 2
    with pytest.raises(KeyReused):
        runs.meta.set("a", 3, key="k")
    assert (runs.meta.get("a"), runs.store.head().position) == (2, 2)


def test_what_cannot_be_a_value_or_a_name_is_refused_and_nothing_changes(runs):
    runs.submit("deploy", run_id="run-1")
    for refused, name, stream in (
        (InvalidPayload, "a", "meta"),
        (InvalidArgument, "", "meta"),
        (ForeignEvent, "a", "run-1"),
    ):
        with pytest.raises(refused):
            runs.meta.set(name, float("inf") if refused is InvalidPayload else 1, stream=stream)

    assert (runs.meta.all(), runs.store.head().position) == ({}, 1)


def test_rows_made_anew_are_those_that_stand(runs):
    for number in range(3):
        runs.meta.set("a", number)
    runs.rebuild()

    assert (runs.meta.get("a"), runs.check("meta").ok) == (2, True)
