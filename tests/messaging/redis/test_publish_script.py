"""What one publish leaves in the server."""

import json
from pathlib import Path
from typing import Any

import pytest

from rustic_host.errors import BackendRefusedError
from rustic_host.messaging import Message
from rustic_host.messaging.delivery import Frame, frames_of
from rustic_host.messaging.redis.publisher import MAX_BYTES_A_CALL, MAX_FRAMES_A_CALL, slices
from tests.messaging.bus import Bus, message
from tests.messaging.redis.heard import heard

GOLDEN = Path(__file__).parents[2] / "conformance" / "golden" / "redis_commands.jsonl"


def golden_publishes() -> list[tuple[Message, list[list[str]]]]:
    """Each message that Rustic AI published, with its SET, ZADD and PUBLISH commands."""
    commands = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    found: dict[int, tuple[Message, list[list[str]]]] = {}
    for command in commands:
        if command[0] in ("SET", "ZADD", "PUBLISH") and not command[1].startswith("eo:pos"):
            body = command[2] if command[0] in ("SET", "PUBLISH") else command[3]
            parsed = Message.from_json(body)
            if parsed.topic_published_to is not None:  # dead letters say null there (facts 2.4)
                found.setdefault(parsed.id, (parsed, []))[1].append(command)
    return list(found.values())


def test_the_golden_commands_hold_a_publish_on_two_topics() -> None:
    assert any(len(commands) == 6 for _, commands in golden_publishes())


def test_documented_keys_are_byte_for_byte_those_of_rustic_ai(own_bus: Bus) -> None:
    for original, commands in golden_publishes():
        own_bus.raw.flushall()
        namespace = commands[0][1].split(":")[1]
        with heard(own_bus, f"{namespace}:*") as notes:
            own_bus.publisher().publish(namespace, frames_of(original))
            published = [(c[1].encode(), c[2].encode()) for c in commands if c[0] == "PUBLISH"]
            assert [notes.get(timeout=10) for _ in published] == published
        index = {c[1]: c for c in commands if c[0] == "SET"}
        for name, command in index.items():
            assert own_bus.raw.get(name) == command[2].encode()
            assert int(command[4]) - 10 < own_bus.raw.ttl(name) <= int(command[4])
        for _, name, score, member in (c for c in commands if c[0] == "ZADD"):
            assert own_bus.raw.zrange(name, 0, -1, withscores=True) == [(member.encode(), float(score))]
        ours = {c[1].encode() for c in commands}
        documented = {key for key in own_bus.raw.keys("*") if not key.startswith(b"rustic-host:")}
        assert documented == ours - {key for key in ours if key.startswith(b"eo:")}


def test_log_index_store_and_channel_hold_the_same_bytes(bus: Bus) -> None:
    sent = message(["a", "b"], {"text": "Grüße\n\t 'x' \u2028"})
    frames = frames_of(sent)
    with heard(bus, f"{bus.namespace}:*") as notes:
        bus.publisher().publish(bus.namespace, frames)
        assert [notes.get(timeout=10)[1] for _ in frames] == [frame.body for frame in frames]
    for frame in frames:
        assert [fields for _, fields in bus.raw.xrange(bus.log(frame.topic))] == [{b"m": frame.body}]
        assert bus.raw.zrange(f"{bus.namespace}:{frame.topic}", 0, -1) == [frame.body]
        assert bus.raw.zrange(f"rustic-host:{bus.namespace}:seen:{frame.topic}", 0, -1) == [frame.digest]
    assert bus.raw.get(f"msg:{bus.namespace}:{sent.id}") == frames[-1].body


def test_publishing_the_same_frames_again_changes_nothing_but_the_ttl(bus: Bus) -> None:
    frames = frames_of(message(["a", "b"]))
    publisher = bus.publisher()
    publisher.publish(bus.namespace, frames)
    before = bus.dump()
    publisher.publish(bus.namespace, frames)
    publisher.publish(bus.namespace, frames[:1])
    assert bus.dump() == before
    assert {count.topic: n for count, n in bus.counts().items()} == {"a": 1, "b": 1}


def test_equal_ids_of_two_senders_are_two_messages(bus: Bus) -> None:
    first = message("a", {"n": 1})
    second = Message(first.id_obj, sender=first.sender, topics="a", payload={"n": 2})
    bus.publisher().publish(bus.namespace, [*frames_of(first), *frames_of(second)])
    assert bus.logged("a") == [1, 2]


def test_counts_are_exact_over_several_calls(bus: Bus) -> None:
    publisher = bus.publisher()
    for size in (1, 7, MAX_FRAMES_A_CALL * 2 + 1):
        publisher.publish(bus.namespace, [f for n in range(size) for f in frames_of(message("a", {"n": n}))])
    expected = 8 + MAX_FRAMES_A_CALL * 2 + 1
    assert list(bus.counts().values()) == [expected]
    assert len(bus.logged("a")) == bus.raw.zcard(f"{bus.namespace}:a") == expected


@pytest.mark.parametrize("part", ["log", "seen", "store", "counts"])
def test_one_key_of_a_wrong_type_refuses_all_topics(bus: Bus, part: str) -> None:
    spoilt = {
        "log": bus.log("b"),
        "seen": f"rustic-host:{bus.namespace}:seen:b",
        "store": f"{bus.namespace}:b",
        "counts": f"rustic-host:{bus.namespace}:count",
    }[part]
    bus.raw.set(spoilt, "mine")
    bus.publisher().open_namespace(bus.namespace)
    before = bus.dump()
    with pytest.raises(BackendRefusedError, match=f"{spoilt} is of a wrong type; nothing stored"):
        bus.publisher().publish(bus.namespace, frames_of(message(["a", "b", "c"])))
    assert bus.dump() == before


def frame(message_id: int, size: int) -> Frame:
    return Frame("t", message_id, 0, b"x" * size, b"")


@pytest.mark.parametrize(
    ("frames", "sizes"),
    [
        ([], []),
        ([frame(1, MAX_BYTES_A_CALL * 3)], [1]),
        ([frame(n, 1) for n in range(MAX_FRAMES_A_CALL)], [MAX_FRAMES_A_CALL]),
        ([frame(n, 1) for n in range(MAX_FRAMES_A_CALL + 1)], [MAX_FRAMES_A_CALL, 1]),
        ([frame(n, MAX_BYTES_A_CALL // 2) for n in range(3)], [2, 1]),
        ([frame(n // 3, 1) for n in range(66)], [63, 3]),
        ([frame(1, MAX_BYTES_A_CALL)] * 2, [2]),
        ([frame(1, 1)] * (MAX_FRAMES_A_CALL + 9), [MAX_FRAMES_A_CALL + 9]),
    ],
)
def test_runs_are_small_and_never_part_the_copies_of_a_message(frames: list[Frame], sizes: list[int]) -> None:
    runs = list(slices(frames))
    assert [len(run) for run in runs] == sizes
    assert [each for run in runs for each in run] == frames


def test_large_copies_of_one_message_are_stored_together_or_not_at_all(bus: Bus) -> None:
    payload: dict[str, Any] = {"text": "x" * (MAX_BYTES_A_CALL * 2 // 3)}
    bus.raw.set(bus.log("b"), "mine")
    with pytest.raises(BackendRefusedError):
        bus.publisher().publish(bus.namespace, frames_of(message(["a", "b"], payload)))
    assert not bus.raw.exists(bus.log("a"))
