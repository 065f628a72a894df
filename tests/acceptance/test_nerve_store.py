"""What nerve-store does for its users: a log of generic entries, workflow runs, messages in rounds, and named values.

Archive and segments are not here yet.
"""

import pytest

from eventstore.errors import InvalidArgument, RunNotFound
from eventstore.workflow import ACTIVE, MessageRecorded, Phase, RunCompleted

# --- generic entries ----------------------------------------------------------------------------------------------


def test_an_entry_is_recorded_and_comes_back_whole(runs):
    payload = {"text": "tab\t quote' \" slash\\ é 日本 🎈", "nested": {"": [None, True, 1.5]}, "long": "x" * 300_000}
    runs.logs.record("telegram", "message.in", "chat/42", payload)

    (entry,) = runs.logs.where()
    assert (entry.source, entry.kind, entry.ref, entry.payload) == ("telegram", "message.in", "chat/42", payload)


@pytest.fixture
def kept(runs):
    for number in range(6):
        runs.logs.record(
            ("cron", "telegram")[number % 2], ("tick", "message.in", "error")[number % 3], f"r{number}", number
        )
    return runs


def test_entries_are_had_by_source_kind_ref_and_limit_oldest_or_newest_first(kept):
    def payloads(**asked):
        return [entry.payload for entry in kept.logs.where(**asked)]

    assert payloads(source="cron") == [0, 2, 4]
    assert payloads(kind="message.in") == [1, 4]
    assert payloads(source="cron", kind="message.in") == [4]
    assert payloads(ref="r3") == [3]
    assert payloads(limit=2) == [0, 1]
    assert payloads(limit=2, newest_first=True) == [5, 4]
    assert payloads(source="nobody") == []


def test_entries_are_had_by_a_range_of_time(kept):
    third = kept.logs.where(ref="r3")[0]

    since = kept.logs.where(since=third.at)
    assert third in since
    assert {entry.position for entry in kept.logs.where(until=third.at)} == {
        entry.position for entry in kept.logs.where()
    } - {entry.position for entry in since}


def test_a_page_goes_on_where_the_last_one_ended_whatever_was_written_since(kept):
    first = kept.logs.where(limit=4)
    kept.logs.record("cron", "tick", payload=6)

    assert [entry.payload for entry in kept.logs.where(after=first[-1].position)] == [4, 5, 6]


def test_a_limit_is_a_number_and_nothing_else(kept):
    for limit in (0, -1, "5", "1; DROP TABLE logs", 2**70):
        with pytest.raises(InvalidArgument):
            kept.logs.where(limit=limit)

    assert kept.logs.count() == 6


# --- workflow runs ------------------------------------------------------------------------------------------------


def test_a_run_is_made_with_its_trigger_and_ends_with_its_result(runs, worker):
    trigger = {"chat": "it's 🎈", "at": None}
    run = runs.submit("answer", input=trigger)
    assert runs.workflow_runs.get(run).phase is Phase.QUEUED

    with worker.claim() as attempt:
        attempt.append(RunCompleted(output=["done"]))

    assert (runs.input(run), runs.output(run)) == (trigger, ["done"])
    assert runs.workflow_runs.get(run).phase is Phase.COMPLETED


def test_active_runs_are_listed_all_of_them_or_of_one_workflow(runs, worker):
    for number in range(6):
        runs.submit(("answer", "digest")[number % 2], run_id=f"run-{number}")
    with worker.claim() as attempt:
        attempt.append(RunCompleted())
    worker.claim()

    def active(**only):
        return [row.run_id for row in runs.workflow_runs.where(phase=ACTIVE, order="position", **only)]

    assert active() == ["run-1", "run-2", "run-3", "run-4", "run-5"]
    assert active(workflow="digest") == ["run-1", "run-3", "run-5"]
    assert active(workflow="nothing") == []


def test_all_runs_are_listed_oldest_or_newest_first_by_pages(runs):
    for number in range(5):
        runs.submit("answer", run_id=f"run-{number}")

    newest = runs.workflow_runs.where(order="-position", limit=2)
    assert [row.run_id for row in newest] == ["run-4", "run-3"]
    runs.submit("answer", run_id="run-5")
    rest = runs.workflow_runs.where(order="-position", after=newest[-1])
    assert [row.run_id for row in rest] == ["run-2", "run-1", "run-0"]
    assert runs.workflow_runs.where(order="position", limit=1)[0].run_id == "run-0"


def test_a_run_that_is_not_there_is_said_to_be_so(runs):
    assert runs.workflow_runs.get("nobody") is None
    for read in (runs.input, runs.output, runs.messages, runs.sessions.rounds):
        with pytest.raises(RunNotFound):
            read("nobody")


# --- messages and rounds ------------------------------------------------------------------------------------------


@pytest.fixture
def talk(runs, worker):
    """Five rounds, with payloads among them that are no messages anywhere else."""
    runs.submit("talk", run_id="talk")
    attempt = worker.claim()
    for number, odd in enumerate([5, {}, None, [], ""], start=1):
        attempt.append(MessageRecorded("user", f"q{number}"), MessageRecorded("assistant", odd))
    return attempt


def test_messages_of_a_run_come_in_order_odd_ones_too(runs, talk):
    assert [message.content for message in runs.messages("talk")] == [
        "q1", 5, "q2", {}, "q3", None, "q4", [], "q5", "",
    ]  # fmt: skip


def test_rounds_come_newest_first_by_full_pages_that_agree_with_their_count(runs, talk):
    first = runs.sessions.rounds("talk", limit=2)
    second = runs.sessions.rounds("talk", before=first[-1].number, limit=2)
    third = runs.sessions.rounds("talk", before=second[-1].number, limit=2)

    assert [[one.number for one in page] for page in (first, second, third)] == [[5, 4], [3, 2], [1]]
    assert runs.sessions.rounds("talk", before=1) == []
    assert runs.sessions.count_rounds("talk") == 5
    assert [message.content for message in third[0].messages] == ["q1", 5]


def test_a_round_keeps_its_number_when_the_run_goes_on_and_ends(runs, talk):
    before = runs.sessions.rounds("talk", before=5)
    talk.append(MessageRecorded("assistant", "more"), MessageRecorded("user", "q6"), RunCompleted())
    runs.rebuild()

    assert runs.sessions.rounds("talk", before=5) == before
    assert runs.sessions.count_rounds("talk") == 6


# --- named values -------------------------------------------------------------------------------------------------


def test_a_named_value_is_set_and_had_and_the_last_one_stands(runs):
    runs.meta.set("telegram.offset", 7)
    runs.meta.set("telegram.offset", 9)
    runs.meta.set("mood", {"é": None})

    assert (runs.meta.get("telegram.offset"), runs.meta.get("none"), runs.meta.get("none", 0)) == (9, None, 0)
    assert runs.meta.all() == {"mood": {"é": None}, "telegram.offset": 9}
