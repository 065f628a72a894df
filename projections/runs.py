"""Runs: the one object that users hold. Submit, look, decide, work, rebuild; each a line, each durable when it returns.

It owns nothing of its own: writing is the store's, reading the views', deciding the machine's.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from eventstore.errors import InvalidArgument, QuestionUnknown, Refused, RunNotFound
from eventstore.limits import check_name
from eventstore.workflow import (
    RUN,
    CheckpointSaved,
    ConfirmationExpired,
    ConfirmationResolved,
    InterruptRequested,
    Phase,
    RunCancelled,
    RunInterrupted,
    RunQueued,
    RunState,
    ToolReturned,
)
from projections import readings, texts
from projections.checkpoints import CHECKPOINTS
from projections.configuring import configure
from projections.confirmations import CONFIRMATIONS
from projections.daemon import Worker
from projections.filesets import FileSets
from projections.finding import find
from projections.job_rows import JOBS
from projections.jobs import Jobs
from projections.keeping import Keeping
from projections.logs import LOGS
from projections.meta import META
from projections.notes import Logs, Meta
from projections.pointers import fetched
from projections.policies import check_person
from projections.rebuilding import Progress, Rebuilder, Report
from projections.recovery import overdue
from projections.saves import Saves
from projections.sessions import Sessions
from projections.steps import Steps
from projections.streaming import KEPT, Channel, Listener
from projections.submitting import Submitting
from projections.transcripts import Transcript
from projections.tree import Node, grown
from projections.usage import USAGE
from projections.verifying import Verification, verify
from projections.views import View
from projections.workflow_runs import WORKFLOW_RUNS
from projections.working_folders import WORKING_FOLDERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from eventstore.backups import Backup
    from eventstore.codec import Recorded
    from eventstore.payloads import Json
    from eventstore.store import EventStore, Stream
    from projections.leases import Presence
    from projections.projection import Projection
    from projections.projector import Projector, Standing
    from projections.retention import Retention
    from projections.system import System
    from projections.workflow_runs import RunRow

R = TypeVar("R")


class Runs(Submitting, Keeping):
    """The runs of one store. Made by `projections.connect`; use it as a context manager, from any thread."""

    def __init__(self, store: EventStore, projector: Projector, presence: Presence, system: System) -> None:
        self.store = store
        """The log underneath, which speaks in events."""
        self.blobs = store.blobs
        """Bytes of any size beside the log, named by their SHA-256."""
        self._projector = projector
        self._presence = presence
        self._system = system
        self._channel = Channel()
        self._rebuilder = Rebuilder(store, projector, system.sleep)
        self.workflow_runs = self.view(WORKFLOW_RUNS)
        self.checkpoints = self.view(CHECKPOINTS)
        self.confirmations = self.view(CONFIRMATIONS)
        self.usage = self.view(USAGE)
        self.texts = self.view(texts.TEXTS)
        self.sessions = Sessions(store, self.workflow_runs, self.view(WORKING_FOLDERS), system)
        self._steps = Steps(store, projector)
        self.logs = Logs(store, self.view(LOGS))
        self.files = FileSets(store.blobs, self.logs.each, self._stream)
        self.meta = Meta(store, self.view(META))
        self.jobs = Jobs(
            store,
            steps=self._steps,
            jobs=self.view(JOBS),
            workflow_runs=self.workflow_runs,
            saved=self.checkpoints,
            usage=self.usage,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release files and locks; the second time it does nothing."""
        self._channel.close()
        self.store.close()

    # --- from outside -------------------------------------------------------------------------------------------

    def resolve(
        self,
        run_id: str,
        call_id: str,
        decision: Literal["approved", "denied"],
        *,
        by: str,
        comment: str | None = None,
        input: Json = None,  # noqa: A002 - the event's own field name
        result: Json = None,
        key: str | None = None,
    ) -> Recorded:
        """Decide a question.

        Args:
            run_id: whose question.
            call_id: of the call that was asked about.
            decision: "approved" or "denied".
            by: who decides.
            comment: for people.
            input: an edited input; the decision is then bound to that.
            result: the call's result itself, given by the person; `call` then gives it, and makes no call.
            key: deciding again with the same key and content gives the decision that stands.

        Raises:
            AlreadyResolved: it was decided before: who, when, what; or its time had passed, which is now written down.
            QuestionUnknown, RunNotFound, IllegalTransition: there is nothing to decide.
            InvalidArgument: no such decision, or in the name of the standing permissions; nothing was written.
        """
        if decision not in ("approved", "denied"):
            raise InvalidArgument("decision", decision, "must be 'approved' or 'denied'")
        check_person(by)
        event = ConfirmationResolved(call_id, decision, by, comment, input, result)
        stream = self._stream(run_id)
        if stream.state.phase in (Phase.QUEUED, Phase.STARTED, Phase.PAUSED) and call_id not in stream.state.questions:
            raise QuestionUnknown(run_id, call_id)
        expired = [late for late in overdue(stream.state, self._system.now()) if late == ConfirmationExpired(call_id)]
        if expired:
            with suppress(Refused):  # somebody else decided it, or ended the run, a moment ago
                stream.append(*expired)
        return stream.append(event, key=key)[0]

    def settle(
        self, run_id: str, call_id: str, output: Json, *, is_error: bool = False, key: str | None = None
    ) -> Recorded:
        """Say how a call ended that began and never returned; a run that waits for an operator may then go on.

        Args:
            run_id: a paused run, or one whose worker died.
            call_id: of the call, as `Unreturned` and `runfold show` name it.
            output: what the tool gave, or would have given; any JSON.
            is_error: whether it failed.
            key: settling again with the same key and content gives what stands.

        Raises:
            CallNotOpen, CallReused: there is no such call, or it returned.
            RunNotFound, IllegalTransition, InvalidArgument: there is no such run, it ended, or a worker holds it.
        """
        stream = self._stream(run_id)
        state = stream.state
        attempt = None
        if state.phase is Phase.STARTED:
            if not self._presence.dead([state.worker]):
                reason = f"is in the hands of the living worker {state.worker}, which says itself how its calls end"
                raise InvalidArgument("run_id", run_id, reason)
            attempt = state.attempt  # in the place of the worker that died in the middle of it
        return stream.append(ToolReturned(call_id, output, is_error), attempt=attempt, key=key)[0]

    def cancel(self, run_id: str, *, by: str, reason: str | None = None, key: str | None = None) -> Recorded:
        """End a run from outside, at once; its worker is fenced off.

        Raises:
            RunNotFound, IllegalTransition: there is no such run, or it ended.
        """
        return self._stream(run_id).append(RunCancelled(by, reason), key=key)[0]

    def interrupt(self, run_id: str, *, by: str, reason: str | None = None, key: str | None = None) -> Recorded:
        """Ask a run to stop. Its worker ends it at its next look; a paused run, which nobody holds, ends here.

        Raises:
            RunNotFound, IllegalTransition: there is no such run, or it ended.
        """

        def end(state: RunState) -> object:
            paused = state.phase is Phase.PAUSED and state.interrupt_requested
            return RunInterrupted(reason=reason) if paused else None

        # Two appends, so that the key names the request alone, whatever phase a retry meets. Killed between them, the
        # run is paused with the request, and the next recovery or claim ends it.
        stream = self._stream(run_id)
        (asked,) = stream.append(InterruptRequested(by, reason), key=key)
        stream.transact(end)
        return asked

    def configure(self, run_id: str, /, *, by: str | None = None, key: str | None = None, **changes: Json) -> Recorded:
        """Change some of a run's settings; the others stay as they are.

        Args:
            run_id: a run that has not ended.
            by: who changes them.
            key: changing the same again with the same key gives the change that stands; without one, it is another.
            changes: name to its new value, any JSON; None takes the name away.

        Returns:
            The change, which holds all settings as they are from here on.

        Raises:
            RunNotFound, IllegalTransition: there is no such run, or it ended.
            InvalidArgument: a name that Runfold reads has the wrong shape; see `eventstore.settings`.
            KeyReused: the key stands with another change.
        """
        return configure(self._stream(run_id), changes, by=by, key=key)

    def worker(
        self, name: str, *, lease: timedelta = timedelta(seconds=30), retention: Retention | None = None
    ) -> Worker:
        """A worker of this process, seen to be alive from here on.

        Args:
            name: for people; each worker has an id of its own beside it.
            lease: how long a beat counts for those who cannot see this process.
            retention: what is archived and collected once a day while it runs, by one of the workers that are given it.
        """
        return Worker(
            name,
            lease,
            store=self.store,
            workflow_runs=self.workflow_runs,
            confirmations=self.confirmations,
            presence=self._presence,
            system=self._system,
            channel=self._channel,
            steps=self._steps,
            retention=retention,
        )

    def listen(self, run_id: str | None = None, *, kept: int = KEPT) -> Listener:
        """Hear what attempts `publish` in this process, of one run or of all.

        Args:
            run_id: whose; everybody's unless given.
            kept: who is further behind than this misses the oldest.
        """
        return self._channel.listen(run_id, kept)

    # --- reading ------------------------------------------------------------------------------------------------

    def view(self, projection: Projection[R] | str) -> View[R]:
        """The rows of a projection, by itself or by name.

        Raises:
            InvalidArgument: this store does not keep it.
        """
        known = self._projector.projections
        name = projection if isinstance(projection, str) else getattr(projection, "name", projection)
        if name not in known or not (isinstance(projection, str) or known[name] is projection):
            raise InvalidArgument("projection", name, f"is not among {', '.join(known)}; name it when connecting")
        return View(self._projector, known[name])

    def output(self, run_id: str) -> Json:
        """A completed run's output; None for any other."""
        row = self.workflow_runs.get(run_id)
        if row is None:
            raise RunNotFound(run_id)
        return None if row.output_version is None else self._event(run_id, row.output_version).event.output

    def checkpoint(self, run_id: str, *, step: int | None = None) -> Json:
        """The state of a run's latest checkpoint, or of the last one that it saved for a step; None if it has none.

        Raises:
            RunNotFound: no run of that id.
        """
        if step is not None:
            last = [*self.saved(run_id, step=step, limit=1, newest_first=True)]
            return self._event(run_id, last[0].version).event.state if last else None
        entry = self.checkpoints.look(
            run_id, then=lambda reading, row: reading.read(run_id, after=row.version - 1, limit=1)[0]
        )
        if entry is None:
            self._stream(run_id)
            return None
        event: CheckpointSaved = self.store.gate.codec.recorded(entry).event
        return event.state

    def messages(
        self,
        run_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[readings.Message]:
        """The messages of a run between two versions, in order or from the end, read from the log.

        At most `limit` of them, from 1 to 10,000; all unless given. `sessions` has rounds, and histories of many runs.

        Raises:
            RunNotFound: no run of that id.
            InvalidArgument: a version or limit that cannot be.
        """
        transcript = Transcript(self.store, self._stream(run_id).name)
        return transcript.messages(after=after, before=before, limit=limit, newest_first=newest_first)

    def input(self, run_id: str) -> Json:
        """What a run was submitted with; None for one that was dropped before it was queued.

        Raises:
            RunNotFound: no run of that id.
        """
        row = self.workflow_runs.get(run_id)
        if row is None:
            raise RunNotFound(run_id)
        (first,) = fetched(self.store, [row.position])
        return first.event.input if first.kind is RunQueued else None

    def saved(
        self,
        run_id: str,
        *,
        step: int | None = None,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[readings.Saved]:
        """Where the checkpoints of a run lie, of one step or of all: step, version, attempt and time, without states.

        Those between two versions, in order or from the end; at most `limit` of them, from 1 to 10,000, or all.

        Raises:
            RunNotFound: no run of that id.
            InvalidArgument: a step, version or limit that cannot be.
        """
        places = Saves(self.store, self._stream(run_id).name)
        return places.between(step, after=after, before=before, limit=limit, newest_first=newest_first)

    def tree(self, run_id: str, *, limit: int = 1_000) -> Node:
        """A run and all under it: children in order of arrival, and what each and all of them spent.

        Args:
            run_id: the root of the tree.
            limit: of the runs in it, up to 5,000.

        Raises:
            RunNotFound: no run of that id.
            InvalidArgument: a limit that cannot be, or more runs than that; nothing is cut off silently.
        """
        return grown(self.workflow_runs, self.usage, run_id, limit)

    def calls(self, run_id: str) -> list[readings.ToolCall]:
        """The tool calls of a run, in the order in which they were opened, read from the log; open ones too.

        Raises:
            RunNotFound: no run of that id.
        """
        return readings.calls(self._stream(run_id).read())

    def events(self, run_id: str, *, upto_step: int | None = None) -> Iterator[Recorded]:
        """The events of a run, in order; only up to and with the checkpoint of a step if one is named.

        Raises:
            RunNotFound: no run of that id.
        """
        return readings.upto(self._stream(run_id).read(), upto_step)

    def settings(self, run_id: str) -> Json:
        """A run's settings as they stand: its `config`; None if it never had any.

        Raises:
            RunNotFound: no run of that id.
        """
        row = self.workflow_runs.get(run_id)
        if row is None:
            raise RunNotFound(run_id)
        return None if row.config_version is None else self._event(run_id, row.config_version).event.config

    def settings_history(self, run_id: str) -> list[readings.Configured]:
        """What a run's settings were, from its submission on: each change with its version, time and who made it.

        Raises:
            RunNotFound: no run of that id.
        """
        return list(readings.settings(self._stream(run_id).read()))

    def search(
        self, query: str, *, run_id: str | None = None, limit: int = 50, before: int | None = None
    ) -> list[texts.Found]:
        """Where messages, titles and summaries hold these words, the newest first; see `finding.find`."""
        return find(self.texts, query, run_id=run_id, limit=limit, before=before)

    def _stream(self, run_id: str) -> Stream[RunState]:
        with self.store.reading() as reading:
            if not reading.version(check_name("run_id", run_id)):
                raise RunNotFound(run_id)
        return self.store.stream(run_id, RUN)

    def _event(self, run_id: str, version: int) -> Recorded:
        return next(self.store.read(run_id, after=version - 1, limit=1))

    def lost(self) -> list[RunRow]:
        """The runs whose worker is dead: recovery ends them, or leaves them to the next worker's `claim`."""
        started = list(self.workflow_runs.each(phase=Phase.STARTED, order="position"))
        dead = self._presence.dead({row.worker for row in started})
        return [row for row in started if row.worker in dead]

    # --- tables -------------------------------------------------------------------------------------------------

    def rebuild(self, *names: str, skip_invalid: bool = False, progress: Progress | None = None) -> Report:
        """Make tables anew from the log alone; see `rebuilding.Rebuilder.rebuild`."""
        return self._rebuilder.rebuild(*names, skip_invalid=skip_invalid, progress=progress)

    def verify(self, *, progress: Progress | None = None) -> Verification:
        """Prove storage, hash chain, places, machines and tables; see `verifying.verify`."""
        with self.store.reading() as reading:
            bare = self._projector.read_only and not self._projector.cursors(reading)
        return verify(self.store, self._rebuilder, bare=bare, progress=progress)

    def check(self, *names: str, skip_invalid: bool = False, progress: Progress | None = None) -> Report:
        """Prove the tables against the log; see `rebuilding.Rebuilder.check`."""
        return self._rebuilder.check(*names, skip_invalid=skip_invalid, progress=progress)

    def backup(
        self, folder: str | PathLike[str], *, everything: bool = False, progress: Progress | None = None
    ) -> Backup:
        """Bring a folder up to the log as it is now, beside writers; see `eventstore.backups.back_up`.

        Args:
            folder: an empty one, one that is not there yet (in one that is), or one with earlier backups of this log.
            everything: prove all that the folder holds, and not only what is new.
            progress: called after each page with (entries copied, entries to copy).

        Raises:
            BackupRefused: it holds something else, the log does not prove, or the disk fails or is full; earlier
                backups stand as they were.
        """
        from eventstore.backups import back_up  # noqa: PLC0415 - who makes none need not wait for it

        return back_up(
            self.store.log,
            folder,
            everything=everything,
            microseconds=self._system.microseconds,
            progress=progress,
        )

    def rekey(self, key: bytes | str) -> bool:
        """Give an encrypted store another key; whether no page under the old one is left.

        Killed anywhere, the store opens with the old key or with the new one. Other processes that have it open are
        refused with `WrongKey` at their next read or write. Where False comes back, some still read an older state; ask
        again when they are done. Segments and blobs stay as they are: their key stands in the database.

        Args:
            key: 32 random bytes, or a passphrase.

        Raises:
            InvalidArgument: it can be no key, or the store is not encrypted.
            DatabaseBusy: another process holds the write lock for too long.
            CannotOpen: the disk failed; the old key holds.
        """
        return self.store.log.rekey(key)

    def standings(self) -> list[Standing]:
        """How each projection stands to the log: how far it is, and why it cannot answer if so."""
        return self._projector.standings()

    @property
    def projections(self) -> tuple[Projection[Any], ...]:
        """What is kept in step with the log here."""
        return tuple(self._projector.projections.values())
