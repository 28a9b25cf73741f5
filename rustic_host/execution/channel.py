"""Lines of JSON over a socket pair: how host, zygote and workers talk. No pickle crosses a process boundary."""

import json
import socket
from collections.abc import Iterator
from typing import Any

MAX_LINE_BYTES = 64 << 20
"""A guild spec travels in one line; more than this is no spec."""

JsonObject = dict[str, Any]


class LineBuffer:
    """Cuts a byte stream into JSON objects."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[JsonObject]:
        """Objects whose lines are complete now.

        Raises:
            ValueError: a line is no JSON object, or longer than :data:`MAX_LINE_BYTES`.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ValueError(f"line longer than {MAX_LINE_BYTES} bytes")
        for line in lines:
            parsed = json.loads(line)
            if not isinstance(parsed, dict):
                raise ValueError(f"no JSON object: {line[:80]!r}")
            yield parsed


class Channel:
    """One end of the pair, blocking: what zygote and workers use."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = LineBuffer()
        self._ready: list[JsonObject] = []

    def fileno(self) -> int:
        """For ``poll``."""
        return self._socket.fileno()

    def send(self, kind: str, **fields: Any) -> None:
        """Send one object.

        Raises:
            OSError: the other side is gone.
        """
        self._socket.sendall(encoded(kind, **fields))

    def receive(self) -> JsonObject | None:
        """The next object, waiting for it; None when the other side is gone."""
        while not self._ready:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._ready += self._buffer.feed(data)
        return self._ready.pop(0)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def encoded(kind: str, **fields: Any) -> bytes:
    """One line."""
    return json.dumps({"kind": kind, **fields}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
