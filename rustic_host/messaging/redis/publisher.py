"""Publishing outside handlers: its own connection, retried until a deadline, re-sent after every reconnect.

What waits to be stored is held by the threads that publish it, each with its deadline: no queue could grow.
"""

import os
import random
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TypeVar

from rustic_host.errors import (
    BackendNotReadyError,
    BackendRefusedError,
    BackendUnavailableError,
    MessagingError,
    PublishRefusedError,
    PublishUnavailableError,
    SchemaVersionError,
)
from rustic_host.messaging import counts
from rustic_host.messaging.delivery import Frame, is_late
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.keys import Keys
from rustic_host.messaging.redis.link import Argument, Link, Script
from rustic_host.messaging.redis.opening import check_policy, open_namespace
from rustic_host.messaging.redis.outward import in_own_slot
from rustic_host.messaging.sizes import LARGE_MESSAGE_BYTES
from rustic_host.messaging.state_changes import StateChanges, Watch
from rustic_host.telemetry.logs import get_logger

MAX_FRAMES_A_CALL = 64
MAX_BYTES_A_CALL = 1 << 20
"""Together they keep one script below about 3 ms of the server's time (attacks, section 8)."""

RESEND_WINDOW_SECONDS = 5.0
RESEND_WINDOW_BYTES = 8 << 20
"""What was confirmed this shortly before the last confirmation is stored again after a reconnect: a crash of the server
may have lost it."""

RESEND_MAX_AGE_SECONDS = 3600.0
"""Older messages are not stored again: retention may have trimmed the digest that would keep them from doubling."""

RETRY_MAX_SECONDS = 0.2
"""Longest pause between attempts, before up to half as much again by chance."""

PING_SECONDS = 15.0
"""How often a resting connection is tried, as long as there is something to store again: a machine that vanished hangs
up on nobody."""


SHORTEST_SECONDS = 0.01
"""What is left for an attempt when the deadline has just passed."""

PUBLISH = Script("publish")

T = TypeVar("T")

log = get_logger(__name__)


def frame_keys(keys: Keys, namespace: str, frame: Frame) -> tuple[str, str, str, str]:
    """The four keys that the publish and commit scripts take for one copy."""
    topic, home = frame.topic, frame.namespace or namespace
    return (*keys.topic_keys(home, topic), keys.index_key(home, topic, frame.message_id))


def frame_args(frame: Frame) -> tuple[int, bytes, bytes, str]:
    """The four arguments that go with :func:`frame_keys`."""
    large = len(frame.body) > LARGE_MESSAGE_BYTES
    return frame.timestamp, frame.digest, frame.body, counts.published(frame.topic, large, is_late(frame.message_id))


def slices(frames: Sequence[Frame]) -> Iterator[Sequence[Frame]]:
    """``frames`` in runs that one script call may hold; the copies of one message stay together."""
    start = end = size = 0
    for _, copies in groupby(frames, key=lambda frame: frame.message_id):
        together = list(copies)
        added = sum(len(frame.body) for frame in together)
        if end > start and (end - start + len(together) > MAX_FRAMES_A_CALL or size + added > MAX_BYTES_A_CALL):
            yield frames[start:end]
            start, size = end, 0
        end, size = end + len(together), size + added
    if end > start:
        yield frames[start:end]


class Publisher:
    """Stores frames; safe to share between threads.

    A retry is harmless because the bytes are frozen and the script skips what is stored already.

    Args:
        config: the server.
        name: shown in ``CLIENT LIST``.
        chore: called every :data:`PING_SECONDS` in a thread, with the namespaces that were published to.
        deadline: seconds a publish may take before it fails.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: RedisBackendConfig,
        name: str,
        *,
        deadline: float = 10.0,
        chore: Callable[[Collection[str]], None] = lambda namespaces: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        patience = min(config.socket_timeout, deadline)
        self.keys = config.keys
        connecting = min(config.socket_connect_timeout, deadline)
        limits = {"socket_timeout": patience, "socket_connect_timeout": connecting}
        self._link = Link(config.model_copy(update=limits), name)
        self._ttl = config.message_ttl
        self._deadline, self._chore = deadline, chore
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._recent: deque[tuple[float, str, Frame]] = deque()
        self._recent_bytes = 0
        self._owed = False
        self._watcher: threading.Thread | None = None
        self._opened: set[str] = set()
        self._policy_checked = False
        self._sent = self._hindered = False
        self.watch = Watch("", StateChanges())
        """Told when the connection breaks and when it is there again."""

    def publish(self, namespace: str, frames: Sequence[Frame], *, since: float | None = None) -> None:
        """Store all copies; those of one message are stored together or not at all.

        Args:
            namespace: the guild id.
            frames: all copies of all messages.
            since: when the deadline began to run, by the clock; None is now.

        Raises:
            PublishUnavailableError: the server did not answer in time; it says what is stored, what is not, and of
                which nobody knows. Publishing the same frames again is safe.
            PublishRefusedError: the server refused; nothing of the refused call is stored.
            SchemaVersionError: a newer version has written what is stored there; nothing is stored.
        """
        with self._turn(frames, since) as give_up:
            done = 0
            self._open_for(namespace, frames, give_up)
            for run in slices(frames):
                self._sent = False
                try:
                    self._retried(lambda run=run: self._store(namespace, run), give_up)  # type: ignore[misc]
                except BackendUnavailableError as error:
                    unknown = done + len(run) if self._sent else done
                    raise PublishUnavailableError(str(error), *_ids(frames, done, unknown)) from error
                except BackendRefusedError as error:
                    raise PublishRefusedError(str(error), *_ids(frames, done, done)) from error
                self._remember(namespace, run)
                done += len(run)
        self._watch_over()

    def open_namespace(self, namespace: str) -> None:
        """See that a namespace can be used, as the first publish to it does.

        Raises:
            BackendUnavailableError, BackendRefusedError, SchemaVersionError: as in :mod:`.opening`.
        """
        with self._turn() as give_up:
            self._retried(lambda: self._open_namespace(namespace), give_up)

    def call(self, *command: Argument, since: float | None = None) -> object:
        """One command outside publishing, under the same deadline; it must be harmless to repeat."""
        with self._turn(since=since) as give_up:
            return self._retried(lambda: self._link.call(*command), give_up)

    def run(self, script: Script, script_keys: Sequence[Argument], args: Sequence[Argument]) -> object:
        """Run a script that is harmless to repeat, under the same deadline."""
        with self._turn() as give_up:
            return self._retried(lambda: self._link.run(script, script_keys, args), give_up)

    def close(self) -> None:
        """End the connection; a publish that is being retried gives up."""
        self._closed.set()
        with self._lock:
            self._link.close()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join()

    @contextmanager
    def _turn(self, frames: Sequence[Frame] = (), since: float | None = None) -> Iterator[float]:
        """The connection for oneself; yields when to give up, which counts from before others were waited for."""
        now = self._clock()
        give_up = (now if since is None else since) + self._deadline
        if give_up <= now or not self._lock.acquire(timeout=give_up - now):
            text = f"{self._link.where}: others have waited for it for {self._deadline:g} s"
            raise PublishUnavailableError(text, *_ids(frames, 0, 0))
        try:
            yield give_up
        finally:
            self._lock.release()

    def _retried(self, action: Callable[[], T], give_up: float) -> T:
        delay = 0.01
        while True:
            try:
                self._link.limit(max(give_up - self._clock(), SHORTEST_SECONDS))
                self._ready()
                result = action()
            except BackendUnavailableError as error:
                self._hindered = isinstance(error, BackendNotReadyError)
                self.watch.lost(str(error))
                left = give_up - self._clock()
                if left <= 0 or self._closed.wait(min(left, delay * random.uniform(0.5, 1.5))):
                    raise
                delay = min(delay * 2, RETRY_MAX_SECONDS)
            else:
                self._hindered = False
                self.watch.regained()
                return result

    def _ready(self) -> None:
        """Be connected, with everything stored again that the server may have lost."""
        if not self._link.connected:
            self._link.connect()
            self._owed = True
        if not self._policy_checked:
            check_policy(self._link)
            self._policy_checked = True
        if self._owed:  # also when the server took the connection, but no message yet
            self._resend()
            self._owed = False

    def _open_for(self, namespace: str, frames: Sequence[Frame], give_up: float) -> None:
        try:
            self._retried(lambda: self._open_namespace(namespace), give_up)
        except SchemaVersionError:
            raise
        except BackendUnavailableError as error:
            raise PublishUnavailableError(str(error), *_ids(frames, 0, 0)) from error
        except BackendRefusedError as error:
            raise PublishRefusedError(str(error), *_ids(frames, 0, 0)) from error

    def _open_namespace(self, namespace: str) -> None:
        if namespace not in self._opened:
            open_namespace(self._link, self.keys, namespace)
            self._opened.add(namespace)

    def _resend(self) -> None:
        self._forget(confirmed_before=self._clock() - RESEND_MAX_AGE_SECONDS)
        for namespace, run in _by_namespace(self._recent):
            try:
                self._store(namespace, run, again=True)
            except BackendRefusedError as error:  # of no concern to whoever publishes now
                log.warning("not_stored_again", namespace=namespace, messages=len(run), error=str(error))

    def _watch_over(self) -> None:
        """From the first message on, somebody must notice that the server is gone also when nobody publishes."""
        if (self._watcher is None or not self._watcher.is_alive()) and not self._closed.is_set():
            self._watcher = threading.Thread(target=self._watch, name="publisher-watch", daemon=True)
            self._watcher.start()

    def _watch(self) -> None:
        delay = 0.01
        while not self._closed.is_set():
            with self._lock:
                line = self._mended()
            if line is None:
                self._closed.wait(delay * random.uniform(0.5, 1.5))
                delay = min(delay * 2, RETRY_MAX_SECONDS)
            elif not _hung_up(line, PING_SECONDS):
                with self._lock:
                    self._ping()
                    namespaces = frozenset(self._opened)
                self._chore(namespaces)
            else:
                delay = 0.01

    def _mended(self) -> int | None:
        """The connection's descriptor, once more (so that nobody closes it meanwhile); None when there is none."""
        if self._closed.is_set():
            return None
        try:
            self._link.close_if_hung_up()
            self._link.limit(self._deadline)
            self._ready()
            if not self._hindered:  # else it answers, and what it would not do is to be tried first
                self.watch.regained()
            return self._link.duplicate()
        except MessagingError as error:
            self.watch.lost(str(error))
            return None

    def _ping(self) -> None:
        self._forget(confirmed_before=self._clock() - RESEND_MAX_AGE_SECONDS)
        if not self._recent or self._closed.is_set():
            return
        try:
            self._link.limit(self._deadline)
            self._link.call("PING")
        except MessagingError as error:
            self.watch.lost(str(error))

    def _store(self, namespace: str, frames: Sequence[Frame], *, again: bool = False) -> None:
        before, self._sent = self._sent, self._sent or not again
        script_keys: list[Argument] = [self.keys.counts_key(namespace)]
        args: list[Argument] = [self._ttl]
        stored = [in_own_slot(self.keys, namespace, frame) for frame in frames]
        for frame in stored:
            script_keys += frame_keys(self.keys, namespace, frame)
            args += frame_args(frame)
        if again:
            homes = (self.keys.slot_namespace(frame.namespace or namespace, frame.topic) for frame in stored)
            script_keys += map(self.keys.retention_key, homes)
        try:
            done, *detail = self._link.run(PUBLISH, script_keys, args)
        except BackendNotReadyError:  # that is an answer: nothing of this attempt is stored
            self._sent = before
            raise
        if not done:
            why, what = (part.decode() for part in detail)
            wrong = f"its user may not {what}" if why == "acl" else f"key {what} is of a wrong type"
            raise BackendRefusedError(f"{self._link.where}: {wrong}; nothing stored")

    def _remember(self, namespace: str, frames: Iterable[Frame]) -> None:
        now = self._clock()
        for frame in frames:
            self._recent.append((now, namespace, frame))
            self._recent_bytes += len(frame.body)
        self._forget(confirmed_before=now - RESEND_WINDOW_SECONDS)

    def _forget(self, confirmed_before: float) -> None:
        while self._recent and (self._recent[0][0] < confirmed_before or self._recent_bytes > RESEND_WINDOW_BYTES):
            self._recent_bytes -= len(self._recent.popleft()[2].body)


def _ids(frames: Sequence[Frame], stored: int, unknown: int) -> tuple[list[int], list[int], list[int]]:
    """Ids of the messages of the frames before ``stored``, from there to ``unknown``, and after."""
    parts = frames[:stored], frames[stored:unknown], frames[unknown:]
    first, second, third = (list(dict.fromkeys(frame.message_id for frame in part)) for part in parts)
    return first, second, third


def _by_namespace(recent: Iterable[tuple[float, str, Frame]]) -> Iterator[tuple[str, Sequence[Frame]]]:
    grouped: dict[str, list[Frame]] = {}
    for _, namespace, frame in recent:
        grouped.setdefault(namespace, []).append(frame)
    for namespace, frames in grouped.items():
        for run in slices(frames):
            yield namespace, run


def _hung_up(line: int, timeout: float) -> bool:
    """Wait until the other end of a connection hangs up; closes the descriptor."""
    try:
        poll = select.poll()
        poll.register(line, select.POLLRDHUP)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(line)
