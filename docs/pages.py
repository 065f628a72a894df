"""Run the pages of the documentation as a reader would, and compare what they show with what comes.

    python docs/pages.py [PAGE…]             # exit 1, and a diff, where a page shows something else
    python docs/pages.py --write [PAGE…]     # put what came into the pages

A page is run from top to bottom in an empty folder of its own: a `console` block in one shell, command by command, its
output compared; a `python` block in one namespace; a `pycon` block in the same namespace, as a doctest. A comment in
front of a block says what else it is:

    <!-- file: NAME -->      its text is a file of that name, which is written and not run
    <!-- from: PATH -->      it is a part of that file of the repository, which is copied into the folder and not run

A comment that begins with `setup` holds Python that is run and not shown: what the reader has already, and a test not.

Times, ages and made-up ids differ each time and are compared by their shape. A `runfold` with plain words is performed
in this process, which has imported it already; with anything that is bash's to do, in one of its own.
"""

from __future__ import annotations

import contextlib
import difflib
import doctest
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

import click
from attrs import define, frozen
from click.testing import CliRunner

from projections.cli import main as runfold

ROOT = Path(__file__).parent.parent
PATIENCE = 20.0
"""Seconds for which a `cat` of what another process writes may be looked at again."""
_SETUP = re.compile(r"^<!-- setup\n(?P<text>.*?)^-->$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(
    r"(?:^<!-- (?P<said>file|from): (?P<name>\S+) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_END = "__the_command_ended__"
_EXPORT = re.compile(r"export (?P<name>\w+)=(?P<value>[\w./-]+)")
_PLAIN = re.compile(r"""(?P<set>(?:\w+=[\w./-]+ )*)runfold (?P<words>(?:[\w ./:=,@+-]|'[^']*'|"[^"$`\\]*")+)""")
"""What bash would pass on as it stands: words and quoted ones, with variables in front."""


@frozen
class Block:
    """A fenced block of a page, and where its text stands in it."""

    language: str
    text: str
    start: int
    said: str | None = None
    name: str | None = None


@frozen
class Wrong:
    """A place where a page does not show what comes."""

    page: Path
    line: int
    what: str

    def __str__(self) -> str:
        shown = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page
        return f"{shown}:{self.line}: {self.what}"


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = [
        Block(block["language"], block["text"], block.start("text"), block["said"], block["name"])
        for block in _BLOCK.finditer(text)
    ]
    found += [Block("python", setup["text"], setup.start("text")) for setup in _SETUP.finditer(text)]
    return sorted(found, key=lambda block: block.start)


def runnable(page: Path) -> bool:
    """Whether a page has anything to run."""
    return any(block.language in ("python", "console", "pycon") for block in blocks(page.read_text()))


def run(page: Path, *, write: bool = False) -> list[Wrong]:
    """Run a page; what it shows wrongly. With `write`, console output is put right in the page."""
    text = page.read_text()
    with tempfile.TemporaryDirectory(prefix="page-") as folder, _Shell(Path(folder)) as shell:
        running = _Running(page, text, Path(folder), shell)
        for block in blocks(text):
            running.take(block)
    if write and running.changed:
        for start, old, new in reversed(running.changed):
            text = text[:start] + new + text[start + len(old) :]
        page.write_text(text)
        return [wrong for wrong in running.wrong if "shows" not in wrong.what]
    return running.wrong


@define
class _Running:
    """A page that is being run."""

    page: Path
    text: str
    folder: Path
    shell: _Shell
    namespace: dict
    wrong: list[Wrong]
    changed: list[tuple[int, str, str]]

    def __init__(self, page: Path, text: str, folder: Path, shell: _Shell) -> None:
        self.__attrs_init__(page, text, folder, shell, {"__name__": "__page__"}, [], [])

    def take(self, block: Block) -> None:
        """Run one block."""
        if block.said == "file":
            (self.folder / block.name).write_text(block.text)
        elif block.said == "from":
            self._part(block)
        elif block.language == "console":
            self._console(block)
        elif block.language == "pycon":
            self._inside(block, self._doctest)
        elif block.language == "python":
            self._inside(block, self._python)

    def _part(self, block: Block) -> None:
        source = ROOT / block.name
        if block.text.strip() not in source.read_text():
            self._say(block.start, f"this is no part of {block.name}")
        shutil.copy(source, self.folder)

    def _inside(self, block: Block, how) -> None:
        """Run Python in the page's folder, its modules and its output apart from ours."""
        here = Path.cwd()
        os.chdir(self.folder)
        sys.path.insert(0, str(self.folder))
        known = set(sys.modules)
        try:
            how(block)
        finally:
            os.chdir(here)
            sys.path.remove(str(self.folder))
            for name in set(sys.modules) - known:
                if str(self.folder) in str(getattr(sys.modules[name], "__file__", "")):
                    del sys.modules[name]

    def _python(self, block: Block) -> None:
        line = self.text[: block.start].count("\n")
        try:
            code = compile("\n" * line + block.text, str(self.page), "exec")
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, self.namespace)  # noqa: S102 - the page's own
        except Exception as error:  # noqa: BLE001 - whatever a page does wrongly is told
            self._say(block.start, f"raises {type(error).__name__}: {error}")

    def _doctest(self, block: Block) -> None:
        line = self.text[: block.start].count("\n")
        test = doctest.DocTestParser().get_doctest(block.text, self.namespace, self.page.name, str(self.page), line)
        told = io.StringIO()
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        runner = doctest.DocTestRunner(checker=_Checker(), optionflags=flags, verbose=False)
        runner.run(test, out=told.write, clear_globs=False)
        self.namespace.update(test.globs)
        if told.getvalue():
            self._say(block.start, told.getvalue())

    def _console(self, block: Block) -> None:
        shown = ""
        place = block.start
        for command, expected in _commands(block.text):
            came = self.shell.run(command)
            deadline = time.monotonic() + PATIENCE
            while command.startswith("cat ") and expected and not same(came, expected) and time.monotonic() < deadline:
                time.sleep(0.05)
                came = self.shell.run(command)
            if not same(came, expected):
                diff = difflib.unified_diff(expected.splitlines(), came.splitlines(), "shown", "came", lineterm="", n=1)
                self._say(place, f"`{command}` shows something else:\n" + "\n".join(diff))
                shown += f"$ {command}\n{came}"
            else:
                shown += f"$ {command}\n{expected}"
            place += len(f"$ {command}\n{expected}")
        if shown != block.text:
            self.changed.append((block.start, block.text, shown))

    def _say(self, place: int, what: str) -> None:
        self.wrong.append(Wrong(self.page, self.text[:place].count("\n") + 1, what))


class _Checker(doctest.OutputChecker):
    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(_shape(want), _shape(got), optionflags)


class _Shell:
    """One bash for the whole page, so that variables, background jobs and `$!` are as a reader has them."""

    def __init__(self, folder: Path) -> None:
        python = Path(sys.executable).parent
        self._folder = folder
        self._exported: dict[str, str] = {}
        self._environment = environment = {
            "PATH": f"{python}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "COLUMNS": "100",
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],  # noqa: S607 - the reader's own
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # What the page left running in the background goes with its shell: the session is our own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def run(self, command: str) -> str:
        """The output of a command, both streams, without what bash says about jobs that were killed."""
        if exported := _EXPORT.fullmatch(command):
            self._exported[exported["name"]] = exported["value"]
        elif plain := _PLAIN.fullmatch(command):
            return self._inside(plain["words"], dict(pair.split("=", 1) for pair in plain["set"].split()))
        # What is killed is dead a little later; a reader does not type as fast as the next command comes here.
        settled = "wait $! 2>/dev/null\n" if command.startswith("kill ") else ""
        self._process.stdin.write(f"{command}\n{settled}printf '%s\\n' {_END}\n")
        self._process.stdin.flush()
        lines = []
        for line in self._process.stdout:
            if line.endswith(f"{_END}\n"):
                lines.append(line.removesuffix(f"{_END}\n"))
                break
            lines.append(line)
        else:
            lines.append("(the shell ended)\n")
        kept = [line.rstrip() for line in lines if not re.match(r"bash: (line \d+: )?\s*\d+ Killed", line)]
        text = "\n".join(kept).rstrip("\n")
        return f"{text}\n" if text else ""

    def _inside(self, words: str, given: dict[str, str]) -> str:
        """As `run`, without a process: a third of a second less for each of a hundred commands."""
        ours = dict.fromkeys((name for name in os.environ if name.startswith("RUNFOLD_")), None)
        with contextlib.chdir(self._folder):
            told = CliRunner(env={**ours, **self._environment, **self._exported, **given}).invoke(
                runfold, shlex.split(words)
            )
        if told.exception is not None and not isinstance(told.exception, SystemExit):
            raise told.exception
        text = "\n".join(line.rstrip() for line in told.output.splitlines()).rstrip("\n")
        return f"{text}\n" if text else ""


def _commands(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output that follows it."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


_SHAPES = (
    (r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?)?", "DATE"),
    (r"\b\d\d:\d\d:\d\d\b", "TIME"),
    (r"\b\d+ (s|min|h|d)( ago)?\b", "AGE"),
    (r"(?<=[a-z]:)[0-9a-f]{8}\b", "ID"),
    (r"\brun-[0-9a-f]{16}\b", "RUN"),
    (r"\b[0-9a-f]{16}…", "HASH"),
    (r"\bat once\b|\bin AGE", "TOOK"),
    (r"\b\d+(\.\d+)? (kB|MB)\b", "SIZE"),
    (r"\bCPython [\d.]+|\b\d+\.\d+\.\d+ by (py)?sqlite3", "VERSION"),
    (r"(?<=packages) .*", " WHERE"),
    (r"[ \t]+", " "),
    (r" $", ""),
)


def _shape(text: str) -> str:
    """A text with whatever differs each time replaced by a word."""
    for pattern, word in _SHAPES:
        text = re.sub(pattern, word, text, flags=re.MULTILINE)
    return text.strip()


def same(one: str, other: str) -> bool:
    """Whether two outputs are the same but for times, ages, ids, and where a line was cut."""
    left, right = _shape(one).splitlines(), _shape(other).splitlines()
    return len(left) == len(right) and all(map(_same_line, left, right))


def _same_line(one: str, other: str) -> bool:
    if one.endswith("…") and other.endswith("…"):
        length = min(len(one), len(other)) - 8
        return one[:length] == other[:length]
    return one == other


def every_page() -> list[Path]:
    """All pages of the repository that a reader meets."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@click.command()
@click.argument("named", metavar="[PAGE]...", nargs=-1, type=click.Path(path_type=Path, exists=True, resolve_path=True))
@click.option("--write", is_flag=True, help="Put what came into the pages.")
def main(*, named: tuple[Path, ...], write: bool) -> None:
    """Run the pages that are named, or all, and exit with 1 where one shows something else than what comes."""
    wrong = [item for page in named or every_page() if runnable(page) for item in run(page, write=write)]
    for item in wrong:
        print(item)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
