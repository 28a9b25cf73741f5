"""What a guild spec, or else the environment, says of how the guild runs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rustic_host.errors import ConfigError
from rustic_host.guild.aliases import resolve_class
from rustic_host.guild.dependencies import CONFIG_VARIABLE, configured_dependencies
from rustic_host.guild.dsl import DependencySpec, GuildSpec
from rustic_host.guild.environment import guild_properties
from rustic_host.messaging import Client, MessagingConfig

if TYPE_CHECKING:
    from rustic_host.execution.guild import Guild

SYNC_ENGINE = "rustic_host.execution.SyncExecutionEngine"
DEFAULT_CLIENT = "rustic_host.messaging.MessageTrackingClient"

# The one upward name: as any engine, the live guild is found by its dotted name, and only when one is made.
_GUILD = "rustic_host.execution.guild.Guild"


class GuildHelper:
    """Look-ups; ``environ`` is the process's own where it is not given.

    A spec's ``properties`` win over the environment, that over the defaults: the in-memory backend,
    ``SyncExecutionEngine``, ``MessageTrackingClient``. Each raises ConfigError when what it finds is unusable.
    """

    @staticmethod
    def get_default_messaging_config(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
        """Return the messaging settings of a guild that names none."""
        in_memory = {
            "backend_module": "rustic_host.messaging",
            "backend_class": "InMemoryMessagingBackend",
            "backend_config": {},
        }
        return cast(dict[str, Any], guild_properties({}, environ).get("messaging", in_memory))

    @staticmethod
    def get_messaging_config(guild_spec: GuildSpec, environ: Mapping[str, str] = os.environ) -> MessagingConfig:
        """Return the guild's messaging settings."""
        written = guild_spec.properties.get("messaging") or GuildHelper.get_default_messaging_config(environ)
        try:
            return MessagingConfig.model_validate(written)
        except ConfigError as error:
            raise ConfigError(f"properties.messaging: {error}") from error

    @staticmethod
    def get_default_execution_engine(environ: Mapping[str, str] = os.environ) -> str:
        """Return the engine's class of a guild that names none."""
        return str(guild_properties({}, environ).get("execution_engine", SYNC_ENGINE))

    @staticmethod
    def get_execution_engine(guild_spec: GuildSpec, environ: Mapping[str, str] = os.environ) -> str:
        """Return the dotted name of the class of the guild's engine."""
        return str(_property(guild_spec, "execution_engine", environ) or SYNC_ENGINE)

    @staticmethod
    def get_default_messaging_client(environ: Mapping[str, str] = os.environ) -> type[Client]:
        """Return the client's class of a guild that names none."""
        return _client_class(guild_properties({}, environ).get("client_type"))

    @staticmethod
    def get_messaging_client(guild_spec: GuildSpec, environ: Mapping[str, str] = os.environ) -> type[Client]:
        """Return the class of the agents' clients."""
        return _client_class(_property(guild_spec, "client_type", environ))

    @staticmethod
    def get_messaging_client_properties(
        guild_spec: GuildSpec, environ: Mapping[str, str] = os.environ
    ) -> dict[str, Any]:
        """Return what the agents' clients are made with, beside id, name and handler."""
        return dict(_property(guild_spec, "client_properties", environ) or {})

    @staticmethod
    def get_state_manager(guild_spec: GuildSpec, environ: Mapping[str, str] = os.environ) -> str | None:
        """Return the state manager that is named; none of ours asks, state is where the messages are."""
        return cast(str | None, _property(guild_spec, "state_manager", environ))

    @staticmethod
    def get_state_manager_config(guild_spec: GuildSpec, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
        """Return the settings that are given for a state manager."""
        return dict(_property(guild_spec, "state_manager_config", environ) or {})

    @staticmethod
    def get_guild_dependency_map(
        guild_spec: GuildSpec, environ: Mapping[str, str] = os.environ
    ) -> dict[str, DependencySpec]:
        """Return the resolvers that the guild's agents have: those of the file, and over them those of the guild."""
        return {**configured_dependencies(environ), **guild_spec.dependency_map}

    @staticmethod
    def read_dependencies_config(filepath: str | Path) -> dict[str, DependencySpec]:
        """Read resolvers by name from YAML or JSON; from a file that is not there, none, and a warning."""
        return configured_dependencies({CONFIG_VARIABLE: str(filepath)})

    @staticmethod
    def get_manager_agent_id(guild_id: str) -> str:
        """Return the id that Rustic AI gives the agent that manages a guild."""
        return f"{guild_id}#manager_agent"

    @staticmethod
    def get_manager_agent_name(guild_id: str) -> str:
        """Return the name that Rustic AI gives the agent that manages a guild."""
        return f"GuildManagerAgent4{guild_id}"

    @staticmethod
    def shallow_guild_from_spec(
        guild_spec: GuildSpec, organization_id: str = "", environ: Mapping[str, str] = os.environ
    ) -> "Guild":
        """Make the live guild of a spec, without its agents.

        Raises:
            AgentLoadError: the class of its engine or client cannot be imported.
        """
        live = cast("type[Guild]", resolve_class(_GUILD))
        return live(
            organization_id=organization_id,
            execution_engine_clz=GuildHelper.get_execution_engine(guild_spec, environ),
            messaging_config=GuildHelper.get_messaging_config(guild_spec, environ),
            client_type=GuildHelper.get_messaging_client(guild_spec, environ),
            client_properties=GuildHelper.get_messaging_client_properties(guild_spec, environ),
            spec=guild_spec,
        )


def _property(guild_spec: GuildSpec, name: str, environ: Mapping[str, str]) -> Any:
    return guild_properties(guild_spec.properties, environ).get(name)


def _client_class(dotted: Any) -> type[Client]:
    cls = resolve_class(str(dotted or DEFAULT_CLIENT))
    if not issubclass(cls, Client):
        raise ConfigError(f"client_type `{dotted}` is no Client")
    return cls
