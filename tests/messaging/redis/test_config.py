"""How to reach the server."""

import socket
from pathlib import Path
from typing import Any

import pytest

from rustic_host.errors import ConfigError
from rustic_host.messaging import MessagingConfig, RedisBackendConfig, RedisMessagingBackend


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, "redis://localhost:6379/0"),
        ({"host": "h", "port": 1, "db": 3, "ssl": True}, "rediss://h:1/3"),
        ({"host": "::1"}, "redis://[::1]:6379/0"),
        ({"username": "u@", "password": "p/:@"}, "redis://u%40:p%2F%3A%40@localhost:6379/0"),
        ({"unix_socket_path": "/a b/s?", "db": 2}, "unix:///a%20b/s%3F?db=2"),
        ({"url": "redis://x:2/4", "host": "h"}, "redis://x:2/4"),
    ],
)
def test_fields_make_a_url_that_redis_py_understands(fields: dict[str, Any], url: str) -> None:
    config = RedisBackendConfig(**fields)
    assert config.connection_url() == url
    arguments = config.pool().connection_kwargs
    for name in ("host", "port", "db", "username", "password"):
        if name in fields and "url" not in fields:
            assert arguments[name] == fields[name]
    if "unix_socket_path" in fields:
        assert Path(arguments["path"]) == Path(fields["unix_socket_path"])


def test_retries_and_health_checks_are_off() -> None:
    arguments = RedisBackendConfig().pool().connection_kwargs
    assert arguments["retry"].get_retries() == 0
    assert arguments["health_check_interval"] == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "redis://:pa/secret@h:1"},
        {"url": "redis://:secret@h:port"},
        {"url": "http://:secret@h"},
        {"url": "redis://:secret@h", "db": -1},
        {"password": "secret", "port": 0},
        {"password": "secret", "unknown": 1},
    ],
)
def test_what_is_wrong_is_said_without_the_password(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="redis_client") as caught:
        RedisMessagingBackend(fields)
    assert "secret" not in str(caught.value)
    assert "'pa'" not in str(caught.value)


def test_the_password_is_not_shown() -> None:
    for config in (RedisBackendConfig(password="secret"), RedisBackendConfig(url="redis://u:secret@h:1")):
        assert "secret" not in config.shown() + repr(config)
        assert "secret" in config.connection_url()


def test_the_ttl_comes_from_rustic_ais_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RedisBackendConfig().message_ttl == 3600
    monkeypatch.setenv("RUSTIC_AI_REDIS_MSG_TTL", "60")
    assert RedisBackendConfig().message_ttl == 60
    assert RedisBackendConfig(message_ttl=5).message_ttl == 5


@pytest.mark.parametrize(
    ("module", "name", "settings"),
    [
        ("no.such.module", "X", {}),
        ("rustic_host.messaging", "NoSuchBackend", {}),
        ("rustic_host.messaging", "Message", {"id_obj": 1}),
        ("rustic_host.messaging", "Priority", {"value": 1}),
        ("rustic_host.messaging", "InMemoryMessagingBackend", {"unknown": 1}),
        ("rustic_host.messaging", "RedisMessagingBackend", {}),
    ],
)
def test_backends_that_cannot_be_made(module: str, name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MessagingConfig(backend_module=module, backend_class=name, backend_config=settings).get_storage()


def test_rustic_ais_fields_are_taken() -> None:
    """Facts 2.5: what a spec of theirs may hold."""
    config = RedisBackendConfig.model_validate(
        {
            "host": "h",
            "port": 6379,
            "ssl": False,
            "is_cluster": False,
            "socket_keepalive": True,
            "socket_keepalive_options": {"TCP_KEEPIDLE": 300, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 3, "NO_SUCH": 1},
            "health_check_interval": 30,
            "pubsub_retry_enabled": True,
            "pubsub_max_retry_attempts": 5,
            "pubsub_crash_on_failure": True,
        }
    )
    assert config.pool().connection_kwargs["socket_keepalive_options"] == {
        socket.TCP_KEEPIDLE: 300,
        socket.TCP_KEEPINTVL: 60,
        socket.TCP_KEEPCNT: 3,
    }


def test_a_cluster_is_refused_with_a_reason() -> None:
    with pytest.raises(ConfigError, match="Cluster cannot be used yet"):
        RedisMessagingBackend({"is_cluster": True})


def test_a_ttl_that_is_no_number_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSTIC_AI_REDIS_MSG_TTL", "abc")
    with pytest.raises(ConfigError, match="RUSTIC_AI_REDIS_MSG_TTL is 'abc'"):
        RedisBackendConfig()
