"""The event loop of an agent's async handlers."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class HandlerLoop:
    """One loop for the agent's life, so that what one handler opened (a connection) still works in the next.

    It is made when it is first needed, and turns only while a handler runs.
    """

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run ``work`` to its end in the caller's context (so that the current span is current in it too)."""
        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        loop = self._runner.get_loop()
        _call(lambda: loop.run_until_complete(work))

    def close(self) -> None:
        """Cancel what handlers left running, and end the loop."""
        runner, self._runner = self._runner, None
        if runner is not None:
            _call(runner.close)


def _call(turn: Callable[[], object]) -> None:
    """Call what turns a loop; in a notebook this thread has a running loop, and a thread can run only one."""
    if not _loop_is_running():
        turn()
        return
    with ThreadPoolExecutor(max_workers=1) as executor:
        executor.submit(contextvars.copy_context().run, turn).result()


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
