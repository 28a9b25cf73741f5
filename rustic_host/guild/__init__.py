"""Guilds: their specs, the agent API, dispatch, routing and state."""

from rustic_host.guild.agent import Agent, ProcessContext, processor
from rustic_host.guild.dependencies import AgentDependency, DependencyResolver
from rustic_host.guild.dsl import AgentSpec, BaseAgentProps, DependencySpec, GuildSpec
from rustic_host.guild.fixtures import AgentFixtures
from rustic_host.guild.messages import ErrorMessage
from rustic_host.guild.state import StateUpdateFormat
from rustic_host.guild.topics import GuildTopics

__all__ = [
    "Agent",
    "AgentDependency",
    "AgentFixtures",
    "AgentSpec",
    "BaseAgentProps",
    "DependencyResolver",
    "DependencySpec",
    "ErrorMessage",
    "GuildSpec",
    "GuildTopics",
    "ProcessContext",
    "StateUpdateFormat",
    "processor",
]
