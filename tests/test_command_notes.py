"""`log` and `messages` at a terminal and for programs."""

import pytest

import projections
from eventstore.workflow import Continues, MessageRecorded, RunCompleted, RunQueued
from tests.commanding import asked, plain_surroundings, runfold  # noqa: F401 - fixtures


@pytest.fixture(name="talks", scope="module")
def database_of_conversations(tmp_path_factory):
    """Two runs of one conversation, one of which nobody knows the beginning, and five generic entries."""
    path = tmp_path_factory.mktemp("talks") / "talks.db"
    with projections.connect(path) as runs, runs.worker("w") as worker:
        runs.submit("chat", run_id="chat-1")
        said = [("system", "Be brief."), ("user", "What?"), ("assistant", {"a": [1]}), ("user", "And\x1b[31m\n  then?")]
        worker.claim().append(*[MessageRecorded(*one) for one in said], RunCompleted())
        runs.submit("chat", run_id="chat-2", continues=Continues("chat-1", 4))
        worker.claim().append(MessageRecorded("user", "Again"), RunCompleted())
        runs.store.append("lost", RunQueued("chat", continues=Continues("gone", 5)))
        for number in range(5):
            runs.logs.record(f"s{number % 2}", "k", f"r{number}", {"n": number, "odd": "\x1b[31m"})
    return path


def payloads(*words):
    return [entry["payload"]["n"] for entry in asked("log", *words)]


def test_log_lists_entries_in_order_and_says_how_to_go_on(talks):
    shown = runfold("log", talks, "--source", "s0", "--limit", "2")

    assert [line.split()[3:] for line in shown.stdout.splitlines()[1:]] == [
        ["s0", "k", "r0", '{"n":', "0,", '"odd":', '"\\u001b[31m"}'],
        ["s0", "k", "r2", '{"n":', "2,", '"odd":', '"\\u001b[31m"}'],
    ]  # fmt: skip
    last = asked("log", talks, "--source", "s0", "--limit", "2")[-1]["position"]
    assert shown.stderr == f"1 entry more with --after {last}\n"
    assert payloads(talks, "--source", "s0", "--after", last) == [4]


def test_log_goes_backward_and_by_every_filter(talks):
    first = asked("log", talks, "--newest", "--limit", "2")

    assert [entry["payload"]["n"] for entry in first] == [4, 3]
    assert payloads(talks, "--newest", "--before", first[-1]["position"]) == [2, 1, 0]
    assert "3 entries more with --before" in runfold("log", talks, "--newest", "--limit", "2").stderr
    assert payloads(talks, "--ref", "r1", "--ref", "r3", "--kind", "k", "--stream", "logs", "--since", "1d") == [1, 3]
    assert payloads(talks, "--until", "1d") == []
    assert runfold("log", talks, "--source", "nobody").stdout == "no entries of that kind\n"


def test_messages_tell_all_that_was_said_without_obeying_it(talks):
    said = [line for line in runfold("messages", talks, "chat-1").stdout.splitlines() if not line.endswith("UTC)")]

    assert said == ["  Be brief.", "  What?", "  {", '    "a": [', "      1", "    ]", "  }", "  And·[31m", "    then?"]


def test_messages_go_on_backward(talks):
    shown = runfold("messages", talks, "chat-1", "--limit", "2")
    (*_, second_last, _) = asked("messages", talks, "chat-1")

    assert shown.stderr == f"earlier ones with --before {second_last['version']}\n"
    earlier = asked("messages", talks, "chat-1", "--before", second_last["version"])
    assert [message["role"] for message in earlier] == ["system", "user"]
    assert runfold("messages", talks, "chat-1", "--limit", "4").stderr == ""


def test_messages_come_by_rounds(talks):
    shown = runfold("messages", talks, "chat-1", "--rounds", "--limit", "1")

    assert shown.stdout.startswith("round 2\nuser  (version 6,")
    assert shown.stderr == "1 of 2 rounds; earlier ones with --before 2\n"
    (first,) = asked("messages", talks, "chat-1", "--rounds", "--before", "2")
    assert (first["number"], len(first["messages"])) == (1, 3)


def test_messages_come_through_all_runs_of_a_conversation(talks):
    told = asked("messages", talks, "chat-2", "--history")

    assert [(said["number"], said["run_id"]) for said in told["messages"]] == [
        (1, "chat-1"), (2, "chat-1"), (3, "chat-2"),
    ]  # fmt: skip
    shown = runfold("messages", talks, "chat-2", "--history", "--limit", "1")
    assert shown.stdout.startswith("user  (3, chat-2 version 3, ")
    assert shown.stderr == "1 of 3 messages; earlier ones with --before 3\n"


def test_a_conversation_whose_beginning_is_missing_says_so(talks):
    shown = runfold("messages", talks, "lost", "--history")

    assert shown.stdout == "no messages\n"
    assert "it goes on from gone, but no run of that id stands in this log" in " ".join(shown.stderr.split())
    assert asked("messages", talks, "lost", "--history")["gap"] == {"run_id": "gone", "version": 5, "gap": "missing"}


def test_what_cannot_be_asked_is_misuse_and_a_run_that_is_not_there_is_told(talks):
    assert "choose one" in runfold("messages", talks, "chat-1", "--rounds", "--history", code=2).stderr
    for words in (
        ["messages", talks, "chat-1", "--limit", "0"],
        ["log", talks, "--limit", "-1"],
        ["log", talks, "--since", "x"],
    ):
        runfold(*words, code=2)
    for words in ([], ["--rounds"], ["--history"]):
        assert "there is no run nobody" in runfold("messages", talks, "nobody", *words, code=1).stderr
