"""What is asked of a guild on ``system_topic``, and answered (facts 6.9). Formats and field names are Rustic AI's."""

from typing import ClassVar, Literal

from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.guild.messages import SystemModel
from rustic_host.messaging import RoutingRule

_MODELS = "rustic_ai.core.agents.system.models"


class BadInputResponse(SystemModel):
    """What was asked cannot be done, because of the field that is named."""

    wire_format: ClassVar[str] = f"{_MODELS}.BadInputResponse"

    status_code: Literal[400] = 400
    status: str = "Bad Request"
    error_field: str
    message: str


class ConflictResponse(SystemModel):
    """There is one already."""

    wire_format: ClassVar[str] = f"{_MODELS}.ConflictResponse"

    status_code: Literal[409] = 409
    status: str = "Conflict"
    error_field: str
    message: str


class AgentLaunchRequest(SystemModel):
    """Add an agent to the guild, and start it."""

    wire_format: ClassVar[str] = f"{_MODELS}.AgentLaunchRequest"

    agent_spec: AgentSpec


class AgentLaunchResponse(SystemModel):
    """The agent belongs to the guild and is being started; health tells when it is ready."""

    wire_format: ClassVar[str] = f"{_MODELS}.AgentLaunchResponse"

    agent_id: str
    status_code: int
    status: str


class RemoveAgentRequest(SystemModel):
    """Stop an agent, and take it out of the guild."""

    wire_format: ClassVar[str] = f"{_MODELS}.RemoveAgentRequest"

    guild_id: str
    agent_id: str


class AgentRemovalResponse(SystemModel):
    """The agent is no part of the guild any more; it finishes the message in hand and ends."""

    wire_format: ClassVar[str] = f"{_MODELS}.AgentRemovalResponse"

    agent_id: str
    status_code: int
    status: str


class AddRoutingRuleRequest(SystemModel):
    """Add a rule to the end of the guild's routes."""

    wire_format: ClassVar[str] = f"{_MODELS}.AddRoutingRuleRequest"

    guild_id: str
    routing_rule: RoutingRule


class RemoveRoutingRuleRequest(SystemModel):
    """Take a rule out of the guild's routes, by its hash."""

    wire_format: ClassVar[str] = f"{_MODELS}.RemoveRoutingRuleRequest"

    guild_id: str
    rule_hashid: str


class RoutingRuleUpdateResponse(SystemModel):
    """The rule was added (201) or removed (200)."""

    wire_format: ClassVar[str] = f"{_MODELS}.RoutingRuleUpdateResponse"

    rule_hashid: str
    status_code: int
    status: str


class AgentListRequest(SystemModel):
    """Which agents belong to the guild?"""

    wire_format: ClassVar[str] = f"{_MODELS}.AgentListRequest"

    guild_id: str


class RunningAgentListRequest(SystemModel):
    """Which of them are running?"""

    wire_format: ClassVar[str] = f"{_MODELS}.RunningAgentListRequest"

    guild_id: str


class AgentGetRequest(SystemModel):
    """What is one agent?"""

    wire_format: ClassVar[str] = f"{_MODELS}.AgentGetRequest"

    guild_id: str
    agent_id: str


class AgentInfoResponse(SystemModel):
    """One agent."""

    wire_format: ClassVar[str] = f"{_MODELS}.AgentInfoResponse"

    id: str
    name: str
    description: str
    class_name: str


class AgentListResponse(SystemModel):
    """Some agents."""

    wire_format: ClassVar[str] = f"{_MODELS}.AgentListResponse"

    agents: list[AgentInfoResponse]


class UserAgentCreationRequest(SystemModel):
    """Add an agent that stands for a user."""

    wire_format: ClassVar[str] = f"{_MODELS}.UserAgentCreationRequest"

    user_id: str
    user_name: str


class UserAgentCreationResponse(SystemModel):
    """The user's agent; ``topic`` is where the user's front end publishes."""

    wire_format: ClassVar[str] = f"{_MODELS}.UserAgentCreationResponse"

    user_id: str
    agent_id: str
    status_code: int
    status: str
    topic: str


class UserAgentGetRequest(SystemModel):
    """Which agent stands for a user?"""

    wire_format: ClassVar[str] = f"{_MODELS}.UserAgentGetRequest"

    user_id: str


class StopGuildRequest(SystemModel):
    """Asks for the guild's end; ``user_id`` is whoever asks."""

    wire_format: ClassVar[str] = f"{_MODELS}.StopGuildRequest"

    guild_id: str
    user_id: str | None = None


class StopGuildResponse(SystemModel):
    """Said on ``guild_status_topic``: the guild is being stopped."""

    wire_format: ClassVar[str] = f"{_MODELS}.StopGuildResponse"

    user_id: str | None = None


class GuildUpdatedAnnouncement(SystemModel):
    """Says on ``guild_status_topic`` how the guild's spec is now."""

    wire_format: ClassVar[str] = f"{_MODELS}.GuildUpdatedAnnouncement"

    guild_id: str
    guild_spec: GuildSpec
