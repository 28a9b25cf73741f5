"""Which server each guild lives on."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from rustic_host.errors import ConfigError
from rustic_host.guild.dsl import GuildSpec
from rustic_host.host.buses import Buses
from rustic_host.host.settings import Settings
from tests.system.servers import RedisServer

REDIS = {"backend_module": "rustic_ai.redis.messaging.backend", "backend_class": "RedisMessagingBackend"}


def guild(guild_id: str, redis_client: dict[str, Any] | None = None) -> GuildSpec:
    named = {"messaging": {**REDIS, "backend_config": {"redis_client": redis_client}}} if redis_client else {}
    return GuildSpec.model_validate({"id": guild_id, "name": guild_id, "description": "d", "properties": named})


def opened(settings: Settings, folder: Path, guilds: list[GuildSpec], look: Callable[[Buses], None]) -> None:
    async def all_of_it() -> None:
        async with AsyncExitStack() as stack:
            buses = Buses(settings, folder)
            await buses.open(stack, guilds)
            look(buses)
            await buses.renew_slots()

    asyncio.run(all_of_it())


def test_guilds_that_name_one_server_share_it_and_the_rest_share_our_own(server: RedisServer, tmp_path: Path) -> None:
    named = {"unix_socket_path": str(server.socket)}
    guilds = [guild("a", named), guild("b", {**named, "message_ttl": 60}), guild("c"), guild("d")]

    def look(buses: Buses) -> None:
        assert buses.of("a") is buses.of("b")
        assert buses.of("c") is buses.of("d") is not buses.of("a")
        assert [buses.is_own(name) for name in "abcd"] == [False, False, True, True]
        ttl = [buses.messaging(name).backend_config["redis_client"].get("message_ttl") for name in ("a", "b")]
        assert ttl == [None, 60]
        assert str(server.socket) in buses.shown()
        assert len(buses.shown().split(", ")) == 2

    opened(Settings(state_dir=tmp_path / "state"), tmp_path, guilds, look)
    assert (tmp_path / "state" / "valkey").is_dir()


def test_no_server_of_our_own_where_nobody_needs_it(server: RedisServer, tmp_path: Path) -> None:
    named = {"unix_socket_path": str(server.socket)}
    opened(Settings(state_dir=tmp_path / "state"), tmp_path, [guild("a", named)], lambda _: None)
    assert not (tmp_path / "state").exists()


def test_the_setting_wins(server: RedisServer, tmp_path: Path) -> None:
    def look(buses: Buses) -> None:
        assert buses.of("a").config.url == server.url

    opened(Settings(redis_url=server.url), tmp_path, [guild("a", {"host": "nowhere"})], look)


def test_a_wrong_setting_of_a_guild_names_the_guild_and_no_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"guild a: .*prot") as caught:
        opened(Settings(), tmp_path, [guild("a", {"prot": 1, "password": "s3cret"})], lambda _: None)
    assert "s3cret" not in str(caught.value)
