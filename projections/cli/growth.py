"""`stats --growth`: what takes how much, how fast it grows, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from projections.cli import output
from projections.cli.tables import watched

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventstore.growth import Share
    from projections import Runs


def tell(runs: Runs, *, largest: int, days: int, keep_days: int, as_json: bool) -> None:
    """Weigh the log and print what was found."""
    with watched() as progress:
        found = runs.growth(largest=largest, days=days, keep_days=keep_days, progress=progress)
    if as_json:
        facts = output.facts(found)
        output.document({"database": facts.pop("url"), **facts, "advice": found.advice})
        return
    weights, storage = found.weights, found.storage
    taken = {"database": found.url}
    if storage is not None:
        rest = max(storage.database - storage.free - weights.bytes, 0)
        taken["database"] += (
            f", {output.amount(storage.database)}: {output.amount(weights.bytes)} of log, {output.amount(rest)} of "
            "tables" + (f", {output.amount(storage.free)} free" if storage.free else "")
        )
        beside = {"write-ahead log": storage.wal, "sealed days": storage.segments, "blobs": storage.blobs}
        taken |= {name: output.amount(size) for name, size in beside.items() if size}
    events = output.count(weights.entries, "event")
    daily = output.count(round(weights.entries_a_day), "event")
    old = f"before {weights.old.name}, of runs that ended: {output.count(weights.old.entries, 'event')}"
    output.fields({
        **taken,
        "log": f"{events}, {output.amount(weights.bytes)}",
        "a day": f"{daily}, {output.amount(weights.bytes_a_day)}",
        "old": f"{old}, {output.amount(weights.old.bytes)}" if weights.old.entries else None,
    })  # fmt: skip
    if not weights.exact:
        output.say("There are very many streams or types: the sums of those below are at least what is told.")
    for title, shares in (("stream", weights.streams), ("event", weights.types), ("day (UTC)", weights.days)):
        _table(title, shares, weights.bytes)
    output.say()
    for sentence in found.advice:
        output.say(output.clean(sentence))


def _table(title: str, shares: Iterable[Share], whole: int) -> None:
    if rows := [
        (share.name, f"{share.entries:,}", output.amount(share.bytes), f"{share.bytes / max(whole, 1):4.0%}")
        for share in shares
    ]:
        output.say()
        output.table(title, "events", "bytes", "", rows=rows, right=("events", "bytes", ""))
