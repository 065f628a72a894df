"""What each run spent, over all of its attempts."""

from eventstore.workflow import RunQueued, RunResumed, RunStarted, UsageRecorded
from projections.usage import UsageRow
from tests.world import World


def test_usage_adds_up_over_attempts_and_apart_for_each_run():
    world = World()
    runs = world.runs()
    for run_id in ("run-1", "run-2"):
        runs.store.append(run_id, RunQueued("deploy"), RunStarted("w1"))
    runs.store.append("run-1", UsageRecorded("m", 10, 1, 0.1), attempt=1)
    runs.store.append("run-1", RunResumed("w2"))
    runs.store.append("run-1", UsageRecorded("n", 20, 2, 0.2), UsageRecorded(), attempt=2)

    assert runs.usage.get("run-1") == UsageRow("run-1", 30, 3, 0.1 + 0.2, 3)
    assert runs.usage.get("run-2") is None
    world.close()


def test_a_rebuild_gives_the_same_sums_to_the_last_bit():
    world = World()
    runs = world.runs()
    runs.store.append("run-1", RunQueued("deploy"), RunStarted("w1"))
    for cost in (0.1, 0.2, 0.3, 1e-9, 1e9):
        runs.store.append("run-1", UsageRecorded(cost_usd=cost), attempt=1)
    before = runs.usage.get("run-1")
    runs.rebuild()

    assert runs.usage.get("run-1") == before
    world.close()
