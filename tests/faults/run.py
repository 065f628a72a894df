"""The long runs: `python -m tests.faults.run power --states 100000`; each subcommand is a module of this folder.

A subcommand prints a table and exits 1 if anything was found. To add one, write its module with a click command of
the same name, and name it in `COMMANDS`.
"""

import importlib

import click

COMMANDS = {name: f"tests.faults.{name}" for name in ("power", "disks", "kills", "bits")}


class _Late(click.Group):
    """Imports a subcommand's module when it is asked for, so that one may be missing or broken without the others."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        return getattr(importlib.import_module(COMMANDS[name]), name) if name in COMMANDS else None


@click.command(cls=_Late)
def main() -> None:
    """What runs for minutes or hours: power loss, failing disks, kills, flipped bits."""


if __name__ == "__main__":
    main()
