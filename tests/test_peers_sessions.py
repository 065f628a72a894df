"""What goes wrong elsewhere with rounds and chains of sessions, and cannot here; the other rows are in `test_peers`."""

import pytest

from eventstore.workflow import Continues, MessageRecorded, RunCompleted, RunQueued, RunStarted
from tests.world import World


@pytest.fixture(params=["memory", "sqlite"])
def runs(request, tmp_path):
    world = World(None if request.param == "memory" else tmp_path)
    yield world.runs()
    world.close()


def test_nerve_store_lost_rounds_of_odd_payloads_and_here_count_and_pages_agree_and_nothing_vanishes(runs):
    """nerve-store: round count and round pages disagree; payloads `5` and `{}` take numbers and vanish, ..."""
    runs.store.append("run-1", RunQueued("chat"), RunStarted("w1"))
    contents = ["q", 5, {}, None, "q", {"role": "user"}, "q", []]
    said = [MessageRecorded("user" if content == "q" else "assistant", content) for content in contents]
    runs.store.append("run-1", *said, attempt=1)

    pages = [runs.sessions.rounds("run-1", before=before, limit=2) for before in (None, 2)]
    assert [one.number for page in pages for one in page] == [3, 2, 1]
    assert runs.sessions.count_rounds("run-1") == 3
    shown = [message.content for page in pages[::-1] for one in page[::-1] for message in one.messages]
    assert shown == contents


def test_nerve_store_numbered_rounds_anew_and_here_a_round_keeps_its_number(runs):
    """nerve-store: ... numbers restart after archiving (here: after more was said, the end, and a rebuild)."""
    runs.store.append("run-1", RunQueued("chat"), RunStarted("w1"))
    runs.store.append("run-1", *[MessageRecorded("user", number) for number in range(3)], attempt=1)
    before = {one.number: one.messages for one in runs.sessions.rounds("run-1")}
    runs.store.append("run-1", MessageRecorded("user", 3), RunCompleted(), attempt=1)
    runs.rebuild()

    assert {one.number: one.messages for one in runs.sessions.rounds("run-1", before=4)} == before


def test_hld_looped_for_ever_over_a_cycle_of_parents_and_here_the_chain_ends_and_says_why(runs):
    """hld: ... a cycle of parents loops for ever."""
    for run_id, parent in (("a", "b"), ("b", "c"), ("c", "a")):
        runs.store.append(run_id, RunQueued("chat", continues=Continues(parent, 3)), RunStarted("w1"))
        runs.store.append(run_id, MessageRecorded("user", run_id), attempt=1)

    history = runs.sessions.history("a")
    assert [message.content for message in history.messages] == ["c", "b", "a"]
    assert (history.gap.run_id, history.gap.gap) == ("a", "cycle")
    assert {row.run_id for row in runs.sessions.descendants("a")} == {"b", "c"}
