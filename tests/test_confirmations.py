"""Each question and what became of it; what is open when its run ends is void with it."""

from datetime import UTC, datetime

import pytest

from eventstore.payloads import digest
from eventstore.workflow import (
    ConfirmationExpired,
    ConfirmationRequested,
    ConfirmationResolved,
    Error,
    RunCancelled,
    RunCompleted,
    RunCrashed,
    RunDescribed,
    RunDropped,
    RunFailed,
    RunInterrupted,
    RunQueued,
    RunStarted,
)

UNTIL = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def runs(world):
    runs = world.runs()
    for run_id in ("run-1", "run-2"):
        runs.store.append(run_id, RunQueued("deploy"), RunStarted("w1"))
    return runs


def ask(runs, *call_ids, run_id="run-1", **fields):
    for call_id in call_ids:
        runs.store.append(run_id, ConfirmationRequested(call_id, "ship", {"env": "prod"}, **fields), attempt=1)


def decisions(runs, **filters):
    rows = runs.confirmations.where(order="position", **filters)
    return {f"{row.run_id}/{row.call_id}": row.decision for row in rows}


def test_a_question_tells_all_that_a_person_needs(runs):
    ask(runs, "c1", reason="touches production", expires_at=UNTIL)

    row = runs.confirmations.get("run-1", "c1")

    assert (row.tool, row.input, row.reason, row.expires_at) == ("ship", {"env": "prod"}, "touches production", UNTIL)
    assert (row.digest, row.decision, row.position) == (digest("ship", {"env": "prod"}), None, 5)


def test_what_waits_can_be_listed_in_the_order_of_asking(runs):
    ask(runs, "z", "a")
    ask(runs, "c1", run_id="run-2")
    runs.resolve("run-1", "a", "denied", by="alice")

    assert list(decisions(runs, decision=None)) == ["run-1/z", "run-2/c1"]


def test_an_edited_approval_is_bound_to_what_was_approved(runs):
    ask(runs, "c1")
    runs.resolve("run-1", "c1", "approved", by="alice", input={"env": "dev"}, result={"r": 1})

    row = runs.confirmations.get("run-1", "c1")

    assert (row.input, row.edited_input, row.result) == ({"env": "prod"}, {"env": "dev"}, {"r": 1})
    assert row.digest == digest("ship", {"env": "dev"})


def test_a_question_that_nobody_answered_is_expired(runs):
    ask(runs, "c1")
    runs.store.append("run-1", ConfirmationExpired("c1"))

    row = runs.confirmations.get("run-1", "c1")
    assert (row.decision, row.by) == ("expired", None)
    assert row.decided_at is not None


@pytest.mark.parametrize(
    "end",
    [RunCompleted(), RunFailed(Error("t", "m")), RunCrashed(), RunInterrupted(), RunDropped(), RunCancelled()],
    ids=lambda end: type(end).__name__,
)
def test_what_is_open_when_its_run_ends_is_void_and_nothing_else_is(runs, end):
    ask(runs, "open", "decided", "too")
    ask(runs, "open", run_id="run-2")
    runs.store.append("run-1", ConfirmationResolved("decided", "approved", "alice"))
    runs.store.append("run-1", end, attempt=1)

    assert decisions(runs) == {
        "run-1/open": "void", "run-1/decided": "approved", "run-1/too": "void", "run-2/open": None
    }  # fmt: skip
    assert runs.confirmations.get("run-1", "open").decided_at is not None
    assert runs.check().ok


def test_a_title_given_after_the_end_changes_no_decision(runs):
    ask(runs, "c1")
    runs.cancel("run-1", by="alice")
    before = runs.confirmations.where()
    runs.store.append("run-1", RunDescribed(title="late"))

    assert runs.confirmations.where() == before
