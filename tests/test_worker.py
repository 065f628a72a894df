"""A worker: whose turn it is, what wakes a run, who settles what, and that nothing is ever stuck."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

import projections
from eventstore.errors import DatabaseBusy, InvalidArgument, OutcomeUnknown, UnreadableEntry, Waiting
from eventstore.workflow import (
    RUN,
    CheckpointSaved,
    ConfirmationRequested,
    Phase,
    RunCompleted,
    RunPaused,
    RunRequeued,
    ToolCalled,
    ToolReturned,
)
from projections.testing import Killed, MortalLog
from tests.world import forge


@pytest.fixture
def worker(world):
    return world.worker()


def claimed(worker, **options):
    """The ids of all that the worker can claim now, in order."""
    found = []
    while (attempt := worker.claim(**options)) is not None:
        found.append(attempt.run_id)
    return found


def phase(runs, run_id):
    return runs.workflow_runs.get(run_id).phase


def submit(runs, *run_ids, **options):
    for run_id in run_ids:
        runs.submit("deploy", run_id=run_id, **options)


# --- whose turn it is -----------------------------------------------------------------------------------------------


def test_dead_workers_runs_come_first_then_the_woken_then_the_queued_by_priority(world, runs, worker):
    submit(runs, "crashed", "woken")
    gone = world.worker()
    gone.claim()
    with gone.claim() as attempt:
        attempt.append(CheckpointSaved(1))
    world.dies(gone)
    submit(runs, "low", priority=-1)
    submit(runs, "first", "second")
    submit(runs, "high", priority=5)

    assert claimed(worker) == ["crashed", "woken", "high", "first", "second", "low"]


def test_a_high_priority_does_not_overtake_a_run_that_was_begun(world, runs, worker):
    submit(runs, "begun")
    with worker.claim() as attempt:
        attempt.append(CheckpointSaved(1))
    submit(runs, "urgent", priority=9)

    assert claimed(worker) == ["begun", "urgent"]


def test_queued_runs_are_found_behind_any_number_that_must_wait(world, runs, worker):
    for number in range(120):
        runs.submit("deploy", run_id=f"later-{number}", priority=1, not_before=world.now + timedelta(hours=1))
    submit(runs, "now")

    assert claimed(worker) == ["now"]


def test_two_workers_share_and_no_run_is_given_twice(world, runs, worker):
    submit(runs, *(f"run-{number}" for number in range(10)))
    other = world.worker()
    given = []
    for _ in range(5):
        given += [worker.claim().run_id, other.claim().run_id]

    assert sorted(given) == sorted(f"run-{number}" for number in range(10))
    assert worker.claim() is other.claim() is None


def test_threads_of_one_worker_share_as_well(runs, worker):
    submit(runs, *(f"run-{number}" for number in range(20)))
    with ThreadPoolExecutor(4) as pool:
        given = [attempt.run_id for attempt in pool.map(lambda _: worker.claim(), range(20)) if attempt]
    given += claimed(worker)

    assert sorted(given) == sorted(f"run-{number}" for number in range(20))


def test_a_worker_that_comes_second_takes_the_next_one(world):
    log = MortalLog(world.log())
    slow = world.runs(log=log).worker("slow", lease=timedelta(hours=1))
    runs, fast = world.runs(), world.worker()
    submit(runs, "run-1", "run-2")
    log.meanwhile(fast.claim)

    assert slow.claim().run_id == "run-2"
    assert runs.workflow_runs.get("run-1").worker == fast.id
    slow.close()


def test_only_the_workflows_that_were_named_are_claimed(runs, worker):
    runs.submit("deploy", run_id="a")
    runs.submit("triage", run_id="b")
    runs.submit("report", run_id="c")

    assert claimed(worker, workflows=["triage", "report"]) == ["b", "c"]
    assert claimed(worker, workflows=[]) == []
    assert claimed(worker, workflows=iter(["deploy"])) == ["a"]


# --- before its time --------------------------------------------------------------------------------------------------


def test_one_text_in_place_of_a_list_of_workflows_is_refused_and_not_taken_for_its_letters(runs, worker):
    runs.submit("w", run_id="a")
    before = runs.store.head()

    for asking in (worker.claim, lambda name: next(worker.claims(name))):
        with pytest.raises(InvalidArgument, match=r"must be a list of names, such as \['w'\]"):
            asking("w")

    assert runs.store.head() == before


def test_nothing_is_taken_up_before_its_time(world, runs, worker):
    runs.submit("deploy", run_id="queued", not_before=world.now + timedelta(minutes=1))
    submit(runs, "paused", "requeued")
    worker.claim().append(RunPaused("time", until=world.now + timedelta(minutes=2)))
    worker.claim().append(RunRequeued(not_before=world.now + timedelta(minutes=3)))

    assert claimed(worker) == []
    world.jumps(minutes=1)
    assert claimed(worker) == ["queued"]
    world.jumps(minutes=1)
    assert claimed(worker) == ["paused"]
    world.jumps(minutes=1)
    assert claimed(worker) == ["requeued"]


def test_a_claim_may_wait_for_a_run_to_come(world, runs, worker):
    world.while_asleep = lambda: submit(runs, "run-1") if len(world.slept) == 3 else None

    assert worker.claim(wait=10).run_id == "run-1"
    assert len(world.slept) == 3


def test_a_claim_waits_no_longer_than_it_was_told(world, worker):
    assert worker.claim(wait=0.2) is None
    assert sum(world.slept) == pytest.approx(0.2)


# --- what wakes a run -------------------------------------------------------------------------------------------------


def test_an_answer_wakes_a_run_that_waits_for_a_person(runs, worker):
    submit(runs, "run-1")
    with worker.claim() as attempt:
        attempt.ask("c1", "ship", None)
    assert worker.claim() is None

    runs.resolve("run-1", "c1", "denied", by="alice")

    assert worker.claim().ask("c1", "ship", None).denied


def test_an_expired_question_wakes_its_run(world, runs, worker):
    submit(runs, "run-1")
    with worker.claim() as attempt:
        attempt.ask("c1", "ship", None, expires_in=timedelta(hours=1))
    assert worker.recover().expired == ()
    world.jumps(hours=1)

    assert worker.recover(dry_run=True).expired == (("run-1", "c1"),)
    assert worker.claim() is None
    assert worker.recover().expired == (("run-1", "c1"),)
    assert worker.claim().ask("c1", "ship", None).decision == "expired"


def test_questions_expire_while_the_daemon_lives(world, runs, worker):
    submit(runs, "run-1")
    with worker.claim() as attempt:
        attempt.ask("c1", "ship", None, expires_in=timedelta(seconds=3))

    woken = next(worker.claims())

    assert woken.ask("c1", "ship", None).decision == "expired"
    assert world.seconds >= 3


def test_a_run_that_waits_for_its_children_goes_on_when_the_last_one_ended(runs, worker):
    submit(runs, "parent")
    with worker.claim() as attempt:
        for child in ("one", "two"):
            runs.submit("part", run_id=child, parent_id="parent")
        attempt.append(RunPaused("run"))
    one, two = worker.claim(), worker.claim()
    one.append(RunCompleted())
    assert worker.claim() is None

    with pytest.raises(ValueError, match="x"), two:
        raise ValueError("x")

    assert worker.claim().run_id == "parent"


def test_an_operator_is_waited_for_until_the_call_is_known_to_have_returned(world, runs, worker):
    submit(runs, "run-1")
    worker.claim().append(ToolCalled("c1", "ship"), RunPaused("operator"))
    assert claimed(worker) == claimed(worker) == []

    runs.store.stream("run-1", RUN).append(ToolReturned("c1", "it shipped"))

    attempt = worker.claim()
    assert attempt.call("c1", "ship", None, lambda _input: pytest.fail("made again")) == "it shipped"


def test_a_database_that_was_busy_while_waking_a_run_does_not_make_a_worker_forget_it(world, runs):
    log = MortalLog(world.log())
    worker = world.runs(log=log).worker("w", lease=timedelta(hours=1))
    submit(runs, "run-1")
    worker.claim().append(ToolCalled("c1", "ship"), RunPaused("operator"))
    assert worker.claim() is None
    runs.store.stream("run-1", RUN).append(ToolReturned("c1"))

    def busy():
        raise DatabaseBusy("agent.db", 60.0)

    log.meanwhile(busy)
    with pytest.raises(DatabaseBusy):
        worker.claim()

    assert worker.claim().run_id == "run-1"
    worker.close()


# --- interrupts never leave a run stuck -------------------------------------------------------------------------------


def test_a_queued_run_that_is_to_stop_is_ended_by_the_next_claim_even_before_its_time(world, runs, worker):
    submit(runs, "run-1")
    runs.submit("deploy", run_id="run-2", not_before=world.now + timedelta(days=365))
    for run_id in ("run-1", "run-2"):
        runs.interrupt(run_id, by="alice")

    assert worker.claim() is None
    assert phase(runs, "run-1") == phase(runs, "run-2") == Phase.INTERRUPTED


def test_a_run_in_a_living_workers_hands_is_asked_and_ends_when_it_leaves(runs, worker):
    submit(runs, "run-1")
    with worker.claim() as attempt:
        runs.interrupt("run-1", by="alice")
        assert attempt.interrupt_requested

    assert phase(runs, "run-1") == Phase.INTERRUPTED


@pytest.mark.parametrize("settle", ["recover", "claim"])
def test_a_run_whose_worker_died_is_interrupted_by_whoever_comes_next(world, runs, worker, settle):
    submit(runs, "run-1")
    gone = world.worker()
    gone.claim()
    runs.interrupt("run-1", by="alice")
    world.dies(gone)

    if settle == "recover":
        assert worker.recover().interrupted == ("run-1",)
    assert worker.claim() is None
    assert phase(runs, "run-1") == Phase.INTERRUPTED


def test_a_paused_run_ends_at_once(runs, worker):
    submit(runs, "run-1")
    with worker.claim() as attempt:
        attempt.ask("c1", "ship", None)

    runs.interrupt("run-1", by="alice")

    assert phase(runs, "run-1") == Phase.INTERRUPTED


@pytest.mark.parametrize("settle", ["recover", "claim"])
@pytest.mark.parametrize("after", [False, True])
def test_killed_in_the_middle_of_an_interrupt_the_run_is_not_stuck(world, runs, worker, settle, after):
    log = MortalLog(world.log())
    outside = world.runs(log=log)
    submit(runs, "run-1")
    with worker.claim() as attempt:
        attempt.ask("c1", "ship", None)
    log.doom(1, after_commit=after)
    with pytest.raises(Killed):
        outside.interrupt("run-1", by="alice")

    getattr(worker, settle)()

    assert phase(runs, "run-1") == (Phase.INTERRUPTED if after else Phase.PAUSED)


def test_a_run_that_asks_after_it_was_asked_to_stop_is_ended_and_waits_for_nobody(runs, worker):
    submit(runs, "run-1")
    with worker.claim() as attempt:
        runs.interrupt("run-1", by="alice")
        attempt.ask("c1", "ship", None)
    assert phase(runs, "run-1") == Phase.PAUSED

    assert worker.claim() is None
    assert phase(runs, "run-1") == Phase.INTERRUPTED
    assert runs.confirmations.get("run-1", "c1").decision == "void"


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_over_max_crashes_a_run_has_crashed(world, runs):
    submit(runs, "run-1")
    for number in (1, 2, 3):
        worker = world.worker()
        report = worker.recover(max_crashes=2)
        assert report.resumable == (("run-1",) if number > 1 else ())
        assert worker.claim().number == number
        world.dies(worker)

    last = world.worker()

    assert last.recover(max_crashes=2).crashed == ("run-1",)
    assert (phase(runs, "run-1"), runs.workflow_runs.get("run-1").crashes) == (Phase.CRASHED, 3)
    assert last.claim() is None


def test_claim_goes_by_the_last_max_crashes_that_recover_was_given(world, runs, worker):
    submit(runs, "run-1")
    worker.recover(max_crashes=0)
    gone = world.worker()
    gone.claim()
    world.dies(gone)

    assert worker.claim() is None
    assert phase(runs, "run-1") == Phase.CRASHED


def test_a_dry_run_says_what_would_be_done_and_does_nothing(world, runs, worker):
    submit(runs, "interrupted", "resumable", "waits")
    gone = world.worker()
    for _ in range(2):
        gone.claim()
    with gone.claim() as attempt:
        attempt.ask("c1", "ship", None, expires_in=timedelta(seconds=1))
    runs.interrupt("interrupted", by="alice")
    world.dies(gone)
    world.jumps(seconds=2)
    before = list(runs.store.read_all())
    rows = worker._presence._rows()

    report = worker.recover(dry_run=True)

    assert (report.interrupted, report.resumable, report.expired) == (
        ("interrupted",), ("resumable",), (("waits", "c1"),)
    )  # fmt: skip
    assert str(report).startswith("would recover")
    assert list(runs.store.read_all()) == before
    assert worker._presence._rows() == rows


def test_two_recoveries_at_once_share_the_work(world, runs):
    logs = MortalLog(world.log())
    one = world.runs(log=logs).worker("one", lease=timedelta(hours=1))
    other = world.worker()
    submit(runs, "a", "b")
    gone = world.worker()
    gone.claim(), gone.claim()
    world.dies(gone)
    for worker in (one, other):
        worker._presence.sweep()
    logs.meanwhile(lambda: other.recover(max_crashes=0))

    report = one.recover(max_crashes=0)

    assert (report.crashed, phase(runs, "a"), phase(runs, "b")) == ((), Phase.CRASHED, Phase.CRASHED)
    assert [item.type for item in runs.store.read_all()].count("RunCrashed") == 2
    one.close()


@pytest.mark.parametrize("write", [1, 2, 3, 4])
@pytest.mark.parametrize("after", [False, True])
def test_killed_inside_recovery_at_any_write_the_next_one_finishes_it(world, runs, write, after):
    submit(runs, "stops", "crashes", "asks")
    gone = world.worker()
    gone.claim(), gone.claim()
    with gone.claim() as attempt:
        attempt.ask("c1", "ship", None, expires_in=timedelta(seconds=1))
    runs.interrupt("stops", by="alice")
    world.dies(gone)
    world.jumps(seconds=2)
    log = MortalLog(world.log())
    first = world.runs(log=log).worker("first", lease=timedelta(hours=1))
    log.doom(write, after_commit=after)
    with pytest.raises(Killed):
        first.recover(max_crashes=0)

    world.worker().recover(max_crashes=0)

    assert [phase(runs, run_id) for run_id in ("stops", "crashes")] == [Phase.INTERRUPTED, Phase.CRASHED]
    kinds = [item.type for item in runs.store.read_all()]
    assert [kinds.count(kind) for kind in ("RunInterrupted", "RunCrashed", "ConfirmationExpired")] == [1, 1, 1]
    assert runs.check().ok
    with pytest.raises(Killed):
        first.close()


@pytest.mark.parametrize("after", [False, True])
def test_killed_inside_a_claim_the_run_is_the_next_ones(world, runs, after):
    submit(runs, "run-1")
    log = MortalLog(world.log())
    system = world.system(pid=99)
    first = world.runs(log=log, system=system).worker("first", lease=timedelta(hours=1))
    log.doom(1, after_commit=after)
    with pytest.raises(Killed):
        first.claim()
    del world.processes[99]

    assert world.worker().claim().number == (2 if after else 1)
    with pytest.raises(Killed):
        first.close()


class Unsure(MortalLog):
    """A log whose next commit stands, or does not, and of which nobody is told."""

    stands = None

    def write(self, job, *, shared=False):
        stands, self.stands = self.stands, None
        if stands is None:
            return super().write(job, shared=shared)
        if stands:
            super().write(job, shared=shared)
        raise OutcomeUnknown(self.url, None, None, "the disk failed")


@pytest.mark.parametrize("stands", [True, False])
@pytest.mark.parametrize("died", [False, True])
def test_a_run_that_was_begun_by_a_commit_of_which_nobody_knows_is_handed_out_once_the_worker_looks_again(
    world, runs, stands, died
):
    log = Unsure(world.log())
    worker = world.runs(log=log).worker("w", lease=timedelta(hours=1))
    submit(runs, "run-1", "run-2")
    if died:
        gone = world.worker()
        gone.claim()
        world.dies(gone)
    log.stands = stands
    with pytest.raises(OutcomeUnknown):
        worker.claim()

    attempt = worker.claim()
    assert (attempt.run_id, attempt.number, worker.active) == ("run-1", 2 if died else 1, 1)
    attempt.stream.append(CheckpointSaved(1), RunCompleted())
    assert claimed(worker) == ["run-2"]
    worker.close()


def test_a_run_of_which_nobody_knows_whether_it_was_begun_is_left_to_whoever_took_it_since(world, runs):
    log = Unsure(world.log())
    worker = world.runs(log=log).worker("w", lease=timedelta(hours=1))
    submit(runs, "run-1")
    log.stands = False
    with pytest.raises(OutcomeUnknown):
        worker.claim()
    attempt = world.worker().claim()

    assert (worker.claim(), attempt.run_id, worker.active) == (None, "run-1", 0)
    worker.close()


# --- a run that cannot be read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["queued", "lost", "woken", "asks", "stops"])
def test_a_run_that_cannot_be_read_holds_up_no_other(world, runs, worker, state, caplog):
    submit(runs, "bad", "good")
    gone = world.worker()
    if state != "queued":
        with gone.take("bad") as attempt:
            if state in ("lost", "stops"):
                attempt._leave = lambda _error: None
            if state == "asks":
                attempt.ask("c1", "ship", None, expires_in=timedelta(seconds=1))
    if state == "stops":
        runs.interrupt("bad", by="alice")
    world.dies(gone)
    world.passes(2)
    forge(runs.store.log, ("FromElsewhere", "{}"), stream="bad")
    before = [entry.position for entry in read_raw(runs)]

    report = worker.recover()
    assert report.unreadable == (("bad",) if state in ("asks", "stops") else ())
    assert ("cannot be read: bad" in str(report)) == bool(report.unreadable)
    assert [entry.position for entry in read_raw(runs)] == before
    assert (worker.expire(), claimed(worker), claimed(worker)) == ([], ["good"], [])
    assert [record.message.split()[0] for record in caplog.records] == ["bad"]
    if state == "queued":
        with pytest.raises(UnreadableEntry):
            worker.take("bad")


def test_a_last_word_that_nobody_will_take_holds_up_no_other_run(caplog):
    def redactor(kind, fields):
        if kind == "RunFailed" and refused:
            raise ValueError("no such word")
        return fields

    refused = True
    with projections.connect("memory:", app=projections.App(redactor=redactor)) as runs, runs.worker("w") as worker:
        submit(runs, "run-1", "run-2")
        with pytest.raises(ValueError, match="no such word"), worker.claim():
            raise LookupError
        assert claimed(worker) == ["run-2"]
        assert phase(runs, "run-1") == Phase.STARTED
        refused = False
        worker.claim()

        assert phase(runs, "run-1") == Phase.FAILED
    assert [record.message.split(" can")[0] for record in caplog.records] == ["a run that was left"]


def read_raw(runs):
    with runs.store.reading() as reading:
        return list(reading.read_all(after=0, limit=1_000))


def reads_of(world):
    """A log on the world's, and the names of the streams that are read through it."""
    read = []

    class Counting:
        def __init__(self, reading):
            self._reading = reading

        def __getattr__(self, name):
            return getattr(self._reading, name)

        def read(self, stream, **options):
            read.append(stream)
            return self._reading.read(stream, **options)

    class CountingLog(MortalLog):
        def reading(self):
            inner = super().reading()

            class Block:
                def __enter__(self):
                    return Counting(inner.__enter__())

                def __exit__(self, *error):
                    return inner.__exit__(*error)

            return Block()

    return CountingLog(world.log()), read


def test_recovery_reads_no_stream_but_those_that_it_ends(world, runs, worker):
    submit(runs, "old")
    with worker.claim() as attempt:
        attempt.append(*(CheckpointSaved(number, None) for number in range(50)), RunCompleted())
    submit(runs, "goes on", "stops", "waits")
    gone = world.worker()
    gone.claim(), gone.claim()
    with gone.claim() as attempt:
        attempt.ask("c1", "ship", None)
    runs.interrupt("stops", by="alice")
    world.dies(gone)
    log, read = reads_of(world)
    watching = world.runs(log=log).worker("w", lease=timedelta(hours=1))

    assert watching.recover().resumable == ("goes on",)
    assert set(read) == {"stops"}
    watching.close()


def test_the_runs_of_dead_workers_are_listed_once_and_not_at_each_claim(world, runs):
    submit(runs, *(f"run-{number}" for number in range(6)))
    gone = world.worker()
    claimed(gone)
    world.dies(gone)
    worker = world.worker()
    listed, counted = [], []
    each, count = worker._runs.each, worker._runs.count
    worker._runs.each = lambda **asked: listed.append(asked["phase"]) or each(**asked)
    worker._runs.count = lambda **asked: counted.append(asked["phase"]) or count(**asked)

    assert claimed(worker) == [f"run-{number}" for number in range(6)]
    assert listed == [Phase.STARTED, Phase.PAUSED]  # at the first claim, and by the last, which found nothing
    assert len(counted) == 4


def test_a_worker_that_holds_many_runs_reads_no_row_of_them_to_see_that_none_is_lost(world, runs, worker):
    submit(runs, *(f"run-{number}" for number in range(5)))
    held = claimed(worker)
    decoded = []
    table = worker._runs._table
    worker._runs._table = type("Table", (), {"__getattr__": lambda _, name: getattr(table, name)})()
    worker._runs._table.decode = lambda values: decoded.append(values) or table.decode(values)

    assert worker.claim() is None
    assert (len(held), decoded) == (5, [])


def test_what_was_listed_as_lost_is_judged_again_when_it_is_taken(world, runs):
    """Between the listing and the taking, another worker took it up and parked it for its child."""
    submit(runs, "first", "second")
    gone = world.worker()
    claimed(gone)
    world.dies(gone)
    worker, other = world.worker(), world.worker()
    worker.recover()
    other.claim()
    with other.claim() as attempt:
        runs.submit("build", run_id="child", parent_id="second")
        attempt.append(RunPaused("run"))

    assert claimed(worker) == ["child"]
    assert phase(runs, "second") is Phase.PAUSED


def test_a_worker_that_was_silent_and_beats_again_keeps_what_was_listed_as_lost(world, runs):
    submit(runs, "run-1")
    silent = world.worker(namespace="elsewhere", lease=timedelta(seconds=30))
    silent.claim()
    worker = world.worker()
    worker.recover()
    world.seconds += 31
    assert worker.recover().resumable == ("run-1",)
    silent._presence.beat(silent.id, 30.0)

    assert worker.claim() is None
    assert runs.workflow_runs.get("run-1").attempt == 1


def test_lost_runs_of_other_workflows_wait_for_who_performs_them(world, runs):
    submit(runs, "deploy-1")
    runs.submit("build", run_id="build-1")
    submit(runs, "deploy-2")
    gone = world.worker()
    claimed(gone)
    world.dies(gone)
    worker = world.worker()
    worker.recover()

    assert claimed(worker, workflows=["build"]) == ["build-1"]
    assert claimed(worker, workflows=["test"]) == []
    assert claimed(worker) == ["deploy-1", "deploy-2"]


# --- claims and stop --------------------------------------------------------------------------------------------------


def test_stop_ends_claims_and_what_was_claimed_goes_on(runs, worker):
    submit(runs, "run-1", "run-2")
    claims = worker.claims(limit=2)
    attempt = next(claims)
    worker.stop()

    assert list(claims) == []
    with attempt:
        attempt.append(RunCompleted())
    assert (phase(runs, "run-1"), phase(runs, "run-2")) == (Phase.COMPLETED, Phase.QUEUED)


def test_no_more_are_unfinished_at_a_time_than_the_limit_says(world, runs, worker):
    submit(runs, *(f"run-{number}" for number in range(5)))
    held, most = [], []

    def one_finishes():
        most.append(len(held))
        with held.pop() as attempt:
            attempt.append(CheckpointSaved(1))
        if len(world.slept) >= 5:
            worker.stop()

    world.while_asleep = one_finishes
    for attempt in worker.claims(limit=2):
        held.append(attempt)  # noqa: PERF402 - `while_asleep` takes from it meanwhile

    assert set(most) == {2}


def test_a_run_that_is_left_as_it_was_found_waits_a_second_and_is_not_handed_out_in_a_circle(world, runs, worker):
    submit(runs, "forgotten")
    with worker.claim():
        pass

    assert worker.claim() is None
    assert runs.workflow_runs.get("forgotten").reason == "left without having done anything"

    world.passes(1)
    assert worker.claim().run_id == "forgotten"


@pytest.mark.parametrize("limit", [0, -1, "5", True])
def test_a_limit_that_lets_nothing_through_is_refused(worker, limit):
    with pytest.raises(InvalidArgument, match="limit"):
        next(worker.claims(limit=limit))


@pytest.mark.parametrize("number", [-1, "5", 1.5])
def test_a_max_crashes_that_is_no_number_of_crashes_is_refused_and_the_last_one_stands(worker, number):
    worker.recover(max_crashes=2)
    with pytest.raises(InvalidArgument, match="max_crashes"):
        worker.recover(max_crashes=number)

    assert worker._max_crashes == 2


def test_a_worker_whose_row_vanished_lives_again_with_its_next_beat(world, runs, worker):
    submit(runs, "run-1")
    attempt = worker.claim()
    worker._presence.leave(worker.id)
    worker._presence.beat(worker.id, 30.0)

    other = world.worker()

    assert other.recover().running == 1
    attempt.append(RunCompleted())
    assert phase(runs, "run-1") == Phase.COMPLETED


def test_asking_twice_in_two_attempts_is_one_question(world, runs, worker):
    submit(runs, "run-1")
    worker.claim().append(ConfirmationRequested("c1", "ship"))
    world.dies(worker)
    second = world.worker().claim()

    with pytest.raises(Waiting):
        second.ask("c1", "ship", None)
    assert runs.confirmations.count() == 1


def test_a_worker_may_be_stopped_from_a_signal_handler_while_a_lock_is_held(runs, worker):
    with worker._counting:
        stopped = threading.Thread(target=worker.stop)
        stopped.start()
        stopped.join(30)

    assert not stopped.is_alive()
    assert list(worker.claims()) == []
