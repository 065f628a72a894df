"""Snapshots of an agent loop: what it has done so far, saved after each step, and given back whole to go on from.

    with projections.connect("agent.db") as runs, SnapshotPersistence(runs) as persistence:
        snapshot = persistence.on_run_start("run-1", plan=["look", "act"], messages=[user("tidy up")])
        persistence.on_step_complete("run-1", 1, {"did": "look"}, messages=[assistant("dusty")])
        persistence.on_run_complete("run-1", text="tidy")

For loops that know three moments (begun, a step done, ended) and want one value back. Underneath it is a run like any
other: a step appends what is new in it and nothing else, and `load_run` folds the whole snapshot out of the log. So a
run that is written this way can be listed, watched, cancelled and proved with everything else here.

A step has a number. One that failed may be made again, by whoever goes on, and then stands in place of the failed one;
one that is done stands for good.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from attrs import frozen

from eventstore.changing import changed
from eventstore.errors import AgentDiffers, InvalidArgument, InvalidPayload, RunNotFound, SpecDiffers
from eventstore.payloads import Json, canonical
from eventstore.workflow import (
    RUN,
    TRANSITIONS,
    CheckpointSaved,
    Error,
    MessageRecorded,
    Phase,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunQueued,
    UsageRecorded,
)

if TYPE_CHECKING:
    from types import TracebackType

    from eventstore.codec import Recorded
    from projections.attempt import Attempt
    from projections.runs import Runs


@frozen
class Step:
    """A step as it was made last: what the loop tells of it, and what was said in it."""

    number: int
    record: Json = None
    messages: tuple[dict[str, Json], ...] = ()
    failed: bool = False


@frozen
class Snapshot:
    """All that is known of a run: enough to go on from."""

    run_id: str
    phase: Phase = Phase.NEW
    input: Json = None
    agent: str | None = None
    spec_hash: str | None = None
    plan: Json = None
    steps: tuple[Step, ...] = ()
    opening: tuple[dict[str, Json], ...] = ()
    """The messages before the first step."""
    iterations: int = 0
    revisions: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    text: Json = None
    """What a completed run gave."""
    error: dict[str, str] | None = None
    """Of a failed one: tag and message."""

    @property
    def step_index(self) -> int:
        """How many steps are done: a loop goes on with the next one, which may stand already as failed."""
        return self.steps[-1].number - self.steps[-1].failed if self.steps else 0

    @property
    def trace(self) -> list[Json]:
        """What the loop told of each step, in order; each step once."""
        return [step.record for step in self.steps]

    @property
    def history(self) -> list[dict[str, Json]]:
        """The messages, as role and content, in order, without those of a failed step that was made again."""
        return [*self.opening, *(message for step in self.steps for message in step.messages)]


def snapshot(run_id: str, recorded: Iterable[Recorded], made: Snapshot | None = None) -> Snapshot | None:
    """The snapshot that a run's events make, on top of what earlier ones made; None if there are none. Pure."""
    said: list[dict[str, Json]] = []
    for item in recorded:
        made = made or Snapshot(run_id)
        if item.kind is MessageRecorded:
            said.append({"role": item.event.role, "content": item.event.content})
        elif item.kind is CheckpointSaved:
            made = _after(made, item.event, said)
            said = []
        elif item.kind in _FOLDS:
            made = changed(made, **_FOLDS[item.kind](made, item.event))
        if (phase := TRANSITIONS.get(made.phase, {}).get(item.kind or type(None))) is not None:
            made = changed(made, phase=phase)
    return made


def _after(made: Snapshot, event: CheckpointSaved, said: list[dict[str, Json]]) -> Snapshot:
    state: Any = event.state if isinstance(event.state, dict) else {}
    messages = tuple(said)
    counted = {name: state[name] for name in ("plan", "iterations", "revisions") if name in state}
    if event.step < 1:
        return changed(made, opening=made.opening + messages, **counted)
    step = Step(event.step, state.get("record"), messages, bool(state.get("failed")))
    before = made.steps
    while before and before[-1].number >= event.step:
        before = before[:-1]
    return changed(made, steps=(*before, step), **counted)


_FOLDS: Mapping[Any, Any] = {
    RunQueued: lambda _made, event: {"input": event.input, "agent": event.agent, "spec_hash": event.spec_hash},
    UsageRecorded: lambda made, event: {
        "input_tokens": made.input_tokens + event.input_tokens,
        "output_tokens": made.output_tokens + event.output_tokens,
        "cost_usd": made.cost_usd + event.cost_usd,
    },
    RunCompleted: lambda _made, event: {"text": event.output},
    RunFailed: lambda _made, event: {"error": {"tag": event.error.tag, "message": event.error.message}},
}


class SnapshotPersistence:
    """Saves an agent loop's runs step by step. Use it as a context manager: what has not ended is parked on leaving.

    Args:
        runs: where.
        workflow: the kind of its runs, in lists and queues; no worker should claim it that is no such loop.
        name: of the worker that its runs are held by, for people.
    """

    def __init__(self, runs: Runs, *, workflow: str = "snapshot", name: str = "snapshots") -> None:
        self._store = runs.store
        self._submit = runs.submit
        self._workflow = workflow
        self._worker = runs.worker(name)
        self._held: dict[str, tuple[Attempt, Snapshot]] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Park the runs that have not ended, so that they can be gone on with; the second time it does nothing."""
        with self._lock:
            for attempt, _ in self._held.values():
                attempt.__exit__(None, None, None)
            self._held.clear()
            self._worker.close()

    def on_run_start(
        self,
        run_id: str,
        *,
        resume: bool = False,
        input: Json = None,  # noqa: A002 - the event's own field name
        agent: str | None = None,
        spec_hash: str | None = None,
        plan: Json = None,
        messages: Iterable[Mapping[str, Json]] = (),
        config: Json = None,
    ) -> Snapshot:
        """Begin a run, or go on with one that has not ended.

        Args:
            run_id: its name.
            resume: go on with the run of this name; what else is given is then compared with it, and not written, but
                for plan and messages of a run that was killed before they were.
            input: what it is to do.
            agent: who performs it; when going on, refused where it is another.
            spec_hash: of the agent's definition; likewise.
            plan: what it means to do.
            messages: what was said before, each with `role` and `content`.
            config: its settings; see `eventstore.settings`.

        Returns:
            The snapshot to go on from.

        Raises:
            RunExists: a run of this name exists, and going on with it was not asked for.
            RunNotFound: there is none to go on with.
            InvalidArgument: it has ended, waits for something, or is in the hands of another.
            AgentDiffers, SpecDiffers: it is another agent's, or of another definition.
        """
        said = _said(messages)
        with self._lock:
            if run_id in self._held:
                raise InvalidArgument("run_id", run_id, "was begun here already; go on with its next step")
            if resume:
                self._guard(run_id, agent, spec_hash)
            else:
                self._submit(
                    self._workflow, run_id=run_id, input=input, agent=agent, spec_hash=spec_hash, config=config
                )
            attempt = self._worker.take(run_id)
            if attempt is None:
                reason = "is in the hands of another worker, or waits for something; see `runfold show`"
                raise InvalidArgument("run_id", run_id, reason)
            try:
                # Killed behind `submit`, a run has no opening yet: who goes on with it gives that again.
                if not attempt.stream.state.checkpoint and (not resume or said or plan is not None):
                    attempt.append(*said, CheckpointSaved(0, {"plan": plan}))
                return self._hold(attempt, attempt.stream.read())
            except InvalidPayload:  # of the plan or a message: the run waits for a better one
                with attempt:
                    attempt.append(RunPaused("worker", reason="its opening was refused"))
                raise

    def on_step_complete(
        self,
        /,
        run_id: str,
        step: int,
        record: Json,
        *,
        failed: bool = False,
        messages: Iterable[Mapping[str, Json]] = (),
        usage: UsageRecorded | None = None,
        **counted: Json,
    ) -> Snapshot:
        """Save a step: only what is new in it is written, whatever came before.

        Args:
            run_id: a run that was begun here.
            step: its number, from 1, without gaps. A failed last one may be saved again, and is then replaced.
            record: what the loop tells of it: an entry of the trace.
            failed: whether it is to be made again.
            messages: what was said in it, each with `role` and `content`.
            usage: what it spent.
            counted: `plan`, `iterations` and `revisions`, where they have changed.

        Returns:
            The snapshot after it. A step that stands is not written again if it is the same.

        Raises:
            InvalidArgument: the run was not begun here, the step leaves a gap, or stands with other content.
            Fenced: the run has ended, or another took it over.
            StepLimitReached: it is one too many.
        """
        with self._lock:
            attempt, standing = self._begun(run_id)
            if unknown := counted.keys() - {"plan", "iterations", "revisions"}:
                raise InvalidArgument("counted", sorted(unknown), "are none of plan, iterations and revisions")
            said = _said(messages)
            new = Step(step, record, tuple({"role": one.role, "content": one.content} for one in said), failed)
            if not self._is_new(run_id, standing, new):
                return standing
            spent = () if usage is None else (usage,)
            state = {"record": record, **({"failed": True} if failed else {}), **counted}
            return self._hold(attempt, attempt.append(*said, *spent, CheckpointSaved(step, state)), standing)

    def on_run_complete(self, run_id: str, *, text: str | None = None, error: Error | None = None) -> Snapshot:
        """End a run: with the text that it gave, or with what went wrong. It stays ended.

        Raises:
            InvalidArgument: it was not begun here.
            Fenced: it has ended otherwise, or another took it over.
        """
        with self._lock:
            attempt, standing = self._begun(run_id)
            end = attempt.append(RunCompleted(text) if error is None else RunFailed(error))
            ended = self._hold(attempt, end, standing)
            del self._held[run_id]
            attempt.__exit__(None, None, None)
            return ended

    def load_run(self, run_id: str) -> Snapshot | None:
        """All that is known of a run, whoever holds it; None if there is none of this name."""
        return snapshot(run_id, self._store.read(run_id))

    # --- what may be --------------------------------------------------------------------------------------------

    def _guard(self, run_id: str, agent: str | None, spec_hash: str | None) -> None:
        standing = self.load_run(run_id)
        if standing is None:
            raise RunNotFound(run_id)
        if standing.phase in RUN.final:
            raise InvalidArgument(
                "run_id", run_id, f"is {standing.phase}, and stays so; go on from it with `runs.continue_from`"
            )
        if agent is not None and agent != standing.agent:
            raise AgentDiffers(run_id, standing.agent, agent)
        if spec_hash is not None and spec_hash != standing.spec_hash:
            raise SpecDiffers(run_id, standing.spec_hash, spec_hash)

    def _begun(self, run_id: str) -> tuple[Attempt, Snapshot]:
        if run_id not in self._held:
            raise InvalidArgument("run_id", run_id, "was not begun here, or has ended; begin with on_run_start")
        return self._held[run_id]

    def _is_new(self, run_id: str, standing: Snapshot, step: Step) -> bool:
        last = standing.steps[-1] if standing.steps else Step(0)
        if step.number == last.number and not last.failed:
            if canonical([step.record, *step.messages]) == canonical([last.record, *last.messages]):
                return False
            reason = f"of {run_id} is done, and stands with other content; the next one is {last.number + 1}"
            raise InvalidArgument("step", step.number, reason)
        if step.number != standing.step_index + 1:
            raise InvalidArgument("step", step.number, f"of {run_id} must be {standing.step_index + 1}, the next one")
        return True

    def _hold(self, attempt: Attempt, recorded: Iterable[Recorded], before: Snapshot | None = None) -> Snapshot:
        """The snapshot with these events: folded as a later process would fold it that loads the run."""
        made = snapshot(attempt.run_id, recorded, before)
        if made is None:
            raise RunNotFound(attempt.run_id)
        self._held[attempt.run_id] = (attempt, made)
        return made


def _said(messages: Iterable[Mapping[str, Json]]) -> list[MessageRecorded]:
    return [*_each(messages)]


def _each(messages: Iterable[Mapping[str, Json]]) -> Iterator[MessageRecorded]:
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidArgument("message", message, "must have a role and a content")
        yield MessageRecorded(str(message["role"]), message.get("content"))
