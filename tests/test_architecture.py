"""The shape of the house: who may import whom, what is exported, how long a file may be."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import eventstore
import projections

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("eventstore/**/*.py"), *ROOT.glob("projections/**/*.py")])

LONGER = {
    "eventstore/workflow.py": "everything about the run machine is in one file, read from top to bottom",
    "eventstore/errors.py": "a flat list of classes under one tree; parting it would hide the tree",
    "projections/testing/daemon.py": "one Hypothesis state machine is one class",
}


def test_every_arrow_points_the_way_the_design_draws_it():
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [lint, "--no-cache"], cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stdout + result.stderr


def test_the_faces_hold_these_names_and_no_more():
    assert sorted(eventstore.__all__) == [
        "Cursor", "EventStore", "EventStoreError", "Json", "LogRecorded", "Machine", "MetaSet", "RUN", "Recorded",
        "Refused", "Stream", "Upcaster", "connect",
    ]  # fmt: skip
    assert sorted(projections.__all__) == [
        "Answer", "App", "Attempt", "Child", "Projection", "Range", "Recovery", "Report", "Retention", "Runs", "System",
        "View", "Worker", "aconnect", "connect", "restore", "stop_on_sigterm",
    ]  # fmt: skip
    for face in (eventstore, projections):
        assert all(hasattr(face, name) for name in face.__all__)


@pytest.mark.parametrize("face", [eventstore, projections], ids=lambda face: face.__name__)
def test_a_face_gives_what_type_checkers_are_told_and_no_more_and_holds_nothing_else(face):
    tree = ast.parse(Path(face.__file__).read_text())
    (told,) = [node for node in tree.body if isinstance(node, ast.If)]
    promised = {name.name: node.module for node in told.body for name in node.names}

    assert {type(node) for node in tree.body} <= {ast.Expr, ast.If, ast.Assign}
    assert {type(node) for node in (*told.body, *told.orelse)} <= {ast.ImportFrom, ast.Assign}
    assert sorted(promised) == sorted(face.__all__)
    for name, room in promised.items():
        assert getattr(face, name) is getattr(importlib.import_module(room), name)
    assert set(dir(face)) > set(face.__all__)
    with pytest.raises(AttributeError, match=f"module '{face.__name__}' has no attribute 'nothing'"):
        face.nothing  # noqa: B018


def loaded_by(program):
    """The modules that a new Python has loaded after a program and would not have without."""
    tell = "; import sys; print(*sys.modules)"
    bare, full = (
        subprocess.run([sys.executable, "-c", text + tell], cwd=ROOT, capture_output=True, text=True, check=True)
        for text in ("pass", program)
    )
    return set(full.stdout.split()) - set(bare.stdout.split())


def test_importing_either_side_imports_nothing_else_until_a_name_is_asked_for():
    assert loaded_by("import eventstore") == {"eventstore", "eventstore.facing"}
    assert loaded_by("import projections") == {"eventstore", "eventstore.facing", "projections"}
    assert loaded_by("import projections.cli") & {"attr", "orjson", "rpds", "projections.runs"} == set()
    assert loaded_by("from eventstore import Refused") & {"attr", "orjson", "rpds", "eventstore.log"} == set()


@pytest.mark.parametrize(
    ("program", "more"),
    [
        ("import eventstore; eventstore.connect('memory:').append('a', eventstore.MetaSet('b', 1))", {"sqlite3"}),
        ("import projections; projections.connect('memory:').submit('deploy')", {"sqlite3"}),
        ("import projections, sys; sys.argv = ['runfold']; import projections.cli", set()),
    ],
    ids=["the write side", "the read side", "the command"],
)
def test_what_is_heavy_is_imported_by_those_who_need_it(program, more):
    """cattrs alone takes longer than all of ours; a program of plain events on one thread never needs any of these."""
    heavy = {"cattrs", "sqlite_utils", "zstandard", "hypothesis", "pytest", "numpy", "matplotlib", "asyncio"}
    heavy |= {"concurrent.futures", "logging"} if "eventstore." in program else set()
    heavy |= {"click", "rich"} if "cli" not in program else set()

    assert loaded_by(program) & (heavy | more) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_room_and_opens_with_what_it_is_for(path):
    text = path.read_text()
    name = str(path.relative_to(ROOT))

    assert len(text.splitlines()) <= 500 or name in LONGER
    assert not text or ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_function_fits_a_screen(path):
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno > 70]
    assert long == []


def test_no_statement_is_prepared_anew_each_time_because_its_limit_is_bound():
    """SQLite with STAT4 plans by the value of a bare `LIMIT ?`; a plus in front of it is all it takes."""
    assert [path for path in SOURCES if re.search(r"LIMIT \?[^:]", path.read_text().replace("`LIMIT ?`", ""))] == []


def test_no_feature_needs_a_clock_of_its_own():
    """Clocks are arguments of the shells: nothing calls datetime.now or utcnow."""
    callers = [path for path in SOURCES if "datetime.now(" in path.read_text() or ".utcnow(" in path.read_text()]

    assert [path for path in callers if 'use datetime.now(UTC)"' not in path.read_text()] == []
