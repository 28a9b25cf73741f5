"""A client that takes some messages only."""

from rustic_host.messaging.client import MessageHandler
from rustic_host.messaging.clients.stage import FunctionStage
from rustic_host.messaging.message import Message


class FilteringClient(FunctionStage[object]):
    """Lets through the messages for which ``func`` is true; the others are done, and counted as ``filtered``."""

    def process(self, message: Message, then: MessageHandler) -> object:
        """Ask ``func``."""
        return then(message) if self._func(message) else "filtered"
