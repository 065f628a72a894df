"""Write docs/reference/command.md from the command's own help, so that the page cannot say anything else.

python docs/generate_command.py        # a test compares the page with what this writes
"""

import re
from pathlib import Path

import click

from projections.cli import SECTIONS, main

PAGE = Path(__file__).parent / "reference" / "command.md"
HEAD = """# The command

<!-- Written by docs/generate_command.py; change the help texts in projections/cli instead. -->

    runfold COMMAND DATABASE …

DATABASE is a path, or `sqlite:///path`. It must exist for every command but `import` and `demo`. Set `RUNFOLD_DB` and
leave it out: a command of a fixed number of words still takes it when there is one word more; `import` and `rebuild`,
which end in a list, go by the variable.

| exit code | meaning |
|---|---|
| 0 | good |
| 1 | something wrong was found, or what was asked is refused |
| 2 | misused: an option, a word, a value that cannot be |
| 130 | stopped with Ctrl-C (`tail -f` ends so, with 0) |
| 141 | the reader of a pipe went away |

An error is one line on stderr that begins with `Error:`; what to know beside the output (that there is more, say)
goes there as well. With `--json` a command prints one JSON document, `events` and `tail` a line an event. Times are
ISO 8601 in UTC. Tables are cut and wrapped to the terminal's width, or to `COLUMNS`, or to 80; `NO_COLOR` takes the
colours away.

| variable | meaning |
|---|---|
| `RUNFOLD_DB` | the database |
| `RUNFOLD_APP` | what `--app` would say |
| `RUNFOLD_TRACEBACK` | set: an error that nobody foresaw is told with its traceback |
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for section, names in SECTIONS.items():
        parts.append(f"\n## {section}\n")
        for name in names:
            command = main.get_command(click.Context(main), name)
            if command is None:
                raise SystemExit(f"no command {name}")
            parts.append(described(name, command))
            if isinstance(command, click.Group):
                parts += [described(f"{name} {word}", part) for word, part in command.commands.items()]
    return "".join(parts)


def described(name: str, command: click.Command) -> str:
    """One command: how it is called, what it does, and each option."""
    context = click.Context(command, info_name=name, parent=click.Context(main, info_name="runfold"))
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", command.help or "")]
    rows = []
    for option in command.params:
        if isinstance(option, click.Option) and (record := option.get_help_record(context)):
            default = f" Default: {option.default}." if option.show_default else ""
            default += " Required." if option.required else ""
            rows.append(f"| `{record[0]}` | {option.help}{default} |\n")
    text = "\n\n".join(paragraphs)
    usage = " ".join(["runfold", name, *command.collect_usage_pieces(context)])
    table = f"\n| option | |\n|---|---|\n{''.join(rows)}" if rows else ""
    return f"\n### {name}\n\n    {usage}\n\n{text}\n{table}"


@click.command()
def write() -> None:
    """Write docs/reference/command.md from the command's own help."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write()
