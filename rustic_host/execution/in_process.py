"""Running agents inside this process: what the engines without processes of their own share."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rustic_host.errors import ExecutionError
from rustic_host.execution.alarm import Alarm
from rustic_host.execution.engine import ExecutionEngine
from rustic_host.execution.leased_ids import LeasedIds
from rustic_host.guild.agent import Agent, build_agent
from rustic_host.guild.clients import make_client, retry_policy
from rustic_host.guild.dsl import AgentSpec, GuildSpec
from rustic_host.messaging import (
    Client,
    GemstoneGenerator,
    Later,
    Message,
    MessageTrackingClient,
    MessagingConfig,
    MessagingInterface,
    RedisMessagingBackend,
)
from rustic_host.messaging.client import MessageHandler
from rustic_host.messaging.delivery import Failed
from rustic_host.messaging.inbox import Inbox
from rustic_host.telemetry.logs import get_logger

STOP_SECONDS = 10.0
"""How long a stop waits for the message in hand; a thread cannot be killed."""

log = get_logger(__name__)

# The in-memory store is one for the process, so its ids are made by one generator: two of the same machine id, or one
# for each engine, would make equal ids. 255 leaves the machine ids that people choose (0, 1, …) to them.
_LOCAL_IDS = GemstoneGenerator(255)


@dataclass(frozen=True)
class Order:
    """What to run."""

    guild: GuildSpec
    agent: AgentSpec
    messaging: MessagingConfig
    ids: GemstoneGenerator
    client_type: type[Client] = MessageTrackingClient
    client_properties: dict[str, Any] = field(default_factory=dict)

    def client(self, id: str, name: str, handler: MessageHandler) -> Client:
        """Make the agent's client. Raises ConfigError when its class does not take the properties."""
        return make_client(self.client_type, self.client_properties, id, name, handler)


class RunningAgent(ABC):
    """One agent of an engine.

    Args:
        order: the agent.
    """

    agent: Agent[Any]
    """There from :meth:`start` on."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.ready = False
        """Set by the engine when :meth:`start` has returned."""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it handles messages, or is about to."""

    @abstractmethod
    def start(self) -> None:
        """Build it and subscribe it; when it raises nothing is left."""

    @abstractmethod
    def announce(self) -> None:
        """Tell it that it is ready, unless :meth:`start` has done so."""

    @abstractmethod
    def ask_to_stop(self) -> None:
        """Have it end after the message in hand; returns at once."""

    @abstractmethod
    def wait(self, seconds: float) -> bool:
        """Wait for its end, False when it does not come; its own handler does not wait."""


class InboxAgent(RunningAgent):
    """An agent that a backend without a log calls with its messages, through its client.

    Args:
        order: the agent.
        thread: the name of a thread that handles them, instead of those who publish.
    """

    def __init__(self, order: Order, *, thread: str = "") -> None:
        super().__init__(order)
        self._thread_name = thread
        self._lock = threading.Lock()
        self._stopping = self._closed = False
        self._inbox: Inbox | None = None
        self._messaging: MessagingInterface
        self._own_client: Client
        self._alarm = Alarm()

    @property
    def alive(self) -> bool:
        """Until it is asked to stop."""
        return not self._stopping

    def start(self) -> None:
        """Raises what building an agent raises, and ConfigError."""
        order = self.order
        self._messaging = MessagingInterface(order.guild.id, order.messaging, generator=order.ids)
        try:
            self.agent = build_agent(order.guild, order.agent, client_factory=self._client, generator=order.ids)
            inbox = self._messaging.attend(self._own_client, self._settle, thread=self._thread_name)
            for topic in self.agent.subscribed_topics:
                self._messaging.subscribe(topic, self._own_client)
        except BaseException:
            self._messaging.shutdown()
            raise
        with self._lock:
            self._inbox = inbox
        if self._stopping:  # since before it was built
            self._end()

    def announce(self) -> None:
        """Through its self inbox."""
        if not self._stopping:
            self.agent._notify_ready()

    def ask_to_stop(self) -> None:
        """What waits in the inbox is dropped: the backend keeps no record of what was read."""
        with self._lock:
            self._stopping, inbox = True, self._inbox
        if inbox:
            inbox.stop()

    def wait(self, seconds: float) -> bool:
        """Wait for the message in hand; what is left is let go of after it, whoever waits."""
        inbox = self._inbox
        if inbox is None:
            return True
        if not inbox.in_hand and inbox.wait(seconds):
            self._close()
            return True
        threading.Thread(target=self._end, name=f"end-{self.order.agent.id}", daemon=True).start()
        return inbox.in_hand

    def _client(self, id: str, name: str, handler: MessageHandler) -> Client:
        self._own_client = self.order.client(id, name, handler)
        self._own_client.retry_policy = retry_policy(self.order.agent.qos)
        self._messaging.register_client(self._own_client)
        return self._own_client

    def _settle(self, message: Message, answer: object) -> None:
        """As a commit would: keep what the handler changed, or go back to what was kept when it was put off."""
        if isinstance(answer, Later):
            self.agent.undo()
            return
        if isinstance(answer, Failed):
            if answer.undo:
                self.agent.undo()
            self.agent.forget(message)
        self.agent.take_state_change()
        if self.agent.take_timer_change() is not None:
            self._alarm.set(self.agent)

    def _end(self) -> None:
        if self._inbox:
            self._inbox.stop()
            self._inbox.wait(threading.TIMEOUT_MAX)
        self._close()

    def _close(self) -> None:
        with self._lock:
            due, self._closed = not self._closed, True
        if due:
            self._alarm.close()
            self.agent.close()
            self._messaging.shutdown()


class InProcessEngine(ExecutionEngine):
    """Runs agents in this process. It knows those that it started itself, and no others."""

    def __init__(self, guild_id: str, organization_id: str = "") -> None:
        super().__init__(guild_id, organization_id)
        self._lock = threading.Lock()
        self._agents: dict[tuple[str, str], RunningAgent] = {}
        self._leased: dict[str, LeasedIds] = {}
        self._closed = False
        self._unannounced: list[RunningAgent] | None = None

    @abstractmethod
    def _make(self, order: Order, *, durable: bool) -> RunningAgent:
        """Make the runner of one agent; ``durable`` says that its backend is read by a loop."""

    def run_agent(
        self,
        guild_spec: GuildSpec,
        agent_spec: AgentSpec,
        messaging_config: MessagingConfig,
        machine_id: int = 0,
        client_type: type[Client] | None = None,
        client_properties: dict[str, Any] | None = None,
        default_topic: str = "default_topic",
    ) -> Agent[Any]:
        """Start an agent; returns it when it is built and subscribed.

        ``machine_id`` is ignored: ids come from the process's own generator, or from a slot leased from the server.

        Raises:
            ExecutionError: it runs already, the engine was shut down, or its server was not there in time.
            AgentLoadError, AgentError, ConfigError: the agent cannot be built.
            MessagingError: the server cannot be reached.
        """
        backend = messaging_config.get_storage()
        durable = isinstance(backend, RedisMessagingBackend)
        ids = self._ids(backend) if isinstance(backend, RedisMessagingBackend) else _LOCAL_IDS
        client = client_type or MessageTrackingClient
        order = Order(guild_spec, agent_spec, messaging_config, ids, client, dict(client_properties or {}))
        runner = self._make(order, durable=durable)
        key = (guild_spec.id, agent_spec.id)
        self._add(key, runner)
        try:
            runner.start()
        except BaseException:
            self._drop(key, runner)
            raise
        runner.ready = True
        if self._unannounced is None:
            runner.announce()
        else:
            self._unannounced.append(runner)
        return runner.agent

    @contextmanager
    def together(self) -> Iterator[None]:
        """Agents that are started inside, by this thread, are told that they are ready when all are subscribed.

        A backend without a log delivers nothing to who subscribes later: what one agent sends first must not be lost.
        """
        self._unannounced = []
        try:
            yield
            started = self._unannounced
        finally:
            self._unannounced = None
        for runner in started:
            runner.announce()

    def get_agents_in_guild(self, guild_id: str) -> dict[str, AgentSpec]:
        """Specs of the agents that live, by id."""
        with self._lock:
            live = [runner.order for (guild, _), runner in self._agents.items() if guild == guild_id and runner.alive]
        return {order.agent.id: order.agent for order in live}

    def is_agent_running(self, guild_id: str, agent_id: str) -> bool:
        """Whether the agent is there and ready."""
        with self._lock:
            runner = self._agents.get((guild_id, agent_id))
        return runner is not None and runner.ready and runner.alive

    def stop_agent(self, guild_id: str, agent_id: str) -> None:
        """Stop an agent after the message in hand; returns when it has ended, at once if its own handler asks.

        Raises:
            ExecutionError: the message in hand was not done in :data:`STOP_SECONDS`; the agent ends after it.
        """
        with self._lock:
            found = {key: runner for key, runner in self._agents.items() if key == (guild_id, agent_id)}
        self._stop(found.items())

    def shutdown(self) -> None:
        """Stop all agents of this engine; it runs none afterwards. Raises as :meth:`stop_agent`."""
        with self._lock:
            self._closed = True
            agents, leased = dict(self._agents), list(self._leased.values())
        try:
            self._stop(agents.items())
        finally:
            for ids in leased:
                ids.close()

    def _add(self, key: tuple[str, str], runner: RunningAgent) -> None:
        with self._lock:
            if self._closed:
                raise ExecutionError("the engine was shut down")
            if (old := self._agents.get(key)) and old.alive:
                raise ExecutionError(f"agent {runner.order.agent.name!r} ({key[1]}) runs already")
            self._agents[key] = runner

    def _drop(self, key: tuple[str, str], runner: RunningAgent) -> None:
        with self._lock:
            if self._agents.get(key) is runner:
                del self._agents[key]

    def _stop(self, agents: Iterable[tuple[tuple[str, str], RunningAgent]]) -> None:
        runners = dict(agents)
        for runner in runners.values():
            runner.ask_to_stop()
        give_up = time.monotonic() + STOP_SECONDS
        busy = []
        for key, runner in runners.items():
            if runner.wait(max(0.0, give_up - time.monotonic())):
                self._drop(key, runner)
            else:
                busy.append(runner.order.agent.name)
        if busy:
            raise ExecutionError(f"agents {busy} have not finished the message in hand in {STOP_SECONDS:.0f} s")

    def _ids(self, backend: RedisMessagingBackend) -> GemstoneGenerator:
        """One slot for the engine and server: the agents share the generator."""
        server = backend.config.connection_url()
        with self._lock:
            if self._closed:
                raise ExecutionError("the engine was shut down")
            if server not in self._leased:
                self._leased[server] = LeasedIds(backend.config)
            return self._leased[server].generator
