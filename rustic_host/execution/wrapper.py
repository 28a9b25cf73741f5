"""The wrapper around one agent: builds it, gives it its own messaging, runs it, takes it down in order."""

from typing import Any

from rustic_host.guild.agent import Agent, build_agent
from rustic_host.guild.clients import make_client, retry_policy
from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.guild.guild_helper import GuildHelper
from rustic_host.guild.state_messages import GUILD_STATE_KEY, manager_id
from rustic_host.messaging import Client, GemstoneGenerator, MessagingConfig, MessagingInterface
from rustic_host.messaging.pump import Pump

NO_ORGANIZATION = "default_organization"
"""Guilds that name no organization share this one's namespace."""


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
            ConfigError: the messaging settings are wrong, or the client's (AgentLoadError: its class is not there).
        """
        self.messaging = MessagingInterface(self._guild_spec.id, self._messaging_config, generator=self._generator)
        self.messaging.activate_shared_namespace(self._guild_spec.organization_id or NO_ORGANIZATION)
        built_for = self._guild_spec
        self.agent = build_agent(
            built_for,
            self._agent_spec,
            client_factory=self._client,
            generator=self._generator,
            guild_state=self._guild_state,
        )
        if self._guild_spec is not built_for:  # the other thread found no agent to hand it to
            self.agent.take_up_guild(self._guild_spec)
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

    def update_guild(self, guild_spec: GuildSpec) -> None:
        """Have the agent go by another spec of the guild from its next message on; any thread may call it."""
        self._guild_spec = guild_spec
        if "agent" in vars(self):
            self.agent.take_up_guild(guild_spec)

    def stop(self) -> None:
        """Finish the message in hand and return from :meth:`run`; any thread may call it."""
        self.pump.stop()

    def shutdown(self) -> None:
        """Let go of everything; call it after :meth:`run`."""
        self.agent.close()
        self.pump.close()
        self.messaging.shutdown()

    def _guild_state(self) -> dict[str, Any]:
        """As its owner, the guild's manager, keeps it."""
        guild_id = self._guild_spec.id
        _, kept = self.messaging.backend.load_state(guild_id, f"{guild_id}${manager_id(guild_id)}")
        state: dict[str, Any] = kept.get(GUILD_STATE_KEY, {})
        return state

    def _client_class(self) -> tuple[type[Client], dict[str, Any]]:
        """And what it is made with."""
        spec = self._guild_spec
        return GuildHelper.get_messaging_client(spec), GuildHelper.get_messaging_client_properties(spec)

    def _client(self, id: str, name: str, handler: Any) -> Client:
        client_type, properties = self._client_class()
        self.client = make_client(client_type, properties, id, name, handler)
        self.client.retry_policy = retry_policy(self._agent_spec.qos)
        self.messaging.register_client(self.client, threaded=False)
        return self.client
