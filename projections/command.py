"""The first thing that the command `runfold` runs: who types Ctrl-C while the rest is being imported is let go quietly.

That takes longer than many a command, and the traceback of an import tells nobody anything.
"""

import sys

_INTERRUPTED = 130
"""As the command itself says it, which may not be there yet."""


def main() -> None:
    """Run the command, and leave the process with its exit code."""
    try:
        from projections.cli import main as command  # noqa: PLC0415 - in here, so that it may be interrupted

        command()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
