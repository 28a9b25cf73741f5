"""Stands for a user in a guild: what the user says comes in through it, what is meant for the user goes out."""

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from rustic_host.agents.tagging import tagged_in
from rustic_host.guild.agent import Agent
from rustic_host.guild.aliases import our_name
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.dsl import AgentSpec, BaseAgentProps
from rustic_host.guild.messages import SystemModel
from rustic_host.guild.processor import processor
from rustic_host.guild.system_messages import GuildUpdatedAnnouncement, StopGuildRequest
from rustic_host.guild.topics import GuildTopics
from rustic_host.messaging import AgentTag, JsonDict, Message, RoutingDestination, RoutingRule, RoutingSlip

TEXT_FORMATS = frozenset(f"rustic_ai.core.ui_protocol.types.{name}" for name in ("TextFormat", "FilesWithTextFormat"))
"""Formats whose payload tells the front end, under ``tagged_users``, whom it names."""

PARTICIPANTS = "Participants"
"""The format under which front ends of Rustic AI wait for a ParticipantList."""


class UserMessage(Message):
    """What a user's front end publishes to ``user:<user>``: a whole message, as the payload of another."""

    wire_format: ClassVar[str] = "rustic_ai.core.messaging.core.message.Message"


class Participant(SystemModel):
    """One agent of the guild; ``type`` is ``human`` for a user's proxy, else ``bot``."""

    wire_format: ClassVar[str] = "rustic_ai.core.agents.utils.user_proxy_agent.Participant"

    id: str
    name: str
    type: str


class ParticipantList(SystemModel):
    """The guild's agents, by name."""

    wire_format: ClassVar[str] = "rustic_ai.core.agents.utils.user_proxy_agent.ParticipantList"

    participants: list[Participant]


class ParticipantListRequest(SystemModel):
    """Asks on ``user_system:<user>`` who is in the guild."""

    wire_format: ClassVar[str] = "rustic_ai.core.agents.utils.user_proxy_agent.ParticipantListRequest"

    guild_id: str


class UserProxyAgentProps(BaseAgentProps):
    """Which user."""

    user_id: str


def _from_user(agent: "UserProxyAgent", message: Message) -> bool:
    return message.topic_published_to == agent.user_topic


def _to_user(agent: "UserProxyAgent", message: Message) -> bool:
    topic = message.topic_published_to
    if message.sender.id == agent.id or topic in (agent.user_topic, agent.requests_topic):
        return False
    tagged = message.is_tagged(agent.get_agent_tag()) or message.is_tagged(agent.user_tag)
    return tagged or topic in (agent.outbox_topic, UserProxyAgent.BROADCAST_TOPIC)


def _system_request(agent: "UserProxyAgent", message: Message) -> bool:
    return message.topic_published_to == agent.requests_topic


class UserProxyAgent(Agent[UserProxyAgentProps]):
    """Passes a user's messages into the guild, and those for the user to ``user_notifications:<user>``.

    In a spec::

        id: upa-bob
        name: Bob
        class_name: rustic_ai.core.agents.utils.user_proxy_agent.UserProxyAgent
        properties: {user_id: bob}

    It adds the user's topics by itself. Of a message on ``user:<user>``, the payload is the message that the user
    sends: one copy goes to its topics, one to the user's notifications, and without recipients one to
    ``user_message_broadcast``; all carry the guild's routes. Agents named in it as ``@Name`` are added to the
    recipients. What tags the user, or comes by the outbox or a broadcast, goes to the notifications. An agent of
    another id hears what is for ``upa-<user>`` too.
    """

    BROADCAST_TOPIC = "user_message_broadcast"

    def __init__(self) -> None:
        user = self.config.user_id
        self.user_tag = AgentTag(id=f"upa-{user}", name=self.name)
        self.user_topic, self.outbox_topic = f"user:{user}", f"user_outbox:{user}"
        self.notifications_topic = f"user_notifications:{user}"
        self.requests_topic, self.answers_topic = f"user_system:{user}", f"user_system_notification:{user}"
        own = [self.user_topic, self.outbox_topic, self.BROADCAST_TOPIC, self.requests_topic]
        inbox = GuildTopics.inbox(f"upa-{user}")
        self.subscribed_topics = list(dict.fromkeys([*self.subscribed_topics, *own, inbox]))

    @processor(UserMessage, _from_user)
    def unwrap_and_forward_message(self, ctx: ProcessContext[UserMessage]) -> None:
        """Send what the user says."""
        said = ctx.payload
        tagged = tagged_in(said.payload, self.guild_spec)
        payload = dict(said.payload)
        if said.format in TEXT_FORMATS:
            payload["tagged_users"] = json.dumps([tag.model_dump() for tag in tagged])
        recipients = [*said.recipient_list, *tagged]
        copies: list[tuple[str | list[str], bool]] = [(self.notifications_topic, False), (said.topics, False)]
        if not said.recipient_list:
            copies.append((self.BROADCAST_TOPIC, True))
        rules = [self._rule(topics, said, recipients, forwarded) for topics, forwarded in copies]
        ctx.set_routing_slip(RoutingSlip(steps=[*self._routes(ctx.message), *rules, *_steps(said)]))
        ctx.send_dict(payload, said.format)

    @processor(JsonDict, _to_user)
    def forward_message_to_user(self, ctx: ProcessContext[JsonDict]) -> None:
        """Pass on what is for the user."""
        self._forward(ctx, ctx.payload, ctx.message.format, self.notifications_topic, _steps(ctx.message))

    @processor(ParticipantListRequest, _system_request)
    def handle_participants_request(self, ctx: ProcessContext[ParticipantListRequest]) -> None:
        """Tell the user's front end who is in the guild."""
        self._tell_participants(ctx)

    @processor(StopGuildRequest, _system_request)
    def handle_stop_guild_request(self, ctx: ProcessContext[StopGuildRequest]) -> None:
        """Pass the request on to whoever runs the guild."""
        request = ctx.payload.model_copy(update={"user_id": ctx.payload.user_id or self.config.user_id})
        self._forward(ctx, request.model_dump(), ctx.message.format, GuildTopics.SYSTEM)

    @processor(GuildUpdatedAnnouncement, handle_essential=True)
    def guild_refresh_handler(self, ctx: ProcessContext[GuildUpdatedAnnouncement]) -> None:
        """Go by the new spec, and tell the user's front end who is in the guild now."""
        self.guild_spec = ctx.payload.guild_spec
        self._tell_participants(ctx)

    def _tell_participants(self, ctx: ProcessContext[Any]) -> None:
        agents = sorted(self.guild_spec.agents, key=lambda spec: spec.name)
        listed = ParticipantList(participants=[_participant(spec) for spec in agents])
        self._forward(ctx, listed.model_dump(), PARTICIPANTS, self.answers_topic)

    def _forward(
        self, ctx: ProcessContext[Any], payload: JsonDict, format: str, topic: str, steps: Sequence[RoutingRule] = ()
    ) -> None:
        # Not the guild's routes: those of this agent are for what the user says.
        own = RoutingRule(agent=self.get_agent_tag(), destination=RoutingDestination(topics=topic))
        ctx.set_routing_slip(RoutingSlip(steps=[*steps, own]))
        ctx.send_dict(payload, format, forwarding=True)

    def _rule(self, topics: str | list[str], said: Message, recipients: list[AgentTag], forwarded: bool) -> RoutingRule:
        destination = RoutingDestination(topics=topics, priority=said.priority, recipient_list=recipients)
        return RoutingRule(agent=self.get_agent_tag(), destination=destination, mark_forwarded=forwarded)

    def _routes(self, message: Message) -> list[RoutingRule]:
        """Return the rules that the user's message came with, and those of the guild that are not among them."""
        brought = _steps(message)
        known = {step.hashid for step in brought}
        return [*brought, *(step for step in self.guild_spec.routes.steps if step.hashid not in known)]


def _steps(message: Message) -> list[RoutingRule]:
    return message.routing_slip.steps if message.routing_slip else []


def _participant(spec: AgentSpec) -> Participant:
    human = our_name(spec.class_name) == UserProxyAgent.get_qualified_class_name()
    return Participant(id=spec.id, name=spec.name, type="human" if human else "bot")
