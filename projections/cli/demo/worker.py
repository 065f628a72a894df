"""The demo's worker process: performs traces through `Attempt`, and acknowledges each line once it is durable.

    python -m projections.cli.demo.worker DATABASE TRACES

It knows nothing of the lives before it but what the log tells: it goes on from the last checkpoint and what was
recorded since. Every line is one append with a key of its own; every acknowledgement one line of JSON on stdout.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

import projections
from eventstore.errors import Fenced
from eventstore.workflow import (
    RUN,
    CheckpointSaved,
    ConfirmationRequested,
    ConfirmationResolved,
    RunQueued,
    RunStarted,
)
from projections.cli.demo.traces import Trace, key_of, load

if TYPE_CHECKING:
    from projections import Attempt, Runs, Worker

ENDED = ["completed", "failed", "crashed", "interrupted", "dropped", "cancelled"]
_PATIENCE = 0.2
"""Seconds to wait for a person before the run is parked."""
_WORK = 0.003
"""Seconds that a line takes, beside its append: agents are slower than logs, and a kill must find something to hit."""


def acknowledge(**fact: Any) -> None:
    """Tell the supervisor, in one write, which a pipe takes whole or not at all."""
    os.write(1, json.dumps(fact).encode() + b"\n")


def submit(runs: Runs, trace: Trace) -> None:
    """Append what comes before the run's start; in a later life the keys make it a look."""
    for number, event in trace.lines:
        if isinstance(event, RunStarted):
            return
        if isinstance(event, RunQueued):
            fields = {item.name: getattr(event, item.name) for item in attrs.fields(RunQueued)}
            runs.submit(**fields, run_id=trace.run_id, key=key_of(number))
        else:
            runs.store.stream(trace.run_id, RUN).append(event, key=key_of(number))
        acknowledge(run=trace.run_id, line=number)


def done_so_far(attempt: Attempt, trace: Trace) -> int:
    """The last line that stands: what was recorded since the last checkpoint, and that checkpoint's own line."""
    done = next(number for number, event in trace.lines if isinstance(event, RunStarted))
    if attempt.checkpoint is not None:
        done = max(
            number
            for number, event in trace.lines
            if isinstance(event, CheckpointSaved) and event.state == attempt.checkpoint
        )
    keys = {recorded.key for recorded in attempt.since}
    return max([done, *(number for number, _ in trace.lines if key_of(number) in keys)])


def perform(attempt: Attempt, trace: Trace, runs: Runs) -> None:
    """Go on with a run, line by line, until it ends or waits."""
    with attempt:
        done = done_so_far(attempt, trace)
        acknowledge(run=trace.run_id, line=next(n for n, event in trace.lines if isinstance(event, RunStarted)))
        question: Any = None
        for number, event in trace.lines:
            if isinstance(event, ConfirmationRequested):
                question = event
            if number <= done:
                continue
            if attempt.number > 1 and number == done + 1:
                haunt(attempt, event, runs)
            if isinstance(event, ConfirmationResolved):
                attempt.ask(question.call_id, question.tool, question.input, wait=_PATIENCE)
            else:
                time.sleep(_WORK)
                attempt.append(event, key=key_of(number))
                acknowledge(run=trace.run_id, line=number)


def haunt(attempt: Attempt, event: Any, runs: Runs) -> None:
    """Do what a worker would that was taken for dead and was not: write the next line under the attempt before."""
    try:
        runs.store.stream(attempt.run_id, RUN).append(event, attempt=attempt.number - 1)
    except Fenced:
        acknowledge(zombie="refused", run=attempt.run_id)
    else:
        acknowledge(zombie="wrote", run=attempt.run_id)


def work(runs: Runs, worker: Worker, traces: dict[str, Trace]) -> None:
    """Perform what is there until every run has ended."""

    def performed(attempt: Attempt) -> None:
        perform(attempt, traces[attempt.run_id], runs)
        if runs.workflow_runs.count(run_id=list(traces), phase=ENDED) == len(traces):
            worker.stop()

    with ThreadPoolExecutor(4) as pool:
        pending = [pool.submit(performed, attempt) for attempt in worker.claims(limit=4)]
    for future in pending:
        future.result()


def main(database: str, path: str) -> None:
    """One life of the worker."""
    with (
        projections.connect(database) as runs,
        runs.worker("demo", lease=timedelta(seconds=10)) as worker,
    ):
        traces = {trace.run_id: trace for trace in load([Path(path)], runs.store.gate.codec)}
        report = worker.recover(max_crashes=1_000_000)
        acknowledge(recovered=len(report.resumable))
        for trace in traces.values():
            submit(runs, trace)
        if runs.workflow_runs.count(run_id=list(traces), phase=ENDED) < len(traces):
            work(runs, worker, traces)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
