"""Subscribing to a backend that keeps no log: one subscription for a topic, however many clients read it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rustic_host.messaging import in_hand
from rustic_host.messaging.backend import MessagingBackend
from rustic_host.messaging.client import Client
from rustic_host.messaging.handling import Settle
from rustic_host.messaging.in_turn import Handler, in_turn
from rustic_host.messaging.inbox import Inbox
from rustic_host.messaging.message import Message
from rustic_host.messaging.presenting import RULED, Presenter
from rustic_host.messaging.published import STATE, TOPIC, TTL, Frozen, FrozenHandler, frozen_of, hand_out
from rustic_host.telemetry.logs import get_logger

_in_hand, _set_in_hand = in_hand.current.get, in_hand.current.set

log = get_logger(__name__)


class _Takers(FrozenHandler):
    """Who gets the messages of one topic: each gets one of its own, and what one changes nobody else sees.

    Args:
        topic: without namespace.
        copies: whether messages come as copies that nobody else holds.
    """

    def __init__(self, topic: str, copies: bool) -> None:
        self.inboxes: dict[str, Inbox] = {}
        self._copies, self._lock = copies, threading.Lock()
        self._snapshot: tuple[Inbox, ...] | None = None
        self._delivers: tuple[Callable[[Frozen], object], ...] | None = None
        self._unruled = None if topic.startswith(RULED) else topic

    def add(self, client_id: str, inbox: Inbox) -> None:
        with self._lock:
            self.inboxes[client_id] = inbox
            self._snapshot = self._delivers = None

    def remove(self, client_id: str) -> bool:
        """Whether it was there."""
        with self._lock:
            self._snapshot = self._delivers = None
            return self.inboxes.pop(client_id, None) is not None

    def __call__(self, message: Message) -> None:
        """Give each client its own."""
        inboxes = self._readers()
        if self._copies and len(inboxes) == 1:
            inboxes[0].take(message)
            return
        frozen = frozen_of(message)
        for inbox in inboxes:
            inbox.take(hand_out(frozen))

    def deliver(self, fields: Frozen) -> None:
        """As a call, of the message as it is stored; one that is for everybody, and at any time, goes a shorter way."""
        if fields[TOPIC] != self._unruled or fields[STATE] is not None or fields[TTL] is not None:
            for inbox in self._readers():
                inbox.take(hand_out(fields))
            return
        if (delivers := self._delivers) is None:
            with self._lock:
                delivers = self._delivers = tuple(inbox.deliver for inbox in self.inboxes.values())
        outer = _in_hand()
        try:
            for deliver in delivers:
                deliver(fields)
        finally:
            _set_in_hand(outer)

    def _readers(self) -> tuple[Inbox, ...]:
        if (inboxes := self._snapshot) is None:
            with self._lock:
                inboxes = self._snapshot = tuple(self.inboxes.values())
        return inboxes


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
        self._takers: dict[str, _Takers] = {}
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

    def join(self, topic: str, bare: str, client: Client) -> None:
        """Deliver a topic (``bare`` without namespace) to a client; in force when it returns."""
        with self._lock:
            takers = self._takers.get(topic) or self._takers.setdefault(
                topic, _Takers(bare, self._backend.hands_out_copies)
            )
            takers.add(client.id, self._inbox(client))
            if topic not in self.subscribed:
                self._subscribe(topic, takers)

    def part(self, topic: str, bare: str, client_id: str) -> None:
        """End delivery of a topic (``bare`` without namespace) to a client; what waits in its inbox is dropped."""
        with self._lock:
            takers = self._takers.get(topic)
            if takers is None or not takers.remove(client_id):
                return
            if not takers.inboxes and self._can_end:
                del self._takers[topic]
                self.subscribed.discard(topic)
                self._backend.unsubscribe_handler(topic, self._handlers.pop(topic))
                log.debug("backend_unsubscribed", topic=topic)
        if inbox := self._inboxes.get(client_id):
            inbox.forget([bare])

    def close_inbox(self, client_id: str) -> None:
        """Drop all that waits for a client; returns when nothing is presented to it any more."""
        if inbox := self._inboxes.pop(client_id, None):
            inbox.close()

    def _subscribe(self, topic: str, takers: _Takers) -> None:
        try:
            handler = takers if self._backend.delivers_in_turn else in_turn(takers)
            self._backend.subscribe(topic, handler)
        except BaseException:
            del self._takers[topic]
            raise
        self._handlers[topic] = handler
        self.subscribed.add(topic)
        log.debug("backend_subscribed", topic=topic)

    def _inbox(self, client: Client) -> Inbox:
        if client.id not in self._inboxes:
            presenter = self._presenter(client, None)
            inbox = self._inboxes[client.id] = Inbox(client, presenter.present)
            if not inbox.one_at_a_time:
                inbox.deliver = presenter.short_way(inbox)
        return self._inboxes[client.id]
