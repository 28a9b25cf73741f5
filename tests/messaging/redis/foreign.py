"""What Rustic AI's publishers do, command by command (facts 2.2)."""

import json
from typing import Any

from rustic_host.messaging import GemstoneGenerator, GemstoneID, Message
from tests.messaging.bus import OUTSIDE, Bus

GENERATOR = GemstoneGenerator(77)


def foreign_message(n: int, topic: str = "t", behind_ms: int = 0) -> Message:
    """One as a peer makes it, whose clock may be behind."""
    made = GENERATOR.get_id()
    stamped = GemstoneID(made.priority, made.timestamp - behind_ms, made.machine_id, made.sequence_number)
    return Message(stamped, sender=OUTSIDE, topics=topic, payload={"n": n}).published_to(topic)


def store(bus: Bus, message: Message, topic: str = "t") -> bytes:
    """SET and ZADD, in one pipeline without MULTI; returns the JSON."""
    body = message.to_json_bytes()
    pipeline = bus.raw.pipeline(transaction=False)
    pipeline.set(f"msg:{bus.namespace}:{message.id}", body, ex=3600)
    pipeline.zadd(f"{bus.namespace}:{topic}", {body: int(message.timestamp)})
    pipeline.execute()
    return body


def ring(bus: Bus, body: bytes, topic: str = "t") -> None:
    """PUBLISH."""
    bus.raw.publish(f"{bus.namespace}:{topic}", body)


def publish(bus: Bus, *numbers: int, topic: str = "t") -> None:
    """All of it, once for each number."""
    for n in numbers:
        ring(bus, store(bus, foreign_message(n, topic), topic), topic)


def payload_number(fields: dict[bytes, bytes]) -> Any:
    return json.loads(fields[b"m"])["payload"]["n"]
