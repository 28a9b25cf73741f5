"""How one client gets messages of a backend without a log: every message in memory comes this way, so it is short."""

from collections.abc import Callable
from weakref import finalize

from rustic_host.messaging import in_hand
from rustic_host.messaging.client import Client
from rustic_host.messaging.delivery import SHARED_TOPICS, Failed, Later
from rustic_host.messaging.handling import SELF_INBOX, Handling, Settle, is_for
from rustic_host.messaging.inbox import Inbox
from rustic_host.messaging.message import Message
from rustic_host.messaging.published import (
    ENRICH,
    SENDER,
    STATE,
    TOPIC,
    TTL,
    Frozen,
    Received,
    frozen_of,
    hand_out,
    new,
    restore,
    set_fields,
)
from rustic_host.telemetry.logs import get_logger

RULED = (SHARED_TOPICS, SELF_INBOX)
"""Topics of which not simply everything is for a client that others send."""

_in_hand, _set_in_hand = in_hand.current.get, in_hand.current.set

log = get_logger(__name__)


class Presenter:
    """Delivers messages to one client; what is given up becomes a dead letter at once.

    What a handler sends goes out at its end, and is void with Later or a failure.

    Args:
        handling: of the client's interface.
        client: who gets the messages.
        publish: sends what a handler sent.
        settle: told each message and what became of it.
    """

    def __init__(
        self, handling: Handling, client: Client, publish: Callable[[Message], None], settle: Settle | None = None
    ) -> None:
        self._handling, self._client, self._publish, self._settle = handling, client, publish, settle
        self._id, self._begun = client.id, dict[int, int]()
        self._name = client.id.rpartition("$")[2]
        self._count, self._namespace = handling.backend.count_processed, handling.namespace
        self._counting = handling.backend.counting
        self._take, self._early = client.taker, handling.early

    def short_way(self, inbox: Inbox) -> Callable[[Frozen], None]:
        """What takes messages for an inbox as they are stored: those without state, ttl or rules."""
        self._inbox, self._due = inbox, inbox.due
        return self._deliver

    def _deliver(self, fields: Frozen) -> None:
        if self._due or not self._inbox.at_once or fields[SENDER].id == self._name:
            self._inbox.take(hand_out(fields))
            return
        message = new(Received)  # as hand_out does
        set_fields(message, fields)
        answer = self._handled(message, fields)
        if isinstance(answer, Later):
            self._inbox.put_off(message, answer)
        elif self._counting:
            self._count(self._namespace, fields[TOPIC], self._id, answer or "ok")

    def present(self, message: Message) -> str | Later:
        """Hand over one message, unless it is not for the client or too late; returns the outcome."""
        fields = frozen_of(message)
        topic = fields[TOPIC] or ""
        if fields[STATE] is None and not topic.startswith(RULED):
            mine = fields[SENDER].id != self._name
        else:
            mine = is_for(self._id, topic, message)
        answer: str | Later
        if not mine:
            answer = "filtered"
            if self._settle:
                self._settle(message, answer)
        elif fields[TTL] is not None and (late := self._handling.late(self._client, topic, message)):
            answer = self._handling.store_letter(self._client, message, "expired", late)
        else:
            outer = _in_hand()
            try:
                answer = self._handled(message, fields) or "ok"
            finally:
                _set_in_hand(outer)
            if isinstance(answer, Later):
                return answer
        if self._counting:
            self._count(self._namespace, topic, self._id, answer)
        return answer

    def _handled(self, message: Message, fields: Frozen) -> str | Later | None:
        """Call the client; None for "ok", as mostly. Who calls this puts :data:`in_hand.current` back."""
        hand = in_hand.InMemory()
        hand.owner, hand.client_id, hand.fields = self._handling, self._id, fields
        _set_in_hand(hand)
        answer: object
        try:
            try:  # as Handling.attempt does, without its calls
                if fields[STATE] is not None or fields[ENRICH]:
                    self._handling.prepare(message)
                answer = self._take(message)
            except Exception as error:
                log.exception("handler_failed", client=self._id, topic=fields[TOPIC] or "", message_id=message.id)
                answer = Failed(error, undo=True, final=in_hand.is_given_up(error))
            if answer is None and not (hand.sent or self._settle or self._early or self._begun):
                return None
            begun = self._begun.pop(id(message), 0)
            if isinstance(answer, Failed):
                answer = self._handling.judged(self._client, fields[TOPIC] or "", begun + 1, answer, hand)
        finally:
            hand.ended = True
        _set_in_hand(None)
        return self._concluded(message, answer if isinstance(answer, str | Later | Failed) else "ok", hand, begun)

    def _concluded(
        self, message: Message, answer: str | Later | Failed, hand: in_hand.InMemory, begun: int
    ) -> str | Later:
        if self._settle:
            self._settle(message, answer)
        if isinstance(answer, Later):
            restore(message)
            if answer.failed:
                self._begun[id(message)] = begun + 1  # whoever holds the message presents the same object again
                # If it is dropped instead, the next message may lie where it lay.
                finalize(message, self._begun.pop, id(message), None).atexit = False
            return answer
        if self._handling.early:
            hand.forget()
        for each in hand.sent:
            self._publish(each)
        if isinstance(answer, Failed):
            return self._handling.store_letter(self._client, message, answer.outcome, answer.error, begun)
        return answer
