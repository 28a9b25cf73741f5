"""A backend inside one process: one store that all interfaces of the process share."""

import threading
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Sequence

from rustic_host.messaging.backend import MessagingBackend
from rustic_host.messaging.message import Message
from rustic_host.telemetry.logs import get_logger

log = get_logger(__name__)


class _Store:
    """Messages and subscribers of the process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.topics: dict[str, list[Message]] = {}
        self.by_id: dict[tuple[str, int], Message] = {}
        self.subscribers: dict[str, dict[tuple[int, str], Callable[[Message], object]]] = {}


class _Deliveries(threading.local):
    """What this thread published and has still to hand out; None when it hands out nothing."""

    waiting: deque[tuple[str, Message]] | None = None


_shared = _Store()
_deliveries = _Deliveries()


class InMemoryMessagingBackend(MessagingBackend):
    """Calls subscribers in the publisher's thread; what one of them raises reaches neither publisher nor others.

    What a subscriber publishes is delivered after the message that it handles.
    """

    hands_out_copies = True

    def store_message(self, namespace: str, topic: str, message: Message) -> None:
        """Store, then call each subscriber."""
        with _shared.lock:
            insort(_shared.topics.setdefault(topic, []), message, key=_id)
            _shared.by_id[namespace, message.id] = message
        if _deliveries.waiting is not None:
            _deliveries.waiting.append((topic, message))
            return
        _deliveries.waiting = deque([(topic, message)])
        try:
            while _deliveries.waiting:
                _deliver(*_deliveries.waiting.popleft())
        finally:
            _deliveries.waiting = None

    def get_messages_for_topic(self, topic: str) -> list[Message]:
        """All, by id."""
        with _shared.lock:
            return list(_shared.topics.get(topic, ()))

    def get_messages_for_topic_since(self, topic: str, msg_id_since: int) -> list[Message]:
        """Those with a greater id."""
        with _shared.lock:
            stored = _shared.topics.get(topic, [])
            return stored[bisect_right(stored, msg_id_since, key=_id) :]

    def get_messages_by_id(self, namespace: str, msg_ids: Sequence[int]) -> list[Message]:
        """Those that are stored."""
        with _shared.lock:
            found = (_shared.by_id.get((namespace, message_id)) for message_id in msg_ids)
            return [message for message in found if message is not None]

    def subscribe(
        self, topic: str, handler: Callable[[Message], object], client_id: str = "", namespace: str = ""
    ) -> None:
        """One handler for each client of this backend object; a second call replaces it."""
        with _shared.lock:
            _shared.subscribers.setdefault(topic, {})[id(self), client_id] = handler

    def unsubscribe(self, topic: str, client_id: str = "") -> None:
        """End the subscription of one client."""
        with _shared.lock:
            _shared.subscribers.get(topic, {}).pop((id(self), client_id), None)

    def cleanup(self) -> None:
        """End the subscriptions made through this object; the store stays for the others."""
        with _shared.lock:
            for handlers in _shared.subscribers.values():
                for key in [key for key in handlers if key[0] == id(self)]:
                    del handlers[key]


def _id(message: Message) -> int:
    return message.id


def _deliver(topic: str, message: Message) -> None:
    with _shared.lock:
        handlers = list(_shared.subscribers.get(topic, {}).items())
    for (_, client_id), handler in handlers:
        try:
            handler(message.model_copy(deep=True))
        except Exception:
            log.exception("subscriber_failed", topic=topic, client=client_id, message_id=message.id)
