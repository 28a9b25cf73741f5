"""The system under test: a server of ours behind a proxy, a host with the guild, a feeder; and the ways to hurt it."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from rustic_host.cli.client import HostClient
from rustic_host.errors import RusticHostError
from rustic_host.messaging import RedisBackendConfig, counts
from rustic_host.messaging.aof_repair import repair
from rustic_host.messaging.redis import keys
from tests.chaos.feeder import NAME as FEEDER
from tests.chaos.feeder import Feeder
from tests.chaos.judge import AGENTS, GUILD
from tests.chaos.proxy import Proxy
from tests.system.cluster import ClusterNode
from tests.system.host import HostProcess
from tests.system.process import LoggedProcess
from tests.system.servers import RedisServer

HERE = Path(__file__).parent
SPEC = HERE / "guild.yaml"

POLL_SECONDS = 0.005
FLIGHT_SECONDS = 3.0
"""How long we wait for a message to be in flight before a fault."""
HANG_SECONDS = 45.0
"""What has not gone on by then is hung."""
MAX_IN_FLIGHT = 6000
INDEX_TTL = 120

Counts = dict[counts.Count, int]


class HungError(AssertionError):
    """Something did not go on."""


class System:
    """Everything runs while its ``with`` lasts.

    Args:
        server: one that is running, the test's own.
        rate: jobs a second.
        index_ttl: seconds that a message stays in the documented index.
    """

    def __init__(self, server: RedisServer | ClusterNode, rate: float, index_ttl: int = INDEX_TTL) -> None:
        self.server = server
        self._rate, self._index_ttl = rate, index_ttl
        self._stack = ExitStack()
        self.raw: Any = self._raw_client()
        self.proxy: Proxy
        self.url: str
        """What the host, the feeder and twins are given."""
        self.host: HostProcess
        self.feeder: Feeder
        self._first: HostProcess
        self._second: HostProcess

    def __enter__(self) -> "System":
        with ExitStack() as stack:
            stack.callback(lambda: self.raw.close())
            self.url = self._approach(stack)
            self.host = stack.enter_context(self._new_host())
            self.host.start()
            config = RedisBackendConfig(url=self.url, message_ttl=self._index_ttl)
            self.feeder = stack.enter_context(Feeder(config, GUILD, self._rate))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._stack.__exit__(kind, rest[0], rest[1])  # type: ignore[arg-type]

    def _raw_client(self) -> redis.Redis:
        assert isinstance(self.server, RedisServer)
        return redis.Redis.from_url(self.server.url, protocol=2, retry=Retry(ConstantBackoff(0.02), 200))

    def _approach(self, stack: ExitStack) -> str:
        """Everybody comes through the proxy."""
        assert isinstance(self.server, RedisServer)
        self.proxy = stack.enter_context(Proxy(self.server.socket))
        return self.proxy.url

    def _new_host(self) -> HostProcess:
        options = ["--redis", self.url, "--metrics-port", "0", "--log-format", "json", "--log-level", "WARNING"]
        return HostProcess(
            [SPEC],
            options=options,
            env={
                "RUSTIC_AI_REDIS_MSG_TTL": str(self._index_ttl),
                "RUSTIC_HOST_LEASE_SECONDS": "2",
                "PYTHONPATH": str(HERE.parents[1]),
            },
        )

    # ---- looking ----------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        """The exact counts, now."""
        fields = self.raw.hgetall(keys.PLAIN.counts_key(GUILD)).items()
        return {parsed: int(value) for name, value in fields if (parsed := counts.parse(name))}

    def done(self) -> dict[str, int]:
        """Messages of the pipeline that each agent has finished, and what the feeder has published."""
        return _done(self.counts())

    def in_flight(self, target: str = "") -> int:
        """Messages published and not finished, of one agent or of all."""
        now = self.counts()
        done, ready = _done(now), 0
        for agent in [AGENTS[target]] if target in AGENTS else AGENTS.values():
            ready += sum(now.get(counts.Count("published", topic), 0) for topic in agent.reads) - done[agent.name]
        return ready

    def await_flight(self, target: str = "") -> bool:
        """Wait until a message is in flight; False when none ever is."""
        give_up = time.monotonic() + FLIGHT_SECONDS
        while not self.in_flight(target):
            if time.monotonic() > give_up:
                return False
        return True

    def await_progress(self, names: Sequence[str], since: dict[str, int]) -> None:
        """Wait until each of these has finished something more than ``since``. Raises HungError."""
        self._await(lambda: all(self.done()[name] > since[name] for name in names), f"{names} went on from {since}")

    def await_in_flight(self, at_most: int = 0) -> None:
        """Wait until no more than so many messages are in flight. Raises HungError when they stop moving."""
        left = self.in_flight()
        while left > at_most:
            self._await(lambda left=left: self.in_flight() < left, f"{left} in flight moved")  # type: ignore[misc]
            left = self.in_flight()

    def catch_up(self) -> None:
        """Let a machine that is too slow for the rate handle what it has."""
        if self.in_flight() > MAX_IN_FLIGHT:
            self.feeder.pause()
            self.await_in_flight(MAX_IN_FLIGHT // 4)
            self.feeder.resume()

    def _await(self, holds: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + HANG_SECONDS
        while not holds():
            if time.monotonic() > give_up:
                raise HungError(f"not within {HANG_SECONDS} s: {what}; now {self.done()}\n{self._last_words()}")
            time.sleep(POLL_SECONDS)

    def _last_words(self) -> str:
        said = "\n".join(self.host.process.output.splitlines()[-40:])
        with contextlib.suppress(RusticHostError):
            return f"{self.agents()}\n{said}"
        return said

    def agents(self) -> dict[str, dict[str, Any]]:
        """The agents by name, as the host's status has them."""
        (guild,) = HostClient(self.host.socket).status()["guilds"]
        return {agent["name"]: agent for agent in guild["agents"]}

    def worker(self, name: str) -> psutil.Process:
        """An agent's process; waits until it has one. Raises HungError."""
        pids: list[int] = []

        def there() -> bool:
            pid = self.agents()[name]["pid"]
            pids[:] = [pid] if pid and psutil.pid_exists(pid) else []
            return bool(pids)

        self._await(there, f"{name} has a process")
        return psutil.Process(pids[0])

    # ---- hurting ----------------------------------------------------------------------------------------------

    def kill_zygote(self) -> None:
        """SIGKILL the parent of the workers."""
        for child in psutil.Process(self.host.pid).children():
            if "rustic_host.execution" in child.cmdline():
                child.kill()
                psutil.wait_procs([child], 10)

    def kill_host(self) -> None:
        """SIGKILL the host; its workers end with it."""
        children = psutil.Process(self.host.pid).children(recursive=True)
        self.host.kill9()
        _, left = psutil.wait_procs(children, 10)
        assert not left, f"the host's end did not end {left}"

    def start_second_host(self) -> None:
        """Another host for the same guild; returns when it says that it is ready."""
        self._second = self._stack.enter_context(self._new_host())
        self._second.start()

    def use_second_host(self) -> None:
        """From now on :attr:`host` is the one started last."""
        self._first, self.host = self.host, self._second

    def await_takeover(self) -> None:
        """Wait until all agents run at :attr:`host`. Raises HungError."""
        self._await(
            lambda: all(agent["status"] == "running" for agent in self.agents().values()), "the second host runs all"
        )

    def end_first_host(self) -> None:
        """Stop the host that was replaced; nothing of it may be left."""
        self._first.close()

    def host_family(self) -> list[int]:
        """The host and all that descends from it."""
        return [self.host.pid, *(child.pid for child in psutil.Process(self.host.pid).children(recursive=True))]

    def kill_server(self) -> None:
        """SIGKILL, what it forked included."""
        pid = self.server.process.pid
        self.server.process.kill9()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        self.server.kill9()

    def start_server(self) -> None:
        """As the host does it with a server of its own: the file is mended first."""
        repair(self.server.binary, self.server.folder)
        self.server.start()

    def tear(self, many: int) -> None:
        """Cut bytes off the end of the append-only file of a dead server."""
        files = sorted((self.server.folder / "appendonlydir").glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
        size = files[-1].stat().st_size
        os.truncate(files[-1], max(0, size - many))

    @contextmanager
    def stopped(self, *pids: int) -> Iterator[None]:
        """Processes are stopped for a while; the first wakes last."""
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def twin(self, name: str) -> Iterator["Twin"]:
        """A second process for an agent, ready to begin."""
        argv = [sys.executable, "-m", "tests.chaos.twin", name, self.url]
        env = {**self.host.env, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
        twin = Twin(argv, env, self.host.folder / "twin.log")
        try:
            yield twin
        finally:
            twin.close()


class Twin(LoggedProcess):
    """A worker outside of the host; it begins when it is told to."""

    def __init__(self, argv: Sequence[str], env: dict[str, str], log: Path) -> None:
        super().__init__(argv, log=log, env=env)
        self.wait_for_line("twin built")

    def begin(self) -> None:
        """Become the agent."""
        os.kill(self.pid, signal.SIGUSR1)


def _done(now: Counts) -> dict[str, int]:
    done = dict.fromkeys(AGENTS, 0)
    by_client = {(agent.client_id, topic): name for name, agent in AGENTS.items() for topic in agent.reads}
    for count, value in now.items():
        if name := by_client.get((count.client_id, count.topic)):
            done[name] += value
    return {**done, FEEDER: now.get(counts.Count("published", "jobs"), 0)}
