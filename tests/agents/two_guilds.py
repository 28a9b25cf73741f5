"""Several guilds of one host, wired by a bus small enough to read; what a messaging layer must do is done here."""

from collections import deque
from typing import Any

from rustic_host.agents.boundary import BoundaryAgent, guild_inbox
from rustic_host.guild.agent import Agent, build_agent
from rustic_host.guild.dsl import GuildSpec
from rustic_host.guild.state import apply_update
from rustic_host.messaging import Message
from tests.guild.bus import GENERATOR, FakeClient

GATEWAY = "rustic_ai.core.guild.g2g.gateway_agent.GatewayAgent"
ENVOY = "rustic_ai.core.guild.g2g.envoy_agent.EnvoyAgent"
ECHO = "rustic_ai.core.agents.testutils.echo_agent.EchoAgent"
STATE_UPDATE = "rustic_ai.core.state.models.StateUpdateRequest"


class BoundaryFake(FakeClient):
    """Also keeps what goes to other guilds."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.crossed: list[tuple[str, Message]] = []

    def publish_to_guild_inbox(self, guild_id: str, message: Message) -> None:
        self.crossed.append((guild_id, Message.from_json(message.to_json())))


class Guilds:
    """All agents of several guilds; ``log`` has (namespace, message) for each copy, the shared one's is "org"."""

    def __init__(self, *specs: dict[str, Any]) -> None:
        self.log: list[tuple[str, Message]] = []
        self.agents: list[tuple[Agent[Any], BoundaryFake]] = []
        for spec in specs:
            guild = GuildSpec.model_validate({"name": spec["id"], "description": "d", **spec})
            self.agents += [_built(guild, number) for number in range(len(guild.agents))]

    def send(self, guild_id: str, message: Message) -> None:
        """Deliver a message and everything that follows from it."""
        queue = deque([(guild_id, message)])
        for _ in range(100):
            if not queue:
                return
            namespace, current = queue.popleft()
            for topic in current.topic_list:
                copy = current.published_to(topic)
                self.log.append((namespace, copy))
                queue.extend(self._deliver(namespace, copy))
        raise AssertionError("the guilds do not come to rest")

    def on(self, namespace: str, topic: str) -> list[Message]:
        """What was published to ``topic``."""
        return [m for place, m in self.log if place == namespace and m.topic_published_to == topic]

    def _deliver(self, namespace: str, message: Message) -> list[tuple[str, Message]]:
        if message.format == STATE_UPDATE:
            self._update_guild_state(namespace, message)
        followed: list[tuple[str, Message]] = []
        for agent, client in self.agents:
            if _hears(agent, namespace, message):
                agent._on_message(message)
                followed += [(agent.guild_id, sent) for sent in client.published]
                followed += [("org", sent) for _, sent in client.crossed]
                assert all(sent.topics == guild_inbox(guild) for guild, sent in client.crossed)
                client.published, client.crossed = [], []
        return followed

    def _update_guild_state(self, namespace: str, message: Message) -> None:
        payload: Any = message.payload
        for agent, _ in self.agents:
            if agent.guild_id == namespace:
                agent._guild_state = apply_update(agent._guild_state, payload["update_format"], payload["state_update"])


def _built(guild: GuildSpec, number: int) -> tuple[Agent[Any], BoundaryFake]:
    agent = build_agent(guild, guild.agents[number], client_factory=BoundaryFake, generator=GENERATOR)
    client = agent._client
    assert isinstance(client, BoundaryFake)
    return agent, client


def _hears(agent: Agent[Any], namespace: str, message: Message) -> bool:
    topic = message.topic_published_to
    if namespace == "org":
        return isinstance(agent, BoundaryAgent) and topic in agent.shared_topics
    return agent.guild_id == namespace and topic in agent.subscribed_topics and message.sender.id != agent.id
