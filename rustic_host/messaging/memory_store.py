"""What the in-memory backends of a process share: messages, bounded by age and number, and who hears of them."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush, heapreplace
from itertools import chain, count, islice, takewhile

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


BATCH = 256
"""How many new messages a topic indexes at once, and may hold beyond its limit until then. One at a time is dearer."""


FORGOTTEN_TOPICS = 10_000
"""Topics that are no more, and are counted one by one all the same; of older ones the sums are kept."""


class Space:
    """What the topics of a namespace share: its messages by id."""

    __slots__ = ("by_id", "namespace", "unindexed")

    def __init__(self, namespace: str = "") -> None:
        self.namespace = namespace
        self.by_id: dict[int, Record] = {}
        self.unindexed: dict[Topic, None] = {}
        """Topics with messages that are not among them yet."""

    def note(self, numbers: list[int], records: list[Record]) -> None:
        """Add messages; of those with the same id the one that was stored last stays (with another TTL: stays last)."""
        by_id = self.by_id
        for number, record in zip(numbers, records, strict=True):
            if (other := by_id.get(number)) is None or other[0] <= record[0]:
                by_id[number] = record

    def forget(self, numbers: list[int], records: list[Record]) -> None:
        """Remove messages, unless others with their ids are there."""
        by_id = self.by_id
        for number, record in zip(numbers, records, strict=True):
            if by_id.get(number) is record:
                del by_id[number]


class Topic:
    """Messages and subscribers of one topic.

    Messages are noted as they arrive, and indexed, and bounded in number, a batch at a time or when they are read.

    Args:
        name: with its namespace.
    """

    __slots__ = ("arrived", "by_id", "handlers", "limit", "name", "new", "published", "snapshot", "space", "watched")

    def __init__(self, name: str) -> None:
        self.name = name
        self.by_id: ById[Record] = ById()
        self.arrived: deque[Record] = deque()
        """All, in order of arrival, what is not indexed yet too."""
        self.new: list[Record] = []
        """What is not indexed yet."""
        self.limit = 0
        """How many it stores."""
        self.space = Space()
        """Its namespace's."""
        self.handlers: dict[Owner, list[Handler]] = {}
        self.snapshot: tuple[Handler, ...] | None = ()
        """The handlers as they are called; None when it is to be made anew."""
        self.published = 0
        """Indexed messages of all time."""
        self.watched = False
        """Whether the store looks at it again when its oldest message expires."""

    def index(self) -> None:
        """Index what is new, and forget what is too much."""
        if new := self.new:
            self.new = []
            numbers = [fields.id for _, fields in new]
            self.by_id.extend(numbers, new)
            self.space.note(numbers, new)
            self.space.unindexed.pop(self, None)
            self.published += len(new)
        if (over := len(self.arrived) - self.limit) > 0:
            self._drop(over)

    def drop_expired(self, now: float) -> None:
        """Forget what is over; in the order of arrival, so a short TTL waits for a longer one before it."""
        self.index()
        if over := sum(1 for _ in takewhile(lambda record: record[0] <= now, self.arrived)):
            self._drop(over)

    def _drop(self, count: int) -> None:
        """Forget those that came first."""
        records = [self.arrived.popleft() for _ in range(count)]
        numbers = [fields.id for _, fields in records]
        self.by_id.remove_all(numbers, records)
        self.space.forget(numbers, records)


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
        self._spaces: dict[str, Space] = {}
        self._due: list[tuple[float, int, Topic]] = []  # a heap of the watched topics
        self._numbers = count()
        self._forgotten: dict[str, tuple[Space, int]] = {}  # published on topics that are no more, the last gone last
        self._others: Counter[str] = Counter()  # by namespace, published on those before
        self._processed: dict[str, dict[str, dict[tuple[str, str], int]]] = {}  # by namespace and topic

    def put(self, namespace: str, name: str, fields: Frozen, ttl: float, limit: int) -> Topic:
        """Store a message on a topic, and return that; it forgets its oldest beyond ``limit``."""
        with self.lock:
            now = self._clock()
            if self._due and self._due[0][0] <= now:
                self._sweep(now)
            record = now + ttl, fields
            topic = self._topics.get(name) or self._topic(name)
            if not topic.watched or topic.limit != limit:
                self._watch(topic, namespace, record[0], limit)
            topic.arrived.append(record)
            new = topic.new
            new.append(record)
            if len(new) >= BATCH:
                topic.index()
            elif len(new) == 1:
                topic.space.unindexed[topic] = None
            return topic

    def _watch(self, topic: Topic, namespace: str, expires: float, limit: int) -> None:
        topic.index()
        topic.limit = limit
        if not topic.watched:
            topic.watched, topic.space = True, self._spaces.setdefault(namespace, Space(namespace))
            heappush(self._due, (expires, next(self._numbers), topic))

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
            if (space := self._spaces.get(namespace)) is None:
                return []
            for topic in tuple(space.unindexed):
                topic.index()
            now, found = self._clock(), map(space.by_id.get, numbers)
            return [record[1] for record in found if record is not None and record[0] > now]

    def count_processed(self, namespace: str, topic: str, client_id: str, outcome: str) -> None:
        """Note that a client is done with a message of a topic (without namespace)."""
        key = client_id, outcome
        with self.lock:
            try:
                processed = self._processed[namespace][topic]
            except KeyError:
                processed = self._processed.setdefault(namespace, {}).setdefault(topic, {})
            processed[key] = processed.get(key, 0) + 1

    def counts(self, namespace: str) -> dict[str, int]:
        """Exact counts of a namespace, by the names that the scripts on Redis give them."""
        mine = f"{namespace}:"
        with self.lock:
            published = {name: number for name, (_, number) in self._forgotten.items()}
            published |= {name: topic.published + len(topic.new) for name, topic in self._topics.items()}
            others = self._others[namespace]
            processed = {topic: dict(tally) for topic, tally in self._processed.get(namespace, {}).items()}
        found = {
            names.published(name.removeprefix(mine)): number
            for name, number in published.items()
            if number and name.startswith(mine)
        }
        if others:
            name = names.published(names.OTHER_TOPICS)
            found[name] = found.get(name, 0) + others
        return found | {
            names.processed(topic, *key): number for topic, tally in processed.items() for key, number in tally.items()
        }

    def _topic(self, name: str) -> Topic:
        if (topic := self._topics.get(name)) is None:
            topic = self._topics[name] = Topic(name)
            if name in self._forgotten:
                topic.space, topic.published = self._forgotten.pop(name)
        return topic

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
            if topic.published:
                self._forgotten[topic.name] = topic.space, topic.published
                if len(self._forgotten) > FORGOTTEN_TOPICS:
                    self._sum_up(next(iter(self._forgotten)))

    def _sum_up(self, name: str) -> None:
        space, published = self._forgotten.pop(name)
        self._others[space.namespace] += published
        processed = self._processed.get(space.namespace, {})
        if tally := processed.pop(name.removeprefix(f"{space.namespace}:"), None):
            others = Counter(processed.get(names.OTHER_TOPICS))
            others.update(tally)
            processed[names.OTHER_TOPICS] = others
