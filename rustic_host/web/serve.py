"""Serves an application on a socket that is bound already, inside a running event loop, without touching signals."""

import asyncio
import contextlib
import socket
from contextlib import AbstractContextManager

import uvicorn
from fastapi import FastAPI

#: How long an answer in progress may take when the server stops, in seconds.
GRACE_SECONDS = 2


class _Server(uvicorn.Server):
    """uvicorn that leaves signals to the daemon, and waits for its end instead of asking ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ending = asyncio.Event()
        self.listening = asyncio.Event()

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.ending.wait()


class ServerHandle:
    """A server that runs; made by :func:`serve_unix` and :func:`serve_tcp`."""

    def __init__(self, app: FastAPI, server: _Server, task: asyncio.Task[None]) -> None:
        self._app = app
        self._server = server
        self._task = task

    async def stop(self) -> None:
        """Take no more connections, end open tails, let answers finish for :data:`GRACE_SECONDS`, and close all.

        The listening socket is closed; its path is the caller's to remove. Can be called twice.
        """
        self._app.state.closing.set()
        self._server.ending.set()
        await self._task
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()


async def serve_unix(app: FastAPI, sock: socket.socket) -> ServerHandle:
    """Serve ``app`` on a bound Unix socket; returns when it listens."""
    return await _serve(app, sock)


async def serve_tcp(app: FastAPI, sock: socket.socket) -> ServerHandle:
    """Serve ``app`` on a bound TCP socket; returns when it listens."""
    return await _serve(app, sock)


async def _serve(app: FastAPI, sock: socket.socket) -> ServerHandle:
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve([sock]), name="rustic-web")
    listening = asyncio.create_task(server.listening.wait())
    await asyncio.wait([task, listening], return_when=asyncio.FIRST_COMPLETED)
    listening.cancel()
    if task.done():
        task.result()
    return ServerHandle(app, server, task)
