"""A guild on a server that others use too, with a prefix for its keys; and a reader in a process of its own."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.messaging.redis.test_readers import READER
from tests.system.demo import demo_host, messages, metric, subscriptions, written_guild
from tests.system.host import HostProcess
from tests.system.servers import RedisServer, redis_server
from tests.system.waiting import until

PREFIX = "ours?:"  # a sign that means something in a pattern

DOUBLE = """
class Double(Agent):
    @processor(JsonDict)
    def work(self, ctx: ProcessContext[JsonDict]) -> None:
        ctx.send_dict({"n": ctx.payload["n"] * 2})
"""


def guild_on(server: RedisServer, folder: Path) -> Path:
    route = {"agent": {"id": "double"}, "destination": {"topics": "out"}, "process_status": "running"}
    agent = {
        "id": "double", "name": "Double", "description": "-", "class_name": "guild_agents.Double",
        "additional_topics": ["in"], "qos": {"retry_count": 0},
    }  # fmt: skip
    messaging = {
        "backend_module": "rustic_host.messaging", "backend_class": "RedisMessagingBackend",
        "backend_config": {"redis_client": settings_for(server)},
    }  # fmt: skip
    spec = {
        "id": "g1", "name": "G", "description": "-", "agents": [agent],
        "routes": {"steps": [route]}, "properties": {"messaging": messaging},
    }  # fmt: skip
    return written_guild(folder, spec, DOUBLE)


def settings_for(server: RedisServer) -> dict[str, Any]:
    return {"unix_socket_path": str(server.socket), "key_prefix": PREFIX}


def test_a_guild_with_a_prefix_leaves_nothing_outside_it(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server, demo_host([guild_on(server, tmp_path)]) as host, server.client() as raw:
        raw.set("theirs", "1")
        host.start()
        for n in (1, 2):
            host.cli("send", "g1", "in", json.dumps({"n": n}))
        assert [each["payload"]["n"] for each in messages(host, "g1", "out", count=2)] == [2, 4]
        host.cli("send", "g1", "in", json.dumps({"none": 1}))
        until(lambda: json_lines(host, "dead-letters", "list", "g1", "--json"), lambda found: len(found) == 1)
        assert host.cli("dead-letters", "replay", "g1", "--all").stdout == "1 message replayed\n"
        until(lambda: json_lines(host, "dead-letters", "list", "g1", "--json"), lambda found: len(found) == 1)
        (backlog,) = json.loads(host.cli("pending", "g1", "--agent", "Double", "--json").stdout)
        assert {topic["pending"] + topic["lag"] for topic in backlog["topics"]} == {0}
        answer = host.cli("send", "g1", "in", json.dumps({"n": 4}), "--wait", "--reply-on", "out").stdout
        assert '"n": 8' in answer or '"n":8' in answer
        host.cli("seek", "g1", "Double", "--from", "start", "--topic", "in")
        until(lambda: len(messages(host, "g1", "out", count=4)), lambda found: found == 4)
        channels = raw.pubsub_channels("*")
        names = set(raw.scan_iter(count=1000))
    assert "theirs" in names
    assert {name for name in names if not name.startswith(PREFIX)} == {"theirs"}
    assert {name for name in channels if not name.startswith(PREFIX)} == set()


def json_lines(host: HostProcess, *words: str) -> list[Any]:
    return [json.loads(line) for line in host.cli(*words).stdout.splitlines() if line.startswith("{")]


@contextmanager
def reader_of(server: RedisServer) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", READER, json.dumps(settings_for(server)), "g1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "subscribed\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_subscriber_in_another_process_counts_until_it_is_killed(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server, demo_host([guild_on(server, tmp_path)]) as host:
        host.start()
        before = subscriptions(host)
        with reader_of(server) as reader:
            assert subscriptions(host) == {**before, "t": 1}
            assert metric(host, "rustic_topic_subscriptions", "topic")["t"] == 1
            reader.send_signal(signal.SIGKILL)
            until(lambda: subscriptions(host), lambda found: found == before, timeout=15)
        assert "t" not in metric(host, "rustic_topic_subscriptions", "topic")
