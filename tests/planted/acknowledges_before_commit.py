"""A demo worker that acknowledges a line before it is committed, and then takes a moment."""

import sys
import time

from projections import Attempt
from projections.cli.demo import worker

honest = Attempt.append


def hasty(attempt, *events, key=None, **options):
    if key is not None:
        worker.acknowledge(run=attempt.run_id, line=int(key.removeprefix("line-")))
        time.sleep(0.02)
    return honest(attempt, *events, key=key, **options)


Attempt.append = hasty
worker.main(sys.argv[1], sys.argv[2])
