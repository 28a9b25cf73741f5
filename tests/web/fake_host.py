"""A host for tests of the web and CLI layers: it keeps everything in memory and is served by the real server.

``python -m tests.web.fake_host SOCKET [linger]`` runs one as a process; with ``linger`` it ignores that it shall stop.
"""

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

from rustic_host.errors import BackendUnavailableError, RequestTimeoutError, UnknownGuildError
from rustic_host.web.app import control_app
from rustic_host.web.models import AgentStatus, GuildStatus, HostInfo, HostStatus, OutgoingItem
from rustic_host.web.serve import serve_unix
from tests.web.fake_operator import FakeOperator


class FakeHost:
    """Implements ``HostInterface``; guild ``g`` is the only one."""

    version = "9.9.9"

    def __init__(self) -> None:
        self.operator = FakeOperator()
        self.pid = os.getpid()
        self.published: list[tuple[str, OutgoingItem]] = []
        self.batches: list[int] = []
        self.keys: list[str | None] = []
        self.requests: list[tuple[str, OutgoingItem, float, str | None]] = []
        self.reply: bytes | None = None
        self.stored: list[bytes] = []
        self.tail_asked: tuple[list[str], str | None] | None = None
        self.tail_patient: bool | None = None
        self.tail_started = threading.Event()
        self.tail_closed = threading.Event()
        self.tail_error: Exception | None = None
        self.tail_ends = False
        self.tail_blocks: threading.Event | None = None
        self.fail_publish_after: int | None = None
        self.publish_error: Exception = BackendUnavailableError("Redis at redis://r does not answer")
        self.published_one = threading.Event()
        self.stopped = threading.Event()
        self.agent_status = "running"

    async def status(self) -> HostStatus:
        agent = AgentStatus(
            id="a1",
            name="splitter",
            status=self.agent_status,
            pid=4711,
            restarts=2,
            uptime_seconds=3723.5,
            pss_bytes=6 * 1024 * 1024,
            handled=12,
            lag=3,
            reason=None if self.agent_status == "running" else "exit 1 of 5",
        )
        info = HostInfo(
            pid=self.pid,
            version=self.version,
            started_at=datetime.now(UTC),
            socket="/run/x",
            metrics_url="http://127.0.0.1:9464/metrics",
            redis="unix:///r.sock",
        )
        guild = GuildStatus(id="g", name="Guild G", status="running", agents=[agent], subscriptions={"t": 1})
        return HostStatus(host=info, guilds=[guild])

    async def request(self, guild: str, topic: str, item: OutgoingItem, timeout: float, reply_on: str | None) -> bytes:
        self._check(guild)
        self.requests.append((topic, item, timeout, reply_on))
        if self.reply is None:
            raise RequestTimeoutError("no reply")
        return self.reply

    async def publish(self, guild: str, topic: str, items: list[OutgoingItem], key: str | None = None) -> list[int]:
        self._check(guild)
        self.keys.append(key)
        if self.fail_publish_after is not None and len(self.published) >= self.fail_publish_after:
            raise self.publish_error
        first = 2**63 + len(self.published)
        self.published += [(topic, item) for item in items]
        self.batches.append(len(items))
        self.published_one.set()
        return list(range(first, first + len(items)))

    def tail(self, guild: str, topics: list[str], start: str | None, patient: bool = True) -> AsyncIterator[bytes]:
        self._check(guild)
        self.tail_patient = patient
        self.tail_asked = (topics, start)
        return self._tail()

    async def _tail(self) -> AsyncIterator[bytes]:
        try:
            self.tail_started.set()
            yield b""
            for message in self.stored:
                yield message
                if self.tail_blocks:
                    self.tail_blocks.wait(20)  # the loop too: it sees nothing meanwhile
            if self.tail_error:
                raise self.tail_error
            if not self.tail_ends:
                await asyncio.Event().wait()
        finally:
            self.tail_closed.set()

    async def stop(self) -> None:
        self.stopped.set()

    async def metrics(self) -> bytes:
        return b"rustic_agent_up 1\n"

    def _check(self, guild: str) -> None:
        if guild != "g":
            raise UnknownGuildError(f"no guild {guild!r} runs here; there is: g")


@contextlib.contextmanager
def serving(host: FakeHost, path: Path) -> Iterator[FakeHost]:
    """Serve ``host`` on a Unix socket at ``path``, by the real server in a thread of its own."""
    ready = threading.Event()
    ending: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        end = asyncio.Event()
        ending.append((asyncio.get_running_loop(), end))
        handle = await serve_unix(control_app(host), bind(path))
        ready.set()
        await end.wait()
        await handle.stop()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(20)
    try:
        yield host
    finally:
        loop, end = ending[0]
        loop.call_soon_threadsafe(end.set)
        thread.join(20)
        assert not thread.is_alive()


def bind(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    return sock


def _main() -> None:
    host = FakeHost()
    with serving(host, Path(sys.argv[1])):
        print("ready", flush=True)
        host.stopped.wait()
        if "linger" in sys.argv:
            threading.Event().wait()


if __name__ == "__main__":
    _main()
