"""A flipped bit changes nothing that can be observed, or opening or `verify` says so."""

import logging

import pytest

from tests.faults import bits


@pytest.fixture(autouse=True)
def no_warnings():
    """A damaged witness says so each time."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def test_no_flipped_bit_changes_anything_in_silence(tmp_path):
    """A sample; `python -m tests.faults.run bits` flips thousands."""
    tally = bits.flip_all(tmp_path, {"database": 60, "witness": 20})

    assert tally.silent == []
    assert tally.of("database, closed").get("said by verify", 0) > 0
    assert set(tally.of("witness")) == {"harmless"}


def test_no_flipped_bit_in_the_wal_of_a_killed_process_loses_its_tail_in_silence(tmp_path):
    tally = bits.flip_all(tmp_path, {"WAL": 200})

    assert tally.silent == []
    assert sum(tally.of("WAL").values()) == 200
    assert tally.of("WAL")["LostTail"] > 190


def test_no_flipped_bit_in_a_segment_a_blob_or_a_backup_stays_unsaid(tmp_path):
    tally = bits.flip_beside(tmp_path, 16)

    assert tally.silent == []
    assert set(tally.of("segments")) <= {"told by who reads", "said by verify"}
    assert set(tally.of("blobs")) == {"told by who reads"}
    assert sum(tally.of("backup").values()) == 16
