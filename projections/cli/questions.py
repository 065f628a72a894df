"""`confirmations`, `approve`, `deny`, `settle`: what waits for a person, and the person's answer."""

from __future__ import annotations

import getpass
import json
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import click

from eventstore.payloads import Json, loads_strictly
from projections.cli import output
from projections.cli.opening import store_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections import Runs
    from projections.confirmations import ConfirmationRow

_LINES = 20
"""Lines of an input that are shown: a decision is about all of it, so what is left out is said."""


def login_name() -> str:
    """Who sits at this terminal.

    Raises:
        click.UsageError: nobody that the system knows.
    """
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        raise click.UsageError("the system does not know your name; give it with --by") from None


class JsonText(click.ParamType[Json]):
    """JSON on the command line."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Json:
        """See click."""
        try:
            return loads_strictly(value)
        except json.JSONDecodeError as error:
            self.fail(
                f"{error.msg} at column {error.colno}; text needs quotes inside the quotes: '\"text\"'", param, ctx
            )
        except ValueError as error:
            self.fail(str(error), param, ctx)


@store_command()
@click.option("--all", "everything", is_flag=True, help="Decided, expired and void ones as well.")
@click.option("--run", "run_id", metavar="RUN", help="Only those of this run.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
def confirmations(runs: Runs, everything: bool, run_id: str | None, limit: int, as_json: bool) -> None:  # noqa: FBT001
    """List the questions that wait for a person.

    The longest waiting first; each with the whole of what is asked. With --all, what became of the others too.
    """
    filters: dict[str, Any] = {} if everything else {"decision": None}
    if run_id is not None:
        filters["run_id"] = run_id
    rows = list(islice(runs.confirmations.each(order="position", **filters), limit))
    if as_json:
        output.document(rows)
    elif everything and rows:
        _table(rows)
    else:
        _list(rows)
    total = runs.confirmations.count(**filters)
    if total > len(rows):
        output.note(f"{len(rows)} of {total} questions; more with --limit {total}")


def _list(rows: list[ConfirmationRow]) -> None:
    if not rows:
        output.say("nothing waits for an answer")
    for number, row in enumerate(rows):
        if number:
            output.say()
        open_text(row, output.now())


def open_text(row: ConfirmationRow, now: datetime) -> None:
    """Print a question, all that is asked, and how to answer it."""
    output.say(f"{output.clean(row.run_id)} {output.clean(row.call_id)}: may it call {output.clean(row.tool)}?", "bold")
    when = f"asked {output.ago(row.asked_at, now)}"
    if row.expires_at is not None:
        gone = row.expires_at <= now
        when += (
            f", expired {output.ago(row.expires_at, now)}" if gone else f", expires {output.ago(row.expires_at, now)}"
        )
    if row.reason:
        when += f": {output.clean(row.reason)}"
    text = json.dumps(row.input, indent=2, ensure_ascii=False).splitlines()
    output.say(when, indent=2)
    for line in text[:_LINES]:
        inner = line.lstrip(" ")
        output.say(output.clean(inner), indent=2 + len(line) - len(inner))
    if len(text) > _LINES:
        output.say(f"… and {len(text) - _LINES} lines more; --json shows all of it", "red", indent=2)


def _table(rows: list[ConfirmationRow]) -> None:
    now = output.now()
    output.table(
        "run", "call", "tool", "asked", "decision", "by", "comment",
        rows=[
            (row.run_id, row.call_id, row.tool, output.ago(row.asked_at, now), row.decision or "waits", row.by or "",
             row.comment or "")
            for row in rows
        ],
        wraps=("run", "call", "tool"),
    )  # fmt: skip


def _answer(
    runs: Runs,
    run: str,
    call: str,
    decision: Literal["approved", "denied"],
    *,
    by: str | None,
    as_json: bool,
    **said: Any,
) -> None:
    name = by or login_name()
    recorded = runs.resolve(run, call, decision, by=name, **said)
    if as_json:
        output.document(output.event(recorded))
    else:
        output.say(f"{call} of {run} is {decision} by {name}")


def _said(function: Callable[..., None]) -> Callable[..., None]:
    """The options that both answers take."""
    for option in (
        click.option("--result", type=JsonText(), help="The call's result itself, as JSON: what the worker is to use."),
        click.option("--comment", help="For the worker and for people."),
        click.option("--by", metavar="NAME", help="Who decides; your login name unless given."),
    ):
        function = option(function)
    return function


@store_command("run", "call")
@_said
@click.option("--input", "edited", type=JsonText(), help="An edited input, as JSON: the approval is of that alone.")
def approve(  # noqa: PLR0917 - click names them all
    runs: Runs,
    run: str,
    call: str,
    by: str | None,
    comment: str | None,
    edited: Json,
    result: Json,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Say yes to a question.

    The approval is bound to exactly the tool and input that were asked about, or to the input given here.
    """
    _answer(runs, run, call, "approved", by=by, comment=comment, input=edited, result=result, as_json=as_json)


@store_command("run", "call")
@_said
def deny(  # noqa: PLR0917 - click names them all
    runs: Runs,
    run: str,
    call: str,
    by: str | None,
    comment: str | None,
    result: Json,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Say no to a question."""
    _answer(runs, run, call, "denied", by=by, comment=comment, result=result, as_json=as_json)


@store_command("run", "call")
@click.option("--output", "returned", type=JsonText(), required=True, help="What the tool gave, as JSON.")
@click.option("--error", "is_error", is_flag=True, help="It failed.")
def settle(runs: Runs, run: str, call: str, returned: Json, is_error: bool, as_json: bool) -> None:  # noqa: FBT001, PLR0917
    """Say how a call ended that never returned.

    Its worker died in the middle of it, and the run waits for somebody who finds out. Once no call is left of which
    nobody knows how it ended, the next worker goes on with the run.
    """
    recorded = runs.settle(run, call, returned, is_error=is_error)
    if as_json:
        output.document(output.event(recorded))
    else:
        left = sum(call.open for call in runs.calls(run))
        then = f"{output.count(left, 'call')} of it still open" if left else "the next worker goes on with the run"
        output.say(f"{call} of {run} is settled; {then}")
