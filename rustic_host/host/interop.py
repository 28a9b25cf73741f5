"""The bridges of a guild: what Rustic AI's processes publish to it on the same server is read here too."""

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import Literal

from rustic_host.agents.boundary import guild_inbox
from rustic_host.errors import ConfigError
from rustic_host.execution.wrapper import NO_ORGANIZATION
from rustic_host.guild.dsl import GuildSpec
from rustic_host.guild.environment import guild_properties
from rustic_host.guild.redis_settings import interop_setting
from rustic_host.messaging import RedisBackendConfig
from rustic_host.messaging.redis.bridge import Bridge
from rustic_host.telemetry.logs import get_logger

CATCH_UP_SECONDS = 10.0
"""How long a guild waits at its start for an import that gets on with nothing, its server being away, say."""

log = get_logger(__name__)


class Interop:
    """One guild's bridges: of its own namespace, and of its inbox in the one that guilds share.

    Args:
        config: the guild's server.
        guild: its spec.
        topics: topics that its agents read; called in other threads.
    """

    def __init__(self, config: RedisBackendConfig, guild: GuildSpec, topics: Callable[[], Iterable[str]]) -> None:
        self._guild = guild.id
        shared = guild.organization_id or NO_ORGANIZATION
        config = config.at(guild.id)
        inbox = Bridge(config, shared, only=[guild_inbox(guild.id)], counted_in=guild.id)
        self._bridges = [Bridge(config, guild.id, topics), inbox]

    @property
    def error(self) -> str | None:
        """Why what others publish is not read at present; None when it is."""
        return next((bridge.error for bridge in self._bridges if bridge.error), None)

    async def start(self) -> None:
        """Begin, and wait until what is stored is imported, so that groups are made behind what Rustic AI has handled.

        That takes minutes for a million messages, once.
        """
        for bridge in self._bridges:
            bridge.start()
        await asyncio.gather(*(self._caught_up(bridge) for bridge in self._bridges))

    async def _caught_up(self, bridge: Bridge) -> None:
        """Wait for it as long as it gets on; a server that is away holds nobody up."""
        imported = -1
        while bridge.imported > imported:
            imported = bridge.imported
            if await asyncio.to_thread(bridge.catch_up, CATCH_UP_SECONDS):
                return
            log.warning("import_goes_on", guild=self._guild, imported=bridge.imported, error=bridge.error)

    async def stop(self) -> None:
        """End; harmless to repeat."""
        bridges, self._bridges = self._bridges, []
        await asyncio.gather(*(asyncio.to_thread(bridge.stop) for bridge in bridges))


def is_wanted(setting: Literal["auto", "on", "off"], guild: GuildSpec, own_server: bool) -> bool:
    """Whether a guild is to have bridges: the host's setting, else the guild's, else whether others can be there.

    Raises:
        ConfigError: the guild's property is none of the three.
    """
    try:
        of_guild = interop_setting(guild_properties(guild.properties, os.environ))
    except ConfigError as error:
        raise ConfigError(f"guild {guild.id}: {error}") from None
    chosen = of_guild if setting == "auto" else setting
    return not own_server if chosen == "auto" else chosen == "on"
