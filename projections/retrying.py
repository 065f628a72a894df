"""What becomes of a run that failed and may be tried again: pure, on its state and what its worker allows."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from eventstore.errors import InvalidArgument
from eventstore.limits import check_count
from eventstore.workflow import Error, RunFailed, RunInterrupted, RunRequeued

if TYPE_CHECKING:
    from eventstore.workflow import RunState

_YEAR = timedelta(days=366)


def after_failure(
    state: RunState, failure: Error, now: datetime, *, max_attempts: int, backoff: timedelta, longest: timedelta
) -> RunRequeued | RunFailed | RunInterrupted:
    """The event that puts a run back into the queue, or ends it; see `Attempt.retry`.

    Raises:
        InvalidArgument: a number or a span that cannot be.
    """
    check_count("max_attempts", max_attempts, least=1)
    spans = isinstance(backoff, timedelta) and isinstance(longest, timedelta)
    if not (spans and timedelta(0) <= backoff <= longest <= _YEAR):
        reason = f"must be a timedelta, 0 or more, at most longest={longest}, and that a year"
        raise InvalidArgument("backoff", str(backoff), reason)
    failures = state.failures + 1
    words = f"{failure.tag}: {failure.message}"
    if state.interrupt_requested:
        return RunInterrupted(f"interrupt requested; {words}")
    if failures >= max_attempts:
        return RunFailed(failure, f"failed {failures} of at most {max_attempts} times")
    # Doubled step by step: a span that outgrew `longest` long ago would overflow.
    wait = backoff
    for _ in range(failures - 1):
        if wait >= longest or not wait:
            break
        wait *= 2
    return RunRequeued(words, now + min(wait, longest), failures)
