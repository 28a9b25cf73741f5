"""Cuts topics to their bounds, in slices, so that Redis' memory stays flat however long a guild runs.

Any number of janitors may work on one namespace: each slice is one script, and a bound that was cut to is cut to.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from rustic_host.errors import BackendRefusedError
from rustic_host.messaging import counts
from rustic_host.messaging.dead_letter import DEAD_LETTER_TOPIC
from rustic_host.messaging.delivery import home_of
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.keys import RELAY_TOPIC, TopicKeys
from rustic_host.messaging.redis.link import Argument, Link, Script
from rustic_host.messaging.redis.publisher import RESEND_MAX_AGE_SECONDS
from rustic_host.messaging.redis.readers import topics_of_present
from rustic_host.telemetry.logs import get_logger

DAY = 86400.0

FOREVER = 1e12
"""Seconds; what is longer, infinity too, cannot be written as the server's milliseconds."""

Reads = Mapping[str, Collection[str] | None]
"""The topics that each client reads, by client id; None: it is not known which."""

MAX_SLICE, MIN_SLICE, SLICE_BYTES = 512, 16, 1 << 20
"""Entries that one script call cuts: together at most about this many bytes, well below 3 ms of the server's time."""

SLICES_A_SWEEP = 200
"""Of one topic; the rest has to wait until the others have had their turn."""

FULL_EVERY = 12
"""Each so many sweeps all topics are looked at, in between only those that something was published on."""

WARN_SHARE = 0.5
"""A client with more than this share of a topic's cap unread is warned about."""

CLAIM_MS = 60_000
"""How long a namespace counts as seen to. A host comes by more often, so where one runs its bounds are in force."""

MEASURE_FROM = 16
"""Entries below which the bytes of a topic are not asked for."""

RELAY_SECONDS = RESEND_MAX_AGE_SECONDS + 60
"""How long is kept, on a cluster, what was brought to other guilds: until then a publisher may store it again."""

EXPIRE, TRIM = Script("expire"), Script("trim")

log = get_logger(__name__)


class Bounds(NamedTuple):
    """How much is kept; ``entries`` and ``bytes`` are of each topic, and cut also what is unread.

    Seconds may be infinite.
    """

    age_seconds: float = DAY
    """Messages older than this go, but for those that a durable client has still to commit."""
    entries: int = 1_000_000
    bytes: int = 1 << 30
    """Log, store and digests together, as ``MEMORY USAGE`` estimates them."""
    letter_seconds: float = 30 * DAY
    """The age of dead letters."""
    client_seconds: float = 30 * DAY
    """The group of a client that has not read the topic for so long is ended."""


class Slow(NamedTuple):
    """A client that has so much unread in a topic that it will lose messages if it goes on like that."""

    topic: str
    client_id: str
    entries: int
    cap: int
    """Unread entries beyond this are cut."""


class Sweep(NamedTuple):
    """What a sweep found."""

    more: bool
    """There is more to cut: sweep again soon."""
    cut: int
    """Log entries."""
    lost: int
    """Entries that were cut unread, over all clients."""
    slow: list[Slow]


class Janitor:
    """Cuts the topics of namespaces on one server.

    Args:
        config: the server; its ``retention`` wins over the bound of age.
        bounds: how much is kept.
        now: seconds since the Unix epoch; None asks the server.
    """

    def __init__(self, config: RedisBackendConfig, bounds: Bounds, *, now: Callable[[], float] | None = None) -> None:
        self._link = Link(config, "rustic-host:janitor")
        self._keys, self._now = config.keys, now
        self._bounds = bounds._replace(age_seconds=config.retention) if config.retention else bounds
        self._looked_at: dict[str, dict[str, int]] = {}
        self._slow: dict[str, dict[tuple[str, str], Slow]] = {}
        self._turns: dict[str, int] = {}
        self._measures = self._expires = True

    def sweep(self, namespace: str, shared: str = "", reads: Reads | None = MappingProxyType({})) -> Sweep:
        """Cut the topics of a namespace.

        Args:
            namespace: the guild id.
            shared: where topics lie that guilds share.
            reads: what clients are to read; there they are never given up, however long they have not; None gives up
                nobody.

        Raises:
            BackendUnavailableError: as the link; what was cut is cut, try again later.
            BackendRefusedError: a topic cannot be cut, a key of it being of another type, say; all others were.
        """
        if not self._link.connected:
            self._link.connect()
        turn = self._turns[namespace] = self._turns.get(namespace, 0) + 1
        full = turn % FULL_EVERY == 1
        now_ms = self._now_ms()
        slow, known = self._slow.setdefault(namespace, {}), self._looked_at.setdefault(namespace, {})
        present = self._present(namespace) if full and reads is not None and self._expires else {}
        cut = lost = 0
        more = False
        refused: BackendRefusedError | None = None
        for topic, published in self._topics(namespace).items():
            if not full and known.get(topic) == published and topic not in {topic for topic, _ in slow}:
                continue
            home = home_of(topic, namespace, shared)
            slot_home = self._keys.slot_namespace(home, topic)
            job = _Topic(self._link, self._keys.topic_keys(home, topic), topic, slot_home)
            try:
                # Who reads a shared topic is another's affair.
                if full and home == namespace and reads is not None and self._expires:
                    self._expire(namespace, job, reads, present)
                done = self._trim(namespace, job, now_ms)
            except BackendRefusedError as error:
                refused = error
                continue
            self._tell(job, done, slow)
            cut, lost, more = cut + done.cut, lost + sum(done.lost.values()), more or done.more
            known[topic] = -1 if done.more else published
        if refused is not None:
            raise refused
        return Sweep(more, cut, lost, list(slow.values()))

    def claim(self, namespace: str, *, hold: bool) -> bool:
        """Say that a namespace is seen to; a host holds on to it, others do it when nobody has for a minute."""
        if not self._link.connected:
            self._link.connect()
        only_new = [] if hold else ["NX"]
        answer = self._link.call("SET", self._keys.sweeper_key(namespace), "1", "PX", CLAIM_MS, *only_new)
        return answer is not None

    def close(self) -> None:
        """Let go of the connection."""
        self._link.close()

    def _now_ms(self) -> int:
        if self._now is not None:
            return int(self._now() * 1000)
        seconds, micros = self._link.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def _topics(self, namespace: str) -> Mapping[str, int]:
        """All topics that something was ever published on, with how much."""
        flat = self._link.call("HGETALL", self._keys.counts_key(namespace))
        found: Counter[str] = Counter()
        for name, value in zip(flat[::2], flat[1::2], strict=True):
            count = counts.parse(name)
            if count is not None and count.is_published:
                found[count.topic] += int(value)
        return found

    def _trim(self, namespace: str, job: "_Topic", now_ms: int) -> "_Done":
        letters = job.topic == DEAD_LETTER_TOPIC
        age = self._bounds.letter_seconds if letters else self._bounds.age_seconds
        age = min(age, RELAY_SECONDS) if job.topic == RELAY_TOPIC else age
        cap, piece = self._measured(job)
        done = _Done(cap)
        script_keys = [*job.keys, self._keys.counts_key(namespace), self._keys.retention_key(job.slot_home)]
        limit = now_ms - int(min(age * 1000, now_ms))
        for _ in range(SLICES_A_SWEEP):
            done.groups = job.groups()
            names = [group["name"].decode() for group in done.groups]
            fields = [part for name in names for part in (name, counts.processed(job.topic, name, "lost_to_retention"))]
            answer = self._link.run(TRIM, script_keys, [limit, cap, piece, *fields])
            if not answer[0] and answer[1] == b"type":
                raise BackendRefusedError(f"{self._link.where}: key {answer[2].decode()} is of a wrong type")
            done.more = not answer[0] or bool(answer[4])
            if answer[0]:
                done.add(answer, names)
            if not done.more:
                break
        return done

    def _measured(self, job: "_Topic") -> tuple[int, int]:
        """Entries that the topic may hold, and that one slice may cut, by the size of those that are there."""
        cap = self._bounds.entries
        length = max(self._link.call("XLEN", job.keys.log), self._link.call("ZCARD", job.keys.store))
        if length < MEASURE_FROM or not self._measures:
            return cap, MAX_SLICE
        try:
            size = sum(self._link.call("MEMORY", "USAGE", key) or 0 for key in job.keys)
        except BackendRefusedError as error:
            log.warning("retention_without_bytes", error=str(error), consequence="topics are bounded by entries alone")
            self._measures = False
            return cap, MAX_SLICE
        each = max(size / length, 1)
        return min(cap, max(int(self._bounds.bytes / each), 1)), int(min(max(SLICE_BYTES / each, MIN_SLICE), MAX_SLICE))

    def _present(self, namespace: str) -> Mapping[str, Collection[str]]:
        """Topics by client id, of those that ask for messages: until 7.2 Redis calls them idle while they get none."""
        try:
            return topics_of_present(self._link, self._keys.readers_key(namespace), self._bounds.client_seconds)
        except BackendRefusedError as error:
            log.warning("clients_not_expired", error=str(error), consequence="nobody's position is given up")
            self._expires = False
            return {}

    def _expire(self, namespace: str, job: "_Topic", reads: Reads, present: Mapping[str, Collection[str]]) -> None:
        """End the groups of clients that are long gone, or read other topics now."""
        limit = int(min(self._bounds.client_seconds, FOREVER) * 1000)
        for group in job.groups():
            client_id = group["name"].decode()
            wanted = reads.get(client_id, ())
            if wanted is None or job.topic in wanted or job.topic in present.get(client_id, ()):
                continue
            script_keys: list[Argument] = [job.keys.log, self._keys.client_key(namespace, client_id)]
            script_keys += (self._keys.early_key(namespace, client_id), self._keys.readers_key(namespace))
            if self._link.run(EXPIRE, script_keys, [client_id, limit]):
                log.warning(
                    "client_expired",
                    namespace=namespace,
                    topic=job.topic,
                    client=client_id,
                    unread=_unread(group),
                    not_seen_for_seconds=self._bounds.client_seconds,
                )

    def _tell(self, job: "_Topic", done: "_Done", slow: dict[tuple[str, str], Slow]) -> None:
        """Say once that a client falls behind, and each time that it has lost messages."""
        for client_id, entries in done.lost.items():
            log.error("messages_lost_to_retention", topic=job.topic, client=client_id, messages=entries, cap=done.cap)
        if done.unheard:
            log.warning("messages_cut_before_import", topic=job.topic, messages=done.unheard)
        behind = {group["name"].decode(): min(_unread(group), done.cap) for group in done.groups}
        for client_id in [client for topic, client in slow if topic == job.topic]:
            if behind.get(client_id, 0) <= WARN_SHARE * done.cap:
                del slow[job.topic, client_id]
        for client_id, entries in behind.items():
            if entries > WARN_SHARE * done.cap:
                found = Slow(job.topic, client_id, entries, done.cap)
                if (job.topic, client_id) not in slow:
                    log.warning("client_slower_than_retention", **found._asdict())
                slow[job.topic, client_id] = found


class _Done:
    """What was cut of one topic."""

    def __init__(self, cap: int) -> None:
        self.cap, self.cut, self.unheard, self.more = cap, 0, 0, False
        self.lost: dict[str, int] = {}
        self.groups: list[dict[str, Any]] = []

    def add(self, answer: list[int], names: list[str]) -> None:
        _, cut, from_store, from_seen, _, *lost = answer
        self.cut += cut
        self.unheard += max(from_store - from_seen, 0)
        for name, entries in zip(names, lost, strict=True):
            if entries:
                self.lost[name] = self.lost.get(name, 0) + entries


class _Topic:
    """One topic's keys and groups."""

    def __init__(self, link: Link, keys: TopicKeys, topic: str, slot_home: str) -> None:
        self._link, self.keys, self.topic, self.slot_home = link, keys, topic, slot_home

    def groups(self) -> list[dict[str, Any]]:
        """As ``XINFO GROUPS`` has them."""
        try:
            rows = self._link.call("XINFO", "GROUPS", self.keys.log)
        except BackendRefusedError as error:
            if "no such key" not in str(error):
                raise
            return []
        return [{n.decode(): value for n, value in zip(row[::2], row[1::2], strict=True)} for row in rows]


def _unread(group: dict[str, Any]) -> int:
    return int(group["lag"] or 0) + int(group["pending"])
