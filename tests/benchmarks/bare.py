"""The floor: the same SQLite library, one INSERT of ready bytes into a table of the log's shape, and nothing else.

Same file system, same pragmas (the log's own `connection_to` sets them), same columns and the unique index that any
such log needs to find a stream. What stands above this floor is the price of all that Runfold does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eventstore.sqlite.driver import Connection, Synchronous, connection_to

# Typed again by hand and not the log's own: whoever changes that must not move the floor along.
_TABLE = """
CREATE TABLE events(
    position INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INTEGER NOT NULL, type TEXT NOT NULL,
    recorded_at INTEGER NOT NULL, occurred_at INTEGER, attempt INTEGER, key TEXT, hash BLOB NOT NULL, meta TEXT,
    data ANY NOT NULL
) STRICT
"""
_INDEXES = (
    "CREATE UNIQUE INDEX events_by_stream ON events(stream, version)",
    "CREATE UNIQUE INDEX events_by_key ON events(stream, key) WHERE key IS NOT NULL",
)
_INSERT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

Row = tuple[Any, ...]
"""position, stream, version, type, recorded_at, occurred_at, attempt, key, hash, meta, data"""


class Bare:
    """A bare table; each insert is durable, as the pragmas say, when it returns."""

    def __init__(self, path: Path, synchronous: Synchronous = "FULL") -> None:
        path.touch()
        self.connection = connection_to(path, str(path), mode="rw", synchronous=synchronous, timeout=60)
        self.connection.execute("PRAGMA journal_mode = WAL").fetchone()
        for statement in (_TABLE, *_INDEXES):
            self.connection.execute(statement)

    def insert(self, row: Row) -> None:
        """One row, one commit."""
        self.connection.execute(_INSERT, row)

    def insert_many(self, rows: Sequence[Row]) -> None:
        """Several rows, one commit."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(_INSERT, rows)
        self.connection.execute("COMMIT")

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()


def reader(path: Path) -> Connection:
    """A connection that only reads, as the log's own are set."""
    return connection_to(path, str(path), mode="ro", synchronous="FULL", timeout=60)
