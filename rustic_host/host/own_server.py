"""Supervises the embedded server: whenever it dies it is started again."""

import asyncio
import os
from pathlib import Path

from rustic_host.errors import RusticHostError
from rustic_host.messaging.embedded import EmbeddedServer
from rustic_host.telemetry.logs import get_logger

RETRY_SECONDS = 1.0

log = get_logger(__name__)


class OwnServer:
    """The server that a host without ``--redis`` runs.

    Args:
        folder: its data.
        runtime: folder for its socket when the path in ``folder`` would be too long.
        durability: ``everysec`` or ``fsync``.
    """

    def __init__(self, folder: Path, runtime: Path, durability: str) -> None:
        appendfsync = "always" if durability == "fsync" else "everysec"
        self._server = EmbeddedServer(folder, runtime, durability=appendfsync)
        self._watching: asyncio.Task[None] | None = None

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self._server.socket

    async def start(self) -> None:
        """Start or adopt it; raises as :meth:`EmbeddedServer.start`."""
        await asyncio.to_thread(self._server.start)
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End it in order."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await asyncio.to_thread(self._server.stop)

    async def _watch(self) -> None:
        while True:
            if self._server.pid is not None:
                await _gone(self._server.pid)
            log.error("embedded_server_died", pid=self._server.pid)
            try:
                await asyncio.to_thread(self._server.respawn)
            except RusticHostError as error:
                log.error("embedded_server_not_restarted", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)


async def _gone(pid: int) -> None:
    """Wait for the end of any process, child or not."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
