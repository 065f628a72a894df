"""The one command: `python -m tests.benchmarks`, with `--only NAME`, `--quick`, `--json FILE`, `--publish`.

Prints a table, and keeps the raw JSON of each benchmark under `tests/benchmarks/out/`, which git does not see: full
runs by the benchmark's name, quick ones in a folder of their own. `--publish` puts what is kept of this size into the
page `docs/explanation/performance.md`, and draws its pictures; with `--only ''` it measures nothing before.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from eventstore.sqlite.driver import DRIVER, SQLITE_VERSION
from tests.benchmarks.catalogue import BENCHMARKS, benchmark
from tests.benchmarks.harness import KEPT, Figure, Outcome, Setting, Size
from tests.benchmarks.publishing import line_of, publish

_ROW = "{:52} {:>11} {:>9} {:>9}  {:8} {}"


@click.command()
@click.option("--only", multiple=True, help="This benchmark; may be given several times. All of them unless given.")
@click.option("--quick", is_flag=True, help="A few seconds each: enough to see a change.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write all raw results into this file.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Measure on this file system.")
@click.option("--events", type=int, help="In the largest log, unless a million: 10000000 takes 25 GB of disk.")
@click.option("--seed", default=1, show_default=True, help="Of the workload and of who comes first in each round.")
@click.option("--list", "listing", is_flag=True, help="Say what there is.")
@click.option(
    "--publish", "publishing", is_flag=True, help="Write what is kept of this size into the docs, and draw it."
)
def main(
    *, only: tuple[str, ...], quick: bool, output: Path | None, folder: Path | None, events: int | None, seed: int,
    listing: bool, publishing: bool,
) -> None:  # fmt: skip
    """What Runfold costs: ratios measured side by side in one interleaved run."""
    if listing:
        for name in BENCHMARKS:
            click.echo(f"{name:14} {(benchmark(name).__doc__ or '').splitlines()[0]}")
        return
    for name in filter(None, only):
        if name not in BENCHMARKS:
            raise click.BadParameter(f"there is no benchmark {name}; there are {', '.join(BENCHMARKS)}")
    size: Size = "quick" if quick else "full"
    kept = KEPT / "quick" if quick else KEPT
    results, failed = {}, []
    for name in filter(None, only or BENCHMARKS):
        try:
            results[name] = run(name, size=size, folder=folder, seed=seed, events=events)
        except Exception:  # noqa: BLE001 - a quarter of an hour of the others' must not be lost by it
            traceback.print_exc()
            failed.append(name)
            continue
        keep(kept, name, results[name])
        show(name, results[name])
    if output is not None:
        output.write_text(json.dumps(results, indent=1))
    if publishing:
        publish({path.stem: json.loads(path.read_text()) for path in sorted(kept.glob("*.json"))})
    if failed:
        raise click.ClickException(f"{', '.join(failed)} failed; the others are kept")


def run(
    name: str, *, size: Size, folder: Path | None = None, seed: int = 1, events: int | None = None
) -> dict[str, Any]:
    """Measure one benchmark in a folder of its own that is taken away again; the outcome as plain JSON."""
    KEPT.mkdir(exist_ok=True)
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory(dir=folder or KEPT, prefix=f"{name}-") as scratch:
        outcome: Outcome = benchmark(name)(Setting(Path(scratch), size, seed, events))
    about = {"benchmark": name, "size": size, "seed": seed, "events": events, "load": load}
    return {**about, "when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), **outcome.plain()}


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return {
        "python": platform.python_version(),
        "sqlite": f"{DRIVER} {'.'.join(map(str, SQLITE_VERSION))}",
        "system": platform.platform(),
        "processors": os.cpu_count(),
    }


def keep(folder: Path, name: str, result: dict[str, Any]) -> None:
    """The raw JSON, in place of the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1))


def show(name: str, result: dict[str, Any]) -> None:
    """The table of one benchmark."""
    click.echo(f"\n{name}: {(benchmark(name).__doc__ or '').splitlines()[0]}")
    click.echo(_ROW.format("", "measured", "target", "dream", "", "spread"))
    for plain in result["figures"]:
        figure = Figure(**{**plain, "spread": plain["spread"] and tuple(plain["spread"])})
        measured, target, dream, spread = line_of(figure)
        click.echo(_ROW.format(figure.what, measured, target, dream, figure.verdict, spread).rstrip())
    sys.stdout.flush()


if __name__ == "__main__":
    main()
