"""``@processor``: which method of an agent handles which payloads."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from rustic_host.errors import AgentError
from rustic_host.guild.dependencies import AgentDependency, as_dependency
from rustic_host.guild.messages import format_of
from rustic_host.guild.topics import GuildTopics
from rustic_host.messaging import Message

Function = TypeVar("Function", bound=Callable[..., Any])
Predicate = Callable[[Any, Message], bool]

_MARK = "_rustic_processor"


@dataclass(frozen=True, slots=True)
class Handler:
    """One method marked by :func:`processor`."""

    name: str
    model: type[BaseModel] | None
    """The class of the payload; None for a raw handler, which takes any payload as a dict."""
    format: str | None
    """The format it takes; None is any."""
    predicate: Predicate | None
    handle_essential: bool
    depends_on: tuple[AgentDependency, ...]


def processor(
    clz: Any,
    predicate: Predicate | None = None,
    handle_essential: bool = False,
    depends_on: Sequence[str | AgentDependency] | None = None,
) -> Callable[[Function], Function]:
    """Mark a method ``(self, ctx)``, plain or ``async``, as the handler of payloads of ``clz``.

    ``clz`` is a pydantic model, or ``JsonDict`` for a raw handler of every format. ``predicate(self, message)`` says
    whether this message is taken. Only handlers with ``handle_essential`` see the essential topics and the agent's
    self inbox. ``depends_on`` names dependencies that are passed as keyword arguments, each as an AgentDependency or a
    text (see :meth:`~rustic_host.guild.dependencies.AgentDependency.from_string`). Raises AgentError for another
    ``clz``, a wrong dependency, or a method that yields.
    """
    model, dependencies = _payload_model(clz), _dependencies(depends_on or ())

    def mark(function: Function) -> Function:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise AgentError(f"the handler {function.__name__!r} yields, so nobody would run it: send instead")
        name, format_name = function.__name__, format_of(model) if model else None
        handler = Handler(name, model, format_name, predicate, handle_essential, dependencies)
        setattr(function, _MARK, handler)
        return function

    return mark


def handlers_of(cls: type) -> dict[str, Handler]:
    """Return the handlers of an agent class by method name, base classes first, in the order of definition.

    A method that is defined again replaces the inherited one; without the mark it switches that handler off.
    """
    handlers: dict[str, Handler] = {}
    for klass in reversed(cls.__mro__):
        for name, value in vars(klass).items():
            handler = getattr(value, _MARK, None)
            if isinstance(handler, Handler):
                handlers[name] = handler
            else:
                handlers.pop(name, None)
    return handlers


def essential_topics_wanted(handlers: Mapping[str, Handler]) -> frozenset[str]:
    """Return the essential topics that some handler asks for, by the formats that travel on each."""
    wanted: set[str] = set()
    for handler in handlers.values():
        if handler.handle_essential:
            wanted |= _topics_of_format(handler.format)
    return frozenset(wanted)


_TOPICS_OF_FORMATS: tuple[tuple[str, frozenset[str]], ...] = (
    ("rustic_ai.core.guild.agent_ext.mixins.health.AgentsHealthReport", frozenset({GuildTopics.STATUS})),
    ("rustic_ai.core.guild.agent_ext.mixins.health.", frozenset({GuildTopics.HEARTBEAT})),
    ("rustic_ai.core.state.models.", frozenset({GuildTopics.STATE})),
    ("rustic_ai.core.agents.system.models.", frozenset({GuildTopics.STATUS})),
    # These come through the self inbox, which every agent reads.
    ("rustic_ai.core.guild.agent.SelfReadyNotification", frozenset()),
    ("rustic_ai.core.guild.agent_ext.mixins.scheduler.", frozenset()),
)


def _topics_of_format(name: str | None) -> frozenset[str]:
    for prefix, topics in _TOPICS_OF_FORMATS:
        if name is not None and name.startswith(prefix):
            return topics
    return frozenset(GuildTopics.ESSENTIAL)


def _dependencies(given: Sequence[str | AgentDependency]) -> tuple[AgentDependency, ...]:
    if isinstance(given, str):
        raise AgentError(f"depends_on takes a list, not the text {given!r}")
    dependencies = tuple(as_dependency(dependency) for dependency in given)
    names = [dependency.variable_name for dependency in dependencies]
    if len(set(names)) < len(names):
        raise AgentError(f"depends_on gives one argument twice: {', '.join(names)}")
    return dependencies


def _payload_model(clz: Any) -> type[BaseModel] | None:
    if inspect.isclass(clz) and issubclass(clz, BaseModel):
        return clz
    # JsonDict is an alias, dict[str, …], and some write the bare dict.
    if clz is dict or getattr(clz, "__origin__", None) is dict:
        return None
    raise AgentError(f"@processor takes a pydantic model or JsonDict, not {clz!r}")
