"""Everything that a caller can make grow has a bound; beyond it stands a refusal that changes nothing."""

import json

import pytest
from click.testing import CliRunner

from eventstore.errors import InvalidArgument, LimitReached
from eventstore.exchange import export_lines, import_lines
from eventstore.limits import MAX_LABEL, MAX_LABELS, MAX_NAME, MAX_OPEN, MAX_ROWS, PAGE
from eventstore.notes import LogRecorded
from eventstore.workflow import (
    RUN,
    ConfirmationRequested,
    ConfirmationResolved,
    RunCompleted,
    RunDescribed,
    RunStarted,
    ToolCalled,
    ToolReturned,
)
from projections.cli import main
from tests.world import World


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


def refused(runs, act, words):
    """The act is refused in these words, and neither log nor rows moved."""
    before = runs.store.head(), runs.workflow_runs.where()
    with pytest.raises(LimitReached, match=words):
        act()
    assert (runs.store.head(), runs.workflow_runs.where()) == before


def labels(number, start=0):
    return {f"label-{place}": "x" for place in range(start, start + number)}


def started(runs):
    runs.submit("w", run_id="run-1")
    stream = runs.store.stream("run-1", RUN)
    stream.append(RunStarted("w"))
    return stream


def test_a_run_is_queued_with_so_many_labels_and_no_more(world):
    runs = world.runs()
    runs.submit("w", run_id="full", labels=labels(MAX_LABELS))

    refused(runs, lambda: runs.submit("w", labels=labels(MAX_LABELS + 1)), "at most 100 labels")


def test_labels_that_are_merged_in_count_together(world):
    runs = world.runs()
    runs.submit("w", run_id="run-1", labels=labels(MAX_LABELS - 1))
    runs.store.append("run-1", RunDescribed(labels=labels(1, MAX_LABELS)))

    refused(runs, lambda: runs.store.append("run-1", RunDescribed(labels={"one": "more"})), "run-1 .* 100 labels")
    runs.store.append("run-1", RunDescribed(labels={"label-0": "a new value of an old one"}))
    assert len(runs.workflow_runs.get("run-1").labels) == MAX_LABELS


def test_labels_are_counted_beyond_the_end_of_the_run(world):
    runs = world.runs()
    stream = started(runs)
    stream.append(RunDescribed(labels=labels(MAX_LABELS)), RunCompleted())

    refused(runs, lambda: runs.store.append("run-1", RunDescribed(labels={"one": "more"})), "100 labels")


@pytest.mark.parametrize("label", [("n" * (MAX_NAME + 1), ""), ("n", "v" * (MAX_LABEL + 1))])
def test_a_label_is_no_place_for_long_texts(world, label):
    runs = world.runs()
    runs.submit("w", run_id="run-1", labels={"n" * MAX_NAME: "v" * MAX_LABEL})

    refused(runs, lambda: runs.submit("w", labels=dict([label])), "1000 characters .* 200 in its name")
    refused(runs, lambda: runs.store.append("run-1", RunDescribed(labels=dict([label]))), "1000 characters")


def test_so_many_questions_may_wait_and_an_answer_makes_room(world):
    runs = world.runs()
    stream = started(runs)
    stream.append(*(ConfirmationRequested(f"c{number}", "t") for number in range(MAX_OPEN)))

    refused(runs, lambda: stream.append(ConfirmationRequested("more", "t")), "at most 1000 open questions")
    stream.append(ConfirmationResolved("c0", "denied"), ConfirmationRequested("more", "t"))


def test_so_many_calls_may_be_open_and_a_return_makes_room(world):
    runs = world.runs()
    stream = started(runs)
    stream.append(*(ToolCalled(f"c{number}", "t") for number in range(MAX_OPEN)))

    refused(runs, lambda: stream.append(ToolCalled("more", "t")), "at most 1000 open calls")
    stream.append(ToolReturned("c0"), ToolCalled("more", "t"))


def test_what_is_at_its_limits_goes_out_and_comes_in_again(world, tmp_path):
    runs = world.runs()
    stream = started(runs)
    stream.append(RunDescribed(labels=labels(MAX_LABELS)))
    stream.append(*(ToolCalled(f"c{number}", "t") for number in range(MAX_OPEN)))
    (tmp_path / "lines").write_bytes(b"".join(export_lines(runs.store)))
    other = World()
    with (tmp_path / "lines").open("rb") as lines:
        import_lines(other.runs().store, lines)

    assert other.runs().check().ok
    assert runs.check().ok
    other.close()


@pytest.mark.parametrize("given", [{"events": [LogRecorded("s", "k", payload="x" * 600)] * 2},
                                   {"events": [LogRecorded("s", "k")] * 2, "meta": "x" * 600}])  # fmt: skip
def test_an_append_holds_so_many_bytes_together_and_no_more(world, monkeypatch, given):
    monkeypatch.setattr("eventstore.gate.MAX_BATCH_BYTES", 1_000)
    store = world.runs().store
    events = given.pop("events")
    store.append("notes", *events[:1], **given)

    with pytest.raises(InvalidArgument, match="events 2 hold more than the 1000 bytes"):
        store.append("notes", *events, **given)
    assert store.head().position == 1


def test_a_view_gives_so_many_rows_at_once_and_refuses_rather_than_leave_some_out(world, monkeypatch):
    monkeypatch.setattr("projections.views.MAX_ROWS", 5)
    runs = world.runs()
    for number in range(5):
        runs.submit("w", run_id=f"run-{number}")

    assert len(runs.workflow_runs.where()) == 5
    runs.submit("w", run_id="run-5")
    with pytest.raises(InvalidArgument, match="where more than 5 rows pass"):
        runs.workflow_runs.where()
    with pytest.raises(InvalidArgument, match="at most 5"):
        runs.workflow_runs.where(limit=6)
    assert len(runs.workflow_runs.where(limit=5)) == 5


def test_a_page_size_beyond_the_limit_is_refused(world):
    with pytest.raises(InvalidArgument, match="10000"):
        world.runs().workflow_runs.where(limit=MAX_ROWS + 1)


@pytest.mark.parametrize("number", [0, 1, PAGE, PAGE + 1])
def test_each_gives_every_row_once_however_many(world, monkeypatch, number):
    monkeypatch.setattr("projections.views.MAX_ROWS", PAGE)
    runs = world.runs()
    stream = started(runs)
    stream.append(*(ToolCalled(f"c{place}", "t") for place in range(2)))
    stream.append(*(ConfirmationRequested(f"q{place}", "t") for place in range(number)))

    found = [row.call_id for row in runs.confirmations.each(order="-position")]
    assert found == [f"q{place}" for place in reversed(range(number))]


def test_the_command_lists_any_number_of_questions(tmp_path, monkeypatch):
    monkeypatch.setattr("projections.views.MAX_ROWS", PAGE)
    world = World(tmp_path)
    stream = started(world.runs())
    stream.append(*(ConfirmationRequested(f"q{place}", "t") for place in range(PAGE + 3)))
    world.close()

    result = CliRunner().invoke(main, ["confirmations", str(tmp_path / "agent.db"), "--json", "--limit", "502"])

    assert [row["call_id"] for row in json.loads(result.stdout)] == [f"q{place}" for place in range(PAGE + 2)]
    assert f"{PAGE + 2} of {PAGE + 3}" in result.stderr


def test_a_worker_finds_its_runs_however_many_there_are(world, monkeypatch):
    monkeypatch.setattr("projections.views.MAX_ROWS", PAGE)
    runs = world.runs()
    for number in range(PAGE + 2):
        runs.submit("w", run_id=f"run-{number}")
        runs.store.append(f"run-{number}", RunStarted("long dead"))

    assert len(runs.lost()) == PAGE + 2
    with runs.worker("w") as worker:
        assert len(worker.recover().resumable) == PAGE + 2
        assert worker.claim().run_id == "run-0"


@pytest.mark.parametrize("wait", ["5", None, True, float("nan")])
def test_a_wait_that_is_no_number_is_refused_and_nothing_is_taken_up_or_asked(world, wait):
    runs = world.runs()
    runs.submit("w", run_id="run-1")
    with runs.worker("w") as worker:
        before = runs.store.head()
        with pytest.raises(InvalidArgument, match="number of seconds"):
            worker.claim(wait=wait)
        assert runs.store.head() == before

        with worker.claim() as attempt:
            before = runs.store.head()
            with pytest.raises(InvalidArgument, match="number of seconds"):
                attempt.ask("c1", "ship", {}, wait=wait)
            with pytest.raises(InvalidArgument, match="timedelta"):
                attempt.ask("c1", "ship", {}, expires_in=5)
            assert runs.store.head() == before
            attempt.append(RunCompleted())


@pytest.mark.parametrize("workflows", ["w", 5, [5]])
def test_workflows_that_are_no_list_of_names_are_refused_and_nothing_is_taken_up(world, workflows):
    runs = world.runs()
    runs.submit("w", run_id="run-1")
    with runs.worker("w") as worker:
        with pytest.raises(InvalidArgument, match="list of names"):
            worker.claim(workflows)

        assert runs.workflow_runs.get("run-1").phase == "queued"
