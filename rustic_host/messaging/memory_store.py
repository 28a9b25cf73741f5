"""What the in-memory backends of a process share: messages, bounded by age and number, and who hears of them."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush, heapreplace
from itertools import chain, count, islice

from rustic_host.messaging import counts as names
from rustic_host.messaging.by_id import ById
from rustic_host.messaging.message import Message
from rustic_host.messaging.published import Frozen

Handler = Callable[[Message], object]
Owner = int
"""``id`` of the backend object that subscribed."""

SWEEP_SECONDS = 1.0
"""How much longer than its TTL a message of a topic that nobody uses may stay."""

SWEPT_TOPICS = 16
"""How many topics one publishing thread looks after: it must not pay for all that expire at once."""


Record = tuple[float, Frozen]
"""One stored message: when it expires, by the store's clock, and its fields."""


class Topic:
    """Messages and subscribers of one topic.

    Args:
        name: with its namespace.
    """

    __slots__ = ("arrived", "by_id", "handlers", "ids", "name", "published", "snapshot", "watched")

    def __init__(self, name: str) -> None:
        self.name = name
        self.by_id: ById[Record] = ById()
        self.arrived: deque[Record] = deque()
        self.ids: dict[int, Record] = {}
        """Of the whole namespace."""
        self.handlers: dict[Owner, list[Handler]] = {}
        self.snapshot: tuple[Handler, ...] | None = ()
        """The handlers as they are called; None when it is to be made anew."""
        self.published = 0
        """Messages since the topic was made."""
        self.watched = False
        """Whether the store looks at it again when its oldest message expires."""

    def drop_oldest(self) -> None:
        """Forget the message that came first."""
        record = self.arrived.popleft()
        number = record[1]["id"]
        self.by_id.remove(number, record)
        if self.ids.get(number) is record:
            del self.ids[number]

    def drop_expired(self, now: float) -> None:
        """Forget what is over; in the order of arrival, so a short TTL waits for a longer one before it."""
        while self.arrived and self.arrived[0][0] <= now:
            self.drop_oldest()


class MemoryStore:
    """Messages and subscribers, safe to share between threads.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.RLock()
        """Held while a message is stored; who holds it stores several as one."""
        self._clock = clock
        self._topics: dict[str, Topic] = {}
        self._ids: dict[str, dict[int, Record]] = {}
        self._due: list[tuple[float, int, Topic]] = []  # a heap of the watched topics
        self._numbers = count()
        self._forgotten: Counter[str] = Counter()  # published on topics that are no more
        self._processed: dict[str, dict[tuple[str, str, str], int]] = {}

    def put(self, namespace: str, name: str, fields: Frozen, ttl: float, limit: int) -> Topic:
        """Store a message on a topic, and return that; it forgets its oldest beyond ``limit``."""
        with self.lock:
            now = self._clock()
            if self._due and self._due[0][0] <= now:
                self._sweep(now)
            record = now + ttl, fields
            topic = self._topics.get(name) or self._topic(name)
            if not topic.watched:
                topic.watched, topic.ids = True, self._ids.setdefault(namespace, {})
                heappush(self._due, (record[0], next(self._numbers), topic))
            number = fields["id"]
            topic.by_id.add(number, record)
            topic.arrived.append(record)
            topic.ids[number] = record
            topic.published += 1
            while len(topic.arrived) > limit:
                topic.drop_oldest()
            return topic

    def handlers(self, topic: Topic) -> tuple[Handler, ...]:
        """Who hears of a message on ``topic`` now."""
        if (snapshot := topic.snapshot) is None:
            with self.lock:
                snapshot = topic.snapshot = tuple(chain.from_iterable(topic.handlers.values()))
        return snapshot

    def add_handler(self, name: str, owner: Owner, handler: Handler) -> None:
        """Subscribe; a handler that is subscribed already stays so, once."""
        with self.lock:
            topic = self._topic(name)
            mine = topic.handlers.setdefault(owner, [])
            if handler not in mine:
                mine.append(handler)
            topic.snapshot = None

    def remove_handlers(self, name: str, owner: Owner, handler: Handler | None = None) -> None:
        """End an owner's subscriptions, or the one of ``handler``."""
        with self.lock:
            topic = self._topics.get(name)
            if topic is None or owner not in topic.handlers:
                return
            mine = topic.handlers.pop(owner)
            if handler is not None and (left := [each for each in mine if each != handler]):
                topic.handlers[owner] = left
            topic.snapshot = None
            self._forget_if_unused(topic)

    def since(self, name: str, number: int, at_most: int | None = None) -> list[Frozen]:
        """Messages of a topic with a greater id, by id."""
        with self.lock:
            if (topic := self._topics.get(name)) is None:
                return []
            topic.drop_expired(self._clock())
            return [fields for _, fields in islice(topic.by_id.after(number), at_most)]

    def with_ids(self, namespace: str, numbers: Iterable[int]) -> list[Frozen]:
        """Those that are stored; one that was stored several times, as it was stored last."""
        with self.lock:
            now, ids = self._clock(), self._ids.get(namespace, {})
            found = (ids.get(number) for number in numbers)
            return [record[1] for record in found if record is not None and record[0] > now]

    def count_processed(self, namespace: str, topic: str, client_id: str, outcome: str) -> None:
        """Note that a client is done with a message of a topic (without namespace)."""
        key = topic, client_id, outcome
        with self.lock:
            processed = self._processed.setdefault(namespace, {})
            processed[key] = processed.get(key, 0) + 1

    def counts(self, namespace: str) -> dict[str, int]:
        """Exact counts of a namespace, by the names that the scripts on Redis give them."""
        mine = f"{namespace}:"
        with self.lock:
            published = self._forgotten + Counter({name: topic.published for name, topic in self._topics.items()})
            processed = dict(self._processed.get(namespace, ()))
        found = {names.published(name.removeprefix(mine)): n for name, n in published.items() if name.startswith(mine)}
        return found | {names.processed(*key): number for key, number in processed.items()}

    def _topic(self, name: str) -> Topic:
        return self._topics.setdefault(name, Topic(name))

    def _sweep(self, now: float) -> None:
        for _ in range(SWEPT_TOPICS):
            if not self._due or self._due[0][0] > now:
                return
            topic = self._due[0][2]
            topic.drop_expired(now)
            if topic.arrived:
                again = max(topic.arrived[0][0], now + SWEEP_SECONDS)
                heapreplace(self._due, (again, next(self._numbers), topic))
            else:
                heappop(self._due)
                topic.watched = False
                self._forget_if_unused(topic)

    def _forget_if_unused(self, topic: Topic) -> None:
        if not (topic.handlers or topic.watched):
            del self._topics[topic.name]
            self._forgotten[topic.name] += topic.published
