"""The shapes of the control API's answers about messages that were given up or stand still."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class LetterChoice(BaseModel):
    """Which dead letters: the query of all routes about several of them."""

    model_config = ConfigDict(extra="forbid")

    id: list[int] = []
    """Their own ids; none: all."""
    topic: str | None = None
    """That the original was on."""
    agent: str | None = None
    """Id or name of the agent that gave it up, or a client id."""
    error: str | None = None
    """``error_type``."""
    since: int | None = None
    until: int | None = None
    """Milliseconds since the Unix epoch, both inclusive."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    skip: Annotated[int, Field(ge=0)] = 0
    """Letters to pass over: the ``next`` of an answer goes on behind what it is about."""


class LetterSummary(BaseModel):
    """One dead letter; ``None`` and empty texts are what it does not say."""

    id: int | None
    id_string: str
    """In decimal, for readers whose numbers are doubles."""
    at: datetime
    agent: str
    """Name of the agent that gave the message up; its client id when the guild has no such agent."""
    client_id: str
    topic: str
    message_id_string: str
    error_type: str
    error_message: str
    attempts: int | None
    replayable: bool
    """Whether the original is a message."""


class LetterPage(BaseModel):
    """Some dead letters, newest first."""

    total: int
    """How many the guild has, chosen or not."""
    letters: list[LetterSummary]
    next: int | None
    """``skip`` that goes on; ``None`` when the limit is reached or all was looked through."""


class LetterRefused(BaseModel):
    """A dead letter that something could not be done with."""

    id_string: str
    why: str


class LettersDone(BaseModel):
    """What was done with dead letters."""

    done: int
    refused: list[LetterRefused]
    missing: list[str]
    """Ids that no dead letter has."""
    next: int | None
    """``skip`` that goes on; ``None`` when all was looked through."""


class EntryInHand(BaseModel):
    """A log entry that was read and is not committed."""

    entry: str
    message_id_string: str | None
    """``None`` for what is no message, or was taken by retention."""
    seconds: float
    """Since it was given out (the last time)."""
    attempts: int
    """How often handling it has failed or was broken off."""


class TopicBacklog(BaseModel):
    """What one agent has still to do in one topic."""

    topic: str
    pending: int
    """Read and not committed."""
    lag: int | None
    """Not read yet; ``None`` when the server cannot say."""
    lost: bool
    """Its position is lost; it reads nothing until ``seek`` says where to go on."""
    in_hand: list[EntryInHand]


class AgentBacklog(BaseModel):
    """What one agent has still to do."""

    id: str
    name: str
    topics: list[TopicBacklog]


class TopicSought(BaseModel):
    """The new position in one topic."""

    topic: str
    position: str
    """Log entry behind which it reads on; ``0`` is the start, ``$`` the end of that moment."""
    left: int
    """Entries that it had in hand before that position: it does not handle them any more."""


class Sought(BaseModel):
    """What a seek did."""

    topics: list[TopicSought]
    started: bool
    """Whether the agent, which had failed for its lost position, was started again."""
