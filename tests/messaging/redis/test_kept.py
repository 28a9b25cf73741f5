"""What a client keeps besides its position, and what is published at its time."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from rustic_host.errors import BackendUnavailableError, CommitRefusedError
from rustic_host.messaging import (
    Message,
    MessagingConfig,
    MessagingInterface,
    RedisMessagingBackend,
    SimpleClient,
)
from rustic_host.messaging.delivery import Entry, Kept, Result, frames_of
from rustic_host.messaging.redis import consumer as consumer_module
from rustic_host.messaging.redis import keys
from rustic_host.messaging.redis.consumer import _block
from tests.messaging.bus import CLIENT, WAIT_SECONDS, Bus, Looper, forward, message, number, wait_until

TIMERS = {"k": {"id": 2**64 - 1, "payload": {"text": "ü"}}}


def test_timers_are_kept_with_the_commit_and_left_alone_without(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1, 2, 3, 4)
    first, second, third, fourth = consumer.read()
    consumer.commit([Result(first, "ok", timers={"old": 1}), Result(second, "ok", timers=TIMERS)])
    assert consumer.resync() == Kept({}, 0, TIMERS)
    consumer.read()
    consumer.commit([Result(third, "ok", state={"n": 1})])
    assert consumer.resync() == Kept({"n": 1}, 1, TIMERS)
    consumer.read()
    consumer.commit([Result(fourth, "ok", timers={})])
    assert consumer.resync() == Kept({"n": 1}, 1, {})


def test_a_refused_commit_leaves_the_timers(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1)
    (entry,) = consumer.read()
    bus.raw.xack(bus.log(), CLIENT, entry.entry_id)
    before = bus.dump()
    with pytest.raises(CommitRefusedError, match="gone"):
        consumer.commit([Result(entry, "ok", timers=TIMERS)])
    assert bus.dump() == before


def test_anybody_can_ask_what_a_client_keeps(bus: Bus) -> None:
    backend = RedisMessagingBackend(bus.config)
    assert backend.load_state(bus.namespace, CLIENT) == (0, {})
    consumer = bus.consumer()
    bus.publish(1, 2)
    consumer.commit([Result(entry, "ok", state={"n": number(entry)}) for entry in consumer.read()])
    assert backend.load_state(bus.namespace, CLIENT) == (2, {"n": 2})
    backend.cleanup()


@pytest.mark.parametrize(("wait", "seconds"), [(None, 5.0), (9.0, 5.0), (0.2, 0.2), (0.0, 0.001), (-3.0, 0.001)])
def test_a_read_never_waits_without_end(wait: float | None, seconds: float) -> None:
    assert _block(wait) == seconds


def test_a_bounded_read_returns_in_time(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "BLOCK_SECONDS", 15.0)  # as long as a test may take, and a link's patience
    began = time.monotonic()
    for topics in (["t"], []):
        consumer = bus.consumer(topics=topics)
        assert consumer.read(wait=0.05) == []  # the first looks for what is pending
        assert consumer.read(wait=0.05) == []
    assert time.monotonic() - began < 10


class Keeper:
    """Has one tick, due when a test says so."""

    def __init__(self, fire: Callable[[], None]) -> None:
        self.due_at: float | None = None
        self.fired = threading.Event()
        self._fire = fire

    def seconds_to_tick(self) -> float | None:
        return None if self.due_at is None else self.due_at - time.monotonic()

    def fire_ticks(self) -> None:
        self._fire()
        self.due_at = None
        self.fired.set()


@pytest.mark.parametrize("delay", [0.0, 0.1])
def test_a_loop_wakes_for_a_tick_and_commits_first(bus: Bus, monkeypatch: pytest.MonkeyPatch, delay: float) -> None:
    monkeypatch.setattr(consumer_module, "BLOCK_SECONDS", 15.0)
    pending: list[int] = []

    def fire() -> None:
        pending.append(bus.pending())
        bus.publish(7)

    keeper = Keeper(fire)

    def handle(entry: Entry) -> Result:
        if number(entry) == 1:
            keeper.due_at = time.monotonic() + delay
        return forward(entry)

    looper = Looper(bus, handle)
    looper.pump._time_keeper = keeper
    with looper:
        bus.wait_blocked()
        began = time.monotonic()
        bus.publish(1)
        looper.wait_seen(2)
        waited = time.monotonic() - began
    assert bus.logged("out") == [1, 7]
    assert pending == [0]
    assert delay <= waited < 10


def test_a_tick_that_cannot_be_published_is_tried_again(bus: Bus) -> None:
    tries: list[int] = []

    def fire() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise BackendUnavailableError("away")

    keeper = Keeper(fire)
    keeper.due_at = time.monotonic()
    looper = Looper(bus, forward)
    looper.pump._time_keeper = keeper
    with looper:
        assert keeper.fired.wait(WAIT_SECONDS)
        bus.publish(1)
        looper.wait_seen(1)
    assert len(tries) == 3


class Holder(Keeper):
    """Keeps one timer until the message that it stands for is forgotten."""

    def __init__(self) -> None:
        super().__init__(lambda: None)
        self.forgotten: list[int] = []
        self._timers: dict[str, Any] | None = None

    def take_state_change(self) -> None:
        return None

    def take_timer_change(self) -> dict[str, Any] | None:
        taken, self._timers = self._timers, None
        return taken

    def restore(self, kept: Kept) -> None:
        self._timers = None

    def undo(self) -> None:
        self._timers = None

    def report(self, message: Message, error: Exception) -> None:
        return

    def forget(self, message: Message) -> None:
        self.forgotten.append(message.id)
        self._timers = {"settled": True}


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_message_that_is_given_up_is_forgotten_in_the_commit_of_its_letter(bus: Bus, spoilt: bool) -> None:
    """The handler raises, or sends what can never be stored."""

    def handle(received: Message) -> None:
        if not spoilt:
            raise ValueError("no handler's error")
        client.publish(message("out"))

    config = MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": bus.config.model_dump(exclude_unset=True)},
    )
    bus.raw.set(bus.log("out"), "no log")
    interface, holder = MessagingInterface(bus.namespace, config), Holder()
    client = SimpleClient(CLIENT, CLIENT, handle)
    interface.register_client(client, threaded=False)
    interface.subscribe("t", client)
    pump = interface.run(client, holder)
    bus.publish(1)
    looping = threading.Thread(target=pump.run, daemon=True)
    looping.start()
    wait_until(lambda: bus.raw.exists(bus.log("dead_letter_queue")) > 0)
    pump.stop()
    looping.join(WAIT_SECONDS)
    pump.close()
    interface.shutdown()
    assert len(holder.forgotten) == 1
    assert bus.raw.hget(keys.PLAIN.state_key(bus.namespace, CLIENT), "timers") == b'{"settled":true}'
    assert bus.pending() == 0


def test_a_dead_letter_that_cannot_be_stored_still_settles_the_timers(bus: Bus) -> None:
    bus.publish(1)
    bus.raw.set(bus.log("out"), "no log")
    bus.raw.set(bus.log("dead_letter_queue"), "no log")
    looper = Looper(bus, lambda entry: Result(entry, "ok", frames_of(message("out")), timers=TIMERS))
    looper.pump._give_up = lambda entry, error: Result(
        entry, "failed", frames_of(message("dead_letter_queue")), timers={}
    )
    with looper:
        wait_until(lambda: bool(bus.raw.hexists(keys.PLAIN.state_key(bus.namespace, CLIENT), "timers")))
    stored = bus.raw.hget(keys.PLAIN.state_key(bus.namespace, CLIENT), "timers")
    assert json.loads(stored) == {}
