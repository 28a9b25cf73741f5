"""Keeps the logs of one namespace complete while others publish there who know of no logs: Rustic AI's processes.

Pub/Sub is only the doorbell. What is to be imported is said by a comparison of two set sizes (see
:mod:`rustic_host.messaging.redis.importer`), which is made when the bell rings, after each (re)connection, every
:data:`ROUND_SECONDS`, and on demand. Any number of bridges may serve a namespace, at any time.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from rustic_host.errors import BackendUnavailableError, MessagingError
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.importer import Importer
from rustic_host.messaging.redis.link import Link
from rustic_host.messaging.redis.opening import open_namespace
from rustic_host.messaging.redis.wakes import Wakes
from rustic_host.telemetry.logs import get_logger

DEBOUNCE_SECONDS = 0.005
"""Least time between two comparisons because of the bell (attacks, C1)."""

SEARCH_DELAY_SECONDS = 0.05
"""How long a member that was stored may wait for its own notification before it is searched for."""

ROUND_SECONDS = 30.0
"""A publisher that died before PUBLISH rings no bell; look anyway this often (attacks, C1)."""

SCAN_SECONDS = 600.0
"""How often the key space is scanned for topics nobody was heard on."""

WALK_CHUNKS_A_ROUND = 8
"""A slow walk through all topics finds what strays hide: at most 1,024 members each round."""

PING_SECONDS = 5.0
"""Of silence, after which the subscription is asked for a sign of life, and then it has as long again to answer."""

RETRY_SECONDS, RETRY_MAX_SECONDS = 0.02, 1.0
"""Pause before the server is tried again, doubled each time."""

HEARD_BODIES, HEARD_BYTES = 64, 4 << 20
"""Bodies kept of each topic until the next comparison, and their size together; others are found in the store."""

NOTICES_AT_ONCE = 1000
"""Then it is time to compare, however many more have come."""

log = get_logger(__name__)


class _Closed(Exception):
    """No failure, but the way out of long work."""


class Bridge:
    """A thread that imports what others publish in one namespace, until it is stopped; it heals by itself.

    Args:
        config: the server, of a cluster the node with the topics.
        namespace: the guild id, or the organization's.
        topics: topics that somebody reads (any thread may ask); others are found by themselves.
        only: these topics and no others, where the namespace is shared with who is none of ours.
        counted_in: the guild whose topics these are: what is counted there, is cut there.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: RedisBackendConfig,
        namespace: str,
        topics: Callable[[], Iterable[str]] = tuple,
        *,
        only: Sequence[str] = (),
        counted_in: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.namespace = namespace
        self.error: str | None = "not connected yet"
        """Why nothing is imported at present; None when all is well."""
        self._keys = config.keys
        self._slot_namespace = config.keys.slot_namespace(namespace, only[0]) if only else namespace
        self._topics, self._clock = (lambda: only) if only else topics, clock
        self._scans = not only
        patient = config.model_copy(update={"socket_timeout": min(config.socket_timeout, PING_SECONDS)})
        self._bell = Link(patient, f"rustic-host:bridge-bell:{namespace}")
        self._link = Link(patient, f"rustic-host:bridge:{namespace}")
        self._importer = Importer(
            self._link, config.keys, namespace, counted_in=counted_in, pause=self._pause, clock=clock
        )
        channels = [config.keys.topic_keys(namespace, topic).store for topic in only]
        self._subscribe = ["SUBSCRIBE", *channels] if only else ["PSUBSCRIBE", config.keys.store_pattern(namespace)]
        self._prefix = len(f"{config.key_prefix}{namespace}:".encode())
        self._known: set[str] = set()
        self._heard: dict[str, deque[bytes]] = {}
        self._heard_bytes = 0
        self._search_at: dict[str, float] = {}
        self._compare_at = self._round_at = self._scan_at = self._ping_at = 0.0
        self._pinged = False
        self._walker: Iterator[None] = iter(())
        self._retry = RETRY_SECONDS
        self._asked: list[threading.Event] = []
        self._stopping = threading.Event()
        self._wakes = Wakes()
        self._thread = threading.Thread(target=self._run, name=f"bridge-{namespace}", daemon=True)

    @property
    def imported(self) -> int:
        """Messages that this bridge has imported."""
        return self._importer.imported

    def start(self) -> None:
        """Begin; the server may be away."""
        self._thread.start()

    def catch_up(self, timeout: float) -> bool:
        """Wait until all that was stored on the topics somebody reads is imported; False when it takes longer."""
        if self._stopping.is_set():
            return False
        done = threading.Event()
        self._asked.append(done)
        self._wakes.wake()
        return done.wait(timeout)

    def stop(self) -> None:
        """End; returns when the thread is gone."""
        self._stopping.set()
        self._wakes.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._wakes.close()

    # ---- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._connect()
                while True:
                    self._step()
            except _Closed:
                break
            except MessagingError as error:
                self._failed(str(error))
            except Exception as error:
                log.exception("bridge_failed", namespace=self.namespace)
                self._failed(f"{type(error).__name__}: {error}")
        self._bell.close()
        self._link.close()

    def _connect(self) -> None:
        """Subscribe first, then compare: what is stored in between rings."""
        self._bell.connect()
        self._link.connect()
        open_namespace(self._link, self._keys, self._slot_namespace)
        self._bell.call(*self._subscribe)
        now = self._clock()
        self._round_at = self._scan_at = now
        self._heard, self._heard_bytes = {}, 0
        self._alive()

    def _failed(self, why: str) -> None:
        if self.error != why:
            log.warning("bridge_not_connected", namespace=self.namespace, error=why)
        self.error = why
        self._bell.close()
        self._link.close()
        self._stopping.wait(self._retry * random.uniform(0.5, 1.0))
        self._retry = min(self._retry * 2, RETRY_MAX_SECONDS)

    def _step(self) -> None:
        """Wait for something to do, and do it."""
        due = [self._round_at, self._ping_at, *self._search_at.values()]
        if self._heard:
            due.append(self._compare_at)
        self._hear(0 if self._asked else min(due) - self._clock())
        now = self._clock()
        if self._heard and now >= self._compare_at:
            self._compare()
            self._compare_at = self._clock() + DEBOUNCE_SECONDS
        overdue = [topic for topic, at in self._search_at.items() if at <= now]
        for topic in overdue:
            del self._search_at[topic]
        self._settle(overdue)
        if self._asked or now >= self._round_at:
            self._round()

    def _compare(self) -> None:
        """The bell rang: what is missing was most likely just heard. What was not may still be on its way."""
        heard, self._heard, self._heard_bytes = self._heard, {}, 0
        self._known |= heard.keys()
        lacking = {topic: missing for topic, missing in self._importer.missing(list(heard)).items() if missing}
        for topic in lacking:
            lacking[topic] -= self._importer.store(topic, heard[topic])
        self._search_soon(topic for topic, missing in lacking.items() if missing > 0)

    def _round(self) -> None:
        """Look at all topics, whether the bell rang or not."""
        asked = tuple(self._asked)
        self._look_at(self._known | set(self._topics()))
        self.error, self._retry = None, RETRY_SECONDS
        for done in asked:
            self._asked.remove(done)
            done.set()
        now = self._clock()
        self._round_at = now + ROUND_SECONDS
        if self._scans and now >= self._scan_at:
            self._scan_at = now + SCAN_SECONDS
            for page in self._importer.topics():
                self._look_at(page)
        self._walk_on()

    def _look_at(self, topics: Iterable[str]) -> None:
        asked = set(topics)
        found = self._importer.missing(sorted(asked))
        self._known = self._known - asked | found.keys()  # those without anything are forgotten
        self._settle([topic for topic, missing in found.items() if missing])

    def _settle(self, topics: Iterable[str]) -> None:
        self._search_soon(topic for topic in topics if self._importer.settle(topic))

    def _search_soon(self, topics: Iterable[str]) -> None:
        for topic in topics:
            self._search_at.setdefault(topic, self._clock() + SEARCH_DELAY_SECONDS)

    def _walk_on(self) -> None:
        """The next steps of a slow walk through all topics."""
        for _ in range(WALK_CHUNKS_A_ROUND):
            if next(self._walker, self) is self:
                self._walker = chain.from_iterable(map(self._importer.walk, sorted(self._known)))
                return

    def _pause(self) -> None:
        """Between two steps of long work: hear who rings, so that the server need not keep it, and see who stops us."""
        self._hear(0)

    def _hear(self, seconds: float) -> None:
        """Wait for a notice, and take all that are there."""
        if self._stopping.is_set():
            raise _Closed
        for _ in range(NOTICES_AT_ONCE):
            if not self._bell.wait(seconds, self._wakes.readable):
                break
            self._note(self._bell.receive())
            seconds = 0
        self._wakes.drain()
        if self._clock() < self._ping_at:
            return
        if self._pinged:
            raise BackendUnavailableError(f"{self._bell.where}: no answer within {PING_SECONDS:.0f} s")
        self._bell.send(("PING",))
        self._ping_at, self._pinged = self._clock() + PING_SECONDS, True

    def _alive(self) -> None:
        self._ping_at, self._pinged = self._clock() + PING_SECONDS, False

    def _note(self, notice: Any) -> None:
        self._alive()
        if notice[0] not in (b"pmessage", b"message"):
            return
        *_, channel, body = notice
        topic = channel[self._prefix :].decode(errors="replace")
        bodies = self._heard.setdefault(topic, deque(maxlen=HEARD_BODIES))
        self._heard_bytes += len(body)
        if self._heard_bytes <= HEARD_BYTES:
            bodies.append(body)
