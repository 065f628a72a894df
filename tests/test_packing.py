"""Large payloads cost what changed, come back as they were, and a damaged one is told."""

import random
import struct
import zlib

import pytest

from eventstore.limits import MAX_BYTES
from eventstore.packing import Bases, DamagedForm, plain_length
from eventstore.packing import bases as bases_module
from eventstore.packing.forms import DIFFERENCE, WHOLE, Compression, _varints, decode
from eventstore.packing.pieces import Whole, _Search, difference, literal_bytes
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
    depth = {}
    packed = [version for version in range(1, 1_001) if isinstance(payloads.rows[version].data, bytes)]
    for version in packed:
        back = decode(payloads.rows[version].data, Compression()).back
        depth[version] = 1 + depth[version - back] if back else 1
    assert max(depth.values()) <= 64
    assert len(depth) > 940
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


@pytest.mark.parametrize("place", [0, 1, 254, 255, 256, 257, 511, 2_303, 2_304, 3_000, 70_000, 99_998, 99_999])
def test_one_other_byte_is_one_literal_byte(place):
    base = words(CHANCE, 110_000).encode()[:100_000]
    new = base[:place] + b"!" + base[place + 1 :]

    assert literal_bytes(difference(new, base)) == 1


def test_so_many_places_may_differ_and_no_more():
    parts = [words(CHANCE, 100) for _ in range(2_000)]

    pieces = difference("1".join(parts).encode(), "2".join(parts).encode())

    assert 1_000 < len(pieces) < 1_100


def test_the_search_for_what_is_shared_gives_up():
    one, other = (bytes(random.Random(seed).choices(b"01", k=50_000)) for seed in (1, 2))
    search = _Search(one, len(one), other, len(other))

    search.between(0, 0)

    assert -100_000 < search._left <= 0


def test_a_small_state_has_few_bases():
    payloads, bases = Payloads(), Bases()
    state = words(CHANCE, 5_000)
    for number in range(20):
        payloads.save(f'{{"step":{number},"state":"{state}"}}', bases)

    assert max(len(descent(payloads, version)) for version in range(1, 21)) <= 3
    assert payloads.bytes < 2 * len(state)


def test_what_is_short_stays_json_that_any_tool_can_read():
    text = '{"short":"' + "x" * 900 + '"}'

    assert Payloads().save(text) == text


def test_even_noise_takes_less_than_its_json():
    text = CHANCE.randbytes(3_000).hex()

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
    for version in range(1, 41):
        assert len(descent(saved, version)) <= 1 + len(saved.rows[version].data) // 10 + version // 2
        assert len(descent(saved, version)) <= 32


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

    assert bases.of(payloads[0].rows[1]) == []
    assert len(bases.of(payloads[7].rows[1])) == 1


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


def test_what_is_remembered_of_an_undone_append_is_not_read_through():
    payloads, bases = Payloads(), Bases()
    state = words(CHANCE, 20_000)
    payloads.save(state, bases)
    payloads.save(state + "undone", bases)
    payloads.save(state + "stands", version=2)
    payloads.save(state + "stands, and more")

    assert payloads.load(3, bases) == state + "stands, and more"


def test_an_older_state_that_is_read_does_not_take_the_place_of_the_last():
    payloads, bases = Payloads(), Bases()
    for text in states(20):
        payloads.save(text, bases)
    payloads.load(5, bases)
    payloads.save(list(states(21))[-1], bases)

    assert descent(payloads, 21)[1] == 20


def test_a_difference_that_is_wrong_is_not_written(monkeypatch):
    payloads, bases = Payloads(), Bases()
    state = words(CHANCE, 20_000)
    payloads.save(state, bases)
    monkeypatch.setattr(bases_module, "difference", lambda new, _base: [(1, len(new), None)])

    assert payloads.save(state[:-5] + "other", bases)[0] == WHOLE
    assert payloads.load(2) == state[:-5] + "other"


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
        sealed(WHOLE, b""), whole(100, b""), whole(100, b"no frame"), whole(100, FRAME),
        whole(MAX_BYTES + 1, Compression().compress(bytes(MAX_BYTES + 1))),
        whole(10_000_000, FRAME[:-4]), whole(10_000_000, FRAME + b"more"),
        over(b"", (0, 0, 100), bytes(100), generation=0), over(b"", (0, 0, 100), bytes(100), back=0),
        over(b"", literals=b"x" * 100), over(b"", (0, 50, 0)), over(b"", (0, 0, 100), FRAME, method=1),
        over(b"", (0, 0, 100), bytes(99)), over(b"", (0, 0, 100), bytes(101)), over(b"", (0, 2**70, 0)),
        over(b"", literals=b"\0" + b"\x80" * 6 + b"\0\0", length=0, method=1 << 8), over(b"")[:20],
        over(b"", literals=b"\x80" * 100_000, method=2**32 - 1),
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


def test_literals_that_are_no_longer_needed_are_let_go_while_reading(saved, monkeypatch):
    monkeypatch.setattr(bases_module, "_MOST_HELD", 5_000)
    freed = []
    honest = Whole.let_go
    monkeypatch.setattr(Whole, "let_go", lambda whole: freed.append(honest(whole)) or freed[-1])

    assert [saved.load(version) for version in range(1, 41)] == list(states(40))
    assert freed
