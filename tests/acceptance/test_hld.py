"""What hld does for its users, done here: titles, approvals tied to calls, permissions, settings, folders, raw events.

Conversations and their history have a file of their own.
"""

from datetime import UTC, datetime, timedelta

import pytest

from eventstore.errors import AlreadyResolved, IllegalTransition, InvalidArgument, RunNotFound
from eventstore.notes import LogRecorded
from eventstore.settings import known
from eventstore.workflow import MessageRecorded, RunCompleted, RunDescribed, UsageRecorded

MCP = {"files": {"command": "npx", "args": ["-y", "files"], "env": {"ROOT": "/srv"}}}


def launch(runs, run_id="s1", **options):
    """A session: who performs it, what was asked, and its settings."""
    return runs.submit("session", run_id=run_id, agent="opus", input={"query": "mend the build"}, **options)


def describe(runs, run_id, **said):
    runs.store.append(run_id, RunDescribed(**said))


# --- sessions -------------------------------------------------------------------------------------------------------


def test_a_session_has_a_title_and_a_summary_that_change_each_alone_also_after_its_end(runs, worker):
    launch(runs)
    describe(runs, "s1", title="Build", summary="looks at the log")
    with worker.claim() as attempt:
        attempt.append(RunCompleted(output="mended"))
    describe(runs, "s1", title="Build, mended")

    row = runs.workflow_runs.get("s1")
    assert (row.title, row.summary, row.phase, row.agent) == ("Build, mended", "looks at the log", "completed", "opus")
    assert runs.output("s1") == "mended"


def test_sessions_are_listed_newest_first_by_state_and_archived_by_a_label(runs, worker):
    for run_id in ("s1", "s2", "s3"):
        launch(runs, run_id)
    worker.claim()
    describe(runs, "s2", labels={"archived": "yes"})

    def listed(**filters):
        return [row.run_id for row in runs.workflow_runs.where(order="-position", **filters)]

    assert listed() == ["s3", "s2", "s1"]
    assert listed(phase="started") == ["s1"]
    assert [row.run_id for row in runs.workflow_runs.each() if "archived" in row.labels] == ["s2"]
    assert listed(phase="failed") == []


def test_a_session_is_found_by_its_title_its_summary_and_what_was_said(runs, worker):
    launch(runs)
    describe(runs, "s1", title="Größe 100%_'; --", summary='quotes " and 🏃')
    with worker.claim() as attempt:
        attempt.append(MessageRecorded("assistant", [{"type": "text", "text": "the linker was missing"}]))

    for query in ("grosse", "quotes", "link*", '"was missing"'):
        assert [found.run_id for found in runs.search(query)] == ["s1"]
    assert runs.search("nothing of the kind") == []


def test_usage_is_summed_and_a_session_that_is_not_there_is_named(runs, worker):
    launch(runs)
    worker.claim().append(UsageRecorded("opus", 100, 20, 0.5), UsageRecorded("opus", 50, 5, 0.25))

    usage = runs.usage.get("s1")
    assert (usage.input_tokens, usage.output_tokens, usage.cost_usd) == (150, 25, 0.75)
    assert runs.workflow_runs.get("s9") is None
    for ask in (runs.sessions.tool_uses, runs.settings, runs.messages, runs.sessions.accepting):
        with pytest.raises(RunNotFound):
            ask("s9")


# --- tool calls and approvals -----------------------------------------------------------------------------------------


def test_a_call_its_question_and_the_decision_are_one_reading_tied_by_the_call_id(runs, worker):
    launch(runs)
    with worker.claim() as attempt:
        attempt.call("c1", "read", {"path": "Makefile"}, lambda _: "all: build")
        attempt.ask("c2", "write", {"path": "Makefile"}, reason="edits a file")
    runs.resolve("s1", "c2", "approved", by="alice", comment="fine", input={"path": "GNUmakefile"})
    attempt = worker.claim()
    answer = attempt.ask("c2", "write", {"path": "Makefile"})
    attempt.begin("c2", "write", answer.input)

    read, write = runs.sessions.tool_uses("s1")
    assert (read.call_id, read.output, read.decision, read.waits_for) == ("c1", "all: build", None, None)
    assert (write.call_id, write.reason, write.decision, write.by, write.comment) == (
        "c2", "edits a file", "approved", "alice", "fine"
    )  # fmt: skip
    assert (write.input, write.waits_for) == ({"path": "GNUmakefile"}, "tool")
    attempt.end("c2", {"written": 20})
    assert runs.sessions.tool_uses("s1")[1].output == {"written": 20}


def test_what_is_pending_over_all_sessions_is_told_and_ends_with_them(runs, worker):
    for run_id in ("s1", "s2", "s3"):
        launch(runs, run_id)
    first = worker.claim()
    first.begin("c1", "build", None)
    with worker.claim() as second:
        second.ask("c1", "ship", {"to": "prod"})
    worker.claim()

    pending = [(use.run_id, use.call_id, use.tool, use.waits_for) for use in runs.sessions.pending()]
    assert pending == [("s1", "c1", "build", "tool"), ("s2", "c1", "ship", "person")]
    assert [row.run_id for row in runs.confirmations.where(decision=None)] == ["s2"]
    runs.cancel("s1", by="alice")
    runs.cancel("s2", by="alice")
    assert list(runs.sessions.pending()) == []
    assert [use.void for use in runs.sessions.tool_uses("s2")] == [True]


def test_an_approval_is_decided_once_and_never_brings_an_ended_session_back(runs, worker):
    launch(runs)
    with worker.claim() as attempt:
        attempt.ask("c1", "ship", {})
    runs.resolve("s1", "c1", "denied", by="alice", comment="no")
    with pytest.raises(AlreadyResolved):
        runs.resolve("s1", "c1", "approved", by="bob")
    runs.cancel("s1", by="alice")
    with pytest.raises(IllegalTransition):
        runs.resolve("s1", "c1", "approved", by="bob")

    assert runs.workflow_runs.get("s1").phase == "cancelled"
    assert runs.confirmations.get("s1", "c1").by == "alice"


def test_approving_one_of_two_questions_leaves_the_session_waiting(runs, worker):
    launch(runs)
    with worker.claim() as attempt:
        attempt.append(*(question for question in _two_questions()))
    runs.resolve("s1", "c1", "approved", by="alice")

    row = runs.workflow_runs.get("s1")
    assert (row.phase, row.open_questions) == ("paused", 1)
    assert worker.claim() is None


def _two_questions():
    from eventstore.workflow import ConfirmationRequested, RunPaused  # noqa: PLC0415 - these two, here only

    return (*(ConfirmationRequested(call_id, "ship") for call_id in ("c1", "c2")), RunPaused("person"))


def test_edits_are_accepted_without_asking_for_a_while_and_the_rest_is_asked(runs, worker):
    launch(runs)
    until = datetime.now(UTC) + timedelta(minutes=15)
    runs.sessions.auto_accept("s1", ["Edit", "Write"], until=until, by="alice")
    with worker.claim() as attempt:
        assert attempt.ask("c1", "Edit", {"file": "a"}).by == "policy"
        attempt.ask("c2", "Bash", {"command": "rm"})

    assert runs.sessions.accepting("s1").until == until
    assert [(use.call_id, use.decision) for use in runs.sessions.tool_uses("s1")] == [("c1", "approved"), ("c2", None)]
    runs.sessions.auto_accept("s1", by="alice")  # everything, without an end: what waits is decided too
    assert runs.confirmations.where(decision=None) == []
    runs.sessions.withdraw("s1", by="alice")
    assert runs.sessions.accepting("s1") is None


def test_a_session_that_is_told_to_stop_is_never_stuck(runs, worker):
    launch(runs)
    launch(runs, "s2")
    with worker.claim() as attempt:
        runs.interrupt("s1", by="alice")
        assert attempt.interrupt_requested
    runs.interrupt("s2", by="alice")

    assert worker.claim() is None
    assert {row.phase for row in runs.workflow_runs.each()} == {"interrupted"}


# --- settings, servers, folders, raw events ---------------------------------------------------------------------------


def test_mcp_servers_and_every_other_setting_are_kept_and_changed_by_name(runs):
    launch(runs, config={"mcp_servers": MCP, "model": "opus", "max_turns": 5})
    runs.configure("s1", by="alice", model="sonnet")

    assert known(runs.settings("s1")).mcp_servers == MCP
    assert [item.config["model"] for item in runs.settings_history("s1")] == ["opus", "sonnet"]
    with pytest.raises(InvalidArgument):
        runs.configure("s1", mcp_servers=["npx"])
    assert known(runs.settings("s1")).mcp_servers == MCP


def test_folders_that_were_used_lately_come_first_each_once_with_how_many_sessions(runs):
    for number, folder in enumerate(["/srv/a b", "/srv/ü", "/srv/a b", None, "/srv/c"]):
        launch(runs, f"s{number}", config={"working_folder": folder} if folder else None)
    runs.configure("s4", working_folder="/srv/ü")

    page = runs.sessions.folders(limit=2)
    assert [(row.path, row.runs, row.last_run) for row in page] == [("/srv/ü", 1, "s4"), ("/srv/c", 1, "s4")]
    rest = runs.sessions.folders(before=page[-1].position)
    assert [(row.path, row.runs, row.last_run) for row in rest] == [("/srv/a b", 2, "s2")]
    with pytest.raises(InvalidArgument):
        runs.sessions.folders(limit=0)
    assert runs.check().ok


def test_raw_events_stand_in_the_session_s_own_stream_in_order_whatever_they_hold(runs, worker):
    launch(runs)
    raw = [{"type": "system", "n": 1}, "not even JSON: {", {"text": "x" * 100_000}]
    with worker.claim() as attempt:
        attempt.append(*(LogRecorded("agent", "raw", None, item) for item in raw))

    found = [item for item in runs.store.read("s1") if item.kind is LogRecorded]
    assert [item.event.payload for item in found] == raw
    assert [item.version for item in found] == [3, 4, 5]
