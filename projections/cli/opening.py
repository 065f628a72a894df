"""What the commands have in common: where the database stands among the words, `--json`, `--app`, and opening it.

A command that takes a database is written as a function of the opened store. DATABASE comes first. With RUNFOLD_DB
set it is left out; a command of a fixed number of words still takes it when there is one word more, while one that
ends in a list (files, names) cannot tell and goes by the variable.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import projections
from eventstore.connecting import is_open, path_of
from eventstore.errors import EventStoreError, StaleProjection
from projections.cli.refusals import plainly

if TYPE_CHECKING:
    from projections import App, Runs

ENVIRONMENT = "RUNFOLD_DB"
KEY_FILE = "RUNFOLD_KEY_FILE"
_RAW = 32
_HEX = re.compile(r"[0-9a-fA-F]{64}")
BUSY_TIMEOUT = 10.0
"""Seconds that an operator waits for another process's lock; a daemon is more patient."""

Function = Callable[..., None]


def store_command(
    *names: str,
    rest: str = "",
    create: bool = False,
    opened: bool = True,
    name: str | None = None,
    instead: tuple[str, ...] = (),
) -> Callable[[Function], click.Command]:
    """Make a command of a function of `runs`, one text for each of these names, `as_json`, and its own options.

    Args:
        names: of the words after DATABASE.
        rest: the name of a list of words at the end.
        create: make the database where there is none.
        opened: open the store; else the function gets `database` and `app` and does so itself.
        name: of the command, if not the function's.
        instead: options of which one takes the place of the words; the function then gets None for each.
    """
    words_shown = (f"[{word.upper()}]" if instead else word.upper() for word in names)
    metavar = " ".join(["DATABASE", *words_shown, *([f"[{rest.upper()}]..."] if rest else [])])

    def decorate(function: Function) -> click.Command:
        @functools.wraps(function)
        def call(*, words: tuple[str, ...], app: str | None, **options: Any) -> None:
            taken = next((f"--{option.replace('_', '-')}" for option in instead if options[option]), None)
            if taken and len(words) > 1:
                surplus = f"{' '.join(map(str.upper, names))} {' '.join(words[1:])}"
                raise click.UsageError(
                    f"{taken} is about the database {words[0]} alone; leave out {taken}, or {surplus}"
                )
            database, arguments = _placed(words, () if taken else names, rest)
            given = {**dict.fromkeys(names), **arguments, **options}
            try:
                if not opened:
                    function(database, app, **given)
                    return
                with connect(database, app, create=create) as runs:
                    function(runs, **given)
            except EventStoreError as error:
                if isinstance(error, StaleProjection) and not _may_be_written(database):
                    fact = f"{error.name} {error.reason}, and {database} may not be written"
                    advice = f"{fact}; work on a copy elsewhere, such as a restored backup"
                    raise click.ClickException(advice) from error
                raise click.ClickException(_to_be_typed(plainly(error), database)) from error

        call = click.option(
            "--app",
            metavar="MODULE:NAME",
            envvar="RUNFOLD_APP",
            help="Your own machines and projections; also RUNFOLD_APP. The current folder is searched first.",
        )(call)
        call = click.option(
            "--key-file",
            metavar="PATH",
            envvar=KEY_FILE,
            expose_value=False,
            callback=_remember,
            help=f"Holds the key of an encrypted database; also {KEY_FILE}.",
        )(call)
        call = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(call)
        call = click.argument("words", nargs=-1, metavar=metavar)(call)
        command = click.command(name=name)(call)
        command.params.sort(
            key=lambda parameter: parameter.name in ("as_json", "app", "key_file")
        )  # its own options come first
        return command

    return decorate


def connect(database: str, app: str | None, *, create: bool = False, **more: Any) -> Runs:
    """Open a database as every command does; one that may not be written, as a backup on its medium, to be read."""
    brought = load(app) if app else None
    options: dict[str, Any] = {} if database == "memory:" else {"create": create, "busy_timeout": BUSY_TIMEOUT, **more}
    if options and not more.get("accept_loss") and not _may_be_written(database):  # a loss is written down
        options["read_only"] = True
    return projections.connect(database, app=brought, **options, **secret())


def _may_be_written(database: str) -> bool:
    path = path_of(database)
    return path is None or not Path(path).exists() or os.access(path, os.W_OK)


def secret() -> dict[str, Any]:
    """What `--key-file` says of how databases are opened by the command that runs: their key, or nothing."""
    path = click.get_current_context().meta.get(KEY_FILE)
    return {} if path is None else {"key": key_in(path, "--key-file")}


def key_in(path: str, option: str) -> bytes | str:
    """The key that a file holds: 32 raw bytes, or 64 hex digits for such, or a passphrase, whose line may end.

    Raises:
        click.UsageError: it cannot be read, or holds none.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{option} {path} cannot be read: {error.strerror}") from error
    if len(data) == _RAW:
        return data
    try:
        line = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        line = ""
    if not line:
        raise click.UsageError(f"{option} {path} holds no key: 32 raw bytes, 64 hex digits, or a passphrase in UTF-8")
    return bytes.fromhex(line) if _HEX.fullmatch(line) else line


def _remember(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    context.meta[KEY_FILE] = value


def load(spec: str) -> App:
    """The `App` that `package.module:NAME` names.

    Raises:
        click.UsageError: there is no such thing.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise click.UsageError(f"--app {spec} must be MODULE:NAME, such as my_machine:APP")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (KeyboardInterrupt, EventStoreError):
        raise
    except Exception as error:  # it is the user's module, and may raise anything
        raise click.UsageError(f"--app {spec} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(found, projections.App):
        raise click.UsageError(f"--app {spec} is a {type(found).__name__}; it must be a projections.App")
    return found


def refuse_ours(target: str | None) -> None:
    """Refuse to write over the database that is open, or what stands beside it.

    Raises:
        click.UsageError: this is one of its files.
    """
    if target not in (None, "-") and is_open(Path(str(target)).resolve()):
        raise click.UsageError(f"{target} is the database itself, or a file beside it; choose another name")


def same_file(one: str, other: str) -> bool:
    """Whether two names lead to one file. It looks and never opens: that would drop SQLite's locks."""
    try:
        return Path(one).samefile(other)
    except OSError:
        return False


_COMMAND = re.compile(r"`runfold (?!restore)((?:blobs )?[a-z]+)(?=[ `])")


def _to_be_typed(words: str, database: str) -> str:
    """A refusal whose commands can be typed as they stand: the library does not know which database was named here."""
    if database == os.environ.get(ENVIRONMENT):
        return words
    return _COMMAND.sub(lambda found: f"{found[0]} {shlex.quote(database)}", words)


def _placed(words: tuple[str, ...], names: tuple[str, ...], rest: str) -> tuple[str, dict[str, Any]]:
    """The database and the other words by their names.

    Raises:
        click.UsageError: too few or too many.
    """
    environment = os.environ.get(ENVIRONMENT)
    given = list(words)
    if environment and (rest or len(given) <= len(names)):
        database = environment
    elif given:
        database = given.pop(0)
    else:
        raise click.UsageError(f"DATABASE is missing: name it, or set {ENVIRONMENT}")
    if missing := names[len(given) :]:
        verb = "is" if len(missing) == 1 else "are"
        raise click.UsageError(f"{' and '.join(map(str.upper, missing))} {verb} missing after the database {database}")
    arguments: dict[str, Any] = dict(zip(names, given, strict=False))
    if rest:
        return database, {**arguments, rest: tuple(given[len(names) :])}
    if surplus := given[len(names) :]:
        raise click.UsageError(
            f"nobody knows what to do with {' '.join(surplus)} after {' '.join(words[: -len(surplus)])}"
        )
    return database, arguments
