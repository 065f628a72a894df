"""`backup` and `restore`: a copy of the log in a folder, and a database of it again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs
import click

import projections
from projections.cli import output
from projections.cli.opening import BUSY_TIMEOUT, load, store_command
from projections.cli.tables import watched

if TYPE_CHECKING:
    from projections import Runs


@store_command("dir")
@click.option("--verify-all", is_flag=True, help="Read back and prove all that DIR holds, and not only what is new.")
def backup(runs: Runs, dir: str, verify_all: bool, as_json: bool) -> None:  # noqa: A002, FBT001
    """Bring a backup folder up to the log as it is now.

    DIR is a new or empty folder, or one with earlier backups of the same log: then only what is new is copied. Workers
    may go on meanwhile. What was copied is read back and proved by the chain; `runfold restore` makes a database of it.
    """
    began = time.monotonic()
    with watched() as progress:
        done = runs.backup(dir, everything=verify_all, progress=progress)
    seconds = time.monotonic() - began
    if as_json:
        output.document({**attrs.asdict(done), "seconds": round(seconds, 3)})
        return
    copied = f"{output.count(done.entries, 'event')} copied, {output.amount(done.bytes)}"
    output.say(f"{done.folder}: {copied}, {_took(seconds)}")
    output.say(f"it ends at position {done.position}, {done.hash[:16]}…; {output.count(done.proved, 'event')} proved")


@store_command("dir", opened=False)
def restore(database: str, app: str | None, dir: str, as_json: bool) -> None:  # noqa: A002, FBT001
    """Make a database of a backup.

    DIR is a folder that `runfold backup` wrote; it is not changed. Neither DATABASE nor any file that belongs to one of
    that name may stand yet. Every event is proved and the tables are made anew before the database gets its name.
    """
    began = time.monotonic()
    brought = load(app) if app else None
    with watched() as progress:
        made = projections.restore(dir, database, app=brought, progress=progress, busy_timeout=BUSY_TIMEOUT)
    seconds = time.monotonic() - began
    done, tables = made.log, made.tables
    if as_json:
        refused = tables if isinstance(tables, str) else None
        rows = None if isinstance(tables, str) else tables.rows
        facts = {**attrs.asdict(done), "rows": rows, "refused": refused, "seconds": round(seconds, 3)}
        output.document(facts)
        return
    output.say(f"{done.database}: {output.count(done.position, 'event')} restored and proved, {_took(seconds)}")
    output.say(f"it ends at {done.hash[:16]}…; the backup was made at {done.made_at}")
    if isinstance(tables, str):
        output.say(output.clean(f"the tables are not made: {tables}"), style="yellow")


def _took(seconds: float) -> str:
    return f"in {output.span(seconds)}" if seconds >= 1 else "at once"
