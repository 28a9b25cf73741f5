"""What the routes need of a host. The daemon implements it; tests have a fake."""

from collections.abc import AsyncIterator
from typing import Protocol

from rustic_host.web.models import HostStatus, OutgoingItem
from rustic_host.web.operator_models import AgentBacklog, LetterChoice, LetterPage, LettersDone, Sought


class HostInterface(Protocol):
    """A host as the routes see it. Every method may raise any ``RusticHostError``; the caller gets its message."""

    @property
    def pid(self) -> int:
        """Process id of the daemon."""

    @property
    def version(self) -> str:
        """Version of the package that runs."""

    @property
    def operator(self) -> "OperatorInterface":
        """What an operator does about messages that were given up or stand still."""

    async def status(self) -> HostStatus:
        """Return the present state of the host, its guilds and their agents."""

    async def publish(self, guild: str, topic: str, items: list[OutgoingItem], key: str | None = None) -> list[int]:
        """Publish ``items`` in their order and return their ids.

        With a ``key`` the ids follow from it and the items' lines: publishing the same again stores nothing again.

        Raises:
            UnknownGuildError: no such guild runs here.
        """

    async def request(self, guild: str, topic: str, item: OutgoingItem, timeout: float, reply_on: str | None) -> bytes:
        """Publish ``item`` and return the first reply, as JSON, within ``timeout`` seconds.

        The reply comes on a private topic, or is the first message on ``reply_on`` that follows from the item.

        Raises:
            UnknownGuildError: no such guild runs here.
            RequestTimeoutError: nobody answered in time.
        """

    def tail(self, guild: str, topics: list[str], start: str | None, patient: bool = True) -> AsyncIterator[bytes]:
        """Return an iterator over the messages of ``topics`` (none named: all topics of the guild), as stored.

        An empty item says "reading has begun"; it is not passed on, but the head of the answer goes out with the first
        item of any kind, so give one as soon as nothing published from now on can be missed. The iterator is closed
        (``aclose``) when the client goes away, also while it waits.

        Args:
            guild: id of the guild.
            topics: names of topics, without the guild's namespace.
            start: ``None`` for what comes from now on, ``start`` for everything stored, or a message or entry id to
                begin after.
            patient: wait for a server that goes away later on, with an item ``{"notice": text}`` when it goes and
                when it is back, instead of ending with an error.

        Raises:
            UnknownGuildError: no such guild runs here (now or at the first item).
        """

    async def stop(self) -> None:
        """Begin an orderly stop of the host and return without waiting for its end."""

    async def metrics(self) -> bytes:
        """Return the metrics as Prometheus text."""


class OperatorInterface(Protocol):
    """Messages that were given up or stand still. Every method may raise UnknownGuildError; those that name an agent
    (by id or name) UnknownAgentError.
    """

    async def letters(self, guild: str, choice: LetterChoice) -> LetterPage:
        """Return dead letters, newest first."""

    async def letter(self, guild: str, letter_id: int) -> bytes:
        """Return one as it is stored.

        Raises:
            UnknownMessageError: there is none.
        """

    async def replay(self, guild: str, choice: LetterChoice) -> LettersDone:
        """Deliver the originals again, oldest first; ``limit`` does not matter."""

    async def purge(self, guild: str, choice: LetterChoice) -> LettersDone:
        """Throw letters away; ``limit`` does not matter."""

    async def pending(self, guild: str, agent: str | None, limit: int) -> list[AgentBacklog]:
        """Return what agents have in hand and before them, at most ``limit`` entries for each agent and topic."""

    async def skip(self, guild: str, agent: str, message: str, topic: str | None) -> dict[str, object]:
        """Give up one message of an agent; returns its dead letter's id and where it was.

        Raises:
            UnknownMessageError, UnknownPositionError, RequestError: there is no such message, or more than one.
        """

    async def seek(self, guild: str, agent: str, start: str, topic: str | None) -> Sought:
        """Have an agent read on from another position.

        Raises:
            UnknownMessageError, UnknownPositionError: there is no such position.
        """
