"""Messages and rounds of one run: dense, stable numbers that agree with their count, whatever the messages hold."""

import pytest

from eventstore import Upcaster
from eventstore.errors import InvalidArgument, RunNotFound
from eventstore.limits import PAGE_BYTES
from eventstore.workflow import CheckpointSaved, MessageRecorded, RunCompleted, RunQueued, RunStarted
from projections import App, transcripts
from projections.readings import round_starts
from tests.world import World, forge

SAID = [
    ("system", "be brief"),
    ("user", "one"),
    ("assistant", 5),
    ("user", {}),
    ("assistant", None),
    ("tool", {"role": "user"}),
    ("user", "x" * 10_000),
    ("assistant", ["y" * 10_000]),
]
ROUNDS = [SAID[:3], SAID[3:6], SAID[6:]]


@pytest.fixture(params=["memory", "sqlite"])
def world(request, tmp_path):
    world = World(
        None if request.param == "memory" else tmp_path, App(upcasters=[Upcaster("Said", MessageRecorded, as_now)])
    )
    yield world
    world.close()


@pytest.fixture
def runs(world):
    runs = world.runs()
    runs.store.append("run-1", RunQueued("chat"), RunStarted("w1"))
    say(runs, *SAID)
    return runs


def as_now(old):
    return {"role": old["by"], "content": old["text"]}


def say(runs, *said, run_id="run-1"):
    events = [event for role, content in said for event in (MessageRecorded(role, content), CheckpointSaved(1))]
    runs.store.append(run_id, *events, attempt=1)


def told(messages):
    return [(message.role, message.content) for message in messages]


def pages(runs, limit):
    """Every page of rounds, newest first, as a reader who goes on from the last number gets them."""
    before, found = None, []
    while page := runs.sessions.rounds("run-1", before=before, limit=limit):
        found.append(page)
        before = page[-1].number
    return found


def test_a_round_is_what_a_user_said_and_what_followed_whatever_it_holds(runs):
    rounds = runs.sessions.rounds("run-1")

    assert [(one.number, told(one.messages)) for one in rounds] == [(3, ROUNDS[2]), (2, ROUNDS[1]), (1, ROUNDS[0])]


@pytest.mark.parametrize("limit", [1, 2, 3, 10_000])
def test_every_page_of_rounds_is_full_until_the_last_and_together_they_are_as_many_as_are_counted(runs, limit):
    found = pages(runs, limit)

    numbers = [one.number for page in found for one in page]
    assert numbers == [*range(runs.sessions.count_rounds("run-1"), 0, -1)]
    assert all(len(page) == limit for page in found[:-1])


def test_a_round_keeps_its_number_after_whatever_comes(runs):
    before = {one.number: one for one in runs.sessions.rounds("run-1")[1:]}
    say(runs, ("assistant", "more"), ("user", "again"))
    runs.store.append("run-1", RunCompleted(), attempt=1)
    runs.rebuild()

    after = {one.number: one for one in runs.sessions.rounds("run-1")}
    assert {number: after[number] for number in before} == before
    assert (told(after[3].messages), sorted(after)) == ([*ROUNDS[2], ("assistant", "more")], [1, 2, 3, 4])


def test_a_run_without_messages_has_no_round(runs):
    runs.submit("chat", run_id="run-2")

    assert (runs.sessions.rounds("run-2"), runs.sessions.count_rounds("run-2"), list(runs.messages("run-2"))) == (
        [],
        0,
        [],
    )


def test_messages_before_the_first_user_are_of_round_one():
    assert round_starts([]) == []
    assert round_starts([False, False]) == [0]
    assert round_starts([False, True, False, True, True]) == [0, 3, 4]


def test_roles_in_older_shapes_and_strange_spellings_count_as_what_they_say(world, runs):
    forge(
        world.log(),
        ("Said", '{"by":"user","text":1}'),
        ("MessageRecorded", '{"role":"\\u0075ser","content":2}'),
        ("MessageRecorded", '{"content":3,"role":"user"}'),
        ("MessageRecorded", '{"role":"users","content":4}'),
    )

    assert [told(one.messages) for one in runs.sessions.rounds("run-1", limit=3)] == [
        [("user", 3), ("users", 4)], [("user", 2)], [("user", 1)],
    ]  # fmt: skip


def test_messages_are_paged_by_version_from_both_ends(runs):
    forward = list(runs.messages("run-1", limit=3))
    backward = list(runs.messages("run-1", limit=3, newest_first=True))

    assert (told(forward), told(backward)) == (SAID[:3], SAID[:-4:-1])
    assert told(runs.messages("run-1", after=forward[-1].version, limit=2)) == SAID[3:5]
    assert told(runs.messages("run-1", before=backward[-1].version)) == SAID[:-3]
    assert told(runs.messages("run-1", after=forward[-1].version, before=backward[-1].version)) == SAID[3:5]


def test_a_long_run_is_looked_at_stretch_by_stretch(runs, monkeypatch):
    monkeypatch.setattr(transcripts, "_STRETCH", 3)

    assert told(runs.messages("run-1")) == SAID
    assert runs.sessions.count_rounds("run-1") == 3


@pytest.mark.parametrize("bad", [{"limit": 0}, {"limit": -1}, {"limit": 10_001}, {"limit": True}, {"limit": "3"},
                                 {"before": -1}, {"before": "2"}, {"before": True}])  # fmt: skip
def test_a_page_that_cannot_be_is_refused(runs, bad):
    for ask in (runs.sessions.rounds, runs.messages, runs.sessions.history):
        with pytest.raises(InvalidArgument):
            ask("run-1", **bad)


def test_a_run_that_is_not_there_has_no_transcript(runs):
    for ask in (runs.sessions.rounds, runs.sessions.count_rounds, runs.messages, runs.input):
        with pytest.raises(RunNotFound, match="there is no run run-9"):
            ask("run-9")


def test_pages_that_the_log_cuts_short_are_asked_for_again(world):
    runs, wide = world.runs(), "x" * (PAGE_BYTES // 2 + 1)
    runs.store.append("run-2", RunQueued("chat"), RunStarted("w1"))
    for number in range(3):
        runs.store.append("run-2", MessageRecorded("user", f"{number}{wide}"), attempt=1)

    assert [message.content[0] for message in runs.messages("run-2")] == ["0", "1", "2"]
