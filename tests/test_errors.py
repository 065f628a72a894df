"""Every error carries its data, pickles, and says in one breath what happened and what to do next."""

import copy
import inspect
import pickle
from datetime import UTC, datetime

import pytest

from eventstore import errors
from eventstore.errors import (
    AlreadyResolved,
    EventStoreError,
    Fenced,
    IllegalTransition,
    Refused,
    StoreClosed,
    VersionConflict,
)

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, EventStoreError) and kind not in (EventStoreError, Refused)
]
SAMPLES = {
    "str": "sample-text",
    "int": 42,
    "float": 1.5,
    "int | None": 7,
    "str | None": "somebody",
    "datetime | None": datetime(2026, 1, 2, tzinfo=UTC),
    "tuple[str, ...]": ("one", "two"),
    "Any": "any value at all",
    "bytes | None": b"hash",
}


def fields(kind):
    return {name: str(kind.__annotations__[name]) for name in kind.__match_args__}


def facts(error):
    return {name: getattr(error, name) for name in fields(type(error))}


def sample(kind):
    return kind(**{name: SAMPLES[declared] for name, declared in fields(kind).items()})


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_comes_back_from_pickle_and_copy_as_it_was(kind):
    error = sample(kind)

    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert facts(again) == facts(error)


def test_an_errors_facts_are_its_arguments_by_place_or_by_name_and_what_has_a_value_may_be_left_out():
    for error in (VersionConflict("s", 1, 2), VersionConflict("s", actual=2, expected=1)):
        assert facts(error) == {"stream": "s", "expected": 1, "actual": 2}
        assert error.args == ("s", 1, 2)
    assert IllegalTransition("run-42", "run", "queued", "RunPaused", ()).hint == ""


@pytest.mark.parametrize(
    ("values", "named"),
    [(("s", 1), {}), (("s", 1, 2, 3), {}), (("s", 1, 2), {"stream": "s"}), (("s", 1, 2), {"phase": "queued"})],
    ids=["too few", "too many", "one twice", "an unknown one"],
)
def test_an_error_takes_its_own_facts_and_no_others(values, named):
    with pytest.raises(TypeError, match="VersionConflict takes stream, expected, actual"):
        VersionConflict(*values, **named)


def test_an_error_of_a_users_own_needs_no_facts():
    class Full(Refused):
        pass

    assert str(Full("the jug is full")) == "the jug is full"
    assert str(pickle.loads(pickle.dumps(Refused("no")))) == "no"


@pytest.mark.parametrize("kind", CLASSES)
def test_an_errors_text_is_one_line_that_tells_its_facts(kind):
    text = str(sample(kind))

    assert "\n" not in text
    assert "<" not in text, "a repr of something slipped in"
    assert len(text.split()) >= 3
    for declared in fields(kind).values():
        if declared in ("str", "int"):
            assert str(SAMPLES[declared]) in text


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_may_be_raised_and_caught_by_its_base(kind):
    base = Refused if issubclass(kind, Refused) else EventStoreError

    with pytest.raises(base):
        raise sample(kind)


def test_the_tree_in_the_docstring_names_every_error_under_its_base_and_no_other():
    drawn = {}
    for line in errors.__doc__.splitlines():
        name = line.lstrip(" │├└─").split(" ")[0]
        if not any(mark in line for mark in ("├──", "└──")) or not name:
            continue
        base = "Refused" if line.startswith("    │   ") else "EventStoreError"
        drawn[name] = base

    defined = {kind.__name__: kind.__mro__[1].__name__ for kind in CLASSES}
    assert drawn == defined | {"Refused": "EventStoreError"}


def test_every_error_has_a_docstring_of_its_own():
    for kind in CLASSES:
        assert kind.__doc__
        assert kind.__doc__ not in (EventStoreError.__doc__, Refused.__doc__)


def test_the_words_are_the_ones_that_people_were_told():
    assert str(IllegalTransition("run-42", "run", "completed", "RunStarted", ("RunDescribed",), "Submit another.")) == (
        "run-42 is completed and cannot take RunStarted; it takes RunDescribed. Submit another."
    )
    assert str(VersionConflict("s", 1, 2)) == (
        "s is at version 2, not 1; read what is new and decide again, or leave expected_version out"
    )
    assert str(Fenced("s", "RunCompleted", 1, 2, "started")) == (
        "attempt 1 of s may not write RunCompleted: the run is started in attempt 2; "
        "stop this work, it belongs to another"
    )
    assert str(Fenced("s", "RunCompleted", 2, 2, "completed")) == (
        "attempt 2 of s may not write RunCompleted: the run is completed; stop this work"
    )
    assert str(Fenced("s", "RunCompleted", None, 2, "started")).endswith("claim the run, or pass attempt=2")
    assert str(AlreadyResolved("s", "c1", "approved", "alice", datetime(2026, 1, 2, tzinfo=UTC))) == (
        "call c1 of s is approved by alice at 2026-01-02 00:00:00 UTC; a question is decided once"
    )
    assert str(AlreadyResolved("s", "c1", "expired", None, None)) == (
        "call c1 of s is expired; a question is decided once"
    )
    assert str(StoreClosed()) == "this store was closed; connect again"
