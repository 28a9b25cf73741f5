"""The message bus as agents and library users see it."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rustic_host.errors import MessageError, MessagingError
from rustic_host.messaging import in_hand
from rustic_host.messaging.client import Client, SimpleClient
from rustic_host.messaging.config import MessagingConfig
from rustic_host.messaging.delivery import SHARED_TOPICS, home_of
from rustic_host.messaging.gemstone_id import MACHINE_IDS, GemstoneGenerator
from rustic_host.messaging.handling import Handling, Reading, Settle, StateHolder
from rustic_host.messaging.inbox import Inbox
from rustic_host.messaging.message import GENERIC_JSON, Message
from rustic_host.messaging.plain import PlainSubscriptions
from rustic_host.messaging.presenting import Presenter
from rustic_host.messaging.pump import Pump
from rustic_host.messaging.reader import Reader
from rustic_host.messaging.requests import REQUEST_SECONDS, Listener, PlainListener, Request
from rustic_host.messaging.state_changes import SLOW_AT, StateChange, StateChanges, Watch
from rustic_host.messaging.subscriptions import Subscriptions
from rustic_host.messaging.tags import AgentTag

_in_hand = in_hand.current.get

REQUESTER = SimpleClient("requester", "requester", lambda message: None)
"""Who asks where no client is named."""


class MessagingInterface:
    """Topics of one namespace, their subscribers, and the backend that stores them.

    Args:
        namespace: usually the guild id; a topic ``t`` is ``<namespace>:t`` in the backend.
        messaging_config: which backend.
        generator: makes the ids of dead letters.
        wall_clock: seconds since the Unix epoch; a message's ``ttl`` ends by it.
        slow_at: a durable client that is so many entries behind is slow; see :meth:`on_state_change`.

    Raises:
        ConfigError: the backend cannot be made.
    """

    def __init__(
        self,
        namespace: str,
        messaging_config: MessagingConfig,
        *,
        generator: GemstoneGenerator | None = None,
        wall_clock: Callable[[], float] = time.time,
        slow_at: int = SLOW_AT,
    ) -> None:
        self.namespace = namespace
        self.backend = messaging_config.get_storage()
        self.clients: dict[str, Client] = {}
        ids = generator or GemstoneGenerator(0)  # Rustic AI's machine id for dead letters (facts 9.4)
        self._handling = Handling(namespace, self.backend, ids, wall_clock)
        self._subscriptions = Subscriptions()
        self._changes = StateChanges()
        self.slow_at = slow_at
        self.backend.watch_publishing(Watch("", self._changes))
        self._plain = PlainSubscriptions(self.backend, self._presenter)
        self._readers: dict[str, Reader] = {}
        self._manual: set[str] = set()
        self._request_ids = GemstoneGenerator(secrets.randbelow(MACHINE_IDS))
        self._lock = threading.RLock()

    def register_client(self, client: Client, *, threaded: bool = True) -> None:
        """Attach a client. With ``threaded=False`` it receives only inside :meth:`run`.

        Raises:
            MessagingError: it has no id, as part of a pipeline; or it is connected to another interface.
        """
        if not client.id:
            raise MessagingError(f"a {type(client).__name__} without an id cannot be registered")
        client.connect(self)
        self.clients[client.id] = client
        if not threaded:
            self._manual.add(client.id)

    def unregister_client(self, client: Client) -> None:
        """End the client's subscriptions and detach it; unknown clients are left alone."""
        if self.clients.pop(client.id, None) is None:
            return
        for topic in self.topics_of(client.id):
            self._subscriptions.remove(topic, client.id)
            self._plain.part(self._full(topic), topic, client.id)
        if reader := self._readers.pop(client.id, None):
            reader.close()
        self._plain.close_inbox(client.id)
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
            MessageError: the message names no topic, or is too large (MessageTooLargeError).
            OutboxFullError: the handler has sent more than one commit may hold.
            PublishUnavailableError, PublishRefusedError: nothing is stored, or (unavailable only) it is not known.
        """
        if not message.topics:
            raise MessageError(f"message {message.id} of {sender.id} names no topic")
        if _in_hand() is not None and (hand := in_hand.of(self._handling)):
            hand.publish(message)
        else:
            self.backend.store_copies(self.namespace, message)

    def publish_now(self, sender: Client, message: Message, key: str) -> Message:
        """Publish without waiting for the end of the handler that runs; returns the message that is stored.

        That is, when the handler runs again for the same message, the one of its first run under the same ``key``
        (``<handler>|<ordinal>``), and nothing is published again; over a crash too where the backend keeps a log.
        Outside handlers this is :meth:`publish`, and the key means nothing.

        Raises:
            MessageError: the message names no topic, or the key has not that form.
            OwnershipLostError, CommitRefusedError: the message in hand is not the handler's any more; let it end.
            BackendUnavailableError, BackendRefusedError: as :meth:`publish`; unavailable: the handler will run again.
        """
        in_hand.check_key(key)
        hand = in_hand.of(self._handling)
        if hand is None or not message.topic_list:
            self.publish(sender, message)
            return message
        return Message.from_json(hand.send_early(key, message.to_json_bytes(), message))

    def keep(self, key: str, value: bytes) -> bytes:
        """Keep ``value`` until the message in hand is done; returns what was kept first under this key.

        Outside handlers that is ``value``. Raises as :meth:`publish_now`.
        """
        in_hand.check_key(key)
        hand = in_hand.of(self._handling)
        return hand.send_early(key, value) if hand else value

    def kept(self) -> Mapping[str, bytes]:
        """What :meth:`publish_now` and :meth:`keep` stored for the message in hand, by key; messages as JSON."""
        hand = in_hand.of(self._handling)
        return hand.kept if hand else {}

    def request(
        self,
        topic: str,
        payload: Mapping[str, Any],
        timeout: float = REQUEST_SECONDS,
        *,
        format: str = GENERIC_JSON,
        reply_on: str | None = None,
        conversation_id: int | None = None,
        client: Client | None = None,
    ) -> Message:
        """Publish a question on ``topic``, and return the first reply: look at its ``is_error_message``.

        What an agent, of Rustic AI too, sends first in answer comes to a private topic; with ``reply_on`` the guild's
        own routes hold, and the reply is the first message on that topic that follows from the question.

        Args:
            topic: of the question.
            payload: a JSON object with a key.
            timeout: seconds.
            format: of the payload.
            reply_on: a topic that others write to.
            conversation_id: agents here carry it on to their replies.
            client: who asks, a registered client; by default one that has no other use. In its handlers it is sent
                early, and once (see :meth:`publish_now`).

        Raises:
            RequestTimeoutError: nobody answered in time.
            MessagingError: ``client`` reads the topic of the replies itself; or as :meth:`publish_now`.
        """
        asking = client or REQUESTER
        message = Message(
            self._request_ids.get_id(),
            sender=AgentTag(id=asking.id.rpartition("$")[2], name=asking.name),
            topics=topic,
            payload=payload,
            format=format,
            # All that ask without a client share a topic: this tells their replies apart besides the id.
            conversation_id=secrets.randbits(62) if client is None and conversation_id is None else conversation_id,
        )
        return self.ask(asking, message, timeout=timeout, reply_on=reply_on).answer()

    def ask(
        self, client: Client, message: Message, *, timeout: float, reply_on: str | None = None, key: str | None = None
    ) -> Request:
        """Prepare ``message`` as a request, whose ``answer()`` (or ``answer_async()``) sends it and waits.

        In a handler the requests without a ``key`` are counted: each run must make the same in the same order.
        """
        hand = in_hand.of(self._handling)
        if key is None:
            key = f"request|{hand.requests if hand else 0}"
            if hand:
                hand.requests += 1
        return Request(self, client, message, timeout=timeout, reply_on=reply_on, key=key)

    def listen(self, topic: str) -> Listener:
        """Read a topic from now on, beside all subscriptions."""
        return self.backend.listen(self.namespace, self._bare(topic)) or PlainListener(self, topic)

    def publish_to_shared(self, sender: Client, message: Message) -> None:
        """Publish to topics that guilds share, as :meth:`publish` does.

        Raises:
            MessagingError: no shared namespace is active, or a topic is none of ``guild_inbox:<guild>``; besides what
                :meth:`publish` raises.
        """
        for topic in message.topic_list:
            self._check_shared(topic)
        self.publish(sender, message)

    def subscribe(self, topic: str, client: Client) -> None:
        """Deliver ``topic`` to ``client``; in force when it returns, but for a client that waits for :meth:`run`."""
        name = self._bare(topic)
        new = self._subscriptions.add(name, client.id)
        if client.id in self._manual:
            return
        try:
            if reader := self._reader(client):
                reader.refresh()
            else:
                self._plain.join(self._full(name), name, client)
        except BaseException:
            if new:
                self._subscriptions.remove(name, client.id)
            raise

    def subscribe_shared(self, topic: str, client: Client) -> None:
        """Deliver a topic that guilds share.

        Raises:
            MessagingError: no shared namespace is active, or the topic is not ``guild_inbox:<guild>``.
        """
        self._check_shared(topic)
        self.subscribe(topic, client)

    def unsubscribe(self, topic: str, client: Client) -> None:
        """End delivery of ``topic`` to ``client``."""
        name = self._bare(topic)
        self._subscriptions.remove(name, client.id)
        if reader := self._readers.get(client.id):
            reader.refresh()
        else:
            self._plain.part(self._full(name), name, client.id)

    def unsubscribe_shared(self, topic: str, client: Client) -> None:
        """End delivery of a topic that guilds share; without a shared namespace there is none to end."""
        if self.shared_namespace:
            self.unsubscribe(topic, client)

    @property
    def subscribers(self) -> dict[str, set[str]]:
        """Client ids by topic of the own namespace, to look at; topics carry the namespace."""
        return self._subscribers(shared=False)

    @property
    def shared_subscribers(self) -> dict[str, set[str]]:
        """Client ids by topic of the shared namespace, to look at; topics carry that namespace."""
        return self._subscribers(shared=True)

    def subscribers_everywhere(self) -> dict[str, set[str]]:
        """Client ids by topic, those of other processes that are there included; topics carry their namespace.

        Raises as reading stored messages does, where the backend has to be asked.
        """
        found = {**self.subscribers, **self.shared_subscribers}
        for client_id, topics in self.backend.subscribers(self.namespace).items():
            for topic in topics:
                found.setdefault(self._full(topic), set()).add(client_id)
        return found

    @property
    def backend_subscriptions(self) -> dict[str, int]:
        """How often the backend is subscribed to each topic, to look at; topics carry their namespace.

        Once, however many clients read it; where each client has a place of its own in a log, once for each of those.
        """
        durable = {topic: len(ids & self._readers.keys()) for topic, ids in self._subscriptions.by_topic().items()}
        found = {self._full(topic): n for topic, n in durable.items() if n}
        return found | dict.fromkeys(sorted(self._plain.subscribed), 1)

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
        return self._plain.attend(client, settle, thread)

    def topics_of(self, client_id: str) -> list[str]:
        """Topics (without namespace) that a client is subscribed to."""
        return self._subscriptions.topics_of(client_id)

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

    def get_next_message_for_client(self, client_id: str, last_id: int) -> Message | None:
        """The next by id over all topics of a client."""
        topics = self.topics_of(client_id)
        found = (self.get_next_message_for_topic(topic, last_id) for topic in topics)
        return min((m for m in found if m is not None), key=lambda message: message.id, default=None)

    def get_messages_by_thread(self, topic: str, thread_id: int) -> list[Message]:
        """Stored messages of a topic that belong to a thread (which has its first message's id), by id."""
        return [message for message in self.get_messages(topic) if thread_id in message.thread]

    def on_state_change(self, callback: Callable[[StateChange], object]) -> Callable[[], None]:
        """Call ``callback`` with what happens to connections and backlogs from now on; returns what ends that.

        It is called by a thread of its own, and what it raises is logged.
        """
        return self._changes.add(callback)

    def shutdown(self) -> None:
        """Unregister all clients and let go of the backend."""
        for client in list(self.clients.values()):
            self.unregister_client(client)
        while self._readers:  # of clients that subscribed and were never registered
            self._readers.popitem()[1].close()
        self.backend.cleanup()
        self._changes.close()

    def _presenter(self, client: Client, settle: Settle | None = None) -> Presenter:
        return Presenter(self._handling, client, partial(self.publish, client), settle)

    def _reader(self, client: Client) -> Reader | None:
        """The thread that reads for a client; None where the backend keeps no log."""
        with self._lock:
            if client.id not in self._readers and (pump := self._open(client, None)):
                self._readers[client.id] = Reader(pump, client.id)
            return self._readers.get(client.id)

    def _open(self, client: Client, state: StateHolder | None) -> Pump | None:
        reading = Reading(self._handling, client, state)
        pump = self.backend.open_client(
            self.namespace,
            client.id,
            lambda: self.topics_of(client.id),
            reading.handle,
            reading.restore,
            reading.give_up,
            state,
            None if type(client).order is Client.order else reading.order,
            Watch(client.id, self._changes, slow_at=self.slow_at),
        )
        if pump is not None:
            reading.pump = pump
        return pump

    def _subscribers(self, *, shared: bool) -> dict[str, set[str]]:
        known = self._subscriptions.by_topic().items()
        active = bool(self.shared_namespace)
        return {self._full(t): ids for t, ids in known if (active and t.startswith(SHARED_TOPICS)) == shared}

    def _check_shared(self, topic: str) -> None:
        if not self.shared_namespace:
            raise MessagingError(f"topic {topic!r}: no shared namespace is active")
        if not self._bare(topic).startswith(SHARED_TOPICS):
            raise MessagingError(f"topic {topic!r} is not shared: those are {SHARED_TOPICS}<guild>")

    def _full(self, topic: str) -> str:
        bare = self._bare(topic)
        return f"{home_of(bare, self.namespace, self.shared_namespace)}:{bare}"

    def _bare(self, topic: str) -> str:
        bare = topic.removeprefix(f"{self.namespace}:")
        shared = f"{self.shared_namespace}:{SHARED_TOPICS}"
        return bare[len(self.shared_namespace) + 1 :] if self.shared_namespace and bare.startswith(shared) else bare
