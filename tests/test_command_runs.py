"""What an operator does with runs, questions and the log, command by command."""

import fcntl
import json
import os
import re
import subprocess
from datetime import UTC, datetime

import pytest

import projections
from eventstore.files import OperatingSystem
from eventstore.making import making, sweep
from eventstore.workflow import (
    RUN,
    ConfirmationExpired,
    ConfirmationRequested,
    RunCompleted,
    RunPaused,
    RunQueued,
    RunStarted,
    ToolCalled,
    ToolReturned,
    UsageRecorded,
)
from projections.cli import log
from projections.connecting import BUILT_IN
from tests.commanding import INPUT, TRACE, asked, live_database, plain_surroundings, process, runfold, traced_database  # noqa: F401 - fixtures

# --- looking ------------------------------------------------------------------------------------------------------


def test_runs_lists_what_is_active_first(live):
    runfold("import", live, TRACE)

    rows = asked("runs", live)
    assert [(row["run_id"], row["phase"]) for row in rows] == [
        ("run-2", "started"), ("run-1", "paused"), ("build-9", "paused"), ("run-3", "queued"),
        ("build-8", "failed"), ("build-7", "completed"),
    ]  # fmt: skip
    said = runfold("runs", live).stdout
    assert [line.split()[0] for line in said.splitlines()] == ["run", *(row["run_id"] for row in rows)]
    assert "1 question open" in said


def test_runs_are_paged_in_the_same_order(live):
    runfold("import", live, TRACE)
    whole = [row["run_id"] for row in asked("runs", live, "--all", "--limit", "1")]

    seen, after = [], []
    while page := asked("runs", live, "--limit", "2", *after):
        seen += [row["run_id"] for row in page]
        after = ["--after", seen[-1]]
    assert seen == whole
    assert len(whole) == 6


def test_runs_says_when_there_are_more(traced):
    result = runfold("runs", traced, "--limit", "2")

    assert result.stderr == "2 of 3 runs; more with --after build-8, or --all\n"
    assert runfold("runs", traced).stderr == ""


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--phase", "failed"], ["build-8"]),
        (["--phase", "failed", "--phase", "completed"], ["build-8", "build-7"]),
        (["--workflow", "audit"], ["build-9"]),
        (["--agent", "clerk"], ["build-7"]),
        (["--parent", "build-7"], ["build-8"]),
        (["--roots"], ["build-9", "build-7"]),
        (["--offset", "1", "--limit", "1"], ["build-8"]),
        (["--offset", "2", "--all"], ["build-7"]),
        (["--started-after", "2026-01-01T08:23:00Z"], ["build-9", "build-8"]),
        (["--started-after", "2026-01-01T08:24:00Z"], ["build-9"]),
        (["--since", "2026-01-01T08:21:00Z"], ["build-9", "build-8"]),
        (["--since", "2026-01-02"], []),
        (["--since", "1h"], []),
    ],
)
def test_runs_are_chosen(traced, options, found):
    assert [row["run_id"] for row in asked("runs", traced, *options)] == found


def test_roots_have_no_parent_to_be_chosen_by(traced):
    assert "exclude each other" in runfold("runs", traced, "--roots", "--parent", "build-7", code=2).stderr


def test_show_tells_a_runs_life(traced):
    said = runfold("show", traced, "build-7").stdout
    events = re.findall(r"^ +(\d+)  \d\d:\d\d:\d\d +(?:#(\d))? +(\w+)", said, re.MULTILINE)

    assert [int(version) for version, _, _ in events] == list(range(1, 22))
    assert events[8] == ("9", "2", "RunResumed")
    for words in (
        "phase       completed",
        "checkpoint  step 2, in version 18",
        "2,000 tokens in, 120 out, $0.0200",
        "crashes     1",
    ):
        assert words in said


def test_a_tree_is_drawn_with_what_each_and_all_spent(traced):
    with projections.connect(traced) as runs:
        runs.submit("retry", run_id="build-10", parent_id="build-8", agent="clerk")
        runs.store.stream("build-10").append(RunStarted("w"), UsageRecorded("m", 5, 1, 0.5))

    assert runfold("tree", traced, "build-7").stdout == (
        "build-7  completed  release  clerk  2,000 tokens in, 120 out, $0.0200  in all \n"
        "2,005 tokens in, 121 out, $0.5200\n"
        "└── build-8  failed  release  in all 5 tokens in, 1 out, $0.5000\n"
        "    └── build-10  started  retry  clerk  5 tokens in, 1 out, $0.5000\n"
    )
    found = asked("tree", traced, "build-7")
    assert [(item["depth"], item["run"]["run_id"], item["total"]["records"]) for item in found] == [
        (0, "build-7", 3), (1, "build-8", 1), (2, "build-10", 1)
    ]  # fmt: skip


def test_a_circle_of_parents_is_drawn_once_round(traced):
    with projections.connect(traced) as runs:
        runs.store.append("a", RunQueued("w", parent_id="b"))
        runs.store.append("b", RunQueued("w", parent_id="a"))

    assert runfold("tree", traced, "a").stdout.splitlines()[1:] == [
        "└── b  queued  w", "    └── a again: a circle of parents",
    ]  # fmt: skip


def test_a_tree_that_is_too_large_or_not_there_is_refused(traced):
    assert (
        "limit 1 is less than the runs under build-7" in runfold("tree", traced, "build-7", "--limit", 1, code=1).stderr
    )
    assert "no run nobody" in runfold("tree", traced, "nobody", code=1).stderr


def test_show_tells_open_calls_and_the_whole_of_an_open_question(live):
    assert re.search(r"^open call t1 of bash, since \S+ \S+ UTC$", runfold("show", live, "run-2").stdout, re.MULTILINE)
    said = runfold("show", live, "run-1").stdout
    assert "run-1 c1: may it call ship?\n  asked" in said
    assert '    "env": "prod",\n' in said

    found = asked("show", live, "run-1")
    assert found["confirmations"][0]["input"] == INPUT
    assert found["events"][-1]["type"] == "RunPaused"
    assert [call["call_id"] for call in asked("show", live, "run-2")["open_calls"]] == ["t1"]


def test_show_tells_a_stream_that_is_no_run(traced):
    assert runfold("show", traced, "notes").stdout.startswith("stream  notes\nphase   open\n")


def test_events_are_chosen_and_told_a_line_each(traced):
    def positions(*options):
        said = runfold("events", traced, "--json", *options).stdout
        return [json.loads(line)["position"] for line in said.splitlines()]

    assert positions() == list(range(1, 33))
    assert positions("--after", "30") == [31, 32]
    assert positions("--limit", "2") == [1, 2]
    assert positions("--type", "RunStarted", "--type", "MetaSet") == [2, 24, 27, 32]
    assert positions("--stream", "build-8") == [22, 23, 24, 25]
    assert positions("--stream", "build-8", "--type", "RunStarted", "--after", "22") == [24]
    assert runfold("events", traced, "--stream", "notes").stdout.count("\n") == 3


def test_tail_shows_the_last(traced):
    said = runfold("tail", traced, "-n", "2").stdout.splitlines()

    assert [line.split()[3] for line in said[1:]] == ["LogRecorded", "MetaSet"]


def test_stats_counts(live):
    found = asked("stats", live)

    assert found["runs"] == {"queued": 1, "started": 1, "paused": 1}
    assert (found["streams"], found["open_questions"]) == (3, 1)
    assert sum(item["events"] for item in found["types"]) == found["events"]
    assert found["bytes"] > 4096
    assert {item["name"]: item["behind"] for item in found["tables"]} == {projection.name: 0 for projection in BUILT_IN}
    said = runfold("stats", live).stdout
    assert "runs       1 queued, 1 started, 1 paused" in said


# --- deciding -----------------------------------------------------------------------------------------------------


def test_confirmations_shows_what_waits_and_all_shows_what_became_of_it(live):
    assert [(row["run_id"], row["call_id"]) for row in asked("confirmations", live)] == [("run-1", "c1")]

    runfold("deny", live, "run-1", "c1", "--by", "bob", "--comment", "not on a Friday")
    assert runfold("confirmations", live).stdout == "nothing waits for an answer\n"
    (row,) = asked("confirmations", live, "--all")
    assert (row["decision"], row["by"], row["comment"]) == ("denied", "bob", "not on a Friday")


def test_show_says_that_an_answered_run_waits_for_a_worker(live):
    runfold("approve", live, "run-1", "c1")

    said = runfold("show", live, "run-1").stdout
    assert re.search(r"^waits for +a worker, now that it is answered$", said, re.MULTILINE)
    assert "waits for an answer" not in said.partition("(UTC)")[0]


def test_a_limit_of_none_is_misuse_and_nobody_is_told_that_nothing_waits(live):
    for command in ("runs", "confirmations", "events", "jobs", "log"):
        assert "0 is not in the range" in runfold(command, live, "--limit", "0", code=2).stderr


def test_an_approval_carries_all_that_was_said(live):
    event = asked(
        "approve", live, "run-1", "c1", "--by", "alice", "--comment", "go",
        "--input", '{"env": "test"}', "--result", "[1, null]",
    )  # fmt: skip

    assert event["data"] == {
        "call_id": "c1", "decision": "approved", "by": "alice", "comment": "go", "input": {"env": "test"},
        "result": [1, None],
    }  # fmt: skip


def test_who_decides_is_the_login_name_unless_given(live, monkeypatch):
    monkeypatch.setenv("LOGNAME", "carol")

    assert runfold("approve", live, "run-1", "c1").stdout == "c1 of run-1 is approved by carol\n"


def test_a_second_decision_is_refused_and_says_who_when_and_what(live):
    runfold("approve", live, "run-1", "c1", "--by", "alice")
    before = runfold("export", live).stdout

    said = runfold("deny", live, "run-1", "c1", "--by", "bob", code=1).stderr
    assert said.startswith("Error: call c1 of run-1 is approved by alice at 20")
    assert runfold("export", live).stdout == before


def test_an_answer_that_comes_too_late_expires_the_question_instead(live):
    with projections.connect(live) as runs:
        runs.store.append("run-9", *overdue_question())

    said = runfold("approve", live, "run-9", "q", "--by", "alice", code=1).stderr
    assert said.startswith("Error: call q of run-9 is expired at 20")
    with projections.connect(live) as runs:
        assert list(runs.store.read("run-9"))[-1].event == ConfirmationExpired("q")


def overdue_question():
    question = ConfirmationRequested("q", "ship", expires_at=datetime(2026, 1, 1, tzinfo=UTC))
    return RunQueued("w"), RunStarted("a"), question, RunPaused("person")


def test_cancel_ends_a_run_and_interrupt_asks_it(live):
    assert runfold("cancel", live, "run-3", "--by", "bob", "--reason", "not tonight").stdout == "run-3 is cancelled\n"
    assert "asked to stop; its worker" in runfold("interrupt", live, "run-2").stdout
    assert runfold("interrupt", live, "run-1").stdout == "run-1 is interrupted\n"

    phases = {row["run_id"]: row["phase"] for row in asked("runs", live)}
    assert phases == {"run-1": "interrupted", "run-2": "started", "run-3": "cancelled"}


def test_recover_says_what_it_would_do_and_does_it(live):
    runfold("interrupt", live, "run-2")
    before = runfold("export", live).stdout

    assert asked("recover", live, "--dry-run")["interrupted"] == ["run-2"]
    assert runfold("export", live).stdout == before
    assert asked("recover", live)["interrupted"] == ["run-2"]
    assert runfold("recover", live).stdout == "nothing to recover\n"


def test_recover_counts_crashes_as_told(live):
    assert asked("recover", live, "--max-crashes", "0")["crashed"] == ["run-2"]


# --- exchange -----------------------------------------------------------------------------------------------------


def test_export_and_import_through_files_and_pipes(traced, tmp_path):
    exported = runfold("export", traced).stdout_bytes

    assert runfold("export", traced, "-o", "out.jsonl").stderr == "out.jsonl: 32 events\n"
    assert (tmp_path / "out.jsonl").read_bytes() == exported
    assert runfold("import", "y.db", "-", input=exported).stdout == "-: 32 events of 4 streams\n"
    assert runfold("import", "y.db", "out.jsonl", "--resume").stdout == (
        "out.jsonl: 0 events of 4 streams, 32 stood already\n"
    )
    assert (
        runfold("rebuild", "y.db", "--check").stdout
        == f"y.db: {len(BUILT_IN)} tables of 12 rows agree with the log of 32 events\n"
    )


def test_show_tells_the_output_and_with_full_all_of_everything(tmp_path):
    with projections.connect(tmp_path / "x.db") as runs, runs.worker("w") as worker:
        runs.submit("deploy", input={"text": "i" * 600}, run_id="run-1")
        worker.claim().append(RunCompleted(output={"text": "o" * 600}))

    shown, full = (runfold("show", "x.db", "run-1", *more).stdout for more in ([], ["--full"]))

    (output,) = [line for line in shown.splitlines() if line.startswith("output")]
    assert output.startswith('output    {"text": "ooo')
    assert output.endswith("… (version 3)")
    assert max(map(len, shown.splitlines())) <= 80
    assert ("i" * 600 in full, full.replace("\n", "").replace(" ", "").count("o" * 600)) == (True, 2)
    for command in ("events", "tail"):
        assert "i" * 600 not in runfold(command, "x.db").stdout
        assert "i" * 600 in runfold(command, "x.db", "--full").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cancel", "run-9"], "run-9 is completed and nothing is left to cancel;"),
        (["interrupt", "run-9"], "run-9 is completed and nothing is left to stop;"),
        (["approve", "run-9", "c1"], "run-9 is completed and its questions are void;"),
        (["settle", "run-9", "c1", "--output", "1"], "run-9 is completed and its calls are void;"),
        (["settle", "run-3", "c1", "--output", "1"], "run-3 is queued and no call of it is open now;"),
        (["settle", "run-2", "t0", "--output", "1"], "call t0 of run-2 returned already at version 5;"),
        (["events", "--stream", "../x"], "stream '../x' must hold no slash"),
        (["rebuild", "users"], "projection 'users' is not among workflow_runs"),
    ],
)
def test_a_refusal_speaks_of_runs_and_not_of_events(live, words, said):
    with projections.connect(live) as runs, runs.worker("w") as worker:
        runs.submit("other", run_id="run-9")
        worker.claim(["other"]).append(RunCompleted())
        runs.store.append("run-2", ToolCalled("t0", "bash"), ToolReturned("t0"), attempt=1)
    before = asked("stats", live)["events"]

    result = runfold(words[0], live, *words[1:], code=1)

    assert result.stderr.startswith(f"Error: {said}")
    assert not any(event.__name__ in result.stderr for event in RUN.events)
    assert asked("stats", live)["events"] == before


def folder_of(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".jsonl")


@pytest.mark.parametrize("url", ["x.db", "sqlite:///x.db"])
def test_a_refused_import_leaves_no_new_database_behind(tmp_path, url):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"stream":"b","type":"MetaSet","data":{"name":"n"}}\n{}\n')

    runfold("import", url, code=2)
    runfold("import", url, bad, code=1)
    runfold("import", url, "nosuch.jsonl", code=1)
    runfold("import", url, tmp_path, code=2)

    assert folder_of(tmp_path) == []


def test_what_a_killed_import_left_is_swept_up_by_the_next_one_and_nothing_else(tmp_path):
    target = tmp_path / "new.db"
    killed = process("import", target, "-", stdin=subprocess.PIPE)
    while not list(tmp_path.glob(".new.db.importing-*/new.db-wal")):
        assert killed.poll() is None
    (left,) = tmp_path.glob(".new.db.importing-*")
    others = [tmp_path / ".new.db.importing-notes", tmp_path / ".other.db.importing-1", tmp_path / ".new.db.backup"]
    for folder in others:
        folder.mkdir()
    (others[0] / "mine.txt").write_text("not a database's")

    with making(target) as living:
        (living / "new.db").touch()
        runfold("import", tmp_path / "other.db", TRACE)
        assert left.exists()
        runfold("import", target, TRACE)  # beside an import that is still alive, the killed one and a third
        assert left.exists()
        killed.kill()
        killed.communicate()

        runfold("import", target, TRACE, "--resume")

        assert not left.exists()
        assert (living / "new.db").exists()
    assert not living.exists()
    assert [folder.exists() for folder in others] == [True, False, True]


@pytest.mark.parametrize(("owner", "name"), [(os, "open"), (fcntl, "flock")], ids=["before it is opened", "or held"])
def test_a_folder_that_was_swept_away_before_it_was_held_is_made_again(tmp_path, monkeypatch, owner, name):
    honest, swept = getattr(owner, name), []

    def after_a_sweeper(*args, **options):
        if not swept:
            swept.append(None)
            sweep(tmp_path / "new.db")  # somebody's, in the one moment when nobody holds it
        return honest(*args, **options)

    monkeypatch.setattr(owner, name, after_a_sweeper)

    with making(tmp_path / "new.db") as folder:
        assert list(tmp_path.iterdir()) == [folder]
        assert swept
    assert not folder.exists()


def test_a_new_database_stands_with_its_witness_and_nothing_else(tmp_path):
    good = tmp_path / "good.jsonl"
    good.write_text('{"stream":"a","type":"MetaSet","data":{"name":"n"}}\n')

    assert runfold("import", "x.db", "good.jsonl").stdout == "good.jsonl: 1 event of 1 stream\n"

    assert folder_of(tmp_path) == ["x.db", "x.db-witness"]
    assert (tmp_path / "x.db").stat().st_mode & 0o777 == 0o600
    found = asked("verify", "x.db")
    assert (found["ok"], found["events"], found["notes"]) == (True, 1, [])


def test_a_database_that_came_into_being_meanwhile_is_left_alone(tmp_path, monkeypatch):
    good = tmp_path / "good.jsonl"
    good.write_text('{"stream":"a","type":"MetaSet","data":{"name":"n"}}\n')
    take = log.import_lines

    def meanwhile(*arguments, **options):
        with projections.connect(tmp_path / "x.db") as runs:
            runs.submit("deploy", run_id="run-1")
        return take(*arguments, **options)

    monkeypatch.setattr(log, "import_lines", meanwhile)
    result = runfold("import", "x.db", good, code=1)

    assert (result.stdout, "nothing was imported" in result.stderr) == ("", True)
    assert [row["run_id"] for row in asked("runs", "x.db")] == ["run-1"]
    assert folder_of(tmp_path) == ["x.db", "x.db-witness"]


def test_where_there_are_no_links_a_new_database_is_renamed(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)

    assert OperatingSystem().publish(tmp_path / "a", tmp_path / "b") is False
    assert OperatingSystem().publish(tmp_path / "a", tmp_path / "c") is True
    assert sorted((path.name, path.read_text()) for path in tmp_path.iterdir()) == [("b", "b"), ("c", "a")]


def test_an_export_into_a_missing_folder_names_the_folder(traced):
    result = runfold("export", traced, "-o", "nosuch/out.jsonl", code=1)

    assert result.stderr == "Error: there is no folder nosuch; make it first\n"


def test_a_refused_file_leaves_the_files_before_it(tmp_path):
    good = tmp_path / "good.jsonl"
    good.write_text('{"stream":"a","type":"MetaSet","data":{"name":"n"}}\n')
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"stream":"b","type":"MetaSet","data":{"name":"n"}}\n{}\n')

    result = runfold("import", "x.db", good, bad, "--json", code=1)
    assert [item["events"] for item in json.loads(result.stdout)] == [1]
    assert f"{bad}, line 2: the line lacks" in result.stderr
    assert asked("stats", "x.db")["streams"] == 1


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["export", "x.db", "-o", "x.db"], "x.db is the database itself"),
        (["export", "x.db", "-o", "x.db-wal"], "x.db-wal is the database itself"),
        (["import", "x.db", "x.db"], "x.db is the database itself"),
        (["import", "x.db", "."], ". is a folder"),
    ],
)
def test_the_database_and_folders_are_not_taken_for_files(traced, words, error):
    before = traced.read_bytes()

    assert runfold(*words, code=2).stderr.startswith(f"Error: {error}")
    assert traced.read_bytes() == before


def test_an_export_that_fails_leaves_the_old_file_and_no_other(traced, tmp_path):
    (tmp_path / "out.jsonl").write_text("old")

    runfold("export", traced, "-o", "out.jsonl", "--stream", "nosuch", code=1)
    assert (tmp_path / "out.jsonl").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []
