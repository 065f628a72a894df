"""From a URL to `Runs`: the one place that knows all siblings."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from os import fspath
from types import EllipsisType
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import field, frozen

from eventstore.codec import Upcaster
from eventstore.connecting import instruments_for, open_log, path_of, record_loss
from eventstore.errors import InvalidArgument, ReplayRefused
from eventstore.gate import Redactor
from eventstore.machine import Machine
from eventstore.memory import MemoryLog
from eventstore.store import EventStore
from eventstore.workflow import RUN
from projections.checkpoints import CHECKPOINTS
from projections.confirmations import CONFIRMATIONS
from projections.job_rows import JOBS
from projections.leases import Presence
from projections.logs import LOGS
from projections.memory import MemoryTables
from projections.meta import META
from projections.metrics import GAUGES, TableGauges
from projections.projection import Projection
from projections.projector import Projector
from projections.rebuilding import Progress, Report
from projections.runs import Runs
from projections.system import System
from projections.texts import TEXTS
from projections.usage import USAGE
from projections.workflow_runs import WORKFLOW_RUNS
from projections.working_folders import WORKING_FOLDERS

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from eventstore.backups import Restored
    from eventstore.log import Log
    from eventstore.metrics import Metrics
    from projections.aio import AsyncRuns
    from projections.tables import Tables

R = TypeVar("R")
BUILT_IN = (WORKFLOW_RUNS, CHECKPOINTS, CONFIRMATIONS, USAGE, LOGS, META, TEXTS, JOBS, WORKING_FOLDERS)


@frozen
class App:
    """What a program brings along: machines, projections and upcasters of its own, and what it keeps out of its log.

    `redactor(event type, fields) -> fields` sees each payload before it is written. It must be pure; see
    `docs/how-to/keep-secrets-out.md`. The command uses it too where `--app module:NAME` names this.
    """

    machines: Sequence[Machine[Any]] = field(default=(), converter=tuple)
    projections: Sequence[Projection[Any]] = field(default=(), converter=tuple)
    upcasters: Sequence[Upcaster] = field(default=(), converter=tuple)
    redactor: Redactor | None = None


def connect(
    url: str | PathLike[str] | Log,
    *,
    app: App | None = None,
    system: System | None = None,
    tables: Tables | None = None,
    metrics: Metrics = None,
    **options: Any,
) -> Runs:
    """Open a store with its projections.

    Args:
        url: `agent.db` or `sqlite:///agent.db`, `memory:`, or a backend itself.
        app: machines and projections of one's own, beside the built-in ones; a redactor.
        system: clocks, sleeping and ids, for tests.
        tables: where rows are kept, beside a log of one's own; for our own logs it is known.
        metrics: an OpenTelemetry `MeterProvider`; True for the one that the program set, or will yet set; None for the
            same where the program has imported OpenTelemetry's API; False for none.
        options: the backend's own: `create`, `read_only`, `synchronous`, `busy_timeout` for SQLite.

    Raises:
        CannotOpen, NewerDatabase, DatabaseBusy, InvalidArgument: nothing was changed.
    """
    app = App() if app is None else _checked("app", app, App)
    system = System() if system is None else _checked("system", system, System)
    instruments = instruments_for(metrics)
    log = open_log(url, **options)
    try:
        store = EventStore(
            log,
            (RUN, *app.machines),
            upcasters=app.upcasters,
            clock=system.microseconds,
            redactor=app.redactor,
        )
        projector = Projector(log, store.gate.codec, tables or tables_of(log), (*BUILT_IN, *app.projections))
        projector.prepare()
    except BaseException:
        log.close()
        raise
    store.gate.inline = projector.inline
    if instruments is not None:
        instruments.watch(store, system.monotonic).observe(TableGauges(projector), GAUGES)
    record_loss(store)
    return Runs(store, projector, Presence(log, projector.tables, system), system)


def _checked(what: str, given: R, kind: type[R]) -> R:
    if not isinstance(given, kind):
        raise InvalidArgument(what, given, f"must be a projections.{kind.__name__}, or None")
    return given


@frozen
class Restoration:
    """What was made of a backup."""

    log: Restored
    tables: Report | str
    """How they were made of the log; or why not, where a machine refuses an entry. The log itself is whole."""


def restore(
    folder: str | PathLike[str],
    url: str | PathLike[str],
    *,
    app: App | None = None,
    system: System | None = None,
    progress: Progress | None = None,
    new_key: bytes | str | EllipsisType | None = ...,
    **options: Any,
) -> Restoration:
    """Make a store of a backup, where nothing stands yet: its log, proved, and its tables, made anew from it.

    Args:
        folder: of the backup; see `Runs.backup`.
        url: of the database to be made; its folder must exist.
        app: machines and projections of one's own.
        system: clocks, sleeping and ids, for tests.
        progress: called with (entries done, entries in all), once over while copying, then while making the tables.
        new_key: of the new database, where it is not to have the backup's: it and all that stands beside it is
            encrypted anew, or with None not at all.
        options: the backend's own.

    Raises:
        RestoreRefused: there is no backup, it does not prove, something stands there already, or the disk fails or is
            full; nothing was made.
        InvalidArgument: a URL that names no file.
    """
    from eventstore.backups import restore as restore_log  # noqa: PLC0415 - seldom needed

    target = path_of(url)
    if target is None:
        raise InvalidArgument("url", fspath(url), "names no file; a backup is restored into one")
    tables: list[Report | str] = []

    def make_tables(path: Path) -> None:
        key = {} if isinstance(new_key, EllipsisType) else {"key": new_key}
        with connect(path, app=app, system=system, **{**options, **key}) as runs:
            try:
                tables.append(runs.rebuild(progress=progress))
            except ReplayRefused as refused:
                tables.append(str(refused))

    log = restore_log(folder, target, finish=make_tables, progress=progress, new_key=new_key, **options)
    return Restoration(log, *tables)


class aconnect:  # noqa: N801 - called as a function is, then entered or awaited
    """As `connect`, for asyncio: `async with aconnect("agent.db") as runs`, or `runs = await aconnect("agent.db")`."""

    def __init__(self, url: str | PathLike[str] | Log, **options: Any) -> None:
        self._connect = partial(connect, url, **options)
        self._runs: AsyncRuns | None = None

    async def _connected(self) -> AsyncRuns:
        from projections.aio import opened  # noqa: PLC0415 - asyncio takes longer to import than all of ours

        return await opened(self._connect)

    def __await__(self) -> Generator[Any, None, AsyncRuns]:
        return self._connected().__await__()

    async def __aenter__(self) -> AsyncRuns:
        self._runs = await self._connected()
        return self._runs

    async def __aexit__(self, *_: object) -> None:
        if self._runs is not None:
            await self._runs.close()


def tables_of(log: Log) -> Tables:
    """The table backend that stands beside a log."""
    if isinstance(log, MemoryLog):
        return MemoryTables()
    from projections.sqlite import SQLiteTables  # noqa: PLC0415 - a memory store needs no driver

    return SQLiteTables(secret=getattr(log, "encrypted", False))
