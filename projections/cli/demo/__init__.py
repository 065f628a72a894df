"""`runfold demo`: the main job and the proof. Runs are performed by a worker that is killed again and again."""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs
import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import eventstore
from eventstore.errors import EventStoreError, InvalidArgument
from projections.cli import output
from projections.cli.demo.supervisor import Outcome, Supervisor
from projections.cli.demo.traces import Trace, load, samples


@click.command()
@click.argument("traces", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--kills", default=10, show_default=True, type=click.IntRange(0), help="How often to kill the worker.")
@click.option("--seed", type=int, help="Of all that is random; made up and printed unless given.")
@click.option(
    "--database", type=click.Path(dir_okay=False, path_type=Path), help="Keep the database here; it must be new."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def demo(traces: tuple[Path, ...], kills: int, seed: int | None, database: Path | None, as_json: bool) -> None:  # noqa: FBT001
    """Perform runs, kill the worker at random moments, and prove that nothing was lost or done twice.

    TRACES are recorded runs, JSON Lines of {"stream", "type", "data"}; without them, sample runs are performed. A
    worker process performs them and acknowledges each line once it is durable. It is killed with SIGKILL, started
    again, recovers, and goes on, until every run has ended. Then all tables are rebuilt from the log and checked. Last,
    the log is backed up and restored from its backup; there it is archived, verified, and put back.

    Exits 1 if an acknowledged line is missing, a line stands twice, a run is stuck, a table differs, or the log reads
    otherwise after any of these.
    """
    chosen = random.SystemRandom().randrange(10**6) if seed is None else seed
    try:
        performed = _traces(traces, chosen)
        with tempfile.TemporaryDirectory(prefix="runfold-demo-") as folder:
            place = Path(folder, "demo.db") if database is None else _new(database)
            outcome = _perform(place, performed, kills, chosen, quiet=as_json)
    except EventStoreError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(attrs.asdict(outcome) | {"ok": outcome.ok}))
    else:
        _print(outcome, len(performed))
    sys.exit(0 if outcome.ok else 1)


def _traces(paths: tuple[Path, ...], seed: int) -> list[Trace]:
    with eventstore.connect("memory:") as store:
        return load(paths, store.gate.codec) if paths else samples(seed, store.gate.codec)


def _new(database: Path) -> Path:
    if database.exists():
        raise InvalidArgument("database", str(database), "exists already; name a new file")
    return database


def _perform(place: Path, performed: list[Trace], kills: int, seed: int, *, quiet: bool) -> Outcome:
    console = Console(stderr=True)
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("lines"),
        TextColumn("{task.fields[kills]} kills"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task("performing", total=sum(len(trace.events) for trace in performed), kills=0)

        def news(outcome: Outcome) -> None:
            progress.update(task, completed=outcome.acknowledged, kills=outcome.kills)

        return Supervisor(place, performed, kills=kills, seed=seed, news=news).run()


def _print(outcome: Outcome, runs: int) -> None:
    console = output.console()
    table = Table(box=box.SIMPLE_HEAD, title=f"{runs} runs, worker killed {outcome.kills} times (seed {outcome.seed})")
    table.add_column("run")
    table.add_column("ended as")
    for name in ("lines", "attempts", "crashes", "questions"):
        table.add_column(name, justify="right")
    for run in outcome.runs:
        numbers = (run.lines, run.attempts, run.crashes, run.questions)
        table.add_row(run.run_id, run.phase, *map(str, numbers))
    console.print(table)
    facts = (
        (f"{outcome.lines:,}", "lines performed, each once in the log"),
        (f"{outcome.acknowledged:,}", "of them acknowledged before a kill could swallow the word"),
        (f"{outcome.kills:,}", "times killed with SIGKILL, and started again"),
        (f"{outcome.resumed:,}", "runs found without a living worker, and gone on with"),
        (f"{outcome.zombies_refused:,}", "writes of an attempt that was over, refused"),
        (f"{outcome.answered:,}", "questions asked, and answered by the supervisor"),
        (f"{outcome.rows:,}", f"table rows rebuilt from {outcome.entries:,} events, and equal"),
        (f"{outcome.backed_up:,}", "events backed up, restored elsewhere, verified, and equal"),
        (f"{outcome.archived:,}", "of these archived there, read from the archive, and equal"),
        (f"{outcome.put_back:,}", "put back from the archive, verified, and equal"),
    )
    if outcome.ok:
        for number, fact in facts:
            console.print(f"  {number:>14}  {fact}", highlight=False)
        console.print(f"\nNothing lost, nothing twice, nobody stuck. {outcome.seconds:.1f} s", highlight=False)
        return
    for line in outcome.wrong:
        console.print(f"  wrong: {line}", highlight=False, markup=False, soft_wrap=True)
