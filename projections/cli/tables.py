"""`recover`, `rebuild`, `verify`: settle what the dead left, make the tables anew, and prove everything right."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from projections.cli import output
from projections.cli.opening import connect, store_command
from projections.cli.questions import login_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventstore.log import Loss
    from projections import Recovery, Report, Runs
    from projections.rebuilding import Progress as Listener
    from projections.verifying import Verification


@store_command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--max-crashes", type=click.IntRange(0), default=3, show_default=True, help="How many workers may die under a run."
)
def recover(runs: Runs, dry_run: bool, max_crashes: int, as_json: bool) -> None:  # noqa: FBT001
    """Settle what dead workers left.

    Runs that were asked to stop are interrupted, those under which too many workers died have crashed, overdue
    questions expire. What may go on is left to the next worker. Runs of living workers are not touched.
    """
    with runs.worker("recover-cli") as worker:
        recovery = worker.recover(max_crashes, dry_run=dry_run)
    if as_json:
        output.document(recovery)
    else:
        _told(recovery)


def _told(recovery: Recovery) -> None:
    rows = [
        *((run_id, "interrupted: it was asked to stop") for run_id in recovery.interrupted),
        *((run_id, "crashed: too many workers died under it") for run_id in recovery.crashed),
        *((run_id, f"its question {call_id} expired") for run_id, call_id in recovery.expired),
        *((run_id, "may go on: left to the next worker") for run_id in recovery.resumable),
        *((run_id, "left as it is: it cannot be read; `runfold verify` says why") for run_id in recovery.unreadable),
    ]
    if rows:
        output.table("run", "would be" if recovery.dry_run else "now", rows=rows, wraps=("run",))
    else:
        output.say("nothing to recover")
    if recovery.running:
        output.note(f"{output.count(recovery.running, 'run')} held by a living worker")


@store_command(rest="name")
@click.option("--check", is_flag=True, help="Change nothing: fold the log beside the tables and compare.")
@click.option("--skip-invalid", is_flag=True, help="Leave out, list and count what a machine refuses on replay.")
def rebuild(runs: Runs, name: tuple[str, ...], check: bool, skip_invalid: bool, as_json: bool) -> None:  # noqa: FBT001
    """Make the tables anew from the log, or check them.

    NAME is a projection; without one, all are made anew. The old tables stand until the new ones are whole. With
    --check nothing is changed, and whatever differs is named: row, column, both values, and the event that last touched
    the row. Exits 1 if something was found or left out.
    """
    began = time.monotonic()
    with watched() as progress:
        work = runs.check if check else runs.rebuild
        report = work(*name, skip_invalid=skip_invalid, progress=progress)
    if as_json:
        output.document({"database": runs.store.log.url, **output.facts(report), "ok": report.ok})
    else:
        output.report(runs.store.log.url, _told_of(report, time.monotonic() - began, check=check))
    if not report.ok:
        click.get_current_context().exit(1)


@store_command(opened=False)
@click.option("--accept-loss", is_flag=True, help="Go on although acknowledged events are gone; it is written down.")
@click.option("--by", metavar="NAME", help="Who accepts the loss; your login name unless given.")
def verify(database: str, app: str | None, accept_loss: bool, by: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Prove storage, sealed days, chain, blobs, machines and tables.

    SQLite's own checks; each sealed day against its file; the hash chain and every place in it; every blob that an
    event needs; every event by its machine; every table against the fold of the log. The first bad position is named,
    and what can be done. Exits 1 if something was found. Where no witness stood beside the database, so that nothing
    could tell of a lost tail, that is noted.
    """
    if by and not accept_loss:
        raise click.UsageError("--by says who accepts a loss; give --accept-loss with it")
    accepted: str | bool = accept_loss and (by or login_name())
    with connect(database, app, accept_loss=accepted) as runs, watched() as progress:
        loss = runs.store.log.loss
        verification = runs.verify(progress=progress)
    if as_json:
        head = verification.head
        place = {"position": head.position, "hash": head.hash.hex()}
        found = {**output.facts(verification), "head": place, "ok": verification.ok, "loss": loss}
        output.document({"database": database, **found})
    else:
        output.report(database, _proved(verification, loss, accepted=bool(accept_loss)))
    if not verification.ok:
        click.get_current_context().exit(1)


def _proved(verification: Verification, loss: Loss | None, *, accepted: bool) -> Iterator[tuple[str, str]]:
    if loss is not None:
        yield _gone(loss), "bold yellow"
    elif accepted:
        yield "nothing that was acknowledged is gone, so there was nothing to accept", ""
    yield from ((f"note: {note}", "yellow") for note in verification.notes)
    yield from ((str(finding), "red") for finding in verification.findings)
    proved = f"{output.count(verification.entries, 'event')} in {output.count(verification.streams, 'stream')}"
    if verification.ok:
        yield f"{proved} and {output.count(verification.rows, 'row')} proved", ""
        yield f"it ends at position {verification.head.position}, {verification.head.hash.hex()[:16]}…", ""
    else:
        yield f"{output.count(len(verification.findings), 'finding')}; {proved} proved", "bold"


def _gone(loss: Loss) -> str:
    gone = f"the log ended at position {loss.found}, and {loss.expected} was acknowledged"
    why = "the window of synchronous=NORMAL, after a reboot" if loss.promised else f"accepted by {loss.by}"
    return f"{gone}: {why}; written down at position {loss.recorded}"


@contextmanager
def watched() -> Iterator[Listener | None]:
    """A bar with rate and time left, where somebody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    columns: tuple[Any, ...] = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=output.console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, rate="")
        began = time.monotonic()

        def show(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - began, 1e-6)
            bar.update(task, completed=done, total=total, rate=f"{rate:,.0f} events/s")

        yield show


def _told_of(report: Report, seconds: float, *, check: bool) -> Iterator[tuple[str, str]]:
    yield from ((str(difference), "red") for difference in report.listed)
    yield from ((trouble, "red") for trouble in report.troubles)
    for skipped in report.listed_skipped:
        where = f"position {skipped.position}, {skipped.event} of {skipped.stream}"
        yield f"left out: {where}: {skipped.reason}", "yellow"
    left_out = report.differences - len(report.listed) + report.skipped - len(report.listed_skipped)
    if left_out > 0:
        yield f"… and {left_out:,} more", ""
    tables = output.count(len(report.projections), "table")
    rows, entries = output.count(report.rows, "row"), output.count(report.entries, "event")
    took = f"in {output.span(seconds)}" if seconds >= 1 else "at once"
    if not check:
        yield f"{tables} of {rows} made anew from {entries} {took}", ""
    elif report.differences or report.troubles:
        wrong = [output.count(report.differences, "difference")] if report.differences else []
        wrong += [f"{output.count(len(report.troubles), 'table')} without an answer"] if report.troubles else []
        yield f"{' and '.join(wrong)}, checked against {entries}; `runfold rebuild` mends them", "bold"
    else:
        yield f"{tables} of {rows} agree with the log of {entries}", ""
    if report.skipped:
        yield f"{output.count(report.skipped, 'event')} left out: the machine refuses them", "bold"
