"""`backup` and `restore`: a copy of the log in a folder, and a database of it again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

import projections
from eventstore.payloads import from_iso
from projections.cli import output
from projections.cli.archives import restore_days
from projections.cli.opening import BUSY_TIMEOUT, key_in, load, secret, store_command
from projections.cli.tables import watched

if TYPE_CHECKING:
    from projections import Runs


@store_command("dir")
@click.option("--verify-all", is_flag=True, help="Read back and prove all that DIR holds, and heal its files.")
def backup(runs: Runs, dir: str, verify_all: bool, as_json: bool) -> None:  # noqa: A002, FBT001
    """Bring a backup folder up to the log as it is now.

    DIR is a new or empty folder, or one with earlier backups of the same log: then only what is new is copied. Workers
    may go on meanwhile. What was copied is read back and proved by the chain; `runfold restore` makes a database of it.
    Exits 1 if a blob is damaged in the log itself; it is named, and the rest is backed up.
    """
    began = time.monotonic()
    with watched() as progress:
        done = runs.backup(dir, everything=verify_all, progress=progress)
    seconds = time.monotonic() - began
    if as_json:
        output.document({**output.facts(done), "ok": done.ok, "seconds": round(seconds, 3)})
    else:
        copied = _counted(done.entries, done.segments, done.blobs)
        output.say(f"{done.folder}: {copied} copied, {output.amount(done.bytes)}, {_took(seconds)}")
        proved = output.count(done.proved, "event")
        output.say(f"it ends at position {done.position}, {done.hash[:16]}…; {proved} proved")
    _tell(done.findings, as_json=as_json)


@store_command("dir", opened=False, instead=("day", "all_days"))
@click.option("--day", multiple=True, metavar="DAY", help="Put this sealed day back, such as 2026-11-20; repeatable.")
@click.option("--all-days", is_flag=True, help="Put all sealed days back.")
@click.option("--dry-run", is_flag=True, help="With days: write nothing, and say what would come back.")
@click.option("--new-key-file", metavar="PATH", help="Holds the key that DATABASE is to have, if not the backup's.")
@click.option("--plain", is_flag=True, help="Leave DATABASE unencrypted, though the backup is not.")
def restore(  # noqa: PLR0917 - click's
    database: str,
    app: str | None,
    dir: str | None,  # noqa: A002
    new_key_file: str | None,
    plain: bool,  # noqa: FBT001
    day: tuple[str, ...],
    all_days: bool,  # noqa: FBT001
    dry_run: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Make a database of a backup, or put sealed days back.

    DIR is a folder that `runfold backup` wrote; it is not changed. Neither DATABASE nor any file that belongs to one of
    that name may stand yet. Every event is proved and the tables are made anew before the database gets its name.

    With --day or --all-days there is no DIR: the events of days that `runfold archive` sealed come back into DATABASE,
    where any SQLite tool can read them. Nothing else needs this, and the next archive run lets them go again.
    """
    if plain and new_key_file:
        raise click.UsageError("--plain and --new-key-file exclude each other")
    if dir is None:
        if plain or new_key_file:
            raise click.UsageError("--plain and --new-key-file go with DIR")
        restore_days(database, app, None if all_days else day, dry_run=dry_run, as_json=as_json)
        return
    if dry_run:
        raise click.UsageError("--dry-run goes with --day or --all-days")
    began = time.monotonic()
    brought = load(app) if app else None
    key = {"new_key": key_in(new_key_file, "--new-key-file")} if new_key_file else {"new_key": None} if plain else {}
    with watched() as progress:
        made = projections.restore(
            dir, database, app=brought, progress=progress, busy_timeout=BUSY_TIMEOUT, **secret(), **key
        )
    seconds = time.monotonic() - began
    done, tables = made.log, made.tables
    if as_json:
        refused = tables if isinstance(tables, str) else None
        rows = None if isinstance(tables, str) else tables.rows
        facts = {
            **output.facts(done),
            "events": done.position,
            "rows": rows,
            "refused": refused,
            "seconds": round(seconds, 3),
        }
        output.document(facts)
    else:
        restored = _counted(done.position, done.segments, done.blobs)
        output.say(f"{done.database}: {restored} restored and proved, {_took(seconds)}")
        when = output.moment(from_iso(done.made_at))
        output.say(f"it ends at position {done.position}, {done.hash[:16]}…; the backup was made at {when} UTC")
        if isinstance(tables, str):
            output.say(output.clean(f"the tables are not made: {tables}"), style="yellow")
    _tell(done.findings, as_json=as_json)


def _counted(entries: int, segments: int, blobs: int) -> str:
    parts = [output.count(entries, "event")]
    parts += [output.count(segments, "segment")] if segments else []
    parts += [output.count(blobs, "blob")] if blobs else []
    return ", ".join(parts)


def _tell(findings: tuple[str, ...], *, as_json: bool) -> None:
    """Say what was found; the exit code says it too."""
    for finding in () if as_json else findings:
        output.say(output.clean(finding), style="red")
    if findings:
        click.get_current_context().exit(1)


def _took(seconds: float) -> str:
    return f"in {output.span(seconds)}" if seconds >= 1 else "at once"
