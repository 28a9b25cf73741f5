import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier, Event, Thread, current_thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rustic_host.errors import MessageError, MessageTypeError
from rustic_host.messaging import GemstoneGenerator, GemstoneID, Priority
from rustic_host.messaging.gemstone_id import EPOCH_MS, LAST_MS, MAX_ID, wall_clock_ms

U64 = st.integers(0, MAX_ID)
NOW = EPOCH_MS + 123_456_789_012


@given(U64)
def test_any_unsigned_64_bit_number_is_an_id(number: int) -> None:
    read = GemstoneID.from_int(number)
    parts = GemstoneID(read.priority, read.timestamp, read.machine_id, read.sequence_number)
    assert read.to_int() == parts.to_int() == GemstoneID.from_string(str(number)).to_int() == number
    assert read == parts
    assert hash(read) == hash(parts)


@given(U64, U64)
def test_ids_order_as_their_numbers(one: int, other: int) -> None:
    left, right = GemstoneID.from_int(one), GemstoneID.from_int(other)
    assert (left < right, left <= right, left == right, left > right, left >= right) == (
        one < other,
        one <= other,
        one == other,
        one > other,
        one >= other,
    )


def test_parts_lie_where_rustic_ai_puts_them() -> None:
    made = GemstoneID(Priority.NORMAL, NOW, 3, 7)
    assert made.to_int() == 9741187340834975751
    assert str(made) == "9741187340834975751"
    assert repr(made) == f"GemstoneID(priority=NORMAL, timestamp={NOW}, machine_id=3, sequence_number=7)"
    assert GemstoneID(Priority.URGENT, NOW, 3, 7).to_int() == 517815303980199943
    assert GemstoneID(Priority.LOWEST, NOW, 3, 7).to_int() == 16658716368476057607


@pytest.mark.parametrize(
    "parts",
    [
        (8, NOW, 0, 0),
        (-1, NOW, 0, 0),
        (4, EPOCH_MS - 1, 0, 0),
        (4, LAST_MS + 1, 0, 0),
        (4, NOW, 1024, 0),
        (4, NOW, 0, 4096),
        (4, NOW, 0, -1),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: tuple[int, int, int, int]) -> None:
    with pytest.raises(MessageError):
        GemstoneID(*parts)


@pytest.mark.parametrize("number", [-1, MAX_ID + 1])
def test_numbers_out_of_range_are_refused(number: int) -> None:
    with pytest.raises(MessageError):
        GemstoneID.from_int(number)


@pytest.mark.parametrize("number", ["5", 5.0, True, None])
def test_ids_are_integers(number: object) -> None:
    with pytest.raises(MessageTypeError):
        GemstoneID.from_int(number)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "-5", "5.0", "1_0", " 5", "٣", "18446744073709551616", "9" * 10_000])
def test_texts_that_are_no_id_are_refused(text: str) -> None:
    with pytest.raises(MessageError):
        GemstoneID.from_string(text)


def test_leading_zeros_do_not_matter() -> None:
    assert GemstoneID.from_string("0" * 30 + "7").to_int() == 7
    assert GemstoneID.from_string("0").to_int() == 0


def test_an_id_compares_with_ids_only() -> None:
    an_id: object = GemstoneID.from_int(5)
    assert an_id != 5
    with pytest.raises(TypeError):
        an_id < 5  # type: ignore[operator] # noqa: B015


def generator_on(readings: Iterator[int], block: tuple[int, int] = (0, 4096)) -> GemstoneGenerator:
    return GemstoneGenerator(3, sequence_block=block, clock=lambda: next(readings))


READINGS = st.one_of(
    st.integers(NOW - 3, NOW + 3),
    st.sampled_from([0, -1, EPOCH_MS, LAST_MS, LAST_MS + 1, LAST_MS - (1 << 30), 1 << 80]),
    st.integers(0, LAST_MS * 2),
)


@given(st.lists(READINGS, min_size=1, max_size=300), st.integers(1, 4), st.data())
def test_ids_grow_whatever_the_clock_does(readings: list[int], size: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, 4096 - size))
    generator = generator_on(iter(readings), (first, size))
    ids = [generator.get_id() for _ in readings]
    assert all(one < other for one, other in pairwise(ids))
    assert all(first <= made.sequence_number < first + size and made.machine_id == 3 for made in ids)


@given(st.lists(st.tuples(READINGS, st.sampled_from(Priority)), min_size=1, max_size=100))
def test_priorities_share_one_sequence(wanted: list[tuple[int, Priority]]) -> None:
    generator = generator_on(reading for reading, _ in wanted)
    ids = [generator.get_id(priority) for _, priority in wanted]
    assert [made.priority for made in ids] == [priority for _, priority in wanted]
    below_priority = [made.to_int() & (1 << 61) - 1 for made in ids]
    assert below_priority == sorted(set(below_priority))


def test_each_millisecond_starts_the_sequence_again() -> None:
    generator = generator_on(iter([NOW, NOW, NOW + 1]))
    made = [generator.get_id() for _ in range(3)]
    assert [(m.timestamp, m.sequence_number) for m in made] == [(NOW, 0), (NOW, 1), (NOW + 1, 0)]


def test_a_used_up_block_takes_the_next_millisecond() -> None:
    generator = generator_on(iter([NOW] * 5), (16, 2))
    made = [generator.get_id() for _ in range(5)]
    assert [(m.timestamp - NOW, m.sequence_number) for m in made] == [(0, 16), (0, 17), (1, 16), (1, 17), (2, 16)]


def test_a_clock_stepping_back_is_not_followed() -> None:
    generator = generator_on(iter([NOW, NOW - 60_000, NOW + 1]))
    assert [generator.get_id().timestamp for _ in range(3)] == [NOW, NOW, NOW + 1]


def test_a_reading_that_no_id_can_hold_is_ignored() -> None:
    generator = generator_on(iter([NOW, LAST_MS + 1, LAST_MS, NOW + 1]))
    assert [generator.get_id().timestamp for _ in range(4)] == [NOW, NOW, NOW, NOW + 1]


def test_the_first_id_is_not_before_the_given_time() -> None:
    generator = GemstoneGenerator(1, not_before_ms=NOW + 500, clock=lambda: NOW)
    assert generator.get_id().timestamp == NOW + 500


def test_the_default_clock_is_the_wall_clock() -> None:
    before = wall_clock_ms()
    assert before <= GemstoneGenerator(1).get_id().timestamp <= wall_clock_ms()


@pytest.mark.parametrize(
    ("machine_id", "block", "not_before"),
    [
        (-1, (0, 1), 0),
        (256, (0, 1), 0),
        (0, (0, 0), 0),
        (0, (-1, 5), 0),
        (0, (4095, 2), 0),
        (0, (4096, 1), 0),
        (0, (0, 1), -1),
        (0, (0, 1), LAST_MS),
    ],
)
def test_settings_out_of_range_are_refused(machine_id: int, block: tuple[int, int], not_before: int) -> None:
    with pytest.raises(MessageError):
        GemstoneGenerator(machine_id, sequence_block=block, not_before_ms=not_before)


@pytest.fixture
def _eager_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_eager_threads")
def test_threads_share_a_generator() -> None:
    readings = iter([NOW, NOW - 5, NOW + 1] * 100_000)
    # A clock in Python, so that the interpreter may change threads while it is asked.
    generator = GemstoneGenerator(1, sequence_block=(0, 7), clock=lambda: next(readings))
    barrier = Barrier(8)

    def make(_: int) -> list[GemstoneID]:
        barrier.wait(timeout=10)
        return [generator.get_id() for _ in range(2_000)]

    with ThreadPoolExecutor(8) as pool:
        made = [each for ids in pool.map(make, range(8)) for each in ids]
    assert len(set(made)) == 16_000


@pytest.mark.parametrize("at", [NOW - 5, NOW, NOW + 1, NOW + 5])
def test_a_thread_that_stood_still_at_the_clock_makes_an_id_of_its_own(at: int) -> None:
    asked, go_on = Event(), Event()
    read = iter([NOW])

    def clock() -> int:
        if current_thread() is not slow:
            return next(read, NOW + 3)
        asked.set()
        assert go_on.wait(10)
        return at

    generator = GemstoneGenerator(1, sequence_block=(0, 2), clock=clock)
    late: list[GemstoneID] = []
    slow = Thread(target=lambda: late.append(generator.get_id()))
    before = generator.get_id()
    slow.start()
    assert asked.wait(10)
    meanwhile = [generator.get_id() for _ in range(5)]
    go_on.set()
    slow.join(10)
    after = [generator.get_id() for _ in range(3)]
    assert [before, *meanwhile, *after] == sorted({before, *meanwhile, *after})
    assert before < late[0] < after[0]
    assert late[0] not in meanwhile


@pytest.mark.usefixtures("_eager_threads")
def test_whoever_is_told_of_an_id_makes_a_larger_one() -> None:
    readings = iter([NOW, NOW + 1, NOW, NOW + 2, NOW + 2, NOW + 3] * 20_000)
    generator = GemstoneGenerator(1, sequence_block=(0, 5), clock=lambda: next(readings))
    told, wrong = GemstoneID.from_int(0), list[tuple[GemstoneID, GemstoneID]]()

    def make(_: int) -> None:
        nonlocal told
        for _ in range(3_000):
            before = told
            made = generator.get_id()
            if made <= before:
                wrong.append((before, made))
            told = made

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(8)))
    assert not wrong


def test_4096_generators_never_collide() -> None:
    generators = [
        GemstoneGenerator(machine, sequence_block=(block * 256, 256), clock=lambda: NOW)
        for machine in range(256)
        for block in range(16)
    ]
    made = {generator.get_id() for generator in generators for _ in range(10)}
    assert len(generators) == 4096
    assert len(made) == 40_960


def test_a_generator_that_becomes_another_makes_its_ids_later_than_its_own() -> None:
    first = GemstoneGenerator(1, clock=lambda: 1_800_000_000_000)
    before = first.get_id()
    first.become(GemstoneGenerator(2, sequence_block=(256, 256)))
    after = first.get_id()
    assert (after.to_int() >> 12 & 0xFF, after.to_int() & 0xFFF) == (2, 256)
    assert after.timestamp > before.timestamp
