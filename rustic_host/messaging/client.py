"""Clients: what an agent holds of the bus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from rustic_host.errors import MessagingError
from rustic_host.messaging.delivery import SHARED_TOPICS
from rustic_host.messaging.message import Message
from rustic_host.messaging.retry import NEVER, RetryPolicy

if TYPE_CHECKING:
    from rustic_host.messaging.interface import MessagingInterface
    from rustic_host.messaging.requests import Request

MessageHandler = Callable[[Message], object]
"""Handles one message. A returned string is the outcome that is counted (``ok`` when it returns anything else);
:class:`~rustic_host.messaging.delivery.Later` puts the message off; :class:`~rustic_host.messaging.delivery.Failed`
says, as an exception does, that it could not be handled."""


class Client(ABC):
    """One party on the bus.

    Args:
        id: unique in its namespace; for an agent ``<guild>$<agent>``.
        name: for people.
        message_handler: called with each message.
    """

    one_at_a_time: ClassVar[bool] = True
    """Whether messages wait while another is handled. A backend without a log else calls from several threads at once;
    one with a log never does."""

    retry_policy: RetryPolicy = NEVER
    """What becomes of a message that could not be handled."""

    def __init__(self, id: str, name: str, message_handler: MessageHandler) -> None:
        self.id, self.name = id, name
        self._message_handler = message_handler
        self._messaging: MessagingInterface | None = None

    def connect(self, messaging: MessagingInterface) -> None:
        """Attach to an interface; called by its ``register_client``.

        Raises:
            MessagingError: attached to another interface already.
        """
        if self._messaging not in (None, messaging):
            raise MessagingError(f"client {self.id} is connected to another interface")
        self._messaging = messaging

    def disconnect(self) -> None:
        """Detach.

        Raises:
            MessagingError: not connected.
        """
        self._connected()
        self._messaging = None

    def publish(self, message: Message) -> None:
        """Publish; inside a handler on a durable backend the message leaves with the commit of the one in hand.

        Raises:
            MessagingError: not connected, or the backend refused or could not be reached.
        """
        self._connected().publish(self, message)

    def publish_now(self, message: Message, key: str) -> Message:
        """Publish without waiting for the end of the handler; see ``MessagingInterface.publish_now``.

        Raises:
            MessagingError: not connected, or as there.
        """
        return self._connected().publish_now(self, message, key)

    def keep(self, key: str, value: bytes) -> bytes:
        """Keep a value until the message in hand is committed; see ``MessagingInterface.keep``."""
        return self._connected().keep(key, value)

    def kept(self) -> Mapping[str, bytes]:
        """What was published early or kept for the message in hand, also by an earlier run of the handler."""
        return self._connected().kept()

    def ask(
        self, message: Message, *, timeout: float = 30.0, reply_on: str | None = None, key: str | None = None
    ) -> Request:
        """Prepare a request, whose ``answer()`` sends it and waits; see ``MessagingInterface.ask``."""
        return self._connected().ask(self, message, timeout=timeout, reply_on=reply_on, key=key)

    def publish_to_guild_inbox(self, guild_id: str, message: Message) -> None:
        """Publish to the topic on which other guilds write to ``guild_id``, as :meth:`publish` does.

        Raises:
            MessagingError: no shared namespace is active; besides what :meth:`publish` raises.
        """
        messaging = self._connected()
        if not messaging.shared_namespace:
            raise MessagingError(f"guild {guild_id!r} cannot be reached: no shared namespace is active")
        messaging.publish(self, message.model_copy(update={"topics": f"{SHARED_TOPICS}{guild_id}"}))

    @abstractmethod
    def notify_new_message(self, message: Message) -> object:
        """Take one message from the interface; returns the handler's answer, or ``Later``."""

    @property
    def taker(self) -> MessageHandler:
        """What takes the client's messages; :meth:`notify_new_message`, or what that comes to."""
        return self.notify_new_message

    def order(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The order in which messages that were read ahead are handled; as they arrived where this is not overridden.

        What is left out comes last. Messages here are to be looked at only.
        """
        return messages

    def _connected(self) -> MessagingInterface:
        if self._messaging is None:
            raise MessagingError(f"client {self.id} is not connected; register it with a MessagingInterface first")
        return self._messaging


class SimpleClient(Client):
    """Hands each message to the handler at once, in arrival order."""

    one_at_a_time = False

    def notify_new_message(self, message: Message) -> object:
        """Call the handler."""
        return self._message_handler(message)

    @property
    def taker(self) -> MessageHandler:
        """The handler itself, unless a subclass has a say: one call less for each message in memory."""
        plain = type(self).notify_new_message is SimpleClient.notify_new_message
        return self._message_handler if plain else self.notify_new_message
