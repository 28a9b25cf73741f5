"""The ways in which Rustic AI loses or doubles messages (facts 2.6, by number), each played against our bus."""

import json
import threading
from collections import Counter
from typing import Any

import pytest

from rustic_host.messaging import GemstoneID, Message, Priority
from rustic_host.messaging.delivery import frames_of
from tests.conformance.reading import Reading, bridged
from tests.messaging.bus import CLIENT, GENERATOR, OUTSIDE, Bus, message, wait_until
from tests.messaging.redis import foreign


def no_more(bus: Bus, reading: Reading, n: int, topic: str = "t") -> None:
    """Everything in the log is handled, and it was so many."""
    wait_until(lambda: bus.pending(topic) == 0 and bus.raw.xinfo_groups(bus.log(topic))[0]["lag"] == 0)
    assert len(reading.messages) == n


def test_1_a_publisher_that_dies_between_storing_and_ringing(bus: Bus) -> None:
    reading = Reading(bus)
    with bridged(bus), reading.client("t"):
        foreign.store(bus, foreign.foreign_message(1))
        foreign.publish(bus, 2)
        reading.wait(2)
        foreign.store(bus, foreign.foreign_message(3))
    with bridged(bus), reading.client("t"):
        reading.wait(3)
        no_more(bus, reading, 3)
    assert sorted(reading.numbers, key=str) == [1, 2, 3]


def test_2_a_publish_that_is_retried_whole(bus: Bus) -> None:
    reading = Reading(bus)
    publisher = bus.publisher()
    with bridged(bus) as bridge, reading.client("t"):
        made = foreign.foreign_message(1)
        for _ in range(3):
            foreign.ring(bus, foreign.store(bus, made))
        reading.wait(1)
        foreign.ring(bus, foreign.store(bus, made))  # its reply came late
        frames = frames_of(message("t", {"n": 2}))
        for _ in range(3):
            publisher.publish(bus.namespace, frames)
        assert bridge.catch_up(10)
        reading.wait(2)
        no_more(bus, reading, 2)


def test_3_published_while_the_subscriptions_were_cut(own_bus: Bus) -> None:
    reading = Reading(own_bus)
    with bridged(own_bus), reading.client("t"):
        for n in range(10):
            own_bus.raw.client_kill_filter(_type="pubsub")
            foreign.publish(own_bus, 2 * n)
            own_bus.publish(2 * n + 1)
        reading.wait(20)
        no_more(own_bus, reading, 20)
    assert Counter(reading.numbers) == Counter(range(20))


@pytest.mark.parametrize("behind", [Priority.HIGH, Priority.URGENT])
def test_4_an_urgent_message_pending_behind_a_normal_one(bus: Bus, behind: Priority) -> None:
    reading = Reading(bus)
    with bridged(bus), reading.client("t"):
        foreign.publish(bus, 1)
        reading.wait(1)
    for n, priority in ((2, behind), (3, Priority.NORMAL)):
        made = Message(GENERATOR.get_id(priority), sender=OUTSIDE, topics="t", payload={"n": n}).published_to("t")
        foreign.ring(bus, foreign.store(bus, made))
    with bridged(bus), reading.client("t"):
        reading.wait(3)
        no_more(bus, reading, 3)
    assert Counter(reading.numbers) == Counter([1, 2, 3])


def test_5_a_publisher_whose_clock_is_slow(bus: Bus) -> None:
    reading = Reading(bus)
    with bridged(bus), reading.client("t"):
        foreign.publish(bus, 1)
        reading.wait(1)
        slow = foreign.store(bus, foreign.foreign_message(2, behind_ms=60_000))
        foreign.ring(bus, slow)
        reading.wait(2)
    foreign.store(bus, foreign.foreign_message(3, behind_ms=120_000))
    with bridged(bus), reading.client("t"):
        reading.wait(3)
        no_more(bus, reading, 3)
    assert reading.numbers == [1, 2, 3]


def test_6_messages_of_one_millisecond(bus: Bus) -> None:
    reading = Reading(bus)
    first = GENERATOR.get_id()
    ids = [GemstoneID(first.priority, first.timestamp, machine, 7) for machine in range(1, 9)]
    made = [Message(each, sender=OUTSIDE, topics="t", payload={"n": n}).published_to("t") for n, each in enumerate(ids)]
    with bridged(bus), reading.client("t") as interface:
        for n, each in enumerate(made):
            if n % 2:
                foreign.ring(bus, foreign.store(bus, each))
            else:
                interface.backend.store_message(bus.namespace, "t", each)
        reading.wait(8)
        no_more(bus, reading, 8)
        later = interface.get_messages_for_topic_since("t", made[0].id)
        assert [each.payload["n"] for each in later] == list(range(1, 8))
    assert Counter(reading.numbers) == Counter(range(8))


def test_7_published_while_somebody_subscribes(bus: Bus) -> None:
    """Before, meanwhile, and after: by ours and by theirs."""
    reading = Reading(bus)
    count, halfway = 200, threading.Barrier(3)

    def publish(one: Any, offset: int) -> None:
        for n in range(count):
            if n == 20:
                halfway.wait()
            one(n + offset)

    theirs = threading.Thread(target=publish, args=(lambda n: foreign.publish(bus, n), 0))
    ours = threading.Thread(target=publish, args=(bus.publish, count))
    for thread in (theirs, ours):
        thread.start()
    with bridged(bus):
        halfway.wait()
        with reading.client("t"):
            for thread in (theirs, ours):
                thread.join()
            reading.wait(2 * count)
            no_more(bus, reading, 2 * count)
    assert Counter(reading.numbers) == Counter(range(2 * count))


POISON = {
    "no JSON": b"{not json",
    "no text": b"\xff\xfe\x00",
    "empty": b"",
    "no object": b"[1, 2]",
    "a bad id": json.dumps({**json.loads(message().published_to("t").to_json()), "id": -1}).encode(),
}


def test_8_a_message_that_is_none(bus: Bus) -> None:
    """It stops neither the reader nor the next one, is quarantined once, and leaves what is stored readable."""
    reading = Reading(bus)
    with bridged(bus) as bridge:
        with reading.client("t"):
            foreign.publish(bus, 1)
            for body in POISON.values():
                bus.raw.zadd(f"{bus.namespace}:t", {body: 1795330295572})
                foreign.ring(bus, body)
            foreign.publish(bus, 2)
            reading.wait(2)
        with reading.client("t") as interface:
            foreign.publish(bus, 3)
            reading.wait(3)
            no_more(bus, reading, 3)
            assert [each.payload["n"] for each in interface.get_messages("t")] == [1, 2, 3]
        assert bridge.catch_up(10)
        assert bridge.imported == 3 + len(POISON)
    assert bus.outcomes()["quarantined"] == len(POISON)
    assert {letter["payload"]["client_id"] for letter in bus.letters()} == {CLIENT}
    assert len(bus.letters()) == len(POISON)


def test_8_a_newer_peers_unknown_field_is_no_poison(bus: Bus) -> None:
    reading = Reading(bus)
    newer = {**json.loads(foreign.foreign_message(1).to_json()), "field_of_tomorrow": True}
    body = json.dumps(newer).encode()
    with bridged(bus), reading.client("t"):
        bus.raw.zadd(f"{bus.namespace}:t", {body: int(newer["timestamp"])})
        foreign.ring(bus, body)
        reading.wait(1)
    assert reading.numbers == [1]
