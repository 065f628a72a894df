"""`runs`, `show`, `cancel`, `interrupt`: what runs, what one run went through, and how to stop it."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from eventstore.errors import RunNotFound
from eventstore.payloads import from_iso
from eventstore.workflow import ACTIVE, RUN, Phase
from projections.cli import output
from projections.cli.opening import store_command
from projections.cli.questions import login_name, open_text
from projections.cli.telling import Teller, output_of
from projections.tables import Range

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projections import Runs
    from projections.workflow_runs import RunRow

_ENDED = tuple(sorted(RUN.final))
_SECTIONS = (*((phase,) for phase in ACTIVE), _ENDED)
"""Pages go through these one after the other: what runs, what waits, what is queued, what ended."""
_NAMES = 15
"""The width of the names in what is known of a run."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def length(text: str) -> timedelta | None:
    """What a length of time such as 90m or 7d says; None for any other text."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    return None if found is None else timedelta(**{_UNITS[found[2]]: int(found[1])})


class Since(click.ParamType[datetime]):
    """A time: ISO 8601, a date, or so long ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """See click."""
        if (age := length(value)) is not None:
            return output.now() - age
        try:
            if re.fullmatch(r"\d{4}-\d\d-\d\d", value):
                return datetime.combine(date.fromisoformat(value), time(), UTC)
            return from_iso(value)
        except ValueError as error:
            reason = f"{value!r} is no time that Runfold knows ({error})"
            self.fail(
                f"{reason}; give a time such as 2026-01-31T12:00:00Z, a date, or an age such as 90m, 12h, 7d",
                param,
                ctx,
            )


@store_command()
@click.option(
    "--phase", "phases", multiple=True, type=click.Choice([*map(str, ACTIVE), *map(str, _ENDED)]),
    metavar="PHASE",
    help=f"Only runs in this phase ({', '.join((*ACTIVE, *_ENDED))}); may be given several times.",
)  # fmt: skip
@click.option("--workflow", help="Only runs of this workflow.")
@click.option("--agent", help="Only runs of this agent.")
@click.option("--parent", metavar="RUN", help="Only children of this run.")
@click.option("--roots", is_flag=True, help="Only runs that no other waits for.")
@click.option("--since", type=Since(), help="Only runs queued since: ISO 8601, a date, or an age such as 90m, 12h, 7d.")
@click.option("--started-after", type=Since(), help="Only runs first started since, likewise.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@click.option("--after", metavar="RUN", help="Go on after this run, the last one of the page before.")
@click.option("--offset", type=click.IntRange(0), default=0, help="Pass over so many first; better go on with --after.")
@click.option("--all", "everything", is_flag=True, help="All of them, whatever the limit.")
def runs(  # noqa: PLR0917 - click names them all
    runs: Runs,
    phases: tuple[str, ...],
    workflow: str | None,
    agent: str | None,
    parent: str | None,
    roots: bool,  # noqa: FBT001
    since: datetime | None,
    started_after: datetime | None,
    limit: int,
    after: str | None,
    offset: int,
    everything: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """List runs, active ones first.

    What is started comes first, then what is paused, then the queue, each in the order of arrival; then what ended,
    the latest first.
    """
    only = {"workflow": workflow, "agent": agent, "parent_id": parent}
    filters: dict[str, Any] = {name: value for name, value in only.items() if value is not None}
    if roots and parent is not None:
        raise click.UsageError("--roots and --parent exclude each other: a child is no root")
    if roots:
        filters["parent_id"] = None
    for column, start in (("queued_at", since), ("started_at", started_after)):
        if start is not None:
            filters[column] = Range(start=start)
    wanted = frozenset(phases) or frozenset(map(str, Phase))
    rows = _in_order(runs, wanted, filters, _row(runs, after) if after else None)
    page = list(islice(rows, offset, None if everything else offset + limit + 1))
    more = not everything and len(page) > limit
    if more:
        page.pop()
    if as_json:
        output.document(page)
    elif page:
        run_table(page)
    elif not more:
        output.say("no runs" if not (filters or phases or after or offset) else "no runs of that kind")
    if more:
        total = runs.workflow_runs.count(phase=sorted(wanted & {*map(str, ACTIVE), *map(str, _ENDED)}), **filters)
        going_on = f"--after {page[-1].run_id}, or " if page else ""
        output.note(f"{len(page)} of {total} runs; more with {going_on}--all")


def _in_order(runs: Runs, wanted: frozenset[str], filters: dict[str, Any], after: RunRow | None) -> Iterator[RunRow]:
    for section in _SECTIONS:
        if after is not None and after.phase not in section:
            continue
        phases = [phase for phase in section if phase in wanted]
        order = "position" if section is not _ENDED else "-position"
        while phases and (
            page := runs.workflow_runs.where(order=order, limit=500, after=after, phase=phases, **filters)
        ):
            yield from page
            after = page[-1]
        after = None


def _row(runs: Runs, run_id: str) -> RunRow:
    row = runs.workflow_runs.get(run_id)
    if row is None:
        raise RunNotFound(run_id)
    return row


def run_table(rows: list[RunRow]) -> None:
    """Print runs, a line each."""
    now = output.now()
    output.table(
        "run", "phase", "workflow", "attempt", "queued", "what",
        rows=[
            (row.run_id, output.phase(row.phase), row.workflow or "", row.attempt or "", output.ago(row.queued_at, now),
             _what(row, now))
            for row in rows
        ],
        wraps=("run", "workflow"),
        right=("attempt",),
    )  # fmt: skip


def _answered(row: RunRow) -> bool:
    """Whether what it waited for came: the row still says so until a worker takes the run up."""
    return row.waiting_for == "person" and not row.open_questions


def _what(row: RunRow, now: datetime) -> str:
    """What an operator wants to know of a run at a glance."""
    words = []
    if row.interrupt_requested and row.phase in ACTIVE:
        words.append("asked to stop")
    if row.open_questions:
        words.append(output.count(row.open_questions, "question") + " open")
    elif _answered(row):
        words.append("answered, waits for a worker")
    elif row.waiting_for:
        words.append(f"waits for {row.waiting_for}" + (f": {row.reason}" if row.reason else ""))
    elif row.error:
        words.append(f"{row.error['tag']}: {row.error['message']}")
    elif row.reason:
        words.append(row.reason)
    due = row.waiting_until or row.not_before
    if due is not None and due > now:
        words.append(f"due {output.ago(due, now)}")
    if row.failures:
        words.append("failed " + output.count(row.failures, "time"))
    if row.crashes:
        words.append(output.count(row.crashes, "crash", "crashes"))
    if row.title:
        words.append(row.title)
    return ", ".join(words) or (f"by {row.worker.partition(':')[0]}" if row.worker and row.phase in ACTIVE else "")


# --- one run ------------------------------------------------------------------------------------------------------


@store_command("run")
@click.option("--full", is_flag=True, help="Cut nothing off: each event is a line, however long.")
def show(runs: Runs, run: str, full: bool, as_json: bool) -> None:  # noqa: FBT001
    """Tell the life of one run.

    What is known of it, every event with its version, time, attempt and what it says, and what is open. Streams that
    are no runs (of your own machines, with --app) are told as well.
    """
    with runs.store.reading() as reading:
        if not reading.version(run):
            raise RunNotFound(run)
    row = runs.workflow_runs.get(run)
    phase = str(runs.store.stream(run).state.phase)
    if as_json:
        calls = [call for call in runs.calls(run) if call.open] if row and row.phase in ACTIVE else []
        output.document({
            "stream": run,
            "phase": phase,
            "run": row,
            "checkpoint": runs.checkpoints.get(run),
            "usage": runs.usage.get(run),
            "confirmations": list(runs.confirmations.each(run_id=run, order="position")),
            "open_calls": calls,
            "events": [output.event(recorded) for recorded in runs.store.read(run)],
        })  # fmt: skip
        return
    _header(runs, run, row, phase, full=full)
    output.say()
    Teller(streams=False, full=full).tell_all(runs.store.read(run))
    if row is not None and row.phase in ACTIVE:
        _open(runs, run)


def _header(runs: Runs, run: str, row: RunRow | None, phase: str, *, full: bool) -> None:
    checkpoint, usage = runs.checkpoints.get(run), runs.usage.get(run)
    known: dict[str, object] = {"stream" if row is None else "run": run, "phase": output.phase(phase)}
    if row is not None:
        now = output.now()

        def at(when: datetime | None) -> str:
            return "" if when is None else f"{output.moment(when)} UTC, {output.ago(when, now)}"

        known |= {
            "title": row.title,
            "summary": row.summary,
            "workflow": row.workflow,
            "agent": row.agent,
            "job": row.job_id,
            "parent": row.parent_id,
            "continues": row.continues_id and f"{row.continues_id} at version {row.continues_version}",
            "spec": row.spec_hash,
            "labels": " ".join(f"{name}={value}" for name, value in sorted(row.labels.items())),
            "priority": row.priority or "",
            "worker": row.worker,
            "attempt": row.attempt or "",
            "crashes": row.crashes or "",
            "failures": row.failures or "",
            "queued": at(row.queued_at),
            "not before": at(row.not_before),
            "started": at(row.started_at),
            "ended": at(row.ended_at),
            "waits for": "a worker, now that it is answered" if _answered(row) else row.waiting_for,
            "waits until": at(row.waiting_until),
            "asked to stop": "yes" if row.interrupt_requested else "",
            "reason": None if _answered(row) else row.reason,
            "error": row.error and f"{row.error['tag']}: {row.error['message']}",
            "output": row.output_version and _output(runs, row, full=full),
        }
    if checkpoint is not None:
        known["checkpoint"] = f"step {checkpoint.step}, in version {checkpoint.version}"
    if usage is not None:
        known["usage"] = output.spent(usage)
    output.fields(known)


def _output(runs: Runs, row: RunRow, *, full: bool) -> str:
    version = row.output_version or 0
    text = "".join(map(output_of, runs.store.read(row.run_id, after=version - 1, limit=1)))
    where = f" (version {version})"
    return (text if full else output.cut(text, output.console().width - len(where) - _NAMES)) + where


def _open(runs: Runs, run: str) -> None:
    for call in (call for call in runs.calls(run) if call.open):
        output.say(f"\nopen call {output.clean(call.call_id)} of {output.clean(call.tool)}, "
                   f"since {output.moment(call.called_at)} UTC", style="bold")  # fmt: skip
    for question in runs.confirmations.each(run_id=run, decision=None, order="position"):
        output.say()
        open_text(question, output.now())


@store_command("run")
@click.option("--by", metavar="NAME", help="Who ends it; your login name unless given.")
@click.option("--reason", help="Why, for people.")
def cancel(runs: Runs, run: str, by: str | None, reason: str | None, as_json: bool) -> None:  # noqa: FBT001
    """End a run from outside, at once.

    Its worker is fenced off: whatever it still does, it writes nothing more.
    """
    recorded = runs.cancel(run, by=by or login_name(), reason=reason)
    if as_json:
        output.document(output.event(recorded))
    else:
        output.say(f"{run} is cancelled")


@store_command("run")
@click.option("--by", metavar="NAME", help="Who asks; your login name unless given.")
@click.option("--reason", help="Why, for people.")
def interrupt(runs: Runs, run: str, by: str | None, reason: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Ask a run to stop.

    Its worker ends it when it next looks; a paused run, which nobody holds, ends here.
    """
    recorded = runs.interrupt(run, by=by or login_name(), reason=reason)
    if as_json:
        output.document(output.event(recorded))
        return
    told = {
        Phase.INTERRUPTED: "is interrupted",
        Phase.QUEUED: "is asked to stop; the next worker that takes it up ends it",
    }
    phase = runs.store.stream(run, RUN).state.phase
    output.say(f"{run} {told.get(phase, 'is asked to stop; its worker ends it at its next look')}")
