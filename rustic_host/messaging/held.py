"""Messages that a client put off: by topic, each topic in its order; or aside, where their topic goes on."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

MIN_SECONDS = 0.001
"""Shortest time that something is put off: a client that answers "later" again and again must not spin the loop."""


class Held(Generic[T]):
    """What is to be presented again when its time has come, and what stands behind it on the same topic.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.due: dict[str, float] = {}
        """When the topics that are held up are due; to look at."""
        self._items: dict[str, list[T]] = {}
        self._aside: list[tuple[float, T]] = []

    def __contains__(self, topic: str) -> bool:
        return topic in self.due

    def __bool__(self) -> bool:
        return bool(self.due or self._aside)

    @property
    def topics(self) -> list[str]:
        """Topics that are held up."""
        return list(self.due)

    def hold(self, topic: str, item: T, seconds: float) -> None:
        """Hold up a topic for so long; ``item`` is its first."""
        self.due[topic] = self._clock() + max(seconds, MIN_SECONDS)
        self._items[topic] = [item]

    def follow(self, topic: str, item: T) -> None:
        """Put ``item`` behind those of a topic that is held up."""
        self._items[topic].append(item)

    def set_aside(self, item: T, seconds: float) -> None:
        """Keep one item for so long; its topic goes on."""
        self._aside.append((self._clock() + max(seconds, MIN_SECONDS), item))

    @property
    def aside(self) -> list[T]:
        """What is kept so, in the order in which it came."""
        return [item for _, item in self._aside]

    def seconds_left(self) -> float | None:
        """Until the first is due: 0 or less when one is, None when nothing is held."""
        times = [*self.due.values(), *(time for time, _ in self._aside)]
        return min(times) - self._clock() if times else None

    def take_due(self) -> list[T]:
        """Take out what was set aside and all of the topics whose time has come, the longest due first in each."""
        now = self._clock()
        aside = sorted((pair for pair in self._aside if pair[0] <= now), key=lambda pair: pair[0])
        self._aside = [pair for pair in self._aside if pair[0] > now]
        due = sorted((time, topic) for topic, time in self.due.items() if time <= now)
        return [item for _, item in aside] + [item for _, topic in due for item in self._take(topic)]

    def forget(self, topics: Iterable[str]) -> None:
        """Drop what is held of these topics."""
        for topic in topics:
            if topic in self.due:
                self._take(topic)

    def drop_aside(self, unwanted: Callable[[T], bool]) -> None:
        """Drop what is kept aside and is not wanted any more."""
        self._aside = [pair for pair in self._aside if not unwanted(pair[1])]

    def clear(self) -> None:
        """Drop everything."""
        self.forget(self.topics)
        self._aside.clear()

    def _take(self, topic: str) -> list[T]:
        del self.due[topic]
        return self._items.pop(topic)
