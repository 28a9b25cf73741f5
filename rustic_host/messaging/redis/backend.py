"""The bus on a Redis or Valkey server, or on a cluster of them."""

import json
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from redis import Redis

from rustic_host.errors import ConfigError, MessagingError
from rustic_host.messaging.backend import MessagingBackend
from rustic_host.messaging.dead_letter import DEAD_LETTER_TOPIC, dead_letter
from rustic_host.messaging.delivery import Entry, Kept, Later, Result, frames_of, home_of
from rustic_host.messaging.gemstone_id import GemstoneGenerator
from rustic_host.messaging.message import Message
from rustic_host.messaging.pump import Pump, TimeKeeper
from rustic_host.messaging.reader import Reader
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.consumer import Consumer
from rustic_host.messaging.redis.keys import hash_tag_of
from rustic_host.messaging.redis.listener import LogListener
from rustic_host.messaging.redis.publisher import Publisher
from rustic_host.messaging.redis.readers import topics_read
from rustic_host.messaging.redis.retention import Bounds, Janitor
from rustic_host.messaging.redis.stored import Stored, messages_of
from rustic_host.messaging.sizes import SizeLimits
from rustic_host.messaging.state_changes import Watch
from rustic_host.telemetry.logs import get_logger

log = get_logger(__name__)


class RedisMessagingBackend(MessagingBackend):
    """Stores messages in the documented layout and in a log of ours, and reads them durably.

    Args:
        redis_client: the fields of :class:`~rustic_host.messaging.redis.config.RedisBackendConfig`, or one; or a
            client of redis-py, whose settings are taken. Connections are made when first needed.

    Raises:
        ConfigError: a field is unknown or wrong.
    """

    bounds = Bounds()
    """How much of each topic is kept where no host runs."""

    def __init__(self, redis_client: RedisBackendConfig | Mapping[str, Any] | Redis) -> None:
        self.config = _config(redis_client)
        self._keys = self.config.keys
        self.sizes = SizeLimits(self.config.max_message_bytes)
        self._places: dict[str, _Place] = {}
        self._watch: Watch | None = None
        self._shared_namespace = ""
        self._readers: dict[tuple[str, str], _Subscriptions] = {}
        self._lock = threading.Lock()

    @classmethod
    def check_settings(cls, **settings: Any) -> None:
        """Raises ConfigError for what the constructor refuses."""
        _config(settings["redis_client"])

    def store_message(self, namespace: str, topic: str, message: Message) -> None:
        """Store on one topic."""
        frames = frames_of(message, topic.removeprefix(f"{namespace}:"), self.shared_namespace)
        self.sizes.check_frames(frames)
        self._place(namespace).publisher.publish(namespace, frames)

    def store_copies(self, namespace: str, message: Message) -> None:
        """Store on all topics, all or nothing."""
        frames = frames_of(message, shared=self.shared_namespace)
        self.sizes.check_frames(frames)
        self._place(namespace).publisher.publish(namespace, frames)

    def get_messages_for_topic(self, topic: str) -> list[Message]:
        """From the documented store; members that are no messages are left out and logged."""
        return self._stored(topic).messages()

    def get_messages_for_topic_since(self, topic: str, msg_id_since: int) -> list[Message]:
        """Those with a greater id, whatever their timestamp: ids sort by priority first."""
        return self._stored(topic).since(msg_id_since)

    def get_next_message_for_topic_since(self, topic: str, last_message_id: int) -> Message | None:
        """The first of those."""
        return self._stored(topic).next_after(last_message_id)

    def get_messages_by_id(self, namespace: str, msg_ids: Sequence[int]) -> list[Message]:
        """From the index, while it lasts."""
        if not msg_ids:
            return []
        names = (self._keys.message_key(namespace, i) for i in msg_ids)
        found: Any = self._place(namespace).publisher.call("MGET", *names)
        return list(messages_of(namespace, (body for body in found if body is not None)))

    def subscribe(
        self, topic: str, handler: Callable[[Message], object], client_id: str = "", namespace: str = ""
    ) -> None:
        """Read durably as ``client_id`` in a thread; messages are acknowledged when the handler returns."""
        namespace = namespace or topic.partition(":")[0]
        with self._lock:
            key = (namespace, client_id or "subscriber")
            if key not in self._readers:
                self._readers[key] = _Subscriptions(self, *key)
        self._readers[key].add(topic.removeprefix(f"{namespace}:"), handler)

    def unsubscribe(self, topic: str, client_id: str = "") -> None:
        """Stop reading a topic; the client's position in it is kept."""
        for (namespace, reader), subscriptions in list(self._readers.items()):
            if reader == (client_id or "subscriber") and topic.startswith(f"{namespace}:"):
                subscriptions.remove(topic.removeprefix(f"{namespace}:"))

    def watch_publishing(self, watch: Watch) -> None:
        """From now on."""
        self._watch = watch
        for place in self._places.values():
            place.publisher.watch = watch

    def cleanup(self) -> None:
        """End threads and connections."""
        with self._lock:
            readers, self._readers = list(self._readers.values()), {}
            places, self._places = list(self._places.values()), {}
        for reader in readers:
            reader.close()
        for place in places:
            place.close()

    @property
    def shared_namespace(self) -> str:
        """Where topics lie that guilds share. Setting it raises ConfigError for one that a cluster cannot have."""
        return self._shared_namespace

    @shared_namespace.setter
    def shared_namespace(self, name: str) -> None:
        self.config.check_shared(name)
        self._shared_namespace = name

    def _stored(self, topic: str) -> Stored:
        return Stored(self._place(topic).publisher, topic)

    def _place(self, key: str) -> "_Place":
        """The server; of a cluster, the node with a namespace or a topic of it."""
        tag = hash_tag_of(key) if self.config.is_cluster else ""
        with self._lock:
            if tag not in self._places:
                self._places[tag] = _Place(self, self.config.at(tag or key.partition(":")[0]), self._watch)
            return self._places[tag]

    def subscribers(self, namespace: str) -> dict[str, list[str]]:
        """Topics by client id: who reads durably now; a process that was killed is gone within 15 s."""
        return topics_read(self._place(namespace).publisher, namespace)

    def load_state(self, namespace: str, client_id: str) -> tuple[int, dict[str, Any]]:
        """As of the client's last commit."""
        stored: Any = self._place(namespace).publisher.call(
            "HMGET", self._keys.state_key(namespace, client_id), "version", "state"
        )
        version, state = stored
        return int(version or 0), json.loads(state) if state else {}

    def listen(self, namespace: str, topic: str) -> LogListener:
        """A reader with a connection of its own."""
        home = home_of(topic, namespace, self.shared_namespace)
        config = self.config.at(self._keys.slot_namespace(home, topic))
        return LogListener(config, self._keys.topic_keys(home, topic).log)

    def open_client(
        self,
        namespace: str,
        client_id: str,
        topics: Callable[[], Sequence[str]],
        handle: Callable[[Entry], Result | Later],
        restore: Callable[[Kept], None],
        give_up: Callable[[Entry, Exception], Result],
        time_keeper: TimeKeeper | None = None,
        order: Callable[[list[Entry]], list[Entry]] | None = None,
        watch: Watch | None = None,
    ) -> Pump:
        """The loop of a durable client."""
        source = Consumer(self.config, namespace, client_id, shared=self.shared_namespace, watch=watch)
        return Pump(source, topics, handle, restore, give_up, time_keeper=time_keeper, order=order, watch=watch)


def _config(given: Any) -> RedisBackendConfig:
    try:
        return RedisBackendConfig.model_validate(given)
    except ValidationError as error:
        said = [".".join(map(str, e["loc"])) + ": " + e["msg"] if e["loc"] else e["msg"] for e in error.errors()]
        reasons = "; ".join(text.replace("Value error, ", "") for text in said)
        raise ConfigError(f"redis_client: {reasons}") from None


class _Place:
    """Publishing to one server, and what cuts the topics there where no host does."""

    def __init__(self, backend: RedisMessagingBackend, config: RedisBackendConfig, watch: Watch | None) -> None:
        self._backend, self._janitor = backend, Janitor(config, backend.bounds)
        deadline = config.publish_timeout
        self.publisher = Publisher(config, "rustic-host:publisher", deadline=deadline, chore=self._sweep)
        if watch is not None:
            self.publisher.watch = watch

    def close(self) -> None:
        self.publisher.close()
        self._janitor.close()

    def _sweep(self, namespaces: Collection[str]) -> None:
        try:
            for namespace in namespaces:
                if self._janitor.claim(namespace, hold=False):
                    self._janitor.sweep(namespace, self._backend.shared_namespace, None)
        except MessagingError as error:
            log.warning("retention_not_applied", error=str(error))


class _Subscriptions:
    """Plain callbacks of one client id, over one durable reader."""

    def __init__(self, backend: RedisMessagingBackend, namespace: str, client_id: str) -> None:
        self._handlers: dict[str, tuple[Callable[[Message], object], ...]] = {}
        self._namespace, self._client_id = namespace, client_id
        self._ids = GemstoneGenerator(0)  # Rustic AI's machine id for dead letters (facts 9.4)
        pump = backend.open_client(
            namespace, client_id, lambda: list(self._handlers), self._handle, _ignore, self._failed
        )
        self._reader = Reader(pump, client_id)

    def add(self, topic: str, handler: Callable[[Message], object]) -> None:
        others = (each for each in self._handlers.get(topic, ()) if each != handler)
        self._handlers[topic] = (*others, handler)
        self._reader.refresh()

    def remove(self, topic: str) -> None:
        self._handlers.pop(topic, None)
        self._reader.refresh()

    def close(self) -> None:
        self._reader.close()

    def _handle(self, entry: Entry) -> Result:
        handlers = self._handlers.get(entry.topic)
        if entry.body is None:
            return Result(entry, "lost_to_retention")
        if handlers is None:
            return Result(entry, "unhandled")
        try:
            errors = [error for each in handlers if (error := _error_of(each, Message.from_json(entry.body), entry))]
        except ValueError as error:  # it is no message
            return self._failed(entry, error, "quarantined")
        return self._failed(entry, errors[0]) if errors else Result(entry, "ok")

    def _failed(self, entry: Entry, error: Exception, outcome: str = "failed") -> Result:
        """With a dead letter (but for one about a dead letter), of the message as it came."""
        if entry.topic == DEAD_LETTER_TOPIC or entry.body is None:
            return Result(entry, outcome)
        message = None if outcome == "quarantined" else Message.from_json(entry.body)
        letter = dead_letter(self._ids.get_id(), self._namespace, self._client_id, entry, message, error)
        return Result(entry, outcome, frames_of(letter))


def _error_of(handler: Callable[[Message], object], message: Message, entry: Entry) -> Exception | None:
    """What a callback raises, with a message of its own; the others of the topic are called all the same."""
    try:
        handler(message)
    except Exception as error:
        log.exception("subscriber_failed", topic=entry.topic, entry=entry.entry_id)
        return error
    return None


def _ignore(kept: Kept) -> None:
    return
