"""A client that Rustic AI ran before goes on behind what that has handled, and loses nothing that it has not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from rustic_host.errors import BackendRefusedError, GroupLostError
from rustic_host.messaging import GemstoneID, Message, Priority, RedisBackendConfig
from rustic_host.messaging.redis import rustic_ai_positions
from rustic_host.messaging.redis.consumer import Consumer
from rustic_host.messaging.redis.keys import PLAIN
from rustic_host.messaging.redis.link import Link
from rustic_host.messaging.redis.rustic_ai_positions import Newcomer, take_over
from tests.conformance.reading import bridged
from tests.messaging.bus import CLIENT, OUTSIDE, Bus, forward, numbers
from tests.messaging.redis import foreign
from tests.messaging.redis.test_permissions import limit

NOW = 1_795_330_295_572

TOLD = ("continues_after_rustic_ai", "begins_with_what_others_stored")


@pytest.fixture
def user(own_bus: Bus) -> RedisBackendConfig:
    """Of one who may do everything, until that is limited."""
    own_bus.raw.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all")
    path = Path(own_bus.config.connection_url().removeprefix("unix://"))
    return RedisBackendConfig(unix_socket_path=path, username="u", password="p")


def made(n: int, ms: int, *, machine: int = 3, priority: Priority = Priority.NORMAL, sender: str = "a") -> Message:
    """Message ``n``, made so many milliseconds after :data:`NOW`; ``n`` is its sequence number too."""
    new_id = GemstoneID(priority, NOW + ms, machine, n)
    tag = OUTSIDE.model_copy(update={"id": sender})
    return Message(new_id, sender=tag, topics="t", payload={"n": n}).published_to("t")


def move_in(bus: Bus, messages: Sequence[Message], last: Message | str | None, topic: str = "t") -> None:
    """What Rustic AI leaves: messages, all imported, and its position."""
    for message in messages:
        foreign.store(bus, message, topic)
    with bridged(bus, [topic]):
        assert len(bus.raw.xrange(bus.log(topic))) == len(messages)
    if last is not None:
        stand(bus, last, topic)


def stand(bus: Bus, last: Message | str, topic: str = "t") -> None:
    bus.raw.set(f"eo:pos:{CLIENT}:{bus.namespace}:{topic}", last if isinstance(last, str) else str(last.id))


def test_what_it_has_handled_is_not_handled_again_and_one_line_says_so(bus: Bus) -> None:
    old = [made(n, n) for n in range(6)]
    move_in(bus, old, old[3])
    with capture_logs() as log:
        consumer = bus.consumer()
    (line,) = (row for row in log if row["event"] == "continues_after_rustic_ai")
    assert (line["client"], line["messages"], line["topics"]) == (CLIENT, 4, {"t": 4})
    entries = consumer.read()
    assert numbers(entries) == [4, 5]
    consumer.commit([forward(entry) for entry in entries])
    bus.publish(7)
    assert numbers(consumer.read()) == [7]
    assert bus.raw.xinfo_groups(bus.log())[0]["lag"] == 0


def test_each_topic_and_each_client_has_its_own_position(bus: Bus) -> None:
    old = [made(n, n) for n in range(4)]
    move_in(bus, old, old[3])
    move_in(bus, old, old[0], "u")
    with capture_logs() as log:
        assert numbers(bus.consumer(topics=["t", "u"]).read()) == [1, 2, 3]
        assert numbers(bus.consumer("g1$other", ["t"]).read()) == [0, 1, 2, 3]
    lines = [row for row in log if row["event"] in TOLD]
    assert [(row["client"], row["topics"]) for row in lines] == [(CLIENT, {"t": 4, "u": 1}), ("g1$other", {"t": 4})]
    with capture_logs() as log:
        bus.consumer("g1$other", ["t"])
    assert not [row for row in log if row["event"] in TOLD]


def test_more_urgent_ones_that_came_later_are_not_lost_though_their_ids_are_smaller(bus: Bus) -> None:
    """Rustic AI itself loses them (facts 2.6-4)."""
    old = [made(0, 0), made(1, 1), made(2, 2, priority=Priority.URGENT), made(3, 3, priority=Priority.HIGH)]
    move_in(bus, old, old[1])
    assert old[2].id < old[1].id
    assert numbers(bus.consumer().read()) == [2, 3]


def test_after_a_more_urgent_one_what_came_before_it_is_done(bus: Bus) -> None:
    old = [made(0, 0), made(1, 1, priority=Priority.URGENT), made(2, 2)]
    move_in(bus, old, old[1])
    assert numbers(bus.consumer().read()) == [2]


def test_what_came_after_the_last_one_is_not_lost_though_a_slow_clock_made_it_older(bus: Bus) -> None:
    """Rustic AI itself loses it (facts 2.6-5)."""
    move_in(bus, [made(0, 0), made(1, 5)], made(1, 5))
    foreign.store(bus, made(2, 3, machine=1, sender="b"))
    with bridged(bus, ["t"]):
        assert bus.logged() == [0, 1, 2]
    bus.publish(3)
    assert numbers(bus.consumer().read()) == [2, 3]


def test_of_the_last_ones_millisecond_only_what_its_own_sender_made_before_is_done(bus: Bus) -> None:
    """Others may have stored theirs after it; the store orders these by their bytes, so they lie between."""
    old = [made(0, 0), made(1, 5, machine=1, sender="A"), made(2, 5), made(3, 5), made(4, 5), made(5, 6)]
    move_in(bus, old, old[3])
    assert bus.logged() == [0, 1, 2, 3, 4, 5]
    consumer = bus.consumer()
    assert bus.pending() == 1  # the first of them; the two between are done
    read = consumer.read()
    consumer.commit([forward(entry) for entry in read])
    assert numbers([*read, *consumer.read()]) == [1, 4, 5]
    assert bus.pending() == 2


def test_a_long_history_is_skipped_page_by_page(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rustic_ai_positions, "PAGE", 7)
    for handled in (13, 14, 15, 30):
        bus.namespace = f"g{uuid4().hex}"
        old = [made(n, n) for n in range(30)]
        move_in(bus, old, old[handled - 1])
        bus.publish(100)
        with capture_logs() as log:
            assert numbers(bus.consumer().read()) == [*range(handled, 30), 100]
        assert [row["messages"] for row in log if row["event"] in TOLD] == [handled]


def test_what_retention_cuts_while_it_is_looked_at_is_no_hindrance(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    old = [made(n, n) for n in range(4)]
    move_in(bus, old, old[1])
    call = Link.call

    def cut_first(link: Link, *command: Any) -> Any:
        if command[:2] == ("XRANGE", bus.log()):
            bus.raw.xtrim(bus.log(), maxlen=0, approximate=False)
        return call(link, *command)

    monkeypatch.setattr(Link, "call", cut_first)
    consumer = bus.consumer()
    bus.publish(7)
    assert numbers(consumer.read()) == [7]


def test_what_is_behind_all_of_it_leaves_only_what_comes(bus: Bus) -> None:
    old = [made(n, n) for n in range(3)]
    move_in(bus, old, made(9, 1000))
    consumer = bus.consumer()
    bus.publish(4)
    assert numbers(consumer.read()) == [4]


@pytest.mark.parametrize("position", ["0", "x", "-1", str(1 << 64), ""])
def test_what_is_no_position_is_none_and_all_is_handled(bus: Bus, position: str) -> None:
    move_in(bus, [made(0, 0), made(1, 1)], position)
    assert numbers(bus.consumer().read()) == [0, 1]


def test_a_position_of_another_type_is_none(bus: Bus) -> None:
    move_in(bus, [made(0, 0)], None)
    bus.raw.hset(f"eo:pos:{CLIENT}:{bus.namespace}:t", "a", "b")
    assert numbers(bus.consumer().read()) == [0]


def test_who_has_read_here_before_has_a_position_here(bus: Bus) -> None:
    """Rustic AI may run the agent again later, or beside; what our host has not handled is not skipped then."""
    consumer = bus.consumer()
    old = [made(n, n) for n in range(3)]
    move_in(bus, old, old[2])
    assert numbers(consumer.read()) == [0, 1, 2]
    consumer.close()
    with capture_logs() as log:
        assert numbers(bus.consumer().read()) == [0, 1, 2]
    assert not [row for row in log if row["event"] in TOLD]


def test_members_that_are_no_messages_are_handled_unless_they_are_older(bus: Bus) -> None:
    old = [made(n, n) for n in range(3)]
    for ms, odd in ((0, b"before"), (1, b"beside"), (2, b"after")):
        bus.raw.zadd(f"{bus.namespace}:t", {odd: NOW + ms})
    for message in old:
        foreign.store(bus, message)
    with bridged(bus):
        pass
    stand(bus, old[1])
    consumer = bus.consumer()
    read = [entry.body for entry in consumer.read() if entry.body is not None]
    while more := [entry.body for entry in consumer.read(wait=0.1) if entry.body is not None]:
        read += more
    assert sorted(read) == sorted([b"beside", b"after", old[2].to_json_bytes()])


def test_nothing_of_it_is_changed(bus: Bus) -> None:
    old = [made(n, n) for n in range(3)]
    move_in(bus, old, old[1])
    names = [f"eo:pos:{CLIENT}:{bus.namespace}:t", f"{bus.namespace}:t"]
    before = [bus.raw.dump(name) for name in names]
    consumer = bus.consumer()
    consumer.commit([forward(entry) for entry in consumer.read()])
    assert [bus.raw.dump(name) for name in names] == before


def test_a_user_who_may_not_read_positions_handles_all_and_is_told(own_bus: Bus, user: RedisBackendConfig) -> None:
    old = [made(0, 0), made(1, 1)]
    move_in(own_bus, old, old[0])
    own_bus.raw.execute_command("ACL", "SETUSER", "u", "resetkeys", f"~{own_bus.namespace}*", "~msg*", "~rustic-host*")
    consumer = Consumer(user, own_bus.namespace, CLIENT)
    with capture_logs() as log:
        consumer.open(["t"])
    assert numbers(consumer.read()) == [0, 1]
    consumer.close()
    assert "rustic_ai_positions_not_read" in [row["event"] for row in log]


@pytest.mark.parametrize("missing", ["-xreadgroup", "-xack", "-xgroup|create", "-hset"])
def test_a_user_who_loses_a_right_makes_no_half_of_a_group(
    own_bus: Bus, user: RedisBackendConfig, missing: str
) -> None:
    old = [made(0, 5, machine=1, sender="A"), made(1, 5), made(2, 5)]
    move_in(own_bus, old, old[1])
    keys = PLAIN.topic_keys(own_bus.namespace, "t")
    own_bus.raw.hset(PLAIN.client_key(own_bus.namespace, CLIENT), "token", "mine")
    limit(own_bus, missing)
    link = Link(user, "test")
    link.connect()
    with pytest.raises(BackendRefusedError, match="may not"):
        take_over(link, PLAIN, Newcomer(own_bus.namespace, CLIENT, "mine", "c"), {"t": (own_bus.namespace, keys)})
    link.close()
    assert own_bus.raw.xinfo_groups(own_bus.log()) == []
    assert own_bus.raw.hkeys(PLAIN.client_key(own_bus.namespace, CLIENT)) == [b"token"]


def test_another_process_that_owns_the_client_meanwhile_makes_its_group(bus: Bus) -> None:
    old = [made(0, 0), made(1, 1)]
    move_in(bus, old, old[0])
    keys = PLAIN.topic_keys(bus.namespace, "t")
    bus.raw.hset(PLAIN.client_key(bus.namespace, CLIENT), "token", "another's")
    link = Link(bus.config, "test")
    link.connect()
    take_over(link, PLAIN, Newcomer(bus.namespace, CLIENT, "mine", "c"), {"t": (bus.namespace, keys)})
    link.close()
    assert bus.raw.xinfo_groups(bus.log()) == []


def test_a_group_that_was_made_so_and_is_gone_is_not_made_again_from_anywhere(bus: Bus) -> None:
    old = [made(0, 0), made(1, 1)]
    move_in(bus, old, old[0])
    bus.consumer().close()
    bus.raw.xgroup_destroy(bus.log(), CLIENT)
    with pytest.raises(GroupLostError):
        bus.consumer()


def test_the_position_is_that_of_the_inbox_where_guilds_share_it(bus: Bus) -> None:
    topic, shared = f"guild_inbox:{bus.namespace}", f"org{bus.namespace}"
    with Bus(str(bus.config.url), shared) as inbox:
        old = [made(n, n) for n in range(3)]
        move_in(inbox, old, old[0], topic)
        consumer = Consumer(bus.config, bus.namespace, CLIENT, shared=shared)
        consumer.open([topic])
        assert numbers(consumer.read()) == [1, 2]
        consumer.close()


def test_names_are_as_the_recorded_commands_have_them() -> None:
    assert PLAIN.position_key("agent-b", "guild-123", "updates") == "eo:pos:agent-b:guild-123:updates"
