import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rustic_host.messaging import MessagingConfig
from tests.execution.bench import Gate, messaging_at
from tests.system.servers import RedisServer, redis_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests of this process that do not stop it; guilds keep them apart."""
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def messaging(server: RedisServer) -> MessagingConfig:
    return messaging_at(server.socket)


@pytest.fixture
def gate() -> Iterator[Gate]:
    with tempfile.TemporaryDirectory(prefix="gate-", dir="/tmp") as folder:  # short: sockets hold 107 bytes
        gate = Gate(Path(folder) / "g")
        yield gate
        gate.close()
