"""Two processes with one client id."""

import pytest

from rustic_host.errors import BackendUnavailableError, OwnershipLostError
from rustic_host.messaging.redis import keys
from rustic_host.messaging.redis.consumer import Consumer
from tests.messaging.bus import CLIENT, Bus, forward, numbers


def lose_connection(consumer: Consumer) -> None:
    with pytest.raises(BackendUnavailableError):
        consumer.load_state()


def test_the_second_takes_over_and_the_first_can_commit_nothing(bus: Bus) -> None:
    first = bus.consumer()
    bus.publish(1, 2)
    results = [forward(entry) for entry in first.read()]
    second = bus.consumer()
    lose_connection(first)
    with pytest.raises(OwnershipLostError):
        first.open(["t"])
    with pytest.raises(OwnershipLostError):
        first.commit(results)
    assert bus.logged("out") == []
    assert numbers(second.read()) == [1, 2]


def test_only_the_last_of_many_owns(bus: Bus) -> None:
    consumers = [bus.consumer() for _ in range(4)]
    for consumer in consumers[:-1]:
        lose_connection(consumer)
        with pytest.raises(OwnershipLostError):
            consumer.open(["t"])
    bus.publish(1)
    consumers[-1].commit([forward(entry) for entry in consumers[-1].read()])
    assert bus.logged("out") == [1]


def test_the_connection_of_the_former_owner_is_ended(bus: Bus) -> None:
    bus.consumer()
    (before,) = bus.connections()
    bus.consumer()
    (after,) = bus.connections()
    assert after["id"] != before["id"]


def test_a_stranger_with_the_former_connection_id_is_left_alone(bus: Bus) -> None:
    bus.consumer()
    with bus.raw.client() as stranger:
        bus.raw.hset(keys.PLAIN.client_key(bus.namespace, CLIENT), "connection", stranger.client_id())
        bus.consumer()
        assert stranger.connection.is_connected
        assert stranger.ping()


def test_a_connection_id_of_before_a_restart_that_is_our_own_does_no_harm(bus: Bus) -> None:
    consumer = bus.consumer()
    (own,) = bus.connections()
    consumer._end_former(own["id"].encode())
    assert consumer.load_state() == {}


def test_the_owner_stays_the_owner_over_reconnects(bus: Bus) -> None:
    consumer = bus.consumer()
    for n in range(3):
        bus.kill_reader()
        lose_connection(consumer)
        consumer.open(["t"])
        bus.publish(n)
        consumer.commit([forward(entry) for entry in consumer.read()])
    assert bus.logged("out") == [0, 1, 2]


def test_a_server_that_forgot_the_take_over_gives_it_back(bus: Bus) -> None:
    key = keys.PLAIN.client_key(bus.namespace, CLIENT)
    former = bus.consumer()
    lost_with_the_tail = bus.raw.hgetall(key)
    consumer = bus.consumer()
    lose_connection(former)
    bus.raw.hset(key, mapping=lost_with_the_tail)
    bus.kill_reader()
    lose_connection(consumer)
    consumer.open(["t"])
    with pytest.raises(OwnershipLostError):
        former.open(["t"])
    bus.publish(1)
    assert numbers(consumer.read()) == [1]


def test_clients_of_equal_id_in_two_namespaces_have_nothing_to_do_with_each_other(bus: Bus) -> None:
    with Bus(bus.config.connection_url(), f"{bus.namespace}-2") as other:
        first, second = bus.consumer(), other.consumer()
        bus.publish(1)
        other.publish(2)
        assert (numbers(first.read()), numbers(second.read())) == ([1], [2])
