"""Boxes: what is in them is told to nobody without the key, and nothing about them can be altered unnoticed."""

import sys

import pytest

from eventstore.ciphers import AES256GCM, OVERHEAD, DamagedBox
from eventstore.errors import CannotOpen

KEY = bytes(range(32))
HERE = b"segment 2026-11-20 block 1"


@pytest.fixture
def cipher():
    pytest.importorskip("cryptography", reason="the extra runfold[encryption] is not installed")
    return AES256GCM(KEY, "agent.db")


@pytest.mark.parametrize("data", [b"", b"a", b"secret" * 10_000], ids=["nothing", "a byte", "much"])
def test_what_was_put_into_a_box_comes_out_of_it(cipher, data):
    box = cipher.seal(data, HERE)

    assert cipher.open(box, HERE) == data
    assert AES256GCM(KEY, "agent.db").open(box, HERE) == data
    assert len(box) == len(data) + OVERHEAD


def test_a_box_tells_nothing_and_is_another_one_each_time(cipher):
    one, other = cipher.seal(b"secret", HERE), cipher.seal(b"secret", HERE)

    assert b"secret" not in one
    assert one[13:] != other[13:]


def test_a_box_altered_anywhere_or_cut_short_does_not_open(cipher):
    box = cipher.seal(b"secret", HERE)

    for place in range(len(box)):
        altered = bytearray(box)
        altered[place] ^= 1
        with pytest.raises(DamagedBox):
            cipher.open(bytes(altered), HERE)
        with pytest.raises(DamagedBox):
            cipher.open(box[:place], HERE)
    assert cipher.open(box, HERE) == b"secret"


def test_a_box_opens_in_its_own_place_only_and_under_its_own_key_only(cipher):
    box = cipher.seal(b"secret", HERE)

    with pytest.raises(DamagedBox, match="not of this place"):
        cipher.open(box, b"segment 2026-11-20 block 2")
    with pytest.raises(DamagedBox, match="another key"):
        AES256GCM(bytes(32), "agent.db").open(box, HERE)


def test_boxes_of_format_1_open_for_ever(cipher):
    """Made by this program once, and never again: what stands on somebody's disk must stay readable."""
    box = bytes.fromhex(GOLDEN)

    assert cipher.open(box, HERE) == b"the first box"
    assert cipher.name("ab" * 32) == NAME


def test_a_name_is_the_same_each_time_and_nobody_makes_it_without_the_key(cipher):
    digest = "ab" * 32

    assert cipher.name(digest) == AES256GCM(KEY, "agent.db").name(digest)
    assert len({digest, cipher.name(digest), AES256GCM(bytes(32), "agent.db").name(digest)}) == 3
    assert len(bytes.fromhex(cipher.name(digest))) == 32


def test_without_the_package_the_store_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)

    with pytest.raises(CannotOpen, match=r"agent.db.* pip install 'runfold\[encryption\]'"):
        AES256GCM(KEY, "agent.db").seal(b"secret", HERE)


GOLDEN = "0157d5251362c2ae42c8a7b2785cb66067883ef579045d35b62ad6d319581d1278ebda2de6b9103f3873"
NAME = "e40f84477874b925768650d5818960ab5d89ba3e94fc3c4251e5568d4e73b292"
