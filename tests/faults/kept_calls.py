"""Calls of archive, blobs and backup, for `disks`: what is done before the disk fails, the call, and what it left."""

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from typing import Any

import projections
from eventstore.backups import back_up
from eventstore.notes import LogRecorded
from eventstore.packing import BLOB_FROM
from tests.faults.payloads import large

_DAY = 86_400_000_000
_NO_TIME = timedelta(0)
_LARGE = LogRecorded("test", "large", payload=large(1, BLOB_FROM + 10_000))
_WORDS = b"what a blob holds " * 20


def _days_pass(bench: Any) -> None:
    bench.time += 3 * _DAY


def _sealed(bench: Any) -> None:
    _days_pass(bench)
    bench.runs.archive(keep_days=10_000)


def _archived(bench: Any) -> None:
    _days_pass(bench)
    bench.runs.archive(keep_days=0)
    bench.connect_again()


def _archive(bench: Any, **options: Any) -> None:
    bench.runs.archive(keep_days=0, **options)


def _blobs_lie_about(bench: Any) -> None:
    bench.runs.store.append("notes", _LARGE)
    for number in range(3):
        bench.runs.blobs.write(b"nobody's %d" % number)
    bench.runs.store.append("notes", LogRecorded("test", "mention", ref=bench.runs.blobs.write(_WORDS)))
    for item in bench.runs.store.log.blobs.each():
        os.utime(item.path, (0, 0))


def _mention(bench: Any) -> None:
    digest = bench.runs.blobs.write(BytesIO(_WORDS))
    bench.runs.store.append("notes", LogRecorded("test", "mention", ref=digest))


def _read_blobs(bench: Any) -> None:
    for item in bench.runs.store.log.blobs.each():
        bench.runs.blobs.read(item.name)


def _read_all(bench: Any) -> None:
    list(bench.runs.store.read_all())


def _something_of_everything(bench: Any) -> None:
    _blobs_lie_about(bench)
    _archived(bench)


def _back_up(bench: Any) -> None:
    back_up(bench.runs.store.log, bench.folder / "backup", files=bench.files())


def _backed_up(bench: Any) -> None:
    _something_of_everything(bench)
    _back_up(bench)


def _grew(bench: Any) -> None:
    _backed_up(bench)
    bench.runs.store.append("notes", LogRecorded("test", "line"), _LARGE)


def _restore(bench: Any) -> None:
    projections.restore(bench.folder / "backup", bench.folder / "restored.db", files=bench.files())


def _days_are_whole(bench: Any) -> list[str]:
    found = [str(finding) for finding in bench.runs.verify().findings]
    names = {path.name for path in bench.folder.glob("agent.db-archive/logs/*")}
    left = names - {segment.file for segment in bench.runs.segments()}
    return found + [f"{name} is left over" for name in left]


def _blobs_are_whole(bench: Any) -> list[str]:
    return [str(fault) for fault in bench.runs.blobs.check().faults]


def _backup_is_whole(bench: Any) -> list[str]:
    place = bench.folder / "proof"
    place.mkdir()
    made = projections.restore(bench.folder / "backup", place / "agent.db")
    with projections.connect(place / "agent.db") as runs:
        found = [*map(str, made.log.findings), *map(str, runs.verify().findings)]
    shutil.rmtree(place)
    return found


def _restored_is_whole(bench: Any) -> list[str]:
    with projections.connect(bench.folder / "restored.db") as runs:
        return [str(finding) for finding in runs.verify().findings]


Made = tuple[str, Callable[[Any], object], Callable[[Any], object], Callable[[Any], list[str]]]
KEPT_CALLS: tuple[Made, ...] = (
    ("archive", _archive, _days_pass, _days_are_whole),
    ("archive (compressed)", lambda b: _archive(b, compress=True, vacuum=True), _days_pass, _days_are_whole),
    ("archive (release)", _archive, _sealed, _days_are_whole),
    ("restore_days", lambda b: b.runs.restore_days(), _archived, _days_are_whole),
    ("read (archived)", _read_all, _archived, _days_are_whole),
    ("append (into a blob)", lambda b: b.runs.store.append("notes", _LARGE), lambda _b: None, _blobs_are_whole),
    ("blobs.write, mentioned", _mention, lambda _b: None, _blobs_are_whole),
    ("blobs.read", _read_blobs, _blobs_lie_about, _blobs_are_whole),
    ("blobs.check", lambda b: b.runs.blobs.check(), _blobs_lie_about, _blobs_are_whole),
    ("blobs.gc", lambda b: b.runs.blobs.gc(min_age=_NO_TIME), _blobs_lie_about, _blobs_are_whole),
    ("backup", _back_up, _something_of_everything, _backup_is_whole),
    ("backup (again)", _back_up, _grew, _backup_is_whole),
    ("restore", _restore, _backed_up, _restored_is_whole),
)
"""Each can be made again once the disk is mended; the last of each tells what is then not as it must be."""
