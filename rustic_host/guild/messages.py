"""Payloads of the framework itself, and the name by which a payload's class is known on the wire."""

from enum import StrEnum
from typing import Any, ClassVar

from pydantic import BaseModel

from rustic_host.guild.state import StateUpdateFormat, copy_json
from rustic_host.messaging import Message, RoutingSlip


class SystemModel(BaseModel):
    """A payload that Rustic AI knows too: its format is the name their class has, wherever ours lives."""

    wire_format: ClassVar[str]


class SelfReadyNotification(SystemModel):
    """An agent tells itself that it is built and subscribed."""

    wire_format: ClassVar[str] = "rustic_ai.core.guild.agent.SelfReadyNotification"

    message: str = "Agent is ready"


class ErrorMessage(SystemModel):
    """An agent could not do what a message asked."""

    wire_format: ClassVar[str] = "rustic_ai.core.agents.commons.message_formats.ErrorMessage"

    agent_type: str
    error_type: str
    error_message: str


class StateOwner(StrEnum):
    """Whose state it is; the values are those of the wire."""

    AGENT = "agent"
    GUILD = "guild"


class StateUpdateRequest(SystemModel):
    """Asks the owner of a state, on ``state_topic``, to change it."""

    wire_format: ClassVar[str] = "rustic_ai.core.state.models.StateUpdateRequest"

    state_owner: StateOwner
    guild_id: str
    agent_id: str | None = None
    update_format: StateUpdateFormat = StateUpdateFormat.JSON_MERGE_PATCH
    state_update: dict[str, Any]
    update_path: str | None = None
    update_version: int | None = None
    update_timestamp: str | None = None


def format_of(model: type[BaseModel]) -> str:
    """Return the format string of payloads of ``model``: ``module.Class``, or the name a SystemModel declares.

    A declared name is not inherited, so a subclass of a system payload has a format of its own.
    """
    declared = vars(model).get("wire_format")
    return declared if isinstance(declared, str) else f"{model.__module__}.{model.__name__}"


def detached(message: Message) -> Message:
    """Return a copy whose lists and dicts can be changed without anybody else who holds ``message`` seeing it."""
    containers = {key: copy_json(value) for key, value in vars(message).items() if isinstance(value, dict | list)}
    slip = message.routing_slip
    containers["routing_slip"] = None if slip is None else RoutingSlip(steps=list(slip.steps))
    return message.model_copy(update=containers)
