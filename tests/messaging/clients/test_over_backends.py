"""Each client on each backend, and the same behaviour on all of them."""

import threading
import time
from collections.abc import Callable
from itertools import count, pairwise

import pytest

from rustic_host.messaging import (
    AgentTag,
    Client,
    FilteringClient,
    FixedBackoff,
    Later,
    LoggingClient,
    Message,
    MessageTrackingClient,
    MessagingInterface,
    PipelineClient,
    Priority,
    RetryingClient,
    SimpleClient,
    ThrottlingClient,
    TransformingClient,
)
from rustic_host.messaging.client import MessageHandler
from rustic_host.messaging.retry import RetryPolicy
from tests.messaging.bus import GENERATOR, PATIENCE_SECONDS, WAIT_SECONDS, message, wait_until

Make = Callable[[str, str, MessageHandler], Client]


class Party:
    """A registered client, what it handled in order, and when."""

    def __init__(self, messaging: MessagingInterface, make: Make, handler: MessageHandler | None = None) -> None:
        self.messaging, self.handler = messaging, handler
        self.heard: list[tuple[str, int]] = []
        self.times: list[float] = []
        self._changed = threading.Condition()
        self.client = make(f"{messaging.namespace}$a", "A", self._handle)
        messaging.register_client(self.client)
        for topic in ("t", "u"):
            messaging.subscribe(topic, self.client)
        self.sender = SimpleClient(f"{messaging.namespace}$s", "S", lambda m: None)
        messaging.register_client(self.sender)

    def say(self, *numbers: int, topic: str = "t", priority: Priority = Priority.NORMAL) -> None:
        for n in numbers:
            sender = AgentTag(id="s", name="S")
            sent = Message(GENERATOR.get_id(priority), sender=sender, topics=topic, payload={"n": n})
            self.sender.publish(sent)

    def wait(self, n: int) -> list[tuple[str, int]]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.heard) >= n, PATIENCE_SECONDS), self.heard
            return self.heard

    def numbers(self, n: int) -> list[int]:
        return [number for _, number in self.wait(n)]

    def _handle(self, received: Message) -> object:
        number = received.payload["n"]
        assert isinstance(number, int)
        try:
            return self.handler(received) if self.handler else None
        finally:
            with self._changed:
                self.heard.append((received.topic_published_to or "", number))
                self.times.append(time.monotonic())
                self._changed.notify_all()


def odd(received: Message) -> bool:
    return bool(int(str(received.payload["n"])) % 2)


def tenfold(received: Message) -> Message:
    return received.model_copy(update={"payload": {"n": int(str(received.payload["n"])) * 10}})


def registered(kind: type[Client], **options: object) -> Make:
    return lambda id, name, handler: kind(**{**options, "id": id, "name": name, "message_handler": handler})  # type: ignore[arg-type]


EACH: dict[str, tuple[Make, list[int]]] = {
    "simple": (SimpleClient, [1, 2, 3, 4, 5]),
    "tracking": (MessageTrackingClient, [1, 2, 3, 4, 5]),
    "filtering": (registered(FilteringClient, func=odd), [1, 3, 5]),
    "transforming": (registered(TransformingClient, func=tenfold), [10, 20, 30, 40, 50]),
    "throttling": (registered(ThrottlingClient, per_second=100), [1, 2, 3, 4, 5]),
    "retrying": (registered(RetryingClient), [1, 2, 3, 4, 5]),
    "logging": (registered(LoggingClient), [1, 2, 3, 4, 5]),
    "a pipeline": (
        lambda *of: FilteringClient(odd) | TransformingClient(tenfold) | LoggingClient() | SimpleClient(*of),
        [10, 30, 50],
    ),
    "a pipeline with a handler": (
        lambda id, name, handler: PipelineClient(
            ThrottlingClient(100), FilteringClient(odd), id=id, name=name, message_handler=handler
        ),
        [1, 3, 5],
    ),
}


@pytest.mark.parametrize("name", EACH)
def test_each_client_can_be_registered_and_keeps_the_order(messaging: MessagingInterface, name: str) -> None:
    make, expected = EACH[name]
    party = Party(messaging, make)
    party.say(1, 2, 3, 4, 5)
    assert party.numbers(len(expected)) == expected


def test_a_throttled_client_keeps_to_its_rate(messaging: MessagingInterface) -> None:
    party = Party(messaging, registered(ThrottlingClient, per_second=50, burst=2))
    began = time.monotonic()
    party.say(*range(12))
    assert party.numbers(12) == list(range(12))
    assert party.times[-1] - began >= 10 / 50


def test_a_burst_does_not_wait_for_the_rate(messaging: MessagingInterface) -> None:
    """The third would come after a minute and a half."""
    party = Party(messaging, registered(ThrottlingClient, per_second=0.01, burst=2))
    party.say(1, 2, 3)
    assert party.numbers(2) == [1, 2]


def test_a_throttled_client_reaches_its_rate(messaging: MessagingInterface) -> None:
    """A server ends blocked reads ten times a second only: the rate must not come down to that."""
    party = Party(messaging, registered(ThrottlingClient, per_second=100))
    began = time.monotonic()
    party.say(*range(41))
    assert party.numbers(41) == list(range(41))
    assert party.times[-1] - began >= 40 / 100
    gaps = sorted(later - sooner for sooner, later in pairwise(party.times))
    assert gaps[20] < 1 / 20  # of a slow machine the faster half


def test_a_topic_that_is_held_up_does_not_hold_up_others(messaging: MessagingInterface) -> None:
    """The one on t is tried once, and then waits longer than the test; those behind it wait too."""

    def handle(received: Message) -> None:
        if received.topic_published_to == "t":
            raise ValueError("not now")

    party = Party(messaging, registered(RetryingClient, backoff_strategy=FixedBackoff(1000)), handle)
    party.say(1, 2)
    party.wait(1)
    party.say(3, topic="u")
    party.say(4)
    party.say(5, topic="u")
    assert party.wait(3) == [("t", 1), ("u", 3), ("u", 5)]


def test_a_failing_message_is_tried_again_before_those_behind_it(messaging: MessagingInterface) -> None:
    attempts = count(1)

    def handle(received: Message) -> None:
        if received.payload["n"] == 1 and next(attempts) < 3:
            raise ValueError("again")

    party = Party(messaging, registered(RetryingClient, backoff_strategy=FixedBackoff(0.02)), handle)
    party.say(1, 2)
    assert party.numbers(4) == [1, 1, 1, 2]


def test_after_the_last_attempt_the_next_message_comes(messaging: MessagingInterface) -> None:
    def handle(received: Message) -> None:
        if received.payload["n"] == 1:
            raise ValueError("never")

    party = Party(messaging, registered(RetryingClient, max_retries=2, backoff_strategy=FixedBackoff(0.01)), handle)
    party.say(1, 2)
    assert party.numbers(3) == [1, 1, 2]


def test_no_retry_policy_adds_attempts_to_those_of_a_retrying_client(messaging: MessagingInterface) -> None:
    """Also where another stage lies before it, whose own failure the policy is for."""

    def handle(received: Message) -> None:
        if received.payload["n"] == 1:
            raise ValueError("never")

    def make(id: str, name: str, handler: MessageHandler) -> Client:
        retrying = RetryingClient(max_retries=2, backoff_strategy=FixedBackoff(0.01))
        made = PipelineClient(LoggingClient(), retrying, id=id, name=name, message_handler=handler)
        made.retry_policy = RetryPolicy(3, hold_seconds=100)
        return made

    party = Party(messaging, make, handle)
    party.say(1, 2)
    assert party.numbers(3) == [1, 1, 2]
    wait_until(lambda: len(messaging.get_messages("dead_letter_queue")) == 1)


def test_what_a_sender_changes_after_publishing_nobody_sees(messaging: MessagingInterface) -> None:
    """A message can be assigned to until it is published (the document's ``enrich_with_history``), and after it too."""
    seen: list[tuple[object, int]] = []

    def handle(received: Message) -> None:
        seen.append((dict(received.payload), received.enrich_with_history or 0))
        received.payload["n"] = 100
        received.enrich_with_history = 7

    party = Party(messaging, SimpleClient, handle)
    sent = Message(GENERATOR.get_id(), sender=AgentTag(id="s"), topics=["t", "u"], payload={"n": 1, "deep": [1]})
    sent.enrich_with_history = 5
    party.sender.publish(sent)
    deep = sent.payload["deep"]
    assert isinstance(deep, list)
    deep.append(2)
    sent.payload["n"], sent.enrich_with_history = 99, 0
    party.wait(2)
    assert seen == [({"n": 1, "deep": [1]}, 5)] * 2
    for topic in ("t", "u"):
        (stored,) = messaging.get_messages(topic)
        assert (stored.payload, stored.enrich_with_history) == ({"n": 1, "deep": [1]}, 5)
        stored.payload["n"] = 3
        assert messaging.get_messages(topic)[0].payload["n"] == 1


def test_what_has_been_read_ahead_is_handled_by_id(messaging: MessagingInterface) -> None:
    running, go_on = threading.Event(), threading.Event()

    def handle(received: Message) -> None:
        running.set()
        assert go_on.wait(WAIT_SECONDS)

    party = Party(messaging, MessageTrackingClient, handle)
    first = threading.Thread(target=party.say, args=(1,))  # in memory it is this thread that handles
    first.start()
    assert running.wait(WAIT_SECONDS)
    party.say(2, 3)
    party.say(4, topic="u")
    party.say(5, priority=Priority.URGENT)
    go_on.set()
    first.join(WAIT_SECONDS)
    assert party.numbers(5) == [1, 5, 2, 3, 4]


def test_unregistering_ends_what_is_held(messaging: MessagingInterface) -> None:
    def handle(received: Message) -> None:
        raise ValueError("not now")

    endless = registered(RetryingClient, max_retries=1_000_000, backoff_strategy=FixedBackoff(0.05))
    party = Party(messaging, endless, handle)
    party.say(1)
    party.wait(1)
    began = time.monotonic()
    messaging.unregister_client(party.client)
    assert time.monotonic() - began < WAIT_SECONDS / 4
    heard = len(party.heard)
    threading.Event().wait(0.15)  # nothing tells that nothing comes
    assert len(party.heard) == heard


def test_eight_publishers_lose_double_and_reorder_nothing(messaging: MessagingInterface) -> None:
    def make(id: str, name: str, handler: MessageHandler) -> Client:
        front = ThrottlingClient(2000, burst=20) | RetryingClient(None, 5, FixedBackoff(0.001))
        return front | SimpleClient(id, name, handler)

    failed = set()

    def handle(received: Message) -> None:
        n = int(str(received.payload["n"]))
        if n % 10 == 0 and n not in failed:
            failed.add(n)
            raise ValueError("once")

    party = Party(messaging, make, handle)
    threads = [threading.Thread(target=party.say, args=range(k * 100, k * 100 + 40)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    heard = party.numbers(320 + 32)
    done = [n for i, n in enumerate(heard) if not (n % 10 == 0 and n in heard[i + 1 :])]
    assert sorted(done) == sorted(n for k in range(8) for n in range(k * 100, k * 100 + 40))
    for k in range(8):
        assert [n for n in done if n // 100 == k] == list(range(k * 100, k * 100 + 40))


def test_a_message_put_off_by_a_handler_is_presented_again(messaging: MessagingInterface) -> None:
    answers = iter([Later(0.01), Later(0), None])
    party = Party(messaging, SimpleClient, lambda m: next(answers))
    party.say(1)
    assert party.numbers(3) == [1, 1, 1]


def test_one_message_of_many_topics_is_held_on_each(messaging: MessagingInterface) -> None:
    party = Party(messaging, registered(ThrottlingClient, per_second=50))
    party.sender.publish(message(["t", "u"], {"n": 1}, sender=AgentTag(id="s", name="S")))
    assert sorted(party.wait(2)) == [("t", 1), ("u", 1)]
