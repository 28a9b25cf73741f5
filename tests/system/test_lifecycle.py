"""How a host comes up, is told to go, and goes: under systemd's protocol, supervisord, a terminal."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rustic_host.cli.client import HostClient
from rustic_host.errors import HostNotFoundError
from tests.system.demo import SPEC, agents, demo_host, written_guild
from tests.system.operator_files import supervisor_program
from tests.system.servers import supervisord
from tests.system.waiting import until

SLOW = """
class Quick(Agent):
    pass

class Slow(Agent):
    def __init__(self) -> None:
        with open(HERE / "gate"):  # a FIFO: waits for somebody who writes
            pass
"""


@pytest.fixture
def gated(tmp_path: Path) -> Path:
    """A guild whose second agent is built only when somebody opens ``gate`` to write."""
    os.mkfifo(tmp_path / "gate")
    rows = [
        {"id": name, "name": name, "description": "-", "class_name": f"guild_agents.{name}"}
        for name in ("Quick", "Slow")
    ]
    return written_guild(tmp_path, {"id": "g", "name": "G", "description": "-", "agents": rows}, SLOW)


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path: sockets hold 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="home-", dir="/tmp") as folder:
        yield Path(folder)


def test_ready_is_said_when_every_agent_is(gated: Path) -> None:
    with demo_host([gated]) as host:
        host.start(ready=False)
        host.wait_for_line("agent Quick ready")
        (guild,) = host.status()["guilds"]
        assert guild["status"] == "starting"
        assert [agent["status"] for agent in guild["agents"]] == ["running", "starting"]
        with pytest.raises(TimeoutError):
            host.notify.wait_for("READY", "1", 0.2)
        (gated.parent / "gate").write_text("")
        ready = host.notify.wait_for("READY", "1", pid=host.pid)
        assert ready.pid == host.pid  # systemd takes no word of other processes
        assert agents(host)["Slow"]["status"] == "running"
        assert "agent Slow ready" in host.process.output
        host.process.popen.send_signal(signal.SIGTERM)
        assert host.notify.wait_for("STOPPING", "1", pid=host.pid).pid == host.pid
        assert host.process.wait() == 0


def test_a_host_can_be_stopped_while_it_comes_up(gated: Path) -> None:
    with demo_host([gated], RUSTIC_HOST_STOP_GRACE_SECONDS="0.5") as host:
        host.start(ready=False)
        host.wait_for_line("agent Quick ready")
        assert host.stop() == 0
        assert not any("READY" in each.fields for each in host.notify.received)


def test_workers_do_not_speak_for_the_host() -> None:
    with demo_host() as host:
        host.start()
        workers = [psutil.Process(agent["pid"]) for agent in agents(host).values()]
        assert [worker.pid for worker in workers if "NOTIFY_SOCKET" in _environ_of_python(worker)] == []
        assert host.stop() == 0
        assert {each.pid for each in host.notify.received} == {host.pid}


def test_ctrl_c_stops_in_order() -> None:
    with demo_host() as host:
        host.start()
        os.killpg(host.pid, signal.SIGINT)  # what a terminal does to its foreground process group
        assert host.process.wait() == 0
        host.notify.wait_for("STOPPING", "1")
        output = host.process.output
        assert "Traceback" not in output
        assert "agent_ended" not in output  # no worker died of it
        assert host.left_processes() == []


def test_a_terminal_that_is_closed_stops_in_order() -> None:
    with demo_host() as host:
        host.start()
        host.process.popen.send_signal(signal.SIGHUP)
        assert host.process.wait() == 0
        assert host.left_processes() == []
        assert host.left_files() == []


def test_nohup_outlives_the_terminal() -> None:
    with demo_host() as host:
        host.command = ["nohup", *host.command]
        host.start()
        host.process.popen.send_signal(signal.SIGHUP)
        assert host.status()["guilds"][0]["status"] == "running"
        assert host.stop() == 0


@pytest.mark.parametrize("output", [">/dev/full", ">&-"])
def test_nobody_needs_to_read_what_a_host_says(output: str) -> None:
    with demo_host() as host:
        shown, host.command = host.command, ["sh", "-c", f'exec "$@" {output}', "sh", *host.command]
        host.start()
        host.command = shown
        assert host.status()["guilds"][0]["status"] == "running"
        assert host.stop() == 0
        assert "Traceback" not in host.process.output


def test_two_signals_are_no_more_than_one() -> None:
    with demo_host() as host:
        host.start()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            host.process.popen.send_signal(number)
        assert host.process.wait() == 0
        assert "Traceback" not in host.process.output


def test_stop_ends_tails() -> None:
    with demo_host() as host:
        host.start()
        with host.client("tail", "log-triage") as tail:
            until(lambda: HostClient(host.socket).status()["guilds"][0]["subscriptions"], lambda found: "*" in found)
            host.cli("stop")
            assert tail.wait() == 69
            assert "ended the stream" in tail.output


def test_supervisord_starts_and_stops_the_host(tmp_path: Path, home: Path) -> None:
    command = str(Path(sys.executable).parent / "rustic-host")
    with supervisord(tmp_path, supervisor_program(command, SPEC, home)) as server:
        server.process.wait_for_line("rustic-host", "entered RUNNING state")
        pid = int(server.ctl("pid", "rustic-host"))
        status = until(
            lambda: _status_at(home / "run" / "control.sock"),
            lambda now: now is not None and [guild["status"] for guild in now["guilds"]] == ["running"],
        )
        assert status is not None
        assert status["host"]["pid"] == pid
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        assert len(family) == 1 + 1 + 1 + 5  # host, server, zygote, workers
        assert "stopped" in server.ctl("stop", "rustic-host")
        server.process.wait_for_line("stopped: rustic-host", "exit status 0")
        assert "STOPPED" in server.ctl("status", "rustic-host")
        assert psutil.wait_procs(family, 5)[1] == []
        assert [path for path in (home / "run").rglob("*") if not path.is_dir()] == []


def _status_at(control: Path) -> dict[str, Any] | None:
    """None while nobody listens."""
    try:
        return HostClient(control).status()
    except HostNotFoundError:
        return None


def _environ_of_python(process: psutil.Process) -> dict[str, str]:
    """The environment as it was when the process's program began: that of the zygote."""
    return process.environ()
