"""Any mix of clients that come, subscribe, hear, leave and vanish, against a plain model: both always agree."""

from collections import Counter, defaultdict
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from rustic_host.messaging import AgentTag, Message, MessageTrackingClient, MessagingConfig, MessagingInterface
from tests.messaging.bus import message, wait_until
from tests.messaging.conftest import FLAVOURS, ServerOf

NAMES, TOPICS = ("a", "b", "c"), ("t", "u")
SENDER = AgentTag(id="s", name="s")
name_of, topic_of = st.sampled_from(NAMES), st.sampled_from(TOPICS)


class Subscribing(RuleBasedStateMachine):
    """Without a log: who is subscribed when a message is published hears it, at once."""

    config = MessagingConfig(backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend")

    def __init__(self) -> None:
        super().__init__()
        self.namespace = f"m{uuid4().hex}"
        self.published = 0
        self.heard: dict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
        self.expected: dict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
        self.clients: dict[str, MessageTrackingClient] = {}
        self.subscribed: set[tuple[str, str]] = set()
        self.messaging = MessagingInterface(self.namespace, self.config)

    @rule(name=name_of)
    def register(self, name: str) -> None:
        if name not in self.clients:
            self.clients[name] = self._client(name)

    @rule(name=name_of, topic=topic_of)
    def subscribe(self, name: str, topic: str) -> None:
        self.register(name)
        self.messaging.subscribe(topic, self.clients[name])
        self.subscribed.add((name, topic))
        self.on_subscribed(name, topic)

    @precondition(lambda self: self.subscribed)
    @rule(data=st.data())
    def subscribe_again(self, data: st.DataObject) -> None:
        """What is in force already: it changes nothing."""
        name, topic = data.draw(st.sampled_from(sorted(self.subscribed)))
        self.messaging.subscribe(topic, self.clients[name])

    @precondition(lambda self: self.subscribed)
    @rule(name=name_of, data=st.data())
    def join(self, name: str, data: st.DataObject) -> None:
        """A topic that somebody reads already."""
        _, topic = data.draw(st.sampled_from(sorted(self.subscribed)))
        self.subscribe(name, topic)

    @rule(name=name_of, topic=topic_of)
    def unsubscribe(self, name: str, topic: str) -> None:
        if name in self.clients:
            self.messaging.unsubscribe(topic, self.clients[name])
            self.subscribed.discard((name, topic))

    @rule(topics=st.sampled_from([["t"], ["u"], ["t", "u"]]))
    def publish(self, topics: list[str]) -> None:
        self.published += 1
        sender = MessageTrackingClient("sender", "sender", str)
        self.messaging.publish(sender, message(topics, {"n": self.published}, sender=SENDER))
        for topic in topics:
            self.on_published(topic)

    @rule(name=name_of)
    def unregister(self, name: str) -> None:
        if name in self.clients:
            self.messaging.unregister_client(self.clients.pop(name))
            self.subscribed = {each for each in self.subscribed if each[0] != name}

    @rule()
    def vanish(self) -> None:
        """The interface goes with all its clients, and there is a new one."""
        self.messaging.shutdown()
        self.messaging = MessagingInterface(self.namespace, self.config)
        self.clients, self.subscribed = {}, set()

    def on_subscribed(self, name: str, topic: str) -> None:
        """Nothing is owed."""

    def on_published(self, topic: str) -> None:
        for name in self._readers(topic):
            self.expected[name][topic, self.published] += 1

    @invariant()
    def deliveries_agree(self) -> None:
        assert self.heard == self.expected

    @invariant()
    def subscriptions_agree(self) -> None:
        by_topic = {self._full(topic): set(map(self._id, self._readers(topic))) for topic in TOPICS}
        assert self.messaging.subscribers == {topic: ids for topic, ids in by_topic.items() if ids}
        assert self.messaging.backend_subscriptions == self.in_backend()
        for name in NAMES:
            topics = {topic for who, topic in self.subscribed if who == name}
            assert set(self.messaging.topics_of(self._id(name))) == topics

    def in_backend(self) -> dict[str, int]:
        return {self._full(topic): 1 for _, topic in self.subscribed}

    def teardown(self) -> None:
        self.messaging.shutdown()

    def _client(self, name: str) -> MessageTrackingClient:
        def hear(received: Message) -> None:
            n: Any = received.payload["n"]
            self.heard[name][received.topic_published_to or "", n] += 1

        client = MessageTrackingClient(self._id(name), name, hear)
        self.messaging.register_client(client)
        return client

    def _readers(self, topic: str) -> list[str]:
        return [name for name, subscribed in self.subscribed if subscribed == topic]

    def _id(self, name: str) -> str:
        return f"{self.namespace}${name}"

    def _full(self, topic: str) -> str:
        return f"{self.namespace}:{topic}"


class SubscribingDurably(Subscribing):
    """With a log: a client hears all that was ever published on a topic, once, whenever it is subscribed to it."""

    def __init__(self) -> None:
        super().__init__()
        self.log: dict[str, list[int]] = {topic: [] for topic in TOPICS}

    def on_subscribed(self, name: str, topic: str) -> None:
        self.expected[name].update({(topic, n): 1 for n in self.log[topic] if (topic, n) not in self.expected[name]})

    def on_published(self, topic: str) -> None:
        self.log[topic].append(self.published)
        super().on_published(topic)

    @invariant()
    def deliveries_agree(self) -> None:
        wait_until(lambda: all(self.heard[name] == self.expected[name] for name in NAMES))

    def in_backend(self) -> dict[str, int]:
        return dict(Counter(self._full(topic) for _, topic in self.subscribed))


def run(machine: type[Subscribing], config: MessagingConfig, examples: int, steps: int) -> None:
    configured = type(machine.__name__, (machine,), {"config": config})
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    limits = settings(max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(configured, settings=limits)


@pytest.mark.parametrize("backend", ["InMemoryMessagingBackend", "FiveMethods"])
def test_without_a_log(backend: str) -> None:
    if backend == "FiveMethods":
        config = MessagingConfig(backend_module="tests.messaging.five_methods", backend_class=backend)
        run(SubscribingForGood, config, 25, 30)
    else:
        run(Subscribing, Subscribing.config, 25, 30)


class SubscribingForGood(Subscribing):
    """The backend cannot end a subscription: it stays, and is not made twice."""

    def __init__(self) -> None:
        super().__init__()
        self.ever: set[str] = set()

    def on_subscribed(self, name: str, topic: str) -> None:
        self.ever.add(topic)

    @rule()
    def vanish(self) -> None:
        super().vanish()
        self.ever = set()

    def in_backend(self) -> dict[str, int]:
        return {self._full(topic): 1 for topic in self.ever}


def config_at(url: str) -> MessagingConfig:
    return MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": {"url": url}},
    )


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_with_a_log(shared_server: ServerOf, flavour: str) -> None:
    run(SubscribingDurably, config_at(shared_server(flavour).url), 3, 12)


@pytest.mark.long
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_with_a_log_at_length(shared_server: ServerOf, flavour: str) -> None:
    run(SubscribingDurably, config_at(shared_server(flavour).url), 60, 30)
