"""Leases of id slots. Slots are one set for a whole server, so each test has its own."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rustic_host.errors import MessagingError
from rustic_host.messaging.redis import keys, slots
from rustic_host.messaging.redis.slots import BLOCKS, MACHINES, Slot, lease, release, renew
from tests.messaging.bus import Bus

ALL = MACHINES * BLOCKS


def taken_until(bus: Bus, number: int) -> float:
    return float(bus.raw.zscore(keys.PLAIN.slots_key(), str(number)))


def test_all_slots_are_distinct_and_then_there_are_none(own_bus: Bus) -> None:
    publisher = own_bus.publisher()
    leased = [lease(publisher) for _ in range(ALL)]
    assert {slot.number for slot in leased} == set(range(ALL))
    assert {slot.not_before_ms for slot in leased} == {0}
    with pytest.raises(MessagingError, match="all 4096 id slots"):
        lease(publisher)
    release(publisher, [leased[7], leased[3], leased[5]])
    own_bus.raw.zadd(keys.PLAIN.slots_key(), {"5": 1000})
    again = [lease(publisher) for _ in range(3)]
    assert [slot.number for slot in again] == [5, 3, 7]  # the longest unused first
    assert all(slot.not_before_ms > 0 for slot in again)
    with pytest.raises(MessagingError):
        lease(publisher)


def test_a_slot_that_is_given_back_is_used_again_last(own_bus: Bus) -> None:
    publisher = own_bus.publisher()
    first = lease(publisher)
    release(publisher, [first])
    assert lease(publisher).number != first.number


def test_the_next_holder_begins_after_the_last(own_bus: Bus) -> None:
    publisher = own_bus.publisher()
    leased = [lease(publisher) for _ in range(ALL)]
    release(publisher, leased[9:10])
    again = lease(publisher)
    generator = again.generator()
    assert generator.get_id().timestamp >= again.not_before_ms > 0


def test_an_expired_lease_is_somebody_elses(own_bus: Bus) -> None:
    publisher = own_bus.publisher()
    for _ in range(ALL):
        lease(publisher)
    own_bus.raw.zadd(keys.PLAIN.slots_key(), {"11": 1000})
    assert lease(publisher) == Slot(11, 1000)


def test_renewing_moves_the_end_of_a_lease(own_bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = own_bus.publisher()
    slot = lease(publisher)
    before = taken_until(own_bus, slot.number)
    monkeypatch.setattr(slots, "LEASE_SECONDS", slots.LEASE_SECONDS * 2)
    renew(publisher, [slot])
    assert taken_until(own_bus, slot.number) >= before + slots.LEASE_SECONDS * 500 - 1000
    renew(publisher, [])


def test_slots_renewed_after_a_loss_of_data_are_not_leased_to_others(own_bus: Bus) -> None:
    publisher = own_bus.publisher()
    held = [lease(publisher) for _ in range(6)]
    own_bus.raw.delete(keys.PLAIN.slots_key())
    renew(publisher, held[2:5])
    fresh = [lease(publisher).number for _ in range(ALL - 3)]
    assert sorted([*fresh, 2, 3, 4]) == list(range(ALL))
    with pytest.raises(MessagingError):
        lease(publisher)


def test_many_who_ask_at_once_get_distinct_slots(own_bus: Bus) -> None:
    at_once = threading.Barrier(200)

    def one(_: int) -> Slot:
        publisher = own_bus.publisher()
        at_once.wait(60)
        return lease(publisher)

    with ThreadPoolExecutor(200) as pool:
        leased = list(pool.map(one, range(200)))
    assert len({slot.number for slot in leased}) == 200


def test_generators_of_distinct_slots_never_make_the_same_id() -> None:
    made = [Slot(number, 0).generator().get_id().to_int() & 0x3FFFFF for number in range(ALL)]
    machines = {(low >> 12, low & 0xFFF) for low in made}
    assert len(machines) == ALL


def test_a_slot_that_expired_and_is_somebody_elses_is_not_renewed_and_not_given_back(own_bus: Bus) -> None:
    publisher = own_bus.publisher()
    held = [lease(publisher) for _ in range(ALL)]
    own_bus.raw.zadd(keys.PLAIN.slots_key(), {"11": 1000})  # its holder was stopped for long
    other = lease(publisher)
    assert other.number == 11
    assert [slot.number for slot in renew(publisher, [held[10], held[11], held[12]])] == [10, 12]
    before = taken_until(own_bus, 11)
    release(publisher, [held[11]])
    assert taken_until(own_bus, 11) == before
    (again,) = renew(publisher, [other])
    assert again.until_ms == taken_until(own_bus, 11) >= other.until_ms
    assert renew(publisher, [again]) == [other]


def test_a_slot_that_expired_and_nobody_took_is_renewed(own_bus: Bus) -> None:
    publisher = own_bus.publisher()
    slot = lease(publisher)
    own_bus.raw.zadd(keys.PLAIN.slots_key(), {str(slot.number): 1000})
    assert renew(publisher, [slot]) == [slot]
    assert taken_until(own_bus, slot.number) > slot.until_ms - 1
