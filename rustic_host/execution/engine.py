"""What every execution engine does (facts 9.1)."""

from abc import ABC, abstractmethod
from typing import Any

from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.messaging import MessagingConfig


class ExecutionEngine(ABC):
    """Runs the agents of a guild.

    Args:
        guild_id: the guild.
        organization_id: whose it is; engines here need none.
    """

    def __init__(self, guild_id: str, organization_id: str = "") -> None:
        self.guild_id, self.organization_id = guild_id, organization_id

    @classmethod
    def get_qualified_class_name(cls) -> str:
        """``module.Class``, as specs name engines."""
        return f"{cls.__module__}.{cls.__name__}"

    @abstractmethod
    def run_agent(
        self,
        guild_spec: GuildSpec,
        agent_spec: AgentSpec,
        messaging_config: MessagingConfig,
        machine_id: int = 0,
        client_type: type | None = None,
        client_properties: dict[str, Any] | None = None,
        default_topic: str = "default_topic",
    ) -> Any:
        """Start an agent; returns when it is built and subscribed."""

    @abstractmethod
    def get_agents_in_guild(self, guild_id: str) -> dict[str, AgentSpec]:
        """Specs of the agents that were started, by id."""

    @abstractmethod
    def is_agent_running(self, guild_id: str, agent_id: str) -> bool:
        """Whether the agent is there and ready."""

    @abstractmethod
    def stop_agent(self, guild_id: str, agent_id: str) -> None:
        """Stop an agent in order; an unknown one is left alone."""

    @abstractmethod
    def shutdown(self) -> None:
        """Stop all agents of this engine, and no others."""

    def find_agents_by_name(self, guild_id: str, agent_name: str) -> list[AgentSpec]:
        """Specs of the started agents with this name."""
        return [spec for spec in self.get_agents_in_guild(guild_id).values() if spec.name == agent_name]
