"""Publishes the jobs: a publisher of ours, which retries."""

import threading
import time
from typing import Self

from rustic_host.errors import BackendUnavailableError
from rustic_host.messaging import AgentTag, Message, RedisBackendConfig
from rustic_host.messaging.delivery import Frame, frames_of
from rustic_host.messaging.redis.publisher import Publisher
from rustic_host.messaging.redis.slots import lease
from tests.chaos.chaos_agents import GROUP_SIZE

NAME = "rustic-host:feeder"
PULSE_SECONDS = 0.02
CATCH_UP_SECONDS = 2.0
"""What could not be published in time is made up for, but not more than this much of it."""
SENDER = AgentTag(id="feeder", name="Feeder")


class Feeder:
    """Publishes ``rate`` numbers a second on ``jobs`` from 0 on, in a thread, while its ``with`` lasts.

    A publish that fails at its deadline is tried again with the same frames, as anybody would: it may have been done.
    """

    def __init__(self, config: RedisBackendConfig, namespace: str, rate: float) -> None:
        self._namespace = namespace
        self._each = max(1, round(rate * PULSE_SECONDS))
        leasing = Publisher(config.at_key(config.keys.slots_key()), NAME)
        self._ids = lease(leasing).generator()
        leasing.close()
        self._publisher = Publisher(config.at(namespace), NAME)
        self._running, self._idle, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._idle.set()
        self.fed = 0
        """Numbers published: 0 to this, exclusive."""
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._running.set()
        self._publisher.close()
        self._thread.join(30)

    def resume(self) -> None:
        """Feed."""
        self._idle.clear()
        self._running.set()

    def pause(self, timeout: float = 60) -> None:
        """Feed no more; returns when a whole number of groups has been confirmed."""
        self._running.clear()
        assert self._idle.wait(timeout), "the feeder did not come to its end"
        assert self.failure is None, self.failure

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._running.wait()
                self._feed()
        except BaseException as error:
            if not self._stop.is_set():
                self.failure = error
                raise
        finally:
            self._idle.set()

    def _feed(self) -> None:
        due = time.monotonic()
        while self._running.is_set() and not self._stop.is_set():
            self._publish(self._each)
            due = max(due + PULSE_SECONDS, time.monotonic() - CATCH_UP_SECONDS)
            self._stop.wait(max(0.0, due - time.monotonic()))
        if not self._stop.is_set():
            self._publish(-self.fed % GROUP_SIZE)
            self._idle.set()

    def _publish(self, many: int) -> None:
        frames = [frame for n in range(self.fed, self.fed + many) for frame in self._frames(n)]
        while frames:
            try:
                self._publisher.publish(self._namespace, frames)
                break
            except BackendUnavailableError:
                if self._stop.is_set():
                    return
        self.fed += many

    def _frames(self, n: int) -> list[Frame]:
        message = Message(self._ids.get_id(), sender=SENDER, topics="jobs", payload={"n": n}, format="chaos_agents.Job")
        return frames_of(message)
