"""Sessions: the history of a run across those it goes on from, wherever the chain of them leads."""

import pytest

from eventstore.errors import InvalidArgument, RunNotFound, UnreadableEntry
from eventstore.workflow import Continues, MessageRecorded, RunDropped, RunQueued, RunStarted
from projections.sessions import Ancestor
from tests.world import World, forge


@pytest.fixture(params=["memory", "sqlite"])
def runs(request, tmp_path):
    world = World(None if request.param == "memory" else tmp_path)
    yield world.runs()
    world.close()


def goes_on(runs, run_id, *said, continues=None, version=0):
    """A run that says these things, put into the log by its own door, which takes any chain."""
    fork = Continues(continues, version) if continues else None
    runs.store.append(run_id, RunQueued("chat", continues=fork), RunStarted("w1"))
    if said:
        runs.store.append(run_id, *[MessageRecorded("user", text) for text in said], attempt=1)


@pytest.fixture
def family(runs):
    """a (versions 3 to 6: a1 to a4), b goes on from a at a2, c and d from b at b1."""
    goes_on(runs, "a", "a1", "a2", "a3", "a4")
    goes_on(runs, "b", "b1", "b2", continues="a", version=4)
    goes_on(runs, "c", "c1", continues="b", version=3)
    goes_on(runs, "d", continues="b", version=3)
    return runs


def told(history):
    return [(said.number, said.run_id, said.content) for said in history.messages]


WHOLE = [(1, "a", "a1"), (2, "a", "a2"), (3, "b", "b1"), (4, "c", "c1")]


def test_a_history_is_that_of_each_ancestor_up_to_its_fork_and_then_the_runs_own(family):
    history = family.sessions.history("c")

    assert (told(history), history.count, history.gap) == (WHOLE, 4, None)
    assert told(family.sessions.history("d")) == WHOLE[:3]
    assert [family.sessions.count(run) for run in "abcd"] == [4, 4, 4, 3]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_of_a_history_meet_across_runs_without_gap_or_repetition(family, limit, newest_first):
    found, place = [], {}
    while page := told(family.sessions.history("c", limit=limit, newest_first=newest_first, **place)):
        found += page
        place = {"before" if newest_first else "after": page[-1][0]}

    assert found == (WHOLE[::-1] if newest_first else WHOLE)


def test_what_an_ancestor_says_after_the_fork_moves_nothing(family):
    family.store.append("a", MessageRecorded("user", "a5"), attempt=1)
    family.store.append("c", MessageRecorded("user", "c2"), attempt=1)

    assert told(family.sessions.history("c")) == [*WHOLE, (5, "c", "c2")]


def test_ancestors_come_nearest_first_with_the_version_of_the_fork(family):
    assert family.sessions.ancestors("c") == [Ancestor("b", 3), Ancestor("a", 4)]
    assert family.sessions.ancestors("a") == []


def test_descendants_come_nearest_first_each_once(family):
    goes_on(family, "e", continues="c", version=3)

    assert [row.run_id for row in family.sessions.descendants("a")] == ["b", "c", "d", "e"]
    assert [row.run_id for row in family.sessions.descendants("c")] == ["e"]
    assert list(family.sessions.descendants("e")) == []


def test_a_missing_ancestor_is_told_and_the_rest_is_given(runs):
    goes_on(runs, "b", "b1", continues="gone", version=7)
    goes_on(runs, "c", "c1", continues="b", version=3)

    history = runs.sessions.history("c")
    assert told(history) == [(1, "b", "b1"), (2, "c", "c1")]
    assert history.gap == runs.sessions.ancestors("c")[-1] == Ancestor("gone", 7, gap="missing")


def test_a_chain_that_leads_back_into_itself_ends_there_and_says_so(runs):
    goes_on(runs, "a", "a1", continues="c", version=3)
    goes_on(runs, "b", "b1", continues="a", version=3)
    goes_on(runs, "c", "c1", continues="b", version=3)

    history = runs.sessions.history("c")
    assert told(history) == [(1, "a", "a1"), (2, "b", "b1"), (3, "c", "c1")]
    assert history.gap == Ancestor("c", 3, gap="cycle")
    assert [row.run_id for row in runs.sessions.descendants("a")] == ["b", "c"]


def test_a_run_that_goes_on_from_itself_is_its_own_history_and_nobodys_descendant(runs):
    goes_on(runs, "a", "a1", continues="a", version=3)

    assert (told(runs.sessions.history("a")), runs.sessions.history("a").gap) == (
        [(1, "a", "a1")], Ancestor("a", 3, gap="cycle"),
    )  # fmt: skip
    assert list(runs.sessions.descendants("a")) == []


def test_a_fork_before_everything_takes_nothing_along_and_one_beyond_the_end_takes_all(runs):
    goes_on(runs, "a", "a1")
    goes_on(runs, "b", "b1", continues="a", version=0)
    goes_on(runs, "e", continues="a", version=3)
    goes_on(runs, "c", "c1", continues="e", version=0)
    goes_on(runs, "d", "d1", continues="a", version=99)

    assert [told(runs.sessions.history(run)) for run in "bcd"] == [
        [(1, "b", "b1")], [(1, "c", "c1")], [(1, "a", "a1"), (2, "d", "d1")],
    ]  # fmt: skip


def test_a_run_that_said_nothing_has_an_empty_history(runs):
    goes_on(runs, "a")

    history = runs.sessions.history("a")
    assert (history.messages, history.count, history.gap) == ((), 0, None)


def test_the_input_of_a_run_is_what_it_was_submitted_with(runs):
    runs.submit("chat", run_id="a", input={"odd": [1, None, "é\u2028"]})
    runs.store.append("b", RunDropped("full"))

    assert (runs.input("a"), runs.input("b")) == ({"odd": [1, None, "é\u2028"]}, None)


def test_a_session_of_no_run_is_refused(family):
    for ask in (
        family.sessions.history, family.sessions.count, family.sessions.ancestors, family.sessions.descendants,
    ):  # fmt: skip
        with pytest.raises(RunNotFound):
            ask("nobody")
        with pytest.raises(InvalidArgument):
            ask("")


def test_what_waits_is_listed_of_all_runs_that_can_be_read_and_then_it_is_told_which_cannot(world):
    runs = world.runs()
    worker = world.worker()
    for name in ("a", "bad", "c"):
        runs.submit("deploy", run_id=name)
        with worker.claim() as attempt:
            attempt.ask("c1", "ship", None)
    forge(runs.store.log, ("FromElsewhere", "{}"), stream="bad")
    waiting = runs.sessions.pending()

    assert [next(waiting).run_id, next(waiting).run_id] == ["a", "c"]
    with pytest.raises(UnreadableEntry, match="of bad"):
        next(waiting)
