"""The base class of all agents, and how one is built from its spec."""

import asyncio
import inspect
import os
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, Generic, Protocol, get_args, get_origin

import structlog
from pydantic import BaseModel, ValidationError
from typing_extensions import TypeVar

from rustic_host.errors import AgentError, AgentLoadError, HandlerTimeoutError
from rustic_host.guild.aliases import resolve_class
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.dependencies import (
    AgentDependency,
    DependencyResolver,
    NoOrganizationError,
    as_dependency,
    build_resolvers,
)
from rustic_host.guild.dispatch import HandleResult, Work, dispatch, report_unsurvived, work_of
from rustic_host.guild.dsl import AgentSpec, BaseAgentProps, GuildSpec
from rustic_host.guild.fixtures import AgentFixtures, Fixtures
from rustic_host.guild.handler_loop import HandlerLoop
from rustic_host.guild.hooks import Hooks, with_hooks
from rustic_host.guild.messages import SelfReadyNotification, format_of
from rustic_host.guild.processor import Handler, essential_topics_wanted, handlers_of, processor
from rustic_host.guild.publishing import publish
from rustic_host.guild.routing import Sender, reasons
from rustic_host.guild.scheduling import Scheduling
from rustic_host.guild.sending import new_message
from rustic_host.guild.time_limit import TimeLimit
from rustic_host.guild.timers import Ticking
from rustic_host.guild.topics import GuildTopics
from rustic_host.messaging import (
    AgentTag,
    GemstoneGenerator,
    GemstoneID,
    JsonDict,
    Message,
    Priority,
    ProcessEntry,
)
from rustic_host.messaging.delivery import Failed, Kept
from rustic_host.messaging.gemstone_id import wall_clock_ms
from rustic_host.telemetry.logs import get_logger

__all__ = ["Agent", "AgentFixtures", "ClientFactory", "ProcessContext", "Publisher", "build_agent", "processor"]

Props = TypeVar("Props", bound=BaseModel, default=BaseAgentProps)


class Publisher(Protocol):
    """What an agent needs of a messaging client."""

    id: str

    def publish(self, message: Message) -> None:
        """Publish; inside a handler, together with the acknowledgement of the message being handled."""

    def publish_now(self, message: Message, key: str) -> Message:
        """Publish at once; returns what an earlier run of the handler published under this key, if it did."""

    def kept(self) -> Mapping[str, bytes]:
        """What was published at once for the message being handled, by key, as JSON."""


ClientFactory = Callable[[str, str, Callable[[Message], object]], Publisher]
"""Makes the client of an agent from the client's id, its name, and what to call with each message."""


class Agent(Hooks, Scheduling, Generic[Props]):
    """Handles the messages of its topics, one at a time, by its methods marked with ``@processor``.

    A subclass may define ``__init__(self)``, without arguments: the framework builds the object, sets the attributes
    below, then calls it. ``class Mine(Agent[MyProps])`` types ``config``; a plain ``Agent`` has no properties.
    """

    props_type: ClassVar[type[BaseModel] | None] = None
    """The class of ``config``; None where the agent takes no properties."""
    _handlers: ClassVar[dict[str, Handler]] = {}
    _fixtures: ClassVar[Fixtures | None] = None
    """None where the class has none, so that such an agent pays nothing."""
    _route_to_default_topic = False
    """Whether a message that no rule addresses goes to ``default_topic`` rather than where its cause came from."""

    id: str
    name: str
    description: str
    guild_id: str
    agent_spec: AgentSpec
    guild_spec: GuildSpec
    config: Props
    logger: structlog.stdlib.BoundLogger
    handled_formats: list[str]
    """The formats that some handler takes by name; for reading only, dispatch does not ask it."""
    subscribed_topics: list[str]
    """The topics it reads. An essential one (``state_topic`` …) only if some handler of the agent asks for it."""
    _client: Publisher
    _generator: GemstoneGenerator
    _tag: AgentTag
    _self_inbox: str
    _inbox: str
    _type_names: frozenset[str]
    _route_external: bool
    _state: dict[str, Any]
    _taken_state: dict[str, Any]
    _state_version: int
    """How many changes of the state were committed, or are about to be."""
    _read_guild_state: Callable[[], dict[str, Any]] | None
    _seen_guild_state: dict[str, Any] | None
    """As read for the message in hand."""
    _heard_guild_state: dict[str, Any]
    """As last told, for an agent that cannot read it."""
    _next_guilds: deque[tuple[GuildSpec, float]]
    """The newest spec, handed over by another thread, and when that was."""
    _unsettled: bool
    """Whether there is something to do before the next message is handled."""
    _context: ProcessContext[Any] | None
    _done: dict[Work, dict[str, Any]]
    """By message that will be tried again: what its handlers did that did not fail."""
    _loop: HandlerLoop
    _time_limit: TimeLimit
    _organization: str | None
    _dependency_resolvers: dict[str, DependencyResolver[Any]]
    """By key: what handlers ask for, and the ``additional_dependencies`` of the spec."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._handlers = with_hooks(cls, handlers_of(cls))
        cls._hears_state = cls.on_state_updated is not Hooks.on_state_updated
        fixtures = Fixtures.of(cls)
        cls._fixtures = None if fixtures == Fixtures() else fixtures
        cls.props_type = _props_argument(cls) or cls.props_type

    @classmethod
    def get_qualified_class_name(cls) -> str:
        """Return the dotted name of the class."""
        return f"{cls.__module__}.{cls.__qualname__}"

    @classmethod
    def list_all_dependencies(cls) -> list[AgentDependency]:
        """List what the handlers ask for, each once, in the order of the handlers."""
        wanted: list[AgentDependency] = []
        for handler in cls._handlers.values():
            wanted += [dependency for dependency in handler.depends_on if dependency not in wanted]
        return wanted

    def get_spec(self) -> AgentSpec:
        """Return the spec that the agent was built from."""
        return self.agent_spec

    def get_agent_tag(self) -> AgentTag:
        """Return the agent's id and name."""
        return self._tag

    def get_organization(self) -> str:
        """Return the id of the organization that the guild runs for. Raises NoOrganizationError if there is none."""
        if not self._organization:
            raise NoOrganizationError(
                f"agent {self.name!r} has no organization: set the guild's property organization_id"
            )
        return self._organization

    def get_agent_state(self) -> dict[str, Any]:
        """Return the agent's state. It is for reading; :meth:`update_state` changes it."""
        return self._state

    def get_guild_state(self) -> dict[str, Any]:
        """Return the guild's state. It is for reading; :meth:`update_guild_state` changes it.

        It is read once for each message, and only if it is asked for. Raises MessagingError if it cannot be read.
        """
        if self._read_guild_state is None:
            return self._heard_guild_state
        if self._seen_guild_state is None:
            self._seen_guild_state, self._unsettled = self._read_guild_state(), True
        return self._seen_guild_state

    @property
    def _guild_state(self) -> dict[str, Any]:
        return self.get_guild_state()

    @_guild_state.setter
    def _guild_state(self, state: dict[str, Any]) -> None:
        self._heard_guild_state = state

    def update_state(
        self, ctx: ProcessContext[Any], update_format: str, update: Mapping[str, Any], update_path: str | None = None
    ) -> None:
        """Change the agent's state, at once for the agent, and in the store together with the handler's messages.

        See :func:`rustic_host.guild.state.apply_update`. Raises StateUpdateRefusedError; then nothing has changed.
        """
        self._change_state(update_format, dict(update), update_path, ctx)

    def update_guild_state(
        self, ctx: ProcessContext[Any], update_format: str, update: Mapping[str, Any], update_path: str | None = None
    ) -> None:
        """Ask the owner of the guild's state to change it."""
        ctx.update_guild_state(update_format, update, update_path)

    def take_state_change(self) -> dict[str, Any] | None:
        """Return the whole state if it has changed since the last call (or since it was restored), else None."""
        if self._state is self._taken_state:
            return None
        self._taken_state = self._state
        self._state_version += 1
        return self._state

    def restore_state(self, state: dict[str, Any]) -> None:
        """Go back to a state that was stored: what changed since is void."""
        self._state = self._taken_state = state

    def restore(self, kept: Kept) -> None:
        """Go back to the state and the timers that were stored."""
        self._done.clear()
        self.restore_state(kept.state)
        self._state_version = kept.version
        self._restore_timers(kept.timers)

    def undo(self) -> None:
        """Go back to the state and the timers that were taken last: the message in hand will be handled again."""
        self._state = self._taken_state
        self._undo_timers()

    def forget(self, message: Message) -> None:
        """A message is given up: what its handlers did that did not fail is not kept for another attempt."""
        super().forget(message)
        self._done.pop(work_of(message, message.topic_published_to or message.topic_list[0]), None)

    def report(self, message: Message, error: Exception) -> None:
        """Publish an ErrorMessage about a message that the agent's process did not survive."""
        report_unsurvived(self, message, error)

    def take_up_guild(self, guild_spec: GuildSpec) -> None:
        """Go by another spec of the guild from the next message on; any thread may call it."""
        self._next_guilds.append((guild_spec, wall_clock_ms()))
        self._unsettled = True

    @property
    def overdue(self) -> bool:
        """Whether a handler goes on long after its ``qos.timeout``; any thread may ask."""
        return self._time_limit.overdue

    def close(self) -> None:
        """End the event loop of the async handlers; what they left running is cancelled."""
        self._loop.close()

    def _on_message(self, message: Message) -> HandleResult:
        """Handle one message; errors of handlers are reported on ``error_topic``, not raised. It is tried once."""
        answer = self._on_delivery(message)
        if not isinstance(answer, Failed):
            return answer
        answer.conclude(True)
        return "error"

    def _on_delivery(self, message: Message) -> HandleResult | Failed:
        """Handle one message; when a handler raised, whoever delivers it decides whether it is tried again."""
        if self._unsettled:
            self._between_messages()
        if message.topic_published_to == self._self_inbox and not self._accept_from_self(message):
            return "unhandled"  # the tick of a timer that was cancelled, or of a twin
        return dispatch(self, message)

    def _between_messages(self) -> None:
        self._unsettled, self._seen_guild_state = False, None  # in this order: what is handed over now is seen below
        while self._next_guilds:
            self._use_guild(*self._next_guilds.popleft())

    def _call(self, handler: Handler, context: ProcessContext[Any], dependencies: Mapping[str, Any]) -> None:
        """Run one handler to its end."""
        method = getattr(self, handler.name)
        if self._time_limit.seconds is None:  # what follows would cost each message two microseconds
            result = method(context, **dependencies)
            if result is not None and asyncio.iscoroutine(result):
                self._loop.run(result)
            return

        def work() -> None:
            result = method(context, **dependencies)
            if asyncio.iscoroutine(result):
                self._run_async(handler, result)

        self._time_limit.call(handler.name, work, is_async=inspect.iscoroutinefunction(method))

    def _run_async(self, handler: Handler, work: Coroutine[Any, Any, Any]) -> None:
        try:
            self._loop.run(self._time_limit.limited(handler.name, work))
        except HandlerTimeoutError:
            self._loop.close()  # the alarm may have come between two steps of it
            raise

    def _resolve_dependencies(self, handler: Handler) -> dict[str, Any]:
        """Make what a handler asks for, by the names of its arguments; raises what a resolver raises."""
        return {dependency.variable_name: self._resolve(dependency) for dependency in handler.depends_on}

    def _resolve(self, dependency: AgentDependency) -> Any:
        resolver, organization = self._dependency_resolvers[dependency.dependency_key], self._organization or ""
        if dependency.org_level:
            return resolver.get_or_resolve(organization)
        return resolver.get_or_resolve(organization, self.guild_id, None if dependency.guild_level else self.id)

    def _as_sender(self, method_name: str) -> Sender:
        return Sender(self._tag, self._type_names, method_name)

    def _generate_id(self, priority: Priority = Priority.NORMAL) -> GemstoneID:
        return self._generator.get_id(priority)

    def _notify_ready(self) -> None:
        """Tell the agent's own handlers, through its self inbox, that it is built and subscribed."""
        self._send_to_self(SelfReadyNotification())

    def _send_to_self(self, payload: BaseModel) -> GemstoneID:
        """Send a model to the own self inbox; only handlers with ``handle_essential`` see it."""
        return self._send_dict_to_self(payload.model_dump(mode="json"), format_of(type(payload)))

    def _send_dict_to_self(self, payload: JsonDict, format: str = "generic_json") -> GemstoneID:
        """Send a JSON object to the own self inbox; only handlers with ``handle_essential`` see it."""
        new_id = self._generate_id()
        cause = self._context.message if self._context else None
        processor = f"{type(self).__name__}:self"
        message = new_message(
            new_id,
            sender=self._tag,
            topics=[self._self_inbox],
            payload=payload,
            format=format,
            routing_slip=self.guild_spec.routes,
            message_history=[ProcessEntry(agent=self._tag, origin=0, result=new_id.to_int(), processor=processor)],
            traceparent=cause.traceparent if cause else None,
        )
        if self._context is None:
            publish(self, [message])
        else:
            return self._context._put(message).id_obj
        return new_id


def build_agent(
    guild_spec: GuildSpec,
    agent_spec: AgentSpec,
    *,
    client_factory: ClientFactory,
    generator: GemstoneGenerator,
    state: dict[str, Any] | None = None,
    organization_id: str | None = None,
    environ: Mapping[str, str] = os.environ,
    guild_state: Callable[[], dict[str, Any]] | None = None,
    clock: Callable[[], int] = wall_clock_ms,
) -> Agent[Any]:
    """Build the agent that ``agent_spec`` describes; ``state`` is what it kept from before.

    ``guild_state`` reads the guild's state; without it the agent knows what is told on ``state_topic``. ``clock``
    (Unix milliseconds) is what timers go by.

    ``organization_id`` is that of the guild property of this name where it is None; ``environ`` names the file of
    dependencies. Raises AgentLoadError when its class (or that of a dependency) cannot be imported or is none of its
    kind, AgentError when its properties do not fit, a dependency is nowhere or its ``__init__`` raises, ConfigError
    when the file of dependencies is wrong.
    """
    cls = resolve_class(agent_spec.class_name)
    if not issubclass(cls, Agent):
        raise AgentLoadError(f"agent {agent_spec.name!r}: {agent_spec.class_name} is no Agent")
    agent = cls.__new__(cls)
    agent._read_guild_state, agent._timer_clock, agent._ticking = guild_state, clock, Ticking(clock)
    _set_up(agent, guild_spec, agent_spec, generator, state or {})
    agent._organization = organization_id or guild_spec.organization_id
    agent._dependency_resolvers = _resolvers(cls, guild_spec, agent_spec, environ)
    agent._client = client_factory(f"{guild_spec.id}${agent_spec.id}", agent_spec.name, agent._on_delivery)
    _initialize(agent)
    return agent


def _set_up(
    agent: Agent[Any], guild_spec: GuildSpec, spec: AgentSpec, generator: GemstoneGenerator, state: dict[str, Any]
) -> None:
    agent.id, agent.name, agent.description = spec.id, spec.name, spec.description
    agent.guild_id, agent.guild_spec, agent.agent_spec = guild_spec.id, guild_spec, spec
    agent.config = _properties(type(agent), spec)
    agent.logger = get_logger(type(agent).__module__).bind(guild=guild_spec.id, agent=spec.name, agent_id=spec.id)
    agent._generator = generator
    agent._tag = AgentTag(id=spec.id, name=spec.name)
    agent._self_inbox, agent._inbox = GuildTopics.self_inbox(spec.id), GuildTopics.inbox(spec.id)
    agent._type_names = frozenset({spec.class_name, type(agent).get_qualified_class_name()})
    agent._use_guild(guild_spec)
    agent._heard_guild_state, agent._seen_guild_state = {}, None
    agent._next_guilds, agent._unsettled = deque(maxlen=1), False
    agent._context, agent._loop, agent._done = None, HandlerLoop(), {}
    agent._time_limit = TimeLimit(spec.qos.timeout)
    agent.restore(Kept(state))
    agent.handled_formats = sorted({handler.format for handler in agent._handlers.values() if handler.format})
    essential = essential_topics_wanted(agent._handlers)
    agent.subscribed_topics = [*spec.subscribed_topics(), *sorted(essential - set(spec.subscribed_topics()))]


def _properties(cls: type[Agent[Any]], spec: AgentSpec) -> BaseModel:
    if cls.props_type is None:
        if spec.properties:
            given = ", ".join(sorted(spec.properties))
            raise AgentError(f"agent {spec.name!r}: {spec.class_name} takes no properties, but has {given}")
        return BaseAgentProps()
    try:
        return cls.props_type.model_validate(spec.properties)
    except ValidationError as error:
        raise AgentError(
            f"agent {spec.name!r}: its properties do not fit {spec.class_name}: {reasons(error)}"
        ) from error


def _resolvers(
    cls: type[Agent[Any]], guild_spec: GuildSpec, spec: AgentSpec, environ: Mapping[str, str]
) -> dict[str, DependencyResolver[Any]]:
    wanted = [*cls.list_all_dependencies(), *map(as_dependency, spec.additional_dependencies)]
    try:
        return build_resolvers((dependency.dependency_key for dependency in wanted), guild_spec, spec, environ)
    except AgentError as error:
        raise type(error)(f"agent {spec.name!r}: {error}") from error


def _initialize(agent: Agent[Any]) -> None:
    try:
        type(agent).__init__(agent)
    except Exception as error:
        kind = f"{type(error).__name__}: {error}"
        raise AgentError(f"agent {agent.name!r}: {agent.agent_spec.class_name}.__init__ raised {kind}") from error


def _props_argument(cls: type[Agent[Any]]) -> type[BaseModel] | None:
    """Return what stands in the brackets of ``class X(Agent[...])``, if it is a model."""
    for base in vars(cls).get("__orig_bases__", ()):
        origin = get_origin(base)
        if isinstance(origin, type) and issubclass(origin, Agent):
            argument = get_args(base)[0]
            if isinstance(argument, type) and issubclass(argument, BaseModel):
                return argument
    return None
