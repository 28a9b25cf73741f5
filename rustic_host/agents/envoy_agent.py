"""Sends messages to one other guild."""

import uuid

from pydantic import Field

from rustic_host.agents.boundary import INBOX, BoundaryAgent, guild_inbox, saga_key
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.dsl import BaseAgentProps
from rustic_host.guild.processor import processor
from rustic_host.guild.state import StateUpdateFormat
from rustic_host.messaging import GuildStackEntry, JsonDict, Message

RETURNED = "handle_returned_response"
"""The gateway's handler that lets an answer in; it stands in the message's history."""


class EnvoyAgentProps(BaseAgentProps):
    """To which guild, and which formats; without any, all."""

    target_guild: str = Field(min_length=1)
    formats_to_forward: list[str] = Field(default_factory=list)


def _wanted(agent: "EnvoyAgent", message: Message) -> bool:
    formats = agent.config.formats_to_forward
    return (not formats or message.format in formats) and not agent._has_come_back(message)


class EnvoyAgent(BoundaryAgent[EnvoyAgentProps]):
    """Sends what it hears to the gateway of another guild of this host; the answer comes in by the own gateway.

    In a spec::

        class_name: rustic_ai.core.guild.g2g.envoy_agent.EnvoyAgent
        additional_topics: [for_accounting]
        listen_to_default_topic: false
        properties: {target_guild: accounting, formats_to_forward: [app.Invoice]}

    The session stays at home: it waits in the guild's state, under ``g2g_saga.<saga id>``, for the answer, which brings
    the saga's id back. An answer that comes back from the target, where the envoy hears it, is not sent there again.
    """

    @processor(JsonDict, _wanted)
    def handle_outbound(self, ctx: ProcessContext[JsonDict]) -> None:
        """Send the message to the target."""
        session, saga_id = ctx.get_context(), ""
        if session:
            saga_id = str(uuid.uuid4())
            self.update_guild_state(ctx, StateUpdateFormat.JSON_MERGE_PATCH, {saga_key(saga_id): session})
        here = GuildStackEntry(guild_id=self.guild_id, saga_id=saga_id)
        self._cross(ctx, self.config.target_guild, [*ctx.message.origin_guild_stack, here], self.get_agent_tag())

    def _has_come_back(self, message: Message) -> bool:
        way = message.message_history
        if not way or way[-1].processor != RETURNED:
            return False
        home = guild_inbox(self.guild_id)
        sent_to = [topic for entry in way for topic in entry.to_topics if topic.startswith(INBOX) and topic != home]
        return sent_to[-1:] == [guild_inbox(self.config.target_guild)]
