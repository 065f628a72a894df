"""One worker's go at a run: what it may read, write, call and ask, and how leaving it ends or parks the run.

Everything an attempt writes carries its number, so that a worker that was taken for dead, and was not, is fenced off
and writes nothing. Effects are at-least-once, and the log knows which: a call is written down before it is made, and
one that began and never returned is not made again unless the caller says so.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, Self

from attrs import frozen

from eventstore.changing import changed
from eventstore.errors import (
    ChildrenOpen,
    DigestMismatch,
    Fenced,
    IllegalTransition,
    UnreadableEntry,
    Unreturned,
    Waiting,
)
from eventstore.limits import check_age, check_function, check_seconds
from eventstore.payloads import Json, digest
from eventstore.settings import known
from eventstore.workflow import (
    ConfirmationRequested,
    ConfirmationResolved,
    Error,
    Phase,
    RunPaused,
    RunQueued,
    RunRequeued,
    RunState,
    ToolCalled,
    ToolReturned,
    bound,
)
from projections import calling, delegation, filesets
from projections.leaving import is_of, last_word, storable
from projections.lineage import inherited_checkpoint
from projections.policies import approval, approvals
from projections.retrying import after_failure
from projections.steps import looking
from projections.streaming import Delta

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    from eventstore.codec import Recorded
    from eventstore.log import Writing
    from eventstore.store import Stream
    from projections.steps import Steps
    from projections.streaming import Channel
    from projections.system import System

_IDLE = timedelta(seconds=1)
"""How long a run waits that was left as it was found."""
_DAMAGED = timedelta(minutes=1)
"""How long a run waits that came to an entry which cannot be read; somebody has to bring back what it needs."""
_LOOK = 0.05
"""Seconds between two looks for an answer."""


@frozen
class Answer:
    """What became of a question."""

    call_id: str
    decision: Literal["approved", "denied", "expired"]
    input: Json
    """What to act on: the input as it was asked about, or as the decision edited it."""
    by: str | None = None
    comment: str | None = None
    result: Json = None

    @property
    def approved(self) -> bool:
        """Whether the call may be made."""
        return self.decision == "approved"

    @property
    def denied(self) -> bool:
        """Whether the call may not be made: somebody said no, or nobody answered in time."""
        return not self.approved


class Attempt:
    """A run in a worker's hands. Use it as a context manager: leaving the block ends or parks the run.

    | leaving by | the run is |
    |---|---|
    | a final event of one's own | ended |
    | `Waiting` (from `ask`) | paused for a person |
    | `ChildrenOpen` (from `delegate`) | paused until those runs ended |
    | `Unreturned` (from `call`) | paused for an operator |
    | unfinished, KeyboardInterrupt, SystemExit, cancellation | paused for a worker, or interrupted if that was asked |
    | `Fenced` | another's: nothing is written |
    | an error of the store itself (its disk, a lock) | paused for a worker; the exception goes on |
    | `UnreadableEntry`: an entry cannot be read, its blob is away | the same, for a minute |
    | any other exception | failed; the exception goes on |

    The first four and `Fenced` end the block quietly. A run that is left as it was found waits for a second. Where the
    store cannot take even this last word, the worker keeps it and says it before its next claim: a run is not stuck
    because a disk was full for a while.
    """

    def __init__(
        self,
        stream: Stream[RunState],
        system: System,
        done: Callable[[Callable[[], None] | None], None],
        channel: Channel,
        steps: Steps,
    ) -> None:
        self.stream = stream
        """The run's own stream."""
        self._channel = channel
        self._steps = steps
        self._system = system
        self._done = done
        self.run_id: str = stream.name
        self.number: int = stream.state.attempt
        """1, 2, 3 …; the fencing token of everything written here."""
        self._begun_at = stream.version
        self._checkpoint_version = stream.state.checkpoint

    def __repr__(self) -> str:
        return f"<attempt {self.number} of {self.run_id}>"

    # --- what is known ------------------------------------------------------------------------------------------

    @cached_property
    def _queued(self) -> Recorded:
        # The first event, but for notes that stood there before; a page of a long history is not read for it.
        pages = (self.stream.read(limit=1), self.stream.read())
        return next(item for page in pages for item in page if item.kind is RunQueued)

    @property
    def queued(self) -> RunQueued:
        """The event that submitted the run: its workflow, input, labels and config."""
        return self._queued.event  # type: ignore[no-any-return]

    @property
    def workflow(self) -> str:
        """The workflow's name."""
        return self.queued.workflow

    @property
    def input(self) -> Json:
        """The run's input."""
        return self.queued.input

    @cached_property
    def checkpoint(self) -> Json:
        """The state that the latest checkpoint held when this attempt began; None if there was none.

        Of a run that continues another, it is that one's, until it has saved one of its own.

        Raises:
            LineageBroken: the run that it continues is not in this log.
        """
        saved: Recorded | None
        if self._checkpoint_version:
            (saved,) = self.stream.read(after=self._checkpoint_version - 1, limit=1)
        else:
            saved = inherited_checkpoint(self.stream.store, self.run_id, self.queued.continues)
        return None if saved is None else saved.event.state

    @cached_property
    def since(self) -> tuple[Recorded, ...]:
        """What earlier attempts of this run recorded after its checkpoint, in order (all of it, if it saved none)."""
        recorded = self.stream.read(after=self._checkpoint_version, limit=self._begun_at - self._checkpoint_version)
        return tuple(recorded)

    @property
    def unreturned(self) -> tuple[str, ...]:
        """The calls that were opened and have not come back, as last seen."""
        return tuple(sorted(self.stream.state.unreturned))

    @property
    def interrupt_requested(self) -> bool:
        """Whether somebody asked the run to stop; looks at the log."""
        return self.stream.refresh().state.interrupt_requested

    # --- writing ------------------------------------------------------------------------------------------------

    def append(
        self, *events: object, key: str | None = None, meta: Json = None, occurred_at: datetime | None = None
    ) -> tuple[Recorded, ...]:
        """Append events of this attempt, all or none, durable when this returns; as `Stream.append`.

        Raises:
            Fenced: another attempt began, or the run ended; nothing was written.
            StepLimitReached: a checkpoint of one step more than the run, or its job, may make; nothing was written.
        """
        return self.stream.append(
            *events, attempt=self.number, key=key, meta=meta, occurred_at=occurred_at, provided=self.provided(events)
        )

    def provided(self, events: Iterable[object]) -> Callable[[Writing], None] | None:
        """What must hold for these events in the write transaction, beside what the machine says; None for nothing."""
        look = looking(self._steps, self.run_id, events)
        if look is None or self._counted:
            return look

        def since(writing: Writing) -> None:
            # A limit may have been set by others; where the run stands as it was last seen, none was.
            if writing.version(self.run_id) != self.stream.version or self._counted:
                look(writing)

        return since

    @property
    def _counted(self) -> bool:
        """Whether a limit of steps may concern the run: of its job, or of its settings as they were last seen."""
        configured = self.stream.state.configured != self._queued.version
        return configured or self.queued.job_id is not None or known(self.queued.config).step_limit is not None

    def call(
        self,
        call_id: str,
        tool: str,
        input: Json,  # noqa: A002 - the event's own field name
        do: Callable[[Json], Json],
        *,
        repeat: bool = False,
    ) -> Json:
        """Make a tool call once: written down, then `do(input)`, then its output written down.

        A call that returned in an earlier attempt gives the recorded output, and one whose approval came with a result
        gives that; `do` is then not called. What `do` raises goes on, and the call stays open: whether the tool did
        something before it raised, only the caller can know.

        Args:
            call_id: the caller's own name for it, the same in each attempt; also an idempotency key for the tool.
            tool: the tool's name.
            input: any JSON.
            do: makes the call; what it returns must be JSON.
            repeat: make a call again that began and never returned.

        Returns:
            The output as it was recorded.

        Raises:
            Unreturned: it began before, never returned, and `repeat` is False.
            CallFailed: it returned before, or was settled, with an error; the error holds its output.
            DigestMismatch: the call id stands for another tool or input.
            QuestionOpen, NotApproved: it was asked about, and not approved.
            Fenced: another attempt began, or the run ended.
            InvalidArgument: `do` cannot be called; nothing was written.
        """
        check_function("do", do, "input")  # or the call stood as begun, and nobody would know how it ended
        returned, output = self.begin(call_id, tool, input, repeat=repeat)
        return output if returned else self.end(call_id, do(input))

    def begin(
        self,
        call_id: str,
        tool: str,
        input: Json,  # noqa: A002 - the event's own field name
        *,
        repeat: bool = False,
    ) -> tuple[bool, Json]:
        """The first half of `call`, for who makes the call in a way of its own: write down that it begins.

        Returns:
            Whether it returned already, or was given a result; and its output if so.

        Raises:
            Unreturned, CallFailed, DigestMismatch, QuestionOpen, NotApproved, Fenced: as for `call`.
        """
        state = self.stream.refresh().state
        call = calling.standing(self.stream, call_id, tool, input)
        if call is not None and call.returned is not None:
            return True, calling.returned(self.stream, call_id, call.returned)
        mine = call is not None and call.attempt == self.number
        opening = () if mine else (ToolCalled(call_id, tool, input),)
        if (given := calling.given(self.stream, call_id)) is not None:
            return True, self.append(*opening, ToolReturned(call_id, given))[-1].event.output
        if call is not None and not repeat:
            raise Unreturned(self.run_id, call_id, call.attempt)
        if mine:
            calling.may_repeat(state, self.run_id, call_id, self.number)
        self.append(*opening)
        return False, None

    def end(self, call_id: str, output: Json) -> Json:
        """The second half of `call`: write down what the call gave; the output as it was recorded."""
        (returned,) = self.append(ToolReturned(call_id, output))
        return returned.event.output

    def delegate(self, call_id: str, workflow: str, *, input: Json = None, **options: Any) -> Json:  # noqa: A002
        """Have another run make a call, and get its output; until it has ended, this run is parked.

        The first time, the call and a child run are written down together; the next attempt comes to the same line,
        finds the same child and, if it has ended, writes down its output as the call's result and goes on. The child
        goes on by itself when this run ends before it.

        Args:
            call_id: as for `call`: the same in each attempt.
            workflow: of the child run; also the call's tool.
            input: the child's, any JSON.
            options: `agent`, `spec_hash`, `priority`, `labels` and `config` of the child, as for `submit`; its job is
                that of this run. Only where the child is made for the first time.

        Returns:
            The child's output, as it was recorded.

        Raises:
            ChildrenOpen: the child has not ended; leave the block by it, and this run is parked until it has.
            CallFailed: the child failed, crashed or was stopped; the error's output tells its run id, phase and reason.
            DigestMismatch: the call id stands for another workflow or input.
            QuestionOpen, NotApproved: it was asked about, and not approved.
            Fenced: another attempt began, or the run ended; no child was made.
        """
        return self.delegate_all({call_id: delegation.Child(workflow, input, **options)})[call_id]

    def delegate_all(self, children: Mapping[str, delegation.Child]) -> dict[str, Json]:
        """Have several runs make a call each, at once; as `delegate`, by call id.

        The run is parked until all of them ended. Where one of them did not complete, `CallFailed` is raised for the
        first; what the others gave is recorded, and `delegate` of that call alone gives it.
        """
        return delegation.results(
            self.stream, self.number, children, job_id=self.queued.job_id, provided=self._steps.admit
        )

    def ask(
        self,
        call_id: str,
        tool: str,
        input: Json,  # noqa: A002 - the event's own field name
        *,
        reason: str | None = None,
        wait: float = 0.0,
        expires_in: timedelta | None = None,
    ) -> Answer:
        """Ask a person about a call that is to be made; asking again gives the question, or the answer, that stands.

        Where a standing permission of the run covers the tool (`runs.sessions.auto_accept`), question and approval are
        written down together, and nobody waits.

        Args:
            call_id: of the call; the question is bound to the digest of its tool and input.
            tool: the tool's name.
            input: any JSON.
            reason: why a person should look.
            wait: seconds to wait here for the answer.
            expires_in: after this, the question counts as denied; only where it is asked for the first time.

        Raises:
            InvalidArgument: `wait` or `expires_in` is no time; nothing was asked.
            Waiting: unanswered; leave the block by it, and the run is parked until there is an answer.
            DigestMismatch: the call id was asked about with another tool or input.
            Fenced: another attempt began, or the run ended.
        """
        now, patience = self._system.now(), check_seconds("wait", wait)
        expires_at = None if expires_in is None else now + check_age("expires_in", expires_in)
        asked = ConfirmationRequested(call_id, tool, input, digest(tool, input), reason=reason, expires_at=expires_at)

        def decide(state: RunState) -> list[object]:
            if call_id in state.questions:
                return [answer for answer in approvals(state, state.accepting, now) if answer.call_id == call_id]
            answer = approval(state.accepting, call_id, tool, now)
            return [asked] if answer is None else [asked, answer]

        # Looked at first: a question that stands, asked again and again, is no write.
        if decide(self.stream.refresh().state):
            self.stream.transact(decide, attempt=self.number)
        deadline = self._system.monotonic() + patience
        while (answer := self._answer(call_id, tool, input)) is None:
            left = deadline - self._system.monotonic()
            if left <= 0:
                raise Waiting(self.run_id, (call_id,))
            self._system.sleep(min(left, _LOOK))
            self.stream.refresh()
        return answer

    def _answer(self, call_id: str, tool: str, input: Json) -> Answer | None:  # noqa: A002
        state = self.stream.state
        if state.phase is not Phase.STARTED or state.attempt != self.number:
            raise Fenced(self.run_id, "ConfirmationRequested", self.number, state.attempt, str(state.phase))
        question = state.questions[call_id]
        (asked,) = self.stream.read(after=question.asked - 1, limit=1)
        if (expected := bound(asked.event)) != (wanted := digest(tool, input)):
            raise DigestMismatch(self.run_id, call_id, expected, wanted)
        if question.decision is None or question.resolved is None:
            return None
        if question.decision == "expired":
            return Answer(call_id, "expired", input)
        (resolved,) = self.stream.read(after=question.resolved - 1, limit=1)
        event: ConfirmationResolved = resolved.event
        edited = input if event.input is None else event.input
        return Answer(call_id, event.decision, edited, event.by, event.comment, event.result)

    def retry(
        self,
        error: Exception | str,
        *,
        max_attempts: int = 5,
        backoff: timedelta = timedelta(seconds=1),
        longest: timedelta = timedelta(hours=1),
    ) -> datetime | None:
        """Give the run up for now, since something failed that may pass: it is queued again, for later.

        The first failure waits for `backoff`, each further one for twice as long as the one before. What was told here
        counts as a failure; to wait for a person, to be drained, or to lose a worker does not. A call that is open
        stays so: the next attempt makes it again with `repeat=True`. A run that was asked to stop ends instead.

        Args:
            error: what failed; for people, and for the run's error if it was the last time.
            max_attempts: how often it may fail; with that many failures, the run has failed.
            backoff: the first wait.
            longest: no wait is longer; at most a year.

        Returns:
            When it may be taken up again; None where it has ended.

        Raises:
            QuestionOpen: a question of it waits for its answer, which the queue would not take.
            InvalidArgument: a number or a span that cannot be.
            Fenced: another attempt began, or the run ended.
        """
        failure = Error(type(error).__name__, storable(str(error)))
        if isinstance(error, str):
            failure = Error("Failed", storable(error))
        state = self.stream.refresh().state
        bounds: dict[str, Any] = {"max_attempts": max_attempts, "backoff": backoff, "longest": longest}
        word = after_failure(state, failure, self._system.now(), **bounds)
        self.append(word)
        return word.not_before if isinstance(word, RunRequeued) else None

    def save_files(self, folder: str | Path, name: str = "files", *, key: str | None = None) -> Recorded:
        """Save the files of a folder under this run, as blobs and one event that lists them; see `filesets`.

        Args:
            folder: with all that lies in it; symlinks in it are not followed, and left out.
            name: of the set; `runs.files.restore` brings the last one of a name back.
            key: saving again with the same key and the same files gives what stands.

        Raises:
            Fenced, IllegalTransition: as for any append; the blobs may stand, and `gc` takes them away.
            InvalidArgument, OSError: there is no such folder, or it cannot be read.
            InvalidPayload: the redactor changes the list of files; nothing was recorded.
            MissingBlob: somebody takes the blobs away as fast as they are written; nothing was recorded.
        """
        return filesets.save(self.stream, folder, name, attempt=self.number, key=key)

    def publish(self, data: Any) -> None:
        """Say something to those who listen in this process (`Runs.listen`): nothing is stored, and nothing waits."""
        self._channel.publish(Delta(self.run_id, self.number, data))

    # --- leaving ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        # Of this run: another run's Fenced, say, is an error like any other here.
        quiet = isinstance(error, Fenced | Waiting | ChildrenOpen | Unreturned) and error.stream == self.run_id
        unsaid: Callable[[], None] | None = partial(self._leave, error)
        try:
            if not (quiet and isinstance(error, Fenced)):
                self._leave(error)
            unsaid = None
        finally:
            self._done(unsaid)
        return quiet

    def _leave(self, error: BaseException | None) -> None:
        state = self.stream.refresh().state
        if state.phase is not Phase.STARTED or state.attempt != self.number:
            return  # it ended, was parked by its own hand, or is another's
        word = last_word(state, self.run_id, error, store_failed=is_of(self.stream.store, error))
        if error is None and isinstance(word, RunPaused) and self.stream.version == self._begun_at:
            # A handler that forgets its ending would else be given the run again at once, for ever: 200 times a second.
            word = changed(word, until=self._system.now() + _IDLE, reason="left without having done anything")
        if isinstance(error, UnreadableEntry) and isinstance(word, RunPaused):
            word = changed(word, until=self._system.now() + _DAMAGED)
        try:
            self.append(word)
        except (Fenced, IllegalTransition):
            return  # somebody ended it between the look and the word
