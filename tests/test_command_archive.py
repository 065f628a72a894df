"""The commands `archive` and `restore --day`: what they do, say, and refuse."""

import pytest

import projections
from tests.archived import DAYS, lived
from tests.commanding import asked, plain_surroundings, runfold  # noqa: F401 - fixtures
from tests.world import World


@pytest.fixture
def database(tmp_path):
    """A log of last January."""
    world = World(tmp_path)
    lived(world, world.runs())
    world.close()
    return world.path


def standing(database):
    with projections.connect(database) as runs, runs.store.reading() as reading:
        return reading.standing(1, reading.head().position)


def test_a_dry_run_says_what_the_real_one_does_and_writes_nothing(database):
    stood = standing(database)
    promised = asked("archive", database, "--dry-run", "--keep-days", "0")
    assert standing(database) == stood
    assert not database.with_name("agent.db-archive").exists()

    done = asked("archive", database, "--keep-days", "0")

    assert [day["day"] for day in done["sealed"]] == [*DAYS, "2026-01-06"]
    assert {**done, "dry_run": True} == promised
    for day in done["sealed"]:
        assert (database.with_name("agent.db-archive") / "logs" / day["file"]).stat().st_size == day["bytes"]


def test_people_are_told_which_days_how_many_events_and_how_many_bytes(database):
    said = runfold("archive", database, "--keep-days", "0", "--max-days", "2", "--compress").stdout

    assert "sealed" in said
    assert "2026-01-01.jsonl.zst" in said
    assert "2 days left for the next time" in said
    assert "released" in said
    again = runfold("archive", database, "--keep-days", "0", "--vacuum").stdout
    assert "2026-01-04.jsonl" in again
    assert "given back to the file system" in again
    assert "no day is to be sealed" in runfold("archive", database).stdout


def test_where_no_day_is_sealed_none_comes_back_and_no_folder_is_made(database):
    assert runfold("restore", database, "--all-days").stdout == "no day is sealed\n"

    assert not database.with_name("agent.db-archive").exists()


def test_days_come_back_and_no_folder_is_named_then(database):
    stood = standing(database)
    runfold("archive", database, "--keep-days", "0")

    promised = asked("restore", database, "--day", DAYS[0], "--day", DAYS[1], "--dry-run")
    done = asked("restore", database, "--day", DAYS[0], "--day", DAYS[1])
    assert (done["events"], done["days"]) == (promised["events"], [*DAYS[:2]])
    assert "came back" in runfold("restore", database, "--all-days").stdout
    assert standing(database) == stood + 4, "and the notes of four days that were sealed"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--day", "2026-02-30"], 1, "is not a sealed day of this log; sealed are 2026-01-01 to 2026-01-06"),
        (["--all-days", "backup"], 2, "alone; leave out --all-days, or DIR backup; see `runfold restore --help`"),
        ([], 2, "DIR is missing after the database"),
        (["backup", "--dry-run"], 2, "--dry-run goes with --day or --all-days"),
    ],
)
def test_what_cannot_be_is_refused(database, words, code, said):
    runfold("archive", database, "--keep-days", "0")
    stood = standing(database)

    assert said in runfold("restore", database, *words, code=code).stderr

    assert standing(database) == stood


def test_verify_reads_the_files_of_sealed_days(database):
    runfold("archive", database, "--keep-days", "0")
    file = database.with_name("agent.db-archive") / "logs" / f"{DAYS[0]}.jsonl"
    file.write_bytes(file.read_bytes().replace(b"search", b"hearse", 1))

    finding = asked("verify", database, code=1)["findings"][0]

    assert (finding["check"], finding["position"]) == ("segments", 1)
    assert "agent.db-archive/logs/2026-01-01.jsonl is damaged" in finding["fact"]


def sealed_days(database):
    found = asked("doctor", database, code=1)["findings"]  # a run of a dead worker stands there, too
    return [it for it in found if it["what"] == "sealed days"]


def test_the_doctor_names_the_files_of_days_that_are_missing_or_cut_short_and_changes_nothing(database):
    runfold("archive", database, "--keep-days", "0")
    (told,) = sealed_days(database)
    assert told["ok"]
    logs = database.with_name("agent.db-archive") / "logs"
    missing, cut = logs / f"{DAYS[0]}.jsonl", logs / f"{DAYS[1]}.jsonl"
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    stood = {file.name: file.read_bytes() for file in logs.iterdir()}

    (told,) = sealed_days(database)

    assert not told["ok"]
    assert told["found"] == f"2 files not as sealed in agent.db-archive/logs: {missing.name}, {cut.name}"
    assert {file.name: file.read_bytes() for file in logs.iterdir()} == stood
