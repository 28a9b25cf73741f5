"""A client of the control API, over the host's Unix socket. Standard library only: commands start with it."""

import http.client
import json
import os
import socket
import struct
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from rustic_host.errors import HostError, HostNotFoundError, RequestError

#: How long a host may take to answer, in seconds; it answers at once unless its Redis is in trouble.
ANSWER_TIMEOUT_SECONDS = 30

Terms = Sequence[tuple[str, object]]
"""Names and values of a query; those that are None are left out."""

_Result = TypeVar("_Result")

# How the host begins the line that ends a stream because something failed; a message begins with another key.
_ERROR_LINE = b'{"error":'
# And a line that says what happens to the stream.
_NOTICE_LINE = b'{"notice":'


class RemoteError(HostError):
    """What a host answered instead of what it was asked for.

    Args:
        message: the host's words.
        exit_code: what the command is to end with.
        refused: True when the host certainly did nothing of what it was asked.
    """

    def __init__(self, message: str, exit_code: int = 1, *, refused: bool = False) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.refused = refused


class LostConnectionError(HostNotFoundError):
    """The host went away, or did not answer in time, after it was asked: it may have done it or not."""


class HostClient:
    """Talks to the host that listens at ``path``; each call has a connection of its own.

    Every method raises :class:`~rustic_host.errors.HostNotFoundError` when nobody answers there,
    :class:`LostConnectionError` when the host goes away, and :class:`RemoteError` with what it says is wrong.
    """

    def __init__(self, path: Path, timeout_seconds: float = ANSWER_TIMEOUT_SECONDS) -> None:
        self._path = path
        self._timeout = timeout_seconds

    def status_json(self) -> bytes:
        """Return the host's status as it sends it, JSON of a ``HostStatus``."""
        return self._call("GET", "/v1/status")

    def status(self) -> dict[str, Any]:
        """Return the host's status: the keys of ``HostStatus``."""
        status: dict[str, Any] = json.loads(self.status_json())
        return status

    def publish(self, guild: str, topic: str, lines: Sequence[bytes], key: str | None = None) -> list[int]:
        """Publish messages, each the JSON of an ``OutgoingItem``, and return their ids in the same order."""
        path = f"/v1/guilds/{quoted(guild)}/messages?topic={quoted(topic)}"
        path += f"&key={quoted(key)}" if key is not None else ""
        answer = json.loads(self._call("POST", path, b"\n".join(lines)))
        return [int(id_) for id_ in answer["id_strings"]]

    def request(self, guild: str, topic: str, line: bytes, seconds: float, reply_on: str | None) -> bytes:
        """Publish a message, the JSON of an ``OutgoingItem``, and return the first reply as JSON.

        Raises:
            RemoteError: with exit code 124, when there is none in time.
        """
        path = f"/v1/guilds/{quoted(guild)}/requests?topic={quoted(topic)}&timeout={seconds}"
        path += f"&reply_on={quoted(reply_on)}" if reply_on else ""
        return self._call("POST", path, line, seconds + self._timeout)

    def tail(
        self,
        guild: str,
        topics: Sequence[str],
        start: str | None = None,
        *,
        wait: bool = True,
        on_notice: Callable[[str], object] = lambda text: None,
    ) -> Generator[bytes, None, None]:
        """Yield the messages of ``topics`` (none: all of the guild) as JSON without newline, until it is closed.

        With ``wait`` the host waits for a server that goes away, and ``on_notice`` is told so.

        Raises:
            LostConnectionError: the host ended the stream.
            RemoteError: among others, without ``wait``, when the server goes away.
        """
        terms = [f"topic={quoted(topic)}" for topic in topics] + ([f"from={quoted(start)}"] if start else [])
        terms += [] if wait else ["wait=false"]
        with closing(self._connect(None)) as connection:
            answer = self._ask(connection, "GET", f"/v1/guilds/{quoted(guild)}/tail?{'&'.join(terms)}", b"")
            while line := self._guarded(answer.readline):
                if line.startswith(_ERROR_LINE):
                    raise _remote_error(200, line)
                if line.startswith(_NOTICE_LINE):
                    on_notice(json.loads(line)["notice"])
                    continue
                yield line.rstrip(b"\n")
        raise LostConnectionError(f"the host on {self._path} has ended the stream: it stops, or was killed")

    def get(self, path: str, terms: Terms = ()) -> Any:
        """The JSON answer of a route below ``/v1``; words in ``path`` are :func:`quoted`, ``terms`` is its query."""
        return json.loads(self.get_bytes(path, terms))

    def get_bytes(self, path: str, terms: Terms = ()) -> bytes:
        """As :meth:`get`, as it was sent."""
        return self._call("GET", _route(path, terms))

    def post(self, path: str, terms: Terms = ()) -> Any:
        """As :meth:`get`, for a route that changes something."""
        return json.loads(self._call("POST", _route(path, terms)))

    def host_pid(self) -> int:
        """Return the process id of the host as seen from here, 0 when it is in a PID namespace that we cannot see."""
        with closing(self._connect(self._timeout)) as connection:
            credentials = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", credentials)[0]
        return pid

    def stop(self) -> None:
        """Ask the host to stop; it goes on for as long as its agents need."""
        self._call("POST", "/v1/stop")

    def _call(self, method: str, path: str, body: bytes = b"", seconds: float | None = None) -> bytes:
        with closing(self._connect(seconds or self._timeout)) as connection:
            return self._guarded(self._ask(connection, method, path, body).read)

    def _connect(self, timeout: float | None) -> "_UnixConnection":
        connection = _UnixConnection(self._path, timeout)
        try:
            connection.connect()
        except OSError as error:
            raise self._nobody(error) from error
        return connection

    def _nobody(self, error: OSError) -> HostNotFoundError:
        if isinstance(error, PermissionError):
            return HostNotFoundError(f"may not open {self._path}; run this as the user that the host runs as")
        return HostNotFoundError(f"no host answers on {self._path}; start one with `rustic-host start SPEC`")

    def _ask(self, connection: "_UnixConnection", method: str, path: str, body: bytes) -> http.client.HTTPResponse:
        def exchange() -> http.client.HTTPResponse:
            connection.request(method, path, body=body or None)
            return connection.getresponse()

        answer = self._guarded(exchange)
        if answer.status >= http.client.BAD_REQUEST:
            raise _remote_error(answer.status, self._guarded(answer.read))
        return answer

    def _guarded(self, step: Callable[[], _Result]) -> _Result:
        try:
            return step()
        except TimeoutError as error:
            raise LostConnectionError(
                f"the host on {self._path} has not answered in {self._timeout:g} seconds; its log may say why"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise LostConnectionError(f"the host on {self._path} went away without an answer") from error


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket; ``Host`` is only there because HTTP wants it."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("rustic-host", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(os.fspath(self._path))
        except OSError:
            self.sock.close()
            raise


def quoted(word: str) -> str:
    """Quote a word of the command line; what Python could not decode there is UTF-8 in a locale without it."""
    try:
        return quote(word.encode(errors="surrogateescape").decode(), safe="")
    except UnicodeDecodeError as error:
        raise RequestError(f"{word!r} is no UTF-8") from error


def _route(path: str, terms: Terms) -> str:
    query = "&".join(f"{name}={quoted(str(value))}" for name, value in terms if value is not None)
    return f"/v1/{path}?{query}" if query else f"/v1/{path}"


def _remote_error(status: int, body: bytes) -> RemoteError:
    refused = http.client.BAD_REQUEST <= status < http.client.INTERNAL_SERVER_ERROR
    try:
        error = json.loads(body)["error"]
        return RemoteError(error["message"], error["exit_code"], refused=refused)
    except (ValueError, LookupError, TypeError):
        return RemoteError(f"the host answered with HTTP status {status}, and in no form we know", refused=refused)
