"""A client that changes messages before they are handled."""

from collections.abc import Callable

from rustic_host.errors import MessagingError
from rustic_host.messaging.client import MessageHandler
from rustic_host.messaging.clients.stage import FunctionStage
from rustic_host.messaging.delivery import Failed, Later
from rustic_host.messaging.message import Message


class TransformingClient(FunctionStage[Message]):
    """Hands on what ``func`` makes of each message; ``func`` is called once for a message, however often it is put off.

    A message that is put off and presented again must be known again, by a :class:`RetryingClient` behind this one for
    instance, also where ``func`` gives what it makes an id of its own.
    """

    def __init__(
        self,
        func: Callable[[Message], Message],
        *,
        id: str = "",
        name: str = "",
        message_handler: MessageHandler | None = None,
    ) -> None:
        super().__init__(func, id=id, name=name, message_handler=message_handler)
        self._put_off: dict[str | None, tuple[int, Message]] = {}  # by topic: the message in hand, and what it became

    def process(self, message: Message, then: MessageHandler) -> object:
        """Call ``func``.

        Raises:
            MessagingError: it returned no message.
        """
        topic, message_id = message.topic_published_to, message.id
        known_id, known = self._put_off.pop(topic, (None, None))
        made = known if known is not None and known_id == message_id else self._func(message)
        if not isinstance(made, Message):
            raise MessagingError(f"message {message_id} was made a {type(made).__name__}; expected a Message")
        answer = then(made.model_copy(deep=True))
        if isinstance(answer, Later | Failed):  # what failed may be tried again
            self._put_off[topic] = message_id, made
        return answer
