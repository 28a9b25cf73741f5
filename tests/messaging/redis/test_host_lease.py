"""The lease that says which host runs a guild, by the server's clock."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rustic_host.messaging import RedisBackendConfig
from rustic_host.messaging.redis import host_lease, keys
from rustic_host.messaging.redis.host_lease import ENDED_SECONDS, Holder, HostLease, is_dead, place
from tests.messaging.bus import Bus, wait_until


class Hosts:
    """Makes leases of one guild, each as a host of its own."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.made: list[HostLease] = []
        self.key = keys.PLAIN.host_key(bus.namespace)

    def one(self, seconds: float = 30) -> HostLease:
        self.made.append(HostLease(self.bus.config, self.bus.namespace, seconds))
        return self.made[-1]

    def field(self, name: str) -> bytes | None:
        value: bytes | None = self.bus.raw.hget(self.key, name)
        return value

    def left_ms(self) -> int:
        return int(self.bus.raw.pttl(self.key))


@pytest.fixture
def hosts(bus: Bus) -> Iterator[Hosts]:
    made = Hosts(bus)
    yield made
    for lease in made.made:
        lease.close()


def held_by(lease: HostLease) -> Holder:
    holder = lease.ask()
    assert holder is not None
    return holder


def test_the_first_has_it_and_the_others_learn_who(hosts: Hosts) -> None:
    first, second = hosts.one(), hosts.one(seconds=5)
    assert first.ask() is None
    holder = held_by(second)
    assert (holder.pid, holder.place, holder.ended) == (os.getpid(), place(), False)
    assert str(holder) == f"{holder.host} (pid {os.getpid()})"
    assert 0 < holder.left_seconds <= 30
    assert first.ask() is None
    assert held_by(second).token == holder.token


def test_only_its_holder_renews_it(hosts: Hosts) -> None:
    first, second = hosts.one(), hosts.one()
    first.ask()
    hosts.bus.raw.pexpire(hosts.key, 5000)
    second.ask()
    assert hosts.left_ms() <= 5000
    first.ask()
    assert 25_000 < hosts.left_ms() <= 30_000


def test_it_ends_by_itself_and_is_then_the_next_ones(hosts: Hosts) -> None:
    first, second = hosts.one(seconds=1), hosts.one()
    first.ask()
    assert 0 < hosts.left_ms() <= 1000
    wait_until(lambda: second.ask() is None)
    assert held_by(first).left_seconds > 1


def test_who_wakes_after_its_end_has_it_again_if_nobody_took_it(hosts: Hosts) -> None:
    first = hosts.one()
    first.ask()
    hosts.bus.raw.delete(hosts.key)
    assert first.ask() is None
    assert hosts.left_ms() > 0


def test_what_is_given_back_is_free_at_once_and_only_its_holder_gives_it_back(hosts: Hosts) -> None:
    first, second = hosts.one(), hosts.one()
    first.ask()
    second.release()
    assert second.ask() is not None
    first.release()
    assert second.ask() is None
    first.release(ended=True)
    assert hosts.field("ended") is None


def test_of_a_guild_that_has_ended_others_learn_that_and_who_starts_anew_takes_it(hosts: Hosts) -> None:
    first, standby, started_later = hosts.one(), hosts.one(), hosts.one()
    first.ask()
    first.release(ended=True)
    assert held_by(standby).ended
    assert ENDED_SECONDS - 10 < held_by(standby).left_seconds <= ENDED_SECONDS
    assert started_later.ask(also_ended=True) is None
    assert not held_by(standby).ended


def test_a_process_of_this_machine_that_is_gone_holds_nothing(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = hosts.one(), hosts.one()
    first.ask()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    hosts.bus.raw.hset(hosts.key, "pid", gone.pid)
    monkeypatch.setattr(host_lease, "place", lambda: "another machine")
    assert second.ask() is not None
    monkeypatch.undo()
    assert second.ask() is None
    assert held_by(first).pid == os.getpid()


def test_a_process_whose_end_nobody_has_asked_for_is_dead() -> None:
    """As a host that was killed in a container whose first process is no init."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        holder = Holder("here", process.pid, place(), "t", 1.0)
        assert not is_dead(holder)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays as it is
        assert is_dead(holder)


def test_alive_is_whatever_is_not_known_to_be_dead() -> None:
    here = Holder("h", os.getpid(), place(), "t", 1.0)
    assert not is_dead(here)
    assert not is_dead(here._replace(pid=1))  # another user's, where this runs as one
    assert not is_dead(here._replace(pid=0))
    assert not is_dead(here._replace(pid=2**22 + 1, place="elsewhere"))
    assert is_dead(here._replace(pid=2**22 + 1))  # beyond pid_max


@pytest.mark.parametrize("left_ms", [None, 3_600_000])
def test_a_clock_that_was_set_back_delays_nobody_for_longer_than_a_lease(hosts: Hosts, left_ms: int | None) -> None:
    first, second = hosts.one(), hosts.one(seconds=300)
    first.ask()
    if left_ms is None:  # half of a script, from a torn file
        hosts.bus.raw.persist(hosts.key)
    else:
        hosts.bus.raw.pexpire(hosts.key, left_ms)
    assert held_by(second).left_seconds <= 30
    assert 0 < hosts.left_ms() <= 30_000


def test_a_server_that_is_out_of_memory_still_renews(own_bus: Bus) -> None:
    lease = HostLease(own_bus.config, own_bus.namespace, 30)
    lease.ask()
    own_bus.raw.config_set("maxmemory", "1mb")
    own_bus.raw.config_set("maxmemory", "1")
    assert lease.ask() is None
    own_bus.raw.config_set("maxmemory", "0")
    lease.close()


def test_guilds_and_prefixes_have_leases_of_their_own(bus: Bus) -> None:
    config = RedisBackendConfig(url=bus.config.connection_url(), key_prefix="p:")
    leases = [
        HostLease(bus.config, bus.namespace, 30),
        HostLease(bus.config, f"{bus.namespace}x", 30),
        HostLease(config, bus.namespace, 30),
    ]
    assert [lease.ask() for lease in leases] == [None] * 3
    for lease in leases:
        lease.close()
