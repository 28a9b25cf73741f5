"""Agents for the workers of test_clients."""

from typing import Any

from rustic_host.guild import Agent, ProcessContext, processor
from rustic_host.guild.messages import SelfReadyNotification
from rustic_host.messaging import Message, Priority

JsonDict = dict[str, Any]


def is_question(message: Message) -> bool:
    return "ask" in message.payload


class Answering(Agent):
    """Says that it is ready, then the number that it is asked and the class of its client."""

    @processor(SelfReadyNotification, handle_essential=True)
    def ready(self, ctx: ProcessContext[SelfReadyNotification]) -> None:
        ctx._direct_send(Priority.NORMAL, "default_topic", {"told": "ready"})

    @processor(JsonDict)
    def handle(self, ctx: ProcessContext[JsonDict]) -> None:
        if "ask" in ctx.payload:
            ctx.send_dict({"told": [ctx.payload["ask"], type(self._client).__name__]})


class Unlucky(Agent):
    """One of its handlers changes the state; the other one fails at first, after it sent something."""

    def __init__(self) -> None:
        self.attempts = 0

    @processor(JsonDict)
    def count(self, ctx: ProcessContext[JsonDict]) -> None:
        if "ask" in ctx.payload:
            total = self.get_agent_state().get("total", 0) + ctx.payload["ask"]
            self.update_state(ctx, "json-merge-patch", {"total": total})

    @processor(JsonDict)
    def answer(self, ctx: ProcessContext[JsonDict]) -> None:
        if "ask" in ctx.payload:
            self.attempts += 1
            ctx.send_dict({"told": self.attempts})
            if self.attempts < ctx.payload["succeeds_at"]:
                raise ValueError("unlucky")
        elif "tell" in ctx.payload:
            ctx.send_dict({"told": self.get_agent_state()})
