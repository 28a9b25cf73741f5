"""How large a message may be, and what is said of one that is large."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

from pydantic_core import SchemaSerializer, core_schema

from rustic_host.errors import MessageError, MessageTooLargeError
from rustic_host.messaging.delivery import Frame
from rustic_host.messaging.message import Message
from rustic_host.telemetry.logs import get_logger

MAX_MESSAGE_BYTES = 16 << 20
"""Default of the limit. Redis takes 512 MiB (``proto-max-bulk-len``), and stands still for as long as that takes."""

LARGE_MESSAGE_BYTES = 1 << 20
"""From here on a message is large: the document recommends payloads below 1 MB."""

ROOM_FOR_THE_REST = 16 << 10
"""Bytes besides payload and session state that are not counted exactly; histories of some hundred steps are larger."""

_written: Callable[[Any], bytes] = SchemaSerializer(core_schema.any_schema()).to_json

log = get_logger(__name__)


class SizeLimits:
    """Refuses messages that are too large, and warns of large ones, once a topic.

    Args:
        max_bytes: of a message's JSON.
    """

    def __init__(self, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.max_bytes = max_bytes
        self.surely_small = min(LARGE_MESSAGE_BYTES, max_bytes) - ROOM_FOR_THE_REST
        """Bytes of payload and state up to which a message needs no other look."""
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

    def check(self, message: Message, size: int | None = None) -> None:
        """As :meth:`check_frames`; the whole message is only written when it may be large.

        Args:
            message: before it is stored.
            size: bytes of its payload and state, where they are known.

        Raises:
            MessageTooLargeError: it is too large.
            MessageError: it holds what JSON cannot say.
        """
        if (_size(message) if size is None else size) > self.surely_small:
            self._look_at(message)

    def _look_at(self, message: Message) -> None:
        if (size := len(message.to_json_bytes())) > min(LARGE_MESSAGE_BYTES, self.max_bytes):
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


def _size(message: Message) -> int:
    """Bytes of what makes a message large."""
    try:
        size = len(_written(message.payload))
        return size if message.session_state is None else size + len(_written(message.session_state))
    except ValueError as error:  # pydantic's own among them
        raise MessageError(f"message {message.id} cannot be written: {error}") from error
