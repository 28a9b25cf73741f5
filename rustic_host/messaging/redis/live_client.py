"""The settings of a redis-py client object, which Rustic AI takes in place of settings (facts 2.5)."""

from collections.abc import Mapping
from typing import Any

from redis import Redis, RedisCluster
from redis.asyncio import Redis as AsyncRedis
from redis.connection import ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.sentinel import SentinelConnectionPool

_SAME = (
    "host",
    "port",
    "db",
    "username",
    "password",
    "socket_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_ca_certs",
)
"""Arguments of a connection that are called the same in our settings."""

_CHECKS_LESS = {"ssl_cert_reqs": ("required", None), "ssl_check_hostname": (True, None)}
"""What a client may have switched off of TLS, and its values when it has not."""


def is_client(value: Any) -> bool:
    """Whether something is a client object of redis-py, of whatever kind."""
    return isinstance(value, Redis | RedisCluster | AsyncRedis)


def settings_of(client: Any) -> dict[str, Any]:
    """Return the settings that reach the same server; the client itself is not used, and stays its owner's.

    Raises:
        ValueError: it is asynchronous, of a cluster or of Sentinel, or its password comes from a provider.
    """
    if not isinstance(client, Redis):
        raise ValueError(f"a {type(client).__name__} cannot be used; give a redis.Redis, or host and port")
    pool = client.connection_pool
    if isinstance(pool, SentinelConnectionPool) or not isinstance(pool, ConnectionPool):
        raise ValueError(f"a client with a {type(pool).__name__} cannot be used; give host and port")
    arguments: Mapping[str, Any] = pool.connection_kwargs
    if arguments.get("credential_provider") is not None:
        raise ValueError("a client with a credential_provider cannot be used; give username and password")
    settings = {name: arguments[name] for name in _SAME if arguments.get(name) is not None}
    if issubclass(pool.connection_class, UnixDomainSocketConnection):
        return {**settings, "unix_socket_path": arguments["path"]}
    if issubclass(pool.connection_class, SSLConnection):
        _refuse_less_checked(arguments)
        settings["ssl"] = True
    return settings


def _refuse_less_checked(arguments: Mapping[str, Any]) -> None:
    for name, usual in _CHECKS_LESS.items():
        if arguments.get(name) not in usual:
            raise ValueError(f"a client with {name}={arguments[name]!r} cannot be used: certificates are checked here")
