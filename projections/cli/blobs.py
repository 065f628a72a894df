"""`blobs`: bytes beside the log, put and had by their digest; which are sound, and which may go."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

from eventstore.blobs import MIN_AGE
from eventstore.connecting import is_open
from projections.cli import output
from projections.cli.log import check_source, written
from projections.cli.opening import refuse_ours, store_command
from projections.cli.runs import length

if TYPE_CHECKING:
    from projections import Runs

_PIECE = 1024 * 1024
_SHOWN = 20
"""Blobs that are named to people, one a line; --json names all."""


class Age(click.ParamType[timedelta]):
    """A length of time: 90m, 12h, 7d."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """See click."""
        if isinstance(value, timedelta):
            return value
        if (age := length(value)) is None:
            self.fail(f"{value!r} is no length of time; give one such as 30s, 90m, 12h, 7d", param, ctx)
        return age


@click.group()
def blobs() -> None:
    """Keep, give, check and collect the bytes beside the log.

    Large payloads stand in blobs by themselves. One of your own is kept as long as an event mentions its digest.
    """


@store_command(rest="file")
def put(runs: Runs, file: tuple[str, ...], as_json: bool) -> None:  # noqa: FBT001
    """Keep files as blobs, and tell their digests.

    FILE may be - for the standard input. A damaged blob of the same bytes is healed. Mention the digest in an event
    within a day, or `gc` takes the blob away.
    """
    if not file:
        raise click.UsageError("FILE is missing; - is the standard input")
    for name in file:
        check_source(name, "kept")
        if is_open(Path(name).resolve()):
            raise click.UsageError(
                f"{name} is a file of the database itself; make a backup of it with `runfold backup`"
            )
    done = []
    for name in file:
        with click.open_file(name, "rb") as source:
            done.append({"file": name, "digest": runs.blobs.write(cast("BinaryIO", source))})
    if as_json:
        output.document(done)
        return
    for item in done:
        output.say(f"{item['digest']}  {output.clean(item['file'])}")


@store_command("digest")
@click.option("-o", "--output", "target", metavar="FILE", help="Write here, whole or not at all, instead of to stdout.")
def get(runs: Runs, digest: str, target: str | None, as_json: bool) -> None:  # noqa: ARG001, FBT001
    """Give the bytes of a blob.

    They are proved as they are read: where they are damaged, the last of them are not given, and the exit code is 1.
    (--json changes nothing here.)
    """
    refuse_ours(target)
    with runs.blobs.open(digest) as source:
        if target in (None, "-"):
            for piece in _pieces(source):
                click.echo(piece, nl=False)
            return
        written(Path(str(target)), _pieces(source))


@store_command()
def check(runs: Runs, as_json: bool) -> None:  # noqa: FBT001
    """Read every blob, and name the entries that need a bad one.

    Nothing is changed. The exit code is 1 if any is missing or damaged; `put` heals a blob with the right bytes.
    """
    found = runs.blobs.check()
    if as_json:
        output.document({"ok": found.ok, "blobs": found.blobs, "bytes": found.bytes, "faults": found.faults})
    else:
        for fault in found.faults:
            output.say(output.clean(str(fault)), style="red")
        sound = f"{output.count(found.blobs, 'sound blob')}, {output.amount(found.bytes)}"
        output.say(sound if found.ok else f"{sound}; {output.count(len(found.faults), 'fault')}")
    if not found.ok:
        click.get_current_context().exit(1)


@store_command()
@click.option("--min-age", type=Age(), default=MIN_AGE, metavar="AGE", help="Spare what is younger, a day by default.")
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
def gc(runs: Runs, min_age: timedelta, dry_run: bool, as_json: bool) -> None:  # noqa: FBT001
    """Take away blobs that no event mentions, and what the killed left.

    The whole log is read, beside writers. Any 64 hex digits in an event are taken for a digest. While an event cannot
    be read nothing is taken away.
    """
    found = runs.blobs.gc(min_age=min_age, dry_run=dry_run)
    if as_json:
        facts = {"blobs": found.blobs, "bytes": found.bytes, "kept": found.kept, "young": found.young}
        output.document({"dry_run": dry_run, **facts, "digests": found.digests})
        return
    for digest in found.digests[:_SHOWN]:
        output.say(digest)
    if len(found.digests) > _SHOWN:
        output.note(f"and {len(found.digests) - _SHOWN} more; --json names all")
    verb = "would go" if dry_run else "went"
    young = f"{found.young} younger than {output.span(min_age.total_seconds())}"
    freed = f"{output.count(found.blobs, 'blob')} {verb}, {output.amount(found.bytes)}"
    output.say(f"{freed}; {young}, and of the older ones {found.kept} mentioned")


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    while piece := source.read(_PIECE):
        yield piece


for _command in (put, get, check, gc):
    blobs.add_command(_command)
