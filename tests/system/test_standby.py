"""Two hosts started on one guild: one runs it, the other stands by and takes over; nothing is lost, nothing doubled."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from rustic_host.agents.guild_manager_agent import manager_spec
from rustic_host.cli.client import HostClient
from rustic_host.execution.exit_codes import WorkerExit
from rustic_host.messaging import RedisBackendConfig
from rustic_host.messaging.redis.consumer import Consumer
from tests.system.demo import (
    GUILD,
    SAMPLE,
    SPEC,
    agents,
    demo_host,
    feed_until_busy,
    frozen,
    grep_counts,
    line_count,
    log_field,
    metric,
    metrics,
    package_counts,
    report,
    send_lines,
    times,
    wait_restarted,
)
from tests.system.host import HostProcess
from tests.system.need import valkey_binary
from tests.system.servers import RedisServer, redis_server
from tests.system.test_guild_service import agent, ask, guild
from tests.system.waiting import until

SLOW_MACHINE = 5
TAKE_OVER_SECONDS, HAND_OVER_SECONDS = 15, 3
"""What is promised; a machine that runs other tests too may take :data:`SLOW_MACHINE` times as long."""

SHORT_LEASE, DEFAULT_LEASE = "1.5", "8"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, binary=valkey_binary()) as started:
        yield started


def leased_host(server: RedisServer, specs: Sequence[Path], lease_seconds: str = SHORT_LEASE) -> HostProcess:
    return demo_host(specs, RUSTIC_HOST_REDIS_URL=server.url, RUSTIC_HOST_LEASE_SECONDS=lease_seconds)


@contextmanager
def two_hosts(server: RedisServer, lease_seconds: str = SHORT_LEASE) -> Iterator[tuple[HostProcess, HostProcess]]:
    """The one that runs the demo guild, and the one that stands by."""
    with ExitStack() as stack:
        owner, standby = (stack.enter_context(leased_host(server, [SPEC], lease_seconds)) for _ in range(2))
        owner.start()
        standby.start()
        yield owner, standby


def guild_status(host: HostProcess) -> tuple[str, str | None]:
    (guild,) = HostClient(host.socket).status()["guilds"]
    return guild["status"], guild["standby_of"]


def wait_runs(host: HostProcess, bound: float) -> float:
    """Wait until a host runs the guild; returns the seconds it took."""
    began = time.monotonic()
    until(lambda: guild_status(host), lambda found: found == ("running", None), bound * SLOW_MACHINE)
    return time.monotonic() - began


def assert_exact(host: HostProcess, fed: int, number: int = 1) -> None:
    found = report(host, number)
    assert found["actions"] == times(fed, grep_counts(SAMPLE))
    assert found["packages"] == times(fed, package_counts(SAMPLE))
    assert found["lines"] == fed * line_count(SAMPLE)


def assert_handled_as_without_faults(host: HostProcess, fed: int) -> None:
    """The exact counts, too, are those of a run in which nothing happened: each message once for each who reads it."""
    found = metrics(host)
    published = {dict(labels)["topic"]: n for labels, n in found["rustic_messages_published_total"].items()}
    assert published["lines"] == fed * line_count(SAMPLE) + 1
    rows = [(dict(labels), n) for labels, n in found["rustic_messages_processed_total"].items()]
    ours = [(row, n) for row, n in rows if row["agent"] in agents(host)]
    assert {row["outcome"] for row, _ in ours} <= {"ok", "unhandled"}
    assert [(row, n) for row, n in ours if n != published[row["topic"]]] == [], rows


def family(host: HostProcess) -> list[psutil.Process]:
    return psutil.Process(host.pid).children(recursive=True)


def test_a_second_host_stands_by_and_takes_over_at_once_in_order(server: RedisServer) -> None:
    with two_hosts(server) as (owner, standby):
        said = standby.wait_for_line(f"guild {GUILD} is run by host", f"(pid {owner.pid}); standing by")
        assert "ready (pid" not in standby.process.output  # no agent of its own
        assert guild_status(owner) == ("running", None)
        status, of = guild_status(standby)
        assert (status, of is not None and f"(pid {owner.pid})" in of) == ("standby", True)
        assert f"standby of host {of}" in standby.cli("status").stdout
        assert {agent["status"] for agent in agents(standby).values()} == {"standby"}
        assert family(standby) == []
        told = [each.fields.get("STATUS", "") for each in standby.notify.received]
        assert f"standing by for guild {GUILD}" in told[-1], said
        assert metric(standby, "rustic_guild_standby", "guild") == {GUILD: 1}
        assert metric(owner, "rustic_guild_standby", "guild") == {GUILD: 0}
        assert metric(standby, "rustic_messages_published_total", "topic") == {}
        send_lines(standby)  # send and tail are only Redis
        assert report(standby)["lines"] == line_count(SAMPLE)
        assert owner.stop() == 0
        wait_runs(standby, HAND_OVER_SECONDS)
        standby.notify.wait_for("STATUS", "all agents ready")
        send_lines(standby)
        assert_exact(standby, 2, number=2)


def test_a_host_killed_with_its_workers_on_the_same_machine(server: RedisServer) -> None:
    with two_hosts(server, "300") as (owner, standby):  # its end is seen, whatever the lease
        fed = feed_until_busy(owner, "State Counter")
        os.killpg(owner.pid, signal.SIGKILL)
        owner.kill9()
        wait_runs(standby, TAKE_OVER_SECONDS)
        assert_exact(standby, fed)
        assert_handled_as_without_faults(standby, fed)


def stop_all(host: HostProcess) -> list[psutil.Process]:
    """SIGSTOP a host and all that descends from it."""
    stopped = [psutil.Process(host.pid), *family(host)]
    for process in stopped:
        process.suspend()
    return stopped


def zombies_change_nothing(server: RedisServer, lease_seconds: str) -> float:
    """A host and its workers are stopped in the middle of their work, replaced, and woken; returns the take-over."""
    with two_hosts(server, lease_seconds) as (owner, standby):
        workers = {agent["pid"] for agent in agents(owner).values()}
        fed = feed_until_busy(owner, "State Counter")
        stopped = stop_all(owner)
        took = wait_runs(standby, TAKE_OVER_SECONDS)
        fed += 1
        send_lines(standby)
        for process in reversed(stopped):  # the host last: its workers wake, and believe that all is as it was
            process.resume()
        until(lambda: guild_status(owner)[0], lambda status: status == "standby", TAKE_OVER_SECONDS * SLOW_MACHINE)
        assert [process for process in family(owner) if process.pid in workers] == []
        assert_exact(standby, fed)
        assert_handled_as_without_faults(standby, fed)
        assert {agent["restarts"] for agent in agents(standby).values()} == {0}
        standby.stop()
        wait_runs(owner, HAND_OVER_SECONDS)
        assert_exact(owner, fed, number=2)
        return took


def test_a_host_that_was_stopped_replaced_and_woken_changes_nothing(server: RedisServer) -> None:
    zombies_change_nothing(server, SHORT_LEASE)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("flavour", ["redis-server", "valkey"])
def test_with_the_lease_as_it_is_by_default(tmp_path: Path, flavour: str) -> None:
    binary = valkey_binary() if flavour == "valkey" else flavour
    with redis_server(tmp_path, binary=binary) as server:
        took = zombies_change_nothing(server, DEFAULT_LEASE)
    print(f"taken over after {took:.1f} s")
    assert float(DEFAULT_LEASE) / 2 < took < TAKE_OVER_SECONDS * SLOW_MACHINE


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_server_that_was_away_for_longer_than_the_lease(server: RedisServer) -> None:
    """Nobody runs the guild then but who did before; who asks first when it is back runs it, and the other does not."""
    with two_hosts(server) as (owner, standby):
        fed = feed_until_busy(owner, "State Counter")
        workers = family(owner)
        server.kill9()
        for host in (owner, standby):
            host.wait_for_line('"event": "host_lease_not_renewed"')
        _, waiting = psutil.wait_procs(workers, timeout=2 * float(SHORT_LEASE))
        assert len(waiting) == len(workers)
        assert (guild_status(owner)[0], guild_status(standby)[0]) == ("running", "standby")
        server.start()
        statuses = until(
            lambda: sorted(guild_status(host)[0] for host in (owner, standby)),
            lambda found: found == ["running", "standby"],
            TAKE_OVER_SECONDS * SLOW_MACHINE,
        )
        assert statuses == ["running", "standby"]
        assert_exact(owner, fed)
        first, second = (owner, standby) if guild_status(owner)[0] == "running" else (standby, owner)
        assert_handled_as_without_faults(first, fed)
        first.stop()
        wait_runs(second, HAND_OVER_SECONDS)
        assert_exact(second, fed, number=2)


def test_a_worker_that_was_stopped_replaced_and_woken_ends_with_its_own_code(server: RedisServer) -> None:
    """By somebody who is no host: the guild is still this one's, so it takes its agents back."""
    config = RedisBackendConfig(url=server.url)
    with leased_host(server, [SPEC]) as host:
        host.start()
        fed = feed_until_busy(host, "State Counter")
        before = agents(host)["State Counter"]
        with frozen(before["pid"]):
            replace_reader(config, f"{GUILD}${before['id']}", "states")
        replace_reader(config, f"{GUILD}${manager_spec(GUILD).id}", "system_topic")
        assert log_field(host, "agent_ended", "exit_code") == WorkerExit.OWNERSHIP_LOST
        assert log_field(host, "agent_ended", "reason") == "ownership_lost"
        assert wait_restarted(host, "State Counter")["State Counter"]["pid"] != before["pid"]
        ask_again = host.process.line_count()
        host.wait_for_line('"event": "guild_manager_taken_over"')
        if host.process.output.count('"event": "guild_manager_ready"') < 2:
            host.process.wait_for_line('"event": "guild_manager_ready"', after=ask_again)
        assert guild_status(host) == ("running", None)
        assert_exact(host, fed)
        assert_handled_as_without_faults(host, fed)


def replace_reader(config: RedisBackendConfig, client_id: str, topic: str) -> None:
    """Own a client for a moment, as a process that was started twice does."""
    consumer = Consumer(config, GUILD, client_id)
    consumer.open([topic])
    consumer.close()


def test_a_guild_that_was_asked_to_end_is_taken_over_by_nobody(server: RedisServer, tmp_path: Path) -> None:
    ending, other = guild(tmp_path, agent("Echo")), guild(tmp_path, agent("Echo"), guild_id="g2")
    with leased_host(server, [ending]) as owner, leased_host(server, [ending, other]) as standby:
        owner.start()
        standby.start()
        assert {row["id"]: row["status"] for row in standby.status()["guilds"]} == {"g1": "standby", "g2": "running"}
        ask(standby, "StopGuildRequest", {"guild_id": "g1"})
        assert owner.process.wait(30) == 0
        standby.wait_for_line("guild g1 stopped")
        assert {row["id"]: row["status"] for row in standby.status()["guilds"]} == {"g1": "stopped", "g2": "running"}
        assert family(standby) != []
        owner.start()  # who starts it anew means it
        assert guild_status(owner) == ("running", None)
