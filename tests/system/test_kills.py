"""Anything may be killed at any moment: all comes back, and the counts are still those of grep."""

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rustic_host.cli.client import HostClient
from tests.system.demo import (
    GUILD,
    SAMPLE,
    Agents,
    agents,
    ask_report,
    demo_host,
    feed_until_busy,
    frozen,
    grep_counts,
    line_count,
    log_field,
    metric,
    package_counts,
    report,
    send_lines,
    times,
    wait_agents,
    wait_report,
    wait_restarted,
    written_guild,
)
from tests.system.host import HostProcess
from tests.system.need import valkey_binary
from tests.system.servers import redis_server

STEADY_SECONDS = 30
STATUS_SECONDS = 1.5  # of which it waits one for a server that is not known to be away
AWAY_STOP_SECONDS = 25  # four of them are waits for the server: slots of ids, the guild's lease


@pytest.fixture
def demo() -> Iterator[HostProcess]:
    with demo_host() as host:
        yield host.start()


def assert_exact(host: HostProcess, fed: int) -> None:
    found = report(host)
    assert found["actions"] == times(fed, grep_counts(SAMPLE))
    assert found["packages"] == times(fed, package_counts(SAMPLE))
    assert found["lines"] == fed * line_count(SAMPLE)


def assert_all_run(found: Agents) -> None:
    assert {agent["status"] for agent in found.values()} == {"running"}


def test_agents_killed_in_the_middle_of_their_work(demo: HostProcess) -> None:
    victims = ["Line Parser", "Change Counter", "State Counter", "Other Counter"]
    fed = 0
    for name in victims:
        fed += feed_until_busy(demo, name)
        pid = demo.kill_agent(name)
        assert wait_restarted(demo, name)[name]["pid"] != pid
    assert_exact(demo, fed)
    assert metric(demo, "rustic_agent_restarts_total", "agent") == {**dict.fromkeys(victims, 1), "Reporter": 0}


def test_the_reporter_killed_with_half_a_report(demo: HostProcess) -> None:
    send_lines(demo)
    running = agents(demo)
    with frozen(running["Other Counter"]["pid"]):
        ask_report(demo)
        wait_agents(demo, lambda found: found["Reporter"]["handled"] == running["Reporter"]["handled"] + 2)
        demo.kill_agent("Reporter")
        wait_restarted(demo, "Reporter")
    assert wait_report(demo)["actions"] == grep_counts(SAMPLE)


def test_the_host_killed_and_started_again(demo: HostProcess) -> None:
    server = log_field(demo, "embedded_server_started", "pid")
    dying = [psutil.Process(log_field(demo, "zygote_ready", "pid"))]
    dying += [psutil.Process(agent["pid"]) for agent in agents(demo).values()]
    fed = feed_until_busy(demo, "Line Parser")
    demo.kill9()
    _, orphans = psutil.wait_procs(dying, 10)
    assert orphans == []
    assert [process.pid for process in demo.left_processes()] == [server]
    demo.start()
    assert log_field(demo, "embedded_server_adopted", "pid") == server
    assert_exact(demo, fed)
    assert demo.stop() == 0
    assert demo.left_processes() == []  # the adopted server too


def test_the_zygote_killed(demo: HostProcess) -> None:
    fed = feed_until_busy(demo, "State Counter")
    os.kill(log_field(demo, "zygote_ready", "pid"), signal.SIGKILL)
    wait_restarted(demo, *agents(demo))
    assert_exact(demo, fed)


def test_the_server_killed_while_lines_are_sent(demo: HostProcess) -> None:
    server = log_field(demo, "embedded_server_started", "pid")
    with demo.client("send", GUILD, "lines", "--lines", str(SAMPLE)) as sending:
        wait_agents(demo, lambda found: found["State Counter"]["handled"] > 100)
        said = demo.process.line_count()
        os.kill(server, signal.SIGKILL)
        assert sending.wait() == 0, sending.output
    demo.process.wait_for_line('"event": "embedded_server_started"', after=said)
    assert_exact(demo, 1)
    found = agents(demo)
    assert_all_run(found)
    assert [agent["restarts"] for agent in found.values()] == [0] * len(found)


def test_a_worker_told_to_leave_by_a_stranger(demo: HostProcess) -> None:
    fed = feed_until_busy(demo, "State Counter")
    os.kill(agents(demo)["State Counter"]["pid"], signal.SIGTERM)
    wait_restarted(demo, "State Counter")
    assert log_field(demo, "agent_ended", "exit_code") == 0
    assert log_field(demo, "agent_ended", "reason") == "exited_unasked"
    assert_exact(demo, fed)


def test_somebody_elses_server_killed_and_back(tmp_path: Path) -> None:
    with redis_server(tmp_path, binary=valkey_binary()) as server, demo_host(RUSTIC_HOST_REDIS_URL=server.url) as host:
        host.start()
        fed = feed_until_busy(host, "State Counter")
        host.cli("send", GUILD, "elsewhere", '{"begun": 1}')
        follow = ("tail", GUILD, "elsewhere", "--from", "start")
        with host.client(*follow) as tail, host.client(*follow, "--no-wait") as hasty:
            tail.wait_for_line('{"begun":1}')
            hasty.wait_for_line('{"begun":1}')
            server.kill9()
            found = wait_agents(host, lambda found: {agent["status"] for agent in found.values()} == {"waiting"})
            assert {(agent["handled"], agent["lag"]) for agent in found.values()} == {(None, None)}  # nobody knows
            shown = host.cli("status").stdout
            assert re.search(rf"guild {GUILD}.*: waiting\nbus: {server.url} away since [0-9:]{{8}} \(.+\)\n", shown)
            assert "State Counter: waits for the bus: " in shown
            assert metric(host, "rustic_bus_up", "guild") == {GUILD: 0}
            assert metric(host, "rustic_agent_up", "agent") == dict.fromkeys(found, 1)
            assert hasty.wait() == 69
            host.kill_agent("Other Counter")
            wait_agents(host, lambda found: "bus_away" in (found["Other Counter"]["reason"] or ""))
            with host.client("send", GUILD, "elsewhere", '{"n": 1}') as sending:
                server.start()
                assert sending.wait() == 0, sending.output  # it has waited
            wait_agents(host, lambda found: {agent["status"] for agent in found.values()} == {"running"})
            assert_exact(host, fed)
            tail.wait_for_line("rustic-host: ", "the bus is away, waiting for it")
            tail.wait_for_line("rustic-host: ", "the bus is back")
            tail.wait_for_line('{"n":1}')
        assert metric(host, "rustic_bus_up", "guild") == {GUILD: 1}
        restarts = {name: agent["restarts"] for name, agent in agents(host).items()}
        assert restarts.pop("Other Counter") > 0
        assert set(restarts.values()) == {0}
        said = Counter(line.partition('"event": "')[2].partition('"')[0] for line in host.process.output.splitlines())
        assert said["bus_away"] == said["bus_back"] == 1
        assert said["bus_lost"] <= 2 * (len(found) + 4)  # each connection once, and not each attempt


def test_status_answers_though_the_server_does_not(tmp_path: Path) -> None:
    with redis_server(tmp_path, binary=valkey_binary()) as server, demo_host(RUSTIC_HOST_REDIS_URL=server.url) as host:
        host.start()
        with frozen(server.process.pid):
            for _ in range(2):
                began = time.monotonic()
                (guild,) = HostClient(host.socket).status()["guilds"]
                assert time.monotonic() - began < 5 * STATUS_SECONDS
                assert guild["bus"]["away_since"]
                assert "no answer" in guild["bus"]["reason"]
        wait_agents(host, lambda _: HostClient(host.socket).status()["guilds"][0]["bus"]["away_since"] is None)


def test_a_host_whose_server_is_away_stops_quickly(tmp_path: Path) -> None:
    with redis_server(tmp_path, binary=valkey_binary()) as server, demo_host(RUSTIC_HOST_REDIS_URL=server.url) as host:
        host.start()
        host.cli("send", GUILD, "reports", '{"begun": 1}')
        with host.client("tail", GUILD, "reports", "--from", "start") as tail:
            tail.wait_for_line('{"begun":1}')
            server.kill9()
            tail.wait_for_line("the bus is away")
            assert host.stop(timeout=AWAY_STOP_SECONDS) == 0
            assert tail.wait() == 69
            assert "Traceback" not in tail.output
        assert "Traceback" not in host.process.output


# ---- agents that end by themselves --------------------------------------------------------------------------------

ENDINGS = """
def first_time():
    try:
        (HERE / "ended").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

class Ender(Agent):
    @processor(JsonDict)
    def work(self, ctx: ProcessContext[JsonDict]) -> None:
        ctx.send_dict({"n": ctx.payload["n"]})
        if ctx.payload["n"] == 2 and first_time():
            ENDING
"""


def ender(folder: Path, ending: str, **fields: Any) -> Path:
    agent = {"id": "e", "name": "Ender", "description": "-", "class_name": "guild_agents.Ender", **fields}
    route = {"agent": {"name": "Ender"}, "destination": {"topics": "out"}}
    spec = {"id": "endings", "name": "Endings", "description": "-", "agents": [agent], "routes": {"steps": [route]}}
    return written_guild(folder, spec, ENDINGS.replace("ENDING", ending))


def send_numbers(host: HostProcess, *numbers: int) -> None:
    lines = "".join(f'{{"n": {number}}}\n' for number in numbers)
    host.cli("send", "endings", "default_topic", "--file", "-", stdin=lines)


def numbers_out(host: HostProcess) -> list[int]:
    """All that is on ``out`` when a last message has come through."""
    send_numbers(host, 99)
    with host.client("tail", "endings", "out", "--json", "--from", "start") as tail:
        tail.wait_for_line('"payload":{"n":99}')
        rows = [line.partition('"payload":{"n":')[2].partition("}")[0] for line in tail.output.splitlines()]
    return [int(row) for row in rows if row]


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("os._exit(0)", "exited_unasked"),
        ("os._exit(7)", "crashed_with_exit_code_7"),
        ("os._exit(4)", "crashed_with_exit_code_4"),  # what the runtime itself ends with when loading failed
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed_by_signal_11"),
    ],
)
def test_an_agent_that_ends_its_process_loses_and_doubles_nothing(tmp_path: Path, ending: str, reason: str) -> None:
    with demo_host([ender(tmp_path, ending)]) as host:
        host.start()
        send_numbers(host, 1, 2, 3)
        wait_restarted(host, "Ender")
        assert log_field(host, "agent_ended", "reason") == reason
        assert numbers_out(host) == [1, 2, 3, 99]


def test_an_agent_that_raises_goes_on(tmp_path: Path) -> None:
    with demo_host([ender(tmp_path, "raise RuntimeError('not today')", qos={"retry_count": 0})]) as host:
        host.start()
        send_numbers(host, 1, 2, 3)
        assert 3 in numbers_out(host)
        assert agents(host)["Ender"]["restarts"] == 0
        assert "not today" in host.cli("tail", "endings", "error_topic", "--from", "start", "--count", "1").stdout
        assert metric(host, "rustic_messages_processed_total", "outcome")["error"] == 1


def test_an_agent_that_hangs_at_stop_is_killed_after_the_grace_and_its_message_is_kept(tmp_path: Path) -> None:
    hang = "(HERE / 'hangs').touch(); threading.Event().wait()"
    with demo_host([ender(tmp_path, hang)], RUSTIC_HOST_STOP_GRACE_SECONDS="0.3") as host:
        host.start()
        send_numbers(host, 1, 2, 3)
        wait_agents(host, lambda _: (tmp_path / "hangs").exists())
        assert host.stop(timeout=STEADY_SECONDS) == 0
        assert log_field(host, "worker_killed_after_grace", "agent") == "Ender"
        assert host.left_processes() == []
        host.start()
        assert numbers_out(host) == [1, 2, 3, 99]


def test_what_an_agent_started_goes_with_it(tmp_path: Path) -> None:
    start_child = (
        "import subprocess; child = subprocess.Popen(['sleep', '1000']);"
        " (HERE / 'child').write_text(str(child.pid)); (HERE / 'written').touch(); threading.Event().wait()"
    )
    with demo_host([ender(tmp_path, start_child)]) as host:
        host.start()
        send_numbers(host, 2)
        wait_agents(host, lambda _: (tmp_path / "written").exists())
        child = psutil.Process(int((tmp_path / "child").read_text()))
        host.kill_agent("Ender")
        wait_restarted(host, "Ender")
        assert psutil.wait_procs([child], 10)[1] == []
