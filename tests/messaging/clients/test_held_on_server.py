"""Messages that are put off, on real servers: they stay pending, are in hand, and survive every fault."""

import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from rustic_host.messaging import (
    Client,
    FixedBackoff,
    Message,
    MessageTrackingClient,
    MessagingConfig,
    MessagingInterface,
    RetryingClient,
    SimpleClient,
    ThrottlingClient,
)
from rustic_host.messaging.delivery import Entry, Later, Result
from rustic_host.messaging.redis import consumer as consumer_module
from tests.messaging.bus import CLIENT, WAIT_SECONDS, Bus, Looper, forward, message, wait_until
from tests.system.servers import RedisServer


def interface_of(bus: Bus) -> MessagingInterface:
    return MessagingInterface(
        bus.namespace,
        MessagingConfig(
            backend_module="rustic_host.messaging",
            backend_class="RedisMessagingBackend",
            backend_config={"redis_client": bus.config},
        ),
    )


class HoldsUp:
    """Puts off what comes on ``t`` until it is opened, and forwards the rest."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds
        self.open = threading.Event()
        self.put_off = 0

    def __call__(self, entry: Entry) -> Result | Later:
        if entry.topic == "t" and not self.open.is_set():
            self.put_off += 1
            return Later(self.seconds)
        return forward(entry)


def looper_of(bus: Bus, handle: HoldsUp, topics: tuple[str, ...] = ("t", "u")) -> Looper:
    return Looper(bus, handle, topics=topics)  # type: ignore[arg-type]


def test_what_is_put_off_stays_pending_and_other_topics_go_on(bus: Bus) -> None:
    handle = HoldsUp()
    bus.publish(1, 2)
    with looper_of(bus, handle) as looper:
        looper.wait_seen(1)
        bus.publish(3, topic="u")
        wait_until(lambda: bus.raw.exists(bus.log("out")) and bus.logged("out") == [3])
        wait_until(lambda: looper.pump.handled == 1)  # counted when the read that committed it returns
        assert bus.pending() == 2
        bus.publish(4)  # it waits in the log: a topic that is held up is not read further
        looper.wait_seen(handle.put_off + 5)
        assert bus.pending() == 2
        handle.open.set()
        wait_until(lambda: bus.logged("out") == [3, 1, 2, 4])
    assert (bus.pending(), looper.failure) == (0, None)


def test_a_topic_alone_that_is_held_up_is_presented_when_due_and_not_before(bus: Bus) -> None:
    handle = HoldsUp(seconds=0.1)
    bus.publish(1)
    with looper_of(bus, handle, ("t",)) as looper:
        looper.wait_seen(1)
        turns = looper.pump.turns
        looper.wait_seen(6)
        assert looper.pump.turns - turns < 30  # about one for each time that it is due: nothing spins


def test_a_client_that_says_at_once_again_and_again_does_not_spin_or_starve(bus: Bus) -> None:
    handle = HoldsUp(seconds=0)
    bus.publish(1)
    with looper_of(bus, handle) as looper:
        looper.wait_seen(20)
        bus.publish(2, topic="u")
        wait_until(lambda: bus.raw.exists(bus.log("out")) and bus.logged("out") == [2])


def test_pending_equals_in_hand_with_messages_that_are_held(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "CHECK_SECONDS", 0.0)
    handle = HoldsUp()
    bus.publish(*range(5))
    with looper_of(bus, handle) as looper:
        looper.wait_seen(10)
        wait_until(lambda: looper.consumer._in_hand == 5)
        assert not looper.consumer._reread
        handle.open.set()
        wait_until(lambda: bus.raw.exists(bus.log("out")) and bus.logged("out") == list(range(5)))
        wait_until(lambda: looper.consumer._in_hand == 0)


def test_what_a_twin_swallowed_is_found_while_messages_are_held(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "CHECK_SECONDS", 0.0)
    handle = HoldsUp()
    bus.publish(1, 2)
    with looper_of(bus, handle) as looper:
        looper.wait_seen(2)
        twin = bus.swallow()  # reads t, which is held up here
        bus.publish(3)
        twin.join(WAIT_SECONDS)
        assert bus.pending() == 3
        wait_until(lambda: looper.consumer._in_hand == 3)
        handle.open.set()
        wait_until(lambda: bus.raw.exists(bus.log("out")) and bus.logged("out") == [1, 2, 3])
    assert Counter(bus.logged("out")) == {1: 1, 2: 1, 3: 1}


def test_a_stop_leaves_what_is_held_pending_and_the_next_process_takes_it(bus: Bus) -> None:
    bus.publish(1, 2)
    with looper_of(bus, HoldsUp(seconds=1000)) as looper:
        looper.wait_seen(1)
    assert bus.pending() == 2
    with Looper(bus, forward):
        wait_until(lambda: bus.raw.exists(bus.log("out")) and bus.logged("out") == [1, 2])
    assert bus.pending() == 0


def test_a_lost_connection_drops_and_reads_again_what_is_held(bus: Bus) -> None:
    handle = HoldsUp(seconds=1000)
    bus.publish(1, 2)
    with looper_of(bus, handle) as looper:
        looper.wait_seen(1)
        bus.wait_blocked()
        bus.kill_reader()
        looper.wait_seen(2)  # it was read again: by its own time it would not be due yet
        assert bus.pending() == 2
        handle.open.set()
        bus.wait_blocked()
        bus.kill_reader()
        wait_until(lambda: bus.raw.exists(bus.log("out")) and bus.logged("out") == [1, 2])
    assert looper.failure is None


def test_a_server_that_is_killed_with_messages_held_loses_and_doubles_nothing(
    own_bus: Bus, own_server: RedisServer
) -> None:
    handle = HoldsUp(seconds=0.05)
    own_bus.publish(*range(40))
    with looper_of(own_bus, handle) as looper:
        looper.wait_seen(2)
        own_server.stop()
        wait_until(lambda: not looper.consumer.connected)
        handle.open.set()
        own_server.start()
        wait_until(lambda: own_bus.raw.exists(own_bus.log("out")) and len(own_bus.logged("out")) >= 40)
    assert own_bus.logged("out") == list(range(40))
    assert own_bus.pending() == 0


def test_a_change_of_topics_with_messages_held_keeps_them(bus: Bus) -> None:
    handle = HoldsUp(seconds=0.02)
    bus.publish(1, 2)
    with looper_of(bus, handle) as looper:
        looper.wait_seen(1)
        looper.topics.append("v")
        assert looper.pump.resubscribed(WAIT_SECONDS)
        bus.publish(3, topic="v")
        wait_until(lambda: bus.raw.exists(bus.log("out")) and bus.logged("out") == [3])
        handle.open.set()
        wait_until(lambda: bus.logged("out") == [3, 1, 2])


def test_an_impossible_commit_keeps_the_order_of_what_is_held(bus: Bus) -> None:
    """While the message at fault is looked for, those of a held topic stay behind its first."""
    handle = HoldsUp()
    bus.raw.set(f"{bus.namespace}:spoilt", "mine")

    def spoiling(entry: Entry) -> Result | Later:
        answer = handle(entry)
        return forward(entry, "spoilt") if entry.topic == "u" and isinstance(answer, Result) else answer

    bus.publish(1, 2)
    bus.publish(3, topic="u")
    bus.publish(4)
    with Looper(bus, spoiling, topics=("t", "u")):  # type: ignore[arg-type]
        wait_until(lambda: bus.raw.exists(bus.log("dead_letter_queue")) > 0)
        handle.open.set()
        wait_until(lambda: bus.raw.exists(bus.log("out")) and bus.logged("out") == [1, 2, 4])
    assert bus.pending() == 0


# ---- whole clients -------------------------------------------------------------------------------------------------


class Running:
    """A client that is read for by a loop in a thread, as a worker's is."""

    def __init__(self, bus: Bus, client: Client) -> None:
        self.interface = interface_of(bus)
        self.interface.register_client(client, threaded=False)
        self.interface.subscribe("t", client)
        self.pump = self.interface.run(client)
        self.thread = threading.Thread(target=self.pump.run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.pump.stop()
        self.thread.join(WAIT_SECONDS)
        assert not self.thread.is_alive()
        self.pump.close()
        self.interface.shutdown()


@pytest.fixture
def running(bus: Bus) -> Iterator[list[Running]]:
    made: list[Running] = []
    yield made
    for each in made:
        each.close()


def test_what_a_failed_attempt_sent_is_void(bus: Bus, running: list[Running]) -> None:
    attempts: list[int] = []

    def handle(received: Message) -> None:
        attempts.append(1)
        client.publish(message("out", {"n": len(attempts)}))
        if len(attempts) < 3:
            raise ValueError("again")

    client = RetryingClient(None, 3, FixedBackoff(0.01), id=CLIENT, name="A", message_handler=handle)
    bus.publish(1)
    running.append(Running(bus, client))
    wait_until(lambda: bus.outcomes() == {"ok": 1})
    assert bus.logged("out") == [3]
    assert not bus.raw.exists(bus.log("dead_letter_queue"))


def test_the_last_failure_makes_a_dead_letter_of_one_delivery(bus: Bus, running: list[Running]) -> None:
    attempts: list[int] = []

    def handle(received: Message) -> None:
        attempts.append(1)
        raise ValueError(f"attempt {len(attempts)}")

    client = RetryingClient(None, 3, FixedBackoff(0.01), id=CLIENT, name="A", message_handler=handle)
    bus.publish(1)
    running.append(Running(bus, client))
    wait_until(lambda: bus.outcomes() == {"failed": 1})
    (letter,) = bus.letters()
    assert "attempt 3" in str(letter["payload"])
    assert len(attempts) == 3


def test_attempts_are_counted_anew_by_who_takes_over(bus: Bus, running: list[Running]) -> None:
    """The first process dies (for the server: it is overtaken) after one of two attempts."""
    first_try, done = threading.Event(), threading.Event()

    def fail(received: Message) -> None:
        first_try.set()
        raise ValueError("first")

    bus.publish(1)
    old = Running(bus, RetryingClient(None, 2, FixedBackoff(1000), id=CLIENT, message_handler=fail))
    assert first_try.wait(WAIT_SECONDS)
    old.close()
    assert bus.pending() == 1
    running.append(Running(bus, SimpleClient(CLIENT, "A", lambda m: done.set())))
    assert done.wait(WAIT_SECONDS)
    wait_until(lambda: bus.outcomes() == {"ok": 1})


def test_tracking_handles_by_id_also_beside_what_cannot_be_read(bus: Bus, running: list[Running]) -> None:
    """What was read ahead holds an entry that is no message."""
    heard: list[object] = []
    bodies = [message("t", {"n": n}).published_to("t").to_json_bytes() for n in range(3)]
    for body in (bodies[2], b"no message", bodies[0], bodies[1]):
        bus.raw.xadd(bus.log(), {"m": body})
    running.append(Running(bus, MessageTrackingClient(CLIENT, "A", lambda m: heard.append(m.payload["n"]))))
    wait_until(lambda: bus.outcomes() == {"ok": 3, "quarantined": 1})
    assert heard == [0, 1, 2]


def test_throttled_tracking_keeps_the_order_over_faults(bus: Bus, running: list[Running]) -> None:
    heard: list[int] = []
    end = MessageTrackingClient(CLIENT, "A", lambda m: heard.append(int(str(m.payload["n"]))))
    bus.publish(*range(30))
    running.append(Running(bus, ThrottlingClient(100) | end))
    for n in (5, 15):
        wait_until(lambda n=n: len(heard) >= n)  # type: ignore[misc]
        bus.kill_reader()
    wait_until(lambda: bus.outcomes().total() == 30)
    assert list(dict.fromkeys(heard)) == list(range(30))  # a handled message may come again, its commit does not
    assert bus.outcomes() == {"ok": 30}
