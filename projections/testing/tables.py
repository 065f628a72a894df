"""What every table backend promises, as tests: the contract of `projections.tables`.

    class TestMyTables(TablesContract):
        def open_log(self, folder):
            return MyLog(folder / "my.db")

        def open_tables(self, log):
            return MyTables()

pytest finds the rest. The last test compares random rows and random questions with the memory backend, which is the
specification. For readable failures, put `pytest.register_assert_rewrite("projections.testing")` into your conftest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from attrs import field, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore.memory import MemoryLog
from eventstore.payloads import Json
from projections.memory import MemoryTables
from projections.tables import Query, Range, Table, Tables, Values, query
from projections.testing.searching import SearchedTables

if TYPE_CHECKING:
    from eventstore.log import Log, Writing

T = TypeVar("T")


class Colour(StrEnum):
    """Values of a bound column."""

    RED = "red"
    GREEN = "green"


@frozen
class Thing:
    """A row with a column of every kind; the key has two."""

    shelf: str
    number: int
    name: str | None = None
    size: int | None = None
    weight: float | None = None
    sold: bool | None = None
    seen_at: datetime | None = None
    colour: Colour = Colour.RED
    notes: Json = field(factory=dict)


THINGS: Table[Thing] = Table.of("things", Thing, ("shelf", "number"), (("name", "size"), ("colour",)))
_EARLY, _LATE = datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)


class Boom(Exception):
    """What a job raises here."""


class TablesContract(SearchedTables):
    """The suite. A subclass gives `open_log` and `open_tables`; each test begins with an empty table of things."""

    def open_log(self, folder: Path) -> Log:
        """A new, empty log; `folder` is empty and the test's own."""
        raise NotImplementedError

    def open_tables(self, log: Log) -> Tables:
        """The table backend beside it."""
        raise NotImplementedError

    # --- scaffolding --------------------------------------------------------------------------------------------

    def setup_method(self) -> None:
        """An empty table."""
        self._temporary = tempfile.TemporaryDirectory()
        self.log = self.open_log(Path(self._temporary.name))
        self.tables = self.open_tables(self.log)
        self.write(lambda transaction: self.tables.create(transaction, THINGS))

    def teardown_method(self) -> None:
        """Close what was opened."""
        self.log.close()
        self._temporary.cleanup()

    def write(self, job: Callable[[Writing], T]) -> T:
        """One write transaction."""
        return self.log.write(job)

    def put(self, *rows: Thing) -> None:
        """Insert or replace rows, each as of position 1."""
        self.write(lambda transaction: self.tables.put(transaction, THINGS, [THINGS.encode(row, 1) for row in rows]))

    def where(
        self,
        *,
        order: Sequence[str] = (),
        limit: int | None = None,
        after: Thing | None = None,
        offset: int = 0,
        **filters: Any,
    ) -> list[Thing]:
        """The rows of a query."""
        wanted = query(THINGS, filters, order=order, limit=limit, after=after, offset=offset)
        with self.log.reading() as reading:
            return [THINGS.decode(values) for values in self.tables.select(reading, THINGS, wanted)]

    def count(self, **filters: Any) -> int:
        """How many rows pass."""
        with self.log.reading() as reading:
            return self.tables.count(reading, THINGS, query(THINGS, filters))

    def get(self, *key: Any) -> Thing | None:
        """The row of a key."""
        with self.log.reading() as reading:
            values = self.tables.get(reading, THINGS, THINGS.encode_key(key))
        return None if values is None else THINGS.decode(values)

    def test_a_scratch_keeps_tables_of_its_own_and_nothing_of_them_stays(self) -> None:
        self.put(Thing("a", 1, "old"))
        with self.tables.scratch() as scratch:
            self.tables.create(scratch, THINGS)
            self.tables.put(scratch, THINGS, [THINGS.encode(Thing("a", n, "new"), 1) for n in (1, 2)])
            self.tables.delete(scratch, THINGS, [("a", 2)])
            found = self.tables.select(scratch, THINGS, query(THINGS, {}))
            self.put(Thing("b", 1))

        assert [THINGS.decode(values) for values in found] == [Thing("a", 1, "new")]
        assert self.where() == [Thing("a", 1, "old"), Thing("b", 1)]

    # --- rows ---------------------------------------------------------------------------------------------------

    def test_a_row_comes_back_as_it_was_put(self) -> None:
        thing = Thing("läuft 🏃", -(2**63), "", 2**63 - 1, 0.1, False, _EARLY, Colour.GREEN, {"a": [None, 1.5, {}]})  # noqa: FBT003
        self.put(thing, Thing("a", 1))

        assert self.get("läuft 🏃", -(2**63)) == thing
        assert self.get("a", 1) == Thing("a", 1)
        assert self.get("a", 2) is None

    def test_a_row_keeps_the_position_that_touched_it(self) -> None:
        self.write(lambda transaction: self.tables.put(transaction, THINGS, [THINGS.encode(Thing("a", 1), 42)]))

        with self.log.reading() as reading:
            values = self.tables.get(reading, THINGS, ("a", 1))
        assert values is not None
        assert values[-1] == 42
        assert tuple(values) == THINGS.encode(Thing("a", 1), 42)

    def test_a_row_of_the_same_key_takes_the_place_of_the_old_one(self) -> None:
        self.put(Thing("a", 1, "old"), Thing("a", 2, "other"))
        self.put(Thing("a", 1, "new"))

        assert self.where() == [Thing("a", 1, "new"), Thing("a", 2, "other")]

    def test_of_two_rows_of_one_key_put_at_once_the_last_one_stays(self) -> None:
        self.put(Thing("a", 1, "first"), Thing("a", 1, "last"))

        assert self.where() == [Thing("a", 1, "last")]

    def test_keys_that_differ_in_case_accents_or_order_are_different(self) -> None:
        rows = [Thing(shelf, 1) for shelf in ("A", "a", "á", "a%", "a\u0301", "")]
        self.put(*rows)

        assert self.count() == len(rows)

    def test_columns_of_some_rows_take_new_values_and_nothing_else_does(self) -> None:
        self.put(Thing("a", 1, "x", 1), Thing("a", 2, "y", 2), Thing("b", 1, "z", 3))
        keys = [("a", 1), ("b", 1), ("c", 9)]
        self.write(lambda transaction: self.tables.update(transaction, THINGS, keys, {"name": "new", "size": None}))
        self.write(lambda transaction: self.tables.update(transaction, THINGS, [], {"name": "none"}))

        assert self.where() == [Thing("a", 1, "new"), Thing("a", 2, "y", 2), Thing("b", 1, "new")]

    def test_what_is_deleted_is_gone_and_what_is_not_there_may_be_deleted(self) -> None:
        self.put(Thing("a", 1), Thing("a", 2), Thing("b", 1))
        self.write(lambda transaction: self.tables.delete(transaction, THINGS, [("a", 1), ("b", 1), ("c", 9)]))

        assert self.where() == [Thing("a", 2)]

    # --- tables -------------------------------------------------------------------------------------------------

    def test_the_shapes_change_when_a_table_is_made_or_taken_away_and_not_with_its_rows(self) -> None:
        """So what is known of tables may be kept until then."""
        other = THINGS.renamed("other")

        def shapes() -> object:
            with self.log.reading() as reading:
                return self.tables.shapes(reading)

        first = shapes()
        self.put(Thing("a", 1))
        assert shapes() == first
        self.write(lambda transaction: self.tables.create(transaction, other))
        second = shapes()
        assert second != first
        self.write(lambda transaction: self.tables.drop(transaction, other))
        assert shapes() != second

    def test_a_table_is_without_fault_as_it_was_made_and_after_a_rename(self) -> None:
        """And one that is not there has one."""
        other = THINGS.renamed("other")

        def faults() -> list[str | None]:
            with self.log.reading() as reading:
                return [self.tables.fault(reading, table) for table in (THINGS, other)]

        assert faults() == [None, "has no table"]
        self.write(lambda transaction: self.tables.rename(transaction, THINGS, "other"))
        assert faults() == ["has no table", None]

    def test_a_table_exists_from_its_making_until_it_is_dropped(self) -> None:
        other = THINGS.renamed("others")

        def look(transaction: Any) -> tuple[bool, bool]:
            return self.tables.exists(transaction, THINGS), self.tables.exists(transaction, other)

        assert self.write(look) == (True, False)
        self.write(lambda transaction: self.tables.create(transaction, other))
        assert self.write(look) == (True, True)
        self.write(lambda transaction: self.tables.drop(transaction, THINGS))
        assert self.write(look) == (False, True)
        with self.log.reading() as reading:
            assert look(reading) == (False, True)

    def test_dropping_what_is_not_there_does_nothing(self) -> None:
        self.put(Thing("a", 1))
        self.write(lambda transaction: self.tables.drop(transaction, THINGS.renamed("others")))

        assert self.count() == 1

    def test_a_dropped_table_is_empty_when_it_is_made_again(self) -> None:
        self.put(Thing("a", 1))
        self.write(lambda transaction: self.tables.drop(transaction, THINGS))
        self.write(lambda transaction: self.tables.create(transaction, THINGS))

        assert self.where() == []

    def test_a_renamed_table_keeps_its_rows_and_frees_its_name(self) -> None:
        shadow = THINGS.renamed("things__shadow")
        self.put(Thing("a", 1, "old"))

        def swap(transaction: Writing) -> None:
            self.tables.create(transaction, shadow)
            self.tables.put(transaction, shadow, [THINGS.encode(Thing("b", 2, "new"), 1)])
            self.tables.drop(transaction, THINGS)
            self.tables.rename(transaction, shadow, "things")

        for _ in range(2):  # a second time, no name left behind is in the way
            self.write(swap)

            assert self.where() == [Thing("b", 2, "new")]
            with self.log.reading() as reading:
                assert not self.tables.exists(reading, shadow)

    # --- transactions -------------------------------------------------------------------------------------------

    def test_a_job_sees_what_it_put_and_deleted(self) -> None:
        def job(transaction: Writing) -> tuple[int, int]:
            self.tables.put(transaction, THINGS, [THINGS.encode(Thing("a", number)) for number in range(3)])
            before = self.tables.count(transaction, THINGS, Query())
            self.tables.delete(transaction, THINGS, [("a", 0)])
            return before, self.tables.count(transaction, THINGS, Query())

        assert self.write(job) == (3, 2)

    def test_rows_tables_and_names_go_back_with_the_transaction(self) -> None:
        self.put(Thing("a", 1, "old"), Thing("a", 2))

        def job(transaction: Writing) -> None:
            self.tables.put(transaction, THINGS, [THINGS.encode(Thing("a", 1, "new"))])
            self.tables.delete(transaction, THINGS, [("a", 2)])
            self.tables.create(transaction, THINGS.renamed("others"))
            self.tables.rename(transaction, THINGS, "elsewhere")
            raise Boom

        with suppress(Boom):
            self.write(job)
        assert self.where() == [Thing("a", 1, "old"), Thing("a", 2)]
        with self.log.reading() as reading:
            assert not self.tables.exists(reading, THINGS.renamed("others"))
            assert not self.tables.exists(reading, THINGS.renamed("elsewhere"))

    def test_a_part_that_fails_takes_its_rows_with_it_and_no_others(self) -> None:
        def job(transaction: Writing) -> None:
            self.tables.put(transaction, THINGS, [THINGS.encode(Thing("a", 1))])
            try:
                with transaction.savepoint():
                    self.tables.put(transaction, THINGS, [THINGS.encode(Thing("a", 2))])
                    raise Boom
            except Boom:
                self.tables.put(transaction, THINGS, [THINGS.encode(Thing("a", 3))])

        self.write(job)

        assert self.where() == [Thing("a", 1), Thing("a", 3)]

    def test_a_reader_sees_one_moment_whatever_is_committed_meanwhile(self) -> None:
        self.put(Thing("a", 1))
        with self.log.reading() as reading:
            assert self.tables.count(reading, THINGS, Query()) == 1
            self.put(Thing("a", 2))
            self.write(lambda transaction: self.tables.delete(transaction, THINGS, [("a", 1)]))

            assert self.tables.select(reading, THINGS, query(THINGS, {})) == [THINGS.encode(Thing("a", 1), 1)]
        assert self.where() == [Thing("a", 2)]

    # --- questions ----------------------------------------------------------------------------------------------

    def shelf(self) -> list[Thing]:
        """Rows with ties and absences, put in no order."""
        rows = [
            Thing("b", 2, "x", 1, 1.5, True, _LATE),  # noqa: FBT003
            Thing("a", 3, None, 1),
            Thing("a", 1, "y", None, -0.5, False, _EARLY, Colour.GREEN),  # noqa: FBT003
            Thing("b", 1, "x", 2),
            Thing("a", 2, "X", 10, None, None, _LATE),
            Thing("c", 0, None, None),
        ]
        self.put(*rows)
        return rows

    def found(self, **filters: Any) -> list[tuple[str, int]]:
        """The keys of what passes; the count must agree."""
        keys = [(thing.shelf, thing.number) for thing in self.where(**filters)]
        assert self.count(**filters) == len(keys)
        return keys

    def test_filters_are_equality_absence_several_values_and_ranges(self) -> None:
        self.shelf()

        assert self.found(name="x") == [("b", 1), ("b", 2)]
        assert self.found(name=None) == [("a", 3), ("c", 0)]
        assert self.found(name=["x", None]) == [("a", 3), ("b", 1), ("b", 2), ("c", 0)]
        assert self.found(name=[]) == []
        assert self.found(size=Range(1, 10)) == [("a", 3), ("b", 1), ("b", 2)]
        assert self.found(size=Range(start=2)) == [("a", 2), ("b", 1)]
        assert self.found(size=Range(stop=2)) == [("a", 3), ("b", 2)]
        assert self.found(size=Range()) == self.found()
        assert self.found(seen_at=Range(stop=_LATE)) == [("a", 1)]
        assert self.found(seen_at=_LATE, sold=None) == [("a", 2)]
        assert self.found(sold=False) == [("a", 1)]
        assert self.found(colour=Colour.GREEN) == [("a", 1)]
        assert self.found(weight=[1.5, -0.5]) == [("a", 1), ("b", 2)]
        assert self.found(name="x", size=2, shelf="b") == [("b", 1)]

    def test_many_values_may_be_asked_for_at_once(self) -> None:
        self.shelf()

        assert self.found(size=list(range(2_000))) == [("a", 2), ("a", 3), ("b", 1), ("b", 2)]

    def test_a_value_is_a_value_and_never_a_piece_of_a_question(self) -> None:
        hostile = "x' OR 1=1 --"
        self.put(Thing(hostile, 1, '"; DROP TABLE things; --'), Thing("a", 1))

        assert self.found(shelf=hostile) == [(hostile, 1)]
        assert self.found(name="%") == []

    def test_order_is_absent_first_then_by_number_or_code_point_and_ties_by_key(self) -> None:
        self.shelf()

        def ordered(*order: str) -> list[tuple[str, int]]:
            return [(thing.shelf, thing.number) for thing in self.where(order=order)]

        assert ordered() == [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("c", 0)]
        assert ordered("name") == [("a", 3), ("c", 0), ("a", 2), ("b", 1), ("b", 2), ("a", 1)]
        assert ordered("-name") == [("a", 1), ("b", 1), ("b", 2), ("a", 2), ("a", 3), ("c", 0)]
        assert ordered("size", "-shelf") == [("c", 0), ("a", 1), ("b", 2), ("a", 3), ("b", 1), ("a", 2)]
        assert ordered("-shelf", "-number") == list(reversed(ordered()))

    def test_a_limit_takes_the_first_ones_and_nought_none(self) -> None:
        rows = sorted(self.shelf(), key=lambda thing: (thing.shelf, thing.number))

        assert self.where(limit=2) == rows[:2]
        assert self.where(limit=0) == []
        assert self.where(limit=100) == rows

    def test_an_offset_passes_over_the_first_ones_behind_after_and_before_the_limit(self) -> None:
        rows = sorted(self.shelf(), key=lambda thing: (thing.shelf, thing.number))

        assert self.where(offset=2) == rows[2:]
        assert self.where(offset=1, limit=2) == rows[1:3]
        assert self.where(offset=1, limit=2, after=rows[1]) == rows[3:5]
        assert self.where(offset=2**63 - 1) == self.where(offset=1, limit=0) == []

    def test_the_first_rows_of_several_values_are_the_first_of_all_of_them(self) -> None:
        names = [None, "a", "b", "c"]
        self.put(*(Thing("s", number, names[number % 4], number // 3) for number in range(24)))

        for order in (("size",), ("-size", "-number"), ("size", "weight")):
            everything = self.where(order=order, name=["c", None, "a", "c"])
            assert len(everything) == 18
            for place in (0, 5):
                after = everything[place - 1] if place else None
                page = self.where(order=order, name=["c", None, "a", "c"], after=after, limit=7, offset=2)
                assert page == everything[place + 2 : place + 9]

    def test_paging_through_ties_and_absences_gives_every_row_once(self) -> None:
        self.shelf()
        for order in ((), ("name",), ("-name",), ("size", "-name"), ("-seen_at", "colour", "-shelf"), ("-weight",)):
            for size in (1, 2, 4):
                everything = self.where(order=order)
                paged: list[Thing] = []
                while page := self.where(order=order, limit=size, after=paged[-1] if paged else None):
                    paged += page

                assert paged == everything, f"in pages of {size} by {order}"

    # --- as the memory backend ------------------------------------------------------------------------------------

    @settings(suppress_health_check=[HealthCheck.differing_executors])
    @given(data=st.data())
    def test_random_rows_and_questions_are_answered_as_memory_answers_them(self, data: st.DataObject) -> None:
        rows = data.draw(st.lists(_THINGS, max_size=12))
        gone = data.draw(st.lists(st.sampled_from([(row.shelf, row.number) for row in rows]) if rows else st.nothing(),
                                  max_size=3) if rows else st.just([]))  # fmt: skip
        wanted = data.draw(_queries(rows))
        memory = MemoryLog()

        def ask(log: Log, tables: Tables) -> tuple[list[Values], int]:
            def job(transaction: Writing) -> None:
                tables.drop(transaction, THINGS)
                tables.create(transaction, THINGS)
                tables.put(transaction, THINGS, [THINGS.encode(row, 7) for row in rows])
                tables.delete(transaction, THINGS, gone)

            log.write(job)
            with log.reading() as reading:
                found = [tuple(values) for values in tables.select(reading, THINGS, wanted)]
                return found, tables.count(reading, THINGS, attrs.evolve(wanted, limit=None, after=None, offset=0))

        assert ask(self.log, self.open_tables(self.log)) == ask(memory, MemoryTables())


_TEXTS = st.sampled_from(["", "a", "A", "ä", "b", "\U0001f3c3", "\uffff", "1"]) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=3
)
_SIZES = st.sampled_from([-1, 0, 1, 2]) | st.integers(-(2**63), 2**63 - 1)
_WEIGHTS = st.sampled_from([-0.0, 0.0, 1.0, 1.5]) | st.floats(allow_nan=False)
_TIMES = st.sampled_from([_EARLY, _LATE])
_COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "shelf": _TEXTS,
    "number": _SIZES,
    "name": st.none() | _TEXTS,
    "size": st.none() | _SIZES,
    "weight": st.none() | _WEIGHTS,
    "sold": st.none() | st.booleans(),
    "seen_at": st.none() | _TIMES,
    "colour": st.sampled_from(Colour),
}
_THINGS = st.builds(Thing, **_COLUMNS)


@st.composite
def _queries(draw: st.DrawFn, rows: list[Thing]) -> Query:
    filters: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(list(_COLUMNS)), max_size=2, unique=True)):
        one = _COLUMNS[name]
        filters[name] = draw(one | st.lists(one, max_size=3) | st.builds(Range, st.none() | one, st.none() | one))
        if filters[name] is None and name in ("shelf", "number", "colour"):
            filters[name] = []
    names = draw(st.lists(st.sampled_from(list(_COLUMNS)), max_size=3, unique=True))
    order = tuple(draw(st.sampled_from(["", "-"])) + name for name in names)
    after = draw(st.none() | (st.sampled_from(rows) if rows else st.none()) | _THINGS)
    limit, offset = draw(st.none() | st.integers(0, 5)), draw(st.just(0) | st.integers(0, 3))
    return query(THINGS, filters, order=order, limit=limit, after=after, offset=offset)
