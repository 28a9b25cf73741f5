"""A client that takes so many messages in a second."""

import time
from collections.abc import Callable

from rustic_host.messaging.client import MessageHandler
from rustic_host.messaging.clients.stage import Stage
from rustic_host.messaging.delivery import Later
from rustic_host.messaging.message import Message

_ROUNDING = 1e-9
"""A token that is missing by no more than this is there: sums of floating point numbers are not exact."""


class ThrottlingClient(Stage):
    """Lets messages through at a rate, by a token bucket that is full at first; the others wait, in their order.

    A message that is presented again, to be retried for instance, takes a token each time; what an agent sends itself
    (its notice that it is ready, its timers) takes tokens too.

    Args:
        per_second: the rate.
        burst: how many may come at once after a quiet time.
        clock: monotonic seconds.

    Raises:
        ValueError: the rate is not positive, or the burst less than 1.
    """

    def __init__(
        self,
        per_second: float,
        burst: int = 1,
        *,
        clock: Callable[[], float] = time.monotonic,
        id: str = "",
        name: str = "",
        message_handler: MessageHandler | None = None,
    ) -> None:
        if not per_second > 0 or not burst >= 1:
            raise ValueError(f"per_second {per_second} must be more than 0, and burst {burst} at least 1")
        super().__init__(id=id, name=name, message_handler=message_handler)
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._tokens, self._filled_at = float(burst), clock()

    def process(self, message: Message, then: MessageHandler) -> object:
        """Take a token, or put the message off until there is one."""
        self._fill()
        if self._tokens < 1 - _ROUNDING:
            return Later((1 - self._tokens) / self._per_second)
        self._tokens -= 1
        return then(message)

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
