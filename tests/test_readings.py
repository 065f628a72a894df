"""Messages and tool calls of a run, read from the log; open calls too."""

import pytest

from eventstore.workflow import (
    MessageRecorded,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    ToolCalled,
    ToolReturned,
)
from tests.world import World


@pytest.fixture
def runs():
    world = World()
    runs = world.runs()
    runs.store.append("run-1", RunQueued("deploy"), RunStarted("w1"))
    runs.store.append("run-2", RunQueued("deploy"), RunStarted("w1"))
    runs.store.append("run-1", MessageRecorded("user", "go"), ToolCalled("c2", "look", {"at": 1}), attempt=1)
    runs.store.append("run-2", MessageRecorded("user", "another's"), attempt=1)
    runs.store.append(
        "run-1", ToolCalled("c1", "ship", parent_call_id="c2"), ToolReturned("c2", {"seen": 1}), attempt=1
    )
    runs.store.append("run-1", RunResumed("w2"))
    runs.store.append("run-1", MessageRecorded("assistant", ["shipping"]), ToolCalled("c1", "ship"), attempt=2)
    yield runs
    world.close()


def test_messages_come_in_order_with_their_place_and_attempt(runs):
    said = [(message.role, message.content, message.version, message.attempt) for message in runs.messages("run-1")]

    assert said == [("user", "go", 3, 1), ("assistant", ["shipping"], 8, 2)]


def test_calls_come_in_the_order_of_their_opening_with_the_open_ones(runs):
    looked, ship = runs.calls("run-1")

    assert (looked.call_id, looked.input, looked.output, looked.open) == ("c2", {"at": 1}, {"seen": 1}, False)
    assert (ship.call_id, ship.attempt, ship.open, ship.returned_at) == ("c1", 2, True, None)


def test_a_call_that_an_operator_returned_is_open_no_more(runs):
    runs.store.append("run-1", RunPaused("operator"), attempt=2)
    runs.store.append("run-1", ToolReturned("c1", "found out", is_error=True))

    ship = runs.calls("run-1")[1]
    assert (ship.open, ship.output, ship.is_error) == (False, "found out", True)


def test_a_run_that_said_nothing_has_neither(runs):
    runs.submit("deploy", run_id="run-3")

    assert list(runs.messages("run-3")) == runs.calls("run-3") == []
