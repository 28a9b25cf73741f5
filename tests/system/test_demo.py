"""The demo on real input: what it counts is what grep counts, and when it stops nothing is left."""

import fcntl
import os
import signal
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from rustic_host.cli.client import HostClient
from tests.system.demo import (
    GUILD,
    LIFECYCLE,
    SAMPLE,
    agents,
    demo_host,
    grep_counts,
    line_count,
    package_counts,
    report,
    send_lines,
    times,
    wait_agents,
)
from tests.system.host import HostProcess
from tests.system.process import LoggedProcess

AGENTS = ["Line Parser", "Change Counter", "State Counter", "Other Counter", "Reporter"]


def test_the_whole_sample_is_counted_as_grep_counts_it() -> None:
    with demo_host() as host:
        host.start()
        assert send_lines(host) == f"{line_count(SAMPLE)} messages sent\n"
        found = report(host)
        assert found["actions"] == grep_counts(SAMPLE)
        assert found["packages"] == package_counts(SAMPLE)
        assert (found["lines"], found["package_count"]) == (line_count(SAMPLE), len(package_counts(SAMPLE)))


def test_counts_are_kept_across_starts() -> None:
    with demo_host() as host:
        host.start()
        send_lines(host, LIFECYCLE)
        assert report(host)["actions"] == grep_counts(LIFECYCLE)
        assert host.stop() == 0
        host.start()
        send_lines(host, LIFECYCLE)
        found = report(host, number=2)
        assert found["actions"] == times(2, grep_counts(LIFECYCLE))
        assert found["packages"] == times(2, package_counts(LIFECYCLE))


def test_status_tells_what_runs() -> None:
    with demo_host() as host:
        host.start()
        send_lines(host, LIFECYCLE)
        report(host)
        wait_agents(host, lambda found: all(agent["lag"] == 0 for agent in found.values()))
        status = host.status()
        assert status["host"]["pid"] == host.pid
        assert status["host"]["socket"] == str(host.socket)
        (guild,) = status["guilds"]
        assert (guild["id"], guild["status"]) == (GUILD, "running")
        assert [agent["name"] for agent in guild["agents"]] == AGENTS
        assert {topic: guild["subscriptions"][topic] for topic in ("lines", "report", "states")} == {
            "lines": 1,
            "report": 1,
            "states": 1,
        }
        for agent in guild["agents"]:
            assert agent["status"] == "running"
            assert (agent["restarts"], agent["lag"], agent["reason"]) == (0, 0, None)
            assert agent["uptime_seconds"] > 0
            assert agent["pss_bytes"] > 1 << 20
            assert _parent_of_parent(agent["pid"]) == host.pid
        parser = agents(host)["Line Parser"]
        assert parser["handled"] == line_count(LIFECYCLE) + 2  # the request for the report, and that it is ready
        assert "Line Parser" in host.cli("status").stdout


def test_stop_leaves_only_data() -> None:
    with demo_host() as host:
        host.start()
        pids = [agent["pid"] for agent in agents(host).values()]
        said = host.cli("stop").stdout
        assert said == f"the host (pid {host.pid}) has stopped\n"
        assert host.process.wait() == 0
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        assert host.left_processes() == []
        assert host.left_files() == []
        assert not [path for path in host.folder.rglob("*") if path.is_socket() or path.suffix in (".tmp", ".pid")]
        assert not _is_locked(host)
        refused = host.cli("status", check=False)
        assert (refused.returncode, refused.stdout) == (69, "")
        assert "start one with" in refused.stderr


def test_everything_of_a_host_is_for_its_owner_alone() -> None:
    with demo_host() as host:
        host.start()
        assert HostClient(host.socket).host_pid() == host.pid
        private = [host.socket, host.state / "rustic-host" / "valkey" / "valkey.sock"]
        assert [path.stat().st_mode & 0o077 for path in private] == [0, 0]
        data = [path for path in (host.state / "rustic-host").rglob("*") if path.is_file()]
        assert data
        assert [path for path in data if path.stat().st_mode & 0o077] == []


def test_the_demo_command_prints_its_report(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="demo-", dir="/tmp") as folder:
        env = {"PATH": os.environ["PATH"], "HOME": folder, "TMPDIR": folder}
        argv = [sys.executable, "-m", "rustic_host", "demo", str(LIFECYCLE)]
        with LoggedProcess(argv, log=tmp_path / "log", env=env, cwd=tmp_path) as demo:
            assert demo.wait(60) == 0, demo.output
        assert list(Path(folder).iterdir()) == []
    _, _, table = demo.output.partition("ACTION")
    rows = [line.split() for line in table.partition("PACKAGE")[0].splitlines()[1:] if line]
    assert {action: int(count) for action, count in rows} == grep_counts(LIFECYCLE)
    assert f"{line_count(LIFECYCLE)} lines, {len(package_counts(LIFECYCLE))} packages" in demo.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_ended_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with tempfile.TemporaryDirectory(prefix="demo-", dir="/tmp") as folder:  # short: sockets hold 107 bytes
        env = {"PATH": os.environ["PATH"], "HOME": folder, "TMPDIR": folder}
        argv = [sys.executable, "-m", "rustic_host", "demo"]
        with LoggedProcess(argv, log=tmp_path / "log", env=env, cwd=tmp_path) as demo:
            demo.wait_for_line("is running")
            family = psutil.Process(demo.pid).children(recursive=True)
            demo.popen.send_signal(number)
            code, (_, left) = demo.wait(), psutil.wait_procs(family, 1)
            for process in left:
                process.kill()
            assert (code, left) == (128 + number, [])
            assert "Traceback" not in demo.output
        assert len(family) == 1 + 1 + 1 + len(AGENTS)  # host, server, zygote, workers
        assert list(Path(folder).iterdir()) == []


def _is_locked(host: HostProcess) -> bool:
    with (host.state / "rustic-host" / "valkey" / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _parent_of_parent(pid: int) -> int:
    def parent(of: int) -> int:
        return int(Path(f"/proc/{of}/stat").read_text().rpartition(")")[2].split()[1])

    return parent(parent(pid))
