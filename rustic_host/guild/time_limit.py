"""How long a handler may take: ``qos.timeout``.

A plain handler is ended by an alarm signal, which only a process' main thread gets: a worker's handlers run there. An
``async`` one is cancelled, in any thread. Code that hears neither (C that holds on, a loop that catches everything)
leaves the agent overdue; its process is then ended from outside.
"""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from rustic_host.errors import HandlerTimeoutError

RING_AGAIN_SECONDS = 1.0
"""A handler that catches the first alarm hears another; a cancelled one has this long to end."""

OVERDUE_SECONDS = 5.0
"""How long after its time is up a handler may go on before its process is ended."""

T = TypeVar("T")


class TimeLimit:
    """The time that each call of a handler of one agent has.

    Args:
        seconds: for one call; None or 0 is without end.
        clock: monotonic seconds.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds if seconds is not None and seconds > 0 else None
        self._clock = clock
        self._due: float | None = None

    @property
    def overdue(self) -> bool:
        """Whether the handler that runs now goes on long after its time is up; any thread may ask."""
        due = self._due
        return due is not None and self._clock() > due + OVERDUE_SECONDS

    def call(self, handler: str, work: Callable[[], T], *, is_async: bool = False) -> T:
        """Call ``work``, a handler. Raises HandlerTimeoutError in it when its time is up.

        An ``async`` one has a little longer: it is cancelled first, see :meth:`limited`.
        """
        if self.seconds is None:
            return work()
        try:
            self._due = self._clock() + self.seconds
            return _with_alarm(self.seconds + RING_AGAIN_SECONDS * is_async, self._error(handler), work)
        finally:
            self._due = None

    async def limited(self, handler: str, work: Coroutine[Any, Any, Any]) -> None:
        """Await ``work``, an async handler. Raises HandlerTimeoutError when its time is up and it was cancelled."""
        if self.seconds is None:
            await work
            return
        try:
            async with asyncio.timeout(self.seconds) as limit:
                await work
        except TimeoutError as error:
            if not limit.expired():  # the handler's own
                raise
            raise self._error(handler) from error

    def _error(self, handler: str) -> HandlerTimeoutError:
        return HandlerTimeoutError(f"handler {handler!r} took longer than {self.seconds} s (qos.timeout)")


def _with_alarm(seconds: float, error: HandlerTimeoutError, work: Callable[[], T]) -> T:
    """Call ``work``; raises ``error`` in it when its time is up.

    No context manager: an alarm that rings while one is entered or left would leave it behind, armed.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    armed = True

    def ring(number: int, frame: object) -> None:
        if armed:
            raise error

    former = signal.getitimer(signal.ITIMER_REAL)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, RING_AGAIN_SECONDS)
            return work()
        finally:
            armed = False  # an alarm that comes from here on must not be raised anywhere else
    finally:
        signal.setitimer(signal.ITIMER_REAL, *former)
        signal.signal(signal.SIGALRM, before)
