"""Hosts on a Redis Cluster: guilds on different nodes that write to each other, a host that is killed meanwhile."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from tests.system.cluster import BOUNDS, RedisCluster, redis_cluster
from tests.system.demo import messages, written_guild
from tests.system.host import HostProcess
from tests.system.test_specs import ECHO, send_all

ENVOY = "rustic_ai.core.guild.g2g.envoy_agent.EnvoyAgent"
REDIS = {"backend_module": "rustic_ai.redis.messaging.backend", "backend_class": "RedisMessagingBackend"}
BUYER, SELLER = "{buyer_1}", "{seller}"
"""On two nodes; no other than these two."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


def buyer(folder: Path, properties: dict[str, Any], guild: str = BUYER) -> Path:
    envoy = {
        "id": "envoy",
        "name": "Envoy",
        "description": "-",
        "class_name": ENVOY,
        "listen_to_default_topic": False,
        "additional_topics": ["orders"],
        "properties": {"target_guild": SELLER},
    }
    gateway = {"input_formats": [], "output_formats": [], "returned_formats": ["*"]}
    spec = {"id": guild, "name": "buyer", "description": "-", "agents": [envoy], "gateway": gateway}
    return written_guild(folder, {**spec, "properties": properties}, name="buyer")


def seller(folder: Path, properties: dict[str, Any]) -> Path:
    echo = {"id": "echo", "name": "Echo", "description": "-", "class_name": ECHO}
    gateway = {"input_formats": ["*"], "output_formats": ["*"]}
    spec = {"id": SELLER, "name": "seller", "description": "-", "agents": [echo], "gateway": gateway}
    return written_guild(folder, {**spec, "properties": properties}, name="seller")


def named(**redis_client: Any) -> dict[str, Any]:
    return {"messaging": {**REDIS, "backend_config": {"redis_client": redis_client}}}


def node_of(guild: str) -> int:
    slot = key_slot(guild.encode())
    return next(index for index, end in enumerate(BOUNDS[1:]) if slot < end)


def orders(host: HostProcess, first: int, last: int) -> list[dict[str, object]]:
    made: list[dict[str, object]] = [{"order": n} for n in range(first, last)]
    send_all(host, BUYER, "orders", *made)
    return made


def test_orders_go_to_a_guild_on_another_node_and_come_back_once_also_when_the_host_is_killed(
    cluster: RedisCluster, tmp_path: Path
) -> None:
    assert node_of(BUYER) != node_of(SELLER)
    ours = buyer(tmp_path, named(host="127.0.0.1", port=cluster.nodes[0].port, is_cluster=True))
    theirs = seller(tmp_path, named(url=cluster.url))
    short = {"RUSTIC_HOST_LEASE_SECONDS": "1"}  # how long the killed one counts as there
    with HostProcess([ours, theirs], options=["--metrics-port", "0"], env=short) as host:
        host.start()
        sent = orders(host, 0, 5)
        messages(host, BUYER, "default_topic", count=5)
        sent += orders(host, 5, 45)
        host.kill9()
        host.start()
        answers = messages(host, BUYER, "default_topic", count=len(sent))
        assert [row["payload"] for row in answers] == sent
        guilds = {guild["id"]: guild for guild in host.status()["guilds"]}
        assert guilds[BUYER]["subscriptions"][f"guild_inbox:{BUYER}"] == 1
        assert [guild["dead_letters"] for guild in guilds.values()] == [0, 0]
        done = host.cli("pending", BUYER, "--json")
        assert "envoy" in done.stdout
    for guild in (BUYER, SELLER):
        with cluster.nodes[node_of(guild)].client() as client:
            log = client.xrange(f"rustic-host:default_organization:log:guild_inbox:{guild}")
            heard = Counter(json.loads(fields[b"m"])["payload"]["order"] for _, fields in log)
            assert heard == Counter(range(45))


def test_a_guild_on_a_cluster_that_is_no_hash_tag_is_told_how_to_spell_it(
    cluster: RedisCluster, tmp_path: Path
) -> None:
    spec = buyer(tmp_path, {}, "buyer_1")
    with HostProcess([spec], options=["--metrics-port", "0", "--redis", cluster.url]) as host:
        host.start(ready=False)
        assert host.process.wait() == 78
        assert "must be a hash tag, '{buyer_1}'" in host.process.output
