"""How long to wait before a message is tried again."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from random import random


class Backoff(ABC):
    """One way to wait."""

    @abstractmethod
    def seconds(self, attempt: int) -> float:
        """Seconds to wait after the failure of an attempt; the first one is 0."""


class FixedBackoff(Backoff):
    """Always the same ``delay``, in seconds."""

    def __init__(self, delay: float = 1.0) -> None:
        self._delay = delay

    def seconds(self, attempt: int) -> float:
        """The delay."""
        return self._delay


class ExponentialBackoff(Backoff):
    """``initial`` seconds, then twice as long each time, at most ``longest``."""

    def __init__(self, initial: float = 1.0, longest: float = 300.0) -> None:
        self._initial, self._longest = initial, longest

    def seconds(self, attempt: int) -> float:
        """``initial`` times two to the power of ``attempt``."""
        return min(self._longest, self._initial * 2.0 ** min(attempt, 1000))


class RandomizedExponentialBackoff(ExponentialBackoff):
    """Between one and two times what :class:`ExponentialBackoff` says, so that many do not come back at once.

    Args:
        initial: as there.
        longest: as there.
        chance: uniform over [0, 1).
    """

    def __init__(self, initial: float = 1.0, longest: float = 300.0, *, chance: Callable[[], float] = random) -> None:
        super().__init__(initial, longest)
        self._chance = chance

    def seconds(self, attempt: int) -> float:
        """Evenly distributed."""
        return super().seconds(attempt) * (1 + self._chance())
