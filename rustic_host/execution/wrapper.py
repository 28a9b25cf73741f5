"""The wrapper around one agent: builds it, gives it its own messaging, runs it, takes it down in order."""

from typing import Any

from rustic_host.guild.agent import Agent, build_agent
from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.messaging import Client, GemstoneGenerator, MessagingConfig, MessagingInterface, SimpleClient
from rustic_host.messaging.pump import Pump


class AgentWrapper:
    """One agent with its :class:`~rustic_host.messaging.MessagingInterface`.

    Args:
        guild_spec: the guild.
        agent_spec: one of its agents.
        messaging_config: the bus; the process gets connections of its own.
        generator: makes the ids of everything that this process sends.
    """

    def __init__(
        self,
        guild_spec: GuildSpec,
        agent_spec: AgentSpec,
        messaging_config: MessagingConfig,
        generator: GemstoneGenerator,
    ) -> None:
        self._guild_spec, self._agent_spec = guild_spec, agent_spec
        self._messaging_config, self._generator = messaging_config, generator
        self.messaging: MessagingInterface
        self.agent: Agent[Any]
        self.client: Client
        self.pump: Pump

    def initialize(self) -> None:
        """Build the agent and its client.

        Raises:
            AgentLoadError: the class cannot be imported.
            AgentError: its properties do not fit, or its ``__init__`` raised.
            ConfigError: the messaging settings are wrong.
        """
        self.messaging = MessagingInterface(self._guild_spec.id, self._messaging_config, generator=self._generator)
        self.agent = build_agent(
            self._guild_spec, self._agent_spec, client_factory=self._client, generator=self._generator
        )
        for topic in self.agent.subscribed_topics:
            self.messaging.subscribe(topic, self.client)
        self.pump = self.messaging.run(self.client, self.agent)

    def connect(self) -> None:
        """Subscribe and load the state; waits for a server that is away, until :meth:`stop`."""
        self.pump.connect()

    def run(self) -> None:
        """Announce that the agent is ready, then handle messages until :meth:`stop`."""
        self.agent._notify_ready()
        self.pump.run()

    def stop(self) -> None:
        """Finish the message in hand and return from :meth:`run`; any thread may call it."""
        self.pump.stop()

    def shutdown(self) -> None:
        """Let go of everything; call it after :meth:`run`."""
        self.agent.close()
        self.pump.close()
        self.messaging.shutdown()

    def _client(self, id: str, name: str, handler: Any) -> Client:
        self.client = SimpleClient(id, name, handler)
        self.messaging.register_client(self.client, threaded=False)
        return self.client
