"""Processes that begin at once, forked of one that has imported what they need: a third of a second for all of them.

The one that they are forked of is a process of its own too, and opens nothing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
_PARENT = """
import json, os, sys, tempfile, traceback
import eventstore, eventstore.sqlite, projections, sqlite_utils
from eventstore.sqlite import SQLiteLog

count, program, arguments = json.load(sys.stdin)
gate, opener = os.pipe()
children = []
for number in range(count):
    said = tempfile.TemporaryFile("w+")
    if child := os.fork():
        children.append((child, said))
        continue
    os.close(opener)
    os.read(gate, 1)  # it ends when the parent closes the other side, for all at once
    sys.stdout, code = said, 1
    try:
        exec(program, {"number": number, "arguments": arguments})
        said.flush()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
os.close(opener)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child, _ in children]
answers = [(said.seek(0), said.read())[1] for _, said in children]
json.dump([codes, answers], sys.stdout)
"""


def at_once(count, program, *arguments):
    """Run a program in so many processes at once, each with a `number` and these `arguments`; what they print."""
    parent = subprocess.run(
        [sys.executable, "-c", _PARENT], input=json.dumps([count, program, [str(each) for each in arguments]]),
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    codes, answers = json.loads(parent.stdout)
    # A witness that another of them is just about to write says nothing yet, and whoever finds it so says that.
    said = [line for line in parent.stderr.splitlines() if not line.startswith("the witness ")]
    assert (codes, said) == ([0] * count, []), parent.stderr
    return answers
