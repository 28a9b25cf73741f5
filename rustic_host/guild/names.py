"""Names that agents written for Rustic AI take from its helper modules, with what they mean here."""

from typing import Final

from pydantic import BaseModel

from rustic_host.errors import AgentLoadError
from rustic_host.guild.aliases import resolve_class
from rustic_host.guild.messages import format_of
from rustic_host.guild.topics import GuildTopics
from rustic_host.messaging import GENERIC_JSON


class KeyConstants:
    """Keys of a guild's ``properties``."""

    EXECUTION_ENGINE: Final = "execution_engine"
    MESSAGING: Final = "messaging"
    BACKEND_MODULE: Final = "backend_module"
    BACKEND_CLASS: Final = "backend_class"
    BACKEND_CONFIG: Final = "backend_config"
    CLIENT_TYPE: Final = "client_type"
    CLIENT_PROPERTIES: Final = "client_properties"
    STATE_MANAGER: Final = "state_manager"
    STATE_MANAGER_CONFIG: Final = "state_manager_config"


GSKC = KeyConstants


class MessageConstants:
    """The format of payloads that are of no model."""

    RAW_JSON_FORMAT: Final = GENERIC_JSON


class HealthConstants:
    """The topic of health checks and heartbeats."""

    HEARTBEAT_TOPIC: Final = GuildTopics.HEARTBEAT


def get_qualified_class_name(cls: type) -> str:
    """Return the dotted name of a class; of a payload's model its format, which for Rustic AI's own is their name."""
    return format_of(cls) if issubclass(cls, BaseModel) else f"{cls.__module__}.{cls.__name__}"


def get_class_from_name(full_class_name: str) -> type:
    """Import a class by its dotted name, ours where Rustic AI's is built in. Raises TypeError if there is none."""
    try:
        return resolve_class(full_class_name)
    except AgentLoadError as error:
        raise TypeError(str(error)) from error
