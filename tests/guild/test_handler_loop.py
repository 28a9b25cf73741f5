import asyncio

from rustic_host.guild.handler_loop import HandlerLoop


def test_a_loop_that_a_handler_left_work_in_is_closed_in_a_notebook_too() -> None:
    left: list[asyncio.Task[bool]] = []

    async def leave_work() -> None:
        left.append(asyncio.create_task(asyncio.Event().wait()))

    async def notebook() -> None:
        loop = HandlerLoop()
        loop.run(leave_work())
        loop.close()

    asyncio.run(notebook())
    assert left[0].cancelled()
