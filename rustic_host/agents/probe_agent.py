"""Agents for tests and notebooks: they keep what they hear and publish what they are told."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from rustic_host.guild.agent import Agent
from rustic_host.guild.context import ProcessContext
from rustic_host.guild.messages import format_of
from rustic_host.guild.processor import processor
from rustic_host.guild.publishing import publish
from rustic_host.guild.sending import new_message
from rustic_host.messaging import GENERIC_JSON, AgentTag, GemstoneID, JsonDict, Message, Priority, RoutingSlip


class _Probe(Agent):
    def __init__(self) -> None:
        self.received_messages: list[Message] = []

    def publish(self, topic: str, payload: BaseModel, priority: Priority = Priority.NORMAL, **parts: Any) -> GemstoneID:
        """Publish a model in its own format; the rest as :meth:`publish_dict` takes it."""
        return self.publish_dict(topic, payload, format_of(type(payload)), priority, **parts)

    def publish_dict(
        self,
        topic: str | list[str],
        payload: BaseModel | Mapping[str, Any],
        format: str | type[BaseModel] = GENERIC_JSON,
        priority: Priority = Priority.NORMAL,
        thread: Sequence[int] = (),
        in_response_to: int | None = None,
        recipient_list: Sequence[AgentTag] = (),
        routing_slip: RoutingSlip | None = None,
        msg_id: GemstoneID | None = None,
        session_state: JsonDict | None = None,
    ) -> GemstoneID:
        """Publish a JSON object, past all handlers and routes; returns the message's id.

        A message that answers another belongs to that one's thread too. Raises MessageError for what cannot be sent.
        """
        new_id = msg_id or self._generate_id(priority)
        answered = [] if in_response_to is None or in_response_to in thread else [in_response_to]
        message = new_message(
            new_id,
            sender=self.get_agent_tag(),
            topics=topic,
            payload=payload.model_dump(mode="json") if isinstance(payload, BaseModel) else dict(payload),
            format=format if isinstance(format, str) else format_of(format),
            thread=[*thread, *answered],
            in_response_to=in_response_to,
            recipient_list=list(recipient_list),
            routing_slip=routing_slip,
            session_state=session_state,
        )
        publish(self, [message])
        return new_id

    def publish_with_guild_route(self, topic: str, payload: BaseModel, **parts: Any) -> GemstoneID:
        """Publish a model that carries the guild's routes; the rest as :meth:`publish` takes it."""
        return self.publish(topic, payload, routing_slip=self.guild_spec.routes, **parts)

    def publish_dict_with_guild_route(
        self, topic: str, payload: Mapping[str, Any], format: str | type[BaseModel] = GENERIC_JSON, **parts: Any
    ) -> GemstoneID:
        """Publish a JSON object that carries the guild's routes; the rest as :meth:`publish_dict` takes it."""
        return self.publish_dict(topic, payload, format, routing_slip=self.guild_spec.routes, **parts)

    def get_messages(self) -> list[Message]:
        """Return what was heard so far, by id."""
        return sorted(self.received_messages)

    def clear_messages(self) -> None:
        """Forget what was heard."""
        self.received_messages = []

    def print_messages(self) -> None:
        """Print what was heard, by id."""
        for message in self.get_messages():
            print(f"{message.id} {message.topic_published_to} {message.sender.name} {message.format} {message.payload}")

    def print_message_history(self, idx: int = -1) -> None:
        """Print the way of one message (by default of the last one that came), a line for each agent.

        Raises IndexError when there is no such message.
        """
        for entry in self.received_messages[idx].message_history:
            agent = f"{entry.agent.name}/{entry.agent.id}:{entry.processor}"
            print(f"({entry.from_topic}) -> [{agent}] -> ({', '.join(entry.to_topics)})")

    def _keep(self, message: Message) -> None:
        self.received_messages.append(message.model_copy(deep=True))


class ProbeAgent(_Probe):
    """Keeps a copy of each message on its topics. For tests: it keeps all of them, for ever.

    In a spec::

        class_name: rustic_ai.core.agents.testutils.probe_agent.ProbeAgent
        additional_topics: [results]
    """

    @processor(JsonDict)
    def collect_message(self, ctx: ProcessContext[JsonDict]) -> None:
        """Keep a copy."""
        self._keep(ctx.message)


class EssentialProbeAgent(_Probe):
    """Keeps a copy of each message, also of heartbeats, of the guild's status and state, and of its self inbox.

    In a spec::

        class_name: rustic_ai.core.agents.testutils.probe_agent.EssentialProbeAgent
    """

    @processor(JsonDict, handle_essential=True)
    def collect_message(self, ctx: ProcessContext[JsonDict]) -> None:
        """Keep a copy."""
        self._keep(ctx.message)
