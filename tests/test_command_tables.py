"""Tables proved against the log by `rebuild --check`, and what the doctor finds."""

import contextlib
import json
import re
import sqlite3

import pytest

from eventstore.sqlite.schema import ARCHIVE
from projections.connecting import BUILT_IN
from tests.commanding import asked, by_hand, live_database, plain_surroundings, runfold, traced_database  # noqa: F401 - fixtures

# --- a loss accepted ---------------------------------------------------------------------------------------------


def test_accepting_a_loss_says_what_is_gone_and_who_accepted_it(traced):
    head = asked("stats", traced)["events"]
    by_hand(traced, "DROP TRIGGER events_stay", f"DELETE FROM events WHERE position > {head - 3}")
    by_hand(traced, *(statement for statement in ARCHIVE if "CREATE TRIGGER" in statement))
    runfold("verify", traced, code=1)

    said = runfold("verify", traced, "--accept-loss", "--by", "alice", code=1).stdout  # the tables are of what is gone

    gone = f"the log ended at position {head - 3}, and {head} was acknowledged: accepted by alice;"
    assert f"{traced}: {gone}" in " ".join(said.split()).replace(f"{traced} :", f"{traced}:")
    assert f"written down at position {head - 2}" in " ".join(said.split())
    written = asked("events", traced, "--stream", "runfold")
    assert written["data"]["payload"]["by"] == "alice"
    runfold("rebuild", traced)
    again = asked("verify", traced, "--accept-loss", "--by", "bob")
    assert (again["ok"], again["loss"]) == (True, None)


def test_accepting_where_nothing_is_gone_writes_nothing_and_says_so(traced):
    head = asked("stats", traced)["events"]

    assert "nothing to accept" in runfold("verify", traced, "--accept-loss", "--by", "bob").stdout
    assert asked("stats", traced)["events"] == head
    assert "give --accept-loss" in runfold("verify", traced, "--by", "bob", code=2).stderr


def test_verify_notes_a_witness_that_is_not_there(traced):
    traced.with_name(f"{traced.name}-witness").unlink()

    assert "note: the witness" in " ".join(runfold("verify", traced).stdout.split())
    document = asked("verify", traced)
    assert document["ok"]
    assert "is not there" in document["notes"][0]


# --- the tables proved --------------------------------------------------------------------------------------------


def tables(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {
            name: (connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall(),
                   connection.execute(f"SELECT name, type, \"notnull\" FROM pragma_table_info('{name}')").fetchall())
            for name in (projection.name for projection in BUILT_IN)
        }  # fmt: skip


OF_RUNS = [projection for projection in BUILT_IN if projection.key[0] == "run_id"]
COLUMNS = [
    (projection.name, column)
    for projection in OF_RUNS
    for column in [*(field.name for field in projection.row.__attrs_attrs__), "_position"]
]


def altered(path, table, columns):
    """Give each of these columns of one row another value; the old and the new ones, by column."""
    one = f"_position = (SELECT min(_position) FROM {table} WHERE run_id = 'build-7')"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        kinds = dict(connection.execute(f"SELECT name, type FROM pragma_table_info('{table}')"))
        old = connection.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE {one}").fetchone()
    new = [{"TEXT": "altered", "INTEGER": 7777, "REAL": 7.75}[kinds[column]] for column in columns]
    by_hand(path, f"UPDATE {table} SET {', '.join(map('{} = {!r}'.format, columns, new))} WHERE {one}")
    return {column: values for column, *values in zip(columns, old, new, strict=True)}


@pytest.mark.parametrize("projection", OF_RUNS, ids=lambda projection: projection.name)
def test_any_value_altered_by_hand_is_found_with_row_column_values_and_event(traced, projection):
    """All columns in one go: each has to be told, and no other."""
    table = projection.name
    values = altered(traced, table, [name for of, name in COLUMNS if of == table and name not in projection.key])

    report = asked("rebuild", traced, "--check", code=1)
    assert report["ok"] is False
    assert {item["column"]: [item["expected"], item["stored"]] for item in report["listed"]} == values
    said = " ".join(runfold("rebuild", traced, "--check", code=1).stdout.split())
    for item in report["listed"]:
        assert (item["projection"], item["key"][0]) == (table, "build-7")
        assert item["event"]
        old, new = values[item["column"]]
        touched = f"last touched by {item['event']} at position"
        assert f": {item['column']} is {new!r} and should be {old!r}; {touched}" in said
    runfold("rebuild", traced)
    runfold("rebuild", traced, "--check")


@pytest.mark.parametrize(("table", "column"), [(of.name, name) for of in OF_RUNS for name in of.key])
def test_a_key_altered_by_hand_is_found_as_a_row_too_many_and_one_missing(traced, table, column):
    ((_, value),) = altered(traced, table, [column]).values()

    report = asked("rebuild", traced, "--check", code=1)
    assert report["ok"] is False
    found = {(item["stored"], item["expected"]) for item in report["listed"]}
    assert found == {("there", "absent"), ("absent", "there")}
    assert value in [key for item in report["listed"] for key in item["key"]]
    runfold("rebuild", traced)
    runfold("rebuild", traced, "--check")


@pytest.mark.parametrize("table", [projection.name for projection in OF_RUNS])
def test_a_row_deleted_or_added_by_hand_is_found(traced, table):
    whole = tables(traced)
    by_hand(traced, f"DELETE FROM {table} WHERE run_id = 'build-7'")
    missing = asked("rebuild", traced, "--check", code=1)["listed"]
    assert len(missing) == (2 if table == "texts" else 1)
    for item in missing:
        assert (item["projection"], item["key"][0], item["column"], item["stored"]) == (
            table, "build-7", None, "absent"
        )  # fmt: skip
        assert item["event"]

    runfold("rebuild", traced)
    assert tables(traced) == whole
    columns = ", ".join(
        "'zz'" if name == "run_id" else name for name in (column for of, column in COLUMNS if of == table)
    )
    names = columns.replace("'zz'", "run_id")
    by_hand(traced, f"INSERT INTO {table}({names}) SELECT {columns} FROM {table} WHERE run_id = 'build-7' LIMIT 1")
    (item,) = asked("rebuild", traced, "--check", code=1)["listed"]
    assert (item["key"][0], item["stored"], item["expected"]) == ("zz", "there", "absent")


@pytest.mark.parametrize("cursors", [False, True])
def test_all_tables_dropped_come_back_identical(traced, cursors):
    whole = tables(traced)
    by_hand(traced, *(f"DROP TABLE {name}" for name in [*whole, *(["cursors"] if cursors else [])]))

    if not cursors:
        assert f"has no table; make it anew with `runfold rebuild {traced}`" in runfold("runs", traced, code=1).stderr
        assert runfold("rebuild", traced, "--check", code=1).stdout.count("has no table") == len(BUILT_IN)
    runfold("rebuild", traced)
    assert tables(traced) == whole
    runfold("rebuild", traced, "--check")


def test_some_tables_are_made_anew_and_an_unknown_one_is_refused(traced):
    assert asked("rebuild", traced, "usage")["tables"] == ["usage"]
    assert "is not among workflow_runs" in runfold("rebuild", traced, "nosuch", code=1).stderr


def test_an_entry_that_the_machine_refuses_stops_a_rebuild_and_is_left_out_on_demand(traced):
    by_hand(
        traced,
        "INSERT INTO events SELECT 33, 'build-7', 22, 'RunStarted', recorded_at, NULL, 4, NULL, hash, NULL, "
        '\'{"worker":"x"}\' FROM events WHERE position = 32',
    )

    said = runfold("rebuild", traced, code=1).stderr
    assert "position 33 (RunStarted, version 22 of build-7, which is completed there) is refused on replay" in said
    result = runfold("rebuild", traced, "--skip-invalid", code=1)
    assert "left out: position 33, RunStarted of build-7" in " ".join(result.stdout.split())
    assert asked("rebuild", traced, "--skip-invalid", code=1)["skipped"] == 1


# --- one vocabulary, and whose findings these are -------------------------------------------------------------------


@pytest.mark.parametrize("words", [["verify"], ["rebuild", "--check"], ["rebuild"]])
def test_what_is_found_names_its_database_once_in_the_first_line_and_to_programs(traced, monkeypatch, words):
    monkeypatch.chdir(traced.parent)
    by_hand(traced, "UPDATE workflow_runs SET workflow = 'other', agent = 'other'")
    code = 0 if words == ["rebuild"] else 1
    told = asked(*words[:1], traced.name, *words[1:], code=code)
    by_hand(traced, "UPDATE workflow_runs SET workflow = 'other', agent = 'other'")
    first, *others = runfold(*words[:1], traced.name, *words[1:], code=code).stdout.splitlines()

    assert told["database"] == traced.name
    assert first.startswith(f"{traced.name}: ")
    assert traced.name not in " ".join(others)


@pytest.mark.parametrize(
    "words",
    [["verify"], ["rebuild"], ["rebuild", "--check"], ["stats"], ["stats", "--growth"], ["archive"], ["doctor"],
     ["archive", "--dry-run"], ["restore", "--all-days"], ["backup", "copy"]],
    ids=" ".join,
)  # fmt: skip
def test_programs_are_told_in_the_words_that_people_are_told_in(traced, monkeypatch, words):
    """People read of events and tables; what the library calls entries and projections is the same here."""
    monkeypatch.chdir(traced.parent)
    told = runfold(words[0], traced, *words[1:], "--json").stdout

    assert json.loads(told)
    assert not re.search(r'"[a-z_]*(entries|projections)[a-z_]*":', told)


# --- the doctor ---------------------------------------------------------------------------------------------------


def findings(database, code):
    return {item["what"]: item["ok"] for item in asked("doctor", database, code=code)["findings"]}


def test_a_sound_database_is_well(traced):
    assert all(findings(traced, 0).values())
    assert runfold("doctor", traced).stdout.endswith("all is well\n")


def test_the_doctor_finds_the_runs_of_dead_workers(live):
    assert [what for what, ok in findings(live, 1).items() if not ok] == ["workers"]
    assert "1 run of dead workers: run-2" in " ".join(runfold("doctor", live, code=1).stdout.split())


def test_the_doctor_finds_an_unsound_sqlite_and_other_packages_of_our_names(traced, monkeypatch):
    monkeypatch.setattr("eventstore.sqlite.SQLITE_VERSION", (3, 40, 1))
    others = {"eventstore": ["runfold", "eventstore"], "projections": ["projections"]}
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: others)

    assert [what for what, ok in findings(traced, 1).items() if not ok] == ["SQLite", "packages"]
    said = " ".join(runfold("doctor", traced, code=1).stdout.split())
    assert "pip uninstall eventstore projections, then reinstall runfold" in said
    assert "2 things wrong" in said


def test_the_doctor_finds_a_table_without_rows_to_answer_from(traced):
    by_hand(traced, "DROP TABLE workflow_runs")

    assert [what for what, ok in findings(traced, 1).items() if not ok] == ["table workflow_runs", "workers"]


def test_the_doctor_speaks_of_a_database_that_is_none(tmp_path):
    (tmp_path / "text").write_text("hello")

    assert [what for what, ok in findings(tmp_path / "text", 1).items() if not ok] == ["database"]
