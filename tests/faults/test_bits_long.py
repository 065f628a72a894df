"""Thousands of flips; minutes."""

import logging

import pytest

from tests.faults import bits


@pytest.mark.slow
def test_no_flipped_bit_changes_anything_in_silence(tmp_path):
    logging.disable(logging.WARNING)
    try:
        tally = bits.flip_all(tmp_path, dict.fromkeys(bits.SUFFIXES, 1_000), header=True)
    finally:
        logging.disable(logging.NOTSET)

    assert tally.silent == []
    assert sum(tally.of("WAL").values()) == 1_000
