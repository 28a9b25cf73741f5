"""A client that handles what has been read ahead in the order of ids."""

from collections.abc import Sequence
from operator import attrgetter

from rustic_host.messaging.client import MessageHandler
from rustic_host.messaging.clients.stage import Stage
from rustic_host.messaging.delivery import Later
from rustic_host.messaging.message import Message

_ID = attrgetter("id")


class MessageTrackingClient(Stage):
    """Handles messages by id, so urgent ones first, within what has been read ahead, over all its topics.

    A message with a lower id than the last one, an urgent one say, is handled when it comes: it is no duplicate.
    """

    def __init__(self, id: str = "", name: str = "", message_handler: MessageHandler | None = None) -> None:
        super().__init__(id=id, name=name, message_handler=message_handler)
        self.last_processed_message_id: int | None = None
        """Of the message handled last; None before the first."""

    def order(self, messages: Sequence[Message]) -> Sequence[Message]:
        """By id."""
        return sorted(messages, key=_ID)

    def process(self, message: Message, then: MessageHandler) -> object:
        """Hand on, and note the id, also of a message whose handling failed."""
        message_id = message.id
        answer: object = None
        try:
            answer = then(message)
        finally:
            if not isinstance(answer, Later):
                self.last_processed_message_id = message_id
        return answer
