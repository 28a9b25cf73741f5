"""One subscription of the backend for a topic, however many clients read it; and what that costs."""

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any
from uuid import uuid4

import pytest

from rustic_host.errors import MessagingError
from rustic_host.messaging import AgentTag, Message, MessagingConfig, MessagingInterface
from rustic_host.messaging import MessageTrackingClient as Client
from tests.messaging.bus import Bus, message, wait_until
from tests.messaging.five_methods import Ending

BACKENDS = {"memory": ("rustic_host.messaging", "InMemoryMessagingBackend")}
BACKENDS["five methods"] = ("tests.messaging.five_methods", "FiveMethods")


@pytest.fixture(params=BACKENDS)
def messaging(request: pytest.FixtureRequest) -> Iterator[MessagingInterface]:
    """Over each backend without a log."""
    module, name = BACKENDS[request.param]
    made = MessagingInterface(f"g{uuid4().hex}", MessagingConfig(backend_module=module, backend_class=name))
    yield made
    made.shutdown()


def client_of(messaging: MessagingInterface, name: str, handler: Callable[[Message], object] | None = None) -> Client:
    made = Client(f"{messaging.namespace}${name}", name, handler or (lambda received: None))
    messaging.register_client(made)
    return made


def sent_by(name: str, topics: str, payload: dict[str, Any] | None = None) -> Message:
    return message(topics, payload, sender=AgentTag(id=name, name=name))


def test_the_backend_is_subscribed_once_for_all_clients_of_a_topic(messaging: MessagingInterface) -> None:
    heard: list[str] = []
    clients = [client_of(messaging, name, lambda m, name=name: heard.append(name)) for name in "abc"]  # type: ignore[misc]
    topic = f"{messaging.namespace}:t"
    for client in clients:
        messaging.subscribe("t", client)
        messaging.subscribe("t", client)
        assert messaging.backend_subscriptions == {topic: 1}
    assert messaging.subscribers == {topic: {client.id for client in clients}}
    sender = client_of(messaging, "s")
    sender.publish(sent_by("s", "t"))
    assert heard == ["a", "b", "c"]
    messaging.unsubscribe("t", clients[0])
    messaging.unregister_client(clients[1])
    sender.publish(sent_by("s", "t"))
    assert heard == ["a", "b", "c", "c"]
    messaging.unsubscribe("t", clients[2])
    assert messaging.subscribers == {}
    messaging.subscribe("t", clients[0])
    sender.publish(sent_by("s", "t"))
    assert heard == ["a", "b", "c", "c", "a"]


def test_the_last_client_that_leaves_ends_the_subscription_of_the_backend() -> None:
    config = MessagingConfig(backend_module="tests.messaging.five_methods", backend_class="Ending")
    messaging = MessagingInterface("g", config)
    assert isinstance(messaging.backend, Ending)
    handlers = messaging.backend.handlers["g:t"]
    one, two = client_of(messaging, "a"), client_of(messaging, "b")
    for client in (one, two):
        messaging.subscribe("t", client)
    messaging.unregister_client(one)
    assert (messaging.backend_subscriptions, len(handlers)) == ({"g:t": 1}, 1)
    messaging.unsubscribe("t", two)
    assert (messaging.backend_subscriptions, handlers) == ({}, [])
    messaging.shutdown()


def test_each_durable_client_has_a_subscription_of_its_own(bus: Bus) -> None:
    settings = {"redis_client": bus.config}
    config = MessagingConfig(
        backend_module="rustic_host.messaging", backend_class="RedisMessagingBackend", backend_config=settings
    )
    messaging = MessagingInterface(bus.namespace, config)
    one, two = client_of(messaging, "a"), client_of(messaging, "b")
    for client in (one, two):
        messaging.subscribe("t", client)
    assert messaging.backend_subscriptions == {f"{bus.namespace}:t": 2}
    assert len(bus.connections(one.id)) == len(bus.connections(two.id)) == 1
    messaging.unregister_client(one)
    assert messaging.backend_subscriptions == {f"{bus.namespace}:t": 1}
    wait_until(lambda: not bus.connections(one.id))
    messaging.shutdown()
    wait_until(lambda: not bus.connections(two.id))


def test_no_client_sees_what_another_changes(messaging: MessagingInterface) -> None:
    seen: list[object] = []

    def spoil(received: Message) -> None:
        seen.append(dict(received.payload))
        received.payload["n"] = "spoilt"

    for name in "abc":
        messaging.subscribe("t", client_of(messaging, name, spoil))
    client_of(messaging, "s").publish(sent_by("s", "t"))
    assert seen == [{"n": 1}] * 3
    assert [m.payload for m in messaging.get_messages("t")] == [{"n": 1}]


def test_what_a_client_raises_becomes_a_dead_letter_and_the_others_hear(messaging: MessagingInterface) -> None:
    heard: list[Message] = []

    def fail(received: Message) -> None:
        received.payload["n"] = 2
        raise ValueError("no")

    messaging.subscribe("t", client_of(messaging, "a", fail))
    messaging.subscribe("t", client_of(messaging, "b", heard.append))
    messaging.subscribe("dead_letter_queue", client_of(messaging, "c", fail))
    sent = sent_by("s", "t")
    client_of(messaging, "s").publish(sent)
    (letter,) = messaging.get_messages("dead_letter_queue")
    assert [m.id for m in heard] == [sent.id]
    said = {key: letter.payload[key] for key in ("client_id", "error_type", "delivery_backend", "original_message_id")}
    assert said == {
        "client_id": f"{messaging.namespace}$a", "error_type": "ValueError",
        "delivery_backend": type(messaging.backend).__name__, "original_message_id": sent.id,
    }  # fmt: skip
    original: Any = letter.payload["original_message"]
    assert original["payload"] == {"n": 1}


def test_a_backend_that_refuses_a_subscription_is_asked_again(
    messaging: MessagingInterface, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(messaging, "a")
    with monkeypatch.context() as patch:
        patch.setattr(messaging.backend, "subscribe", _away)
        with pytest.raises(OSError, match="away"):
            messaging.subscribe("t", client)
    assert (messaging.topics_of(client.id), messaging.backend_subscriptions) == ([], {})
    messaging.subscribe("t", client)
    assert messaging.backend_subscriptions == {f"{messaging.namespace}:t": 1}


def _away(*_: object) -> None:
    raise OSError("away")


def test_the_next_message_of_a_client_and_those_of_a_thread(messaging: MessagingInterface) -> None:
    client = client_of(messaging, "a")
    first, second = sent_by("s", "t"), sent_by("s", "u")
    answer = message("t", thread=[first.id], sender=AgentTag(id="x"))
    for each in (answer, second, first):
        client_of(messaging, "s").publish(each)
    for topic in ("t", "u"):
        messaging.subscribe(topic, client)
    got = messaging.get_next_message_for_client(client.id, first.id)
    assert got is not None
    assert got.id == second.id
    assert messaging.get_next_message_for_client(client.id, answer.id) is None
    assert [m.id for m in messaging.get_messages_by_thread("t", first.id)] == [first.id, answer.id]


def test_shared_topics_need_their_namespace(messaging: MessagingInterface) -> None:
    client = client_of(messaging, "a")
    messaging.unsubscribe_shared("guild_inbox:g", client)
    for use in (messaging.subscribe_shared, lambda topic, of: messaging.publish_to_shared(of, sent_by("s", topic))):
        with pytest.raises(MessagingError, match="no shared namespace"):
            use("guild_inbox:g", client)
    messaging.activate_shared_namespace("org")
    messaging.activate_shared_namespace("org")
    with pytest.raises(MessagingError, match="is not shared"):
        messaging.subscribe_shared("t", client)
    messaging.subscribe_shared("guild_inbox:g", client)
    assert (messaging.subscribers, messaging.shared_subscribers) == ({}, {"org:guild_inbox:g": {client.id}})
    messaging.publish_to_shared(client, sent_by("s", "guild_inbox:g"))
    assert len(messaging.backend.get_messages_for_topic("org:guild_inbox:g")) >= 1
    messaging.unsubscribe_shared("org:guild_inbox:g", client)
    assert messaging.shared_subscribers == {}


def test_subscribers_that_come_and_go_in_many_threads() -> None:
    """The index stays true when threads meet in it."""
    config = MessagingConfig(backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend")
    messaging = MessagingInterface(f"g{uuid4().hex}", config)

    def come_and_go(name: str) -> None:
        client = client_of(messaging, name)
        for _ in range(200):
            messaging.subscribe("t", client)
            messaging.unsubscribe("t", client)

    threads = [threading.Thread(target=come_and_go, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (messaging.subscribers, messaging.backend_subscriptions) == ({}, {})
    messaging.shutdown()


def test_many_clients_and_topics_make_nothing_costlier() -> None:
    """The document's O(1), counted in instructions; ``benchmarks/messaging.py`` has the times."""
    few, many = _instructions_among(10), _instructions_among(5000)
    assert all(abs(many[step] - few[step]) < 20 for step in few), (few, many)


def _instructions_among(many: int) -> dict[str, int]:
    """Of the interpreter, for each thing that is to cost the same among so many clients and topics."""
    config = MessagingConfig(backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend")
    messaging = MessagingInterface("many", config)
    for n in range(many):
        client = client_of(messaging, f"c{n}")
        messaging.subscribe(f"t{n}", client)
        messaging.subscribe("all", client)
    new = Client("many$new", "new", str)
    steps: dict[str, Callable[[], object]] = {
        "register": lambda: messaging.register_client(new),
        "subscribe to what others read": lambda: messaging.subscribe("all", new),
        "subscribe to one of many topics": lambda: messaging.subscribe("many:t5", new),
        "subscribe to a new topic": lambda: messaging.subscribe("new", new),
        "look up": lambda: (messaging.topics_of(new.id), messaging.clients[new.id]),
        "unsubscribe": lambda: messaging.unsubscribe("all", new),
        "unregister": lambda: messaging.unregister_client(new),
    }
    counted = {name: _instructions(step) for name, step in steps.items()}
    messaging.shutdown()
    return counted


def _instructions(step: Callable[[], object]) -> int:
    counted = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal counted
        frame.f_trace_opcodes = True
        counted += event == "opcode"
        return trace

    before = sys.gettrace()
    gc.collect()
    gc.disable()  # else what other tests left is finalized, and counted, here
    sys.settrace(trace)
    try:
        step()
    finally:
        sys.settrace(before)
        gc.enable()
    return counted
