"""The servers of the bus tests."""

from tests.messaging.conftest import bus, flavour, own_bus, own_server, server, shared_server

__all__ = ["bus", "flavour", "own_bus", "own_server", "server", "shared_server"]
