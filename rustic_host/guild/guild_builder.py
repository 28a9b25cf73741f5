"""Builds guild specs in Python, and starts them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rustic_host.guild.aliases import our_name
from rustic_host.guild.building import MAX_NAME, plain, refuse_missing, text_of
from rustic_host.guild.dsl import AgentSpec, DependencySpec, GatewaySpec, GuildSpec
from rustic_host.guild.guild_helper import GuildHelper
from rustic_host.guild.loader import load_guild, load_guild_data, load_guild_text
from rustic_host.messaging import RoutingRule, RoutingSlip
from rustic_host.telemetry.logs import get_logger

if TYPE_CHECKING:
    from rustic_host.execution.guild import Guild

GATEWAY_CLASS = "rustic_ai.core.guild.g2g.gateway_agent.GatewayAgent"

log = get_logger(__name__)


class GuildBuilder:
    """Makes a :class:`GuildSpec` step by step, or from YAML or JSON; each setter returns the builder.

    Args:
        guild_id: without one the guild has an id by its name, the same at each start.
        guild_name: as :meth:`set_name`.
        guild_description: as :meth:`set_description`.
    """

    def __init__(
        self, guild_id: str | None = None, guild_name: str | None = None, guild_description: str | None = None
    ) -> None:
        given = {"id": guild_id, "name": guild_name, "description": guild_description}
        self._data: dict[str, Any] = {key: value for key, value in given.items() if value is not None}

    @classmethod
    def from_yaml_file(cls, file_path: str | Path) -> Self:
        """Start from a file of YAML (or JSON), with ``!include`` and ``!code``.

        Raises:
            InvalidSpecError: it is no spec; its text has a row with the place for each thing wrong.
            MissingSpecError: the file, or one that it includes, is not there.
        """
        return cls.from_spec(load_guild(Path(file_path)))

    @classmethod
    def from_json_file(cls, file_path: str | Path) -> Self:
        """Start from a file of JSON; raises as :meth:`from_yaml_file`."""
        return cls.from_spec(load_guild(Path(file_path)))

    @classmethod
    def from_spec_yaml(cls, spec_yaml: str) -> Self:
        """Start from YAML, which can include nothing. Raises InvalidSpecError."""
        return cls.from_spec(load_guild_text(spec_yaml, "<yaml>"))

    @classmethod
    def from_spec_json(cls, spec_json: str) -> Self:
        """Start from JSON. Raises InvalidSpecError."""
        return cls.from_spec(load_guild_text(spec_json, "<json>", as_json=True))

    @classmethod
    def from_spec(cls, guild_spec: GuildSpec) -> Self:
        """Start from a spec, which itself stays as it is."""
        builder = cls()
        builder._data = plain(guild_spec)
        return builder

    def set_name(self, name: str) -> Self:
        """Set the name. Raises BuilderError unless it has 1 to 64 characters."""
        return self._set("name", text_of("a guild's name", name, at_most=MAX_NAME))

    def set_description(self, description: str) -> Self:
        """Say what the guild is for. Raises BuilderError for an empty text."""
        return self._set("description", text_of("a guild's description", description))

    def set_property(self, property_name: str, property_value: Any) -> Self:
        """Set one of the guild's properties."""
        self._data.setdefault("properties", {})[property_name] = plain(property_value)
        return self

    def set_execution_engine(self, execution_engine_clz: str) -> Self:
        """Set the class of the engine, by its dotted name (ours or Rustic AI's)."""
        return self.set_property("execution_engine", execution_engine_clz)

    def set_messaging(self, backend_module: str, backend_class: str, backend_config: Mapping[str, Any]) -> Self:
        """Set where messages are kept."""
        settings = {"backend_module": backend_module, "backend_class": backend_class, "backend_config": backend_config}
        return self.set_property("messaging", settings)

    def set_dependency_map(self, dependency_map: Mapping[str, DependencySpec | Mapping[str, Any]]) -> Self:
        """Set the resolvers that all agents of the guild have."""
        return self._set("dependency_map", dependency_map)

    def add_dependency_resolver(self, dep_key: str, dep_spec: DependencySpec | Mapping[str, Any]) -> Self:
        """Add one resolver."""
        self._data.setdefault("dependency_map", {})[dep_key] = plain(dep_spec)
        return self

    def load_dependency_map_from_yaml(self, filepath: str | Path) -> Self:
        """Set the resolvers that a file names. Raises ConfigError when it does not hold such."""
        return self.set_dependency_map(GuildHelper.read_dependencies_config(filepath))

    def set_gateway(self, gateway: GatewaySpec | Mapping[str, Any] | None = None, **fields: Any) -> Self:
        """Say what the guild exchanges with others, by format.

        A model or mapping, or its fields: ``input_formats``, ``output_formats``, ``returned_formats``, ``enabled``.
        The spec then has an agent for it.
        """
        return self._set("gateway", {**plain(gateway or {}), **fields})

    def add_agent_spec(self, agent: AgentSpec) -> Self:
        """Add an agent."""
        self._data.setdefault("agents", []).append(plain(agent))
        return self

    def set_routes(self, routes: RoutingSlip) -> Self:
        """Set all routes."""
        return self._set("routes", routes)

    def add_route(self, route: RoutingRule) -> Self:
        """Add a route after those that there are."""
        self._data.setdefault("routes", {}).setdefault("steps", []).append(plain(route))
        return self

    def validate(self) -> None:
        """Raise BuilderError ("Missing required fields") unless name and description are set."""
        refuse_missing(self._data, ("name", "description"))

    def build_spec(self) -> GuildSpec:
        """Make the spec; the builder can go on and make others.

        Raises:
            BuilderError: name or description is missing.
            InvalidSpecError: something is wrong: two agents of one id, an expression that is none …
        """
        self.validate()
        return with_gateway(load_guild_data(plain(self._data), "<builder>"))

    def launch(self, organization_id: str = "") -> "Guild":
        """Build the guild and start its agents, one after another; those that started end again when one cannot.

        Raises:
            RusticHostError: what building the spec, making the engine, or starting an agent raises.
        """
        return self.load_or_launch(organization_id)

    def load(self, organization_id: str = "") -> "Guild":
        """Build the guild and register its agents without starting any."""
        spec = self.build_spec()
        guild = GuildHelper.shallow_guild_from_spec(spec, organization_id)
        for agent in spec.agents:
            guild.register_agent(agent)
        return guild

    def load_or_launch(self, organization_id: str = "", skip_agents: Sequence[str] = ()) -> "Guild":
        """Build the guild and start those of its agents that do not run, but those whose id is in ``skip_agents``."""
        spec = self.build_spec()
        guild = GuildHelper.shallow_guild_from_spec(spec, organization_id)
        try:
            guild.launch_agents(agent for agent in spec.agents if agent.id not in skip_agents)
        except BaseException:
            guild.shutdown()
            raise
        return guild

    def bootstrap(self, metastore_database_url: str, organization_id: str = "") -> "Guild":
        """Start the guild. There is no metastore here: the spec is the record, so the database is not touched.

        Rustic AI starts an agent here that starts the others; what that one does, this process and the host do.
        """
        log.info("no_metastore_needed", guild=self._data.get("id"), name=self._data.get("name"))
        return self.launch(organization_id)

    def _set(self, field: str, value: Any) -> Self:
        self._data[field] = plain(value)
        return self


def with_gateway(spec: GuildSpec) -> GuildSpec:
    """Return the spec with the agent that its ``gateway`` asks for; as it is if there is none to add."""
    gateway = spec.gateway
    classes = {our_name(agent.class_name) for agent in spec.agents}
    if gateway is None or not gateway.enabled or our_name(GATEWAY_CLASS) in classes:
        return spec
    agent = AgentSpec(
        id="gateway",
        name="Gateway",
        description="Exchanges messages with other guilds",
        class_name=GATEWAY_CLASS,
        properties=gateway.model_dump(include={"input_formats", "output_formats", "returned_formats"}),
    )
    return spec.model_copy(update={"agents": [*spec.agents, agent]})
