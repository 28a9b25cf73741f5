"""Agents for the workers of test_keeping: with timers, a state that others change, and the guild's state."""

import os
from datetime import datetime
from typing import Any

from rustic_host.guild import Agent, ProcessContext, processor
from rustic_host.guild.health import Heartbeat, HeartbeatStatus

JsonDict = dict[str, Any]


class Keeping(Agent):
    @processor(JsonDict)
    def handle(self, ctx: ProcessContext[JsonDict]) -> None:
        if what := ctx.payload.get("do"):
            getattr(self, f"_{what}")(ctx)

    def _tell_guild(self, ctx: ProcessContext[JsonDict]) -> None:
        guild = {"description": self.guild_spec.description, "state": self.get_guild_state()}
        ctx.send_dict({"told": guild})

    def _tell_own(self, ctx: ProcessContext[JsonDict]) -> None:
        ctx.send_dict({"told": {"state": self.get_agent_state(), "timers": sorted(self._timer_records)}})


class Timed(Keeping):
    """Its own class: a raw handler that asks for essential messages makes an agent read all essential topics."""

    @processor(JsonDict, handle_essential=True)
    def tick(self, ctx: ProcessContext[JsonDict]) -> None:
        if "tick" in ctx.payload:
            count = self.get_agent_state().get("ticks", 0) + 1
            self.update_state(ctx, "json-merge-patch", {"ticks": count})
            payload: JsonDict = {"told": {"tick": ctx.payload["tick"], "count": count, "pid": os.getpid()}}
            ctx._direct_send(ctx.message.priority, "default_topic", payload)

    def _once(self, ctx: ProcessContext[JsonDict]) -> None:
        self.schedule_once("once", ctx.payload["after"], {"tick": "once"})
        ctx.send_dict({"told": "set"})

    def _rate(self, ctx: ProcessContext[JsonDict]) -> None:
        self.schedule_fixed_rate("rate", ctx.payload["every"], {"tick": "rate"})

    def _cancel(self, ctx: ProcessContext[JsonDict]) -> None:
        self.cancel_all_timers()
        ctx.send_dict({"told": "cancelled"})


class SaysHow(Keeping):
    def healthcheck(self, checktime: datetime) -> Heartbeat:
        return Heartbeat(checktime=checktime, checkstatus=HeartbeatStatus.OK)
