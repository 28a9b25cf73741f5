"""Builds the spec of an agent in Python."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ValidationError

from rustic_host.errors import BuilderError
from rustic_host.guild.agent import Agent
from rustic_host.guild.building import MAX_NAME, plain, refuse_missing, text_of
from rustic_host.guild.dsl import AgentSpec, DependencySpec, QOSSpec, ResourceSpec, RuntimePredicate
from rustic_host.guild.routing import reasons

Dependency = DependencySpec | Mapping[str, Any]


class AgentBuilder:
    """Makes an :class:`AgentSpec` step by step; each setter returns the builder.

    ``AgentBuilder(EchoAgent).set_name("Echo").set_description("Says it again").build_spec()``

    Without :meth:`set_id` the agent has an id by its name, the same at each start.

    Args:
        agent_type: the agent's class.

    Raises:
        BuilderError: ``agent_type`` is no agent class.
    """

    def __init__(self, agent_type: type[Agent[Any]]) -> None:
        if not (isinstance(agent_type, type) and issubclass(agent_type, Agent)):
            raise BuilderError(f"{agent_type!r} is no Agent class")
        self._agent_type = agent_type
        self._data: dict[str, Any] = {"class_name": agent_type.get_qualified_class_name()}

    def set_id(self, agent_id: str) -> Self:
        """Set the id. Raises BuilderError for an empty one."""
        return self._set("id", text_of("an agent's id", agent_id))

    def set_name(self, name: str) -> Self:
        """Set the name. Raises BuilderError unless it has 1 to 64 characters."""
        return self._set("name", text_of("an agent's name", name, at_most=MAX_NAME))

    def set_description(self, description: str) -> Self:
        """Say what the agent is for. Raises BuilderError for an empty text."""
        return self._set("description", text_of("an agent's description", description))

    def add_additional_topic(self, topic: str) -> Self:
        """Have the agent read one more topic."""
        topics = self._data.setdefault("additional_topics", [])
        if topic not in topics:
            topics.append(topic)
        return self

    def set_properties(self, props: BaseModel | Mapping[str, Any]) -> Self:
        """Set what the agent finds as ``config``: a mapping, or the props model of its class.

        Raises:
            BuilderError: a model of another class.
        """
        wanted = self._agent_type.props_type
        if isinstance(props, BaseModel) and not (wanted and isinstance(props, wanted)):
            expected = wanted.__name__ if wanted else "none, the class takes no properties"
            raise BuilderError(f"Invalid properties type: {type(props).__name__}; expected {expected}")
        return self._set("properties", props)

    def listen_to_default_topic(self, listen: bool) -> Self:
        """Say whether the agent reads ``default_topic`` (it does when nothing is said)."""
        return self._set("listen_to_default_topic", listen)

    def act_only_when_tagged(self, act_only_when_tagged: bool) -> Self:
        """Say whether the agent leaves messages alone that are not addressed to it (it does not)."""
        return self._set("act_only_when_tagged", act_only_when_tagged)

    def set_dependency_map(self, dependency_map: Mapping[str, Dependency]) -> Self:
        """Set the resolvers of what handlers depend on, by the names that handlers use."""
        return self._set("dependency_map", dependency_map)

    def add_dependency_resolver(self, dep_key: str, dep_spec: Dependency) -> Self:
        """Add one resolver."""
        self._data.setdefault("dependency_map", {})[dep_key] = plain(dep_spec)
        return self

    def add_predicate(self, method_name: str, predicate: RuntimePredicate | Mapping[str, Any]) -> Self:
        """Say which messages one handler takes."""
        self._data.setdefault("predicates", {})[method_name] = plain(predicate)
        return self

    def set_additional_dependencies(self, dependencies: list[str | dict[str, Any]]) -> Self:
        """Set the names of what the agent needs beyond what its handlers say."""
        return self._set("additional_dependencies", dependencies)

    def add_additional_dependency(self, dependency: str | BaseModel | dict[str, Any]) -> Self:
        """Add one name."""
        self._data.setdefault("additional_dependencies", []).append(plain(dependency))
        return self

    def set_resources(self, resources: ResourceSpec | Mapping[str, Any] | None = None, **fields: Any) -> Self:
        """Say what the agent needs of a machine: ``num_cpus``, ``num_gpus``, ``custom_resources``."""
        return self._set("resources", {**plain(resources or {}), **fields})

    def set_qos(self, qos: QOSSpec | Mapping[str, Any] | None = None, **fields: Any) -> Self:
        """Say what the agent promises: ``timeout``, ``retry_count``, ``latency``."""
        return self._set("qos", {**plain(qos or {}), **fields})

    def validate(self) -> None:
        """Raise BuilderError ("Missing required fields") unless name and description are set."""
        refuse_missing(self._data, ("name", "description"))

    def build_spec(self) -> AgentSpec:
        """Make the spec; the builder can go on and make others.

        Raises:
            BuilderError: something is missing, or wrong; properties that do not fit the class, too.
        """
        self.validate()
        try:
            spec = AgentSpec.model_validate(plain(self._data))
        except ValidationError as error:
            raise BuilderError(f"agent {self._data['name']!r}: {reasons(error)}") from error
        self._check_properties(spec)
        return spec

    def _check_properties(self, spec: AgentSpec) -> None:
        wanted = self._agent_type.props_type
        if wanted is None:
            if spec.properties:
                raise BuilderError(f"agent {spec.name!r}: {spec.class_name} takes no properties")
            return
        try:
            wanted.model_validate(spec.properties)
        except ValidationError as error:
            raise BuilderError(f"agent {spec.name!r}: its properties do not fit: {reasons(error)}") from error

    def _set(self, field: str, value: Any) -> Self:
        self._data[field] = plain(value)
        return self
