"""Brings messages for other guilds home, on a cluster: from the relay stream of one slot to the slots they belong to.

The relay is a durable client like others: it reads in order, publishes, then acknowledges. What it does twice is stored
once, since the bytes are the same, so nothing is lost or doubled whenever it dies, or if two of them work at once.
"""

import threading
from random import random

from rustic_host.errors import (
    BackendUnavailableError,
    ConfigError,
    GroupLostError,
    MessageError,
    MessagingError,
    OwnershipLostError,
)
from rustic_host.messaging.dead_letter import dead_letter
from rustic_host.messaging.delivery import Entry, Frame, Kept, Later, Result, frames_of
from rustic_host.messaging.gemstone_id import GemstoneGenerator
from rustic_host.messaging.message import Message
from rustic_host.messaging.pump import Pump
from rustic_host.messaging.redis.config import RedisBackendConfig
from rustic_host.messaging.redis.consumer import Consumer
from rustic_host.messaging.redis.keys import RELAY_TOPIC
from rustic_host.messaging.redis.outward import unwrapped
from rustic_host.messaging.redis.publisher import Publisher
from rustic_host.telemetry.logs import get_logger

CLIENT = "relay"
"""The relay's client id in each guild."""

CALL_SECONDS = 1.0
"""How long a node that is away is waited for at a time; a relay that is stopped may take so long to end."""

AGAIN_SECONDS = 0.2
"""Then what it has to be brought waits; so does all behind it, or the order would be lost."""

TAKE_BACK_SECONDS = 10.0
"""When another host's relay took over, this one looks so much later whether it is needed again."""

log = get_logger(__name__)


class Relay:
    """A thread that empties the relay stream of one guild, until it is stopped; it heals by itself.

    Args:
        config: the cluster.
        namespace: the guild.
        generator: makes the ids of dead letters.
    """

    def __init__(self, config: RedisBackendConfig, namespace: str, generator: GemstoneGenerator) -> None:
        self._config, self._namespace, self._generator = config, namespace, generator
        self._publishers: dict[str, Publisher] = {}
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._pump: Pump | None = None
        self._thread = threading.Thread(target=self._run, name=f"relay-{namespace}", daemon=True)

    def start(self) -> None:
        """Begin; the nodes may be away."""
        self._thread.start()

    def stop(self) -> None:
        """End; what is not brought yet stays in the stream."""
        with self._lock:
            self._stopping.set()
            if self._pump is not None:
                self._pump.stop()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._serve()
            except OwnershipLostError:
                log.info("relay_taken_over", namespace=self._namespace)
            except GroupLostError as error:
                log.error("relay_ended", namespace=self._namespace, error=str(error))
                return
            except MessagingError as error:
                log.error("relay_failed", namespace=self._namespace, error=str(error))
            except Exception:
                log.exception("relay_failed", namespace=self._namespace)
            self._stopping.wait(TAKE_BACK_SECONDS * (0.5 + random()))

    def _serve(self) -> None:
        source = Consumer(self._config, self._namespace, CLIENT)
        pump = Pump(source, lambda: [RELAY_TOPIC], self._handle, _nothing_kept, self._letter)
        with self._lock:
            self._pump = pump
            if self._stopping.is_set():
                pump.stop()
        try:
            pump.run()
        finally:
            pump.close()
            for publisher in self._publishers.values():
                publisher.close()
            self._publishers.clear()

    def _handle(self, entry: Entry) -> Result | Later:
        if entry.body is None:
            return Result(entry, "lost_to_retention")
        try:
            frame = unwrapped(entry.body)
            home = self._config.keys.slot_namespace(frame.namespace, frame.topic)
            self._publisher(home).publish(home, [frame])
        except BackendUnavailableError as error:
            log.warning("relay_waits", namespace=self._namespace, error=str(error))
            return Later(AGAIN_SECONDS)
        except (ConfigError, MessageError, MessagingError) as error:
            log.error("not_relayed", namespace=self._namespace, entry=entry.entry_id, error=str(error))
            return self._letter(entry, error)
        return Result(entry, "ok")

    def _publisher(self, home: str) -> Publisher:
        if home not in self._publishers:
            self._publishers[home] = Publisher(self._config.at(home), "rustic-host:relay", deadline=CALL_SECONDS)
        return self._publishers[home]

    def _letter(self, entry: Entry, error: Exception) -> Result:
        """A dead letter in the guild that sent it, with the message as it was to be stored."""
        try:
            frame: Frame | None = unwrapped(entry.body or b"")
            original = Message.from_json(frame.body) if frame else None
        except (MessageError, ValueError):
            frame = original = None
        told = entry._replace(topic=frame.topic, body=frame.body) if frame else entry
        letter = dead_letter(self._generator.get_id(), self._namespace, CLIENT, told, original, error)
        return Result(entry, "failed", frames_of(letter))


def _nothing_kept(kept: Kept) -> None:
    return
