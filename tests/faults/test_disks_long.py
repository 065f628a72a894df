"""Every case of `disks`; minutes."""

import logging

import pytest

from tests.faults import disks


@pytest.mark.slow
def test_a_disk_that_fails_at_every_operation_of_every_call_loses_nothing_and_is_told_truly(tmp_path):
    logging.disable(logging.WARNING)
    try:
        tally = disks.enumerate_all(tmp_path)
    finally:
        logging.disable(logging.NOTSET)

    assert tally.wrong == []
    assert tally.cases > 4_000
