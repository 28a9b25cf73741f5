"""Whoever asks is told when a connection breaks, when it is back, and when a client falls behind."""

import queue
import threading

import pytest

from rustic_host.messaging import (
    Disconnected,
    Message,
    MessagingConfig,
    MessagingInterface,
    Reconnected,
    SimpleClient,
    SlowConsumer,
    StateChange,
    state_changes,
)
from rustic_host.messaging.redis import consumer
from rustic_host.messaging.state_changes import StateChanges, Watch
from tests.messaging.bus import CLIENT, WAIT_SECONDS, Bus, message
from tests.system.servers import RedisServer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def interface_of(bus: Bus, slow_at: int = 1000) -> MessagingInterface:
    config = MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": bus.config},
    )
    return MessagingInterface(bus.namespace, config, slow_at=slow_at)


def test_a_server_that_goes_and_comes_back_is_told_of_each_connection(own_bus: Bus, own_server: RedisServer) -> None:
    told: queue.Queue[StateChange] = queue.Queue()
    messaging = interface_of(own_bus)
    messaging.on_state_change(told.put)
    client = SimpleClient(CLIENT, "A", lambda received: None)
    messaging.register_client(client)
    messaging.subscribe("t", client)
    messaging.publish(client, message())
    assert told.empty()
    own_server.stop()
    lost = told.get(timeout=WAIT_SECONDS)
    assert isinstance(lost, Disconnected)
    assert "cannot be reached" in lost.reason
    own_server.start()
    messaging.publish(client, message())
    seen: set[StateChange] = {lost}
    while len([each for each in seen if isinstance(each, Reconnected)]) < 2:
        seen.add(told.get(timeout=WAIT_SECONDS))
    messaging.shutdown()
    by_kind = {kind: {e.client_id for e in seen if isinstance(e, kind)} for kind in (Disconnected, Reconnected)}
    assert by_kind == {Disconnected: {CLIENT, ""}, Reconnected: {CLIENT, ""}}
    assert all(each.seconds > 0 for each in seen if isinstance(each, Reconnected))


def test_a_client_that_falls_behind_is_told_with_its_numbers(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "CHECK_SECONDS", 0.0)
    told: queue.Queue[StateChange] = queue.Queue()
    go_on = threading.Event()
    messaging = interface_of(bus, slow_at=40)
    messaging.on_state_change(told.put)

    def handle(received: Message) -> None:
        assert go_on.wait(WAIT_SECONDS)

    client = SimpleClient(CLIENT, "A", handle)
    messaging.register_client(client)
    bus.publish(*range(100))
    go_on.set()
    messaging.subscribe("t", client)
    slow = told.get(timeout=WAIT_SECONDS)
    messaging.shutdown()
    assert isinstance(slow, SlowConsumer)
    assert (slow.client_id, slow.threshold) == (CLIENT, 40)
    assert slow.lag + slow.pending >= 40


def test_changes_by_the_clock_and_no_more_often_than_they_happen() -> None:
    told: list[StateChange] = []
    changes, clock, done = StateChanges(), Clock(), threading.Event()
    watch = Watch("c", changes, slow_at=10, clock=clock)
    watch.lost("nobody asks yet")
    watch.regained()
    end = changes.add(told.append)
    changes.add(lambda change: done.set() if change == SlowConsumer("c", 0, 11, 10) else None)
    for step in range(3):
        clock.now = float(step)
        watch.lost(f"try {step}")
    clock.now = 7.5
    watch.regained()
    watch.regained()
    for lag in (9, 10, 50, 6, 10, 5, 0):
        watch.behind(lag, 0)
    watch.behind(0, 11)
    assert done.wait(WAIT_SECONDS)
    end()
    end()
    watch.lost("told no more")
    changes.close()
    assert told == [
        Disconnected("c", "try 0"),
        Reconnected("c", 7.5),
        SlowConsumer("c", 10, 0, 10),
        SlowConsumer("c", 0, 11, 10),
    ]


def test_a_callback_that_raises_or_takes_its_time_holds_nobody_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_changes, "WAITING_CHANGES", kept := 16)  # each failure is a page of the log
    changes, go_on, last = StateChanges(), threading.Event(), threading.Event()

    def slow(change: StateChange) -> None:
        assert go_on.wait(WAIT_SECONDS)
        raise ValueError("no")

    changes.add(slow)
    changes.add(lambda change: last.set() if change == Disconnected("last", "") else None)
    for n in range(kept + 10):
        changes.tell(Disconnected(str(n), ""))
    changes.tell(Disconnected("last", ""))
    go_on.set()
    assert last.wait(WAIT_SECONDS)
    changes.close()
    changes.tell(Disconnected("too late", ""))
    assert "state_change_callback_failed" in caplog.text
    assert "state_change_dropped" in caplog.text
