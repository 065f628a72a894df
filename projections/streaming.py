"""What a run says while it works, for those who listen in this process: tokens as they come, progress, thoughts.

None of it is stored, and nothing waits for it: who listens too slowly misses the oldest, and is told how many. What
must be known afterwards is an event.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Self

from attrs import frozen

from eventstore.limits import check_count

KEPT = 1_000
"""What a listener may be behind, unless it says otherwise."""


@frozen
class Delta:
    """Something that an attempt said."""

    run_id: str
    attempt: int
    data: Any
    """As it was given; nothing was copied, encoded or redacted."""
    missed: int = 0
    """How many came before it that this listener was too slow for."""


class Listener:
    """An ear. Iterate over it, and close it, or use it as a context manager; iteration ends when it is closed."""

    def __init__(self, channel: Channel, run_id: str | None, kept: int, woken: Callable[[], None] | None) -> None:
        check_count("kept", kept, least=1)
        self.run_id = run_id
        self._channel = channel
        self._woken = woken
        self._waiting: deque[Delta] = deque()
        self._kept = kept
        self._missed = 0
        self._changed = threading.Condition()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Delta]:
        while (delta := self.next()) is not None:
            yield delta

    @property
    def closed(self) -> bool:
        """Whether it, or the store, was closed; what it heard before can still be taken."""
        return self._closed

    def next(self, wait: float | None = None) -> Delta | None:
        """The next one; None if there was none for `wait` seconds, or if it is closed and all were taken."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._closed, wait)
            if not self._waiting:
                return None
            delta, missed, self._missed = self._waiting.popleft(), self._missed, 0
            return delta if not missed else Delta(delta.run_id, delta.attempt, delta.data, missed)

    def close(self) -> None:
        """Hear no more; the second time it does nothing."""
        self._channel.leave(self)
        self._end()

    def _hear(self, delta: Delta) -> None:
        with self._changed:
            if len(self._waiting) == self._kept:
                self._waiting.popleft()
                self._missed += 1
            self._waiting.append(delta)
            self._changed.notify()
        if self._woken is not None:
            self._woken()

    def _end(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._woken is not None:
            self._woken()


class Channel:
    """All that is said in one store's runs, and who listens."""

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self._lock = threading.Lock()
        self._closed = False

    def publish(self, delta: Delta) -> None:
        """Say it to all who listen to this run, and to those who listen to all."""
        for listener in self._listeners:
            if listener.run_id in (None, delta.run_id):
                listener._hear(delta)  # noqa: SLF001 - one room

    def listen(self, run_id: str | None, kept: int, woken: Callable[[], None] | None = None) -> Listener:
        """Another listener; `woken` is called, in the speaker's thread, whenever there is something new.

        After `close` it hears nothing, and is closed already.
        """
        listener = Listener(self, run_id, kept, woken)
        with self._lock:
            self._listeners = (*self._listeners, listener)
            closed = self._closed
        if closed:
            listener.close()
        return listener

    def leave(self, listener: Listener) -> None:
        """One listener less."""
        with self._lock:
            self._listeners = tuple(other for other in self._listeners if other is not listener)

    def close(self) -> None:
        """End every listener, and each that comes later at once."""
        with self._lock:
            self._closed = True
        for listener in self._listeners:
            listener.close()
