import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rustic_host.errors import BackendUnavailableError
from rustic_host.execution.leases import CALL_SECONDS, RETRY_SECONDS, SlotLeases
from rustic_host.messaging.redis import keys
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.slots import LEASE_SECONDS, Slot
from tests.execution.bench import Events, engine_of, guild_of, messaging_at
from tests.system.servers import RedisServer, redis_server

DOING = "sample_workers.Doing"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test may hurt."""
    with redis_server(tmp_path) as started:
        yield started


def taken(server: RedisServer, ahead_seconds: float = 0) -> int:
    """Slots that will still be leased so long from now."""
    with server.client() as redis:
        seconds, micros = redis.time()
        least = f"({int((seconds + micros / 1e6 + ahead_seconds) * 1000)}"  # a slot given back this very ms is free
        return int(redis.zcount(keys.PLAIN.slots_key(), least, "+inf"))


def shorten(server: RedisServer) -> None:
    """Make all leases end in ten seconds."""
    with server.client() as redis:
        soon = (int(redis.time()[0]) + 10) * 1000
        redis.zadd(keys.PLAIN.slots_key(), dict.fromkeys(redis.zrange(keys.PLAIN.slots_key(), 0, -1), soon))


def test_slots_are_renewed_and_given_back(own: RedisServer) -> None:
    clock = Clock()
    leases = SlotLeases(RedisBackendConfig(unix_socket_path=own.socket), clock=clock)
    first, second = leases.lease(), leases.lease()
    assert first.number != second.number
    shorten(own)
    leases.do_what_is_due()
    assert taken(own, LEASE_SECONDS - 20) == 0
    clock.now = leases.due
    leases.give_back(first)
    leases.do_what_is_due()
    assert (taken(own), taken(own, LEASE_SECONDS - 20)) == (1, 1)
    leases.give_back(second)
    leases.close()
    assert taken(own) == 0


def test_what_a_server_did_not_hear_it_hears_later(own: RedisServer) -> None:
    clock = Clock()
    leases = SlotLeases(RedisBackendConfig(unix_socket_path=own.socket), clock=clock)
    slot = leases.lease()
    own.process.popen.send_signal(signal.SIGSTOP)
    leases.give_back(slot)
    begun = time.monotonic()
    leases.do_what_is_due()
    for _ in range(20):  # not asked again, however many workers end
        leases.do_what_is_due()
    assert time.monotonic() - begun < 5 * CALL_SECONDS
    with pytest.raises(BackendUnavailableError):
        leases.lease()
    own.process.popen.send_signal(signal.SIGCONT)
    assert leases.due == pytest.approx(clock.now + RETRY_SECONDS)
    clock.now = leases.due
    leases.do_what_is_due()
    assert taken(own) <= 1  # the lease that was asked for and not heard of may have been given; it ends by itself
    leases.close()


@pytest.mark.parametrize("away", ["dead", "hung"])
def test_a_server_that_is_away_holds_up_nobody(own: RedisServer, away: str) -> None:
    guild = guild_of(DOING, DOING, DOING)
    first, second, third = guild.agents
    messaging = messaging_at(own.socket)
    events = Events()
    with engine_of(guild, on_event=events, stop_seconds=3) as engine:
        for agent in (first, second):
            engine.run_agent(guild, agent, messaging)
        if away == "dead":
            own.kill9()
        else:
            own.process.popen.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        engine.launch(guild, third, messaging)
        engine.kill(first.id)
        ended = events.wait_for("exited", third.id)
        assert "BackendUnavailableError" in ended.detail["error"]
        assert str(own.socket) in ended.detail["error"]
        events.wait_for("exited", first.id)
        assert time.monotonic() - begun < 5 * CALL_SECONDS
        if away == "hung":
            own.process.popen.send_signal(signal.SIGCONT)
        else:
            own.start()
        engine.run_agent(guild, third, messaging)


def test_who_makes_ids_with_a_slot_that_was_lost_is_told(own: RedisServer) -> None:
    clock, lost = Clock(), list[Slot]()
    leases = SlotLeases(RedisBackendConfig(unix_socket_path=own.socket), lost.append, clock=clock)
    first, second = leases.lease(), leases.lease()
    with own.client() as redis:
        redis.zadd(keys.PLAIN.slots_key(), {str(first.number): first.until_ms + 1})  # somebody else's
    clock.now = leases.due
    leases.do_what_is_due()
    assert lost == [first]
    leases.give_back(first)
    leases.give_back(second)
    leases.close()
    with own.client() as redis:
        assert redis.zscore(keys.PLAIN.slots_key(), str(first.number)) == first.until_ms + 1
    assert taken(own) == 1
