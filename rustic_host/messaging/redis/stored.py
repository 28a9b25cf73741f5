"""Reads the documented store of a topic: all of it, or what has a greater id than a message, without reading the rest.

The store is sorted by time, ids by priority first and then by time. So what has a greater id than a message of normal
priority is not older, unless it is **late**: less urgent than normal, or stored under another time than its id's. Those
are counted apart. Where there never were any, and none of others' that we have not looked at, the store is read from
the message's time on; else, and for the ids of urgent messages, which all normal ones come after, it is read whole.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from rustic_host.errors import MessageError
from rustic_host.messaging import counts
from rustic_host.messaging.delivery import SHARED_TOPICS
from rustic_host.messaging.gemstone_id import EPOCH_MS, TIME_MASK
from rustic_host.messaging.message import Message
from rustic_host.messaging.priority import Priority
from rustic_host.messaging.redis.link import Script
from rustic_host.messaging.redis.publisher import Publisher
from rustic_host.telemetry.logs import get_logger

FIRST_PAGE, GROWTH = 16, 4
"""Members read to find the next message; and how many times more when it is not among them."""

SINCE = Script("since")

log = get_logger(__name__)


class Stored:
    """One topic's store; raises as :class:`~rustic_host.messaging.redis.publisher.Publisher`.

    Args:
        server: where it lies.
        topic: with its namespace.
    """

    def __init__(self, server: Publisher, topic: str) -> None:
        self._server, self._topic = server, topic
        namespace, _, self._name = topic.partition(":")
        self._keys = server.keys.topic_keys(namespace, self._name)
        self._counts = server.keys.counts_key(namespace)

    def messages(self) -> list[Message]:
        """All, by id; members that are no messages are left out and logged."""
        members: Any = self._server.call("ZRANGE", self._keys.store, 0, -1)
        return self._by_id(members)

    def since(self, message_id: int) -> list[Message]:
        """Those with a greater id, by id, whatever their time."""
        members = self._not_older(message_id, -1)
        found = self.messages() if members is None else self._by_id(members)
        return [message for message in found if message.id > message_id]

    def next_after(self, message_id: int) -> Message | None:
        """The first of :meth:`since`."""
        most = FIRST_PAGE
        while (members := self._not_older(message_id, most)) is not None:
            page = self._by_id(members)
            found = next((message for message in page if message.id > message_id), None)
            # Of its millisecond all must be there: their order in the store is not that of the ids.
            if len(members) < most or (found and any(message.timestamp > found.timestamp for message in page)):
                return found
            most *= GROWTH
        return next(iter(self.since(message_id)), None)

    def _not_older(self, message_id: int, most: int) -> list[bytes] | None:
        """Members from the time of an id on, by time; None when older ones may have a greater id."""
        if message_id >> 61 < Priority.NORMAL or self._name.startswith(SHARED_TOPICS):  # these are counted elsewhere
            return None
        time = EPOCH_MS + (message_id >> 22 & TIME_MASK)
        late = (counts.published(self._name, large, late=True) for large in (False, True))
        script_keys = [self._counts, self._keys.seen, self._keys.store]
        reply: Any = self._server.run(SINCE, script_keys, [time, most, *late])
        return reply[1] if reply[0] else None

    def _by_id(self, members: Iterable[bytes]) -> list[Message]:
        return sorted(messages_of(self._topic, members), key=lambda message: message.id)


def messages_of(where: str, bodies: Iterable[bytes]) -> Iterator[Message]:
    """Those of the bodies that are messages; the others are logged."""
    for body in bodies:
        try:
            yield Message.from_json(body)
        except (MessageError, ValueError) as error:
            log.warning("stored_member_is_no_message", where=where, error=str(error))
