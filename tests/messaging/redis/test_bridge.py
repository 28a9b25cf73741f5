"""Bridges over real servers: what others publish reaches the log by itself, and again after every outage."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from rustic_host.messaging.redis import bridge as bridge_module
from rustic_host.messaging.redis.bridge import Bridge
from rustic_host.messaging.redis.consumer import Consumer
from rustic_host.messaging.redis.keys import PLAIN, Keys
from tests.messaging.bus import CLIENT, WAIT_SECONDS, Bus, numbers, wait_until
from tests.messaging.redis import foreign
from tests.system.servers import RedisServer


@contextmanager
def running(bus: Bus, topics: Callable[[], list[str]] = list, **options: Any) -> Iterator[Bridge]:
    """A bridge that has caught up once."""
    bridge = Bridge(options.pop("config", bus.config), bus.namespace, topics, **options)
    bridge.start()
    try:
        assert bridge.catch_up(WAIT_SECONDS)
        yield bridge
    finally:
        bridge.stop()


def bridges_of(bus: Bus, kind: str = "") -> list[dict[str, str]]:
    rows = bus.raw.client_list()
    return [row for row in rows if row["name"] in (f"rustic-host:bridge{kind}:{bus.namespace}",)]


def test_what_others_publish_arrives_at_once_and_is_not_searched_for(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "SEARCH_DELAY_SECONDS", 60)
    with running(bus) as bridge:
        for n in range(20):
            began = time.monotonic()
            foreign.publish(bus, n)
            wait_until(lambda n=n: bus.logged() == list(range(n + 1)))  # type: ignore[misc]
            assert time.monotonic() - began < bridge_module.ROUND_SECONDS / 3
        wait_until(lambda: bridge.imported == 20)
        assert bridge.error is None


def test_a_burst_is_imported_whole_and_in_order_of_arrival(bus: Bus) -> None:
    with running(bus):
        foreign.publish(bus, *range(500))
        wait_until(lambda: len(bus.logged()) == 500)
        assert sorted(bus.logged()) == list(range(500))


def test_a_blocked_reader_is_woken_by_an_import_and_reads_it_once(bus: Bus) -> None:
    consumer = bus.consumer()
    with running(bus):
        foreign.publish(bus, 1)
        assert numbers(consumer.read()) == [1]
    assert bus.raw.xinfo_groups(bus.log())[0]["entries-read"] == 1


def test_a_publisher_that_died_before_publish_is_found_at_the_next_bell(bus: Bus) -> None:
    with running(bus):
        foreign.store(bus, foreign.foreign_message(1))
        foreign.publish(bus, 2)
        wait_until(lambda: sorted(bus.logged()) == [1, 2])


def test_and_without_a_bell_by_the_next_round(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "ROUND_SECONDS", 0.1)
    with running(bus, lambda: ["t"]):
        foreign.store(bus, foreign.foreign_message(1))
        wait_until(lambda: bus.logged() == [1])


def test_on_demand_everything_that_is_read_is_there_when_it_returns(bus: Bus) -> None:
    with running(bus, lambda: ["t", "u"]) as bridge:
        foreign.store(bus, foreign.foreign_message(1))
        foreign.store(bus, foreign.foreign_message(2, "u"), "u")
        assert bridge.catch_up(WAIT_SECONDS)
        assert (bus.logged("t"), bus.logged("u")) == ([1], [2])


def test_a_topic_that_nobody_names_is_found_by_the_scan(bus: Bus) -> None:
    foreign.store(bus, foreign.foreign_message(1, "user:ü*"), "user:ü*")
    with running(bus):
        wait_until(lambda: bus.logged("user:ü*") == [1])


def test_published_twice_is_imported_once(bus: Bus) -> None:
    with running(bus) as bridge:
        body = foreign.store(bus, foreign.foreign_message(1))
        foreign.ring(bus, body)
        foreign.ring(bus, body)
        wait_until(lambda: bus.logged() == [1])
        body = foreign.store(bus, foreign.foreign_message(2))
        foreign.ring(bus, body)
        assert bridge.catch_up(WAIT_SECONDS)
        foreign.ring(bus, body)
        assert bridge.catch_up(WAIT_SECONDS)
        assert bus.logged() == [1, 2]


def test_our_own_traffic_is_never_read_back(bus: Bus) -> None:
    with running(bus) as bridge:
        before = bus.raw.info("commandstats")
        bus.publish(*range(50))
        assert bridge.catch_up(WAIT_SECONDS)
        after = bus.raw.info("commandstats")
        for name in ("zrange", "zmscore", "zscore"):
            assert before.get(f"cmdstat_{name}") == after.get(f"cmdstat_{name}")
        assert bridge.imported == 0


@pytest.mark.parametrize("what", ["pubsub", "normal"])
def test_a_killed_connection_loses_nothing(bus: Bus, what: str) -> None:
    with running(bus):
        for n in range(5):
            for row in bridges_of(bus, "-bell" if what == "pubsub" else ""):
                bus.raw.client_kill_filter(_id=row["id"])
            foreign.publish(bus, n)
        wait_until(lambda: sorted(bus.logged()) == list(range(5)))


def test_a_server_that_was_away_is_taken_up_again(own_bus: Bus, own_server: RedisServer) -> None:
    with running(own_bus) as bridge:
        foreign.publish(own_bus, 1)
        wait_until(lambda: own_bus.logged() == [1])
        own_server.save()
        own_server.kill9()
        wait_until(lambda: bridge.error is not None)
        assert "cannot be reached" in str(bridge.error)
        own_server.start()
        began = time.monotonic()
        foreign.publish(own_bus, 2)
        wait_until(lambda: sorted(own_bus.logged()) == [1, 2])
        assert time.monotonic() - began < 5 * bridge_module.RETRY_MAX_SECONDS
        wait_until(lambda: bridge.error is None)


def test_a_password_that_comes_later_is_waited_for(own_bus: Bus) -> None:
    with running(own_bus) as bridge:
        own_bus.raw.config_set("requirepass", "s3cret")
        for kind in ("", "-bell"):
            for row in bridges_of(own_bus, kind):
                own_bus.raw.client_kill_filter(_id=row["id"])
        wait_until(lambda: bridge.error is not None and "does not let us in" in bridge.error)
        foreign.publish(own_bus, 1)
        own_bus.raw.config_set("requirepass", "")
        wait_until(lambda: own_bus.logged() == [1])


def test_an_outage_makes_no_bridge_spin(own_bus: Bus, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(own_bus) as bridge:
        tries: list[float] = []
        connect = bridge._connect

        def counted() -> None:
            tries.append(time.monotonic())
            connect()

        monkeypatch.setattr(bridge, "_connect", counted)
        own_server.stop()
        wait_until(lambda: len(tries) >= 7)
        pauses = [later - sooner for sooner, later in pairwise(tries)]
        assert pauses[-1] > 10 * bridge_module.RETRY_SECONDS
        assert max(pauses) < 5 * bridge_module.RETRY_MAX_SECONDS
        own_server.start()


def test_a_server_that_says_nothing_is_noticed(
    own_bus: Bus, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "PING_SECONDS", 0.3)
    with running(own_bus) as bridge:
        own_server.process.popen.send_signal(signal.SIGSTOP)
        wait_until(lambda: bridge.error is not None)
        own_server.process.popen.send_signal(signal.SIGCONT)
        foreign.publish(own_bus, 1)
        wait_until(lambda: own_bus.logged() == [1])


def test_silence_alone_is_no_failure(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "PING_SECONDS", 0.02)
    with running(bus):
        (bell,) = bridges_of(bus, "-bell")
        wait_until(lambda: _pings(bus) > 5)
        assert bridges_of(bus, "-bell")[0]["id"] == bell["id"]


def _pings(bus: Bus) -> int:
    return int(bus.raw.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"])


def test_it_stops_at_once_also_while_nobody_answers(own_bus: Bus, own_server: RedisServer) -> None:
    with running(own_bus) as bridge:
        own_server.stop()
        wait_until(lambda: bridge.error is not None)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert not bridge.catch_up(0)


def test_a_namespace_is_no_pattern_and_a_prefix_stands_before_it(bus: Bus) -> None:
    config = bus.config.model_copy(update={"key_prefix": "p[x]*:"})
    keys = Keys("p[x]*:")
    with running(bus, config=config) as bridge:
        foreign.publish(bus, 1)  # beside it
        body = foreign.foreign_message(2).to_json_bytes()
        names = keys.topic_keys(bus.namespace, "t")
        bus.raw.zadd(names.store, {body: 1})
        bus.raw.publish(names.store, body)
        wait_until(lambda: bus.raw.xlen(names.log) == 1)
        wait_until(lambda: bridge.imported == 1)
    assert bus.logged() == []


def test_a_namespace_of_a_newer_version_is_left_alone(bus: Bus) -> None:
    bus.raw.set(PLAIN.schema_key(bus.namespace), 1000)
    foreign.publish(bus, 1)
    bridge = Bridge(bus.config, bus.namespace, lambda: ["t"])
    bridge.start()
    wait_until(lambda: "upgrade rustic-host" in str(bridge.error))
    bridge.stop()
    assert bus.logged() == []


def test_two_bridges_and_a_reader(bus: Bus) -> None:
    consumer: Consumer = bus.consumer()
    with running(bus), running(bus):
        foreign.publish(bus, *range(100))
        found: list[int] = []
        while len(found) < 100:
            found += numbers(consumer.read())
    assert sorted(found) == list(range(100))
    assert bus.raw.xpending(bus.log(), CLIENT)["pending"] == 100
    assert bus.raw.zcard(PLAIN.topic_keys(bus.namespace, "t").seen) == 100


def test_a_bridge_hears_no_more_than_it_can_hold(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "HEARD_BYTES", 100)
    with running(bus):
        before = _searches(bus)
        foreign.publish(bus, *range(20))
        wait_until(lambda: len(bus.logged()) == 20)
        assert _searches(bus) > before


def _searches(bus: Bus) -> int:
    return int(bus.raw.info("commandstats").get("cmdstat_zrange", {"calls": 0})["calls"])
