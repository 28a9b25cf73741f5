"""Backends as Rustic AI's messaging document sets them up: by host and port, or in memory."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rustic_host.messaging import MessagingConfig
from tests.messaging import example_backend
from tests.messaging.conftest import FLAVOURS, binary_of, bus, flavour, own_bus, own_server, server, shared_server
from tests.system.servers import free_port, redis_server

__all__ = ["bus", "flavour", "own_bus", "own_server", "server", "shared_server"]


@pytest.fixture(scope="session")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """Where servers listen, by flavour, once they are started; the document's is 6379."""
    with ExitStack() as stack:

        class Started(dict[str, int]):
            def __missing__(self, flavour: str) -> int:
                self[flavour] = free_port()
                extra = ["--port", str(self[flavour])]
                folder = tmp_path_factory.mktemp(flavour)
                stack.enter_context(redis_server(folder, binary=binary_of(flavour), extra=extra))
                return self[flavour]

        yield Started()


@pytest.fixture(params=FLAVOURS)
def port(request: pytest.FixtureRequest, ports: dict[str, int]) -> int:
    return ports[request.param]


@pytest.fixture(params=["memory", "the page's", *FLAVOURS])
def config(request: pytest.FixtureRequest, ports: dict[str, int], tmp_path: Path) -> MessagingConfig:
    if request.param == "the page's":
        return example_backend.config_at(tmp_path / "messages.db")
    if request.param == "memory":
        return MessagingConfig(
            backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend", backend_config={}
        )
    return MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": {"host": "localhost", "port": ports[request.param], "ssl": False}},
    )
