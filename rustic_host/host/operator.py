"""An operator's work on messages that were given up or stand still, as the HTTP routes ask for it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rustic_host.errors import MessageSkippedError, RequestError, UnknownAgentError, UnknownMessageError
from rustic_host.execution.wrapper import NO_ORGANIZATION
from rustic_host.messaging import Message
from rustic_host.messaging.dead_letter import dead_letter
from rustic_host.messaging.delivery import Entry, Frame, frames_of
from rustic_host.messaging.redis.letters import Choice, DeadLetters, Letter, Work
from rustic_host.messaging.redis.positions import Positions, Waiting
from rustic_host.telemetry.logs import get_logger
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

if TYPE_CHECKING:
    from rustic_host.host.daemon import Host
    from rustic_host.host.supervisor import GuildSupervisor

log = get_logger(__name__)


class Operator:
    """Implements :class:`rustic_host.web.interface.OperatorInterface`.

    Args:
        host: the daemon.
    """

    def __init__(self, host: Host) -> None:
        self._host = host

    async def letters(self, guild: str, choice: LetterChoice) -> LetterPage:
        """From the queue's documented store, so Rustic AI's are among them."""
        supervisor, queue = self._queue(guild)
        names = _names(supervisor)
        work = await asyncio.to_thread(queue.find, _chosen(supervisor, choice), choice.limit, choice.skip)
        total = await asyncio.to_thread(queue.count)
        return LetterPage(total=total, letters=[_summary(letter, names) for letter in work.letters], next=work.next)

    async def letter(self, guild: str, letter_id: int) -> bytes:
        """As it is stored."""
        _, queue = self._queue(guild)
        work = await asyncio.to_thread(queue.find, Choice(ids=frozenset([_id(letter_id)])), 1)
        if not work.letters:
            raise UnknownMessageError(f"guild {guild} has no dead letter {letter_id}")
        return work.letters[0].body

    async def replay(self, guild: str, choice: LetterChoice) -> LettersDone:
        """Each exactly once, whoever else does the same."""
        supervisor, queue = self._queue(guild)
        work = await asyncio.to_thread(queue.replay, _chosen(supervisor, choice), choice.skip)
        log.info("dead_letters_replayed", guild=guild, messages=len(work.letters), refused=len(work.refused))
        return _done(work, choice)

    async def purge(self, guild: str, choice: LetterChoice) -> LettersDone:
        """What is purged is gone."""
        supervisor, queue = self._queue(guild)
        work = await asyncio.to_thread(queue.purge, _chosen(supervisor, choice), choice.skip)
        log.info("dead_letters_purged", guild=guild, messages=len(work.letters))
        return _done(work, choice)

    async def pending(self, guild: str, agent: str | None, limit: int) -> list[AgentBacklog]:
        """Of the guild's agents and its manager, or of one."""
        supervisor, positions = self._positions(guild)
        names = _names(supervisor)
        wanted = list(names) if agent is None else [_client(supervisor, agent)]
        found = [await asyncio.to_thread(positions.waiting, client_id, limit) for client_id in wanted]
        return [
            AgentBacklog(
                id=_agent_id(client_id), name=names.get(client_id, client_id), topics=list(map(_topic, topics))
            )
            for client_id, topics in zip(wanted, found, strict=True)
        ]

    async def skip(self, guild: str, agent: str, message: str, topic: str | None) -> dict[str, object]:
        """The dead letter says ``MessageSkippedError``."""
        supervisor, positions = self._positions(guild)
        client_id = _client(supervisor, agent)
        entry = await asyncio.to_thread(positions.find, client_id, message, topic)
        attempts = await asyncio.to_thread(positions.attempts, client_id, entry)
        letter = self._letter(guild, client_id, entry, attempts)
        await asyncio.to_thread(positions.skip, client_id, entry, letter)
        log.warning("message_skipped", guild=guild, agent=client_id, topic=entry.topic, entry=entry.entry_id)
        return {"letter_id_string": str(letter.message_id), "topic": entry.topic, "entry": entry.entry_id}

    async def seek(self, guild: str, agent: str, start: str, topic: str | None) -> Sought:
        """An agent that stands still for its lost position is started again."""
        supervisor, positions = self._positions(guild)
        client_id = _client(supervisor, agent)
        moved = await asyncio.to_thread(positions.seek, client_id, start, topic)
        for each in moved:
            log.warning("position_set", guild=guild, agent=client_id, **each._asdict())
        started = supervisor.try_again(_agent_id(client_id))
        return Sought(topics=[TopicSought(**each._asdict()) for each in moved], started=started)

    def _queue(self, guild: str) -> tuple[GuildSupervisor, DeadLetters]:
        supervisor = self._host.supervisor(guild)
        return supervisor, self._host.buses.of(guild).letters(guild, _shared(supervisor))

    def _positions(self, guild: str) -> tuple[GuildSupervisor, Positions]:
        supervisor = self._host.supervisor(guild)
        return supervisor, self._host.buses.of(guild).positions(guild, _shared(supervisor))

    def _letter(self, guild: str, client_id: str, entry: Entry, attempts: int) -> Frame:
        try:
            original = Message.from_json(entry.body) if entry.body is not None else None
        except ValueError:
            original = None  # the letter keeps it as text
        new_id = self._host.buses.of(guild).generator.get_id()
        error = MessageSkippedError("skipped by operator")
        letter = dead_letter(new_id, guild, client_id, entry, original, error)
        letter.payload["attempts"] = attempts
        (frame,) = frames_of(letter)
        return frame


def _shared(supervisor: GuildSupervisor) -> str:
    return supervisor.spec.organization_id or NO_ORGANIZATION


def _names(supervisor: GuildSupervisor) -> dict[str, str]:
    """Names of all that read durably, by client id."""
    names = {f"{supervisor.spec.id}${record.spec.id}": record.spec.name for record in supervisor.agents.values()}
    return {**names, supervisor.service.client_id: supervisor.service.name}


def _client(supervisor: GuildSupervisor, agent: str) -> str:
    """The client id that an agent's id or name, or a client id, stands for."""
    names, own = _names(supervisor), f"{supervisor.spec.id}$"
    for client_id in (agent, own + agent):
        if client_id in names:
            return client_id
    found = [client_id for client_id, name in names.items() if name == agent]
    if len(found) > 1:
        raise RequestError(f"{len(found)} agents are named {agent!r}; give an id: {', '.join(map(_agent_id, found))}")
    if not found:
        known = ", ".join(f"{_agent_id(client_id)} ({name})" for client_id, name in names.items())
        raise UnknownAgentError(f"guild {supervisor.spec.id} has no agent {agent!r}; there is: {known}")
    return found[0]


def _clients(supervisor: GuildSupervisor, agent: str | None) -> frozenset[str] | None:
    """All client ids that ``agent`` may mean in a dead letter; its writer may be gone, or none of ours."""
    if agent is None:
        return None
    named = (client_id for client_id, name in _names(supervisor).items() if name == agent)
    return frozenset((agent, f"{supervisor.spec.id}${agent}", *named))


def _chosen(supervisor: GuildSupervisor, choice: LetterChoice) -> Choice:
    return Choice(
        ids=frozenset(map(_id, choice.id)),
        topic=choice.topic,
        clients=_clients(supervisor, choice.agent),
        error=choice.error,
        since=choice.since,
        until=choice.until,
    )


def _id(number: int) -> int:
    if not 0 <= number < 1 << 64:
        raise RequestError(f"{number} is no message id")
    return number


def _summary(letter: Letter, names: dict[str, str]) -> LetterSummary:
    attempts = letter.payload.get("attempts")
    client_id = letter.text("client_id")
    return LetterSummary(
        id=letter.id,
        id_string="" if letter.id is None else str(letter.id),
        at=datetime.fromtimestamp(letter.at / 1000, UTC),
        agent=names.get(client_id, client_id),
        client_id=client_id,
        topic=letter.topic,
        message_id_string=letter.text("original_message_id"),
        error_type=letter.text("error_type"),
        error_message=letter.text("error_message"),
        attempts=attempts if isinstance(attempts, int) else None,
        replayable=isinstance(letter.payload.get("original_message"), dict),
    )


def _done(work: Work, choice: LetterChoice) -> LettersDone:
    met = {letter.id for letter in work.letters} | {letter.id for letter, _ in work.refused}
    return LettersDone(
        done=len(work.letters),
        refused=[LetterRefused(id_string=str(letter.id or ""), why=why) for letter, why in work.refused],
        missing=[str(number) for number in choice.id if number not in met],
        next=work.next,
    )


def _topic(waiting: Waiting) -> TopicBacklog:
    return TopicBacklog(
        topic=waiting.topic,
        pending=waiting.pending,
        lag=waiting.lag,
        lost=waiting.lost,
        in_hand=[
            EntryInHand(
                entry=each.entry_id,
                message_id_string=None if each.message_id is None else str(each.message_id),
                seconds=round(each.seconds, 3),
                attempts=each.attempts,
            )
            for each in waiting.in_hand
        ],
    )


def _agent_id(client_id: str) -> str:
    return client_id.rpartition("$")[2]
