"""The examples of Rustic AI's messaging document as they stand there, but for the names of modules, on every backend.

In the order of the document. Its outlines of classes are in ``test_document_outlines.py``; there too is the test that
every line of its examples is in these two files.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rustic_host.execution import Guild, MultiThreadedEngine, SyncExecutionEngine
from rustic_host.guild import AgentSpec, GuildSpec
from rustic_host.guild.agent import build_agent
from rustic_host.messaging import (
    AgentTag,
    Client,
    FilteringClient,
    FixedBackoff,
    GemstoneGenerator,
    JsonDict,
    LoggingClient,
    Message,
    MessageTrackingClient,
    MessagingBackend,
    MessagingConfig,
    MessagingInterface,
    PipelineClient,
    Priority,
    ProcessEntry,
    RetryingClient,
    SimpleClient,
    ThrottlingClient,
)
from tests.execution.local_agents import Listener
from tests.messaging.bus import wait_until

ROOT = Path(__file__).parents[2]


class Heard:
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def __call__(self, message: Message) -> None:
        self.messages.append(message)

    def wait(self, count: int) -> list[Message]:
        wait_until(lambda: len(self.messages) >= count)
        return self.messages


@pytest.fixture
def messaging(config: MessagingConfig) -> Iterator[MessagingInterface]:
    # MessagingInterface uses config to create backend
    messaging = MessagingInterface(namespace=f"guild-{uuid.uuid4().hex}", messaging_config=config)
    yield messaging
    messaging.shutdown()


@pytest.fixture
def generator() -> GemstoneGenerator:
    return GemstoneGenerator(1)


def registered(messaging: MessagingInterface, name: str, handler: Any = None) -> SimpleClient:
    client = SimpleClient(id=name, name=name, message_handler=handler or Heard())
    messaging.register_client(client)
    return client


# ---- MessagingInterface --------------------------------------------------------------------------------------------


def test_client_management_and_topic_subscription(messaging: MessagingInterface, generator: GemstoneGenerator) -> None:
    heard, sender_client = Heard(), registered(messaging, "sender")
    client = SimpleClient(id="receiver", name="receiver", message_handler=heard)

    # Register agent as messaging client
    messaging.register_client(client)

    # Subscribe agent to topic
    messaging.subscribe("updates", client)

    message = update(generator, n=1)
    # Publish message to topic(s)
    messaging.publish(sender_client, message)
    assert [each.id for each in heard.wait(1)] == [message.id]

    # Unsubscribe from topic
    messaging.unsubscribe("updates", client)
    messaging.publish(sender_client, update(generator, n=2))

    messaging.subscribe("others", client)
    messaging.publish(sender_client, update(generator, "others", n=3))
    assert [each.payload["n"] for each in heard.wait(2)] == [1, 3]

    # Unregister when agent shuts down
    messaging.unregister_client(client)
    assert messaging.subscribers == {}


def update(generator: GemstoneGenerator, topics: str | list[str] = "updates", **payload: Any) -> Message:
    return Message(generator.get_id(), sender=AgentTag(id="sender"), topics=topics, payload=payload)


def test_message_retrieval(messaging: MessagingInterface, generator: GemstoneGenerator) -> None:
    sender_client, heard = registered(messaging, "sender"), Heard()
    client = registered(messaging, client_id := "receiver", heard)
    messaging.subscribe("updates", client)
    messaging.subscribe("others", client)
    published = [update(generator, topic, n=n) for n, topic in enumerate(["updates", "updates", "others"])]
    for message in published:
        messaging.publish(sender_client, message)
    last_id = published[0].id

    # Get all messages for a topic
    messages = messaging.get_messages("updates")

    # Get messages since specific ID
    recent_messages = messaging.get_messages_for_topic_since("updates", last_id)

    # Get messages for a specific client across all subscribed topics
    client_messages = messaging.get_messages_for_client_since(client_id, last_id)

    assert [[each.payload["n"] for each in found] for found in (messages, recent_messages, client_messages)] == [
        [0, 1],
        [1],
        [1, 2],
    ]


def test_namespace_isolation(config: MessagingConfig, generator: GemstoneGenerator) -> None:
    heard: list[Heard] = []
    interfaces = [MessagingInterface(f"guild-{n}-{uuid.uuid4().hex}", config) for n in range(2)]
    for interface in interfaces:
        heard.append(Heard())
        interface.subscribe("updates", registered(interface, "receiver", heard[-1]))
    interfaces[0].publish(registered(interfaces[0], "sender"), update(generator, n=1))
    heard[0].wait(1)
    assert [len(interface.get_messages("updates")) for interface in interfaces] == [1, 0]
    full = f"{interfaces[0].namespace}:updates"  # topic → guild-123:topic
    assert [each.payload for each in interfaces[0].backend.get_messages_for_topic(full)] == [{"n": 1}]
    assert heard[0].messages[0].topic_published_to == "updates"  # transparent to agents
    for interface in interfaces:
        interface.shutdown()
    assert heard[1].messages == []


def test_message_history_enrichment(messaging: MessagingInterface, generator: GemstoneGenerator) -> None:
    heard, sender_client = Heard(), registered(messaging, "sender")
    messaging.subscribe("updates", registered(messaging, "receiver", heard))
    earlier = [update(generator, n=n) for n in range(7)]
    for each in earlier:
        messaging.publish(sender_client, each)
    message = update(generator, n=7)
    message.message_history = [
        ProcessEntry(agent=AgentTag(id="sender"), origin=each.id, result=message.id, processor="p") for each in earlier
    ]

    # Messages can request conversation history
    message.enrich_with_history = 5  # Include last 5 messages
    # History automatically added to message.session_state["enriched_history"]
    messaging.publish(sender_client, message)

    session_state = heard.wait(8)[-1].session_state
    assert session_state is not None
    history = session_state["enriched_history"]
    assert isinstance(history, list)
    assert [Message.from_json(str(text)).payload["n"] for text in history] == [2, 3, 4, 5, 6]


def test_smart_subscriptions(messaging: MessagingInterface) -> None:
    topic = f"{messaging.namespace}:updates"
    first, second = registered(messaging, "first"), registered(messaging, "second")
    assert topic not in messaging.backend_subscriptions
    messaging.subscribe("updates", first)
    messaging.subscribe("updates", second)
    assert topic in messaging.backend_subscriptions
    messaging.unsubscribe("updates", first)
    assert topic in messaging.backend_subscriptions
    messaging.unregister_client(second)  # automatic clean-up when a client goes
    ends = type(messaging.backend).unsubscribe is not MessagingBackend.unsubscribe  # the document's five methods do not
    assert (topic not in messaging.backend_subscriptions) == ends


# ---- MessagingBackend ----------------------------------------------------------------------------------------------


def test_the_in_memory_backend_by_its_configuration() -> None:
    # MessagingConfig automatically creates backend instances
    config = MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="InMemoryMessagingBackend",
        backend_config={}
    )  # fmt: skip

    # MessagingInterface uses config to create backend
    messaging = MessagingInterface(namespace="guild-123", messaging_config=config)
    assert type(messaging.backend).__name__ == "InMemoryMessagingBackend"
    messaging.shutdown()


@pytest.mark.parametrize("module", ["rustic_host.messaging", "rustic_ai.redis.messaging.backend"])
def test_the_redis_backend_by_its_configuration(port: int, module: str) -> None:
    config = MessagingConfig(
        backend_module=module,
        backend_class="RedisMessagingBackend",
        backend_config={
            "redis_client": {
                "host": "localhost",
                "port": port,
                "ssl": False
            }
        }
    )  # fmt: skip
    messaging = MessagingInterface(f"guild-{uuid.uuid4().hex}", config)
    messaging.publish(registered(messaging, "sender"), update(GemstoneGenerator(1), n=1))
    assert len(messaging.get_messages("updates")) == 1
    messaging.shutdown()


# ---- Message Flow Example ------------------------------------------------------------------------------------------


def test_message_flow_example(messaging: MessagingInterface, generator: GemstoneGenerator) -> None:
    messaging_interface, heard = messaging, Heard()
    client_a = registered(messaging, "agent-a")
    messaging.subscribe("updates", registered(messaging, "agent-b", heard))

    # 1. Agent A sends message
    message = Message(
        id_obj=generator.get_id(Priority.NORMAL),
        sender=AgentTag(id="agent-a", name="Agent A"),
        topics="updates",
        payload={"text": "Hello, Agent B!"}
    )  # fmt: skip

    # 2. Publish via messaging interface
    messaging_interface.publish(client_a, message)

    # 3. MessagingInterface processes:
    #    - Adds namespace prefix: "updates" → "guild-123:updates"
    #    - Stores in backend
    #    - Notifies subscribers

    # 4. Backend stores and notifies:
    #    - InMemory: Immediate callback
    #    - Redis: Pub/sub notification

    # 5. Agent B receives message:
    #    - Client notified via callback
    #    - Message delivered to agent's message handler
    assert [each.payload for each in heard.wait(1)] == [{"text": "Hello, Agent B!"}]


def create_worker_agent_spec(name: str) -> AgentSpec:
    return AgentSpec(
        id=name,
        name=name,
        description="counts",
        class_name="tests.execution.local_agents.Counter",
        additional_topics=["jobs"],
        listen_to_default_topic=False,
    )


def test_cross_process_messaging_example(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the workers' interpreters find `tests` there

    # Process 1: Setup Redis messaging backend with MultiProcessExecutionEngine
    from rustic_host.execution import MultiProcessExecutionEngine

    # Create messaging config for cross-process communication
    messaging_config = MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="RedisMessagingBackend",
        backend_config={
            "redis_client": {
                "host": "localhost",
                "port": port,
                "ssl": False
            }
        }
    )  # fmt: skip

    # Create guild with multiprocess execution
    guild = Guild(
        guild_id="distributed-guild",
        execution_engine=MultiProcessExecutionEngine(guild_id="distributed-guild"),
        messaging_config=messaging_config
    )  # fmt: skip

    # Launch agents in separate processes
    for i in range(3):
        agent_spec = create_worker_agent_spec(f"worker-{i}")
        guild.launch_agent(agent_spec)

    # Agents can now communicate across processes via Redis messaging backend
    # - Process isolation maintained
    # - Real-time messaging via Redis pub/sub
    try:
        answers = answers_of_workers(guild, 3)
    finally:
        guild.shutdown()
    assert {answer["worker"] for answer in answers} == {"worker-0", "worker-1", "worker-2"}
    assert len({answer["pid"] for answer in answers}) == 3
    assert not guild.list_all_running_agents()


def answers_of_workers(guild: Guild, count: int) -> list[JsonDict]:
    heard, messaging = Heard(), MessagingInterface(guild.id, guild.messaging)
    client = registered(messaging, "asker", heard)
    messaging.subscribe("jobs", client)
    job = Message(GemstoneGenerator(203).get_id(), sender=AgentTag(id="asker"), topics="jobs", payload={"n": 2})
    client.publish(job)
    answers = [each.payload for each in heard.wait(count)]
    messaging.shutdown()
    return answers


# ---- Client Types --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MessageTrackingClient, SimpleClient])
def test_client_types(messaging: MessagingInterface, generator: GemstoneGenerator, kind: type[Client]) -> None:
    heard, sender_client = Heard(), registered(messaging, "sender")
    client = kind(id="receiver", name="receiver", message_handler=heard)
    messaging.register_client(client)
    messaging.subscribe("updates", client)
    for n in range(3):
        messaging.publish(sender_client, update(generator, n=n))
    assert [each.payload["n"] for each in heard.wait(3)] == [0, 1, 2]
    if isinstance(client, MessageTrackingClient):
        wait_until(lambda: client.last_processed_message_id == heard.messages[-1].id)


def test_specialized_clients(messaging: MessagingInterface, generator: GemstoneGenerator) -> None:
    heard, failed = Heard(), list[int]()

    def fail_once(message: Message) -> None:
        if message.id not in failed:
            failed.append(message.id)
            raise ValueError("once")
        heard(message)

    pipeline = (
        LoggingClient()
        | FilteringClient(lambda message: message.payload["n"] != 1)
        | ThrottlingClient(per_second=200)
        | RetryingClient(SimpleClient("receiver", "receiver", fail_once), backoff_strategy=FixedBackoff(0.01))
    )
    assert isinstance(pipeline, PipelineClient)
    messaging.register_client(pipeline)
    messaging.subscribe("updates", pipeline)
    sender_client = registered(messaging, "sender")
    for n in range(3):
        messaging.publish(sender_client, update(generator, n=n))
    assert [each.payload["n"] for each in heard.wait(2)] == [0, 2]


# ---- Integration with Execution Engines ----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [SyncExecutionEngine, MultiThreadedEngine])
def test_each_engine_goes_with_each_backend(config: MessagingConfig, engine: Any) -> None:
    """The document recommends some pairs; the process engine has its test above."""
    guild_id = f"guild-{uuid.uuid4().hex}"
    guild = Guild(guild_id=guild_id, execution_engine=engine(guild_id=guild_id), messaging_config=config)
    for n in range(2):
        guild.launch_agent(create_worker_agent_spec(f"worker-{n}"))
    answers = answers_of_workers(guild, 2)
    guild.shutdown()
    assert sorted((answer["worker"], answer["total"]) for answer in answers) == [("worker-0", 2), ("worker-1", 2)]


def test_agent_wrapper_integration(config: MessagingConfig, generator: GemstoneGenerator) -> None:
    spec = AgentSpec(
        id="l", name="L", description="d", class_name=f"{Listener.__module__}.Listener", additional_topics=["updates"]
    )
    guild = GuildSpec(id=f"guild-{uuid.uuid4().hex}", name="G", description="d", agents=[spec])
    unconnected = SimpleClient("none", "none", Heard())

    class AgentWrapper:
        messaging_config, client_type = config, MessageTrackingClient
        agent = build_agent(guild, spec, client_factory=lambda *_: unconnected, generator=generator)

        def initialize_agent(self):  # type: ignore[no-untyped-def]
            # Create MessagingInterface from config
            self.messaging = MessagingInterface(self.agent.guild_id, self.messaging_config)

            # Create and register client
            client = self.client_type(
                id=self.agent.id,
                name=self.agent.name,
                message_handler=self.agent._on_message
            )  # fmt: skip
            self.messaging.register_client(client)

            # Subscribe to agent's topics
            for topic in self.agent.subscribed_topics:
                self.messaging.subscribe(topic, client)

    wrapper = AgentWrapper()
    wrapper.initialize_agent()  # type: ignore[no-untyped-call]
    wrapper.messaging.publish(registered(wrapper.messaging, "sender"), update(generator, n=1))
    assert isinstance(wrapper.agent, Listener)
    assert wrapper.agent.wait_for(1) == [{"n": 1}]
    wrapper.messaging.shutdown()
