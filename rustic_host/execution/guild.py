"""A live guild: its agents, and the engines that run them."""

import itertools
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from rustic_host.errors import ConfigError, ExecutionError
from rustic_host.execution.engine import ExecutionEngine
from rustic_host.execution.in_process import InProcessEngine
from rustic_host.execution.multiprocess import MultiProcessExecutionEngine
from rustic_host.execution.sync import SyncExecutionEngine
from rustic_host.guild.agent import Agent
from rustic_host.guild.aliases import resolve_class
from rustic_host.guild.dsl import AgentSpec, DependencySpec, GuildSpec
from rustic_host.messaging import Client, MessageTrackingClient, MessagingConfig, RoutingSlip
from rustic_host.telemetry.logs import get_logger

log = get_logger(__name__)


class UnknownAgentError(ExecutionError, ValueError):
    """The guild has no agent of that id."""


class Guild:
    """Starts, stops and lists agents.

    The short form is ``Guild(guild_id="g", execution_engine=engine, messaging_config=config)``. Rustic AI's names the
    engine's class instead: ``Guild("g", "name", "description", "org", "….SyncExecutionEngine", config)``.

    Args:
        id: the guild's id.
        name: for people; the id when it is not given.
        description: what it is for.
        organization_id: whose it is.
        execution_engine_clz: dotted name of the class of the engine.
        messaging_config: where messages are kept.
        client_type: class of the agents' clients, in processes of their own too, which import it by its name.
        client_properties: what clients are made with, beside id, name and handler; in JSON, see
            :mod:`rustic_host.guild.clients`.
        dependency_map: resolvers that all agents have.
        routes: routes that the agents' messages follow.
        guild_id: another word for ``id``.
        execution_engine: the engine itself, in place of its class.
        spec: everything else that a guild's spec may say, and what the arguments above leave out.

    Raises:
        ConfigError: id, engine or messaging is missing, or the engine's class is none.
        AgentLoadError: the engine's class cannot be imported.
        pydantic.ValidationError: the id is none that a guild can have.
    """

    DEFAULT_TOPIC = "default_topic"

    def __init__(
        self,
        id: str | None = None,
        name: str | None = None,
        description: str | None = None,
        organization_id: str = "",
        execution_engine_clz: str | None = None,
        messaging_config: MessagingConfig | None = None,
        client_type: type[Client] = MessageTrackingClient,
        client_properties: Mapping[str, Any] | None = None,
        dependency_map: Mapping[str, DependencySpec] | None = None,
        routes: RoutingSlip | None = None,
        *,
        guild_id: str | None = None,
        execution_engine: ExecutionEngine | None = None,
        spec: GuildSpec | None = None,
    ) -> None:
        if messaging_config is None:
            raise ConfigError("a guild needs a messaging_config")
        named: dict[str, Any] = {"id": id or guild_id, "name": name, "description": description}
        named |= {"dependency_map": dependency_map, "routes": routes}
        self._spec = _shallow_spec(spec, {key: value for key, value in named.items() if value is not None})
        self.organization_id, self.messaging = organization_id, messaging_config
        self.client_type, self.client_properties = client_type, dict(client_properties or {})
        self.execution_engine = execution_engine or _engine(execution_engine_clz, self.id, organization_id)
        self._agents: dict[str, AgentSpec] = {}
        self._engine_by_agent: dict[str, ExecutionEngine] = {}
        self._engines = {self.execution_engine}
        self._local_engine: ExecutionEngine | None = None
        self._machine_ids = itertools.count(1)

    @property
    def id(self) -> str:
        """The guild's id."""
        return self._spec.id

    @property
    def name(self) -> str:
        """The guild's name."""
        return self._spec.name

    @property
    def description(self) -> str:
        """What the guild is for."""
        return self._spec.description

    @property
    def routes(self) -> RoutingSlip:
        """The routes that new agents are started with."""
        return self._spec.routes

    @property
    def dependency_map(self) -> dict[str, DependencySpec]:
        """The resolvers that all agents have."""
        return self._spec.dependency_map

    def register_agent(self, agent_spec: AgentSpec) -> None:
        """Make the agent one of the guild without starting it; one with the same id is replaced."""
        self._agents[agent_spec.id] = agent_spec

    def launch_agent(self, agent_spec: AgentSpec, execution_engine: ExecutionEngine | None = None) -> None:
        """Make the agent one of the guild and start it, by the guild's engine or another; one that runs is left alone.

        Raises:
            RusticHostError: it cannot be started, see the engine's ``run_agent``; the guild is as it was.
        """
        self._launch(agent_spec, execution_engine or self.execution_engine)

    def register_or_launch_agent(self, agent_spec: AgentSpec) -> None:
        """Start the agent unless it runs. Raises as :meth:`launch_agent`."""
        self.launch_agent(agent_spec)

    def launch_agents(self, agent_specs: Iterable[AgentSpec]) -> None:
        """Start those of the agents that do not run; each is subscribed before any sends. Raises as launch_agent."""
        engine = self.execution_engine
        with engine.together() if isinstance(engine, InProcessEngine) else nullcontext():
            for agent_spec in agent_specs:
                self.register_or_launch_agent(agent_spec)

    def remove_agent(self, agent_id: str) -> None:
        """Stop an agent; it is none of the guild any more.

        Raises:
            UnknownAgentError: there is none of that id.
            ExecutionError: it does not stop.
        """
        if agent_id not in self._agents:
            raise UnknownAgentError(f"Agent with ID {agent_id} not found in guild {self.id}")
        self._engine_of(agent_id).stop_agent(self.id, agent_id)
        del self._agents[agent_id]

    def get_agent(self, agent_id: str) -> AgentSpec | None:
        """Find an agent by its id."""
        return self._agents.get(agent_id)

    def get_agent_by_name(self, name: str) -> AgentSpec | None:
        """Find an agent by its name; the first one that was added, if several have it."""
        return next((agent for agent in self._agents.values() if agent.name == name), None)

    def list_agents(self) -> list[AgentSpec]:
        """List the guild's agents, whether they run or not."""
        return list(self._agents.values())

    def get_agent_count(self) -> int:
        """Count the guild's agents."""
        return len(self._agents)

    def is_agent_running(self, agent_id: str) -> bool:
        """Whether the agent runs now."""
        return self._engine_of(agent_id).is_agent_running(self.id, agent_id)

    def list_all_running_agents(self) -> list[AgentSpec]:
        """List the agents that run now."""
        return [agent for agent in self._agents.values() if self.is_agent_running(agent.id)]

    def is_guild_running(self) -> bool:
        """Whether every agent of the guild runs now (as all of none do)."""
        return all(map(self.is_agent_running, self._agents))

    def to_spec(self) -> GuildSpec:
        """Make the spec that starts this guild again, with its agents of now."""
        client = {"client_type": f"{self.client_type.__module__}.{self.client_type.__qualname__}"}
        properties = {
            **self._spec.properties,
            "execution_engine": self.execution_engine.get_qualified_class_name(),
            "messaging": self.messaging.model_dump(),
            **(client if self.client_type is not MessageTrackingClient else {}),
            **({"client_properties": self.client_properties} if self.client_properties else {}),
        }
        return self._spec.model_copy(update={"properties": properties, "agents": self.list_agents()}, deep=True)

    def shutdown(self) -> None:
        """Stop the engines that run agents of the guild; each is told, also when another fails.

        Raises:
            ExecutionError: some agent does not stop.
        """
        with ExitStack() as stack:
            for engine in self._engines:
                stack.callback(engine.shutdown)

    def _add_local_agent(self, agent_spec: AgentSpec, execution_engine: ExecutionEngine | None = None) -> Agent[Any]:
        """Start an agent inside this process, for tests, and return the object.

        Raises:
            ExecutionError: the engine runs it elsewhere.
        """
        if execution_engine is None and self._local_engine is None:
            self._local_engine = SyncExecutionEngine(self.id, self.organization_id)
        agent = self._launch(agent_spec, execution_engine or self._local_engine or self.execution_engine)
        if not isinstance(agent, Agent):
            raise ExecutionError(f"agent {agent_spec.name!r} runs already, or not in this process")
        return agent

    def _launch(self, agent_spec: AgentSpec, engine: ExecutionEngine) -> Any:
        before = dict(self._agents)
        if agent_spec.id in before and self.is_agent_running(agent_spec.id):
            log.warning("agent_runs_already", guild=self.id, agent=agent_spec.name)
            return None
        self._agents[agent_spec.id] = agent_spec
        self._engine_by_agent[agent_spec.id] = engine
        self._engines.add(engine)
        try:
            agent = self._run(agent_spec, engine)
        except BaseException:
            self._agents = before
            raise
        log.info("agent_launched", guild=self.id, agent=agent_spec.name)
        return agent

    def _run(self, agent_spec: AgentSpec, engine: ExecutionEngine) -> Any:
        spec = self.to_spec()
        if self.organization_id:
            spec.properties["organization_id"] = self.organization_id  # where agents look for it
        return engine.run_agent(
            guild_spec=spec,
            agent_spec=agent_spec,
            messaging_config=self.messaging,
            machine_id=next(self._machine_ids),
            client_type=self.client_type,
            client_properties=self.client_properties,
            default_topic=self.DEFAULT_TOPIC,
        )

    def _engine_of(self, agent_id: str) -> ExecutionEngine:
        return self._engine_by_agent.get(agent_id, self.execution_engine)


def _shallow_spec(spec: GuildSpec | None, given: dict[str, Any]) -> GuildSpec:
    if spec is not None:
        return spec.model_copy(update={**given, "agents": []})
    if "id" not in given:
        raise ConfigError("a guild needs an id")
    return GuildSpec.model_validate({"name": given["id"][:64], "description": f"Guild {given['id']}", **given})


def _engine(dotted: str | None, guild_id: str, organization_id: str) -> ExecutionEngine:
    if dotted is None:
        raise ConfigError("a guild needs an execution_engine, or the name of its class as execution_engine_clz")
    cls = resolve_class(dotted)
    if not issubclass(cls, ExecutionEngine):
        raise ConfigError(f"execution_engine `{dotted}` is no ExecutionEngine")
    if issubclass(cls, MultiProcessExecutionEngine):
        # Workers start from a fresh interpreter, and must find the modules that this process finds.
        folders = [Path(entry or ".").absolute() for entry in sys.path]
        return cls(guild_id, organization_id, search=[folder for folder in folders if folder.is_dir()])
    return cls(guild_id, organization_id)
