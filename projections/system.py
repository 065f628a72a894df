"""What the shells need of the world: clocks, sleeping, ids, and who this process is. Each is an argument.

Nothing pure looks here. Tests pass a `System` of their own; so may a program that sleeps differently.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from attrs import frozen

from eventstore.gate import microseconds_now
from eventstore.payloads import from_microseconds


@frozen
class Identity:
    """A process, told apart from every other one that had or will have its pid."""

    boot_id: str
    pid_namespace: str
    pid: int
    started: int
    """When the process started, in whatever unit the system counts; 0 where it does not say."""


def start_of(pid: int) -> int | None:
    """When the process of this pid, in our own namespace, started (Linux: clock ticks); None if there is none.

    Raises:
        OSError: it cannot be looked at, for want of a file descriptor, say; whoever is not seen is not thereby dead.
    """
    try:
        # The second field is the command's name in parentheses, and may itself hold spaces and parentheses.
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    # A zombie has ended; its parent has only not looked yet.
    return None if fields[0] in "ZX" else int(fields[19])


def this_process() -> Identity:
    """Who we are. Where the system tells no boot or namespace, both are empty, and only beats tell the dead."""
    return _process(os.getpid())


@lru_cache(maxsize=1)  # three files of /proc, 100 µs, at each claim; by pid, since a forked child is another process
def _process(pid: int) -> Identity:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot = namespace = ""
    return Identity(boot, namespace, pid, start_of(pid) or 0)


def _new_id() -> str:
    return uuid.uuid4().hex


@frozen
class System:
    """The world, as the shells see it."""

    microseconds: Callable[[], int] = microseconds_now
    """The wall clock, since 1970."""
    monotonic: Callable[[], float] = time.monotonic
    """Seconds of a clock that never goes back."""
    sleep: Callable[[float], None] = time.sleep
    new_id: Callable[[], str] = _new_id
    identity: Callable[[], Identity] = this_process
    start_of: Callable[[int], int | None] = start_of

    def now(self) -> datetime:
        """The wall clock, aware."""
        return from_microseconds(self.microseconds())
