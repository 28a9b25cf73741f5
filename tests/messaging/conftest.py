"""Real servers for the tests of the bus: one for each flavour and test process, a namespace for each test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from tests.messaging.bus import Bus
from tests.system.cluster import RedisCluster, redis_cluster
from tests.system.need import valkey_binary
from tests.system.servers import RedisServer, redis_server

FLAVOURS = ("redis", "valkey")

ServerOf = Callable[[str], RedisServer]
ClusterOf = Callable[[str], RedisCluster]


def binary_of(flavour: str) -> Path | str:
    return "redis-server" if flavour == "redis" else valkey_binary()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerOf]:
    """Starts the server of a flavour when it is first asked for."""
    running: dict[str, RedisServer] = {}
    with ExitStack() as stack:

        def get(flavour: str) -> RedisServer:
            if flavour not in running:
                started = redis_server(tmp_path_factory.mktemp(flavour), binary=binary_of(flavour))
                running[flavour] = stack.enter_context(started)
            return running[flavour]

        yield get


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterOf]:
    """Starts the cluster of a flavour when it is first asked for."""
    running: dict[str, RedisCluster] = {}
    with ExitStack() as stack:

        def get(flavour: str) -> RedisCluster:
            if flavour not in running:
                started = redis_cluster(tmp_path_factory.mktemp(f"{flavour}-cluster"), binary=binary_of(flavour))
                running[flavour] = stack.enter_context(started)
            return running[flavour]

        yield get


@pytest.fixture
def cluster(flavour: str, shared_cluster: ClusterOf) -> RedisCluster:
    """Shared with other tests: no node is to be killed or flushed; slots may move."""
    return shared_cluster(flavour)


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(flavour: str, shared_server: ServerOf) -> RedisServer:
    """Shared with other tests: not to be killed, flushed or set differently."""
    return shared_server(flavour)


@pytest.fixture
def own_server(flavour: str, tmp_path: Path) -> Iterator[RedisServer]:
    """The test's own."""
    with redis_server(tmp_path, binary=binary_of(flavour)) as started:
        yield started


@pytest.fixture
def forgetful_server(flavour: str, tmp_path: Path) -> Iterator[RedisServer]:
    """The test's own, which keeps nothing on disk."""
    with redis_server(tmp_path, binary=binary_of(flavour), extra=["--appendonly", "no"]) as started:
        yield started


@pytest.fixture
def bus(server: RedisServer) -> Iterator[Bus]:
    with Bus(server.url, f"g{uuid4().hex}") as made:
        yield made


@pytest.fixture
def own_bus(own_server: RedisServer) -> Iterator[Bus]:
    with Bus(own_server.url, "g1") as made:
        yield made


@pytest.fixture
def forgetful_bus(forgetful_server: RedisServer) -> Iterator[Bus]:
    with Bus(forgetful_server.url, "g1") as made:
        yield made
