"""A redactor: what it takes out stands nowhere, and questions and calls stay bound to what was given."""

import attrs
import orjson
import pytest

import eventstore
import projections
from eventstore import exchange
from eventstore.errors import AlreadyAsked, DigestMismatch, InvalidPayload, KeyReused, Unreturned
from eventstore.payloads import digest
from eventstore.workflow import (
    RUN,
    ConfirmationRequested,
    MessageRecorded,
    RunCompleted,
    RunQueued,
    RunStarted,
    ToolCalled,
    ToolReturned,
)
from tests.world import World

SECRET = "sk-1234567890"
GIVEN = {"env": "prod", "token": SECRET}


def mask(_type, fields):
    """Every text in which the secret stands, wherever it is."""
    return orjson.loads(orjson.dumps(fields).replace(SECRET.encode(), b"***"))


@pytest.fixture(params=["memory", "sqlite"])
def world(request, tmp_path):
    world = World(tmp_path if request.param == "sqlite" else None, projections.App(redactor=mask))
    yield world
    world.close()


@pytest.fixture
def runs(world):
    return world.runs()


@pytest.fixture
def worker(world):
    return world.worker()


def everything(runs):
    return b"".join(exchange.export_lines(runs.store))


def approve(runs):
    runs.resolve("run-1", "c1", "approved", by="alice", comment=f"use {SECRET}")


def test_what_the_redactor_takes_out_stands_nowhere_in_log_rows_and_files(world, runs, worker):
    runs.submit("deploy", input={"first": GIVEN}, run_id="run-1", labels={"of": SECRET})
    with worker.claim() as attempt:
        attempt.append(MessageRecorded("user", f"my token is {SECRET}!"))
        attempt.ask("c1", "ship", GIVEN, reason=f"uses {SECRET}")
    approve(runs)
    with worker.claim() as attempt:
        attempt.call("c1", "ship", GIVEN, lambda given: given["token"])
    with pytest.raises(RuntimeError), worker.claim():
        raise RuntimeError(f"{SECRET} was refused")

    assert SECRET.encode() not in everything(runs)
    assert b"***" in everything(runs)
    assert SECRET not in repr([view.where() for view in (runs.workflow_runs, runs.confirmations)])
    assert runs.confirmations.get("run-1", "c1").input == {"env": "prod", "token": "***"}
    if world.path is not None:
        found = [file for file in world.path.parent.iterdir() if SECRET.encode() in file.read_bytes()]
        assert found == []


def test_a_question_is_bound_to_what_was_given_and_the_worker_acts_on_that(runs, worker):
    runs.submit("deploy", run_id="run-1")
    with worker.claim() as attempt:
        attempt.ask("c1", "ship", GIVEN)
    assert runs.confirmations.get("run-1", "c1").digest == digest("ship", GIVEN)
    approve(runs)

    seen = []
    with worker.claim() as attempt:
        answer = attempt.ask("c1", "ship", GIVEN)
        attempt.call("c1", "ship", answer.input, seen.append)
        attempt.append(RunCompleted())

    assert seen == [GIVEN]


def test_what_looks_the_same_once_redacted_is_still_another_call(runs, worker):
    runs.submit("deploy", run_id="run-1")
    attempt = worker.claim()
    attempt.append(ToolCalled("c1", "ship", GIVEN))
    before = everything(runs)

    with pytest.raises(DigestMismatch):
        attempt.call("c1", "ship", {"env": "prod", "token": "***"}, pytest.fail)
    with pytest.raises(DigestMismatch):
        attempt.append(ConfirmationRequested("c1", "ship", {"env": "prod", "token": "***"}))

    assert everything(runs) == before


def test_a_call_that_began_is_known_again_by_a_later_attempt(world, runs, worker):
    runs.submit("deploy", run_id="run-1")
    worker.claim().append(ToolCalled("c1", "ship", GIVEN))
    world.dies(worker)
    attempt = world.worker().claim()

    with pytest.raises(Unreturned):
        attempt.call("c1", "ship", GIVEN, pytest.fail)
    assert attempt.call("c1", "ship", GIVEN, lambda given: given == GIVEN, repeat=True) is True


def test_a_question_may_not_name_a_digest_of_something_else(runs, worker):
    runs.submit("deploy", run_id="run-1")
    attempt = worker.claim()
    before = everything(runs)

    with pytest.raises(DigestMismatch):
        attempt.append(ConfirmationRequested("c1", "ship", GIVEN, digest=digest("ship", "harmless")))
    with pytest.raises(DigestMismatch):
        attempt.append(ToolCalled("c1", "ship", "harmless", digest=digest("ship", GIVEN)))

    assert everything(runs) == before


def test_an_edited_input_that_would_be_redacted_is_refused_since_no_worker_could_act_on_it(runs, worker):
    runs.submit("deploy", run_id="run-1")
    with worker.claim() as attempt:
        attempt.ask("c1", "ship", {"env": "prod"})
    before = everything(runs)

    with pytest.raises(InvalidPayload, match="no worker could act on it") as refused:
        runs.resolve("run-1", "c1", "approved", by="alice", input=GIVEN)

    assert SECRET not in str(refused.value)
    assert everything(runs) == before
    runs.resolve("run-1", "c1", "approved", by="alice", input={"env": "dev"})


def test_a_redacted_log_is_taken_in_elsewhere_and_keeps_its_bonds(runs, worker, tmp_path):
    runs.submit("deploy", run_id="run-1")
    attempt = worker.claim()
    with attempt:
        attempt.append(ToolCalled("c0", "look", GIVEN))
        attempt.ask("c1", "ship", GIVEN)
    (tmp_path / "log.jsonl").write_bytes(everything(runs))

    with projections.connect("memory:") as other, (tmp_path / "log.jsonl").open("rb") as lines:
        exchange.import_lines(other.store, lines)
        other.resolve("run-1", "c1", "approved", by="bob")
        state = other.store.stream("run-1", RUN).state
        row = other.confirmations.get("run-1", "c1")

    assert state.calls["c0"].digest == digest("look", GIVEN)
    assert state.questions["c1"].digest == row.digest == digest("ship", GIVEN)


def test_an_import_is_redacted_on_its_way_in(runs, tmp_path):
    with projections.connect("memory:") as plain:
        plain.submit("deploy", input=GIVEN, run_id="run-1")
        stream = plain.store.stream("run-1", RUN)
        stream.append(RunStarted("mac"), ToolCalled("c1", "ship", GIVEN))
        (tmp_path / "log.jsonl").write_bytes(everything(plain))

    for resume in (False, True):
        with (tmp_path / "log.jsonl").open("rb") as lines:
            exchange.import_lines(runs.store, lines, resume=resume)

    assert SECRET.encode() not in everything(runs)
    assert runs.store.stream("run-1", RUN).state.calls["c1"].digest == digest("ship", GIVEN)


def test_tables_of_a_redacted_log_are_rebuilt_and_checked_without_the_redactor(world, runs, worker):
    runs.submit("deploy", input=GIVEN, run_id="run-1")
    with worker.claim() as attempt:
        attempt.ask("c1", "ship", GIVEN)
    world.app = None
    other = world.runs()

    assert other.verify().ok
    other.rebuild()
    assert other.confirmations.get("run-1", "c1").digest == digest("ship", GIVEN)


def test_a_retry_under_a_key_is_known_by_what_was_stored(runs):
    stream = runs.store.stream("notes-1")
    first = stream.append(eventstore.MetaSet("token", SECRET), key="k")

    assert stream.append(eventstore.MetaSet("token", SECRET), key="k") == first
    with pytest.raises(KeyReused):
        stream.append(eventstore.MetaSet("token", "other"), key="k")


def test_a_change_of_settings_under_a_key_is_known_again_by_what_was_stored_whatever_came_since(runs):
    runs.submit("deploy", run_id="run-1", config={"model": "a"})
    first = runs.configure("run-1", by="alice", key="once", token=SECRET)
    runs.configure("run-1", model="b")
    before = everything(runs)

    assert runs.configure("run-1", by="alice", key="once", token=SECRET) == first
    for other in ({"token": "another"}, {"token": SECRET, "more": 1}, {"token": SECRET, "by": "bob"}):
        with pytest.raises(KeyReused):
            runs.configure("run-1", **{"by": "alice", "key": "once", **other})
    assert everything(runs) == before
    assert runs.settings("run-1") == {"model": "b", "token": "***"}


def test_the_callers_own_objects_stay_as_they_are():
    def spoil(_type, fields):
        fields["input"]["token"] = "***"
        return fields

    given = attrs.evolve(RunQueued("deploy", input={"token": SECRET}))
    with eventstore.connect("memory:", redactor=spoil) as store:
        store.append("run-1", given)
        (recorded,) = store.read("run-1")

    assert given.input == {"token": SECRET}
    assert recorded.event.input == {"token": "***"}


@pytest.mark.parametrize("spoiled", [None, [], {}, {"workflow": 7}, {"workflow": "w", "nope": 1}])
def test_a_redactor_that_gives_back_no_payload_of_the_event_refuses_the_append(spoiled):
    with eventstore.connect("memory:", redactor=lambda _type, _fields: spoiled) as store:
        with pytest.raises(InvalidPayload):
            store.append("run-1", RunQueued("w", input=1))
        assert store.head().position == 0


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (ToolCalled("c-9", "ship"), "call_id"),
        (ToolCalled("c1", "t-9"), "tool"),
        (ToolReturned("c-9"), "call_id"),
        (RunQueued("w-9"), "workflow"),
        (RunStarted("mac-9"), "worker"),
    ],
)
def test_a_redactor_may_not_change_what_an_event_is_told_by(event, field):
    def digits(_type, fields):
        return orjson.loads(orjson.dumps(fields).replace(b"-9", b""))

    with eventstore.connect("memory:", redactor=digits) as store:
        with pytest.raises(InvalidPayload, match=rf"\$\.{field}.*redactor"):
            store.append("run-1", event)
        assert store.head().position == 0


def test_what_a_redactor_raises_refuses_the_append(runs, worker):
    def broken(_type, _fields):
        raise RuntimeError("no rules loaded")

    with eventstore.connect("memory:", redactor=broken) as store:
        with pytest.raises(RuntimeError, match="no rules loaded"):
            store.append("run-1", RunQueued("w"))
        assert store.head().position == 0


def test_asking_twice_under_one_call_id_is_told_by_what_was_given(runs, worker):
    runs.submit("deploy", run_id="run-1")
    attempt = worker.claim()
    with attempt:
        attempt.ask("c1", "ship", GIVEN)
    approve(runs)
    attempt = worker.claim()

    with pytest.raises(AlreadyAsked):
        attempt.append(ConfirmationRequested("c1", "ship", GIVEN))
    with pytest.raises(DigestMismatch):
        attempt.ask("c1", "ship", {"env": "prod", "token": "***"})
