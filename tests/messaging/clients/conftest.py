from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from rustic_host.messaging import MessagingConfig, MessagingInterface
from tests.messaging import example_backend
from tests.messaging.conftest import FLAVOURS, ServerOf


@pytest.fixture(params=["memory", "the page's", *FLAVOURS])
def messaging(request: pytest.FixtureRequest, shared_server: ServerOf, tmp_path: Path) -> Iterator[MessagingInterface]:
    """A namespace of its own on each backend, that of docs/messaging.md among them."""
    if request.param == "memory":
        config = MessagingConfig(backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend")
    elif request.param == "the page's":
        config = example_backend.config_at(tmp_path / "messages.db")
    else:
        config = MessagingConfig(
            backend_module="rustic_host.messaging",
            backend_class="RedisMessagingBackend",
            backend_config={"redis_client": {"url": shared_server(request.param).url}},
        )
    made = MessagingInterface(f"g{uuid4().hex}", config)
    yield made
    made.shutdown()
