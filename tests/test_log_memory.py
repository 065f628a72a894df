"""The memory log keeps the contract."""

from eventstore.memory import MemoryLog
from eventstore.testing import LogContract


class TestMemoryLog(LogContract):
    def open(self, folder):
        return MemoryLog()

    def reopen(self, log):
        return log.reopen()
