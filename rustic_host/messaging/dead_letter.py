"""Messages that were given up on, as messages (facts 2.4)."""

import json
import traceback
from typing import Any

from rustic_host.messaging.delivery import Entry
from rustic_host.messaging.gemstone_id import GemstoneID
from rustic_host.messaging.message import Message
from rustic_host.messaging.tags import AgentTag

DEAD_LETTER_TOPIC = "dead_letter_queue"

REPLAY_FOR = "rustic_host.replay_for"
"""In the session state of a message that is delivered once more: the only client that is to handle it."""

MAX_TRACEBACK = 16384
"""Characters, its last ones: the error itself is at the end."""

SENDER = AgentTag(id="messaging_backend", name="MessagingBackend")


def dead_letter(
    id_obj: GemstoneID,
    namespace: str,
    client_id: str,
    entry: Entry,
    message: Message | None,
    error: BaseException | None,
    backend: str = "RedisMessagingBackend",
) -> Message:
    """The dead letter of ``entry``; an entry that is no message is kept as text in ``original_text``.

    Besides Rustic AI's fields it says ``attempts`` (to handle it, the last one included) and ``traceback`` (text).
    Of an entry that retention cut only ``entry_id`` is left.
    """
    if message is not None:
        without_mark(message)
    payload: dict[str, Any] = {
        "delivery_backend": backend,
        "client_id": client_id,
        "original_topic": f"{namespace}:{entry.topic}",
        "original_message_id": message.id if message else None,
        "original_message": json.loads(message.to_json_bytes()) if message else None,
        "error_type": type(error).__name__,
        "error_message": _printable(str(error)),
        "traceback": _printable("".join(traceback.format_exception(error)))[-MAX_TRACEBACK:] if error else "",
        "attempts": entry.begun + 1,
    }
    if entry.body is None:
        payload["entry_id"] = entry.entry_id
    elif message is None:
        payload["original_text"] = entry.body.decode(errors="replace")
    return Message(
        id_obj,
        sender=SENDER,
        topics=DEAD_LETTER_TOPIC,
        payload=payload,
        in_response_to=message.id if message else None,
        traceparent=message.traceparent if message else None,
        is_error_message=True,
    )


def replay_of(original: dict[str, Any], client_id: str) -> Message:
    """The message of a dead letter as it is delivered once more, to ``client_id`` alone; its id and all else stay.

    Raises:
        MessageError, ValueError: it is no message.
    """
    message = Message.model_validate(original)
    message.session_state = {**(message.session_state or {}), REPLAY_FOR: client_id}
    return message


def replayed_for(message: Message) -> str | None:
    """The client that a replayed message is for; None for any other message."""
    client_id = (message.session_state or {}).get(REPLAY_FOR)
    return client_id if isinstance(client_id, str) else None


def without_mark(message: Message) -> None:
    """Make a replayed message what it was before, so that the mark does not travel on with what its handler sends."""
    if replayed_for(message) is not None:
        kept = {key: value for key, value in (message.session_state or {}).items() if key != REPLAY_FOR}
        message.session_state = kept or None


def _printable(text: str) -> str:
    """Without lone surrogates, which JSON cannot say: the name of a file may hold any byte."""
    return text.encode(errors="backslashreplace").decode()
