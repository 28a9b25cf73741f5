"""Reading and committing over one connection that breaks in every place."""

import os
import threading
from collections.abc import Callable

import pytest

from rustic_host.errors import BackendUnavailableError, CommitRefusedError, GroupLostError, OwnershipLostError
from rustic_host.messaging.delivery import Result
from rustic_host.messaging.redis import consumer as consumer_module
from rustic_host.messaging.redis import keys
from rustic_host.messaging.redis.consumer import BATCH_ENTRIES, CHECK_SECONDS, Consumer
from tests.messaging.bus import CLIENT, WAIT_SECONDS, Bus, forward, number, numbers, wait_until


@pytest.fixture
def _short_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "BLOCK_SECONDS", 0.1)


def broken_read(consumer: Consumer) -> None:
    with pytest.raises(BackendUnavailableError):
        consumer.read()


def reopened(consumer: Consumer, *topics: str) -> list[int]:
    """Open again after a break; the numbers that are pending."""
    with pytest.raises(BackendUnavailableError):
        consumer.read()
    consumer.open(topics or ("t",))
    return numbers(consumer.read())


def test_messages_come_in_the_order_of_arrival_and_in_batches(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(*range(BATCH_ENTRIES + 5))
    first = consumer.read()
    second = consumer.read([Result(entry, "ok") for entry in first])
    assert numbers([*first, *second]) == list(range(BATCH_ENTRIES + 5))
    assert (len(first), bus.pending()) == (BATCH_ENTRIES, 5)


def test_what_is_pending_comes_before_what_is_new(bus: Bus) -> None:
    consumer = bus.consumer(topics=["t", "u"])
    bus.publish(*range(BATCH_ENTRIES))
    bus.publish(100, topic="u")
    consumer.read()
    bus.kill_reader()
    bus.publish(200, 201)
    assert sorted(reopened(consumer, "t", "u")) == [*range(BATCH_ENTRIES), 100]
    assert numbers(consumer.read()) == [200, 201]


def test_all_pages_of_what_is_pending(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = bus.consumer()
    bus.publish(*range(10))
    consumer.read()
    monkeypatch.setattr(consumer_module, "BATCH_ENTRIES", 3)
    bus.kill_reader()
    assert reopened(consumer) == list(range(10))


def test_a_connection_killed_while_it_waits_loses_nothing(bus: Bus) -> None:
    consumer = bus.consumer()
    ended = threading.Thread(target=broken_read, args=(consumer,))
    ended.start()
    bus.wait_blocked()
    bus.kill_reader()
    ended.join(WAIT_SECONDS)
    assert not consumer.connected
    bus.publish(1)
    consumer.open(["t"])
    assert numbers(consumer.read()) == [1]


def test_a_connection_killed_between_handling_and_commit_redoes_the_message_once(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1, 2)
    results = [forward(entry) for entry in consumer.read()]
    bus.kill_reader()
    with pytest.raises(BackendUnavailableError):
        consumer.commit(results)
    assert bus.logged("out") == []
    with pytest.raises(BackendUnavailableError):  # what came on that connection is void
        consumer.commit(results)
    consumer.open(["t"])
    entries = consumer.read()
    consumer.commit([forward(entry) for entry in entries])
    assert bus.logged("out") == [1, 2]


def test_a_commit_whose_answer_is_lost_is_not_done_twice(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1)
    (entry,) = consumer.read()
    consumer._link.send(consumer._commit_command([forward(entry)]))
    wait_until(lambda: not bus.pending())
    bus.kill_reader()
    broken_read(consumer)
    consumer.open(["t"])
    with pytest.raises(CommitRefusedError, match="gone"):
        consumer.commit([forward(entry)])
    bus.publish(2)
    assert numbers(consumer.read()) == [2]
    assert bus.logged("out") == [1]


def test_no_reconnect_is_hidden(bus: Bus) -> None:
    consumer = bus.consumer()
    (before,) = bus.connections()
    bus.kill_reader()
    with pytest.raises(BackendUnavailableError):
        consumer.load_state()
    with pytest.raises(BackendUnavailableError, match="not connected"):
        consumer.load_state()
    assert bus.connections() == []
    consumer.open(["t"])
    assert [row["id"] for row in bus.connections()] != [before["id"]]


@pytest.mark.parametrize("fused", [False, True])
def test_a_script_cache_that_was_flushed_does_not_matter(bus: Bus, fused: bool) -> None:
    consumer = bus.consumer()
    bus.publish(1, 2)
    results = [forward(entry) for entry in consumer.read()]
    bus.publish(3)
    bus.raw.script_flush()
    if fused:
        assert numbers(consumer.read(results)) == [3]
    else:
        consumer.commit(results)
    assert bus.logged("out") == [1, 2]
    assert bus.pending() == int(fused)


def test_a_commit_refused_in_one_write_with_the_read_drops_the_connection(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1)
    results = [forward(entry) for entry in consumer.read()]
    bus.raw.xack(bus.log(), CLIENT, results[0].entry.entry_id)
    bus.publish(2)  # the read that goes with the commit takes it, and nobody reads that answer
    with pytest.raises(CommitRefusedError):
        consumer.read(results)
    assert not consumer.connected
    consumer.open(["t"])
    assert numbers(consumer.read()) == [2]
    assert bus.logged("out") == []


def test_a_group_destroyed_while_its_reader_waits_stops_the_client(bus: Bus) -> None:
    consumer = bus.consumer()
    errors: list[BaseException] = []

    def read() -> None:
        with pytest.raises(GroupLostError) as caught:
            consumer.read()
        errors.append(caught.value)

    thread = threading.Thread(target=read)
    thread.start()
    bus.wait_blocked()
    bus.raw.xgroup_destroy(bus.log(), CLIENT)
    thread.join(WAIT_SECONDS)
    assert [type(error) for error in errors] == [GroupLostError]
    with pytest.raises(GroupLostError):
        bus.consumer()
    assert not bus.raw.xinfo_groups(bus.log())


@pytest.mark.parametrize("gone", ["group", "log"])
def test_a_client_whose_group_is_gone_does_not_start_again_from_anywhere(bus: Bus, gone: str) -> None:
    bus.consumer()
    bus.publish(1)
    bus.raw.xgroup_destroy(bus.log(), CLIENT) if gone == "group" else bus.raw.delete(bus.log())
    with pytest.raises(GroupLostError, match=r"log:t was destroyed"):
        bus.consumer()


def test_a_new_client_starts_at_the_earliest_message(bus: Bus) -> None:
    bus.publish(1, 2)
    assert numbers(bus.consumer().read()) == [1, 2]
    latest = bus.consumer("g1$b", start="latest")
    bus.publish(3)
    assert numbers(latest.read()) == [3]


@pytest.mark.parametrize("blocked", [False, True])
def test_a_flushed_server_is_begun_anew(own_bus: Bus, blocked: bool) -> None:
    consumer = own_bus.consumer()
    own_bus.publish(1)
    consumer.commit([forward(entry) for entry in consumer.read()])
    if blocked:
        ended = threading.Thread(target=broken_read, args=(consumer,))
        ended.start()
        own_bus.wait_blocked()
        own_bus.raw.flushall()
        ended.join(WAIT_SECONDS)
    else:
        own_bus.publish(2)
        results = [forward(entry) for entry in consumer.read()]
        own_bus.raw.flushall()
        with pytest.raises(BackendUnavailableError):
            consumer.commit(results)
    assert not consumer.connected
    own_bus.publish(3)
    consumer.open(["t"])
    assert numbers(consumer.read()) == [3]


def test_pending_entries_that_were_trimmed_are_handed_out_without_a_body(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1, 2)
    consumer.read()
    bus.raw.xtrim(bus.log(), maxlen=1, approximate=False)
    bus.kill_reader()
    with pytest.raises(BackendUnavailableError):
        consumer.read()
    consumer.open(["t"])
    lost, kept = consumer.read()
    assert (lost.body, number(kept)) == (None, 2)
    consumer.commit([Result(lost, "lost_to_retention"), forward(kept)])
    assert (bus.pending(), bus.logged("out")) == (0, [2])


@pytest.mark.usefixtures("_short_block")
def test_what_a_stopped_twin_swallowed_is_found_when_the_wait_ends(bus: Bus) -> None:
    consumer = bus.consumer()
    assert consumer.read() == []
    twin = bus.swallow()
    bus.publish(1)
    twin.join(WAIT_SECONDS)
    assert consumer.read() == []  # the server gave it to the twin, which waited longer
    assert numbers(consumer.read()) == [1]


def test_what_a_stopped_twin_swallowed_is_found_under_load(bus: Bus) -> None:
    now = [100.0]
    consumer = bus.consumer(clock=lambda: now[0])
    bus.publish(0)
    results = [forward(entry) for entry in consumer.read()]
    twin = bus.swallow()
    consumer.commit(results)
    bus.publish(1)
    twin.join(WAIT_SECONDS)
    turns = 6
    for n in range(turns):
        bus.publish(10 + n)
        now[0] += CHECK_SECONDS * 0.4
        consumer.commit([forward(entry) for entry in consumer.read()])
    assert sorted(bus.logged("out")) == [0, 1, *range(10, 10 + turns)]
    assert bus.logged("out")[-1] != 1  # found on the way, not at the end


@pytest.mark.usefixtures("_short_block")
def test_nothing_is_read_again_while_it_is_in_hand(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1)
    (entry,) = consumer.read()
    assert consumer.read() == []
    assert consumer.read() == []
    consumer.commit([forward(entry)])
    assert consumer.read() == []
    assert bus.raw.xinfo_stream(bus.log())["length"] == 1
    assert bus.logged("out") == [1]


@pytest.mark.parametrize("topics", [["t"], []])
def test_waking_ends_a_wait_at_once(bus: Bus, monkeypatch: pytest.MonkeyPatch, topics: list[str]) -> None:
    monkeypatch.setattr(consumer_module, "BLOCK_SECONDS", 2 * WAIT_SECONDS)
    consumer = bus.consumer(topics=topics)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(consumer.read()))
    thread.start()
    if topics:
        bus.wait_blocked()
    consumer.wake()
    thread.join(WAIT_SECONDS)
    assert found == [[]]
    assert not consumer.connected


def test_a_wake_before_the_read_is_not_lost(bus: Bus) -> None:
    consumer = bus.consumer()
    for _ in range(100_000):  # more than a pipe holds
        consumer.wake()
    assert consumer.read() == []
    assert not consumer.connected


def test_a_message_that_comes_while_it_is_woken_is_still_pending(bus: Bus) -> None:
    consumer = bus.consumer()
    consumer.wake()
    consumer.read()
    bus.publish(1)
    consumer.open(["t"])
    assert numbers(consumer.read()) == [1]


def test_topics_may_change_and_keep_their_positions(bus: Bus) -> None:
    consumer = bus.consumer(topics=["t", "u"])
    bus.publish(1)
    bus.publish(2, topic="u")
    first, _ = consumer.read()
    consumer.commit([forward(first)])
    consumer.open(["t"])
    bus.publish(3)
    assert numbers(consumer.read()) == [3]
    consumer.open(["t", "u"])
    assert sorted(numbers(consumer.read())) == [2, 3]


def spoil_token(bus: Bus) -> None:
    bus.raw.hset(keys.PLAIN.client_key(bus.namespace, CLIENT), "token", "another")


@pytest.mark.parametrize(
    "use",
    [
        lambda consumer, results: consumer.commit(results),
        lambda consumer, results: consumer.read(results),
        lambda consumer, results: consumer.subscribe(["t"]),
        lambda consumer, results: consumer.open(["t"]),
        lambda consumer, results: consumer._check_pending(),
    ],
)
def test_a_client_that_another_process_owns_can_do_nothing(
    bus: Bus, use: Callable[[Consumer, list[Result]], object]
) -> None:
    consumer = bus.consumer()
    bus.publish(1)
    results = [forward(entry) for entry in consumer.read()]
    spoil_token(bus)
    before, pending = bus.dump(), bus.pending()
    with pytest.raises(OwnershipLostError):
        use(consumer, results)
    after = bus.dump()
    for kept in (before, after):
        del kept[bus.log().encode()]  # a read that is refused leaves the time of its coming there
    assert (after, bus.pending()) == (before, pending)


def test_closing_twice_closes_nobody_elses_files(bus: Bus) -> None:
    consumer = bus.consumer()
    consumer.close()
    reading, writing = os.pipe()  # very likely the numbers that were free
    consumer.close()
    consumer.wake()
    os.write(writing, b"x")
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    os.close(writing)
