import json
from pathlib import Path
from typing import Any

import pytest

from rustic_host.errors import ConfigError
from rustic_host.guild.environment import guild_properties
from rustic_host.guild.loader import check_guild, load_guild
from rustic_host.guild.problems import InvalidSpecError
from rustic_host.guild.redis_settings import redis_settings

THEIRS = {"backend_module": "rustic_ai.redis.messaging.backend", "backend_class": "RedisMessagingBackend"}
OURS = {"backend_module": "rustic_host.messaging", "backend_class": "RedisMessagingBackend"}
MEMORY = {"backend_module": "rustic_ai.core.messaging.backend", "backend_class": "InMemoryMessagingBackend"}


def messaging(redis_client: Any, names: dict[str, str] = THEIRS) -> dict[str, Any]:
    return {"messaging": {**names, "backend_config": {"redis_client": redis_client}}}


@pytest.mark.parametrize("names", [THEIRS, OURS])
def test_the_server_that_is_named(names: dict[str, str]) -> None:
    client = {"host": "h", "port": 1, "password": "s3cret", "pubsub_retry_enabled": True, "is_cluster": False}
    found = redis_settings(messaging(client, names))
    assert found is not None
    assert found.connection_url() == "redis://:s3cret@h:1/0"
    assert "s3cret" not in found.shown()


@pytest.mark.parametrize(
    "properties",
    [{}, {"messaging": None}, {"messaging": THEIRS}, messaging({"host": "h"}, MEMORY), messaging(None)],
)
def test_no_server_is_named(properties: dict[str, Any]) -> None:
    assert redis_settings(properties) is None


@pytest.mark.parametrize(
    ("client", "word"),
    [
        ("redis://:s3cret@h", "mapping"),
        ({"host": "h", "prot": 1, "password": "s3cret"}, "prot"),
        ({"host": "h", "port": "s3cret"}, "port"),
        ({"url": "http://:s3cret@h"}, "URL"),
        ({"host": "h", "is_cluster": True, "db": 1, "password": "s3cret"}, "luster"),
    ],
)
def test_a_server_that_cannot_be_used(client: Any, word: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        redis_settings(messaging(client))
    assert "s3cret" not in str(caught.value)
    spec = {"id": "g", "name": "G", "description": "d", "agents": [], "properties": messaging(client)}
    path = tmp_path / "guild.yaml"
    path.write_text(json.dumps(spec))
    (row,) = [problem for problem in check_guild(path) if problem.severity == "error"]
    assert word in row.message
    with pytest.raises(InvalidSpecError, match=word) as refused:  # what `check` calls an error is one for `start`
        load_guild(path)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(("guild", "warned"), [("g_1", True), ("{g_1}", False)])
def test_a_guild_that_cannot_be_on_the_cluster_it_names_is_warned_of(guild: str, warned: bool, tmp_path: Path) -> None:
    properties = messaging({"host": "h", "is_cluster": True})
    path = tmp_path / "guild.yaml"
    path.write_text(json.dumps({"id": guild, "name": "G", "description": "d", "agents": [], "properties": properties}))
    said = [problem.message for problem in check_guild(path) if "hash tag" in problem.message]
    assert len(said) == warned
    assert load_guild(path).id == guild  # --redis may name another server


def test_the_environment_names_one() -> None:
    environ = {
        "RUSTIC_AI_MESSAGING_MODULE": THEIRS["backend_module"],
        "RUSTIC_AI_MESSAGING_CLASS": THEIRS["backend_class"],
        "RUSTIC_AI_MESSAGING_BACKEND_CONFIG": '{"redis_client": {"host": "there"}}',
    }
    found = redis_settings(guild_properties({}, environ))
    assert found is not None
    assert found.host == "there"
    assert redis_settings(guild_properties({"messaging": MEMORY}, environ)) is None
