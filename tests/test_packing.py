"""Large payloads cost what changed, come back as they were, and a damaged one is told."""

import random
import struct
import zlib

import pytest

from eventstore.limits import MAX_BYTES
from eventstore.packing import Bases, DamagedForm, plain_length
from eventstore.packing.forms import DIFFERENCE, WHOLE, Compression, _varints, decode
from eventstore.packing.pieces import difference, literal_bytes
from tests.packed import Payloads, states, words

CHANCE = random.Random(7)


def descent(payloads, version):
    """The versions that a payload is read through, itself first."""
    form = decode(payloads.rows[version].data, Compression())
    return [version] if not form.back else [version, *descent(payloads, version - form.back)]


@pytest.fixture
def saved():
    """Forty states of a growing run."""
    payloads, bases = Payloads(), Bases()
    for text in states(40):
        payloads.save(text, bases)
    return payloads


# --- what it costs ------------------------------------------------------------------------------------------------


def test_a_growing_state_takes_less_than_twice_what_is_new_in_it():
    payloads, bases = Payloads(), Bases()
    for text in states(300):
        payloads.save(text, bases)

    assert payloads.bytes < 2 * len(text)


def test_a_thousand_steps_of_noise_take_less_than_twice_what_is_new_in_them():
    chance = random.Random(1)
    payloads, bases, state = Payloads(), Bases(), ""
    for _ in range(1_000):
        state += chance.randbytes(300).hex()
        payloads.save(f'{{"state":"{state}"}}', bases)

    assert payloads.bytes < 2 * len(state)
    assert max(len(descent(payloads, version)) for version in range(60, 1_001)) <= 64
    assert payloads.load(1_000) == f'{{"state":"{state}"}}'


def test_a_small_change_to_a_large_state_takes_a_few_bytes():
    payloads, bases = Payloads(), Bases()
    state = words(CHANCE, 100_000)

    payloads.save(state, bases)

    assert len(payloads.save(state[:50_000] + "!" + state[50_000:], bases)) < 60
    assert len(payloads.save(state[:20_000] + state[21_000:] + "more", bases)) < 60


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: [*parts, words(CHANCE, 300)],
        lambda parts: [words(CHANCE, 300), *parts],
        lambda parts: [*parts[1:], words(CHANCE, 300)],
        lambda parts: [*parts[:20], words(CHANCE, 300), *parts[20:60], words(CHANCE, 300), *parts[60:], "!"],
        lambda parts: [*parts[:10], *parts[12:50], words(CHANCE, 300), *parts[53:]],
        lambda parts: ["a", *parts[1:30], "b", *parts[31:60], "c", *parts[61:]],
    ],
    ids=["behind", "before", "a window that slides", "in several places", "out and in", "places that are replaced"],
)
def test_only_what_is_new_is_literal_wherever_a_state_changes(change):
    parts = [words(CHANCE, 500) for _ in range(80)]
    base, new = "|".join(parts).encode(), "|".join(change(parts)).encode()

    assert literal_bytes(difference(new, base)) < 1_000


def test_what_is_short_stays_json_that_any_tool_can_read():
    text = '{"short":"' + "x" * 900 + '"}'

    assert Payloads().save(text) == text


def test_even_noise_takes_less_than_its_json():
    text = CHANCE.randbytes(600).hex()

    assert len(Payloads().save(text)) < 0.6 * len(text)


def test_what_shares_nothing_with_the_last_one_stands_by_itself():
    payloads, bases = Payloads(), Bases()
    for _ in range(3):
        payloads.save("".join(CHANCE.choices("0123456789abcdef", k=5_000)), bases)

    assert [row.data[0] for row in payloads.rows.values()] == [WHOLE] * 3


def test_a_base_is_of_the_same_type():
    payloads, bases = Payloads(), Bases()
    state = words(CHANCE, 5_000)
    payloads.save(state, bases)
    payloads.save(state, bases, kind="ToolReturned")

    assert [row.data[0] for row in payloads.rows.values()] == [WHOLE, WHOLE]


def test_no_payload_lies_far_from_a_whole_one(saved):
    assert len(descent(saved, 32)) == 32
    assert descent(saved, 33) == [33]
    assert descent(saved, 40) == [40, 39, 38, 37, 36, 35, 34, 33]


# --- coming back --------------------------------------------------------------------------------------------------


def test_every_state_comes_back_as_it_was(saved):
    assert [saved.load(version) for version in range(1, 41)] == list(states(40))


def test_a_page_of_states_is_read_each_over_the_one_before(saved):
    bases = Bases()
    saved.asked = 0
    for version in range(1, 31):
        saved.load(version, bases)

    assert saved.asked == 0


def test_nothing_hangs_on_what_is_remembered(saved):
    forgetful = Payloads()
    for text in states(40):
        forgetful.save(text, Bases())

    assert forgetful.rows == saved.rows


def test_what_is_remembered_is_bounded_by_its_bytes():
    bases = Bases(most_bytes=50_000)
    payloads = [Payloads(f"run-{number}") for number in range(8)]
    for run in payloads:
        run.save(words(CHANCE, 20_000), bases)

    assert bases.get("run-0", "CheckpointSaved") is None
    assert bases.get("run-7", "CheckpointSaved") is not None


def test_a_state_larger_than_all_that_may_be_remembered_is_remembered_alone():
    bases = Bases(most_bytes=1_000)
    payloads = Payloads()
    state = words(CHANCE, 20_000)
    payloads.save(state, bases)
    payloads.asked = 0
    payloads.save(state + "more", bases)

    assert payloads.asked == 1


def test_an_append_that_was_undone_is_no_base():
    payloads, bases = Payloads(), Bases()
    state = words(CHANCE, 20_000)
    payloads.save(state, bases)
    payloads.save(state + "undone", bases)
    del payloads.rows[2]
    payloads.save(state + "undone, and done otherwise", bases)

    assert payloads.load(2) == state + "undone, and done otherwise"


def test_an_append_that_was_undone_and_done_otherwise_by_another_process_is_no_base():
    payloads, bases = Payloads(), Bases()
    state = words(CHANCE, 20_000)
    payloads.save(state, bases)
    payloads.save(state + "undone", bases)
    payloads.save(state + "another's", version=2)
    payloads.save(state + "undone, and more", bases)

    assert payloads.load(2) == state + "another's"
    assert payloads.load(3) == state + "undone, and more"


def test_two_processes_that_take_turns_read_each_others_states():
    payloads, both = Payloads(), (Bases(), Bases())
    texts = list(states(80))
    for number, text in enumerate(texts):
        payloads.save(text, both[number % 2])

    assert [payloads.load(version) for version in range(1, 81)] == texts


def test_a_damaged_base_costs_bytes_and_not_the_append(saved):
    last = list(states(41))[-1]
    changed(saved, 40, b"\x02damaged")

    assert saved.save(last)[0] == WHOLE
    assert saved.load(41) == last


# --- damage -------------------------------------------------------------------------------------------------------


def changed(saved, version, data):
    saved.rows[version] = saved.rows[version]._replace(data=data)


def test_a_missing_base_is_named(saved):
    del saved.rows[20]

    with pytest.raises(DamagedForm, match="needs version 20 of run-1, which is missing"):
        saved.load(30)


def test_a_base_that_is_another_entry_is_named(saved):
    saved.rows[20] = saved.rows[20]._replace(hash=bytes(32))

    with pytest.raises(DamagedForm, match="version 20 of run-1, which is not the one it was made over"):
        saved.load(21)


def test_a_base_that_is_no_packed_form_is_named(saved):
    changed(saved, 20, "{}")

    with pytest.raises(DamagedForm, match="version 20 of run-1, which is not packed"):
        saved.load(21)


def test_a_flipped_bit_is_told_by_whoever_reads_through_it(saved):
    data = bytearray(saved.rows[20].data)
    data[-1] ^= 1
    changed(saved, 20, bytes(data))

    with pytest.raises(DamagedForm, match=r"^its packed form is damaged"):
        saved.load(20)
    with pytest.raises(DamagedForm, match=r"^it needs version 20 of run-1, and there its packed form is damaged"):
        saved.load(30)


def sealed(tag, body):
    return b"%c%b%b" % (tag, zlib.crc32(body).to_bytes(4, "big"), body)


def whole(length, frame):
    return sealed(WHOLE, length.to_bytes(4, "big") + frame)


def over(check, steps=(), literals=b"", *, length=100, generation=1, back=1, method=0):
    """A difference of any numbers, under a right CRC."""
    head = struct.pack(">IIQ8sI", length, generation, back, check, len(steps) // 3 << 8 | method)
    return sealed(DIFFERENCE, head + _varints(steps) + literals)


FRAME = Compression().compress(bytes(10_000_000))


@pytest.mark.parametrize(
    "forged",
    [
        b"", b"\x00", b"\x01", b"\x02\0\0\0\0", b"\xff" * 40,
        sealed(WHOLE, b""), whole(100, b""), whole(100, b"no frame"), whole(100, FRAME), whole(MAX_BYTES + 1, FRAME),
        whole(10_000_000, FRAME[:-4]), whole(10_000_000, FRAME + b"more"),
        over(b"", generation=0), over(b"", back=0), over(b"", literals=b"x" * 100), over(b"", (0, 50, 0)),
        over(b"", (0, 0, 100), bytes(99)), over(b"", (0, 0, 100), bytes(101)), over(b"", (0, 0, 100), FRAME, method=1),
        over(b"", (0, 2**70, 0)), over(b"", (0, 0))[:-1], over(b"")[:20],
        sealed(DIFFERENCE, struct.pack(">IIQ8sI", 100, 1, 1, b"", 2**32 - 1) + b"\x80" * 100_000),
    ],
)  # fmt: skip
def test_forged_forms_are_refused(forged):
    with pytest.raises(DamagedForm):
        decode(forged, Compression())


def test_a_forged_difference_reaches_nothing_beyond_its_base(saved):
    check = saved.rows[20].hash[:8]
    changed(saved, 21, over(check, (0, 10_000_000, 0), length=10_000_000, generation=20))

    with pytest.raises(DamagedForm, match="beyond the end of its base"):
        saved.load(21)
    bases = Bases()
    saved.load(20, bases)
    with pytest.raises(DamagedForm, match="beyond the end of its base"):
        saved.load(21, bases)


def test_a_form_is_no_base_of_itself_or_of_an_earlier_generation(saved):
    changed(saved, 21, over(saved.rows[20].hash[:8], (0, 10, 0), length=10, generation=19))

    with pytest.raises(DamagedForm, match="of no earlier generation"):
        saved.load(21)


def test_a_descent_that_no_program_of_ours_makes_is_refused():
    payloads = Payloads()
    payloads.save(words(CHANCE, 5_000))
    for version in range(2, 700):
        check = payloads.rows[version - 1].hash[:8]
        payloads.save("x", version=version)
        changed(payloads, version, over(check, (0, 10, 0), length=10, generation=version))

    with pytest.raises(DamagedForm, match="more than 512 bases"):
        payloads.load(699)


def test_bytes_that_are_no_text_are_refused():
    payloads = Payloads()
    payloads.save("x")
    changed(payloads, 1, whole(2_000, Compression().compress(b"\xff" * 2_000)))

    with pytest.raises(DamagedForm, match="no text"):
        payloads.load(1)


def test_the_beginning_of_a_form_tells_how_long_its_json_is(saved):
    lengths = [plain_length(row.data[:9]) for row in saved.rows.values()]

    assert lengths == [len(text) for text in states(40)]
