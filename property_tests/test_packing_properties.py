"""Packing brings back every payload exactly, and whatever is not one of its forms is refused, in bounded memory."""

import itertools
import random
import struct
import tracemalloc
import zlib

from hypothesis import given
from hypothesis import strategies as st

from eventstore.limits import MAX_BYTES
from eventstore.packing import Bases, DamagedForm
from eventstore.packing.forms import Compression, _varints, decode
from eventstore.packing.pieces import Whole, _agree, _agree_backwards, difference, literal_bytes
from tests.packed import Payloads

# Few letters, so that everything is found in many wrong places; long runs, so that blocks are passed.
REPETITIVE = st.lists(
    st.tuples(st.sampled_from([b"a", b"ab", b'","role":"user","content":"', b"\xff", b"0"]), st.integers(1, 400)),
    max_size=12,
).map(lambda runs: b"".join(part * times for part, times in runs))
BYTES = REPETITIVE | st.binary(max_size=400)
TEXT = st.text(st.sampled_from('ab"{}:é漢🙂'), min_size=1, max_size=40)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 60), TEXT), max_size=5)


SEEDS = st.integers(0, 2**32)


def noise(seed, size):
    """Text in which nothing stands twice."""
    return random.Random(seed).randbytes(size).hex()


def edited(text, edits):
    """The text with so many characters replaced at so many places."""
    for place, removed, put_in in edits:
        at = int(place * len(text))
        text = text[:at] + put_in + text[at + removed :]
    return text


def filled(pieces, length, base):
    whole = Whole(length)
    whole.fill(pieces)
    if whole.reach:
        whole.fill([(0, len(base), base)])
    return whole.join()


@given(BYTES, BYTES)
def test_the_pieces_of_any_two_make_the_new_one_of_the_base(new, base):
    pieces = difference(new, base)

    assert filled(pieces, len(new), base) == new
    copies = [(offset, offset + length) for offset, length, source in pieces if source is None]
    assert all(length > 0 for _, length, _ in pieces)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(copies))


@given(SEEDS, st.integers(0, 9_000), st.integers(0, 50), st.integers(0, 50), st.integers(0, 9_000))
def test_how_far_two_agree_is_found_to_the_byte(seed, size, i, j, changed):
    shared = noise(seed, size).encode()
    one, other = b"1" * i + shared, b"0" * j + shared[:changed] + b"!" + shared[changed + 1 :]
    ahead = min(len(one) - i, len(other) - j)

    agree = next((k for k in range(ahead) if one[i + k] != other[j + k]), ahead)
    assert _agree(one, i, other, j, ahead) == agree
    i, j = len(one), len(other)
    behind = min(i, j)
    before = next((k for k in range(behind) if one[i - k - 1] != other[j - k - 1]), behind)
    assert _agree_backwards(one, i, other, j, behind) == before


@given(SEEDS, EDITS)
def test_what_stays_of_a_state_is_found_wherever_it_changes(seed, edits):
    state = noise(seed, 6_000)
    new = edited(state, edits).encode()

    pieces = difference(new, state.encode())

    # Each edit may cost what it put in, and at most an anchor and what is passed over on either side.
    assert literal_bytes(pieces) <= sum(len(put_in.encode()) + 256 for _, _, put_in in edits)


@given(SEEDS, st.lists(EDITS, min_size=1, max_size=40), st.data())
def test_every_state_of_a_run_comes_back_whatever_is_remembered_or_undone(seed, steps, data):
    payloads, bases, texts = Payloads(), Bases(most_bytes=30_000), {}
    text = noise(seed, 2_200)
    for step in steps:
        text = edited(text, step)
        version = max(texts, default=0) + 1
        texts[version] = text
        payloads.save(text, bases)
        if data.draw(st.integers(0, 5)) == 0:
            del texts[version], payloads.rows[version]
        if data.draw(st.integers(0, 5)) == 0:
            bases = Bases()
    page = Bases()

    assert {version: payloads.load(version) for version in texts} == texts
    assert {version: payloads.load(version, page) for version in texts} == texts


@given(SEEDS, st.lists(EDITS, min_size=1, max_size=8), st.data())
def test_a_flipped_bit_is_told_or_changes_nothing(seed, steps, data):
    payloads, bases, texts = Payloads(), Bases(), [noise(seed, 2_200)]
    texts += [edited(texts[-1], step) for step in steps]
    for text in texts:
        payloads.save(text, bases)
    version = data.draw(st.sampled_from([v for v, row in payloads.rows.items() if isinstance(row.data, bytes)]))
    form = bytearray(payloads.rows[version].data)
    form[data.draw(st.integers(0, len(form) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    payloads.rows[version] = payloads.rows[version]._replace(data=bytes(form))

    for number, text in enumerate(texts, start=1):
        try:
            assert payloads.load(number) == text
        except DamagedForm:
            assert number >= version


def refused_or_small(form):
    """What decoding takes at most, whatever it is given."""
    tracemalloc.start()
    try:
        decoded = decode(form, Compression())
        assert 0 <= decoded.length <= MAX_BYTES
        assert literal_bytes(decoded.pieces) <= decoded.length
    except DamagedForm:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2 * MAX_BYTES


NUMBER = st.integers(0, 300) | st.sampled_from([2**21, MAX_BYTES, 2**28, 2**32 - 1])


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_a_form(form):
    refused_or_small(form)


@given(
    st.sampled_from([1, 2]),
    st.tuples(NUMBER, NUMBER, NUMBER, st.binary(min_size=8, max_size=8)),
    st.lists(NUMBER, max_size=12),
    st.integers(0, 2),
    st.binary(max_size=40) | st.integers(0, 100_000).map(lambda size: Compression().compress(bytes(size))),
)
def test_any_numbers_under_a_right_crc_are_refused_or_a_form(tag, head, steps, method, tail):
    body = struct.pack(">IIQ8sI", *head, len(steps) // 3 << 8 | method) + _varints(steps) + tail

    refused_or_small(bytes([tag]) + zlib.crc32(body).to_bytes(4, "big") + body)
