"""The host's own view of the bus: publishes for clients, tails topics, reads the exact counts."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError

from rustic_host.errors import BackendBusyError, BackendNotReadyError, BackendRefusedError, BackendUnavailableError
from rustic_host.host.bus_watch import BusWatch
from rustic_host.host.tail import Tail
from rustic_host.messaging import GemstoneGenerator, counts
from rustic_host.messaging.dead_letter import DEAD_LETTER_TOPIC
from rustic_host.messaging.delivery import Frame
from rustic_host.messaging.redis import slots
from rustic_host.messaging.redis.async_client import async_client
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.letters import DeadLetters
from rustic_host.messaging.redis.link import Link
from rustic_host.messaging.redis.opening import check_durability, check_policy
from rustic_host.messaging.redis.positions import Positions
from rustic_host.messaging.redis.publisher import Publisher
from rustic_host.messaging.redis.readers import topics_read
from rustic_host.messaging.redis.retention import Bounds, Janitor, Reads, Sweep
from rustic_host.messaging.sizes import SizeLimits
from rustic_host.telemetry.logs import get_logger
from rustic_host.web.tasks import end_tasks

log = get_logger(__name__)

ANSWER_SECONDS = 3.0

THREADS = 32
"""Calls that may wait for the server at once. They are not those of the event loop, or what starts the server again,
or stops a guild, would wait for calls that wait for the server."""

MAX_WAITING = 256
"""Calls of publishers that are taken at once. Most of them wait only while the server is away; what is beyond shall
not take the host's memory meanwhile."""

FIGURES_SECONDS = 1.0
"""How long a status, or a scrape, waits for what a server that is not known to be away has to say."""

LEAVE_SECONDS = 1.0
"""How long a host that stops tries to reach a server that is away."""

Counts = dict[counts.Count, int]

T = TypeVar("T")


@dataclass(frozen=True)
class Backlog:
    """What a client has still to handle in one topic."""

    topic: str
    client_id: str
    entries: int


@dataclass(frozen=True)
class Figures:
    """What a server knows of a guild."""

    counts: Counts
    backlogs: list[Backlog]
    dead_letters: int


class HostBus:
    """Everything the daemon itself asks of the server.

    Args:
        config: the server; of a cluster, the node with one guild, which alone is asked for then.
        bounds: how much of each topic is kept.
        durability: ``fsync`` refuses a server that does not write through to disk.
    """

    def __init__(
        self,
        config: RedisBackendConfig,
        bounds: Bounds = Bounds(),  # noqa: B008 - a tuple
        durability: str = "everysec",
    ) -> None:
        self.config, self._durability = config, durability
        self._threads = ThreadPoolExecutor(THREADS, "bus")
        self._places = threading.Semaphore(MAX_WAITING)
        self._janitor = Janitor(config, bounds)
        self._sizes = SizeLimits(config.max_message_bytes)
        self._publisher = Publisher(config, "rustic-host:host")
        self._leases = self._publisher
        if config.is_cluster:  # id slots are the whole cluster's, and lie somewhere else
            self._leases = Publisher(config.at_key(config.keys.slots_key()), "rustic-host:host")
        self._operator = Publisher(config, "rustic-host:operator", deadline=ANSWER_SECONDS)
        self._redis = async_client(
            config,
            protocol=2,
            socket_timeout=ANSWER_SECONDS,
            retry=Retry(ExponentialWithJitterBackoff(cap=0.1, base=0.01), 1),
        )
        self.watch = BusWatch(config)
        """Whether the server is there; it is asked from :meth:`open` to :meth:`close`."""
        self._watching: asyncio.Task[None] | None = None
        self.slot: slots.Slot
        self.generator: GemstoneGenerator
        """Makes ids from the slot; safe to share between threads. There is one, or ids would collide."""

    async def open(self) -> None:
        """Reach the server, see that it may be used, and lease an id slot.

        Raises:
            BackendUnavailableError: nobody answers.
            BackendRefusedError: it refuses us, or would evict or forget what we store.
        """
        await asyncio.to_thread(self._check)
        self.slot = await self._in_thread(slots.lease, self._leases)
        self.generator = self.slot.generator()
        self._watching = asyncio.create_task(self.watch.run())

    async def open_guild(self, guild_id: str) -> None:
        """See that a guild's data can be used; raises as :func:`open_namespace`."""
        await self._in_thread(self._publisher.open_namespace, guild_id)

    async def publish(self, namespace: str, frames: Sequence[Frame], since: float | None = None) -> None:
        """Store frames; the deadline runs from ``since`` (monotonic seconds; None is now), whoever else is waiting.

        Raises:
            BackendBusyError: :data:`MAX_WAITING` wait already; nothing is stored.
            MessageTooLargeError: before anything is stored.
            PublishUnavailableError, PublishRefusedError, SchemaVersionError: as :meth:`Publisher.publish`.
        """
        self._sizes.check_frames(frames)
        begun = time.monotonic() if since is None else since
        await self._in_turn(lambda: self._publisher.publish(namespace, frames, since=begun))

    async def first_use(self, namespace: str, key: str, now_ms: int, ttl: int, since: float | None = None) -> int:
        """When a key was first used, in Unix milliseconds: now, unless it was before; raises as :meth:`publish`."""
        name = self.config.keys.send_key(namespace, key)
        begun = time.monotonic() if since is None else since

        def ask() -> object:
            before = self._publisher.call("SET", name, now_ms, "NX", "GET", "EX", ttl, since=begun)
            self._publisher.call("EXPIRE", name, ttl, since=begun)
            return before

        before = await self._in_turn(ask)
        return int(before) if isinstance(before, bytes) else now_ms

    async def sweep(self, namespace: str, shared: str, reads: Reads | None) -> Sweep:
        """Cut what is too old or too much; raises as :meth:`Janitor.sweep`. One at a time."""

        def sweep() -> Sweep:
            found = self._janitor.sweep(namespace, shared, reads)
            try:  # afterwards: for it a server without memory needs some
                self._janitor.claim(namespace, hold=True)
            except BackendNotReadyError as error:
                log.debug("sweep_not_told", namespace=namespace, error=str(error))
            return found

        return await self._in_thread(sweep)

    async def renew_slot(self) -> None:
        """Keep the id slot; one that expired and is somebody else's is replaced, for all who share the generator."""
        kept = await self._in_thread(slots.renew, self._leases, [self.slot])
        if not kept:
            log.error("id_slot_lost", slot=self.slot.number, consequence="another is leased")
            kept = [await self._in_thread(slots.lease, self._leases)]
            self.generator.become(kept[0].generator())
        (self.slot,) = kept

    async def counts(self, namespace: str) -> Counts:
        """The exact counts of a guild.

        Raises:
            BackendUnavailableError: nobody answers.
        """
        fields = await self._ask(self._redis.hgetall(self.config.keys.counts_key(namespace)))
        parsed = ((counts.parse(name), int(value)) for name, value in fields.items())
        return {count: value for count, value in parsed if count is not None}

    async def topics(self, namespace: str) -> list[str]:
        """Topics that something was ever published on."""
        return sorted({count.topic for count in await self.counts(namespace) if count.is_published})

    async def backlogs(self, namespace: str, topics: Iterable[str]) -> list[Backlog]:
        """For each group of each log: entries not read yet, and read but not committed."""
        names = list(topics)
        pipeline = self._redis.pipeline(transaction=False)
        for topic in names:
            pipeline.xlen(self.config.keys.topic_keys(namespace, topic).log)
            pipeline.xinfo_groups(self.config.keys.topic_keys(namespace, topic).log)
        replies = await self._ask(pipeline.execute(raise_on_error=False))
        found = []
        for topic, length, groups in zip(names, replies[::2], replies[1::2], strict=True):
            if isinstance(groups, Exception):  # no log yet
                continue
            found += [Backlog(topic, group["name"].decode(), _entries(group, length)) for group in groups]
        return found

    async def readers(self, namespace: str) -> dict[str, list[str]]:
        """Topics by client id, of everyone who reads durably now; raises as :func:`topics_read`."""
        return await self._in_thread(topics_read, self._operator, namespace)

    def tail(
        self, namespace: str, topics: Sequence[str], start: str | None, *, patient: bool = True
    ) -> AsyncIterator[bytes]:
        """Messages of topics as they are stored; see :class:`rustic_host.host.tail.Tail`."""
        return Tail(self._redis, self.config.keys, namespace, topics, start, patient=patient).items()

    async def dead_letters(self, namespace: str) -> int:
        """How many messages of a guild were given up and lie in the queue."""
        found = await self._ask(self._redis.zcard(self.config.keys.topic_keys(namespace, DEAD_LETTER_TOPIC).store))
        return int(found)

    def letters(self, namespace: str, shared: str) -> DeadLetters:
        """The dead letters of a guild; its methods block."""
        return DeadLetters(self._operator, namespace, shared)

    def positions(self, namespace: str, shared: str) -> Positions:
        """Where the clients of a guild stand; its methods block."""
        return Positions(self._operator, namespace, shared, self.config.message_ttl)

    async def close(self) -> None:
        """Give the slot back and let go; for a server that is away the slot's lease ends by itself."""
        if self._watching is not None:
            await end_tasks(self._watching)
        await self.watch.close()
        config = self.config.at_key(self.config.keys.slots_key())
        leaving = Publisher(config, "rustic-host:leaving", deadline=LEAVE_SECONDS)
        with suppress(BackendUnavailableError, BackendRefusedError, AttributeError):
            await asyncio.to_thread(slots.release, leaving, [self.slot])
        for held in (leaving, self._leases, self._operator, self._publisher, self._janitor):
            await asyncio.to_thread(held.close)
        await asyncio.to_thread(self._threads.shutdown)
        await self._redis.aclose()

    async def _in_turn(self, call: Callable[[], T]) -> T:
        """As :meth:`_in_thread`, for those that are counted; a place is free when its thread is done with it."""
        if not self._places.acquire(blocking=False):
            where = self.config.shown()
            raise BackendBusyError(f"{where}: {MAX_WAITING} wait for it already; nothing of this is stored")
        future = self._threads.submit(copy_context().run, call)
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)

    async def _in_thread(self, call: Callable[..., T], *args: object) -> T:
        """As :func:`asyncio.to_thread`, with threads of its own."""
        run = copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._threads, run, call, *args)

    def _check(self) -> None:
        link = Link(self.config, "rustic-host:check")
        try:
            link.connect()
            check_policy(link)
            check_durability(link, self._durability)
        finally:
            link.close()

    async def figures(self, namespace: str, topics: Iterable[str]) -> Figures | None:
        """What is to be known of a guild at this moment; None when the server does not say so soon."""
        if self.watch.away:
            return None
        try:
            async with asyncio.timeout(FIGURES_SECONDS):
                backlogs = await self.backlogs(namespace, topics)
                return Figures(await self.counts(namespace), backlogs, await self.dead_letters(namespace))
        except (BackendUnavailableError, TimeoutError) as error:
            self.watch.note(str(error) or f"no answer within {FIGURES_SECONDS:.0f} s")
            return None

    async def _ask(self, awaitable: Any) -> Any:
        """A reply within :data:`ANSWER_SECONDS`: the control API must answer also when the server does not."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await awaitable
        except (RedisError, OSError) as error:
            raise BackendUnavailableError(f"{self.config.shown()}: {error}") from error


def _entries(group: Any, length: int) -> int:
    """The server's ``lag`` goes on counting what was cut unread; it is unknown after a deletion in the middle."""
    return min(int(group["lag"] or 0), length) + int(group["pending"])
