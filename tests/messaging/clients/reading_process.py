"""A process that reads with a client of each kind, for tests that kill it: ``python -m … URL NAMESPACE``.

What a client handles on ``t`` it publishes again on ``<kind>``, in the commit that acknowledges it.
"""

import sys
import threading
from itertools import count

from rustic_host.messaging import (
    AgentTag,
    Client,
    FixedBackoff,
    GemstoneGenerator,
    Message,
    MessageTrackingClient,
    MessagingConfig,
    MessagingInterface,
    RetryingClient,
    ThrottlingClient,
)
from rustic_host.messaging.client import MessageHandler

FAILS_AT = 7
"""Each so many-th call of the handler fails, after it has sent something."""


WORK_SECONDS = 0.002
"""How long the handler takes, so that a kill finds it in the middle."""


KINDS = ("tracking", "throttling", "retrying")
GENERATOR = GemstoneGenerator(7)


class Forwarding:
    """A client and its handler."""

    def __init__(self, kind: str) -> None:
        self._kind, self._calls = kind, count(1)
        self.client = made(kind, self._handle)

    def _handle(self, message: Message) -> None:
        sender, payload = AgentTag(id=self._kind), dict(message.payload)
        self.client.publish(Message(GENERATOR.get_id(), sender=sender, topics=self._kind, payload=payload))
        threading.Event().wait(WORK_SECONDS)
        if self._kind == "retrying" and next(self._calls) % FAILS_AT == 0:
            raise ValueError("unlucky")


def made(kind: str, handle: MessageHandler) -> Client:
    if kind == "retrying":
        return RetryingClient(None, 3, FixedBackoff(0.005), id=kind, message_handler=handle)
    end = MessageTrackingClient(kind, kind, handle)
    return ThrottlingClient(400, burst=10) | end if kind == "throttling" else end


def main(url: str, namespace: str) -> None:
    config = MessagingConfig(
        backend_module="rustic_host.messaging",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": {"url": url}},
    )
    messaging = MessagingInterface(namespace, config)
    for kind in KINDS:
        client = Forwarding(kind).client
        messaging.register_client(client)
        messaging.subscribe("t", client)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
