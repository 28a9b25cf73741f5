"""Message ids: unsigned 64-bit numbers that carry priority, time and origin, and the generator that makes them.

Bits, from the top: 3 priority, 39 milliseconds since :data:`EPOCH_MS`, 10 machine, 12 sequence. Rustic AI writes only
the lower 8 machine bits and leaves the other two 0; ids that have them set are read here (any unsigned 64-bit number is
an id), but the generator never makes one.
"""

import threading
import time
from collections.abc import Callable
from functools import total_ordering
from itertools import count
from typing import Final, NamedTuple

from rustic_host.errors import MessageError, MessageTypeError
from rustic_host.messaging.priority import Priority

EPOCH_MS: Final = 1_672_531_200_000
"""Start of the time field, 2023-01-01T00:00:00Z, in Unix milliseconds (given by Rustic AI's ids)."""

LAST_MS: Final = EPOCH_MS + (1 << 39) - 1
"""The last Unix millisecond that fits into an id: 2040-06-02T21:56:53.887Z."""

MAX_ID: Final = (1 << 64) - 1
"""The largest id."""

MACHINE_IDS: Final = 256
"""How many machine ids a generator may use: all that Rustic AI reads."""

SEQUENCES: Final = 4096
"""How many ids of one machine fit into a millisecond."""

PRIORITIES: Final = tuple(Priority)
"""The priorities by number."""

TIME_MASK: Final = (1 << 39) - 1
"""The time field's bits, once shifted down by 22."""

# A clock that claims the field's last 12 days is wrong, or the format is at its end; staying away from the end leaves
# room to count on from there.
_LAST_CREDIBLE_MS: Final = LAST_MS - (1 << 30)


def _require(name: str, value: int, first: int, last: int) -> None:
    if not first <= value <= last:
        raise MessageError(f"{name} must be {first} to {last}, not {value}")


@total_ordering
class GemstoneID:
    """One message id, immutable, hashable, ordered as its number.

    Args:
        priority: a :class:`Priority` or its number.
        timestamp: Unix milliseconds, :data:`EPOCH_MS` to :data:`LAST_MS`.
        machine_id: 0 to 1023 (our generators: 0 to 255).
        sequence_number: 0 to 4095.

    Raises:
        MessageError: a part does not fit its bits.
    """

    __slots__ = ("_number",)

    def __init__(self, priority: Priority | int, timestamp: int, machine_id: int, sequence_number: int) -> None:
        _require("priority", priority, 0, 7)
        _require("timestamp", timestamp, EPOCH_MS, LAST_MS)
        _require("machine_id", machine_id, 0, 1023)
        _require("sequence_number", sequence_number, 0, SEQUENCES - 1)
        self._number = int(priority) << 61 | (timestamp - EPOCH_MS) << 22 | machine_id << 12 | sequence_number

    @classmethod
    def _of(cls, number: int) -> "GemstoneID":
        made = cls.__new__(cls)
        made._number = number
        return made

    @classmethod
    def from_int(cls, number: int) -> "GemstoneID":
        """Read an id from its number.

        Raises:
            MessageTypeError: not an integer.
            MessageError: outside of 0 to :data:`MAX_ID`.
        """
        if not isinstance(number, int) or isinstance(number, bool):
            raise MessageTypeError(f"an id must be an integer, not {type(number).__name__}")
        _require("id", number, 0, MAX_ID)
        return cls._of(number)

    @classmethod
    def from_string(cls, text: str) -> "GemstoneID":
        """Read an id from its decimal digits.

        Raises:
            MessageError: not only digits, or beyond :data:`MAX_ID`.
        """
        if not (text.isascii() and text.isdecimal()):
            raise MessageError(f"an id must be decimal digits, not {text[:32]!r}")
        # Longer than MAX_ID is out of range, and int() of a very long text would refuse it with an error of its own.
        return cls.from_int(int(text.lstrip("0")[:21] or "0"))

    def to_int(self) -> int:
        """Return the id as an unsigned 64-bit number."""
        return self._number

    @property
    def priority(self) -> Priority:
        """The message's priority."""
        return PRIORITIES[self._number >> 61]

    @property
    def timestamp(self) -> int:
        """When the id was made, in Unix milliseconds."""
        return (self._number >> 22 & TIME_MASK) + EPOCH_MS

    @property
    def machine_id(self) -> int:
        """Number of the generator's machine, 0 to 1023."""
        return self._number >> 12 & 0x3FF

    @property
    def sequence_number(self) -> int:
        """Number within the millisecond, 0 to 4095."""
        return self._number & 0xFFF

    def __eq__(self, other: object) -> bool:
        return self._number == other._number if isinstance(other, GemstoneID) else NotImplemented

    def __lt__(self, other: "GemstoneID") -> bool:
        return self._number < other._number if isinstance(other, GemstoneID) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._number)

    def __str__(self) -> str:
        return str(self._number)

    def __repr__(self) -> str:
        return (
            f"GemstoneID(priority={self.priority.name}, timestamp={self.timestamp}, machine_id={self.machine_id}, "
            f"sequence_number={self.sequence_number})"
        )


_new_id: Final[Callable[[type[GemstoneID]], GemstoneID]] = object.__new__


def wall_clock_ms() -> int:
    """Return the time of day in Unix milliseconds."""
    return time.time_ns() // 1_000_000


class _Millisecond(NamedTuple):
    ms: int
    count_on: Callable[[], int]
    """Returns the next id but for its priority; one call at a time, as all of C is."""
    end: int
    """The first one beyond the generator's block."""


class GemstoneGenerator:
    """Makes ids that no other generator with another machine id or sequence block makes; may be shared by threads.

    It never waits. Its time only moves forward: when the clock steps back it goes on from the last time it used, and
    when the block of a millisecond is used up it takes the next millisecond. Readings that no id can hold are ignored.

    Args:
        machine_id: 0 to 255.
        sequence_block: first sequence number and how many. 16 blocks of 256 times 256 machine ids make 4096
            generators that never collide.
        not_before_ms: Unix milliseconds that the first id may not lie before: one past the last time used, when
            someone else had this machine id and block before.
        clock: returns Unix milliseconds.

    Raises:
        MessageError: a setting is out of its range.
    """

    def __init__(
        self,
        machine_id: int,
        *,
        sequence_block: tuple[int, int] = (0, SEQUENCES),
        not_before_ms: int = 0,
        clock: Callable[[], int] = wall_clock_ms,
    ) -> None:
        first, size = sequence_block
        _require("machine_id", machine_id, 0, MACHINE_IDS - 1)
        _require("first of sequence_block", first, 0, SEQUENCES - 1)
        _require("size of sequence_block", size, 1, SEQUENCES - first)
        _require("not_before_ms", not_before_ms, 0, _LAST_CREDIBLE_MS)
        self._machine_id = machine_id
        self._first, self._size = first, size
        self._clock = clock
        self._lock = threading.Lock()
        self._begin(max(EPOCH_MS, not_before_ms))

    def become(self, other: "GemstoneGenerator") -> None:
        """Go on with the machine id and block of a generator that nobody uses; times still move forward only."""
        with self._lock:
            self._machine_id, self._first, self._size = other._machine_id, other._first, other._size
            self._begin(max(self._now.ms, other._now.ms) + 1)

    def get_id(self, priority: Priority = Priority.NORMAL) -> GemstoneID:
        """Return a new id, larger than all before it of the same priority."""
        made = _new_id(GemstoneID)
        # Without the lock, which would be a third of the time: whoever counts on in a millisecond that is over by then
        # began before that, so no id was returned that this one would have to be larger than.
        ms, count_on, end = self._now
        if (now := self._clock()) != ms or (number := count_on()) >= end:
            number = self._later(now)
        made._number = priority << 61 | number
        return made

    def _later(self, now: int) -> int:
        with self._lock:
            if self._now.ms < now <= _LAST_CREDIBLE_MS:
                self._begin(now)
            if (number := self._now.count_on()) >= self._now.end:
                self._begin(self._now.ms + 1)
                number = self._now.count_on()
            return number

    def _begin(self, ms: int) -> None:
        start = (ms - EPOCH_MS) << 22 | self._machine_id << 12 | self._first
        self._now = _Millisecond(ms, count(start).__next__, start + self._size)
