"""The SQLite log keeps the contract, and what only a file can promise."""

from eventstore.sqlite import SQLiteLog
from eventstore.testing import LogContract


class TestSQLiteLog(LogContract):
    def open(self, folder):
        return SQLiteLog(folder / "agent.db")

    def reopen(self, log):
        return SQLiteLog(log.url)
