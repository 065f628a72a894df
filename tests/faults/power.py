"""Power loss: run each workload, cut it everywhere, open what is left, and count what is wrong.

`Campaign` is one workload at one sync mode; the quick test runs a few hundred states of each, the script hundreds of
thousands. How disks are modelled stands in `cutting`, what they must hold in `judging`.
"""

import json
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import click
from attrs import asdict, define, field, frozen

from tests.faults import cutting
from tests.faults.judging import KINDS, Promise, Verdict, judge, promises
from tests.faults.recording import Record, record, write_files
from tests.faults.workloads import WORKLOADS, Workload

FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where disks are judged: in memory if there is such a place; the judge needs no sync."""


@frozen
class Recipe:
    """How to make one failing disk again."""

    workload: str
    synchronous: str
    seed: int
    cut: int
    sample: int
    wrong: tuple[tuple[str, str], ...] = ()


@define
class Tally:
    """What one campaign found."""

    workload: str
    synchronous: str
    cuts: int = 0
    states: int = 0
    lost: int = 0
    doubled: int = 0
    corrupt: int = 0
    told: int = 0
    """States in which opening said that something is gone."""
    largest_loss: int = 0
    """Acknowledged entries that were gone, at most."""
    failures: list[Recipe] = field(factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not (self.lost or self.doubled or self.corrupt)

    def count(self, verdict: Verdict, recipe: Recipe) -> None:
        """Take in one judged disk."""
        self.states += 1
        self.told += verdict.told
        self.largest_loss = max(self.largest_loss, verdict.missing)
        found = Counter({kind for kind, _ in verdict.wrong} & set(KINDS))
        self.lost += found["lost"]
        self.doubled += found["doubled"]
        self.corrupt += found["corrupt"]
        if verdict.wrong and len(self.failures) < 10:
            self.failures.append(recipe)


def recorded(workload: Workload, synchronous: str, folder: Path) -> Record:
    """Run the workload once."""
    place = folder / "recorded"
    place.mkdir()
    workload.start(place)
    return record(workload.perform, place, synchronous)


def states(made: Record, seed: str, wanted: int) -> Iterator[tuple[cutting.State, Promise]]:
    """So many different disks (fewer if there are no more), spread over all cuts alike."""
    promised = list(promises(made))
    points = range(len(promised))
    # Where there are fewer disks than cuts, not all of them are to be the extreme ones.
    sample = Random(f"{seed}:sample").randrange(cutting.EXTREMES + 4) if wanted < len(points) else 0
    seen: set[tuple[bytes, Promise]] = set()
    idle = 0
    while len(seen) < wanted and idle < _IDLE:
        left = wanted - len(seen)
        some = left < len(points)
        chosen = set(Random(f"{seed}:{sample}").sample(points, left) if some else points)
        each = 1 if some else left // len(points)
        before = len(seen)
        for cut, disk in cutting.disks(made, chosen):
            for number in range(sample, sample + each):
                state = cutting.state(disk, cut, number, seed)
                if state is None:
                    break
                if (key := (state.digest, promised[cut])) not in seen:
                    seen.add(key)
                    yield state, promised[cut]
        sample += each
        idle = 0 if len(seen) > before else idle + 1


_IDLE = 20
"""Rounds without a new disk after which there are taken to be no more."""


def campaign(
    name: str,
    synchronous: str,
    *,
    seed: int,
    wanted: int,
    keep: Path | None = None,
    planted: Callable[[], AbstractContextManager[object]] = nullcontext,
    enough: Callable[[Tally], object] = lambda _tally: False,
) -> Tally:
    """Cut one workload, and judge so many disks, or until it is enough.

    What is planted is there while the workload runs, not in the judge.
    """
    tally = Tally(name, synchronous)
    with tempfile.TemporaryDirectory(dir=FAST, prefix="runfold-power-") as folder:
        with planted():
            made = recorded(WORKLOADS[name], synchronous, Path(folder))
        tally.cuts = len(made.steps) + 1
        if made.wrong:
            tally.count(Verdict(wrong=list(made.wrong)), Recipe(name, synchronous, seed, 0, 0, made.wrong))
        for state, promise in states(made, f"{seed}:{name}:{synchronous}", wanted):
            verdict = _judged(name, Path(folder), state, made, promise)
            recipe = Recipe(name, synchronous, seed, state.cut, state.sample, tuple(verdict.wrong))
            tally.count(verdict, recipe)
            if verdict.wrong and keep is not None:
                _save(keep, recipe, state.files)
            if enough(tally):
                break
    return tally


def _judged(name: str, folder: Path, state: cutting.State, made: Record, promise: Promise) -> Verdict:
    workload = WORKLOADS[name]
    return judge(folder / "judged", state.files, made, promise, workload.holds, workload.mend)


def _save(keep: Path, recipe: Recipe, files: cutting.Files) -> None:
    place = keep / f"{recipe.workload}-{recipe.synchronous}-{recipe.cut}-{recipe.sample}".replace(" ", "-")
    if place.exists() or len(list(keep.glob("*"))) > 50:
        return
    place.mkdir(parents=True)
    write_files(place / "disk", files)
    (place / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))


def replay(recipe: Recipe) -> Verdict:
    """Record the workload again, make the same choices, and judge."""
    with tempfile.TemporaryDirectory(dir=FAST, prefix="runfold-power-") as folder:
        made = recorded(WORKLOADS[recipe.workload], recipe.synchronous, Path(folder))
        promise = list(promises(made))[recipe.cut]
        seed = f"{recipe.seed}:{recipe.workload}:{recipe.synchronous}"
        for cut, disk in cutting.disks(made, {recipe.cut}):
            state = cutting.state(disk, cut, recipe.sample, seed)
            if state is not None:
                return _judged(recipe.workload, Path(folder), state, made, promise)
    raise click.ClickException("this workload has no such cut any more")


def _campaign(task: tuple[str, str, int, int, str]) -> Tally:
    name, synchronous, seed, wanted, keep = task
    logging.getLogger("runfold").setLevel(logging.ERROR)  # a torn witness is worth a warning, a thousand are not
    return campaign(name, synchronous, seed=seed, wanted=wanted, keep=Path(keep))


COLUMNS = ("workload", "sync", "cuts", "states", "lost", "doubled", "corrupt", "told", "largest loss")


def row(tally: Tally) -> tuple[Any, ...]:
    """A tally as a line of the table."""
    return (
        tally.workload, tally.synchronous, tally.cuts, tally.states, tally.lost, tally.doubled, tally.corrupt,
        tally.told, tally.largest_loss,
    )  # fmt: skip


def table(tallies: list[Tally]) -> str:
    """All campaigns, in Markdown, with a line of sums."""
    sums = [
        ("all", mode, *(sum(getattr(t, name) for t in tallies if t.synchronous == mode)
                        for name in ("cuts", "states", "lost", "doubled", "corrupt", "told")),
         max((t.largest_loss for t in tallies if t.synchronous == mode), default=0))
        for mode in ("FULL", "NORMAL")
    ]  # fmt: skip
    lines = [COLUMNS, ("---", "---", *["---:"] * 7), *map(row, tallies), *sums]
    cells = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


@click.command()
@click.option(
    "--states", "wanted", default=20_000, show_default=True, help="Disks to judge with FULL; with NORMAL an eighth."
)
@click.option("--seed", default=1, show_default=True, help="Of all choices.")
@click.option("--jobs", default=2, show_default=True, help="Processes.")
@click.option("--workload", "names", multiple=True, help="Only this one; may be repeated.")
@click.option("--keep", default="power-failures", show_default=True, type=click.Path(path_type=Path), help="Failures.")
@click.option("--replay", "again", type=click.Path(exists=True, path_type=Path), help="A recipe.json to judge again.")
def power(wanted: int, seed: int, jobs: int, names: tuple[str, ...], keep: Path, again: Path | None) -> None:
    """Cut the power at every step of every workload; exits 1 if anything acknowledged is lost, doubled or corrupt."""
    if again is not None:
        fields = json.loads(again.read_text())
        verdict = replay(Recipe(**fields))
        for kind, words in verdict.wrong:
            click.echo(f"{kind}: {words}")
        raise SystemExit(1 if verdict.wrong else 0)
    chosen = [WORKLOADS[name] for name in names] or list(WORKLOADS.values())
    tasks = [(workload.name, mode) for workload in chosen for mode in workload.synchronous]
    shares = sum(workload.share for workload in chosen)
    given = [
        (name, mode, seed, math.ceil(wanted * WORKLOADS[name].share / shares / (1 if mode == "FULL" else 8)), str(keep))
        for name, mode in tasks
    ]
    tallies: list[Tally] = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for tally in pool.map(_campaign, given):
            tallies.append(tally)
            click.echo(f"{tally.workload}, {tally.synchronous}: {tally.states:,} states", err=True)
    click.echo(table(tallies))
    for tally in tallies:
        for recipe in tally.failures[:3]:
            click.echo(f"failed: {json.dumps(asdict(recipe))}")
    raise SystemExit(0 if all(tally.ok for tally in tallies) else 1)
