"""What to do about a worker that ended: a pure decision with an injected clock and chance.

Numbers follow Forge (base, doubling, cap, ±25 % jitter, 10 tries, 60 s of stability: facts 10.4), but for a shorter
base: the first restart after a crash is what an operator waits for.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rustic_host.execution.exit_codes import WorkerExit

BASE_SECONDS, FACTOR, CAP_SECONDS, JITTER = 0.1, 2.0, 30.0, 0.25
MAX_TRIES = 10
STABLE_SECONDS = 60.0

AWAY_CAP_SECONDS = 2.0
"""Longest pause, before jitter, between attempts to start an agent whose bus is away; there is no limit to those."""

_GIVE_UP = {
    WorkerExit.LOAD_FAILED: "load_failed",
    WorkerExit.GROUP_LOST: "group_lost",
}


@dataclass(frozen=True)
class Decision:
    """What happens next, and the reason code that logs and status repeat."""

    action: Literal["restart", "give_up"]
    reason: str
    delay_seconds: float = 0.0


class RestartPolicy:
    """The crash budget of one agent.

    Args:
        clock: monotonic seconds.
        chance: uniform over [0, 1).
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, chance: Callable[[], float] = random.random
    ) -> None:
        self._clock, self._chance = clock, chance
        self._tries = self._away = 0
        self._ready_at: float | None = None

    def ready(self) -> None:
        """The worker is ready."""
        self._away = 0
        self._ready_at = self._clock()

    def ended(self, code: int, *, announced: bool = True) -> Decision:
        """The worker ended unasked, with this exit code (negative: the signal).

        ``announced``: the worker said so before; else the code is the agent's own doing and none of ours.
        """
        reason = reason_of(code, announced=announced)
        if announced and code in _GIVE_UP:
            return Decision("give_up", reason)
        if self._ready_at is not None and self._clock() - self._ready_at >= STABLE_SECONDS:
            self._tries = 0
        self._ready_at = None
        if announced and code == WorkerExit.BUS_AWAY:  # no fault of the agent's, however long it takes
            self._away += 1
            return Decision("restart", reason, self._delay(self._away, AWAY_CAP_SECONDS))
        self._tries += 1
        if self._tries > MAX_TRIES:
            return Decision("give_up", f"{reason}: {MAX_TRIES} restarts did not help")
        return Decision("restart", reason, self._delay(self._tries, CAP_SECONDS))

    def _delay(self, tries: int, cap: float) -> float:
        delay = min(BASE_SECONDS * FACTOR ** min(tries - 1, 20), cap)
        return delay * (1 - JITTER + 2 * JITTER * self._chance())


def reason_of(code: int, *, announced: bool = True) -> str:
    """Reason code of a worker's exit; ``announced`` as for :meth:`RestartPolicy.ended`."""
    if code < 0:
        return f"killed_by_signal_{-code}"
    if code == WorkerExit.ORDERLY:
        return "exited_unasked"
    if not announced:
        return f"crashed_with_exit_code_{code}"
    if code in _GIVE_UP:
        return _GIVE_UP[WorkerExit(code)]
    if code == WorkerExit.BOOT_FAILED:
        return "boot_failed"
    if code == WorkerExit.OWNERSHIP_LOST:
        return "ownership_lost"
    if code == WorkerExit.BUS_REFUSED:
        return "bus_refused"
    if code == WorkerExit.BUS_AWAY:
        return "bus_away"
    if code == WorkerExit.HANDLER_TIMEOUT:
        return "handler_timeout"
    return f"crashed_with_exit_code_{code}"
