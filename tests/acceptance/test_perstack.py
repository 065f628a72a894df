"""Jobs over runs, their checkpoints and events by step, settings, delegation: what perstack keeps as files."""

import pytest

from eventstore.errors import InvalidArgument, JobNotFound, StepLimitReached
from eventstore.workflow import (
    CheckpointSaved,
    MessageRecorded,
    RunCompleted,
    ToolCalled,
    ToolReturned,
    UsageRecorded,
)
from projections import Child


def expert(worker, *steps, end=True):
    """An expert's run: each step says something, calls a tool, and saves its state."""
    attempt = worker.claim()
    for step in steps:
        attempt.append(
            MessageRecorded("expertMessage", f"step {step}"),
            ToolCalled(f"c{step}", "look", {"at": step}),
            ToolReturned(f"c{step}", {"saw": step}),
            UsageRecorded("m", 10, 2, 0.5),
            CheckpointSaved(step, {"messages": list(range(step))}),
        )
    if end:
        attempt.append(RunCompleted("done"))
    return attempt


def test_a_job_is_made_found_and_brought_to_its_end(runs, worker):
    runs.submit("expert", run_id="run-1", job_id="job-1", config={"step_limit": 10})

    assert runs.jobs.get("job-1").phase == "queued"
    expert(worker, 1, 2)
    job = runs.jobs.get("job-1")
    assert (job.phase, job.runs, job.steps, job.step_limit) == ("completed", 1, 2, 10)
    assert (job.input_tokens, job.output_tokens, job.cost_usd) == (20, 4, 1.0)
    assert job.queued_at <= job.started_at <= job.ended_at


def test_there_is_no_job_until_a_run_is_part_of_it(runs):
    assert runs.jobs.get("job-1") is None
    assert runs.jobs.where() == []
    with pytest.raises(JobNotFound):
        runs.jobs.runs("job-1")


def test_all_jobs_are_listed_the_newest_first_in_pages_without_ties(runs):
    for n in range(7):
        runs.submit("expert", job_id=f"job-{n}")
    listed, page = [], runs.jobs.where(limit=3)
    while page:
        listed += page
        page = runs.jobs.where(limit=3, after=page[-1])

    assert [job.job_id for job in listed] == [f"job-{n}" for n in range(6, -1, -1)]


def test_a_job_goes_on_in_a_new_run_from_the_last_checkpoint(runs, worker):
    runs.submit("expert", run_id="run-1", job_id="job-1")
    expert(worker, 1, 2)
    runs.continue_from("run-1", run_id="run-2", input="and now this")
    attempt = worker.claim()

    assert attempt.checkpoint == {"messages": [0, 1]}
    attempt.append(CheckpointSaved(3, {"messages": [0, 1, 2]}), RunCompleted())
    assert [row.run_id for row in runs.jobs.runs("job-1")] == ["run-1", "run-2"]
    assert runs.jobs.get("job-1").steps == 3


def test_checkpoints_are_found_by_job_and_by_run_each_with_its_whole_state(runs, worker):
    runs.submit("expert", run_id="run-1", job_id="job-1")
    expert(worker, 1, 2)
    runs.submit("expert", run_id="run-2", job_id="job-1")
    expert(worker, 1)

    assert [(saved.run_id, saved.step, saved.state) for saved in runs.jobs.checkpoints("job-1")] == [
        ("run-1", 1, {"messages": [0]}), ("run-1", 2, {"messages": [0, 1]}), ("run-2", 1, {"messages": [0]})
    ]  # fmt: skip
    assert runs.checkpoint("run-1") == {"messages": [0, 1]}


def test_the_events_of_a_run_come_in_order_up_to_a_step(runs, worker):
    runs.submit("expert", run_id="run-1", job_id="job-1")
    expert(worker, 1, 2, 3)

    said = [item.event.content for item in runs.events("run-1", upto_step=2) if item.kind is MessageRecorded]
    assert said == ["step 1", "step 2"]
    assert list(runs.jobs.events("job-1", upto_step=2)) == list(runs.events("run-1", upto_step=2))


def test_a_hundred_events_of_one_moment_are_a_hundred(runs, worker):
    runs.submit("expert", run_id="run-1")
    worker.claim().append(*[MessageRecorded("user", n) for n in range(100)])

    assert [message.content for message in runs.messages("run-1")] == list(range(100))


def test_partial_results_of_a_step_are_known(runs, worker):
    runs.submit("expert", run_id="run-1")
    attempt = expert(worker, 1, end=False)
    attempt.append(ToolCalled("a", "search"), ToolCalled("b", "search"), ToolReturned("a", "found"))

    step = [call for call in runs.calls("run-1") if call.after_step == 1]
    assert {call.call_id: call.output for call in step if not call.open} == {"a": "found"}
    assert [call.call_id for call in step if call.open] == ["b"]


def test_a_changed_setting_stays_changed_however_often_it_is_stored(runs):
    runs.submit("expert", run_id="run-1", config={"model": "a", "temperature": 0})
    for model in ("b", "c", "b"):
        runs.configure("run-1", model=model)

    assert runs.settings("run-1") == {"model": "b", "temperature": 0}
    assert [change.config["model"] for change in runs.settings_history("run-1")] == ["a", "b", "c", "b"]


def test_a_job_makes_no_more_steps_than_it_may_until_it_may_make_more(runs, worker):
    runs.submit("expert", run_id="run-1", job_id="job-1", config={"step_limit": 2})
    attempt = expert(worker, 1, 2, end=False)

    with pytest.raises(StepLimitReached):
        attempt.append(CheckpointSaved(3))
    with pytest.raises(StepLimitReached):
        runs.submit("expert", job_id="job-1")
    assert runs.jobs.get("job-1").steps == 2
    runs.configure("run-1", step_limit=3)
    attempt.append(CheckpointSaved(3))
    assert runs.jobs.get("job-1").steps == 3


def test_an_expert_delegates_to_another_and_goes_on_with_its_result(runs, worker):
    def perform(attempt):
        with attempt:
            if attempt.workflow == "expert":
                found = attempt.delegate_all({"a": Child("helper", "x"), "b": Child("helper", "y")})
                attempt.append(RunCompleted(found))
            else:
                attempt.append(RunCompleted(attempt.input * 2))

    runs.submit("expert", run_id="run-1", job_id="job-1")
    while (attempt := worker.claim()) is not None:
        perform(attempt)

    assert runs.output("run-1") == {"a": "xx", "b": "yy"}
    assert runs.jobs.get("job-1").runs == 3


@pytest.mark.parametrize("job_id", ["../../escape", "/etc/x", "a\\b", "..", "", "a\0b"])
def test_a_job_id_leads_nowhere(runs, job_id):
    with pytest.raises(InvalidArgument):
        runs.submit("expert", job_id=job_id)
    assert runs.store.head().position == 0


@pytest.mark.parametrize("job_id", ["Köln", "工作", "a b", "a'; DROP TABLE jobs; --", "%", "*", "x" * 200])
def test_special_characters_are_just_characters(runs, job_id):
    runs.submit("expert", job_id=job_id)
    runs.submit("expert", job_id="other")

    assert runs.jobs.get(job_id).runs == 1


def test_a_large_state_comes_back_whole(runs, worker):
    large = {"messages": [f"{n} {'x' * 1000}" for n in range(1000)]}
    runs.submit("expert", run_id="run-1", job_id="job-1")
    worker.claim().append(CheckpointSaved(1, large))

    (saved,) = runs.jobs.checkpoints("job-1")
    assert saved.state == large
