"""A commit does all it holds, or nothing."""

import json
from collections.abc import Callable

import pytest

from rustic_host.errors import (
    BackendRefusedError,
    CommitImpossibleError,
    CommitRefusedError,
    MessagingError,
    OwnershipLostError,
)
from rustic_host.messaging.delivery import Entry, Kept, Result, frames_of
from rustic_host.messaging.redis import keys
from tests.messaging.bus import CLIENT, Bus, forward, message, numbers
from tests.messaging.redis.heard import heard

Spoil = Callable[[Bus, Result], object]


def test_acknowledgement_outputs_counts_and_state_come_together(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1, 2)
    first, second = consumer.read()
    result = Result(first, "ok", frames_of(message(["x", "y"], {"n": 7})), {"total": 1})
    with heard(bus, f"{bus.namespace}:*") as notes:
        consumer.commit([result, Result(second, "error", [], {"total": 2})])
        assert [notes.get(timeout=10)[1] for _ in result.outputs] == [frame.body for frame in result.outputs]
    assert bus.pending() == 0
    assert (bus.logged("x"), bus.logged("y")) == ([7], [7])
    for frame in result.outputs:
        assert bus.raw.zrange(f"{bus.namespace}:{frame.topic}", 0, -1, withscores=True) == [
            (frame.body, float(frame.timestamp))
        ]
    index = f"msg:{bus.namespace}:{result.outputs[0].message_id}"
    assert bus.raw.get(index) == result.outputs[-1].body
    assert 3590 < bus.raw.ttl(index) <= 3600
    assert bus.raw.hgetall(keys.PLAIN.state_key(bus.namespace, CLIENT)) == {b"version": b"2", b"state": b'{"total":2}'}
    assert consumer.load_state() == {"total": 2}
    assert bus.outcomes() == {"ok": 1, "error": 1}
    assert {c.topic: n for c, n in bus.counts().items() if c.kind == "published"} == {"t": 2, "x": 1, "y": 1}


def test_a_commit_without_state_leaves_the_state_alone(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1)
    consumer.commit([Result(entry, "ok") for entry in consumer.read()])
    assert not bus.raw.exists(keys.PLAIN.state_key(bus.namespace, CLIENT))


def test_a_second_commit_of_the_same_entry_publishes_nothing(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1)
    (entry,) = consumer.read()
    consumer.commit([forward(entry)])
    before = bus.dump()
    with pytest.raises(CommitRefusedError, match="gone"):
        consumer.commit([forward(entry)])
    assert bus.dump() == before
    assert bus.logged("out") == [1]


def test_an_output_that_is_stored_already_is_not_stored_again(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1)
    frames = frames_of(message("out", {"n": 5}))
    bus.publisher().publish(bus.namespace, frames)
    consumer.commit([Result(entry, "ok", [*frames, *frames]) for entry in consumer.read()])
    assert bus.logged("out") == [5]
    assert {c.topic: n for c, n in bus.counts().items() if c.kind == "published"} == {"t": 1, "out": 1}


def _set(key_of: Callable[[Bus], str]) -> Spoil:
    def spoil(bus: Bus, result: Result) -> None:
        bus.raw.delete(key_of(bus))
        bus.raw.set(key_of(bus), "mine")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        pytest.param(
            lambda bus, result: bus.raw.hset(keys.PLAIN.client_key(bus.namespace, CLIENT), "token", "another"),
            OwnershipLostError,
            id="owner",
        ),
        pytest.param(
            lambda bus, result: bus.raw.xack(bus.log(), CLIENT, result.entry.entry_id), CommitRefusedError, id="acked"
        ),
        pytest.param(lambda bus, result: bus.raw.xgroup_destroy(bus.log(), CLIENT), CommitRefusedError, id="no group"),
        pytest.param(lambda bus, result: bus.raw.delete(bus.log()), CommitRefusedError, id="no log"),
        pytest.param(
            lambda bus, result: bus.raw.hset(keys.PLAIN.state_key(bus.namespace, CLIENT), "version", "4"),
            CommitRefusedError,
            id="state version",
        ),
        pytest.param(_set(lambda bus: bus.log("out")), CommitImpossibleError, id="log"),
        pytest.param(_set(lambda bus: f"{bus.namespace}:out"), CommitImpossibleError, id="store"),
        pytest.param(_set(lambda bus: f"rustic-host:{bus.namespace}:seen:out"), CommitImpossibleError, id="seen"),
        pytest.param(_set(lambda bus: keys.PLAIN.counts_key(bus.namespace)), BackendRefusedError, id="counts"),
        pytest.param(_set(lambda bus: keys.PLAIN.state_key(bus.namespace, CLIENT)), BackendRefusedError, id="state"),
        pytest.param(_set(lambda bus: keys.PLAIN.client_key(bus.namespace, CLIENT)), BackendRefusedError, id="client"),
    ],
)
@pytest.mark.parametrize("others", [0, 3])
def test_refused_with_nothing_changed(bus: Bus, spoil: Spoil, error: type[MessagingError], others: int) -> None:
    consumer = bus.consumer()
    bus.publish(*range(others + 1))
    results = [forward(entry) for entry in consumer.read()]
    results[-1].state = {"total": 1}
    spoil(bus, results[-1])
    before = bus.dump()
    with pytest.raises(error):
        consumer.commit(results)
    assert bus.dump() == before


def test_two_topics_are_acknowledged_each_in_its_own_log(bus: Bus) -> None:
    consumer = bus.consumer(topics=["a", "b"])
    bus.publish(1, topic=["a", "b"])
    bus.publish(2, topic="b")
    entries = consumer.read()
    assert [(entry.topic, n) for entry, n in zip(entries, numbers(entries), strict=True)] == [
        ("a", 1), ("b", 1), ("b", 2),
    ]  # fmt: skip
    consumer.commit([Result(entry, "ok") for entry in entries[1:]])
    assert (bus.pending("a"), bus.pending("b")) == (1, 0)


def read_all(bus: Bus, count: int) -> list[Entry]:
    """Entries without a message, all pending."""
    with bus.raw.pipeline(transaction=False) as pipeline:
        for _ in range(count):
            pipeline.xadd(bus.log(), {"m": "{}"})
        ids = pipeline.execute()
    bus.raw.xreadgroup(CLIENT, "rustic-host", {bus.log(): ">"}, count=count)
    return [Entry("t", entry_id.decode(), b"{}") for entry_id in ids]


def test_entries_behind_others_that_stay_pending(bus: Bus) -> None:
    consumer = bus.consumer()
    entries = read_all(bus, 8)
    consumer.commit([Result(entry, "ok") for entry in (entries[6], entries[0], entries[3])])
    assert bus.pending() == 5
    before = bus.dump()
    with pytest.raises(CommitRefusedError, match=f"gone {entries[6].entry_id}"):
        consumer.commit([Result(entry, "ok") for entry in (entries[1], entries[7], entries[6])])
    assert bus.dump() == before
    consumer.commit([Result(entry, "ok") for entry in entries if entry not in (entries[6], entries[0], entries[3])])
    assert bus.pending() == 0


def test_more_entries_than_a_call_of_a_script_takes_arguments(bus: Bus) -> None:
    consumer = bus.consumer()
    entries = read_all(bus, 8100)
    consumer.commit([Result(entry, "filtered") for entry in entries])
    assert bus.pending() == 0
    assert bus.outcomes() == {"filtered": 8100}


def test_state_of_one_commit_is_the_base_of_the_next(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1, 2, 3)
    for total, entry in enumerate(consumer.read(), 1):
        consumer.commit([Result(entry, "ok", [], {"total": total, "text": "ü"})])
    stored = bus.raw.hgetall(keys.PLAIN.state_key(bus.namespace, CLIENT))
    assert (stored[b"version"], json.loads(stored[b"state"])) == (b"3", {"total": 3, "text": "ü"})


def test_a_state_changed_behind_our_back_is_not_taken_over_unread(bus: Bus) -> None:
    consumer = bus.consumer()
    bus.publish(1, 2)
    first, second = consumer.read()
    bus.raw.hset(keys.PLAIN.state_key(bus.namespace, CLIENT), mapping={"version": 9, "state": '{"by":"hand"}'})
    consumer.commit([Result(first, "ok")])
    with pytest.raises(CommitRefusedError, match="state 9"):
        consumer.commit([Result(second, "ok", [], {"total": 1})])
    assert consumer.resync() == Kept({"by": "hand"}, 9)
    consumer.commit([Result(second, "ok", [], {"total": 1})])
    assert consumer.load_state() == {"total": 1}
