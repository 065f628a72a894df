"""A daemon that survives being killed: it asks before it ships, and never ships twice.

python daemon.py agent.db submit        # put one run into the queue
python daemon.py agent.db               # work until SIGTERM; kill -9 it as often as you like
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import projections
from eventstore.workflow import CheckpointSaved, RunCompleted
from projections import Attempt, stop_on_sigterm

PLAN = [("look", {"path": "."}, False), ("build", {"target": "all"}, False), ("ship", {"env": "prod"}, True)]


def run_tool(action: dict) -> str:
    print("running", action, flush=True)
    return f"did {action}"


def perform(attempt: Attempt) -> None:
    with attempt:  # leaving by exception ends or parks the run
        state = attempt.checkpoint or {"step": 0, "messages": []}
        for step, (tool, action, risky) in enumerate(PLAN[state["step"] :], start=state["step"]):
            answer = attempt.ask(f"c{step}", tool, action, reason="touches production") if risky else None
            if answer and answer.denied:
                continue
            # What was approved is the input as it was asked about, or as the decision edited it.
            result = attempt.call(f"c{step}", tool, answer.input if answer else action, run_tool)
            state = {"step": step + 1, "messages": [*state["messages"], result]}
            attempt.append(CheckpointSaved(step=step + 1, state=state))
        attempt.append(RunCompleted(output=state["messages"][-1]))


def main(database: str) -> None:
    with (
        projections.connect(database) as runs,
        runs.worker("example", lease=timedelta(seconds=30)) as worker,
        ThreadPoolExecutor(8) as pool,
    ):
        stop_on_sigterm(worker.stop)
        print(worker.recover(max_crashes=3), flush=True)
        for attempt in worker.claims(limit=8):  # recovered, then woken, then queued; ends on stop()
            pool.submit(perform, attempt)


if __name__ == "__main__":
    if sys.argv[2:] == ["submit"]:
        with projections.connect(sys.argv[1]) as runs:
            print(runs.submit("deploy", input={"env": "prod"}))
    else:
        main(sys.argv[1])
