"""Whatever is wrong, the host says what and how to mend it, and ends with the code that its help names."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.demo import ANY_PORT, SPEC, agents, demo_host, log_field, messages, wait_agents, written_guild
from tests.system.host import HostProcess
from tests.system.need import valkey_binary
from tests.system.servers import RedisServer, free_port, redis_server

QUICKLY_SECONDS = 30  # of which most is the start of Python, on a busy machine; what waits for something waits a minute
PASSWORD = "correct-horse-battery"

AGENTS = """
class Good(Agent):
    @processor(JsonDict)
    def work(self, ctx: ProcessContext[JsonDict]) -> None:
        ctx.send_dict(ctx.payload)

class BrokenInit(Agent):
    def __init__(self) -> None:
        if not (HERE / "mended").exists():
            raise OSError("no disk of that name")
"""


def guild(folder: Path, *classes: str, guild_id: str = "g1") -> Path:
    """A guild with one agent per class of the module beside it; each is called as its class."""
    rows = [
        {"id": f"a{i}", "name": cls, "description": "-", "class_name": f"guild_agents.{cls}"}
        for i, cls in enumerate(classes)
    ]
    route = {"agent": {"name": "Good"}, "destination": {"topics": "out"}}
    steps = [route] if "Good" in classes else []
    spec = {"id": guild_id, "name": "G", "description": "-", "agents": rows, "routes": {"steps": steps}}
    return written_guild(folder, spec, AGENTS)


def refused(host: HostProcess, code: int, *texts: str) -> str:
    """Start a host that cannot start; returns what it said."""
    host.start(ready=False)
    assert host.process.wait(QUICKLY_SECONDS) == code, host.process.output
    output = host.process.output
    for text in texts:
        assert text in output
    assert "Traceback" not in output
    return output


def refused_with(code: int, *texts: str, options: list[str] | None = None, **env: str) -> str:
    """The same for the demo, with more options or environment."""
    with HostProcess([SPEC], options=[*ANY_PORT, *(options or [])], env=env) as host:
        return refused(host, code, *texts)


@contextmanager
def closed_redis(folder: Path) -> Iterator[RedisServer]:
    """A server that asks for a password."""
    with redis_server(folder, binary=valkey_binary()) as server:
        with server.client() as client:
            client.config_set("requirepass", PASSWORD)
        yield server


# ---- agents --------------------------------------------------------------------------------------------------------


def test_a_class_that_cannot_be_imported_is_said_and_the_others_run(tmp_path: Path) -> None:
    with demo_host([guild(tmp_path, "Good", "Missing")]) as host:
        host.start()
        assert "degraded" in host.notify.received[-1].fields["STATUS"]
        status = host.status()["guilds"][0]
        assert status["status"] == "degraded"
        good, missing = status["agents"]
        assert (good["status"], missing["status"], missing["pid"]) == ("running", "failed", None)
        assert missing["reason"].startswith("load_failed: AgentLoadError: ")
        assert "guild_agents.Missing" in missing["reason"]
        assert "Missing FAILED: load_failed" in host.process.output
        assert "Traceback" not in host.process.output
        host.cli("send", "g1", "default_topic", '{"n": 1}')
        assert messages(host, "g1", "out", count=1)[0]["payload"] == {"n": 1}


def test_when_no_agent_comes_up_the_host_ends(tmp_path: Path) -> None:
    with demo_host([guild(tmp_path, "Missing", "Absent")]) as host:
        refused(host, 3, "no agent came up", "guild_agents.Missing", "guild_agents.Absent")


def test_an_init_that_raises_ends_the_host_when_no_other_agent_comes_up(tmp_path: Path) -> None:
    with demo_host([guild(tmp_path, "BrokenInit")]) as host:
        refused(host, 3, "no agent came up: BrokenInit: boot_failed: ", "no disk of that name")


def test_an_init_that_raises_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    with demo_host([guild(tmp_path, "Good", "BrokenInit")]) as host:
        host.start()
        assert "degraded" in host.notify.received[-1].fields["STATUS"]
        status = host.status()["guilds"][0]
        assert status["status"] == "degraded"
        assert status["agents"][0]["status"] == "running"
        assert status["agents"][1]["restarts"] >= 3
        (tmp_path / "mended").touch()
        wait_agents(host, lambda now: now["BrokenInit"]["status"] == "running")
        assert host.status()["guilds"][0]["status"] == "running"


def test_an_init_that_raises_is_said_and_tried_again(tmp_path: Path) -> None:
    with demo_host([guild(tmp_path, "Good", "BrokenInit")]) as host:
        host.start(ready=False)
        host.wait_for_line("BrokenInit.__init__ raised OSError: no disk of that name")
        found = wait_agents(host, lambda now: now["BrokenInit"]["restarts"] > 0)
        assert found["Good"]["status"] == "running"
        assert "boot_failed" in found["BrokenInit"]["reason"]
        assert "no disk of that name" in found["BrokenInit"]["reason"]
        (tmp_path / "mended").touch()
        host.wait_ready()
        assert agents(host)["BrokenInit"]["status"] == "running"


def test_a_host_whose_agent_cannot_boot_can_be_stopped(tmp_path: Path) -> None:
    with demo_host([guild(tmp_path, "BrokenInit")]) as host:
        host.start(ready=False)
        assert log_field(host, "agent_ended", "reason") == "boot_failed"
        assert host.stop() == 0


# ---- Redis ---------------------------------------------------------------------------------------------------------


def test_no_redis_at_the_url(tmp_path: Path) -> None:
    nobody = f"redis://127.0.0.1:{free_port()}"
    refused_with(69, nobody, "cannot be reached", options=["--redis", nobody])
    refused_with(69, "cannot be reached", RUSTIC_HOST_REDIS_URL=f"unix://{tmp_path}/nobody")


def test_a_wrong_password_is_not_repeated_to_anybody(tmp_path: Path) -> None:
    with closed_redis(tmp_path) as server:
        for url in (f"unix://:wr0ng-secret@{server.socket}", f"unix://{server.socket}?password=wr0ng-secret"):
            said = refused_with(69, "refuses us", str(server.socket), RUSTIC_HOST_REDIS_URL=url)
            assert "wr0ng-secret" not in said


def test_a_missing_password(tmp_path: Path) -> None:
    with closed_redis(tmp_path) as server:
        refused_with(69, "uthentication required", RUSTIC_HOST_REDIS_URL=server.url)


def test_the_right_password_is_nowhere_to_be_seen(tmp_path: Path) -> None:
    with closed_redis(tmp_path) as server:
        url = f"unix://:{PASSWORD}@{server.socket}"
        with demo_host(RUSTIC_HOST_REDIS_URL=url, RUSTIC_HOST_LOG_LEVEL="DEBUG") as host:
            host.start()
            status = host.cli("status", "--json").stdout
            host.kill_agent("Reporter")
            wait_agents(host, lambda now: now["Reporter"]["restarts"] == 1 and now["Reporter"]["status"] == "running")
            commands = [process.cmdline() for process in host.left_processes()]
            said = host.process.output
        assert str(server.socket) in status
        assert PASSWORD not in said + status + json.dumps(commands)


def test_a_server_that_evicts(tmp_path: Path) -> None:
    with redis_server(tmp_path, binary=valkey_binary(), extra=["--maxmemory-policy", "allkeys-lru"]) as server:
        refused_with(69, "allkeys-lru", "CONFIG SET maxmemory-policy noeviction", options=["--redis", server.url])


def test_an_url_that_is_none() -> None:
    refused_with(78, "redis", "--redis", options=["--redis", "nonsense"])
    assert "hunter2" not in refused_with(78, RUSTIC_HOST_REDIS_URL="rediss//:hunter2@there")


# ---- specs ---------------------------------------------------------------------------------------------------------

TEN_MISTAKES = """\
id: "a:b"
name: ""
colour: blue
agents:
  - id: one
    name: One
    description: The first.
    class_name: 7
  - id: one
    name: Two
    description: The second.
    class_nam: guild_agents.Good
    listen_to_default_topic: perhaps
  - name: Three
    description: The third.
    class_name: guild_agents.Good
    additional_topics: news
routes:
  steps:
    - agent: {name: Nobody}
      destination: {topics: out, priority: 9}
    - agent: {name: One}
      transformer: {style: simple, expression: "{("}
    - agent: {name: One}
      route_times: many
"""


def test_ten_mistakes_are_ten_rows(tmp_path: Path) -> None:
    spec = tmp_path / "wrong.yaml"
    spec.write_text(TEN_MISTAKES)
    with demo_host([spec]) as host:
        said = refused(host, 65)
        rows = [row for row in said.splitlines() if f"{spec}:" in row and ": error: " in row]
        assert len(rows) >= 10, said
        lines = [int(row.partition(f"{spec}:")[2].split(":")[0]) for row in rows]
        assert lines == sorted(lines)


def test_a_spec_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    with demo_host([SPEC, missing]) as host:
        refused(host, 66, str(missing))


def test_two_specs_with_one_guild_id(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twins = [guild(tmp_path, "Good"), guild(tmp_path / "other", "Good")]
    with demo_host(twins) as host:
        refused(host, 78, "'g1'", "each must have one of its own")


# ---- sockets, ports, folders, settings -----------------------------------------------------------------------------


def test_a_second_host_on_the_same_socket(tmp_path: Path) -> None:
    spec = guild(tmp_path, "Good")
    with demo_host([spec]) as first, demo_host([spec]) as second:
        first.start()
        second.socket = first.socket
        refused(second, 75, f"pid {first.pid}", str(first.socket), "rustic-host stop")
        assert first.status()["host"]["pid"] == first.pid


def test_a_second_host_on_the_same_data(tmp_path: Path) -> None:
    spec = guild(tmp_path, "Good")
    with demo_host([spec]) as first, demo_host([spec]) as second:
        first.start()
        second.env["XDG_STATE_HOME"] = first.env["XDG_STATE_HOME"]
        refused(second, 75, f"pid {first.pid}", "--state-dir")
        first.cli("send", "g1", "default_topic", '{"n": 1}')
        assert messages(first, "g1", "out", count=1)[0]["payload"] == {"n": 1}


def test_a_dead_hosts_socket_is_taken_over(tmp_path: Path) -> None:
    with demo_host([guild(tmp_path, "Good")]) as host:
        host.socket.parent.mkdir()
        with closing(socket.socket(socket.AF_UNIX)) as dead:
            dead.bind(str(host.socket))
        host.start()
        assert host.status()["host"]["pid"] == host.pid


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    with demo_host([guild(tmp_path, "Good")]) as host:
        host.socket = tmp_path / "diary.txt"
        host.socket.write_text("dear diary")
        refused(host, 73, str(host.socket), "no socket", "--socket")
        assert host.socket.read_text() == "dear diary"


def test_a_socket_path_that_is_too_long() -> None:
    with demo_host() as host:
        host.socket = host.folder / ("x" * 120)
        refused(host, 78, "107", "--socket")
        assert host.cli("status", check=False).returncode == 78


def test_a_folder_of_the_socket_that_cannot_be_made() -> None:
    with demo_host() as host:
        (host.folder / "file").touch()
        host.socket = host.folder / "file" / "control.sock"
        refused(host, 73, str(host.socket), "--socket")


def test_a_metrics_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused_with(73, f"metrics port {port}", "in use", "--metrics-port", options=["--metrics-port", port])


def test_a_state_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        refused_with(73, str(folder), "--state-dir", options=["--state-dir", str(folder)])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUSTIC_HOST_STOP_GRACE_SECONDS", "soon"),
        ("RUSTIC_HOST_STOP_GRACE_SECONDS", "inf"),
        ("RUSTIC_HOST_METRICS_PORT", "99999"),
        ("RUSTIC_HOST_LOG_LEVEL", "LOUD"),
        ("RUSTIC_HOST_DURABILITY", "maybe"),
    ],
)
def test_a_wrong_setting_in_the_environment(name: str, value: str) -> None:
    options: dict[str, Any] = {name: value}
    with HostProcess([SPEC], env=options) as host:
        refused(host, 78, name)
