"""Waiting for what offers no event: ask again until it holds, never longer than a bound."""

import time
from collections.abc import Callable
from typing import TypeVar

PAUSE_SECONDS = 0.01

T = TypeVar("T")


def until(ask: Callable[[], T], holds: Callable[[T], bool], timeout: float = 30) -> T:
    """Ask until ``holds`` is true of the answer, and return it. Raises TimeoutError with the last answer."""
    deadline = time.monotonic() + timeout
    while not holds(answer := ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout} s the answer is still {answer}")
        time.sleep(PAUSE_SECONDS)
    return answer
