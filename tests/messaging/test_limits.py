"""What a message may be: how old at its delivery, how large, and how many of one handler."""

import queue
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from rustic_host.errors import MessageTooLargeError, OutboxFullError
from rustic_host.messaging import AgentTag, Message, MessagingConfig, MessagingInterface, SimpleClient, in_hand
from rustic_host.messaging.counts import Count
from rustic_host.messaging.delivery import frames_of
from rustic_host.messaging.sizes import LARGE_MESSAGE_BYTES, SizeLimits
from tests.messaging.bus import WAIT_SECONDS, Bus, message, wait_until
from tests.messaging.conftest import FLAVOURS, ServerOf

LIMIT = 3 << 20


class Party:
    """An interface, its wall clock, and its one reader."""

    def __init__(self, config: MessagingConfig) -> None:
        self.now = 0.0
        self.messaging = MessagingInterface(f"g{uuid4().hex}", config, wall_clock=lambda: self.now)
        self.heard: queue.Queue[Message] = queue.Queue()
        self.handle: Callable[[Message], object] = self.heard.put
        self.reader = self.client("a", lambda received: self.handle(received))

    def client(self, name: str, handler: Callable[[Message], object]) -> SimpleClient:
        made = SimpleClient(f"{self.messaging.namespace}${name}", name, handler)
        self.messaging.register_client(made)
        return made

    def letters(self) -> list[dict[str, Any]]:
        return [letter.payload for letter in self.messaging.get_messages("dead_letter_queue")]


def redis_at(url: str) -> MessagingConfig:
    return MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": {"url": url, "max_message_bytes": LIMIT}},
    )


@pytest.fixture(params=["memory", "five methods", *FLAVOURS])
def party(request: pytest.FixtureRequest, shared_server: ServerOf) -> Iterator[Party]:
    if request.param == "memory":
        config = MessagingConfig(backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend")
    elif request.param == "five methods":
        config = MessagingConfig(backend_module="tests.messaging.five_methods", backend_class="FiveMethods")
    else:
        config = redis_at(shared_server(request.param).url)
    made = Party(config)
    if request.param not in FLAVOURS:
        made.messaging.backend.sizes = SizeLimits(LIMIT)
    yield made
    made.messaging.shutdown()


def sent_by(name: str, payload: dict[str, Any] | None = None, **fields: Any) -> Message:
    return message("t", payload, sender=AgentTag(id=name, name=name), **fields)


def test_a_message_whose_time_is_over_becomes_a_dead_letter(party: Party) -> None:
    old, fresh = sent_by("s", {"n": 1}, ttl=10), sent_by("s", {"n": 2}, ttl=20)
    own = sent_by("a", {"n": 3}, ttl=0)
    party.now = fresh.timestamp / 1000 + 15
    party.messaging.subscribe("t", party.reader)
    for each in (old, own, fresh):
        party.messaging.publish(party.reader, each)
    assert party.heard.get(timeout=WAIT_SECONDS).payload == {"n": 2}
    wait_until(lambda: len(party.letters()) == 1)
    (letter,) = party.letters()
    assert (letter["error_type"], letter["original_message_id"]) == ("MessageExpiredError", old.id)
    assert party.heard.empty()


def test_what_is_too_large_is_refused_before_anything_is_stored(party: Party) -> None:
    for payload in (
        {"x": "a" * LIMIT},
        {"x": [[{"y": "ü" * LIMIT}]]},
        {"k" * LIMIT: 1},
        {"n": [1 << 60] * (LIMIT // 8)},
    ):
        large = message(["t", "u"], payload)
        with pytest.raises(MessageTooLargeError, match=f"{large.id} for topic 't' has .* {LIMIT} are the most"):
            party.messaging.publish(party.reader, large)
    with pytest.raises(MessageTooLargeError):
        party.messaging.publish(party.reader, message("t", session_state={"x": "a" * LIMIT}))
    assert [party.messaging.get_messages(topic) for topic in ("t", "u")] == [[], []]
    party.messaging.publish(party.reader, message("t", {"x": "a" * (LIMIT - 2000)}))
    assert len(party.messaging.get_messages("t")) == 1


@pytest.mark.parametrize("much", ["large", "many"])
def test_a_handler_that_sends_too_much_fails_as_any_other(
    party: Party, much: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_hand, "OUTBOX_FRAMES", 3)

    def handle(received: Message) -> None:
        for n in range(4 if much == "many" else 1):
            party.reader.publish(message("out", {"n": n, "x": "a" * (LIMIT if much == "large" else 1)}))

    party.handle = handle
    party.messaging.subscribe("t", party.reader)
    party.messaging.publish(party.reader, sent_by("s"))
    wait_until(lambda: len(party.letters()) == 1)
    error = MessageTooLargeError if much == "large" else OutboxFullError
    assert party.letters()[0]["error_type"] == error.__name__
    assert party.messaging.get_messages("out") == []


def test_a_large_message_is_warned_of_once_a_topic(caplog: pytest.LogCaptureFixture) -> None:
    sizes = SizeLimits()
    large, small = message(["t", "u"], {"x": "a" * LARGE_MESSAGE_BYTES}), message("v")
    for each in (large, large, small):
        sizes.check(each)
    assert caplog.text.count("large_message") == 2


def test_large_messages_are_counted_apart(bus: Bus) -> None:
    bus.publish(1)
    bus.publisher().publish(bus.namespace, frames_of(message("t", {"x": "a" * LARGE_MESSAGE_BYTES})))
    counted = bus.counts()
    assert counted == {Count("published", "t"): 1, Count("published_large", "t"): 1}
    assert all(count.is_published for count in counted)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_one_outbox_holds_so_many_bytes(shared_server: ServerOf, flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages in memory are not written, so they have no bytes."""
    monkeypatch.setattr(in_hand, "OUTBOX_BYTES", 5000)
    party = Party(redis_at(shared_server(flavour).url))

    def handle(received: Message) -> None:
        for _ in range(3):
            party.reader.publish(message("out", {"x": "a" * 2000}))

    party.handle = handle
    party.messaging.subscribe("t", party.reader)
    party.messaging.publish(party.reader, sent_by("s"))
    wait_until(lambda: len(party.letters()) == 1)
    assert party.letters()[0]["error_type"] == "OutboxFullError"
    party.messaging.shutdown()
