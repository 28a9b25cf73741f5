"""Where a payload goes: the rules of a routing slip, applied to one payload that a handler sends.

Everything here is a function of its arguments: a slip is never changed but replaced, so the slips of several messages
can share their steps.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from rustic_host.errors import RoutingError
from rustic_host.guild.expressions import evaluate
from rustic_host.guild.topics import GuildTopics
from rustic_host.messaging import (
    AgentTag,
    ForwardHeader,
    FunctionalTransformer,
    JsonDict,
    Message,
    PayloadTransformer,
    Priority,
    ProcessStatus,
    RoutingDestination,
    RoutingOrigin,
    RoutingRule,
    RoutingSlip,
    StateTransformer,
)
from rustic_host.messaging.short_cuts import made

ANYONE = AgentTag(id=None)
"""The pattern that matches every agent."""

ERROR_RULE = RoutingRule(agent=ANYONE, destination=RoutingDestination(topics=GuildTopics.ERROR))
"""The rule that every error message follows besides those of the slip."""


_NOWHERE = RoutingDestination()

# Wildcards, the parent, the input as a whole ($), an escaped name: JSONata can come by it without its name.
_GUILD_STATE_OR_ALL = re.compile(r"guild_state|[*%]|\$(?![A-Za-z_])|\\u")


class Sender(NamedTuple):
    """Who sends, as rules see it: the tag, the names of the agent's class, and the handler's method."""

    tag: AgentTag
    type_names: frozenset[str]
    method_name: str


@dataclass(slots=True)
class Routable:
    """One payload on its way to a message: what rules may decide."""

    topics: str | list[str]
    priority: Priority
    payload: JsonDict
    format: str
    recipient_list: list[AgentTag] = field(default_factory=list)
    forward_header: ForwardHeader | None = None
    context: JsonDict = field(default_factory=dict)
    enrich_with_history: int | None = 0
    process_status: ProcessStatus | None = None


class View(NamedTuple):
    """What the expressions of a rule can see besides the message being sent."""

    origin: Message
    agent_state: JsonDict
    guild_state: Callable[[], JsonDict]
    """Called only for an expression that may look at it: it can cost a question to the server."""


class Routed(NamedTuple):
    """What one rule makes of a payload: the message's parts, and the state updates that come with it."""

    parts: Routable
    agent_state_update: JsonDict | None
    guild_state_update: JsonDict | None


def take_steps(
    slip: RoutingSlip | None, sender: Sender, origin: Message, message_format: str
) -> tuple[list[RoutingRule], RoutingSlip | None]:
    """Return the rules that apply to a payload of ``message_format``, and the slip that remains after them."""
    if slip is None or not slip.steps:
        return [], slip
    taken = [step for step in slip.steps if matches(step, sender, origin, message_format)]
    return taken, _without(slip, taken) if taken else slip


def matches(rule: RoutingRule, sender: Sender, origin: Message, message_format: str) -> bool:
    """Return whether every criterion that the rule states is met."""
    return (
        (rule.message_format is None or rule.message_format == message_format)
        and (rule.method_name is None or rule.method_name == sender.method_name)
        and (rule.agent is None or rule.agent.matches(sender.tag))
        and (rule.agent_type is None or any(_is_type(rule.agent_type, name) for name in sender.type_names))
        and (rule.origin_filter is None or _origin_matches(rule.origin_filter, origin))
    )


def apply_rule(rule: RoutingRule | None, draft: Routable, view: View) -> Routed:
    """Apply one rule (None is the implicit rule without a destination) to ``draft``, which stays as it is.

    Raises RoutingError when an expression fails, gives nothing, or gives what no message can hold.
    """
    if rule is None:
        return Routed(draft, None, None)
    parts = _addressed(rule, draft, view.origin)
    if rule.transformer is None and rule.agent_state_update is None and rule.guild_state_update is None:
        return Routed(parts, None, None)
    transformed = _transformed(rule.transformer, parts, view)

    def environment(expression: str) -> JsonDict:
        return {**_surroundings(view, expression), "untransformed": _as_json(parts), **_as_json(transformed)}

    return Routed(
        transformed,
        _state_update("agent_state_update", rule.agent_state_update, environment),
        _state_update("guild_state_update", rule.guild_state_update, environment),
    )


def describe(rule: RoutingRule | None) -> str:
    """Return the rule as JSON of the keys it sets, for error messages."""
    return "(implicit)" if rule is None else rule.model_dump_json(exclude_defaults=True, exclude_none=True)


def forward_header_for(origin: Message) -> ForwardHeader:
    """Return the origin's forward header, or the one that says the origin was passed on."""
    return origin.forward_header or ForwardHeader(origin_message_id=origin.id, on_behalf_of=origin.sender)


def _without(slip: RoutingSlip, taken: list[RoutingRule]) -> RoutingSlip:
    # A count below zero is endless; counting it down, as Rustic AI does, would only make the slip differ.
    counted = [id(step) for step in taken if step.route_times >= 0]
    if not counted:
        return slip
    remaining = []
    for step in slip.steps:
        if id(step) not in counted:
            remaining.append(step)
        elif step.route_times > 1:
            remaining.append(step.model_copy(update={"route_times": step.route_times - 1}))
    return made(RoutingSlip, {"steps": remaining}, {"steps"})


def _is_type(pattern: str, name: str) -> bool:
    return pattern == name or (any(sign in pattern for sign in "*?[") and fnmatchcase(name, pattern))


def _origin_matches(wanted: RoutingOrigin, origin: Message) -> bool:
    return (
        (wanted.origin_sender is None or wanted.origin_sender.matches(origin.sender))
        and (wanted.origin_topic is None or wanted.origin_topic == origin.topic_published_to)
        and (wanted.origin_message_format is None or wanted.origin_message_format == origin.format)
    )


def _addressed(rule: RoutingRule, draft: Routable, origin: Message) -> Routable:
    to, forward_header = rule.destination or _NOWHERE, draft.forward_header
    if rule.mark_forwarded and forward_header is None:
        forward_header = forward_header_for(origin)
    # Written out: this runs for each rule of each payload, and dataclasses.replace takes seven times as long.
    return Routable(
        topics=to.topics or draft.topics,
        # Not "or": priority 0 is URGENT.
        priority=draft.priority if to.priority is None else to.priority,
        payload=draft.payload,
        format=draft.format,
        recipient_list=to.recipient_list or draft.recipient_list,
        forward_header=forward_header,
        context=draft.context,
        enrich_with_history=draft.enrich_with_history,
        process_status=rule.process_status or draft.process_status,
    )


def _transformed(
    transformer: PayloadTransformer | FunctionalTransformer | None, parts: Routable, view: View
) -> Routable:
    if isinstance(transformer, PayloadTransformer):
        return _with_new_payload(transformer, parts)
    if isinstance(transformer, FunctionalTransformer):
        data = {**_surroundings(view, transformer.handler), **_as_json(parts)}
        return _overlaid(parts, evaluate(transformer.expression_type, transformer.handler, data))
    return parts


def _with_new_payload(transformer: PayloadTransformer, parts: Routable) -> Routable:
    payload = parts.payload
    if transformer.expression is not None:
        payload = evaluate(transformer.expression_type, transformer.expression, parts.payload)
    if not isinstance(payload, dict) or not payload:
        raise RoutingError(f"the transformer gave {_short(payload)} where a payload (an object with a key) is needed")
    return replace(parts, payload=payload, format=transformer.output_format or parts.format)


class _Overlay(BaseModel):
    """What the result of a functional transformer may set; other keys of it are ignored."""

    topics: str | list[str] | None = Field(default=None, min_length=1)
    priority: Priority | None = None
    payload: JsonDict | None = Field(default=None, min_length=1)
    format: str | None = Field(default=None, min_length=3)
    recipient_list: list[AgentTag] | None = None
    forward_header: ForwardHeader | None = None
    context: JsonDict | None = None
    enrich_with_history: int | None = None
    process_status: ProcessStatus | None = None


def _overlaid(parts: Routable, result: Any) -> Routable:
    if not isinstance(result, dict):
        raise RoutingError(f"the transformer gave {_short(result)} where an object is needed")
    try:
        overlay = _Overlay.model_validate(result)
    except ValidationError as error:
        raise RoutingError(f"the transformer's result does not fit a message: {reasons(error)}") from error
    return replace(parts, **{key: value for key, value in overlay if value is not None})


def _state_update(
    name: str, transformer: StateTransformer | None, environment: Callable[[str], JsonDict]
) -> JsonDict | None:
    if transformer is None or transformer.state_update is None:
        return None
    update = evaluate(transformer.expression_type, transformer.state_update, environment(transformer.state_update))
    if not isinstance(update, dict):
        raise RoutingError(f"{name} gave {_short(update)} where an object is needed")
    return update


def may_see_guild_state(expression: str) -> bool:
    """Return whether an expression names ``guild_state``, or takes all of its input in a way that could include it."""
    return _GUILD_STATE_OR_ALL.search(expression) is not None


def _surroundings(view: View, expression: str) -> JsonDict:
    origin = view.origin
    seen: JsonDict = {
        "id": origin.id,
        "sender": origin.sender.model_dump(),
        "recipient_list": [tag.model_dump() for tag in origin.recipient_list],
        "payload": origin.payload,
        "format": origin.format,
    }
    guild_state = view.guild_state() if may_see_guild_state(expression) else {}
    return {"origin": seen, "agent_state": view.agent_state, "guild_state": guild_state}


def _as_json(parts: Routable) -> JsonDict:
    return {
        "topics": parts.topics,  # type: ignore[dict-item]
        "priority": int(parts.priority),
        "payload": parts.payload,
        "format": parts.format,
        "recipient_list": [tag.model_dump() for tag in parts.recipient_list],
        "forward_header": parts.forward_header.model_dump() if parts.forward_header else None,
        "context": parts.context,
        "enrich_with_history": parts.enrich_with_history,
        "process_status": parts.process_status,
    }


def reasons(error: ValidationError) -> str:
    """Return what pydantic found, in one line."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, detail['loc'])) or '(whole)'}: {detail['msg']}" for detail in found)


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
