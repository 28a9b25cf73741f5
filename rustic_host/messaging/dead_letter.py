"""Messages that were given up on, as messages (facts 2.4)."""

import json
from typing import Any

from rustic_host.messaging.delivery import Entry
from rustic_host.messaging.gemstone_id import GemstoneID
from rustic_host.messaging.message import Message
from rustic_host.messaging.tags import AgentTag

DEAD_LETTER_TOPIC = "dead_letter_queue"

SENDER = AgentTag(id="messaging_backend", name="MessagingBackend")


def dead_letter(
    id_obj: GemstoneID, namespace: str, client_id: str, entry: Entry, message: Message | None, error: Exception | None
) -> Message:
    """The dead letter of ``entry``; an entry that is no message is kept as text in ``original_text``."""
    payload: dict[str, Any] = {
        "delivery_backend": "RedisMessagingBackend",
        "client_id": client_id,
        "original_topic": f"{namespace}:{entry.topic}",
        "original_message_id": message.id if message else None,
        "original_message": json.loads(message.to_json_bytes()) if message else None,
        "error_type": type(error).__name__,
        "error_message": str(error).encode(errors="backslashreplace").decode(),  # a file name may hold any byte
    }
    if message is None:
        payload["original_text"] = (entry.body or b"").decode(errors="replace")
    return Message(
        id_obj,
        sender=SENDER,
        topics=DEAD_LETTER_TOPIC,
        payload=payload,
        in_response_to=message.id if message else None,
        traceparent=message.traceparent if message else None,
        is_error_message=True,
    )
