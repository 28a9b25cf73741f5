"""One guild of a host: run while its lease is ours, watched while it is another's."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from rustic_host.errors import ExecutionError
from rustic_host.host.interop import Interop
from rustic_host.host.leadership import Leadership
from rustic_host.host.supervisor import Announce, GuildSupervisor
from rustic_host.messaging.redis.host_lease import Holder
from rustic_host.telemetry.logs import get_logger

log = get_logger(__name__)


class Tenure:
    """Starts everything of a guild that only one host may have, and stops it when another host has it.

    Args:
        guild_id: the guild.
        leadership: says whose it is.
        supervisor: makes one; each serves for one time that the guild is ours.
        interop: makes its bridges; None where it has none.
        announce: told in words what happens.
        changed: called when something of it has changed that a status line tells.
        on_end: called when the guild was asked to end, at the host that ran it.
    """

    def __init__(
        self,
        guild_id: str,
        leadership: Leadership,
        supervisor: Callable[[], GuildSupervisor],
        interop: Callable[[GuildSupervisor], Interop | None],
        announce: Announce,
        changed: Callable[[], None],
        on_end: Callable[[GuildSupervisor], None],
    ) -> None:
        self._guild, self._leadership = guild_id, leadership
        self._make_supervisor, self._make_interop = supervisor, interop
        self._announce, self._changed, self._on_end = announce, changed, on_end
        self.supervisor = supervisor()
        self.interop: Interop | None = None
        self.running: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Ask for the lease; the guild is started, or another host's, soon after.

        Raises:
            BackendUnavailableError, BackendRefusedError: the lease could not be asked for.
        """
        await self._leadership.open()
        if self._leadership.holder is not None:
            self._stand_by(self._leadership.holder)
        self.running = asyncio.create_task(self._run())

    async def stop(self, *, ended: bool = False) -> None:
        """Stop all of it in order, then hand over; ``ended``: to nobody, for the guild was asked to end.

        Raises:
            ExecutionError: processes are still there, though they were killed; the lease is then left to expire.
        """
        if self.running is not None:
            self.running.cancel()
            with suppress(asyncio.CancelledError):
                await self.running
        await self._stop_all()
        await self._leadership.close(ended=ended)

    async def _run(self) -> None:
        while True:
            await self._leadership.gained()
            if self._leadership.holder is not None:
                log.info("guild_ended_elsewhere", guild=self._guild, host=str(self._leadership.holder))
                self._on_end(self.supervisor)
                return
            await self._take()
            telling = asyncio.create_task(self._tell_when_settled())
            try:
                holder = await self._leadership.lost()
            finally:
                telling.cancel()
            await self._leave(holder)

    async def _take(self) -> None:
        if self.supervisor.standby_of is not None:
            log.warning("guild_taken_over", guild=self._guild, former=self.supervisor.standby_of)
            self._announce(f"guild {self._guild}: taken over from host {self.supervisor.standby_of}")
        self.interop = self._make_interop(self.supervisor)
        if self.interop is not None:
            await self.interop.start()
        self.supervisor.start()
        self._changed()

    async def _leave(self, holder: Holder) -> None:
        """Its workers could commit nothing any more; what they have in hand is the other's."""
        log.error("guild_lost_to_another_host", guild=self._guild, host=str(holder))
        self._announce(f"guild {self._guild}: another host has taken it over")
        try:
            await self._stop_all(at_once=True)
        except ExecutionError as error:
            log.error("guild_not_stopped", guild=self._guild, error=str(error))
        self.supervisor = self._make_supervisor()
        self._stand_by(holder)

    def _stand_by(self, holder: Holder) -> None:
        self.supervisor.stand_by(str(holder))
        log.info("guild_standing_by", guild=self._guild, host=holder.host, pid=holder.pid)
        self._announce(f"guild {self._guild} is run by host {holder}; standing by")
        self._changed()

    async def _stop_all(self, *, at_once: bool = False) -> None:
        try:
            await self.supervisor.stop(at_once=at_once)
        finally:
            interop, self.interop = self.interop, None
            if interop is not None:
                await interop.stop()

    async def _tell_when_settled(self) -> None:
        await self.supervisor.settled.wait()
        self._changed()
