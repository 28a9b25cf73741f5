"""Holes of earlier designs (``docs/promises.md``) that no other test of the bus shows to be closed."""

import os
import re
from pathlib import Path

import pytest

import rustic_host
from rustic_host.errors import BackendUnavailableError, CommitRefusedError, GroupLostError
from rustic_host.messaging.delivery import frames_of
from rustic_host.messaging.redis import keys
from tests.messaging.bus import CLIENT, Bus, forward, message, numbers
from tests.system.servers import RedisServer

AHEAD = "99999999999999-1"
"""An entry id far ahead of any clock, so that the server gives it again when it has forgotten the first."""


def add_ahead(bus: Bus, n: int) -> None:
    (frame,) = frames_of(message("t", {"n": n}))
    bus.raw.xadd(bus.log(), {"m": frame.body}, id=AHEAD)


def forget_since(server: RedisServer, size: int) -> None:
    """Kill the server, and lose the end of its file, from ``size`` on."""
    server.save()
    server.kill9()
    os.truncate(_log_of(server), size)
    server.start()


def _log_of(server: RedisServer) -> Path:
    (found,) = (server.folder / "appendonlydir").glob("*.incr.aof")
    return found


def test_a_result_does_not_acknowledge_another_message_that_got_its_id(own_bus: Bus, own_server: RedisServer) -> None:
    """A3: the message handled is lost with the tail, and its entry id is given to the next."""
    consumer = own_bus.consumer()
    own_server.save()
    size = _log_of(own_server).stat().st_size
    add_ahead(own_bus, 1)
    (former,) = consumer.read()
    assert former.entry_id == AHEAD
    forget_since(own_server, size)
    add_ahead(own_bus, 2)
    with pytest.raises(BackendUnavailableError):
        consumer.commit([forward(former)])
    consumer.open(["t"])
    with pytest.raises(CommitRefusedError):  # nobody has it pending yet
        consumer.commit([forward(former)])
    entries = consumer.read()
    assert numbers(entries) == [2]
    consumer.commit([forward(entry) for entry in entries])
    assert own_bus.logged("out") == [2]


def test_a_server_without_memory_lets_the_next_owner_finish_what_is_pending(own_bus: Bus) -> None:
    """A8: what is handled makes room, so a process that begins now, or tries again, must be let in."""
    first = own_bus.consumer()
    own_bus.publish(1, 2)
    first.read()
    own_bus.raw.config_set("maxmemory", "1")
    second = own_bus.consumer()
    entries = second.read()
    for entry in entries:
        second.begin_attempt(entry, 2)
    second.commit([forward(entry) for entry in entries])
    assert (own_bus.logged("out"), own_bus.pending()) == ([1, 2], 0)


@pytest.mark.parametrize("marked", [True, False])
def test_one_of_two_groups_is_missing(bus: Bus, marked: bool) -> None:
    """B6: the read of both logs fails whole; the group is refused by its mark (A4), or made, and the other goes on."""
    consumer = bus.consumer(topics=["t", "u"])
    bus.publish(1)
    bus.publish(2, topic="u")
    bus.raw.xgroup_destroy(bus.log("u"), CLIENT)
    if marked:
        with pytest.raises(GroupLostError, match="log:u was destroyed"):
            consumer.read()
        return
    bus.raw.hdel(keys.PLAIN.client_key(bus.namespace, CLIENT), f"group:{bus.log('u')}")
    found: list[int] = []
    while len(found) < 2:
        found += numbers(consumer.read())
    assert sorted(found) == [1, 2]


@pytest.mark.parametrize("word", ["NOACK", "XAUTOCLAIM", "XCLAIM"])
def test_commands_that_would_lose_messages_are_nowhere(word: str) -> None:
    """B8, B9: XAUTOCLAIM drops what was trimmed while pending, NOACK leaves nothing to commit."""
    sources = [*Path(rustic_host.__file__).parent.rglob("*.py"), *Path(rustic_host.__file__).parent.rglob("*.lua")]
    assert len(sources) > 100
    assert [path for path in sources if re.search(rf"\b{word}\b", path.read_text())] == []


def test_what_is_unread_is_known_after_a_restart(own_bus: Bus, own_server: RedisServer) -> None:
    """Redis 7 forgets it, and who shows the lag would show none for an agent that is thousands behind."""
    consumer = own_bus.consumer()
    own_bus.publish(*range(3))
    consumer.commit([forward(entry) for entry in consumer.read()])
    own_bus.publish(*range(3, 10))
    own_server.save()
    own_server.kill9()
    own_server.start()
    with pytest.raises(BackendUnavailableError):
        consumer.load_state()
    consumer.open(["t"])
    (group,) = own_bus.raw.xinfo_groups(own_bus.log())
    assert (group["lag"], group["pending"]) == (7, 0)
    consumer.commit([forward(entry) for entry in consumer.read()])
    (group,) = own_bus.raw.xinfo_groups(own_bus.log())
    assert (group["lag"], own_bus.logged("out")) == (0, list(range(10)))
