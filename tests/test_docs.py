"""The documentation cannot lie: pages are run, the reference is drawn from the code, links and names resolve."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from docs import generate, generate_command, pages
from eventstore.errors import RunExists

ROOT = Path(__file__).parent.parent
PAGES = pages.every_page()
RUNNABLE = [page for page in PAGES if pages.runnable(page)]
PROSE = [page for page in PAGES if page.parent.name != "reference"]


def relative(page):
    return str(page.relative_to(ROOT))


def without_code(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """What GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page):
    found = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text()))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", RUNNABLE, ids=relative)
def test_a_page_shows_what_comes_when_a_reader_does_as_it_says(page):
    if page.name == "encrypt-a-store.md":
        pytest.importorskip("sqlcipher3", reason="the extra runfold[encryption] is not installed")
    wrong = pages.run(page)

    assert wrong == [], "\n".join(map(str, wrong))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_no_page_holds_the_mark_of_a_merge_that_nobody_finished(page):
    marked = [line for line in page.read_text().splitlines() if re.match(r"(<{7}|={7}|>{7})( |$)", line)]

    assert marked == []


def test_the_tutorial_kills_a_real_process_and_brings_the_run_to_its_end():
    tutorial = (ROOT / "docs/tutorial/index.md").read_text()
    commands = [
        line for block in pages.blocks(tutorial) if block.language == "console" for line in block.text.split("\n")
    ]

    assert "$ kill -9 $!" in commands
    assert any(line.split()[:1] == ["release-1"] and "completed" in line for line in commands)


def test_the_example_of_the_readme_ships_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = (block for block in pages.blocks((ROOT / "README.md").read_text()) if block.language == "python")
    printed = io.StringIO()

    with contextlib.redirect_stdout(printed):
        exec(example.text, {"__name__": "readme"})

    assert printed.getvalue().splitlines()[-1] == "shipped to prod"

    with pytest.raises(RunExists, match="run-42 was submitted before and is completed; give the new run another"):
        exec(example.text, {"__name__": "readme"})
    for path in tmp_path.glob("agent.db*"):
        path.unlink()
    with contextlib.redirect_stdout(printed):
        exec(example.text, {"__name__": "readme"})
    assert printed.getvalue().splitlines()[-1] == "shipped to prod"


def test_the_pages_drawn_from_the_code_are_up_to_date():
    checked = CliRunner().invoke(generate.main, ["--check"])

    assert checked.exit_code == 0, f"{checked.output}run `python docs/generate.py`"


@pytest.mark.parametrize("script", [generate.main, pages.main, generate_command.write])
@pytest.mark.parametrize("asked", ["--help", "--no-such-option"])
def test_a_script_of_the_docs_that_is_asked_for_help_does_nothing_else(script, asked, monkeypatch):
    monkeypatch.setattr(Path, "write_text", None)
    monkeypatch.setattr(pages, "every_page", None)

    answered = CliRunner().invoke(script, [asked])

    assert "Usage: " in answered.output
    assert answered.exit_code == (0 if asked == "--help" else 2)


def test_a_page_that_shows_something_else_is_found_and_put_right(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo 2026-01-31 one\n2025-12-24 two\n$ echo same\nsame\n```\n")

    (wrong,) = pages.run(page)
    assert "echo 2026-01-31 one" in wrong.what

    assert pages.run(page, write=True) == []
    assert page.read_text() == "```console\n$ echo 2026-01-31 one\n2026-01-31 one\n$ echo same\nsame\n```\n"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("```python\nassert False, 'no'\n```\n", "AssertionError: no"),
        ("```pycon\n>>> 1 + 1\n3\n```\n", "Got:\n    2"),
        ("<!-- from: docs/examples/my_machine.py -->\n```python\nnot there\n```\n", "no part of"),
    ],
    ids=["python", "pycon", "from"],
)
def test_each_kind_of_block_can_be_found_wrong(tmp_path, text, what):
    page = tmp_path / "page.md"
    page.write_text(text)

    (wrong,) = pages.run(page)
    assert what in str(wrong)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_link_leads_somewhere(page):
    missing = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)

    assert missing == []


def test_every_page_is_reached_from_the_first_one():
    seen = {ROOT / "docs/index.md"}
    pending = list(seen)
    while pending:
        page = pending.pop()
        near = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
        inside = {found for folder in near if folder.is_dir() for found in folder.glob("*.md")}
        new = {found for found in near | inside if found.suffix == ".md" and found.is_file()} - seen
        seen |= new
        pending += new

    assert set(PAGES) - seen <= {ROOT / "README.md"}


def test_every_promise_names_tests_that_exist():
    sources = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("property_tests/**/*.py"), *ROOT.glob("*/testing/*.py")]
    known = set(re.findall(r"def (test_\w+)", "\n".join(source.read_text() for source in sources)))
    text = (ROOT / "docs/explanation/guarantees.md").read_text()
    promised = text.partition("## Promised")[2].partition("## Not promised")[0]
    rows = [line for line in promised.splitlines() if line.startswith("| **")]

    assert rows
    assert [row for row in rows if "`test_" not in row] == []
    assert set(re.findall(r"`(test_\w+)`", text)) - known == set()


def test_the_commands_for_contributors_are_those_that_ci_runs():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    commands = {line for block in pages.blocks(text) if block.language == "sh" for line in block.text.splitlines()}
    run = (ROOT / ".ci/run").read_text() + (ROOT / "README.md").read_text()

    own = {".venv/bin/python docs/generate.py", ".venv/bin/python docs/pages.py"}
    assert {command for command in commands - own if command not in run} == set()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_no_page_speaks_of_the_machine_it_was_written_on(page):
    text = page.read_text()

    assert not re.search(r"/(work|root|home|tmp)/\w|/\.pyenv|" + re.escape(str(ROOT)), text)
