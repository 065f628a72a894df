"""Searching messages, titles and summaries: in step with the log, proved, and no fact lost where the index is."""

import pytest

import projections
from eventstore.errors import InvalidArgument, ProjectionHalted, StaleProjection
from eventstore.workflow import MessageRecorded, RunDescribed, RunQueued, RunStarted, ToolCalled
from projections import App, Projection
from projections.sqlite import SQLiteTables
from projections.texts import MAX_TEXT, texts_in
from tests.folds import TallyRow, tally


@pytest.fixture(params=["memory", "sqlite"])
def runs(request, tmp_path):
    with projections.connect("memory:" if request.param == "memory" else tmp_path / "agent.db") as opened:
        yield opened


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent.db"


def say(runs, run_id, *contents, role="user"):
    stream = runs.store.stream(run_id)
    if not stream.version:
        stream.append(RunQueued("chat"), RunStarted("w1"))
    runs.store.append(run_id, *(MessageRecorded(role, content) for content in contents), attempt=1)


def places(found):
    return [(item.run_id, item.message) for item in found]


def by_hand(path, *statements):
    """What somebody does to the file with another tool, while nobody has it open."""
    from eventstore.sqlite.driver import sqlite3  # noqa: PLC0415

    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


# --- what is found --------------------------------------------------------------------------------------------------


def test_messages_are_found_newest_first_with_what_stands_around(runs):
    say(runs, "r1", "please deploy it", {"parts": [{"type": "text", "text": "Deployed to PROD"}]})
    say(runs, "r2", "never mind, deploy nothing", role="assistant")

    found = runs.search("deploy*")

    assert places(found) == [("r2", 3), ("r1", 4), ("r1", 3)]
    assert [item.role for item in found] == ["assistant", "user", "user"]
    assert found[1].excerpt == "text Deployed to PROD"
    assert places(runs.search("deploy* prod")) == [("r1", 4)]
    assert places(runs.search("deploy", run_id="r1")) == [("r1", 3)]
    assert runs.search("nobody said this") == []


def test_a_run_is_found_by_the_title_and_the_summary_that_it_has_now(runs):
    say(runs, "r1", "hello")
    runs.store.append("r1", RunDescribed(title="Old name", summary="moves the database"))
    runs.store.append("r1", RunDescribed(title="Wanderung"), RunDescribed(labels={"a": "name"}))

    assert runs.search("name") == []
    (found,) = runs.search("wanderung database")
    assert (found.message, found.role, found.title, found.excerpt) == (0, None, "Wanderung", "Wanderung")
    assert runs.search("database")[0].excerpt == "moves the database"


def test_pages_are_stable_though_others_write(runs):
    say(runs, "r1", *(f"same words {number}" for number in range(5)))
    first = runs.search("same", limit=2)
    say(runs, "r1", "same words again")
    second = runs.search("same", limit=2, before=first[-1].position)
    third = runs.search("same", limit=2, before=second[-1].position)

    assert [item.message for item in (*first, *second, *third)] == [7, 6, 5, 4, 3]


@pytest.mark.parametrize("limit", [0, -1, 10_001, 1.5, True, "1"])
def test_a_limit_that_cannot_be_is_refused(runs, limit):
    with pytest.raises(InvalidArgument):
        runs.search("a", limit=limit)


def test_only_texts_count_and_a_long_message_is_searched_to_a_point_which_is_told(runs):
    content = {"name": "x", "n": 5, "parts": ["one", ["two", None, {"image": "A" * 3_000}], True], "end": "語" * 3_000}
    assert [text[:4] for text in texts_in(content)] == ["x", "one", "two", "語語語語"]

    say(runs, "r1", "begin " + "x " * MAX_TEXT + "end", " " * 3_000, None)
    assert [item.whole for item in runs.search("begin")] == [False]
    assert runs.search("end") == []


def test_only_messages_and_descriptions_cost_anything():
    """A step of a run appends calls and checkpoints; the index has nothing to do with them."""
    from projections.texts import TEXTS  # noqa: PLC0415

    assert TEXTS.kinds == {MessageRecorded, RunDescribed}


# --- as any projection ------------------------------------------------------------------------------------------------


def test_an_index_made_anew_finds_what_the_old_one_found(runs):
    say(runs, "r1", "old days", "new days")
    runs.store.append("r1", RunDescribed(title="Tale"))
    runs.store.append("r1", RunDescribed(title="Days"))
    before = runs.search("days")
    runs.rebuild("texts")

    assert runs.search("days") == before
    say(runs, "r1", "other days")
    assert len(runs.search("days")) == len(before) + 1
    assert runs.check().ok


def test_what_a_redactor_took_out_is_nowhere_in_the_file(path):
    def redactor(kind, fields):
        return {**fields, "content": "token [gone]"} if kind == "MessageRecorded" else fields

    with projections.connect(path, app=App(redactor=redactor)) as runs:
        say(runs, "r1", "token hunter2secret")
        assert runs.search("hunter2secret") == []
        assert len(runs.search("token gone")) == 1
    assert not [name for name in path.parent.iterdir() if b"hunter2secret" in name.read_bytes()]


def test_a_program_s_own_projection_may_be_searched(tmp_path):
    tale = Projection("tale", 1, TallyRow, ("role",), (MessageRecorded,), tally, lambda item: (item.event.role,),
                      search=("role",))  # fmt: skip
    with projections.connect(tmp_path / "a.db", app=App(projections=[tale])) as runs:
        say(runs, "r1", "a", role="the user")
        say(runs, "r1", "b", "c", role="the tool")

        assert [row.role for row in runs.view(tale).search("the", order="-messages")] == ["the tool", "the user"]
        assert [row.role for row in runs.view(tale).search("the", messages=1)] == ["the user"]
        with pytest.raises(InvalidArgument, match="keeps no full-text index"):
            runs.usage.search("a")


@pytest.mark.parametrize("search", [("nothing",), ("messages",), ("last",)])
def test_what_holds_no_text_cannot_be_searched(search):
    with pytest.raises(InvalidArgument):
        projections.connect("memory:", app=App(projections=[
            Projection("tale", 1, TallyRow, ("role",), (MessageRecorded,), tally, search=search)
        ]))  # fmt: skip


def test_a_field_that_is_searched_since_makes_another_table_of_it():
    one, other = (Projection("tale", 1, TallyRow, ("role",), (), tally, search=search) for search in ((), ("role",)))

    assert one.fingerprint != other.fingerprint


# --- where the index is not as it must be -----------------------------------------------------------------------------


def test_a_sqlite_without_fts5_says_so_and_nothing_else_suffers(path):
    with projections.connect(path, tables=SQLiteTables(full_text=False)) as runs:
        say(runs, "r1", "said all the same")
        runs.store.append("r1", ToolCalled("c1", "ship"), attempt=1)

        assert runs.workflow_runs.get("r1").workflow == "chat"
        assert [item.content for item in runs.messages("r1")] == ["said all the same"]
        with pytest.raises(StaleProjection, match="this SQLite has no FTS5: use one that has it"):
            runs.search("said")
        assert [standing.name for standing in runs.standings() if standing.trouble] == ["texts"]
        with pytest.raises(ProjectionHalted, match="no FTS5"):
            runs.rebuild("texts")
    with projections.connect(path) as runs:
        with pytest.raises(StaleProjection, match="has no full-text index"):
            runs.search("said")
        runs.rebuild("texts")
        assert places(runs.search("said")) == [("r1", 3)]


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE texts__search",
        "DROP TABLE texts__search_data",
        "DROP TABLE texts__waiting",
        "CREATE INDEX i ON texts__search_idx(segid) WHERE segid > 0",
        "DELETE FROM texts__search_data",
        "DROP TABLE texts__search_config",
        "UPDATE texts__search_config SET v = 99",
        "UPDATE texts__search_data SET block = x'00' WHERE id > 1",
    ],
)
def test_a_damaged_index_costs_no_fact_and_is_told_and_mended(path, statement):
    with projections.connect(path, tables=SQLiteTables(waiting=1)) as runs:
        say(runs, "r1", "first words")
    by_hand(path, statement)
    with projections.connect(path, tables=SQLiteTables(waiting=1)) as runs:
        say(runs, "r1", "second words")
        say(runs, "r1", "third words")

        assert [item.content for item in runs.messages("r1")] == ["first words", "second words", "third words"]
        with pytest.raises((StaleProjection, ProjectionHalted), match="full-text index"):
            runs.search("words")
        assert any("full-text index" in trouble for trouble in runs.check().troubles)
        runs.rebuild("texts")
        assert [item.message for item in runs.search("words")] == [5, 4, 3]
        assert runs.check().ok


def test_a_part_of_an_index_that_is_missing_is_told_by_its_name_as_soon_as_a_program_connects(path):
    with projections.connect(path) as runs:
        say(runs, "r1", "first words")
    by_hand(path, "DROP TABLE texts__waiting")  # as in a database of a program that knew none
    with projections.connect(path) as runs:
        (trouble,) = (standing.trouble for standing in runs.standings() if standing.trouble)

        assert "texts lacks texts__waiting, a part of its full-text index; make it anew" in trouble
        with pytest.raises(StaleProjection, match="lacks texts__waiting"):
            runs.search("words")


def test_damage_that_no_append_came_upon_is_told_by_a_check(path):
    with projections.connect(path, tables=SQLiteTables(waiting=1)) as runs:
        say(runs, "r1", "first words")
    by_hand(path, "UPDATE texts__search_data SET block = x'00' WHERE id > 1")
    with projections.connect(path) as runs:
        say(runs, "r1", "second words")

        assert not runs.check("texts").ok
        runs.rebuild("texts")
        assert places(runs.search("words")) == [("r1", 4), ("r1", 3)]


def test_a_table_that_somebody_took_away_from_its_index_is_made_anew(path):
    with projections.connect(path, tables=SQLiteTables(waiting=2)) as runs:
        say(runs, "r1", "first words", "second words")
        say(runs, "r1", "third words")
    by_hand(path, "DROP TABLE texts")
    with projections.connect(path) as runs:
        runs.rebuild("texts")

        assert places(runs.search("words")) == [("r1", 5), ("r1", 4), ("r1", 3)]
        assert runs.check("texts").ok


def test_rows_whose_words_are_not_in_the_index_yet_are_found_and_compared_as_any_others(path):
    with projections.connect(path, tables=SQLiteTables(waiting=3)) as runs:
        for number in range(1, 6):
            say(runs, "r1", f"number n{number}")

            assert [item.message for item in runs.search("number")] == [*range(2 + number, 2, -1)]
            assert places(runs.search(f"n{number} -other")) == [("r1", 2 + number)]
            assert runs.check("texts").ok
        runs.store.append("r1", RunDescribed(title="once"), RunDescribed(title="twice"))
        assert runs.search("once") == []
        assert places(runs.search("twice OR n5")) == [("r1", 0), ("r1", 7)]
        assert runs.check("texts").ok
        say(runs, "r1", "number n6")
    by_hand(path, "DELETE FROM texts__waiting")
    with projections.connect(path) as runs:
        assert [item.key for item in runs.check("texts").listed] == [("n6",), ("number",)]


def test_a_long_message_does_not_wait_for_the_index(path):
    with projections.connect(path) as runs:
        say(runs, "r1", "short", "many words " * 1_000)
        say(runs, "r1", "short again")
        with runs.store.reading() as reading:
            assert reading.execute("SELECT row FROM texts__waiting").fetchall() == [(3,)]


def test_an_index_that_says_other_words_than_the_rows_is_found_by_a_check(path):
    with projections.connect(path, tables=SQLiteTables(waiting=2)) as runs:
        say(runs, "r1", "first words", "second words")
    by_hand(
        path,
        "INSERT INTO texts__search(texts__search, rowid, title, text) VALUES ('delete', 2, '', 'second words')",
        "INSERT INTO texts__search(rowid, title, text) VALUES (2, '', 'forged')",
    )
    with projections.connect(path) as runs:
        report = runs.check("texts")

        assert [item.key for item in report.listed] == [("forged",), ("second",), ("words",)]
        assert str(report.listed[0]).startswith("texts[forged]: the word's places in its full-text index is (1, ")
        runs.rebuild("texts")
        assert runs.check("texts").ok
        assert runs.search("forged") == []
