"""What clients have in common that do something with a message before the next one gets it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from rustic_host.messaging.client import Client, MessageHandler
from rustic_host.messaging.message import Message

if TYPE_CHECKING:
    from rustic_host.messaging.clients.pipeline_client import PipelineClient

T = TypeVar("T")


class Stage(Client):
    """A client of its own when it has an id and a handler, else a part of a pipeline: ``stage | client``.

    Args:
        id: as for every client; a part of a pipeline needs none.
        name: for people.
        message_handler: what comes after it; by default nothing does.
    """

    def __init__(self, *, id: str = "", name: str = "", message_handler: MessageHandler | None = None) -> None:
        super().__init__(id, name, message_handler or _nothing)

    def __or__(self, other: Client) -> PipelineClient:
        return self.pipe(other)

    def pipe(self, other: Client) -> PipelineClient:
        """``self | other``. Raises TypeError when ``other`` is no client."""
        from rustic_host.messaging.clients.pipeline_client import PipelineClient

        return PipelineClient(self, other)

    def notify_new_message(self, message: Message) -> object:
        """Process the message; what comes after it is the handler."""
        return self.process(message, self._message_handler)

    @abstractmethod
    def process(self, message: Message, then: MessageHandler) -> object:
        """Do this client's part, and call ``then`` or do not; returns the answer."""


class FunctionStage(Stage, Generic[T]):
    """A stage that asks a function about each message; in a spec ``func`` is its dotted name."""

    def __init__(
        self,
        func: Callable[[Message], T],
        *,
        id: str = "",
        name: str = "",
        message_handler: MessageHandler | None = None,
    ) -> None:
        super().__init__(id=id, name=name, message_handler=message_handler)
        self._func = func


def _nothing(message: Message) -> None:
    return
