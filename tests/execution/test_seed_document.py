"""The examples of Rustic AI's messaging document as they stand there, but for the names of modules.

Left out are those that only show a class's outline, which the package itself is.
"""

import queue
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rustic_host.execution import Guild
from rustic_host.guild import AgentSpec, GuildSpec
from rustic_host.guild.agent import build_agent
from rustic_host.messaging import (
    AgentTag,
    GemstoneGenerator,
    Message,
    MessagingConfig,
    MessagingInterface,
    Priority,
    SimpleClient,
)
from tests.execution.local_agents import Listener
from tests.system.need import valkey_binary
from tests.system.servers import RedisServer, free_port, redis_server

ROOT = Path(__file__).parents[2]


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Where a Valkey listens on TCP; the document's is 6379."""
    number = free_port()
    with redis_server(tmp_path, binary=valkey_binary(), extra=["--port", str(number)]) as server:
        assert isinstance(server, RedisServer)
        yield number


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
                "ssl": False,
            }
        },
    )

    # Create guild with multiprocess execution
    guild = Guild(
        guild_id="distributed-guild",
        execution_engine=MultiProcessExecutionEngine(guild_id="distributed-guild"),
        messaging_config=messaging_config,
    )

    # Launch agents in separate processes
    for i in range(3):
        agent_spec = create_worker_agent_spec(f"worker-{i}")
        guild.launch_agent(agent_spec)

    try:
        check_that_workers_answer(guild)
    finally:
        guild.shutdown()
    assert not guild.list_all_running_agents()


def check_that_workers_answer(guild: Guild) -> None:
    answers: queue.Queue[dict[str, Any]] = queue.Queue()
    messaging = MessagingInterface(guild.id, guild.messaging)
    client = SimpleClient(id="asker", name="asker", message_handler=lambda m: answers.put(dict(m.payload)))
    messaging.register_client(client)
    messaging.subscribe("jobs", client)
    sender = AgentTag(id="asker", name="asker")
    client.publish(Message(GemstoneGenerator(203).get_id(), sender=sender, topics="jobs", payload={"n": 2}))
    heard = [answers.get(timeout=20) for _ in range(3)]
    messaging.shutdown()
    assert {answer["worker"] for answer in heard} == {"worker-0", "worker-1", "worker-2"}
    assert len({answer["pid"] for answer in heard}) == 3


@pytest.fixture
def messaging() -> Iterator[MessagingInterface]:
    # MessagingConfig automatically creates backend instances
    config = MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="InMemoryMessagingBackend",
        backend_config={},
    )

    # MessagingInterface uses config to create backend
    messaging = MessagingInterface(namespace=f"guild-{uuid.uuid4().hex}", messaging_config=config)
    yield messaging
    messaging.shutdown()


def test_message_flow_example(messaging: MessagingInterface) -> None:
    generator = GemstoneGenerator(1)
    heard: list[Message] = []
    client_a = SimpleClient(id="agent-a", name="Agent A", message_handler=lambda m: None)
    client = SimpleClient(id="agent-b", name="Agent B", message_handler=heard.append)

    # Client management, topic subscription
    messaging.register_client(client_a)
    messaging.register_client(client)
    messaging.subscribe("updates", client)

    # 1. Agent A sends message
    message = Message(
        id_obj=generator.get_id(Priority.NORMAL),
        sender=AgentTag(id="agent-a", name="Agent A"),
        topics="updates",
        payload={"text": "Hello, Agent B!"},
    )

    # 2. Publish via messaging interface
    messaging.publish(client_a, message)

    # 5. Agent B receives message
    assert [each.payload for each in heard] == [{"text": "Hello, Agent B!"}]

    # Message retrieval
    assert [each.id for each in messaging.get_messages("updates")] == [message.id]
    assert messaging.get_messages_for_topic_since("updates", message.id) == []
    assert len(messaging.get_messages_for_client_since("agent-b", 0)) == 1

    messaging.unsubscribe("updates", client)
    messaging.unregister_client(client)
    messaging.publish(client_a, message)
    assert len(heard) == 1


def test_history_enrichment_example(messaging: MessagingInterface) -> None:
    generator, heard = GemstoneGenerator(1), list[Message]()
    client_a = SimpleClient(id="a", name="A", message_handler=lambda m: None)
    client = SimpleClient(id="b", name="B", message_handler=heard.append)
    messaging.register_client(client_a)
    messaging.register_client(client)
    messaging.subscribe("updates", client)
    sender = AgentTag(id="a", name="A")
    first = Message(id_obj=generator.get_id(Priority.NORMAL), sender=sender, topics="updates", payload={"n": 1})
    messaging.publish(client_a, first)

    message = Message(
        id_obj=generator.get_id(Priority.NORMAL),
        sender=sender,
        topics="updates",
        payload={"n": 2},
        message_history=[
            {"agent": {"id": "a"}, "origin": first.id, "result": 1, "processor": "p", "from_topic": "updates"}
        ],
    )
    # Messages can request conversation history
    message.enrich_with_history = 5  # Include last 5 messages
    messaging.publish(client_a, message)

    assert heard[-1].session_state is not None
    history = heard[-1].session_state["enriched_history"]
    assert isinstance(history, list)
    assert [Message.from_json(str(text)).payload for text in history] == [{"n": 1}]


def test_agent_wrapper_integration_example(messaging: MessagingInterface) -> None:
    spec = AgentSpec(
        id="l", name="L", description="d", class_name=f"{Listener.__module__}.Listener", additional_topics=["updates"]
    )
    guild = GuildSpec(id=messaging.namespace, name="G", description="d", agents=[spec])
    client_type = SimpleClient

    def connect(id: str, name: str, handler: Any) -> SimpleClient:
        # Create and register client
        client = client_type(
            id=id,
            name=name,
            message_handler=handler,
        )
        messaging.register_client(client)
        return client

    agent = build_agent(guild, spec, client_factory=connect, generator=GemstoneGenerator(1))
    client = messaging.clients[f"{guild.id}$l"]

    # Subscribe to agent's topics
    for topic in agent.subscribed_topics:
        messaging.subscribe(topic, client)

    sender = SimpleClient("s", "S", lambda m: None)
    messaging.register_client(sender)
    tag = AgentTag(id="s", name="S")
    messaging.publish(sender, Message(GemstoneGenerator(2).get_id(), sender=tag, topics="updates", payload={"n": 1}))
    assert isinstance(agent, Listener)
    assert agent.heard == [{"n": 1}]
