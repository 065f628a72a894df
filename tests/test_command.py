"""The command as a whole: what it says of itself, where the database stands, what a terminal and a pipe see."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import projections
from eventstore import LogRecorded
from eventstore.sqlite import sqlite3
from eventstore.sqlite.driver import explained
from projections.cli import SECTIONS, main
from projections.cli.refusals import plainly
from tests.commanding import ROOT, asked, live_database, plain_surroundings, process, runfold, traced_database  # noqa: F401 - fixtures


def every_command():
    """By its words, also those of a group, and not the group itself."""
    context = click.Context(main)
    for name in (name for names in SECTIONS.values() for name in names):
        command = main.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((f"{name} {word}", part) for word, part in command.commands.items())
        else:
            yield name, command


COMMANDS = dict(every_command())


# --- the command as a whole ---------------------------------------------------------------------------------------


def every_option():
    for name, command in COMMANDS.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield name, parameter


def test_every_command_and_every_option_says_what_it_is_for():
    assert all(command.help for command in COMMANDS.values())
    assert [(name, option.name) for name, option in every_option() if not option.help] == []


def test_the_reference_page_is_what_the_help_says():
    page = runpy.run_path(str(ROOT / "docs" / "generate_command.py"))["page"]()

    assert (ROOT / "docs" / "reference" / "command.md").read_text() == page, "run python docs/generate_command.py"
    assert [name for name in COMMANDS if f"\n### {name}\n" not in page] == []
    assert [option.opts for _, option in every_option() if max(option.opts, key=len) not in page] == []


def test_the_list_of_commands_says_what_each_commands_own_help_begins_with():
    context = click.Context(main)
    summaries = {name: summary for names in SECTIONS.values() for name, (_, summary) in names.items()}
    del summaries["demo"]  # longer there

    assert {name: main.get_command(context, name).help.partition("\n")[0] for name in summaries} == summaries


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_the_pages_that_list_the_commands_leave_none_out(page):
    text = (ROOT / page).read_text()
    listed = set(re.findall(r"`(?:runfold )?([a-z]+)`", text))

    assert [name for names in SECTIONS.values() for name in names if name not in listed] == []


def test_every_command_that_opens_a_store_takes_json_and_app():
    options = {(name, option.name) for name, option in every_option()}

    assert [name for name in COMMANDS if name != "demo" and not {(name, "as_json"), (name, "app")} <= options] == []


def test_help_is_quick_and_loads_no_command():
    probe = (
        "import sys; from projections.cli import main\ntry: main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT).stdout

    loaded = said.splitlines()[-1].split()
    assert not {"rich.console", "sqlite_utils", "projections.cli.runs", "projections.cli.demo"} & set(loaded)
    assert "Perform runs under kill -9" in said


def test_the_version_is_the_distributions():
    assert runfold("--version").stdout.startswith("runfold ")


# --- where the database is named ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["show", "run-1"], ["runs"], ["rebuild", "usage", "--check"], ["confirmations", "--all"]]
)
def test_with_runfold_db_the_database_is_left_out(live, monkeypatch, words):
    def told(*words):  # and a second may pass between the two
        return re.sub(r"\d+ s ago", "… ago", runfold(*words).stdout)

    here = told(words[0], live, *words[1:])

    monkeypatch.setenv("RUNFOLD_DB", str(live))
    assert told(*words) == here


def test_a_decision_with_runfold_db(live, monkeypatch):
    monkeypatch.setenv("RUNFOLD_DB", str(live))

    assert runfold("approve", "run-1", "c1", "--by", "alice").stdout == "c1 of run-1 is approved by alice\n"


def test_an_import_with_runfold_db_takes_every_word_for_a_file(tmp_path, monkeypatch):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text('{"stream":"a","type":"MetaSet","data":{"name":"n"}}\n')
    two.write_text('{"stream":"b","type":"MetaSet","data":{"name":"n"}}\n')
    monkeypatch.setenv("RUNFOLD_DB", str(tmp_path / "x.db"))

    assert [item["events"] for item in asked("import", one, two)] == [1, 1]
    assert asked("stats")["streams"] == 2


def test_a_command_of_a_fixed_number_of_words_takes_another_database_beside_runfold_db(live, traced, monkeypatch):
    monkeypatch.setenv("RUNFOLD_DB", str(live))

    assert asked("show", traced, "build-7")["phase"] == "completed"
    assert len(asked("runs", traced)) == 3


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["runs"], "DATABASE is missing: name it, or set RUNFOLD_DB; see `runfold runs --help`"),
        (["show", "x.db"], "RUN is missing after the database x.db; see `runfold show --help`"),
        (["approve", "x.db"], "RUN and CALL are missing after the database x.db; see `runfold approve --help`"),
        (["runs", "x.db", "y"], "nobody knows what to do with y after x.db; see `runfold runs --help`"),
        (
            ["runs", "x.db", "--limit", "y"],
            "Invalid value for '--limit': 'y' is no whole number; see `runfold runs --help`",
        ),
        (["import", "x.db"], "FILE is missing; - is the standard input; see `runfold import --help`"),
    ],
)
def test_misuse_is_told_in_one_line_with_exit_code_2(words, error):
    assert runfold(*words, code=2).stderr == f"Error: {error}\n"


def test_a_refusal_names_the_command_to_type_with_the_database_that_was_named(live, monkeypatch):
    named = runfold("show", live, "nobody", code=1).stderr
    monkeypatch.setenv("RUNFOLD_DB", str(live))
    left_out = runfold("show", "nobody", code=1).stderr

    assert named == f"Error: there is no run nobody; list the runs with `runfold runs {live}`\n"
    assert left_out == "Error: there is no run nobody; list the runs with `runfold runs`\n"


@pytest.mark.parametrize(
    ("typed", "said"),
    [("aprove", ", did you mean approve;"), ("run", ", did you mean runs;"), ("xyzzy", "xyzzy; see")],
)
def test_a_mistyped_command_is_told_the_nearest_one(typed, said):
    error = runfold(typed, "x.db", code=2).stderr

    assert error.startswith(f"Error: there is no command {typed}")
    assert said in error


def test_what_click_refuses_is_one_line_too(traced):
    for words in (
        ["nosuch"],
        ["runs", traced, "--nosuch"],
        ["runs", traced, "--limit", "-1"],
        ["runs", traced, "--phase", "x"],
    ):
        said = runfold(*words, code=2).stderr
        assert said.startswith("Error: ")
        assert re.search(r"; see `runfold( runs)? --help`\n$", said)
        assert said.count("\n") == 1


# --- what a terminal sees -----------------------------------------------------------------------------------------

LOOKS = [
    ["runs"], ["show", "run-1"], ["show", "run-2"], ["events"], ["tail"], ["confirmations"], ["confirmations", "--all"],
    ["stats"], ["doctor"], ["recover", "--dry-run"], ["rebuild", "--check"], ["rebuild"],
]  # fmt: skip


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_is_wider_than_the_terminal_nor_ends_in_spaces_nor_holds_control_codes(
    live, words, columns, monkeypatch
):
    monkeypatch.setenv("COLUMNS", str(columns))
    name, *rest = words
    said = CliRunner().invoke(main, [name, str(live.relative_to(Path.cwd())), *rest]).stdout

    assert said
    assert [line for line in said.splitlines() if len(line) > columns] == []
    assert "\x1b" not in said
    if name not in ("events", "tail", "show"):
        assert [line for line in said.splitlines() if line != line.rstrip()] == []


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_json_is_one_document_or_a_line_an_event(live, words):
    name, *rest = words
    said = CliRunner().invoke(main, [name, str(live), *rest, "--json"]).stdout

    if name in ("events", "tail"):
        assert all(isinstance(json.loads(line), dict) for line in said.splitlines())
    else:
        assert isinstance(json.loads(said), dict | list)


def test_a_terminal_gets_colours_unless_it_asks_for_none(live, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[32m" in runfold("runs", live, color=True).stdout

    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in runfold("runs", live, color=True).stdout


# --- one's own machines -------------------------------------------------------------------------------------------

OWN = (ROOT / "docs" / "examples" / "my_machine.py").read_text()


def test_an_app_brings_machines_and_projections(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "shop_of_the_test.py").write_text(OWN)
    (tmp_path / "orders.jsonl").write_text(
        '{"stream":"o-1","type":"OrderPlaced","data":{"item":"tea","quantity":2}}\n'
        '{"stream":"o-1","type":"OrderPaid","data":{"amount":3.5}}\n'
    )

    assert (
        "no machine here knows the event type OrderPlaced" in runfold("import", "x.db", "orders.jsonl", code=1).stderr
    )
    app = ("--app", "shop_of_the_test:APP")
    runfold("import", "x.db", "orders.jsonl", *app)
    assert asked("show", "x.db", "o-1", *app)["phase"] == "paid"
    assert asked("rebuild", "x.db", "items", "--check", *app)["rows"] == 1
    monkeypatch.setenv("RUNFOLD_APP", app[1])
    assert asked("stats", "x.db")["tables"][-1]["name"] == "items"


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("nosuch_module:APP", "cannot be loaded: ModuleNotFoundError"),
        ("json:nosuch", "cannot be loaded: AttributeError"),
        ("json:dumps", "is a function; it must be a projections.App"),
        ("json", "must be MODULE:NAME, such as my_machine:APP"),
    ],
)
def test_an_app_that_is_none_is_misuse(traced, spec, error):
    assert error in runfold("runs", traced, "--app", spec, code=2).stderr


# --- real processes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["events"], ["events", "--json"], ["export"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_error(tmp_path, words):
    with projections.connect(tmp_path / "x.db") as runs:
        runs.store.append("s", *[MessageOf(number) for number in range(5_000)])
    name, *rest = words
    running = process(name, tmp_path / "x.db", *rest)
    running.stdout.read(10)
    running.stdout.close()

    assert running.stderr.read() == b""
    assert running.wait(30) == 141
    running.stderr.close()


def MessageOf(number):  # noqa: N802 - stands for an event
    return LogRecorded("test", "line", payload=f"{number:0100}")


def test_tail_follows_and_ends_cleanly_on_ctrl_c(live):
    running = process("tail", live, "-f", "-n", "1", "--json")
    first = json.loads(running.stdout.readline())
    runfold("cancel", live, "run-3", "--by", "bob")
    second = json.loads(running.stdout.readline())
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=30)

    assert (second["position"], second["type"]) == (first["position"] + 1, "RunCancelled")
    assert (running.returncode, output, errors) == (0, b"", b"")


def test_ctrl_c_ends_a_command_with_130_and_nothing_written(live):
    running = process("import", live, "-", stdin=subprocess.PIPE)
    running.stdin.write(b'{"stream":"a","type":"MetaSet","data":{"name":"n"}}\n')
    running.stdin.flush()
    deadline = time.monotonic() + 30
    while not Path(f"{live}-shm").exists() and time.monotonic() < deadline:  # it has opened the database
        time.sleep(0.01)
    time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)

    assert running.returncode == 130
    assert errors.strip() == b""
    assert "a" not in {json.loads(line)["stream"] for line in runfold("export", live).stdout.splitlines()}


def test_a_slow_pipe_does_not_hold_the_write_lock(live):
    running = process("import", live, "-", stdin=subprocess.PIPE)
    running.stdin.write(b'{"stream":"a","type":"MetaSet","data":{"name":"n"}}\n')
    running.stdin.flush()
    runfold("cancel", live, "run-3")  # would wait for the lock, and then fail
    output, _ = running.communicate(timeout=30)

    assert output == b"-: 1 event of 1 stream\n"


def test_output_that_the_terminal_cannot_encode_is_told_otherwise(traced):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    running = process("show", traced, "build-7", env=environment)
    output, errors = running.communicate(timeout=30)

    assert (running.returncode, errors) == (0, b"")
    assert b"\\u2014" in output


def test_what_nobody_foresaw_is_one_line_too(traced, monkeypatch):
    def broken(*_args, **_options):
        raise RuntimeError("something\nodd")

    monkeypatch.setattr("projections.runs.Runs.standings", broken)

    said = runfold("stats", traced, code=1).stderr
    assert said.startswith("Error: unexpected RuntimeError: something odd; set RUNFOLD_TRACEBACK=1")
    assert said.count("\n") == 1


def test_ctrl_c_while_the_command_is_still_being_imported_ends_it_without_a_word():
    program = """
import sys

class Interrupted:
    def find_spec(self, name, *_):
        if name == "click":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from projections.command import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_a_database_that_may_not_be_written_is_refused_with_what_can_be_typed():
    error = explained(sqlite3.OperationalError("attempt to write a readonly database"), "m/log.db", 1.0)

    assert plainly(error) == (
        "cannot open m/log.db: it may not be written; check permissions, or work on a copy elsewhere, such as a "
        "restored backup"
    )
