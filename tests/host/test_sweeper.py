"""One guild's trouble keeps no other guild's topics from being cut."""

import asyncio
from types import SimpleNamespace
from typing import Any

from rustic_host.guild.dsl import GuildSpec
from rustic_host.host.bus import HostBus
from rustic_host.host.sweeper import Sweeper
from rustic_host.messaging import counts
from rustic_host.messaging.redis import keys
from rustic_host.messaging.redis.retention import Bounds, Reads
from tests.messaging.bus import WAIT_SECONDS, Bus


class Guild:
    def __init__(self, guild_id: str) -> None:
        self.spec = GuildSpec.model_validate({"id": guild_id, "name": "g", "description": "d"})

    def reads(self) -> Reads | None:
        return None


def test_counts_that_are_none_end_no_sweeping(bus: Bus) -> None:
    bus.publish(*range(5))
    spoilt = f"{bus.namespace}-spoilt"
    bus.raw.hset(keys.PLAIN.counts_key(spoilt), counts.published("t"), "many")

    async def scenario() -> None:
        host = HostBus(bus.config, Bounds(entries=2))
        await host.open()
        buses: Any = SimpleNamespace(of=lambda guild_id: host)
        guilds = {each: Guild(each) for each in (spoilt, bus.namespace)}
        sweeping = asyncio.create_task(Sweeper(buses, lambda: guilds).run())
        async with asyncio.timeout(WAIT_SECONDS):
            while len(bus.logged()) > 2:
                assert not sweeping.done()
                await asyncio.sleep(0.01)
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)
        await host.close()

    asyncio.run(scenario())
