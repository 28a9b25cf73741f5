"""What was changed in a guild while it ran: kept in the state of its manager, and laid over the spec at each start.

The state holds ``agents`` (spec by id, of those launched at run time), ``removed`` (ids of agents of the spec file) and
``routes``: ``added`` (rules) and ``removed`` (hashes of rules of the spec file). What the spec file has under the same
id or hash is not doubled.
"""

from collections.abc import Mapping
from typing import Any

from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.messaging import JsonDict, RoutingRule, RoutingSlip


def changed_spec(written: GuildSpec, state: Mapping[str, Any]) -> GuildSpec:
    """Return the guild as it is now; ``written`` is what the spec file says."""
    return written.model_copy(update={"agents": _agents(written, state), "routes": _routes(written, state)})


def with_agent(written: GuildSpec, state: Mapping[str, Any], spec: AgentSpec) -> JsonDict:
    """Return the state after the launch of an agent."""
    removed = [agent_id for agent_id in state.get("removed", ()) if agent_id != spec.id]
    if any(spec == agent for agent in written.agents):  # one of the file's that had been removed
        return {**state, "removed": removed}
    # An id of the file that was removed stays removed: the agent of that id is now another.
    return {**state, "agents": {**state.get("agents", {}), spec.id: spec.model_dump(mode="json")}}


def without_agent(written: GuildSpec, state: Mapping[str, Any], agent_id: str) -> JsonDict:
    """Return the state after the removal of an agent."""
    launched = {key: spec for key, spec in state.get("agents", {}).items() if key != agent_id}
    removed = list(state.get("removed", ()))
    if any(agent.id == agent_id for agent in written.agents) and agent_id not in removed:
        removed.append(agent_id)
    return {**state, "agents": launched, "removed": removed}


def with_route(written: GuildSpec, state: Mapping[str, Any], rule: RoutingRule) -> JsonDict:
    """Return the state after a rule was added."""
    added, removed = _route_changes(state)
    if rule in written.routes.steps and rule.hashid in removed:
        return _with_routes(state, added, [hashid for hashid in removed if hashid != rule.hashid])
    return _with_routes(state, [*added, rule.model_dump(mode="json")], removed)


def without_route(written: GuildSpec, state: Mapping[str, Any], hashid: str) -> JsonDict:
    """Return the state after the rules with this hash were removed."""
    added, removed = _route_changes(state)
    if any(rule.hashid == hashid for rule in written.routes.steps) and hashid not in removed:
        removed = [*removed, hashid]
    kept = [rule for rule in added if RoutingRule.model_validate(rule).hashid != hashid]
    return _with_routes(state, kept, removed)


def _agents(written: GuildSpec, state: Mapping[str, Any]) -> list[AgentSpec]:
    removed = set(state.get("removed", ()))
    agents = [agent for agent in written.agents if agent.id not in removed]
    known = {agent.id for agent in agents}
    launched = [AgentSpec.model_validate(spec) for spec in state.get("agents", {}).values()]
    return [*agents, *(agent for agent in launched if agent.id not in known)]


def _routes(written: GuildSpec, state: Mapping[str, Any]) -> RoutingSlip:
    added, removed = _route_changes(state)
    steps = [rule for rule in written.routes.steps if rule.hashid not in removed]
    known = {rule.hashid for rule in steps}
    more = [RoutingRule.model_validate(rule) for rule in added]
    return RoutingSlip(steps=[*steps, *(rule for rule in more if rule.hashid not in known)])


def _route_changes(state: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    routes = state.get("routes", {})
    return list(routes.get("added", ())), list(routes.get("removed", ()))


def _with_routes(state: Mapping[str, Any], added: list[Any], removed: list[str]) -> JsonDict:
    return {**state, "routes": {"added": added, "removed": removed}}
