"""The manager of a guild: answers ``system_topic``, ``state_topic`` and ``heartbeat`` (facts 6.9).

The host runs one for each guild, in a thread. It is an agent like any other: what it keeps and what it answers are in
the commit of the message that it handles, so a change of the guild survives any crash, and is answered once.
"""

import functools
from collections.abc import Callable
from typing import Any, NoReturn

from pydantic import ValidationError

from rustic_host.agents.guild_control import GuildControl
from rustic_host.agents.health_keeper import HealthKeeper
from rustic_host.agents.state_keeper import StateKeeper
from rustic_host.errors import SpecError
from rustic_host.guild.changes import changed_spec, with_agent, with_route, without_agent, without_route
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.guild.guild_helper import GuildHelper
from rustic_host.guild.health import HeartbeatStatus
from rustic_host.guild.loader import load_guild_data
from rustic_host.guild.messages import ErrorMessage, SystemModel
from rustic_host.guild.processor import processor
from rustic_host.guild.routing import reasons
from rustic_host.guild.system_messages import (
    AddRoutingRuleRequest,
    AgentGetRequest,
    AgentInfoResponse,
    AgentLaunchRequest,
    AgentLaunchResponse,
    AgentListRequest,
    AgentListResponse,
    AgentRemovalResponse,
    BadInputResponse,
    ConflictResponse,
    GuildUpdatedAnnouncement,
    RemoveAgentRequest,
    RemoveRoutingRuleRequest,
    RoutingRuleUpdateResponse,
    RunningAgentListRequest,
    StopGuildRequest,
    StopGuildResponse,
    UserAgentCreationRequest,
    UserAgentCreationResponse,
    UserAgentGetRequest,
)
from rustic_host.guild.topics import GuildTopics
from rustic_host.messaging import JsonDict, Message

USER_PROXY = "rustic_ai.core.agents.utils.user_proxy_agent.UserProxyAgent"
"""The class that specs name; Rustic AI's front ends look for it in what is announced."""

TOPICS = [GuildTopics.SYSTEM, GuildTopics.HEARTBEAT, GuildTopics.STATE]

Handle = Callable[[Any, ProcessContext[Any]], None]


class _RefusedError(Exception):
    """What was asked is answered by a refusal."""

    def __init__(self, answer: SystemModel) -> None:
        super().__init__(str(answer))
        self.answer = answer


def _bad(field: str, message: str) -> NoReturn:
    raise _RefusedError(BadInputResponse(error_field=field, message=message))


def _conflict(field: str, message: str) -> NoReturn:
    raise _RefusedError(ConflictResponse(error_field=field, message=message))


def _answering(handle: Handle) -> Handle:
    """Answer a request that is malformed, or that ``handle`` refuses, by saying so."""

    @functools.wraps(handle)
    def answer(agent: "GuildManagerAgent", ctx: ProcessContext[Any]) -> None:
        try:
            request = ctx.payload
            asked = getattr(request, "guild_id", agent.guild_id)
            if asked != agent.guild_id:
                _bad("guild_id", f"Invalid guild id: {asked}")
            handle(agent, ctx)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"]
            ctx.send(BadInputResponse(error_field=".".join(map(str, first)) or "payload", message=reasons(error)))
        except _RefusedError as refusal:
            ctx.send(refusal.answer)

    return answer


def manager_spec(guild_id: str) -> AgentSpec:
    """Return the spec of a guild's manager."""
    return AgentSpec(
        id=GuildHelper.get_manager_agent_id(guild_id),
        name=GuildHelper.get_manager_agent_name(guild_id)[:64],
        description="Answers for the guild",
        class_name=GuildManagerAgent.get_qualified_class_name(),
        additional_topics=TOPICS,
        listen_to_default_topic=False,
    )


class GuildManagerAgent(StateKeeper, HealthKeeper):
    """Changes, lists and stops the agents of a guild, changes its routes, keeps its state, tells its health."""

    def __init__(self) -> None:
        self._written: GuildSpec = self.guild_spec
        self._forget_health()
        # Not guild_status_topic, where it only speaks.
        self.subscribed_topics = self.agent_spec.subscribed_topics()

    def attach(self, control: GuildControl, started_at: float) -> None:
        """Say who runs the guild, and since when (Unix time); before the first message."""
        self._control, self._started_at = control, started_at

    def restore_state(self, state: JsonDict) -> None:
        """Go by what is stored: the guild is to be as that says."""
        super().restore_state(state)
        if self._control is not None:
            self._forget_health()
            self._follow(changed_spec(self._written, state))

    @processor(AgentLaunchRequest)
    @_answering
    def launch_agent(self, ctx: ProcessContext[AgentLaunchRequest]) -> None:
        """Add an agent and start it."""
        spec = ctx.payload.agent_spec
        self._launch(ctx, spec, "agent_id", "agent_name")
        ctx.send(AgentLaunchResponse(agent_id=spec.id, status_code=201, status="Agent launched successfully"))

    @processor(RemoveAgentRequest)
    @_answering
    def remove_agent(self, ctx: ProcessContext[RemoveAgentRequest]) -> None:
        """Stop an agent, and forget it."""
        agent_id = ctx.payload.agent_id
        if self._by_id(agent_id) is None:
            self._report_missing(ctx, "AGENT_NOT_FOUND", f"Agent {agent_id} not found in guild {self.guild_id}")
            return
        self._change(ctx, without_agent(self._written, self._state, agent_id), "agent_id")
        ctx.send(AgentRemovalResponse(agent_id=agent_id, status_code=200, status="Agent removed successfully"))

    @processor(AddRoutingRuleRequest)
    @_answering
    def add_routing_rule(self, ctx: ProcessContext[AddRoutingRuleRequest]) -> None:
        """Add a rule; agents that run go by it from now on."""
        rule = ctx.payload.routing_rule
        if rule.hashid in self._hashes():
            _conflict("routing_rule", f"The guild has a routing rule with hashid {rule.hashid} already")
        self._change(ctx, with_route(self._written, self._state, rule), "routing_rule")
        self._tell_rule(ctx, rule.hashid, 201, "Routing rule added successfully")

    @processor(RemoveRoutingRuleRequest)
    @_answering
    def remove_routing_rule(self, ctx: ProcessContext[RemoveRoutingRuleRequest]) -> None:
        """Remove a rule; agents that run go by it no more."""
        hashid = ctx.payload.rule_hashid
        if hashid not in self._hashes():
            self._report_missing(ctx, "RULE_NOT_FOUND", f"Routing rule with hashid {hashid} not found")
            return
        self._change(ctx, without_route(self._written, self._state, hashid), "rule_hashid")
        self._tell_rule(ctx, hashid, 200, "Routing rule removed successfully")

    @processor(AgentListRequest)
    @_answering
    def list_agents(self, ctx: ProcessContext[AgentListRequest]) -> None:
        """List the agents of the guild."""
        ctx.send(AgentListResponse(agents=[_info(agent) for agent in self.guild_spec.agents]))

    @processor(RunningAgentListRequest)
    @_answering
    def list_running_agents(self, ctx: ProcessContext[RunningAgentListRequest]) -> None:
        """List those that are ready."""
        health = self.control.health()
        running = [a for a in self.guild_spec.agents if a.id in health and health[a.id].status == HeartbeatStatus.OK]
        ctx.send(AgentListResponse(agents=[_info(agent) for agent in running]))

    @processor(AgentGetRequest)
    @_answering
    def get_agent(self, ctx: ProcessContext[AgentGetRequest]) -> None:
        """Tell of one agent."""
        self._tell_agent(ctx, ctx.payload.agent_id, "agent_id", f"Invalid agent id: {ctx.payload.agent_id}")

    @processor(UserAgentCreationRequest)
    @_answering
    def create_user_agent(self, ctx: ProcessContext[UserAgentCreationRequest]) -> None:
        """Add the agent that stands for a user."""
        user = ctx.payload.user_id
        spec = AgentSpec(
            id=_user_agent_id(user),
            name=ctx.payload.user_name,
            description=f"Agent for user {user}",
            class_name=USER_PROXY,
            properties={"user_id": user},
        )
        self._launch(ctx, spec, "user_id", "user_name")
        answer = UserAgentCreationResponse(
            user_id=user,
            agent_id=spec.id,
            status_code=201,
            status="Agent created successfully",
            topic=f"user:{user}",
        )
        ctx.send(answer)

    @processor(UserAgentGetRequest)
    @_answering
    def get_user_agent(self, ctx: ProcessContext[UserAgentGetRequest]) -> None:
        """Tell of the agent that stands for a user."""
        user = ctx.payload.user_id
        self._tell_agent(ctx, _user_agent_id(user), "user_id", f"Invalid user id: {user}")

    @processor(StopGuildRequest)
    @_answering
    def stop_guild(self, ctx: ProcessContext[StopGuildRequest]) -> None:
        """End the guild. A request from before this start was for the run before."""
        if self._is_of_an_earlier_run(ctx.message):
            self.logger.warning("stop_request_too_old", message_id=ctx.message.id, consequence="the guild goes on")
            return
        self._tell(ctx, StopGuildResponse(user_id=ctx.payload.user_id), GuildTopics.STATUS)
        self.control.end()

    def _launch(self, ctx: ProcessContext[Any], spec: AgentSpec, id_field: str, name_field: str) -> None:
        if self._by_id(spec.id) is not None or spec.id == self.id:
            _conflict(id_field, f"Agent {spec.id} already exists")
        if any(agent.name == spec.name for agent in self.guild_spec.agents):
            _conflict(name_field, f"An agent with the name {spec.name} already exists")
        self._change(ctx, with_agent(self._written, self._state, spec), "agent_spec")

    def _change(self, ctx: ProcessContext[Any], state: JsonDict, field: str) -> None:
        """Change the guild, unless the spec that comes of it is wrong; announce it."""
        spec = changed_spec(self._written, state)
        try:
            load_guild_data(spec.model_dump(mode="json"), f"guild {self.guild_id}")
        except SpecError as error:
            _bad(field, str(error))
        self._state = state
        self._announce(ctx, spec)
        self._follow(spec)

    def _follow(self, spec: GuildSpec) -> None:
        self._use_guild(spec)
        self.control.apply(spec)

    def _announce(self, ctx: ProcessContext[Any], spec: GuildSpec) -> None:
        # Who hears this is on the bus already; its settings hold the password.
        properties = {key: value for key, value in spec.properties.items() if key != "messaging"}
        shown = spec.model_copy(update={"properties": properties})
        self._tell(ctx, GuildUpdatedAnnouncement(guild_id=self.guild_id, guild_spec=shown), GuildTopics.STATUS)

    def _tell_rule(self, ctx: ProcessContext[Any], hashid: str, code: int, status: str) -> None:
        ctx.send(RoutingRuleUpdateResponse(rule_hashid=hashid, status_code=code, status=status))

    def _tell_agent(self, ctx: ProcessContext[Any], agent_id: str, field: str, otherwise: str) -> None:
        agent = self._by_id(agent_id)
        if agent is None:
            _bad(field, otherwise)
        ctx.send(_info(agent))

    def _report_missing(self, ctx: ProcessContext[Any], error_type: str, message: str) -> None:
        agent_type = self.get_qualified_class_name()
        ctx.send_error(ErrorMessage(agent_type=agent_type, error_type=error_type, error_message=message))

    def _by_id(self, agent_id: str) -> AgentSpec | None:
        return next((agent for agent in self.guild_spec.agents if agent.id == agent_id), None)

    def _hashes(self) -> set[str]:
        return {rule.hashid for rule in self.guild_spec.routes.steps}

    def _is_of_an_earlier_run(self, message: Message) -> bool:
        return message.timestamp / 1000 < self._started_at


def _info(agent: AgentSpec) -> AgentInfoResponse:
    return AgentInfoResponse(id=agent.id, name=agent.name, description=agent.description, class_name=agent.class_name)


def _user_agent_id(user_id: str) -> str:
    return f"upa-{user_id}"
