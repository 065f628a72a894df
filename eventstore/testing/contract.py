"""What every backend promises, as tests: the contract of `eventstore.log`, and the store's promises over it.

A backend's own test file names the backend and says how a log is opened, and opened again:

    class TestMyLog(LogContract):
        def open(self, folder):
            return MyLog(folder / "my.db")

        def reopen(self, log):
            return MyLog(log.url)

pytest finds the rest. For readable failures, put `pytest.register_assert_rewrite("eventstore.testing")` into your
conftest, before the first import of this package. No test here looks at a clock or waits for a time to pass; the
threads that wait have half a minute, and need milliseconds.
"""

from __future__ import annotations

from eventstore.testing.archive_contract import ArchiveContract
from eventstore.testing.backend_contract import BackendContract
from eventstore.testing.store_contract import StoreContract


class LogContract(BackendContract, ArchiveContract, StoreContract):
    """The suite. A subclass gives `open` and `reopen`; each test begins with a new, empty log in `self.log`."""
