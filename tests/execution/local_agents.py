"""Agents for the engines that run in the tests' process, and for the guild of the messaging document."""

import asyncio
import os
import threading
from typing import Any

from rustic_host.guild import Agent, ProcessContext, processor
from rustic_host.guild.messages import SelfReadyNotification
from rustic_host.messaging import Priority

JsonDict = dict[str, Any]


class Listener(Agent):
    """Keeps what it heard, and in which thread; ``heard`` can be waited for."""

    def __init__(self) -> None:
        self.heard: list[JsonDict] = []
        self.threads: list[str] = []
        self._changed = threading.Condition()

    @processor(JsonDict)
    def hear(self, ctx: ProcessContext[JsonDict]) -> None:
        with self._changed:
            self.heard.append(ctx.payload)
            self.threads.append(threading.current_thread().name)
            self._changed.notify_all()

    def wait_for(self, count: int) -> list[JsonDict]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.heard) >= count, 20), self.heard
            return list(self.heard)


class Ready(Agent):
    """Answers its own notice that it is ready."""

    def __init__(self) -> None:
        self.told = threading.Event()

    @processor(SelfReadyNotification, handle_essential=True)
    def ready(self, ctx: ProcessContext[SelfReadyNotification]) -> None:
        self.told.set()


class Early(Agent):
    """Sends as soon as it is ready."""

    @processor(SelfReadyNotification, handle_essential=True)
    def ready(self, ctx: ProcessContext[SelfReadyNotification]) -> None:
        ctx._direct_send(Priority.NORMAL, "early", {"n": 3})


class Holding(Agent):
    """Waits in its handler until it may go on; counts how many of its handlers run at once."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.running = self.most = 0
        self.done: list[Any] = []

    @processor(JsonDict)
    def hold(self, ctx: ProcessContext[JsonDict]) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.release()
        assert self.go_on.acquire(timeout=20)
        self.done.append(ctx.payload["n"])
        self.running -= 1
        ctx.send_dict({"done": ctx.payload["n"]})


class Counter(Agent):
    """Counts in its state, and tells."""

    @processor(JsonDict)
    async def count(self, ctx: ProcessContext[JsonDict]) -> None:
        await asyncio.sleep(0)
        total = self.get_agent_state().get("total", 0) + ctx.payload["n"]
        self.update_state(ctx, "json-merge-patch", {"total": total})
        ctx.send_dict({"total": total, "pid": os.getpid(), "worker": self.name})


class Quitter(Agent):
    """Stops itself by what the test gives it."""

    stop: Any = None

    @processor(JsonDict)
    def quit(self, ctx: ProcessContext[JsonDict]) -> None:
        self.stop()
        ctx.send_dict({"left": True})


class Broken(Agent):
    def __init__(self) -> None:
        raise OSError("no disk")
