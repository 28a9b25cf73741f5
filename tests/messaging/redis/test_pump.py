"""The loop of a client on a real server: faults, stops, and messages whose commit is impossible."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from rustic_host.errors import BackendRefusedError, CommitImpossibleError, GroupLostError, OwnershipLostError
from rustic_host.messaging.delivery import Entry, Result, frames_of
from rustic_host.messaging.pump import COMMIT_FRAMES
from rustic_host.messaging.redis import consumer as consumer_module
from rustic_host.messaging.redis import keys
from tests.messaging.bus import CLIENT, WAIT_SECONDS, Bus, Looper, forward, message, number, wait_until
from tests.system.servers import RedisServer

AT_ONCE = 2.5
"""Seconds within which a loop that waits in the server must have ended."""


def test_everything_is_handled_and_committed(bus: Bus) -> None:
    with Looper(bus, forward) as looper:
        bus.publish(*range(100))
        wait_until(lambda: len(bus.logged("out")) == 100)
    assert bus.logged("out") == list(range(100))
    assert (bus.pending(), looper.pump.handled, looper.failure) == (0, 100, None)


def kill_all(bus: Bus) -> None:
    """Ours have names. The test's own, which ask meanwhile, do not: killed while they reconnect they would raise."""
    for client in bus.raw.client_list(_type="normal"):
        if client["name"]:
            bus.raw.client_kill_filter(_id=client["id"])


FAULTS: dict[str, Callable[[Bus], object]] = {
    "reader killed": Bus.kill_reader,
    "scripts flushed": lambda bus: bus.raw.script_flush(),
    "all clients killed": kill_all,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_the_middle_of_a_batch_lose_and_double_nothing(own_bus: Bus, fault: str) -> None:
    bus, total = own_bus, 80
    to_come = set(range(3, total, 7))

    def handle(entry: Entry) -> Result:
        if number(entry) in to_come:
            to_come.remove(number(entry))
            FAULTS[fault](bus)
        return forward(entry)

    bus.publish(*range(total))
    with Looper(bus, handle):
        wait_until(lambda: len(bus.logged("out")) >= total and not bus.pending())
    assert not to_come
    assert Counter(bus.logged("out")) == Counter(range(total))
    assert bus.outcomes() == {"ok": total}


def test_a_reader_killed_while_it_waits_goes_on_by_itself(bus: Bus) -> None:
    with Looper(bus, forward) as looper:
        for n in range(3):
            bus.wait_blocked()
            bus.kill_reader()
            bus.publish(n)
            looper.wait_seen(n + 1)
        wait_until(lambda: len(bus.logged("out")) == 3)
    assert bus.logged("out") == [0, 1, 2]


def test_a_server_that_was_away_is_taken_up_again(own_bus: Bus, own_server: RedisServer) -> None:
    with Looper(own_bus, forward) as looper:
        own_bus.publish(1)
        looper.wait_seen(1)
        wait_until(lambda: own_bus.logged("out") == [1])
        own_bus.wait_blocked()
        own_server.stop()
        wait_until(lambda: not looper.consumer.connected)
        own_server.start()
        own_bus.publish(2)
        wait_until(lambda: own_bus.logged("out") == [1, 2])
    assert looper.failure is None


def test_a_server_that_lost_everything_is_taken_up_again(forgetful_bus: Bus, forgetful_server: RedisServer) -> None:
    with Looper(forgetful_bus, forward) as looper:
        forgetful_bus.publish(1)
        wait_until(lambda: forgetful_bus.logged("out") == [1])
        forgetful_server.kill9()
        forgetful_server.start()
        forgetful_bus.publish(2)
        wait_until(lambda: 2 in forgetful_bus.logged("out"))
    assert looper.failure is None


def test_a_flushed_server_is_taken_up_again(own_bus: Bus) -> None:
    with Looper(own_bus, forward) as looper:
        own_bus.publish(1)
        wait_until(lambda: own_bus.logged("out") == [1])
        own_bus.wait_blocked()
        own_bus.raw.flushall()
        own_bus.publish(2)
        wait_until(lambda: own_bus.logged("out") == [2])
    assert looper.failure is None


def test_a_stop_while_waiting_is_obeyed_at_once(bus: Bus) -> None:
    with Looper(bus, forward) as looper:
        bus.wait_blocked()
        began = time.monotonic()
        looper.pump.stop()
        looper.thread.join(WAIT_SECONDS)
        assert time.monotonic() - began < AT_ONCE


def test_a_stop_while_the_server_is_away_is_obeyed_at_once(own_bus: Bus, own_server: RedisServer) -> None:
    with Looper(own_bus, forward) as looper:
        own_bus.wait_blocked()
        own_server.stop()
        wait_until(lambda: not looper.consumer.connected)
        began = time.monotonic()
        looper.pump.stop()
        looper.thread.join(WAIT_SECONDS)
        assert time.monotonic() - began < 2 * AT_ONCE


def test_a_stop_in_a_handler_finishes_that_message_and_begins_no_other(bus: Bus) -> None:
    running, go_on = threading.Event(), threading.Event()

    def handle(entry: Entry) -> Result:
        running.set()
        assert go_on.wait(WAIT_SECONDS)
        return forward(entry)

    bus.publish(1, 2, 3)
    with Looper(bus, handle) as looper:
        assert running.wait(WAIT_SECONDS)
        assert looper.pump.busy_since is not None
        looper.pump.stop()
        go_on.set()
    assert bus.logged("out") == [1]
    assert (bus.pending(), looper.pump.handled) == (2, 1)


def test_a_second_owner_ends_the_first(bus: Bus) -> None:
    with Looper(bus, forward) as first:
        bus.wait_blocked()
        with Looper(bus, forward):
            first.thread.join(WAIT_SECONDS)
            assert isinstance(first.failure, OwnershipLostError)
            bus.publish(1)
            wait_until(lambda: bus.logged("out") == [1])


def test_a_destroyed_group_ends_the_loop(bus: Bus) -> None:
    with Looper(bus, forward) as looper:
        bus.wait_blocked()
        bus.raw.xgroup_destroy(bus.log(), CLIENT)
        looper.thread.join(WAIT_SECONDS)
    assert isinstance(looper.failure, GroupLostError)


def test_a_twin_that_swallows_messages_holds_up_nothing(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "BLOCK_SECONDS", 0.1)
    with Looper(bus, forward):
        bus.wait_blocked()
        twin = bus.swallow()
        for n in range(100):  # sooner or later the twin is the one that waited longest
            bus.publish(n)
            if not twin.is_alive():
                break
            wait_until(lambda: not bus.pending())
        twin.join(WAIT_SECONDS)
        wait_until(lambda: sorted(bus.logged("out")) == sorted(bus.logged()))


def test_topics_change_while_waiting(bus: Bus) -> None:
    with Looper(bus, forward) as looper:
        bus.wait_blocked()
        looper.topics.append("u")
        assert looper.pump.resubscribed(WAIT_SECONDS)
        bus.publish(1, topic="u")
        looper.wait_seen(1)


def test_topics_change_under_load(bus: Bus) -> None:
    """A reader that never waits never sees a wake."""
    ended = threading.Event()

    def handle(entry: Entry) -> Result:
        return Result(entry, "ok", [] if ended.is_set() else frames_of(message("t", {"n": number(entry) + 1})))

    bus.publish(*range(64))  # from now on there is always something to read
    with Looper(bus, handle) as looper:
        looper.wait_seen(100)
        looper.topics.append("u")
        assert looper.pump.resubscribed(WAIT_SECONDS)
        assert bus.raw.xinfo_groups(bus.log("u"))
        assert looper.consumer.connected
        ended.set()


def test_whoever_waits_for_topics_hears_when_the_loop_ends(bus: Bus) -> None:
    with Looper(bus, forward) as looper:
        bus.wait_blocked()
        bus.raw.hset(keys.PLAIN.client_key(bus.namespace, CLIENT), "token", "another")
        began = time.monotonic()
        assert not looper.pump.resubscribed(WAIT_SECONDS)
        assert time.monotonic() - began < WAIT_SECONDS / 2
    assert isinstance(looper.failure, OwnershipLostError)


def test_a_message_whose_outputs_cannot_be_stored_becomes_a_dead_letter_and_the_rest_goes_on(bus: Bus) -> None:
    def handle(entry: Entry) -> Result:
        to = "spoilt" if number(entry) in (3, 5) else "out"
        result = forward(entry, to)
        result.state = {"last": number(entry)}
        return result

    bus.raw.set(f"{bus.namespace}:spoilt", "mine")
    bus.publish(*range(8))
    with Looper(bus, handle) as looper:
        wait_until(lambda: bus.raw.exists(bus.log("out")) and bus.outcomes().total() == 8)
    assert Counter(bus.logged("out")) == Counter({0, 1, 2, 4, 6, 7})
    assert [letter["payload"]["n"] for letter in bus.letters()] == [3, 5]
    assert f"{bus.namespace}:spoilt is of a wrong type" in bus.letters()[0]["payload"]["why"]
    assert bus.outcomes() == {"ok": 6, "failed": 2}
    assert (bus.pending(), looper.pump.handled, looper.failure) == (0, 8, None)
    assert {"last": 2} in looper.states  # what the refused handler changed was undone


def test_when_not_even_the_dead_letter_can_be_stored_the_rest_goes_on(bus: Bus) -> None:
    bus.raw.set(bus.log("out"), "mine")
    bus.raw.set(bus.log("dead_letter_queue"), "mine")
    bus.publish(1, 2)
    with Looper(bus, forward):
        wait_until(lambda: bus.outcomes() == {"failed": 2})
    assert bus.pending() == 0


def test_a_client_whose_own_key_is_spoilt_ends_instead_of_turning_round(bus: Bus) -> None:
    bus.raw.set(keys.PLAIN.counts_key(f"{bus.namespace}x"), "mine")
    with Bus(bus.config.connection_url(), f"{bus.namespace}x") as spoilt:
        spoilt.raw.xadd(spoilt.log(), {"m": message("t").to_json_bytes()})
        with Looper(spoilt, forward) as looper:
            looper.thread.join(WAIT_SECONDS)
        assert isinstance(looper.failure, BackendRefusedError)
        assert not isinstance(looper.failure, CommitImpossibleError)


def test_a_commit_that_others_did_before_is_not_done_again(bus: Bus) -> None:
    def handle(entry: Entry) -> Result:
        if number(entry) == 1:
            bus.raw.xack(bus.log(), CLIENT, entry.entry_id)
        return forward(entry)

    bus.publish(1, 2)
    with Looper(bus, handle):
        wait_until(lambda: bus.raw.exists(bus.log("out")) and not bus.pending())
    assert bus.logged("out") == [2]


def test_a_fault_while_the_state_is_loaded_after_a_refused_commit_does_not_end_the_loop(bus: Bus) -> None:
    killed = threading.Event()

    def handle(entry: Entry) -> Result:
        if number(entry) == 1:
            bus.raw.xack(bus.log(), CLIENT, entry.entry_id)
            frames = [frame for n in range(COMMIT_FRAMES) for frame in frames_of(message("out", {"n": n}))]
            return Result(entry, "ok", frames)  # so many are committed, and refused, before the batch ends
        return forward(entry)

    bus.publish(1, 2)
    looper = Looper(bus, handle)
    load = looper.consumer.load_state

    def killed_at_the_second_call() -> dict[str, object]:
        if looper.states and not killed.is_set():
            killed.set()
            bus.kill_reader()
        return load()

    looper.consumer.load_state = killed_at_the_second_call  # type: ignore[method-assign]
    with looper:
        wait_until(lambda: bus.raw.exists(bus.log("out")) and bus.logged("out") == [2])
    assert killed.is_set()
    assert looper.failure is None


def test_many_outputs_are_committed_before_the_batch_ends(bus: Bus) -> None:
    waiting, go_on = threading.Event(), threading.Event()

    def handle(entry: Entry) -> Result:
        if number(entry) == 2:
            waiting.set()
            assert go_on.wait(WAIT_SECONDS)
        frames = [frame for n in range(COMMIT_FRAMES) for frame in frames_of(message("out", {"n": n}))]
        return Result(entry, "ok", frames)

    bus.publish(1, 2)
    with Looper(bus, handle):
        assert waiting.wait(WAIT_SECONDS)
        assert len(bus.logged("out")) == COMMIT_FRAMES
        go_on.set()


def test_a_commit_whose_script_was_flushed_does_not_wait_for_the_read_that_was_sent_with_it(
    own_bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "BLOCK_SECONDS", 15.0)

    def handle(entry: Entry) -> Result:
        own_bus.raw.script_flush()
        return forward(entry)

    with Looper(own_bus, handle):
        own_bus.wait_blocked()
        began = time.monotonic()
        own_bus.publish(1)
        wait_until(lambda: bool(own_bus.raw.exists(own_bus.log("out"))))
        assert time.monotonic() - began < consumer_module.BLOCK_SECONDS / 2
    assert own_bus.outcomes() == {"ok": 1}


def test_a_read_that_the_server_knows_nothing_of_is_not_ended_for_ever(
    own_bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "BLOCK_SECONDS", 1.0)
    consumer = own_bus.consumer(clock=itertools.count(0, 1).__next__)
    own_bus.publish(1)
    (entry,) = consumer.read()
    own_bus.raw.script_flush()
    consumer._connection = 1 << 40  # as after a failover
    assert consumer.read([forward(entry)]) == []
    assert own_bus.raw.info("commandstats").get("cmdstat_client|unblock", {"calls": 0})["calls"] <= 1
    assert own_bus.logged("out") == [1]


def test_a_connection_that_breaks_as_soon_as_it_is_made_is_not_tried_without_pause(bus: Bus) -> None:
    looper = Looper(bus, forward)
    tries: list[float] = []

    def breaks(*_: object) -> list[Entry]:
        tries.append(time.monotonic())
        if len(tries) == 7:
            looper.pump.stop()
        bus.kill_reader()
        looper.consumer._link.call("PING")
        raise AssertionError("it did not break")

    looper.consumer.read = breaks  # type: ignore[method-assign,assignment]
    with looper:
        looper.thread.join(WAIT_SECONDS)
    assert len(tries) == 7
    pauses = [later - sooner for sooner, later in itertools.pairwise(tries)]
    assert pauses[5] > 0.05  # 0, 10, 20, 40, 80, 160 ms, each by half at least
