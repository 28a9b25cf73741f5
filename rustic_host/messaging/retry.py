"""When a message that could not be handled is tried again, and when it is given up."""

from collections.abc import Callable
from dataclasses import dataclass
from random import random

from rustic_host.messaging.delivery import Later

DEFAULT_RETRIES = 3
"""Of an agent whose spec does not say (issue D; Rustic AI has none)."""

BASE_SECONDS, FACTOR, CAP_SECONDS = 0.1, 2.0, 30.0
"""The pause before the second attempt, by how much each is longer, and the longest."""

HOLD_SECONDS = 5.0
"""How long a topic waits for one message, in pauses all together; then those behind it go first (attacks, C6)."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and how long after, a message is handled again.

    Args:
        retries: attempts after the first.
        hold_seconds: how long, in pauses together, its topic waits for it.
        chance: uniform over [0, 1).
    """

    retries: int = 0
    hold_seconds: float = HOLD_SECONDS
    chance: Callable[[], float] = random

    def after(self, attempt: int) -> Later | None:
        """What happens after attempt number ``attempt`` (from 1) has failed; None when the message is given up."""
        if not self.allows(attempt + 1):
            return None
        holds = sum(map(_pause, range(1, min(attempt, 64) + 1))) <= self.hold_seconds
        return Later(_pause(attempt) * (0.5 + self.chance() / 2), failed=True, holds=holds)

    def allows(self, attempt: int) -> bool:
        """Whether there may be an attempt of this number (from 1)."""
        return attempt <= self.retries + 1


NEVER = RetryPolicy()
"""Of clients that are no agents: what they raise is final."""


def _pause(attempt: int) -> float:
    """Seconds after a failed attempt, before jitter, which makes it shorter by up to a half."""
    return float(min(BASE_SECONDS * FACTOR ** min(attempt - 1, 64), CAP_SECONDS))
