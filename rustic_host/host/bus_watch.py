"""Whether a server does what it is asked, found out before anybody has to wait for it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError

from rustic_host.messaging.redis.async_client import async_client
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.telemetry.logs import get_logger

WELL_SECONDS = 2.0
"""Between two questions while all is well; half a command a second."""

AWAY_SECONDS = 0.25
"""Between two while it is not: those who use the bus are back within a second, and so is what is said of it."""

PATIENCE_SECONDS = 2.0
"""A server that has not answered for so long is away."""

log = get_logger(__name__)


@dataclass(frozen=True)
class BusAway:
    """Since when a server does not do what it is asked, and why (its last word)."""

    since: datetime
    reason: str


class BusWatch:
    """Asks one server now and then; :attr:`away` is known at any time.

    Args:
        config: the server.
        clock: monotonic seconds.
    """

    def __init__(self, config: RedisBackendConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.away: BusAway | None = None
        self._config, self._clock = config, clock
        self._lost_at = 0.0
        self._command: tuple[str | int, ...] = ("SETRANGE", config.keys.probe_key(), 0, "")
        if config.is_cluster:  # the key may be another node's
            self._command = ("PING",)
        self._redis: Any = async_client(
            config, protocol=2, retry=Retry(NoBackoff(), 0), client_name="rustic-host:watch"
        )

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            self.note(await self.ask())
            await asyncio.sleep(AWAY_SECONDS if self.away else WELL_SECONDS)

    async def ask(self) -> str | None:
        """Why the server cannot be used now; None when it can.

        What is asked changes nothing (it writes no bytes to a key that is not there), and is refused by a server that
        would refuse a message: one that is read-only, without memory, or whose disk is full.
        """
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._redis.execute_command(*self._command)
        except TimeoutError:
            return f"no answer within {PATIENCE_SECONDS:.0f} s"
        except NoPermissionError:
            self._command = ("PING",)  # it answers; there is less to be known
        except (RedisError, OSError) as error:
            return str(error) or type(error).__name__
        return None

    def note(self, trouble: str | None) -> None:
        """Take up what :meth:`ask`, or anybody else who asked something of the server, has found."""
        before = self.away
        if trouble is None:
            self.away = None
            if before is not None:
                log.info("bus_back", redis=self._config.shown(), away_seconds=round(self._clock() - self._lost_at, 3))
            return
        self.away = BusAway(before.since if before else datetime.now(UTC), trouble)
        if before is None:
            self._lost_at = self._clock()
            log.warning("bus_away", redis=self._config.shown(), error=trouble)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._redis.aclose()
