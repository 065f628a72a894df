"""Each harness finds the fault that it is there for, and finds nothing where there is none."""

import sys

import pytest

from tests.faults.kept_mutants import KEPT_MUTANTS
from tests.faults.mutants import MUTANTS

ALL = (*MUTANTS, *KEPT_MUTANTS)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the shim wraps the file system of SQLite on Linux")


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught(mutant):
    assert mutant.reports()


@pytest.mark.parametrize(
    "mutant",
    {mutant.harness: mutant for mutant in ALL}.values(),  # several mutants may share one harness
    ids=lambda mutant: f"without one that {mutant.name}",
)
def test_the_same_harness_reports_nothing_without_the_mutant(mutant):
    assert mutant.false_alarms() == []
