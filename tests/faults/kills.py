"""Processes that are killed: SIGKILL at random moments of every public call, thousands of times.

A life is a forked process that makes one public call after the other on a store, and says on a pipe what it begins and,
once the call has returned, what it wrote: first and last position and the hash there. It is killed in the middle; in
some lives two write side by side. Then whoever opens the files must find

* everything that was acknowledged, hash for hash, and so, by the chain, all that stands before it;
* beyond it nothing but what the interrupted calls may write; versions and positions dense, each key once;
* no lost tail (a mere kill loses nothing), and tables that are the fold of the log;
* each sealed day whole in its file, each blob that is needed or mentioned, and a backup that restores, if one ended.

The next life makes the interrupted call again under its key, which must not double it, and a tool's effect may happen
once only. Some lives find the files as the last one left them, others after somebody opened and closed them.
"""

from __future__ import annotations

import io
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from attrs import define, field

import projections
from eventstore.backups.manifest import MANIFEST
from eventstore.errors import BackupRefused, EventStoreError, RebuildSuperseded, Refused, Unreturned, Waiting
from eventstore.exchange import import_lines
from eventstore.integrity import chain, genesis
from eventstore.notes import LogRecorded
from eventstore.packing import BLOB_FROM
from eventstore.sqlite import SQLiteLog
from eventstore.workflow import RUN, CheckpointSaved, MessageRecorded, RunCompleted, RunDescribed
from projections import System
from projections.connecting import tables_of
from tests.faults.payloads import grown, large, noise
from tests.faults.recording import read_log

NAME = "agent.db"
LARGEST = 1_500
"""Entries after which a new database is begun, so that each look at all of it stays short."""
RESTORED = 0.3
"""How often a look restores the backup, too."""


_BORN = time.time_ns() // 1000
_DAYS_A_SECOND = 2
YOUNG = timedelta(days=40)
"""Twenty real seconds: longer than a life takes from a blob to its mention, or from a kill to the same call again."""


def hurried() -> int:
    """A clock on which two days pass in a second, so that there are old days to be archived."""
    return _BORN + (time.time_ns() // 1000 - _BORN) * 86_400 * _DAYS_A_SECOND


class _Log(SQLiteLog):
    """The log, which notes what each committed transaction wrote."""

    written: list[tuple[int, int, str]]

    def write(self, job: Any, **options: Any) -> Any:
        spans: list[Any] = []

        def watched(transaction: Any) -> Any:
            before, first = transaction.last, transaction.head().position + 1
            result = job(transaction)
            spans.append((first, None if transaction.last is before else transaction.last))
            return result

        result = super().write(watched, **options)
        first, last = spans[-1]
        if last is not None:
            self.written.append((first, last.position, last.hash.hex()))
        return result


# --- a life ---------------------------------------------------------------------------------------------------------


class Life:
    """What a process does until it is killed."""

    def __init__(self, path: Path, pipe: int, seed: str, again: tuple[str, int] | None) -> None:
        self.path = path
        self.pipe = pipe
        self.chance = random.Random(seed)
        self.again = again
        self.number = self.chance.randrange(10**9) * 1000
        self.written: list[tuple[int, int, str]] = []
        self.runs: Any = None
        self.worker: Any = None
        self.attempt: Any = None

    def say(self, **fact: Any) -> None:
        os.write(self.pipe, json.dumps(fact).encode() + b"\n")

    def live(self) -> None:
        """Until SIGKILL."""
        self.make("connect", self.number)
        if self.again is not None:
            self.make(*self.again)
        names = list(CALLS)
        weights = [CALLS[name][1] for name in names]
        while True:
            self.number += 1
            self.make(self.chance.choices(names, weights)[0], self.number)

    def make(self, name: str, number: int) -> None:
        self.written.clear()
        self.say(begins=name, number=number)
        refused = None
        try:
            CALLS[name][0](self, number)
        except (Refused, Waiting, Unreturned) as error:
            refused = type(error).__name__
        self.say(ends=name, written=self.written, refused=refused)

    # --- the calls ---

    def connect(self, _number: int) -> None:
        if self.runs is not None:
            self.worker.close()
            self.runs.close()
        log = _Log.__new__(_Log)
        log.written = self.written
        log.__init__(self.path)  # type: ignore[misc]
        self.runs = projections.connect(log, tables=tables_of(log), system=System(microseconds=hurried))
        self.worker = self.runs.worker("w", lease=timedelta(days=1))
        self.attempt = None

    def submit(self, number: int) -> None:
        self.runs.submit("deploy", key=f"s{number}", input={"n": number})

    def append(self, number: int) -> None:
        size = 10 ** (number % 5)
        self.runs.store.append(
            f"notes-{number % 3}", LogRecorded("t", "line", payload=noise(number, size)), key=f"a{number}"
        )

    def batch(self, number: int) -> None:
        events = [LogRecorded("t", "line", payload=[number, i]) for i in range(2 + number % 40)]
        self.runs.store.append(f"notes-{number % 3}", *events, key=f"b{number}")

    def transact(self, number: int) -> None:
        if row := self._some(phase=["queued", "started", "paused"]):
            stream = self.runs.store.stream(row.run_id, RUN)
            stream.transact(lambda state: RunDescribed(title=f"{state.phase}"), key=f"t{number}")

    def claim(self, _number: int) -> None:
        self.attempt = self.worker.claim() or self.attempt

    def work(self, number: int) -> None:
        if self.attempt is not None:
            saved = CheckpointSaved(number, grown(number % 30))
            self.attempt.append(MessageRecorded("user", "go"), saved, key=f"w{number}")

    def call(self, number: int) -> None:
        if (attempt := self.attempt) is not None:
            call_id = f"c{number % 4}"
            attempt.call(call_id, "ship", {}, lambda _input: self.say(effect=[attempt.run_id, call_id]))

    def ask(self, number: int) -> None:
        if self.attempt is not None:
            attempt, self.attempt = self.attempt, None
            with attempt:
                attempt.ask(f"q{number % 4}", "ship", {})

    def complete(self, number: int) -> None:
        if self.attempt is not None:
            attempt, self.attempt = self.attempt, None
            with attempt:
                if number % 3:
                    attempt.append(RunCompleted({"n": number}))

    def resolve(self, number: int) -> None:
        if waiting := self.runs.confirmations.where(decision=None, limit=1):
            row = waiting[0]
            self.runs.resolve(row.run_id, row.call_id, "approved", by="alice", key=f"r{number}")

    def cancel(self, number: int) -> None:
        if row := self._some(phase=["queued", "started", "paused"]):
            self.runs.cancel(row.run_id, by="ops", key=f"x{number}")

    def interrupt(self, number: int) -> None:
        if row := self._some(phase=["started", "paused"]):
            self.runs.interrupt(row.run_id, by="ops", key=f"i{number}")

    def recover(self, _number: int) -> None:
        self.worker.recover(max_crashes=100)

    def rebuild(self, _number: int) -> None:
        with suppress(RebuildSuperseded):  # the other living process began one, too
            self.runs.rebuild()

    def check(self, _number: int) -> None:
        if not self.runs.check().ok:
            raise AssertionError("a living process finds tables that are not the fold of the log")

    def archive(self, number: int) -> None:
        self.runs.archive(keep_days=YOUNG.days, compress=bool(number % 2))

    def put_back(self, _number: int) -> None:
        if days := [segment.day for segment in self.runs.segments()]:
            self.runs.restore_days([self.chance.choice(days)])

    def blob(self, number: int) -> None:
        digest = self.runs.blobs.write(b"%d" % (number % 7) * 50)
        self.runs.store.append("notes-0", LogRecorded("t", "blob", ref=digest), key=f"bl{number}")

    def large(self, number: int) -> None:
        payload = large(number % 5, BLOB_FROM + 10_000)
        self.runs.store.append("notes-1", LogRecorded("t", "large", payload=payload), key=f"l{number}")

    def collect(self, _number: int) -> None:
        self.runs.blobs.gc(min_age=YOUNG)

    def back_up(self, _number: int) -> None:
        with suppress(BackupRefused):  # the other living process is at it
            self.runs.backup(self.path.with_name("backup"))

    def take_in(self, number: int) -> None:
        line = b'{"stream": "taken-%d", "type": "LogRecorded", "data": {"source": "t", "kind": "%d"}}\n'
        import_lines(self.runs.store, io.BytesIO(b"".join(line % (number, i) for i in range(5))), resume=True)

    def _some(self, **filters: Any) -> Any:
        rows = self.runs.workflow_runs.where(limit=20, order="-position", **filters)
        return self.chance.choice(rows) if rows else None


_ATTEMPT = {"RunStarted", "RunResumed", "RunInterrupted", "RunPaused", "RunCrashed"}
CALLS: dict[str, tuple[Callable[[Life, int], None], int, set[str]]] = {
    "connect": (Life.connect, 2, set()),
    "submit": (Life.submit, 6, {"RunQueued"}),
    "append": (Life.append, 6, {"LogRecorded"}),
    "batch": (Life.batch, 4, {"LogRecorded"}),
    "transact": (Life.transact, 4, {"RunDescribed"}),
    "claim": (Life.claim, 8, _ATTEMPT),
    "work": (Life.work, 8, {"MessageRecorded", "CheckpointSaved"}),
    "call": (Life.call, 8, {"ToolCalled", "ToolReturned"}),
    "ask": (Life.ask, 3, {"ConfirmationRequested", "RunPaused", "RunFailed", "RunInterrupted"}),
    "complete": (Life.complete, 3, {"RunCompleted", "RunPaused", "RunInterrupted", "RunFailed"}),
    "resolve": (Life.resolve, 4, {"ConfirmationResolved"}),
    "cancel": (Life.cancel, 1, {"RunCancelled"}),
    "interrupt": (Life.interrupt, 2, {"InterruptRequested", "RunInterrupted"}),
    "recover": (Life.recover, 2, {"RunInterrupted", "RunCrashed", "ConfirmationExpired"}),
    "rebuild": (Life.rebuild, 2, set()),
    "check": (Life.check, 1, set()),
    "take_in": (Life.take_in, 3, {"LogRecorded"}),
    "archive": (Life.archive, 3, {"LogRecorded"}),
    "put_back": (Life.put_back, 1, set()),
    "blob": (Life.blob, 3, {"LogRecorded"}),
    "large": (Life.large, 1, {"LogRecorded"}),
    "collect": (Life.collect, 2, set()),
    "back_up": (Life.back_up, 1, set()),
}
"""Every call: how it is made, how often, and what it may have written when it is killed."""
KEYED = {"submit", "append", "batch", "take_in"}
"""Calls that a later life makes again just as they were."""


# --- the one who kills ----------------------------------------------------------------------------------------------


@define
class Result:
    """What many lives came to."""

    seed: int
    kills: int = 0
    calls: int = 0
    acknowledged: int = 0
    in_flight: Counter[str] = field(factory=Counter)
    """The calls in whose midst a process was killed."""
    stood: int = 0
    """Killed in the midst of a call whose events, or some of them, stood."""
    databases: int = 0
    effects: int = 0
    looks: int = 0
    restored: int = 0
    """Backups."""
    wrong: list[str] = field(factory=list)


@define
class _Child:
    pid: int
    pipe: int
    lines: bytes = b""
    begun: tuple[str, int] | None = None
    ended: int = 0


class Supervisor:
    """Starts lives on databases in a folder, kills them, and holds the files against what they said."""

    def __init__(self, folder: Path, *, kills: int, seed: int) -> None:
        self._folder = folder
        self._kills = kills
        self._chance = random.Random(seed)
        self.result = Result(seed)
        self._again: tuple[str, int] | None = None

    def run(self) -> Result:
        """Kill as often as wished, or until something is wrong."""
        while self.result.kills < self._kills and not self.result.wrong:
            self.result.databases += 1
            folder = self._folder / str(self.result.databases)
            folder.mkdir()
            self._database(folder)
            shutil.rmtree(folder)
        return self.result

    def _database(self, folder: Path) -> None:
        self._acknowledged: list[tuple[int, int, str]] = []
        self._allowed: list[str] = []
        self._effects: Counter[tuple[str, str]] = Counter()
        self._again = None
        entries = 0
        while entries < LARGEST and self.result.kills < self._kills and not self.result.wrong:
            self._live(folder)
            entries = self._look(folder)

    def _live(self, folder: Path) -> None:
        children = [self._born(folder) for _ in range(1 if self._chance.random() < 0.8 else 2)]
        wanted = self._chance.choice((0, 1, self._chance.randint(2, 30)))
        deadline = time.monotonic() + 60
        # The first bound is by what was said, so that each call gets its turn; the rest is chance.
        while sum(child.ended for child in children) < wanted and time.monotonic() < deadline:
            readable, _, _ = select.select([child.pipe for child in children], [], [], 1.0)
            if not all(self._hear(child) for child in children if child.pipe in readable):
                break
        time.sleep(self._chance.uniform(0, 0.015 if self._chance.random() < 0.9 else 0.15))
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
            self.result.kills += 1
        for child in children:
            os.waitpid(child.pid, 0)
            while self._hear(child):
                pass
            os.close(child.pipe)
            if child.begun is not None:
                self.result.in_flight[child.begun[0]] += 1
                self._allowed.append(child.begun[0])
                if child.begun[0] in KEYED:
                    self._again = child.begun

    def _born(self, folder: Path) -> _Child:
        reading, writing = os.pipe()
        again, self._again = self._again, None
        seed = f"{self.result.seed}-{self.result.databases}-{self.result.kills}-{self._chance.random()}"
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            life = Life(folder / NAME, writing, seed, again)
            try:
                life.live()
            except BaseException as error:  # noqa: BLE001 - told, and the process ends
                with suppress(OSError):
                    life.say(failed=f"{type(error).__name__}: {error}"[:2000])
            finally:
                os._exit(1)
        os.close(writing)
        return _Child(pid, reading)

    def _hear(self, child: _Child) -> bool:
        news = os.read(child.pipe, 65536)
        *lines, child.lines = (child.lines + news).split(b"\n")
        for line in lines:
            fact = json.loads(line)
            if "begins" in fact:
                child.begun = (fact["begins"], fact["number"])
            elif "ends" in fact:
                child.begun = None
                child.ended += 1
                self.result.calls += 1
                self.result.acknowledged += sum(last - first + 1 for first, last, _ in fact["written"])
                self._acknowledged += [tuple(span) for span in fact["written"]]
            elif "effect" in fact:
                self.result.effects += 1
                self._effects[tuple(fact["effect"])] += 1
            else:
                self.result.wrong.append(f"a process failed: {fact['failed']}")
        return bool(news)

    # --- looking ---

    def _look(self, folder: Path) -> int:
        """Hold the files, or a copy of them, against what was said; how many entries there are."""
        self.result.looks += 1
        place = folder
        if self._chance.random() < 0.5:
            place = folder / "copy"
            place.mkdir()
            for file in folder.glob(f"{NAME}*"):
                if file.is_dir():
                    shutil.copytree(file, place / file.name)
                elif not file.name.endswith("-shm"):
                    shutil.copyfile(file, place / file.name)
        try:
            with projections.connect(place / NAME) as runs:
                entries = self._judge(runs)
            if (folder / "backup" / MANIFEST).exists() and self._chance.random() < RESTORED:
                self._restore(folder, place)
        except EventStoreError as error:
            self.result.wrong.append(f"it cannot be opened: {type(error).__name__}: {error}")
            return 0
        finally:
            if place is not folder:
                shutil.rmtree(place)
        return entries

    def _restore(self, folder: Path, place: Path) -> None:
        """What the last backup that ended holds is the beginning of the log."""
        self.result.restored += 1
        target = folder / "restored"
        target.mkdir()
        made = projections.restore(folder / "backup", target / NAME)
        self.result.wrong += [f"a restored backup: {finding}" for finding in made.log.findings]
        with projections.connect(place / NAME) as runs, runs.store.reading() as reading:
            if (stands := reading.hash_at(made.log.position)) is None or stands.hex() != made.log.hash:
                self.result.wrong.append("a backup holds what the log does not")
        shutil.rmtree(target)

    def _judge(self, runs: Any) -> int:
        wrong = self.result.wrong
        entries = read_log(runs.store.log)
        wrong += [str(fault) for fault in runs.blobs.check().faults]
        mentioned = {entry.data[at : at + 64] for entry in entries if '"kind":"blob"' in entry.data
                     for at in [entry.data.index('"ref":"') + 7]}  # fmt: skip
        wrong += [f"the blob {digest} is gone" for digest in mentioned if not runs.blobs.exists(digest)]
        for segment in runs.segments():
            with runs.store.reading() as reading:
                blocks = reading.blocks(segment)
            runs.store.log.archive.prove(segment, blocks)
        digest = genesis(runs.store.log.id)
        versions: Counter[str] = Counter()
        for number, entry in enumerate(entries, start=1):
            digest = chain(digest, entry)
            versions[entry.stream] += 1
            if (entry.position, entry.version, entry.hash) != (number, versions[entry.stream], digest):
                wrong.append(f"position {entry.position} is out of its place")
        told: set[int] = set()
        for first, last, digest_then in self._acknowledged:
            told.update(range(first, last + 1))
            if last > len(entries) or entries[last - 1].hash.hex() != digest_then:
                wrong.append(f"position {last} was acknowledged and is not in the log")
        untold = [entry for entry in entries if entry.position not in told]
        allowed = set().union(*(CALLS[name][2] for name in self._allowed))
        wrong += [f"nobody wrote {e.type} at {e.position}" for e in untold if e.type not in allowed]
        if untold:
            self.result.stood += 1
            # Whatever stands now will stand for ever.
            self._acknowledged.append((untold[0].position, untold[0].position, untold[0].hash.hex()))
            told.update(entry.position for entry in untold)
            self._acknowledged += [(e.position, e.position, e.hash.hex()) for e in untold[1:]]
        self._allowed.clear()
        wrong += [f"the tool of {place} was called {n} times" for place, n in self._effects.items() if n > 1]
        returned = {(e.stream, json.loads(e.data)["call_id"]) for e in entries if e.type == "ToolReturned"}
        wrong += [f"{place} returned, and its tool was never called" for place in returned - self._effects.keys()]
        keys = Counter((entry.stream, entry.key) for entry in entries if entry.key)
        wrong += [f"the key {key} stands twice" for key, number in keys.items() if number > 1]
        report = runs.check()
        wrong += [*report.troubles, *map(str, report.listed)]
        return len(entries)


@click.command()
@click.option("--kills", "wanted", default=3_000, show_default=True, type=click.IntRange(1), help="How often to kill.")
@click.option("--seed", default=1, show_default=True, help="Of all choices; when a kill falls is the system's.")
def kills(wanted: int, seed: int) -> None:
    """Kill processes at random moments of every public call; exits 1 if anything is lost, doubled or wrong."""
    with tempfile.TemporaryDirectory(prefix="runfold-kills-") as folder:
        result = Supervisor(Path(folder), kills=wanted, seed=seed).run()
    click.echo(
        f"{result.kills} kills over {result.databases} databases; {result.calls} calls returned, "
        f"{result.acknowledged} events acknowledged, {result.effects} effects, "
        f"{result.restored} backups restored; "
        f"{result.stood} times events of an interrupted call stood"
    )
    click.echo("killed within: " + ", ".join(f"{name} {number}" for name, number in result.in_flight.most_common()))
    click.echo(f"lost, doubled, out of place or different: {len(result.wrong)}")
    for line in result.wrong[:50]:
        click.echo(f"  wrong: {line}")
    sys.exit(1 if result.wrong else 0)
