"""What comes from elsewhere and means harm: crafted databases, links where files should be, open permissions."""

# ruff: noqa: PT017 - a crafted database may be refused, or found out later

import contextlib
import os
import random
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import projections
from eventstore.errors import CannotOpen, EventStoreError, LostTail, NewerDatabase
from eventstore.notes import LogRecorded
from eventstore.sqlite import APPLICATION_ID, sqlite3
from eventstore.sqlite.schema import MIGRATIONS
from projections.cli import main

LINE = LogRecorded("test", "line")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The files of a sound database that nobody has open."""
    folder = tmp_path_factory.mktemp("sound")
    with projections.connect(folder / "agent.db") as runs:
        for number in range(3):
            runs.submit("deploy", run_id=f"run-{number}", input={"n": number})
        runs.store.append("notes", LINE, key="k")
    return list(folder.iterdir())


@pytest.fixture(name="path")
def closed_database(tmp_path, sound):
    """A copy of such a database for each test, that it may spoil."""
    for file in sound:
        shutil.copy(file, tmp_path)
    return tmp_path / "agent.db"


def crafted(path, *statements, writable=False):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        if writable:
            connection.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            connection.execute(statement)


def rewritten(table, old, new):
    return f"UPDATE sqlite_schema SET sql = replace(sql, '{old}', '{new}') WHERE name = '{table}'"


def goes_round(path):
    """Everything a program does with a database; what it raises is ours, or SQLite's own."""
    try:
        with projections.connect(path) as runs:
            for use in (
                lambda: list(runs.store.read_all()),
                lambda: [item.event for item in runs.store.read_all()],
                lambda: list(runs.store.read("notes")),
                runs.workflow_runs.where,
                lambda: runs.workflow_runs.get("run-0"),
                runs.usage.where,
                lambda: runs.submit("deploy"),
                lambda: runs.worker("w").close(),
                runs.standings,
                runs.verify,
            ):
                with contextlib.suppress(EventStoreError, sqlite3.Error):
                    use()
            with contextlib.suppress(EventStoreError, sqlite3.Error):
                return runs.verify()
    except EventStoreError as error:
        assert str(error)
    except sqlite3.Error as error:
        assert any(str(path) in note for note in error.__notes__)
    return None


def told(path):
    """An operator gets one line, and never a traceback."""
    for words in (["events"], ["runs"], ["stats"], ["verify"], ["doctor"], ["export"]):
        result = CliRunner().invoke(main, [words[0], str(path)])
        assert result.exit_code in (0, 1), result.output
        assert "unexpected" not in result.output
        assert len(result.stderr.splitlines()) <= 1, result.stderr


# --- crafted databases ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TRIGGER t AFTER INSERT ON events BEGIN UPDATE log SET id = 'x'; END"],
        ["CREATE TRIGGER t AFTER INSERT ON workflow_runs BEGIN DELETE FROM usage; END"],
        ["CREATE VIEW v AS SELECT * FROM events"],
        ["DROP TRIGGER events_stay", "CREATE TRIGGER events_stay BEFORE DELETE ON events BEGIN SELECT 1; END"],
        ["DROP TABLE usage", "CREATE VIEW usage AS SELECT 1 AS run_id"],
        ["ALTER TABLE log RENAME TO l", "CREATE VIEW log AS SELECT * FROM l"],
        ["DROP INDEX events_by_key", "CREATE INDEX events_by_key ON events(stream, key)"],
        ["DROP TABLE log", "CREATE TABLE log(id, settled)"],
        ["DROP TABLE log"],
        ["DELETE FROM log"],
        ["ALTER TABLE events RENAME TO e", "CREATE VIEW events AS SELECT * FROM e"],
    ],
)
def test_a_schema_that_acts_or_lies_is_refused(path, statements):
    crafted(path, *statements)

    with pytest.raises(CannotOpen):
        projections.connect(path)
    told(path)


@pytest.mark.parametrize(
    ("table", "old", "new"),
    [
        ("events", "stream TEXT NOT NULL", "stream BLOB"),
        ("events", "STRICT", ""),
        ("events", "hash BLOB NOT NULL", "hash BLOB NOT NULL DEFAULT (load_extension(1))"),
        ("log", "settled INTEGER NOT NULL", "settled TEXT"),
    ],
)
def test_changed_column_types_are_refused(path, table, old, new):
    crafted(path, rewritten(table, old, new), writable=True)

    with pytest.raises(CannotOpen):
        projections.connect(path)


@pytest.mark.parametrize("version", [len(MIGRATIONS) + 1, len(MIGRATIONS) + 7, 2**31 - 1])
def test_a_schema_number_of_the_future_is_refused_as_such(path, version):
    crafted(path, f"PRAGMA user_version = {version}")

    with pytest.raises(NewerDatabase):
        projections.connect(path)
    told(path)


@pytest.mark.parametrize("version", [0, -1, -(2**31)])
def test_a_schema_number_of_the_past_that_is_not_so_is_told_and_putting_it_right_is_enough(path, version):
    with projections.connect(path) as runs:
        before = list(runs.store.read_all())
    crafted(path, f"PRAGMA user_version = {version}")

    for options in ({}, {"accept_loss": True}):
        with pytest.raises(CannotOpen, match="user_version"):
            projections.connect(path, **options)

    crafted(path, f"PRAGMA user_version = {len(MIGRATIONS)}")
    with projections.connect(path) as runs:
        assert list(runs.store.read_all()) == before
        assert runs.verify().ok


@pytest.mark.parametrize("version", [0, 1])
def test_a_forged_application_id_is_refused(tmp_path, version):
    path = tmp_path / "forged.db"
    crafted(
        path, "CREATE TABLE events(x)", f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {version}"
    )

    with pytest.raises(CannotOpen):
        projections.connect(path)
    told(path)


@pytest.mark.parametrize(
    "table", ["workflow_runs", "checkpoints", "confirmations", "usage", "texts", "cursors", "workers"]
)
@pytest.mark.parametrize("columns", ["x", "run_id, x", "name, position"])
def test_a_table_of_rows_with_other_columns_is_told_clearly(path, table, columns):
    crafted(path, f"DROP TABLE IF EXISTS {table}", f"CREATE TABLE {table}({columns})")

    goes_round(path)
    told(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("data", "x'00ff'"), ("data", "7"), ("data", "1.5"), ("data", "'not json'"), ("data", "'[]'"), ("data", "'{}'"),
        ("data", "CAST(x'ff' AS TEXT)"), ("recorded_at", "9223372036854775807"), ("recorded_at", "-1"),
        ("occurred_at", "-9223372036854775808"), ("stream", "char(0)"), ("stream", "'../../etc'"), ("type", "''"),
        ("type", "CAST(x'ff' AS TEXT)"), ("hash", "x''"), ("meta", "'{'"), ("attempt", "-1"), ("key", "''"),
        ("version", "-5"), ("version", "9223372036854775807"), ("position", "9223372036854775807"),
        ("position", "-1"), ("position", "99"),
    ],
)  # fmt: skip
def test_an_entry_that_no_program_of_ours_wrote_is_told_clearly_and_found(path, column, value):
    values = {
        "position": "5", "stream": "'notes'", "version": "2", "type": "'LogRecorded'", "recorded_at": "9999999999999",
        "occurred_at": "NULL", "attempt": "NULL", "key": "NULL", "hash": "x'00'", "meta": "NULL",
        "data": """'{"source": "a", "kind": "b"}'""",
    }  # fmt: skip
    values[column] = value
    crafted(path, f"INSERT INTO events({', '.join(values)}) VALUES ({', '.join(values.values())})")

    verification = goes_round(path)

    assert verification is None or not verification.ok
    told(path)


@pytest.mark.parametrize("seed", range(25))
def test_pages_full_of_noise_are_told_clearly(path, seed):
    chance = random.Random(seed)
    data = bytearray(path.read_bytes())
    page = chance.randrange(len(data) // 4096) * 4096
    start = page + (100 if page == 0 else 0)
    length = chance.choice((1, 8, 200, 3_900))
    data[start : start + length] = chance.randbytes(length)
    path.write_bytes(data)

    goes_round(path)
    told(path)


@pytest.mark.parametrize("size", [0, 1, 50, 100, 512, 4_096, 5_000, 20_000])
def test_a_database_that_was_cut_short_is_told_clearly(path, size):
    os.truncate(path, size)

    verification = goes_round(path)

    assert verification is None or not verification.ok or size == 0
    told(path)


# --- links and permissions ------------------------------------------------------------------------------------------


def test_a_link_in_the_place_of_the_witness_is_not_followed(path, tmp_path, caplog):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    witness = path.with_name("agent.db-witness")
    witness.unlink()
    witness.symlink_to(victim)

    with projections.connect(path) as runs:
        runs.store.append("notes", LINE)

    assert victim.read_text() == "precious"
    assert witness.is_symlink()
    assert "agent.db-witness" in caplog.text


def test_opened_through_a_link_a_log_has_the_one_witness_and_a_lost_tail_is_kept(path, tmp_path):
    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    with projections.connect(link) as runs:
        runs.store.append("notes", LINE, LINE)
        head = runs.store.head().position
        files = {file: file.read_bytes() for file in (path, path.with_name(f"{path.name}-wal"))}
        runs.store.append("notes", LINE)
    for file, data in files.items():
        file.write_bytes(data)

    with pytest.raises(LostTail) as caught:
        projections.connect(link)

    assert (caught.value.found, caught.value.expected) == (head, head + 1)
    assert Path(caught.value.kept).read_bytes() == files[path.with_name(f"{path.name}-wal")]
    assert list(link.parent.iterdir()) == [link]


def test_a_link_to_nowhere_in_the_place_of_the_witness_makes_no_file_there(path, tmp_path):
    witness = path.with_name("agent.db-witness")
    witness.unlink()
    witness.symlink_to(tmp_path / "nowhere")

    with projections.connect(path) as runs:
        runs.store.append("notes", LINE)

    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such modes")
def test_whatever_the_umask_a_new_database_and_its_files_are_its_owners_alone(tmp_path):
    program = (
        "import os, sys, projections\n"
        "os.umask(0)\n"
        "runs = projections.connect(sys.argv[1])\n"
        "runs.submit('deploy')\n"
        "os._exit(0)\n"  # as killed: nothing is tidied up
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "agent.db")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}

    assert modes == dict.fromkeys(("agent.db", "agent.db-wal", "agent.db-shm", "agent.db-witness"), 0o600)
