"""Bad input gets a clear answer, and changes nothing: each case of the table is run, and the page says what it got."""

import os
import shutil
from pathlib import Path

import pytest

import projections
from eventstore.exchange import export_lines
from projections.cli import main
from tests.bad_input import ALL, BUSY_TIMEOUT, COMMANDS, HEAD, LINES, PAGE, Case, answer, page, prepare, row

GOT: dict[Case, tuple[str, str]] = {}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What each case begins with, made once."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder)
    return folder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, prepared):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNFOLD_DB", raising=False)
    monkeypatch.setattr("projections.cli.opening.BUSY_TIMEOUT", BUSY_TIMEOUT)
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)


def log() -> bytes:
    with projections.connect("runs.db", create=False) as runs:
        return b"".join(export_lines(runs.store))


def files() -> dict[str, bytes]:
    """Every file but those that SQLite keeps while a database is open."""
    own = (path for path in Path().rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {str(path): path.read_bytes() for path in own if path.name != "bad.jsonl"}


@pytest.mark.parametrize("case", ALL, ids=lambda case: f"{case.what}: {case.tried[:40]}")
def test_bad_input_is_refused_clearly_and_changes_nothing(case):
    before, stood = files(), log()
    code, message = answer(case)

    assert files() == before
    assert log() == stood
    assert message
    assert "Traceback" not in message
    if case in LINES or case in COMMANDS:
        assert code in ("1", "2")
        assert message.startswith("Error: ")
        assert message.count("\n") == 1
    else:
        assert code not in ("nothing", "EventStoreError")
    assert row(case, (code, message)) in PAGE.read_text(), "run python -m tests.bad_input"


def test_the_page_holds_every_case_and_no_other():
    written = PAGE.read_text()

    assert written.startswith(HEAD)
    assert written == page({case: _of(written, case) for case in ALL}), "run python -m tests.bad_input"


def _of(written: str, case: Case) -> tuple[str, str]:
    """What the page says that a case got."""
    begin = row(case, ("\0", "")).partition("\0")[0]
    line = next(line for line in written.splitlines() if line.startswith(begin))
    code, _, message = line[len(begin) :].removesuffix(" |").partition(" | ")
    return code, message.replace("&lt;", "<").replace("\\|", "|")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_permission_is_refused(tmp_path):
    sealed = tmp_path / "sealed"
    sealed.mkdir(mode=0o500)

    code, message = answer(Case("sealed", "runfold import sealed/x.db good.jsonl"))
    assert code == "1"
    assert message.startswith("Error: cannot open sealed/x.db: it cannot be opened; check the name and the permissions")
    assert list(sealed.iterdir()) == []


def test_the_command_of_the_table_is_the_one_that_is_installed():
    assert main.name == "runfold"
