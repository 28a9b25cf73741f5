"""Publishing outside handlers: its own connection, retried until a deadline, re-sent after every reconnect."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar

from rustic_host.errors import (
    BackendRefusedError,
    BackendUnavailableError,
    PublishRefusedError,
    PublishUnavailableError,
)
from rustic_host.messaging import counts
from rustic_host.messaging.delivery import Frame
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.keys import Keys
from rustic_host.messaging.redis.link import Argument, Link, Script
from rustic_host.messaging.sizes import LARGE_MESSAGE_BYTES
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

RETRY_MAX_SECONDS = 0.4
"""Longest pause between attempts, before up to half as much again by chance."""

PUBLISH = Script("publish")

T = TypeVar("T")

log = get_logger(__name__)


def frame_keys(keys: Keys, namespace: str, frame: Frame) -> tuple[str, str, str, str]:
    """The four keys that the publish and commit scripts take for one copy."""
    home = frame.namespace or namespace
    return (*keys.topic_keys(home, frame.topic), keys.message_key(home, frame.message_id))


def frame_args(frame: Frame) -> tuple[int, bytes, bytes, str]:
    """The four arguments that go with :func:`frame_keys`."""
    large = len(frame.body) > LARGE_MESSAGE_BYTES
    return frame.timestamp, frame.digest, frame.body, counts.published(frame.topic, large)


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
        deadline: seconds a publish may take before it fails.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: RedisBackendConfig,
        name: str,
        *,
        deadline: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        patience = min(config.socket_timeout, deadline)
        self.keys = config.keys
        self._link = Link(config.model_copy(update={"socket_timeout": patience}), name)
        self._ttl = config.message_ttl
        self._deadline = deadline
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._recent: deque[tuple[float, str, Frame]] = deque()
        self._recent_bytes = 0
        self._connected_once = False
        self._sent = False

    def publish(self, namespace: str, frames: Sequence[Frame]) -> None:
        """Store all copies; those of one message are stored together or not at all.

        Raises:
            PublishUnavailableError: the server did not answer in time; it says what is stored, what is not, and of
                which nobody knows. Publishing the same frames again is safe.
            PublishRefusedError: the server refused; nothing of the refused call is stored.
        """
        with self._lock:
            give_up = self._clock() + self._deadline
            done = 0
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

    def call(self, *command: Argument) -> object:
        """One command outside publishing, under the same deadline; it must be harmless to repeat."""
        with self._lock:
            return self._retried(lambda: self._link.call(*command), self._clock() + self._deadline)

    def run(self, script: Script, script_keys: Sequence[Argument], args: Sequence[Argument]) -> object:
        """Run a script that is harmless to repeat, under the same deadline."""
        with self._lock:
            return self._retried(lambda: self._link.run(script, script_keys, args), self._clock() + self._deadline)

    def close(self) -> None:
        """End the connection; a publish that is being retried gives up."""
        self._closed.set()
        with self._lock:
            self._link.close()

    def _retried(self, action: Callable[[], T], give_up: float) -> T:
        delay = 0.01
        while True:
            try:
                if not self._link.connected:
                    self._reconnect()
                return action()
            except BackendUnavailableError:
                left = give_up - self._clock()
                if left <= 0 or self._closed.wait(min(left, delay * random.uniform(0.5, 1.5))):
                    raise
                delay = min(delay * 2, RETRY_MAX_SECONDS)

    def _reconnect(self) -> None:
        self._link.connect()
        if self._connected_once:
            self._resend()
        self._connected_once = True

    def _resend(self) -> None:
        self._forget(confirmed_before=self._clock() - RESEND_MAX_AGE_SECONDS)
        for namespace, run in _by_namespace(self._recent):
            try:
                self._store(namespace, run)
            except BackendRefusedError as error:  # of no concern to whoever publishes now
                log.warning("not_stored_again", namespace=namespace, messages=len(run), error=str(error))

    def _store(self, namespace: str, frames: Sequence[Frame]) -> None:
        self._sent = True
        script_keys: list[Argument] = [self.keys.counts_key(namespace)]
        args: list[Argument] = [self._ttl]
        for frame in frames:
            script_keys += frame_keys(self.keys, namespace, frame)
            args += frame_args(frame)
        done, *detail = self._link.run(PUBLISH, script_keys, args)
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
