"""Messages that are tried again, on a real server: after a failure, and after a crash of whoever had them in hand."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from rustic_host.errors import BackendUnavailableError, OwnershipLostError
from rustic_host.messaging import Message, MessagingInterface, SimpleClient
from rustic_host.messaging.delivery import Entry, Failed, frames_of
from rustic_host.messaging.handling import Reading
from rustic_host.messaging.pump import Pump
from rustic_host.messaging.redis.consumer import Consumer
from rustic_host.messaging.redis.keys import PLAIN
from rustic_host.messaging.redis.positions import Positions
from rustic_host.messaging.retry import RetryPolicy
from tests.messaging.bus import CLIENT, WAIT_SECONDS, Bus, forward, message, number, wait_until
from tests.messaging.test_interface import interface_of, sent_by

QUICK = RetryPolicy(3, chance=lambda: 0.0)


@contextmanager
def reading(
    bus: Bus, handle: Callable[[Message, SimpleClient], object], policy: RetryPolicy = QUICK
) -> Iterator[MessagingInterface]:
    """A client of an interface that reads ``t``."""
    messaging = interface_of(bus)
    client = SimpleClient(f"{bus.namespace}$a", "a", lambda received: handle(received, client))
    client.retry_policy = policy
    messaging.register_client(client)
    messaging.subscribe("t", client)
    try:
        yield messaging
    finally:
        messaging.shutdown()


def test_a_message_is_tried_again_and_nothing_is_sent_between(bus: Bus) -> None:
    tried: list[Any] = []

    def handle(received: Message, client: SimpleClient) -> None:
        tried.append(received.payload["n"])
        client.publish(sent_by("a", "out", {"n": len(tried)}))
        if received.payload["n"] == 0 and len(tried) < 3:
            raise ValueError("not yet")

    bus.publish(0, 1)
    with reading(bus, handle):
        wait_until(lambda: len(bus.logged("out")) == 2)
    assert tried == [0, 0, 0, 1]  # the topic waits
    assert bus.logged("out") == [3, 4]
    assert bus.letters() == []
    assert bus.outcomes() == {"ok": 2}
    assert not tries(bus, f"{bus.namespace}$a")


def test_behind_one_that_is_tried_again_early_sends_keep_their_place(bus: Bus) -> None:
    tried: list[Any] = []

    def handle(received: Message, client: SimpleClient) -> None:
        n = received.payload["n"]
        tried.append(n)
        if tried == [0]:
            raise ValueError("not yet")
        if n == 2:
            client.publish_now(sent_by("a", "out", {"n": n}), "h|0")
        else:
            client.publish(sent_by("a", "out", {"n": n}))

    bus.publish(0, 1, 2)
    with reading(bus, handle):
        wait_until(lambda: bus.outcomes() == {"ok": 3})
    assert tried == [0, 0, 1, 2]
    assert bus.logged("out") == [0, 1, 2]


def test_after_the_last_attempt_there_is_one_dead_letter_with_what_the_client_has_to_say(bus: Bus) -> None:
    tried: list[Any] = []

    def handle(received: Message, client: SimpleClient) -> Failed:
        def conclude(final: bool) -> None:
            if final:
                client.publish(sent_by("a", "out", {"n": 99}))

        tried.append(received.payload["n"])
        return Failed(ValueError("never"), conclude, outcome="error")

    bus.publish(0)
    with reading(bus, handle):
        wait_until(lambda: bool(bus.letters()))
    (letter,) = bus.letters()
    assert (tried, bus.logged("out"), bus.outcomes()) == ([0] * 4, [99], {"error": 1})
    assert (letter["payload"]["attempts"], letter["payload"]["error_type"]) == (4, "ValueError")
    assert not tries(bus, f"{bus.namespace}$a")


def test_a_failure_that_is_final_is_not_tried_again(bus: Bus) -> None:
    tried: list[Any] = []

    def handle(received: Message, client: SimpleClient) -> Failed:
        tried.append(received.payload["n"])
        return Failed(ValueError("never"), final=True)

    bus.publish(0)
    with reading(bus, handle):
        wait_until(lambda: bool(bus.letters()))
    assert tried == [0]


def test_a_topic_goes_on_when_it_has_waited_long_enough(bus: Bus) -> None:
    tried: list[Any] = []
    released = threading.Event()

    def handle(received: Message, client: SimpleClient) -> None:
        tried.append(received.payload["n"])
        if received.payload["n"] == 3:
            released.set()
        if received.payload["n"] == 0 and not released.is_set():
            raise ValueError("not before 3 was handled")

    bus.publish(*range(4))
    with reading(bus, handle, RetryPolicy(50, hold_seconds=0.2)):
        wait_until(lambda: bus.outcomes() == {"ok": 4})
    assert tried[:2] == [0, 0]
    assert tried.index(1) < len(tried) - 1
    assert tried[-1] == 0
    assert bus.letters() == []


def test_what_is_set_aside_is_handled_once_when_pending_is_read_again(bus: Bus) -> None:
    done: list[Any] = []
    tried: list[Any] = []

    def handle(received: Message, client: SimpleClient) -> None:
        tried.append(received.payload["n"])
        if received.payload["n"] == 0 and len(tried) < 4:
            raise ValueError("later")
        done.append(received.payload["n"])

    bus.publish(0)
    with reading(bus, handle, RetryPolicy(9, hold_seconds=0)):
        wait_until(lambda: len(tried) >= 2)
        bus.kill_reader(f"{bus.namespace}$a")
        bus.publish(1)
        wait_until(lambda: bus.outcomes() == {"ok": 2})
    assert sorted(done) == [0, 1]


def test_attempts_are_counted_on_when_pending_is_read_again(bus: Bus) -> None:
    tried: list[Any] = []

    def handle(received: Message, client: SimpleClient) -> None:
        tried.append(received.payload["n"])
        messaging.subscribe(f"u{len(tried)}", client)  # reads all that is pending again
        raise ValueError("never")

    with reading(bus, handle, RetryPolicy(3)) as messaging:
        bus.publish(0)
        wait_until(lambda: bool(bus.letters()))
    assert tried == [0] * 4


@pytest.mark.parametrize("hold_seconds", [5.0, 0.0], ids=["its topic waits", "its topic goes on"])
def test_reading_pending_again_makes_no_pause_between_attempts_shorter(bus: Bus, hold_seconds: float) -> None:
    """Or a connection that comes and goes uses up all attempts at once."""
    tried: list[float] = []

    def handle(received: Message, client: SimpleClient) -> None:
        tried.append(time.monotonic())
        messaging.subscribe(f"u{len(tried)}", client)
        raise ValueError("never")

    with reading(bus, handle, RetryPolicy(2, hold_seconds, chance=lambda: 1.0)) as messaging:
        bus.publish(0)
        wait_until(lambda: bool(bus.letters()))
    first, second = (later - sooner for sooner, later in pairwise(tried))
    assert first >= 0.1
    assert second >= 0.2


@pytest.mark.parametrize("skipped", [False, True])
def test_after_a_seek_back_a_message_has_all_its_attempts_again(bus: Bus, skipped: bool) -> None:
    """The worker that counted them runs on; the last attempt before was not stored."""
    tried: list[Any] = []
    failed_twice, moved = threading.Event(), threading.Event()
    client_id = f"{bus.namespace}$a"

    def handle(received: Message, client: SimpleClient) -> None:
        tried.append(received.payload["n"])
        if len(tried) == 2:
            failed_twice.set()
            assert moved.wait(WAIT_SECONDS)
        raise ValueError("never")

    bus.publish(0)
    with reading(bus, handle, QUICK):
        assert failed_twice.wait(WAIT_SECONDS)
        its = Positions(bus.publisher(), bus.namespace)
        if skipped:
            (entry,) = (Entry("t", row[0].decode(), row[1][b"m"]) for row in bus.raw.xrange(bus.log()))
            its.skip(client_id, entry, frames_of(message("dead_letter_queue", {"n": 9}))[0])
        its.seek(client_id, "start")
        moved.set()
        wait_until(lambda: bus.outcomes()["failed"] == 1)
    assert tried == [0] * 6
    assert bus.letters()[-1]["payload"]["attempts"] == 4
    assert not tries(bus, client_id)


def test_what_was_skipped_is_not_counted_on(bus: Bus) -> None:
    """An entry whose failures were not stored; the one behind it keeps its own."""
    bus.publish(0, 1)
    consumer = bus.consumer()
    first, second = consumer.read()
    for entry in (first, second):
        consumer.attempt_failed(entry._replace(begun=1))
    letter = frames_of(message("dead_letter_queue", {"n": 9}))[0]
    Positions(bus.publisher(), bus.namespace).skip(CLIENT, first, letter)
    for _ in range(2):
        consumer.open(["t"])
        assert [(number(each), each.begun) for each in consumer.read()] == [(1, 1)]
    Positions(bus.publisher(), bus.namespace).seek(CLIENT, "start")
    for _ in range(2):  # read as new ones, and as pending
        consumer.open(["t"])
        assert [(number(each), each.begun) for each in consumer.read()] == [(0, 0), (1, 0)]


class Crashing:
    """Readers of one client, each of which is dropped without a commit when its handler says that the process ends."""

    def __init__(self, bus: Bus, retries: int, poison: int) -> None:
        self.bus, self.poison = bus, poison
        self.tried: list[Any] = []
        self._policy = RetryPolicy(retries)
        self._messaging = interface_of(bus)

    def run(self) -> bool:
        """Take over and read until nothing is left (True), or until the poison is met (False)."""
        ended = False

        def take(received: Message) -> None:
            nonlocal ended
            self.tried.append(received.payload["n"])
            self._messaging.publish(client, message("out", {"n": received.payload["n"]}))
            if received.payload["n"] == self.poison:
                ended = True
                raise Crash

        client = SimpleClient(CLIENT, CLIENT, take)
        client.retry_policy = self._policy
        client.connect(self._messaging)
        consumer = Consumer(self.bus.config, self.bus.namespace, CLIENT)
        work = Reading(self._messaging._handling, client, None)
        pump = Pump(consumer, lambda: ["t"], work.handle, work.restore, work.give_up)
        work.pump = pump
        thread = threading.Thread(target=self._until_crash, args=[pump])
        thread.start()
        wait_until(lambda: ended or sum(self.bus.outcomes().values()) == 8)
        pump.stop()
        thread.join()
        pump.close()
        return not ended

    @staticmethod
    def _until_crash(pump: Pump) -> None:
        try:
            pump.run()
        except Crash:
            return

    def close(self) -> None:
        self._messaging.shutdown()


class Crash(BaseException):
    """Passes through everything that handles errors, as the end of a process does."""


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_message_that_ends_its_process_is_given_up_and_no_other_is_blamed(bus: Bus, retries: int) -> None:
    bus.publish(*range(8))
    crashing = Crashing(bus, retries, poison=4)
    runs = 0
    try:
        while not crashing.run():
            runs += 1
            assert runs < 10
    finally:
        crashing.close()
    # Without retries too it is tried once more: an innocent one may have been in hand with it the first time.
    assert crashing.tried.count(4) == max(retries + 1, 2)
    assert sorted(bus.logged("out")) == [0, 1, 2, 3, 5, 6, 7]
    (letter,) = bus.letters()
    assert letter["payload"]["original_message"]["payload"] == {"n": 4}
    assert letter["payload"]["error_type"] == "AttemptsUsedUpError"
    assert letter["payload"]["attempts"] == crashing.tried.count(4)
    assert bus.outcomes() == {"ok": 7, "failed": 1}
    assert not tries(bus, CLIENT)


def test_an_owner_that_was_replaced_stores_no_attempt(bus: Bus) -> None:
    bus.publish(0)
    first = bus.consumer()
    (entry,) = first.read()
    second = bus.consumer()
    with pytest.raises((OwnershipLostError, BackendUnavailableError)):
        first.begin_attempt(entry, 2)
    assert not tries(bus, CLIENT)
    (again,) = second.read()
    assert (again.begun, again.suspect) == (1, True)
    second.begin_attempt(again, 2)
    second.resync()
    (known,) = second.read()
    assert (known.begun, known.suspect) == (2, False)
    second.commit([forward(known)])
    assert not tries(bus, CLIENT)


def test_one_process_does_not_suspect_what_its_own_connection_lost(bus: Bus) -> None:
    bus.publish(0)
    consumer = bus.consumer()
    consumer.read()
    consumer.open(["t"])
    (again,) = consumer.read()
    assert (again.begun, again.suspect) == (0, False)


def tries(bus: Bus, client_id: str) -> list[bytes]:
    fields = bus.raw.hkeys(PLAIN.client_key(bus.namespace, client_id))
    return [name for name in fields if name.startswith(b"try:")]
