"""`doctor`: whether this installation is sound, and this database well."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import frozen
from rich.text import Text

import eventstore
import projections
from eventstore import sqlite
from eventstore.blobfiles import PUT_BACK
from eventstore.blobs import FILES_SAVED
from eventstore.errors import EventStoreError
from projections.cli import output
from projections.cli.opening import connect, store_command
from projections.cli.refusals import plainly
from projections.logs import LOGS
from projections.tables import Range

if TYPE_CHECKING:
    from projections import Runs

OLDEST_PYTHON = (3, 11)
_SHOWN = 5


@frozen
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str
    remedy: str = ""


@store_command(opened=False)
def doctor(database: str, app: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Examine the installation and a database.

    Python, the SQLite library (older than 3.51.3 it can corrupt a database), other packages of our names; then the
    database: its mode, its schema, the files of its sealed days and blobs, its tables, and runs whose worker is dead.
    Exits 1 if something is wrong.
    """
    findings = [*_installation(), *_database(database, app)]
    if as_json:
        output.document({"database": database, "ok": all(finding.ok for finding in findings), "findings": findings})
    else:
        _print(findings)
    if not all(finding.ok for finding in findings):
        click.get_current_context().exit(1)


def _print(findings: list[Finding]) -> None:
    output.table(
        "", "", "",
        rows=[
            (Text("ok", "green") if finding.ok else Text("WRONG", "bold red"), finding.what,
             finding.found + (f"; {finding.remedy}" if finding.remedy and not finding.ok else ""))
            for finding in findings
        ],
        wraps=("",),
    )  # fmt: skip
    wrong = sum(not finding.ok for finding in findings)
    output.say(f"{output.count(wrong, 'thing')} wrong" if wrong else "all is well", "bold red" if wrong else "green")


def _installation() -> Iterator[Finding]:
    version = sys.version_info[:3]
    yield Finding(
        "Python",
        version >= OLDEST_PYTHON,
        f"{platform.python_implementation()} {_dotted(version)}",
        "use 3.11 or later",
    )
    yield Finding(
        "SQLite",
        sqlite.SQLITE_VERSION >= sqlite.SOUND_SQLITE,
        f"{_dotted(sqlite.SQLITE_VERSION)} by {sqlite.DRIVER}",
        f"before {_dotted(sqlite.SOUND_SQLITE)} resetting the WAL can corrupt a database: install pysqlite3",
    )
    yield _packages()


def _packages() -> Finding:
    """Other distributions bear our packages' names; of two installed into one place, the later overwrites the first."""
    homes = {name: Path(str(module.__file__)).parent.parent for name, module in _MODULES.items()}
    providers = metadata.packages_distributions()
    found_here = {distribution for name in _MODULES for distribution in providers.get(name, ())}
    others = sorted(distribution for distribution in found_here if distribution.lower() != "runfold")
    if others:
        found = f"{' and '.join(others)} installed beside us, with packages of the same names"
        return Finding(
            "packages", ok=False, found=found, remedy=f"pip uninstall {' '.join(others)}, then reinstall runfold"
        )
    if len(set(homes.values())) > 1:
        found = ", ".join(f"{name} from {home}" for name, home in homes.items())
        return Finding("packages", ok=False, found=found, remedy="both must come from one place: look at PYTHONPATH")
    return Finding("packages", ok=True, found=f"eventstore and projections from {next(iter(homes.values()))}")


_MODULES = {"eventstore": eventstore, "projections": projections}


def _database(database: str, app: str | None) -> Iterator[Finding]:
    try:
        with connect(database, app) as runs:
            yield Finding("database", ok=True, found=database)
            yield from _file(runs)
            yield from _blobs(runs)
            yield from _tables(runs)
            yield from _runs(runs)
    except EventStoreError as error:
        yield Finding("database", ok=False, found=plainly(error))


def _file(runs: Runs) -> Iterator[Finding]:
    log = runs.store.log
    if not isinstance(log, sqlite.SQLiteLog):
        return
    facts = log.facts()
    if log.encrypted:
        yield Finding(
            "key",
            facts.sqlite >= sqlite.SOUND_SQLITE,
            f"right; {facts.driver}, with SQLite {_dotted(facts.sqlite)}",
            f"before {_dotted(sqlite.SOUND_SQLITE)} resetting the WAL can corrupt it: install a newer sqlcipher3",
        )
    yield Finding(
        "journal", facts.journal_mode == "wal", facts.journal_mode, "WAL was refused: is this a network disk?"
    )
    yield Finding(
        "application id", facts.application_id == sqlite.APPLICATION_ID, f"{facts.application_id:#x}", "not one of ours"
    )
    yield Finding(
        "schema",
        facts.schema == facts.known_schema,
        f"{facts.schema} of {facts.known_schema}",
        "open it with this release",
    )
    yield Finding("append-only", not facts.missing, "; ".join(facts.missing) or "by force", "look at `runfold verify`")
    yield from _sealed_days(log, runs)


def _sealed_days(log: sqlite.SQLiteLog, runs: Runs) -> Iterator[Finding]:
    """Whether the files of the archive stand there, as large as they were; what is in them is `verify`'s to prove."""
    segments = runs.segments()
    wrong = [segment.file for segment in segments if _size(log, segment.file) != segment.size]
    if wrong:
        found = f"{output.count(len(wrong), 'file')} not as sealed in {log.archive.folder.name}/logs: {_some(wrong)}"
        yield Finding(
            "sealed days", ok=False, found=found, remedy="bring back what is missing or damaged, from a backup say"
        )
    elif segments:
        beside = output.amount(sum(segment.size for segment in segments))
        yield Finding("sealed days", ok=True, found=f"{output.count(len(segments), 'file')}, {beside}")


def _blobs(runs: Runs) -> Iterator[Finding]:
    """Whether a file stands there for each blob that an entry needs; what is in it is `blobs check`'s to prove."""
    segments = runs.segments()
    sealed = segments[-1].last if segments else 0  # what is behind it is told without reading an old day's file
    try:
        rows = runs.view(LOGS).each(kind=FILES_SAVED, position=Range(sealed + 1), order="position")
        missing = runs.blobs.missing([row.position for row in rows])
    except EventStoreError as error:
        yield Finding("blobs", ok=False, found=str(error))
        return
    if not missing:
        yield Finding("blobs", ok=True, found="a file for each that an event needs")
        return
    more = f"; and {len(missing) - 1:,} more, which `runfold blobs check` names" if missing[1:] else ""
    yield Finding("blobs", ok=False, found=f"{missing[0]}{more}", remedy=PUT_BACK)


def _size(log: sqlite.SQLiteLog, file: str) -> int | None:
    try:
        stat = log.archive.files.stat(log.archive.path(file))
    except OSError:  # a symlink, or no folder where one is to be
        return None
    return None if stat is None else stat.size


def _tables(runs: Runs) -> Iterator[Finding]:
    for standing in runs.standings():
        behind = f", {output.count(standing.behind, 'event')} behind" if standing.behind else ""
        found = standing.trouble or f"version {standing.version} at position {standing.position:,}{behind}"
        yield Finding(f"table {standing.name}", standing.trouble is None, found)


def _runs(runs: Runs) -> Iterator[Finding]:
    try:
        lost = [row.run_id for row in runs.lost()]
    except EventStoreError as error:
        yield Finding("workers", ok=False, found=f"nobody knows: {error}")
        return
    if lost:
        found = f"{output.count(len(lost), 'run')} of dead workers: {_some(lost)}"
        yield Finding("workers", ok=False, found=found, remedy="start a worker, which goes on with them")
    else:
        yield Finding("workers", ok=True, found="no run of a dead worker")


def _some(names: list[str]) -> str:
    """As many of them as make a line."""
    return ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
