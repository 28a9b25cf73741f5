"""A bus small enough to read: what agents publish waits in a queue, and is handed round one message at a time."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rustic_host.guild.agent import Agent, build_agent
from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.messaging import AgentTag, GemstoneGenerator, JsonDict, Message, Priority

GENERATOR = GemstoneGenerator(7)
OUTSIDE = AgentTag(id="outside", name="Outside")


def class_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def message(topic: str = "default_topic", payload: JsonDict | None = None, **fields: Any) -> Message:
    """A message as an agent gets it: from outside, published to ``topic``."""
    priority = fields.pop("priority", Priority.NORMAL)
    parts: dict[str, Any] = {
        "sender": OUTSIDE,
        "topics": topic,
        "payload": payload or {"x": 1},
        "topic_published_to": topic,
    }
    return Message(GENERATOR.get_id(priority), **{**parts, **fields})


class FakeClient:
    """Keeps what is published."""

    def __init__(self, id: str, name: str, message_handler: Callable[[Message], object]) -> None:
        self.id, self.name, self.message_handler = id, name, message_handler
        self.published: list[Message] = []
        self.early: dict[str, bytes] = {}

    def publish(self, message: Message) -> None:
        self.published.append(Message.from_json(message.to_json()))

    def publish_now(self, message: Message, key: str) -> Message:
        self.publish(message)
        self.early[key] = message.to_json_bytes()
        return message

    def kept(self) -> Mapping[str, bytes]:
        return self.early


def agent_spec(cls: type | str, **fields: Any) -> AgentSpec:
    name = cls if isinstance(cls, str) else class_name(cls)
    return AgentSpec.model_validate({"id": "a1", "name": "A1", "description": "d", "class_name": name, **fields})


def guild_spec(*agents: AgentSpec, **fields: Any) -> GuildSpec:
    dumped = [agent.model_dump() for agent in agents]
    return GuildSpec.model_validate({"id": "g1", "name": "G", "description": "d", "agents": dumped, **fields})


def build(
    cls: type | str, *, guild: dict[str, Any] | None = None, state: JsonDict | None = None, **fields: Any
) -> tuple[Agent[Any], FakeClient]:
    """One agent with its client; ``fields`` are of the agent's spec, ``guild`` of the guild's."""
    spec = agent_spec(cls, **fields)
    made = guild_spec(spec, **(guild or {}))
    agent = build_agent(made, made.agents[0], client_factory=FakeClient, generator=GENERATOR, state=state)
    client = agent._client
    assert isinstance(client, FakeClient)
    return agent, client


@dataclass
class Bus:
    """All agents of a guild, wired."""

    guild: GuildSpec
    agents: list[Agent[Any]] = field(default_factory=list)
    log: list[Message] = field(default_factory=list)
    """Every copy that was published, with its topic."""

    def __post_init__(self) -> None:
        for spec in self.guild.agents:
            self.agents.append(build_agent(self.guild, spec, client_factory=FakeClient, generator=GENERATOR))

    def send(self, message: Message) -> None:
        """Deliver a message and everything that follows from it."""
        queue = deque([message])
        for _ in range(100):
            if not queue:
                return
            current = queue.popleft()
            for topic in current.topic_list:
                copy = current.published_to(topic)
                self.log.append(copy)
                queue.extend(self._deliver(copy))
        raise AssertionError("the guild does not come to rest")

    def on(self, topic: str) -> list[Message]:
        """What was published to ``topic``."""
        return [message for message in self.log if message.topic_published_to == topic]

    def _deliver(self, message: Message) -> list[Message]:
        followed: list[Message] = []
        for agent in self.agents:
            own = message.sender.id == agent.id and message.topic_published_to != agent._self_inbox
            if message.topic_published_to in agent.subscribed_topics and not own:
                agent._on_message(message)
                client = agent._client
                assert isinstance(client, FakeClient)
                followed += client.published
                client.published = []
        return followed
