"""The eight priorities of a message."""

from enum import IntEnum


class Priority(IntEnum):
    """How urgent a message is; it is the top three bits of the message's id, so a lower number sorts first."""

    URGENT = 0
    IMPORTANT = 1
    HIGH = 2
    ABOVE_NORMAL = 3
    NORMAL = 4
    LOW = 5
    VERY_LOW = 6
    LOWEST = 7
