"""Subscribing to a backend that keeps no log: one subscription for a topic, however many clients read it."""

import threading
from collections.abc import Callable
from functools import partial

from rustic_host.messaging.backend import MessagingBackend
from rustic_host.messaging.client import Client
from rustic_host.messaging.handling import Settle
from rustic_host.messaging.in_turn import Handler, in_turn
from rustic_host.messaging.inbox import Inbox
from rustic_host.messaging.message import Message
from rustic_host.messaging.presenting import Presenter
from rustic_host.messaging.published import frozen_of, hand_out
from rustic_host.telemetry.logs import get_logger

log = get_logger(__name__)


class PlainSubscriptions:
    """The clients of an interface by topic; the first of a topic subscribes the backend, the last unsubscribes it.

    Topics carry their namespace here.

    Args:
        backend: where topics are subscribed.
        presenter: makes what hands a client its messages, and tells the second argument what became of them.
    """

    def __init__(self, backend: MessagingBackend, presenter: Callable[[Client, Settle | None], Presenter]) -> None:
        self._backend, self._presenter = backend, presenter
        self._lock = threading.RLock()
        self._inboxes: dict[str, Inbox] = {}
        self._takers: dict[str, dict[str, Inbox]] = {}
        self._handlers: dict[str, Handler] = {}
        # A backend that cannot end a subscription is not asked for a second one of the same topic.
        self._can_end = type(backend).unsubscribe is not MessagingBackend.unsubscribe
        self.subscribed: set[str] = set()
        """Topics that the backend is subscribed to."""

    def attend(self, client: Client, settle: Settle, thread: str) -> Inbox:
        """Hand a client one message at a time, in a thread of that name if it has one, and tell ``settle``."""
        with self._lock:
            inbox = Inbox(client, self._presenter(client, settle).present, exclusive=True, thread=thread)
            self._inboxes[client.id] = inbox
            return inbox

    def join(self, topic: str, client: Client) -> None:
        """Deliver a topic to a client; in force when it returns."""
        with self._lock:
            takers = self._takers.setdefault(topic, {})
            takers[client.id] = self._inbox(client)
            if topic not in self.subscribed:
                self._subscribe(topic, takers)

    def part(self, topic: str, bare: str, client_id: str) -> None:
        """End delivery of a topic (``bare`` without namespace) to a client; what waits in its inbox is dropped."""
        with self._lock:
            takers = self._takers.get(topic, {})
            if takers.pop(client_id, None) is None:
                return
            if not takers:
                del self._takers[topic]
                if self._can_end:
                    self.subscribed.discard(topic)
                    self._backend.unsubscribe_handler(topic, self._handlers.pop(topic))
                    log.debug("backend_unsubscribed", topic=topic)
        if inbox := self._inboxes.get(client_id):
            inbox.forget([bare])

    def close_inbox(self, client_id: str) -> None:
        """Drop all that waits for a client; returns when nothing is presented to it any more."""
        if inbox := self._inboxes.pop(client_id, None):
            inbox.close()

    def _subscribe(self, topic: str, takers: dict[str, Inbox]) -> None:
        try:
            take = partial(self._hand_out, topic)
            handler = take if self._backend.delivers_in_turn else in_turn(take)
            self._backend.subscribe(topic, handler)
        except BaseException:
            takers.clear()
            self._takers.pop(topic, None)
            raise
        self._handlers[topic] = handler
        self.subscribed.add(topic)
        log.debug("backend_subscribed", topic=topic)

    def _hand_out(self, topic: str, message: Message) -> None:
        """Give each client a message of its own: what one changes nobody else sees."""
        takers = tuple(self._takers.get(topic, {}).values())
        if not takers:
            return
        if len(takers) > 1 or not self._backend.hands_out_copies:
            frozen = frozen_of(message)
            for taker in takers[:-1]:
                taker.take(hand_out(frozen))
            message = message if self._backend.hands_out_copies else hand_out(frozen)
        takers[-1].take(message)

    def _inbox(self, client: Client) -> Inbox:
        if client.id not in self._inboxes:
            self._inboxes[client.id] = Inbox(client, self._presenter(client, None).present)
        return self._inboxes[client.id]
