"""Health: what is asked on ``heartbeat``, what is answered there, and what it says of a guild (facts 6.8)."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field

from rustic_host.guild.messages import SystemModel


class HeartbeatStatus(StrEnum):
    """How an agent (or a guild) is; the values are those of the wire."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    BACKLOGGED = "backlogged"
    UNKNOWN = "unknown"
    STARTING = "starting"
    PENDING_LAUNCH = "pending_launch"


_WORST_FIRST = (
    HeartbeatStatus.ERROR,
    HeartbeatStatus.BACKLOGGED,
    HeartbeatStatus.WARNING,
    HeartbeatStatus.UNKNOWN,
    HeartbeatStatus.STARTING,
)


def _naive(time: datetime) -> datetime:
    return time.astimezone().replace(tzinfo=None) if time.tzinfo else time


LocalTime = Annotated[datetime, AfterValidator(_naive)]
"""Naive local time: Rustic AI subtracts it from its own, which fails with a time that names its zone (facts 14.11)."""


class HealthCheckRequest(SystemModel):
    """Asks all agents of a guild, on ``heartbeat``, how they are."""

    wire_format: ClassVar[str] = "rustic_ai.core.guild.agent_ext.mixins.health.HealthCheckRequest"

    checktime: LocalTime = Field(default_factory=datetime.now)


class Heartbeat(SystemModel):
    """How one agent is."""

    wire_format: ClassVar[str] = "rustic_ai.core.guild.agent_ext.mixins.health.Heartbeat"

    checktime: LocalTime
    """That of the request."""
    checkstatus: HeartbeatStatus
    responsetime: LocalTime = Field(default_factory=datetime.now)
    checkmeta: dict[str, Any] = Field(default_factory=dict)
    """Free; ``qos_latency`` and ``observed_latency`` are milliseconds, or null."""


def guild_health(statuses: Iterable[HeartbeatStatus]) -> HeartbeatStatus:
    """Return how a guild is whose agents are so: ok if all are; unknown without any; else the worst (facts 6.8)."""
    found = set(statuses)
    if found == {HeartbeatStatus.OK}:
        return HeartbeatStatus.OK
    return next((status for status in _WORST_FIRST if status in found), HeartbeatStatus.UNKNOWN)


class AgentsHealthReport(SystemModel):
    """How all agents of a guild are, and so the guild."""

    wire_format: ClassVar[str] = "rustic_ai.core.guild.agent_ext.mixins.health.AgentsHealthReport"

    agents: dict[str, Heartbeat]
    """By agent id."""
    guild_health: HeartbeatStatus

    @classmethod
    def of(cls, agents: Mapping[str, Heartbeat]) -> Self:
        """Make the report on these agents."""
        statuses = (heartbeat.checkstatus for heartbeat in agents.values())
        return cls(agents=dict(agents), guild_health=guild_health(statuses))
