"""A real notify socket, as systemd hands one to a ``Type=notify`` service (see sd_notify(3))."""

import os
import selectors
import socket
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

UCRED = struct.Struct("3i")  # pid, uid, gid: what SCM_CREDENTIALS carries, unix(7)


@dataclass(frozen=True)
class Notification:
    """One datagram: its assignments, and the process that sent it (systemd drops those of others than the main one)."""

    fields: dict[str, str]
    pid: int


class NotifySocket:
    """Receives datagrams; keeps all of them in ``received``, in order. Use it in a ``with``.

    The socket lies in a short folder of its own: 107 bytes are all that a socket's path may have.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="notify-", dir="/tmp")
        self.path = Path(self._folder.name) / "n"
        self.received: list[Notification] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)

    def __enter__(self) -> "NotifySocket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close and remove the socket."""
        self._socket.close()
        self._folder.cleanup()

    @property
    def env(self) -> dict[str, str]:
        """What the service must find in its environment."""
        return {"NOTIFY_SOCKET": str(self.path)}

    def wait_for(self, key: str, value: str, timeout: float = 30, *, pid: int | None = None) -> Notification:
        """Wait for a datagram that assigns ``value`` to ``key`` and has not been waited past yet.

        With ``pid`` the wait ends early when that process dies. Raises TimeoutError or ProcessLookupError.
        """
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            death = None if pid is None else os.pidfd_open(pid)
            try:
                if death is not None:
                    selector.register(death, selectors.EVENT_READ)
                return self._wait(selector, key, value, deadline)
            finally:
                if death is not None:
                    os.close(death)

    def _wait(self, selector: selectors.BaseSelector, key: str, value: str, deadline: float) -> Notification:
        while True:
            while (found := self._receive()) is not None:
                if found.fields.get(key) == value:
                    return found
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no {key}={value} on the notify socket; received: {self.received}")
            if all(entry.fileobj is not self._socket for entry, _ in ready):
                raise ProcessLookupError(f"the service ended without {key}={value}; received: {self.received}")

    def _receive(self) -> Notification | None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(UCRED.size))
        except BlockingIOError:
            return None
        pid = next((UCRED.unpack(raw)[0] for _, kind, raw in ancillary if kind == socket.SCM_CREDENTIALS), 0)
        pairs = (line.partition("=") for line in data.decode().splitlines() if line)
        notification = Notification({key: value for key, _, value in pairs}, pid)
        self.received.append(notification)
        return notification
