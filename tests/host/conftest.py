"""The servers of the bus tests."""

from tests.messaging.conftest import (
    bus,
    cluster,
    flavour,
    own_bus,
    own_server,
    server,
    shared_cluster,
    shared_server,
)

__all__ = ["bus", "cluster", "flavour", "own_bus", "own_server", "server", "shared_cluster", "shared_server"]
