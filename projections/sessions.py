"""Sessions: conversations that go on from run to run. Each run names the run, and the version of it, that it continues.

A session is nothing that is stored: it is the chain of those names, followed from a run to its ancestors. The log may
hold any chain, since imports and the store's own door take what they are given. So a chain that leads into nothing or
back into itself is followed as far as it goes, and whoever reads it is told where it ended and why.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from attrs import frozen

from eventstore.changing import changed
from eventstore.errors import RunNotFound, UnreadableEntry
from eventstore.limits import PAGE, check_limit, check_name
from eventstore.workflow import RUN, Phase
from projections.configuring import EVERY_TOOL, grant, withdraw
from projections.readings import HistoryMessage, Round, window
from projections.tables import Range
from projections.tools import uses
from projections.transcripts import Transcript

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from eventstore.codec import Recorded
    from eventstore.settings import AutoAccept
    from eventstore.store import EventStore, Stream
    from eventstore.workflow import RunState
    from projections.system import System
    from projections.tools import ToolUse
    from projections.views import View
    from projections.workflow_runs import RunRow
    from projections.working_folders import FolderRow


@frozen
class Ancestor:
    """A run that another one goes on from, and up to which version."""

    run_id: str
    version: int
    gap: Literal["missing", "cycle"] | None = None
    """Why the chain ends here though it should go on: no run of this id, or one that came before in the chain."""


@frozen
class History:
    """A page of the messages of a run and its ancestors."""

    messages: tuple[HistoryMessage, ...]
    count: int
    """How many there are on all pages."""
    gap: Ancestor | None = None
    """Where the chain of ancestors broke off, if it did: what came before is not known."""


class Sessions:
    """Conversations over several runs. Made by `Runs`, as `runs.sessions`.

    Args:
        store: whose runs.
        workflow_runs: their rows.
        working_folders: where they worked.
        system: whose clock says until when a permission stands.
    """

    def __init__(
        self, store: EventStore, workflow_runs: View[RunRow], working_folders: View[FolderRow], system: System
    ) -> None:
        self._store = store
        self._runs = workflow_runs
        self._folders = working_folders
        self._system = system

    def ancestors(self, run_id: str) -> list[Ancestor]:
        """The runs that a run goes on from, the nearest first.

        Where one is missing or came before, it is the last of the list and its `gap` says so.

        Raises:
            RunNotFound: no run of that id.
        """
        row: RunRow | None = self._row(run_id)
        chain: list[Ancestor] = []
        seen = {run_id}
        while row is not None and row.continues_id is not None:
            chain.append(Ancestor(row.continues_id, row.continues_version or 0))
            if row.continues_id in seen:
                chain[-1] = changed(chain[-1], gap="cycle")
                break
            seen.add(row.continues_id)
            row = self._runs.get(row.continues_id)
            if row is None:
                chain[-1] = changed(chain[-1], gap="missing")
            elif chain[-1].version < 1:  # before its beginning, where it went on from nothing yet
                break
        return chain

    def descendants(self, run_id: str) -> Iterator[RunRow]:
        """The runs that go on from a run, from those that do, and so on: the nearest first, each once.

        Raises:
            RunNotFound: no run of that id.
        """
        return self._below(self._row(run_id).run_id)

    def history(
        self,
        run_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> History:
        """The messages of a run and its ancestors, numbered from 1 in order: of each ancestor, those up to the fork.

        What an ancestor recorded after the fork is not part of it, so a message keeps its number whatever comes.

        Args:
            run_id: the last run of the chain.
            after: those behind this number.
            before: those ahead of this number.
            limit: at most so many, from 1 to 10,000; all unless given.
            newest_first: begin at the end.

        Raises:
            RunNotFound: no run of that id.
            InvalidArgument: a number or limit that cannot be.
        """
        chain = self.ancestors(run_id)
        parts = self._parts(run_id, chain)
        ends = [*accumulate(len(part) for _, part in parts)]
        chosen = window(range(1, ends[-1] + 1), after, before, limit, newest_first=newest_first)
        found: list[HistoryMessage] = []
        for (name, part), end in zip(parts, ends, strict=True):
            start = end - len(part)
            here = range(max(min(chosen, default=0), start), min(max(chosen, default=-1) + 1, end))
            said = part.at(range(here.start - start, here.stop - start))
            found += [
                HistoryMessage(place + 1, name, one.role, one.content, one.version, one.attempt, one.at)
                for place, one in zip(here, said, strict=True)
            ]
        gap = chain[-1] if chain and chain[-1].gap else None
        return History(tuple(reversed(found) if newest_first else found), ends[-1], gap)

    def count(self, run_id: str) -> int:
        """How many messages the history of a run holds.

        Raises:
            RunNotFound: no run of that id.
        """
        return sum(len(part) for _, part in self._parts(run_id, self.ancestors(run_id)))

    def rounds(self, run_id: str, *, before: int | None = None, limit: int | None = None) -> list[Round]:
        """The rounds of one run's conversation, the newest first; see `Round` for what makes one.

        Args:
            run_id: whose.
            before: those ahead of this number: that of the last one of the page before.
            limit: at most so many, from 1 to 10,000; all unless given.

        Raises:
            RunNotFound: no run of that id.
            InvalidArgument: a number or limit that cannot be.
        """
        return Transcript(self._store, self._row(run_id).run_id).rounds(before, limit)

    def count_rounds(self, run_id: str) -> int:
        """How many rounds one run's conversation has: the number of its newest.

        Raises:
            RunNotFound: no run of that id.
        """
        return Transcript(self._store, self._row(run_id).run_id).count_rounds()

    # --- tools and folders ------------------------------------------------------------------------------------------

    def tool_uses(self, run_id: str) -> list[ToolUse]:
        """What a run asked about, was allowed, called and got back, tied together by the call id, in order.

        Raises:
            RunNotFound: no run of that id.
        """
        return uses(self._stream(run_id).read())

    def pending(self) -> Iterator[ToolUse]:
        """What waits for a person or for a tool, over all runs that have not ended; the longest standing run first.

        It reads the streams of such runs, each as it is then.

        Raises:
            UnreadableEntry: a run cannot be read; what waits in all others was given before.
        """
        unreadable: UnreadableEntry | None = None
        for row in self._runs.each(phase=[Phase.STARTED, Phase.PAUSED], order="position"):
            stream = self._store.stream(row.run_id, RUN)
            try:
                state = stream.refresh().state
                found = uses(stream.read()) if state.unreturned or state.unanswered else []
            except UnreadableEntry as error:
                unreadable = unreadable or error
                continue
            yield from (use for use in found if use.waits_for)
        if unreadable is not None:
            raise unreadable

    def folders(self, limit: int = 20, *, before: int | None = None) -> list[FolderRow]:
        """The working folders that runs named in their settings, the latest used first.

        Args:
            limit: at most so many, from 1 to 10,000.
            before: those last used before this position: that of the last one of the page before.

        Raises:
            InvalidArgument: a limit or a position that cannot be.
        """
        check_limit(limit)
        return self._folders.where(order="-position", limit=limit, position=Range(stop=before))

    # --- permissions ------------------------------------------------------------------------------------------------

    def auto_accept(
        self, run_id: str, tools: Iterable[str] | str = EVERY_TOOL, *, until: datetime | None = None, by: str
    ) -> Recorded:
        """Grant a standing permission: questions of this run about these tools need no person until then.

        It takes the place of the one that stood, and decides at once what waits and is covered. It is this run's alone:
        a run that goes on from it asks anew. A person may still decide, and take it back with `withdraw`.

        Args:
            run_id: a run that has not ended.
            tools: their names, or "*" for all.
            until: it does not count from then on; aware. No end unless given.
            by: who grants it; each decision in its name tells.

        Raises:
            RunNotFound, IllegalTransition: there is no such run, or it ended.
            InvalidArgument: no tools, a time that has passed, nobody's name; nothing was written.
        """
        return grant(self._stream(run_id), tools, until=until, by=by, now=self._system.now())

    def withdraw(self, run_id: str, *, by: str) -> Recorded:
        """Take a standing permission back; what was decided in its name stays decided.

        Raises:
            RunNotFound, IllegalTransition: there is no such run, or it ended.
        """
        return withdraw(self._stream(run_id), by=by)

    def accepting(self, run_id: str) -> AutoAccept | None:
        """The standing permission of a run; None if there is none, or its time has passed.

        Raises:
            RunNotFound: no run of that id.
        """
        found = self._stream(run_id).refresh().state.accepting
        return found if found is not None and found.stands(self._system.now()) else None

    def _stream(self, run_id: str) -> Stream[RunState]:
        # Not by its row: a permission must be taken back also where the tables stand still.
        stream = self._store.stream(check_name("run_id", run_id), RUN).refresh()
        if stream.state.phase is Phase.NEW:
            raise RunNotFound(run_id)
        return stream

    def _parts(self, run_id: str, chain: list[Ancestor]) -> list[tuple[str, Transcript]]:
        """The transcripts of a chain, the oldest first."""
        known = [Transcript(self._store, run.run_id, until=run.version) for run in chain if run.gap is None]
        names = [run.run_id for run in chain if run.gap is None]
        return [*zip(reversed(names), reversed(known), strict=True), (run_id, Transcript(self._store, run_id))]

    def _below(self, run_id: str) -> Iterator[RunRow]:
        seen = {run_id}
        level = [run_id]
        while level:
            chunks = [level[start : start + PAGE] for start in range(0, len(level), PAGE)]
            level = []
            for chunk in chunks:
                for row in self._runs.each(continues_id=chunk, order="position"):
                    if row.run_id not in seen:
                        seen.add(row.run_id)
                        level.append(row.run_id)
                        yield row

    def _row(self, run_id: str) -> RunRow:
        row = self._runs.get(check_name("run_id", run_id))
        if row is None:
            raise RunNotFound(run_id)
        return row
