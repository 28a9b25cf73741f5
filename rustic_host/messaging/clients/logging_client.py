"""A client that says what passes."""

import logging

from rustic_host.messaging.client import MessageHandler
from rustic_host.messaging.clients.stage import Stage
from rustic_host.messaging.delivery import Failed, Later
from rustic_host.messaging.message import Message
from rustic_host.telemetry.logs import get_logger

log = get_logger(__name__)


class LoggingClient(Stage):
    """Logs each message and its outcome. Payloads are not logged: they may hold what nobody else should read.

    Args:
        log_level: a name or number of the standard library's.

    Raises:
        ValueError: there is no such level.
    """

    def __init__(
        self,
        log_level: int | str = logging.INFO,
        *,
        id: str = "",
        name: str = "",
        message_handler: MessageHandler | None = None,
    ) -> None:
        super().__init__(id=id, name=name, message_handler=message_handler)
        named = logging.getLevelNamesMapping()
        level = named.get(log_level.upper()) if isinstance(log_level, str) else log_level
        if level is None:
            raise ValueError(f"log_level {log_level!r} is none of {', '.join(named)}")
        self._level = level

    def process(self, message: Message, then: MessageHandler) -> object:
        """Log, hand on, log."""
        said = {"message_id": message.id, "topic": message.topic_published_to, "format": message.format}
        log.log(self._level, "message_received", sender=message.sender.id, **said)
        try:
            answer = then(message)
        except Exception as error:
            log.log(self._level, "message_failed", error=f"{type(error).__name__}: {error}", **said)
            raise
        if isinstance(answer, Failed):
            log.log(self._level, "message_failed", error=f"{type(answer.error).__name__}: {answer.error}", **said)
        elif isinstance(answer, Later):
            log.log(self._level, "message_put_off", seconds=round(answer.seconds, 3), **said)
        else:
            log.log(self._level, "message_handled", outcome=answer if isinstance(answer, str) else "ok", **said)
        return answer
