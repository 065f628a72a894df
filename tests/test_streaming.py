"""What attempts publish: heard in this process by who listens, in order, bounded, and stored nowhere."""

import threading

import pytest

import projections
from eventstore.errors import InvalidArgument
from eventstore.workflow import RunCompleted

PATIENCE = 20.0


@pytest.fixture
def runs(tmp_path):
    with projections.connect(tmp_path / "agent.db") as runs, runs.worker("w") as worker:
        for number in (1, 2):
            runs.submit("w", run_id=f"run-{number}")
        runs.attempts = [worker.claim(), worker.claim()]
        yield runs


def test_a_listener_hears_its_run_in_order_from_when_it_began_and_nothing_is_stored(runs):
    one, two = runs.attempts
    one.publish("before")
    with runs.listen("run-1") as mine, runs.listen() as everything:
        before = runs.store.head()
        one.publish({"token": "a"})
        two.publish("b")
        one.publish("c")

        assert [mine.next(0).data for _ in range(2)] == [{"token": "a"}, "c"]
        assert mine.next(0) is None
        assert [(delta.run_id, delta.attempt) for delta in (everything.next(0) for _ in range(3))] == [
            ("run-1", 1), ("run-2", 1), ("run-1", 1),
        ]  # fmt: skip
        assert runs.store.head() == before


def test_who_is_too_slow_misses_the_oldest_and_is_told_how_many(runs):
    with runs.listen("run-1", kept=3) as listener:
        for number in range(10):
            runs.attempts[0].publish(number)
        heard = [listener.next(0) for _ in range(3)]

    assert [(delta.data, delta.missed) for delta in heard] == [(7, 7), (8, 0), (9, 0)]


def test_iterating_waits_for_what_comes_and_ends_when_the_store_is_closed(tmp_path):
    heard = []
    with projections.connect(tmp_path / "agent.db") as runs, runs.worker("w") as worker:
        runs.submit("w", run_id="run-1")
        listener = runs.listen("run-1")
        thread = threading.Thread(target=lambda: heard.extend(delta.data for delta in listener))
        thread.start()
        with worker.claim() as attempt:
            attempt.publish(1)
            attempt.publish(2)
            attempt.append(RunCompleted())
    thread.join(PATIENCE)

    assert not thread.is_alive()
    assert heard == [1, 2]
    assert listener.closed
    assert listener.next() is None


def test_nobody_need_listen_and_who_left_hears_no_more(runs):
    listener = runs.listen("run-1")
    listener.close()
    listener.close()
    runs.attempts[0].publish("x")

    assert listener.next() is None
    assert runs._channel._listeners == ()


def test_to_keep_nothing_is_refused(runs):
    with pytest.raises(InvalidArgument):
        runs.listen(kept=0)
