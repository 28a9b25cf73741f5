"""The short way of a message in memory from its publisher to a handler: it does as the long one, which a few take."""

import threading
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from rustic_host.messaging import AgentTag, Message, MessagingConfig, MessagingInterface, SimpleClient, in_hand
from rustic_host.messaging import counts as names
from rustic_host.messaging.dead_letter import REPLAY_FOR
from rustic_host.messaging.delivery import Entry, Later
from rustic_host.messaging.memory_store import Tally
from rustic_host.messaging.published import Frozen, hand_out
from tests.messaging.bus import WAIT_SECONDS, message


@pytest.fixture
def messaging() -> Iterator[MessagingInterface]:
    config = MessagingConfig(backend_module="rustic_host.messaging", backend_class="InMemoryMessagingBackend")
    made = MessagingInterface(f"g_{uuid4().hex}", config)
    yield made
    made.shutdown()


SENDER = SimpleClient("sender", "sender", print)


def reader(messaging: MessagingInterface, handler: Callable[[Message], object], name: str = "r") -> SimpleClient:
    """On ``t``."""
    made = SimpleClient(name, name, handler)
    messaging.register_client(made)
    messaging.subscribe("t", made)
    return made


def test_what_is_put_off_holds_up_what_comes_after_it(messaging: MessagingInterface) -> None:
    heard, done = list[int](), threading.Event()

    def handle(received: Message) -> object:
        heard.append(received.id)
        if len(heard) == 3:
            done.set()
        return Later(0.05) if len(heard) == 1 else None

    reader(messaging, handle)
    first, second = message(), message()
    messaging.publish(SENDER, first)
    messaging.publish(SENDER, second)
    assert done.wait(WAIT_SECONDS)
    assert heard == [first.id, first.id, second.id]


def test_a_subclass_that_takes_messages_itself_is_asked(messaging: MessagingInterface) -> None:
    heard: list[str] = []

    class Own(SimpleClient):
        def notify_new_message(self, message: Message) -> object:
            heard.append("own")
            return super().notify_new_message(message)

    made = Own("r", "r", lambda received: heard.append("handler"))
    messaging.register_client(made)
    messaging.subscribe("t", made)
    messaging.publish(SENDER, message())
    assert heard == ["own", "handler"]


def test_what_asks_for_more_gets_it_and_the_own_is_filtered(messaging: MessagingInterface) -> None:
    heard: list[Message] = []
    made = reader(messaging, heard.append)
    messaging.publish(SENDER, message(sender=AgentTag(id="r")))
    late = message(ttl=-1)
    messaging.publish(SENDER, late)
    messaging.publish(SENDER, message(session_state={"a": 1}))
    messaging.publish(SENDER, message(enrich_with_history=1))
    assert [each.session_state for each in heard] == [{"a": 1}, {"enriched_history": []}]
    found = messaging.backend.counts(messaging.namespace)
    assert {outcome: found[names.processed("t", made.id, outcome)] for outcome in ("ok", "filtered", "expired")} == {
        "ok": 2, "filtered": 1, "expired": 1,
    }  # fmt: skip


def test_what_is_replayed_goes_to_the_one_that_gave_it_up(messaging: MessagingInterface) -> None:
    heard: list[str] = []
    for name in ("a", "b"):
        reader(messaging, lambda received, name=name: heard.append(name), name)  # type: ignore[misc]
    messaging.publish(SENDER, message(session_state={REPLAY_FOR: "b"}))
    assert heard == ["b"]


def test_each_handler_has_a_message_in_hand_of_its_own(messaging: MessagingInterface) -> None:
    """What goes on in a handler's context after its end, a task say, publishes at once, while the next one runs too."""
    contexts, stored = list[Context](), dict[str, list[Message]]()

    def first(received: Message) -> None:
        contexts.append(copy_context())

    def second(received: Message) -> None:
        contexts[0].run(messaging.publish, SENDER, message("of the first"))
        messaging.publish(SENDER, message("of the second"))
        stored.update({topic: messaging.get_messages(topic) for topic in ("of the first", "of the second")})

    reader(messaging, first, "first")
    reader(messaging, second, "second")
    messaging.publish(SENDER, message())
    assert {topic: len(found) for topic, found in stored.items()} == {"of the first": 1, "of the second": 0}
    assert len(messaging.get_messages("of the second")) == 1
    assert in_hand.current.get() is None


def test_threads_of_a_handler_that_send_first_at_the_same_time_lose_nothing(
    messaging: MessagingInterface, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both stand where nothing is noted as sent yet, if there is such a place."""
    meeting = threading.Barrier(2)

    def meet(fields: Frozen) -> Message:
        meeting.wait(WAIT_SECONDS)
        return hand_out(fields)

    def send_twice(received: Message) -> None:
        contexts = [copy_context() for _ in range(2)]
        send = partial(messaging.publish, SENDER)
        threads = [threading.Thread(target=each.run, args=(send, message("u"))) for each in contexts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    reader(messaging, send_twice)
    monkeypatch.setattr(in_hand, "hand_out", meet)
    messaging.publish(SENDER, message())
    assert len(messaging.get_messages("u")) == 2


def test_delivering_leaves_the_message_in_hand_of_another_bus_where_it_was(messaging: MessagingInterface) -> None:
    reader(messaging, lambda received: None)
    hand: Any = in_hand.InLog(messaging._handling, Entry("t", "1-1", b""), None)  # type: ignore[arg-type]
    token = in_hand.current.set(hand)
    try:
        messaging.backend.store_copies(messaging.namespace, message())
        assert in_hand.current.get() is hand
    finally:
        in_hand.current.reset(token)


def test_a_thread_that_starts_with_the_own_id_is_each_readers_own(messaging: MessagingInterface) -> None:
    heard: list[Message] = []

    def add(received: Message) -> None:
        received.thread.append(9)
        heard.append(received)

    for name in ("a", "b"):
        reader(messaging, add, name)
    published = message()
    messaging.publish(SENDER, published)
    published.thread.append(7)
    assert [each.thread for each in heard] == [[published.id, 9]] * 2
    assert messaging.get_messages("t")[0].thread == [published.id]
    assert (heard[0].priority, heard[0].timestamp) == (published.priority, published.timestamp)


def test_what_is_added_to_a_tally_that_was_joined_is_not_lost() -> None:
    """As a thread does that has found it when its topic is summed up."""
    tally, gone = Tally(), Tally()
    for each in (tally, gone, gone):
        each.add()
    assert gone.total() == 2
    tally.join(gone)
    gone.add()
    assert tally.total() == 4


def test_a_tally_is_exact_with_many_threads_and_looks_between() -> None:
    tally, looks = Tally(), list[int]()

    def add() -> None:
        for _ in range(5000):
            tally.add()

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        looks.append(tally.total())
    assert looks == sorted(looks)
    assert tally.total() == tally.total() == 40_000
