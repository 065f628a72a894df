"""What hld does with conversations: a session's events in order, and its history through the sessions it continues."""

import pytest

from eventstore.errors import RunNotFound
from eventstore.workflow import Continues, MessageRecorded, RunCompleted, RunQueued, ToolCalled, ToolReturned


def session(runs, worker, run_id, *said, continues=None, version=None):
    """A session in which a user says these things, and each is answered."""
    if continues is not None and version is None:
        version = runs.store.stream(continues).version
    fork = None if continues is None else Continues(continues, version)
    runs.submit("chat", run_id=run_id, input={"query": said[0] if said else ""}, continues=fork)
    with worker.claim() as attempt:
        for text in said:
            attempt.append(MessageRecorded("user", text), MessageRecorded("assistant", f"re: {text}"))
        attempt.append(RunCompleted())


def said(history):
    return [message.content for message in history.messages if message.role == "user"]


def test_events_of_a_session_come_in_the_order_in_which_they_were_added(runs, worker):
    runs.submit("chat", run_id="s1")
    with worker.claim() as attempt:
        attempt.append(MessageRecorded("system", "be brief"), MessageRecorded("user", "list the files"))
        attempt.append(ToolCalled("t1", "bash", {"cmd": "ls"}), ToolReturned("t1", "a b"))
        attempt.append(MessageRecorded("assistant", "a and b"), RunCompleted())

    assert [(item.type, item.version) for item in runs.store.read("s1")][2:-1] == [
        ("MessageRecorded", 3), ("MessageRecorded", 4), ("ToolCalled", 5), ("ToolReturned", 6), ("MessageRecorded", 7),
    ]  # fmt: skip
    assert [message.role for message in runs.messages("s1")] == ["system", "user", "assistant"]


def test_a_session_that_continues_none_has_its_own_history(runs, worker):
    session(runs, worker, "s1", "hello")

    history = runs.sessions.history("s1")
    assert (said(history), history.count, runs.sessions.ancestors("s1")) == (["hello"], 2, [])


def test_a_history_goes_through_parents_and_grandparents_in_order(runs, worker):
    session(runs, worker, "s1", "one")
    session(runs, worker, "s2", "two", continues="s1")
    session(runs, worker, "s3", "three", continues="s2")

    assert said(runs.sessions.history("s3")) == ["one", "two", "three"]
    assert said(runs.sessions.history("s2")) == ["one", "two"]
    assert [ancestor.run_id for ancestor in runs.sessions.ancestors("s3")] == ["s2", "s1"]
    assert [row.run_id for row in runs.sessions.descendants("s1")] == ["s2", "s3"]


def test_a_session_that_forks_in_the_middle_of_another_has_only_what_was_said_up_to_there(runs, worker):
    session(runs, worker, "s1", "one", "two", "three")
    fork = next(message for message in runs.messages("s1") if message.content == "re: two").version
    session(runs, worker, "s2", "other", continues="s1", version=fork)

    assert said(runs.sessions.history("s2")) == ["one", "two", "other"]
    assert said(runs.sessions.history("s1")) == ["one", "two", "three"]


def test_a_history_is_read_by_pages_from_either_end(runs, worker):
    session(runs, worker, "s1", "one")
    session(runs, worker, "s2", "two", continues="s1")

    last = runs.sessions.history("s2", limit=3, newest_first=True)
    before = runs.sessions.history("s2", before=last.messages[-1].number, newest_first=True)
    assert [message.content for message in (*last.messages, *before.messages)] == ["re: two", "two", "re: one", "one"]
    first = runs.sessions.history("s2", limit=1)
    assert runs.sessions.history("s2", after=first.messages[-1].number).messages[0].content == "re: one"


def test_a_parent_that_is_missing_is_told_and_the_rest_is_given(runs, worker):
    runs.store.append("s2", RunQueued("chat", continues=Continues("s1", 4)))
    with worker.claim() as attempt:
        attempt.append(MessageRecorded("user", "two"), RunCompleted())

    history = runs.sessions.history("s2")
    assert (said(history), history.gap.run_id, history.gap.gap) == (["two"], "s1", "missing")


def test_what_was_said_comes_back_letter_for_letter(runs, worker):
    odd = ['it\'s "quoted" \\ \n\t\r', "日本 🎈 é", "'; DROP TABLE workflow_runs; --", "x" * 200_000, "[bold]{}%s"]
    session(runs, worker, "s1", *odd)

    assert said(runs.sessions.history("s1")) == odd


def test_a_session_in_which_nothing_was_said_is_empty_and_one_that_is_not_there_is_no_session(runs):
    runs.submit("chat", run_id="s1")

    assert runs.sessions.history("s1").messages == ()
    with pytest.raises(RunNotFound):
        runs.sessions.history("nobody")
