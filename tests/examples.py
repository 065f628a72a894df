"""How many examples a property test takes: few in the ordinary run, and more where somebody has the time.

`EXAMPLES=10 python -m pytest property_tests` takes ten times as many.
"""

import os

_TIMES = int(os.environ.get("EXAMPLES", "1"))


def examples(number):
    """For `settings(max_examples=…)`."""
    return number * _TIMES
