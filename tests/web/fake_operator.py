"""What the routes and commands of an operator are answered in tests; guild ``g`` is the only one."""

from datetime import UTC, datetime
from typing import Any

from rustic_host.errors import UnknownGuildError, UnknownMessageError
from rustic_host.web.operator_models import (
    AgentBacklog,
    EntryInHand,
    LetterChoice,
    LetterPage,
    LetterRefused,
    LettersDone,
    LetterSummary,
    Sought,
    TopicBacklog,
    TopicSought,
)

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def summary(number: int, **fields: Any) -> LetterSummary:
    values: dict[str, Any] = {
        "id": number, "id_string": str(number), "at": AT, "agent": "Parser", "client_id": "g$a1", "topic": "lines",
        "message_id_string": "7", "error_type": "ValueError", "error_message": "no\x1b[2J good\nand more",
        "attempts": 4, "replayable": True,
    }  # fmt: skip
    return LetterSummary(**{**values, **fields})


class FakeOperator:
    """Implements ``OperatorInterface``; ``asked`` has what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.pages = [LetterPage(total=2, letters=[summary(2**63 + 1), summary(5, attempts=None)], next=None)]
        self.stored = b"{}"
        self.done: list[LettersDone] = [LettersDone(done=2, refused=[], missing=[], next=None)]
        self.backlogs: list[AgentBacklog] = []

    async def letters(self, guild: str, choice: LetterChoice) -> LetterPage:
        self._note(guild, "letters", choice)
        return self.pages.pop(0)

    async def letter(self, guild: str, letter_id: int) -> bytes:
        self._note(guild, "letter", letter_id)
        if letter_id == 404:
            raise UnknownMessageError("guild g has no dead letter 404")
        return self.stored

    async def replay(self, guild: str, choice: LetterChoice) -> LettersDone:
        self._note(guild, "replay", choice)
        return self.done.pop(0)

    async def purge(self, guild: str, choice: LetterChoice) -> LettersDone:
        self._note(guild, "purge", choice)
        return self.done.pop(0)

    async def pending(self, guild: str, agent: str | None, limit: int) -> list[AgentBacklog]:
        self._note(guild, "pending", agent, limit)
        return self.backlogs

    async def skip(self, guild: str, agent: str, message: str, topic: str | None) -> dict[str, object]:
        self._note(guild, "skip", agent, message, topic)
        return {"letter_id_string": "99", "topic": "lines", "entry": "1-2"}

    async def seek(self, guild: str, agent: str, start: str, topic: str | None) -> Sought:
        self._note(guild, "seek", agent, start, topic)
        topics = [TopicSought(topic="lines", position="0", left=0), TopicSought(topic="x", position="1-2", left=1)]
        return Sought(topics=topics, started=start == "start")

    def _note(self, guild: str, *what: Any) -> None:
        if guild != "g":
            raise UnknownGuildError(f"no guild {guild!r} runs here; there is: g")
        self.asked.append(what)


def backlogs() -> list[AgentBacklog]:
    entry = EntryInHand(entry="1-2", message_id_string=str(2**63), seconds=65.2, attempts=2)
    quiet = TopicBacklog(topic="quiet", pending=0, lag=0, lost=False, in_hand=[])
    busy = TopicBacklog(topic="lines", pending=1, lag=None, lost=False, in_hand=[entry])
    lost = TopicBacklog(topic="gone", pending=0, lag=None, lost=True, in_hand=[])
    return [
        AgentBacklog(id="a1", name="Parser", topics=[quiet, busy, lost]),
        AgentBacklog(id="a2", name="B", topics=[]),
    ]


def refused(number: int, why: str = "the original is no message") -> LetterRefused:
    return LetterRefused(id_string=str(number), why=why)
