"""The manager of a guild, in a real host: asked over the bus, it changes, lists, tells and stops."""

import json
from pathlib import Path
from typing import Any

from rustic_host.cli.client import HostClient
from tests.system.demo import ANY_PORT, demo_host, messages, wait_agents, written_guild
from tests.system.host import HostProcess
from tests.system.need import valkey_binary
from tests.system.servers import redis_server
from tests.system.waiting import until

SYSTEM = "rustic_ai.core.agents.system.models"
HEALTH = "rustic_ai.core.guild.agent_ext.mixins.health"
STATE = "rustic_ai.core.state.models"
ECHO = "rustic_ai.core.agents.testutils.echo_agent.EchoAgent"
MANAGER = "GuildManagerAgent4g1"


def agent(name: str, class_name: str = ECHO, **fields: Any) -> dict[str, Any]:
    return {"id": name.lower(), "name": name, "description": "-", "class_name": class_name, **fields}


def guild(folder: Path, *agents: dict[str, Any], guild_id: str = "g1", code: str = "", **fields: Any) -> Path:
    spec = {"id": guild_id, "name": guild_id, "description": "-", "agents": agents, **fields}
    return written_guild(folder, spec, code, name=guild_id)


def ask(
    host: HostProcess, what: str, *payloads: dict[str, Any], topic: str = "system_topic", guild_id: str = "g1"
) -> None:
    form = what if "." in what else f"{SYSTEM}.{what}"
    lines = "".join(json.dumps(payload) + "\n" for payload in payloads)
    host.cli("send", guild_id, topic, "--file", "-", "--format", form, stdin=lines)


def answers(host: HostProcess, count: int) -> list[dict[str, Any]]:
    """The first answers of the manager on ``system_topic``."""
    return [row for row in messages(host, "g1", "system_topic", count=2 * count) if row["sender"]["name"] == MANAGER]


def short(row: dict[str, Any]) -> str:
    return str(row["format"].rpartition(".")[2])


def rule(name: str, topic: str) -> dict[str, Any]:
    return {"agent": {"name": name}, "destination": {"topics": topic}, "route_times": -1}


def test_what_is_changed_while_a_guild_runs_outlives_its_host(tmp_path: Path) -> None:
    quiet: Any = {"listen_to_default_topic": False}
    spec = guild(tmp_path, agent("Echo"), agent("Other", **quiet), routes={"steps": [rule("Echo", "out")]})
    with demo_host([spec]) as host:
        host.start()
        ask(host, "AgentLaunchRequest", {"agent_spec": agent("Late", additional_topics=["out"], **quiet)})
        wait_agents(host, lambda found: found.get("Late", {}).get("status") == "running")
        ask(host, "RemoveAgentRequest", {"guild_id": "g1", "agent_id": "other"})
        wait_agents(host, lambda found: "Other" not in found)
        ask(host, "AddRoutingRuleRequest", {"guild_id": "g1", "routing_rule": rule("Late", "late")})
        made = answers(host, 3)
        assert [(short(row), row["payload"]["status_code"]) for row in made] == [
            ("AgentLaunchResponse", 201),
            ("AgentRemovalResponse", 200),
            ("RoutingRuleUpdateResponse", 201),
        ]
        host.cli("send", "g1", "default_topic", '{"n": 1}')
        assert [row["payload"] for row in messages(host, "g1", "late", count=1)] == [{"n": 1}]

        host.kill9()
        host.start()
        found = wait_agents(host, lambda found: {row["status"] for row in found.values()} == {"running"})
        assert set(found) == {"Echo", "Late"}
        host.cli("send", "g1", "default_topic", '{"n": 2}')
        assert [row["payload"] for row in messages(host, "g1", "late", count=2)] == [{"n": 1}, {"n": 2}]

        hashid = made[2]["payload"]["rule_hashid"]
        ask(host, "RemoveRoutingRuleRequest", {"guild_id": "g1", "rule_hashid": hashid})
        assert short(answers(host, 4)[3]) == "RoutingRuleUpdateResponse"
        assert [short(row) for row in messages(host, "g1", "guild_status_topic", count=1)] == ["AgentsHealthReport"]


def appended(number: int) -> dict[str, Any]:
    """A request to append to a list of the guild's state; the first one makes the list."""
    at, value = ("/list/-", number) if number else ("/list", [number])
    change = {"operations": [{"op": "add", "path": at, "value": value}]}
    return {"state_owner": "guild", "guild_id": "g1", "state_update": change, "update_format": "json-patch"}


def test_the_guilds_state_is_changed_once_through_any_kill(tmp_path: Path) -> None:
    with demo_host([guild(tmp_path, agent("Echo"))]) as host:
        host.start()
        for first in (0, 100, 200):
            ask(host, f"{STATE}.StateUpdateRequest", *map(appended, range(first, first + 100)), topic="state_topic")
            host.kill9()
            host.start()
        rows = [row for row in messages(host, "g1", "state_topic", count=600) if row["sender"]["name"] == MANAGER]
        assert [(row["payload"]["version"], row["payload"]["state"]["list"]) for row in rows] == [
            (number + 1, list(range(number + 1))) for number in range(300)
        ]
        ask(host, f"{STATE}.StateFetchRequest", {"state_owner": "guild", "guild_id": "g1"}, topic="state_topic")
        fetched = messages(host, "g1", "state_topic", count=602)[-1]["payload"]
        assert (fetched["version"], fetched["state"]) == (300, {"list": list(range(300))})


COUNTING = """
from rustic_host.guild.state import StateUpdateFormat

class Counting(Agent):
    @processor(JsonDict)
    def count(self, ctx: ProcessContext[dict]) -> None:
        n = self.get_agent_state().get("n", 0) + 1
        self.update_state(ctx, StateUpdateFormat.JSON_MERGE_PATCH, {"n": n})
        ctx.send_dict({"n": n})
"""


def test_an_agents_state_is_changed_and_told_by_request(tmp_path: Path) -> None:
    counting = agent("Counting", "g1_agents.Counting")
    routes = {"steps": [rule("Counting", "out")]}
    with demo_host([guild(tmp_path, counting, code=COUNTING, routes=routes)]) as host:
        host.start()
        host.cli("send", "g1", "default_topic", '{"x": 1}')
        messages(host, "g1", "out", count=1)
        of = {"state_owner": "agent", "guild_id": "g1", "agent_id": "counting"}
        ask(host, f"{STATE}.StateUpdateRequest", {**of, "state_update": {"n": 10}}, topic="state_topic")
        row = messages(host, "g1", "state_topic", count=2)[1]
        assert (short(row), row["sender"]["id"], row["payload"]["state"]) == (
            "StateUpdateResponse",
            "counting",
            {"n": 10},
        )
        ask(host, f"{STATE}.StateFetchRequest", of, topic="state_topic")
        row = messages(host, "g1", "state_topic", count=4)[3]
        assert (short(row), row["payload"]["state"]) == ("StateFetchResponse", {"n": 10})
        host.cli("send", "g1", "default_topic", '{"x": 1}')
        assert messages(host, "g1", "out", count=2)[1]["payload"] == {"n": 11}


WELL = """
from datetime import datetime
from rustic_host.guild.health import Heartbeat, HeartbeatStatus

class Careful(Agent):
    def healthcheck(self, checktime: datetime) -> Heartbeat:
        return Heartbeat(checktime=checktime, checkstatus=HeartbeatStatus.WARNING)
"""


def wait_report(host: HostProcess, **wanted: str) -> list[dict[str, str]]:
    """All that is reported on ``guild_status_topic`` of each agent, until it is what is wanted."""

    def found(output: str) -> list[dict[str, str]]:
        rows = [json.loads(line)["payload"]["agents"] for line in output.splitlines() if line.endswith("}")]
        return [{key: beat["checkstatus"] for key, beat in row.items()} for row in rows]

    with host.client("tail", "g1", "guild_status_topic", "--json", "--from", "start") as tail:
        return until(lambda: found(tail.output), lambda rows: wanted in rows)


def test_health_is_asked_and_told_by_the_host(tmp_path: Path) -> None:
    careful = agent("Careful", "g1_agents.Careful")
    with demo_host([guild(tmp_path, agent("Echo"), careful, code=WELL)]) as host:
        host.start()
        told = wait_report(host, echo="ok", careful="warning")
        assert told[0] == {"echo": "starting", "careful": "starting"}
        first = messages(host, "g1", "heartbeat", count=2)
        assert {row["sender"]["id"]: row["payload"]["checkstatus"] for row in first} == {
            "echo": "ok",
            "careful": "warning",
        }
        asked = {"checktime": "2026-01-02T03:04:05"}
        ask(host, f"{HEALTH}.HealthCheckRequest", asked, topic="heartbeat")
        rows = until(
            lambda: [
                row
                for row in messages(host, "g1", "heartbeat", count=6)
                if short(row) == "Heartbeat" and row["payload"]["checktime"] == asked["checktime"]
            ],
            lambda found: len(found) == 3,
        )
        by_sender = {row["sender"]["id"]: row["payload"]["checkstatus"] for row in rows}
        assert by_sender == {"echo": "ok", "careful": "warning", "g1#manager_agent": "ok"}
        live = HostClient(host.socket).status()["guilds"][0]["subscriptions"]
        assert {
            topic: live.get(topic) for topic in ("heartbeat", "state_topic", "system_topic", "guild_status_topic")
        } == {
            "heartbeat": 2,
            "state_topic": 1,
            "system_topic": 1,
            "guild_status_topic": None,
        }


def test_an_agent_that_does_not_come_up_is_reported(tmp_path: Path) -> None:
    with demo_host([guild(tmp_path, agent("Echo"), agent("Lost", "no_such_module.A"))]) as host:
        host.start()
        wait_report(host, echo="ok", lost="error")


def test_a_guild_is_stopped_and_the_other_goes_on(tmp_path: Path) -> None:
    specs = [guild(tmp_path, agent("Echo")), guild(tmp_path, agent("Echo"), guild_id="g2")]
    with demo_host(specs) as host:
        host.start()
        ask(host, "StopGuildRequest", {"guild_id": "g1", "user_id": "bob"})
        host.wait_for_line("guild g1 stopped")
        assert {row["id"]: row["status"] for row in host.status()["guilds"]} == {"g1": "stopped", "g2": "running"}
        assert host.cli("status").returncode == 0
        with host.client("tail", "g1", "guild_status_topic", "--json", "--from", "start") as tail:
            said = json.loads(tail.wait_for_line("StopGuildResponse"))
        assert said["payload"] == {"user_id": "bob"}
        host.cli("send", "g2", "default_topic", '{"n": 1}')
        messages(host, "g2", "default_topic", count=2)
        ask(host, "StopGuildRequest", {"guild_id": "g2"}, guild_id="g2")
        assert host.process.wait(30) == 0


def test_a_stopped_guild_starts_again(tmp_path: Path) -> None:
    with demo_host([guild(tmp_path, agent("Echo"))]) as host:
        host.start()
        ask(host, "StopGuildRequest", {"guild_id": "g1"})
        assert host.process.wait(30) == 0
        host.start()
        host.cli("send", "g1", "default_topic", '{"n": 1}')
        messages(host, "g1", "default_topic", count=2)


def test_a_guild_lives_on_the_server_that_its_spec_names(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with redis_server(data, binary=valkey_binary()) as server:
        messaging = {
            "backend_module": "rustic_ai.redis.messaging.backend",
            "backend_class": "RedisMessagingBackend",
            "backend_config": {"redis_client": {"unix_socket_path": str(server.socket)}},
        }
        engine = "rustic_ai.core.guild.execution.sync.SyncExecutionEngine"
        ignored = {"execution_engine": engine, "state_manager": "rustic_ai.redis.state.manager.RedisStateManager"}
        named = guild(tmp_path, agent("Echo"), properties={"messaging": messaging, **ignored})
        own = guild(tmp_path, agent("Echo"), guild_id="g2")
        with demo_host([named, own]) as host:
            host.start()
            host.wait_for_line("execution_engine_not_used", "g1", "a process of its own")
            host.wait_for_line("setting_not_used", "g1", "properties.state_manager")
            for name in ("g1", "g2"):
                host.cli("send", name, "default_topic", '{"n": 1}')
                messages(host, name, "default_topic", count=2)
            with server.client() as client:
                assert client.exists("g1:default_topic")
                assert not client.exists("g2:default_topic")
            assert str(server.socket) in host.status()["host"]["redis"]


def test_agents_are_imported_from_the_folders_that_are_named(tmp_path: Path) -> None:
    apart = tmp_path / "apart"
    apart.mkdir()
    written_guild(apart, {}, COUNTING, name="g1")
    (apart / "g1.yaml").unlink()
    spec = tmp_path / "g1.yaml"
    routes = {"steps": [rule("Counting", "out")]}
    agents = [agent("Counting", "g1_agents.Counting")]
    spec.write_text(json.dumps({"id": "g1", "name": "g1", "description": "-", "agents": agents, "routes": routes}))
    for options, env in ((("--app-dir", str(apart)), {}), ((), {"RUSTIC_HOST_APP_DIR": f"/nowhere:{apart}"})):
        with HostProcess([spec], options=(*ANY_PORT, *options), env=env) as host:
            host.start()
            host.cli("send", "g1", "default_topic", '{"x": 1}')
            assert messages(host, "g1", "out", count=1)[0]["payload"] == {"n": 1}


def test_a_guild_whose_manager_is_lost_runs_on_and_a_seek_brings_it_back(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with redis_server(data, binary=valkey_binary()) as server:
        spec = guild(tmp_path, agent("Echo"))
        with demo_host([spec], RUSTIC_HOST_REDIS_URL=server.url) as host:
            host.start()
            assert host.stop() == 0
            with server.client() as client:
                assert client.xgroup_destroy("rustic-host:g1:log:system_topic", "g1$g1#manager_agent")
            host.start()
            host.wait_for_line("guild g1: its manager FAILED", "destroyed")
            assert [row["status"] for row in host.status()["guilds"]] == ["degraded"]
            host.cli("send", "g1", "default_topic", '{"n": 1}')
            messages(host, "g1", "default_topic", count=2)
            ask(host, "AgentLaunchRequest", {"agent_spec": agent("Late")})
            said = host.cli("seek", "g1", MANAGER, "--from", "start", "--topic", "system_topic").stdout
            assert f"{MANAGER} is started again" in said
            wait_agents(host, lambda found: found.get("Late", {}).get("status") == "running")
            assert [row["status"] for row in host.status()["guilds"]] == ["running"]
            assert "again" not in host.cli("seek", "g1", MANAGER, "--from", "end", "--topic", "system_topic").stdout
