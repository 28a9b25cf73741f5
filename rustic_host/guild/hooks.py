"""What every agent has besides its handlers: health, state kept by others, and news of the guild.

A hook is a method that a class may define anew. Only then the agent reads the topic that the hook is about, so an agent
pays for none that it does not use.
"""

from datetime import datetime
from typing import Any, ClassVar

import structlog
from pydantic import BaseModel

from rustic_host.guild.context import ProcessContext
from rustic_host.guild.dsl import GuildSpec
from rustic_host.guild.health import HealthCheckRequest, Heartbeat, HeartbeatStatus
from rustic_host.guild.messages import SelfReadyNotification, format_of
from rustic_host.guild.processor import Handler
from rustic_host.guild.state import StateUpdateRefusedError, apply_update
from rustic_host.guild.state_messages import (
    StateFetchRequest,
    StateFetchResponse,
    StateOwner,
    StateUpdateError,
    StateUpdateRequest,
    StateUpdateResponse,
)
from rustic_host.guild.system_messages import GuildUpdatedAnnouncement
from rustic_host.guild.topics import GuildTopics
from rustic_host.messaging import Priority
from rustic_host.messaging.gemstone_id import wall_clock_ms


def _handler(name: str, model: type[BaseModel], *, essential: bool = True) -> Handler:
    return Handler(name, model, format_of(model), None, essential, ())


STATE_REQUEST_HANDLER = _handler("_hook_state_request", StateUpdateRequest, essential=False)
"""Takes the requests that come to an agent's inbox; they are for no other handler."""


class Hooks:
    """The hooks of an agent, and what calls them."""

    id: str
    guild_id: str
    guild_spec: GuildSpec
    logger: structlog.stdlib.BoundLogger
    _handlers: ClassVar[dict[str, Handler]]
    _state: dict[str, Any]
    _taken_state: dict[str, Any]
    _state_version: int
    _heard_guild_state: dict[str, Any]
    _guild_as_of: float
    """When the spec in use was the newest, in Unix milliseconds."""
    _route_external: bool
    _hears_state: ClassVar[bool] = False
    """Whether the class defines ``on_state_updated``."""
    _in_hook = False

    @property
    def answers_health(self) -> bool:
        """Whether the agent itself answers health checks; the host answers for all others."""
        wanted = format_of(HealthCheckRequest)
        return any(handler.format == wanted and handler.handle_essential for handler in self._handlers.values())

    def healthcheck(self, checktime: datetime) -> Heartbeat:
        """Hook: say how the agent is. ``checktime`` is when it was asked (naive local time).

        A class that defines it reads ``heartbeat`` and answers there; when it raises, the answer is ``error``.
        """
        return _heartbeat(checktime, HeartbeatStatus.OK)

    def on_state_updated(self, state: dict[str, Any], ctx: ProcessContext[Any]) -> None:
        """Hook: the agent's state was changed, or a state of its own or of the guild was told on ``state_topic``.

        A class that defines it reads ``state_topic``. What the hook itself changes does not call it again. The payload
        of ``ctx`` is a StateUpdateResponse or StateFetchResponse, also when a handler of the agent changes the state.
        """

    def guild_refresh_handler(self, ctx: ProcessContext[Any]) -> None:
        """Hook: the guild's spec was changed; ``self.guild_spec`` is the new one already (or one newer still).

        A class that defines it reads ``guild_status_topic``.
        """

    def request_state(self, ctx: ProcessContext[Any]) -> None:
        """Ask for the agent's own state on ``state_topic``; the answer goes to :meth:`on_state_updated`."""
        _fetch(self, StateOwner.AGENT, ctx)

    def request_guild_state(self, ctx: ProcessContext[Any]) -> None:
        """Ask for the guild's state on ``state_topic``; the answer goes to :meth:`on_state_updated`."""
        _fetch(self, StateOwner.GUILD, ctx)

    def _hook_own_state(self, state: dict[str, Any], ctx: ProcessContext[Any]) -> None:
        if self._hears_state and not self._in_hook:
            self._in_hook = True
            try:
                self.on_state_updated(state, ctx)
            finally:
                self._in_hook = False

    def _hook_state(self, ctx: ProcessContext[StateFetchResponse | StateUpdateResponse]) -> None:
        told = ctx.payload
        if told.guild_id != self.guild_id:
            return
        if told.state_owner == StateOwner.GUILD:
            self._heard_guild_state = told.state
        if told.state_owner == StateOwner.GUILD or told.agent_id == self.id:
            self._hook_own_state(told.state, ctx)

    def _hook_state_request(self, ctx: ProcessContext[StateUpdateRequest]) -> None:
        """Change the state as somebody asks, and say on ``state_topic`` how it is then, or why it stays."""
        request = ctx.payload
        try:
            _require_applicable(self, request)
            self._change_state(request.update_format, request.state_update, request.update_path, ctx)
        except StateUpdateRefusedError as error:
            _say(ctx, GuildTopics.STATE, StateUpdateError(state_update_request=request, error=str(error)))
            return
        _say(ctx, GuildTopics.STATE, self._own_state_told())

    def _own_state_told(self) -> StateUpdateResponse:
        return StateUpdateResponse(
            state_owner=StateOwner.AGENT,
            guild_id=self.guild_id,
            agent_id=self.id,
            state=self._state,
            # That of the commit which the change goes with.
            version=self._state_version + (self._state is not self._taken_state),
            timestamp=datetime.now().isoformat(),
        )

    def _hook_health(self, ctx: ProcessContext[HealthCheckRequest]) -> None:
        _beat(self, ctx, ctx.payload.checktime)

    def _hook_first_heartbeat(self, ctx: ProcessContext[SelfReadyNotification]) -> None:
        _beat(self, ctx, datetime.now())

    def _hook_guild(self, ctx: ProcessContext[GuildUpdatedAnnouncement]) -> Any:
        if ctx.payload.guild_id != self.guild_id:
            return None
        if ctx.message.timestamp >= self._guild_as_of:  # after a restart, old news may still be waiting
            self._use_guild(ctx.payload.guild_spec, ctx.message.timestamp)
        hook: Any = self.guild_refresh_handler
        return hook(ctx)  # a coroutine, if the hook is async

    def _use_guild(self, guild_spec: GuildSpec, as_of: float | None = None) -> None:
        self.guild_spec, self._guild_as_of = guild_spec, wall_clock_ms() if as_of is None else as_of
        self._route_external = guild_spec.properties.get("route_external") is not False

    def _change_state(self, form: str, update: dict[str, Any], path: str | None, ctx: Any) -> None:
        self._state = apply_update(self._state, form, update, path)
        if self._hears_state and not self._in_hook:
            with ctx.showing(self._own_state_told()):  # what was told, as for a change that somebody else makes
                self._hook_own_state(self._state, ctx)


class GuildRefreshMixin:
    """Rustic AI's sign of an agent with a ``guild_refresh_handler``; here defining that method is enough."""


def with_hooks(cls: type[Hooks], own: dict[str, Handler]) -> dict[str, Handler]:
    """Return the handlers of a class with those that call the hooks it defines.

    A hook that is marked as a handler itself, and a health check that a handler of the class answers, are left alone.
    """
    added: list[Handler] = []
    if cls.on_state_updated is not Hooks.on_state_updated:
        added += [_handler("_hook_state", model) for model in (StateFetchResponse, StateUpdateResponse)]
    asked = format_of(HealthCheckRequest)
    if cls.healthcheck is not Hooks.healthcheck and not any(handler.format == asked for handler in own.values()):
        added += [
            _handler("_hook_health", HealthCheckRequest),
            _handler("_hook_first_heartbeat", SelfReadyNotification),
        ]
    if cls.guild_refresh_handler is not Hooks.guild_refresh_handler and "guild_refresh_handler" not in own:
        added.append(_handler("_hook_guild", GuildUpdatedAnnouncement))
    return {**{f"{handler.name}:{handler.format}": handler for handler in added}, **own}


def _fetch(agent: Hooks, owner: StateOwner, ctx: ProcessContext[Any]) -> None:
    _say(ctx, GuildTopics.STATE, StateFetchRequest(state_owner=owner, guild_id=agent.guild_id, agent_id=agent.id))


def _require_applicable(agent: Hooks, request: StateUpdateRequest) -> None:
    if (request.state_owner, request.guild_id, request.agent_id) != ("agent", agent.guild_id, agent.id):
        raise StateUpdateRefusedError(f"this is the agent {agent.id} of the guild {agent.guild_id}")
    if request.update_version not in (None, agent._state_version):
        raise StateUpdateRefusedError(
            f"the state is of version {agent._state_version}, not {request.update_version}: read it again"
        )


def _beat(agent: Hooks, ctx: ProcessContext[Any], checktime: datetime) -> None:
    try:
        heartbeat = agent.healthcheck(checktime)
    except Exception as error:
        agent.logger.exception("healthcheck_failed")
        heartbeat = _heartbeat(checktime, HeartbeatStatus.ERROR, error=str(error) or type(error).__name__)
    _say(ctx, GuildTopics.HEARTBEAT, heartbeat)


def _heartbeat(checktime: datetime, status: HeartbeatStatus, **more: Any) -> Heartbeat:
    now = datetime.now()
    latency = (now - checktime).total_seconds() * 1000
    meta = {"qos_latency": None, "observed_latency": latency, **more}
    return Heartbeat(checktime=checktime, checkstatus=status, responsetime=now, checkmeta=meta)


def _say(ctx: ProcessContext[Any], topic: str, payload: BaseModel) -> None:
    # Without the history of the cause: beats and answers would grow with every round (facts 12.32).
    body = payload.model_dump(mode="json")
    ctx._direct_send(Priority.HIGH, topic, body, format_of(type(payload)), reset_history=True)
