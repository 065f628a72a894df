"""Segments: sealed days of the log as files, an entry a line, and how they are written, read and proved.

    {"position": …, "stream": …, "version": …, "type": …, "recorded_at": …, "occurred_at": …, "attempt": …, "key": …,
     "hash": …[, "meta": …], "data": …}

`2026-11-20.jsonl` holds all entries that were recorded on that day, UTC, in the order of the log, and a closing line:
count, first and last position, the chain's hash before and after, the SHA-256 of all lines before. `head` shows it.
Payload and meta stand as they were first encoded, whole: a segment needs neither blobs nor bases of what was packed.

A file is a sequence of *blocks* that can be read by themselves, so that an entry costs one block: of a plain file a
range of bytes, of a compressed one (`.zst`) a frame, so that `zstd -d` reads it, of an encrypted one (`.enc`) a box
behind its length (8 bytes, the highest first). Where the blocks lie is kept in the log's tables, and all that stands
there could be made anew from the files. A file is never changed once it is recorded. Here is no SQL, and nothing is
deleted that was recorded.
"""

from eventstore.segments.folder import Archive
from eventstore.segments.lines import DAY, day_of, end_of, entry_of, glimpse_of, lines_of
from eventstore.segments.writing import ALTERED, Sealed

__all__ = ["ALTERED", "DAY", "Archive", "Sealed", "day_of", "end_of", "entry_of", "glimpse_of", "lines_of"]
