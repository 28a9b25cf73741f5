"""Clients one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rustic_host.messaging.client import Client, MessageHandler
from rustic_host.messaging.clients.stage import Stage
from rustic_host.messaging.message import Message

if TYPE_CHECKING:
    from rustic_host.messaging.interface import MessagingInterface


class PipelineClient(Stage):
    """Hands each message to the first client, whose answer decides whether and how the next one gets it.

    Its id, name and handler are, where not given, those of its last client: ``a | b | SimpleClient(id, name, handler)``
    is registered as the last one would be.

    Args:
        parts: the clients in order; each but the last is a :class:`Stage`.
        clients: more of them, for settings that are written in a file.
        id: for the pipeline itself.
        name: for people.
        message_handler: what comes after the last client, when that is a :class:`Stage`.

    Raises:
        TypeError: a part is no client, or one that nothing can stand behind.
    """

    def __init__(
        self,
        *parts: Client,
        clients: Sequence[Client] = (),
        id: str = "",
        name: str = "",
        message_handler: MessageHandler | None = None,
    ) -> None:
        self.clients = [*parts, *clients]
        _check(self.clients, followed=message_handler is not None)
        last = self.clients[-1]
        super().__init__(id=id or last.id, name=name or last.name, message_handler=message_handler)
        if message_handler is None:
            self._message_handler = last._message_handler

    def connect(self, messaging: MessagingInterface) -> None:
        """Attach every part, so that a handler may publish through any of them."""
        for client in self.clients:
            client.connect(messaging)
        super().connect(messaging)

    def disconnect(self) -> None:
        """Detach every part."""
        super().disconnect()
        for client in self.clients:
            client.disconnect()

    def order(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Each part's, one after the other."""
        for client in self.clients:
            messages = client.order(messages)
        return messages

    def process(self, message: Message, then: MessageHandler) -> object:
        """Run the parts from the first to the last, then ``then``."""
        for client in reversed(self.clients):
            then = partial(client.process, then=then) if isinstance(client, Stage) else client.notify_new_message
        return then(message)


def _check(clients: Sequence[Client], *, followed: bool) -> None:
    if not clients:
        raise TypeError("a pipeline has at least one client")
    for client in clients:
        if not isinstance(client, Client):
            raise TypeError(f"{type(client).__name__} is no Client")
    for client in clients if followed else clients[:-1]:
        if _ends(client):
            raise TypeError(f"nothing can stand behind a {type(client).__name__}: it has a handler of its own")


def _ends(client: Client) -> bool:
    return _ends(client.clients[-1]) if isinstance(client, PipelineClient) else not isinstance(client, Stage)
