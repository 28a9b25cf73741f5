"""A backend inside one process: one store that all interfaces of the process share."""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from rustic_host.errors import ConfigError
from rustic_host.messaging.backend import MessagingBackend
from rustic_host.messaging.dead_letter import DEAD_LETTER_TOPIC, dead_letter
from rustic_host.messaging.delivery import Entry, home_of
from rustic_host.messaging.gemstone_id import GemstoneGenerator
from rustic_host.messaging.memory_store import MemoryStore, Topic
from rustic_host.messaging.message import Message
from rustic_host.messaging.published import ID, PAYLOAD, STATE, Frozen, freeze, hand_out, on_topic, size_of
from rustic_host.telemetry.logs import get_logger

MESSAGE_TTL = 3600.0
"""Seconds that a message is stored; as on Redis (facts 2.5)."""

MAX_MESSAGES = 10_000
"""Messages that a topic stores: some 30 MB of small ones."""

_letter_ids = GemstoneGenerator(0)  # Rustic AI's machine id for dead letters (facts 9.4)

log = get_logger(__name__)

Delivery = tuple[Topic, Frozen]


class _Turn:
    """What one thread published and has still to hand out."""

    def __init__(self) -> None:
        self.waiting: deque[Delivery] = deque()
        self.taken = False
        """Whether the thread hands out just now."""


class _Deliveries(threading.local):
    def __init__(self) -> None:
        self.turn = _Turn()


_shared = MemoryStore()
_deliveries = _Deliveries()


class InMemoryMessagingBackend(MessagingBackend):
    """Calls subscribers in the publisher's thread; what one of them raises reaches neither publisher nor others.

    What a subscriber publishes is delivered after the message that it handles. Every subscriber and every reader gets a
    message of its own; a publisher may go on changing the one that it published.

    Args:
        message_ttl: seconds that a message is stored.
        max_messages: how many a topic stores; its oldest goes first.
        counts: whether :meth:`counts` is kept.
        store: where messages are; without one, where all others of the process have theirs.

    Raises:
        ConfigError: a bound is not above 0.
    """

    hands_out_copies = True
    delivers_in_turn = True

    def __init__(
        self,
        message_ttl: float = MESSAGE_TTL,
        max_messages: int = MAX_MESSAGES,
        counts: bool = True,
        store: MemoryStore | None = None,
    ) -> None:
        for name, value in (("message_ttl", message_ttl), ("max_messages", max_messages)):
            if not value > 0:
                raise ConfigError(f"{name} of the in-memory backend must be above 0, not {value}")
        self._ttl, self._limit, self.counting = message_ttl, max_messages, counts
        self._store = _shared if store is None else store
        self._subscribed: dict[str, None] = {}

    def store_message(self, namespace: str, topic: str, message: Message) -> None:
        """Store, then call each subscriber; raises MessageTooLargeError before that, but for a dead letter."""
        fields = freeze(message, None, (now := self._store.clock()) + self._ttl)
        if not topic.endswith(f":{DEAD_LETTER_TOPIC}"):  # it holds a message that was not too large
            self.sizes.check(message, size_of(fields))
        self._deliver(self._store.put(namespace, topic.removeprefix(f"{namespace}:"), fields, now, self._limit), fields)

    def store_copies(self, namespace: str, message: Message) -> None:
        """Store on all topics of the message, then call their subscribers; raises MessageTooLargeError before that."""
        topic, now = message.topics, self._store.clock()
        if not isinstance(topic, str) or self.shared_namespace:
            self._store_several(namespace, message, now)
            return
        fields = freeze(message, topic, now + self._ttl)
        if fields[STATE] is not None or len(fields[PAYLOAD]) > self.sizes.surely_small:
            self.sizes.check(message, size_of(fields))
        self._deliver(self._store.put(namespace, topic, fields, now, self._limit), fields)

    def _store_several(self, namespace: str, message: Message, now: float) -> None:
        fields = freeze(message, None, now + self._ttl)
        self.sizes.check(message, size_of(fields))
        with self._store.lock:
            copies = [self._put_copy(namespace, topic, fields, now) for topic in dict.fromkeys(message.topic_list)]
        first, *others = copies
        self._deliver(*first, others)

    def get_messages_for_topic(self, topic: str) -> list[Message]:
        """All, by id."""
        return self.get_messages_for_topic_since(topic, -1)

    def get_messages_for_topic_since(self, topic: str, msg_id_since: int) -> list[Message]:
        """Those with a greater id."""
        return [hand_out(fields) for fields in self._store.since(topic, msg_id_since)]

    def get_next_message_for_topic_since(self, topic: str, last_message_id: int) -> Message | None:
        """The one with the smallest greater id."""
        found = self._store.since(topic, last_message_id, at_most=1)
        return hand_out(found[0]) if found else None

    def get_messages_by_id(self, namespace: str, msg_ids: list[int]) -> list[Message]:
        """Those that are stored."""
        return [hand_out(fields) for fields in self._store.with_ids(namespace, msg_ids)]

    def subscribe(self, topic: str, handler: Callable[[Message], object]) -> None:
        """Every handler is called, whoever subscribed it."""
        self._subscribed[topic] = None
        self._store.add_handler(topic, id(self), handler)

    def unsubscribe(self, topic: str) -> None:
        """End the subscriptions made through this object."""
        self._subscribed.pop(topic, None)
        self._store.remove_handlers(topic, id(self))

    def unsubscribe_handler(self, topic: str, handler: Callable[[Message], object]) -> None:
        """End one, made through this object."""
        self._store.remove_handlers(topic, id(self), handler)

    def cleanup(self) -> None:
        """End the subscriptions made through this object; the store stays for the others."""
        for topic in list(self._subscribed):
            self.unsubscribe(topic)

    def count_processed(self, namespace: str, topic: str, client_id: str, outcome: str) -> None:
        """Count, unless counts are off."""
        if self.counting:
            self._store.count_processed(namespace, topic, client_id, outcome)

    def counts(self, namespace: str) -> dict[str, int]:
        """Exact counts by the names of :mod:`~rustic_host.messaging.counts`, of all interfaces of the process."""
        return self._store.counts(namespace)

    def _put_copy(self, namespace: str, topic: str, fields: Frozen, now: float) -> Delivery:
        home = home_of(topic, namespace, self.shared_namespace) if self.shared_namespace else namespace
        copy = on_topic(fields, topic)
        return self._store.put(home, topic, copy, now, self._limit), copy

    def _deliver(self, topic: Topic, fields: Frozen, others: Sequence[Delivery] = ()) -> None:
        turn = _deliveries.turn
        if turn.taken:
            turn.waiting.append((topic, fields))
            turn.waiting += others
            return
        turn.taken = True
        waiting = turn.waiting
        if others:
            waiting += others
        try:
            while True:
                handlers = topic.snapshot
                for deliver in self._store.handlers(topic) if handlers is None else handlers:
                    try:
                        deliver(fields)
                    except Exception as error:
                        log.exception("subscriber_failed", topic=topic.name, message_id=fields[ID])
                        self._store_letter(topic.name, fields, error)
                if not waiting:
                    return
                topic, fields = waiting.popleft()
        finally:
            turn.taken = False
            if waiting:
                waiting.clear()

    def _store_letter(self, topic: str, fields: Frozen, error: Exception) -> None:
        """Of a plain callback's failure; clients of an interface never raise here. None about a dead letter."""
        namespace, _, bare = topic.partition(":")
        if bare == DEAD_LETTER_TOPIC:
            return
        entry, name = Entry(bare, "", b""), type(self).__name__
        letter = dead_letter(_letter_ids.get_id(), namespace, "", entry, hand_out(fields), error, name)
        self.store_message(namespace, f"{namespace}:{DEAD_LETTER_TOPIC}", letter.published_to(DEAD_LETTER_TOPIC))
