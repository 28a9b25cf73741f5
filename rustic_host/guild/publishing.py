"""Handing an agent's messages to its client, each with a send span when tracing is on."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from rustic_host.messaging import Message
from rustic_host.telemetry.tracing import AttributeValue, get_tracer

if TYPE_CHECKING:
    from rustic_host.guild.agent import Agent

T = TypeVar("T")


def publish(agent: "Agent[Any]", messages: Iterable[Message]) -> None:
    """Publish messages of ``agent``."""
    if not get_tracer().enabled:
        for message in messages:
            agent._client.publish(message)
        return
    for message in messages:
        sending(agent, message, agent._client.publish)


def sending(agent: "Agent[Any]", message: Message, send: Callable[[Message], T]) -> T:
    """Call ``send`` with a message of ``agent``, inside of its send span, which its ``traceparent`` then names."""
    tracer = get_tracer()
    if not tracer.enabled:
        return send(message)
    topic, attributes = message.topic_list[0], message_attributes(agent, message)
    with tracer.send(topic, attributes=attributes, parent=message.traceparent) as span:
        message.traceparent = span.traceparent or message.traceparent
        return send(message)


def message_attributes(agent: "Agent[Any]", message: Message) -> dict[str, AttributeValue]:
    """What a span says of a message."""
    return {
        "messaging.message.id": str(message.id),
        "messaging.message.conversation_id": str(message.root_thread_id),
        "messaging.client.id": agent._client.id,
        "rustic.guild.id": agent.guild_id,
        "rustic.agent.name": agent.name,
        "rustic.agent.class": agent.agent_spec.class_name,
        "rustic.message.format": message.format,
    }
