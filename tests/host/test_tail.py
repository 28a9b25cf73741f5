"""Following topics as they grow."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis_async
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from rustic_host.errors import (
    BackendRefusedError,
    BackendUnavailableError,
    UnknownMessageError,
    UnknownPositionError,
)
from rustic_host.host import tail as tail_module
from rustic_host.host.tail import STARTED, Notice, Tail
from rustic_host.messaging.delivery import frames_of
from rustic_host.messaging.redis.keys import PLAIN
from tests.messaging.bus import WAIT_SECONDS, Bus, message
from tests.messaging.redis import foreign
from tests.messaging.redis.test_bridge import running
from tests.system.servers import RedisServer

Follow = Callable[..., Coroutine[Any, Any, "Following"]]


class Following:
    """One tail, begun (its first item was taken)."""

    def __init__(self, items: AsyncIterator[bytes]) -> None:
        self._items = items

    async def numbers(self, n: int) -> list[int]:
        found = [json.loads(await asyncio.wait_for(anext(self._items), WAIT_SECONDS)) for _ in range(n)]
        return [each["payload"]["n"] for each in found]


def run(bus: Bus, scenario: Callable[[Follow], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run ``scenario`` with a function that begins a tail of the bus' namespace."""

    async def all_of_it() -> None:
        connection = redis_async.Redis.from_url(bus.config.connection_url(), protocol=2, **options)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(scenario(lambda *topics, start=None: begun(connection, topics, start)))
        finally:
            for items in open_tails:
                await items.aclose()
            await connection.aclose()

    open_tails: list[Any] = []

    async def begun(connection: Any, topics: tuple[str, ...], start: str | None) -> Following:
        items = Tail(connection, PLAIN, bus.namespace, topics, start).items()
        open_tails.append(items)
        assert await asyncio.wait_for(anext(items), WAIT_SECONDS) == STARTED
        return Following(items)

    asyncio.run(all_of_it())


def in_thread(function: Callable[..., object], *args: object) -> Awaitable[object]:
    return asyncio.to_thread(function, *args)


def test_from_now_on_nothing_is_missed(bus: Bus) -> None:
    bus.publish(1)

    async def scenario(follow: Follow) -> None:
        tail = await follow("t")
        for n in range(2, 6):
            await in_thread(bus.publish, n)
            assert await tail.numbers(1) == [n]

    run(bus, scenario)


def test_from_the_start_then_on(bus: Bus) -> None:
    bus.publish(*range(600))  # more than two pages

    async def scenario(follow: Follow) -> None:
        tail = await follow("t", start="start")
        assert await tail.numbers(600) == list(range(600))
        await in_thread(bus.publish, 600)
        assert await tail.numbers(1) == [600]

    run(bus, scenario)


def test_after_a_log_entry_or_a_message(bus: Bus) -> None:
    publisher = bus.publisher()
    sent = [message("t", {"n": n}) for n in range(4)]
    for each in sent:
        publisher.publish(bus.namespace, frames_of(each))
    entry_id = bus.raw.xrange(bus.log())[1][0].decode()

    async def scenario(follow: Follow) -> None:
        for start in (entry_id, str(sent[1].id)):
            tail = await follow("t", start=start)
            assert await tail.numbers(2) == [2, 3]
        last = bus.raw.xrevrange(bus.log(), count=1)[0][0].decode()
        tail = await follow("t", start=last)
        await in_thread(bus.publish, 4)
        assert await tail.numbers(1) == [4]
        for topics in (("t", "other"), ()):  # who has it not is read from its end on
            tail = await follow(*topics, start=str(sent[2].id))
            assert await tail.numbers(2) == [3, 4]

    run(bus, scenario)


@pytest.mark.parametrize(
    ("start", "topics", "text"),
    [
        ("12345", ("t", "u"), "no message 12345 in t, u, or no more; --from start shows all"),
        ("12345", (), "no message 12345 in t, or no more"),
        ("12345", ("u",), "no message 12345 in u, or no more"),
        ("99999999999999-0", ("t",), "no log entry 99999999999999-0 in t: all are older"),
    ],
)
def test_a_message_that_is_not_there_is_not_waited_for(
    bus: Bus, start: str, topics: tuple[str, ...], text: str
) -> None:
    bus.publish(1)

    async def scenario(follow: Follow) -> None:
        with pytest.raises(UnknownMessageError, match=text) as caught:
            await follow(*topics, start=start)
        assert caught.value.exit_code == 66

    run(bus, scenario)


def test_an_entry_that_an_empty_log_may_have_had_is_read_on_from(bus: Bus) -> None:
    bus.publish(1)
    entry_id = bus.raw.xrange(bus.log())[0][0].decode()
    bus.raw.xtrim(bus.log(), maxlen=0)

    async def scenario(follow: Follow) -> None:
        tail = await follow("t", "u", start=entry_id)
        await in_thread(bus.publish, 2)
        assert await tail.numbers(1) == [2]

    run(bus, scenario)


@pytest.mark.parametrize("start", [None, "start", "12345"])
@pytest.mark.parametrize("topics", [(), ("u", "t")])
@pytest.mark.parametrize("patient", [True, False])
def test_a_log_of_a_wrong_type_is_named_and_not_waited_for(
    bus: Bus, start: str | None, topics: tuple[str, ...], patient: bool
) -> None:
    bus.publish(1)
    bus.raw.delete(bus.log())
    bus.raw.set(bus.log(), "what is none")

    async def scenario() -> None:
        async with redis_async.Redis.from_url(bus.config.connection_url()) as connection:
            items = Tail(connection, PLAIN, bus.namespace, topics, start, patient=patient).items()
            with pytest.raises(BackendRefusedError) as caught:
                async for _ in items:
                    pass
            assert f"key {bus.log()} is of a wrong type: string, not stream" in str(caught.value)

    asyncio.run(asyncio.wait_for(scenario(), WAIT_SECONDS))


def test_a_log_that_turns_into_something_else_ends_it(bus: Bus) -> None:
    async def scenario() -> None:
        async with redis_async.Redis.from_url(bus.config.connection_url()) as connection:
            items = Tail(connection, PLAIN, bus.namespace, ["t"], None, patient=True).items()
            assert await anext(items) == STARTED
            await in_thread(bus.raw.set, bus.log(), "what is none")
            await in_thread(bus.raw.publish, f"{bus.namespace}:t", "")
            with pytest.raises(BackendRefusedError, match="wrong type"):
                await asyncio.wait_for(anext(items), WAIT_SECONDS)

    asyncio.run(scenario())


def test_a_user_who_may_not_ask_for_types_is_told_all_the_same(own_bus: Bus) -> None:
    own_bus.raw.set(own_bus.log(), "what is none")
    own_bus.raw.execute_command("ACL", "SETUSER", "default", "-type")

    async def scenario() -> None:
        async with redis_async.Redis.from_url(own_bus.config.connection_url()) as connection:
            with pytest.raises(BackendRefusedError, match="'type'"):
                await anext(Tail(connection, PLAIN, own_bus.namespace, ["t"], "start").items())

    asyncio.run(scenario())


def test_a_message_that_mentions_another_is_not_taken_for_it(bus: Bus) -> None:
    publisher = bus.publisher()
    first = message("t", {"n": 1})
    for each in (first, message("t", {"n": 2}), message("t", {"n": 3, "about": {"id": first.id, "x": 1}})):
        publisher.publish(bus.namespace, frames_of(each))

    async def scenario(follow: Follow) -> None:
        tail = await follow("t", start=str(first.id))
        assert await tail.numbers(2) == [2, 3]

    run(bus, scenario)


@pytest.mark.parametrize(
    "start",
    ["yesterday", "5-", "-5", "1-2-3", "0x1", "", "٣", f"{1 << 64}", f"{1 << 64}-0", f"0-{1 << 64}", "9" * 5000],
)
def test_positions_that_are_none(bus: Bus, start: str) -> None:
    async def scenario() -> None:
        async with redis_async.Redis.from_url(bus.config.connection_url()) as connection:
            items: Any = Tail(connection, PLAIN, bus.namespace, ["t"], start).items()
            with pytest.raises(UnknownPositionError, match="--from"):
                await anext(items)
            await items.aclose()

    asyncio.run(scenario())


def test_all_topics_with_those_that_come_into_being(bus: Bus) -> None:
    bus.publish(1, topic="a")

    async def scenario(follow: Follow) -> None:
        tail = await follow()
        await in_thread(lambda: bus.publish(2, topic="b"))
        assert await tail.numbers(1) == [2]
        await in_thread(lambda: bus.publish(3, topic=["a", "b"]))
        assert await tail.numbers(2) == [3, 3]
        whole = await follow(start="start")
        assert sorted(await whole.numbers(4)) == [1, 2, 3, 3]

    run(bus, scenario)


def test_resting_longer_than_the_socket_timeout(bus: Bus) -> None:
    async def scenario(follow: Follow) -> None:
        tail = await follow("t")
        waiting = asyncio.create_task(tail.numbers(1))
        done, _ = await asyncio.wait([waiting], timeout=1.3)
        assert not done
        await in_thread(bus.publish, 1)
        assert await waiting == [1]

    run(bus, scenario, socket_timeout=1.0)


def test_a_bell_that_does_not_ring_is_not_waited_for_long(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_module, "MISSED_BELL_SECONDS", 0.1)

    async def scenario(follow: Follow) -> None:
        tail = await follow("t")
        body = message("t", {"n": 1}).to_json_bytes()
        await in_thread(lambda: bus.raw.xadd(bus.log(), {"m": body}))  # without PUBLISH
        assert await tail.numbers(1) == [1]

    run(bus, scenario)


def test_what_others_publish_is_seen_as_soon_as_it_is_imported(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their own notice comes before the import."""
    monkeypatch.setattr(tail_module, "MISSED_BELL_SECONDS", 2 * WAIT_SECONDS)

    async def scenario(follow: Follow) -> None:
        tail = await follow("t")
        body = await in_thread(foreign.store, bus, foreign.foreign_message(1))
        await in_thread(foreign.ring, bus, body)
        waiting = asyncio.create_task(tail.numbers(1))
        await asyncio.wait([waiting], timeout=0.2)  # it has looked, and found nothing
        with running(bus, lambda: ["t"]):
            assert await waiting == [1]

    run(bus, scenario)


def test_a_restart_of_the_server_loses_nothing(own_bus: Bus, own_server: RedisServer) -> None:
    async def scenario(follow: Follow) -> None:
        tail = await follow("t")
        await in_thread(own_bus.publish, 1)
        assert await tail.numbers(1) == [1]
        await in_thread(own_server.stop)
        await in_thread(own_server.start)
        await in_thread(own_bus.publish, 2)
        assert await tail.numbers(1) == [2]

    run(own_bus, scenario, retry=Retry(ConstantBackoff(0.02), 500))


def test_a_server_that_stays_away_ends_it(own_bus: Bus, own_server: RedisServer) -> None:
    async def scenario(follow: Follow) -> None:
        tail = await follow("t")
        await in_thread(own_server.stop)
        with pytest.raises(BackendUnavailableError):
            await tail.numbers(1)

    run(own_bus, scenario, retry=Retry(ConstantBackoff(0.02), 3))


def test_a_namespace_is_no_pattern(bus: Bus) -> None:
    with Bus(bus.config.connection_url(), f"{bus.namespace}[*]?") as odd:

        async def scenario(follow: Follow) -> None:
            tail = await follow("t")
            await in_thread(odd.publish, 1)
            assert await tail.numbers(1) == [1]

        run(odd, scenario)


def test_a_patient_one_waits_and_says_so_and_goes_on_where_it_was(own_bus: Bus, own_server: RedisServer) -> None:
    async def away_and_back(items: AsyncGenerator[bytes, None], *numbers: int) -> None:
        await in_thread(own_server.save)  # what is lost would be stored, and seen, again
        await in_thread(own_server.kill9)
        notice = await anext(items)
        assert isinstance(notice, Notice)
        assert json.loads(notice)["notice"].startswith("g1: the bus is away, waiting for it: ")
        waiting = asyncio.ensure_future(anext(items))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done  # it says so once
        await in_thread(own_server.start)
        await in_thread(own_bus.publish, *numbers)
        assert json.loads(await asyncio.wait_for(waiting, WAIT_SECONDS)) == {"notice": "g1: the bus is back"}

    async def scenario() -> None:
        url = own_bus.config.connection_url()
        connection = redis_async.Redis.from_url(url, retry=AsyncRetry(NoBackoff(), 0))
        tail = Tail(connection, PLAIN, "g1", ["t"], None, patient=True)
        async with connection, aclosing(tail.items()) as items:
            assert await anext(items) == STARTED
            await in_thread(own_bus.publish, 1)
            following = Following(items)
            assert await following.numbers(1) == [1]
            await away_and_back(items, 2, 3)
            assert await following.numbers(2) == [2, 3]
            await away_and_back(items)
            await in_thread(own_bus.publish, 4)
            assert await following.numbers(1) == [4]

    asyncio.run(scenario())


def test_a_patient_one_does_not_begin_without_a_server(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with redis_async.Redis(
            unix_socket_path=str(tmp_path / "none"), retry=AsyncRetry(NoBackoff(), 0)
        ) as nobody:
            with pytest.raises(BackendUnavailableError):
                await anext(Tail(nobody, PLAIN, "g1", ["t"], None, patient=True).items())

    asyncio.run(scenario())
