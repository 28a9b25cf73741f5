"""Ending asyncio tasks for certain."""

import asyncio
from typing import Any

#: A task that has not ended this long after it was cancelled is cancelled again.
CANCEL_AGAIN_SECONDS = 0.5


async def end_tasks(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks until they have ended; what they end with is not raised.

    Once is not enough: before Python 3.12 a cancellation can be lost in ``asyncio.wait_for``, with which the Redis
    client sends its commands; the task then goes on for ever.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)
