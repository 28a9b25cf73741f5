"""What agents need that talk with other guilds.

A guild hears others on one topic, ``guild_inbox:<guild>``, which lies in the namespace that guilds share. A message
that crosses carries a stack of the guilds it came through, the last one on top; the answer goes back along it.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel
from typing_extensions import TypeVar

from rustic_host.errors import AgentError
from rustic_host.guild.agent import Agent, Publisher
from rustic_host.guild.context import Asker, ProcessContext
from rustic_host.guild.dsl import BaseAgentProps
from rustic_host.guild.routing import forward_header_for
from rustic_host.guild.sending import new_message
from rustic_host.messaging import AgentTag, GuildStackEntry, Message, Request
from rustic_host.messaging.message import HISTORY_ENTRIES

Props = TypeVar("Props", bound=BaseModel, default=BaseAgentProps)

INBOX = "guild_inbox:"


def guild_inbox(guild_id: str) -> str:
    """Name the shared topic on which other guilds write to one guild."""
    return f"{INBOX}{guild_id}"


def saga_key(saga_id: str) -> str:
    """Name the key of the guild's state under which the session of a message waits for the answer."""
    return f"g2g_saga.{saga_id}"


@runtime_checkable
class BoundaryPublisher(Publisher, Protocol):
    """What these agents need of the messaging layer's client."""

    def publish_to_guild_inbox(self, guild_id: str, message: Message) -> None:
        """Publish to ``guild_inbox:<guild_id>`` in the shared namespace; inside a handler, with its commit."""


class BoundaryClient:
    """A client whose messages to ``guild_inbox:<guild>`` go to that guild."""

    def __init__(self, inner: BoundaryPublisher) -> None:
        self.id, self.inner = inner.id, inner

    def publish(self, message: Message) -> None:
        """Publish in the own guild, or to the other one."""
        topic = message.topic_list[0]
        if topic.startswith(INBOX):
            self.inner.publish_to_guild_inbox(topic.removeprefix(INBOX), message)
        else:
            self.inner.publish(message)

    def publish_now(self, message: Message, key: str) -> Message:
        """Publish at once; topics of other guilds are shared ones, which the bus knows by their names."""
        return self.inner.publish_now(message, key)

    def ask(self, message: Message, **options: Any) -> Request:
        """Prepare a request, to the own guild."""
        if not isinstance(self.inner, Asker):
            raise AgentError("this bus knows no requests")
        return self.inner.ask(message, **options)

    def kept(self) -> Mapping[str, bytes]:
        """What was published at once."""
        return self.inner.kept()


class BoundaryAgent(Agent[Props]):
    """An agent that sends to other guilds; one that overrides ``subscribe_to_shared_inbox`` also hears them."""

    def __init__(self) -> None:
        self.subscribed_topics = [*self.subscribed_topics, *self.shared_topics]

    @property
    def subscribe_to_shared_inbox(self) -> bool:
        """Whether it hears what other guilds send to this one."""
        return False

    @property
    def shared_topics(self) -> list[str]:
        """The topics of the shared namespace that it reads, besides its guild's own."""
        return [guild_inbox(self.guild_id)] if self.subscribe_to_shared_inbox else []

    def _is_from_shared_inbox(self, message: Message) -> bool:
        return message.topic_published_to == guild_inbox(self.guild_id)

    def _cross(self, ctx: ProcessContext[Any], guild_id: str, stack: list[GuildStackEntry], sender: AgentTag) -> None:
        """Send the message in hand to another guild, together with what the handler sends.

        Routes and session stay here: they mean nothing there. Raises AgentError when the bus reaches no other guild.
        """
        origin, client = ctx.message, self._client
        if not isinstance(client, BoundaryClient):
            if not isinstance(client, BoundaryPublisher):
                raise AgentError(f"the message cannot go to guild {guild_id!r}: this bus reaches no other guild")
            self._client = BoundaryClient(client)
        new_id, topic = self._generate_id(origin.priority), guild_inbox(guild_id)
        entry = ctx._history_entry(new_id, origin.topic_published_to, [topic], [])
        message = new_message(
            new_id,
            sender=sender,
            topics=topic,
            payload=origin.payload,
            format=origin.format,
            in_response_to=origin.id,
            thread=origin.thread,
            conversation_id=origin.conversation_id,
            forward_header=forward_header_for(origin),
            message_history=[*origin.message_history, entry][-HISTORY_ENTRIES:],
            ttl=origin.ttl,
            is_error_message=origin.is_error_message,
            traceparent=origin.traceparent,
            session_state={},
            process_status=origin.process_status,
            origin_guild_stack=stack,
        )
        ctx._put(message)
