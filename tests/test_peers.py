"""What goes wrong elsewhere, and cannot here: a test for each row of our list, named after its story.

Each docstring quotes the row. Rounds and chains of sessions are in `test_peers_sessions`, those about blobs and
files in `test_peers_files`, those about archives in `test_peers_archive`.
"""

import io
import itertools
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

import eventstore
import projections
from eventstore.errors import (
    AlreadyResolved,
    CursorConflict,
    DigestMismatch,
    Fenced,
    IllegalTransition,
    InvalidArgument,
    InvalidPayload,
    Refused,
    RunExists,
    StaleProjection,
    UnreadableEntry,
)
from eventstore.exchange import import_lines
from eventstore.payloads import loads_strictly
from eventstore.testing import Rehearsal
from eventstore.workflow import (
    RUN,
    CheckpointSaved,
    ConfirmationRequested,
    Error,
    MessageRecorded,
    Phase,
    RunCancelled,
    RunCompleted,
    RunCrashed,
    RunDescribed,
    RunDropped,
    RunFailed,
    RunInterrupted,
    RunPaused,
    RunQueued,
    RunRequeued,
    RunResumed,
    RunStarted,
    ToolCalled,
    ToolReturned,
)
from projections.testing import MortalLog
from tests.forking import at_once
from tests.world import World, forge

QUEUED, STARTED = RunQueued("deploy"), RunStarted("w1")
LIFE = {
    Phase.QUEUED: (QUEUED,),
    Phase.STARTED: (QUEUED, STARTED),
    Phase.PAUSED: (QUEUED, STARTED, RunPaused("worker")),
    Phase.COMPLETED: (QUEUED, STARTED, RunCompleted()),
    Phase.FAILED: (QUEUED, STARTED, RunFailed(Error("t", "m"))),
    Phase.CRASHED: (QUEUED, STARTED, RunCrashed()),
    Phase.INTERRUPTED: (QUEUED, STARTED, RunInterrupted()),
    Phase.DROPPED: (RunDropped(),),
    Phase.CANCELLED: (QUEUED, RunCancelled()),
}
WAYS = {
    Phase.QUEUED: (QUEUED, RunRequeued()),
    Phase.STARTED: (STARTED, RunResumed("w2")),
    **{phase: (life[-1],) for phase, life in LIFE.items() if phase not in (Phase.QUEUED, Phase.STARTED)},
}
ALLOWED = {
    "queued": ("started", "failed", "dropped", "cancelled"),
    "started": ("started", "paused", "queued", "completed", "failed", "crashed", "interrupted", "dropped", "cancelled"),
    "paused": ("started", "failed", "interrupted", "cancelled"),
}
"""17 of 81 pairs, typed by hand: the table is not asked about itself."""


@pytest.fixture
def worker(world):
    return world.worker()


def begun(runs, worker, run_id="run-1"):
    runs.submit("deploy", run_id=run_id)
    return worker.claim()


def log_of(runs):
    return [recorded.entry for recorded in runs.store.read_all()]


# --- nerve-store ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "target"), list(itertools.product(LIFE, repeat=2)))
def test_nerve_store_accepted_every_status_pair_and_here_the_table_alone_says_which(source, target):
    """nerve-store: every one of 64 status pairs is accepted."""
    reached = False
    for way in WAYS[target]:
        run = Rehearsal(RUN, *LIFE[source])
        before = run.state
        try:
            run.take(way)
        except Refused:
            assert run.state == before
        else:
            reached = True
            assert run.state.phase == target

    assert reached is (target in ALLOWED.get(source, ()))


def test_nerve_store_let_an_older_timestamp_overwrite_a_newer_status_and_here_order_is_by_position(world, runs, worker):
    """nerve-store: an older timestamp overwrites a newer status."""
    attempt = begun(runs, worker)
    attempt.append(RunCompleted("done"))
    world.jumps(days=-400)

    with pytest.raises(IllegalTransition):
        runs.cancel("run-1", by="a clock that went back")
    runs.store.append("run-1", RunDescribed(title="late"), occurred_at=world.now - timedelta(days=1000))

    assert (runs.workflow_runs.get("run-1").phase, runs.output("run-1")) == ("completed", "done")
    times = [recorded.recorded_at for recorded in runs.store.read("run-1")]
    assert times == sorted(times)


def test_nerve_store_could_not_list_any_run_for_one_of_unknown_status_and_here_every_other_one_is_listed(world, runs):
    """nerve-store: one row with an unknown status makes listing all runs throw."""
    runs.submit("deploy", run_id="run-1")

    forge(world.log(), ("RunLevitated", "{}"), stream="odd")
    runs.submit("deploy", run_id="run-2")

    assert [row.run_id for row in runs.workflow_runs.where()] == ["run-1", "run-2"]
    assert [row.run_id for row in world.runs().workflow_runs.where()] == ["run-1", "run-2"]
    assert world.worker().claim().run_id == "run-1"
    with pytest.raises(UnreadableEntry, match="RunLevitated"):
        runs.store.stream("odd").append(RunDescribed())


APPENDS = """
import eventstore
from eventstore.notes import LogRecorded
with eventstore.connect(arguments[0], synchronous="NORMAL") as store:
    for count in range(500):
        store.append(f"s{number}", LogRecorded("s", "k", payload=count))
"""


def test_nerve_store_lost_four_of_five_appends_of_three_processes_to_locks_and_here_none(tmp_path):
    """nerve-store: three processes x 2,000 appends: 81 % fail with "database is locked"."""
    path = tmp_path / "agent.db"

    at_once(3, APPENDS, path)

    with eventstore.connect(path) as store:
        entries = list(store.read_all())
    assert [recorded.position for recorded in entries] == list(range(1, 1501))
    for number in range(3):
        assert [r.event.payload for r in entries if r.stream == f"s{number}"] == list(range(500))


@pytest.mark.parametrize("limit", ["1; DROP TABLE events", "1 OR 1", -1, 1.5, True, 2**64])
def test_nerve_store_pasted_the_limit_into_sql_and_here_it_is_a_number_or_refused(runs, limit):
    """nerve-store: `limit` is pasted into SQL."""
    runs.submit("deploy")
    before = log_of(runs)

    with pytest.raises((InvalidArgument, TypeError)):
        runs.workflow_runs.where(limit=limit)
    assert log_of(runs) == before
    assert runs.workflow_runs.count() == 1


# --- drover ---------------------------------------------------------------------------------------------------------


def test_drover_left_a_crashed_run_running_for_ever_and_here_the_next_worker_gets_it(world, runs, worker):
    """drover: a crashed run stays `running` for ever."""
    begun(runs, worker)
    world.dies(worker)
    restarted = world.worker()

    assert restarted.recover().resumable == ("run-1",)
    with restarted.claim() as attempt:
        attempt.append(RunCompleted())
    assert runs.workflow_runs.get("run-1").phase == "completed"


def test_drover_left_a_run_of_bad_input_running_and_here_it_failed(runs, worker):
    """drover: ... a run that fails input validation too."""
    with pytest.raises(KeyError), begun(runs, worker) as attempt:
        attempt.input["env"] if attempt.input else {}["env"]
    runs.submit("deploy", run_id="run-2")
    runs.store.append("run-2", RunFailed(Error("BadInput", "no env")))

    assert runs.workflow_runs.get("run-1").error["tag"] == "KeyError"
    assert runs.workflow_runs.get("run-2").phase == "failed"
    assert worker.claim() is None


def test_drover_dropped_the_events_of_a_retry_under_old_numbers_and_here_each_attempt_goes_on_counting(
    world, runs, worker
):
    """drover: a retry reuses the run id and starts at seq 0: `INSERT OR IGNORE` silently drops its events."""
    attempt = begun(runs, worker)
    attempt.append(MessageRecorded("assistant", "first go"))
    world.dies(worker)
    second = world.worker().claim()

    (recorded,) = second.append(MessageRecorded("assistant", "second go"))

    assert (recorded.version, recorded.attempt) == (5, 2)
    assert [message.content for message in runs.messages("run-1")] == ["first go", "second go"]
    with pytest.raises(RunExists):
        runs.submit("deploy", run_id="run-1")


def test_drover_lost_events_when_resumed_twice_and_here_one_of_two_gets_the_run_with_all_of_them(world, runs, worker):
    """drover: resuming twice from one checkpoint loses events; checkpoints lag one turn behind."""
    attempt = begun(runs, worker)
    attempt.append(CheckpointSaved(1, {"turn": 1}))
    attempt.append(MessageRecorded("assistant", "after the checkpoint"))
    world.dies(worker)
    one, other = world.worker(), world.worker()

    resumed, nothing = one.claim(), other.claim()

    assert nothing is None
    assert resumed.checkpoint == {"turn": 1}
    assert [recorded.type for recorded in resumed.since] == ["MessageRecorded", "RunResumed"]
    with pytest.raises(Fenced):
        attempt.append(CheckpointSaved(2, {}))
    resumed.append(CheckpointSaved(2, {"turn": 2}))
    assert runs.checkpoint("run-1") == {"turn": 2}


def test_drovers_memory_and_sql_adapters_disagreed_and_here_both_give_the_same_answers(tmp_path):
    """drover: the adapters disagree on duplicate runs, missing runs, duplicate events, latest checkpoint, limits."""
    answers = []
    for folder in (None, tmp_path):
        world = World(folder)
        runs, worker = world.runs(), world.worker()
        attempt = begun(runs, worker)
        attempt.append(CheckpointSaved(9, "nine"), key="k")
        attempt.append(CheckpointSaved(1, "one"))
        found = []
        for ask in (
            lambda r=runs: r.submit("deploy", run_id="run-1"),
            lambda r=runs: r.workflow_runs.get("nobody"),
            lambda r=runs: r.cancel("nobody", by="alice"),
            lambda r=runs: r.output("nobody"),
            lambda a=attempt: [r.version for r in a.append(CheckpointSaved(9, "nine"), key="k")],
            lambda a=attempt: a.append(CheckpointSaved(9, "ten"), key="k"),
            lambda r=runs: r.checkpoint("run-1"),
            lambda r=runs: [r.submit("deploy", run_id=f"more-{n}") for n in range(1100)][-1],
            lambda r=runs: len(r.workflow_runs.where()),
            lambda r=runs: len(list(r.store.read_all())),
            lambda r=runs: [row.run_id for row in r.workflow_runs.where(order=("-priority", "-position"), limit=3)],
        ):
            try:
                found.append(ask())
            except Exception as error:  # noqa: BLE001 - whatever it is, it must be the same
                found.append((type(error), str(error)))
        answers.append(found)
        world.close()

    memory, sqlite = answers
    assert memory == sqlite
    assert memory[8:10] == [1101, 1104]


def test_drover_could_not_list_its_confirmations_and_here_what_waits_is_a_question_to_the_view(runs, worker):
    """drover: confirmations can be created and resolved but not listed."""
    with begun(runs, worker) as attempt:
        attempt.ask("c1", "ship", {"env": "prod"}, reason="touches production")

    (waiting,) = runs.confirmations.where(decision=None)

    assert (waiting.run_id, waiting.tool, waiting.input) == ("run-1", "ship", {"env": "prod"})


# --- snapshots ------------------------------------------------------------------------------------------------------


def test_snapshots_went_from_complete_to_executing_and_erased_the_result_and_here_an_end_is_final(runs, worker):
    """snapshots: `complete` -> `executing` is accepted and erases the result."""
    attempt = begun(runs, worker)
    attempt.append(RunCompleted({"answer": 42}))
    before = log_of(runs)

    for event in (RunStarted("w2"), RunResumed("w2"), RunQueued("deploy"), RunFailed(Error("t", "m"))):
        with pytest.raises((IllegalTransition, Fenced)):
            runs.store.append("run-1", event, attempt=1 if type(event) is RunFailed else None)
    assert log_of(runs) == before
    assert runs.output("run-1") == {"answer": 42}


def test_snapshots_executed_a_failed_last_step_again_and_here_a_call_that_returned_is_not_made_twice(
    world, runs, worker
):
    """snapshots: a failed last step is executed again on resume and stands twice."""
    made = []
    attempt = begun(runs, worker)
    attempt.call("last", "ship", None, lambda _input: made.append("first") or "shipped")
    with pytest.raises(KeyboardInterrupt), attempt:
        raise KeyboardInterrupt

    with worker.claim() as attempt:
        attempt.append(RunCompleted(attempt.call("last", "ship", None, lambda _input: made.append("again"))))

    assert made == ["first"]
    assert [call.output for call in runs.calls("run-1")] == [runs.output("run-1")] == ["shipped"]


# --- perstack -------------------------------------------------------------------------------------------------------


def test_perstack_kept_one_of_a_hundred_events_of_one_millisecond_and_here_all_stand_in_order(runs, worker):
    """perstack: 100 events of one millisecond are stored as one file."""
    attempt = begun(runs, worker)
    for number in range(100):
        attempt.append(MessageRecorded("user", number))

    assert len({recorded.recorded_at for recorded in runs.store.read("run-1")}) == 1
    assert [message.content for message in runs.messages("run-1")] == list(range(100))


@pytest.mark.parametrize(
    "name", ["../../escape", "/etc/passwd", "a/b", "a\\b", "..", ".hidden", "-rf", "a\0b", "a\nb", ""]
)
def test_perstack_wrote_outside_the_folder_for_a_job_id_and_here_no_name_leads_anywhere(tmp_path, name):
    """perstack: job id `../../escape` writes outside the folder."""
    inside = tmp_path / "inside"
    inside.mkdir()
    with projections.connect(inside / "agent.db") as runs:
        with pytest.raises(InvalidArgument):
            runs.submit("deploy", run_id=name)
        assert runs.store.head().position == 0
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_perstack_dropped_a_changed_setting_and_here_each_change_stands(runs):
    """perstack: storing a changed setting again drops the change; listing opens every file of every job."""
    runs.submit("deploy", run_id="run-1", config={"model": "a"})
    for model in ("b", "c", "b"):
        runs.configure("run-1", model=model)

    assert [change.config["model"] for change in runs.settings_history("run-1")] == ["a", "b", "c", "b"]


# --- hld ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["queued", "started", "paused", "asking", "started, its worker dead"])
@pytest.mark.parametrize("killed", ["before the request", "after the request", "never"])
def test_hld_was_stuck_between_signal_and_interrupting_and_here_a_request_always_ends_the_run(world, phase, killed):
    """hld: the signal is sent before `interrupting` is written; recovery skips that status, continue refuses it."""
    log = MortalLog(world.log())
    runs, worker, outside = world.runs(), world.worker(), world.runs(log=log)
    runs.submit("deploy", run_id="run-1")
    attempt = None if phase == "queued" else worker.claim()
    if phase in ("paused", "asking"):
        with attempt:
            if phase == "asking":
                attempt.ask("c1", "ship", None)
    if killed != "never":
        log.doom(1, after_commit=killed == "after the request")
    try:
        outside.interrupt("run-1", by="alice")
    except BaseException:  # noqa: BLE001 - it was killed
        assert killed != "never"
    if killed == "before the request":
        runs.interrupt("run-1", by="alice")  # alice tries again
    if phase == "started":
        with attempt:
            pass
    if "dead" in phase:
        world.dies(worker)
    last = world.worker()
    last.recover()

    assert last.claim() is None
    assert runs.workflow_runs.get("run-1").phase == "interrupted"


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_hld_set_a_failed_session_running_by_an_approval_and_here_an_ended_run_stays_ended(runs, worker, end):
    """hld: approving sets the session to `running` unconditionally, even when it failed ..."""
    with begun(runs, worker) as attempt:
        attempt.ask("c1", "ship", None)
    runs.store.append("run-1", RunFailed(Error("t", "m")) if end == "failed" else RunCancelled("alice"))
    before = log_of(runs)

    with pytest.raises(IllegalTransition):
        runs.resolve("run-1", "c1", "approved", by="alice")
    assert log_of(runs) == before
    assert runs.workflow_runs.get("run-1").phase == end


def test_hld_went_on_after_one_of_several_approvals_and_here_the_run_waits_for_all(runs, worker):
    """hld: ... or other approvals are open."""
    attempt = begun(runs, worker)
    with attempt:
        attempt.append(ConfirmationRequested("c1", "ship"), ConfirmationRequested("c2", "pay"))
    runs.resolve("run-1", "c1", "approved", by="alice")

    assert runs.workflow_runs.get("run-1").phase == "paused"
    assert worker.claim() is None
    runs.resolve("run-1", "c2", "denied", by="alice")
    assert worker.claim().run_id == "run-1"


def test_hld_gave_two_events_one_number_and_here_versions_are_dense_under_any_number_of_writers(world, runs, worker):
    """hld: sequence is MAX+1 without UNIQUE."""
    runs.submit("deploy", run_id="run-1")
    stores = [world.runs().store for _ in range(4)]

    def describe(number):
        return stores[number % 4].append("run-1", RunDescribed(title=str(number)))[0].version

    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(describe, range(80)))

    assert sorted(versions) == list(range(2, 82))
    assert [recorded.version for recorded in runs.store.read("run-1")] == list(range(1, 82))


@pytest.mark.parametrize("name", ["", " ", None, 0])
def test_hld_kept_events_of_an_empty_session_id_in_one_sequence_and_here_there_is_no_such_name(runs, name):
    """hld: events with an empty session id share one sequence."""
    with pytest.raises(InvalidArgument):
        runs.store.append(name, RunQueued("deploy"))
    assert log_of(runs) == []


# --- agent stores ---------------------------------------------------------------------------------------------------


def test_agent_stores_were_locked_on_first_open_and_here_many_open_one_new_file_at_once(tmp_path):
    """agent stores: "database is locked" on first open: `PRAGMA journal_mode=WAL` ignores the busy handler."""
    path, gate = tmp_path / "agent.db", threading.Barrier(8)

    def open_and_submit(number):
        gate.wait()
        with projections.connect(path) as runs:
            return runs.submit("deploy", run_id=f"run-{number}")

    with ThreadPoolExecutor(8) as pool:
        submitted = set(pool.map(open_and_submit, range(8)))

    with projections.connect(path) as runs:
        assert {row.run_id for row in runs.workflow_runs.where()} == submitted
        assert len(submitted) == 8


def test_agent_stores_kept_132_approvals_pending_for_ever_and_here_they_expire_or_are_void_with_their_run(world):
    """agent stores: 132 approvals pending for ever after restarts."""
    runs, worker = world.runs(), world.worker()
    for number in range(132):
        runs.submit("deploy", run_id=f"run-{number}")
        with worker.claim() as attempt:
            attempt.ask("c1", "ship", None, expires_in=timedelta(hours=1) if number % 2 else None)
    world.dies(worker)
    world.jumps(hours=2)
    restarted = world.worker()

    assert len(restarted.recover().expired) == 66
    for row in runs.confirmations.where(decision=None):
        runs.cancel(row.run_id, by="alice")
    assert runs.confirmations.count(decision=None) == 0
    assert runs.confirmations.count(decision="void") == runs.confirmations.count(decision="expired") == 66
    assert sum(1 for _ in iter(restarted.claim, None)) == 66


def test_agent_stores_took_an_approval_for_other_arguments_and_here_it_is_bound_to_the_exact_call(runs, worker):
    """agent stores: an approval not bound to the exact call and arguments."""
    with begun(runs, worker) as attempt:
        attempt.ask("c1", "ship", {"env": "dev"})
    runs.resolve("run-1", "c1", "approved", by="alice")
    attempt = worker.claim()
    before = log_of(runs)

    for tool, given in (("ship", {"env": "prod"}), ("delete", {"env": "dev"}), ("ship", {"env": "dev", "force": True})):
        with pytest.raises(DigestMismatch):
            attempt.ask("c1", tool, given)
        with pytest.raises(DigestMismatch):
            attempt.call("c1", tool, given, lambda _input: pytest.fail("acted"))
    assert log_of(runs) == before
    assert attempt.call("c1", "ship", {"env": "dev"}, lambda given: given) == {"env": "dev"}


def test_agent_stores_asked_once_and_were_answered_twice_and_here_the_first_decision_stands(runs, worker):
    """agent stores: approvals; the second click of two people."""
    with begun(runs, worker) as attempt:
        attempt.ask("c1", "ship", None)
    gate = threading.Barrier(2)

    def decide(who, decision):
        gate.wait()
        try:
            return runs.resolve("run-1", "c1", decision, by=who)
        except AlreadyResolved as refused:
            return refused

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(decide, ("alice", "bob"), ("approved", "denied")))

    (refused,) = [answer for answer in answers if isinstance(answer, AlreadyResolved)]
    row = runs.confirmations.get("run-1", "c1")
    assert (refused.by, refused.decision) == (row.by, row.decision)


def test_agent_stores_let_a_zombie_overwrite_the_live_result_and_here_it_is_fenced(world, runs, worker):
    """agent stores: a zombie worker overwrites the live result: no fence per attempt."""
    zombie = begun(runs, worker)
    zombie.append(ToolCalled("c1", "ship"))
    world.dies(worker)
    live = world.worker().claim()
    live.append(RunCompleted("live"))
    before = log_of(runs)

    for event in (RunCompleted("zombie"), CheckpointSaved(9, {}), ToolReturned("c1"), RunFailed(Error("t", "m")),
                  MessageRecorded("assistant"), RunPaused("time"), RunRequeued()):  # fmt: skip
        with pytest.raises(Fenced):
            zombie.append(event)
    assert log_of(runs) == before
    assert runs.output("run-1") == "live"


def test_agent_stores_replayed_everything_at_start_up_and_here_a_start_reads_no_entry(world):
    """agent stores: start-up replays everything: 950,000 events, five minutes."""
    runs = world.runs()
    for number in range(50):
        runs.submit("deploy", run_id=f"run-{number}")
        runs.cancel(f"run-{number}", by="alice")
    read = []

    class Watched(MortalLog):
        def reading(self):
            block = super().reading()
            outer = self

            class Block:
                def __enter__(self):
                    return outer.seen(block.__enter__())

                def __exit__(self, *error):
                    return block.__exit__(*error)

            return Block()

        def seen(self, reading):
            class Reading:
                def __getattr__(self, name):
                    return getattr(reading, name)

                def read_all(self, **options):
                    read.append(options)
                    return reading.read_all(**options)

                def read(self, *names, **options):
                    read.append(names)
                    return reading.read(*names, **options)

            return Reading()

    started = world.runs(log=Watched(world.log()))
    with started.worker("w") as worker:
        worker.recover()
        assert worker.claim() is None
    assert started.workflow_runs.count(phase="cancelled") == 50

    assert read == []


def test_agent_stores_stopped_in_silence_at_a_default_limit_and_here_there_is_none(runs):
    """agent stores: ... or silently stops at a default limit of 1,000."""
    runs.store.append("notes", *[eventstore.MetaSet("n", number) for number in range(1_100)])
    line = '{"stream": "run-%d", "type": "RunQueued", "data": {"workflow": "deploy"}}\n'
    import_lines(runs.store, io.BytesIO("".join(line % number for number in range(1_050)).encode()))

    assert len(list(runs.store.read("notes"))) == 1_100
    assert len(list(runs.store.read_all())) == 2_150
    assert len(runs.workflow_runs.where()) == runs.workflow_runs.count() == 1_050
    assert runs.rebuild().entries == 2_150


def test_agent_stores_replayed_a_projection_on_top_of_itself_and_here_a_missing_cursor_is_said_to_be_missing(
    world, runs, worker
):
    """agent stores: a missing cursor row is read as 0: the projection is replayed on top of itself."""
    attempt = begun(runs, worker)
    attempt.append(eventstore.workflow.UsageRecorded("m", 10, 10, 1.0))
    world.log().write(lambda transaction: runs._projector.forget(transaction, "usage"))

    for again in (runs, world.runs()):
        with pytest.raises(StaleProjection, match="rebuild"):
            again.usage.get("run-1")
    runs.rebuild("usage")
    assert runs.usage.get("run-1").input_tokens == 10


class Payload:
    def __reduce__(self):
        return (print, ("remote code",))


def test_agent_stores_ran_code_from_payloads_and_here_a_payload_is_plain_json(runs, capsys):
    """agent stores: pickled or class-named payloads: remote code execution, silent `None` after a rename."""
    for payload in (Payload(), {"x": Payload()}, pickle.dumps(Payload()), object, {1, 2}):
        with pytest.raises(InvalidPayload):
            runs.submit("deploy", input=payload)
    named = {"__class__": "os.system", "py/object": "os.system", "__reduce__": ["print", ["remote code"]]}
    run_id = runs.submit("deploy", input=named)

    assert next(runs.store.read(run_id)).event.input == named
    assert len(log_of(runs)) == 1
    assert "remote code" not in capsys.readouterr().out


def test_agent_stores_gave_nothing_after_a_rename_and_here_an_unknown_name_is_an_error(world):
    """agent stores: ... silent `None` after a rename."""
    forge(world.log(), ("NameOfLastYear", "{}"), stream="s")
    (recorded,) = world.runs().store.read("s")

    assert (recorded.kind, recorded.type) == (None, "NameOfLastYear")
    with pytest.raises(UnreadableEntry, match="upcaster"):
        _ = recorded.event


def test_agent_stores_ordered_by_the_wall_clock_and_here_a_result_never_stands_before_its_call(world, runs, worker):
    """agent stores: wall-clock order: a later event accepted without effect, tool results before their calls."""
    attempt = begun(runs, worker)
    attempt.append(ToolCalled("c1", "ship"))
    world.jumps(hours=-5)
    attempt.append(ToolReturned("c1", "back"), occurred_at=world.now)
    attempt.append(RunCompleted("after"))

    entries = list(runs.store.read("run-1"))
    assert [r.type for r in entries] == ["RunQueued", "RunStarted", "ToolCalled", "ToolReturned", "RunCompleted"]
    assert [r.recorded_at for r in entries] == sorted(r.recorded_at for r in entries)
    assert (runs.output("run-1"), runs.calls("run-1")[0].output) == ("after", "back")
    with pytest.raises(Refused):
        runs.store.append("run-1", ToolReturned("c2"), attempt=1)


# --- readers, JSON --------------------------------------------------------------------------------------------------


def test_a_postgres_event_store_missed_what_committed_late_and_here_positions_are_given_in_commit_order(world):
    """a Postgres event store: readers resume on a plain position and miss an event that committed late."""
    stores = [world.runs().store for _ in range(3)]
    reader, stop, seen = world.runs().store, threading.Event(), []

    def follow():
        for recorded in reader.follow(stop=stop):
            seen.append(recorded.position)
            if len(seen) == 90:
                return

    following = threading.Thread(target=follow)
    following.start()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda n: stores[n % 3].append(f"s{n % 5}", eventstore.MetaSet("n", n)), range(90)))
    following.join(60)
    stop.set()

    assert seen == list(range(1, 91))


def test_a_reader_notices_that_the_log_is_another_one_by_its_cursor():
    """a Postgres event store: ... a plain position; here a cursor also knows the hash."""
    with eventstore.connect("memory:") as one, eventstore.connect("memory:") as other:
        for store in (one, other):
            store.append("s", eventstore.MetaSet("n", 1))

        with pytest.raises(CursorConflict):
            list(other.read_all(after=one.head()))
        assert list(one.read_all(after=one.head())) == []


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), "\ud800", "a\0b", 2**53, -(2**60), {"\0": 1}, {"\udfff": 1}, {1: 1}, b"x", {1}],
    ids=repr,
)
@pytest.mark.parametrize("deep", [False, True])
def test_json_changed_values_on_the_way_and_here_they_are_refused_with_the_path(runs, value, deep):
    """JSON: `NaN`, lone surrogates, NUL and integers past 2^53 change on the way."""
    given = {"list": [0, value]} if deep else value

    with pytest.raises(InvalidPayload) as refused:
        runs.submit("deploy", input=given)
    assert refused.value.path.startswith("$.input.list[1]" if deep else "$.input")
    assert log_of(runs) == []


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"x": {"a": 1, "a": 1}}', "NaN", "[Infinity]", "-Infinity"])
def test_json_readers_kept_one_of_two_duplicate_keys_and_here_neither_is_guessed(text):
    """JSON: Python keeps the last of duplicate keys, SQLite the first."""
    with pytest.raises(ValueError, match=r"twice|not JSON"):
        loads_strictly(text)


@pytest.mark.parametrize(
    "value", [2**53 - 1, -(2**53) + 1, 0.1, 1e308, 5e-324, "é\u2028\U0001f3c3", "", {"": ""}, [[[]]], -0.0, 1.0]
)
def test_json_that_is_taken_comes_back_as_it_was(world, runs, value):
    """JSON: ... and what is accepted does not change."""
    run_id = runs.submit("deploy", input={"v": value})

    back = next(world.runs().store.read(run_id)).event.input["v"]
    assert repr(back) == repr(value)


def test_times_without_a_zone_are_refused_and_those_with_one_are_the_same_moment(runs):
    """agent stores: wall-clock order; a naive time is a guess."""
    with pytest.raises(InvalidPayload):
        runs.submit("deploy", not_before=datetime(2026, 1, 1))  # noqa: DTZ001 - that is what is refused
    run_id = runs.submit("deploy", not_before=datetime(2026, 1, 1, tzinfo=UTC))

    assert runs.workflow_runs.get(run_id).not_before == datetime(2026, 1, 1, tzinfo=UTC)
