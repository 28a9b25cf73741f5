"""The sorted sequence behind the in-memory topics, against a plain list."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rustic_host.messaging.by_id import CHUNK, ById

# Few different numbers, so that equal ones are frequent; enough steps for chunks to split.
NUMBERS = st.lists(st.integers(0, 60), max_size=400)


class Item:
    def __init__(self, number: int) -> None:
        self.number = number


def filled(numbers: list[int]) -> tuple[ById[Item], list[Item]]:
    """The sequence, and a list that is sorted after each insertion."""
    made: ById[Item] = ById()
    model = [Item(number) for number in numbers]
    for item in model:
        made.add(item.number, item)
    return made, sorted(model, key=lambda item: item.number)


def spread(numbers: list[int]) -> list[int]:
    """Thousands of ids in an order that fills chunks, splits them and inserts into full ones."""
    return [number * 7 + step for step in range(40) for number in numbers]


@given(NUMBERS)
def test_items_lie_by_id_and_then_in_order_of_arrival(numbers: list[int]) -> None:
    made, model = filled(numbers)
    assert list(made) == model
    assert len(made) == len(model)


@given(NUMBERS, st.integers(-1, 61))
def test_after_starts_behind_the_id(numbers: list[int], number: int) -> None:
    made, model = filled(numbers)
    assert list(made.after(number)) == [item for item in model if item.number > number]


def test_many_items_in_any_order_are_found_and_removed() -> None:
    for numbers in (range(3000), range(3000, 0, -1), spread(list(range(0, 300, 3)))):
        made, model = filled(list(numbers))
        assert list(made) == model
        for number in (-1, 5, 100, 700, 1499, 4000):
            assert list(made.after(number)) == [item for item in model if item.number > number]
        gone, kept = model[::2], model[1::2]
        for item in gone:
            made.remove(item.number, item)
        assert list(made) == kept
        for item in kept:
            made.remove(item.number, item)
        assert list(made) == []
        assert len(made) == 0


def test_an_item_among_very_many_with_its_id_is_found() -> None:
    made, model = filled([5] * (5 * CHUNK))
    middle = model[3 * CHUNK]
    made.remove(5, middle)
    assert len(made) == 5 * CHUNK - 1
    assert middle not in list(made)


def test_no_chunk_grows_without_end() -> None:
    made, _ = filled([*range(20 * CHUNK, 0, -1), *spread(list(range(200)))])
    assert max(map(len, made._ids)) <= 2 * CHUNK
    assert all(made._ids)


def test_what_is_not_there_cannot_be_removed() -> None:
    made, _ = filled([1, 2, 3])
    for number in (0, 2, 9):
        try:
            made.remove(number, Item(number))
        except KeyError:
            continue
        raise AssertionError("it was removed")


class Looked(list[Item]):
    """Counts what was looked at of it."""

    looks = 0

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        self.looks += len(found) if isinstance(at, slice) else 1
        return found


def test_what_is_removed_at_once_is_looked_at_once() -> None:
    made, model = filled(list(range(40 * CHUNK)))
    gone = Looked(model)
    made.remove_all(list(range(40 * CHUNK)), gone)
    assert (len(made), gone.looks) == (0, len(model))


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 60), min_size=1, max_size=40)), max_size=20))
def test_many_at_once_is_one_by_one(batches: list[tuple[int, list[int]]]) -> None:
    """Batches in any order, rising ones of more than a chunk among them, then the oldest and others taken out."""
    at_once: ById[Item] = ById()
    arrived: list[Item] = []
    for times, numbers in batches:
        rising = sorted(number + 60 * len(arrived) for number in numbers * 20) if times else numbers
        batch = [Item(number) for number in rising]
        at_once.extend([item.number for item in batch], batch)
        arrived += batch
    assert list(at_once) == sorted(arrived, key=lambda item: item.number)
    assert len(at_once) == len(arrived)
    for share in (3, 2, 1):
        gone, arrived = arrived[: len(arrived) // share], arrived[len(arrived) // share :]
        at_once.remove_all([item.number for item in gone], gone)
        assert list(at_once) == sorted(arrived, key=lambda item: item.number)
        assert len(at_once) == len(arrived)
