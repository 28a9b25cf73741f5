"""How to reach the server."""

import socket
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.sentinel

from rustic_host.errors import ConfigError
from rustic_host.guild.dsl import GuildSpec
from rustic_host.guild.guild_helper import GuildHelper
from rustic_host.messaging import MessagingConfig, RedisBackendConfig, RedisMessagingBackend
from rustic_host.messaging.redis.async_client import async_client
from rustic_host.messaging.redis.config import Node


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


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"redis_client": {"hots": "h"}}, r"backend_config.redis_client: unknown key 'hots'; did you mean 'host'\?"),
        ({"redis_client": {"xyzzy": 1}}, r"backend_config.redis_client: unknown key 'xyzzy'$"),
        ({"redis_client": {"port": "many"}}, r"backend_config.redis_client: port: .*integer"),
        ({"redis_client": {"host": "h"}, "ttl": 1}, r"backend_config: unknown key 'ttl'; there is redis_client"),
        ({"redis_clinet": {}}, r"backend_config: unknown key 'redis_clinet'; did you mean 'redis_client'\?"),
        ({}, r"backend_config: missing a required argument: 'redis_client'"),
    ],
)
def test_settings_that_are_wrong_are_named_with_the_near_miss(settings: dict[str, Any], said: str) -> None:
    config = MessagingConfig(
        backend_module="rustic_ai.redis.messaging", backend_class="RedisMessagingBackend", backend_config=settings
    )
    for check in (config.validate_config, config.get_storage):
        with pytest.raises(ConfigError, match=f"RedisMessagingBackend: {said}"):
            check()


@pytest.mark.parametrize(
    ("module", "name", "settings", "said"),
    [
        ("no.such.module", "X", {}, "backend_module: No module named 'no'"),
        ("", "X", {}, "backend_module: "),
        ("rustic_host.messaging", "NoSuchBackend", {}, "backend_class: there is none"),
        ("rustic_host.messaging", "Priority", {}, "backend_class: it is no MessagingBackend"),
        ("rustic_host.messaging", "GENERIC_JSON", {}, "backend_class: it is no MessagingBackend"),
        ("tests.messaging.five_methods", "Lacking", {}, "backend_class: it lacks get_messages_by_id, get_"),
        (
            "tests.messaging.five_methods",
            "NeedsAServer",
            {"address": "h"},
            r"backend_config: ConnectionError: no answer",
        ),
    ],
)
def test_a_backend_that_cannot_be_made_is_one_error_that_names_the_field(
    module: str, name: str, settings: dict[str, Any], said: str
) -> None:
    config = MessagingConfig(backend_module=module, backend_class=name, backend_config=settings)
    with pytest.raises(ConfigError, match=said) as caught:
        config.get_storage()
    assert "secret" not in str(caught.value)


RIGHT = {"backend_module": "m", "backend_class": "C"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backend_module": "m", "backend_clas": "C"}, "unknown key 'backend_clas'; did you mean 'backend_class'?"),
        ({"backend_module": "m"}, "backend_class: it is missing; give a str, the name of a class in it: "),
        (RIGHT | {"backend_module": 5}, "backend_module: it is int; give a str, the dotted name of a module: "),
        (RIGHT | {"backend_class": None}, "backend_class: it is NoneType; give a str, "),
        (RIGHT | {"backend_config": ["s3cret"]}, "backend_config: it is list; give a mapping of what the class is "),
        (RIGHT | {"backend_config": {5: "s3cret"}}, "backend_config: a key of it is int, not str; give a mapping "),
        (["s3cret"], "it is list; give a mapping with backend_module, backend_class, backend_config"),
    ],
)
def test_a_field_of_the_configuration_itself_is_named_with_what_it_is_and_takes(given: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MessagingConfig.model_validate(given)
    assert str(caught.value).startswith(f"MessagingConfig: {said}")
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_all_that_is_wrong_is_said_at_once_also_of_a_spec() -> None:
    with pytest.raises(ConfigError, match=r"backend_module: it is int; .*; backend_config: it is str; "):
        MessagingConfig(backend_module=1, backend_class="C", backend_config="x")
    spec = GuildSpec(id="g", name="G", description="-", properties={"messaging": {"backend_class": "C"}})
    with pytest.raises(ConfigError, match=r"properties.messaging: MessagingConfig: backend_module: it is missing"):
        GuildHelper.get_messaging_config(spec)


def test_checking_makes_no_backend() -> None:
    config = MessagingConfig(
        backend_module="tests.messaging.five_methods", backend_class="NeedsAServer", backend_config={"address": "h"}
    )
    config.validate_config()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_client_object_gives_its_settings(wrapped: bool) -> None:
    """Facts 2.5: Rustic AI takes one in place of settings."""
    with redis.Redis(host="h", port=7, db=2, username="u", password="p", ssl=True, socket_timeout=3) as client:
        given: Any = {"redis_client": client} if wrapped else client
        config = RedisMessagingBackend(given).config
    assert config.connection_url() == "rediss://u:p@h:7/2"
    assert config.socket_timeout == 3
    with redis.Redis(unix_socket_path="/s", db=1) as client:
        assert RedisMessagingBackend(client).config.connection_url() == "unix:///s?db=1"


def _of_a_provider() -> object:
    return redis.Redis(credential_provider=redis.UsernamePasswordCredentialProvider("u", "secret"))


def _of_sentinel() -> object:
    sentinel: Any = redis.sentinel
    return sentinel.Sentinel([("h", 1)]).master_for("m")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (redis.asyncio.Redis, "a Redis cannot be used; give a redis.Redis"),
        (_of_sentinel, "SentinelConnectionPool cannot be used"),
        (_of_a_provider, "credential_provider cannot be used"),
        (lambda: redis.Redis(ssl=True, ssl_cert_reqs="none", ssl_check_hostname=False), "ssl_cert_reqs='none'"),
    ],
)
def test_a_client_object_that_cannot_be_followed_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RedisMessagingBackend(make())


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


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"is_cluster": True, "db": 1}, "database 0 only"),
        ({"url": "redis+cluster://h:1/2"}, "database 0 only"),
        ({"is_cluster": True, "unix_socket_path": "/s"}, "Unix socket"),
        ({"is_cluster": True, "key_prefix": "{p}"}, "no brace"),
        ({"url": "redis+cluster://:s3cret@h:port"}, "no address"),
    ],
)
def test_what_cannot_be_of_a_cluster_is_refused_with_a_reason(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        RedisMessagingBackend(settings)
    assert "s3cret" not in str(caught.value)


def test_a_url_names_several_nodes_and_each_has_a_url_of_its_own() -> None:
    config = RedisBackendConfig(url="rediss+cluster://u:s3cret@h:1,[::1]:2")
    assert config.is_cluster
    assert config.nodes == [Node("h", 1), Node("::1", 2)]
    assert config.node_url(config.nodes[1]) == "rediss://u:s3cret@[::1]:2"
    assert "s3cret" not in config.shown()
    routed = config.at("{g_1}")
    routed.model_copy().learn_nodes([Node("k", 3)])
    assert routed.nodes == [Node("k", 3), Node("h", 1), Node("::1", 2)]


@pytest.mark.parametrize("guild", ["g_1", "{}", "a{g_1}", "{g}_1", "{{g}}"])
def test_a_guild_id_that_is_no_hash_tag_is_refused_with_its_spelling(guild: str) -> None:
    with pytest.raises(ConfigError, match=r"must be a hash tag, '\{\w+\}' "):
        RedisBackendConfig(host="h", is_cluster=True).at(guild)
    assert RedisBackendConfig(host="h").at(guild).route is None


def test_an_organization_with_braces_is_refused_on_a_cluster() -> None:
    with pytest.raises(ConfigError, match="organization"):
        RedisMessagingBackend({"is_cluster": True}).shared_namespace = "{acme}"
    RedisMessagingBackend({"is_cluster": True}).shared_namespace = "acme"
    RedisMessagingBackend({}).shared_namespace = "{acme}"


def test_a_ttl_that_is_no_number_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSTIC_AI_REDIS_MSG_TTL", "abc")
    with pytest.raises(ConfigError, match="RUSTIC_AI_REDIS_MSG_TTL is 'abc'"):
        RedisBackendConfig()


def test_the_asyncio_client_goes_to_nodes_with_tls_where_the_url_says_so() -> None:
    pool = async_client(RedisBackendConfig(url="rediss+cluster://h:1").at("{g_1}")).connection_pool
    assert issubclass(pool.connection_class, redis.asyncio.SSLConnection)
    pool = async_client(RedisBackendConfig(url="redis+cluster://h:1").at("{g_1}")).connection_pool
    assert not issubclass(pool.connection_class, redis.asyncio.SSLConnection)
