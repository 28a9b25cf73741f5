"""What the tests of workers share: guilds, engines with their events, and a client that talks to the agents."""

import os
import queue
import select
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rustic_host.execution import MultiProcessExecutionEngine, WorkerEvent
from rustic_host.guild import GuildSpec
from rustic_host.messaging import (
    AgentTag,
    GemstoneGenerator,
    Message,
    MessagingConfig,
    MessagingInterface,
    SimpleClient,
)

HERE = Path(__file__).parent
SECONDS = 20.0
PATIENCE_SECONDS = 3 * SECONDS
"""Of what starts processes, on a machine with much other work."""


def messaging_at(path: Path, **settings: Any) -> MessagingConfig:
    return MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": {"unix_socket_path": str(path), **settings}},
    )


def guild_of(*agents: str | dict[str, Any], **fields: Any) -> GuildSpec:
    """A guild with an id of its own; an agent is a class name, or fields that complete one."""
    full = [{"class_name": each} if isinstance(each, str) else each for each in agents]
    named = [{"name": f"agent {n}", "description": "d", **each} for n, each in enumerate(full)]
    return GuildSpec.model_validate(
        {"id": uuid.uuid4().hex, "name": "G", "description": "d", "agents": named, **fields}
    )


class Events:
    """What an engine said, in order; can be awaited."""

    def __init__(self) -> None:
        self.seen: list[WorkerEvent] = []
        self._changed = threading.Condition()

    def __call__(self, event: WorkerEvent) -> None:
        with self._changed:
            self.seen.append(event)
            self._changed.notify_all()

    def wait_for(self, kind: str, agent_id: str | None = None, count: int = 1) -> WorkerEvent:
        """The ``count``-th such event."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._such(kind, agent_id)) >= count, PATIENCE_SECONDS):
                raise TimeoutError(f"no {count} x {kind} of {agent_id} in {self.seen}")
            return self._such(kind, agent_id)[count - 1]

    def kinds(self, agent_id: str) -> list[str]:
        """Without reports of progress."""
        return [event.kind for event in self.seen if event.agent_id == agent_id and event.kind != "progress"]

    def _such(self, kind: str, agent_id: str | None) -> list[WorkerEvent]:
        return [event for event in self.seen if event.kind == kind and agent_id in (None, event.agent_id)]


@contextmanager
def engine_of(guild: GuildSpec, **settings: Any) -> Iterator[MultiProcessExecutionEngine]:
    settings = {"search": [HERE], **settings}
    engine = MultiProcessExecutionEngine(guild.id, **settings)
    try:
        yield engine
    finally:
        engine.shutdown()


class Talk:
    """A client on ``default_topic``: sends to the agents, and takes what they answer."""

    def __init__(self, guild: GuildSpec, messaging: MessagingConfig) -> None:
        self._ids = GemstoneGenerator(200)
        self._answers: queue.Queue[Any] = queue.Queue()
        self._bus = MessagingInterface(guild.id, messaging)
        self._client = SimpleClient("tester", "tester", self._take)
        self._bus.register_client(self._client)
        self._bus.subscribe("default_topic", self._client)

    def _take(self, message: Message) -> None:
        if "told" in message.payload:
            self._answers.put(message.payload["told"])

    def say(self, *, to: str = "default_topic", **payload: Any) -> None:
        sender = AgentTag(id="tester", name="tester")
        self._client.publish(Message(self._ids.get_id(), sender=sender, topics=to, payload=payload))

    def answer(self) -> Any:
        return self._answers.get(timeout=PATIENCE_SECONDS)

    def ask(self, **payload: Any) -> Any:
        self.say(**payload)
        return self.answer()

    def close(self) -> None:
        self._bus.shutdown()


@contextmanager
def talk_to(guild: GuildSpec, messaging: MessagingConfig) -> Iterator[Talk]:
    talk = Talk(guild, messaging)
    try:
        yield talk
    finally:
        talk.close()


class Gate:
    """Where ``Doing._hold`` waits: tells when the handler has begun, and lets it go on."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen()
        self._listening.settimeout(SECONDS)
        self._held: socket.socket | None = None

    def wait_for_handler(self) -> None:
        self._held, _ = self._listening.accept()

    def open(self) -> None:
        assert self._held is not None
        self._held.send(b"g")

    def close(self) -> None:
        self._listening.close()
        if self._held is not None:
            self._held.close()


def gone(pid: int) -> bool:
    """Wait for the end of any process, reaped or not; False when it does not come."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(SECONDS * 1000))
    finally:
        os.close(pidfd)
