"""`archive`, and the half of `restore` that puts sealed days back: old days leave the database, and return."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from eventstore.archiving import KEEP_DAYS
from projections.cli import output
from projections.cli.opening import connect, store_command
from projections.cli.tables import watched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventstore.archiving import Archiving, Progress
    from projections import Runs


@store_command()
@click.option(
    "--keep-days", type=click.IntRange(0), default=KEEP_DAYS, show_default=True,
    help="How many days after its end a day's events stay in the database, at least.",
)  # fmt: skip
@click.option("--max-days", type=click.IntRange(1), help="Seal at most so many days, the oldest first.")
@click.option("--compress", is_flag=True, help="Write the files with zstd.")
@click.option("--vacuum", is_flag=True, help="Give the room back to the file system; others wait meanwhile.")
@click.option("--dry-run", is_flag=True, help="Write nothing, and say what would be done.")
def archive(  # noqa: PLR0917 - click's
    runs: Runs,
    keep_days: int,
    max_days: int | None,
    compress: bool,  # noqa: FBT001
    vacuum: bool,  # noqa: FBT001
    dry_run: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Move old days out of the database into files.

    Each day that is over is sealed: its events are written to DATABASE-archive/logs, a line an event, read back and
    proved. What is older than --keep-days then leaves the database, of runs that have ended and of streams that are no
    run; a run that may go on keeps all of its events. Everything reads as before. Workers may go on meanwhile.
    """
    began = time.monotonic()
    with _watched() as progress:
        done = runs.archive(
            keep_days=keep_days, max_days=max_days, compress=compress, vacuum=vacuum, dry_run=dry_run, progress=progress
        )
    if as_json:
        days = [{"day": it.day, "events": it.entries, "file": it.file, "bytes": it.size} for it in done.sealed]
        output.document({**output.facts(done), "sealed": days})
        return
    _tell(done, time.monotonic() - began, vacuum=vacuum)


def _tell(done: Archiving, seconds: float, *, vacuum: bool) -> None:
    rows = [(it.day, f"{it.entries:,}", it.file, output.amount(it.size)) for it in done.sealed]
    would = "would be " if done.dry_run else ""
    if rows:
        output.table(f"{would}sealed", "events", "file", "size", rows=rows, right=("events", "size"))
    else:
        output.say("no day is to be sealed")
    if done.days_left:
        output.say(f"{output.count(done.days_left, 'day')} left for the next time")
    if done.released:
        released = f"{output.count(done.released, 'event')} of {output.count(done.streams, 'stream')} {would}released"
        output.say(f"{released}: {output.amount(done.released_bytes)} of the database, which it uses again")
    else:
        output.say(f"no event {would or 'was '}released")
    if done.freed > 0:
        output.say(f"{output.amount(done.freed)} given back to the file system")
    elif done.released and not (vacuum or done.dry_run):
        output.note("--vacuum gives the room back to the file system")
    if seconds >= 1:
        output.note(f"in {output.span(seconds)}")


def restore_days(database: str, app: str | None, days: tuple[str, ...] | None, *, dry_run: bool, as_json: bool) -> None:
    """Put sealed days back into the log, all of them where none is named."""
    with connect(database, app) as runs, _watched() as progress:
        done = runs.restore_days(days, dry_run=dry_run, progress=progress)
    if as_json:
        output.document(done)
        return
    if not done.days:
        output.say("no day is sealed")
        return
    would = "would come" if done.dry_run else "came"
    output.say(f"{output.count(done.entries, 'event')} of {output.count(len(done.days), 'day')} {would} back")
    if done.left:
        left = output.count(done.left, "event")
        output.say(f"{left} left in the archive, where they are read from: their keys were used again", style="yellow")


@contextmanager
def _watched() -> Iterator[Progress | None]:
    """A bar for what takes long: what is sealed, and what comes back."""
    with watched() as listener:
        if listener is None:
            yield None
        else:
            yield lambda step, done, total: None if step == "release" else listener(done, total)
