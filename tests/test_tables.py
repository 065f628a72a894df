"""Both table backends keep the contract, and a row class says what its columns take."""

import contextlib
from datetime import UTC, datetime
from enum import Enum, IntEnum
from functools import partial

import pytest
from attrs import frozen

from eventstore.errors import InvalidArgument
from eventstore.memory import MemoryLog
from eventstore.sqlite import SQLiteLog
from projections.memory import MemoryTables
from projections.sqlite import SQLiteTables
from projections.tables import Range, Table, query
from projections.testing import TablesContract
from projections.testing.tables import THINGS, Colour, Thing


class TestMemoryTables(TablesContract):
    def open_log(self, folder):
        return MemoryLog()

    def open_tables(self, log):
        return MemoryTables()


class TestSQLiteTables(TablesContract):
    def open_log(self, folder):
        return SQLiteLog(folder / "agent.db", synchronous="NORMAL")

    def open_tables(self, log):
        return SQLiteTables(waiting=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shelf", None),
        ("shelf", 1),
        ("shelf", "\ud800"),
        ("number", True),
        ("number", 2**63),
        ("number", 1.0),
        ("name", b"x"),
        ("weight", "1"),
        ("weight", float("nan")),
        ("sold", 1),
        ("seen_at", "2026-01-01"),
        ("colour", "blue"),
        ("notes", {1: 2}),
        ("notes", {"x": float("nan")}),
    ],
)
def test_a_value_that_a_column_cannot_hold_is_refused_with_its_name(name, value):
    _, column = THINGS.column(name)

    with pytest.raises(Exception, match=name):
        column.encode(value)


ROWS = [
    Thing("a", 1),
    Thing("a", -(2**63), "b", 2**63 - 1, 1.5, seen_at=datetime(2026, 1, 1, tzinfo=UTC), colour="green", notes=[1]),
    Thing("å", 1, "ß", 0, 1, sold=False, colour=Colour.GREEN, notes=None),
    Thing("", 0, "\U0001f600", -1),
]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_encoded_as_its_columns_encode_each_value(row):
    by_columns = [column.encode(getattr(row, column.name)) for column in THINGS.columns]

    encoded = THINGS.encode(row, 7)

    assert encoded == (*by_columns, 7)
    assert [type(value) for value in encoded] == [type(value) for value in (*by_columns, 7)]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (Thing("a", 1, "b"), Thing("a", 1, "\ud800")),
        (Thing("å", 1, "b"), Thing("\udfff", 1, "b")),
        (Thing("a", 1, size=5), Thing("a", 1, size=2**63)),
        (Thing("a", 1), Thing("a", -(2**63) - 1)),
        (Thing("a", 1, weight=1.0), Thing("a", 1, weight=float("nan"))),
        (Thing("a", 1), Thing("a", number=True)),
        (Thing("a", 1), Thing(None, 1)),
        (Thing("a", 1, colour="red"), Thing("a", 1, colour="blue")),
    ],
)
def test_what_a_column_cannot_hold_is_refused_in_a_row_whose_like_was_taken(good, bad):
    before = THINGS.encode(good)

    with pytest.raises(InvalidArgument):
        THINGS.encode(bad)
    assert THINGS.encode(good) == before


def test_a_time_without_a_zone_is_refused():
    with pytest.raises((InvalidArgument, ValueError), match="zone"):
        THINGS.encode(Thing("a", 1, seen_at=datetime(2026, 1, 1)))  # noqa: DTZ001


@pytest.mark.parametrize(
    "asked",
    [
        {"filters": {"colour_of_money": 1}},
        {"filters": {"notes": {}}},
        {"filters": {"size": "1"}},
        {"filters": {"colour": "blue"}},
        {"filters": {"size": Range("1", 2)}},
        {"filters": {}, "order": "notes"},
        {"filters": {}, "order": "nothing"},
        {"filters": {}, "order": "size; DROP TABLE things"},
        {"filters": {}, "limit": -1},
        {"filters": {}, "limit": "1; DROP TABLE things"},
        {"filters": {}, "limit": True},
        {"filters": {}, "offset": -1},
        {"filters": {}, "offset": None},
        {"filters": {}, "offset": 2**63},
        {"filters": {}, "after": ("a", 1)},
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_before_any_backend_sees_it(asked):
    with pytest.raises(InvalidArgument):
        query(THINGS, **asked)


def test_a_key_has_no_absent_part():
    @frozen
    class Row:
        name: str | None

    with pytest.raises(InvalidArgument, match="name"):
        Table.of("rows", Row, ("name",)).encode_key((None,))


def test_enum_members_and_their_values_are_the_same_value():
    _, column = THINGS.column("colour")

    assert column.encode(Colour.RED) == column.encode("red") == "red"
    assert column.decoder("red") is Colour.RED


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@pytest.mark.parametrize(("log", "tables"), [(MemoryLog, MemoryTables), (partial(SQLiteLog, "a.db"), SQLiteTables)])
def test_an_enum_of_integers_comes_back_as_it_was(log, tables, tmp_path, monkeypatch):
    @frozen
    class Row:
        name: str
        level: Level

    monkeypatch.chdir(tmp_path)
    table, kept, rows = Table.of("rows", Row, ("name",)), tables(), [Row("a", Level.HIGH), Row("b", Level.LOW)]
    with contextlib.closing(log()) as opened:
        opened.write(lambda transaction: kept.create(transaction, table))
        opened.write(lambda transaction: kept.put(transaction, table, [table.encode(row) for row in rows]))

        with opened.reading() as view:
            wanted = query(table, {}, order="level")
            assert [table.decode(values) for values in kept.select(view, table, wanted)] == rows[::-1]
    with pytest.raises(InvalidArgument, match="level 3 must be one of 1, 2"):
        table.encode(Row("a", 3))


def test_an_enum_whose_values_no_column_keeps_is_refused_with_the_fields_name():
    @frozen
    class Row:
        name: str
        level: Enum("Mixed", {"A": 1, "B": "two"})

    with pytest.raises(InvalidArgument, match="level 'Mixed' must be an enum whose values are all text"):
        Table.of("rows", Row, ("name",))


def test_times_come_back_in_utc():
    _, column = THINGS.column("seen_at")
    moment = datetime.fromisoformat("2026-01-01T01:00:00+01:00")

    assert column.decoder(column.encode(moment)) == datetime(2026, 1, 1, tzinfo=UTC)
    assert column.decoder(column.encode(moment)).tzinfo is UTC
