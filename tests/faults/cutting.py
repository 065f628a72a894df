"""The cutter: from a record and a point in it to the disks that a power cut at that point could leave.

What is assumed of the disk and its file system:

- What was synced stays: a file's bytes and size by a sync of that file, names by a sync of their folder, and by
  nothing else. (ext4 and others also keep the name of a file that is synced; we do not count on it.)
- Each write and truncation since a file's last sync is there or not, independently of all others, so that any order in
  which they may have reached the disk is covered; so is each making, deleting and renaming since the folder's sync. A
  folder that was made is such a name: where it is gone, so is all that was put into it, synced or not.
- A write may be torn at the edges of 512-byte sectors: a beginning of it, or any set of its sectors. Where it made
  the file longer, the length may be there without the bytes, and then holds zeros or noise.
- A rename is atomic: the old state or the new, and never neither. A folder's takes all in it along, whatever of that
  is durable.
- A sector is written whole or not at all, and writing to one harms no other: SQLite's "powersafe overwrite", which it
  assumes of all disks itself. A disk that says "synced" and lies is not covered: nothing can be promised on it.

States are sampled with a seed of their own each, so that one can be made again without the others; the first few of
each cut are the extreme ones. Equal states are told by their digest.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from random import Random

from attrs import define, evolve, field, frozen

from tests.faults.recording import Mark, Record
from tests.faults.shim import Operation

SECTOR = 512
Files = dict[str, bytes]
"""By path; an empty folder's ends with a slash."""
Place = tuple[int, str]
"""A name in a folder, which is an inode: so it stays the same name when the folder gets another one."""
_ROOT = 0


@frozen
class Change:
    """Something not yet durable: a write or truncation of a file, or a change of names (`inode` is None)."""

    number: int
    kind: str
    inode: int | None
    offset: int = 0
    data: bytes = b""
    place: Place = (0, "")
    target: Place | None = None
    bound: int | None = None

    @property
    def folder(self) -> int:
        """Of a change of names: the folder whose sync makes it durable."""
        return (self.target or self.place)[0]


@define
class Inode:
    """A file's bytes as synced, and what came since; a folder has none, and its names stand in `Disk.names`."""

    durable: bytearray = field(factory=bytearray)
    pending: list[Change] = field(factory=list)
    folder: bool = False


def _apply(content: bytearray, change: Change) -> None:
    if change.kind == "truncate":
        if change.offset < len(content):
            del content[change.offset :]
        else:
            content.extend(bytes(change.offset - len(content)))
        return
    if change.offset > len(content):
        content.extend(bytes(change.offset - len(content)))
    content[change.offset : change.offset + len(change.data)] = change.data


def _bind(names: dict[Place, int], change: Change) -> None:
    if change.kind == "delete":
        names.pop(change.place, None)
    elif change.bound is not None:
        if change.kind == "rename":
            names.pop(change.place, None)
        names[change.target or change.place] = change.bound


class Disk:
    """The files of one folder as a disk holds them: what is durable, and what is on its way."""

    def __init__(self, start: Files) -> None:
        self.inodes: list[Inode] = [Inode(folder=True)]
        self.names: dict[Place, int] = {}
        self.durable_names: dict[Place, int] = {}
        self.renaming: list[Change] = []
        self._number = 0
        for path, data in start.items():
            *above, name = path.split("/")
            for depth in range(len(above)):
                place = self._place("/".join(above[: depth + 1]))
                if place not in self.names:
                    self.names[place] = self._new(folder=True)
            if name:
                self.names[self._place(path)] = self._new(data)
        self.durable_names = dict(self.names)

    def _new(self, data: bytes = b"", *, folder: bool = False) -> int:
        self.inodes.append(Inode(bytearray(data), folder=folder))
        return len(self.inodes) - 1

    def _place(self, path: str) -> Place:
        *above, name = path.split("/")
        folder = _ROOT
        for part in above:
            folder = self.names[folder, part]
        return folder, name

    def take(self, step: Operation) -> None:
        """Carry one operation out, as far as a disk does that is not asked to sync."""
        self._number += 1
        number, kind, name = self._number, step.kind, step.path
        if kind in ("write", "truncate"):
            inode = self.names[self._place(name)]
            self.inodes[inode].pending.append(Change(number, kind, inode, step.offset, step.data))
        elif kind == "sync":
            found = self.inodes[self.names[self._place(name)]]
            for change in found.pending:
                _apply(found.durable, change)
            found.pending.clear()
        elif kind == "dirsync":
            folder = self.names[self._place(name)] if name else _ROOT
            for change in self.renaming:
                if change.folder == folder:
                    _bind(self.durable_names, change)
            self.renaming = [change for change in self.renaming if change.folder != folder]
        else:
            self._rename(number, kind, name, step.data.decode() if kind in ("rename", "link") else "")

    def _rename(self, number: int, kind: str, name: str, target: str) -> None:
        place = self._place(name)
        if kind in ("open", "mkdir"):
            if place in self.names:
                return
            bound = self._new(folder=kind == "mkdir")
        else:
            bound = self.names[place]
        change = Change(number, kind, None, place=place, bound=bound)
        if target:
            change = evolve(change, target=self._place(target))
        _bind(self.names, change)
        self.renaming.append(change)

    def pending(self) -> list[Change]:
        """All that a cut may drop, oldest first."""
        live = {*self.names.values(), *self.durable_names.values(), *(c.bound for c in self.renaming)}
        changes = [change for inode in live if inode is not None for change in self.inodes[inode].pending]
        return sorted([*changes, *self.renaming], key=lambda change: change.number)

    def left(self, kept: list[Change]) -> Files:
        """The files of a disk on which just these changes arrived, each as it is given here."""
        names = dict(self.durable_names)
        arrived: dict[int, list[Change]] = {}
        for change in kept:
            if change.inode is None:
                _bind(names, change)
            else:
                arrived.setdefault(change.inode, []).append(change)
        within: dict[int, list[tuple[str, int]]] = {}
        for (folder, name), inode in names.items():
            within.setdefault(folder, []).append((name, inode))
        files: Files = {}
        waiting = [("", _ROOT)]
        while waiting:  # from the root: what stands in a folder that is gone is gone
            above, folder = waiting.pop()
            if above and folder not in within:
                files[above] = b""
            for name, inode in within.get(folder, ()):
                if self.inodes[inode].folder:
                    waiting.append((f"{above}{name}/", inode))
                else:
                    files[above + name] = self._content(inode, arrived.get(inode, ()))
        return files

    def _content(self, inode: int, arrived: Iterable[Change]) -> bytes:
        content = self.inodes[inode].durable
        if arrived:
            content = bytearray(content)
            for change in arrived:
                _apply(content, change)
        return bytes(content)


# --- choosing -----------------------------------------------------------------------------------------------------


def _torn(change: Change, random: Random, size: int) -> list[Change]:
    """What may be left of one write whose sectors did not all arrive. `size` is the file's durable size."""
    start, end = change.offset, change.offset + len(change.data)
    edges = [start, *range((start // SECTOR + 1) * SECTOR, end, SECTOR), end]
    pieces = list(pairwise(edges))
    if random.random() < 0.5:
        arrived = set(range(random.randrange(len(pieces))))
    else:
        arrived = {number for number in range(len(pieces)) if random.random() < 0.5}
    filler: bytes | None = None
    if end > size and random.random() < 0.4:
        filler = random.randbytes(SECTOR) if random.random() < 0.5 else bytes(SECTOR)
    parts = []
    for number, (low, high) in enumerate(pieces):
        if number in arrived:
            data = change.data[low - start : high - start]
        elif filler is not None and high > size:
            low = max(low, size)  # noqa: PLW2901 - bytes that stood before stay
            data = filler[: high - low]
        else:
            continue
        parts.append(Change(change.number, "write", change.inode, low, data))
    return parts


Chooser = Callable[[list[Change], Random], list[Change]]


def _coin(changes: list[Change], random: Random) -> list[Change]:
    odds = random.choice((0.1, 0.5, 0.9))
    return [change for change in changes if random.random() < odds]


def _beginning(changes: list[Change], random: Random) -> list[Change]:
    return changes[: random.randint(0, len(changes))]


def _all_but_one(changes: list[Change], random: Random) -> list[Change]:
    gone = random.randrange(len(changes))
    return changes[:gone] + changes[gone + 1 :]


def _just_one(changes: list[Change], random: Random) -> list[Change]:
    return [random.choice(changes)]


def _nothing(_changes: list[Change], _random: Random) -> list[Change]:
    return []


def _everything(changes: list[Change], _random: Random) -> list[Change]:
    return changes


_CHOOSERS: tuple[Chooser, ...] = (_coin, _coin, _beginning, _beginning, _all_but_one, _just_one)
_FOR_A_FILE: tuple[Chooser, ...] = (*_CHOOSERS, _nothing, _everything)
EXTREMES = 4


def _extreme(number: int, changes: list[Change]) -> list[Change]:
    return ([], changes, changes[-1:], changes[1:])[number]


def _sampled(disk: Disk, changes: list[Change], random: Random) -> list[Change]:
    if random.random() < 0.5:
        kept = random.choice(_CHOOSERS)(changes, random)
    else:  # each file, and the names, fare in a way of their own
        groups: dict[int | None, list[Change]] = {}
        for change in changes:
            groups.setdefault(change.inode, []).append(change)
        kept = [change for group in groups.values() for change in random.choice(_FOR_A_FILE)(group, random)]
        kept.sort(key=lambda change: change.number)
    odds = random.choice((0.0, 0.1, 0.5))
    at_last = random.random() < 0.5
    torn: list[Change] = []
    for change in kept:
        tears = random.random() < odds or (at_last and change is kept[-1])
        if change.kind == "write" and tears and change.inode is not None:
            torn += _torn(change, random, len(disk.inodes[change.inode].durable))
        else:
            torn.append(change)
    return torn


@frozen
class State:
    """A disk after a cut, and which one it is."""

    cut: int
    sample: int
    files: Files
    digest: bytes


def state(disk: Disk, cut: int, sample: int, seed: str) -> State | None:
    """The sample-th disk that a cut here could leave; None where all are the same and this is not the first."""
    changes = disk.pending()
    if not changes and sample:
        return None
    own = Random(f"{seed}:{cut}:{sample}")
    kept = _extreme(sample, changes) if sample < EXTREMES else _sampled(disk, changes, own)
    files = disk.left(kept)
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(files):
        digest.update(b"%d:%s%d:" % (len(name), name.encode(), len(files[name])))
        digest.update(files[name])
    return State(cut, sample, files, digest.digest())


def disks(record: Record, cuts: set[int] | None = None) -> Iterator[tuple[int, Disk]]:
    """The disk at each cut, before steps[cut]; the same object goes on, so use it at once."""
    disk = Disk(record.start)
    for cut in range(len(record.steps) + 1):
        if cuts is None or cut in cuts:
            yield cut, disk
        if cut < len(record.steps) and not isinstance(step := record.steps[cut], Mark):
            disk.take(step)
