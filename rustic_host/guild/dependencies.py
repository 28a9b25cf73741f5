"""What handlers ask for by name: how it is named, who makes it, and where the name is looked up.

A handler says ``depends_on=["llm"]`` and gets ``llm`` as a keyword argument. What makes it is a resolver, a class named
in the ``dependency_map`` of the agent, else of the guild, else in the file ``conf/agent-dependencies.yaml``. Each agent
has resolvers of its own; each remembers what it made, for the agent, its guild or its organization.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError

from rustic_host.errors import AgentError, ConfigError
from rustic_host.guild.aliases import resolve_class
from rustic_host.guild.document import Document
from rustic_host.guild.dsl import AgentSpec, DependencySpec, GuildSpec
from rustic_host.guild.problems import did_you_mean, errors_of, one_of
from rustic_host.guild.routing import reasons
from rustic_host.guild.schema import found, validate
from rustic_host.guild.yaml_source import read_document
from rustic_host.telemetry.logs import get_logger

__all__ = ["AgentDependency", "DependencyResolver", "DependencySpec", "NoOrganizationError"]

ORG_GLOBAL = "ORG_GLOBAL"
"""Stands for guild and agent when something is made for a whole organization; the word is Rustic AI's."""
GUILD_GLOBAL = "GUILD_GLOBAL"
"""Stands for the agent when something is made for a whole guild; the word is Rustic AI's."""

CONFIG_VARIABLE = "RUSTIC_AI_DEPENDENCY_CONFIG"
DEFAULT_CONFIG = "conf/agent-dependencies.yaml"

T = TypeVar("T")
D = TypeVar("D")

log = get_logger(__name__)


class NoOrganizationError(AgentError, ValueError):
    """An agent was asked for its organization and has none."""


class AgentDependency(BaseModel):
    """What a handler needs: the key it is found by, the argument it comes in, and whom it is shared with."""

    dependency_key: str = Field(min_length=1)
    dependency_var: str | None = None
    """Name of the keyword argument; the key where it is None."""
    guild_level: bool = False
    org_level: bool = False
    """Wins over ``guild_level``."""

    @property
    def variable_name(self) -> str:
        """Name of the keyword argument."""
        return self.dependency_var or self.dependency_key

    @property
    def agent_level(self) -> bool:
        """Whether it is made for the agent alone."""
        return not (self.guild_level or self.org_level)

    @classmethod
    def from_string(cls, text: str) -> Self:
        """Read ``key``, ``key:variable``, ``key:guild``, ``key:org`` or ``key:variable:scope``.

        A scope is ``guild`` (or ``true``), ``org``, or ``agent`` (or ``false``, or nothing). Raises AgentError.
        """
        key, *rest = [part.strip() for part in text.split(":")]
        if len(rest) == 1 and rest[0].lower() in ("guild", "org"):
            rest = ["", *rest]
        variable, scope = [*rest, "", ""][:2]
        if not key or len(rest) > 2 or scope.lower() not in _SCOPES:
            raise AgentError(f"{text!r} is no dependency; expected `key`, `key:variable` or `key:variable:guild|org`")
        return cls(dependency_key=key, dependency_var=variable or None, **_SCOPES[scope.lower()])


_SCOPES: Mapping[str, dict[str, bool]] = {
    "guild": {"guild_level": True},
    "true": {"guild_level": True},
    "org": {"org_level": True},
    "agent": {},
    "false": {},
    "": {},
}


class DependencyResolver(ABC, Generic[T]):
    """Makes one kind of dependency. A subclass takes the ``properties`` of the spec as keyword arguments."""

    memoize_resolution: bool = True
    """Whether what was made is handed out again to the same scope; a class may say False."""
    _resolved: dict[tuple[str, str, str], T]
    _specs: Mapping[str, DependencySpec]
    _injectors: "dict[str, DependencyResolver[Any]]"

    def __new__(cls, *arguments: Any, **properties: Any) -> Self:
        """Make what every resolver has; not in ``__init__``, which subclasses tend to write without calling ours."""
        self = super().__new__(cls)
        self._resolved, self._specs, self._injectors = {}, {}, {}
        return self

    @abstractmethod
    def resolve(self, org_id: str, guild_id: str, agent_id: str) -> T:
        """Make it. ``guild_id`` and ``agent_id`` can be ORG_GLOBAL, ``agent_id`` GUILD_GLOBAL; ``org_id`` empty."""

    def get_or_resolve(self, org_id: str, guild_id: str | None = None, agent_id: str | None = None) -> T:
        """Return it for an agent, for a guild (without ``agent_id``) or for an organization; made once for each."""
        scope = (org_id, guild_id or ORG_GLOBAL, (agent_id or GUILD_GLOBAL) if guild_id else ORG_GLOBAL)
        if not self.memoize_resolution:
            return self.resolve(*scope)
        if scope not in self._resolved:
            self._resolved[scope] = self.resolve(*scope)
        return self._resolved[scope]

    def set_dependency_specs(self, specs: Mapping[str, DependencySpec]) -> None:
        """Tell the resolver what else can be had, for :meth:`inject`."""
        self._specs = specs

    def inject(self, cls: type[D], name: str, org_id: str, guild_id: str, agent_id: str | None = None) -> D:
        """Return another dependency, by its key, for use in :meth:`resolve`.

        Raises AgentError when there is none of that key, or it is no ``cls``.
        """
        if name not in self._injectors:
            self._injectors[name] = build_resolver(name, self._specs)
        found = self._injectors[name].get_or_resolve(org_id, guild_id, agent_id)
        if not isinstance(found, cls):
            raise AgentError(f"the dependency {name!r} is a {type(found).__name__}, not a {cls.__name__}")
        return found

    @classmethod
    def get_qualified_class_name(cls) -> str:
        """Return the dotted name of the class."""
        return f"{cls.__module__}.{cls.__qualname__}"


def as_dependency(given: "str | AgentDependency | Mapping[str, Any]") -> AgentDependency:
    """Return the dependency that a text, a mapping or a dependency says. Raises AgentError."""
    if isinstance(given, AgentDependency):
        return given
    if isinstance(given, str):
        return AgentDependency.from_string(given)
    try:
        return AgentDependency.model_validate(given)
    except ValidationError as error:
        raise AgentError(f"{given!r} is no dependency: {reasons(error)}") from error


def build_resolvers(
    keys: Iterable[str], guild_spec: GuildSpec, agent_spec: AgentSpec, environ: Mapping[str, str]
) -> dict[str, DependencyResolver[Any]]:
    """Build the resolver of each key. Reads the file of dependencies only if there are keys.

    Raises AgentError for a key that is nowhere, or a resolver that cannot be built; AgentLoadError for a class that
    cannot be imported; ConfigError for a file that is wrong.
    """
    wanted = list(dict.fromkeys(keys))
    if not wanted:
        return {}
    specs = {**configured_dependencies(environ), **guild_spec.dependency_map, **agent_spec.dependency_map}
    return {key: build_resolver(key, specs) for key in wanted}


def build_resolver(key: str, specs: Mapping[str, DependencySpec]) -> DependencyResolver[Any]:
    """Build the resolver of one key. Raises as :func:`build_resolvers`."""
    spec = specs.get(key)
    if spec is None:
        hint = did_you_mean(key, specs)
        raise AgentError(f"{nothing_provides(key, specs)}{f' ({hint})' if hint else ''}")
    cls = resolver_class(key, spec.class_name)
    try:
        resolver = cls(**spec.properties)
    except Exception as error:
        kind = f"{type(error).__name__}: {error}"
        raise AgentError(f"dependency {key!r}: {spec.class_name} cannot be built: {kind}") from error
    resolver.set_dependency_specs(specs)
    return resolver


def nothing_provides(key: str, specs: Iterable[str]) -> str:
    """Say that a key is in no dependency_map, and which keys are."""
    known = sorted(specs)
    return f"nothing provides the dependency {key!r}; " + (
        f"there is {one_of(known)}" if known else "no dependency_map has any"
    )


def resolver_class(key: str, class_name: str) -> type[DependencyResolver[Any]]:
    """Import a resolver's class. Raises AgentLoadError when that fails, AgentError when it is none."""
    cls = resolve_class(class_name)
    if not issubclass(cls, DependencyResolver):
        raise AgentError(f"dependency {key!r}: {class_name} is no DependencyResolver")
    return cls


def configured_dependencies(environ: Mapping[str, str]) -> dict[str, DependencySpec]:
    """Read the file of dependencies: the one the environment names, else the default one if it is there.

    A file that is named and missing gives a warning and nothing. Raises ConfigError for one that is wrong.
    """
    document, specs = inspect_dependencies(environ)
    problems = errors_of(document.sorted_problems()) if document else []
    if problems:
        raise ConfigError("\n".join(str(problem) for problem in problems))
    return specs


def inspect_dependencies(environ: Mapping[str, str]) -> tuple[Document | None, dict[str, DependencySpec]]:
    """Read that file and return it, if there is one, with what is wrong in it, and the resolvers that are right."""
    named = environ.get(CONFIG_VARIABLE)
    path = Path(named or DEFAULT_CONFIG)
    if not path.is_file():
        if named:
            log.warning("dependency_config_missing", path=str(path.absolute()), variable=CONFIG_VARIABLE)
        return None, {}
    document = read_document(path)
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        document.error((), f"this is {found(data)}; expected a mapping from keys to resolvers")
        data = {}
    specs = {key: validate(document, DependencySpec, (key,)) for key in data}
    return document, {key: spec for key, spec in specs.items() if spec is not None}
