"""The message bus as agents and library users see it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from rustic_host.errors import MessageError, MessagingError
from rustic_host.messaging.client import Client
from rustic_host.messaging.config import MessagingConfig
from rustic_host.messaging.dead_letter import DEAD_LETTER_TOPIC, dead_letter, replayed_for, without_mark
from rustic_host.messaging.delivery import SHARED_TOPICS, Entry, Frame, Kept, Later, Result, frames_of, home_of
from rustic_host.messaging.gemstone_id import GemstoneGenerator
from rustic_host.messaging.inbox import Inbox, ordered
from rustic_host.messaging.message import Message
from rustic_host.messaging.pump import Pump, TimeKeeper
from rustic_host.messaging.reader import Reader
from rustic_host.telemetry.logs import get_logger

SELF_INBOX = "agent_self_inbox"

log = get_logger(__name__)


class StateHolder(TimeKeeper, Protocol):
    """Keeps state and timers that go into the commits of its client; an agent is one."""

    def take_state_change(self) -> dict[str, Any] | None:
        """The whole new state when handlers changed it since the last call."""

    def take_timer_change(self) -> dict[str, Any] | None:
        """All timers when handlers changed some since the last call."""

    def restore(self, kept: Kept) -> None:
        """Go on from what is stored."""

    def undo(self) -> None:
        """Go back to what was taken last: a handler ran, and its message is put off."""

    def forget(self, message: Message) -> None:
        """A message is given up: what waits for its being handled must not wait."""


Settle = Callable[[Message, object], None]
"""Told each message and what became of it: the client's answer, or the exception that it raised."""


class _Outbox(threading.local):
    """What the handler that runs in this thread has sent; None outside handlers."""

    frames: list[Frame] | None = None
    messages: list[Message] | None = None
    """The same over a backend without a log."""


class MessagingInterface:
    """Topics of one namespace, their subscribers, and the backend that stores them.

    Args:
        namespace: usually the guild id; a topic ``t`` is ``<namespace>:t`` in the backend.
        messaging_config: which backend.
        generator: makes the ids of dead letters.

    Raises:
        ConfigError: the backend cannot be made.
    """

    def __init__(
        self, namespace: str, messaging_config: MessagingConfig, *, generator: GemstoneGenerator | None = None
    ) -> None:
        self.namespace = namespace
        self.backend = messaging_config.get_storage()
        self.clients: dict[str, Client] = {}
        self.subscribers: dict[str, set[str]] = {}
        self._generator = generator or GemstoneGenerator(0)  # Rustic AI's machine id for dead letters (facts 9.4)
        self._readers: dict[str, Reader] = {}
        self._inboxes: dict[str, Inbox] = {}
        self._manual: set[str] = set()
        self._outbox = _Outbox()

    def register_client(self, client: Client, *, threaded: bool = True) -> None:
        """Attach a client. With ``threaded=False`` it receives only inside :meth:`run`.

        Raises:
            MessagingError: it has no id, as part of a pipeline; or it is connected to another interface.
        """
        if not client.id:
            raise MessagingError(f"a {type(client).__name__} without an id cannot be registered")
        self.clients[client.id] = client
        client.connect(self)
        if not threaded:
            self._manual.add(client.id)

    def unregister_client(self, client: Client) -> None:
        """End the client's subscriptions and detach it; unknown clients are left alone."""
        if self.clients.pop(client.id, None) is None:
            return
        topics = self.topics_of(client.id)
        for topic in topics:
            self._forget(topic, client.id)
        if reader := self._readers.pop(client.id, None):
            reader.close()
        elif client.id not in self._manual:
            for topic in topics:
                self.backend.unsubscribe(self._full(topic), client_id=client.id)
        if inbox := self._inboxes.pop(client.id, None):
            inbox.close()
        self._manual.discard(client.id)
        client.disconnect()

    @property
    def shared_namespace(self) -> str:
        """Where the topics lie that guilds share (``guild_inbox:<guild>``); empty before it is activated."""
        return self.backend.shared_namespace

    def activate_shared_namespace(self, name: str) -> None:
        """Share topics with the other guilds of ``name``, an organization; before anything is subscribed.

        Raises:
            MessagingError: another one is active.
        """
        if self.shared_namespace not in ("", name):
            raise MessagingError(f"the shared namespace is {self.shared_namespace!r} already, not {name!r}")
        self.backend.shared_namespace = name

    def publish(self, sender: Client, message: Message) -> None:
        """Publish to all topics of the message, all or none.

        Inside a handler the copies leave when the message in hand is done (with its commit, for a durable client).

        Raises:
            MessageError: the message names no topic.
            BackendUnavailableError, BackendRefusedError: nothing is stored, or (unavailable only) it is not known.
        """
        if not message.topic_list:
            raise MessageError(f"message {message.id} of {sender.id} names no topic")
        if self._outbox.frames is not None:
            self._outbox.frames += frames_of(message, shared=self.shared_namespace)
        elif self._outbox.messages is not None:
            self._outbox.messages.append(message)
        else:
            self.backend.store_copies(self.namespace, message)

    def subscribe(self, topic: str, client: Client) -> None:
        """Deliver ``topic`` to ``client``; in force when it returns, but for a client that waits for :meth:`run`."""
        name = self._bare(topic)
        self.subscribers.setdefault(name, set()).add(client.id)
        if client.id in self._manual:
            return
        if client.id not in self._readers and (pump := self._open(client, None)):
            self._readers[client.id] = Reader(pump, client.id)
        if reader := self._readers.get(client.id):
            reader.refresh()
        else:
            handler = self._inbox(client).take
            self.backend.subscribe(self._full(name), handler, client_id=client.id, namespace=self.namespace)

    def unsubscribe(self, topic: str, client: Client) -> None:
        """End delivery of ``topic`` to ``client``."""
        self._drop(self._bare(topic), client.id)

    def run(self, client: Client, state: StateHolder | None = None) -> Pump:
        """The loop of a client that was registered with ``threaded=False``; call its ``run``.

        With ``state``, what the client keeps is loaded now and at every reconnection, and goes into its commits.
        """
        if client.id not in self._manual:
            raise MessagingError(f"client {client.id} was not registered with threaded=False")
        if (pump := self._open(client, state)) is None:
            raise MessagingError(f"{type(self.backend).__name__} keeps no log that a process of its own could read")
        return pump

    def attend(self, client: Client, settle: Settle, *, thread: str = "") -> Inbox:
        """Hand a client one message at a time where the backend keeps no log, and tell ``settle`` what became of it.

        Messages are handled by who publishes them, or by a thread of that name. To be called before :meth:`subscribe`.
        """
        inbox = Inbox(client, partial(self._present, client, settle), exclusive=True, thread=thread)
        self._inboxes[client.id] = inbox
        return inbox

    def topics_of(self, client_id: str) -> list[str]:
        """Topics (without namespace) that a client is subscribed to."""
        known = list(self.subscribers.items())  # readers ask in their own threads
        return [topic for topic, ids in known if client_id in ids]

    def get_messages(self, topic: str) -> list[Message]:
        """All stored messages of a topic, by id."""
        return self.backend.get_messages_for_topic(self._full(topic))

    def get_messages_for_topic_since(self, topic: str, last_id: int) -> list[Message]:
        """Stored messages of a topic with a greater id, by id."""
        return self.backend.get_messages_for_topic_since(self._full(topic), last_id)

    def get_next_message_for_topic(self, topic: str, last_id: int) -> Message | None:
        """The next by id."""
        return self.backend.get_next_message_for_topic_since(self._full(topic), last_id)

    def get_messages_for_client_since(self, client_id: str, last_id: int) -> list[Message]:
        """Over all topics of a client, by id."""
        topics = self.topics_of(client_id)
        found = [m for topic in topics for m in self.get_messages_for_topic_since(topic, last_id)]
        return sorted(found, key=lambda message: message.id)

    def shutdown(self) -> None:
        """Unregister all clients and let go of the backend."""
        for client in list(self.clients.values()):
            self.unregister_client(client)
        self.backend.cleanup()

    def handle(self, client: Client, entry: Entry, state: StateHolder | None) -> Result | Later:
        """Deliver one log entry; what the client sends meanwhile is part of the result, or void with Later."""
        message, error = _parsed(entry)
        if message is None:
            return self._given_up(client, entry, None, "quarantined", error)
        self._outbox.frames = []
        try:
            outcome = self._deliver(client, entry.topic, message)
            if isinstance(outcome, Later):
                return _put_off(outcome, state)
            result = Result(entry, outcome, self._outbox.frames)
            if state is not None:
                result.state, result.timers = state.take_state_change(), state.take_timer_change()
            return result
        except Exception as failure:
            log.exception("handler_failed", client=client.id, topic=entry.topic, message_id=message.id)
            as_it_came, _ = _parsed(entry)  # the handler may have changed its copy
            return self._given_up(client, entry, as_it_came, "failed", failure, state)
        finally:
            self._outbox.frames = None

    def _deliver(self, client: Client, topic: str, message: Message) -> str | Later:
        if not _is_for(client.id, topic, message):
            return "filtered"
        without_mark(message)
        if message.enrich_with_history:
            self._enrich(message)
        answer = client.notify_new_message(message)
        return answer if isinstance(answer, str | Later) else "ok"

    def _enrich(self, message: Message) -> None:
        """Facts 3.7: the messages that the last history entries came from, as JSON texts in the session state."""
        entries = message.message_history[-(message.enrich_with_history or 0) :]
        found = self.backend.get_messages_by_id(self.namespace, [entry.origin for entry in entries])
        message.session_state = {**(message.session_state or {}), "enriched_history": [m.to_json() for m in found]}

    def _given_up(
        self,
        client: Client,
        entry: Entry,
        message: Message | None,
        outcome: str,
        error: Exception | None,
        state: StateHolder | None = None,
    ) -> Result:
        """Facts 2.4: a dead letter, in the commit that acknowledges. One about the dead letter topic is only logged."""
        if entry.body is None:
            return Result(entry, "lost_to_retention")
        if entry.topic == DEAD_LETTER_TOPIC:
            log.error("dead_letter_not_handled", client=client.id, error=str(error))
            return Result(entry, outcome)
        letter = dead_letter(self._generator.get_id(), self.namespace, client.id, entry, message, error)
        result = Result(entry, outcome, frames_of(letter))
        if state is not None and message is not None:
            state.forget(message)
            result.timers = state.take_timer_change()
        return result

    def _open(self, client: Client, state: StateHolder | None) -> Pump | None:
        return self.backend.open_client(
            self.namespace,
            client.id,
            lambda: self.topics_of(client.id),
            lambda entry: self.handle(client, entry, state),
            state.restore if state else _keeps_nothing,
            lambda entry, error: self._given_up(client, entry, _parsed(entry)[0], "failed", error, state),
            state,
            None if type(client).order is Client.order else lambda entries: _ordered(client, entries),
        )

    def _inbox(self, client: Client) -> Inbox:
        if client.id not in self._inboxes:
            self._inboxes[client.id] = Inbox(client, partial(self._present, client, _keep_nothing))
        return self._inboxes[client.id]

    def _present(self, client: Client, settle: Settle, message: Message) -> object:
        """As :meth:`handle`, without a log: what is sent goes out at the end, and is void with Later or a failure."""
        outer, self._outbox.messages = self._outbox.messages, (sent := list[Message]())
        try:
            answer = self._deliver(client, message.topic_published_to or "", message)
        except Exception as failure:
            settle(message, failure)
            raise
        finally:
            self._outbox.messages = outer
        settle(message, answer)
        if not isinstance(answer, Later):
            for each in sent:
                self.publish(client, each)
        return answer

    def _forget(self, topic: str, client_id: str) -> None:
        ids = self.subscribers.get(topic, set())
        ids.discard(client_id)
        if not ids:
            self.subscribers.pop(topic, None)

    def _drop(self, topic: str, client_id: str) -> None:
        self._forget(topic, client_id)
        if reader := self._readers.get(client_id):
            reader.refresh()
        elif client_id not in self._manual:
            self.backend.unsubscribe(self._full(topic), client_id=client_id)
            if inbox := self._inboxes.get(client_id):
                inbox.forget([topic])

    def _full(self, topic: str) -> str:
        bare = self._bare(topic)
        return f"{home_of(bare, self.namespace, self.shared_namespace)}:{bare}"

    def _bare(self, topic: str) -> str:
        return topic.removeprefix(f"{self.namespace}:")


def _keeps_nothing(kept: Kept) -> None:
    return


def _keep_nothing(message: Message, answer: object) -> None:
    return


def _put_off(answer: Later, state: StateHolder | None) -> Later:
    if state is not None:
        state.undo()
    return answer


def _ordered(client: Client, entries: list[Entry]) -> list[Entry]:
    """As the client orders their messages, behind those that cannot be read."""
    read = [(entry, _parsed(entry)[0]) for entry in entries]
    of_message = {id(message): entry for entry, message in read if message is not None}
    messages = [message for _, message in read if message is not None]
    unreadable = [entry for entry, message in read if message is None]
    return unreadable + [of_message[id(message)] for message in ordered(client, messages)]


def _parsed(entry: Entry) -> tuple[Message | None, Exception | None]:
    if entry.body is None:
        return None, None
    try:
        return Message.from_json(entry.body), None
    except ValueError as error:
        return None, error


def _is_for(client_id: str, topic: str, message: Message) -> bool:
    """Facts 3.6: a self inbox takes only its owner's messages, every other topic only those of others.

    On shared topics names mean little: every guild's gateway may have the same id. A replayed message is for the one
    client that it was given up by.
    """
    if only := replayed_for(message):
        return only == client_id
    if topic.startswith(SHARED_TOPICS):
        return True
    own = message.sender.id == client_id.rpartition("$")[2]
    return own if topic.startswith(SELF_INBOX) else not own
