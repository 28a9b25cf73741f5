"""Agents that send early and ask each other; they run in workers and in the tests' process."""

import asyncio
import os
import signal
from typing import Any

from rustic_host.errors import MessagingError, RequestTimeoutError
from rustic_host.guild import Agent, ProcessContext, processor
from rustic_host.guild.messages import ErrorMessage

JsonDict = dict[str, Any]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Flushing(Agent):
    """Two handlers that send early; in their first run of a message that says so the process is killed after it."""

    @processor(JsonDict)
    def first(self, ctx: ProcessContext[JsonDict]) -> None:
        self._work(ctx)

    @processor(JsonDict)
    def second(self, ctx: ProcessContext[JsonDict]) -> None:
        self._work(ctx)

    def _work(self, ctx: ProcessContext[JsonDict]) -> None:
        if "do" not in ctx.payload:
            return
        before = [message.payload for message in ctx.flushed]
        sent = ctx.send_dict({"told": {"early": ctx.method_name}})
        sent += ctx.flush()
        sent += ctx.send_dict({"told": {"now": ctx.method_name}}, now=True)
        if ctx.payload["do"] == "die" and ctx.method_name == "second" and not before:
            die()
        if ctx.payload["do"] == "fail" and ctx.method_name == "second" and len(before) < 2:
            raise ValueError("once")
        ids = [str(each) for each in sent]
        ctx.send_dict({"told": {"late": ctx.method_name, "ids": ids, "before": len(before)}})


class Answering(Agent):
    """Counts what it is asked, in its state; it cannot divide by zero."""

    @processor(JsonDict)
    def answer(self, ctx: ProcessContext[JsonDict]) -> None:
        if "divide" not in ctx.payload:
            return
        asked = self.get_agent_state().get("asked", 0) + 1
        self.update_state(ctx, "json-merge-patch", {"asked": asked})
        if ctx.payload["divide"] == 0:
            ctx.send_error(ErrorMessage(agent_type="x", error_type="Zero", error_message="by zero"))
        else:
            ctx.send_dict({"result": 12 / ctx.payload["divide"], "asked": asked})


class Asking(Agent):
    @processor(JsonDict)
    async def ask(self, ctx: ProcessContext[JsonDict]) -> None:
        if "ask" not in ctx.payload:
            return
        first_run = not ctx.flushed
        numbers = ctx.payload["ask"]
        replies = await asyncio.gather(*(ctx.request("questions", {"divide": n}) for n in numbers))
        if ctx.payload.get("die") and first_run:
            die()
        told = [
            None if reply.is_error_message else [reply.payload[k] for k in ("result", "asked")] for reply in replies
        ]
        ctx.send_dict({"told": {"replies": told, "first": first_run}})

    @processor(JsonDict)
    def ask_and_wait(self, ctx: ProcessContext[JsonDict]) -> None:
        if "wait" not in ctx.payload:
            return
        try:
            on, patience = ctx.payload.get("on", "questions"), ctx.payload.get("patience", 20)
            reply = ctx.request_and_wait(on, ctx.payload["wait"], timeout=patience, **_to(ctx))
        except (RequestTimeoutError, MessagingError) as error:
            ctx.send_dict({"told": type(error).__name__})
        else:
            ctx.send_dict({"told": reply.payload["result"]})


def _to(ctx: ProcessContext[JsonDict]) -> JsonDict:
    return {"reply_on": ctx.payload["reply_on"]} if "reply_on" in ctx.payload else {}
