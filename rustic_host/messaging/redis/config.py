"""Settings of the Redis backend: Rustic AI's fields (facts 2.5) with their meaning, and the ones they lack."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.retry import Retry

from rustic_host.errors import ConfigError
from rustic_host.messaging.redis.keys import Keys, is_hash_tag
from rustic_host.messaging.redis.live_client import is_client, settings_of
from rustic_host.messaging.sizes import MAX_MESSAGE_BYTES
from rustic_host.messaging.unknown_keys import refuse_unknown
from rustic_host.telemetry.redact import redact_text

DEFAULT_TTL_SECONDS = 3600
"""Rustic AI's default for ``RUSTIC_AI_REDIS_MSG_TTL`` (facts 2.1)."""

CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
"""Schemes of a URL that says that its servers are nodes of a Redis Cluster, and what each node is spoken to by."""


class Node(NamedTuple):
    """A server's address."""

    host: str
    port: int


class RedisBackendConfig(BaseModel):
    """How to reach the server. ``url`` or ``unix_socket_path`` win over ``host`` and ``port``."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: str | None = Field(default=None, repr=False)
    unix_socket_path: Path | None = None
    host: str = "localhost"
    port: int = Field(default=6379, ge=1, le=65535)
    db: int = Field(default=0, ge=0)
    username: str | None = None
    password: str | None = Field(default=None, repr=False)
    ssl: bool = False
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_ca_certs: str | None = None
    socket_connect_timeout: float = Field(default=10, gt=0)
    socket_timeout: float = Field(default=30, gt=0)
    key_prefix: str = ""
    """Before the name of every key and channel; Rustic AI has none, and is not heard where there is one."""
    message_ttl: int = Field(default_factory=lambda: _ttl_from(os.environ), ge=1)
    retention: float | None = Field(default=None, gt=0)
    """Seconds that a message is kept in its topic; None for as long as the host, or the library, has it by default."""
    publish_timeout: float = Field(default=10, gt=0)
    """Seconds that publishing waits for the server before it fails."""
    max_message_bytes: int = Field(default=MAX_MESSAGE_BYTES, ge=1)
    """The largest message that is stored, as JSON."""
    socket_keepalive: bool = True
    socket_keepalive_options: dict[str, int] | None = None
    """Rustic AI's ``TCP_KEEPIDLE`` and its like."""
    is_cluster: bool = False
    """The server is a node of a Redis Cluster, and is asked for the others; also said by ``redis+cluster://``."""
    health_check_interval: float | None = None
    """Of no effect, as the fields after it: a read that ends every 5 s, and is answered, is the health check here."""
    pubsub_retry_enabled: bool | None = None
    pubsub_retry_initial_delay: float | None = None
    pubsub_retry_max_delay: float | None = None
    pubsub_retry_multiplier: float | None = None
    pubsub_health_check_interval: float | None = None
    pubsub_poll_sleep_time: float | None = None
    pubsub_immediate_retry_attempts: int | None = None
    pubsub_immediate_retry_delay: float | None = None
    pubsub_immediate_retry_multiplier: float | None = None
    pubsub_max_retry_attempts: int | None = None
    pubsub_max_retry_time: float | None = None
    pubsub_crash_on_failure: bool | None = None
    pubsub_health_monitoring_enabled: bool | None = None
    pubsub_health_monitor_initial_delay: float | None = None
    _route: str | None = PrivateAttr(default=None)
    _known_nodes: list[Node] = PrivateAttr(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _settings(cls, given: Any) -> Any:
        """Also of a client object, or of Rustic AI's ``{"redis_client": <client>}``."""
        if isinstance(given, Mapping) and set(given) == {"redis_client"} and is_client(given["redis_client"]):
            given = given["redis_client"]
        if is_client(given):
            return settings_of(given)
        if isinstance(given, Mapping):
            refuse_unknown(given, cls.model_fields)
        return given

    @model_validator(mode="after")
    def _usable(self) -> Self:
        self.is_cluster = self.is_cluster or (self.url or "").partition("://")[0] in CLUSTER_SCHEMES
        if self.is_cluster:
            self._check_cluster()
        try:
            self.pool()
        except ValueError:  # its text may hold a piece of the password
            raise ValueError(
                "no usable redis://, rediss://, redis+cluster:// or unix:// URL comes of these settings"
            ) from None
        return self

    @property
    def keys(self) -> Keys:
        """Names of the keys."""
        return Keys(self.key_prefix, self.is_cluster)

    @property
    def route(self) -> str | None:
        """A key of the node of a cluster that is meant; None when any will do."""
        return self._route

    def at(self, namespace: str) -> Self:
        """Settings for connections to where a guild's keys are: the same, but for a cluster.

        Raises:
            ConfigError: it is a cluster, and the keys of that guild cannot be together there.
        """
        if self.is_cluster and not is_hash_tag(namespace):
            right = "{" + (namespace.replace("{", "").replace("}", "") or "g_1") + "}"
            raise ConfigError(
                f"guild id {namespace!r} cannot be used on a Redis Cluster: all keys of a guild must lie in one slot, "
                f"so its id must be a hash tag, {right!r} (quoted, in YAML)"
            )
        return self.at_key(namespace)

    def at_key(self, key: str) -> Self:
        """Settings for connections to where one key is: the same, but for a cluster."""
        if not self.is_cluster:
            return self
        routed = self.model_copy()
        routed._route, routed._known_nodes = key, list(self._known_nodes)
        return routed

    def check_shared(self, name: str) -> None:
        """See that guilds can share a namespace. Raises ConfigError: not so on a cluster."""
        if self.is_cluster and "{" in name:
            raise ConfigError(
                f"organization {name!r} cannot be used on a Redis Cluster: the inbox of a guild must lie in the slot "
                "of the guild, so the id of its organization must have no braces"
            )

    @property
    def nodes(self) -> list[Node]:
        """Nodes of the cluster that can be asked for the others: those last heard of, then those of the settings."""
        return list(dict.fromkeys([*self._known_nodes, *self._given_nodes()]))

    def learn_nodes(self, nodes: list[Node]) -> None:
        """Remember the nodes of a cluster; the first is asked first the next time, also by copies with this route."""
        self._known_nodes[:] = nodes

    def connection_url(self) -> str:
        """The server as one URL, password included: never to be shown, see :meth:`shown`."""
        if self.url:
            return self.url
        user = quote(self.username or "", safe="")
        secret = f"{user}:{quote(self.password, safe='')}@" if self.password else ""
        if self.unix_socket_path:
            return f"unix://{secret}{quote(str(self.unix_socket_path))}?db={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.ssl else 'redis'}://{secret}{host}:{self.port}/{self.db}"

    def node_url(self, node: Node | None = None) -> str:
        """URL of one server, password included: of a node of the cluster, the first one given if None is named."""
        if not self.is_cluster:
            return self.connection_url()
        parts = urlsplit(self.connection_url())
        user, at, _ = parts.netloc.rpartition("@")
        host, port = node or self._given_nodes()[0]
        netloc = f"{user}{at}[{host}]:{port}" if ":" in host else f"{user}{at}{host}:{port}"
        return parts._replace(scheme=CLUSTER_SCHEMES.get(parts.scheme, parts.scheme), netloc=netloc).geturl()

    def shown(self) -> str:
        """The server's URL without its password, for logs and pages."""
        return redact_text(self.connection_url())

    def pool(self, node: Node | None = None, **overrides: Any) -> ConnectionPool:
        """A pool, to a node of a cluster if it is one, that never retries and never reconnects behind our back.

        Raises:
            ValueError: the URL is none.
        """
        return ConnectionPool.from_url(
            self.node_url(node),
            **{
                "retry": Retry(NoBackoff(), 0),
                "health_check_interval": 0,
                "protocol": 2,
                "driver_info": None,
                "socket_connect_timeout": self.socket_connect_timeout,
                "socket_timeout": self.socket_timeout,
                **self.socket_settings(),
                **overrides,
            },
        )

    def socket_settings(self) -> dict[str, Any]:
        """What redis-py's connections, those for asyncio too, are told of TLS and TCP."""
        tls = {k: getattr(self, k) for k in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs") if getattr(self, k)}
        if self.connection_url().startswith("unix"):
            return tls
        tcp: dict[str, Any] = {"socket_keepalive": self.socket_keepalive}
        if self.socket_keepalive_options is not None:
            tcp["socket_keepalive_options"] = _by_number(self.socket_keepalive_options)
        return {**tls, **tcp}

    def _given_nodes(self) -> list[Node]:
        """Those of the settings: a URL may name several, with commas between them."""
        parts = urlsplit(self.connection_url())
        found = []
        for address in parts.netloc.rpartition("@")[2].split(","):
            one = urlsplit(f"//{address}")
            found.append(Node(one.hostname or self.host, one.port or 6379))
        return found

    def _check_cluster(self) -> None:
        if self.unix_socket_path or (self.url or "").startswith("unix"):
            raise ValueError("a Redis Cluster has no Unix socket; give host and port of a node")
        if self.db or urlsplit(self.url or "").path.strip("/0"):
            raise ValueError("db: a Redis Cluster has database 0 only")
        if "{" in self.key_prefix:
            raise ValueError("key_prefix: on a Redis Cluster it can have no brace")
        try:
            self._given_nodes()
        except ValueError:  # its text may hold a piece of the password
            raise ValueError("no address of a node comes of these settings") from None


def _ttl_from(environ: Mapping[str, str]) -> int:
    text = environ.get("RUSTIC_AI_REDIS_MSG_TTL", str(DEFAULT_TTL_SECONDS))
    if not text.isdecimal():
        raise ConfigError(f"RUSTIC_AI_REDIS_MSG_TTL is {text!r}; it must be a whole number of seconds")
    return int(text)


def _by_number(options: Mapping[str, int]) -> dict[int, int]:
    """Socket options by name, as a spec can write them; those that this system does not have are left out."""
    named = {name: value for name, value in options.items() if hasattr(socket, name)}
    return {getattr(socket, name): value for name, value in named.items()}
