"""The host's view of guilds on a Redis Cluster."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from rustic_host.errors import ConfigError
from rustic_host.host.bus import HostBus
from rustic_host.host.buses import Buses
from rustic_host.host.settings import Settings
from rustic_host.host.tail import STARTED
from rustic_host.messaging.delivery import frames_of
from tests.host.test_buses import guild
from tests.messaging.bus import message
from tests.system.cluster import RedisCluster


def opened(settings: Settings, folder: Path, ids: list[str], look: Callable[[Buses], Any], **properties: str) -> None:
    async def all_of_it() -> None:
        async with AsyncExitStack() as stack:
            buses = Buses(settings, folder)
            await buses.open(stack, [guild(each).model_copy(update={"properties": properties}) for each in ids])
            await look(buses)
            await buses.renew_slots()

    asyncio.run(all_of_it())


def test_each_guild_has_a_bus_of_its_own_node_and_ids_of_its_own(cluster: RedisCluster, tmp_path: Path) -> None:
    here, there = cluster.guild_on(0), cluster.guild_on(2)

    async def look(buses: Buses) -> None:
        assert buses.of(here) is not buses.of(there)
        assert buses.of(here).slot.number != buses.of(there).slot.number
        assert buses.shown() == cluster.url
        for n, name in enumerate((here, there)):
            bus = buses.of(name)
            await bus.publish(name, frames_of(message("t", {"n": n})))
            assert await bus.topics(name) == ["t"]
            assert await bus.dead_letters(name) == 0
            assert (await bus.sweep(name, "shared", {})).cut == 0
            assert await bus.first_use(name, "key", 5, 60) == 5
            assert await bus.first_use(name, "key", 6, 60) == 5
            assert await asyncio.to_thread(bus.letters(name, "shared").count) == 0

    opened(Settings(redis_url=cluster.url), tmp_path, [here, there], look)


def test_what_cannot_be_on_a_cluster_is_refused_before_anything_is_up(cluster: RedisCluster, tmp_path: Path) -> None:
    async def look(buses: Buses) -> None:
        raise AssertionError("it was opened")

    settings = Settings(redis_url=cluster.url)
    with pytest.raises(ConfigError, match=r"must be a hash tag, '\{g_1\}'"):
        opened(settings, tmp_path, ["g_1"], look)
    with pytest.raises(ConfigError, match=r"organization '\{acme\}'"):
        opened(settings, tmp_path, ["{g_1}"], look, organization_id="{acme}")


def test_the_host_follows_a_slot_that_moves(cluster: RedisCluster, tmp_path: Path) -> None:
    name = cluster.guild_on(2)

    async def look(buses: Buses) -> None:
        bus = buses.of(name)
        await bus.publish(name, frames_of(message("t", {"n": 1})))
        assert await tailed(bus, name, 1) == [1]
        await asyncio.to_thread(list, cluster.move_slot(key_slot(name.encode()), 2, 1))
        assert await bus.topics(name) == ["t"]
        assert await bus.backlogs(name, ["t"]) == []
        await bus.publish(name, frames_of(message("t", {"n": 2})))
        assert await tailed(bus, name, 2) == [1, 2]
        await bus.renew_slot()

    opened(Settings(redis_url=cluster.url), tmp_path, [name], look)


async def tailed(bus: HostBus, name: str, count: int) -> list[int]:
    """``n`` of the first messages."""
    items: Any = bus.tail(name, ["t"], "start")
    async with aclosing(items):
        assert await anext(items) == STARTED
        return [json.loads(await anext(items))["payload"]["n"] for _ in range(count)]
