"""From a stored message to a client's handler, and what becomes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import is_
from typing import Any, Protocol

from rustic_host.errors import AttemptsUsedUpError, LostToRetentionError, MessageExpiredError
from rustic_host.messaging import in_hand
from rustic_host.messaging.backend import MessagingBackend
from rustic_host.messaging.client import Client
from rustic_host.messaging.dead_letter import DEAD_LETTER_TOPIC, dead_letter, replayed_for, without_mark
from rustic_host.messaging.delivery import SHARED_TOPICS, Entry, Failed, Frame, Kept, Later, Result, frames_of
from rustic_host.messaging.gemstone_id import GemstoneGenerator
from rustic_host.messaging.inbox import ordered
from rustic_host.messaging.message import Message
from rustic_host.messaging.pump import Pump, TimeKeeper
from rustic_host.telemetry.logs import get_logger

SELF_INBOX = "agent_self_inbox"

_ANSWERS = (str, Later, Failed)

log = get_logger(__name__)

Parsed = tuple[Message | None, Exception | None]

Settle = Callable[[Message, object], None]
"""Told each message and what became of it: the client's answer, Failed when the message is given up."""


class StateHolder(TimeKeeper, Protocol):
    """Keeps state and timers that go into the commits of its client; an agent is one."""

    def take_state_change(self) -> dict[str, Any] | None:
        """The whole new state when handlers changed it since the last call."""

    def take_timer_change(self) -> dict[str, Any] | None:
        """All timers when handlers changed some since the last call."""

    def restore(self, kept: Kept) -> None:
        """Go on from what is stored."""

    def undo(self) -> None:
        """Go back to what was taken last: a handler ran, and its message is put off."""

    def forget(self, message: Message) -> None:
        """A message is given up: what waits for its being handled must not wait."""

    def report(self, message: Message, error: Exception) -> None:
        """Publish what there is to say about a message that is given up without its handlers being called again."""


class Handling:
    """Delivers one message to one client, for an interface.

    Args:
        namespace: the interface's.
        backend: has the history, and keeps dead letters.
        generator: makes the ids of dead letters.
        wall_clock: seconds since the Unix epoch; a message's ``ttl`` ends by it.
    """

    def __init__(
        self,
        namespace: str,
        backend: MessagingBackend,
        generator: GemstoneGenerator,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.namespace, self.backend, self.generator = namespace, backend, generator
        self.early: in_hand.EarlyByMessage = {}
        """Over a backend without a log."""
        self._wall_clock = wall_clock

    def attempt(self, client: Client, topic: str, message: Message) -> str | Later | Failed:
        """Hand the client a message that is for it; what it raises is its answer."""
        try:
            if message.session_state or message.enrich_with_history:
                self.prepare(message)
            answer = client.notify_new_message(message)
        except Exception as error:
            log.exception("handler_failed", client=client.id, topic=topic, message_id=message.id)
            return Failed(error, undo=True, final=in_hand.is_given_up(error))
        return answer if isinstance(answer, _ANSWERS) else "ok"

    def judged(self, client: Client, topic: str, attempt: int, answer: Failed, hand: in_hand.InHand) -> Later | Failed:
        """Whether a failed message is tried again; what was sent up to now is void if the answer says so.

        ``attempt`` counts from 1.
        """
        if answer.undo:
            hand.void()
        later = None if answer.final else client.retry_policy.after(attempt)
        try:
            answer.conclude(later is None)
        except Exception:  # its own report, say, cannot be published
            log.exception("failure_not_reported", client=client.id, topic=topic)
        if later is None:
            return answer
        seconds, error = round(later.seconds, 3), f"{type(answer.error).__name__}: {answer.error}"
        log.warning("handled_again", client=client.id, topic=topic, attempt=attempt, in_seconds=seconds, error=error)
        return later

    def late(self, client: Client, topic: str, message: Message) -> MessageExpiredError | None:
        """What is wrong with a message for the client whose ``ttl`` is over; one that is replayed is wanted still."""
        if message.ttl is None or self._wall_clock() * 1000 < message.timestamp + message.ttl * 1000:
            return None
        if replayed_for(message) or not is_for(client.id, topic, message):
            return None
        return MessageExpiredError(f"message {message.id} was to be delivered within {message.ttl} s")

    def prepare(self, message: Message) -> None:
        """Make a message ready for a handler: without the mark of a replay, with the history that it asks for."""
        if message.session_state is not None:
            without_mark(message)
        if message.enrich_with_history:
            self.enrich(message)

    def given_up(
        self, client: Client, entry: Entry, message: Message | None, outcome: str, error: BaseException | None
    ) -> Result:
        """Facts 2.4: a dead letter, in the commit that acknowledges. One about the dead letter topic is only logged."""
        if entry.body is None:
            outcome, error = "lost_to_retention", LostToRetentionError(f"log entry {entry.entry_id} was cut")
        if entry.topic == DEAD_LETTER_TOPIC:
            log.error("dead_letter_not_handled", client=client.id, error=str(error))
            return Result(entry, outcome)
        letter = self._letter(client, entry, message, error)
        return Result(entry, outcome, frames_of(letter))

    def _letter(self, client: Client, entry: Entry, message: Message | None, error: BaseException | None) -> Message:
        new_id, backend = self.generator.get_id(), type(self.backend).__name__
        return dead_letter(new_id, self.namespace, client.id, entry, message, error, backend)

    def store_letter(self, client: Client, message: Message, outcome: str, error: BaseException, begun: int = 0) -> str:
        """Publish the dead letter of a message, as it is stored: the handler may have changed its own."""
        entry = Entry(message.topic_published_to or "", "", b"", begun)
        if entry.topic == DEAD_LETTER_TOPIC:
            log.error("dead_letter_not_handled", client=client.id, error=str(error))
            return outcome
        try:
            stored = self.backend.get_messages_by_id(self.namespace, [message.id])
            as_it_came = stored[0].published_to(entry.topic) if stored else message
            letter = self._letter(client, entry, as_it_came, error).published_to(DEAD_LETTER_TOPIC)
            self.backend.store_message(self.namespace, f"{self.namespace}:{DEAD_LETTER_TOPIC}", letter)
        except Exception:
            log.exception("dead_letter_not_stored", client=client.id, topic=entry.topic, message_id=message.id)
        return outcome

    def enrich(self, message: Message) -> None:
        """Facts 3.7: the messages that the last history entries came from, as JSON texts in the session state."""
        entries = message.message_history[-(message.enrich_with_history or 0) :]
        found = self.backend.get_messages_by_id(self.namespace, [entry.origin for entry in entries])
        message.session_state = {**(message.session_state or {}), "enriched_history": [m.to_json() for m in found]}


class Reading:
    """What the loop of one durable client calls with the entries it read.

    Args:
        handling: of the client's interface.
        client: who gets the messages.
        state: what is kept in the client's commits, if anything is.
    """

    pump: Pump
    """The loop; set when it is made."""

    def __init__(self, handling: Handling, client: Client, state: StateHolder | None) -> None:
        self._handling, self._client, self._state = handling, client, state
        # By id(): hashing an entry would hash its bytes; and each lies in its value, so that its id() is no other's.
        self._ahead: dict[int, tuple[Entry, Parsed]] = {}

    def handle(self, entry: Entry) -> Result | Later:
        """Deliver one log entry; what the client sends meanwhile is part of the result, or void with Later."""
        handling, client = self._handling, self._client
        ahead = self._ahead.pop(id(entry), None)
        message, error = ahead[1] if ahead else _parsed(entry)
        if message is None:
            return handling.given_up(client, entry, None, "quarantined", error)
        if message.ttl is not None and (late := handling.late(client, entry.topic, message)):
            return self._given_up(entry, message, "expired", late)
        if not is_for(client.id, entry.topic, message):
            return Result(entry, "filtered")
        if entry.begun and not entry.suspect and not client.retry_policy.allows(entry.begun + 1):
            used_up = AttemptsUsedUpError(f"{entry.begun} attempts began, and the last one ended with its process")
            return self._unsurvived(entry._replace(begun=entry.begun - 1), message, used_up)
        hand = in_hand.InLog(handling, entry, self.pump)
        token = in_hand.current.set(hand)
        try:
            answer = handling.attempt(client, entry.topic, message)
            if isinstance(answer, Failed):
                answer = handling.judged(client, entry.topic, entry.begun + 1, answer, hand)
        finally:
            hand.ended = True
            in_hand.current.reset(token)
        if isinstance(answer, str):
            return self._with_state(Result(entry, answer, hand.frames))
        if isinstance(answer, Later) or answer.undo:
            self._undo()
        return answer if isinstance(answer, Later) else self._last_words(entry, answer, hand.frames)

    def give_up(self, entry: Entry, error: Exception) -> Result:
        """The dead letter of an entry that cannot be handled; of the message as it came: a handler may change its."""
        return self._given_up(entry, _parsed(entry)[0], "failed", error)

    def restore(self, kept: Kept) -> None:
        """Go on from what is stored."""
        if self._state is not None:
            self._state.restore(kept)

    def order(self, entries: list[Entry]) -> list[Entry]:
        """As the client orders their messages, behind those that cannot be read; each is parsed here once."""
        parsed = [_parsed(entry) for entry in entries]
        self._ahead = {id(entry): (entry, read) for entry, read in zip(entries, parsed, strict=True)}
        messages = [message for message, _ in parsed if message is not None]
        chosen = ordered(self._client, messages)
        if len(chosen) == len(entries) and all(map(is_, chosen, messages)):
            return entries
        of_message = {id(message): entry for entry, (message, _) in zip(entries, parsed, strict=True)}
        unreadable = [entry for entry, (message, _) in zip(entries, parsed, strict=True) if message is None]
        return unreadable + [of_message[id(message)] for message in chosen]

    def _unsurvived(self, entry: Entry, message: Message, error: AttemptsUsedUpError) -> Result:
        failed = Failed(error, lambda final: self._state.report(message, error) if self._state else None, final=True)
        hand = in_hand.InLog(self._handling, entry, self.pump)
        token = in_hand.current.set(hand)
        try:
            self._handling.judged(self._client, entry.topic, entry.begun + 1, failed, hand)
        finally:
            hand.ended = True
            in_hand.current.reset(token)
        return self._last_words(entry, failed, hand.frames)

    def _last_words(self, entry: Entry, failed: Failed, sent: list[Frame]) -> Result:
        """What a client sent about a message that it could not handle, and its dead letter."""
        result = self._given_up(entry, _parsed(entry)[0], failed.outcome, failed.error)
        result.outputs[:0] = sent
        return result

    def _given_up(self, entry: Entry, message: Message | None, outcome: str, error: BaseException) -> Result:
        result = self._handling.given_up(self._client, entry, message, outcome, error)
        if self._state is not None and message is not None:
            self._state.forget(message)
        return self._with_state(result)

    def _with_state(self, result: Result) -> Result:
        if self._state is not None:
            result.state, result.timers = self._state.take_state_change(), self._state.take_timer_change()
        return result

    def _undo(self) -> None:
        if self._state is not None:
            self._state.undo()


def is_for(client_id: str, topic: str, message: Message) -> bool:
    """Facts 3.6: a self inbox takes only its owner's messages, every other topic only those of others.

    On shared topics names mean little: every guild's gateway may have the same id. A replayed message is for the one
    client that it was given up by.
    """
    if message.session_state and (only := replayed_for(message)):
        return only == client_id
    if topic.startswith(SHARED_TOPICS):
        return True
    own = message.sender.id == client_id.rpartition("$")[2]
    return own if topic.startswith(SELF_INBOX) else not own


def _parsed(entry: Entry) -> Parsed:
    if entry.body is None:
        return None, None
    try:
        return Message.from_json(entry.body), None
    except ValueError as error:
        return None, error
