"""Daemons that die at every point, on both backends: see `projections.testing.DaemonMachine` for what must hold."""

from hypothesis import settings

from eventstore.sqlite import SQLiteLog
from projections.testing import DaemonMachine
from tests.examples import examples


class OnSQLite(DaemonMachine):
    def open_log(self):
        return self.reopen_log()

    def reopen_log(self):
        return SQLiteLog(self.folder / "agent.db", synchronous="NORMAL")


TestMemory = DaemonMachine.TestCase
TestMemory.settings = settings(max_examples=examples(60), stateful_step_count=60)
TestSQLite = OnSQLite.TestCase
TestSQLite.settings = settings(max_examples=examples(20), stateful_step_count=50)
