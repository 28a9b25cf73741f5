"""Finds what others stored on a topic and takes it into the topic's log, each member once.

Rustic AI publishes by SET, ZADD and PUBLISH and knows of no log. Ours add a digest to *seen* with every member they
store, and both sets are trimmed by one score; so ``ZCARD(store) - ZCARD(seen)`` is how many members the log has not
got, in O(1). Only where that is not zero is anything read.

Whoever removes members from the store by hand leaves their digests behind (**strays**), which make the difference too
small. A walk through both sets finds them, and what they hid.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from rustic_host.messaging import counts
from rustic_host.messaging.delivery import digest_of, is_late
from rustic_host.messaging.message import Message
from rustic_host.messaging.redis.keys import Keys
from rustic_host.messaging.redis.link import Argument, Link, Script
from rustic_host.messaging.redis.publisher import MAX_BYTES_A_CALL, MAX_FRAMES_A_CALL, RESEND_MAX_AGE_SECONDS
from rustic_host.telemetry.logs import get_logger

CHUNK = 128
"""Members read at once (attacks, C1)."""

SEARCH_MEMBERS = 1024
"""More missing members than this are not searched for from the newest on: they are taken in by a walk, oldest first."""

WALK_SECONDS = 60.0
"""A topic that does not add up even after it was walked through is left alone for so long."""

TOPICS_A_CALL = 500
"""Topics compared by one script call: below 1 ms of the server's time."""

STRAY_SECONDS = RESEND_MAX_AGE_SECONDS + 60
"""Digests of removed members stay this long: until then a publisher of ours may store the same bytes again."""

DIFFERENCE, IMPORT = Script("difference"), Script("import")

log = get_logger(__name__)


class Importer:
    """Compares, searches and imports, over one connection; the caller heals it.

    Args:
        link: to the server; raises from every method as :class:`~rustic_host.messaging.redis.link.Link`.
        keys: names of the keys.
        namespace: whose topics.
        counted_in: the namespace that has the counts, if another one.
        pause: called between two steps of long work; may raise.
        clock: monotonic seconds.
        wall: seconds since the Unix epoch.
    """

    def __init__(
        self,
        link: Link,
        keys: Keys,
        namespace: str,
        *,
        counted_in: str = "",
        pause: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._link, self._keys, self._namespace = link, keys, namespace
        self._pause, self._clock, self._wall = pause, clock, wall
        self._counted_in = counted_in
        self._strays: Counter[str] = Counter()
        self._walk_again: dict[str, float] = {}
        self._refused: set[str] = set()
        self.imported = 0
        """Members that this importer took in."""

    def topics(self) -> Iterator[list[str]]:
        """Names of all stores that there are, in pages; the whole key space is scanned."""
        prefix = len(f"{self._keys.prefix}{self._namespace}:".encode())
        cursor: Argument = 0
        match = self._keys.store_pattern(self._namespace)
        while True:
            cursor, found = self._link.call("SCAN", cursor, "MATCH", match, "COUNT", 1000, "TYPE", "zset")
            yield [name[prefix:].decode() for name in found if _is_text(name)]
            if cursor in (b"0", 0):
                return
            self._pause()

    def missing(self, topics: Sequence[str]) -> dict[str, int]:
        """How many members the log of each topic has not got; below zero when members were removed from the store.

        A topic whose keys are of other types is left out, and empty ones too.
        """
        found: dict[str, int] = {}
        for start in range(0, len(topics), TOPICS_A_CALL):
            asked = topics[start : start + TOPICS_A_CALL]
            names = [self._keys.topic_keys(self._namespace, topic) for topic in asked]
            sizes = self._link.run(DIFFERENCE, [key for each in names for key in (each.store, each.seen)], [])
            for topic, stored, seen in zip(asked, sizes[::2], sizes[1::2], strict=True):
                if stored >= 0 and seen >= 0 and stored + seen > 0:
                    found[topic] = stored - seen + self._strays[topic]
        return found

    def store(self, topic: str, bodies: Iterable[bytes]) -> int:
        """Import those of ``bodies`` that are in the store and not in the log, in this order; returns how many."""
        keys = self._keys.topic_keys(self._namespace, topic)
        counted_in = self._counted_in or self._keys.slot_namespace(self._namespace, topic)
        script_keys = [self._keys.counts_key(counted_in), *keys]
        published = (counts.published(topic, late=late) for late in (False, True))
        head = [*published, counts.imported(topic), self._keys.imports_channel(self._namespace)]
        new = 0
        for run in _slices(bodies):
            members: list[Argument] = [part for body in run for part in (digest_of(body), body, _time_of(body))]
            done, *detail = self._link.run(IMPORT, script_keys, [*head, *members])
            if not done:
                self._refuse(topic, *(part.decode() for part in detail))
                break
            new += detail[0]
        self.imported += new
        return new

    def settle(self, topic: str) -> bool:
        """Search for what is missing, and walk where it cannot be found; returns whether to look again soon."""
        if self._clock() < self._walk_again.get(topic, 0):
            return False
        missing = self._missing(topic)
        if 0 < missing <= SEARCH_MEMBERS:
            found, in_vain = self._search(topic)
            helped = self.store(topic, found) > 0 or self._missing(topic) != missing
            if helped and not in_vain:
                return self._missing(topic) > 0
        if missing:
            for _ in self.walk(topic):
                self._pause()
        return self._missing(topic) > 0 and self._clock() >= self._walk_again[topic]

    def walk(self, topic: str) -> Iterator[None]:
        """Compare member by member, oldest first: import what is missing, remove strays; yields after each chunk."""
        keys = self._keys.topic_keys(self._namespace, topic)
        before, strays, low = (self.imported, self._missing(topic)), 0, b"-inf"
        while low != b"+inf":
            high = min((self._chunk_end(key, low) for key in (keys.store, keys.seen)), key=float)
            members = self._link.call("ZRANGEBYSCORE", keys.store, low, high)
            self.store(topic, self._unseen(topic, members))
            strays += self._clear_strays(topic, low, high, len(members))
            low = high if high == b"+inf" else b"(" + high
            yield
        self._strays[topic] = strays
        missing = self._missing(topic)
        odd = bool(missing) and before == (self.imported, missing)
        self._walk_again[topic] = self._clock() + WALK_SECONDS if odd else 0
        if odd:
            log.warning("topic_does_not_add_up", namespace=self._namespace, topic=topic, missing=missing)

    def _missing(self, topic: str) -> int:
        return self.missing([topic]).get(topic, 0)

    def _search(self, topic: str) -> tuple[list[bytes], bool]:
        """Missing members, newest first until there are enough; oldest first in the list. And whether they were not.

        The server is asked again at each chunk: what another bridge imports meanwhile is not searched for in vain.
        """
        store = self._keys.topic_keys(self._namespace, topic).store
        found: list[bytes] = []
        last = -1
        while self._missing(topic) > len(found):
            members = self._link.call("ZRANGE", store, last - CHUNK + 1, last)
            if not members:
                return found[::-1], True
            found += reversed(self._unseen(topic, members))
            last -= CHUNK
            self._pause()
        return found[::-1], False

    def _refuse(self, topic: str, why: str, what: str) -> None:
        """Said once; the topic is left alone then, as one that does not add up."""
        if what not in self._refused:
            self._refused.add(what)
            log.error("import_refused", namespace=self._namespace, topic=topic, why=why, what=what)

    def _unseen(self, topic: str, members: Sequence[bytes]) -> list[bytes]:
        if not members:
            return []
        seen = self._keys.topic_keys(self._namespace, topic).seen
        scores = self._link.call("ZMSCORE", seen, *map(digest_of, members))
        return [member for member, score in zip(members, scores, strict=True) if score is None]

    def _chunk_end(self, key: str, low: bytes) -> bytes:
        """Score of the last of the next :data:`CHUNK` members; those of one score are never parted."""
        rows = self._link.call("ZRANGEBYSCORE", key, low, "+inf", "WITHSCORES", "LIMIT", CHUNK - 1, 1)
        return bytes(rows[1]) if rows else b"+inf"

    def _clear_strays(self, topic: str, low: bytes, high: bytes, members: int) -> int:
        """Remove old digests without a member from a range of scores; returns how many young ones are left."""
        keys = self._keys.topic_keys(self._namespace, topic)
        if self._link.call("ZCOUNT", keys.seen, low, high) == members:
            return 0
        # First the digests: a member that is stored afterwards makes none of them a stray.
        rows = self._link.call("ZRANGEBYSCORE", keys.seen, low, high, "WITHSCORES")
        stored = {digest_of(member) for member in self._link.call("ZRANGEBYSCORE", keys.store, low, high)}
        strays = [(digest, float(score)) for digest, score in zip(rows[::2], rows[1::2], strict=True)]
        strays = [(digest, score) for digest, score in strays if digest not in stored]
        bound = (self._wall() - STRAY_SECONDS) * 1000
        old = [digest for digest, score in strays if score < bound]
        if old:
            self._link.call("ZREM", keys.seen, *old)
            log.warning("members_removed_from_store", namespace=self._namespace, topic=topic, members=len(old))
        return len(strays) - len(old)


def _slices(bodies: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Runs that one script call may hold."""
    run: list[bytes] = []
    size = 0
    for body in bodies:
        if run and (len(run) == MAX_FRAMES_A_CALL or size + len(body) > MAX_BYTES_A_CALL):
            yield run
            run, size = [], 0
        run.append(body)
        size += len(body)
    if run:
        yield run


def _time_of(body: bytes) -> int | str:
    """The score under which a member is not late (:mod:`.stored`); empty when it always is, or is no message."""
    try:
        found = Message.from_json(body)
    except ValueError:
        return ""
    return "" if is_late(found.id) else int(found.timestamp)


def _is_text(name: bytes) -> bool:
    """Whether a key's name can be a topic of ours."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
