"""Which server each guild lives on, and the host's view of each server."""

import os
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

from pydantic import ValidationError

from rustic_host.errors import ConfigError, RusticHostError
from rustic_host.guild.dsl import GuildSpec
from rustic_host.guild.environment import guild_properties
from rustic_host.guild.redis_settings import redis_settings
from rustic_host.host.bus import HostBus
from rustic_host.host.own_server import OwnServer
from rustic_host.host.paths import find_state_dir
from rustic_host.host.settings import Settings
from rustic_host.messaging import MessagingConfig, RedisBackendConfig
from rustic_host.telemetry.logs import get_logger

log = get_logger(__name__)

_Used = tuple[str, str | None, str, float | None]
"""A server's URL, the guild on a cluster, and what of its settings the host has to heed: key prefix and retention."""


class Buses:
    """One :class:`HostBus` for each distinct server, and way of using it; on a cluster one for each guild.

    A guild lives on the server of the settings (``--redis``); else on the one that its own properties, or Rustic AI's
    environment, name; else on one that the host runs.

    Args:
        settings: of the host.
        runtime: folder for the own server's socket.
    """

    def __init__(self, settings: Settings, runtime: Path) -> None:
        self._settings, self._runtime = settings, runtime
        self._configs: dict[str, RedisBackendConfig] = {}
        self._buses: dict[_Used, HostBus] = {}
        self._own: RedisBackendConfig | None = None

    async def open(self, stack: AsyncExitStack, guilds: Iterable[GuildSpec]) -> None:
        """Reach the servers; ``stack`` closes what was opened. Raises as :meth:`HostBus.open`, and ConfigError."""
        wanted = {}
        for guild in guilds:
            wanted[guild.id] = config = self._wanted(guild)
            if config is not None:
                config.check_shared(guild.organization_id or "")
        if None in wanted.values() or not wanted:
            own = self._own = await self._own_server(stack)
            await self._open(stack, own)
            self._configs = dict.fromkeys(wanted, own)
        for guild_id, config in wanted.items():
            if config is not None:
                self._configs[guild_id] = config.at(guild_id)
                await self._open(stack, self._configs[guild_id])
        for guild_id in wanted:
            await self.of(guild_id).open_guild(guild_id)

    def of(self, guild_id: str) -> HostBus:
        """The bus that a guild is on."""
        return self._buses[_used(self._configs[guild_id])]

    def config(self, guild_id: str) -> RedisBackendConfig:
        """The server that a guild is on, as the guild is to use it."""
        return self._configs[guild_id]

    def is_own(self, guild_id: str) -> bool:
        """Whether a guild is on the host's own server, which no process of others can reach."""
        return self._configs[guild_id] is self._own

    def messaging(self, guild_id: str) -> MessagingConfig:
        """What the guild's workers are told of its bus."""
        settings = self._configs[guild_id].model_dump(mode="json", exclude_defaults=True)
        return MessagingConfig(
            backend_module="rustic_host.messaging",
            backend_class="RedisMessagingBackend",
            backend_config={"redis_client": settings},
        )

    def shown(self) -> str:
        """The servers, without passwords."""
        return ", ".join(dict.fromkeys(bus.config.shown() for bus in self._buses.values()))

    async def renew_slots(self) -> None:
        """Keep the id slots; what fails is tried again the next time."""
        for bus in self._buses.values():
            try:
                await bus.renew_slot()
            except RusticHostError as error:
                log.warning("id_slot_not_renewed", error=str(error))

    def _wanted(self, guild: GuildSpec) -> RedisBackendConfig | None:
        if self._settings.redis_url:
            return _redis_at(self._settings.redis_url)
        try:
            return redis_settings(guild_properties(guild.properties, os.environ))
        except ConfigError as error:
            raise ConfigError(f"guild {guild.id}: {error}") from None

    async def _own_server(self, stack: AsyncExitStack) -> RedisBackendConfig:
        state = self._settings.state_dir or find_state_dir(os.environ)
        own = OwnServer(state / "valkey", self._runtime, self._settings.durability)
        await own.start()
        stack.push_async_callback(own.stop)
        return RedisBackendConfig(unix_socket_path=own.socket)

    async def _open(self, stack: AsyncExitStack, config: RedisBackendConfig) -> None:
        used = _used(config)
        if used not in self._buses:
            bus = HostBus(config, self._settings.bounds, self._settings.durability)
            stack.push_async_callback(bus.close)
            await bus.open()
            self._buses[used] = bus


def _used(config: RedisBackendConfig) -> _Used:
    return config.connection_url(), config.route, config.key_prefix, config.retention


def _redis_at(url: str) -> RedisBackendConfig:
    try:
        return RedisBackendConfig(url=url)
    except ValidationError as error:
        reasons = "; ".join(each["msg"] for each in error.errors(include_url=False, include_input=False))
        raise ConfigError(f"--redis or RUSTIC_HOST_REDIS_URL: {reasons}") from None  # the cause may show the password
