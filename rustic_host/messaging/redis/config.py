"""Settings of the Redis backend: Rustic AI's fields (facts 2.5) with their meaning, and the ones they lack."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, model_validator
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.retry import Retry

from rustic_host.errors import ConfigError
from rustic_host.messaging.redis.keys import Keys
from rustic_host.messaging.redis.live_client import is_client, settings_of
from rustic_host.messaging.sizes import MAX_MESSAGE_BYTES
from rustic_host.messaging.unknown_keys import refuse_unknown
from rustic_host.telemetry.redact import redact_text

DEFAULT_TTL_SECONDS = 3600
"""Rustic AI's default for ``RUSTIC_AI_REDIS_MSG_TTL`` (facts 2.1)."""


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
    """True is refused for now."""
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
        if self.is_cluster:
            raise ValueError("is_cluster: a Redis Cluster cannot be used yet")
        try:
            self.pool()
        except ValueError:  # its text may hold a piece of the password
            raise ValueError("no usable redis://, rediss:// or unix:// URL comes of these settings") from None
        return self

    @property
    def keys(self) -> Keys:
        """Names of the keys."""
        return Keys(self.key_prefix)

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

    def shown(self) -> str:
        """The server's URL without its password, for logs and pages."""
        return redact_text(self.connection_url())

    def pool(self, **overrides: Any) -> ConnectionPool:
        """A pool that never retries and never reconnects behind our back.

        Raises:
            ValueError: the URL is none.
        """
        tls = {k: getattr(self, k) for k in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs") if getattr(self, k)}
        tcp: dict[str, Any] = {}
        if not self.connection_url().startswith("unix"):
            tcp["socket_keepalive"] = self.socket_keepalive
            if self.socket_keepalive_options is not None:
                tcp["socket_keepalive_options"] = _by_number(self.socket_keepalive_options)
        return ConnectionPool.from_url(
            self.connection_url(),
            **{
                "retry": Retry(NoBackoff(), 0),
                "health_check_interval": 0,
                "protocol": 2,
                "driver_info": None,
                "socket_connect_timeout": self.socket_connect_timeout,
                "socket_timeout": self.socket_timeout,
                **tls,
                **tcp,
                **overrides,
            },
        )


def _ttl_from(environ: Mapping[str, str]) -> int:
    text = environ.get("RUSTIC_AI_REDIS_MSG_TTL", str(DEFAULT_TTL_SECONDS))
    if not text.isdecimal():
        raise ConfigError(f"RUSTIC_AI_REDIS_MSG_TTL is {text!r}; it must be a whole number of seconds")
    return int(text)


def _by_number(options: Mapping[str, int]) -> dict[int, int]:
    """Socket options by name, as a spec can write them; those that this system does not have are left out."""
    named = {name: value for name, value in options.items() if hasattr(socket, name)}
    return {getattr(socket, name): value for name, value in named.items()}
