import asyncio

from rustic_host.web.tasks import end_tasks


async def _stubborn(cancellations: int) -> str:
    """Loses so many cancellations, as ``wait_for`` may."""
    for _ in range(cancellations):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue
    await asyncio.Event().wait()
    return "never"


async def _failing() -> None:
    raise OSError("no matter")


def test_tasks_end_though_a_cancellation_was_lost() -> None:
    async def run() -> list[bool]:
        tasks = [asyncio.ensure_future(_stubborn(lost)) for lost in (0, 1)]
        done = asyncio.ensure_future(_failing())
        await asyncio.sleep(0)
        await end_tasks(*tasks, done)
        return [task.cancelled() for task in tasks]

    assert asyncio.run(run()) == [True, True]
