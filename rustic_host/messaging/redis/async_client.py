"""A client of redis-py for asyncio that finds the node of a cluster at each connection, as :mod:`.link` does."""

import asyncio
from typing import Any

import redis.asyncio as redis_async
from redis import exceptions as redis_errors

from rustic_host.errors import MessagingError
from rustic_host.messaging.redis.cluster import find_node
from rustic_host.messaging.redis.config import RedisBackendConfig


def async_client(config: RedisBackendConfig, **options: Any) -> redis_async.Redis:
    """A client of the server, or of the node that ``config.at(namespace)`` stands for; the caller closes it.

    Where slots move, or nodes fail over, its errors are ConnectionErrors, which its retries heal.
    """
    pool = redis_async.ConnectionPool.from_url(config.node_url(), **{**config.socket_settings(), **options})
    if config.is_cluster:
        tls = issubclass(pool.connection_class, redis_async.SSLConnection)
        pool.connection_class = _SecureNodeConnection if tls else _NodeConnection
        pool.connection_kwargs["config"] = config
    return redis_async.Redis.from_pool(pool)


class _AtNode(redis_async.Connection):
    """Goes where the slot is."""

    def __init__(self, *, config: RedisBackendConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._config = config

    async def _connect(self) -> None:
        try:
            node = await asyncio.to_thread(find_node, self._config)
        except MessagingError as error:
            raise redis_errors.ConnectionError(str(error)) from error
        if node is not None:
            self.host, self.port = node
        await super()._connect()  # type: ignore[no-untyped-call]

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except redis_errors.AskError as error:  # MovedError too
            await self.disconnect(nowait=True)
            raise redis_errors.ConnectionError(f"the slot has moved: {error}") from error


class _NodeConnection(_AtNode):
    """Plain TCP."""


class _SecureNodeConnection(_AtNode, redis_async.SSLConnection):
    """With TLS."""
