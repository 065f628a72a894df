"""`events`, `tail`, `import`, `export`, `stats`: the log itself."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
from click.core import ParameterSource

from eventstore.archiving import KEEP_DAYS
from eventstore.connecting import path_of
from eventstore.errors import CannotOpen, InvalidArgument
from eventstore.exchange import Imported, export_lines, import_lines
from eventstore.files import OperatingSystem
from eventstore.limits import check_name
from eventstore.making import making, publish, sweep
from eventstore.workflow import Phase
from projections.cli import output
from projections.cli.growth import tell as tell_growth
from projections.cli.opening import connect, refuse_ours, same_file, secret, store_command
from projections.cli.telling import Teller
from projections.growth import MOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventstore.codec import Recorded
    from projections import Runs

_SPOOLED = 16 * 1024 * 1024
"""Bytes of a pipe that are kept in memory before they go to a temporary file."""


@store_command()
@click.option("--stream", metavar="NAME", help="Only those of this stream (a run's stream is named by its id).")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only of this type; may be given several times.")
@click.option("--after", type=click.IntRange(0), default=0, metavar="POSITION", help="Only those after this position.")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@click.option("--full", is_flag=True, help="Cut nothing off: each event is a line, however long.")
def events(  # noqa: PLR0917 - click names them all
    runs: Runs,
    stream: str | None,
    types: tuple[str, ...],
    after: int,
    limit: int | None,
    full: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """List events, in the order of the log.

    With --json each event is a line of its own.
    """
    found = _chosen(runs, stream, types, after)
    if limit is not None:
        found = islice(found, limit)
    if as_json:
        for recorded in found:
            output.line(output.event(recorded))
    elif not Teller(streams=True, full=full).tell_all(found):
        output.say("no events")


def _chosen(runs: Runs, stream: str | None, types: tuple[str, ...], after: int) -> Iterator[Recorded]:
    if stream is None:
        return runs.store.read_all(after=after, types=types or None)
    stored = runs.store.stored_names(types) if types else ()
    with runs.store.reading() as reading:
        if not reading.version(check_name("stream", stream)):
            raise InvalidArgument("stream", stream, "is none of this log; `runfold events` shows them")
    in_stream = (item for item in runs.store.read(stream) if item.position > after)
    return (item for item in in_stream if not types or item.entry.type in stored)


@store_command()
@click.option("-n", "--limit", type=click.IntRange(0), default=20, show_default=True, help="How many of the last.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new events as they come, until Ctrl-C.")
@click.option("--full", is_flag=True, help="Cut nothing off: each event is a line, however long.")
def tail(runs: Runs, limit: int, follow: bool, full: bool, as_json: bool) -> None:  # noqa: FBT001
    """Show the last events, and follow new ones.

    With --json each event is a line of its own.
    """
    teller = Teller(streams=True, full=full)
    start = max(runs.store.head().position - limit, 0)
    found = runs.store.follow(after=start) if follow else runs.store.read_all(after=start)
    try:
        for recorded in found:
            if as_json:
                output.line(output.event(recorded))
            else:
                teller.tell(recorded)
            if follow:
                sys.stdout.flush()
    except KeyboardInterrupt:
        if not follow:
            raise


# --- exchange -----------------------------------------------------------------------------------------------------


@store_command(rest="file", opened=False, name="import")
@click.option("--resume", is_flag=True, help="Skip what stands already with the same content, and append the rest.")
def import_(database: str, app: str | None, file: tuple[str, ...], resume: bool, as_json: bool) -> None:  # noqa: FBT001
    """Append events from JSON Lines files.

    A line is {"stream", "type", "data"} and, if known, "recorded_at", "occurred_at", "attempt", "key", "meta". FILE may
    be - for the standard input. The database is made where there is none. Each file is taken whole or not at all: the
    first line that the machine refuses is named, and nothing of its file is written.
    """
    if not file:
        raise click.UsageError("FILE is missing; - is the standard input")
    for name in file:
        if same_file(name, path_of(database) or ""):
            raise click.UsageError(f"{name} is the database itself; name the files to import after it")
        check_source(name, "imported")
    done: list[Imported] = []
    try:
        with _into(database, app, done) as runs:
            for name in file:
                with _source(name) as lines:
                    done.append(import_lines(runs.store, lines, source=name, resume=resume))
    finally:  # and no earlier: until then a new database has no name
        if as_json:
            output.document(done)
        else:
            for item in done:
                output.say(_taken(item))


@contextmanager
def _into(database: str, app: str | None, done: list[Imported]) -> Iterator[Runs]:
    """The database, or a new one, which gets its name when something stands in it: a refusal leaves none behind."""
    target = Path(path_of(database) or "")
    if database != "memory:":
        sweep(target)
    if database == "memory:" or target.exists() or not target.parent.is_dir():
        with connect(database, app, create=True) as runs:
            yield runs
        return
    with ExitStack() as stack:
        try:
            part = stack.enter_context(making(target)) / target.name
        except OSError as error:
            reason = f"it cannot be made ({error.strerror}); check the folder's permissions"
            raise CannotOpen(database, reason) from error
        try:
            with connect(str(part), app, create=True) as runs:
                yield runs
        finally:
            if done:
                _publish(part, target, done)


def _publish(part: Path, target: Path, done: list[Imported]) -> None:
    if (why := publish(OperatingSystem(), part, target)) is not None:
        done.clear()
        raise click.ClickException(f"{why}: nothing was imported; try again")


def check_source(name: str, done: str) -> None:
    """Refuse a name under which there is nothing to read, before anything is done with the others.

    Raises:
        click.ClickException: a folder, or nothing at all; - is the standard input.
    """
    if name != "-" and Path(name).is_dir():
        raise click.UsageError(f"{name} is a folder; name the files in it, such as {name.rstrip('/')}/*")
    if name != "-" and not Path(name).exists():
        raise click.ClickException(f"there is no file {name}; nothing was {done}")


def _taken(done: Imported) -> str:
    skipped = f", {done.skipped:,} stood already" if done.skipped else ""
    events, streams = output.count(done.events, "event"), output.count(done.streams, "stream")
    return f"{output.clean(done.source)}: {events} of {streams}{skipped}"


@contextmanager
def _source(name: str) -> Iterator[IO[bytes]]:
    """The lines of a file. What is no file is read to its end first: a slow pipe must not hold the write lock."""
    with click.open_file(name, "rb") as lines:
        with suppress(OSError, ValueError, AttributeError):
            if stat.S_ISREG(os.fstat(lines.fileno()).st_mode):
                yield lines
                return
        # What is to be encrypted is kept in memory, however long: there its lines would stand as they are.
        with tempfile.SpooledTemporaryFile(max_size=0 if secret() else _SPOOLED) as spooled:
            shutil.copyfileobj(lines, spooled)
            spooled.seek(0)
            yield spooled


@store_command()
@click.option("-o", "--output", "target", metavar="FILE", help="Write here, whole or not at all, instead of to stdout.")
@click.option(
    "--stream", "streams", multiple=True, metavar="NAME", help="Only this stream; may be given several times."
)
@click.option("--until", type=click.IntRange(0), metavar="POSITION", help="Up to this position and no further.")
def export(
    runs: Runs,
    target: str | None,
    streams: tuple[str, ...],
    until: int | None,
    as_json: bool,  # noqa: ARG001, FBT001
) -> None:
    """Write the log as JSON Lines.

    One event a line, in the order of the log: what `import` reads. (--json changes nothing here.) What is written is
    not proved; `runfold verify` proves it, and names the position up to which it is sound.
    """
    lines = export_lines(runs.store, streams, until=until)
    if target in (None, "-"):
        for line in lines:
            click.echo(line, nl=False)
        return
    refuse_ours(target)
    number = written(Path(str(target)), lines)
    output.note(f"{target}: {output.count(number, 'event')}")


def written(target: Path, lines: Iterator[bytes]) -> int:
    """Write beside the target first, so that a full disk or Ctrl-C leaves an old file as it was."""
    if not target.parent.is_dir():
        raise click.ClickException(f"there is no folder {target.parent}; make it first")
    if target.is_dir():
        raise click.ClickException(f"{target} is a folder; name a file in it")
    number = 0
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            for number, line in enumerate(lines, start=1):  # noqa: B007 - counted
                file.write(line)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return number


# --- counting -----------------------------------------------------------------------------------------------------


@store_command()
@click.option("--growth", is_flag=True, help="What takes how much, by stream, type and day; and what to do next.")
@click.option("--largest", type=click.IntRange(1, MOST), default=10, show_default=True, help="How many streams.")
@click.option("--days", type=click.IntRange(1, MOST), default=14, show_default=True, help="How many days.")
@click.option("--keep-days", type=click.IntRange(0), default=KEEP_DAYS, show_default=True, help="What would stay.")
def stats(  # noqa: PLR0917 - click names them all
    runs: Runs,
    growth: bool,  # noqa: FBT001
    largest: int,
    days: int,
    keep_days: int,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Count what there is.

    Events by type, the bytes of their payloads and what these take in the log, streams, runs by phase, open questions,
    and how far each table is. With --growth the log is weighed instead, which takes 5 seconds for each million events
    and holds nobody up; --largest and --days say how much is shown, and --keep-days for what archiving is judged.
    """
    if not growth:
        context = click.get_current_context()
        for option in ("largest", "days", "keep_days"):
            if context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{option.replace('_', '-')} goes with --growth")
    else:
        tell_growth(runs, largest=largest, days=days, keep_days=keep_days, as_json=as_json)
        return
    with runs.store.reading() as reading:
        head, census = reading.head(), reading.census()
    phases = {str(phase): runs.workflow_runs.count(phase=phase) for phase in Phase}
    phases = {phase: number for phase, number in phases.items() if number}
    questions = runs.confirmations.count(decision=None)
    tables = runs.standings()
    facts = getattr(runs.store.log, "facts", None)
    size = facts().bytes if facts else None
    if as_json:
        output.document({
            "database": runs.store.log.url,
            "bytes": size,
            "events": head.position,
            "streams": census.streams,
            "runs": phases,
            "open_questions": questions,
            "types": [{"type": name, "events": number, "payload": payload, "stored": stored}
                      for name, number, payload, stored in census.types],
            "tables": tables,
        })  # fmt: skip
        return
    payload = sum(item[2] for item in census.types)
    stored = sum(item[3] for item in census.types)
    output.fields({
        "database": runs.store.log.url + ("" if size is None else f", {output.amount(size)}"),
        "log": f"{output.count(head.position, 'event')} in {output.count(census.streams, 'stream')}, "
               f"{output.amount(payload)} of payload"
               + ("" if stored == payload else f", stored in {output.amount(stored)}"),
        "runs": ", ".join(f"{number:,} {phase}" for phase, number in phases.items()) or "none",
        "questions": f"{questions:,} open",
    })  # fmt: skip
    if census.types:
        output.say()
        output.table(
            "event", "events", "payload", "", "stored",
            rows=[(name, f"{number:,}", output.amount(size), f"{size / max(payload, 1):4.0%}", output.amount(taken))
                  for name, number, size, taken in census.types],
            right=("events", "payload", "", "stored"),
        )  # fmt: skip
    output.say()
    output.table(
        "table", "version", "position", "state",
        rows=[(item.name, item.version, f"{item.position:,}",
               item.trouble or (f"{output.count(item.behind, 'event')} behind" if item.behind else "in step"))
              for item in tables],
        wraps=("state",), right=("version", "position"),
    )  # fmt: skip
