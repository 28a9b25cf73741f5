"""The bus as agents and library users see it, on every backend."""

import json
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from rustic_host.errors import BackendUnavailableError, MessageError, MessagingError
from rustic_host.messaging import (
    AgentTag,
    GemstoneGenerator,
    InMemoryMessagingBackend,
    Message,
    MessagingConfig,
    MessagingInterface,
    ProcessEntry,
    RedisMessagingBackend,
    SimpleClient,
)
from rustic_host.messaging.dead_letter import replay_of
from rustic_host.messaging.delivery import frames_of
from tests.messaging import example_backend
from tests.messaging.bus import WAIT_SECONDS, Bus, message, wait_until
from tests.messaging.conftest import FLAVOURS, ServerOf
from tests.system.servers import RedisServer

Inbox = queue.Queue[Message]


@pytest.fixture(params=["memory", "the page's", *FLAVOURS])
def config(request: pytest.FixtureRequest, shared_server: ServerOf, tmp_path: Path) -> MessagingConfig:
    if request.param == "the page's":  # of docs/messaging.md
        return example_backend.config_at(tmp_path / "messages.db")
    if request.param == "memory":
        return MessagingConfig(
            backend_module="rustic_ai.core.messaging.backend", backend_class="InMemoryMessagingBackend"
        )
    return MessagingConfig(
        backend_module="rustic_ai.redis.messaging.backend",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": {"url": shared_server(request.param).url}},
    )


@pytest.fixture
def messaging(config: MessagingConfig) -> Iterator[MessagingInterface]:
    made = MessagingInterface(f"g-{GemstoneGenerator(1).get_id().to_int()}", config)
    yield made
    made.shutdown()


@pytest.fixture
def on_server(bus: Bus) -> Iterator[MessagingInterface]:
    """On Redis alone, in the namespace of ``bus``."""
    made = interface_of(bus)
    yield made
    made.shutdown()


def interface_of(bus: Bus) -> MessagingInterface:
    return MessagingInterface(
        bus.namespace,
        MessagingConfig(
            backend_module="rustic_host.messaging",
            backend_class="RedisMessagingBackend",
            backend_config={"redis_client": bus.config},
        ),
    )


def client_of(
    messaging: MessagingInterface, agent: str, handler: Callable[[Message], object] | None = None
) -> tuple[SimpleClient, Inbox]:
    """A registered client, and what it received (after its handler returned)."""
    inbox: Inbox = queue.Queue()

    def handle(received: Message) -> object:
        answer = handler(received) if handler else None
        inbox.put(received)
        return answer

    client = SimpleClient(f"{messaging.namespace}${agent}", agent, handle)
    messaging.register_client(client)
    return client, inbox


def sent_by(agent: str, topics: str | list[str], payload: dict[str, Any] | None = None, **fields: Any) -> Message:
    return message(topics, payload, sender=AgentTag(id=agent, name=agent), **fields)


def taken(inbox: Inbox, n: int = 1) -> list[dict[str, Any]]:
    return [inbox.get(timeout=WAIT_SECONDS).payload for _ in range(n)]


def test_a_message_reaches_who_subscribed_and_nobody_else(messaging: MessagingInterface) -> None:
    sender, _ = client_of(messaging, "s")
    (_, first), (_, second), (other, elsewhere) = (client_of(messaging, name) for name in ("a", "b", "c"))
    for name in ("a", "b"):
        messaging.subscribe("t", messaging.clients[f"{messaging.namespace}${name}"])
    messaging.subscribe("u", other)
    sent = sent_by("s", "t", {"x": [1, "ü"]})
    sender.publish(sent)
    for inbox in (first, second):
        received = inbox.get(timeout=WAIT_SECONDS)
        assert received.topic_published_to == "t"
        assert received.to_json_bytes() == sent.published_to("t").to_json_bytes()
    sender.publish(sent_by("s", "u", {"last": True}))
    assert taken(elsewhere) == [{"last": True}]
    assert first.empty()


def test_a_topic_may_be_given_with_its_namespace(messaging: MessagingInterface) -> None:
    sender, _ = client_of(messaging, "s")
    client, inbox = client_of(messaging, "a")
    messaging.subscribe(f"{messaging.namespace}:t", client)
    assert messaging.topics_of(client.id) == ["t"]
    sender.publish(sent_by("s", "t"))
    assert taken(inbox) == [{"n": 1}]


def test_each_topic_of_a_message_is_one_delivery(messaging: MessagingInterface) -> None:
    sender, _ = client_of(messaging, "s")
    client, inbox = client_of(messaging, "a")
    messaging.subscribe("t", client)
    messaging.subscribe("u", client)
    sender.publish(sent_by("s", ["t", "u", "t", "v"]))
    assert [inbox.get(timeout=WAIT_SECONDS).topic_published_to for _ in range(2)] == ["t", "u"]
    sender.publish(sent_by("s", "u", {"last": True}))
    assert taken(inbox) == [{"last": True}]


def test_nobody_hears_itself_but_in_its_self_inbox(messaging: MessagingInterface) -> None:
    client, inbox = client_of(messaging, "a")
    other, _ = client_of(messaging, "b")
    for topic in ("t", "agent_self_inbox:a"):
        messaging.subscribe(topic, client)
    client.publish(sent_by("a", "t", {"own": True}))
    other.publish(sent_by("b", "agent_self_inbox:a", {"intruder": True}))
    client.publish(sent_by("a", "agent_self_inbox:a", {"tick": True}))
    other.publish(sent_by("b", "t", {"other": True}))
    assert sorted(map(str, taken(inbox, 2))) == ["{'other': True}", "{'tick': True}"]
    assert inbox.empty()


def test_nothing_comes_after_unsubscribing(messaging: MessagingInterface) -> None:
    sender, _ = client_of(messaging, "s")
    client, inbox = client_of(messaging, "a")
    for topic in ("t", "u"):
        messaging.subscribe(topic, client)
    messaging.unsubscribe("t", client)
    messaging.unsubscribe("never", client)
    assert messaging.topics_of(client.id) == ["u"]
    sender.publish(sent_by("s", ["t", "u"]))
    assert inbox.get(timeout=WAIT_SECONDS).topic_published_to == "u"
    assert inbox.empty()


def test_nothing_comes_after_unregistering(messaging: MessagingInterface) -> None:
    sender, _ = client_of(messaging, "s")
    client, inbox = client_of(messaging, "a")
    _, other = client_of(messaging, "b")
    for name in ("a", "b"):
        messaging.subscribe("t", messaging.clients[f"{messaging.namespace}${name}"])
    messaging.unregister_client(client)
    messaging.unregister_client(client)
    assert (messaging.topics_of(client.id), client.id in messaging.clients) == ([], False)
    with pytest.raises(MessagingError, match="not connected"):
        client.publish(message())
    sender.publish(sent_by("s", "t"))
    assert taken(other) == [{"n": 1}]
    assert inbox.empty()


def test_a_client_belongs_to_one_interface(messaging: MessagingInterface, config: MessagingConfig) -> None:
    client, _ = client_of(messaging, "a")
    other = MessagingInterface("other", config)
    with pytest.raises(MessagingError, match="another interface"):
        other.register_client(client)
    other.clients.clear()
    other.shutdown()


def test_a_message_without_a_topic_is_refused(messaging: MessagingInterface) -> None:
    client, _ = client_of(messaging, "a")
    without_topic = message(["t"])
    without_topic.topic_list.clear()
    with pytest.raises(MessageError, match="names no topic"):
        client.publish(without_topic)


def test_stored_messages_can_be_read(messaging: MessagingInterface) -> None:
    client, _ = client_of(messaging, "a")
    sent = [message("t", {"n": n}) for n in range(4)]
    for each in reversed(sent):
        client.publish(each)
    messaging.subscribe("t", client)
    ids = [each.id for each in sent]
    assert [m.id for m in messaging.get_messages("t")] == ids
    assert [m.id for m in messaging.get_messages_for_topic_since("t", ids[1])] == ids[2:]
    assert [m.id for m in messaging.get_messages_for_client_since(client.id, ids[2])] == ids[3:]
    found = messaging.get_next_message_for_topic("t", ids[0])
    assert found is not None
    assert found.id == ids[1]
    assert messaging.get_next_message_for_topic("t", ids[-1]) is None
    assert [m.id for m in messaging.backend.get_messages_by_id(messaging.namespace, [ids[2], 5, ids[0]])] == [
        ids[2], ids[0],
    ]  # fmt: skip
    assert messaging.backend.get_messages_by_id(messaging.namespace, []) == []


def test_history_is_put_into_the_session_state(messaging: MessagingInterface) -> None:
    sender, _ = client_of(messaging, "s")
    client, inbox = client_of(messaging, "a")
    origins = [sent_by("s", "old", {"n": n}) for n in range(4)]
    for origin in origins[1:]:
        sender.publish(origin)
    messaging.subscribe("t", client)
    history = [ProcessEntry(agent=sender_tag(), origin=o.id, result=1, processor="p") for o in origins]
    sender.publish(
        sent_by("s", "t", message_history=history, enrich_with_history=3, session_state={"kept": 1}, payload={"n": 9})
    )
    state = inbox.get(timeout=WAIT_SECONDS).session_state
    assert state is not None
    assert state["kept"] == 1
    texts: Any = state["enriched_history"]
    enriched = [Message.from_json(text).id for text in texts]
    assert enriched == [origin.id for origin in origins[1:]]


def number_of(received: Message) -> int:
    n = received.payload["n"]
    assert isinstance(n, int)
    return n


def sender_tag() -> AgentTag:
    return AgentTag(id="s", name="s")


def test_many_hops_between_two_agents(messaging: MessagingInterface) -> None:
    done = threading.Event()

    def hop(agent: str, to: str) -> Callable[[Message], None]:
        def handle(received: Message) -> None:
            n = number_of(received)
            if n >= 1500:
                done.set()
            else:
                messaging.clients[f"{messaging.namespace}${agent}"].publish(sent_by(agent, to, {"n": n + 1}))

        return handle

    first, _ = client_of(messaging, "a", hop("a", "to-b"))
    second, _ = client_of(messaging, "b", hop("b", "to-a"))
    messaging.subscribe("to-a", first)
    messaging.subscribe("to-b", second)
    outside, _ = client_of(messaging, "s")
    outside.publish(sent_by("s", "to-a", {"n": 0}))
    assert done.wait(WAIT_SECONDS * 2)


def test_a_handler_that_changes_its_message_changes_nobody_elses(messaging: MessagingInterface) -> None:
    sender, _ = client_of(messaging, "s")

    def spoil(received: Message) -> None:
        values: Any = received.payload["x"]
        values.append("mine")

    for name in ("a", "b"):
        client, _ = client_of(messaging, name, spoil)
        messaging.subscribe("t", client)
    last, inbox = client_of(messaging, "c")
    messaging.subscribe("t", last)
    sender.publish(sent_by("s", "t", {"x": [1]}))
    assert taken(inbox) == [{"x": [1]}]
    assert [m.payload for m in messaging.get_messages("t")] == [{"x": [1]}]


def test_a_handler_that_raises_does_not_end_delivery(messaging: MessagingInterface) -> None:
    def fail_once(received: Message) -> None:
        if received.payload["n"] == 1:
            raise ValueError("no")

    sender, _ = client_of(messaging, "s")
    client, inbox = client_of(messaging, "a", fail_once)
    messaging.subscribe("t", client)
    for n in (1, 2):
        sender.publish(sent_by("s", "t", {"n": n}))
    assert taken(inbox) == [{"n": 2}]


# --- On Redis only: what is durable.


def test_what_a_handler_publishes_leaves_with_the_commit_of_its_message(
    bus: Bus, on_server: MessagingInterface
) -> None:
    before_commit: list[object] = []

    def handle(received: Message) -> str:
        for topic in ("x", "y"):
            client.publish(sent_by("a", topic, {"n": received.payload["n"]}))
        before_commit.append((bus.pending(client_id=client.id), bus.raw.exists(bus.log("x"), bus.log("y"))))
        return "fine"

    client, inbox = client_of(on_server, "a", handle)
    on_server.subscribe("t", client)
    bus.publish(1)
    taken(inbox)
    wait_until(lambda: not bus.pending(client_id=client.id))
    assert before_commit == [(1, 0)]
    assert (bus.logged("x"), bus.logged("y"), bus.outcomes()) == ([1], [1], {"fine": 1})


def test_a_handler_that_raises_leaves_a_dead_letter_in_its_commit_and_sends_nothing(
    bus: Bus, on_server: MessagingInterface
) -> None:
    def handle(received: Message) -> None:
        client.publish(sent_by("a", "x", {"n": 1}))
        received.payload["spoilt"] = object()  # type: ignore[assignment]
        raise FileNotFoundError("no such file: ü")

    client, _ = client_of(on_server, "a", handle)
    on_server.subscribe("t", client)
    sent = message("t", {"n": 1}, traceparent="00-1-2-01")
    bus.publisher().publish(bus.namespace, frames_of(sent))
    wait_until(lambda: bool(bus.letters()))
    (letter,) = bus.letters()
    assert bus.pending(client_id=client.id) == 0
    assert not bus.raw.exists(bus.log("x"))
    assert bus.outcomes() == {"failed": 1}
    assert letter["payload"].pop("traceback").endswith("FileNotFoundError: no such file: ü\n")
    assert letter["payload"] == {
        "attempts": 1,
        "delivery_backend": "RedisMessagingBackend",
        "client_id": client.id,
        "original_topic": f"{bus.namespace}:t",
        "original_message_id": sent.id,
        "original_message": json.loads(sent.published_to("t").to_json_bytes()),
        "error_type": "FileNotFoundError",
        "error_message": "no such file: ü",
    }
    expected = {
        "sender": {"id": "messaging_backend", "name": "MessagingBackend"}, "topics": "dead_letter_queue",
        "format": "generic_json", "in_response_to": sent.id, "is_error_message": True, "priority": 4,
        "traceparent": "00-1-2-01",
    }  # fmt: skip
    assert {name: letter[name] for name in expected} == expected


@pytest.mark.parametrize(
    "body",
    [b"no json", b"", b"\xff\xfe", b"{}", b'{"id": "x"}', b"[" * 5000 + b"]" * 5000, b'{"id":1,"unknown_":2}', b"null"],
)
def test_an_entry_that_is_no_message_is_quarantined_and_the_rest_goes_on(
    bus: Bus, on_server: MessagingInterface, body: bytes
) -> None:
    bus.publish(1)
    bus.raw.xadd(bus.log(), {"m": body})
    bus.publish(2)
    client, inbox = client_of(on_server, "a")
    on_server.subscribe("t", client)
    assert taken(inbox, 2) == [{"n": 1}, {"n": 2}]
    wait_until(lambda: bus.outcomes().total() == 3)
    assert bus.outcomes() == {"ok": 2, "quarantined": 1}
    (letter,) = bus.letters()
    assert letter["payload"]["original_text"] == body.decode(errors="replace")
    assert letter["payload"]["original_message_id"] is None
    assert letter["payload"]["error_message"]
    assert bus.pending(client_id=client.id) == 0


@pytest.mark.parametrize("kept", [None, {"user": "x"}])
def test_a_replayed_message_reaches_its_client_alone_and_as_it_was(
    messaging: MessagingInterface, kept: dict[str, Any] | None
) -> None:
    sender, _ = client_of(messaging, "s")
    (first, its), (second, others) = (client_of(messaging, name) for name in ("a", "b"))
    for client in (first, second):
        messaging.subscribe("t", client)
    original = message("t", {"n": 1}, session_state=kept)
    sender.publish(replay_of(json.loads(original.to_json()), first.id))
    sender.publish(message("t", {"n": 2}))
    received = its.get(timeout=WAIT_SECONDS)
    assert received.to_json() == original.published_to("t").to_json()
    assert taken(its) == taken(others) == [{"n": 2}]


def test_a_replayed_message_that_fails_again_is_a_dead_letter_without_the_mark(
    bus: Bus, on_server: MessagingInterface
) -> None:
    def fail(received: Message) -> None:
        raise ValueError("again")

    client, _ = client_of(on_server, "a", fail)
    other, _ = client_of(on_server, "b", fail)
    for each in (client, other):
        on_server.subscribe("t", each)
    sent = message("t", {"n": 1}, session_state={"user": "x"})
    bus.publisher().publish(bus.namespace, frames_of(replay_of(json.loads(sent.to_json()), client.id)))
    wait_until(lambda: bus.outcomes() == {"failed": 1, "filtered": 1})
    (letter,) = bus.letters()
    assert letter["payload"]["original_message"] == json.loads(sent.published_to("t").to_json())
    assert letter["payload"]["client_id"] == client.id


def test_a_trimmed_entry_is_counted_as_lost(bus: Bus, on_server: MessagingInterface) -> None:
    held = bus.consumer(f"{bus.namespace}$a")
    bus.publish(1, 2)
    held.read()
    bus.raw.xtrim(bus.log(), maxlen=1, approximate=False)
    client, inbox = client_of(on_server, "a")
    on_server.subscribe("t", client)
    assert taken(inbox) == [{"n": 2}]
    wait_until(lambda: bus.outcomes() == {"ok": 1, "lost_to_retention": 1})
    assert bus.pending(client_id=client.id) == 0


def test_a_reader_of_dead_letters_that_fails_makes_no_more_of_them(bus: Bus, on_server: MessagingInterface) -> None:
    def fail(received: Message) -> None:
        raise ValueError("no")

    client, _ = client_of(on_server, "a", fail)
    on_server.subscribe("dead_letter_queue", client)
    bus.publish(1, topic="dead_letter_queue")
    wait_until(lambda: bus.outcomes() == {"failed": 1})
    assert len(bus.letters()) == 1


def test_what_was_handled_is_not_handled_again_by_the_next_process(bus: Bus) -> None:
    for n in range(3):
        messaging = interface_of(bus)
        client, inbox = client_of(messaging, "a")
        messaging.subscribe("t", client)
        bus.publish(n)
        assert taken(inbox) == [{"n": n}]
        messaging.shutdown()
    assert (bus.pending(client_id=client.id), bus.outcomes()) == (0, {"ok": 3})


def test_a_handler_may_unregister_its_own_client(bus: Bus, on_server: MessagingInterface) -> None:
    def handle(received: Message) -> None:
        client.publish(sent_by("a", "x", {"n": received.payload["n"]}))
        on_server.unregister_client(client)

    client, inbox = client_of(on_server, "a", handle)
    on_server.subscribe("t", client)
    bus.publish(1, 2)
    taken(inbox)
    wait_until(lambda: bus.logged("x") == [1])
    wait_until(lambda: not any(t.name == f"reader-{client.id}" for t in threading.enumerate()))
    assert bus.outcomes() == {"ok": 1}


def test_everything_ends_while_the_server_is_away(own_bus: Bus, own_server: RedisServer) -> None:
    messaging = interface_of(own_bus)
    client, _ = client_of(messaging, "a")
    for topic in ("t", "u", "v"):
        messaging.subscribe(topic, client)
    own_server.stop()
    messaging.shutdown()
    assert messaging.clients == {}
    assert not any(t.name == f"reader-{client.id}" for t in threading.enumerate())


def test_a_client_for_a_loop_of_ones_own(bus: Bus, on_server: MessagingInterface) -> None:
    client = SimpleClient(f"{bus.namespace}$a", "a", lambda received: pump.stop())
    with pytest.raises(MessagingError, match="threaded=False"):
        on_server.run(client)
    on_server.register_client(client, threaded=False)
    on_server.subscribe("t", client)
    pump = on_server.run(client)
    bus.publish(1)
    pump.run()
    pump.close()
    assert (pump.handled, bus.outcomes()) == (1, {"ok": 1})


def test_memory_has_no_loop_of_ones_own() -> None:
    made = MessagingInterface(
        "g", MessagingConfig(backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend")
    )
    client = SimpleClient("g$a", "a", print)
    made.register_client(client, threaded=False)
    with pytest.raises(MessagingError, match="keeps no log"):
        made.run(client)


def test_subscribing_fails_when_the_group_is_lost(bus: Bus, on_server: MessagingInterface) -> None:
    bus.consumer(f"{bus.namespace}$a")
    bus.raw.xgroup_destroy(bus.log(), f"{bus.namespace}$a")
    client, _ = client_of(on_server, "a")
    with pytest.raises(MessagingError, match="was destroyed"):
        on_server.subscribe("t", client)


def test_plain_callbacks_of_the_backend_are_durable_too(bus: Bus) -> None:
    backend = RedisMessagingBackend(bus.config)
    inbox: Inbox = queue.Queue()
    backend.subscribe(f"{bus.namespace}:t", inbox.put, "c", bus.namespace)
    backend.subscribe(f"{bus.namespace}:u", inbox.put, "c", bus.namespace)
    backend.store_message(bus.namespace, f"{bus.namespace}:t", message("ignored", {"n": 1}))
    assert taken(inbox) == [{"n": 1}]
    backend.unsubscribe(f"{bus.namespace}:t", "c")
    bus.publish(2)
    bus.publish(3, topic="u")
    assert taken(inbox) == [{"n": 3}]
    backend.cleanup()
    with pytest.raises(BackendUnavailableError):
        RedisMessagingBackend({"unix_socket_path": "/nonexistent"})._place("g").publisher._link.connect()


def test_all_plain_callbacks_of_a_topic_are_called_and_what_one_raises_is_told_once(bus: Bus) -> None:
    def fail(received: Message) -> None:
        received.payload["n"] = 2
        raise ValueError("no")

    backend = RedisMessagingBackend(bus.config)
    inbox: Inbox = queue.Queue()
    for callback in (fail, inbox.put, inbox.put):
        backend.subscribe(f"{bus.namespace}:t", callback, "c", bus.namespace)
    bus.publish(1)
    assert taken(inbox) == [{"n": 1}]
    wait_until(lambda: bus.outcomes() == {"failed": 1})
    assert [letter["payload"]["error_type"] for letter in bus.letters()] == ["ValueError"]
    backend.cleanup()


def test_a_plain_callback_that_raises_makes_a_dead_letter_in_memory() -> None:
    def fail(received: Message) -> None:
        received.payload["n"] = 2
        raise ValueError("no")

    backend, namespace = InMemoryMessagingBackend(), f"g{uuid4().hex}"
    for topic in ("t", "dead_letter_queue"):
        backend.subscribe(f"{namespace}:{topic}", fail)
    backend.store_message(namespace, f"{namespace}:t", message("t"))
    (letter,) = backend.get_messages_for_topic(f"{namespace}:dead_letter_queue")
    original: Any = letter.payload["original_message"]
    assert (letter.payload["error_type"], original["payload"]) == ("ValueError", {"n": 1})
    assert letter.payload["delivery_backend"] == "InMemoryMessagingBackend"
    backend.cleanup()


def test_a_plain_callback_that_raises_makes_a_dead_letter(bus: Bus) -> None:
    def fail(received: Message) -> None:
        received.payload["n"] = 2
        raise ValueError("no")

    backend = RedisMessagingBackend(bus.config)
    for topic in ("t", "dead_letter_queue"):
        backend.subscribe(f"{bus.namespace}:{topic}", fail, "c", bus.namespace)
    bus.publish(1)
    bus.raw.xadd(bus.log(), {"m": b"no json"})
    wait_until(lambda: bus.outcomes() == {"failed": 3, "quarantined": 1})
    backend.cleanup()
    first, second = (letter["payload"] for letter in bus.letters())
    assert (first["error_type"], first["client_id"], first["original_message"]["payload"]) == (
        "ValueError",
        "c",
        {"n": 1},
    )
    assert second["original_text"] == "no json"


def test_memory_is_shared_within_the_process() -> None:
    first, second = InMemoryMessagingBackend(), InMemoryMessagingBackend()
    seen: list[int] = []
    second.subscribe("shared:t", lambda received: seen.append(received.id))
    sent = message("t")
    first.store_message("shared", "shared:t", sent)
    assert seen == [sent.id]
    second.cleanup()
    first.store_message("shared", "shared:t", message("t"))
    assert seen == [sent.id]


def test_guilds_share_a_topic_only_when_the_namespace_is_active(config: MessagingConfig) -> None:
    """Facts 3.10: ``<org>:guild_inbox:<guild>``; nobody's own messages are dropped there: ids mean little."""
    heard: Inbox = queue.Queue()
    one, two = (MessagingInterface(f"{name}_{uuid4().hex}", config) for name in ("one", "two"))
    sender, reader = SimpleClient("one$gateway", "Gateway", str), SimpleClient("two$gateway", "Gateway", heard.put)
    try:
        one.register_client(sender)
        two.register_client(reader)
        sent = Message(GemstoneGenerator(1).get_id(), sender=AgentTag(id="gateway"), topics="t", payload={"n": 1})
        with pytest.raises(MessagingError, match="no shared namespace"):
            sender.publish_to_guild_inbox(two.namespace, sent)
        organization = f"org_{uuid4().hex}"
        for interface in (one, two):
            interface.activate_shared_namespace(organization)
        with pytest.raises(MessagingError, match="already"):
            one.activate_shared_namespace("another")
        two.subscribe(f"guild_inbox:{two.namespace}", reader)
        sender.publish_to_guild_inbox(two.namespace, sent)
        got = heard.get(timeout=10)
        assert got.topic_published_to == f"guild_inbox:{two.namespace}"
        assert one.backend.get_messages_for_topic(f"{organization}:guild_inbox:{two.namespace}")[0].id == sent.id
        assert one.get_messages("t") == []
    finally:
        one.shutdown()
        two.shutdown()
