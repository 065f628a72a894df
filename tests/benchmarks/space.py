"""Bytes per event on the usual workload, packed and as JSON, and what SQLite's pages cost and save.

The size of a page is chosen when a database is made, and is SQLite's own default of 4 KB here; 16 KB is measured beside
it. Everything counts: the log with its indexes, the tables of the projections, what SQLite leaves free in its pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import projections
from eventstore.sqlite import sqlite3
from eventstore.sqlite import transaction as sqlite_transaction
from tests.benchmarks import workload
from tests.benchmarks.harness import Figure, Outcome, Samples, Setting, ratio
from tests.benchmarks.lone import appended, interleaved_appends

_PAGES = (4_096, 8_192, 16_384)


def space(setting: Setting) -> Outcome:
    """Bytes per event over the bytes of its payload, packed and not; pages of 4, 8 and 16 KB: bytes and latency."""
    runs = setting.pick(smallest=1, quick=100, full=1_000)
    payload = sum(len(row[-1]) for row in workload.ready(runs, seed=setting.seed))
    events = runs * workload.EVENTS_PER_RUN
    sizes: dict[str, int] = {}
    for page in _PAGES:
        sizes[f"packed, {page}"] = _filled(setting.path(f"packed-{page}"), page, runs, setting.seed)
        with _as_json():
            sizes[f"JSON, {page}"] = _filled(setting.path(f"json-{page}"), page, runs, setting.seed)
    figures = [
        Figure("bytes on disk over payload, before compression", sizes["JSON, 4096"] / payload, target=1.2),
        Figure("bytes on disk over payload, as stored", sizes["packed, 4096"] / payload, target=1.2),
        Figure("bytes an event, as stored", sizes["packed, 4096"] / events, "bytes"),
        Figure("bytes of payload an event", payload / events, "bytes"),
    ]
    taken = _latencies(setting)
    for page in _PAGES[1:]:
        name = f"pages of {page // 1024} KB over 4 KB"
        figures += [
            Figure(f"{name}: bytes, as stored", sizes[f"packed, {page}"] / sizes["packed, 4096"]),
            Figure(f"{name}: bytes, before compression", sizes[f"JSON, {page}"] / sizes["JSON, 4096"]),
            ratio(f"{name}: latency, FULL, p50", taken[str(page)], taken["4096"]),
        ]
    return Outcome(figures, taken, sizes)


@contextmanager
def _as_json() -> Iterator[None]:
    """Every payload stands as its JSON."""
    honest = sqlite_transaction.pack
    sqlite_transaction.pack = lambda entry, _rows, _bases: entry.data
    try:
        yield
    finally:
        sqlite_transaction.pack = honest


def _paged(path: Path, page: int) -> Path:
    """An empty database of that size of page, as an operator can make one before the first start."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {page}")
        connection.execute("VACUUM")
    return path


def _filled(path: Path, page: int, runs: int, seed: int) -> int:
    """The size of a closed database that took the workload in."""
    with projections.connect(_paged(path, page), synchronous="NORMAL") as store:
        append = appended(store, workload.interleaved(runs, seed=seed))
        for number in range(runs * workload.EVENTS_PER_RUN):
            append(number)
    return path.stat().st_size


def _latencies(setting: Setting) -> Samples:
    """One durable append after another, by turns on a database of each size of page."""
    stores = {str(page): projections.connect(_paged(setting.path(f"at-{page}"), page)) for page in _PAGES}
    return interleaved_appends(setting, stores)
