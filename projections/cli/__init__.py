"""The command `runfold`: what an operator does at a terminal, and what a script does instead of one.

    runfold COMMAND DATABASE …        or, with RUNFOLD_DB set,        runfold COMMAND …

Exit codes: 0 good, 1 something wrong was found or refused, 2 misused, 130 interrupted, 141 the reader of a pipe went
away. An error is one line on stderr. Each command is loaded when it is called for, so that `--help` is quick.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, NoReturn

import click

from eventstore.errors import EventStoreError

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Runs": {
        "runs": ("projections.cli.runs", "List runs, active ones first."),
        "show": ("projections.cli.runs", "Tell the life of one run."),
        "search": ("projections.cli.search", "Find messages, titles and summaries by their words."),
        "tree": ("projections.cli.tree", "Draw a run and all under it, with what they spent."),
        "messages": ("projections.cli.messages", "Tell what was said in a run."),
        "jobs": ("projections.cli.jobs", "List jobs, the newest first; or show one, with its runs."),
        "cancel": ("projections.cli.runs", "End a run from outside, at once."),
        "interrupt": ("projections.cli.runs", "Ask a run to stop."),
        "settle": ("projections.cli.questions", "Say how a call ended that never returned."),
    },
    "Questions": {
        "confirmations": ("projections.cli.questions", "List the questions that wait for a person."),
        "approve": ("projections.cli.questions", "Say yes to a question."),
        "deny": ("projections.cli.questions", "Say no to a question."),
    },
    "Log": {
        "events": ("projections.cli.log", "List events, in the order of the log."),
        "tail": ("projections.cli.log", "Show the last events, and follow new ones."),
        "log": ("projections.cli.notes", "List generic entries (LogRecorded), in the order of the log."),
        "import": ("projections.cli.log", "Append events from JSON Lines files."),
        "export": ("projections.cli.log", "Write the log as JSON Lines."),
        "stats": ("projections.cli.log", "Count what there is."),
    },
    "Upkeep": {
        "recover": ("projections.cli.tables", "Settle what dead workers left."),
        "rebuild": ("projections.cli.tables", "Make the tables anew from the log, or check them."),
        "verify": ("projections.cli.tables", "Prove storage, sealed days, chain, blobs, machines and tables."),
        "archive": ("projections.cli.archives", "Move old days out of the database into files."),
        "blobs": ("projections.cli.blobs", "Keep, give, check and collect the bytes beside the log."),
        "backup": ("projections.cli.backups", "Bring a backup folder up to the log as it is now."),
        "restore": ("projections.cli.backups", "Make a database of a backup, or put sealed days back."),
        "rekey": ("projections.cli.keys", "Give an encrypted database another key."),
        "doctor": ("projections.cli.doctor", "Examine the installation and a database."),
        "demo": ("projections.cli.demo", "Perform runs under kill -9 and prove the result."),
    },
}
"""Every command: the module that holds it, and what it does, as its own help begins."""
_PLACES = {name: place for commands in SECTIONS.values() for name, place in commands.items()}

GOOD, WRONG, MISUSED, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141


class _ReaderGone(Exception):
    """Whoever read our output has gone away. Click would make an exit code of its own of a BrokenPipeError."""


class Runfold(click.Group):
    """The group of all commands; it loads each when asked, and turns every error into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """See click."""
        return list(_PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """See click."""
        if cmd_name not in _PLACES:
            return None
        module = importlib.import_module(_PLACES[cmd_name][0])
        name = f"{cmd_name}_" if cmd_name == "import" else cmd_name
        command: click.Command = getattr(module, name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See click; a mistyped command is told the nearest one."""
        if args[0] not in _PLACES and args[0][:1].isalnum():
            near = get_close_matches(args[0], _PLACES, n=1)
            raise click.UsageError(
                f"there is no command {args[0]}" + (f", did you mean {near[0]}?" if near else ""), ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """See click; the summaries stand here, so that no command need be loaded."""
        width = max(map(len, _PLACES))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), summary) for name, (_, summary) in commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """See click."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderGone from None

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run a command and leave the process with its exit code."""
        extra = {"prog_name": "runfold", **extra}
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a sign shows another
                stream.reconfigure(errors="backslashreplace")
        code = self._code(*args, **extra)
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            code = READER_GONE
        if code == READER_GONE:
            _silence()
        sys.exit(code)

    def _code(self, *args: Any, **extra: Any) -> int:
        try:
            result: Any = super().main(*args, **{**extra, "standalone_mode": False})
        except _ReaderGone:
            return READER_GONE
        except click.exceptions.Abort:
            return INTERRUPTED
        except click.UsageError as error:
            return _misused(error)
        except Exception as error:  # noqa: BLE001 - an operator is told in one line, whatever it was
            if os.environ.get("RUNFOLD_TRACEBACK"):
                traceback.print_exc()
            _tell(_words(error))
            return WRONG
        return result if isinstance(result, int) else GOOD


def _misused(error: click.UsageError) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # click 8.2 and later
        error.show()
        return MISUSED
    path = error.ctx.command_path if error.ctx else "runfold"
    words = error.format_message().rstrip(".?").replace("is not a valid integer range", "is no whole number")
    _tell(f"{words}; see `{path} --help`")
    return MISUSED


def _words(error: Exception) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, EventStoreError):
        from projections.cli.refusals import plainly  # noqa: PLC0415 - it knows the machine, whose import takes longest

        return plainly(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    if type(error).__module__.partition(".")[0] in ("sqlite3", "pysqlite3", "sqlcipher3"):
        return f"SQLite says: {error}{notes}; `runfold doctor` tells more"
    name = type(error).__name__
    return f"unexpected {name}: {error}{notes}; set RUNFOLD_TRACEBACK=1 to see where, and please report it"


def _tell(words: str) -> None:
    # One line, whatever came in with an argument or a payload, and no control codes for the terminal to obey.
    line = " ".join(words.split())
    click.echo("Error: " + "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line), err=True)


def _silence() -> None:
    """Let what is still buffered go nowhere, or the interpreter complains of the broken pipe when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.command("runfold", cls=Runfold, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="runfold", message="%(prog)s %(version)s")
def main() -> None:
    """The run store for agent daemons: an append-only log, and everything else a fold of it.

    Every command names its DATABASE first; with RUNFOLD_DB set, leave it out. With --json they print for programs.
    Exit codes: 0 good, 1 something wrong was found or refused, 2 misused.
    """
