"""Servers, as the tests of the bus have them."""

from tests.messaging.conftest import flavour, server, shared_server

__all__ = ["flavour", "server", "shared_server"]
