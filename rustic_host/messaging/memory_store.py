"""What the in-memory backends of a process share: messages, bounded by age and number, and who hears of them."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush, heapreplace
from itertools import chain, count, islice, takewhile
from operator import itemgetter

from rustic_host.messaging import counts as names
from rustic_host.messaging.by_id import ById
from rustic_host.messaging.message import Message
from rustic_host.messaging.published import EXPIRES, ID, Frozen, FrozenHandler, hand_out

Handler = Callable[[Message], object]
Deliver = Callable[[Frozen], object]
Owner = int
"""``id`` of the backend object that subscribed."""

SWEEP_SECONDS = 1.0
"""How much longer than its TTL a message of a topic that nobody uses may stay."""

SWEPT_TOPICS = 16
"""How many topics one publishing thread looks after: it must not pay for all that expire at once."""

BATCH = 256
"""How many new messages a topic indexes at once, and may hold beyond its limit until then. One at a time is dearer."""

FORGOTTEN_TOPICS = 10_000
"""Topics that are no more, and are counted one by one all the same; of older ones the sums are kept."""

_id_of = itemgetter(ID)


class Tally:
    """A count to which threads add without a lock: ``next`` of an ``itertools.count`` is one step for all of them."""

    __slots__ = ("_joined", "_looks", "add")

    def __init__(self) -> None:
        self.add: Callable[[], int] = count().__next__
        """Adds one."""
        self._looks = 0
        self._joined = 0

    def join(self, other: Tally) -> None:
        """Add all of another one, that is no more; a thread that has found it before adds here from now on."""
        add, other.add = other.add, self.add
        self._joined += add() - other._looks + other._joined

    def total(self) -> int:
        """How often something was added; under a lock, as each look adds one that is taken off again."""
        self._looks += 1
        return self.add() + 1 - self._looks + self._joined


def _deliver_of(handler: Handler) -> Deliver:
    return handler.deliver if isinstance(handler, FrozenHandler) else lambda fields: handler(hand_out(fields))


class Space:
    """The topics of a namespace that store messages, and these by id."""

    __slots__ = ("by_id", "namespace", "topics", "unindexed")

    def __init__(self, namespace: str = "") -> None:
        self.namespace = namespace
        self.topics: dict[str, Topic] = {}
        """Those that store messages, without namespace."""
        self.by_id: dict[int, Frozen] | None = None
        """None until somebody asks for messages by id, which few do: it costs each message a good deal."""
        self.unindexed: dict[Topic, None] = {}
        """Topics with messages that are not among them yet."""

    def note(self, numbers: list[int], stored: list[Frozen]) -> None:
        """Add messages; of those with the same id the one that was stored last stays (with another TTL: stays last)."""
        if (by_id := self.by_id) is None:
            return
        for number, fields in zip(numbers, stored, strict=True):
            if (other := by_id.get(number)) is None or other[EXPIRES] <= fields[EXPIRES]:
                by_id[number] = fields

    def forget(self, numbers: list[int], stored: list[Frozen]) -> None:
        """Remove messages, unless others with their ids are there."""
        if (by_id := self.by_id) is None:
            return
        for number, fields in zip(numbers, stored, strict=True):
            if by_id.get(number) is fields:
                del by_id[number]


class Topic:
    """Messages and subscribers of one topic.

    Messages are noted as they arrive, and indexed, and bounded in number, a batch at a time or when they are read.

    Args:
        name: with its namespace.
    """

    __slots__ = ("arrived", "bare", "by_id", "handlers", "limit", "name", "new", "published", "snapshot", "space")

    def __init__(self, name: str) -> None:
        self.name = name
        self.by_id: ById[Frozen] = ById()
        self.arrived: deque[Frozen] = deque()
        """All that is indexed, in order of arrival."""
        self.new: list[Frozen] = []
        """What came after that."""
        self.bare = ""
        """Its name without namespace, while it stores messages."""
        self.limit = 0
        """How many it stores; 0 while it is not watched."""
        self.space = Space()
        """Its namespace's."""
        self.handlers: dict[Owner, list[Handler]] = {}
        self.snapshot: tuple[Deliver, ...] | None = ()
        """The handlers as they are called; None when it is to be made anew."""
        self.published = 0
        """Indexed messages of all time."""

    def index(self) -> None:
        """Index what is new, and forget what is too much."""
        if new := self.new:
            self.new = []
            numbers = [*map(_id_of, new)]
            self.by_id.extend(numbers, new)
            self.space.note(numbers, new)
            self.space.unindexed.pop(self, None)
            self.published += len(new)
            self.arrived += new
        if (over := len(self.arrived) - self.limit) > 0:
            self._drop(over)

    def drop_expired(self, now: float) -> None:
        """Forget what is over; in the order of arrival, so a short TTL waits for a longer one before it."""
        self.index()
        if over := sum(1 for _ in takewhile(lambda fields: fields[EXPIRES] <= now, self.arrived)):
            self._drop(over)

    def _drop(self, count: int) -> None:
        """Forget those that came first."""
        popleft = self.arrived.popleft
        stored = [popleft() for _ in range(count)]
        numbers = [*map(_id_of, stored)]
        self.by_id.remove_all(numbers, stored)
        self.space.forget(numbers, stored)


class MemoryStore:
    """Messages and subscribers, safe to share between threads.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.RLock()
        """Held while a message is stored; who holds it stores several as one."""
        self._acquire, self._release = self.lock.acquire, self.lock.release  # two thirds of what ``with`` takes
        self.clock = clock
        self._topics: dict[str, Topic] = {}
        self._spaces: dict[str, Space] = {}
        self._due: list[tuple[float, int, Topic]] = []  # a heap of the watched topics
        self._numbers = count()
        self._forgotten: dict[str, tuple[Space, int]] = {}  # published on topics that are no more, the last gone last
        self._others: Counter[str] = Counter()  # by namespace, published on those before
        self._processed: dict[str, dict[str, dict[tuple[str, str], Tally]]] = {}  # by namespace and topic

    def put(self, namespace: str, name: str, fields: Frozen, now: float, limit: int) -> Topic:
        """Store a message on a topic (without namespace), and return that; it forgets its oldest beyond ``limit``."""
        self._acquire()
        try:
            if self._due and self._due[0][0] <= now:
                self._sweep(now)
            try:
                topic = self._spaces[namespace].topics[name]
            except KeyError:
                topic = self._watch(namespace, name, fields[EXPIRES], limit)
            if topic.limit != limit:
                topic = self._watch(namespace, name, fields[EXPIRES], limit)
            new = topic.new
            new.append(fields)
            if len(new) == 1:
                topic.space.unindexed[topic] = None
            elif len(new) >= BATCH:
                topic.index()
            return topic
        finally:
            self._release()

    def _watch(self, namespace: str, name: str, expires: float, limit: int) -> Topic:
        topic = self._topic(f"{namespace}:{name}")
        topic.index()
        if not topic.limit:
            topic.space, topic.bare = self._spaces.setdefault(namespace, Space(namespace)), name
            topic.space.topics[name] = topic
            heappush(self._due, (expires, next(self._numbers), topic))
        topic.limit = limit
        return topic

    def handlers(self, topic: Topic) -> tuple[Deliver, ...]:
        """Who hears of a message on ``topic`` now."""
        if (snapshot := topic.snapshot) is None:
            with self.lock:
                handlers = chain.from_iterable(topic.handlers.values())
                snapshot = topic.snapshot = tuple(map(_deliver_of, handlers))
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
            topic.drop_expired(self.clock())
            return [*islice(topic.by_id.after(number), at_most)]

    def with_ids(self, namespace: str, numbers: Iterable[int]) -> list[Frozen]:
        """Those that are stored; one that was stored several times, as it was stored last."""
        with self.lock:
            if (space := self._spaces.get(namespace)) is None:
                return []
            for topic in tuple(space.unindexed):
                topic.index()
            now, found = self.clock(), map(self._by_id(space).get, numbers)
            return [fields for fields in found if fields is not None and fields[EXPIRES] > now]

    def count_processed(self, namespace: str, topic: str, client_id: str, outcome: str) -> None:
        """Note that a client is done with a message of a topic (without namespace)."""
        try:
            tally = self._processed[namespace][topic][client_id, outcome]
        except KeyError:
            with self.lock:
                of_topic = self._processed.setdefault(namespace, {}).setdefault(topic, {})
                tally = of_topic.setdefault((client_id, outcome), Tally())
        tally.add()

    def counts(self, namespace: str) -> dict[str, int]:
        """Exact counts of a namespace, by the names that the scripts on Redis give them."""
        mine = f"{namespace}:"
        with self.lock:
            published = {name: number for name, (_, number) in self._forgotten.items()}
            published |= {name: topic.published + len(topic.new) for name, topic in self._topics.items()}
            others = self._others[namespace]
            processed = {
                names.processed(topic, *key): tally.total()
                for topic, tallies in self._processed.get(namespace, {}).items()
                for key, tally in tallies.items()
            }
        found = {
            names.published(name.removeprefix(mine)): number
            for name, number in published.items()
            if number and name.startswith(mine)
        }
        if others:
            name = names.published(names.OTHER_TOPICS)
            found[name] = found.get(name, 0) + others
        return found | processed

    def _by_id(self, space: Space) -> dict[int, Frozen]:
        if space.by_id is None:
            space.by_id = {}
            for topic in space.topics.values():
                space.note([*map(_id_of, topic.arrived)], [*topic.arrived])
        return space.by_id

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
                again = max(topic.arrived[0][EXPIRES], now + SWEEP_SECONDS)
                heapreplace(self._due, (again, next(self._numbers), topic))
            else:
                heappop(self._due)
                topic.limit = 0
                del topic.space.topics[topic.bare]
                self._forget_if_unused(topic)

    def _forget_if_unused(self, topic: Topic) -> None:
        if not (topic.handlers or topic.limit):
            del self._topics[topic.name]
            if topic.published:
                self._forgotten[topic.name] = topic.space, topic.published
                if len(self._forgotten) > FORGOTTEN_TOPICS:
                    self._sum_up(next(iter(self._forgotten)))

    def _sum_up(self, name: str) -> None:
        space, published = self._forgotten.pop(name)
        self._others[space.namespace] += published
        processed = self._processed.get(space.namespace, {})
        others = processed.setdefault(names.OTHER_TOPICS, {})
        for key, tally in processed.pop(name.removeprefix(f"{space.namespace}:"), {}).items():
            others.setdefault(key, Tally()).join(tally)
