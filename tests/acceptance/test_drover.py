"""What drover's storage adapter did for its users: runs, events, checkpoints, confirmations, a queue, costs, resuming.

Each part was the adapter's; each holds in memory and in a file alike.
"""

from datetime import UTC, datetime, timedelta

import pytest

import projections
from eventstore import RUN
from eventstore.errors import (
    AgentDiffers,
    AlreadyResolved,
    Fenced,
    IllegalTransition,
    InvalidArgument,
    NoCheckpoint,
    RunExists,
    RunNotFound,
    SpecDiffers,
)
from eventstore.workflow import (
    CheckpointSaved,
    Error,
    MessageRecorded,
    Phase,
    RunCompleted,
    RunFailed,
    RunQueued,
    RunStarted,
    UsageRecorded,
)
from projections import Range

ODD = 'l\'"agent" – 🏃\u2028 "; DROP TABLE events; -- ${x} %s'
"""Quotes, a runner, a line separator, and what other systems would have executed."""


def ids(rows):
    return [row.run_id for row in rows]


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_is_created_and_loaded_with_everything_that_was_said_of_it(runs):
    runs.submit("triage", run_id="root")
    runs.submit(
        "triage", run_id="run-1", input={"issue": 7}, agent="reviewer", spec_hash="5f3a", parent_id="root",
        labels={"team": "core"}, priority=3,
    )  # fmt: skip

    row = runs.workflow_runs.get("run-1")
    assert (row.workflow, row.agent, row.spec_hash, row.parent_id) == ("triage", "reviewer", "5f3a", "root")
    assert (row.phase, row.labels, row.priority) == (Phase.QUEUED, {"team": "core"}, 3)
    assert runs.input("run-1") == {"issue": 7}
    assert runs.workflow_runs.get("nobody") is None


def test_a_second_run_of_one_id_is_refused_and_the_first_stands(runs):
    runs.submit("triage", run_id="run-1", input=1)

    with pytest.raises(RunExists):
        runs.submit("triage", run_id="run-1", input=2)
    assert runs.input("run-1") == 1


def test_a_run_ends_with_its_output_or_its_error_and_only_once(runs, worker):
    runs.submit("triage", run_id="good", priority=1)
    runs.submit("triage", run_id="bad")
    with worker.claim() as attempt:
        attempt.append(RunCompleted(output={"label": "bug"}))
    with worker.claim() as attempt:
        attempt.append(RunFailed(Error("BadInput", "no issue")))

    assert runs.output("good") == {"label": "bug"}
    assert runs.workflow_runs.get("bad").error == {"tag": "BadInput", "message": "no issue"}
    with pytest.raises(Fenced):
        runs.store.stream("good", RUN).append(RunCompleted(output="another"), attempt=1)
    assert runs.output("good") == {"label": "bug"}


@pytest.fixture
def family(runs, worker):
    """Two roots; `a` has two children, one of another agent; `a` and its first child were started."""
    for run_id, agent, parent in (
        ("a", "lead", None),
        ("b", "lead", None),
        ("a-1", "lead", "a"),
        ("a-2", "scout", "a"),
    ):
        runs.submit("triage", run_id=run_id, agent=agent, parent_id=parent)
    begun = [worker.claim(), worker.claim()]
    begun[0].append(RunCompleted())
    return runs


def test_runs_are_listed_by_phase_agent_and_parent_in_order_of_arrival(family):
    def listed(**asked):
        return ids(family.workflow_runs.where(order="position", **asked))

    assert listed() == ["a", "b", "a-1", "a-2"]
    assert listed(phase="queued") == ["a-1", "a-2"]
    assert listed(phase=["started", "completed"]) == ["a", "b"]
    assert listed(agent="lead") == ["a", "b", "a-1"]
    assert listed(parent_id="a") == ["a-1", "a-2"]
    assert listed(parent_id=None) == ["a", "b"]
    assert listed(parent_id=None, phase="started", agent="lead") == ["b"]
    assert listed(agent=ODD) == listed(parent_id="nobody") == []


def test_runs_are_listed_by_when_they_were_started(family):
    moments = [family.workflow_runs.get(run_id).started_at for run_id in ("a", "b")]

    def since(moment):
        return ids(family.workflow_runs.where(started_at=Range(start=moment), order="started_at"))

    assert since(moments[0]) == ["a", "b"]
    assert since(moments[1])[-1] == "b"
    assert since(moments[1] + timedelta(microseconds=1)) == []
    assert since(datetime(2020, 1, 1, tzinfo=UTC)) == ["a", "b"]


def test_a_list_is_paged_by_number_or_by_the_last_row_seen_also_where_rows_tie(family):
    view = family.workflow_runs

    numbered = [ids(view.where(order="agent", limit=2, offset=2 * page)) for page in range(3)]
    followed, last = [], None
    while page := view.where(order="agent", limit=2, after=last):
        followed.append(ids(page))
        last = page[-1]
    assert numbered == [["a", "a-1"], ["b", "a-2"], []]
    assert followed == numbered[:2]


@pytest.mark.parametrize(
    "asked", [{"limit": -1}, {"limit": "5"}, {"offset": -1}, {"offset": 1.5}, {"phase": "running"}]
)
def test_a_list_that_cannot_be_is_refused(runs, asked):
    with pytest.raises(InvalidArgument):
        runs.workflow_runs.where(**asked)


# --- events ---------------------------------------------------------------------------------------------------------


def test_events_are_appended_and_loaded_in_order_and_an_event_of_one_key_stands_once(runs, worker):
    runs.submit("triage", run_id="run-1")
    attempt = worker.claim()
    attempt.append(MessageRecorded("user", ODD), key="m1")
    attempt.append(MessageRecorded("assistant", {"large": "x" * 200_000}))
    (again,) = attempt.append(MessageRecorded("user", ODD), key="m1")

    assert [item.version for item in runs.store.read("run-1")] == [1, 2, 3, 4]
    assert [message.content for message in runs.messages("run-1")] == [ODD, {"large": "x" * 200_000}]
    assert again.version == 3
    assert [item.version for item in runs.store.read("run-1", after=2, limit=1)] == [3]
    assert [*runs.store.read("nobody")] == []


# --- checkpoints ----------------------------------------------------------------------------------------------------


def test_checkpoints_are_had_as_the_latest_by_step_and_as_a_list(runs, worker):
    runs.submit("triage", run_id="run-1")
    with worker.claim() as attempt:
        for step, state in ((1, "one"), (2, "two"), (7, "seven"), (2, {"two": "again", "large": ["x" * 5_000] * 9})):
            attempt.append(CheckpointSaved(step, state))

    assert runs.checkpoint("run-1")["two"] == "again", "the latest by sequence, and not by step"
    assert runs.checkpoint("run-1", step=7) == "seven"
    assert runs.checkpoint("run-1", step=2)["two"] == "again"
    assert runs.checkpoint("run-1", step=3) is None
    assert [(saved.step, saved.version) for saved in runs.saved("run-1")] == [(1, 3), (2, 4), (7, 5), (2, 6)]
    assert [saved.version for saved in runs.saved("run-1", limit=2, newest_first=True)] == [6, 5]


def test_a_run_without_checkpoints_has_none_and_a_run_that_nobody_knows_is_told(runs):
    runs.submit("triage", run_id="run-1")

    assert runs.checkpoint("run-1") is None
    assert [*runs.saved("run-1")] == []
    for ask in (runs.checkpoint, runs.saved):
        with pytest.raises(RunNotFound):
            ask("nobody")


# --- resuming -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ended(runs, worker):
    runs.submit("triage", run_id="run-1", agent="reviewer", spec_hash="v1", input={"issue": 7})
    with worker.claim() as attempt:
        attempt.append(CheckpointSaved(1, {"turn": 1}), CheckpointSaved(2, {"turn": 2}))
        attempt.append(RunFailed(Error("Timeout", "no answer")))
    return "run-1"


def test_a_run_that_failed_is_gone_on_with_from_its_checkpoint(runs, worker, ended):
    again = runs.continue_from(ended, agent="reviewer", spec_hash="v1")
    with worker.claim() as attempt:
        found = attempt.checkpoint, attempt.input
        attempt.append(RunCompleted(output=found[0]["turn"] + 1))

    assert found == ({"turn": 2}, {"issue": 7})
    assert runs.output(again) == 3
    assert (runs.workflow_runs.get(again).continues_id, runs.workflow_runs.get(ended).phase) == (ended, "failed")


def test_a_run_is_gone_on_with_from_an_earlier_checkpoint_as_well(runs, worker, ended):
    (first, _) = runs.saved(ended)
    runs.continue_from(ended, version=first.version)

    assert worker.claim().checkpoint == {"turn": 1}


def test_to_resume_twice_gives_two_runs_that_know_nothing_of_each_other(runs, worker, ended):
    runs.continue_from(ended)
    runs.continue_from(ended)
    one, other = worker.claim(), worker.claim()
    one.append(CheckpointSaved(3, "one"))
    other.append(CheckpointSaved(3, "other"))

    assert [runs.checkpoint(attempt.run_id) for attempt in (one, other)] == ["one", "other"]
    assert runs.checkpoint(ended) == {"turn": 2}


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (AgentDiffers, {"agent": "another"}),
        (SpecDiffers, {"agent": "reviewer", "spec_hash": "v2"}),
        (NoCheckpoint, {"version": 2}),
    ],
)
def test_what_cannot_be_resumed_is_refused_for_its_own_reason_and_nothing_is_queued(runs, ended, error, options):
    head = runs.store.head()

    with pytest.raises(error):
        runs.continue_from(ended, **options)
    assert runs.store.head() == head


# --- confirmations --------------------------------------------------------------------------------------------------


def test_confirmations_are_created_listed_and_resolved_once(runs, worker):
    for run_id in ("run-1", "run-2"):
        runs.submit("deploy", run_id=run_id)
        with worker.claim() as attempt:
            attempt.ask("c1", "ship", {"to": ODD}, reason="touches production")
    runs.resolve("run-1", "c1", "approved", by="alice", comment=ODD)

    def listed(**asked):
        return [(row.run_id, row.decision) for row in runs.confirmations.where(order="position", **asked)]

    assert listed() == [("run-1", "approved"), ("run-2", None)]
    assert listed(decision=None) == [("run-2", None)]
    assert listed(run_id="run-1") == [("run-1", "approved")]
    with pytest.raises(AlreadyResolved, match="approved by alice"):
        runs.resolve("run-1", "c1", "denied", by="bob")
    assert runs.confirmations.get("run-1", "c1").comment == ODD
    assert worker.claim().ask("c1", "ship", {"to": ODD}).approved


# --- the queue ------------------------------------------------------------------------------------------------------


def test_the_queue_gives_by_priority_then_arrival_and_each_run_to_one_worker(runs, worker):
    for run_id, priority in (("low", -1), ("first", 0), ("second", 0), ("high", 5)):
        runs.submit("triage", run_id=run_id, priority=priority)
    with runs.worker("other") as other:
        taken = [one.claim().run_id for one in (worker, other, worker, other)]
        assert worker.claim() is other.claim() is None

    assert taken == ["high", "first", "second", "low"]


def test_a_failure_that_may_pass_is_tried_again_later_and_not_for_ever(runs, worker):
    runs.submit("triage", run_id="run-1")
    dues = []
    for _ in range(3):
        with worker.claim() as attempt:
            dues.append(attempt.retry(TimeoutError("no answer"), max_attempts=3, backoff=timedelta(0)))

    assert [due is None for due in dues] == [False, False, True]
    row = runs.workflow_runs.get("run-1")
    assert (row.phase, row.error["tag"], row.attempt) == ("failed", "TimeoutError", 3)


def test_a_run_that_waits_for_its_next_try_is_given_to_nobody_before(runs, worker):
    runs.submit("triage", run_id="run-1")
    with worker.claim() as attempt:
        due = attempt.retry("no answer", backoff=timedelta(hours=1))

    assert worker.claim() is None
    assert runs.workflow_runs.get("run-1").not_before == due


def test_a_queued_run_is_cancelled_and_given_to_nobody(runs, worker):
    runs.submit("triage", run_id="run-1")
    runs.cancel("run-1", by="alice")

    assert worker.claim() is None
    with pytest.raises(IllegalTransition):
        runs.cancel("run-1", by="alice")


def test_what_a_dead_worker_held_is_reclaimed_with_its_checkpoint(runs, worker):
    runs.submit("triage", run_id="run-1")
    with runs.worker("dying") as dying:
        dying.claim().append(CheckpointSaved(1, "one"))
    # It left no row: nobody renews what it held.

    assert worker.recover().resumable == ("run-1",)
    again = worker.claim()
    assert (again.number, again.checkpoint) == (2, "one")


# --- what it cost ---------------------------------------------------------------------------------------------------


def test_tokens_and_money_are_summed_for_a_run_and_over_all_under_it(family):
    for run_id, cost in (("a-1", 0.25), ("a-2", 0.5), ("b", 4.0)):
        stream = family.store.stream(run_id, RUN)
        if run_id != "b":
            stream.append(RunStarted("w"))
        for _ in range(2):
            stream.append(UsageRecorded("model", 100, 10, cost), attempt=1)

    tree = family.tree("a")
    assert (tree.usage.cost_usd, tree.total.cost_usd, tree.total.input_tokens) == (0.0, 1.5, 400)
    assert [(node.row.run_id, node.total.cost_usd) for node in tree.children] == [("a-1", 0.5), ("a-2", 1.0)]
    assert family.usage.get("b").cost_usd == 8.0
    assert family.usage.get("a") is None


def test_a_circle_of_parents_that_was_imported_ends_every_walk(runs):
    for run_id, parent in (("x", "y"), ("y", "x")):
        runs.store.append(run_id, RunQueued("triage", parent_id=parent))

    assert [(depth, node.row.run_id) for depth, node in runs.tree("x").walk()] == [(0, "x"), (1, "y")]


def test_everything_stands_after_the_process_ended(tmp_path):
    with projections.connect(tmp_path / "agent.db") as runs, runs.worker("w") as worker:
        runs.submit("triage", run_id="run-1")
        with worker.claim() as attempt:
            attempt.append(CheckpointSaved(1, ODD))
            attempt.retry("no answer", backoff=timedelta(0))

    with projections.connect(tmp_path / "agent.db") as runs, runs.worker("w") as worker:
        assert worker.claim().checkpoint == ODD
        assert runs.workflow_runs.get("run-1").failures == 1
