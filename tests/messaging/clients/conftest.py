from collections.abc import Iterator
from uuid import uuid4

import pytest

from rustic_host.messaging import MessagingConfig, MessagingInterface
from tests.messaging.conftest import FLAVOURS, ServerOf


@pytest.fixture(params=["memory", *FLAVOURS])
def messaging(request: pytest.FixtureRequest, shared_server: ServerOf) -> Iterator[MessagingInterface]:
    """A namespace of its own on each backend."""
    durable = request.param != "memory"
    config = MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="RedisMessagingBackend" if durable else "InMemoryMessagingBackend",
        backend_config={"redis_client": {"url": shared_server(request.param).url}} if durable else {},
    )
    made = MessagingInterface(f"g{uuid4().hex}", config)
    yield made
    made.shutdown()
