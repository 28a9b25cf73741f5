"""One agent without processes or Redis: give it a message, look at what it sends and keeps."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from rustic_host.guild.agent import Agent, build_agent
from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.guild.messages import format_of
from rustic_host.messaging import GENERIC_JSON, AgentTag, GemstoneGenerator, Message, SimpleClient

SENDER = AgentTag(id="test", name="Test")


class AgentUnderTest:
    """Builds an agent as a worker would, and hands it messages directly.

    Args:
        agent_class: an importable agent class.
        properties: its properties, as in a spec.
        routes: the guild's route steps, as in a spec.

    Raises:
        AgentError: the properties do not fit, or ``__init__`` raised.
    """

    def __init__(
        self,
        agent_class: type[Agent[Any]],
        *,
        properties: Mapping[str, Any] | None = None,
        routes: list[dict[str, Any]] | None = None,
    ) -> None:
        spec = AgentSpec(
            id="under-test",
            name="Under Test",
            description="an agent under test",
            class_name=agent_class.get_qualified_class_name(),
            properties=dict(properties or {}),
        )
        guild = GuildSpec.model_validate(
            {"id": "test", "name": "Test", "description": "a test", "agents": [spec], "routes": {"steps": routes or []}}
        )
        self._generator = GemstoneGenerator(0)
        self._sent: list[Message] = []
        self.agent = build_agent(guild, spec, client_factory=self._client, generator=self._generator)
        self.outcome = ""
        """Of the last message: ``ok``, ``error`` or ``unhandled``."""

    @property
    def state(self) -> dict[str, Any]:
        """What the agent keeps."""
        return self.agent.get_agent_state()

    def handle(
        self, payload: BaseModel | Mapping[str, Any], *, topic: str = "default_topic", format: str | None = None
    ) -> list[Message]:
        """Let the agent handle one message; returns what it sent, error messages included."""
        body, own_format = dict(payload), GENERIC_JSON
        if isinstance(payload, BaseModel):
            body, own_format = payload.model_dump(mode="json"), format_of(type(payload))
        message = Message(
            self._generator.get_id(), sender=SENDER, topics=topic, payload=body, format=format or own_format
        )
        self._sent = []
        self.outcome = self.agent._on_message(message.published_to(topic))
        return self._sent

    def _client(self, id: str, name: str, handler: Any) -> "_Recorder":
        return _Recorder(id, name, handler, self)


class _Recorder(SimpleClient):
    """Keeps what is published instead of publishing it."""

    def __init__(self, id: str, name: str, handler: Any, owner: AgentUnderTest) -> None:
        super().__init__(id, name, handler)
        self._owner = owner

    def publish(self, message: Message) -> None:
        self._owner._sent.append(message)

    def publish_now(self, message: Message, key: str) -> Message:
        self.publish(message)
        return message

    def kept(self) -> Mapping[str, bytes]:
        return {}
