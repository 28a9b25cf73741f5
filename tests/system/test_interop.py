"""A host on a server that Rustic AI's processes publish to as well."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.messaging.bus import Bus
from tests.messaging.redis import foreign
from tests.system.demo import ANY_PORT, messages, metric, written_guild
from tests.system.host import HostProcess
from tests.system.servers import RedisServer, redis_server
from tests.system.test_specs import ECHO
from tests.system.waiting import until

ECHO_AGENT = {
    "id": "echo",
    "name": "Echo",
    "description": "-",
    "class_name": ECHO,
    "listen_to_default_topic": False,
    "additional_topics": ["in"],
}
ROUTES = {"steps": [{"agent": {"name": "Echo"}, "destination": {"topics": "out"}}]}


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def spec(folder: Path, **properties: object) -> Path:
    named = {"id": "g", "name": "g", "description": "-"}
    return written_guild(folder, {**named, "agents": [ECHO_AGENT], "routes": ROUTES, "properties": properties})


def answered(host: HostProcess, count: int) -> list[int]:
    return [row["payload"]["n"] for row in messages(host, "g", "out", count=count)]


def test_what_others_publish_is_handled_also_what_came_before_and_counted(theirs: RedisServer, tmp_path: Path) -> None:
    with (
        Bus(theirs.url, "g") as bus,
        HostProcess([spec(tmp_path)], options=[*ANY_PORT, "--redis", theirs.url]) as host,
    ):
        foreign.store(bus, foreign.foreign_message(1, "in"), "in")
        host.start()
        assert answered(host, 1) == [1]
        foreign.publish(bus, 2, 3, topic="in")
        assert sorted(answered(host, 3)) == [1, 2, 3]
        assert host.status()["guilds"][0]["interop"] == {"imported": 3, "error": None}
        assert "guild g: running, 3 imported from others" in host.cli("status").stdout
        assert metric(host, "rustic_messages_imported_total", "topic") == {"in": 3}
        assert metric(host, "rustic_bridge_up", "guild") == {"g": 1}
        theirs.stop()
        until(lambda: host.status()["guilds"][0]["interop"]["error"], bool)
        assert "what others publish is not read: " in host.cli("status").stdout
        theirs.start()
        foreign.publish(bus, 4, topic="in")
        assert sorted(answered(host, 4)) == [1, 2, 3, 4]
        assert host.stop() == 0


def test_what_rustic_ai_has_handled_is_not_handled_again(theirs: RedisServer, tmp_path: Path) -> None:
    """Its positions are taken over at the first start; the second has its own."""
    with (
        Bus(theirs.url, "g") as bus,
        HostProcess([spec(tmp_path)], options=[*ANY_PORT, "--redis", theirs.url]) as host,
    ):
        old = [foreign.foreign_message(n, "in", behind_ms=1000 * (5 - n)) for n in range(5)]
        for message in old:
            foreign.store(bus, message, "in")
        bus.raw.set("eo:pos:g$echo:g:in", str(old[2].id))
        host.start()
        assert answered(host, 2) == [3, 4]
        assert "continues_after_rustic_ai" in host.process.output
        assert host.stop() == 0
        bus.raw.set("eo:pos:g$echo:g:in", str(old[4].id))
        foreign.store(bus, foreign.foreign_message(5, "in", behind_ms=60_000), "in")
        host.start()
        assert answered(host, 3) == [3, 4, 5]
        assert host.stop() == 0


def test_switched_off_nothing_of_others_is_read(theirs: RedisServer, tmp_path: Path) -> None:
    path = spec(tmp_path, interop=False)
    with (
        Bus(theirs.url, "g") as bus,
        HostProcess([path], options=[*ANY_PORT, "--redis", theirs.url]) as host,
    ):
        host.start()
        foreign.publish(bus, 1, topic="in")
        host.cli("send", "g", "in", '{"n": 2}')
        assert answered(host, 1) == [2]
        assert bus.logged("in") == [2]
        assert host.status()["guilds"][0]["interop"] is None
        assert not any("bridge" in row["name"] for row in bus.raw.client_list())
