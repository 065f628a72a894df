"""The demo's supervisor: starts the worker, kills it at random moments, and holds what it said against the log.

It also answers the worker's questions, as a person would. After each death everything acknowledged must stand in the
log, at once and not only at the end: a line that was acknowledged too early would otherwise be written by the next
life and never be missed. When every run has ended, the log must hold each line of each trace once and in order, and
every table must be the fold of it. Last, it must outlive what operators do with it (see `keeping`).
"""

from __future__ import annotations

import json
import os
import random
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import define, field, frozen

import projections
from eventstore.errors import EventStoreError
from eventstore.workflow import RUN, ConfirmationResolved, Phase, RunPaused, RunResumed, RunStarted
from projections.cli.demo import traces as trace_files
from projections.cli.demo.keeping import keep
from projections.cli.demo.traces import Trace, key_of

if TYPE_CHECKING:
    from pathlib import Path

    from eventstore.codec import Recorded
    from projections import Runs

WORKER = (sys.executable, "-m", "projections.cli.demo.worker")
STUCK = 60.0
"""Seconds without any news from the worker after which a run counts as stuck."""
_LOOK = 0.005
_START = 0.25
"""About the seconds that a worker takes to start and recover; some kills fall within."""


@frozen
class RunLine:
    """One run in the demo's report."""

    run_id: str
    lines: int
    phase: str
    attempts: int
    crashes: int
    questions: int


@define
class Outcome:
    """What happened, and everything that was wrong. Counts are of lines unless they say otherwise."""

    seed: int
    lines: int
    kills: int = 0
    lives: int = 0
    acknowledged: int = 0
    resumed: int = 0
    """Runs that a new life took up after their worker had died."""
    answered: int = 0
    zombies_refused: int = 0
    entries: int = 0
    rows: int = 0
    backed_up: int = 0
    archived: int = 0
    put_back: int = 0
    seconds: float = 0.0
    runs: list[RunLine] = field(factory=list)
    wrong: list[str] = field(factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, doubled, stuck or different."""
        return not self.wrong


class Supervisor:
    """One demo over a database.

    Args:
        database: where; must not hold these runs yet.
        performed: the runs to perform.
        kills: how often to kill the worker.
        seed: of all that is random here.
        worker: the command that starts the worker; database and trace file are added.
        news: called now and then with the outcome so far.
    """

    def __init__(
        self,
        database: Path,
        performed: Sequence[Trace],
        *,
        kills: int,
        seed: int,
        worker: Sequence[str] = WORKER,
        news: Callable[[Outcome], None] | None = None,
    ) -> None:
        self._database = database
        self._traces = {trace.run_id: trace for trace in performed}
        self._kills = kills
        self._chance = random.Random(seed)  # noqa: S311 - no secret
        self._worker = worker
        self._news = news or (lambda _outcome: None)
        self._ledger: set[tuple[str, int]] = set()
        self._unproved: set[tuple[str, int]] = set()
        self._unfinished = b""
        self.outcome = Outcome(seed, sum(len(trace.events) for trace in performed))

    def run(self) -> Outcome:
        """Perform everything, with the kills; then rebuild, check, back up, archive, and report."""
        began = time.monotonic()
        path = self._database.with_name(self._database.name + ".traces.jsonl")
        with projections.connect(self._database) as runs:
            trace_files.write(path, self._traces.values(), runs.store.gate.codec)
            try:
                while not self.outcome.wrong and not self._live(runs, path):
                    pass
            finally:
                path.unlink()
            self._examine(runs)
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    # --- one life of the worker ---------------------------------------------------------------------------------

    def _live(self, runs: Runs, path: Path) -> bool:
        """Start the worker and let it live until it ends or is killed; whether all is done, and all kills spent.

        Where a life ended before its kill came, another finds nothing to do, and is killed while it starts.
        """
        self.outcome.lives += 1
        process = subprocess.Popen(  # noqa: S603 - our own worker
            [*self._worker, str(self._database), str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            killed = self._watch(runs, process)
        finally:
            process.kill()
            out, errors = process.communicate()
        for line in (self._unfinished + out).splitlines():
            self._note(line)
        self._unfinished = b""
        self._prove(runs)
        if not killed and process.returncode != 0:
            self.outcome.wrong.append(f"the worker failed: {errors.decode(errors='replace').strip()[-600:]}")
        return not killed and self.outcome.kills >= self._kills

    def _watch(self, runs: Runs, process: subprocess.Popen[bytes]) -> bool:
        """Listen, answer, and kill when the time has come; whether it was killed."""
        after_lines, after_seconds = self._moment()
        start, last = len(self._ledger), time.monotonic()
        deadline = last + after_seconds if after_seconds is not None else None
        assert process.stdout is not None  # noqa: S101 - we asked for one
        pipe = process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                # Read past Python's buffer: what waits there would not wake the selector.
                if selector.select(_LOOK):
                    news = os.read(pipe, 65536)
                    if not news:
                        process.wait()
                        return False
                    *lines, self._unfinished = (self._unfinished + news).split(b"\n")
                    for line in lines:
                        self._note(line)
                    last = time.monotonic()
                self._answer(runs)
                now = time.monotonic()
                if now - last > STUCK:
                    self.outcome.wrong.append(f"stuck: no news from the worker for {STUCK:g} s")
                    return True
                if after_lines is not None and len(self._ledger) - start >= after_lines and deadline is None:
                    deadline = now + self._chance.uniform(0, 0.004)
                if deadline is not None and now >= deadline:
                    self.outcome.kills += 1
                    return True

    def _moment(self) -> tuple[int | None, float | None]:
        """When to kill this life: after so many lines, or so many seconds; neither once all kills are spent."""
        left = self._kills - self.outcome.kills
        if left <= 0:
            return None, None
        fair = (self.outcome.lines - len(self._ledger)) // (left + 1)
        if fair < 2 or self._chance.random() < 0.15:  # noqa: PLR2004 - a kill in start or recovery now and then
            return None, self._chance.uniform(0, _START)
        return self._chance.randint(1, 2 * fair - 2), None

    def _note(self, line: bytes) -> None:
        fact: dict[str, Any] = json.loads(line)
        if "line" in fact:
            place = (fact["run"], fact["line"])
            if place not in self._ledger:
                self._ledger.add(place)
                self._unproved.add(place)
                self.outcome.acknowledged += 1
                self._news(self.outcome)
        elif fact.get("zombie") == "wrote":
            self.outcome.wrong.append(f"a zombie attempt of {fact['run']} was not fenced off")
        elif "zombie" in fact:
            self.outcome.zombies_refused += 1
        else:
            self.outcome.resumed += fact["recovered"]

    def _answer(self, runs: Runs) -> None:
        """Be the person who is asked: give the trace's own answer."""
        for row in runs.confirmations.where(decision=None):
            for number, event in self._traces[row.run_id].lines:
                if isinstance(event, ConfirmationResolved) and event.call_id == row.call_id:
                    fields = attrs.asdict(event, recurse=False)
                    fields["by"] = fields["by"] or "supervisor"
                    runs.resolve(row.run_id, **fields, key=key_of(number))
                    self._note(json.dumps({"run": row.run_id, "line": number}).encode())
                    self.outcome.answered += 1

    # --- proof --------------------------------------------------------------------------------------------------

    def _prove(self, runs: Runs) -> None:
        """Everything acknowledged by a worker that is dead by now must stand in the log."""
        with runs.store.reading() as reading:
            for run_id, number in sorted(self._unproved):
                started = isinstance(self._traces[run_id].events[number - 1], RunStarted)
                if not started and reading.keyed(run_id, key_of(number)) is None:
                    self.outcome.wrong.append(f"line {number} of {run_id} was acknowledged and is not in the log")
        self._unproved.clear()

    def _examine(self, runs: Runs) -> None:
        outcome = self.outcome
        for trace in self._traces.values():
            self._examine_run(runs, trace)
        outcome.entries = runs.store.head().position
        try:
            for report in (runs.check(), runs.rebuild(), runs.check()):
                outcome.rows = report.rows
                outcome.wrong += [str(difference) for difference in report.listed]
                outcome.wrong += [*report.troubles, *(str(skipped) for skipped in report.listed_skipped)]
            kept = keep(runs)
            outcome.backed_up, outcome.archived, outcome.put_back = kept.backed_up, kept.archived, kept.put_back
            outcome.wrong += kept.wrong
        except EventStoreError as error:
            outcome.wrong.append(str(error))

    def _examine_run(self, runs: Runs, trace: Trace) -> None:
        """The stream must hold the trace's lines, once each and in order, and end as the trace does."""
        recorded = [item for item in runs.store.read(trace.run_id) if item.kind not in (RunResumed, RunPaused)]
        wanted = [_content(runs.store.gate.codec.encode(event), type(event).__name__) for event in trace.events]
        found = [_content(item.entry.data, item.type) for item in recorded]
        if found != wanted:
            self.outcome.wrong.append(_explain(trace, recorded, wanted, found))
        state = runs.store.stream(trace.run_id, RUN).refresh().state
        if state.phase in (Phase.QUEUED, Phase.STARTED, Phase.PAUSED):
            self.outcome.wrong.append(f"{trace.run_id} is stuck: {state.phase}")
        questions = sum(isinstance(event, ConfirmationResolved) for event in trace.events)
        self.outcome.runs.append(
            RunLine(trace.run_id, len(found), str(state.phase), state.attempt, state.crashes, questions)
        )


def _content(data: str, name: str) -> tuple[str, str]:
    # The trace's worker is another than ours, and the decision may have been given a name.
    return (name, "" if name in ("RunStarted", "ConfirmationResolved") else data)


def _explain(trace: Trace, recorded: list[Recorded], wanted: list[Any], found: list[Any]) -> str:
    twice = [content for content, count in (Counter(found) - Counter(wanted)).items() if count]
    lost = [content for content, count in (Counter(wanted) - Counter(found)).items() if count]
    if twice:
        return f"{trace.run_id}: {twice[0][0]} stands twice, or was never in the trace"
    if lost:
        return f"{trace.run_id}: {lost[0][0]} is missing, and {len(lost) - 1} more of {len(wanted)} lines"
    place = next(index for index, (one, other) in enumerate(zip(wanted, found, strict=True)) if one != other)
    return f"{trace.run_id}: the order differs at {recorded[place]!r}"
