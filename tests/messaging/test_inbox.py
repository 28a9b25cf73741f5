"""What waits for a client in memory: its order, and what is dropped of it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from rustic_host.messaging import Client, Message, MessagingConfig, MessagingInterface, SimpleClient
from rustic_host.messaging import counts as names
from rustic_host.messaging.delivery import Failed, Later
from rustic_host.messaging.inbox import Inbox
from rustic_host.messaging.retry import RetryPolicy
from tests.messaging.bus import WAIT_SECONDS, message

SENDER = SimpleClient("sender", "sender", print)


class OneAtATime(SimpleClient):
    one_at_a_time = True


@pytest.fixture
def messaging() -> Iterator[MessagingInterface]:
    config = MessagingConfig(backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend")
    made = MessagingInterface(f"g_{uuid4().hex}", config)
    yield made
    made.shutdown()


def reader(
    messaging: MessagingInterface, handler: Callable[[Message], object], kind: type[SimpleClient] = SimpleClient
) -> Client:
    """On ``t``."""
    made = kind("r", "r", handler)
    messaging.register_client(made)
    messaging.subscribe("t", made)
    return made


def elsewhere(call: Callable[[], object]) -> None:
    """In a thread that knows of no message in hand."""
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


@pytest.mark.parametrize("extra", [{}, {"session_state": {"a": 1}}], ids=["short way", "long way"])
def test_nothing_overtakes_what_was_held_up_behind_another(
    messaging: MessagingInterface, extra: dict[str, Any]
) -> None:
    heard, who, again, go_on, done = list[int](), list[object](), *(threading.Event() for _ in range(3))

    def handle(received: Message) -> object:
        heard.append(received.id)
        who.append(threading.current_thread())
        if len(heard) == 1:
            return Later(0.01)
        if len(heard) == 2:
            again.set()
            assert go_on.wait(WAIT_SECONDS)
        if len(heard) == 4:
            done.set()
        return None

    reader(messaging, handle)
    first, second, third = message(**extra), message(**extra), message(**extra)
    messaging.publish(SENDER, first)
    # Who publishes when the first is due handles it.
    publisher = threading.Thread(target=messaging.publish, args=(SENDER, second))
    publisher.start()
    assert again.wait(WAIT_SECONDS)
    if who[1] is not publisher:
        publisher.join()
    messaging.publish(SENDER, third)
    go_on.set()
    assert done.wait(WAIT_SECONDS)
    publisher.join()
    assert heard == [first.id, first.id, second.id, third.id]


def test_after_unsubscribing_in_a_handler_nothing_comes_of_what_waited_with_it(messaging: MessagingInterface) -> None:
    heard: list[int] = []
    several = [message() for _ in range(3)]

    def handle(received: Message) -> None:
        heard.append(received.id)
        if len(heard) == 1:
            elsewhere(lambda: [*map(partial(messaging.publish, SENDER), several)])
        else:
            messaging.unsubscribe("t", client)

    client = reader(messaging, handle, OneAtATime)
    first = message()
    messaging.publish(SENDER, first)
    assert heard == [first.id, several[0].id]


@pytest.mark.parametrize("kind", [SimpleClient, OneAtATime])
def test_who_was_unregistered_gets_no_more_not_even_what_is_being_delivered(
    messaging: MessagingInterface, kind: type[SimpleClient]
) -> None:
    heard: list[int] = []
    second = kind("second", "second", lambda received: heard.append(received.id))
    reader(messaging, lambda received: messaging.unregister_client(second))
    messaging.register_client(second)
    messaging.subscribe("t", second)
    messaging.publish(SENDER, message())
    assert heard == []


def test_an_order_that_fails_loses_nothing(messaging: MessagingInterface) -> None:
    heard: list[int] = []
    several = [message() for _ in range(3)]

    class Failing(OneAtATime):
        def order(self, messages: Sequence[Message]) -> Sequence[Message]:
            raise KeyError("wrong")

    def handle(received: Message) -> None:
        heard.append(received.id)
        if len(heard) == 1:
            elsewhere(lambda: [*map(partial(messaging.publish, SENDER), several)])

    reader(messaging, handle, Failing)
    first = message()
    messaging.publish(SENDER, first)
    assert heard == [first.id, *(each.id for each in several)]


def test_what_was_set_aside_is_dropped_with_its_subscription() -> None:
    now, heard = [0.0], list[str]()

    def present(received: Message) -> object:
        heard.append(received.topic_published_to or "")
        return Later(60, holds=False) if len(heard) < 3 else None

    inbox = Inbox(OneAtATime("r", "r", print), present, lambda: now[0])
    for topic in ("t", "u"):
        inbox.take(message(topic).published_to(topic))
    inbox.forget(["t"])
    now[0] = 61
    inbox.take(message("v").published_to("v"))
    inbox.close()
    assert heard == ["t", "u", "u", "v"]


def test_a_message_has_all_its_attempts_where_one_lay_that_was_dropped(messaging: MessagingInterface) -> None:
    attempts, done = list[int](), threading.Event()

    def handle(received: Message) -> object:
        attempts.append(received.id)
        if len(attempts) > 1 and attempts[-1] == attempts[-2]:
            done.set()
            return None
        return Failed(ValueError("not now"))

    client = reader(messaging, handle)
    client.retry_policy = RetryPolicy(retries=1)
    for _ in range(20):
        messaging.publish(SENDER, message())
        messaging.unsubscribe("t", client)  # before the second attempt, which is 50 ms away at least
        messaging.subscribe("t", client)
    messaging.publish(SENDER, message())
    assert done.wait(WAIT_SECONDS)
    found = messaging.backend.counts(messaging.namespace)
    assert names.processed("t", client.id, "failed") not in found
