"""Builds a routing rule in Python."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

from pydantic import BaseModel, ValidationError

from rustic_host.errors import BuilderError
from rustic_host.guild.agent import Agent
from rustic_host.guild.building import plain
from rustic_host.guild.dsl import AgentSpec
from rustic_host.guild.messages import format_of
from rustic_host.guild.routing import reasons
from rustic_host.messaging import AgentTag, Priority, ProcessStatus, RoutingRule


class Script(Protocol):
    """An expression that is made in Python, as Rustic AI's ``JxScript``."""

    def serialize(self) -> str:
        """Return the source."""


Expression = str | Script
AgentName = AgentTag | AgentSpec
MessageFormat = type[BaseModel] | str


class RouteBuilder:
    """Makes a :class:`RoutingRule` step by step; each method returns the builder.

    Args:
        from_agent: whose messages the rule is for: those of all agents of a class, or of the agent that a tag fits, or
            of the agent with the name in a spec.

    Raises:
        BuilderError: ``from_agent`` is none of these.
    """

    def __init__(self, from_agent: type[Agent[Any]] | AgentName) -> None:
        if isinstance(from_agent, type) and issubclass(from_agent, Agent):
            self._data: dict[str, Any] = {"agent_type": from_agent.get_qualified_class_name()}
        elif isinstance(from_agent, AgentTag | AgentSpec):
            self._data = {"agent": _tag(from_agent)}
        else:
            raise BuilderError(f"Invalid from_agent type: {from_agent!r}; expected an agent class, AgentTag, AgentSpec")

    def from_method(self, method_name: Callable[..., Any] | str) -> Self:
        """Apply it to what one handler sends; the method itself, or its name."""
        return self._set("method_name", method_name if isinstance(method_name, str) else method_name.__name__)

    def on_message_format(self, message_format: MessageFormat) -> Self:
        """Apply it to one format; the model itself, or the name."""
        return self._set("message_format", _format(message_format))

    def filter_on_origin(
        self,
        origin_sender: AgentName | None = None,
        origin_topic: str | None = None,
        origin_message_format: MessageFormat | None = None,
    ) -> Self:
        """Apply it only if the message that was handled came from there; None is any."""
        origin = {
            "origin_sender": origin_sender and _tag(origin_sender),
            "origin_topic": origin_topic,
            "origin_message_format": origin_message_format and _format(origin_message_format),
        }
        return self._set("origin_filter", {key: value for key, value in origin.items() if value})

    def set_destination_topics(self, destination_topics: str | list[str]) -> Self:
        """Send to these topics."""
        self._destination()["topics"] = plain(destination_topics)
        return self

    def add_recipients(self, recipients: Sequence[AgentName]) -> Self:
        """Tag these agents, beside those that were added before."""
        self._destination().setdefault("recipient_list", []).extend(map(_tag, recipients))
        return self

    def set_priority(self, priority: Priority) -> Self:
        """Send with this priority."""
        self._destination()["priority"] = int(priority)
        return self

    def mark_forwarded(self, mark_forwarded: bool) -> Self:
        """Say whether the message is marked as passed on for somebody else."""
        return self._set("mark_forwarded", mark_forwarded)

    def set_route_times(self, route_times: int) -> Self:
        """Apply it so many times to what follows from one message; -1 is without end."""
        return self._set("route_times", route_times)

    def set_payload_transformer(
        self, output_type: MessageFormat | None, payload_xform: Expression, expression_type: str = "jsonata"
    ) -> Self:
        """Make a new payload of that format from the old one; None keeps the format.

        Raises:
            BuilderError: the rule has a transformer already.
        """
        output = None if output_type is None else _format(output_type)
        return self._transform("simple", expression_type, output_format=output, expression=_source(payload_xform))

    def set_functional_transformer(self, functional_xform: Expression, expression_type: str = "jsonata") -> Self:
        """Make new message fields (topics, payload, format …) from the whole message.

        Raises:
            BuilderError: the rule has a transformer already.
        """
        return self._transform("content_based_router", expression_type, handler=_source(functional_xform))

    def set_agent_state_update(
        self,
        update_agent_state: Expression,
        update_format: str = "json-merge-patch",
        expression_type: str = "jsonata",
    ) -> Self:
        """Change the sending agent's state by what the expression makes of the message."""
        return self._update("agent_state_update", update_agent_state, update_format, expression_type)

    def set_guild_state_update(
        self,
        update_guild_state: Expression,
        update_format: str = "json-merge-patch",
        expression_type: str = "jsonata",
    ) -> Self:
        """Change the guild's state by what the expression makes of the message."""
        return self._update("guild_state_update", update_guild_state, update_format, expression_type)

    def set_process_status(self, process_status: ProcessStatus | str) -> Self:
        """Say how far the process is when this rule has been applied."""
        return self._set("process_status", str(process_status))

    def set_reason(self, reason: str) -> Self:
        """Say why, for the message's history."""
        return self._set("reason", reason)

    def build(self) -> RoutingRule:
        """Make the rule. Raises BuilderError when a value is none that a rule can have."""
        try:
            return RoutingRule.model_validate(plain(self._data))
        except ValidationError as error:
            raise BuilderError(f"routing rule: {reasons(error)}") from error

    def _destination(self) -> dict[str, Any]:
        destination: dict[str, Any] = self._data.setdefault("destination", {})
        return destination

    def _transform(self, style: str, expression_type: str, **fields: str | None) -> Self:
        if "transformer" in self._data:
            raise BuilderError("Transformer can only be set once.")
        return self._set("transformer", {"style": style, "expression_type": expression_type, **fields})

    def _update(self, field: str, expression: Expression, update_format: str, expression_type: str) -> Self:
        source = _source(expression)
        return self._set(
            field, {"expression_type": expression_type, "update_format": update_format, "state_update": source}
        )

    def _set(self, field: str, value: Any) -> Self:
        self._data[field] = value
        return self


def _tag(agent: AgentName) -> dict[str, str]:
    # Only what is set: an empty pattern must stay one.
    return {"name": agent.name} if isinstance(agent, AgentSpec) else agent.model_dump(exclude_unset=True)


def _format(model: MessageFormat) -> str:
    return model if isinstance(model, str) else format_of(model)


def _source(expression: Expression) -> str:
    return expression if isinstance(expression, str) else expression.serialize()
