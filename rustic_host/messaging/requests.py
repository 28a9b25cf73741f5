"""Request and reply: a message that is answered on a topic which its sender reads meanwhile, past its own group.

A request carries a slip with one rule: whoever answers it first, to the reply topic. Rustic AI's agents follow it too.
Each client has one private reply topic, for all its requests, so that keys do not grow in number.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import TYPE_CHECKING, Protocol, TypeVar

from rustic_host.errors import MessagingError, RequestTimeoutError
from rustic_host.messaging.client import Client, SimpleClient
from rustic_host.messaging.message import Message
from rustic_host.messaging.routing_slip import RoutingDestination, RoutingRule, RoutingSlip
from rustic_host.messaging.tags import AgentTag

if TYPE_CHECKING:
    from rustic_host.messaging.interface import MessagingInterface

REPLY_INBOX = "reply_inbox:"
REQUEST_SECONDS = 30.0
"""How long a request waits where nothing else is said."""

_numbers = itertools.count()

T = TypeVar("T")


def reply_topic(client_id: str) -> str:
    """The private topic on which a client's requests are answered."""
    return f"{REPLY_INBOX}{client_id}"


def reply_slip(topic: str) -> RoutingSlip:
    """Sends the first message that follows from the one with this slip to ``topic``, whoever sends it.

    A tag without id and name matches every agent (facts 1.3); they are given as null, for a rule needs an agent.
    """
    rule = RoutingRule(
        agent=AgentTag(id=None, name=None), destination=RoutingDestination(topics=topic), reason="the reply"
    )
    return RoutingSlip(steps=[rule])


def is_reply(message: Message, request: Message) -> bool:
    """Whether a message answers the request, or follows from it over other agents.

    Ids of different senders may be the same, that of the answer too. A conversation tells them apart where both
    messages name one.
    """
    follows = message.id != request.id and request.id in message.thread
    if not follows and message.in_response_to != request.id:
        return False
    return None in (message.conversation_id, request.conversation_id) or (
        message.conversation_id == request.conversation_id
    )


class Listener(Protocol):
    """Reads one topic beside all groups and subscriptions."""

    waits_for_publishing: bool
    """Whether publishing returns only when subscribers have handled the message, or may do so."""

    def position(self) -> bytes:
        """Where the topic ends now."""

    def wait(self, wanted: Callable[[Message], bool], after: bytes, seconds: float) -> Message | None:
        """The first message wanted behind a position; None when there is none in time, or it is cancelled."""

    def stop(self, error: BaseException | None = None) -> None:
        """End a wait, with an error if one is given; any thread may call it."""

    def close(self) -> None:
        """Let go."""


class PlainListener:
    """Over a backend without a log: a subscription for as long as a request waits."""

    waits_for_publishing = True

    def __init__(self, messaging: MessagingInterface, topic: str) -> None:
        self._messaging, self._topic = messaging, topic
        self._heard: queue.SimpleQueue[Message | BaseException | None] = queue.SimpleQueue()
        name = f"reply-{next(_numbers)}"
        self._client = SimpleClient(name, name, self._heard.put)
        messaging.register_client(self._client)
        messaging.subscribe(topic, self._client)

    def position(self) -> bytes:
        """A mark of this subscription: what came before it has to be looked up."""
        return self._client.id.encode()

    def wait(self, wanted: Callable[[Message], bool], after: bytes, seconds: float) -> Message | None:
        """From the store, for a request that was sent by an earlier attempt, then as it comes."""
        give_up = time.monotonic() + seconds
        before = [] if after == self.position() else self._messaging.get_messages(self._topic)
        if (found := next(filter(wanted, before), None)) is not None:
            return found
        while (left := give_up - time.monotonic()) > 0:
            try:
                heard = self._heard.get(timeout=left)
            except queue.Empty:
                return None
            if heard is None:
                return None
            if isinstance(heard, BaseException):
                raise heard
            if wanted(heard):
                return heard
        return None

    def stop(self, error: BaseException | None = None) -> None:
        """Wake the one who waits."""
        self._heard.put(error)

    def close(self) -> None:
        """End the subscription."""
        self._messaging.unregister_client(self._client)


class Request:
    """One question, until its reply.

    Inside a handler it is sent early, and the reply is kept beside it until the commit: when the handler runs again,
    nothing is asked twice, and a reply that came is used.

    Args:
        messaging: the bus.
        client: who asks.
        message: the question; it begins a thread of its own.
        timeout: seconds from now.
        reply_on: a topic that other agents write to, instead of the private one; ``message`` then goes by the slip
            that it has.
        key: as for ``MessagingInterface.publish_now``.

    Raises:
        MessagingError: the client reads that topic itself, and could handle the reply only after the message in hand.
    """

    def __init__(
        self,
        messaging: MessagingInterface,
        client: Client,
        message: Message,
        *,
        timeout: float,
        reply_on: str | None = None,
        key: str,
    ) -> None:
        self._messaging, self._client, self._message, self._key = messaging, client, message, key
        self._seconds, self._give_up = timeout, time.monotonic() + timeout
        self._topic = reply_on or reply_topic(client.id)
        own = messaging.topics_of(client.id)
        if self._topic in own or set(message.topic_list) <= {t for t in own if t.startswith("agent_self_inbox")}:
            topics = ", ".join(message.topic_list)
            raise MessagingError(
                f"{client.id} cannot wait for a reply on {self._topic!r} to a request on {topics}: it would have to "
                "handle that itself, and is busy with waiting"
            )
        if reply_on is None:
            message.routing_slip = reply_slip(self._topic)

    def answer(self) -> Message:
        """Send, wait for the reply, and return it.

        Raises:
            RequestTimeoutError: there was none in time.
            MessagingError: as ``MessagingInterface.publish_now``.
        """
        if (known := self._known()) is not None:
            return known
        listener, after, sent = self._begin()
        try:
            return self._settled(self._wait(listener, after, sent))
        finally:
            listener.close()

    async def answer_async(self) -> Message:
        """As :meth:`answer`, while the event loop turns."""
        if (known := self._known()) is not None:
            return known
        listener, after, sent = self._begin()
        waiting = in_thread(lambda: self._wait_and_close(listener, after, sent))
        try:
            return self._settled(await asyncio.wrap_future(waiting))
        finally:
            listener.stop()

    def _known(self) -> Message | None:
        kept = self._messaging.kept().get(f"{self._key}r")
        return None if kept is None else Message.from_json(kept)

    def _begin(self) -> tuple[Listener, bytes, Message]:
        """Listen, then send: in this order, or the reply could come unheard. In the handler's thread."""
        listener = self._messaging.listen(self._topic)
        try:
            after = self._messaging.keep(f"{self._key}p", listener.position())
            return listener, after, self._send(listener)
        except BaseException:
            listener.close()
            raise

    def _send(self, listener: Listener) -> Message:
        if not listener.waits_for_publishing:
            return self._publish()
        sent = self._messaging.kept().get(self._key)
        if sent is not None:
            return Message.from_json(sent)
        in_thread(self._publish).add_done_callback(lambda done: listener.stop(e) if (e := done.exception()) else None)
        return self._message

    def _publish(self) -> Message:
        return self._messaging.publish_now(self._client, self._message, self._key)

    def _wait(self, listener: Listener, after: bytes, sent: Message) -> Message:
        left = self._give_up - time.monotonic()
        if (reply := listener.wait(lambda message: is_reply(message, sent), after, left)) is not None:
            return reply
        raise RequestTimeoutError(f"no reply to message {sent.id} on {self._topic!r} within {self._seconds:g} s")

    def _wait_and_close(self, listener: Listener, after: bytes, sent: Message) -> Message:
        try:
            return self._wait(listener, after, sent)
        finally:
            listener.close()

    def _settled(self, reply: Message) -> Message:
        return Message.from_json(self._messaging.keep(f"{self._key}r", reply.to_json_bytes()))


def in_thread(work: Callable[[], T]) -> Future[T]:
    """Run ``work`` in a thread of its own, in the caller's context; nobody waits for it when the process ends."""
    future: Future[T] = Future()

    def run() -> None:
        future.set_running_or_notify_cancel()  # from here on nobody can cancel it
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)

    threading.Thread(target=copy_context().run, args=(run,), name="request", daemon=True).start()
    return future
