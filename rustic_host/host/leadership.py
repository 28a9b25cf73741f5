"""Whether this host runs a guild, or stands by while another does: the guild's lease, kept and watched."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from rustic_host.errors import MessagingError
from rustic_host.messaging.redis.host_lease import Holder
from rustic_host.telemetry.logs import get_logger

RENEWALS = 4
"""How often a lease is renewed in its time."""

STANDBY_SECONDS = 1.0
"""How often one who stands by asks, at least: the most that a hand-over in order takes."""

log = get_logger(__name__)


class Lease(Protocol):
    """As :class:`~rustic_host.messaging.redis.host_lease.HostLease`; every method blocks."""

    seconds: float

    def ask(self, *, also_ended: bool = False) -> Holder | None:
        """Take or renew; returns who has it instead."""

    def release(self, *, ended: bool = False) -> None:
        """Give it back."""

    def close(self) -> None:
        """Let go of the connection."""


def boot_clock() -> float:
    """Seconds that go on also while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Leadership:
    """Asks for one guild's lease again and again, and tells what the answers mean. Lives in the host's event loop.

    While the server is away nothing changes: the one who had the lease keeps it as far as it knows, but is not
    :attr:`sure` of it any more.

    Args:
        guild_id: the guild.
        lease: its lease.
        clock: seconds; see :func:`boot_clock`.
    """

    def __init__(self, guild_id: str, lease: Lease, *, clock: Callable[[], float] = boot_clock) -> None:
        self._guild, self._lease, self._clock = guild_id, lease, clock
        self.holder: Holder | None = None
        """Who runs the guild; None is this host."""
        self.error: str | None = None
        """Why the lease could not be asked for the last time."""
        self._sure_until = float("-inf")
        self._answered = asyncio.Condition()
        self._nudged = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def sure(self) -> bool:
        """Whether nobody else can have the lease, as far as clocks run alike; any thread may ask."""
        return self.holder is None and self._clock() < self._sure_until

    def doubt(self) -> None:
        """Something says that another runs the guild: be not sure, and ask now."""
        self._sure_until = float("-inf")
        self._nudged.set()

    async def open(self) -> None:
        """Ask for the first time, and go on asking.

        Raises:
            BackendUnavailableError, BackendRefusedError: as the lease.
        """
        await self._ask(also_ended=True)
        self._running = asyncio.create_task(self._run())

    async def confirm(self) -> bool:
        """Whether the guild is ours to run, by an answer of the server: waited for as long as it takes."""
        await self._wait(lambda: self.sure or self.holder is not None)
        return self.holder is None

    async def gained(self) -> None:
        """Wait until the guild is ours, or has ended."""
        await self._wait(lambda: self.holder is None or self.holder.ended)

    async def lost(self) -> Holder:
        """Wait until it is another's; returns whose."""
        while self.holder is None:
            await self._wait(lambda: self.holder is not None)
        return self.holder

    async def close(self, *, ended: bool = False) -> None:
        """Give the lease back if it is ours; of a server that is away it expires. Harmless to repeat."""
        if self._closed:
            return
        self._closed = True
        if self._running is not None:  # not cancelled: what is being asked now must not come after the release
            self._nudged.set()
            await self._running
        try:
            if self._running is not None and self.holder is None and self.error is None:
                await asyncio.to_thread(self._lease.release, ended=ended)
        except MessagingError as error:
            log.warning("host_lease_not_released", guild=self._guild, error=str(error))
        await asyncio.to_thread(self._lease.close)

    async def _wait(self, holds: Callable[[], bool]) -> None:
        async with self._answered:
            await self._answered.wait_for(holds)

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._nudged.wait()
            self._nudged.clear()
            if self._closed:
                return
            try:
                await self._ask()
            except MessagingError as error:
                if self.error is None:
                    log.warning("host_lease_not_renewed", guild=self._guild, error=str(error))
                self.error = str(error)

    def _pause(self) -> float:
        often = self._lease.seconds / RENEWALS
        if self.holder is None:
            return often
        return min(often, STANDBY_SECONDS, max(self.holder.left_seconds, 0.0) + 0.005)

    async def _ask(self, *, also_ended: bool = False) -> None:
        asked_at = self._clock()  # before, for it counts from when the server heard it
        holder = await asyncio.to_thread(self._lease.ask, also_ended=also_ended)
        self.error = None
        async with self._answered:
            self.holder = holder
            if holder is None and not self._nudged.is_set():
                self._sure_until = asked_at + self._lease.seconds
            self._answered.notify_all()
