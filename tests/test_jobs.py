"""Jobs over runs: how they stand is told by their runs; what is a step too many is refused and changes nothing."""

from itertools import permutations

import pytest

from eventstore.errors import ChildrenOpen, InvalidArgument, JobNotFound, StepLimitReached
from eventstore.workflow import (
    CheckpointSaved,
    Error,
    MessageRecorded,
    Phase,
    RunCompleted,
    RunFailed,
    RunQueued,
    RunStarted,
    ToolCalled,
    ToolReturned,
    UsageRecorded,
)
from projections.jobs import standing
from projections.readings import upto
from projections.steps import made
from projections.workflow_runs import RunRow
from tests.commanding import asked, plain_surroundings, runfold  # noqa: F401 - a fixture
from tests.world import Refusal, World, forge


@pytest.fixture
def worker(world):
    return world.worker()


@pytest.fixture
def runs(world, worker):
    return world.runs()


def perform(worker, *steps, end=RunCompleted()):  # noqa: B008 - frozen
    attempt = worker.claim()
    with attempt:
        for step in steps:
            attempt.append(CheckpointSaved(step, {"step": step}))
        attempt.append(end)
    return attempt.run_id


# --- what a job is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        (["completed", "started", "queued"], "started"),
        (["paused", "queued", "failed"], "queued"),
        (["failed", "paused", "completed"], "paused"),
    ],
)
def test_a_job_is_as_far_as_its_busiest_run_whatever_their_order(phases, expected):
    for order in permutations(phases):
        assert standing([RunRow(str(n), Phase(phase)) for n, phase in enumerate(order)]) == expected


def test_how_a_job_ended_is_told_by_its_latest_run_that_is_nobodys_child():
    ended = [RunRow("a", Phase.FAILED), RunRow("b", Phase.COMPLETED), RunRow("c", Phase.FAILED, parent_id="b")]

    assert standing(ended) == "completed"
    assert standing(ended[2:]) == "failed"


def test_a_job_sums_up_its_runs_and_is_no_other_ones(world, runs, worker):
    runs.submit("plan", run_id="a", job_id="j1")
    attempt = worker.claim()
    attempt.append(UsageRecorded("m", 10, 5, 0.25), CheckpointSaved(1), CheckpointSaved(3), RunCompleted())
    world.passes(60)
    runs.submit("plan", run_id="b", job_id="j1")
    runs.submit("plan", run_id="c", job_id="j2")
    runs.submit("plan", run_id="d")
    worker.claim().append(UsageRecorded("m", 1, 1, 0.5), CheckpointSaved(1))

    job = runs.jobs.get("j1")
    assert (job.phase, job.runs, job.steps, job.first_run, job.step_limit) == ("started", 2, 4, "a", None)
    assert (job.input_tokens, job.output_tokens, job.cost_usd) == (11, 6, 0.75)
    assert (job.started_at == runs.workflow_runs.get("a").started_at, job.ended_at) == (True, None)
    assert [row.run_id for row in runs.jobs.runs("j1")] == ["a", "b"]
    assert runs.jobs.get("j2").phase == "queued"
    assert runs.jobs.get("nobody") is None
    assert runs.check().ok


def test_jobs_are_listed_newest_first_a_page_at_a_time_and_pages_stay_put_while_jobs_come(runs):
    for n in range(5):
        runs.submit("plan", job_id=f"j{n}")
    first = runs.jobs.where(limit=2)
    runs.submit("plan", job_id="late")
    runs.submit("plan", job_id="j1")

    second = runs.jobs.where(limit=2, after=first[-1])
    assert [job.job_id for job in (*first, *second)] == ["j4", "j3", "j2", "j1"]
    assert [job.job_id for job in runs.jobs.where(after="j1")] == ["j0"]
    assert runs.jobs.count() == 6


@pytest.mark.parametrize("limit", [0, -1, 10_001, "5", True, 2.5])
def test_a_limit_that_cannot_be_is_refused(runs, limit):
    with Refusal(runs, InvalidArgument, "limit"):
        runs.jobs.where(limit=limit)


@pytest.mark.parametrize("name", ["../../escape", "a/b", ".hidden", "-rf", "", " j", "a\nb", 7])
def test_a_job_id_is_a_name_and_never_a_path(runs, name):
    with Refusal(runs, InvalidArgument, "job_id"):
        runs.submit("plan", job_id=name)
    with Refusal(runs, InvalidArgument, "job_id"):
        runs.jobs.get(name)


def test_nobody_lists_the_runs_of_a_job_that_is_not_there(runs):
    for look in (runs.jobs.runs, runs.jobs.events, runs.jobs.checkpoints):
        with Refusal(runs, JobNotFound):
            look("nobody")
    with Refusal(runs, JobNotFound):
        runs.jobs.where(after="nobody")


def test_a_log_with_strange_jobs_is_listed_too(runs):
    runs.store.append("a", RunQueued("plan", job_id=""))
    runs.store.append("b", RunQueued("plan", job_id="../x"))

    assert [job.job_id for job in runs.jobs.where()] == ["../x"]
    assert runs.check().ok


# --- up to a step ---------------------------------------------------------------------------------------------------


@pytest.fixture
def two(runs):
    for run_id in ("a", "b"):
        runs.store.append(run_id, RunQueued("plan", job_id="j"), RunStarted("w"))
        for step in (1, 2, 4):
            runs.store.append(
                run_id, MessageRecorded("user", step), ToolCalled(f"c{step}", "look"), ToolReturned(f"c{step}", step),
                CheckpointSaved(step, [run_id, step]), attempt=1,
            )  # fmt: skip
        runs.store.append(run_id, ToolCalled("open", "look"), attempt=1)
    return runs


def test_checkpoints_and_events_of_a_job_come_run_by_run_up_to_a_step(two):
    assert [(saved.run_id, saved.step, saved.state) for saved in two.jobs.checkpoints("j", upto_step=2)] == [
        ("a", 1, ["a", 1]), ("a", 2, ["a", 2]), ("b", 1, ["b", 1]), ("b", 2, ["b", 2])
    ]  # fmt: skip
    assert [(item.stream, item.version) for item in two.jobs.events("j", upto_step=1)] == [
        (run_id, version) for run_id in "ab" for version in range(1, 7)
    ]
    assert len(list(two.jobs.events("j"))) == 30


@pytest.mark.parametrize(("step", "last"), [(0, 0), (1, 6), (2, 10), (3, 10), (4, 14), (9, 15), (None, 15)])
def test_events_of_a_run_end_with_the_checkpoint_of_the_step(two, step, last):
    versions = [item.version for item in upto(two.store.read("a"), step)]

    assert versions == list(range(1, last + 1))
    assert [item.version for item in two.events("a", upto_step=step)] == versions


def test_the_calls_of_a_step_are_told_with_those_that_have_not_come_back(two):
    calls = two.calls("a")

    assert [(call.call_id, call.after_step, call.open) for call in calls] == [
        ("c1", 0, False), ("c2", 1, False), ("c4", 2, False), ("open", 4, True)
    ]  # fmt: skip


# --- the limit of steps ---------------------------------------------------------------------------------------------


def test_a_step_too_many_is_refused_for_the_job_whichever_run_makes_it(runs, worker):
    runs.submit("plan", run_id="a", job_id="j", config={"step_limit": 5})
    perform(worker, 1, 2, 3)
    runs.submit("plan", run_id="b", job_id="j")
    attempt = worker.claim()
    attempt.append(CheckpointSaved(1), CheckpointSaved(2))

    with Refusal(runs, StepLimitReached, "job j has made 5 of at most 5 steps"):
        attempt.append(MessageRecorded("user", "one more"), CheckpointSaved(3))
    with Refusal(runs, StepLimitReached):
        runs.submit("plan", job_id="j")
    attempt.append(CheckpointSaved(2, "the same step again"))
    assert runs.jobs.get("j").steps == 5


def test_a_limit_can_be_raised_on_a_run_that_lives_and_with_a_new_run_when_all_have_ended(runs, worker):
    runs.submit("plan", run_id="a", job_id="j", config={"step_limit": 1})
    attempt = worker.claim()
    attempt.append(CheckpointSaved(1))
    runs.configure("a", step_limit=2)
    attempt.append(CheckpointSaved(2), RunCompleted())

    with Refusal(runs, StepLimitReached):
        runs.continue_from("a")
    runs.continue_from("a", run_id="b", config={"step_limit": 3})
    perform(worker, 3)
    assert (runs.jobs.get("j").steps, runs.jobs.get("j").step_limit) == (3, 3)


def test_a_run_that_goes_on_counts_on_and_has_made_only_what_it_made_itself(runs, worker):
    runs.submit("plan", run_id="a", job_id="j")
    perform(worker, 1, 2, 3)
    runs.continue_from("a", run_id="b")
    perform(worker, 4, 5)
    runs.continue_from("b", run_id="c")
    fork = next(item.version for item in runs.store.read("a") if item.kind is CheckpointSaved and item.event.step == 2)
    runs.continue_from("a", run_id="d", version=fork)
    perform(worker, 6)
    perform(worker, 3, 4)

    assert runs.jobs.get("j").steps == 3 + 2 + 1 + 2


@pytest.mark.parametrize("job", ["j", None], ids=["in a job", "in none"])
def test_a_run_that_goes_on_and_numbers_its_steps_anew_has_made_all_that_it_numbers(runs, worker, job):
    runs.submit("plan", run_id="a", job_id=job, config={"step_limit": 6})
    perform(worker, 1, 2)
    runs.continue_from("a", run_id="b", config={"step_limit": 6 if job else 4})
    attempt = worker.claim()

    with Refusal(runs, StepLimitReached):
        attempt.append(*map(CheckpointSaved, (1, 2, 3, 4, 5)))
    for step in (1, 2, 3, 4):
        attempt.append(CheckpointSaved(step))
    with Refusal(runs, StepLimitReached, "made 6 of at most 6" if job else "made 4 of at most 4"):
        attempt.append(CheckpointSaved(5))
    assert job is None or runs.jobs.get(job).steps == 6


def test_a_run_of_no_job_that_goes_on_from_another_has_an_allowance_of_its_own(runs, worker):
    runs.submit("plan", run_id="a", config={"step_limit": 2})
    perform(worker, 1, 2)
    runs.continue_from("a", run_id="b")
    attempt = worker.claim()
    attempt.append(CheckpointSaved(3), CheckpointSaved(4))

    with Refusal(runs, StepLimitReached, "run b has made 2 of at most 2"):
        attempt.append(CheckpointSaved(5))


def test_a_first_checkpoint_that_was_undone_tells_nothing_of_how_a_run_counts(runs, worker):
    runs.submit("plan", run_id="a", job_id="j", config={"step_limit": 4})
    perform(worker, 1, 2)
    runs.continue_from("a", run_id="b")
    attempt = worker.claim()
    stream = attempt.stream

    def undone(writing):
        stream.job(CheckpointSaved(1), attempt=1)(writing)
        stream.job(CheckpointSaved(2), attempt=1, provided=attempt.provided([CheckpointSaved(2)]))(writing)
        raise OSError("undone")

    with pytest.raises(OSError, match="undone"):
        runs.store.write(undone)
    attempt.append(CheckpointSaved(3))
    attempt.append(CheckpointSaved(4))

    assert runs.jobs.get("j").steps == 4


def test_a_childs_own_limit_is_its_own_and_not_the_jobs(runs, worker):
    runs.submit("plan", run_id="a", job_id="j", config={"step_limit": 100})
    parent = worker.claim()
    runs.submit("plan", run_id="b", job_id="j", parent_id="a", config={"step_limit": 1})
    child = worker.claim()
    child.append(CheckpointSaved(1))

    with Refusal(runs, StepLimitReached, "run b has made 1 of at most 1"):
        child.append(CheckpointSaved(2))
    parent.append(CheckpointSaved(50))
    assert runs.jobs.get("j").step_limit == 100


def test_a_run_without_a_job_has_a_limit_of_its_own(runs, worker):
    runs.submit("plan", run_id="a", config={"step_limit": 1})
    runs.submit("plan", run_id="b")
    attempt, free = worker.claim(), worker.claim()
    free.append(CheckpointSaved(99))

    with Refusal(runs, StepLimitReached):
        attempt.append(CheckpointSaved(2))


def test_delegating_into_a_job_without_steps_left_is_refused_and_opens_no_call(runs, worker):
    runs.submit("plan", run_id="a", job_id="j", config={"step_limit": 1})
    attempt = worker.claim()
    attempt.append(CheckpointSaved(1))

    with Refusal(runs, StepLimitReached):
        attempt.delegate("c1", "search")


def test_a_run_that_makes_a_step_too_many_fails_and_says_so(runs, worker):
    runs.submit("plan", run_id="a", job_id="j", config={"step_limit": 1})

    with pytest.raises(StepLimitReached):
        perform(worker, 1, 2)
    assert runs.jobs.get("j").phase == "failed"
    assert runs.workflow_runs.get("a").error["tag"] == "StepLimitReached"


@pytest.mark.parametrize(
    ("step", "begun_at", "expected"), [(3, 0, 3), (5, 3, 2), (2, 3, 2), (3, 3, 3), (-1, 0, 0), (0, 0, 0)]
)
def test_what_a_run_made_is_what_it_went_on_by_or_what_it_counts_anew(step, begun_at, expected):
    assert made(step, begun_at) == expected


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path):
    world = World(tmp_path)
    runs, worker = world.runs(), world.worker()
    for n in range(3):
        runs.submit("plan", run_id=f"run-{n}", job_id=f"job-{n}", config={"step_limit": 9})
    worker.claim().append(UsageRecorded("m", 10, 5, 0.25), CheckpointSaved(2), RunFailed(Error("Oops", "no")))
    runs.submit("plan", run_id="again", job_id="job-0")
    world.close()
    return tmp_path / "agent.db"


def test_the_command_lists_jobs_a_page_at_a_time(database):
    page = asked("jobs", database, "--limit", 2)
    rest = asked("jobs", database, "--after", page[-1]["job_id"])

    assert [(job["job_id"], job["phase"], job["runs"]) for job in (*page, *rest)] == [
        ("job-2", "queued", 1), ("job-1", "queued", 1), ("job-0", "queued", 2)
    ]  # fmt: skip
    said = runfold("jobs", database, "--limit", 2)
    assert "more with --after job-1" in said.output
    assert "job-0  queued     2  2 of 9      15  $0.2500" in runfold("jobs", database).stdout


def test_the_command_shows_a_job_with_its_runs(database):
    shown = asked("jobs", database, "job-0")
    said = runfold("jobs", database, "job-0").stdout

    assert [row["run_id"] for row in shown["runs"]] == ["run-0", "again"]
    assert (shown["job"]["steps"], shown["job"]["step_limit"]) == (2, 9)
    assert "Oops: no" in said


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nobody"], 1, "there is no job nobody"),
        (["../x"], 1, "job_id '../x' must hold no slash"),
        (["a", "b"], 2, "name one job"),
        (["--limit", "0"], 2, "0 is not in the range"),
        (["--after", "nobody"], 1, "there is no job nobody"),
        (["job-0", "--after", "job-1"], 2, "leave it out"),
    ],
)
def test_the_command_refuses_in_one_line(database, words, code, says):
    assert says in runfold("jobs", database, *words, code=code).output


def test_a_limit_that_somebody_sets_while_a_run_goes_on_holds_from_its_next_checkpoint(world, worker, runs):
    runs.submit("work", run_id="r1")
    attempt = worker.claim()
    attempt.append(CheckpointSaved(1))
    world.runs().configure("r1", step_limit=1)

    with Refusal(runs, StepLimitReached):
        attempt.append(CheckpointSaved(2))


@pytest.mark.parametrize("step", ["5", 1.5, True])
def test_events_up_to_what_is_no_step_are_refused(runs, step):
    runs.submit("work", run_id="r1", job_id="j1")

    with pytest.raises(InvalidArgument):
        runs.events("r1", upto_step=step)
    with pytest.raises(InvalidArgument):
        list(runs.jobs.events("j1", upto_step=step))
    with pytest.raises(InvalidArgument):
        runs.jobs.where(after=[step])


def test_a_run_at_work_delegates_also_where_the_tables_cannot_tell_its_jobs_steps(worker, runs):
    runs.submit("work", run_id="r1", job_id="j1")
    attempt = worker.claim()
    forge(runs.store.log, ("RunQueued", "garbage"), stream="r2")
    attempt.append(MessageRecorded("user", "the tables halt here"))

    with pytest.raises(ChildrenOpen):
        attempt.delegate("c1", "search")
    with pytest.raises(InvalidArgument, match="cannot be counted"):
        runs.submit("work", job_id="j1")
