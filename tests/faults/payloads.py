"""Payloads that stay large in the log, and states that grow as those of runs do, so that they are packed over bases."""

import base64
import random


def noise(number: int, size: int) -> str:
    """Text that takes about so many bytes when packed, and twice as many before; the same for each number."""
    return random.Random(number).randbytes(size).hex()


def grown(steps: int, *, seed: int = 0) -> dict[str, object]:
    """A state that shares all with the one a step before but a counter and 800 bytes; the first is packed already."""
    return {"step": steps, "messages": [noise(seed + step, 400) for step in range(steps + 6)], "plan": ["a", "b"]}


def large(number: int, size: int) -> str:
    """Text that takes about so many bytes when packed, and not one digest stands in it."""
    return base64.b64encode(random.Random(number).randbytes(size)).decode()
