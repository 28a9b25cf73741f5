"""Timers that others set: :class:`SchedulerMixin` and its messages, as Rustic AI has them."""

import uuid
from typing import ClassVar

from pydantic import Field

from rustic_host.guild.context import ProcessContext
from rustic_host.guild.messages import SystemModel
from rustic_host.guild.processor import processor
from rustic_host.guild.scheduling import Scheduling
from rustic_host.messaging import JsonDict

_MIXIN = "rustic_ai.core.guild.agent_ext.mixins.scheduler"


def _some_key() -> str:
    return uuid.uuid4().hex


class ScheduleOnceMessage(SystemModel):
    """Have the agent send itself a payload after a while."""

    wire_format: ClassVar[str] = f"{_MIXIN}.ScheduleOnceMessage"

    key: str = Field(default_factory=_some_key)
    delay_seconds: float
    mesage_payload: JsonDict
    """Spelt so on the wire."""
    message_format: str


class ScheduleFixedRateMessage(SystemModel):
    """Have the agent send itself a payload again and again."""

    wire_format: ClassVar[str] = f"{_MIXIN}.ScheduleFixedRateMessage"

    key: str = Field(default_factory=_some_key)
    interval_seconds: float
    mesage_payload: JsonDict
    """Spelt so on the wire."""
    message_format: str


class CancelScheduledJobMessage(SystemModel):
    """Have the agent cancel a timer."""

    wire_format: ClassVar[str] = f"{_MIXIN}.CancelScheduledJobMessage"

    key: str


class SchedulerMixin(Scheduling):
    """For an agent whose timers are set by messages too: ``class Mine(Agent, SchedulerMixin)``, or the other way round.

    Every agent has the methods; only one with this mixin takes the messages, on all its topics and its self inbox.
    """

    @processor(ScheduleOnceMessage, handle_essential=True)
    def schedule_once_on_message(self, ctx: ProcessContext[ScheduleOnceMessage]) -> None:
        """Set a timer that ticks once."""
        asked = ctx.payload
        self.schedule_once(asked.key, asked.delay_seconds, asked.mesage_payload, asked.message_format)

    @processor(ScheduleFixedRateMessage, handle_essential=True)
    def schedule_fixed_rate_on_message(self, ctx: ProcessContext[ScheduleFixedRateMessage]) -> None:
        """Set a timer that ticks again and again."""
        asked = ctx.payload
        self.schedule_fixed_rate(asked.key, asked.interval_seconds, asked.mesage_payload, asked.message_format)

    @processor(CancelScheduledJobMessage, handle_essential=True)
    def cancel_on_message(self, ctx: ProcessContext[CancelScheduledJobMessage]) -> None:
        """Cancel a timer."""
        self.cancel_timer(ctx.payload.key)
