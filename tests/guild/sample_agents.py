"""Agents for the tests of the guild package; each shows one thing."""

import asyncio
import contextvars
import datetime
from typing import Any

from pydantic import BaseModel

from rustic_host.guild.agent import Agent
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.dsl import BaseAgentProps
from rustic_host.guild.messages import ErrorMessage, SelfReadyNotification
from rustic_host.guild.processor import processor
from rustic_host.messaging import JsonDict, Message

MARK: contextvars.ContextVar[str] = contextvars.ContextVar("MARK", default="unset")


class Ask(BaseModel):
    n: int
    when: datetime.datetime | None = None


class Answer(BaseModel):
    n: int


class Empty(BaseModel):
    pass


class Reply(Agent):
    """Answers Ask with Answer; raw handlers and others are not there."""

    @processor(Ask)
    def reply(self, ctx: ProcessContext[Ask]) -> None:
        ctx.send(Answer(n=ctx.payload.n), reason="asked")


class ReplyTwice(Agent):
    @processor(Ask)
    def reply(self, ctx: ProcessContext[Ask]) -> None:
        ctx.send(Answer(n=1))
        ctx.send(Answer(n=2))


class Limits(BaseAgentProps):
    limit: int
    names: list[str] = []


class WithProps(Agent[Limits]):
    def __init__(self) -> None:
        self.doubled = self.config.limit * 2


class WithPropsChild(WithProps):
    def __init__(self) -> None:
        super().__init__()
        self.tripled = self.config.limit * 3


class BrokenInit(Agent):
    def __init__(self) -> None:
        raise OSError("no disk")


class NotAnAgent:
    pass


class Several(Agent):
    """Two raw handlers and one of a model; ``seen`` is what each saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    @processor(JsonDict)
    def first(self, ctx: ProcessContext[JsonDict]) -> None:
        self.seen.append(("first", ctx.payload["n"]))
        ctx.payload["n"] = "changed"
        ctx.message.thread.append(1)
        ctx.message.recipient_list.clear()
        assert ctx.message.session_state is not None
        ctx.message.session_state["deep"] = "changed"
        if ctx.message.routing_slip is not None:
            ctx.message.routing_slip.steps.clear()

    @processor(Ask)
    def second(self, ctx: ProcessContext[Ask]) -> None:
        self.seen.append(("second", ctx.payload.n))
        ctx.payload.n = 99

    @processor(JsonDict)
    def third(self, ctx: ProcessContext[JsonDict]) -> None:
        self.seen.append(("third", ctx.payload["n"]))
        self.seen.append(("session", ctx.get_context()))
        self.seen.append(("steps", len(ctx.remaining_routing_steps)))


class Essential(Agent):
    def __init__(self) -> None:
        self.seen: list[str] = []

    @processor(JsonDict)
    def ordinary(self, ctx: ProcessContext[JsonDict]) -> None:
        self.seen.append("ordinary")

    @processor(SelfReadyNotification, handle_essential=True)
    def ready(self, ctx: ProcessContext[SelfReadyNotification]) -> None:
        self.seen.append(ctx.payload.message)


class ReadsAllEssential(Agent):
    @processor(JsonDict, handle_essential=True)
    def everything(self, ctx: ProcessContext[JsonDict]) -> None:
        raise AssertionError


class SwitchedOff(Several):
    """Takes Ask itself, and has no handler ``first``."""

    first = None  # type: ignore[assignment]

    @processor(Ask)
    def second(self, ctx: ProcessContext[Ask]) -> None:
        self.seen.append(("mine", ctx.payload.n))


class Choosy(Agent):
    def _is_even(self, message: Message) -> bool:
        n = message.payload["n"]
        assert isinstance(n, int)
        return n % 2 == 0

    @processor(Ask, predicate=_is_even)
    def reply(self, ctx: ProcessContext[Ask]) -> None:
        ctx.send(Answer(n=ctx.payload.n))


class Fails(Agent):
    """Sends, changes its state, then raises."""

    @processor(Ask)
    def reply(self, ctx: ProcessContext[Ask]) -> None:
        ctx.send(Answer(n=1))
        self._send_to_self(Answer(n=2))
        ctx.update_state("json-merge-patch", {"n": 1})
        raise ValueError("n is bad")

    @processor(JsonDict)
    def after(self, ctx: ProcessContext[JsonDict]) -> None:
        ctx.send_dict({"state": dict(self.get_agent_state())}, "after")


class Cancelled(Agent):
    @processor(Ask)
    async def reply(self, ctx: ProcessContext[Ask]) -> None:
        raise asyncio.CancelledError


class Counts(Agent):
    @processor(Ask)
    def count(self, ctx: ProcessContext[Ask]) -> None:
        total = self.get_agent_state().get("total", 0)
        self.update_state(ctx, "json-merge-patch", {"total": total + ctx.payload.n})
        ctx.send(Answer(n=self.get_agent_state()["total"]))

    @processor(Answer)
    def tell_guild(self, ctx: ProcessContext[Answer]) -> None:
        self.update_guild_state(ctx, "json-merge-patch", {"answers": ctx.payload.n}, "$.deep")


class Async(Agent):
    def __init__(self) -> None:
        self.loops: list[asyncio.AbstractEventLoop] = []
        self.mark = ""
        self.background: asyncio.Task[None] | None = None

    @processor(Ask)
    async def reply(self, ctx: ProcessContext[Ask]) -> None:
        self.loops.append(asyncio.get_running_loop())
        self.mark = MARK.get()
        if self.background is None:
            self.background = asyncio.create_task(asyncio.Event().wait(), name="never")  # type: ignore[arg-type]
        ready = asyncio.Event()
        asyncio.get_running_loop().call_soon(ready.set)
        await ready.wait()
        ctx.send(Answer(n=ctx.payload.n))


class Scripted(Agent):
    """Runs ``script(ctx)``, which the test sets."""

    def __init__(self) -> None:
        self.script: Any = None

    @processor(JsonDict)
    def run(self, ctx: ProcessContext[JsonDict]) -> None:
        self.script(ctx)


class SendsError(Agent):
    @processor(Ask)
    def reply(self, ctx: ProcessContext[Ask]) -> None:
        ctx.send_error(ErrorMessage(agent_type="t", error_type="e", error_message="m"))
