"""Runs guilds of Rustic AI agents as a production service."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rustic_host.execution.guild import Guild
    from rustic_host.guild.builders import AgentBuilder, GuildBuilder, RouteBuilder

__all__ = ["AgentBuilder", "Guild", "GuildBuilder", "RouteBuilder", "__version__"]

__version__ = "0.1.0"

_HOMES = {
    "AgentBuilder": "rustic_host.guild.builders",
    "Guild": "rustic_host.execution.guild",
    "GuildBuilder": "rustic_host.guild.builders",
    "RouteBuilder": "rustic_host.guild.builders",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and only that: `rustic-host --version` needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
