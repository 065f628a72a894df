"""How a run comes in: submitted anew, or as one that goes on from another. A half of `Runs`, which users hold."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any

from eventstore.errors import IllegalTransition, InvalidArgument, KeyReused, QueueFull, RunExists, StepLimitReached
from eventstore.gate import same_json
from eventstore.limits import check_count, check_name
from eventstore.settings import check_settings
from eventstore.workflow import RUN, Continues, Phase, RunQueued
from projections import lineage
from projections.tables import query
from projections.workflow_runs import WORKFLOW_RUNS

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from eventstore.log import Writing
    from eventstore.payloads import Json
    from eventstore.store import EventStore
    from projections.projector import Projector
    from projections.steps import Steps
    from projections.system import System


class Submitting:
    """What `Runs` does for who hands runs in."""

    store: EventStore
    _projector: Projector
    _system: System
    _steps: Steps

    def submit(
        self,
        workflow: str,
        *,
        input: Json = None,  # noqa: A002 - the event's own field name
        run_id: str | None = None,
        key: str | None = None,
        agent: str | None = None,
        spec_hash: str | None = None,
        job_id: str | None = None,
        parent_id: str | None = None,
        continues: Continues | None = None,
        priority: int = 0,
        not_before: datetime | None = None,
        labels: dict[str, str] | None = None,
        config: Json = None,
        max_queued: int | None = None,
    ) -> str:
        """Put a run into the queue; it stands there when this returns.

        Args:
            workflow: its kind; workers claim by it.
            input: any JSON.
            run_id: its name, and that of its stream; made up unless given, from the key if there is one.
            key: submitting again with the same key and content gives the run that stands, however long ago it ended.
            agent: who performs it; kept with it and told by its row, as are the next six.
            spec_hash: of the agent's definition.
            job_id: the job it is part of.
            parent_id: the run that waits for it.
            continues: the run and version that it goes on from; see `continue_from`.
            labels: names and values of the caller's own.
            config: its settings, any JSON; Runfold reads some names in it, see `eventstore.settings`.
            priority: higher goes first.
            not_before: nobody takes it up earlier; aware.
            max_queued: refuse when so many runs of this workflow wait already.

        Returns:
            The run id.

        Raises:
            QueueFull: as many wait as may.
            StepLimitReached: its job has made all the steps that it may make.
            RunNotFound: no run is its parent, or the one that it continues.
            SelfReference: it is itself the one or the other.
            VersionBeyondEnd: the run that it continues has not come that far.
            RunExists: a run of this id was submitted before, without this key.
            KeyReused: the key stands with other content.
            InvalidPayload, InvalidArgument: nothing was written.
        """
        run_id = self._made_up(key) if run_id is None else run_id
        check_settings(config)
        if job_id is not None:
            check_name("job_id", job_id)
        event = RunQueued(
            workflow=workflow,
            input=input,
            agent=agent,
            spec_hash=spec_hash,
            job_id=job_id,
            parent_id=parent_id,
            continues=continues,
            priority=priority,
            not_before=not_before,
            labels=labels or {},
            config=config,
        )
        self._queue(run_id, event, key, partial(self._admit, run_id, event, max_queued))
        return run_id

    def continue_from(
        self,
        continued: str,
        /,
        *,
        version: int | None = None,
        workflow: str | None = None,
        agent: str | None = None,
        spec_hash: str | None = None,
        input: Json = ...,  # noqa: A002 - the event's own field name
        config: Json = ...,
        needs_checkpoint: bool = True,
        **options: Any,
    ) -> str:
        """Submit a run that goes on from another, which may have ended, or may still be going on.

        Until it saves a checkpoint of its own, the new run's is the latest that stood there, whatever becomes of the
        other run. Workflow, agent, spec hash, job, input and settings are the other's unless given.

        Args:
            continued: the run to go on from.
            version: where in it; as far as it has come by now, unless given. It is fixed with the new run.
            workflow: the new run's.
            agent: who performs it; refused where another performed the one to go on from.
            spec_hash: of the agent's definition; refused where it differs likewise.
            input: the new run's; any JSON.
            config: the new run's settings.
            needs_checkpoint: refuse where there is no checkpoint to go on from.
            options: as for `submit`: `run_id` and `key` of the new run, `parent_id`, `labels`, `priority` …

        Returns:
            The new run's id.

        Raises:
            RunNotFound, VersionBeyondEnd: there is no such run, or it has not come that far.
            AgentDiffers, SpecDiffers: it was another's; give neither to ask for neither.
            NoCheckpoint: it had saved none there, nor had those that it continues itself.
            And what `submit` raises.
        """
        guards: dict[str, Any] = {"agent": agent, "spec_hash": spec_hash, "needs_checkpoint": needs_checkpoint}
        fork = lineage.fork(self.store, continued, version, **guards)
        given = {"input": input, "config": config, **options}
        asked = {name: value for name, value in given.items() if value is not ...}
        try:
            submitted = fork.workflow if workflow is None else workflow
            return self.submit(submitted, continues=fork.continues, **{**fork.inherited, **asked})
        except KeyReused as standing:
            first = lineage.begun(self.store, standing.stream)
            if version is not None or first is None or first.run_id != continued or first == fork.continues:
                raise
            # Submitted before under this key; the other run has gone on since, and the fork is where it was then.
            return self.continue_from(
                continued, version=first.version, workflow=workflow, **guards, input=input, config=config, **options
            )

    def _made_up(self, key: str | None) -> str:
        if key is None:
            return f"run-{self._system.new_id()[:16]}"
        return f"run-{hashlib.sha256(check_name('key', key, slashes=True).encode()).hexdigest()[:16]}"

    def _queue(self, run_id: str, event: RunQueued, key: str | None, provided: Callable[[Writing], None]) -> None:
        stream = self.store.stream(run_id, RUN)
        with self.store.appending():  # who measures is told what the caller is, which is decided here
            try:
                job = stream.refresh().job(event, key=key, provided=provided)
                stream.took(self.store.log.write(job, shared=True))
            except (IllegalTransition, QueueFull, StepLimitReached) as refused:
                if self._stands(run_id, event, key):
                    return
                if isinstance(refused, IllegalTransition):
                    raise RunExists(run_id, refused.phase) from None
                raise

    def _stands(self, run_id: str, event: RunQueued, key: str | None) -> bool:
        """Whether a run was submitted with this very key and content, though the log itself forgot the key.

        Events that left for a segment take their keys along. A run's first one can be looked up there; it never
        changes, so that is as good now as in the transaction that was refused.
        """
        if key is None or (first := lineage.submission(self.store, run_id)) is None or first.entry.key != key:
            return False
        (draft,) = self.store.gate.draft(run_id, [event], key=key)
        if not same_json(first.entry.data, draft.data):
            raise KeyReused(run_id, key, first.version)
        return True

    def _admit(self, run_id: str, event: RunQueued, max_queued: int | None, writing: Writing) -> None:
        lineage.admit(self.store, writing, run_id, parent_id=event.parent_id, continues=event.continues)
        self._steps.admit(event, writing)
        if max_queued is not None:
            self._room(writing, event.workflow, max_queued)

    def _room(self, writing: Writing, workflow: str, limit: int) -> None:
        check_count("max_queued", limit)
        table = self._projector.table(WORKFLOW_RUNS)
        if trouble := self._projector.bring_up(writing, WORKFLOW_RUNS):
            raise InvalidArgument("max_queued", limit, f"cannot be counted: {trouble}")
        wanted = query(table, {"phase": Phase.QUEUED, "workflow": workflow})
        queued = self._projector.tables.count(writing, table, wanted)
        if queued >= limit:
            raise QueueFull(workflow, queued, limit)
