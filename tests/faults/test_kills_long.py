"""Thousands of kills; minutes."""

import pytest
from click.testing import CliRunner

from tests.faults.kills import kills


@pytest.mark.slow
def test_three_thousand_kills_lose_nothing():
    result = CliRunner().invoke(kills, ["--kills", "3000"])

    assert result.exit_code == 0, result.output
