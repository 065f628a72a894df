"""`jobs`: work that takes several runs: how each job stands, or the runs of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from eventstore.errors import JobNotFound
from projections.cli import output
from projections.cli.opening import store_command
from projections.cli.runs import run_table

if TYPE_CHECKING:
    from projections import Runs
    from projections.jobs import Job


@store_command(rest="job")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@click.option("--after", metavar="JOB", help="Go on after this job, the last one of the page before.")
def jobs(runs: Runs, job: tuple[str, ...], limit: int, after: str | None, as_json: bool) -> None:  # noqa: FBT001
    """List jobs, the newest first; or show one, with its runs.

    How a job stands is told by its runs: their phases, the steps they made, what they spent. A job's steps are those of
    all its runs; it may have a limit of them.
    """
    if len(job) > 1:
        raise click.UsageError(f"name one job, not {len(job)}; without one, all are listed")
    if job:
        if after is not None:
            raise click.UsageError("--after is for the list of all jobs; leave it out")
        _show(runs, job[0], limit, as_json=as_json)
        return
    found = runs.jobs.where(limit=limit, after=after)
    if as_json:
        output.document(found)
    elif found:
        _table(found)
    else:
        output.say("no jobs" if after is None else "no jobs after that one")
    if len(found) == limit and (total := runs.jobs.count()) > limit:
        output.note(f"{len(found)} of {total} jobs; more with --after {found[-1].job_id}")


def _table(found: list[Job]) -> None:
    now = output.now()
    output.table(
        "job", "phase", "runs", "steps", "tokens", "cost", "queued",
        rows=[
            (job.job_id, output.phase(job.phase), job.runs, _steps(job), f"{_tokens(job):,}" if _tokens(job) else "",
             _cost(job), output.ago(job.queued_at, now))
            for job in found
        ],
        wraps=("job",),
        right=("runs", "steps", "tokens", "cost"),
    )  # fmt: skip


def _show(runs: Runs, job_id: str, limit: int, *, as_json: bool) -> None:
    job = runs.jobs.get(job_id)
    if job is None:
        raise JobNotFound(job_id)
    rows = runs.jobs.runs(job_id, limit=limit)
    if as_json:
        shown: dict[str, Any] = {"job": job, "runs": rows}
        output.document(shown)
    else:
        now = output.now()
        output.fields({
            "job": job.job_id,
            "phase": job.phase,
            "steps": _steps(job),
            "tokens": f"{job.input_tokens:,} in, {job.output_tokens:,} out" if _tokens(job) else "",
            "cost": _cost(job),
            **{
                name: "" if when is None else f"{output.moment(when)} UTC, {output.ago(when, now)}"
                for name, when in (("queued", job.queued_at), ("started", job.started_at), ("ended", job.ended_at))
            },
        })  # fmt: skip
        output.say()
        run_table(rows)
    if job.runs > len(rows):
        output.note(f"{len(rows)} of {job.runs} runs; more with --limit {job.runs}")


def _tokens(job: Job) -> int:
    return job.input_tokens + job.output_tokens


def _steps(job: Job) -> str:
    return f"{job.steps:,}" if job.step_limit is None else f"{job.steps:,} of {job.step_limit:,}"


def _cost(job: Job) -> str:
    return f"${job.cost_usd:,.4f}" if job.cost_usd else ""
