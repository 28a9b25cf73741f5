"""Has the topics of all guilds cut to their bounds, every few seconds."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from rustic_host.errors import MessagingError
from rustic_host.execution.wrapper import NO_ORGANIZATION
from rustic_host.guild.dsl import GuildSpec
from rustic_host.host.buses import Buses
from rustic_host.messaging.redis.retention import Reads, Slow
from rustic_host.telemetry.logs import get_logger

SWEEP_SECONDS = 3.0

BREATH_SECONDS = 0.05
"""Between two sweeps while there is more to cut than one may."""

log = get_logger(__name__)


class Swept(Protocol):
    """A guild that runs here."""

    spec: GuildSpec

    def reads(self) -> Reads | None:
        """What those read that the guild names, so that it is never given up; None while they are not known."""


class Sweeper:
    """Sweeps until it is cancelled.

    Args:
        buses: the servers.
        guilds: those that run here at the moment, by id.
    """

    def __init__(self, buses: Buses, guilds: Callable[[], Mapping[str, Swept]]) -> None:
        self._buses, self._guilds = buses, guilds
        self._failing: set[str] = set()
        self.slow: dict[str, list[Slow]] = {}
        """By guild: clients that will lose messages if they go on like that."""

    async def run(self) -> None:
        """Sweep all guilds, rest, and again."""
        while True:
            guilds = self._guilds()
            for gone in self.slow.keys() - guilds.keys():
                del self.slow[gone]
            more = [await self._sweep(guild_id, guild) for guild_id, guild in guilds.items()]
            await asyncio.sleep(BREATH_SECONDS if any(more) else SWEEP_SECONDS)

    async def _sweep(self, guild_id: str, guild: Swept) -> bool:
        try:
            shared = guild.spec.organization_id or NO_ORGANIZATION
            found = await self._buses.of(guild_id).sweep(guild_id, shared, guild.reads())
        except MessagingError as error:
            if guild_id not in self._failing:  # said once, until it works again
                log.warning("retention_not_applied", guild=guild_id, error=str(error))
            self._failing.add(guild_id)
            return False
        except Exception:  # of one guild: the others' topics must be cut all the same
            log.exception("retention_failed", guild=guild_id)
            return False
        self._failing.discard(guild_id)
        self.slow[guild_id] = found.slow
        return found.more
