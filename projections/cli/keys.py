"""`rekey`: another key. Keys come in files, never among the words of a command, which everybody on the machine sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from projections.cli import output
from projections.cli.opening import key_in, store_command

if TYPE_CHECKING:
    from projections import Runs


@store_command()
@click.option("--new-key-file", metavar="PATH", required=True, help="Holds the key that it is to have from now on.")
def rekey(runs: Runs, new_key_file: str, as_json: bool) -> None:  # noqa: FBT001
    """Give an encrypted database another key.

    Every page is written anew in one transaction: killed anywhere, the database opens with the old key or with the new
    one. Stop the workers first: a process that has it open is refused at its next read or write. Exits 1 if some
    process still reads an older state, so that pages under the old key are left; do it again when that one is done.
    """
    clean = runs.rekey(key_in(new_key_file, "--new-key-file"))
    if as_json:
        output.document({"database": runs.store.log.url, "clean": clean})
    else:
        output.say(f"{runs.store.log.url} has its new key" if clean else _LEFT.format(runs.store.log.url))
    if not clean:
        click.get_current_context().exit(1)


_LEFT = "{} has its new key, but somebody still reads pages under the old one; run this again when they are done"
