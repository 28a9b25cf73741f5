"""Real servers for tests: in a folder of the test's own, ready when the context is entered, gone when it is left."""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.system.need import need
from tests.system.process import LoggedProcess, ProcessEndedError

POLL_SECONDS = 0.1  # for what offers no event: Prometheus' query API


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now. Somebody may be quicker: whoever binds it must retry."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A Redis or Valkey on a private Unix socket, append-only file on, policy ``noeviction``.

    Data lie in ``folder`` and outlive :meth:`kill9`; :meth:`start` brings the server back on the same socket.
    """

    def __init__(self, folder: Path, binary: Path, socket_folder: Path, extra: Sequence[str]) -> None:
        self.folder = folder
        self.binary = binary
        self.extra = list(extra)
        self.socket = socket_folder / "s"
        self.url = f"unix://{self.socket}"
        self._process: LoggedProcess | None = None

    @property
    def process(self) -> LoggedProcess:
        """The running server."""
        assert self._process is not None, "the server was not started"
        return self._process

    def start(self) -> None:
        """Start it and wait until it accepts connections (it has loaded its data then)."""
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self.folder),
            "appendonly": "yes",
            "save": "",
        }
        argv = [
            str(self.binary),
            *(word for key, value in settings.items() for word in (f"--{key}", value)),
            *self.extra,
        ]
        self._process = LoggedProcess(argv, log=self.folder / "server.log")
        self._process.wait_for_line("eady to accept connections")  # Redis 7.0 says "now ready", later ones "Ready"
        with self.client() as client:
            assert client.ping()

    def client(self) -> redis.Redis:
        """A new connection; the caller closes it (``with``)."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def save(self) -> None:
        """Have its file hold all that was stored: where the disk is busy, a kill takes the last two seconds."""
        with self.client() as client:
            client.config_set("appendfsync", "always")  # answered when all is written
            client.config_set("appendfsync", "everysec")

    def kill9(self) -> None:
        """SIGKILL; see :meth:`save`."""
        self.process.kill9()
        self.process.close()

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self.process.stop()


@contextmanager
def redis_server(
    folder: Path, *, binary: str | Path = "redis-server", extra: Sequence[str] = ()
) -> Iterator[RedisServer]:
    """Start a server. ``binary`` is a name on PATH (skipped when missing) or a path, as ``need.valkey_binary()``.

    ``extra`` are words of the server's command line, such as ``["--maxmemory-policy", "allkeys-lru"]``.
    """
    path = binary if isinstance(binary, Path) else need(binary)
    with tempfile.TemporaryDirectory(prefix="redis-", dir="/tmp") as socket_folder:  # short: sockets hold 107 bytes
        server = RedisServer(folder, path, Path(socket_folder), extra)
        try:
            server.start()
            yield server
        finally:
            if server._process is not None:
                server._process.close()


class PrometheusServer:
    """A Prometheus that scrapes every half second."""

    def __init__(self, process: LoggedProcess, port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """An instant query; returns the labels (``__name__`` among them) and the value of each sample."""
        result = self._get(f"/api/v1/query?query={urllib.parse.quote(expression)}")["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in result]

    def targets(self) -> list[dict[str, Any]]:
        """Active targets; ``health`` is ``up`` after a good scrape, ``lastError`` says why not."""
        active: list[dict[str, Any]] = self._get("/api/v1/targets?state=active")["activeTargets"]
        return active

    def wait_until(
        self,
        expression: str,
        holds: Callable[[dict[str, float]], bool],
        label: str = "__name__",
        *,
        timeout: float = 30,
    ) -> dict[str, float]:
        """Ask until ``holds`` is true for the values by ``label``, and return them. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while True:
            values = {labels.get(label, ""): value for labels, value in self.query(expression)}
            if holds(values):
                return values
            if time.monotonic() > deadline:
                raise TimeoutError(f"{expression} is still {values} after {timeout} s; targets: {self.targets()}")
            time.sleep(POLL_SECONDS)

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + path, timeout=10) as response:  # noqa: S310 (loopback, our own server)
            data: dict[str, Any] = json.load(response)["data"]
            return data


def _start_prometheus(binary: Path, folder: Path) -> PrometheusServer:
    """Start on a free port; when somebody took it in between, on another. Raises the last failure."""
    for attempt in range(5):
        port = free_port()
        process = LoggedProcess(
            [
                str(binary),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / f'tsdb-{attempt}'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            log=folder / "prometheus.log",
        )
        try:
            process.wait_for_line("Server is ready to receive web requests")
        except ProcessEndedError:
            process.close()
            if attempt == 4 or "address already in use" not in process.output:
                raise
        except TimeoutError:
            process.close()
            raise
        else:
            return PrometheusServer(process, port)
    raise AssertionError("unreachable")


@contextmanager
def prometheus_server(folder: Path, scrape_targets: Sequence[str]) -> Iterator[PrometheusServer]:
    """Start Debian's Prometheus on ``host:port`` targets (path /metrics), job ``test``."""
    binary = need("prometheus")
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "scrape_configs": [{"job_name": "test", "static_configs": [{"targets": list(scrape_targets)}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    server = _start_prometheus(binary, folder)
    try:
        yield server
    finally:
        server.process.close()


class Supervisord:
    """A running supervisord; ``process.wait_for_line("NAME", "entered RUNNING state")`` awaits what a program does."""

    def __init__(self, process: LoggedProcess, config: Path) -> None:
        self.process = process
        self.config = config

    def ctl(self, *words: str, timeout: float = 60) -> str:
        """Run ``supervisorctl`` and return what it printed (not its exit code, which is 3 for a stopped program)."""
        argv = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.config), *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
        return done.stdout + done.stderr


@contextmanager
def supervisord(folder: Path, programs: str) -> Iterator[Supervisord]:
    """Start supervisord in the foreground with ``programs``, the text of ``[program:…]`` sections."""
    with tempfile.TemporaryDirectory(prefix="supervisor-", dir="/tmp") as socket_folder:
        config = folder / "supervisord.conf"
        control = Path(socket_folder) / "s"
        config.write_text(f"""\
[unix_http_server]
file={control}
[supervisord]
nodaemon=true
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
childlogdir={folder}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{control}
{programs}
""")
        argv = [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--configuration", str(config)]
        with LoggedProcess(argv, log=folder / "supervisord.out") as process:
            process.wait_for_line("supervisord started with pid")
            try:
                yield Supervisord(process, config)
            finally:
                process.stop()  # in order: it stops its programs first
