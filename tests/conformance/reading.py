"""A client of ours beside Rustic AI's publishers: what it was given, in order, with a bridge or without."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rustic_host.messaging import Message, MessagingConfig, MessagingInterface, SimpleClient
from rustic_host.messaging.redis.bridge import Bridge
from tests.messaging.bus import CLIENT, WAIT_SECONDS, Bus


class Reading:
    """Collects messages; those of a client that is registered again under its id go on in the same list."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.messages: list[Message] = []
        self._changed = threading.Condition()

    @property
    def numbers(self) -> list[object]:
        """``n`` of each payload."""
        return [message.payload["n"] for message in self.messages]

    @contextmanager
    def client(self, *topics: str) -> Iterator[MessagingInterface]:
        """Read durably while it lasts."""
        config = MessagingConfig(
            backend_module="rustic_host.messaging",
            backend_class="RedisMessagingBackend",
            backend_config={"redis_client": self.bus.config.model_dump(exclude_unset=True)},
        )
        interface = MessagingInterface(self.bus.namespace, config)
        client = SimpleClient(CLIENT, CLIENT, self._take)
        interface.register_client(client)
        try:
            for topic in topics:
                interface.subscribe(topic, client)
            yield interface
        finally:
            interface.shutdown()

    def wait(self, n: int) -> None:
        """Until that many have come in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.messages) >= n, WAIT_SECONDS), self.messages

    def _take(self, message: Message) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()


@contextmanager
def bridged(bus: Bus, topics: Sequence[str] = ("t",)) -> Iterator[Bridge]:
    """With a bridge that has caught up once."""
    bridge = Bridge(bus.config, bus.namespace, lambda: topics)
    bridge.start()
    try:
        assert bridge.catch_up(WAIT_SECONDS)
        yield bridge
    finally:
        bridge.stop()
