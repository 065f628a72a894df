"""The pictures of the page about performance, drawn from kept results as SVG.

A picture is a function `(result, axes)`, named in `PICTURES` with the benchmark whose raw JSON it draws.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "runfold"  # or the same picture differs in its ids each time
mpl.rcParams["svg.fonttype"] = "none"
mpl.rcParams["font.family"] = "sans-serif"

from matplotlib import pyplot as plt  # noqa: E402

_COLOURS = {"ours": "#b5451b", "bare": "#3b6ea5", "least": "#7a9e7e"}


def latency(result: dict[str, Any], axes: Any) -> None:
    """How long one durable append takes, as the share of appends that took no longer."""
    for name, style in (("bare", "-"), ("least", "-"), ("ours", "-")):
        for synchronous, dash in (("FULL", style), ("NORMAL", ":")):
            values = sorted(result["samples"][f"{name}, {synchronous}"])
            steps = [values[min(len(values) - 1, len(values) * part // 1000)] for part in range(1001)]
            axes.plot(
                steps, [part / 10 for part in range(1001)], dash, color=_COLOURS[name], label=f"{name}, {synchronous}"
            )
    axes.set(xscale="log", xlabel="microseconds", ylabel="% of appends", title="One durable append")
    axes.legend()


def size_of_a_run(result: dict[str, Any], axes: Any) -> None:
    """What a run's checkpoints come to over its steps: as they come, what is new in them, and as they are stored."""
    facts = result["facts"]["text"]
    whole = [sum(facts["whole"][: step + 1]) for step in range(len(facts["whole"]))]
    for values, colour, label in (
        (whole, _COLOURS["bare"], "whole states"),
        (facts["new"], _COLOURS["least"], "what is new"),
        (facts["stored"], _COLOURS["ours"], "as stored"),
    ):
        axes.plot(range(1, len(values) + 1), [value / 1e6 for value in values], color=colour, label=label)
    axes.set(yscale="log", xlabel="steps", ylabel="MB", title="All checkpoints of a run that grows by 2 KB a step")
    axes.legend()


def throughput(result: dict[str, Any], axes: Any) -> None:
    """Events a second over how many append at once."""
    facts = result["facts"]
    for kind, colour in (("tasks", _COLOURS["ours"]), ("threads", _COLOURS["least"])):
        axes.plot([int(size) for size in facts[kind]], list(facts[kind].values()), "o-", color=colour, label=kind)
    (batches,) = facts["batches"].values()
    axes.axhline(batches, color=_COLOURS["bare"], linestyle=":", label="ready rows, 100 a commit")
    axes.set(xscale="log", yscale="log", xlabel="writers", ylabel="events/s", title="Appends of one event each, FULL")
    axes.legend()


def rebuilding(result: dict[str, Any], axes: Any) -> None:
    """Seconds that a rebuild takes over the size of the log, beside a bare scan of it."""
    for part, colour in (("everything", "ours"), ("run rows", "least"), ("scan", "bare")):
        taken = {
            int(name.rpartition(", ")[2]): min(values) / 1e6
            for name, values in result["samples"].items()
            if name.startswith(f"{part}, ")
        }
        axes.plot(list(taken), list(taken.values()), "o-", color=_COLOURS[colour], label=part)
    axes.set(xscale="log", yscale="log", xlabel="events in the log", ylabel="seconds", title="Rebuilding the tables")
    axes.legend()


PICTURES: dict[str, tuple[str, Callable[[dict[str, Any], Any], None]]] = {
    "latency": ("lone", latency),
    "throughput": ("writers", throughput),
    "size": ("checkpoints", size_of_a_run),
    "rebuild": ("rebuild", rebuilding),
}


def draw(results: dict[str, dict[str, Any]], folder: Path) -> list[Path]:
    """Draw each picture whose benchmark has a result; gives the files, `performance-NAME.svg`."""
    drawn = []
    for name, (benchmark, picture) in PICTURES.items():
        if benchmark in results:
            figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
            picture(results[benchmark], axes)
            axes.grid(visible=True, alpha=0.3)
            path = folder / f"performance-{name}.svg"
            figure.savefig(path, metadata={"Date": None})
            plt.close(figure)
            drawn.append(path)
    return drawn
