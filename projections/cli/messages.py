"""`messages`: what was said in a run, round by round, and in those that it goes on from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from eventstore.limits import MAX_ROWS
from projections.cli import output
from projections.cli.opening import store_command
from projections.readings import HistoryMessage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from projections import Runs
    from projections.readings import Message, Round
    from projections.sessions import History


@store_command("run")
@click.option("--rounds", is_flag=True, help="By rounds: what a user said, and all that followed it.")
@click.option("--history", is_flag=True, help="With the messages of the runs that it goes on from.")
@click.option(
    "--before", type=click.IntRange(0), metavar="N",
    help="Go on before this: the version of a message, or the number of a round, or that of one of a history.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1, MAX_ROWS), default=20, show_default=True, help="At most so many.")
def messages(  # noqa: PLR0917 - click names them all
    runs: Runs,
    run: str,
    rounds: bool,  # noqa: FBT001
    history: bool,  # noqa: FBT001
    before: int | None,
    limit: int,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Tell what was said in a run.

    The last messages, the oldest of them first; --before goes further back. With --rounds they come by rounds, with
    --history through all runs of the conversation, and it is said where that breaks off.
    """
    if rounds and history:
        raise click.UsageError("--rounds are of one run, and --history is of several: choose one of them")
    if rounds:
        _rounds(runs, run, runs.sessions.rounds(run, before=before, limit=limit)[::-1], as_json=as_json)
    elif history:
        _history(runs.sessions.history(run, before=before, limit=limit, newest_first=True), as_json=as_json)
    else:
        _messages(
            runs, run, [*runs.messages(run, before=before, limit=limit, newest_first=True)][::-1], as_json=as_json
        )


def _messages(runs: Runs, run: str, found: list[Message], *, as_json: bool) -> None:
    if as_json:
        output.document(found)
    else:
        _tell(found)
    if found and any(runs.messages(run, before=found[0].version, limit=1)):
        output.note(f"earlier ones with --before {found[0].version}")


def _rounds(runs: Runs, run: str, found: list[Round], *, as_json: bool) -> None:
    if as_json:
        output.document(found)
    elif not found:
        _tell(())
    for one in () if as_json else found:
        output.say(f"round {one.number}", "bold")
        _tell(one.messages)
    if found and found[0].number > 1:
        count = runs.sessions.count_rounds(run)
        output.note(f"{len(found)} of {output.count(count, 'round')}; earlier ones with --before {found[0].number}")


def _history(page: History, *, as_json: bool) -> None:
    found = page.messages[::-1]
    if as_json:
        output.document({"count": page.count, "gap": page.gap, "messages": found})
    else:
        _tell(found)
    if found and found[0].number > 1:
        going_on = f"earlier ones with --before {found[0].number}"
        output.note(f"{len(found)} of {output.count(page.count, 'message')}; {going_on}")
    elif page.gap is not None:
        why = "stands in this log" if page.gap.gap == "missing" else "goes on from this conversation itself"
        fact = "no run of that id" if page.gap.gap == "missing" else "it"
        output.note(f"what came before is not known: it goes on from {page.gap.run_id}, but {fact} {why}")


def _tell(found: Iterable[Message | HistoryMessage]) -> None:
    """Each message with who said it, and all of what was said."""
    told = 0
    for told, message in enumerate(found, start=1):  # noqa: B007 - counted
        where = f"version {message.version}"
        if isinstance(message, HistoryMessage):
            where = f"{message.number}, {output.clean(message.run_id)} version {message.version}"
        output.say(f"{output.clean(message.role)}  ({where}, {output.moment(message.at)} UTC)", "dim")
        text = message.content
        if not isinstance(text, str):
            text = json.dumps(text, indent=2, ensure_ascii=False)
        for line in text.splitlines():
            inner = line.lstrip(" ")
            output.say(output.clean(inner), indent=2 + len(line) - len(inner))
    if not told:
        output.say("no messages")
