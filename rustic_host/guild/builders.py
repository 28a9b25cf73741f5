"""Guilds, agents and routes made in Python: the builders, under one name as in Rustic AI."""

from rustic_host.guild.agent_builder import AgentBuilder
from rustic_host.guild.guild_builder import GuildBuilder
from rustic_host.guild.guild_helper import GuildHelper
from rustic_host.guild.route_builder import RouteBuilder

__all__ = ["AgentBuilder", "GuildBuilder", "GuildHelper", "RouteBuilder"]
