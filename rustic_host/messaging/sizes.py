"""How large a message may be, and what is said of one that is large."""

import threading
from collections.abc import Iterable
from typing import Any

from rustic_host.errors import MessageTooLargeError
from rustic_host.messaging.delivery import Frame
from rustic_host.messaging.message import Message
from rustic_host.telemetry.logs import get_logger

MAX_MESSAGE_BYTES = 16 << 20
"""Default of the limit. Redis takes 512 MiB (``proto-max-bulk-len``), and stands still for as long as that takes."""

LARGE_MESSAGE_BYTES = 1 << 20
"""From here on a message is large: the document recommends payloads below 1 MB."""

_CHARACTER_BYTES = 6
"""Most bytes that a character takes in JSON: one that is written as its number."""

_NODE_BYTES = 32
"""Most bytes of a number of 64 bits or a constant, with what separates it from the next."""

log = get_logger(__name__)


class SizeLimits:
    """Refuses messages that are too large, and warns of large ones, once a topic.

    Args:
        max_bytes: of a message's JSON.
    """

    def __init__(self, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.max_bytes = max_bytes
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def check_frames(self, frames: Iterable[Frame]) -> None:
        """Look at the copies of a message, all before any is stored.

        Raises:
            MessageTooLargeError: one is too large.
        """
        for frame in frames:
            if len(frame.body) > LARGE_MESSAGE_BYTES or len(frame.body) > self.max_bytes:
                self._large(frame.message_id, frame.topic, len(frame.body))

    def check(self, message: Message) -> None:
        """As :meth:`check_frames`; the message is only written when it may be large.

        Raises:
            MessageTooLargeError: it is too large.
        """
        small = min(LARGE_MESSAGE_BYTES, self.max_bytes)
        left = _left(message.payload, small)
        if left >= 0 and (message.session_state is None or _left(message.session_state, left) >= 0):
            return
        size = len(message.to_json_bytes())
        if size > small:
            for topic in message.topic_list:
                self._large(message.id, topic, size)

    def _large(self, message_id: int, topic: str, size: int) -> None:
        if size > self.max_bytes:
            raise MessageTooLargeError(
                f"message {message_id} for topic {topic!r} has {size} bytes; {self.max_bytes} are the most"
            )
        with self._lock:
            if topic in self._warned:
                return
            self._warned.add(topic)
        log.warning("large_message", topic=topic, message_id=message_id, bytes=size, hint="store it, send where it is")


def _left(value: Any, room: int) -> int:
    """``room`` less what ``value`` takes in JSON at most; below 0, and no exact number, when it may not fit."""
    if isinstance(value, str):
        return room - _CHARACTER_BYTES * len(value) - _NODE_BYTES
    if isinstance(value, int) and value.bit_length() > 64:
        return room - value.bit_length()
    room -= _NODE_BYTES
    if isinstance(value, dict):
        for key, each in value.items():
            room = _left(each, room - _CHARACTER_BYTES * len(key))
            if room < 0:
                break
    elif isinstance(value, list):
        for each in value:
            room = _left(each, room)
            if room < 0:
                break
    return room
