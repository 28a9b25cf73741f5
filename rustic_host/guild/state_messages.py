"""Payloads about state: on ``state_topic``, and on the inbox of an agent whose state is to be changed.

Field names and formats are Rustic AI's (facts 1.7). Times are ISO texts.
"""

from typing import Any, ClassVar

from rustic_host.guild.messages import StateOwner, StateUpdateRequest, SystemModel

__all__ = [
    "GUILD_STATE_KEY",
    "StateFetchError",
    "StateFetchRequest",
    "StateFetchResponse",
    "StateOwner",
    "StateUpdateError",
    "StateUpdateRequest",
    "StateUpdateResponse",
    "manager_id",
]

GUILD_STATE_KEY = "guild_state"
"""The guild's state is this key of the state of the guild's manager."""


def manager_id(guild_id: str) -> str:
    """Return the id of the agent that owns a guild's state, Rustic AI's name for it."""
    return f"{guild_id}#manager_agent"


class StateFetchRequest(SystemModel):
    """Asks for a state. ``version`` and ``timestamp`` are of Rustic AI's models; only the newest state is kept."""

    wire_format: ClassVar[str] = "rustic_ai.core.state.models.StateFetchRequest"

    state_owner: StateOwner
    guild_id: str
    agent_id: str | None = None
    state_path: str | None = None
    """``$`` or None for all of it, else keys joined by dots."""
    version: int | None = None
    timestamp: str | None = None


class StateFetchResponse(SystemModel):
    """A state, or the part of it that was asked for."""

    wire_format: ClassVar[str] = "rustic_ai.core.state.models.StateFetchResponse"

    state_owner: StateOwner
    guild_id: str
    agent_id: str | None = None
    state: dict[str, Any]
    version: int | None = None
    timestamp: str | None = None
    state_path: str | None = None
    fetch_timestamp: str | None = None
    is_latest: bool = True


class StateUpdateResponse(SystemModel):
    """A state after an update."""

    wire_format: ClassVar[str] = "rustic_ai.core.state.models.StateUpdateResponse"

    state_owner: StateOwner
    guild_id: str
    agent_id: str | None = None
    state: dict[str, Any]
    version: int | None = None
    timestamp: str | None = None


class StateFetchError(SystemModel):
    """A state could not be told."""

    wire_format: ClassVar[str] = "rustic_ai.core.state.models.StateFetchError"

    state_fetch_request: StateFetchRequest
    error: str


class StateUpdateError(SystemModel):
    """A state could not be changed; it is as it was."""

    wire_format: ClassVar[str] = "rustic_ai.core.state.models.StateUpdateError"

    state_update_request: StateUpdateRequest
    error: str
