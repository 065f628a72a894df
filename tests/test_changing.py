"""`changed` gives what `attrs.evolve` gives, whatever the class, and what `_replace` gives of a named tuple."""

from functools import cached_property

import attrs
import pytest
from attrs import define, field, frozen

from eventstore.changing import changed
from eventstore.workflow import Phase, RunState
from projections.workflow_runs import RunRow


@frozen
class One:
    only: int = 0


@frozen
class Apart:
    first: int
    second: int = field(kw_only=True, default=2)


@frozen
class Private:
    _hidden: int
    shown: int = 1
    made: int = field(init=False, default=7)


@frozen
class Careful:
    low: int
    high: int = field(converter=int, default=0)

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low > high")


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (RunRow("run-1", Phase.QUEUED), {"phase": Phase.STARTED, "labels": {"a": "b"}, "position": 3}),
        (RunRow("run-1", Phase.QUEUED), {}),
        (One(1), {"only": 2}),
        (Apart(1, second=3), {"first": 4}),
        (Apart(1, second=3), {"second": 4}),
        (Private(1), {"hidden": 2}),
        (Careful(1, 2), {"high": "3"}),
    ],
)
def test_it_is_what_attrs_gives_and_the_value_stays_as_it_was(value, fields):
    before = attrs.astuple(value, recurse=False)

    assert changed(value, **fields) == attrs.evolve(value, **fields)
    assert type(changed(value, **fields)) is type(value)
    assert attrs.astuple(value, recurse=False) == before


@pytest.mark.parametrize("fields", [{"attempt": 2}, {"phase": Phase.STARTED, "worker": "w"}, {}])
def test_of_a_named_tuple_it_is_what_replacing_gives(fields):
    value = RunState(crashes=1)

    assert changed(value, **fields) == value._replace(**fields)
    assert type(changed(value, **fields)) is RunState
    assert value == RunState(crashes=1)


@pytest.mark.parametrize("value", [RunState(), One(), Apart(1)])
def test_a_field_that_the_class_does_not_have_is_refused(value):
    with pytest.raises(TypeError, match="nothing"):
        changed(value, nothing=1)


def test_what_a_class_checks_when_made_is_checked_again():
    with pytest.raises(ValueError, match="low"):
        changed(Careful(1, 2), low=3)


@frozen(slots=False)
class Open:
    low: int
    high: int = 0

    @cached_property
    def width(self) -> int:
        return self.high - self.low


@frozen(slots=False)
class Hooked(Open):
    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low > high")


@frozen(slots=False)
class Converted:
    low: int = field(converter=int)
    high: int = 0


class Counted(Open):
    def __init__(self, low: int, high: int = 0) -> None:
        self.__attrs_init__(low, min(high, 9))


Counted = frozen(slots=False)(Counted)


@define(slots=False)
class Checking:
    low: int
    high: int = 0

    def __setattr__(self, name: str, value: int) -> None:
        object.__setattr__(self, name, min(value, 9))


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (Open(1, 2), {"high": 5}),
        (Checking(1, 2), {"high": 12}),
        (Hooked(1, 2), {"high": 5}),
        (Converted(1), {"low": "3"}),
        (Counted(1, 2), {"high": 12}),
    ],
)
def test_where_a_value_is_a_dict_it_is_what_attrs_gives_as_well(value, fields):
    before = dict(vars(value))

    assert changed(value, **fields) == attrs.evolve(value, **fields)
    assert type(changed(value, **fields)) is type(value)
    assert vars(value) == before
    with pytest.raises(TypeError, match="nothing"):
        changed(value, nothing=1)


def test_what_was_computed_of_the_value_before_is_computed_anew():
    value = Open(1, 2)
    assert value.width == 1

    assert changed(value, high=5).width == 4


def test_what_a_class_kept_in_a_dict_checks_is_checked_again():
    with pytest.raises(ValueError, match="low"):
        changed(Hooked(1, 2), low=3)


def test_a_changed_row_stays_frozen():
    row = changed(RunRow("run-1", Phase.QUEUED), phase=Phase.STARTED)

    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        row.phase = Phase.PAUSED
    assert row.phase is Phase.STARTED
