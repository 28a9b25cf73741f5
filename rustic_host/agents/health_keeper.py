"""Answers ``heartbeat`` for all agents of a guild that do not answer themselves, and reports how the guild is."""

import time
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from rustic_host.agents.guild_control import AgentHealth, Governor
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.health import AgentsHealthReport, HealthCheckRequest, Heartbeat, HeartbeatStatus
from rustic_host.guild.messages import SelfReadyNotification, SystemModel, format_of
from rustic_host.guild.processor import processor
from rustic_host.guild.sending import new_message
from rustic_host.guild.topics import GuildTopics
from rustic_host.messaging import AgentTag, Message, Priority

if TYPE_CHECKING:
    from rustic_host.guild.dsl import AgentSpec

STALE_SECONDS = 10.0
"""A request this old has waited out an outage: of all that did, only the newest is answered (attacks, C8)."""


_DEAD = (HeartbeatStatus.ERROR, HeartbeatStatus.UNKNOWN)

ANSWERED_BY = "answered_by"
"""Key of ``checkmeta``: who sent the heartbeat in the agent's name."""


class AgentsChanged(SystemModel):
    """The host says that the status of agents has changed; which one's, the manager asks it."""

    wire_format: ClassVar[str] = "rustic_host.agents.health_keeper.AgentsChanged"

    at: datetime


class StaleCheck(SystemModel):
    """The manager's note to itself, behind all that waits: the newest stale request so far."""

    wire_format: ClassVar[str] = "rustic_host.agents.health_keeper.StaleCheck"

    message_id: int
    checktime: datetime


def _to_itself(agent: "HealthKeeper", message: Message) -> bool:
    return message.topic_published_to == agent._self_inbox


def _about_itself(agent: "HealthKeeper", message: Message) -> bool:
    """Whether an agent of the guild says it, and not the manager in its name."""
    meta = message.payload.get("checkmeta")
    in_its_name = isinstance(meta, dict) and ANSWERED_BY in meta
    return not in_its_name and any(spec.id == message.sender.id for spec in agent.guild_spec.agents)


class HealthKeeper(Governor):
    """The part of the manager that is about health."""

    _reported: dict[str, HeartbeatStatus]
    """What was last told of each agent."""
    _own_words: dict[str, Heartbeat]
    """The last heartbeat of each agent that answers itself."""
    _stale: StaleCheck | None
    """The newest stale request; None when no note is under way."""

    def _forget_health(self) -> None:
        """What was not committed may not have been told: tell it again."""
        self._reported, self._own_words, self._stale = {}, {}, None

    @processor(SelfReadyNotification, _to_itself, handle_essential=True)
    def report_at_start(self, ctx: ProcessContext[SelfReadyNotification]) -> None:
        """Say how the guild is, when its manager begins."""
        self._tell_changes(ctx)

    @processor(AgentsChanged, _to_itself, handle_essential=True)
    def report_changes(self, ctx: ProcessContext[AgentsChanged]) -> None:
        """Say how those agents are whose status has changed, and so the guild."""
        self._tell_changes(ctx)

    @processor(HealthCheckRequest, handle_essential=True)
    def send_heartbeat(self, ctx: ProcessContext[HealthCheckRequest]) -> None:
        """Answer for every agent that does not."""
        message = ctx.message
        if time.time() - message.timestamp / 1000 < STALE_SECONDS:
            self._answer(ctx, ctx.payload.checktime)
            return
        waiting, self._stale = self._stale, StaleCheck(message_id=message.id, checktime=ctx.payload.checktime)
        if waiting is None:
            self._send_to_self(self._stale)

    @processor(StaleCheck, _to_itself, handle_essential=True)
    def answer_newest(self, ctx: ProcessContext[StaleCheck]) -> None:
        """Answer the newest stale request, if none came since the note was written; else write another note."""
        if self._stale is None or self._stale.message_id == ctx.payload.message_id:
            self._stale = None
            self._answer(ctx, ctx.payload.checktime)
        else:
            self._send_to_self(self._stale)

    @processor(Heartbeat, _about_itself, handle_essential=True)
    def update_agent_status(self, ctx: ProcessContext[Heartbeat]) -> None:
        """Note what an agent says of itself."""
        self._own_words[str(ctx.message.sender.id)] = ctx.payload
        self._tell_changes(ctx)

    def _answer(self, ctx: ProcessContext[Any], checktime: datetime) -> None:
        found = self._health(checktime)
        own = self.control.health()
        self._beat_for(ctx, self._tag, self._heartbeat(HeartbeatStatus.OK, checktime))
        for agent in self._agents(found):
            if not _answers(own[agent.id]):
                self._beat_for(ctx, AgentTag(id=agent.id, name=agent.name), found[agent.id])
        self._report(ctx, found)

    def _tell_changes(self, ctx: ProcessContext[Any]) -> None:
        found, own = self._health(datetime.now()), self.control.health()
        news = [agent for agent in self._agents(found) if found[agent.id].checkstatus != self._reported.get(agent.id)]
        for agent in news:
            starting = found[agent.id].checkstatus == HeartbeatStatus.STARTING  # the first beat is when it is ready
            if not (_answers(own[agent.id]) or starting):
                self._beat_for(ctx, AgentTag(id=agent.id, name=agent.name), found[agent.id])
        if news or found.keys() != self._reported.keys() or not found:
            self._report(ctx, found)

    def _health(self, checktime: datetime) -> dict[str, Heartbeat]:
        """How each agent is: what it says of itself counts only while its process is well (facts 12, 19)."""
        own = self.control.health()
        for agent_id in [key for key in self._own_words if key not in own or own[key].status in _DEAD]:
            del self._own_words[agent_id]
        agents = [agent for agent in self.guild_spec.agents if agent.id in own]
        return {agent.id: self._health_of(agent, own[agent.id], checktime) for agent in agents}

    def _health_of(self, agent: "AgentSpec", health: AgentHealth, checktime: datetime) -> Heartbeat:
        said = self._own_words.get(agent.id)
        if said is not None and health.status == HeartbeatStatus.OK:
            return said
        return self._heartbeat(health.status, checktime, agent.qos.latency)

    def _heartbeat(self, status: HeartbeatStatus, checktime: datetime, qos_latency: int | None = None) -> Heartbeat:
        now = datetime.now()
        observed = (now - checktime).total_seconds() * 1000
        meta = {"qos_latency": qos_latency, "observed_latency": observed, ANSWERED_BY: self.id}
        return Heartbeat(checktime=checktime, checkstatus=status, responsetime=now, checkmeta=meta)

    def _agents(self, found: Iterable[str]) -> "list[AgentSpec]":
        ids = set(found)
        return [agent for agent in self.guild_spec.agents if agent.id in ids]

    def _report(self, ctx: ProcessContext[Any], found: dict[str, Heartbeat]) -> None:
        self._reported = {agent_id: heartbeat.checkstatus for agent_id, heartbeat in found.items()}
        report = AgentsHealthReport.of(found)
        self._publish(ctx, self._tag, report, GuildTopics.STATUS, Priority.NORMAL)

    def _beat_for(self, ctx: ProcessContext[Any], sender: AgentTag, heartbeat: Heartbeat) -> None:
        self._publish(ctx, sender, heartbeat, GuildTopics.HEARTBEAT, Priority.HIGH)

    def _publish(
        self, ctx: ProcessContext[Any], sender: AgentTag, payload: SystemModel, topic: str, priority: Priority
    ) -> None:
        """Send in the name of ``sender``, without routes and history: health rounds must not grow (facts 12, 32)."""
        origin = ctx.message
        message = new_message(
            self._generate_id(priority),
            sender=sender,
            topics=topic,
            payload=payload.model_dump(mode="json"),
            format=format_of(type(payload)),
            in_response_to=origin.id,
            thread=origin.thread,
            traceparent=origin.traceparent,
        )
        ctx._put(message)


def _answers(health: AgentHealth) -> bool:
    """Whether the agent answers itself, and can."""
    return health.answers and health.status == HeartbeatStatus.OK
