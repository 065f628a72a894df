"""Settings: each change stands, what is not named stays, a wrong shape breaks no reader."""

import pytest

import projections
from eventstore.errors import IllegalTransition, InvalidArgument, KeyReused, RunNotFound
from eventstore.settings import AutoAccept, Known, check_settings, known, merged
from eventstore.workflow import RunConfigured
from tests.world import Refusal


@pytest.fixture(params=["memory", "sqlite"])
def runs(request, tmp_path):
    with projections.connect("memory:" if request.param == "memory" else tmp_path / "agent.db") as opened:
        opened.submit("deploy", run_id="run-1", config={"model": "a", "step_limit": 5})
        yield opened


WRONG = [
    ("step_limit", 0), ("step_limit", True), ("step_limit", 2.0), ("step_limit", "9"),
    ("auto_accept", 1), ("auto_accept", ["ship", ""]), ("auto_accept", {"ship": True}),
    ("working_folder", ""), ("working_folder", 3),
    ("mcp_servers", []), ("mcp_servers", {"files": "npx"}),
]  # fmt: skip


def history(runs):
    return [(item.config, item.version, item.by) for item in runs.settings_history("run-1")]


def test_a_change_is_merged_into_what_stands_and_each_one_stays_in_the_history(runs):
    changed = runs.configure("run-1", by="alice", step_limit=9)
    runs.configure("run-1", model=None, extra=[1])

    assert runs.settings("run-1") == {"step_limit": 9, "extra": [1]}
    assert (changed.version, changed.event.config) == (2, {"model": "a", "step_limit": 9})
    assert history(runs) == [
        ({"model": "a", "step_limit": 5}, 1, None),
        ({"model": "a", "step_limit": 9}, 2, "alice"),
        ({"step_limit": 9, "extra": [1]}, 3, None),
    ]


def test_a_change_that_changes_nothing_is_a_change_of_its_own_unless_a_key_says_that_it_is_the_same(runs):
    for _ in range(2):
        runs.configure("run-1", model="b")
        runs.configure("run-1", key="once", model="c")

    # The second time the key finds its change standing, though the settings have become others since.
    assert [config["model"] for config, _, _ in history(runs)] == ["a", "b", "c", "b"]


@pytest.mark.parametrize("again", [{"model": "d"}, {"model": "c", "more": 1}, {"model": "c", "by": "bob"}])
def test_a_key_that_stands_with_another_change_is_refused(runs, again):
    runs.configure("run-1", key="once", model="c")
    runs.configure("run-1", model="b")

    with Refusal(runs, KeyReused):
        runs.configure("run-1", key="once", **again)


def test_a_key_that_stands_gives_its_change_also_when_the_run_has_ended(runs):
    first = runs.configure("run-1", key="once", model="c")
    runs.cancel("run-1", by="alice")

    assert runs.configure("run-1", key="once", model="c") == first
    assert runs.settings("run-1") == {"model": "c", "step_limit": 5}


def test_a_change_made_between_the_look_and_the_write_is_not_lost(runs, monkeypatch):
    transact = runs.store.stream("run-1").__class__.transact
    others = [{"model": "other"}]

    def late(stream, decide, **options):
        if others:
            runs.configure("run-1", **others.pop())
        return transact(stream, decide, **options)

    monkeypatch.setattr(runs.store.stream("run-1").__class__, "transact", late)
    runs.configure("run-1", step_limit=7)

    assert runs.settings("run-1") == {"model": "other", "step_limit": 7}


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_shape_is_refused_on_submitting_and_configuring_and_passed_over_by_readers(runs, name, value):
    with Refusal(runs, InvalidArgument, name):
        runs.submit("deploy", config={name: value})
    with Refusal(runs, InvalidArgument, name):
        runs.configure("run-1", **{name: value})
    runs.store.append("run-1", RunConfigured({name: value}))

    assert known(runs.settings("run-1")) == Known()


def test_what_cannot_be_configured_is_refused(runs):
    runs.submit("deploy", run_id="plain", config=["no", "names"])
    runs.submit("deploy", run_id="ended")
    runs.cancel("ended", by="alice")

    with Refusal(runs, InvalidArgument, "names to change"):
        runs.configure("plain", model="b")
    with Refusal(runs, InvalidArgument, "name no setting"):
        runs.configure("run-1")
    with Refusal(runs, IllegalTransition):
        runs.configure("ended", model="b")
    with Refusal(runs, RunNotFound):
        runs.configure("nobody", model="b")
    with Refusal(runs, RunNotFound):
        runs.settings("nobody")


def test_a_run_without_settings_has_none_and_may_get_some(runs):
    runs.submit("deploy", run_id="bare")

    assert runs.settings("bare") is None
    runs.configure("bare", working_folder="/srv")
    assert known(runs.settings("bare")) == Known(working_folder="/srv")


def test_what_runfold_reads_has_a_type_and_all_else_is_the_owners():
    config = {"step_limit": 3, "auto_accept": ["ship"], "mcp_servers": {"files": {"command": "npx"}}, "mine": object}

    assert known(config) == Known(3, AutoAccept(frozenset({"ship"})), None, {"files": {"command": "npx"}})
    assert [known(config).accepts(tool) for tool in ("ship", "drop")] == [True, False]
    assert [known({"auto_accept": every}).accepts("ship") for every in (True, False)] == [True, False]
    assert [known(other) for other in (None, 1, "text", [])] == [Known()] * 4
    check_settings({"step_limit": None, "theirs": object})


def test_merging_leaves_what_it_was_given_alone_and_keeps_a_null_that_stood():
    before = {"a": 1, "b": None}

    assert merged(before, {"a": None, "c": 2}) == {"b": None, "c": 2}
    assert before == {"a": 1, "b": None}
