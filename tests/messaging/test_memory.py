"""The in-memory backend: one store for a process, bounded, shared by threads."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from rustic_host.errors import ConfigError, MessageTooLargeError
from rustic_host.messaging import (
    AgentTag,
    GemstoneGenerator,
    InMemoryMessagingBackend,
    Message,
    MessageTrackingClient,
    MessagingConfig,
    MessagingInterface,
    Priority,
    SimpleClient,
    memory_store,
)
from rustic_host.messaging import counts as names
from rustic_host.messaging.client import Client
from rustic_host.messaging.memory_store import BATCH, SWEEP_SECONDS, SWEPT_TOPICS, Handler, MemoryStore
from rustic_host.messaging.sizes import SizeLimits
from tests.messaging.bus import GENERATOR, WAIT_SECONDS, message


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(clock)


def ids(messages: list[Message]) -> list[int]:
    return [each.id for each in messages]


def published(backend: InMemoryMessagingBackend, n: int = 1, topic: str = "t") -> list[int]:
    """``n`` messages, and their ids."""
    sent = [message(topic) for _ in range(n)]
    for each in sent:
        backend.store_copies("g", each)
    return ids(sent)


# --- Bounds.


def test_messages_go_when_their_time_is_over(clock: Clock, store: MemoryStore) -> None:
    backend = InMemoryMessagingBackend(message_ttl=10, store=store)
    first = published(backend, 2)
    clock.now += 6
    second = published(backend, 2)
    assert ids(backend.get_messages_for_topic("g:t")) == first + second
    clock.now += 4
    assert ids(backend.get_messages_for_topic("g:t")) == second
    assert ids(backend.get_messages_by_id("g", first + second)) == second
    clock.now += 6
    assert backend.get_messages_by_id("g", first + second) == []
    assert backend.get_messages_for_topic("g:t") == []


def test_topics_that_nobody_uses_are_emptied_and_forgotten_while_others_are_used(
    clock: Clock, store: MemoryStore
) -> None:
    backend = InMemoryMessagingBackend(message_ttl=10, store=store)
    assert backend.get_messages_by_id("g", published(backend, 1, "t0")) != []  # from now on there is an index by id
    for n in range(5 * SWEPT_TOPICS):
        published(backend, 2, f"t{n}")
    clock.now += 11
    for _ in range(5):
        published(backend)
    assert list(store._topics) == ["g:t"]
    assert list(store._spaces["g"].topics) == ["t"]
    assert len(store.since("g:t", -1)) == len(store._spaces["g"].by_id or ()) == 5


def test_messages_are_found_by_id_whenever_the_first_is_asked_for(store: MemoryStore) -> None:
    backend = InMemoryMessagingBackend(max_messages=BATCH, store=store)
    first, other = published(backend, 3 * BATCH), published(backend, 2, "u")
    assert ids(backend.get_messages_by_id("g", first + other)) == first[-BATCH:] + other
    later = published(backend, BATCH + 7)
    assert ids(backend.get_messages_by_id("g", first + later + other)) == later[-BATCH:] + other


def test_of_a_message_that_is_stored_twice_the_one_that_stays_longer_is_found(clock: Clock, store: MemoryStore) -> None:
    """Also when the index by id is made later than both."""
    sent = message(["t", "u"])
    InMemoryMessagingBackend(message_ttl=20, store=store).store_copies("g", sent)
    backend = InMemoryMessagingBackend(message_ttl=10, store=store)
    backend.store_copies("g", sent)
    clock.now += 15
    assert ids(backend.get_messages_by_id("g", [sent.id])) == [sent.id]


def test_topics_that_are_no_more_are_counted_and_the_oldest_of_them_together(
    clock: Clock, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_store, "FORGOTTEN_TOPICS", 3)
    backend = InMemoryMessagingBackend(message_ttl=10, store=store)

    def on_each(topics: Iterable[int]) -> None:
        for n in topics:
            published(backend, 1 + n % 2, f"t{n}")
            backend.count_processed("g", f"t{n}", "a", "ok")
            clock.now += 11

    on_each(range(20))
    backend.store_copies("g2", message("last"))
    found = backend.counts("g")
    assert {name for name in found if "processed" in name} == {
        names.processed(topic, "a", "ok") for topic in ("_other", "t17", "t18", "t19")
    }
    per_topic = {"_other": 25, "t17": 2, "t18": 1, "t19": 2}
    assert {name: n for name, n in found.items() if "published" in name} == {
        names.published(topic): n for topic, n in per_topic.items()
    }
    assert found[names.processed("_other", "a", "ok")] == 17
    assert backend.counts("g2") == {names.published("last"): 1}
    on_each([18, 3])  # of one that is there again nothing is lost, of one that was summed up neither
    found = backend.counts("g")
    assert found[names.published("t18")] == 2
    assert sum(n for name, n in found.items() if "published" in name) == 30 + 1 + 2
    assert sum(n for name, n in found.items() if "processed" in name) == 22
    assert len(store._forgotten) <= 3
    assert len(store._processed["g"]) <= 3 + 2


def test_topics_that_were_only_subscribed_leave_nothing(store: MemoryStore) -> None:
    for n in range(10):
        store.add_handler(f"g:reply{n}", 1, print)
        store.remove_handlers(f"g:reply{n}", 1)
    assert (store._topics, store._forgotten, store.counts("g")) == ({}, {}, {})


def test_a_busy_topic_is_looked_at_once_in_a_while_only(clock: Clock, store: MemoryStore) -> None:
    backend = InMemoryMessagingBackend(message_ttl=1, store=store)
    for _ in range(1000):
        clock.now += SWEEP_SECONDS / 10
        published(backend)
    assert len(store._due) == 1
    assert len(store._topics["g:t"].arrived) <= 1 + 20


def test_a_topic_keeps_its_newest(store: MemoryStore) -> None:
    backend = InMemoryMessagingBackend(max_messages=3, store=store)
    sent, other = published(backend, 7), published(backend, 2, "u")
    assert ids(backend.get_messages_for_topic("g:t")) == sent[-3:]
    assert ids(backend.get_messages_for_topic("g:u")) == other
    assert ids(backend.get_messages_by_id("g", sent + other)) == sent[-3:] + other


def test_the_oldest_by_arrival_goes_first_whatever_its_id(store: MemoryStore) -> None:
    backend = InMemoryMessagingBackend(max_messages=2, store=store)
    made = [
        Message(GENERATOR.get_id(priority), sender=AgentTag(id="x"), topics="t", payload={"n": 1})
        for priority in (Priority.LOW, Priority.URGENT, Priority.NORMAL)
    ]
    for each in made:
        backend.store_copies("g", each)
    assert ids(backend.get_messages_for_topic("g:t")) == ids(made[1:])


def test_a_message_stored_twice_stays_until_the_second_goes(store: MemoryStore) -> None:
    backend = InMemoryMessagingBackend(max_messages=1, store=store)
    sent = message("t")
    backend.store_copies("g", sent)
    backend.store_copies("g", sent)
    assert ids(backend.get_messages_by_id("g", [sent.id])) == [sent.id]
    assert ids(backend.get_messages_for_topic("g:t")) == [sent.id]


@pytest.mark.parametrize("settings", [{"message_ttl": 0}, {"max_messages": 0}, {"message_ttl": float("nan")}])
def test_a_bound_must_be_above_zero(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        InMemoryMessagingBackend(**settings)


# --- Sharing.


def test_one_shutdown_leaves_messages_and_subscriptions_to_the_others() -> None:
    config, namespace = memory(), f"g_{uuid4().hex}"
    first, second = MessagingInterface(namespace, config), MessagingInterface(namespace, config)
    heard: list[int] = []
    reader = SimpleClient("r", "r", lambda received: heard.append(received.id))
    second.register_client(reader)
    second.subscribe("t", reader)
    sender = SimpleClient("s", "s", print)
    first.register_client(sender)
    sent = [message("t"), message("t")]
    sender.publish(sent[0])
    first.shutdown()
    second.publish(reader, sent[1])
    assert heard == ids(sent)
    assert ids(second.get_messages("t")) == ids(sent)
    second.shutdown()
    third = MessagingInterface(namespace, config)
    assert ids(third.get_messages("t")) == ids(sent)
    third.shutdown()


def test_ending_subscriptions_touches_the_own_topics_only(store: MemoryStore) -> None:
    """The cost of a clean-up, counted: with very many topics of others it is that of the own."""
    asked: list[str] = []

    class Watched(MemoryStore):
        def remove_handlers(self, name: str, owner: int, handler: Handler | None = None) -> None:
            asked.append(name)
            super().remove_handlers(name, owner, handler)

    watched = Watched()
    others, own = InMemoryMessagingBackend(store=watched), InMemoryMessagingBackend(store=watched)
    for n in range(1000):
        others.subscribe(f"g:{n}", print)
    own.subscribe("g:5", print)
    own.subscribe("g:own", print)
    own.cleanup()
    assert asked == ["g:5", "g:own"]
    assert len(watched._topics) == 1000
    others.cleanup()
    assert not watched._topics


def test_what_a_publisher_changes_after_publishing_is_seen_by_nobody(store: MemoryStore) -> None:
    backend = InMemoryMessagingBackend(store=store)
    sent = message("t", {"x": [1]})
    backend.store_copies("g", sent)
    values: Any = sent.payload["x"]
    values.append(2)
    sent.enrich_with_history = 5
    (stored,) = backend.get_messages_for_topic("g:t")
    assert (stored.payload, stored.enrich_with_history) == ({"x": [1]}, 0)
    stored.payload["x"] = "a reader's"
    assert backend.get_messages_by_id("g", [sent.id])[0].payload == {"x": [1]}


def test_all_callbacks_of_a_topic_are_called_beside_the_clients_of_an_interface() -> None:
    config = MessagingConfig(backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend")
    messaging, heard = MessagingInterface(f"g{uuid4().hex}", config), list[str]()
    topic, client = f"{messaging.namespace}:t", SimpleClient("c", "c", lambda received: heard.append("client"))
    messaging.register_client(client)
    messaging.subscribe("t", client)
    plain = {name: partial(_note, heard, name) for name in ("one", "two")}
    for name in ("one", "two", "one"):
        messaging.backend.subscribe(topic, plain[name])
    publish = partial(messaging.publish, SimpleClient("s", "s", print))
    publish(message("t"))
    assert heard == ["client", "one", "two"]
    messaging.unsubscribe("t", client)
    messaging.backend.unsubscribe_handler(topic, plain["one"])
    publish(message("t"))
    assert heard == ["client", "one", "two", "two"]
    messaging.subscribe("t", client)
    publish(message("t"))
    assert heard[4:] == ["two", "client"]
    messaging.backend.unsubscribe(topic)
    publish(message("t"))
    assert len(heard) == 6
    messaging.shutdown()


def _note(heard: list[str], name: str, received: Message) -> None:
    heard.append(name)


def test_a_message_too_large_is_refused_by_the_backend_itself(store: MemoryStore) -> None:
    backend, heard = InMemoryMessagingBackend(store=store), list[Message]()
    backend.sizes = SizeLimits(1000)
    for topic in ("g:t", "g:dead_letter_queue"):
        backend.subscribe(topic, heard.append)
    large = message("t", {"text": "x" * 1000})
    with pytest.raises(MessageTooLargeError):
        backend.store_message("g", "g:t", large)
    assert (heard, backend.get_messages_for_topic("g:t")) == ([], [])
    backend.store_message("g", "g:dead_letter_queue", large)
    assert len(heard) == 1


def test_a_subscriber_that_raises_is_the_only_one_to_notice(store: MemoryStore) -> None:
    heard: list[int] = []
    backends = [InMemoryMessagingBackend(store=store) for _ in range(3)]
    backends[0].subscribe("g:t", lambda received: heard.append(0))
    backends[1].subscribe("g:t", lambda received: 1 // 0)
    backends[2].subscribe("g:t", lambda received: heard.append(2))
    published(backends[0])
    assert heard == [0, 2]


# --- Counts.


def test_counts_have_the_names_of_those_on_redis(store: MemoryStore, clock: Clock) -> None:
    backend = InMemoryMessagingBackend(message_ttl=10, store=store)
    published(backend, 3)
    published(backend, 2, "gone")
    clock.now += 20
    published(backend, 1)
    backend.count_processed("g", "t", "a", "ok")
    backend.count_processed("g", "t", "a", "ok")
    backend.count_processed("g2", "t", "a", "ok")
    assert "g:gone" not in store._topics
    assert backend.counts("g") == {
        names.published("t"): 4,
        names.published("gone"): 2,
        names.processed("t", "a", "ok"): 2,
    }


def test_every_message_delivered_is_counted_with_its_outcome() -> None:
    namespace = f"g_{uuid4().hex}"
    with_counts = MessagingInterface(namespace, memory())
    answers = iter(["fine", None, ValueError("no")])

    def handle(received: Message) -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    reader = SimpleClient(f"{namespace}$r", "r", handle)
    with_counts.register_client(reader)
    with_counts.subscribe("t", reader)
    for _ in range(3):
        with_counts.publish(reader, message("t"))
    with_counts.publish(reader, message("t", sender=AgentTag(id="r")))
    found = with_counts.backend.counts(namespace)
    assert {outcome: found[names.processed("t", reader.id, outcome)] for outcome in ("fine", "ok", "failed")} == {
        "fine": 1, "ok": 1, "failed": 1,
    }  # fmt: skip
    assert found[names.processed("t", reader.id, "filtered")] == 1
    assert found[names.published("t")] == 4
    with_counts.shutdown()


# --- Threads.


def memory(**settings: Any) -> MessagingConfig:
    return MessagingConfig(
        backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend", backend_config=settings
    )


def many_to_many(client_class: type[Client], each: int, threads: int = 8) -> None:
    """Every publisher sends to every topic in turn, every subscriber reads all topics; nothing lost, doubled, moved."""
    namespace, topics = f"g_{uuid4().hex}", ["t0", "t1", "t2"]
    received: list[dict[tuple[str, str], list[int]]] = [defaultdict(list) for _ in range(threads)]
    interfaces: list[MessagingInterface] = []
    locks = [threading.Lock() for _ in range(threads)]

    def handler(at: int) -> Callable[[Message], None]:
        def handle(got: Message) -> None:
            n, topic = got.payload["n"], got.topic_published_to
            assert isinstance(n, int)
            assert topic is not None
            with locks[at]:
                received[at][str(got.sender.id), topic].append(n)

        return handle

    for at in range(threads):
        interface = MessagingInterface(namespace, memory(max_messages=500))
        client: Any = client_class
        reader: Client = client(f"{namespace}$r{at}", "r", handler(at))
        interface.register_client(reader)
        for topic in topics:
            interface.subscribe(topic, reader)
        interfaces.append(interface)
    start = threading.Barrier(threads)

    def publish(at: int) -> None:
        generator, tag = GemstoneGenerator(20 + at), AgentTag(id=f"p{at}")
        sender = interfaces[at].clients[f"{namespace}$r{at}"]
        start.wait(WAIT_SECONDS)
        for n in range(each):
            made = Message(generator.get_id(), sender=tag, topics=topics[n % 3], payload={"n": n})
            interfaces[at].publish(sender, made)

    publishers = [threading.Thread(target=publish, args=(at,)) for at in range(threads)]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
    stored = interfaces[0].backend.counts(namespace)
    assert sum(n for name, n in stored.items() if '"published"' in name) == threads * each
    assert sum(n for name, n in stored.items() if '"processed"' in name) == threads * threads * each
    for by_source in received:
        expected = {key: list(range(int(key[1][1]), each, 3)) for key in by_source}
        assert [key for key, values in by_source.items() if values != expected[key]] == []
        assert len(by_source) == threads * len(topics)
    assert all(len(interfaces[0].get_messages(topic)) == 500 for topic in topics)
    for interface in interfaces:
        interface.shutdown()


CLIENTS = pytest.mark.parametrize("client_class", [SimpleClient, MessageTrackingClient])


@CLIENTS
def test_many_publish_to_many_at_once(client_class: type[Client]) -> None:
    many_to_many(client_class, 2_500)


@pytest.mark.long
@CLIENTS
def test_a_hundred_thousand_messages_between_many_threads(client_class: type[Client]) -> None:
    many_to_many(client_class, 12_500)
