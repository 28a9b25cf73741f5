"""A real Redis or Valkey Cluster for tests: three masters on free TCP ports of loopback, a third of the slots each."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis
from redis.crc import key_slot

from tests.system.need import need
from tests.system.process import LoggedProcess, ProcessEndedError
from tests.system.servers import free_port

MASTERS = 3
BOUNDS = [0, 5461, 10923, 16384]
NODE_TIMEOUT_MS = 1000
WAIT_SECONDS = 30.0


class ClusterNode:
    """One node; what it stores lies in ``folder`` and outlives :meth:`kill9`."""

    def __init__(self, folder: Path, binary: Path, timeout_ms: int) -> None:
        self._timeout_ms = timeout_ms
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.binary = folder, binary
        self.port = self._bus_port = 0
        self._process: LoggedProcess | None = None

    @property
    def process(self) -> LoggedProcess:
        """The running node."""
        assert self._process is not None, "the node was not started"
        return self._process

    def start(self) -> None:
        """Start it: the first time on free ports, later on the same."""
        for attempt in range(5):
            if not self.port or attempt:
                self.port, self._bus_port = free_port(), free_port()
            try:
                self._start()
            except ProcessEndedError:
                if attempt == 4:
                    raise
            else:
                return

    def _start(self) -> None:
        settings = {
            "port": self.port,
            "cluster-port": self._bus_port,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "appendonly": "yes",
            "save": "",
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": self._timeout_ms,
        }
        argv = [str(self.binary), *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]
        self._process = LoggedProcess(argv, log=self.folder / "server.log")
        self._process.wait_for_line("eady to accept connections")

    def client(self) -> Any:
        """A plain client of this node alone, which does not decode; the caller closes it (``with``)."""
        return redis.Redis(port=self.port, protocol=2)

    def kill9(self) -> None:
        """SIGKILL."""
        self.process.kill9()
        self.process.close()

    def close(self) -> None:
        """End it, however."""
        if self._process is not None:
            self._process.close()


class RedisCluster:
    """The masters in the order of their slots; replicas that a test adds come behind them."""

    def __init__(self, folder: Path, binary: Path, timeout_ms: int) -> None:
        self._folder, self._binary, self._timeout_ms = folder, binary, timeout_ms
        self.nodes: list[ClusterNode] = []
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """What `--redis` takes: all nodes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> None:
        """Start and join the masters, and wait until all of them know it."""
        nodes = [self._add() for _ in range(MASTERS)]
        for epoch, (node, (first, end)) in enumerate(zip(nodes, pairwise(BOUNDS), strict=True), 1):
            with node.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        self._meet()
        self.wait_ok()

    def close(self) -> None:
        """End all nodes."""
        self._stack.close()

    def guild_on(self, index: int) -> str:
        """A new guild id whose keys lie on a master (as long as no slot is moved)."""
        while True:
            guild = "{g_" + uuid4().hex[:12] + "}"
            if BOUNDS[index] <= key_slot(guild.encode()) < BOUNDS[index + 1]:
                return guild

    def add_replica(self, of: int) -> ClusterNode:
        """Add a replica of a master, and wait until it is in sync."""
        node = self._add()
        self._meet()
        master_id = self._id(self.nodes[of])
        with node.client() as client:
            _until(lambda: master_id in client.execute_command("CLUSTER", "NODES"))
            _until(lambda: _accepted(lambda: client.execute_command("CLUSTER", "REPLICATE", master_id)))
            _until(lambda: client.info("replication")["master_link_status"] == "up")
        self.wait_ok()
        return node

    def move_slot(self, slot: int, source: int, target: int, *, at_once: int = 3) -> Iterator[None]:
        """Move a slot as ``redis-cli --cluster reshard`` does, a few keys at a time; yields after each step."""
        ids = {index: self._id(self.nodes[index]) for index in (source, target)}
        with (
            self.nodes[source].client() as give,
            self.nodes[target].client() as take,
            self.moving(slot, source, target),
        ):
            yield
            while keys := give.execute_command("CLUSTER", "GETKEYSINSLOT", slot, at_once):
                command = ["MIGRATE", "127.0.0.1", self.nodes[target].port, "", 0, 20_000, "REPLACE", "KEYS", *keys]
                _until(lambda command=command: _accepted(lambda: give.execute_command(*command)))  # type: ignore[misc]
                yield
            take.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
            give.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        yield

    @contextmanager
    def moving(self, slot: int, source: int, target: int) -> Iterator[None]:
        """A slot is about to move: new keys of it are refused at the source, which still has all there were."""
        with self.nodes[source].client() as give, self.nodes[target].client() as take:
            take.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self._id(self.nodes[source]))
            give.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self._id(self.nodes[target]))
            try:
                yield
            finally:
                for client in (take, give):
                    client.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")

    def wait_ok(self) -> None:
        """Until every node that runs says that all slots are served, and knows every other."""
        for node in self.nodes:
            _until(lambda node=node: self._is_ok(node))  # type: ignore[misc]

    def _is_ok(self, node: ClusterNode) -> bool:
        with node.client() as client:
            info = client.execute_command("CLUSTER", "INFO").decode()
            known = client.execute_command("CLUSTER", "NODES").decode()
        return "cluster_state:ok" in info and "handshake" not in known and len(known.splitlines()) >= len(self.nodes)

    def _add(self) -> ClusterNode:
        node = ClusterNode(self._folder / f"node-{len(self.nodes)}", self._binary, self._timeout_ms)
        self._stack.callback(node.close)
        node.start()
        self.nodes.append(node)
        return node

    def _meet(self) -> None:
        first, *others = self.nodes
        for node in others:
            with node.client() as client:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, first._bus_port)

    def _id(self, node: ClusterNode) -> bytes:
        with node.client() as client:
            found: bytes = client.execute_command("CLUSTER", "MYID")
            return found


@contextmanager
def redis_cluster(
    folder: Path, *, binary: str | Path = "redis-server", timeout_ms: int = NODE_TIMEOUT_MS
) -> Iterator[RedisCluster]:
    """Start a cluster; ``binary`` as for :func:`tests.system.servers.redis_server`.

    ``timeout_ms``: a node that has said nothing for so long has failed.
    """
    cluster = RedisCluster(folder, binary if isinstance(binary, Path) else need(binary), timeout_ms)
    with contextlib.closing(cluster):
        cluster.start()
        yield cluster


def _accepted(command: Callable[[], object]) -> bool:
    try:
        command()
    except redis.ResponseError:
        return False
    return True


def _until(holds: Callable[[], bool]) -> None:
    """A node tells nobody when it has heard of another."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "the cluster did not come together"
        time.sleep(0.02)
