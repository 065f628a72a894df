"""A demo worker whose inline projections overlook what was used."""

import sys

from eventstore.workflow import UsageRecorded
from projections.cli.demo import worker
from projections.rows import RowFold

honest = RowFold.fold


def careless(rows, recorded):
    if recorded.kind is not UsageRecorded:
        honest(rows, recorded)


RowFold.fold = careless
worker.main(sys.argv[1], sys.argv[2])
