"""From kept results to the page `docs/explanation/performance.md`: its tables and its pictures.

The page holds `<!-- figures: NAME -->` … `<!-- end -->` for each benchmark, and for the "summary" of all figures that
have a target; only what stands between is replaced, and only where there are results. Whoever adds a picture writes a
function in `pictures` and names it there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.catalogue import BENCHMARKS
from tests.benchmarks.harness import Figure

PAGE = Path(__file__).parents[2] / "docs/explanation/performance.md"


def publish(results: dict[str, dict[str, Any]], page: Path = PAGE) -> None:
    """Put the figures into the page and draw its pictures beside it."""
    from tests.benchmarks.pictures import draw  # noqa: PLC0415 - matplotlib takes a second to import

    text = page.read_text()
    for name, figures in {"summary": summary(results), **{name: table(results[name]) for name in results}}.items():
        before, opening, rest = text.partition(f"<!-- figures: {name} -->\n")
        if opening:
            text = f"{before}{opening}{figures}{rest[rest.index('<!-- end -->') :]}"
    page.write_text(text)
    draw(results, page.parent)


def summary(results: dict[str, dict[str, Any]]) -> str:
    """Every figure that has a target, in the order of the benchmarks."""
    lines = ["", "| what | target | measured | |", "|---|---|---|---|"]
    for name in BENCHMARKS:
        for figure in _figures(results.get(name, {"figures": ()})):
            if figure.target is not None:
                measured, target, *_ = line_of(figure)
                lines.append(f"| {figure.what} | {target} | {measured} | {figure.verdict} |")
    if any(_busy(result) for result in results.values()):
        lines += ["", "*Some were taken while others used the machine too, and are far from what a quiet one gives.*"]
    return "\n".join([*lines, "", ""])


def _busy(result: dict[str, Any]) -> bool:
    """Whether others kept the machine busy when it was measured; a benchmark before it does not keep all of it."""
    return bool(result.get("load", 0) > result["machine"]["processors"])


def table(result: dict[str, Any]) -> str:
    """A benchmark's figures as a Markdown table, and what they were measured on."""
    lines = ["", "| what | measured | spread | target | dream | |", "|---|---|---|---|---|---|"]
    for figure in _figures(result):
        measured, target, dream, spread = line_of(figure)
        lines.append(f"| {figure.what} | {measured} | {spread} | {target} | {dream} | {figure.verdict} |")
    about = result["machine"]
    said = f"{result['when'][:10]}, {about['processors']} processors, Python {about['python']}, {about['sqlite']}"
    if _busy(result):
        said += f", while others used it too (load {result['load']})"
    quick = " --quick" if result.get("size") == "quick" else ""
    events = f" --events {result['events']}" if result.get("events") else ""
    command = f"python -m tests.benchmarks --only {result['benchmark']}{quick}{events}"
    return "\n".join([*lines, "", f"*{said}; repeat: `{command}`*", "", ""])


def _figures(result: dict[str, Any]) -> Iterator[Figure]:
    for plain in result["figures"]:
        yield Figure(**{**plain, "spread": plain["spread"] and tuple(plain["spread"])})


def line_of(figure: Figure) -> tuple[str, str, str, str]:
    """Measured, target, dream and spread as text."""
    sign = "≥" if figure.more_is_better else "≤"
    target, dream = ("" if value is None else f"{sign} {number(value)}" for value in (figure.target, figure.dream))
    spread = "" if figure.spread is None else f"{number(figure.spread[0])} – {number(figure.spread[1])}"
    unit = figure.unit if figure.unit == "×" else f" {figure.unit}"
    return f"{number(figure.measured)}{unit}", target, dream, spread


def number(value: float) -> str:
    """Three digits, and no more noise than that."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
