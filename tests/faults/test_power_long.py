"""Power loss for minutes: `pytest -m slow tests/faults/test_power_long.py`; hours are the script's."""

import pytest

from tests.faults.power import campaign
from tests.faults.workloads import WORKLOADS


@pytest.mark.slow
@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_thousands_of_cuts_cost_nothing_that_was_acknowledged(workload, synchronous):
    wanted = int(1_000 * WORKLOADS[workload].share)

    tally = campaign(workload, synchronous, seed=1_000, wanted=wanted)

    assert tally.failures == []
    assert synchronous == "NORMAL" or tally.largest_loss == 0
