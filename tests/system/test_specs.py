"""Specs by the authors of Rustic AI, run by real processes: send, and compare what arrives."""

import json
from pathlib import Path

import pytest

from tests.system.demo import demo_host, messages, written_guild
from tests.system.host import HostProcess
from tests.system.operator_files import TOP

SPECS = TOP.parent / "shared" / "specs"
ECHO = "rustic_ai.core.agents.testutils.echo_agent.EchoAgent"

needs_specs = pytest.mark.skipif(not SPECS.is_dir(), reason="the folder shared/specs is not beside this repository")


def send_all(
    host: HostProcess, guild: str, topic: str, *payloads: dict[str, object], form: str = "generic_json"
) -> None:
    lines = "".join(json.dumps(payload) + "\n" for payload in payloads)
    host.cli("send", guild, topic, "--file", "-", "--format", form, stdin=lines)


@needs_specs
def test_001_point_to_point() -> None:
    with demo_host([SPECS / "001_point_to_point.yaml"]) as host:
        host.start()
        payloads: list[dict[str, object]] = [{"text": f"hello {n}"} for n in range(20)]
        send_all(host, "p2p_guild", "default_topic", *payloads)
        arrived = messages(host, "p2p_guild", "topic_2", count=len(payloads))
        handed_over = messages(host, "p2p_guild", "agent_inbox:agent2", count=len(payloads))
        assert [row["payload"] for row in arrived] == [row["payload"] for row in handed_over] == payloads
        assert {row["sender"]["name"] for row in handed_over} == {"Agent1"}
        assert {row["sender"]["name"] for row in arrived} == {"Agent2"}
        assert [[entry["agent"]["name"] for entry in row["message_history"]] for row in arrived] == [
            ["Agent1", "Agent2"]
        ] * len(payloads)


@needs_specs
def test_003_content_based_router() -> None:
    with demo_host([SPECS / "003_content_based_router.yaml"]) as host:
        host.start()
        keys = ["x", "y", "x", "z", "y", "x"]
        payloads: list[dict[str, object]] = [{"routing_key": key, "n": n} for n, key in enumerate(keys)]
        send_all(host, "MessageRouterGuild", "default_topic", *payloads, form="__main__.CBRMessage")
        for key in ("x", "y", "z"):
            expected = [payload for payload in payloads if payload["routing_key"] == key]
            arrived = messages(host, "MessageRouterGuild", key, count=len(expected))
            assert [row["payload"] for row in arrived] == expected
            assert {row["format"] for row in arrived} == {"__main__.CBRMessage"}


def echo_guild(folder: Path, guild_id: str) -> Path:
    agent = {"id": "echo", "name": "Echo", "description": "-", "class_name": ECHO}
    route = {"agent": {"name": "Echo"}, "destination": {"topics": "out"}}
    spec = {"id": guild_id, "name": guild_id, "description": "-", "agents": [agent], "routes": {"steps": [route]}}
    return written_guild(folder, spec, name=guild_id)


def test_two_guilds_in_one_host_do_not_hear_each_other(tmp_path: Path) -> None:
    with demo_host([echo_guild(tmp_path, "left"), echo_guild(tmp_path, "right")]) as host:
        host.start()
        assert [guild["id"] for guild in host.status()["guilds"]] == ["left", "right"]
        for guild in ("left", "right", "left"):
            send_all(host, guild, "default_topic", {"to": guild})
        assert [row["payload"] for row in messages(host, "left", "out", count=2)] == [{"to": "left"}] * 2
        send_all(host, "right", "default_topic", {"to": "right", "last": True})
        arrived = [row["payload"] for row in messages(host, "right", "out", count=2)]
        assert arrived == [{"to": "right"}, {"to": "right", "last": True}]
        host.kill_agent("Echo")
        assert {guild["id"] for guild in host.status()["guilds"]} == {"left", "right"}


def test_a_guild_that_is_not_there(tmp_path: Path) -> None:
    with demo_host([echo_guild(tmp_path, "left")]) as host:
        host.start()
        for words in (("send", "rihgt", "default_topic", '{"n": 1}'), ("tail", "rihgt", "out")):
            refused = host.cli(*words, check=False)
            assert refused.returncode == 68
            assert "rihgt" in refused.stderr
            assert "left" in refused.stderr
