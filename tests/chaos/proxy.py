"""A TCP proxy before a server on a Unix socket, which cuts connections where it is told to."""

import asyncio
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

Direction = Literal["request", "reply"]

SNIFF_BYTES = 4096
NAMED = re.compile(rb"SETNAME\r\n\$\d+\r\n([!-~]+)\r\n", re.IGNORECASE)


@dataclass
class Cut:
    """Where a connection is to be cut: behind so many more bytes of requests, or of replies.

    With ``after`` 0 and direction ``reply`` the request has arrived whole, and nothing of its reply comes back.
    """

    name: str
    """What the connection calls itself (``CLIENT SETNAME``); ``*`` is any."""
    direction: Direction
    after: int
    fired: threading.Event = field(default_factory=threading.Event)


class _Side(asyncio.Protocol):
    """One end of a pair: what it receives goes to the other."""

    def __init__(self, pair: "_Pair", direction: Direction) -> None:
        self.pair, self.direction = pair, direction
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.pair.made(self)

    def data_received(self, data: bytes) -> None:
        self.pair.carry(self, data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.pair.close()


class _Pair:
    """One connection through the proxy."""

    def __init__(self, proxy: "Proxy") -> None:
        self.proxy = proxy
        self.name = ""
        self._head = b""
        self._closed = False
        self.deaf = False
        self.client, self.server = _Side(self, "request"), _Side(self, "reply")

    def made(self, side: _Side) -> None:
        if side is self.client:
            self.proxy.pairs.add(self)
            assert side.transport is not None
            side.transport.pause_reading()
            self.proxy.connecting(self)

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: self.server, str(self.proxy.target))
        except OSError:
            self.close()
            return
        if self.client.transport is not None and not self._closed:
            self.client.transport.resume_reading()
        else:
            self.close()

    def carry(self, side: _Side, data: bytes) -> None:
        if side is self.client and len(self._head) < SNIFF_BYTES:
            self._head += data
            if found := NAMED.search(self._head):
                self.name = found[1].decode()
        other = self.server if side is self.client else self.client
        if self.deaf or other.transport is None or other.transport.is_closing():
            return
        for cut in list(self.proxy.cuts):
            if cut.direction != side.direction or cut.name not in ("*", self.name):
                continue
            if len(data) > cut.after:
                other.transport.write(data[: cut.after])
                self.proxy.cuts.remove(cut)
                self.close()
                cut.fired.set()
                return
            cut.after -= len(data)
        other.transport.write(data)

    def close(self) -> None:
        """What was written still goes out; nothing more comes in."""
        self._closed = True
        self.proxy.pairs.discard(self)
        for side in (self.client, self.server):
            if side.transport is not None and not side.transport.is_closing():
                side.transport.close()


class Proxy:
    """Listens on a port of loopback, in a thread of its own, while its ``with`` lasts.

    Args:
        target: the server's Unix socket; while nobody listens there, connections are ended at once.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.port = 0
        self.pairs: set[_Pair] = set()
        self.cuts: list[Cut] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        """Where to connect."""
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def cut(self, cut: Cut) -> None:
        """Have one connection cut, the first that gets there."""
        self._call(lambda: self.cuts.append(cut))

    def forget(self, cut: Cut) -> None:
        """Have no connection cut there any more."""
        self._call(lambda: self.cuts.remove(cut) if cut in self.cuts else None)

    def cut_all(self) -> None:
        """Cut every connection now."""

        def act() -> None:
            for pair in list(self.pairs):
                pair.close()

        self._call(act)

    def deafen_all(self) -> None:
        """Let what every connection of now says vanish from now on, without hanging up on anybody."""

        def act() -> None:
            for pair in self.pairs:
                pair.deaf = True

        self._call(act)

    def connecting(self, pair: _Pair) -> None:
        """Called in the loop: find the server for a new connection."""
        task = self._loop.create_task(pair.connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _call(self, action: Callable[[], object]) -> None:
        done = threading.Event()

        def act() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(act)
        done.wait()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            self._loop.create_server(lambda: _Pair(self).client, "127.0.0.1", 0, backlog=512)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            for pair in list(self.pairs):
                pair.close()
            for task in list(self._tasks):
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
            self._loop.run_until_complete(asyncio.sleep(0))  # transports end in the next round
            self._loop.close()
