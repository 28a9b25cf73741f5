"""An operator on a real host: messages that were given up, that an agent is stuck in, and a position that is lost."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from rustic_host.cli.client import HostClient
from tests.system.demo import agents, demo_host, messages, metric, written_guild
from tests.system.host import HostProcess
from tests.system.waiting import until

AGENTS = """
class Careful(Agent):
    @processor(JsonDict)
    def work(self, ctx: ProcessContext[JsonDict]) -> None:
        if ctx.payload.get("bad") and not (HERE / "mended").exists():
            raise ValueError("the other system is away")
        if ctx.payload.get("hold"):
            (HERE / "held").touch()
            (HERE / "go").open().close()
        ctx.send_dict({"n": ctx.payload["n"], "by": "careful"})

class Other(Agent):
    @processor(JsonDict)
    def work(self, ctx: ProcessContext[JsonDict]) -> None:
        ctx.send_dict({"n": ctx.payload["n"], "by": "other"})
"""
TOPIC = "work"
CAREFUL = "g1$careful"


def guild(folder: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {
            "id": name.lower(), "name": name, "description": "-", "class_name": f"guild_agents.{name}",
            "additional_topics": [TOPIC], "listen_to_default_topic": False, "qos": {"retry_count": 1},
        }
        for name in ("Careful", "Other")
    ]  # fmt: skip
    answers = {"message_format": "generic_json", "destination": {"topics": "out"}}
    steps = [{"agent": {"name": row["name"]}, **answers} for row in rows]
    spec = {"id": "g1", "name": "G", "description": "-", "agents": rows, "routes": {"steps": steps}}
    return written_guild(folder, spec, AGENTS)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HostProcess]:
    with demo_host([guild(tmp_path)]) as host:
        yield host.start()


def send(host: HostProcess, n: int, **payload: Any) -> str:
    """Send a message; returns its id."""
    said = host.cli("send", "g1", TOPIC, json.dumps({"n": n, **payload})).stdout
    return said.rpartition(" ")[2].strip()


def letters(host: HostProcess, *words: str) -> list[dict[str, Any]]:
    lines = host.cli("dead-letters", "list", "g1", "--json", *words).stdout.splitlines()
    return [json.loads(line) for line in lines]


def wait_letters(host: HostProcess, count: int) -> None:
    client = HostClient(host.socket)
    until(lambda: client.status()["guilds"][0]["dead_letters"], lambda found: found == count)


def sent_by(host: HostProcess, agent: str, count: int) -> Counter[int]:
    """What an agent sent, out of the first ``count`` messages of all."""
    found = [each["payload"] for each in messages(host, "g1", "out", count=count)]
    return Counter(payload["n"] for payload in found if payload["by"] == agent)


def server_of(host: HostProcess) -> Any:
    return redis.Redis.from_url(HostClient(host.socket).status()["host"]["redis"], protocol=2)


def test_what_was_given_up_is_replayed_once_the_cause_is_mended(host: HostProcess, tmp_path: Path) -> None:
    send(host, 1)
    send(host, 2, bad=True)
    send(host, 3, bad=True)
    with server_of(host) as server:
        server.xadd(f"rustic-host:g1:log:{TOPIC}", {"m": b"no message"})
    wait_letters(host, 4)
    assert {(each["agent"], each["error_type"], each["replayable"]) for each in letters(host)} == {
        ("Careful", "ValueError", True), ("Careful", "ValidationError", False), ("Other", "ValidationError", False),
    }  # fmt: skip
    (newest, older) = letters(host, "--error", "ValueError")
    assert "4 dead letters (rustic-host dead-letters list g1)" in host.cli("status").stdout
    assert metric(host, "rustic_dead_letters", "guild") == {"g1": 4}
    shown = host.cli("dead-letters", "show", "g1", newest["id_string"]).stdout
    for line in ("error message: the other system is away", "attempts: 2", "Traceback (most recent call last):"):
        assert line in shown.splitlines()
    assert f'  "id": {newest["message_id_string"]},' in shown

    assert host.cli("dead-letters", "replay", "g1", older["id_string"]).stdout == "1 message replayed\n"
    wait_letters(host, 4)  # it has failed again
    assert older["id"] not in {each["id"] for each in letters(host)}

    (tmp_path / "mended").touch()
    done = host.cli("dead-letters", "replay", "g1", "--all", "--agent", "Careful", check=False)
    assert (done.returncode, done.stdout) == (65, "2 messages replayed\n")
    assert "the original is no message; it can only be shown and purged" in done.stderr
    assert sent_by(host, "careful", 6) == sent_by(host, "other", 6) == {1: 1, 2: 1, 3: 1}
    assert all("rustic_host" not in json.dumps(each["session_state"]) for each in messages(host, "g1", "out", count=6))

    again = host.cli("dead-letters", "replay", "g1", newest["id_string"], check=False)
    assert (again.returncode, again.stdout) == (66, "0 messages replayed\n")
    assert host.cli("dead-letters", "purge", "g1", "--all", "--yes").stdout == "2 dead letters purged\n"
    assert host.cli("dead-letters", "list", "g1").stdout == "no dead letters\n"
    send(host, 4)
    assert sent_by(host, "careful", 8) == sent_by(host, "other", 8) == {1: 1, 2: 1, 3: 1, 4: 1}


def test_an_agent_that_is_stuck_goes_on_without_the_message(host: HostProcess, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    stuck = send(host, 1, hold=True)
    send(host, 2)
    until((tmp_path / "held").exists, bool)
    (backlog,) = json.loads(host.cli("pending", "g1", "--agent", "Careful", "--json").stdout)
    (topic,) = (topic for topic in backlog["topics"] if topic["topic"] == TOPIC)
    assert (topic["pending"] + topic["lag"], topic["in_hand"][0]["message_id_string"]) == (2, stuck)
    assert stuck in host.cli("pending", "g1").stdout
    assert host.cli("skip", "g1", "Careful", stuck).stdout.startswith("skipped ")
    (tmp_path / "go").open("w").close()
    assert sent_by(host, "careful", 3) == {2: 1}
    (tmp_path / "go").unlink()
    (tmp_path / "go").touch()
    (letter,) = letters(host)
    said = {name: letter[name] for name in ("error_type", "error_message", "attempts")}
    assert said == {"error_type": "MessageSkippedError", "error_message": "skipped by operator", "attempts": 0}
    assert host.cli("dead-letters", "replay", "g1", letter["id_string"]).stdout == "1 message replayed\n"
    assert sent_by(host, "careful", 4) == {1: 1, 2: 1}
    assert host.cli("skip", "g1", "Careful", stuck, check=False).returncode == 66
    assert host.cli("skip", "g1", "Nobody", stuck, check=False).returncode == 68
    assert host.cli("skip", "g1", "Careful", "x", check=False).returncode == 64


def test_a_lost_position_is_set_and_the_agent_starts_again(host: HostProcess) -> None:
    send(host, 1)
    second = send(host, 2)
    assert sent_by(host, "careful", 4) == {1: 1, 2: 1}
    with server_of(host) as server:
        server.xgroup_destroy(f"rustic-host:g1:log:{TOPIC}", CAREFUL)
    until(lambda: agents(host)["Careful"], lambda found: found["status"] == "failed")
    assert "group_lost" in agents(host)["Careful"]["reason"]
    assert "position lost: seek" in host.cli("pending", "g1").stdout
    send(host, 3)
    said = host.cli("seek", "g1", "Careful", "--from", second).stdout.splitlines()
    assert said[0].startswith(f"{TOPIC}: after ")
    assert said[1] == "Careful is started again"
    assert sent_by(host, "careful", 6) == {1: 1, 2: 1, 3: 1}
    assert host.cli("seek", "g1", "careful", "--from", "start", "--topic", TOPIC).stdout == f"{TOPIC}: from the start\n"
    assert sent_by(host, "careful", 9) == {1: 2, 2: 2, 3: 2}
    assert agents(host)["Careful"]["restarts"] == 1
