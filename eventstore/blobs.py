"""The blobs of a store: bytes of any size beside its log, named by their SHA-256; what needs them, and what may go.

Large payloads go there by themselves and come back by themselves. Whoever writes a blob of their own mentions its
digest in an event, anywhere in it: what no entry mentions is taken away by `gc` when it is old enough.

`gc` never takes what an entry needs. It reads the whole log first, beside writers, and then, in short turns of the
write lock, what came since; so no append is under way when a file goes. A blob that was written or found standing since
`gc` began, or within `min_age`, is young and stays: so it is enough to append what mentions a blob within that time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson
from attrs import frozen

from eventstore.blobfiles import BlobFile, BlobFiles
from eventstore.errors import CannotOpen, DamagedBlob, InvalidArgument, MissingBlob, StoreClosed, UnreadableEntry
from eventstore.limits import PAGE, check_age
from eventstore.log import Entry, Need, Reading, Writing

if TYPE_CHECKING:
    from eventstore.log import Log

MIN_AGE = timedelta(days=1)
_UNFINISHED = 3_600_000_000
"""Microseconds since its last piece for which what is being written stays, whatever the age that was asked for."""
FILES_SAVED = "files-saved"
"""The kind of the generic entry that lists files saved as blobs: `{"files": {path: {"blob": digest, …}}}`."""
_HEX = re.compile(r"[0-9a-fA-F]{64,}")
_DIGITS = 64
_TURN = 4
"""Files that are looked at, and perhaps taken away, in one turn of the write lock: each takes two syncs."""
_NEAR = PAGE
"""Entries that came while the log was read and are few enough to go on."""


@frozen
class Collected:
    """What `gc` took away, or would."""

    blobs: int
    bytes: int
    """Of all that was freed, leftovers of killed writers too."""
    digests: tuple[str, ...]
    """Of the blobs; their files' names in an encrypted store."""
    kept: int
    """Blobs that entries mention."""
    young: int
    """Blobs that are too young to be judged."""


@frozen
class BlobFault:
    """A blob that is not as it must be."""

    digest: str
    fact: str
    needs: tuple[Need, ...]
    """The entries that need it; nobody does where there is none."""

    def __str__(self) -> str:
        places = ", ".join(f"{need.position} ({need.type} of {need.stream})" for need in self.needs[:5])
        more = f" and {len(self.needs) - 5} more" if len(self.needs) > 5 else ""  # noqa: PLR2004 - as many as a line takes
        needed = f"the entries at {places}{more} need it" if self.needs else "no entry needs it"
        return f"the blob {self.digest} {self.fact}; {needed}"


@frozen
class Checked:
    """What a check found."""

    blobs: int
    bytes: int
    faults: tuple[BlobFault, ...]

    @property
    def ok(self) -> bool:
        """Whether no entry lacks what it needs, and no file is damaged."""
        return not self.faults


def _now() -> int:
    return time.time_ns() // 1000


class Blobs:
    """The blobs beside one log. Its methods may be called from any thread.

    Args:
        log: whose blobs.
        clock: microseconds since 1970.
    """

    def __init__(self, log: Log, clock: Callable[[], int] = _now) -> None:
        self._log = log
        self._clock = clock

    @property
    def _files(self) -> BlobFiles:
        if self._log.closed:
            raise StoreClosed
        return self._log.blobs

    def write(self, source: bytes | bytearray | memoryview | BinaryIO) -> str:
        """Keep these bytes, durable when this returns. A damaged blob of the same digest is healed.

        Args:
            source: the bytes, or a stream of them, which is read to its end and never held in memory.

        Returns:
            Their SHA-256, 64 hex digits: mention it in an event, within `min_age` of the next `gc`.

        Raises:
            InvalidArgument: it is neither bytes nor a stream of bytes; nothing of it is left.
            CannotOpen: the store was opened read-only.
            OSError: the disk does not take it; nothing of it is left.
        """
        given = bytes(source) if isinstance(source, bytes | bytearray | memoryview) else source
        if not (isinstance(given, bytes) or hasattr(given, "read")):
            reason = "is neither bytes nor a stream of them; open a file first, encode a text"
            raise InvalidArgument("source", type(source).__name__, reason)  # and none of what it holds
        self._writable()
        return self._files.write(given)

    def read(self, digest: str) -> bytes:
        """All of a blob.

        Raises:
            MissingBlob, DamagedBlob: it is not there, or not what was written.
            InvalidArgument: it is no digest.
        """
        return self._files.read(digest)

    def exists(self, digest: str) -> bool:
        """Whether a blob can be read. All of it is looked at, so one that is damaged does not exist.

        Raises:
            InvalidArgument: it is no digest.
        """
        return self._files.exists(digest)

    def open(self, digest: str) -> BinaryIO:
        """A blob as a stream, forward only, which the caller closes; a mebibyte of it is held at a time.

        Reading the last piece raises `DamagedBlob` if what was read is not what was written: who got to the end has
        the right bytes.

        Raises:
            MissingBlob: it is not there.
            InvalidArgument: it is no digest.
        """
        return self._files.open(digest)

    # --- checking -----------------------------------------------------------------------------------------------

    def check(self) -> Checked:
        """Read every blob, and hold those that entries need against them. Nothing is changed.

        An entry needs a blob if its payload stands there or is a difference to one that does, or if it lists it among
        saved files; of a damaged blob every entry that mentions it is named, too. What others write, collect or
        release meanwhile is no fault.

        Raises:
            CannotOpen: their folder is a symlink, or cannot be read.
        """
        files = self._files
        bad: dict[str, str] = {}
        sound: dict[str, int] = {}
        for item in standing(files):
            # Of two files of a name the one that stands comes first, and is the one that is read.
            if not item.name or item.name in sound or item.name in bad:
                continue
            try:
                found = files.name(files.digest_of(item))
                fact = "" if found == item.name else "is damaged: its bytes are others than were written"
            except MissingBlob:  # a collector took it since the folder was read; if an entry needs it, that is told
                continue
            except DamagedBlob as error:
                fact = error.fact
            if fact:
                bad[item.name] = fact
            else:
                sound[item.name] = item.size
        faults = self._lacking(sound, bad, files.exists, self._generic)
        lost = {name: digest for name, (digest, _) in faults.items()}
        bad = {name: fact for name, fact in bad.items() if name not in sound}
        more = self._mentioning({**bad, **lost}) if bad or lost else {}
        told = []
        for name in sorted({*bad, *faults}):
            digest, needs = faults.get(name, (name, []))
            needs = sorted({*needs, *more.get(name, ())})
            told.append(BlobFault(digest, bad.get(name, "is missing"), tuple(needs)))
        return Checked(len(sound), sum(sound.values()), tuple(told))

    def missing(self, sets: Sequence[int] = ()) -> tuple[BlobFault, ...]:
        """The blobs that payloads need and of which there is no file: a quick look, at the folder and the log itself.

        No blob is read, so a damaged one is there.

        Args:
            sets: positions of entries that list saved files, which these are to need as well.

        Raises:
            CannotOpen: their folder is a symlink, or cannot be read.
            SegmentMissing, DamagedSegment, UnreadableEntry: one of these entries cannot be read.
        """
        there = {item.name: item.size for item in standing(self._files)}
        faults = self._lacking(there, {}, self._files.is_there, partial(self._listed_at, sets))
        return tuple(BlobFault(digest, "is missing", tuple(needs)) for digest, needs in faults.values())

    def _lacking(
        self,
        sound: Mapping[str, int],
        bad: Mapping[str, str],
        exists: Callable[[str], bool],
        entries: Callable[[], Iterator[Entry]],
    ) -> dict[str, tuple[str, list[Need]]]:
        """By name, the digest of what is lacking, and the entries that need it; these entries may list saved files."""
        came: set[str] = set()
        lacking: dict[str, list[Need]] = {}
        for need in self._needed(entries):
            name = self._files.name(need.digest)
            if name in sound or name in came:
                continue
            if name not in bad and name not in lacking and exists(need.digest):  # written since
                came.add(name)
            else:
                lacking.setdefault(name, []).append(need)
        # An entry may have left for its segment since, which holds it whole, and a collector taken what it needed.
        still = {*self._needed(entries)} if lacking else set()
        needed = {name: [need for need in needs if need in still] for name, needs in lacking.items()}
        return {name: (needs[0].digest, needs) for name, needs in needed.items() if needs}

    def _needed(self, entries: Callable[[], Iterator[Entry]]) -> Iterator[Need]:
        with self._log.reading() as view:
            yield from view.needs()
        for entry in entries():
            if FILES_SAVED in entry.data:
                for digest in listed(entry.data):
                    yield Need(entry.position, entry.stream, entry.type, digest)

    def _generic(self) -> Iterator[Entry]:
        return (entry for entry in _walked(self._log, 0, None, ("LogRecorded",)) if isinstance(entry, Entry))

    def _listed_at(self, positions: Sequence[int]) -> Iterator[Entry]:
        while positions:
            with self._log.reading() as view:
                page = view.at(positions[:PAGE])
            yield from page
            passed = page[-1].position if page else positions[-1]
            positions = [position for position in positions if position > passed]

    def _mentioning(self, names: Iterable[str]) -> dict[str, list[Need]]:
        """By name, the entries that mention these blobs, or that cannot be read without them."""
        wanted = set(names)
        found: dict[str, list[Need]] = {}
        for entry in _walked(self._log, 0, None):
            kind, text = (entry.type, _text(entry)) if isinstance(entry, Entry) else (entry.type, entry.reason)
            for digest in set(mentioned(text)):
                if (name := self._files.named(digest)) in wanted:
                    found.setdefault(name, []).append(Need(entry.position, entry.stream, kind, digest))
        return found

    # --- collecting ---------------------------------------------------------------------------------------------

    def gc(self, *, min_age: timedelta = MIN_AGE, dry_run: bool = False) -> Collected:
        """Take away the blobs that no entry mentions, and what killed writers left.

        Args:
            min_age: what was written or found standing since then stays, mentioned or not: longer than anybody takes
                from writing a blob to appending what mentions it. What is not written to its end stays for an hour.
            dry_run: only tell what would go.

        Raises:
            UnreadableEntry: an entry cannot be read, so nobody knows what it mentions; nothing is taken away.
            InvalidArgument: no age, or a negative one.
            CannotOpen: the store was opened read-only; or their folder is a symlink, or cannot be read.
        """
        check_age("min_age", min_age)
        if not dry_run:
            self._writable()
        now = self._clock()
        before = now - min_age // timedelta(microseconds=1)
        collection = _Collection(self._log, self._files, before, min(before, now - _UNFINISHED))
        return collection.told() if dry_run else collection.go()

    def _writable(self) -> None:
        if getattr(self._log, "read_only", False):
            raise CannotOpen(self._log.url, "it may not be written: it was opened read-only; connect without read_only")


class _Collection:
    """One run of `gc`: the files that may go, fewer and fewer of them."""

    def __init__(self, log: Log, files: BlobFiles, before: int, unfinished: int) -> None:
        self._log = log
        self._files = files
        self._before = before
        self._unfinished = unfinished
        everything = standing(files)
        self._old = {item.path: item for item in everything if item.modified < self._limit(item)}
        self._young = len({item.name for item in everything if item.name and item.path not in self._old})
        self._by_name: dict[str, list[BlobFile]] = {}
        for item in self._old.values():
            if item.name:
                self._by_name.setdefault(item.name, []).append(item)
        self._kept: dict[str, list[BlobFile]] = {}
        self._seen = 0
        while self._by_name and self._look() > _NEAR:
            pass

    def _limit(self, item: BlobFile) -> int:
        """What is older may go. A writer that is slow would else lose the file that it is writing."""
        return self._before if item.name else self._unfinished

    def told(self) -> Collected:
        """What would go."""
        return self._sum(item for item in self._old.values() if item.name not in self._kept)

    def go(self) -> Collected:
        """Take away what nobody mentions."""
        waiting = iter([item for item in self._old.values() if item.aside or item.name not in self._kept])
        gone: list[BlobFile] = []
        while turn := [*islice(waiting, _TURN)]:
            # Long texts of hex digits take seconds, in an encrypted store: what came meanwhile is not left to the lock.
            self._look()
            gone += self._log.write(partial(self._let_go, turn))
        return self._sum(gone)

    def _let_go(self, turn: list[BlobFile], writing: Writing) -> list[BlobFile]:
        """Under the write lock: no append is under way, and what was appended before stands."""
        head = writing.head().position
        if head > self._seen:
            self._spare(writing.needs(after=self._seen), _read(writing, self._seen, head))
            self._seen = head
        for item in turn:
            if item.aside and item.name in self._kept:
                self._files.bring_back(item)
        unneeded = [item for item in turn if item.name not in self._kept]
        return [item for item in unneeded if self._files.let_go(item, self._limit(item))]

    def _look(self) -> int:
        """Read what came into the log since the last look, beside writers; how many entries that were."""
        with self._log.reading() as view:
            head = view.head().position
            needs = view.needs(after=self._seen) if head > self._seen else ()
        came = head - self._seen
        if came:
            self._spare(needs, _walked(self._log, self._seen, head))
            self._seen = head
        return came

    def _spare(self, needs: Iterable[Need], entries: Iterable[Entry | UnreadableEntry]) -> None:
        for need in needs:
            self._keep(need.digest)
        for entry in entries:
            if isinstance(entry, UnreadableEntry):
                raise entry
            for digest in mentioned(_text(entry)):
                self._keep(digest)

    def _keep(self, digest: str) -> None:
        name = self._files.named(digest)
        if name in self._by_name:
            self._kept[name] = self._by_name[name]

    def _sum(self, items: Iterable[BlobFile]) -> Collected:
        freed = [*items]
        names = tuple(sorted({item.name for item in freed if item.name}))
        return Collected(len(names), sum(item.size for item in freed), names, len(self._kept), self._young)


def standing(files: BlobFiles) -> list[BlobFile]:
    """All files of a folder of blobs.

    Raises:
        CannotOpen: it is a symlink, or cannot be read.
    """
    try:
        return [*files.each()]
    except OSError as error:
        raise CannotOpen(str(error.filename or files.root), error.strerror or str(error)) from error


# --- what entries say -----------------------------------------------------------------------------------------------


def mentioned(text: str) -> Iterator[str]:
    """Everything in a text that could be a digest, wherever it begins."""
    for run in _HEX.findall(text):
        digits = run.lower()
        for start in range(len(digits) - _DIGITS + 1):
            yield digits[start : start + _DIGITS]


def listed(data: str) -> Iterator[str]:
    """The digests of the files that a payload lists as saved; of any other payload none."""
    fields: Any = orjson.loads(data)
    if fields.get("kind") != FILES_SAVED or not isinstance(fields.get("payload"), dict):
        return
    files = fields["payload"].get("files")
    for item in files.values() if isinstance(files, dict) else ():
        if isinstance(item, dict) and isinstance(digest := item.get("blob"), str) and _is_digest(digest):
            yield digest


def _is_digest(text: str) -> bool:
    return len(text) == _DIGITS and _HEX.fullmatch(text) is not None and text == text.lower()


def _text(entry: Entry) -> str:
    return " ".join((entry.stream, entry.key or "", entry.meta or "", entry.data))


def _walked(
    log: Log, after: int, until: int | None, types: tuple[str, ...] | None = None
) -> Iterator[Entry | UnreadableEntry]:
    """The entries between two positions, a snapshot a page; one that cannot be read is passed over, and told."""
    while until is None or after < until:
        with log.reading() as view:
            last = view.head().position if until is None else until
            page = [*_page(view, after, last, types)]
        if not page:
            return
        yield from page
        after = page[-1].position


def _read(view: Reading, after: int, until: int) -> Iterator[Entry | UnreadableEntry]:
    while page := [*_page(view, after, until, None)]:
        yield from page
        after = page[-1].position


def _page(view: Reading, after: int, until: int, types: tuple[str, ...] | None) -> Iterator[Entry | UnreadableEntry]:
    try:
        entries = view.read_all(after=after, limit=PAGE, types=types)
    except UnreadableEntry:
        while after < until:  # one by one, up to it
            try:
                entries = view.read_all(after=after, limit=1, types=types)
            except UnreadableEntry as error:
                yield error
                return
            yield from entries
            after = entries[-1].position
    else:
        yield from (entry for entry in entries if entry.position <= until)
