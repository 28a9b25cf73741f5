"""Calls that wait for the one that runs in the same thread, so that messages caused by messages need no deep stack."""

import threading
from collections import deque
from collections.abc import Callable

from rustic_host.messaging.message import Message

Handler = Callable[[Message], None]


class _Turn(threading.local):
    """What this thread has still to call; None when it calls nothing."""

    waiting: deque[tuple[Handler, Message]] | None = None


_turn = _Turn()


def in_turn(handler: Handler) -> Handler:
    """``handler``, but inside another such handler of this thread it is called when that one has returned."""

    def call(message: Message) -> None:
        if _turn.waiting is not None:
            _turn.waiting.append((handler, message))
            return
        waiting = _turn.waiting = deque([(handler, message)])
        try:
            while waiting:
                called, taken = waiting.popleft()
                called(taken)
        finally:
            _turn.waiting = None

    return call
