"""Lines of JSON over a socket pair: how host and workers talk. No pickle crosses a process boundary."""

import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from rustic_host.errors import ExecutionError

MAX_LINE_BYTES = 64 << 20
"""A guild spec travels in one line; more than this is no spec."""

JsonObject = dict[str, Any]


class LineBuffer:
    """Cuts a byte stream into JSON objects."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[JsonObject]:
        """Objects whose lines are complete now.

        Raises:
            ValueError: a line is no JSON object, or longer than :data:`MAX_LINE_BYTES`.
        """
        old = len(self._rest)
        self._rest += data
        end = self._rest.rfind(b"\n", old) + 1  # only in what is new: a long line comes in many pieces
        lines = bytes(self._rest[:end]).split(b"\n")[:-1]
        del self._rest[:end]
        if max(map(len, [*lines, self._rest])) > MAX_LINE_BYTES:
            raise ValueError(f"line longer than {MAX_LINE_BYTES} bytes")
        return map(_parsed, lines)


class Channel:
    """One end of the pair, blocking: what workers use. Any thread may send, one may receive."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sending = threading.Lock()
        self._buffer = LineBuffer()
        self._ready: deque[JsonObject] = deque()

    @property
    def buffered(self) -> bool:
        """Whether :meth:`receive` has an object in hand already, of which ``poll`` knows nothing."""
        return bool(self._ready)

    def fileno(self) -> int:
        """For ``poll``; see :attr:`buffered`."""
        return self._socket.fileno()

    def send(self, kind: str, **fields: Any) -> None:
        """Send one object.

        Raises:
            OSError: the other side is gone.
        """
        line = encoded(kind, **fields)
        with self._sending:  # a long line is written in pieces, and two threads' pieces must not mix
            self._socket.sendall(line)

    def receive(self) -> JsonObject | None:
        """The next object, waiting for it; None when the other side is gone.

        Raises:
            ValueError: what came is no line of ours.
        """
        while not self._ready:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._ready += self._buffer.feed(data)
        return self._ready.popleft()

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def encoded(kind: str, **fields: Any) -> bytes:
    """One line.

    Raises:
        ValueError: longer than :data:`MAX_LINE_BYTES`.
        TypeError: a field is nothing that JSON knows.
    """
    text = json.dumps({"kind": kind, **fields}, ensure_ascii=False, separators=(",", ":"))
    # File names that are no UTF-8 are lone surrogates in Python; written with a backslash they are valid JSON.
    line = text.encode(errors="backslashreplace") + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"{kind} of {len(line)} bytes; at most {MAX_LINE_BYTES} can be sent")
    return line


def _parsed(line: bytes) -> JsonObject:
    try:
        parsed = json.loads(line)
    except RecursionError as error:
        raise ValueError(f"nested too deeply: {line[:80]!r}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"no JSON object: {line[:80]!r}")
    return parsed


def channel_pair(write_seconds: float) -> tuple[socket.socket, socket.socket]:
    """Ours, which gives up writing when nobody reads for so long (whole seconds), and the worker's.

    Raises:
        ExecutionError: the process has no descriptors left.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        raise ExecutionError(f"no channel for a worker: {error}") from error
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(write_seconds), 0))
    return ours, theirs
