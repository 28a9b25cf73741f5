"""One connection to the server, with nothing hidden: no retries, no silent reconnect, no pool.

What a connection delivered may only be acknowledged on that connection (design, section 5), so whoever owns a
:class:`Link` must see each break.
"""

import os
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha1
from importlib import resources
from typing import Any

import hiredis
from redis import exceptions as redis_errors

from rustic_host.errors import BackendNotReadyError, BackendRefusedError, BackendUnavailableError
from rustic_host.messaging.redis.cluster import find_node
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.tls import check_files, distrusted

_NOT_READY = (
    redis_errors.BusyLoadingError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
    redis_errors.MasterDownError,
    redis_errors.ClusterDownError,
    redis_errors.TryAgainError,
    redis_errors.AskError,  # and MovedError, which is one: the next connection goes to where the slot is then
)
_NOT_READY_CODES = ("BUSY ", "MISCONF ", "NOREPLICAS ")  # redis-py has no classes for these
"""Answers that pass: the disk is full, a script of somebody's hangs, a failover is under way."""

Argument = str | bytes | int | float
Command = Sequence[Argument]

_pack: Callable[..., bytes] = hiredis.pack_command


class Script:
    """A Lua script from ``lua/<name>.lua``; keys and arguments are described at the head of that file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.body = resources.files(__package__).joinpath("lua", f"{name}.lua").read_bytes()
        self.sha = sha1(self.body, usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[Argument], args: Sequence[Argument]) -> list[Argument]:
        """``EVALSHA``, ready to send."""
        return ["EVALSHA", self.sha, len(keys), *keys, *args]

    def full_command(self, command: Sequence[Argument]) -> list[Argument]:
        """The same with the script's text, for a server that does not know it (yet, or any more)."""
        return ["EVAL", self.body, *command[2:]]


def shown_name(name: str) -> str:
    """A connection's name as ``CLIENT LIST`` has it: the server refuses what is not printable ASCII."""
    return "".join(c if "!" <= c <= "~" else "_" for c in name)


@contextmanager
def mapped_errors(where: str, *, known: bool = False) -> Iterator[None]:
    """Foreign exceptions of one exchange with the server, as ours.

    A server that has let us in before (``known``), and does so no more, or has a certificate that we do not trust, is
    being set up anew by somebody: that passes.
    """
    try:
        yield
    except redis_errors.AuthenticationError as error:
        if known:
            raise BackendNotReadyError(f"{where} is not ready, it does not let us in: {error}") from error
        raise BackendRefusedError(f"{where} refuses us: {error}") from error
    except redis_errors.NoPermissionError as error:
        raise BackendRefusedError(f"{where} refuses us: {error}") from error
    except _NOT_READY as error:
        raise BackendNotReadyError(f"{where} is not ready: {error}") from error
    except (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError) as error:
        if why := distrusted(error):
            if known:
                raise BackendNotReadyError(f"{where} is not ready: {why}") from error
            raise BackendRefusedError(f"{where} is not trusted: {why}") from error
        raise BackendUnavailableError(f"{where} cannot be reached: {error}") from error
    except redis_errors.InvalidResponse as error:
        raise BackendUnavailableError(f"{where} does not speak Redis' protocol: {error}") from error
    except redis_errors.RedisError as error:
        if str(error).startswith(_NOT_READY_CODES):
            raise BackendNotReadyError(f"{where} is not ready: {error}") from error
        raise BackendRefusedError(f"{where} answered: {error}") from error


class Link:
    """A connection that is made once and, when it breaks, stays broken until :meth:`connect` is called again.

    Args:
        config: the server; of a cluster, with the route that says which of its nodes (``config.at(namespace)``).
        name: what ``CLIENT LIST`` shows; what is not printable ASCII is replaced.

    Raises:
        BackendUnavailableError: from every method, when the server cannot be reached or the connection broke.
        BackendNotReadyError: of these, when it answers and cannot do it now; the connection is given up too.
        BackendRefusedError: from every method, when the server answered with an error.
    """

    def __init__(self, config: RedisBackendConfig, name: str) -> None:
        self.config = config
        self.name = shown_name(name)
        self._connection: Any = None
        self._pid = 0
        self._known = False
        self._longest: float | None = None
        self.where = config.shown()

    @property
    def connected(self) -> bool:
        """Whether the connection was made and not seen to break."""
        return self._connection is not None and self._pid == os.getpid()

    def connect(self) -> None:
        """Make the connection anew."""
        self.close()
        pool = self.config.pool(find_node(self.config, known=self._known), client_name=self.name, **self._limits())
        connection = pool.connection_class(**pool.connection_kwargs)
        with mapped_errors(self.where, known=self._known):
            check_files(self.where, pool, known=self._known)
            connection.connect()
        self._connection, self._pid, self._known = connection, os.getpid(), True

    def limit(self, seconds: float) -> None:
        """What comes next waits for the server at most so long (more than 0), or as the settings say if less."""
        self._longest = seconds
        if self.connected:
            self._connection._sock.settimeout(min(self.config.socket_timeout, seconds))

    def _limits(self) -> dict[str, float]:
        names = "socket_timeout", "socket_connect_timeout"
        settings = {name: getattr(self.config, name) for name in names}
        return {name: value if self._longest is None else min(value, self._longest) for name, value in settings.items()}

    def duplicate(self) -> int:
        """The socket's descriptor once more, to wait on while others use the connection; the caller closes it."""
        with self._exchange() as connection:
            return os.dup(connection._sock.fileno())

    def close_if_hung_up(self) -> None:
        """Drop a connection that the server has ended."""
        if self.connected:
            poll = select.poll()
            poll.register(self._connection._sock.fileno(), select.POLLRDHUP)
            if poll.poll(0):
                self.close()

    def close(self) -> None:
        """Drop the connection; replies under way are lost."""
        connection, self._connection = self._connection, None
        if connection is not None and self._pid == os.getpid():
            connection.disconnect()

    def send(self, *commands: Command) -> None:
        """Write all commands at once; :meth:`receive` once for each."""
        # Not redis-py's own packing: it looks at each argument in Python, and sends a long command apart from the next.
        packed = b"".join([_pack(tuple(command)) for command in commands])
        with self._exchange() as connection:
            connection.send_packed_command([packed], check_health=False)

    def receive(self) -> Any:
        """The next reply. An error reply is raised, with the connection still good."""
        with self._exchange() as connection:
            return connection.read_response(disconnect_on_error=False)

    def call(self, *command: Argument) -> Any:
        """One command and its reply."""
        self.send(command)
        return self.receive()

    def run(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> Any:
        """Run a script, teaching it to the server when it does not know it."""
        command = script.command(keys, args)
        self.send(command)
        return self.receive_script(script, command)

    def receive_script(self, script: Script, command: Sequence[Argument]) -> Any:
        """Reply of a script's command that was sent; for NOSCRIPT nothing had been done, so it is sent again whole."""
        try:
            return self.receive()
        except BackendRefusedError as error:
            if not isinstance(error.__cause__, redis_errors.NoScriptError):
                raise
        return self.call(*script.full_command(command))

    def wait(self, timeout: float, *wakeups: int) -> bool:
        """Wait for a reply, at most ``timeout`` seconds, or until one of the file descriptors is readable.

        Returns:
            whether a reply has come.
        """
        with self._exchange() as connection:
            if connection.can_read(0):
                return True
            own = connection._sock.fileno()
            poll = select.poll()  # not select(): a process may hold more than 1,024 descriptors
            for fd in (own, *wakeups):
                poll.register(fd, select.POLLIN)
            return any(fd == own for fd, _ in poll.poll(max(timeout, 0) * 1000))

    @contextmanager
    def _exchange(self) -> Iterator[Any]:
        if not self.connected:
            raise BackendUnavailableError(f"{self.where}: not connected")
        try:
            with mapped_errors(self.where, known=True):
                yield self._connection
        except BackendRefusedError:
            raise
        except BaseException:  # Ctrl-C too: half of a request or reply may be under way
            self.close()
            raise
