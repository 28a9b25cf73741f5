"""Reading on from a message costs the same however much is stored, and finds what reading everything finds."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rustic_host.messaging import GemstoneID, Message, MessagingConfig, MessagingInterface, Priority
from rustic_host.messaging.counts import Count, published
from rustic_host.messaging.delivery import frames_of
from rustic_host.messaging.gemstone_id import EPOCH_MS
from rustic_host.messaging.redis import keys, stored
from rustic_host.messaging.redis.importer import Importer
from rustic_host.messaging.redis.link import Argument, Link, Script
from rustic_host.messaging.redis.publisher import Publisher
from rustic_host.messaging.redis.stored import FIRST_PAGE, Stored
from rustic_host.messaging.sizes import LARGE_MESSAGE_BYTES
from tests.messaging.bus import GENERATOR, OUTSIDE, Bus, message
from tests.messaging.redis import foreign
from tests.system.servers import RedisServer

START_MS = EPOCH_MS + 10_000


class Counting(Publisher):
    """Counts the members that it is answered with."""

    members = 0

    def call(self, *command: Argument, since: float | None = None) -> object:
        return self._counted(super().call(*command, since=since))

    def run(self, script: Script, script_keys: Sequence[Argument], args: Sequence[Argument]) -> object:
        reply: Any = super().run(script, script_keys, args)
        self._counted(reply[1] if len(reply) > 1 else [])
        return reply

    def _counted(self, reply: Any) -> object:
        self.members += len(reply)
        return reply


@pytest.fixture
def counting(bus: Bus) -> Iterator[Counting]:
    made = Counting(bus.config, "counting")
    yield made
    made.close()


def made(priority: int = Priority.NORMAL, ms: int = 0, number: int = 0) -> Message:
    """One with an id of these parts, by :data:`START_MS`."""
    new_id = GemstoneID(priority, START_MS + ms, 1, number)
    return Message(new_id, sender=OUTSIDE, topics="t", payload={"n": number}).published_to("t")


def publish(bus: Bus, *messages: Message) -> None:
    publisher = bus.publisher()
    publisher.publish(bus.namespace, [frame for each in messages for frame in frames_of(each)])


@pytest.mark.parametrize("priority", [Priority.NORMAL, Priority.HIGH])
def test_reading_on_reads_no_more_of_a_thousand_messages_than_of_fifty(
    bus: Bus, counting: Counting, priority: Priority
) -> None:
    """Also where half of them are more urgent."""
    read = {}
    for count in (50, 1000):
        topic = f"t{count}"
        kinds = [priority, Priority.NORMAL] * (count // 2)
        sent = [made(kind, ms=n).model_copy(update={"topics": topic}) for n, kind in enumerate(kinds)]
        bus.publisher().publish(bus.namespace, [frame for each in sent for frame in frames_of(each)])
        normal = [each.id for each in sent if each.priority == Priority.NORMAL]
        reader = Stored(counting, f"{bus.namespace}:{topic}")
        counting.members = 0
        assert [each.id for each in reader.since(normal[-6])] == normal[-5:]
        found = reader.next_after(normal[-20])
        assert found is not None
        assert found.id == normal[-19]
        read[count] = counting.members
    assert read[50] == read[1000] <= 11 + FIRST_PAGE


def test_a_page_that_ends_within_a_millisecond_is_read_on(bus: Bus, counting: Counting) -> None:
    """The store has those of one score in the order of their bytes, not of their ids."""
    crowd = [made(ms=1, number=number) for number in range(3 * FIRST_PAGE)]
    publish(bus, made(), *crowd, made(ms=2))
    reader = Stored(counting, f"{bus.namespace}:t")
    found = [reader.next_after(each.id) for each in (made(), *crowd)]
    assert [each and each.id for each in found] == [each.id for each in (*crowd, made(ms=2))]
    assert reader.next_after(made(ms=2).id) is None


def less_urgent(bus: Bus) -> Message:
    publish(bus, made(Priority.LOW))
    return made(Priority.LOW)


def lying(bus: Bus) -> Message:
    bus.raw.zadd(f"{bus.namespace}:t", {foreign.store(bus, made(ms=6)): START_MS})
    import_all(bus, "t")
    return made(ms=6)


def not_looked_at(bus: Bus) -> Message:
    foreign.store(bus, made(Priority.LOW))
    return made(Priority.LOW)


@pytest.mark.parametrize("late", [less_urgent, lying, not_looked_at])
def test_where_older_ones_may_follow_all_is_read(bus: Bus, counting: Counting, late: Callable[[Bus], Message]) -> None:
    publish(bus, made(ms=5, number=1))
    after = late(bus)
    found = Stored(counting, f"{bus.namespace}:t").since(made(ms=5, number=1).id)
    assert [each.id for each in found] == [after.id]
    assert counting.members == 2


def test_a_shared_topic_is_read_whole_as_its_counts_are_with_each_guild(bus: Bus, counting: Counting) -> None:
    inbox = "guild_inbox:g"
    for guild, each in (("one", made(ms=5)), ("two", made(Priority.LOW))):
        publisher = bus.publisher()
        publisher.publish(f"{bus.namespace}{guild}", frames_of(each, inbox, shared=bus.namespace))
    found = Stored(counting, f"{bus.namespace}:{inbox}").since(made(ms=5).id)
    assert [each.id for each in found] == [made(Priority.LOW).id]


def test_what_was_stored_before_late_ones_were_counted_is_read_whole(bus: Bus) -> None:
    publish(bus, made(ms=5), made(Priority.LOW))
    bus.raw.hdel(keys.PLAIN.counts_key(bus.namespace), published("t", late=True))
    bus.raw.hset(keys.PLAIN.counts_key(bus.namespace), published("t"), 2)
    bus.raw.set(keys.PLAIN.schema_key(bus.namespace), 1)
    newer = bus.publisher()
    newer.open_namespace(bus.namespace)
    found = Stored(newer, f"{bus.namespace}:t").since(made(ms=5).id)
    assert [each.id for each in found] == [made(Priority.LOW).id]
    assert bus.counts() == {Count("published", "t"): 2, Count("published_late", "t"): 0}


def import_all(bus: Bus, topic: str) -> None:
    link = Link(bus.config, "importer")
    link.connect()
    Importer(link, keys.PLAIN, bus.namespace).settle(topic)
    link.close()


def test_late_ones_are_counted_apart_and_published_all_the_same(bus: Bus) -> None:
    large = Message(
        GENERATOR.get_id(Priority.LOW), sender=OUTSIDE, topics="t", payload={"text": "x" * LARGE_MESSAGE_BYTES}
    )
    publish(bus, made(), made(Priority.LOW), large)
    foreign.store(bus, made(Priority.LOWEST))
    foreign.store(bus, made(ms=1))
    import_all(bus, "t")
    found = bus.counts()
    assert found == {
        Count("published", "t"): 2,
        Count("published_late", "t"): 2,
        Count("published_large_late", "t"): 1,
        Count("imported", "t"): 2,
    }
    assert {count.kind: (count.is_published, count.is_large) for count in found} == {
        "published": (True, False),
        "published_late": (True, False),
        "published_large_late": (True, True),
        "imported": (False, False),
    }


@pytest.mark.parametrize("message_id", [-1, 0, (1 << 64) - 1, 1 << 64, 5 << 61])
def test_ids_that_nobody_has_are_asked_for(bus: Bus, counting: Counting, message_id: int) -> None:
    sent = [made(Priority.URGENT), made()]
    publish(bus, *sent)
    reader = Stored(counting, f"{bus.namespace}:t")
    assert [each.id for each in reader.since(message_id)] == [each.id for each in sent if each.id > message_id]
    assert reader.next_after(message_id) == next(iter(reader.since(message_id)), None)


def test_a_store_under_a_prefix_is_read(server: RedisServer) -> None:
    redis_client = {"url": server.url, "key_prefix": "some:"}
    config = MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": redis_client},
    )
    interface = MessagingInterface(f"g{uuid4().hex}", config)
    try:
        sent = [message(), message()]
        for each in sent:
            interface.backend.store_copies(interface.namespace, each)
        assert [each.id for each in interface.get_messages("t")] == [each.id for each in sent]
        assert [each.id for each in interface.get_messages_for_topic_since("t", sent[0].id)] == [sent[1].id]
    finally:
        interface.shutdown()


# ---- against the definition ------------------------------------------------------------------------------------


class Publishing(NamedTuple):
    """How one message comes into the store."""

    priority: int
    ms: int
    number: int
    how: str
    score: float


MESSAGES = st.builds(
    Publishing,
    st.sampled_from([*Priority, *[Priority.NORMAL] * 8]),
    st.integers(0, 6),
    st.integers(0, 3),
    st.sampled_from(["ours", "foreign", "lying", "junk"]),
    st.sampled_from([float("-inf"), -1.5, START_MS - 0.5, START_MS + 3, START_MS + 3.25, 1e300, float("inf")]),
)


def store(bus: Bus, publisher: Publisher, topic: str, each: Publishing) -> None:
    sent = made(each.priority, each.ms, each.number).model_copy(update={"topics": topic}).published_to(topic)
    if each.how == "ours":
        publisher.publish(bus.namespace, frames_of(sent, topic))
    elif each.how == "junk":
        bus.raw.zadd(f"{bus.namespace}:{topic}", {f"no message {each}": each.score})
    else:
        body = foreign.store(bus, sent, topic)
        if each.how == "lying":
            bus.raw.zadd(f"{bus.namespace}:{topic}", {body: each.score})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.lists(MESSAGES, max_size=12),
    after=st.lists(MESSAGES, max_size=4),
    kinds=st.sampled_from([("ours",), ("ours", "foreign"), ("ours", "foreign", "lying", "junk")]),
    least=st.sampled_from([Priority.NORMAL, Priority.LOWEST]),
)
def test_it_is_what_reading_everything_finds(
    bus: Bus,
    monkeypatch: pytest.MonkeyPatch,
    before: list[Publishing],
    after: list[Publishing],
    kinds: tuple[str, ...],
    least: Priority,
) -> None:
    """Foreign ones, of which those ``before`` were imported; any score; several in a millisecond; one id twice."""
    monkeypatch.setattr(stored, "FIRST_PAGE", 2)
    topic = f"t{uuid4().hex}"
    publisher = bus.publisher()
    for each in before:
        if each.how in kinds and each.priority <= least:
            store(bus, publisher, topic, each)
    import_all(bus, topic)
    for each in after:
        if each.how in kinds and each.priority <= least:
            store(bus, publisher, topic, each)
    reader = Stored(publisher, f"{bus.namespace}:{topic}")
    everything = reader.messages()
    ids = [each.id for each in everything]
    for asked in {START_MS, *ids, *(one + step for one in ids for step in (-1, 1, 1 << 22, -1 << 22))}:
        expected = [one for one in ids if one > asked]
        assert [each.id for each in reader.since(asked)] == expected
        found = reader.next_after(asked)
        assert (found and found.id) == (expected[0] if expected else None)
    publisher.close()
