"""What the daemon itself asks of the server."""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rustic_host.errors import BackendBusyError, BackendRefusedError, BackendUnavailableError, MessageTooLargeError
from rustic_host.host import bus as bus_module
from rustic_host.host.bus import THREADS, Backlog, HostBus
from rustic_host.messaging import RedisBackendConfig
from rustic_host.messaging.counts import Count
from rustic_host.messaging.delivery import Result, frames_of
from rustic_host.messaging.redis import keys
from rustic_host.messaging.redis.opening import SAFE_POLICIES
from rustic_host.messaging.sizes import LARGE_MESSAGE_BYTES
from tests.messaging.bus import CLIENT, WAIT_SECONDS, Bus, forward, hurried, message
from tests.system.servers import RedisServer


def run(config: RedisBackendConfig, scenario: Callable[[HostBus], Coroutine[Any, Any, None]]) -> None:
    async def all_of_it() -> None:
        host = HostBus(config)
        try:
            await host.open()
            await scenario(host)
        finally:
            await host.close()

    asyncio.run(all_of_it())


def test_counts_and_topics(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1, 2)
    bus.publish(3, topic='odd "tópic"')
    consumer.commit([forward(entry) for entry in consumer.read()])
    bus.raw.hset(keys.PLAIN.counts_key(bus.namespace), "not ours", 5)

    async def scenario(host: HostBus) -> None:
        assert await host.counts(bus.namespace) == {
            Count("published", "t"): 2,
            Count("published", 'odd "tópic"'): 1,
            Count("published", "out"): 2,
            Count("processed", "t", CLIENT, "ok"): 2,
        }
        assert await host.topics(bus.namespace) == ['odd "tópic"', "out", "t"]
        assert await host.counts("nothing") == {}

    run(bus.config, scenario)


def test_backlogs_are_what_is_not_committed(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.consumer("g1$b", topics=["t", "u"])
    bus.publish(1, 2, 3)
    entries = consumer.read()
    bus.publish(4)
    consumer.commit([Result(entries[0], "ok")])

    async def scenario(host: HostBus) -> None:
        found = await host.backlogs(bus.namespace, ["t", "u", "never"])
        assert set(found) == {Backlog("t", CLIENT, 3), Backlog("t", "g1$b", 4), Backlog("u", "g1$b", 0)}
        assert await host.backlogs(bus.namespace, []) == []

    run(bus.config, scenario)


def test_publishing_and_following(bus: Bus) -> None:
    async def scenario(host: HostBus) -> None:
        await host.publish(bus.namespace, frames_of(message(["t", "u"], {"n": 7})))
        assert (bus.logged("t"), bus.logged("u")) == ([7], [7])
        items = host.tail(bus.namespace, ["t"], "start")
        assert await anext(items) == b""
        assert b'"n":7' in await anext(items)
        await items.aclose()  # type: ignore[attr-defined]

    run(bus.config, scenario)


def test_an_id_slot_is_held_and_given_back(own_bus: Bus) -> None:
    async def scenario(host: HostBus) -> None:
        before = own_bus.raw.zscore(keys.PLAIN.slots_key(), str(host.slot.number))
        now = int(own_bus.raw.time()[0]) * 1000
        assert before > now
        await host.renew_slot()
        assert own_bus.raw.zscore(keys.PLAIN.slots_key(), str(host.slot.number)) >= before

    run(own_bus.config, scenario)
    seconds, _ = own_bus.raw.time()
    ((_, until),) = own_bus.raw.zrange(keys.PLAIN.slots_key(), 0, -1, withscores=True)
    assert until <= seconds * 1000 + 1000


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_a_server_that_would_evict_messages_is_refused(own_bus: Bus, policy: str) -> None:
    own_bus.raw.config_set("maxmemory-policy", policy)

    async def scenario(host: HostBus) -> None:
        raise AssertionError("it was opened")

    with pytest.raises(BackendRefusedError, match=f"{policy}, which evicts"):
        run(own_bus.config, scenario)


def test_all_other_policies_will_do(own_bus: Bus) -> None:
    async def scenario(host: HostBus) -> None:
        assert host.slot is not None

    for policy in SAFE_POLICIES:
        own_bus.raw.config_set("maxmemory-policy", policy)
        run(own_bus.config, scenario)


def test_nobody_there(tmp_path: Path) -> None:
    async def scenario(host: HostBus) -> None:
        raise AssertionError("it was opened")

    with pytest.raises(BackendUnavailableError, match="cannot be reached"):
        run(RedisBackendConfig(unix_socket_path=tmp_path / "none"), scenario)


def test_a_server_that_goes_away_is_said_to_be(own_bus: Bus, own_server: RedisServer) -> None:
    async def scenario(host: HostBus) -> None:
        own_server.stop()
        with pytest.raises(BackendUnavailableError):
            await host.counts("g1")
        with pytest.raises(BackendUnavailableError):
            await host.backlogs("g1", ["t"])
        own_server.start()
        assert await host.counts("g1") == {}

    run(own_bus.config, scenario)


def test_an_id_slot_that_is_somebody_elses_is_replaced(own_bus: Bus) -> None:
    async def scenario(host: HostBus) -> None:
        first, generator = host.slot, host.generator
        before = generator.get_id()
        own_bus.raw.zadd(keys.PLAIN.slots_key(), {str(first.number): first.until_ms + 1})
        await host.renew_slot()
        assert host.slot.number != first.number
        assert host.generator is generator
        assert generator.get_id().to_int() > before.to_int()

    run(own_bus.config, scenario)


def test_what_waits_for_the_server_leaves_threads_for_what_starts_it_again(
    own_bus: Bus, own_server: RedisServer
) -> None:
    async def scenario(host: HostBus) -> None:
        await host.publish("g1", frames_of(message()))
        own_server.kill9()
        waiting = [asyncio.create_task(host.publish("g1", frames_of(message()))) for _ in range(2 * THREADS)]
        await asyncio.sleep(0)  # each has asked for its thread
        await asyncio.wait_for(asyncio.to_thread(own_server.start), WAIT_SECONDS / 4)
        await asyncio.gather(*waiting)

    run(own_bus.config, scenario)
    assert own_bus.raw.xlen(own_bus.log()) == 2 * THREADS + 1


@contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    """It takes connections and bytes, and answers nothing."""
    process = server.process.popen
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_who_comes_when_too_many_wait_is_refused_at_once_and_the_others_wait_no_longer_than_their_deadline(
    own_bus: Bus, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "THREADS", 4)
    monkeypatch.setattr(bus_module, "MAX_WAITING", 12)
    deadline = 2.0

    async def publish(host: HostBus, n: int) -> tuple[str, float]:
        began = time.monotonic()
        with pytest.raises(BackendUnavailableError) as failed:
            await host.publish("g1", frames_of(message("t", {"n": n})))
        return type(failed.value).__name__, time.monotonic() - began

    async def scenario(host: HostBus) -> None:
        await host.publish("g1", frames_of(message("t", {"n": 0})))
        with stopped(own_server), hurried(host._publisher, deadline):
            waiting = []
            for n in range(1, 13):
                waiting.append(asyncio.create_task(publish(host, n)))
                await asyncio.sleep(deadline / 50)  # they come one after the other, as clients do
            with pytest.raises(BackendBusyError, match="nothing of this is stored"):
                await host.publish("g1", frames_of(message("t", {"n": 13})))
            with pytest.raises(BackendBusyError):
                await host.first_use("g1", "k", 1, 60)
            assert not any(task.done() for task in waiting)
            found = await asyncio.gather(*waiting)
        assert {kind for kind, _ in found} == {"PublishUnavailableError"}
        assert max(seconds for _, seconds in found) < 2.4 * deadline  # in three rounds: almost thrice as long
        await host.publish("g1", frames_of(message("t", {"n": 14})))

    run(own_bus.config, scenario)
    assert {0, 14} <= set(own_bus.logged()) <= {*range(13), 14}


def test_a_large_message_is_warned_of_and_one_too_large_is_refused(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    config = bus.config.model_copy(update={"max_message_bytes": LARGE_MESSAGE_BYTES + 1000})

    async def scenario(host: HostBus) -> None:
        for size in (LARGE_MESSAGE_BYTES, LARGE_MESSAGE_BYTES):
            await host.publish(bus.namespace, frames_of(message("t", {"n": 1, "text": "x" * size})))
        with pytest.raises(MessageTooLargeError):
            await host.publish(bus.namespace, frames_of(message("t", {"n": 1, "text": "x" * (size + 1000)})))

    run(config, scenario)
    assert len(bus.logged()) == 2
    assert caplog.text.count("large_message") == 1
