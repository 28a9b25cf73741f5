"""A client that takes some messages only."""

from collections.abc import Callable

from rustic_host.messaging.client import MessageHandler
from rustic_host.messaging.clients.stage import Stage
from rustic_host.messaging.message import Message


class FilteringClient(Stage):
    """Lets through the messages for which ``func`` is true; the others are done, and counted as ``filtered``."""

    def __init__(
        self,
        func: Callable[[Message], object],
        *,
        id: str = "",
        name: str = "",
        message_handler: MessageHandler | None = None,
    ) -> None:
        super().__init__(id=id, name=name, message_handler=message_handler)
        self._func = func

    def process(self, message: Message, then: MessageHandler) -> object:
        """Ask ``func``."""
        return then(message) if self._func(message) else "filtered"
