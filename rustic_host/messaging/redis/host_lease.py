"""Which of several hosts runs a guild: who holds its lease, which expires by the server's clock.

The lease keeps two hosts from working against each other; that nothing doubles does not rest on it, but on the owner
token of each client (design, section 5).
"""

import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.link import Argument, Script
from rustic_host.messaging.redis.publisher import Publisher

ENDED_SECONDS = 60.0
"""How long those who stand by can learn that the guild was asked to end."""

LEASE, RELEASE = Script("host_lease"), Script("host_release")


class Holder(NamedTuple):
    """The host that has a guild's lease."""

    host: str
    """Name of its machine."""
    pid: int
    place: str
    """Where ``pid`` is a number of: the machine since its start, and the namespace of processes; '' is not known."""
    token: str
    left_seconds: float
    """Until its lease ends, unless it is renewed."""
    ended: bool = False
    """It does not run the guild any more, and nobody shall: that was asked to end."""

    def __str__(self) -> str:
        return f"{self.host} (pid {self.pid})"


class HostLease:
    """One guild's lease, as one host asks for it. Not to be shared between threads.

    Args:
        config: the server.
        namespace: the guild id.
        seconds: how long it lasts after it was taken or renewed.
    """

    def __init__(self, config: RedisBackendConfig, namespace: str, seconds: float) -> None:
        self.seconds = seconds
        self._key = config.keys.host_key(namespace)
        self._publisher = Publisher(config, "rustic-host:lease", deadline=seconds / 4)
        self._token = secrets.token_hex(8)
        self._me: list[Argument] = [socket.gethostname(), os.getpid(), place()]

    def ask(self, *, also_ended: bool = False) -> Holder | None:
        """Take the lease if it is free, or renew it; returns who has it instead.

        It is free, too, when its holder was a process of this machine that is gone.

        Args:
            also_ended: take it also when its guild was asked to end: who is started afterwards is to run it.

        Raises:
            BackendUnavailableError, BackendRefusedError: as the publisher, after a quarter of ``seconds``.
        """
        holder = self._ask("", also_ended)
        if holder is not None and not holder.ended and is_dead(holder):
            holder = self._ask(holder.token, also_ended)
        return holder

    def release(self, *, ended: bool = False) -> None:
        """Give it back, for the next to take at once; or, when the guild was asked to end, for nobody to take.

        Raises as :meth:`ask`.
        """
        self._publisher.run(RELEASE, [self._key], [self._token, int(ended) * int(ENDED_SECONDS * 1000)])

    def close(self) -> None:
        """Let go of the connection."""
        self._publisher.close()

    def _ask(self, former: str, also_ended: bool) -> Holder | None:
        args = [self._token, int(self.seconds * 1000), former, int(also_ended), *self._me]
        reply: Any = self._publisher.run(LEASE, [self._key], args)
        if reply[0]:
            return None
        token, host, pid, where, left, ended = reply[1:]
        return Holder(host.decode(), int(pid or 0), where.decode(), token.decode(), left / 1000, bool(ended))


def is_dead(holder: Holder) -> bool:
    """Whether it is known to be gone: a process of this machine that is no more. False where nobody can know."""
    if not holder.place or holder.place != place() or holder.pid <= 0:
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # somebody else's, and alive
    return _is_zombie(holder.pid)


def _is_zombie(pid: int) -> bool:
    """Whether it has ended and nobody has asked how: in a container whose first process never does, it stays so."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    return False


def place() -> str:
    """What makes a pid mean one process: this start of this kernel, and the namespace of processes; '' if unknown."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""
