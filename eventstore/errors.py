"""Every error of Runfold, named for the fact it reports.

Each carries its data as attributes, pickles, and says in one sentence what happened and what to do next.
This module imports nothing of the package, so that every room may raise from it. Its classes are not of attrs, which
writes and compiles the methods of each: 40 errors took as long to import as all else of ours (a millisecond each).

    EventStoreError
    ├── Refused                 nothing was written; state and log are what they were
    │   ├── InvalidArgument     a name, a page size, a filter … that cannot be
    │   ├── InvalidPayload      an event that JSON would not bring back as it was
    │   ├── UnknownEvent        a type that no machine of this store knows
    │   ├── ForeignEvent        an event of another machine than the stream's
    │   ├── KeyReused           the key stands already, with other content
    │   ├── Fenced              another attempt began, or the run ended
    │   ├── VersionConflict     the stream is not at the version that was expected
    │   ├── IllegalTransition   the phase does not take this event
    │   ├── CallReused          the call id was opened or returned before
    │   ├── CallNotOpen         a return without an open call
    │   ├── DigestMismatch      not the tool and input that were called, asked or approved
    │   ├── AlreadyAsked        the call id has a question already
    │   ├── AlreadyResolved     the question was decided before: who, when, what
    │   ├── QuestionUnknown     a decision on a question that was never asked
    │   ├── QuestionOpen        not while a question waits for its answer
    │   ├── NotApproved         a call whose question was denied or expired
    │   ├── NotCovered          a decision by a standing permission that does not stand, or does not say so
    │   ├── LimitReached        a run has as many labels, open questions or open calls as it may have
    │   ├── RunExists           a run of that id was submitted before
    │   ├── QueueFull           as many runs wait as may wait
    │   ├── StepLimitReached    a run, or a job, has made as many steps as it may make
    │   ├── SelfReference       a run as its own parent, or as the run that it continues
    │   ├── VersionBeyondEnd    a run cannot be continued from a version that it does not have
    │   ├── AgentDiffers        the run to go on from was another agent's
    │   ├── SpecDiffers         the run to go on from was performed by another definition
    │   ├── NoCheckpoint        the run to go on from had saved none
    │   ├── ArchiveBusy         another archive run, or a restore, is at work
    │   └── ImportRefused       a line of an import file, and why
    ├── UnreadableEntry         an entry in the log that this program cannot decode
    ├── MissingBlob             bytes that an entry needs, or that were asked for, are not there
    ├── DamagedBlob             they are there, and are not what was written
    ├── ReplayRefused           an entry in the log that its machine does not accept
    ├── CursorConflict          the log is not the one that this cursor was taken from
    ├── StaleProjection         a table that is behind, or another program's, and may not be written here
    ├── ProjectionHalted        a projection raised at an entry and stands still there
    ├── RebuildSuperseded       another rebuild of the same table began
    ├── RunNotFound             no run of that id
    ├── JobNotFound             no run is part of a job of that id
    ├── LineageBroken           a run goes on from one that is not there, or from itself
    ├── SegmentMissing          the file of a sealed day is not there
    ├── DamagedSegment          the file of a sealed day is not what was sealed
    ├── CannotOpen              not a database of ours, not readable, or not there
    ├── WrongKey                the key that was given does not open the database
    ├── NewerDatabase           written by a newer release
    ├── DatabaseBusy            another process holds the write lock for too long
    ├── OutcomeUnknown          the disk failed in the very commit: it may stand, or not
    ├── LostTail                acknowledged entries are gone
    ├── BackupRefused           no backup was made; earlier ones in the folder stand as they were
    ├── RestoreRefused          no log was made of a backup
    ├── ForkedStore             a handle was carried into a child process
    ├── StoreClosed             the handle was closed
    ├── WorkerClosed            the worker was closed and takes up nothing more
    ├── WorkersUnknown          somebody altered the table that tells which workers live
    ├── CallFailed              the call that is asked for again returned with an error
    ├── Waiting                 a question is unanswered: leave the block, the run is parked
    ├── ChildrenOpen            a run that was delegated to has not ended: leave the block, the run is parked
    └── Unreturned              a call began in an earlier attempt and nobody knows how it ended
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

if TYPE_CHECKING:
    from datetime import datetime

_GLANCE = 80
"""Signs of a path that a message shows; the error's attribute holds all of it."""


@dataclass_transform(eq_default=False)
class EventStoreError(Exception):
    """The base of every error that Runfold raises on purpose.

    The fields that a class names are its arguments, in order, and its attributes; one with a value may be left out. A
    class that names none is like any other exception.
    """

    __match_args__: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        names = dict.fromkeys((*cls.__match_args__, *cls.__annotations__))
        cls.__match_args__ = tuple(names)  # type: ignore[misc] # of a class that is being made

    def __init__(self, *values: Any, **named: Any) -> None:
        names = self.__match_args__
        if not names and not named:
            super().__init__(*values)
            return
        said = dict(zip(names, values, strict=False)) | named
        facts = {name: getattr(type(self), name) for name in names if hasattr(type(self), name)} | said
        if len(said) < len(values) + len(named) or facts.keys() != set(names):
            raise TypeError(f"{type(self).__name__} takes {_names(names)}")
        super().__init__(*(facts[name] for name in names))
        vars(self).update(facts)


class Refused(EventStoreError):
    """What was asked may not happen; nothing was written."""


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names) if names else "nothing"


class InvalidArgument(Refused):
    """An argument that cannot be; the reason goes on where name and value end."""

    name: str
    value: Any
    reason: str

    def __str__(self) -> str:
        value = repr(self.value)
        return f"{self.name} {value if len(value) <= _GLANCE else value[:_GLANCE] + '…'} {self.reason}"


class InvalidPayload(Refused):
    """A payload that JSON would change on the way; `path` leads to the spot."""

    type: str
    path: str
    reason: str

    def __str__(self) -> str:
        path = self.path if len(self.path) <= _GLANCE else f"{self.path[:_GLANCE]}…"
        return f"{self.type} cannot be stored: {path} {self.reason}"


class UnknownEvent(Refused):
    """A type that no machine of this store knows."""

    type: str
    known: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"no machine here knows the event type {self.type}; name the program that does with "
            f"connect(app=…) or --app, or use one of {_names(self.known)}"
        )


class ForeignEvent(Refused):
    """An event of another machine than the one that the stream's first event fixed."""

    stream: str
    type: str
    machine: str
    owner: str

    def __str__(self) -> str:
        return (
            f"{self.stream} belongs to the machine {self.machine!r} and cannot take {self.type}, "
            f"an event of {self.owner!r}; append it to a stream of its own"
        )


class KeyReused(Refused):
    """The key stands already in this stream, with other content."""

    stream: str
    key: str
    version: int

    def __str__(self) -> str:
        return (
            f"{self.stream} holds the key {self.key!r} already at version {self.version}, with other content; "
            "use a new key for a new fact"
        )


class Fenced(Refused):
    """The attempt that wrote this is no longer the run's."""

    stream: str
    type: str
    attempt: int | None
    current: int
    phase: str

    def __str__(self) -> str:
        if self.attempt is None:
            return (
                f"{self.type} is a worker's event and needs the attempt it belongs to; {self.stream} is {self.phase} "
                f"in attempt {self.current}: claim the run, or pass attempt={self.current}"
            )
        where = f"attempt {self.attempt} of {self.stream} may not write {self.type}: the run is {self.phase}"
        if self.attempt == self.current:
            return f"{where}; stop this work"
        return f"{where} in attempt {self.current}; stop this work, it belongs to another"


class VersionConflict(Refused):
    """The stream is not at the version that was expected."""

    stream: str
    expected: int
    actual: int

    def __str__(self) -> str:
        return (
            f"{self.stream} is at version {self.actual}, not {self.expected}; "
            "read what is new and decide again, or leave expected_version out"
        )


class IllegalTransition(Refused):
    """The machine's table has no such cell."""

    stream: str
    machine: str
    phase: str
    event: str
    allowed: tuple[str, ...]
    hint: str = ""

    def __str__(self) -> str:
        sentence = f"{self.stream} is {self.phase} and cannot take {self.event}; it takes {_names(self.allowed)}."
        return f"{sentence} {self.hint}".rstrip()


class CallReused(Refused):
    """A call id is opened once and returned once."""

    stream: str
    call_id: str
    fact: str

    def __str__(self) -> str:
        return f"call {self.call_id} of {self.stream} {self.fact}; use a new call id for a new call"


class CallNotOpen(Refused):
    """A return needs an open call."""

    stream: str
    call_id: str

    def __str__(self) -> str:
        return f"call {self.call_id} of {self.stream} was never opened; `runfold show {self.stream}` lists its calls"


class DigestMismatch(Refused):
    """The tool and input are not those that were called, asked about or approved under this call id."""

    stream: str
    call_id: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return (
            f"call {self.call_id} of {self.stream} stands for another tool or input "
            f"({self.expected[:12]}… and not {self.actual[:12]}…); use exactly that, or a new call id"
        )


class AlreadyAsked(Refused):
    """The call id has a question already."""

    stream: str
    call_id: str
    state: str

    def __str__(self) -> str:
        return f"call {self.call_id} of {self.stream} was asked about already and is {self.state}; read that answer"


class AlreadyResolved(Refused):
    """A question is decided once."""

    stream: str
    call_id: str
    decision: str
    by: str | None
    at: datetime | None

    def __str__(self) -> str:
        by = f" by {self.by}" if self.by else ""
        at = f" at {self.at:%Y-%m-%d %H:%M:%S} UTC" if self.at else ""
        return f"call {self.call_id} of {self.stream} is {self.decision}{by}{at}; a question is decided once"


class NotCovered(Refused):
    """A decision in the name of a standing permission that the run's settings do not hold."""

    stream: str
    call_id: str
    tool: str

    def __str__(self) -> str:
        return (
            f"no standing permission of {self.stream} approves call {self.call_id} of {self.tool} as it was asked; let "
            "a person decide it, or grant one with runs.sessions.auto_accept(…)"
        )


class QuestionUnknown(Refused):
    """A decision on a question that was never asked."""

    stream: str
    call_id: str

    def __str__(self) -> str:
        return f"{self.stream} never asked about call {self.call_id}; list what waits with `runfold confirmations`"


class QuestionOpen(Refused):
    """Not while a question waits for its answer."""

    stream: str
    type: str
    call_ids: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.stream} waits for an answer to {_names(self.call_ids)} and cannot take {self.type}; "
            "pause the run, or wait for the answer"
        )


class NotApproved(Refused):
    """A call whose question was denied or expired may not be opened."""

    stream: str
    call_id: str
    decision: str

    def __str__(self) -> str:
        return f"call {self.call_id} of {self.stream} is {self.decision} and may not be made; go on without it"


class LimitReached(Refused):
    """As many of something as one stream may have."""

    stream: str
    what: str
    limit: int
    remedy: str

    def __str__(self) -> str:
        return f"{self.stream} may have at most {self.limit} {self.what}; {self.remedy}"


class RunExists(Refused):
    """A run of that id was submitted before."""

    run_id: str
    phase: str

    def __str__(self) -> str:
        return (
            f"{self.run_id} was submitted before and is {self.phase}; give the new run another run_id, or none, and a "
            "key= from the first time on where asking again shall give the run that stands"
        )


class QueueFull(Refused):
    """As many runs wait as may wait."""

    workflow: str
    queued: int
    limit: int

    def __str__(self) -> str:
        return (
            f"{self.queued} of at most {self.limit} runs wait already, so {self.workflow} was not queued; "
            "submit it again later, or raise max_queued"
        )


class SelfReference(Refused):
    """A run that names itself as its parent, or as the run that it continues."""

    run_id: str
    role: str

    def __str__(self) -> str:
        return f"{self.run_id} names itself as its {self.role} and was not queued; name another run, or none"


class VersionBeyondEnd(Refused):
    """A run is to be continued from a version that it does not have."""

    run_id: str
    version: int
    end: int

    def __str__(self) -> str:
        return (
            f"{self.run_id} ends at version {self.end} and cannot be continued from version {self.version}; "
            f"name one from 1 to {self.end}, or none for its end"
        )


def _named(value: str | None) -> str:
    return "none" if value is None else value


class AgentDiffers(Refused):
    """The run to go on from was performed by another agent."""

    run_id: str
    expected: str | None
    given: str

    def __str__(self) -> str:
        return (
            f"{self.run_id} was performed by the agent {_named(self.expected)} and not by {self.given}, so it was not "
            "continued; name that agent, or submit a run with continues= to go on from it with another"
        )


class SpecDiffers(Refused):
    """The run to go on from was performed by another definition of the agent."""

    run_id: str
    expected: str | None
    given: str

    def __str__(self) -> str:
        return (
            f"{self.run_id} was performed under the spec hash {_named(self.expected)} and not {self.given}, so it was "
            "not continued; leave spec_hash out if its checkpoint still fits"
        )


class NoCheckpoint(Refused):
    """The run to go on from had saved no checkpoint there, nor had those that it continues."""

    run_id: str
    version: int

    def __str__(self) -> str:
        return (
            f"{self.run_id} has no checkpoint up to version {self.version} to go on from; submit its input again, or "
            "go on without one with needs_checkpoint=False"
        )


class StepLimitReached(Refused):
    """A run, or a job, has made as many steps as it may make."""

    subject: str
    """Which run, or which job."""
    steps: int
    limit: int

    def __str__(self) -> str:
        return (
            f"{self.subject} has made {self.steps} of at most {self.limit} steps and may make no more; "
            "raise step_limit with `runs.configure`, or go on with a new run that has a higher one"
        )


class ArchiveBusy(Refused):
    """Another archive run, or a restore, holds the archive folder; this one changed nothing."""

    folder: str

    def __str__(self) -> str:
        return f"another process archives or restores in {self.folder}; wait for it, and nothing was changed here"


class ImportRefused(Refused):
    """A line of an import file; nothing of that file was written."""

    source: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.source}, line {self.line}: {self.reason} (nothing of this file was written)"


class UnreadableEntry(EventStoreError):
    """An entry that this program cannot decode."""

    position: int
    stream: str
    type: str
    reason: str
    remedy: str = "open it with the program that wrote it, or give that program's upcaster"

    def __str__(self) -> str:
        return (
            f"the entry at position {self.position} ({self.type} of {self.stream}) cannot be read: {self.reason}; "
            f"{self.remedy}"
        )


class MissingBlob(EventStoreError):
    """There is no blob of that digest."""

    digest: str

    @property
    def fact(self) -> str:
        """What is wrong with it."""
        return "is missing"

    def __str__(self) -> str:
        return (
            f"there is no blob {self.digest}; put it back with `runfold blobs put FILE`, and see with "
            "`runfold blobs check` which entries need it"
        )


class DamagedBlob(EventStoreError):
    """A blob's file is not what its digest says."""

    digest: str
    reason: str

    @property
    def fact(self) -> str:
        """What is wrong with it."""
        return f"is damaged: {self.reason}"

    def __str__(self) -> str:
        return (
            f"the blob {self.digest} {self.fact}; heal it with `runfold blobs put FILE`, and see with "
            "`runfold blobs check` which entries need it"
        )


class ReplayRefused(EventStoreError):
    """An entry in the log that its machine does not accept."""

    position: int
    stream: str
    version: int
    phase: str
    event: str
    reason: str

    def __str__(self) -> str:
        return (
            f"the entry at position {self.position} ({self.event}, version {self.version} of {self.stream}, "
            f"which is {self.phase} there) is refused on replay: {self.reason} "
            "Look at it with `runfold events`, or go on without it with --skip-invalid."
        )


class CursorConflict(EventStoreError):
    """The log does not hold, at the cursor's position, what the reader saw there."""

    position: int

    def __str__(self) -> str:
        return (
            f"the log at position {self.position} is not what this cursor was taken from: it was rolled back or "
            "replaced; start again from cursor 0"
        )


class StaleProjection(EventStoreError):
    """A table that may not answer as it stands."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"the projection {self.name} {self.reason}; make it anew with `runfold rebuild`"


class ProjectionHalted(EventStoreError):
    """A projection raised at an entry and stands still there; the log went on."""

    name: str
    position: int
    reason: str

    def __str__(self) -> str:
        return (
            f"the projection {self.name} halted at position {self.position} ({self.reason}): no fact was lost; "
            "mend its evolve, if that raised, and run `runfold rebuild`"
        )


class RebuildSuperseded(EventStoreError):
    """Another rebuild of the same table began; this one stopped."""

    name: str

    def __str__(self) -> str:
        return f"another rebuild of {self.name} began and this one stopped; wait for that one"


class RunNotFound(EventStoreError):
    """No run of that id."""

    run_id: str

    def __str__(self) -> str:
        return f"there is no run {self.run_id}; list the runs with `runfold runs`"


class LineageBroken(EventStoreError):
    """A chain of runs, each going on from the one before, that leads to a run that is not there, or back to itself."""

    run_id: str
    ancestor: str
    reason: str

    def __str__(self) -> str:
        return (
            f"the runs that {self.run_id} goes on from cannot be followed beyond {self.ancestor}, which {self.reason}; "
            "bring it into this log, or submit the run anew"
        )


class JobNotFound(EventStoreError):
    """No run is part of a job of that id."""

    job_id: str

    def __str__(self) -> str:
        return f"there is no job {self.job_id}; list the jobs with `runfold jobs`"


class SegmentMissing(EventStoreError):
    """The file of a sealed day is not there, and what is asked for stands in it alone; nothing was changed."""

    day: str
    file: str
    first: int
    last: int

    def __str__(self) -> str:
        return (
            f"{self.file} is missing, which holds the entries of {self.day}, positions {self.first} to {self.last}: "
            "bring the file back, or restore a backup; what the log itself holds can be read"
        )


class DamagedSegment(EventStoreError):
    """The file of a sealed day is not what was sealed; nothing was changed."""

    day: str
    file: str
    first: int
    last: int
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.file} is damaged, which holds the entries of {self.day}, positions {self.first} to {self.last} "
            f"({self.reason}): bring the right file back, or restore a backup; what the log itself holds can be read"
        )


class CannotOpen(EventStoreError):
    """The store could not be opened; nothing was changed."""

    url: str
    reason: str

    def __str__(self) -> str:
        return f"cannot open {self.url}: {self.reason}"


class WrongKey(EventStoreError):
    """The key that was given does not open the database; nothing was changed. No message ever holds a key."""

    url: str
    reason: str

    def __str__(self) -> str:
        return f"the key does not open {self.url}: {self.reason}"


class NewerDatabase(EventStoreError):
    """The database was written by a newer release; nothing was changed."""

    url: str
    found: int
    known: int

    def __str__(self) -> str:
        return (
            f"{self.url} has schema {self.found} and this release of runfold knows schemas up to {self.known}; "
            "install the release that wrote it, or a newer one"
        )


class DatabaseBusy(EventStoreError):
    """Another process held the write lock for as long as we were ready to wait; nothing was written."""

    url: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.url} was locked by another process for {self.seconds:g} s and nothing was written; "
            "try again, or find who holds a transaction open"
        )


class OutcomeUnknown(EventStoreError):
    """The disk failed in the very commit: what was to be written may stand, or not, and a look cannot tell yet.

    `position` and `hash` are of the last entry that was to be written; None where there was none.
    """

    url: str
    position: int | None
    hash: bytes | None
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.url}: the commit failed ({self.reason}) and nobody knows yet whether it stands; mend the disk, "
            "then append again under the same key, or ask store.resolve(error)"
        )


class LostTail(EventStoreError):
    """The witness beside the database saw entries that the log does not hold; nothing was written."""

    url: str
    expected: int
    found: int
    kept: str | None

    def __str__(self) -> str:
        wal = f"; the WAL was kept as {self.kept}" if self.kept else ""
        return (
            f"{self.url} ends at position {self.found}, but position {self.expected} was acknowledged{wal}: restore a "
            "backup, or go on without what is gone with `runfold verify --accept-loss`"
        )


class BackupRefused(EventStoreError):
    """No backup was made into this folder; earlier ones in it stand as they were."""

    folder: str
    reason: str

    def __str__(self) -> str:
        return f"nothing was backed up to {self.folder}: {self.reason}"


class RestoreRefused(EventStoreError):
    """No log was made of the backup in this folder; nothing stands in its place."""

    folder: str
    reason: str

    def __str__(self) -> str:
        return f"nothing was restored from {self.folder}: {self.reason}"


class ForkedStore(EventStoreError):
    """A handle was carried into a child process, where it must not be used."""

    url: str

    def __str__(self) -> str:
        return f"{self.url} was opened by the parent of this process; connect again in the child"


class StoreClosed(EventStoreError):
    """The handle was closed."""

    def __str__(self) -> str:
        return "this store was closed; connect again"


class WorkerClosed(EventStoreError):
    """The worker was closed; it takes up nothing more."""

    worker: str

    def __str__(self) -> str:
        return f"the worker {self.worker} was closed and takes up nothing more; make a new one with runs.worker(…)"


class WorkersUnknown(EventStoreError):
    """The table that tells which workers live is not as we make it, so none is taken for dead; the log is untouched."""

    url: str
    reason: str

    def __str__(self) -> str:
        return (
            f"nobody can tell which workers of {self.url} live: `workers` {self.reason}; stop them all and drop it, "
            "the next worker makes it anew"
        )


class CallFailed(EventStoreError):
    """The call that is asked for again returned with an error, which `output` tells."""

    stream: str
    call_id: str
    output: Any

    def __str__(self) -> str:
        return f"call {self.call_id} of {self.stream} returned with an error, which stands: {self.output!r}"


class Waiting(EventStoreError):
    """A question is unanswered; leaving `with attempt` by this parks the run for a person."""

    stream: str
    call_ids: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.stream} waits for a person's answer to {_names(self.call_ids)}; see `runfold confirmations`"


class ChildrenOpen(EventStoreError):
    """Runs that calls were delegated to go on; leaving `with attempt` by this parks the run until they have ended."""

    stream: str
    run_ids: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.stream} waits for the end of {_names(self.run_ids)}; see `runfold runs --parent {self.stream}`"


class Unreturned(EventStoreError):
    """A call began and nobody knows how it ended; leaving `with attempt` by this parks the run for an operator."""

    stream: str
    call_id: str
    attempt: int

    def __str__(self) -> str:
        return (
            f"call {self.call_id} of {self.stream} began in attempt {self.attempt} and never returned; "
            "find out what it did and say so with `runfold settle`, or call it again with repeat=True"
        )
