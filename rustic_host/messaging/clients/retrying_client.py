"""A client that tries again what failed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from rustic_host.messaging import in_hand
from rustic_host.messaging.client import Client, MessageHandler
from rustic_host.messaging.clients.backoff import Backoff, ExponentialBackoff
from rustic_host.messaging.clients.stage import Stage
from rustic_host.messaging.delivery import Failed, Later
from rustic_host.messaging.message import Message
from rustic_host.telemetry.logs import get_logger

if TYPE_CHECKING:
    from rustic_host.messaging.interface import MessagingInterface

log = get_logger(__name__)


class _Failure(NamedTuple):
    attempts: int
    due: float


class RetryingClient(Stage):
    """Presents a message again, after a pause, when handling it raises (or answers ``Failed``, as an agent does).

    What a failed attempt sent is void. All attempts belong to one delivery: the message stays pending between them, and
    they are counted anew by a process that takes over. The last one's failure is raised, its answer returned; no retry
    policy adds attempts to those.

    Args:
        client: whose handling is tried; by default what comes after this one.
        max_retries: attempts in all.
        backoff_strategy: how long the pauses are.
        clock: monotonic seconds.

    Raises:
        ValueError: ``max_retries`` is less than 1.
    """

    def __init__(
        self,
        client: Client | None = None,
        max_retries: int = 3,
        backoff_strategy: Backoff | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        id: str = "",
        name: str = "",
        message_handler: MessageHandler | None = None,
    ) -> None:
        if max_retries < 1:
            raise ValueError(f"max_retries {max_retries} must be at least 1: it counts all attempts")
        if client is not None:
            id, name, message_handler = id or client.id, name or client.name, client.notify_new_message
        super().__init__(id=id, name=name, message_handler=message_handler)
        self._client, self._max_attempts = client, max_retries
        self._backoff, self._clock = backoff_strategy or ExponentialBackoff(), clock
        self._failures: dict[tuple[str | None, int], _Failure] = {}

    def connect(self, messaging: "MessagingInterface") -> None:
        """Attach, and the wrapped client too."""
        if self._client:
            self._client.connect(messaging)
        super().connect(messaging)

    def disconnect(self) -> None:
        """Detach, and the wrapped client too."""
        super().disconnect()
        if self._client:
            self._client.disconnect()

    def order(self, messages: Sequence[Message]) -> Sequence[Message]:
        """That of the wrapped client."""
        return self._client.order(messages) if self._client else messages

    def process(self, message: Message, then: MessageHandler) -> object:
        """Try once, unless the pause is not over; raises what the last attempt raises."""
        key = message.topic_published_to, message.id
        failure = self._failures.get(key, _Failure(0, self._clock()))
        if (left := failure.due - self._clock()) > 0:
            return Later(left)
        last = failure.attempts + 1 >= self._max_attempts
        try:
            answer = then(message.model_copy(deep=True))  # the next attempt must not see what this one changed
        except Exception as error:
            if last:
                self._failures.pop(key, None)
                in_hand.give_up(error)
                raise
            return self._again(key, failure.attempts, error)
        if isinstance(answer, Failed):
            if not last:
                answer.conclude(False)
                return self._again(key, failure.attempts, answer.error)
            answer = replace(answer, final=True)  # no policy behind this one tries it again
        if not isinstance(answer, Later):
            self._failures.pop(key, None)
        return answer

    def _again(self, key: tuple[str | None, int], before: int, error: BaseException) -> Later:
        pause = self._backoff.seconds(before)
        self._failures[key] = _Failure(before + 1, self._clock() + pause)
        said = f"{type(error).__name__}: {error}"
        log.warning("attempt_failed", client=self.id, topic=key[0], message_id=key[1], attempt=before + 1, error=said)
        return Later(pause)
