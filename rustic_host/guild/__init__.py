"""Guilds: their specs, the agent API, dispatch, routing and state."""

from rustic_host.guild.agent import Agent, ProcessContext, processor
from rustic_host.guild.dsl import AgentSpec, BaseAgentProps, GuildSpec
from rustic_host.guild.messages import ErrorMessage
from rustic_host.guild.state import StateUpdateFormat
from rustic_host.guild.topics import GuildTopics

__all__ = [
    "Agent",
    "AgentSpec",
    "BaseAgentProps",
    "ErrorMessage",
    "GuildSpec",
    "GuildTopics",
    "ProcessContext",
    "StateUpdateFormat",
    "processor",
]
