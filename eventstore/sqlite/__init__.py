"""The log in one SQLite file: the embedded default, safe for many threads and many processes."""

from eventstore.sqlite.driver import DRIVER, SOUND_SQLITE, SQLITE_VERSION, open_databases, sqlite3
from eventstore.sqlite.examining import Facts
from eventstore.sqlite.log import SQLiteLog
from eventstore.sqlite.schema import APPLICATION_ID, SCHEMA
from eventstore.sqlite.transaction import SQLiteTransaction

__all__ = [
    "APPLICATION_ID",
    "DRIVER",
    "SCHEMA",
    "SOUND_SQLITE",
    "SQLITE_VERSION",
    "Facts",
    "SQLiteLog",
    "SQLiteTransaction",
    "open_databases",
    "sqlite3",
]
