"""The timers of agents whose backend has no loop that could wait for them."""

import threading

from rustic_host.messaging.pump import TimeKeeper
from rustic_host.telemetry.logs import get_logger

MAX_SECONDS = 3600.0
"""A longer wait is cut into pieces of this: threads cannot wait for years."""

log = get_logger(__name__)


class Alarm:
    """Fires the ticks of one agent at their time, from a thread that waits only for the next one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: threading.Timer | None = None
        self._closed = False

    def set(self, keeper: TimeKeeper) -> None:
        """Wait for what ``keeper`` has next, and for nothing else."""
        with self._lock:
            self._cancel()
            seconds = keeper.seconds_to_tick()  # in here: who asked before a change must not set the time after it
            if seconds is None or self._closed:
                return
            self._waiting = threading.Timer(min(max(seconds, 0.0), MAX_SECONDS), self._fire, [keeper])
            self._waiting.daemon = True
            self._waiting.start()

    def close(self) -> None:
        """Fire nothing any more."""
        with self._lock:
            self._closed = True
            self._cancel()

    def _fire(self, keeper: TimeKeeper) -> None:
        try:
            keeper.fire_ticks()
        except Exception:
            log.exception("ticks_not_published")
        self.set(keeper)

    def _cancel(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
