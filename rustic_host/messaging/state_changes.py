"""What happens to the connections of an interface and to the backlog of its clients, told to whoever asks."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rustic_host.telemetry.logs import get_logger

WAITING_CHANGES = 1024
"""Changes kept for callbacks that take their time; of more the oldest are dropped."""

SLOW_AT = 1000
"""Default number of entries behind from which a client counts as slow."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The server behind the bus does not answer."""

    client_id: str
    """Whose connection it is; empty for the one that publishes."""
    reason: str


@dataclass(frozen=True, slots=True)
class Reconnected:
    """It answers again; what came meanwhile is read now."""

    client_id: str
    seconds: float
    """For how long it was away."""


@dataclass(frozen=True, slots=True)
class SlowConsumer:
    """A client falls behind. Told again only after it has caught up by half."""

    client_id: str
    lag: int
    """Entries that it has not read yet."""
    pending: int
    """Entries that it has read and not committed."""
    threshold: int
    """From how many of both together it is told."""


StateChange = Disconnected | Reconnected | SlowConsumer


class StateChanges:
    """Calls callbacks in a thread of its own, which there is from the first change on: they hold nobody up."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._callbacks: list[Callable[[StateChange], object]] = []
        self._waiting: deque[StateChange] = deque(maxlen=WAITING_CHANGES)
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def wanted(self) -> bool:
        """Whether anybody asks."""
        return bool(self._callbacks)

    def add(self, callback: Callable[[StateChange], object]) -> Callable[[], None]:
        """Call ``callback`` with each change from now on; returns what ends that."""
        with self._changed:
            self._callbacks.append(callback)
        return lambda: self._remove(callback)

    def tell(self, change: StateChange) -> None:
        """Have the callbacks called; returns at once."""
        with self._changed:
            if not self._callbacks or self._closed:
                return
            if len(self._waiting) == WAITING_CHANGES:
                log.warning("state_change_dropped", change=repr(self._waiting[0]))
            self._waiting.append(change)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="state-changes", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread after the callbacks were told all."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _remove(self, callback: Callable[[StateChange], object]) -> None:
        with self._changed:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def _run(self) -> None:
        while (change := self._next()) is not None:
            for callback in list(self._callbacks):
                try:
                    callback(change)
                except Exception:
                    log.exception("state_change_callback_failed", change=repr(change))

    def _next(self) -> StateChange | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return self._waiting.popleft() if self._waiting else None


@dataclass(frozen=True, slots=True)
class Away:
    """The server behind the bus does not do what it is asked."""

    since: float
    """Monotonic seconds."""
    reason: str
    """What it was last."""


class Watch:
    """Turns what one connection meets into changes, and into one line of the log for each.

    Args:
        client_id: whose connection it is.
        changes: told.
        slow_at: entries behind from which the client is slow.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client_id: str,
        changes: StateChanges,
        *,
        slow_at: int = SLOW_AT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client_id, self._changes, self._slow_at, self._clock = client_id, changes, slow_at, clock
        self._away: Away | None = None
        self._attempts = 0
        self._slow = False

    @property
    def wanted(self) -> bool:
        """Whether finding out how far behind the client is pays."""
        return self._changes.wanted

    @property
    def away(self) -> Away | None:
        """Since when and why there is no connection; None when there is one. Safe in any thread."""
        return self._away

    def lost(self, reason: str) -> None:
        """The connection broke, or could not be made (again)."""
        before, self._away = self._away, Away(self._away.since if self._away else self._clock(), reason)
        self._attempts += 1
        if before is None:
            log.warning("bus_lost", client=self._client_id, error=reason)
            self._changes.tell(Disconnected(self._client_id, reason))

    def regained(self) -> None:
        """The connection is there."""
        away, self._away = self._away, None
        attempts, self._attempts = self._attempts, 0
        if away is not None:
            seconds = self._clock() - away.since
            log.info("bus_regained", client=self._client_id, away_seconds=round(seconds, 3), attempts=attempts)
            self._changes.tell(Reconnected(self._client_id, seconds))

    def behind(self, lag: int, pending: int) -> None:
        """How many entries the client has still to read and to commit."""
        behind = lag + pending
        if behind >= self._slow_at and not self._slow:
            self._changes.tell(SlowConsumer(self._client_id, lag, pending, self._slow_at))
        self._slow = behind >= self._slow_at if not self._slow else behind > self._slow_at // 2
