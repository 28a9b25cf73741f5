"""Answers ``state_topic``: owns the guild's state, tells those of the agents, passes changes of theirs on to them."""

from datetime import datetime
from typing import Any

from rustic_host.agents.guild_control import Governor
from rustic_host.errors import AgentError, MessagingError
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.messages import SystemModel, format_of
from rustic_host.guild.processor import processor
from rustic_host.guild.state import StateUpdateRefusedError, apply_update, path_keys
from rustic_host.guild.state_messages import (
    GUILD_STATE_KEY,
    StateFetchError,
    StateFetchRequest,
    StateFetchResponse,
    StateUpdateError,
    StateUpdateRequest,
    StateUpdateResponse,
)
from rustic_host.guild.topics import GuildTopics
from rustic_host.messaging import JsonDict, Priority

VERSION_KEY, TIME_KEY = "guild_version", "guild_time"
"""Keys of the manager's state: changes of the guild's state so far, and when the last one was (ISO, local)."""


class StateKeeper(Governor):
    """The part of the manager that is about state."""

    @processor(StateFetchRequest, handle_essential=True)
    def get_state_handler(self, ctx: ProcessContext[StateFetchRequest]) -> None:
        """Tell a state, or a part of it."""
        request = ctx.payload
        try:
            self._check_owner(request)
            state, version, time = self._of(request)
            answer = StateFetchResponse(
                state_owner=request.state_owner,
                guild_id=request.guild_id,
                agent_id=request.agent_id,
                state=_part(state, request.state_path),
                state_path=request.state_path,
                version=version,
                timestamp=time,
                fetch_timestamp=_now(),
            )
        except (AgentError, MessagingError) as error:
            self._refuse(ctx, StateFetchError(state_fetch_request=request, error=str(error)))
        else:
            self._tell(ctx, answer, GuildTopics.STATE)

    @processor(StateUpdateRequest, handle_essential=True)
    def update_state_handler(self, ctx: ProcessContext[StateUpdateRequest]) -> None:
        """Change the guild's state, or pass the request on to the agent whose state it is about."""
        request = ctx.payload
        try:
            self._check_owner(request)
            if request.state_owner == "guild":
                self._update_guild(ctx, request)
            else:
                self._tell(ctx, request, GuildTopics.inbox(str(request.agent_id)), Priority.HIGH)
        except AgentError as error:
            self._refuse(ctx, StateUpdateError(state_update_request=request, error=str(error)))

    def _update_guild(self, ctx: ProcessContext[Any], request: StateUpdateRequest) -> None:
        state, version, _ = self._guild_state_now()
        if request.update_version not in (None, version):
            raise StateUpdateRefusedError(f"the update is for version {request.update_version}; this is {version}")
        changed = apply_update(state, request.update_format, request.state_update, request.update_path)
        time = _now()
        self._state = {**self._state, GUILD_STATE_KEY: changed, VERSION_KEY: version + 1, TIME_KEY: time}
        answer = StateUpdateResponse(
            state_owner="guild",
            guild_id=self.guild_id,
            agent_id=request.agent_id,
            state=changed,
            version=version + 1,
            timestamp=time,
        )
        self._tell(ctx, answer, GuildTopics.STATE)

    def _guild_state_now(self) -> tuple[JsonDict, int, str | None]:
        kept = self._state
        return kept.get(GUILD_STATE_KEY, {}), kept.get(VERSION_KEY, 0), kept.get(TIME_KEY)

    def _of(self, request: StateFetchRequest) -> tuple[JsonDict, int, str | None]:
        if request.state_owner == "guild":
            return self._guild_state_now()
        return *self.control.agent_state(str(request.agent_id)), None

    def _check_owner(self, request: StateFetchRequest | StateUpdateRequest) -> None:
        if request.guild_id != self.guild_id:
            raise AgentError(f"this is guild {self.guild_id!r}, not {request.guild_id!r}")
        if request.state_owner == "agent" and request.agent_id not in [agent.id for agent in self.guild_spec.agents]:
            raise AgentError(f"the guild has no agent with the id {request.agent_id!r}")

    def _refuse(self, ctx: ProcessContext[Any], answer: SystemModel) -> None:
        self._tell(ctx, answer, [GuildTopics.STATE, GuildTopics.ERROR], is_error=True)

    def _tell(
        self,
        ctx: ProcessContext[Any],
        answer: SystemModel,
        topics: str | list[str],
        priority: Priority = Priority.NORMAL,
        *,
        is_error: bool = False,
    ) -> None:
        """Send past all routes, and without them: answers of the framework are not for the guild's rules."""
        payload = answer.model_dump(mode="json")
        ctx._direct_send(
            priority,
            topics,
            payload,
            format_of(type(answer)),
            is_error_message=is_error,
            attach_guild_routes=False,
            reset_history=True,
        )


def _part(state: JsonDict, path: str | None) -> JsonDict:
    """The part of a state at ``path``; empty where nothing was kept yet."""
    part: Any = state
    for key in path_keys(path):
        if isinstance(part, list) and isinstance(key, int):
            part = part[key] if key < len(part) else {}
        elif isinstance(part, dict):
            part = part.get(key, {})
    if not isinstance(part, dict):
        raise AgentError(f"what the state has at {path!r} is no object")
    return part


def _now() -> str:
    return datetime.now().isoformat()
